"""Amendments over HTTP, from the wish to its end, with the flow played by hand."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from domain import commands as ask
from domain.values import OrderId, RequestId, Run
from tests.workers.api_world import ADDRESS, ApiWorld, Looks

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOB = ("bob", "approver")
BOOKED = {"reserve-inventory", "assign-resource", "create-appointment"}
POSTAL_CODE = ADDRESS["postalCode"]


def replace(path: str, old: Any, new: Any) -> dict[str, Any]:
    return {"path": path, "operation": "REPLACE", "oldValue": old, "newValue": new}


PHONE = replace("/contact/phone", "+49 30 1234567", "+49 30 7654321")
MOVED = replace("/installationAddress/postalCode", POSTAL_CODE, "12940")


def wish(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"reasonCode": "CUSTOMER_ADDRESS_CORRECTION", "changes": list(changes)} | more


async def ask_for(world: ApiWorld, order_id: str, *changes: dict[str, Any], **more: Any) -> httpx.Response:
    path = f"/orders/{order_id}"
    return await world.post(f"{path}/amendment-requests", wish(*changes, **more), if_match=await world.etag(path))


async def drive(world: ApiWorld, order_id: str, request_id: str) -> Mapping[str, Any]:
    """The amendment's flow, as far as it goes without people."""
    order, request = OrderId(uuid.UUID(order_id)), RequestId(uuid.UUID(request_id))
    run = Run(await world.value("select run from amendment_request where request_id = $1", request))
    told = await world.tell(ask.AssessAmendment(order, request, run))
    if told["verdict"] == "revalidate":
        await world.walk(order, told["plan_id"], told["plan_run"])
        told = await world.tell(ask.AssessAmendment(order, request, run))
    return await world.tell(ask.CarryOutAmendment(order, request, run)) if told["verdict"] == "apply" else told


async def test_a_phone_number_changes_at_once(world: ApiWorld) -> None:
    order_id = await world.create()
    before = await world.etag(f"/orders/{order_id}")
    answer = await ask_for(world, order_id, PHONE, requestedBy={"actorType": "USER", "actorId": "agent-44"})
    told = answer.json()
    assert answer.status_code == 202
    assert (told["orderId"], told["status"], told["currentOrderState"]) == (order_id, "APPLIED", "ACKNOWLEDGED")
    assert answer.headers["location"] == told["links"]["self"]
    seen = (await world.get(told["links"]["self"])).json()
    assert seen["amendmentRequestId"] == told["amendmentRequestId"]
    assert seen["onBehalfOf"] == "agent-44"
    assert seen["changes"][0] | {"path": "/contact/phone", "command": "ChangeContactPerson"} == seen["changes"][0]
    assert (seen["changes"][0]["before"], seen["changes"][0]["after"]) == ("+49 30 1234567", "+49 30 7654321")
    assert seen["changes"][0]["safetyResult"] == "ALLOWED"
    assert seen["changes"][0]["ruleId"] == "contactPhone/BEFORE_DECOMPOSITION"
    assert seen["assessment"]["feasibility"] == "APPLICABLE"
    order = (await world.get(f"/orders/{order_id}")).json()
    assert order["contact"]["phone"] == "+49 30 7654321"
    assert await world.etag(f"/orders/{order_id}") != before
    listed = (await world.get(f"/orders/{order_id}/amendment-requests")).json()
    assert [one["amendmentRequestId"] for one in listed["items"]] == [told["amendmentRequestId"]]


async def test_review_apply_and_the_new_plan(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only=BOOKED)
    told = (await ask_for(world, order_id, MOVED, autoApply=False)).json()
    link, request_id = told["links"]["self"], told["amendmentRequestId"]
    assert told["status"] == "REQUESTED"
    assert (await world.get(f"/orders/{order_id}")).json()["activeRequest"]["amendmentRequestId"] == request_id
    assert (await drive(world, order_id, request_id))["verdict"] == "review"
    etag = await world.etag(link)
    own = await world.post(f"{link}/approve", {}, as_=("alice", "approver"), if_match=etag)
    assert (own.status_code, own.json()["code"]) == (403, "FOUR_EYES")
    early = await world.post(f"{link}/apply", {}, if_match=etag)
    assert (early.status_code, early.json()["code"]) == (409, "REQUEST_CLOSED")
    approved = await world.post(f"{link}/approve", {"comment": "fine"}, as_=BOB, if_match=etag)
    assert (approved.status_code, approved.json()["status"]) == (202, "APPROVED")
    assert (await drive(world, order_id, request_id))["verdict"] == "stand_down"  # it waits for a person
    applied = await world.post(f"{link}/apply", {}, if_match=approved.headers["etag"])
    assert applied.status_code == 202, applied.text
    planned = await drive(world, order_id, request_id)
    seen = (await world.get(link)).json()
    assert (seen["status"], seen["currentOrderState"], seen["newPlanVersion"]) == ("APPLYING", "AMENDING", 2)
    strategies = {one["type"]: one["strategy"] for one in seen["assessment"]["strategy"]}
    assert strategies == {
        "assign-resource": "DO_THEN_UNDO",
        "create-appointment": "UNDO_THEN_DO",
        "perform-visit": "REPLACE",
    }
    plan = (await world.get(seen["links"]["compensationPlan"])).json()
    assert plan["amendmentRequestId"] == request_id
    assert "cancellationRequestId" not in plan
    order = OrderId(uuid.UUID(order_id))
    row = "select plan_id::text from fulfillment_plan where order_id = $1 and version = 2"
    new_plan = str(await world.value(row, order))
    new_run = str(await world.value(row.replace("plan_id::text", "run::text"), order))
    for _ in range(3):
        await world.walk(order, planned["plan_id"], planned["plan_run"])
        await world.walk(order, new_plan, new_run)
    assert (await world.get(link)).json()["status"] == "APPLIED"
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "COMPLETED"
    versions = {t["planVersion"] for t in (await world.get(f"/orders/{order_id}/plan")).json()["items"]}
    assert versions == {1, 2}


