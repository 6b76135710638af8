"""Work that is done and was sent a result: what becomes of it when an amendment has that result made anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from domain import commands as ask
from domain.errors import ChangeActive, UseCancellation
from domain.order import Amendment
from tests.builders import (
    AGENT,
    APPROVER,
    Outside,
    World,
    accepted,
    an_item,
    an_order,
    change,
    changed_telecom,
    confirmed,
    only,
    refused,
)
from tests.properties.invariants import audit_tells_the_states, check_order

ADDRESS = {"street": "Weg 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}
MOVED = {**ADDRESS, "postalCode": "12940"}
BOOKED = ("reserve-inventory", "assign-resource", "create-appointment")


def a_world(then: str, redone: str = "REDO") -> World:
    """A port is assigned, and a booking made with it. The booking is not sent the address, so that only the port is
    touched by a new one."""

    def touch_the_port(document: dict[str, Any]) -> None:
        types = document["task_types"]
        types["assign-resource"]["on_input_change"] = redone
        types["create-appointment"]["inputs"] = ["/appointment", "/contact"]
        types["create-appointment"]["on_input_change"] = then
        types["perform-visit"]["inputs"] = ["/appointment"]

    return World(changed_telecom(touch_the_port)).accept().decompose().run_to(*BOOKED, outside=ports(1))


def ports(number: int) -> Outside:
    """Outside systems of which the one that assigns ports gives this one."""

    def answer(call: Mapping[str, Any]) -> Mapping[str, Any]:
        if call["body"]["taskType"] == "assign-resource":
            return {"state": "CONFIRMED", "external_reference": f"ref-{call['effect_id']}", "output": {"port": number}}
        return confirmed(call)

    return answer


def move(world: World) -> Amendment:
    amendment = world.drive(world.amend(change("/installationAddress", ADDRESS, MOVED)))
    assert amendment.status == "REQUIRES_APPROVAL"
    world.do(ask.ApproveAmendment(world.order_id, amendment.request_id), APPROVER)
    return world.drive(amendment)


def check(world: World) -> None:
    check_order(world.the_order, None)
    audit_tells_the_states(world.the_order, world.events)


# on_input_change of the booking · the port that the second assignment gives → bookings made, bookings cancelled, the
# last plan version
RESULTS = [
    ("KEEP", 2, 1, 0, 2),
    ("REDO", 2, 2, 0, 3),
    ("UNDO_THEN_DO", 2, 2, 1, 3),
    ("DO_THEN_UNDO", 2, 2, 1, 3),
    ("KEEP", 1, 1, 0, 2),
    ("REDO", 1, 1, 0, 2),
    ("UNDO_THEN_DO", 1, 1, 0, 2),
    ("DO_THEN_UNDO", 1, 1, 0, 2),
    ("MANUAL", 1, 1, 0, 2),
]


@pytest.mark.parametrize(("then", "port", "made", "cancelled", "version"), RESULTS)
def test_another_result_is_followed_as_a_changed_value_would_be(
    then: str, port: int, made: int, cancelled: int, version: int
) -> None:
    world = a_world(then)
    amendment = move(world)
    world.run_flow(ports(port))
    check(world)
    assert world.state == "COMPLETED"
    assert world.amendment(amendment.request_id).status == "APPLIED"
    assert (world.called("create-appointment"), world.called("cancel-appointment")) == (made, cancelled)
    assert (world.called("assign-resource"), world.the_order.head.plan_version) == (2, version)
    sent = world.calls_of("create-appointment")[-1]["body"]["input"]["upstream"]["port"]["output"]
    assert sent == {"port": port if made == 2 else 1}
    standing = [e for e in world.the_order.effects.values() if e.task_type == "create-appointment" and e.stands]
    assert len(standing) == 1  # one booking, whatever was done


@pytest.mark.parametrize("redone", ["REDO", "UNDO_THEN_DO", "DO_THEN_UNDO"])
def test_however_the_result_is_made_anew(redone: str) -> None:
    world = a_world("UNDO_THEN_DO", redone)
    move(world)
    world.run_flow(ports(2))
    check(world)
    assert world.state == "COMPLETED"
    assert (world.called("create-appointment"), world.called("cancel-appointment")) == (2, 1)
    assert world.effect("create-appointment").state == "CONFIRMED"


def test_what_only_a_person_can_undo_is_a_case() -> None:
    world = a_world("MANUAL")
    move(world)
    world.run_flow(ports(2))
    case = world.open_case()
    assert (case.context, case.blocking, world.state) == ("AMENDMENT", True, "FALLOUT")
    assert "visit" in case.title
    assert world.called("create-appointment") == 1
    evidence = {"kind": "TICKET", "reference": "T-1"}
    command = ask.RepairCase(world.order_id, case.case_id, "FORCE_COMPLETE", "MANUAL_WORK_DONE", None, evidence)
    world.do(command, AGENT)
    world.do(ask.DecideRepair(world.order_id, case.case_id, 1, approved=True), APPROVER)
    world.run_flow(ports(2))
    check(world)
    assert (world.state, world.called("create-appointment")) == ("COMPLETED", 2)


def test_the_assessment_says_what_may_follow() -> None:
    world = a_world("UNDO_THEN_DO")
    amendment = world.drive(world.amend(change("/installationAddress", ADDRESS, MOVED)))
    strategies = {fate["type"]: fate["strategy"] for fate in (amendment.assessment or {})["strategy"]}
    assert strategies["assign-resource"] == "REDO"
    assert strategies["create-appointment"] == "FOLLOW"
    [rule] = [r for r in (amendment.assessment or {})["trace"] if "create-appointment" in r["sentence"]]
    assert "unless what it builds on comes to another result" in rule["sentence"]


def test_what_is_under_way_is_looked_at_when_its_outcome_is_known() -> None:
    """The booking was asked for with the first port and is confirmed after the second one is."""
    policy = a_world("UNDO_THEN_DO").policy
    world = World(policy).accept().decompose().run_to("reserve-inventory", "assign-resource", outside=ports(1))
    world.run_flow(accepted, only={"create-appointment"})
    assert world.task("create-appointment").state == "WAITING_EXTERNAL"
    move(world)
    world.run_flow(ports(2), only={"assign-resource"})
    assert world.the_order.head.plan_version == 2
    world.report(world.calls_of("create-appointment")[0], {"state": "CONFIRMED"}, source="CALLBACK")
    assert world.the_order.head.plan_version == 3
    world.run_flow(ports(2))
    check(world)
    assert (world.state, world.called("create-appointment"), world.called("cancel-appointment")) == ("COMPLETED", 2, 1)


def test_a_cancellation_comes_first() -> None:
    """Whatever would follow is undone with the rest."""
    world = a_world("UNDO_THEN_DO")
    move(world)
    request = world.cancel()
    world.run_flow(ports(2))
    world.judge(request)
    world.run_flow(ports(2))
    check(world)
    assert (world.state, world.called("create-appointment")) == ("CANCELLED", 1)
    assert world.called("cancel-appointment") == 1


# -- while what followed is being undone ------------------------------------------------------------------------


def following(then: str = "UNDO_THEN_DO", undoing: Outside | None = accepted) -> World:
    """Another port has been given; the booking made with the first one is being cancelled, the amendment is APPLIED."""
    world = a_world(then)
    move(world)
    world.run_flow(ports(2), only={"assign-resource"})
    assert [amendment.status for amendment in world.the_order.amendments.values()] == ["APPLIED"]
    if undoing is not None:
        world.run_flow(undoing, only={"cancel-appointment"})
    return world


def test_the_plan_that_undoes_what_follows_has_a_walker_of_its_own() -> None:
    """The amendment's own flow may be long over."""
    world = following(undoing=None)
    plan = world.compensation()
    [started] = [m for m in world.sent("plan-restarted") if m.variables["plan_id"] == str(plan.plan_id)]
    assert (started.key, started.variables["run"]) == (str(plan.run), str(plan.run))


