"""Cancellations over HTTP, from the wish to its end, with the flows played by hand."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.store.pool import tenant_transaction
from domain.values import OrderId, format_time
from tests.workers.api_world import ApiWorld, Looks, a_cancellation_body, a_line, an_order_body, confirmed
from tests.workers.test_api_amendments import ask_for, drive, replace

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOB = ("bob", "approver")
RESERVED = {"reserve-inventory", "assign-resource"}


async def cancelling(world: ApiWorld, **overrides: Any) -> tuple[str, str, str]:
    """An order with two effects and a cancellation of it: order id, request id, the request's path."""
    order_id = await world.create()
    await world.fulfil(order_id, only=RESERVED)
    request_id = await world.cancel(order_id, **overrides)
    return order_id, request_id, f"/orders/{order_id}/cancellation-requests/{request_id}"


async def test_the_golden_scenario(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only=RESERVED)
    etag = await world.etag(f"/orders/{order_id}")
    answer = await world.post(f"/orders/{order_id}/cancellation-requests", a_cancellation_body(), if_match=etag)
    told = answer.json()
    assert answer.status_code == 202
    link = f"/api/v1/orders/{order_id}/cancellation-requests/{told['cancellationRequestId']}"
    assert told == {  # lesson 39 §9, to the letter
        "cancellationRequestId": told["cancellationRequestId"],
        "orderId": order_id,
        "status": "ACCEPTED_FOR_ASSESSMENT",
        "currentOrderState": "CANCELLATION_REQUESTED",
        "links": {"self": link},
    }
    assert answer.headers["location"] == link
    assert answer.headers["etag"] == '"request-version-1"'

    planned = await world.judge(order_id, told["cancellationRequestId"])
    assert planned["verdict"] == "planned"
    seen = (await world.get(link)).json()
    assert (seen["status"], seen["currentOrderState"]) == ("COMPENSATING", "CANCELLING")
    assert seen["assessment"]["feasibility"] == "FULLY_CANCELLABLE"
    assert {one["taskType"] for one in seen["assessment"]["compensations"]} == {"release-inventory", "release-resource"}
    progress = (await world.get(f"/orders/{order_id}/progress")).json()
    assert progress["sentence"] == "Your order is being cancelled: 0 of 2 steps are done."

    order = uuid.UUID(order_id)
    await world.walk(order, planned["plan_id"], planned["plan_run"])  # type: ignore[arg-type]
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "CANCELLED"
    ended = (await world.get(link)).json()
    assert (ended["status"], ended["compensationPlanId"]) == ("COMPLETED", planned["plan_id"])
    plan = (await world.get(ended["links"]["compensationPlan"])).json()
    assert plan["state"] == "COMPLETED"
    assert {task["state"] for task in plan["tasks"]} == {"COMPLETED"}
    assert all(len(task["attempts"]) == 1 for task in plan["tasks"])
    listed = (await world.get(f"/orders/{order_id}/compensation-plans")).json()
    assert listed == {"items": [plan], "next": None}
    requests = (await world.get(f"/orders/{order_id}/cancellation-requests")).json()
    assert [one["cancellationRequestId"] for one in requests["items"]] == [told["cancellationRequestId"]]
    effects = (await world.get(f"/orders/{order_id}/effects")).json()["items"]
    assert sorted(effect["state"] for effect in effects) == ["CONFIRMED", "CONFIRMED", "REVERSED", "REVERSED"]


async def test_a_plan_is_a_picture_for_whoever_prefers_one(world: ApiWorld) -> None:
    order_id, request_id, _ = await cancelling(world)
    planned = await world.judge(order_id, request_id)
    path = f"/orders/{order_id}/compensation-plans/{planned['plan_id']}"
    for accept, kind in (
        ("image/svg+xml", "image/svg+xml"),
        ("text/html, image/*;q=0.9, */*;q=0.1", "image/svg+xml"),
        ("application/json, image/svg+xml;q=0.5", "application/json"),
        ("*/*", "application/json"),
    ):
        answer = await world.get(path, headers={"Accept": accept})
        assert answer.headers["content-type"] == kind
    picture = await world.get(path, headers={"Accept": "image/svg+xml"})
    assert picture.text.startswith("<svg ")
    assert "release-inventory" in picture.text


