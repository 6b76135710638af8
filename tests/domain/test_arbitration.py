"""Where two changes meet: every cell of 1-domain §8, executed, and what becomes of the one that had to wait."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from domain import commands as ask
from domain.arbitration import CELLS
from domain.errors import Breach, ChangeActive
from domain.order import Amendment, Request
from tests.builders import AGENT, APPROVER, World, accepted, an_item, an_order, change, only, refused, silent
from tests.properties.invariants import audit_tells_the_states, check_order

ADDRESS = {"street": "Weg 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}
MOVED = {**ADDRESS, "postalCode": "12940"}
SLOT = {"start": "2026-12-01T09:00:00+01:00", "end": "2026-12-01T12:00:00+01:00", "timeZone": "Europe/Berlin"}
LATER = {**SLOT, "start": "2026-12-02T09:00:00+01:00", "end": "2026-12-02T12:00:00+01:00"}

ROWS = ("NONE", "AMENDMENT", "APPLYING", "ITEM_CANCELLATION", "ORDER_CANCELLATION", "CANCELLING")
COLUMNS = ("ORDER_CANCELLATION", "ITEM_CANCELLATION", "AMENDMENT", "ADMINISTRATIVE_AMENDMENT", "SUPPLEMENTAL")

BOOKED = ("reserve-inventory", "assign-resource", "create-appointment")


def two_items() -> World:
    world = World().accept(an_order(an_item(), an_item("2", "mobile-sim"))).decompose()
    return world.run_to(*BOOKED)


def address(world: World) -> Amendment:
    """An amendment that waits for a person."""
    return world.drive(world.amend(change("/installationAddress", ADDRESS, MOVED)))


def slot(world: World) -> Amendment:
    """An amendment that undoes a booking, and is applying until that is done."""
    return world.drive(world.amend(change("/appointment", SLOT, LATER)))


def item(world: World, item_id: str = "1") -> Request:
    return world.cancel(scope="ITEMS", item_ids=(item_id,))


def commit(world: World) -> Request:
    request = world.judge(world.cancel())
    world.run_flow(only={"cancel-appointment"})
    assert world.request(request.request_id).committed_at
    return request


def port(world: World) -> Amendment:
    """An amendment that is applying and gives the old port back only when the new one is certain."""
    amendment = world.agree(address(world))
    world.run_flow(only={"cancel-appointment"})
    assert world.undoings()["release-resource"] == "PLANNED"
    assert world.amendment(amendment.request_id).status == "APPLYING"
    return amendment


ACTIVE: dict[str, Callable[[World], Any]] = {
    "NONE": lambda world: world.the_order,
    "AMENDMENT": address,
    "APPLYING": slot,
    "ITEM_CANCELLATION": item,
    "ORDER_CANCELLATION": lambda world: world.cancel(),
    "CANCELLING": commit,
}
NEW: dict[str, Callable[[World], Any]] = {
    "ORDER_CANCELLATION": lambda world: world.cancel(),
    "ITEM_CANCELLATION": item,
    "AMENDMENT": lambda world: world.amend(change("/items/1/configuration/deviceModel", "R7", "R9")),
    "ADMINISTRATIVE_AMENDMENT": lambda world: world.amend(change("/contact/phone", "+49 30 1234567", "+49 30 765432")),
}


def supplement(world: World) -> Any:
    new = replace(an_order(), order_type="SUPPLEMENTAL", reason_code="ADD_ON")
    world.do(ask.SupplementOrder(world.order_id, new), AGENT)
    return SimpleNamespace(status=world.followed[-1].body["state"])


NEW["SUPPLEMENTAL"] = supplement

# What the one who comes second hears: the status of what was asked for, or 409.
HEARS: dict[tuple[str, str], str] = {
    ("NONE", "ORDER_CANCELLATION"): "ACCEPTED_FOR_ASSESSMENT",
    ("NONE", "ITEM_CANCELLATION"): "ACCEPTED_FOR_ASSESSMENT",
    ("NONE", "AMENDMENT"): "REQUESTED",
    ("NONE", "ADMINISTRATIVE_AMENDMENT"): "APPLIED",
    ("NONE", "SUPPLEMENTAL"): "ACKNOWLEDGED",
    ("AMENDMENT", "ORDER_CANCELLATION"): "ACCEPTED_FOR_ASSESSMENT",
    ("AMENDMENT", "ITEM_CANCELLATION"): "ACCEPTED_FOR_ASSESSMENT",
    ("AMENDMENT", "AMENDMENT"): "REQUESTED",
    ("AMENDMENT", "ADMINISTRATIVE_AMENDMENT"): "APPLIED",
    ("AMENDMENT", "SUPPLEMENTAL"): "409",
    ("APPLYING", "ORDER_CANCELLATION"): "ACCEPTED_FOR_ASSESSMENT",
    ("APPLYING", "ITEM_CANCELLATION"): "ACCEPTED_FOR_ASSESSMENT",
    ("APPLYING", "AMENDMENT"): "QUEUED",
    ("APPLYING", "ADMINISTRATIVE_AMENDMENT"): "APPLIED",
    ("APPLYING", "SUPPLEMENTAL"): "409",
    ("ITEM_CANCELLATION", "ORDER_CANCELLATION"): "ACCEPTED_FOR_ASSESSMENT",
    ("ITEM_CANCELLATION", "ITEM_CANCELLATION"): "409",
    ("ITEM_CANCELLATION", "AMENDMENT"): "409",
    ("ITEM_CANCELLATION", "ADMINISTRATIVE_AMENDMENT"): "APPLIED",
    ("ITEM_CANCELLATION", "SUPPLEMENTAL"): "409",
    ("ORDER_CANCELLATION", "ORDER_CANCELLATION"): "409",
    ("ORDER_CANCELLATION", "ITEM_CANCELLATION"): "409",
    ("ORDER_CANCELLATION", "AMENDMENT"): "409",
    ("ORDER_CANCELLATION", "ADMINISTRATIVE_AMENDMENT"): "APPLIED",
    ("ORDER_CANCELLATION", "SUPPLEMENTAL"): "409",
    ("CANCELLING", "ORDER_CANCELLATION"): "409",
    ("CANCELLING", "ITEM_CANCELLATION"): "409",
    ("CANCELLING", "AMENDMENT"): "409",
    ("CANCELLING", "ADMINISTRATIVE_AMENDMENT"): "APPLIED",
    ("CANCELLING", "SUPPLEMENTAL"): "409",
}


def test_the_table_has_no_hole() -> None:
    assert set(CELLS) == set(product(ROWS, COLUMNS)) == set(HEARS)


@pytest.mark.parametrize(("active", "new"), HEARS)
def test_each_meeting(active: str, new: str) -> None:
    world = two_items()
    first = ACTIVE[active](world)
    before = world.the_order
    if HEARS[active, new] == "409":
        with pytest.raises(ChangeActive) as refusal:
            NEW[new](world)
        assert str(first.request_id) in (refusal.value.blocked_by or "")
        assert world.the_order is before
    else:
        assert NEW[new](world).status == HEARS[active, new]
    check_order(world.the_order, before)
    audit_tells_the_states(world.the_order, world.events)


def finish(world: World) -> World:
    """Everybody does their part until nothing moves: flows, people who agree, systems that confirm."""
    for _ in range(12):
        for amendment in list(world.the_order.amendments.values()):
            if not amendment.has_ended:
                amendment = world.drive(amendment)
                if amendment.status == "REQUIRES_APPROVAL":
                    world.agree(amendment)
        for request in list(world.the_order.requests.values()):
            if not request.has_ended and world.judge(request).status == "REQUIRES_APPROVAL":
                world.approve(request)
                world.judge(request)
        world.run_flow()
        check_order(world.the_order, None)
        if world.events:  # a stored order's are in its database
            audit_tells_the_states(world.the_order, world.events)
        if world.the_order.head.has_ended:
            break
    return world


@pytest.mark.parametrize(("active", "new"), HEARS)
def test_after_each_meeting_everything_comes_to_an_end(active: str, new: str) -> None:
    """Nothing is lost and nothing stays open, whoever came first; with an item cancelled the rest is delivered."""
    world = two_items()
    ACTIVE[active](world)
    with suppress(Breach):
        NEW[new](world)
    finish(world)
    assert world.the_order.head.has_ended, world.state
    assert all(change.has_ended for change in world.the_order.amendments.values())
    assert all(request.has_ended for request in world.the_order.requests.values())


@pytest.mark.parametrize("new", COLUMNS)
def test_whoever_comes_while_the_new_must_be_certain_first_does_not_wait_in_a_circle(new: str) -> None:
    """An item's cancellation holds the very work that the amendment waits for, and waits for the amendment."""
    world = two_items()
    first = port(world)
    if HEARS["APPLYING", new] == "409":
        with pytest.raises(ChangeActive) as refusal:
            NEW[new](world)
        assert str(first.request_id) in (refusal.value.blocked_by or "")
    else:
        assert NEW[new](world).status == HEARS["APPLYING", new]
    check_order(world.the_order, None)
    finish(world)
    assert world.the_order.head.has_ended, world.state
    assert all(change.has_ended for change in world.the_order.amendments.values())
    assert all(request.has_ended for request in world.the_order.requests.values())
    given = [e.state for e in world.the_order.effects.values() if e.task_type == "assign-resource"]
    gone = new in {"ORDER_CANCELLATION", "ITEM_CANCELLATION"}
    assert sorted(given) == (["REVERSED"] if gone else ["CONFIRMED", "REVERSED"])
    assert world.called("release-resource") == 1