@pytest.mark.parametrize("scope", [{}, {"scope": "ITEMS", "item_ids": ("1",)}])
def test_a_cancellation_waits_for_it_and_nothing_is_undone_twice(scope: dict[str, Any]) -> None:
    world = following()
    request = world.cancel(**scope)
    assert world.begin(request)["verdict"] == "parked"
    assert world.run_flow(ports(2)).called("cancel-appointment") == 1
    world.report(world.calls_of("cancel-appointment")[0], {"state": "CONFIRMED"}, source="CALLBACK")
    assert world.sent("closure-quiesced")
    world.judge(request)
    world.run_flow(ports(2))
    check(world)
    assert (world.state, world.called("cancel-appointment"), world.called("create-appointment")) == ("CANCELLED", 1, 1)


def test_what_a_withdrawn_cancellation_stopped_goes_on() -> None:
    world = following(undoing=None)
    request = world.cancel()
    assert world.run_flow(ports(2)).called("cancel-appointment") == 0
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    world.run_flow(ports(2))
    check(world)
    assert (world.state, world.called("cancel-appointment"), world.called("create-appointment")) == ("COMPLETED", 1, 2)


def test_another_change_waits_its_turn_and_so_does_a_new_order() -> None:
    world = following()
    later = {**world.the_order.head.content["appointment"], "end": "2026-12-01T13:00:00+01:00"}
    second = world.amend(change("/appointment", world.the_order.head.content["appointment"], later))
    assert second.status == "QUEUED"
    new = replace(an_order(), order_type="SUPPLEMENTAL", reason_code="ADD_ON")
    with pytest.raises(ChangeActive) as refusal:
        world.do(ask.SupplementOrder(world.order_id, new), AGENT)
    assert str(next(iter(world.the_order.amendments))) in (refusal.value.blocked_by or "")
    world.report(world.calls_of("cancel-appointment")[0], {"state": "CONFIRMED"}, source="CALLBACK")
    assert world.amendment(second.request_id).status == "APPLIED"  # the booking is not made yet: at once
    world.run_flow(ports(2))
    check(world)
    assert (world.state, world.called("create-appointment"), world.called("cancel-appointment")) == ("COMPLETED", 2, 1)