async def test_review_by_another_person(world: ApiWorld) -> None:
    order_id, request_id, path = await cancelling(world, forceManualReview=True, requestedBy={"actorId": "bert"})
    assert (await world.judge(order_id, request_id))["verdict"] == "review"
    etag = await world.etag(path)
    assert etag != '"request-version-1"'
    for person in ("alice", "bert"):
        answer = await world.post(f"{path}/approve", {}, as_=(person, "approver", "admin"), if_match=etag)
        assert (answer.status_code, answer.json()["code"]) == (403, "FOUR_EYES")
    order_tag = await world.etag(f"/orders/{order_id}")
    wrong = await world.post(f"{path}/approve", {}, as_=BOB, if_match=order_tag)
    assert (wrong.status_code, wrong.json()["code"]) == (412, "VERSION_STALE")
    approved = await world.post(f"{path}/approve", {"comment": "fine"}, as_=BOB, if_match=etag)
    assert (approved.status_code, approved.json()["status"]) == (202, "APPROVED")
    stale = await world.post(f"{path}/reject", {"reason": "no"}, as_=BOB, if_match=etag)
    assert (stale.status_code, stale.json()["code"]) == (412, "VERSION_STALE")
    late = await world.post(f"{path}/reject", {"reason": "no"}, as_=BOB, if_match=approved.headers["etag"])
    assert (late.status_code, late.json()["code"]) == (409, "REQUEST_CLOSED")
    decisions = (await world.get(path)).json()["decisions"]
    assert [(one["decision"], one["by"], one["comment"]) for one in decisions] == [("APPROVED", "bob", "fine")]


async def test_rejected_and_the_order_goes_on(world: ApiWorld) -> None:
    order_id, request_id, path = await cancelling(world, forceManualReview=True)
    await world.judge(order_id, request_id)
    blocked = (await world.get(f"/orders/{order_id}/progress")).json()
    assert [one["kind"] for one in blocked["blockers"]] == ["APPROVAL"]
    assert "an approver must act by" in blocked["sentence"]
    etag = await world.etag(path)
    answer = await world.post(f"{path}/reject", {"reason": "contract"}, as_=BOB, if_match=etag)
    assert (answer.status_code, answer.json()["status"]) == (202, "REJECTED")
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "IN_PROGRESS"


async def test_an_agent_withdraws_only_their_own(world: ApiWorld) -> None:
    _, _, path = await cancelling(world)
    etag = await world.etag(path)
    foreign = await world.post(f"{path}/withdraw", {"reason": "x"}, as_=("carl", "agent"), if_match=etag)
    assert (foreign.status_code, foreign.json()["code"]) == (403, "ROLE_REQUIRED")
    absent = await world.post(f"{path[:-36]}{uuid.uuid4()}/withdraw", {}, as_=("carl", "agent"), if_match=etag)
    assert (absent.status_code, absent.json()["code"]) == (404, "REQUEST_NOT_FOUND")
    own = await world.post(f"{path}/withdraw", {"reason": "stays"}, if_match=etag)
    assert (own.status_code, own.json()["status"], own.json()["currentOrderState"]) == (202, "WITHDRAWN", "IN_PROGRESS")
    again = await world.post(f"{path}/withdraw", {}, if_match=own.headers["etag"])
    assert (again.status_code, again.json()["code"]) == (409, "REQUEST_CLOSED")


@pytest.mark.parametrize("role", ["operator", "admin"])
async def test_operator_and_admin_withdraw_any(world: ApiWorld, role: str) -> None:
    _, _, path = await cancelling(world)
    answer = await world.post(f"{path}/withdraw", {}, as_=("olga", role), if_match=await world.etag(path))
    assert answer.status_code == 202


async def test_compensation_that_has_begun_cannot_be_taken_back(world: ApiWorld) -> None:
    order_id, request_id, path = await cancelling(world)
    planned = await world.judge(order_id, request_id)
    order = uuid.UUID(order_id)
    await world.walk(order, planned["plan_id"], planned["plan_run"], lambda _: None)  # type: ignore[arg-type]
    answer = await world.post(f"{path}/withdraw", {}, if_match=await world.etag(path))
    assert (answer.status_code, answer.json()["code"]) == (409, "COMPENSATION_STARTED")