def test_what_an_items_cancellation_that_comes_to_nothing_had_stopped_goes_on() -> None:
    world = two_items()
    amendment = port(world)
    request = item(world)
    assert (world.amendment(amendment.request_id).status, world.undoings()["release-resource"]) == (
        "APPLIED",
        "PLANNED",
    )
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    finish(world)
    assert (world.state, world.called("assign-resource"), world.called("release-resource")) == ("COMPLETED", 2, 1)


def test_a_new_address_that_was_wrong_is_mended_by_another_one() -> None:
    """The new port is refused, so that the old one cannot be given back: the amendment is in the order, the order shows
    the failed work and not AMENDING for ever, and the right address is not kept waiting."""
    world = two_items()
    amendment = port(world)
    world.run_flow(only({"assign-resource": refused}), only={"assign-resource"})
    assert (world.state, world.amendment(amendment.request_id).status) == ("FALLOUT", "APPLIED")
    case = world.open_case()
    right = change("/installationAddress", MOVED, {**MOVED, "postalCode": "10115"})
    second = world.amend(right, reason="FALLOUT_REPAIR", repairs_case=case.case_id)
    assert second.status == "REQUESTED"
    assert world.drive(second).status == "APPLIED"
    assert world.the_order.cases[case.case_id].resolution == "AMENDED"
    world.run_flow(only={"assign-resource", "release-resource"})
    called = [call["body"]["taskType"] for call in world.calls]
    assert called.index("release-resource") > len(called) - 1 - called[::-1].index("assign-resource")
    finish(world)
    assert (world.state, world.called("assign-resource"), world.called("release-resource")) == ("COMPLETED", 3, 1)