def test_the_order_does_not_end_before_it_is_all_undone() -> None:
    """The last work of all follows, and the old is undone only when the new is certain."""

    def bill_the_port(document: dict[str, Any]) -> None:
        types = document["task_types"]
        types["assign-resource"]["on_input_change"] = "REDO"
        types["start-billing"]["on_input_change"] = "DO_THEN_UNDO"
        document["offerings"]["fiber-500"]["plans"]["ADD"] = [
            {"step": "port", "type": "assign-resource"},
            {"step": "bill", "type": "start-billing", "after": ["port"]},
            {"step": "ship", "type": "ship-device"},
        ]

    world = World(changed_telecom(bill_the_port)).accept().decompose()
    world.run_to("assign-resource", "start-billing", outside=ports(1))
    move(world)
    world.run_flow(ports(2), only={"assign-resource", "ship-device", "start-billing"})
    assert (world.called("start-billing"), world.called("stop-billing"), world.state) == (2, 0, "IN_PROGRESS")
    world.run_flow(ports(2))
    check(world)
    assert (world.state, world.called("stop-billing")) == ("COMPLETED", 1)


def test_what_was_done_twice_over_is_followed_to_its_last_result() -> None:
    """The second port was never given, for the address was wrong; the one for the right address is the one to follow,
    and it takes the place of the first: nothing of that stands any more."""
    world = a_world("UNDO_THEN_DO")
    move(world)
    world.run_flow(only({"assign-resource": refused}), only={"assign-resource"})
    case = world.open_case()
    right = {**ADDRESS, "postalCode": "10115"}
    asked = change("/installationAddress", MOVED, right)
    amendment = world.drive(world.amend(asked, reason="FALLOUT_REPAIR", repairs_case=case.case_id))
    assert amendment.status == "REQUIRES_APPROVAL"  # a port is there: work with the address has been done
    world.do(ask.ApproveAmendment(world.order_id, amendment.request_id), APPROVER)
    world.drive(amendment)
    world.run_flow(ports(2))
    check(world)
    assert world.state == "COMPLETED"
    assert (world.called("create-appointment"), world.called("cancel-appointment")) == (2, 1)
    ports_given = [e.state for e in world.the_order.effects.values() if e.task_type == "assign-resource"]
    assert sorted(ports_given) == ["CONFIRMED", "NO_EFFECT", "REVERSED"]


def test_an_item_with_work_that_is_to_be_done_once_more_is_for_a_cancellation() -> None:
    """The new port is not there yet, the old one still is: who takes the item out leaves nothing behind."""
    policy = a_world("KEEP").policy
    world = World(policy).accept(an_order(an_item(), an_item("2", "mobile-sim"))).decompose()
    world.run_to("assign-resource", outside=ports(1))
    move(world)
    with pytest.raises(UseCancellation):
        world.amend(change("/items/1", None, None, "REMOVE"))