async def test_a_charge_is_offered_and_answered(world: ApiWorld) -> None:
    for word, status, outcome in (("accept", "APPROVED", None), ("decline", "REJECTED", "CHARGE_DECLINED")):
        window = {"start": await soon(world), "end": "2999-01-01T00:00:00Z"}
        order_id = await world.create(appointment=window)
        await world.fulfil(order_id, only={*RESERVED, "create-appointment"})
        request_id = await world.cancel(order_id)
        assert (await world.judge(order_id, request_id))["verdict"] == "charge"
        path = f"/orders/{order_id}/cancellation-requests/{request_id}"
        seen = (await world.get(path)).json()
        assert seen["charge"]["amount"] == {"amountMinor": 2500, "currency": "EUR"}
        assert seen["charge"]["status"] == "OFFERED"
        answer = await world.post(f"{path}/{word}-charge", {}, if_match=await world.etag(path))
        assert (answer.status_code, answer.json()["status"]) == (202, status)
        assert answer.json().get("outcome") == outcome


async def soon(world: ApiWorld) -> str:
    """A visit in five hours, by the database's clock: late enough to be called off, early enough to cost."""
    return str(await world.value("select to_json(clock_timestamp() + interval '5 hours') #>> '{}'"))


async def test_a_completed_order_gets_proposals_and_stays_as_it_is(world: ApiWorld) -> None:
    order_id = await world.create(a_line(productOfferingId="router"))
    await world.fulfil(order_id)
    before = await world.get(f"/orders/{order_id}")
    assert before.json()["state"] == "COMPLETED"
    answer = await world.post(
        f"/orders/{order_id}/cancellation-requests", a_cancellation_body(), if_match=before.headers["etag"]
    )
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["outcome"]) == ("REJECTED", "NEW_ORDER_REQUIRED")
    seen = (await world.get(answer.headers["location"])).json()
    assert [one["orderType"] for one in seen["proposals"]] == ["RETURN"]
    after = await world.get(f"/orders/{order_id}")
    assert (after.content, after.headers["etag"]) == (before.content, before.headers["etag"])


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown reason", {"reasonCode": "NO_SUCH"}, "REASON_UNKNOWN", "/reasonCode"),
    ("no reason", {"reasonCode": ""}, "INVALID_BODY", "/reasonCode"),
    ("ORDER with ids", {"scope": {"type": "ORDER", "orderItemIds": ["1"]}}, "SCOPE_INVALID", "/scope/orderItemIds"),
    ("ITEMS without", {"scope": {"type": "ITEMS", "orderItemIds": []}}, "SCOPE_INVALID", "/scope/orderItemIds"),
    ("twice", {"scope": {"type": "ITEMS", "orderItemIds": ["1", "1"]}}, "SCOPE_INVALID", "/scope/orderItemIds"),
    ("another's", {"scope": {"type": "ITEMS", "orderItemIds": ["9"]}}, "ITEM_UNKNOWN", "/scope/orderItemIds"),
    ("unknown scope", {"scope": {"type": "ALL"}}, "INVALID_BODY", "/scope/type"),
    ("no scope", {"scope": None}, "INVALID_BODY", "/scope"),
    ("force as text", {"forceManualReview": "yes"}, "INVALID_BODY", "/forceManualReview"),
    ("unknown member", {"status": "APPROVED"}, "INVALID_BODY", "/status"),
    ("a part of ours", {"requestedBy": {"actorId": "system:walker"}}, "INVALID_BODY", "/requestedBy/actorId"),
]  # fmt: skip


async def test_a_cancellation_is_refused_at_the_door(world: ApiWorld) -> None:
    order_id = await world.create()
    etag = await world.etag(f"/orders/{order_id}")
    for name, overrides, code, path in REFUSED:
        body = a_cancellation_body(**overrides)
        answer = await world.post(f"/orders/{order_id}/cancellation-requests", body, if_match=etag)
        told = answer.json()
        assert (answer.status_code, told["code"]) == (422, code), (name, told)
        assert path in [error["path"] for error in told["errors"]], (name, told)
    assert await world.rows("cancellation_request") == 0
    assert await world.etag(f"/orders/{order_id}") == etag