async def test_an_order_shows_the_amendments_that_were_open_at_a_moment(world: ApiWorld) -> None:
    """Of several the one that is being applied, else the oldest; of one that ended at once there is no moment."""
    order_id = await world.create()
    await world.fulfil(order_id, only=BOOKED)
    looks = Looks(world, f"/orders/{order_id}")
    await looks.look()
    slow = (await ask_for(world, order_id, MOVED, autoApply=False)).json()
    assert (await looks.look())["activeRequest"]["status"] == "REQUESTED"
    await drive(world, order_id, slow["amendmentRequestId"])
    assert (await looks.look())["activeRequest"]["status"] == "REQUIRES_APPROVAL"
    assert (await ask_for(world, order_id, PHONE)).json()["status"] == "APPLIED"
    await looks.look()
    link = slow["links"]["self"]
    approved = await world.post(f"{link}/approve", {}, as_=BOB, if_match=await world.etag(link))
    await looks.look()
    await world.post(f"{link}/apply", {}, if_match=approved.headers["etag"])
    await drive(world, order_id, slow["amendmentRequestId"])
    seen = await looks.look()
    assert (seen["state"], seen["activeRequest"]["status"]) == ("AMENDING", "APPLYING")
    assert (
        await ask_for(world, order_id, replace("/items/1/configuration/bandwidth", "500M", "1G"))
    ).status_code == 202
    assert (await looks.look())["activeRequest"]["amendmentRequestId"] == slow["amendmentRequestId"]
    await world.cancel(order_id)
    assert "cancellationRequestId" in (await looks.look())["activeRequest"]
    await looks.look_back()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (replace("/contact/phone", "+1 2", "+49 30 1"), 409, "OLD_VALUE_MISMATCH"),
        ({"path": "/contact/phone", "operation": "REPLACE", "newValue": "+49 30 1"}, 409, "OLD_VALUE_MISMATCH"),
        ({"path": "/contact/phone", "operation": "REMOVE"}, 409, "OLD_VALUE_MISMATCH"),
        (replace("/quoteId", None, "q"), 422, "FIELD_NOT_AMENDABLE"),
        (replace("/items/7/quantity", 1, 2), 422, "ITEM_UNKNOWN"),
        ({"path": "/items/1", "operation": "REMOVE", "oldValue": None}, 422, "USE_CANCELLATION"),
        (replace("/contact/phone", "+49 30 1234567", "none"), 422, "INVALID_BODY"),
        ({"path": "contact", "operation": "SET"}, 422, "INVALID_BODY"),
    ],
)
async def test_what_is_refused_is_not_stored(world: ApiWorld, change: dict[str, Any], status: int, code: str) -> None:
    order_id = await world.create()
    answer = await ask_for(world, order_id, change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await world.get(f"/orders/{order_id}/amendment-requests")).json()["items"] == []