def test_an_undoing_whose_first_call_may_have_worked_is_asked_for_before_the_order_is_cancelled() -> None:
    """It was on its way to a second call when the cancellation came: nobody undoes anew what may be undone already."""
    world = two_items()
    slot(world)
    world.run_flow(silent, only={"cancel-appointment"})
    assert world.verify("cancel-appointment", "MISSING")["verdict"] == "retry"
    request = world.cancel()
    assert (world.task("cancel-appointment").state, world.begin(request)["verdict"]) == ("OUTCOME_UNKNOWN", "parked")
    world.verify("cancel-appointment", "CONFIRMED")
    world.judge(request)
    finish(world)
    assert (world.state, world.called("cancel-appointment")) == ("CANCELLED", 1)


def test_the_case_of_an_undoing_ends_when_the_cancellation_undoes_the_same_itself() -> None:
    world = two_items()
    amendment = slot(world)
    world.run_flow(refused, only={"cancel-appointment"})
    case = world.open_case()
    assert (case.context, world.state) == ("AMENDMENT", "FALLOUT")
    request = world.cancel()
    overtaken = world.amendment(amendment.request_id)
    assert (overtaken.status, overtaken.outcome) == ("FAILED", "OVERTAKEN_BY_CANCELLATION")
    world.judge(request)
    world.run_flow(only={"cancel-appointment"})
    assert (world.the_order.cases[case.case_id].status, world.the_order.cases[case.case_id].resolution) == (
        "CANCELLED",
        "CAUSE_VANISHED",
    )
    finish(world)
    assert (world.state, world.called("cancel-appointment")) == ("CANCELLED", 2)


