"""What an amendment cannot undo becomes an order of its own: the new is done, the old stays beside it, to be followed
up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.errors import RepairNotPossible, Unprocessable
from domain.order import Case
from tests.builders import OPERATOR, World, change, changed_telecom, only, refused, silent
from tests.properties.invariants import audit_tells_the_states, check_order

SLOT = {"start": "2026-12-01T09:00:00+01:00", "end": "2026-12-01T12:00:00+01:00", "timeZone": "Europe/Berlin"}
LATER = {**SLOT, "start": "2026-12-02T09:00:00+01:00", "end": "2026-12-02T12:00:00+01:00"}
SHIPPED = ("reserve-inventory", "assign-resource", "create-appointment", "ship-device")
WISH = {"orderType": "REPAIR", "items": [{"itemId": "1", "action": "ADD", "productOfferingId": "fiber-500"}]}


def convert(world: World, **more: Any) -> Case:
    case = world.open_case()
    command = ask.RepairCase(world.order_id, case.case_id, "CONVERT_TO_ORDER", "CUSTOMER_AGREED", **more)
    world.do(command, OPERATOR)
    return world.the_order.cases[case.case_id]


def check(world: World) -> None:
    check_order(world.the_order, None)
    audit_tells_the_states(world.the_order, world.events)


def another_device() -> World:
    """Shipping is made anew once a person has got the first device back; here nobody can."""

    def by_hand(document: dict[str, Any]) -> None:
        row = next(row for row in document["amendable_fields"] if row["field"] == "deviceModel")
        row["safety"] = {**row["safety"], "TASK_COMPLETED": "REDECOMPOSE"}

    world = World(changed_telecom(by_hand)).accept().decompose().run_to(*SHIPPED)
    amendment = world.drive(world.amend(change("/items/1/configuration/deviceModel", "R7", "R9")))
    world.run_flow(only={"release-inventory", "reserve-inventory"})
    assert (world.amendment(amendment.request_id).status, world.state) == ("APPLYING", "FALLOUT")
    return world


def test_a_device_that_nobody_gets_back_is_followed_by_a_return() -> None:
    """Without `input`: the follow-up that the policy names for the effect."""
    world = another_device()
    first = world.effect("ship-device")
    case = convert(world)
    assert (case.status, case.resolution, case.context) == ("RESOLVED", "CONVERT_TO_ORDER", "AMENDMENT")
    made = world.followed[-1].draft
    assert (made.head.order_type, made.items["1"].action) == ("RETURN", "RETURN")
    assert case.repairs[-1]["because"] == str(first.effect_id)
    world.run_flow()
    check(world)
    assert [a.status for a in world.the_order.amendments.values()] == ["APPLIED"]
    assert (world.state, world.called("ship-device")) == ("COMPLETED", 2)
    sent = [call["body"]["input"]["order"]["items"][0]["configuration"] for call in world.calls_of("ship-device")]
    assert [configuration["deviceModel"] for configuration in sent] == ["R7", "R9"]
    assert world.the_order.effects[first.effect_id].state == "CONFIRMED"  # it stands, and the other order is about it


def a_booking_that_stays() -> World:
    world = World().accept().decompose().run_to(*SHIPPED[:3])
    world.drive(world.amend(change("/appointment", SLOT, LATER)))
    world.run_flow(only({"cancel-appointment": refused}), only={"cancel-appointment"})
    assert world.open_case().context == "AMENDMENT"
    return world


def test_where_the_policy_names_no_follow_up_the_order_is_described() -> None:
    world = a_booking_that_stays()
    with pytest.raises(Unprocessable):
        convert(world)
    convert(world, input=WISH)
    assert world.followed[-1].draft.head.order_type == "REPAIR"
    world.run_flow()
    check(world)
    assert (world.state, world.called("create-appointment")) == ("COMPLETED", 2)


def test_a_cancellation_later_undoes_what_was_left_too() -> None:
    """What stayed is still the order's effect: the ledger knows, whoever was asked to follow it up."""
    world = a_booking_that_stays()
    convert(world, input=WISH)
    world.run_flow(only={"create-appointment"})
    world.judge(world.cancel())
    world.run_flow()
    check(world)
    assert world.state == "CANCELLED"
    assert world.called("cancel-appointment") == 3  # the refused one, and one for each booking


def test_a_question_for_prices_is_no_subject_of_it() -> None:
    world = World().accept().decompose()
    amendment = world.amend(change("/items/1/quantity", 1, 2))
    world.assess_amendment(amendment)
    world.run_flow(silent, only={"revalidate-quote"})
    world.verify("revalidate-quote", "UNREACHABLE")
    world.wait(timedelta(hours=2))
    world.verify("revalidate-quote", "UNREACHABLE")
    with pytest.raises(RepairNotPossible):
        convert(world, input=WISH)
    assert world.open_case().context == "AMENDMENT"
    assert world.followed == []