async def test_the_order_of_checks(world: ApiWorld) -> None:
    order_id = await world.create()
    path = f"/orders/{order_id}/amendment-requests"
    etag = await world.etag(f"/orders/{order_id}")
    answers = [
        await world.post(path, wish(PHONE), as_=("eve", "auditor"), if_match=etag),
        await world.post(f"/orders/{uuid.uuid4()}/amendment-requests", wish(PHONE), if_match=etag),
        await world.post(path, wish(PHONE), if_match=etag, key=None),
        await world.post(path, wish(PHONE)),
        await world.post(path, wish(PHONE), if_match='"order-version-99"'),
        await world.post(path, wish(PHONE, reasonCode="BECAUSE"), if_match=etag),
        await world.post(path, wish(), if_match=etag),
    ]
    assert [answer.status_code for answer in answers] == [403, 404, 400, 428, 412, 422, 422]
    first = await world.post(path, wish(PHONE), if_match=etag, key="one")
    again = await world.post(path, wish(PHONE), if_match=etag, key="one")
    assert (first.status_code, again.status_code, again.text) == (202, 200, first.text)
    other = await world.post(path, wish(MOVED), if_match=etag, key="one")
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_preview_shows_it_and_is_cited_only_while_it_stands(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only=BOOKED)
    shown = await world.post(f"/orders/{order_id}/previews", {"kind": "AMENDMENT", **wish(MOVED)}, key=None)
    told = shown.json()
    assert (shown.status_code, told["kind"]) == (200, "AMENDMENT")
    assert told["assessment"]["feasibility"] == "REQUIRES_APPROVAL"
    assert {task["taskType"] for task in told["compensationPlan"]["tasks"]} == {
        "cancel-appointment",
        "release-resource",
    }
    faulty = await world.post(f"/orders/{order_id}/previews", {"kind": "AMENDMENT", "changes": []}, key=None)
    assert faulty.status_code == 422
    await ask_for(world, order_id, PHONE)
    cited = await ask_for(world, order_id, MOVED, previewId=told["previewId"])
    assert cited.status_code == 202
    stale = await ask_for(world, order_id, MOVED, previewId=told["previewId"])
    assert (stale.status_code, stale.json()["code"]) == (412, "PREVIEW_STALE")
    unknown = await ask_for(world, order_id, PHONE, previewId=str(uuid.uuid4()))
    assert unknown.status_code in {404, 409}


async def test_only_the_requester_or_an_operator_takes_it_back(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only=BOOKED)
    told = (await ask_for(world, order_id, MOVED)).json()
    link = told["links"]["self"]
    etag = await world.etag(link)
    other = await world.post(f"{link}/withdraw", {}, as_=("carl", "agent"), if_match=etag)
    assert other.status_code == 403
    answer = await world.post(f"{link}/withdraw", {"reason": "no"}, if_match=etag)
    assert (answer.status_code, answer.json()["status"]) == (202, "CANCELLED")
    foreign = await world.get(link, tenant=uuid.uuid4())
    assert foreign.status_code == 404


async def test_a_cancellation_stands_in_the_way(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only=BOOKED)
    request_id = await world.cancel(order_id)
    refused = await ask_for(world, order_id, MOVED)
    assert (refused.status_code, refused.json()["code"]) == (409, "CHANGE_ACTIVE")
    assert request_id in refused.json()["blockedBy"]
    assert (await ask_for(world, order_id, PHONE)).json()["status"] == "APPLIED"


async def test_progress_of_an_amendment_says_who_must_act(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only=BOOKED)
    told = (await ask_for(world, order_id, MOVED, autoApply=False)).json()
    link, request_id = told["links"]["self"], told["amendmentRequestId"]
    looked_at = "Your change of the order is being looked at; what it does not touch goes on."

    async def progress() -> dict[str, Any]:
        return dict((await world.get(f"/orders/{order_id}/progress")).json())

    await drive(world, order_id, request_id)
    seen = await progress()
    assert seen["change"] == {
        "kind": "AMENDMENT",
        "amendmentRequestId": request_id,
        "status": "REQUIRES_APPROVAL",
    }
    (blocker,) = seen["blockers"]
    assert (blocker["kind"], blocker["id"], blocker["actor"]) == ("APPROVAL", request_id, "an approver")
    assert seen["sentence"] == (f"{looked_at} The change waits for approval; an approver must act by {blocker['by']}.")

    approved = await world.post(f"{link}/approve", {}, as_=BOB, if_match=await world.etag(link))
    seen = await progress()
    assert [one["kind"] for one in seen["blockers"]] == ["APPLY"]
    assert seen["sentence"] == (
        f"{looked_at} The change is approved and waits to be applied; whoever asked for it must act."
    )

    await world.post(f"{link}/apply", {}, if_match=approved.headers["etag"])
    planned = await drive(world, order_id, request_id)

    def accepted(call: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"state": "ACCEPTED"}

    order = OrderId(uuid.UUID(order_id))
    await world.walk(order, planned["plan_id"], planned["plan_run"], accepted)
    seen = await progress()
    assert (seen["state"], seen["change"]["status"]) == ("AMENDING", "APPLYING")
    assert {"cancel-appointment", "create-appointment"} <= {task["type"] for task in seen["tasks"]}
    outcome = next(one for one in seen["blockers"] if one["kind"] == "OUTCOME")
    assert outcome["actor"] == "appointment"
    assert seen["sentence"].startswith(
        f"Your order is being changed: {seen['done']} of {seen['total']} steps are done."
    )
    assert f"appointment must finish it by {outcome['by']}." in seen["sentence"]