async def test_a_second_cancellation_is_told_what_is_in_its_way(world: ApiWorld) -> None:
    order_id, _, path = await cancelling(world)
    etag = await world.etag(f"/orders/{order_id}")
    # Its body is faulty too: that would be said later.
    answer = await world.post(f"/orders/{order_id}/cancellation-requests", {"scope": 1}, if_match=etag)
    assert (answer.status_code, answer.json()["code"]) == (409, "CHANGE_ACTIVE")
    assert answer.json()["blockedBy"] == f"/api/v1{path}"


def without_place(assessment: dict[str, Any]) -> dict[str, Any]:
    moving = {"assessedAt", "orderVersion", "ledgerVersion"}
    return {name: value for name, value in assessment.items() if name not in moving}


async def test_a_preview_shows_what_then_happens(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only=RESERVED)
    before = await world.get(f"/orders/{order_id}")
    entries = await world.rows("audit_entry")
    asked = a_cancellation_body(kind="CANCELLATION")
    shown = await world.post(f"/orders/{order_id}/previews", asked, key=None)
    assert shown.status_code == 200, shown.text
    told = shown.json()
    assert told["kind"] == "CANCELLATION"
    assert {one["taskType"] for one in told["compensationPlan"]["tasks"]} == {"release-inventory", "release-resource"}
    assert (await world.get(f"/orders/{order_id}")).content == before.content
    assert (await world.rows("audit_entry"), await world.rows("receipt")) == (entries, 1)

    request_id = await world.cancel(order_id, previewId=told["previewId"])
    await world.judge(order_id, request_id)
    seen = (await world.get(f"/orders/{order_id}/cancellation-requests/{request_id}")).json()
    assert without_place(seen["assessment"]) == without_place(told["assessment"])


async def test_a_preview_is_cited_only_while_it_stands(world: ApiWorld) -> None:
    order_id = await world.create()

    def slowly(call: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"state": "ACCEPTED"} if call["body"]["taskType"] == "assign-resource" else confirmed(call)

    await world.fulfil(order_id, slowly, only=RESERVED)
    asked = a_cancellation_body(kind="CANCELLATION")
    stale = (await world.post(f"/orders/{order_id}/previews", asked)).json()["previewId"]
    [call] = [one for one in world.calls if one["body"]["taskType"] == "assign-resource"]
    await world.report(OrderId(uuid.UUID(order_id)), call, confirmed(call))
    path, etag = f"/orders/{order_id}/cancellation-requests", await world.etag(f"/orders/{order_id}")
    for preview_id, status, code in (
        (stale, 412, "PREVIEW_STALE"),
        (str(uuid.uuid4()), 404, "PREVIEW_NOT_FOUND"),
        ("x", 422, "INVALID_BODY"),
    ):
        answer = await world.post(path, a_cancellation_body(previewId=preview_id), if_match=etag)
        assert (answer.status_code, answer.json().get("code")) == (status, code)
    assert await world.rows("cancellation_request") == 0


async def told(world: ApiWorld, order_id: str) -> tuple[str, list[dict[str, Any]]]:
    seen = (await world.get(f"/orders/{order_id}/progress")).json()
    return seen["sentence"], seen["blockers"]


