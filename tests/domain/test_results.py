"""Work that is done and was sent a result: what becomes of it when an amendment has that result made anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from domain import commands as ask
from domain.order import Amendment
from tests.builders import AGENT, APPROVER, Outside, World, accepted, change, changed_telecom, confirmed
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
