"""Cases over HTTP: who may repair, what it needs, what is kept of those who may not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.values import OrderId
from tests.workers.api_world import ApiWorld, confirmed
from tests.workers.test_simulator import serve
from workers.cases import describe_case

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPERATOR = ("olga", "operator")
CHIEF = ("carla", "approver")
PROOF = {"kind": "TICKET", "reference": "INC-7", "note": "seen"}


def refusing(task_type: str) -> Any:
    def answer(call: Mapping[str, Any]) -> Mapping[str, Any]:
        if call["body"]["taskType"] == task_type:
            return {"state": "NO_EFFECT", "reason": "not here"}
        return confirmed(call)

    return answer


async def a_case(world: ApiWorld, task_type: str = "assign-resource") -> tuple[str, str]:
    """(orderId, caseId) of an order whose task was refused."""
    order_id = await world.create()
    await world.fulfil(order_id, refusing(task_type))
    found = await world.get(f"/fallout-cases?orderId={order_id}", as_=OPERATOR)
    return order_id, found.json()["items"][0]["caseId"]


def a_repair(action: str = "RETRY", **more: Any) -> dict[str, Any]:
    return {"action": action, "reasonCode": "SYSTEM_RECOVERED", "reasonText": "it is up again"} | more


async def repair(world: ApiWorld, case_id: str, body: Any, as_: tuple[str, ...] = OPERATOR) -> httpx.Response:
    path = f"/fallout-cases/{case_id}"
    return await world.post(f"{path}/repairs", body, as_=as_, if_match=await world.etag(path))


async def decide(world: ApiWorld, case_id: str, word: str, as_: tuple[str, ...] = CHIEF, n: int = 1) -> httpx.Response:
    path = f"/fallout-cases/{case_id}"
    return await world.post(f"{path}/repairs/{n}/{word}", {}, as_=as_, if_match=await world.etag(path))


async def refusals(world: ApiWorld, order_id: str) -> list[tuple[str, str | None, str]]:
    entries = (await world.get(f"/orders/{order_id}/timeline?limit=200", as_=OPERATOR)).json()["items"]
    return [
        (entry["actor"], entry["data"]["action"], entry["data"]["code"])
        for entry in entries
        if entry["kind"] == "REPAIR_REFUSED"
    ]


async def test_a_case_shows_what_may_be_done_and_what_that_will_do(world: ApiWorld) -> None:
    order_id, case_id = await a_case(world)
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "FALLOUT"
    case = (await world.get(f"/fallout-cases/{case_id}", as_=OPERATOR)).json()
    assert (case["status"], case["context"], case["category"], case["blocking"]) == (
        "OPEN",
        "FULFILLMENT",
        "BUSINESS",
        True,
    )
    found = {row["action"]: row for row in case["possibleRepairs"]}
    assert found.keys() == {"RETRY", "FORCE_COMPLETE", "REPLACE_INPUT", "FAIL_ITEM"}
    assert found["RETRY"]["sentence"] == "Calls resource again for assign-resource, as a new effect."
    assert (found["RETRY"]["needsSecondPerson"], found["FORCE_COMPLETE"]["needsSecondPerson"]) == (False, True)


async def test_a_forced_task_takes_two_people_and_evidence(world: ApiWorld) -> None:
    order_id, case_id = await a_case(world)
    refused = await repair(world, case_id, a_repair("FORCE_COMPLETE"))
    assert (refused.status_code, refused.json()["code"]) == (422, "EVIDENCE_REQUIRED")
    asked = await repair(world, case_id, a_repair("FORCE_COMPLETE", evidence=PROOF), ("olga", "operator", "approver"))
    assert (asked.status_code, asked.json()["status"], asked.json()["n"]) == (202, "REPAIR_SUBMITTED", 1)
    again = await repair(world, case_id, a_repair("RETRY"))
    assert (again.status_code, again.json()["code"]) == (409, "CHANGE_ACTIVE")
    own = await decide(world, case_id, "approve", ("olga", "operator", "approver"))
    assert (own.status_code, own.json()["code"]) == (403, "FOUR_EYES")
    unentitled = await decide(world, case_id, "approve", ("otto", "operator"))
    assert (unentitled.status_code, unentitled.json()["code"]) == (403, "ROLE_REQUIRED")
    missing = await decide(world, case_id, "approve", n=7)
    assert (missing.status_code, missing.json()["code"]) == (404, "REPAIR_NOT_FOUND")
    done = await decide(world, case_id, "approve")
    assert (done.status_code, done.json()["status"], done.json()["resolution"]) == (202, "RESOLVED", "FORCE_COMPLETE")
    closed = await decide(world, case_id, "approve")
    assert (closed.status_code, closed.json()["code"]) == (409, "CASE_CLOSED")
    case = (await world.get(f"/fallout-cases/{case_id}", as_=OPERATOR)).json()
    assert case["possibleRepairs"] == []
    shown = case["repairs"][0]
    assert (shown["by"], shown["decidedBy"], shown["status"], shown["evidence"]) == ("olga", "carla", "DONE", PROOF)
    effects = (await world.get(f"/orders/{order_id}/effects")).json()["items"]
    forced = [effect for effect in effects if effect["operation"] == "assign"]
    assert [(effect["state"], effect["basis"], len(effect["attempts"])) for effect in forced] == [
        ("NO_EFFECT", "SYSTEM", 1),
        ("CONFIRMED", "MANUAL", 0),
    ]
    assert await refusals(world, order_id) == [
        ("olga", "FORCE_COMPLETE", "EVIDENCE_REQUIRED"),
        ("olga", "RETRY", "CHANGE_ACTIVE"),
        ("olga", None, "FOUR_EYES"),
        ("otto", None, "ROLE_REQUIRED"),
        ("carla", None, "CASE_CLOSED"),
    ]


async def test_a_repair_that_the_second_person_refuses_gives_the_case_back(world: ApiWorld) -> None:
    _, case_id = await a_case(world)
    await repair(world, case_id, a_repair("FORCE_COMPLETE", evidence=PROOF))
    refused = await decide(world, case_id, "reject")
    assert (refused.status_code, refused.json()["status"]) == (202, "OPEN")
    closed = await decide(world, case_id, "reject")
    assert (closed.status_code, closed.json()["code"]) == (409, "REQUEST_CLOSED")


async def test_for_whom_a_repair_is_asked_cannot_agree_to_it(world: ApiWorld) -> None:
    _, case_id = await a_case(world)
    body = a_repair("FORCE_COMPLETE", evidence=PROOF, requestedBy={"actorId": "carla"})
    assert (await repair(world, case_id, body)).status_code == 202
    assert (await decide(world, case_id, "approve")).json()["code"] == "FOUR_EYES"
    assert (await decide(world, case_id, "approve", ("dora", "approver"))).status_code == 202


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (a_repair("REPLACE_INPUT", input={"installationAddress": {"city": "Bonn"}}), "USE_AMENDMENT"),
        (a_repair("REPLACE_INPUT"), "INVALID_BODY"),
        (a_repair("MARK_TOOK_EFFECT", evidence=PROOF), "REPAIR_NOT_POSSIBLE"),
        (a_repair(reasonCode="BORED"), "REASON_UNKNOWN"),
        ({"action": "RETRY"}, "INVALID_BODY"),
        (a_repair("WISH"), "INVALID_BODY"),
        (a_repair("FORCE_COMPLETE", evidence={"kind": "TICKET"}), "INVALID_BODY"),
    ],
)
async def test_what_is_refused_is_in_the_audit(world: ApiWorld, body: dict[str, Any], code: str) -> None:
    order_id, case_id = await a_case(world)
    answer = await repair(world, case_id, body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert [(who, why) for who, _, why in await refusals(world, order_id)] == [("olga", code)]
    assert (await world.get(f"/fallout-cases/{case_id}", as_=OPERATOR)).json()["repairs"] == []


async def test_whoever_may_not_repair_is_in_the_audit_and_strangers_are_nowhere(world: ApiWorld) -> None:
    order_id, case_id = await a_case(world)
    answer = await world.post(f"/fallout-cases/{case_id}/repairs", a_repair(), as_=("alice", "agent"))
    assert (answer.status_code, answer.json()["code"]) == (403, "ROLE_REQUIRED")
    elsewhere = uuid.uuid4()
    answer = await world.post(
        f"/fallout-cases/{case_id}/repairs", a_repair(), as_=("mallory", "agent"), tenant=elsewhere
    )
    assert answer.status_code == 403
    answer = await world.post(f"/fallout-cases/{case_id}/repairs", a_repair(), as_=OPERATOR, tenant=elsewhere)
    assert (answer.status_code, answer.json()["code"]) == (404, "CASE_NOT_FOUND")
    assert await refusals(world, order_id) == [("alice", None, "ROLE_REQUIRED")]


async def test_an_item_is_given_up_and_its_order_ends_failed(world: ApiWorld) -> None:
    order_id, case_id = await a_case(world)
    answer = await repair(world, case_id, a_repair("FAIL_ITEM"))
    assert (answer.status_code, answer.json()["status"]) == (202, "REPAIR_SUBMITTED")
    requests = (await world.get(f"/orders/{order_id}/cancellation-requests")).json()["items"]
    told = await world.judge(order_id, requests[0]["cancellationRequestId"])
    await world.walk(OrderId(uuid.UUID(order_id)), told["plan_id"], told["plan_run"])
    order = (await world.get(f"/orders/{order_id}")).json()
    assert (order["state"], order["items"][0]["state"]) == ("FAILED", "FAILED")
    case = (await world.get(f"/fallout-cases/{case_id}", as_=OPERATOR)).json()
    assert (case["status"], case["resolution"]) == ("RESOLVED", "FAIL_ITEM")


async def test_what_could_not_be_undone_becomes_an_order_linked_to_its_source(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only={"reserve-inventory"})
    request_id = await world.cancel(order_id)
    told = await world.judge(order_id, request_id)
    await world.walk(OrderId(uuid.UUID(order_id)), told["plan_id"], told["plan_run"], refusing("release-inventory"))
    found = await world.get(f"/fallout-cases?orderId={order_id}", as_=OPERATOR)
    case_id = found.json()["items"][0]["caseId"]
    line = {"itemId": "1", "action": "ADD", "productOfferingId": "fiber-100"}
    wish = {"orderType": "SUPPLEMENTAL", "items": [line]}
    strange = {"orderType": "SUPPLEMENTAL", "items": [line | {"targetAssetId": str(uuid.uuid4())}]}
    orders = await world.rows("customer_order")
    refused = await repair(world, case_id, a_repair("CONVERT_TO_ORDER", input=strange))
    assert (refused.status_code, refused.json()["code"]) == (422, "ASSET_NOT_MODIFIABLE")
    assert await world.rows("customer_order") == orders
    assert await refusals(world, order_id) == [("olga", "CONVERT_TO_ORDER", "ASSET_NOT_MODIFIABLE")]
    done = await repair(world, case_id, a_repair("CONVERT_TO_ORDER", input=wish))
    assert (done.status_code, done.json()["status"]) == (202, "RESOLVED")
    created = done.json()["createdOrderId"]
    case = (await world.get(f"/fallout-cases/{case_id}", as_=OPERATOR)).json()
    assert (case["resolution"], case["repairs"][0]["createdOrderId"]) == ("CONVERT_TO_ORDER", created)
    made = (await world.get(f"/orders/{created}")).json()
    assert (made["orderType"], made["state"]) == ("SUPPLEMENTAL", "ACKNOWLEDGED")
    related = json.dumps((await world.get(f"/orders/{created}/related-orders")).json())
    assert order_id in related
    assert "SUPPLEMENTS" in related


async def test_the_command_line_asks_the_api_like_everybody_else(world: ApiWorld, tmp_path: Path) -> None:
    order_id, case_id = await a_case(world)
    server, task, url = await serve(world.app)

    async def say(person: tuple[str, ...], *words: str) -> Any:
        environment = {
            "RECOURSE_PUBLIC_URL": url,
            "RECOURSE_HOME": str(tmp_path),
            "RECOURSE_TOKEN": world.token(*person),
        }
        said = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "workers.cli", "case", *words, "--json"),
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await said.communicate()
        return json.loads(out) if said.returncode == 0 else error.decode()

    try:
        (found,) = await say(OPERATOR, "list", "--status", "OPEN", "--order", order_id)
        assert found["caseId"] == case_id
        assert "FORCE_COMPLETE" in describe_case(await say(OPERATOR, "show", case_id))
        force = ("repair", case_id, "force_complete", "--reason", "MANUAL_WORK_DONE", "--text", "done")
        assert "EVIDENCE_REQUIRED" in await say(OPERATOR, *force)
        asked = await say(OPERATOR, *force, "--evidence", "TICKET:INC-7", "--amount", "100EUR", "--input", "{}")
        assert (asked["status"], asked["n"]) == ("REPAIR_SUBMITTED", 1)
        assert (await say(CHIEF, "decide", case_id, "1", "approve", "--comment", "agreed"))["status"] == "RESOLVED"
    finally:
        server.should_exit = True
        await task


async def test_cases_are_found_by_what_they_are(world: ApiWorld) -> None:
    order_id, case_id = await a_case(world)
    for query, found in [
        ("status=OPEN", True),
        ("status=RESOLVED", False),
        ("category=BUSINESS", True),
        ("category=TECHNICAL", False),
        ("context=FULFILLMENT", True),
        ("context=LATE_EFFECT", False),
    ]:
        page = (await world.get(f"/fallout-cases?{query}&orderId={order_id}", as_=OPERATOR)).json()
        assert [case["caseId"] for case in page["items"]] == ([case_id] if found else []), query
    assert (await world.get("/fallout-cases?status=NEW", as_=OPERATOR)).status_code == 400