async def test_progress_names_what_blocks_who_must_act_and_by_when(world: ApiWorld) -> None:
    order_id = await world.create(a_line(productOfferingId="router"))
    await world.fulfil(order_id, lambda _: {"state": "ACCEPTED"}, only={"reserve-inventory"})
    path = f"/orders/{order_id}/cancellation-requests"
    assert (await told(world, order_id))[1] == []

    # The reservation is under way: first it is waited for, then the plan waits for it.
    request_id = await world.cancel(order_id)
    await world.judge(order_id, request_id)
    grace = (await world.get(f"{path}/{request_id}")).json()["graceUntil"]
    sentence, [waits] = await told(world, order_id)
    assert (waits["kind"], waits["actor"], waits["by"]) == ("OUTCOME", "inventory", grace)
    assert sentence == (
        "Your cancellation is being looked at; nothing new is started meanwhile. "
        f"Reserve inventory has no outcome yet; inventory must finish it by {grace}."
    )
    async with tenant_transaction(world.pool, world.tenant) as connection:
        await connection.execute("update cancellation_request set grace_until = requested_at")
    planned = await world.judge(order_id, request_id)
    sentence, [waits] = await told(world, order_id)
    accepted = await world.value("select accepted_at from effect")
    due = format_time(accepted + timedelta(hours=1))  # the type says nothing of its own: PT1H
    assert (waits["actor"], waits["by"]) == ("inventory", due)
    assert sentence.startswith("Your order is being cancelled: 0 of 1 steps are done. Reserve inventory has no outcome")
    assert (await world.get(f"{path}/{request_id}")).json()["jeopardy"] is True

    # Then its release is refused: a person must act.
    [call] = world.calls
    order = OrderId(uuid.UUID(order_id))
    await world.report(order, call, confirmed(call))
    await world.walk(order, planned["plan_id"], planned["plan_run"], lambda _: {"state": "NO_EFFECT", "reason": "x"})
    sentence, [case] = await told(world, order_id)
    assert (case["kind"], case["actor"]) == ("CASE", "an operator")
    assert sentence.endswith(f"Inventory refused release inventory; an operator must act by {case['by']}.")


async def test_progress_of_a_review_a_charge_and_a_part_of_the_order(world: ApiWorld) -> None:
    order_id = await world.create(a_line("1", productOfferingId="router"), a_line("2", productOfferingId="router"))
    await world.fulfil(order_id, only={"reserve-inventory"})
    scope = {"scope": {"type": "ITEMS", "orderItemIds": ["2"]}}
    request_id = await world.cancel(order_id, forceManualReview=True, **scope)
    await world.judge(order_id, request_id)
    path = f"/orders/{order_id}/cancellation-requests/{request_id}"
    sentence, [review] = await told(world, order_id)
    assert (review["kind"], review["by"]) == ("APPROVAL", (await world.get(path)).json()["slaAt"])
    assert sentence.startswith("Your cancellation of a part of the order is being looked at; the rest goes on. ")
    assert sentence.endswith(f"The cancellation waits for approval; an approver must act by {review['by']}.")
    await world.post(f"{path}/approve", {}, as_=BOB, if_match=await world.etag(path))
    await world.judge(order_id, request_id)
    assert (await told(world, order_id))[0] == "A part of your order is being cancelled: 0 of 1 steps are done."

    late = await world.create(appointment={"start": await soon(world), "end": "2999-01-01T00:00:00Z"})
    await world.fulfil(late, only={*RESERVED, "create-appointment"})
    await world.judge(late, await world.cancel(late))
    sentence, [charge] = await told(world, late)
    assert sentence.endswith(
        f"A charge of 25.00 EUR for the cancellation waits for an answer; the customer must act by {charge['by']}."
    )


async def test_progress_of_a_cancellation_behind_a_change_that_is_being_made(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only={*RESERVED, "create-appointment"})
    later = {"start": "2031-01-05T09:00:00Z", "end": "2031-01-05T12:00:00Z"}
    told_of = (await ask_for(world, order_id, replace("/appointment", an_order_body()["appointment"], later))).json()
    planned = await drive(world, order_id, told_of["amendmentRequestId"])
    order = OrderId(uuid.UUID(order_id))
    await world.walk(order, planned["plan_id"], planned["plan_run"], lambda _: {"state": "ACCEPTED"})
    request_id = await world.cancel(order_id)
    sentence, [change, waits] = await told(world, order_id)
    assert (change["kind"], change["id"]) == ("QUEUE", told_of["amendmentRequestId"])
    assert (waits["kind"], waits["actor"]) == ("OUTCOME", "appointment")
    assert sentence == (
        "Your cancellation is being looked at; nothing new is started meanwhile. "
        "The cancellation waits until a change that is being made to the order is over. "
        f"Cancel appointment has no outcome yet; appointment must finish it by {waits['by']}."
    )
    await world.report(order, world.calls[-1], confirmed(world.calls[-1]))
    await world.judge(order_id, request_id)
    assert (await told(world, order_id))[1] == []


