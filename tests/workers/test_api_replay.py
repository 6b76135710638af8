"""Stored assessments judged again under another policy: what would differ, and what nobody can say any more."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.store.pool import tenant_transaction
from tests.builders import ROOT
from tests.workers.api_world import ApiWorld, a_line

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADMIN = ("ada", "admin")
TELECOM = (ROOT / "domain/telecom.policy.yaml").read_text()
BOOKED = {"reserve-inventory", "assign-resource", "create-appointment"}


async def publish(world: ApiWorld, text: str) -> int:
    made = await world.send("POST", "/policies", as_=ADMIN, raw=text.encode())
    assert made.status_code == 201, made.text
    return int(made.json()["version"])


async def replay(world: ApiWorld, version: int, query: str = "") -> dict[str, Any]:
    # It changes nothing, so it needs no key.
    answer = await world.post(f"/policies/{version}/replay{query}", as_=ADMIN, key=None)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def cancelled(world: ApiWorld, begins_in: timedelta) -> tuple[str, str]:
    """An order with an appointment that begins then, booked, and a cancellation of it that has been judged."""
    start = datetime.now(UTC) + begins_in
    appointment = {
        "start": start.isoformat(),
        "end": (start + timedelta(hours=2)).isoformat(),
        "timeZone": "Europe/Berlin",
    }
    order_id = await world.create(appointment=appointment)
    await world.fulfil(order_id, only=BOOKED)
    request_id = await world.cancel(order_id)
    planned = await world.judge(order_id, request_id)
    if planned["verdict"] == "planned":
        await world.walk(uuid.UUID(order_id), planned["plan_id"], planned["plan_run"])  # type: ignore[arg-type]
    return order_id, request_id


async def test_one_soft_point_changed_is_one_finding_changed(world: ApiWorld) -> None:
    late = await cancelled(world, timedelta(hours=12))
    early = await cancelled(world, timedelta(days=300))
    # What has been undone since is judged as it stood, not as it stands.
    assert (await world.get(f"/orders/{early[0]}")).json()["state"] == "CANCELLED"
    before = await world.value("select count(*) from audit_entry")
    same = await publish(world, TELECOM)
    assert await replay(world, same) == {
        "policyVersion": same,
        "totals": {"judged": 2, "different": 0, "notJudged": 0},
        "items": [],
        "notJudged": [],
        "next": None,
    }

    milder = await publish(world, TELECOM.replace("by: PT24H", "by: PT6H"))
    told = await replay(world, milder)
    assert told["totals"] == {"judged": 2, "different": 1, "notJudged": 0}
    (found,) = told["items"]
    assert (found["orderId"], found["cancellationRequestId"]) == late
    common = {
        "feasibility": "FULLY_CANCELLABLE",
        "automatic": True,
        "manualReviewRequired": False,
        "decision": "AUTOMATIC",
        "retained": 0,
    }
    assert found["before"] == common | {"estimatedCost": {"amountMinor": 2500, "currency": "EUR"}}
    assert found["after"] == common | {"estimatedCost": {"amountMinor": 0, "currency": "EUR"}}
    assert await world.value("select count(*) from audit_entry") == before


async def test_a_stricter_answer_to_the_same_feasibility_is_a_difference(world: ApiWorld) -> None:
    await cancelled(world, timedelta(days=300))
    stricter = TELECOM.replace("FULLY_CANCELLABLE: AUTOMATIC", "FULLY_CANCELLABLE: APPROVAL")
    assert stricter != TELECOM
    told = await replay(world, await publish(world, stricter))
    (found,) = told["items"]
    assert [(at["automatic"], at["decision"]) for at in (found["before"], found["after"])] == [
        (True, "AUTOMATIC"),
        (False, "APPROVAL"),
    ]


async def test_what_has_shrunk_and_what_a_person_decided_is_judged_as_it_stood(world: ApiWorld) -> None:
    order_id = await world.create(a_line(productOfferingId="router", quantity=5))
    await world.fulfil(order_id, only={"reserve-inventory"})
    part = {"scope": {"type": "ITEMS"}, "items": [{"itemId": "1", "quantity": 2}]}
    planned = await world.judge(order_id, await world.cancel(order_id, **part))
    await world.walk(uuid.UUID(order_id), planned["plan_id"], planned["plan_run"])  # type: ignore[arg-type]
    assert (await world.get(f"/orders/{order_id}")).json()["items"][0]["quantity"] == 3

    request_id = await world.cancel(order_id, forceManualReview=True)
    assert (await world.judge(order_id, request_id))["verdict"] == "review"
    path = f"/orders/{order_id}/cancellation-requests/{request_id}"
    agreed = await world.post(f"{path}/approve", as_=("bob", "approver"), if_match=await world.etag(path))
    assert agreed.status_code == 202, agreed.text
    told = await replay(world, await publish(world, TELECOM))
    assert (told["totals"], told["notJudged"]) == ({"judged": 2, "different": 0, "notJudged": 0}, [])


async def test_a_past_that_cannot_be_told_is_not_judged(world: ApiWorld) -> None:
    order_id, request_id = await cancelled(world, timedelta(hours=12))
    async with tenant_transaction(world.pool, world.tenant) as connection:
        await connection.execute("update cancellation_request set fingerprint = 'of another past'")
    told = await replay(world, await publish(world, TELECOM.replace("by: PT24H", "by: PT6H")))
    assert (told["totals"], told["items"]) == ({"judged": 0, "different": 0, "notJudged": 1}, [])
    (one,) = told["notJudged"]
    assert (one["orderId"], one["cancellationRequestId"], one["reason"]) == (order_id, request_id, "PAST_UNKNOWN")


async def test_a_policy_of_another_business_has_nothing_to_say(world: ApiWorld) -> None:
    energy = await publish(world, (ROOT / "tests/policies/energy.policy.yaml").read_text())
    await publish(world, TELECOM)
    await cancelled(world, timedelta(days=300))
    told = await replay(world, energy)
    assert [one["reason"] for one in told["notJudged"]] == ["TASK_TYPE_UNKNOWN"]


async def test_findings_come_in_pages_newest_first(world: ApiWorld) -> None:
    made = [await cancelled(world, timedelta(hours=12)) for _ in range(3)]
    milder = await publish(world, TELECOM.replace("by: PT24H", "by: PT6H"))
    first = await replay(world, milder, "?limit=2")
    assert first["totals"] == {"judged": 2, "different": 2, "notJudged": 0}
    last = await replay(world, milder, f"?limit=2&cursor={first['next']}")
    assert (last["totals"]["judged"], last["next"]) == (1, None)
    assert [one["orderId"] for one in first["items"] + last["items"]] == [order_id for order_id, _ in reversed(made)]


async def test_a_version_that_is_not_the_tenants_is_not_there(world: ApiWorld) -> None:
    own = await publish(world, TELECOM)
    await replay(world, own)  # from now on the process knows it
    for version, tenant in ((own, uuid.uuid4()), ("0", None), ("x", None)):
        answer = await world.post(f"/policies/{version}/replay", as_=ADMIN, tenant=tenant)
        assert (answer.status_code, answer.json()["code"]) == (404, "POLICY_NOT_FOUND")
    assert (await world.post(f"/policies/{own}/replay?limit=0", as_=ADMIN)).status_code == 400