# -- the cells in detail ----------------------------------------------------------------------------------------


def test_a_cancellation_parks_an_amendment_which_comes_back_when_it_is_withdrawn() -> None:
    world = two_items()
    amendment = address(world)
    request = world.cancel()
    assert world.amendment(amendment.request_id).status == "QUEUED"
    assert [e.data["behind"] for e in world.events if e.kind == "AMENDMENT_QUEUED"] == [str(request.request_id)]
    assert [m.key for m in world.sent("review-decided")] == [amendment.wait_key]  # its review goes away
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    resumed = world.amendment(amendment.request_id)
    assert resumed.status == "REQUESTED"
    assert resumed.run != amendment.run
    assert world.drive(resumed).status == "REQUIRES_APPROVAL"


def test_past_the_commit_point_the_amendment_is_superseded() -> None:
    world = two_items()
    amendment = address(world)
    commit(world)
    amendment = world.amendment(amendment.request_id)
    assert (amendment.status, amendment.outcome) == ("SUPERSEDED", "OVERTAKEN_BY_CANCELLATION")


def test_the_amendment_is_superseded_also_where_nothing_has_to_be_undone() -> None:
    """The order ends in the same moment; seen to fail with amendments left to the next pass: REJECTED, ORDER_ENDED."""
    world = World().accept(an_order(an_item()))
    amendment = world.amend(change("/items/1/configuration/deviceModel", "R7", "R9"), auto_apply=False)
    world.judge(world.cancel())
    assert world.state == "CANCELLED"
    amendment = world.amendment(amendment.request_id)
    assert (amendment.status, amendment.outcome) == ("SUPERSEDED", "OVERTAKEN_BY_CANCELLATION")


def test_a_cancellation_over_an_amendment_in_the_making_undoes_what_it_did() -> None:
    """EC35: no further undoing of the amendment begins; its effects are in the cancellation's plan."""
    world = two_items()
    amendment = slot(world)
    world.run_flow(accepted, only={"cancel-appointment"})
    request = world.cancel()
    assert (world.state, world.begin(request)["verdict"]) == ("CANCELLATION_REQUESTED", "parked")
    assert world.amendment(amendment.request_id).status == "APPLYING"  # an undoing is in the air
    world.report(world.calls_of("cancel-appointment")[0], {"state": "CONFIRMED"}, source="CALLBACK")
    assert world.amendment(amendment.request_id).status == "APPLIED"
    assert world.sent("closure-quiesced")
    finish(world)
    assert world.state == "CANCELLED"
    assert world.called("cancel-appointment") == 1
    assert world.called("create-appointment") == 1


def test_what_the_amendment_had_not_undone_the_cancellation_undoes() -> None:
    world = two_items()
    amendment = slot(world)
    request = world.cancel()
    amendment = world.amendment(amendment.request_id)
    assert (amendment.status, amendment.outcome) == ("FAILED", "OVERTAKEN_BY_CANCELLATION")
    world.judge(request)
    finish(world)
    assert world.state == "CANCELLED"
    assert world.called("cancel-appointment") == 1


def test_a_withdrawn_cancellation_leaves_the_amendments_undoing_to_go_on() -> None:
    world = two_items()
    slot(world)
    request = world.cancel()
    assert world.run_flow().called("cancel-appointment") == 0
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    finish(world)
    assert world.state == "COMPLETED"
    assert (world.called("cancel-appointment"), world.called("create-appointment")) == (1, 2)


def test_the_newer_amendment_of_the_same_fields_supersedes_the_older() -> None:
    """EC33: what the older flow still asks is answered with stand down."""
    world = two_items()
    older = address(world)
    newer = world.amend(change("/installationAddress", ADDRESS, {**ADDRESS, "postalCode": "10115"}))
    assert world.amendment(older.request_id).status == "SUPERSEDED"
    assert world.assess_amendment(older)["verdict"] == "stand_down"
    assert world.agree(world.drive(newer)).status == "APPLYING"