async def test_progress_of_an_order_that_waits_for_its_date(world: ApiWorld) -> None:
    order_id = await world.create(requestedStartDate="2990-01-01T00:00:00Z", startOnRequestedDate=True)
    run = await world.run_of(OrderId(uuid.UUID(order_id)))
    await world.tell(ask.ValidateOrder(OrderId(uuid.UUID(order_id)), run))
    sentence, [date] = await told(world, order_id)
    assert date["kind"] == "DATE"
    assert sentence == (
        f"Your order has been received and is being prepared. The order waits for its start date, {date['by']}."
    )


async def test_a_preview_of_two_hundred_tasks_reads_once(world: ApiWorld) -> None:
    """However large the order: one statement reads it, one keeps what was shown."""
    lines = [a_line(str(number)) for number in range(1, 41)]
    statements: dict[int, list[str]] = {}
    for size in (1, len(lines)):
        order_id = await world.create(*lines[:size])
        await world.fulfil(order_id, only={"reserve-inventory"})
        asked = a_cancellation_body(kind="CANCELLATION")
        await world.post(f"/orders/{order_id}/previews", asked)  # from now on the policy is known
        said = statements[size] = []

        def listen(record: Any, said: list[str] = said) -> None:
            said.append(record.query)

        connections = [await world.pool.acquire() for _ in range(8)]
        for connection in connections:
            connection.add_query_logger(listen)
            await world.pool.release(connection)
        shown = await world.post(f"/orders/{order_id}/previews", asked)
        for connection in [await world.pool.acquire() for _ in range(8)]:
            connection.remove_query_logger(listen)
            await world.pool.release(connection)
        assert len(shown.json()["assessment"]["taskImpacts"]) == size * 5 + 2
    reads = [query for query in statements[40] if "select" in query.lower() and "set_config" not in query]
    assert len([query for query in reads if "customer_order" in query]) == 1
    assert len(statements[40]) == len(statements[1])


async def test_what_cannot_be_asked_for_cannot_be_previewed(world: ApiWorld) -> None:
    order_id = await world.create()
    asked = a_cancellation_body(kind="CANCELLATION")
    rows = [({"kind": "AMENDMENT"}, 422), ({**asked, "reasonCode": "NO_SUCH"}, 422), (asked, 200)]
    for body, expected in rows:
        assert (await world.post(f"/orders/{order_id}/previews", body)).status_code == expected


async def test_an_order_is_shown_as_it_stood_at_every_moment(world: ApiWorld) -> None:
    """Whatever was shown at a moment is shown again, to the byte, for whoever asks about that moment later."""
    order_id = await world.create(
        a_line(productOfferingId="router", quantity=5), a_line("2", productOfferingId="router")
    )
    path = f"/orders/{order_id}"
    looks = Looks(world, path)
    await looks.look()
    await world.fulfil(order_id, only={"reserve-inventory"})
    await looks.look()
    part = {"scope": {"type": "ITEMS"}, "items": [{"itemId": "1", "quantity": 2}]}
    request_id = await world.cancel(order_id, **part)
    await looks.look()
    planned = await world.judge(order_id, request_id)
    await looks.look()
    await world.walk(OrderId(uuid.UUID(order_id)), planned["plan_id"], planned["plan_run"])
    await looks.look()
    await world.judge(order_id, await world.cancel(order_id, forceManualReview=True))
    await looks.look()
    await looks.look_back()
    before = await world.get(f"{path}?asOf=2020-01-01T00:00:00Z")
    assert (before.status_code, before.json()["code"]) == (404, "ORDER_NOT_FOUND")
    assert (await world.get(f"{path}?asOf=yesterday")).status_code == 400
    later = await world.get(f"{path}?asOf=2999-01-01T00:00:00Z")
    assert later.json() == looks.seen[-1][1]


