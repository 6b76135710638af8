"""What the reconciler found, shown to its tenant; and a look at once, which mends only where that is asked for."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest

from domain import commands as ask
from domain.policy import read_policy_text
from domain.values import OrderId, RequestId, Run
from tests.builders import ROOT
from tests.postgres import Database
from tests.workers.api_world import ApiWorld

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPERATOR = ("olga", "operator")


async def age(database: Database, world: ApiWorld, minutes: int = 60) -> None:
    """Let time pass for one tenant; the audit is append-only for the product."""
    owner = await asyncpg.connect(database.owner_url)
    await owner.execute(
        "update audit_entry set at = at - make_interval(mins => $2) where tenant_id = $1", world.tenant, minutes
    )
    await owner.execute("update outbox set published_at = now() where tenant_id = $1", world.tenant)
    await owner.execute("update engine_outbox set published_at = now() where tenant_id = $1", world.tenant)
    await owner.close()


async def look(world: ApiWorld, *, report_only: bool, **more: Any) -> dict[str, Any]:
    answer = await world.post("/reconciliation/runs", {"reportOnly": report_only}, as_=OPERATOR, **more)
    assert answer.status_code in {200, 202}, answer.text
    return dict(answer.json())


async def findings(world: ApiWorld, query: str = "") -> list[dict[str, Any]]:
    return list((await world.get(f"/reconciliation/findings{query}", as_=OPERATOR)).json()["items"])


async def test_what_is_owed_to_a_dependent_order_is_said_at_once(world: ApiWorld, api_database: Database) -> None:
    policy: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    policy["cancellation"]["closure"]["dependent_order"] = "HOLD"
    assert (await world.post("/policies", policy, as_=("eve", "admin"))).status_code == 201
    source = await world.create()
    dependent = await world.create(relations=[{"type": "SUPPLEMENTS", "targetOrderId": source}])
    await world.cancel(source)
    owner = await asyncpg.connect(api_database.owner_url)
    await owner.execute(
        "update dependence set told_at = told_at - interval '1 hour' where tenant_id = $1", world.tenant
    )
    await owner.close()
    assert (await look(world, report_only=True))["byClass"] == {"DEPENDENCE_NOT_FOLLOWED": 1}
    assert (await world.get(f"/orders/{dependent}")).json()["state"] == "ACKNOWLEDGED"
    assert (await look(world, report_only=False))["repaired"] == 1
    assert (await world.get(f"/orders/{dependent}")).json()["state"] == "ON_HOLD"
    assert (await look(world, report_only=True))["findings"] == 0


async def test_an_order_whose_flow_was_lost_before_its_plan_is_found_and_started_anew(
    world: ApiWorld, api_database: Database
) -> None:
    order_id = await world.create()
    assert (await look(world, report_only=True))["findings"] == 0
    await age(api_database, world)
    seen = await look(world, report_only=True)
    assert (seen["findings"], seen["repaired"], seen["byClass"]) == (1, 0, {"MESSAGE_NOT_RECEIVED": 1})
    (found,) = await findings(world)
    assert (found["class"], found["orderId"], found["repair"]) == ("MESSAGE_NOT_RECEIVED", order_id, "RESTART")
    assert found["explanation"].endswith(".")
    assert (found["repairedAt"], found["resolvedAt"]) == (None, None)
    run = await world.run_of(OrderId(uuid.UUID(order_id)))
    assert (await look(world, report_only=False))["repaired"] == 1
    assert await world.run_of(OrderId(uuid.UUID(order_id))) != run
    started = await world.value("select count(*) from engine_outbox where name = 'order-accepted'")
    assert started == 2
    await world.fulfil(order_id)
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "COMPLETED"
    assert (await look(world, report_only=True))["findings"] == 0
    (found,) = await findings(world, "?standing=false")
    assert found["repairedAt"] is not None
    assert found["resolvedAt"] is not None
    assert await findings(world, "?standing=true") == []


async def test_a_request_whose_flow_was_lost_is_taken_up_where_it_stands(
    world: ApiWorld, api_database: Database
) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only={"reserve-inventory"})
    request_id = await world.cancel(order_id)
    old = await world.value("select run from cancellation_request where request_id = $1", uuid.UUID(request_id))
    await age(api_database, world)
    assert (await look(world, report_only=False))["byClass"] == {"MESSAGE_NOT_RECEIVED": 1}
    # What is left of the old flow is told to stand down; the new one goes all the way.
    begin = ask.BeginAssessment(OrderId(uuid.UUID(order_id)), uuid.UUID(request_id), Run(old))  # type: ignore[arg-type]
    assert (await world.tell(begin))["verdict"] == "stand_down"
    told = await world.judge(order_id, request_id)
    await world.walk(OrderId(uuid.UUID(order_id)), told["plan_id"], told["plan_run"])
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "CANCELLED"


async def test_an_amendment_whose_flow_was_lost_is_taken_up_where_it_stands(
    world: ApiWorld, api_database: Database
) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only={"reserve-inventory"})
    path = f"/orders/{order_id}/amendment-requests"
    change = {"path": "/deliveryAddress/postalCode", "oldValue": "12930", "newValue": "12940"}
    body = {"reasonCode": "CUSTOMER_REQUEST", "changes": [change]}
    asked = await world.post(path, body, if_match=await world.etag(f"/orders/{order_id}"))
    request_id = asked.json()["amendmentRequestId"]
    old = await world.value("select run from amendment_request where request_id = $1", uuid.UUID(request_id))
    await age(api_database, world)
    assert (await look(world, report_only=False))["byClass"]["MESSAGE_NOT_RECEIVED"] == 1
    run = await world.value("select run from amendment_request where request_id = $1", uuid.UUID(request_id))
    assert run != old
    assert await world.value("select count(*) from engine_outbox where name = 'amendment-requested'") == 2
    order, request = OrderId(uuid.UUID(order_id)), RequestId(uuid.UUID(request_id))
    assert (await world.tell(ask.AssessAmendment(order, request, Run(old))))["verdict"] == "stand_down"
    assert (await world.tell(ask.AssessAmendment(order, request, Run(run))))["verdict"] == "apply"
    # Lost once more, between its assessment and the order: the same again.
    await age(api_database, world, 600)
    assert (await look(world, report_only=False))["byClass"]["MESSAGE_NOT_RECEIVED"] == 1
    assert (await world.tell(ask.CarryOutAmendment(order, request, Run(run))))["verdict"] == "stand_down"
    run = await world.value("select run from amendment_request where request_id = $1", uuid.UUID(request_id))
    assert (await world.tell(ask.CarryOutAmendment(order, request, Run(run))))["verdict"] == "done"
    assert (await world.get(f"{path}/{request_id}")).json()["status"] == "APPLIED"
    # What is in the order is not lost: nothing of it is silent.
    await age(api_database, world, 600)
    assert "MESSAGE_NOT_RECEIVED" not in (await look(world, report_only=True))["byClass"]


async def test_the_same_run_is_told_again_and_other_tenants_are_not_looked_at(
    world: ApiWorld, api_database: Database
) -> None:
    await world.create()
    await age(api_database, world)
    first = await look(world, report_only=True, key="run-1")
    assert await look(world, report_only=True, key="run-1") == first
    other = await world.post("/reconciliation/runs", {"reportOnly": True}, as_=OPERATOR, tenant=uuid.uuid4())
    assert other.json()["findings"] == 0
    agent = await world.post("/reconciliation/runs", {"reportOnly": True}, as_=("alice", "agent"))
    assert agent.status_code == 403


async def test_as_many_runs_at_once_as_there_are_connections_do_not_wait_for_each_other(world: ApiWorld) -> None:
    """Each held one while it asked for another: the whole process answered nobody any more."""
    async with asyncio.timeout(30):
        told = await asyncio.gather(*(look(world, report_only=True) for _ in range(2 * world.pool.get_max_size())))
    assert len({run["runId"] for run in told}) == len(told)


async def test_findings_are_chosen_by_class(world: ApiWorld, api_database: Database) -> None:
    await world.create()
    await age(api_database, world)
    await look(world, report_only=True)
    assert len(await findings(world, "?class=MESSAGE_NOT_RECEIVED")) == 1
    assert await findings(world, "?class=LATE_EFFECT") == []
    assert (await world.get("/reconciliation/findings?class=WRONG", as_=OPERATOR)).status_code == 400


async def test_jeopardy_is_raised_before_the_deadline_is_missed(world: ApiWorld, api_database: Database) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only={"reserve-inventory"})
    request_id = await world.cancel(order_id)
    await world.judge(order_id, request_id)
    assert (await look(world, report_only=False))["byClass"] == {}
    owner = await asyncpg.connect(api_database.owner_url)
    # The policy gives undoing three days: one minute is left, and the inventory may take longer than that.
    await owner.execute(
        "update compensation_plan set created_at = now() - interval '3 days' + interval '1 minute'"
        " where tenant_id = $1",
        world.tenant,
    )
    await owner.close()
    assert (await look(world, report_only=True))["byClass"] == {"JEOPARDY_PREDICTED": 1}
    path = f"/orders/{order_id}/cancellation-requests/{request_id}"
    assert (await world.get(path)).json()["jeopardy"] is False
    assert (await look(world, report_only=False))["repaired"] == 1
    assert (await world.get(path)).json()["jeopardy"] is True
    board = (await world.get("/dashboard", as_=OPERATOR)).json()
    assert board["jeopardy"] == 1
    assert [(row["kind"], row["id"], row["orderId"]) for row in board["inJeopardy"]] == [
        ("REQUEST", request_id, order_id)
    ]
    assert [(row["class"], row["count"]) for row in board["findings"]] == [("JEOPARDY_PREDICTED", 1)]
    entries = (await world.get(f"/orders/{order_id}/timeline?limit=200")).json()["items"]
    raised = [entry["data"]["reason"] for entry in entries if entry["kind"] == "JEOPARDY_RAISED"]
    assert raised == ["PREDICTED"]
    assert (await look(world, report_only=False))["repaired"] == 0