def test_overlapping_amendments_queue_and_the_second_is_judged_on_what_the_first_left() -> None:
    world = two_items()
    first = address(world)
    second = world.amend(change("/appointment", SLOT, LATER))  # both touch the booking
    assert second.status == "QUEUED"
    world.agree(first)
    world.run_flow(only={"cancel-appointment", "assign-resource", "release-resource"})
    assert world.amendment(first.request_id).status == "APPLIED"
    assert world.amendment(second.request_id).status == "APPLIED"  # the booking is not made yet: allowed, at once
    finish(world)
    assert world.state == "COMPLETED"
    assert world.calls_of("create-appointment")[-1]["body"]["input"]["order"]["appointment"] == LATER


def test_an_items_cancellation_parks_the_amendment_of_that_item() -> None:
    world = World().accept(an_order(an_item(), an_item("2", "mobile-sim"))).decompose()
    amendment = world.amend(change("/items/1/configuration/deviceModel", "R7", "R9"), auto_apply=False)
    other = world.amend(change("/items/2/configuration/deviceModel", "R7", "R9"), auto_apply=False)
    item(world)
    assert world.amendment(amendment.request_id).status == "QUEUED"
    assert world.amendment(other.request_id).status != "QUEUED"
    request = next(iter(world.the_order.requests.values()))
    assert [e.data["behind"] for e in world.events if e.kind == "AMENDMENT_QUEUED"] == [str(request.request_id)]
    world.judge(request)
    amendment = world.drive(world.amendment(amendment.request_id))
    assert (amendment.status, amendment.outcome) == ("REJECTED", "NOT_APPLICABLE")


def test_a_new_phone_number_reaches_what_undoes_the_order() -> None:
    """EC30."""
    world = two_items()
    world.judge(world.cancel())
    world.amend(change("/contact/phone", "+49 30 1234567", "+49 30 7654321"))
    world.run_flow()
    sent = world.calls_of("cancel-appointment")[0]["body"]["input"]["contact"]
    assert (sent["phone"], world.state) == ("+49 30 7654321", "CANCELLED")


def test_one_review_at_a_time_does_not_apply_two() -> None:
    """Two agreed, disjoint amendments: the second waits until the first is in the order."""
    world = two_items()
    first = world.drive(world.amend(change("/appointment", SLOT, LATER), auto_apply=False))
    second = world.drive(world.amend(change("/items/1/configuration/bandwidth", "500M", "1G"), auto_apply=False))
    assert (first.status, second.status) == ("APPROVED", "APPROVED")
    for amendment in (first, second):
        world.do(ask.ApplyAmendment(world.order_id, amendment.request_id), AGENT)
    assert world.drive(first).status == "APPLYING"
    told = world.carry_out(second)
    assert told["verdict"] == "wait"
    world.run_flow(only={"cancel-appointment"})
    assert told["wait_key"] in [message.key for message in world.sent("closure-quiesced")]
    assert world.drive(second).status == "APPLIED"
    assert world.the_order.head.plan_version == 3


def test_a_reviewer_cannot_decide_what_is_parked() -> None:
    world = two_items()
    amendment = address(world)
    world.cancel()
    with pytest.raises(Breach) as refusal:
        world.do(ask.ApproveAmendment(world.order_id, amendment.request_id), APPROVER)
    assert refusal.value.code == "REQUEST_CLOSED"


def test_a_part_of_an_item_takes_nothing_else_with_it() -> None:
    """What relies on an item goes with the whole of it, not with one of three; so it may be changed beside that."""
    items = (an_item(quantity=3), an_item("2", "static-ip", relies_on=("1",)), an_item("3", "mobile-sim"))
    world = World().accept(an_order(*items)).decompose()
    world.cancel(scope="ITEMS", item_ids=("1",), quantities={"1": 1})
    assert world.amend(change("/items/2/quantity", 1, 2)).status == "REQUESTED"
    assert world.cancel(scope="ITEMS", item_ids=("2",)).status == "ACCEPTED_FOR_ASSESSMENT"
    for overlapping in ({"1": 1}, {}):
        with pytest.raises(ChangeActive):
            world.cancel(scope="ITEMS", item_ids=("1",), quantities=overlapping)