async def test_a_part_of_a_quantity_is_cancelled(world: ApiWorld) -> None:
    order_id = await world.create(a_line(productOfferingId="router", quantity=5))
    await world.fulfil(order_id, only={"reserve-inventory"})
    path = f"/orders/{order_id}/cancellation-requests"
    part = {"scope": {"type": "ITEMS"}, "items": [{"itemId": "1", "quantity": 2}]}
    etag = await world.etag(f"/orders/{order_id}")
    for wrong in (
        {"scope": {"type": "ORDER"}},
        {"items": [{"itemId": "1", "quantity": 6}]},
        {"items": [{"itemId": "1", "quantity": 0}]},
        {"items": [{"itemId": "7", "quantity": 1}]},
        {"items": [{"itemId": "1", "quantity": 1}, {"itemId": "1", "quantity": 2}]},
    ):
        refused = await world.post(path, a_cancellation_body(**part | wrong), if_match=etag)
        assert refused.status_code == 422, refused.text
    asked = a_cancellation_body(kind="CANCELLATION", **part)
    shown = (await world.post(f"/orders/{order_id}/previews", asked)).json()
    more = {**part, "items": [{"itemId": "1", "quantity": 3}], "previewId": shown["previewId"]}
    assert (await world.post(path, a_cancellation_body(**more), if_match=etag)).json()["code"] == "PREVIEW_STALE"

    request_id = await world.cancel(order_id, **part, previewId=shown["previewId"])
    planned = await world.judge(order_id, request_id)
    seen = (await world.get(f"{path}/{request_id}")).json()
    assert (seen["scope"], seen["items"]) == (
        {"type": "ITEMS", "orderItemIds": ["1"]},
        [{"itemId": "1", "quantity": 2}],
    )
    assert without_place(seen["assessment"]) == without_place(shown["assessment"])
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "IN_PROGRESS"
    await world.walk(OrderId(uuid.UUID(order_id)), planned["plan_id"], planned["plan_run"])
    order = (await world.get(f"/orders/{order_id}")).json()
    [item] = order["items"]
    assert (item["quantity"], item["orderedQuantity"], item["state"]) == (3, 5, "IN_PROGRESS")
    await world.fulfil(order_id)
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "COMPLETED"
    tasks = (await world.get(f"/orders/{order_id}/plan")).json()["items"]
    reservations = {task["state"]: task for task in tasks if task["step"] == "reserve"}
    assert set(reservations) == {"COMPENSATED", "COMPLETED"}
    assert reservations["COMPENSATED"]["supersededBy"] == reservations["COMPLETED"]["taskId"]


async def test_a_case_is_shown_given_and_repaired(world: ApiWorld) -> None:
    order_id = await world.create()

    def refusing(call: Any) -> Any:
        refused = call["body"]["taskType"] == "reserve-inventory"
        return {"state": "NO_EFFECT", "reason": "none left"} if refused else confirmed(call)

    await world.fulfil(order_id, refusing, only=RESERVED)
    olga = ("olga", "operator")
    listed = (await world.get(f"/fallout-cases?orderId={order_id}&status=OPEN&category=BUSINESS", as_=olga)).json()
    case = listed["items"][0]
    path = f"/fallout-cases/{case['caseId']}"
    assert (case["context"], case["blocking"]) == ("FULFILLMENT", True)
    assert (await world.get(f"/orders/{order_id}")).json()["state"] == "FALLOUT"
    missing = await world.post(f"{path}/assign", {"assignee": "olga"}, as_=olga)
    assert missing.status_code == 428
    etag = await world.etag(path)
    given = await world.post(f"{path}/assign", {"assignee": "olga"}, as_=olga, if_match=etag)
    assert (given.status_code, given.json()["status"]) == (202, "ASSIGNED")
    assert (await world.get(path, as_=olga)).json()["assignee"] == "olga"
    repair = {"action": "RETRY", "reasonCode": "SYSTEM_RECOVERED", "reasonText": "stock arrived"}
    wrong = await world.post(f"{path}/repairs", repair | {"reasonCode": "X"}, as_=olga, if_match=given.headers["etag"])
    assert (wrong.status_code, wrong.json()["code"]) == (422, "REASON_UNKNOWN")
    mended = await world.post(f"{path}/repairs", repair, as_=olga, if_match=given.headers["etag"])
    assert (mended.status_code, mended.json()["status"]) == (202, "RESOLVED")
    closed = await world.post(f"{path}/repairs", {"action": 1}, as_=olga, if_match=mended.headers["etag"])
    assert (closed.status_code, closed.json()["code"]) == (409, "CASE_CLOSED")
    absent = await world.post(f"/fallout-cases/{uuid.uuid4()}/repairs", repair, as_=olga, key=None)
    assert (absent.status_code, absent.json()["code"]) == (404, "CASE_NOT_FOUND")
