"""A part of a quantity is cancelled: what has not started is asked for what is left, what has happened follows the
policy, and what cannot be undone comes back by a new order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from domain import commands as ask
from domain.errors import ItemUnknown, OrderTerminal, ScopeInvalid
from domain.order import Request
from tests.builders import AGENT, OPERATOR, World, accepted, an_item, an_order, change, changed_telecom, only, refused

ROUTERS = ("reserve-inventory", "ship-device")


def routers(world: World | None = None, quantity: int = 5) -> World:
    return (world or World()).accept(an_order(an_item(offering="router", quantity=quantity))).decompose()


def give_up(world: World, count: int, item_id: str = "1") -> Request:
    return world.judge(world.cancel(scope="ITEMS", item_ids=(item_id,), quantities={item_id: count}))


def quantities_sent(world: World, task_type: str) -> list[int]:
    return [call["body"]["input"]["order"]["items"][0]["quantity"] for call in world.calls_of(task_type)]


def consequences(request: Request) -> dict[str, str]:
    assert request.assessment is not None
    return {impact["type"]: impact["consequence"] for impact in request.assessment["taskImpacts"]}


def on_input_change(task_type: str, rule: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["task_types"][task_type]["on_input_change"] = rule

    return change


def test_what_has_not_started_is_asked_for_what_is_left() -> None:
    world = routers()
    request = give_up(world, 2)
    assert request.assessment is not None
    assert (request.status, request.assessment["feasibility"]) == ("COMPLETED", "FULLY_CANCELLABLE")
    item = world.the_order.items["1"]
    assert (item.quantity, item.ordered_quantity, item.state) == (3, 5, "IN_PROGRESS")
    world.run_flow()
    assert world.state == "COMPLETED"
    assert quantities_sent(world, "reserve-inventory") == quantities_sent(world, "ship-device") == [3]
    assert [asset.quantity for asset in world.the_order.assets.values()] == [3]


def test_a_reservation_is_released_and_made_again_before_anything_is_shipped() -> None:
    """on_input_change UNDO_THEN_DO: nothing is shipped on a reservation that is not the order's any more."""
    world = routers().run_to("reserve-inventory")
    request = give_up(world, 2)
    assert consequences(request) == {"reserve-inventory": "COMPENSATE", "ship-device": "NOTHING_TO_UNDO"}
    assert request.status == "COMPENSATING"
    assert world.state == "IN_PROGRESS"
    assert world.the_order.items["1"].state == "CANCELLING"
    world.run_flow()
    assert (world.state, world.request(request.request_id).status) == ("COMPLETED", "COMPLETED")
    names = [call["body"]["taskType"] for call in world.calls]
    assert names == ["reserve-inventory", "release-inventory", "reserve-inventory", "ship-device"]
    assert quantities_sent(world, "reserve-inventory") == [5, 3]
    assert quantities_sent(world, "ship-device") == [3]
    [again] = world.calls_of("ship-device")
    assert again["body"]["input"]["upstream"]["reserve"]["externalReference"] == "ref-reserve-inventory"
    assert len({call["effect_id"] for call in world.calls_of("reserve-inventory")}) == 2


def test_what_may_keep_its_old_input_is_left_alone() -> None:
    world = routers(World(changed_telecom(on_input_change("reserve-inventory", "KEEP")))).run_to("reserve-inventory")
    request = give_up(world, 2)
    assert consequences(request)["reserve-inventory"] == "NOTHING_TO_UNDO"
    assert request.status == "COMPLETED"
    world.run_flow()
    assert (world.called("release-inventory"), quantities_sent(world, "ship-device")) == (0, [3])


def test_the_new_is_certain_before_the_old_is_given_back() -> None:
    """on_input_change DO_THEN_UNDO."""
    policy = changed_telecom(on_input_change("reserve-inventory", "DO_THEN_UNDO"))
    world = routers(World(policy)).run_to("reserve-inventory")
    request = give_up(world, 2)
    assert world.request(request.request_id).committed_at is not None  # the smaller quantity is being asked for
    assert world.undoings() == {"release-inventory": "PLANNED"}
    world.run_flow()
    names = [call["body"]["taskType"] for call in world.calls]
    assert names == ["reserve-inventory", "reserve-inventory", "release-inventory", "ship-device"]
    assert quantities_sent(world, "reserve-inventory") == [5, 3]
    assert (world.state, world.request(request.request_id).status) == ("COMPLETED", "COMPLETED")
    first, second = (e for e in world.the_order.effects.values() if e.task_type == "reserve-inventory")
    assert (first.state, second.state) == ("REVERSED", "CONFIRMED")


def test_the_new_takes_the_place_of_the_old() -> None:
    """on_input_change REDO: one more call, and no undoing."""
    world = routers(World(changed_telecom(on_input_change("reserve-inventory", "REDO")))).run_to("reserve-inventory")
    request = give_up(world, 2)
    assert (request.status, consequences(request)["reserve-inventory"]) == ("COMPLETED", "NOTHING_TO_UNDO")
    world.run_flow()
    assert [c["body"]["taskType"] for c in world.calls] == ["reserve-inventory", "reserve-inventory", "ship-device"]
    assert quantities_sent(world, "reserve-inventory") == [5, 3]
    first, second = (e for e in world.the_order.effects.values() if e.task_type == "reserve-inventory")
    assert (first.state, first.reversed_by, second.state) == ("REVERSED", second.effect_id, "CONFIRMED")
    assert world.state == "COMPLETED"


def test_what_is_done_first_is_done_on_what_has_been_done_again() -> None:
    """The port is assigned anew in its own place, the billing behind it before the old one is stopped: it bills the new
    port, not the old one."""

    def bill_the_port(document: dict[str, Any]) -> None:
        types = document["task_types"]
        types["assign-resource"] |= {"on_input_change": "REDO", "inputs": ["/items/*/quantity"]}
        types["start-billing"] |= {"on_input_change": "DO_THEN_UNDO", "inputs": ["/items/*/quantity"]}
        document["offerings"]["router"]["plans"]["ADD"] = [
            {"step": "port", "type": "assign-resource"},
            {"step": "bill", "type": "start-billing", "after": ["port"]},
            {"step": "ship", "type": "ship-device", "after": ["bill"]},
        ]

    world = routers(World(changed_telecom(bill_the_port))).run_to("assign-resource", "start-billing")
    request = give_up(world, 2)
    world.run_flow()
    names = [call["body"]["taskType"] for call in world.calls]
    assert names == ["assign-resource", "start-billing"] * 2 + ["stop-billing", "ship-device"]
    assert quantities_sent(world, "assign-resource") == quantities_sent(world, "start-billing") == [5, 3]
    assert (world.state, world.request(request.request_id).status) == ("COMPLETED", "COMPLETED")
    states = sorted(
        effect.state for effect in world.the_order.effects.values() if effect.task_type == "assign-resource"
    )
    assert states == ["CONFIRMED", "REVERSED"]


def numbered(world: World) -> Callable[[Any], dict[str, Any]]:
    """The outside system whose every answer has a reference of its own."""
    return lambda _: {"state": "CONFIRMED", "external_reference": f"ref-{len(world.calls)}", "output": {}}


@pytest.mark.parametrize("last", ["KEEP", "REDO", "UNDO_THEN_DO", "DO_THEN_UNDO"])
@pytest.mark.parametrize("middle", ["REDO", "UNDO_THEN_DO", "DO_THEN_UNDO"])
@pytest.mark.parametrize("first", ["REDO", "UNDO_THEN_DO", "DO_THEN_UNDO"])
def test_what_is_done_again_builds_on_what_is_done_again(first: str, middle: str, last: str) -> None:
    """Whatever waits for whose undoing: the port is there before it is billed, and the new bill is for the new port.
    What would be done again before it is undone, on something that is undone first, is undone first as well."""

    def in_a_row(document: dict[str, Any]) -> None:
        types = document["task_types"]
        named = ("assign-resource", "start-billing", "reserve-inventory")
        for task_type, rule in zip(named, (first, middle, last), strict=True):
            types[task_type] |= {"on_input_change": rule, "inputs": ["/items/*/quantity"]}
        for undoing in ("release-resource", "stop-billing", "release-inventory"):
            types[undoing]["undo_after"] = []
        document["offerings"]["router"]["plans"]["ADD"] = [
            {"step": "port", "type": "assign-resource"},
            {"step": "bill", "type": "start-billing", "after": ["port"]},
            {"step": "reserve", "type": "reserve-inventory", "after": ["bill"]},
            {"step": "ship", "type": "ship-device", "after": ["reserve"]},
        ]

    world = routers(World(changed_telecom(in_a_row)))
    outside = numbered(world)
    world.run_to("assign-resource", "start-billing", "reserve-inventory", outside=outside)
    request = give_up(world, 2)
    world.run_flow(outside)
    assert (world.state, world.request(request.request_id).status) == ("COMPLETED", "COMPLETED")
    standing = {e.task_type: e for e in world.the_order.effects.values() if e.is_original and e.state == "CONFIRMED"}
    assert len([e for e in world.the_order.effects.values() if e.is_original and e.state == "CONFIRMED"]) == 4
    port, bill = standing["assign-resource"], standing["start-billing"]
    assert isinstance(bill.input, dict)
    assert bill.input["upstream"]["port"]["externalReference"] == port.external_reference
    assert bill.input["order"]["items"][0]["quantity"] == 3
    assert len(world.calls_of("start-billing")) == 2


def test_what_is_done_again_is_work_of_the_plan_that_is_walked() -> None:
    """An amendment has made a new version of the plan since it was done. In the version that it was done in, nobody
    would ever have handed it out: the order stood still for ever."""
    world = routers().run_to("reserve-inventory")
    world.drive(world.amend(change("/deliveryAddress/postalCode", "12930", "12940")))
    request = give_up(world, 2)
    world.run_flow()
    assert (world.state, world.request(request.request_id).status) == ("COMPLETED", "COMPLETED")
    assert quantities_sent(world, "reserve-inventory") == [5, 3]
    plan = world.the_order.plan
    assert plan is not None
    assert (world.task("reserve-inventory").plan_id, plan.version) == (plan.plan_id, 2)


def test_what_happened_twice_is_undone_once_and_what_stays_is_not_done_again() -> None:
    """The refused reservation came true after all, beside the one that was made instead and cannot be given back. The
    surplus one was taken for that of the task, so it was made a third time."""

    def change(document: dict[str, Any]) -> None:
        document["task_types"]["reserve-inventory"] |= {
            "on_input_change": "DO_THEN_UNDO",
            "irreversible_after_state": "COMPLETED",
        }

    world = routers(World(changed_telecom(change)))
    world.run_to("reserve-inventory", outside=only({"reserve-inventory": refused}))
    world.retry()
    world.run_to("reserve-inventory")
    world.report(world.calls[0], {"state": "CONFIRMED", "external_reference": "late"}, "CALLBACK")
    request = give_up(world, 2)
    assert request.status == "REQUIRES_APPROVAL"
    world.plan(world.approve(request))
    world.run_flow()
    assert (world.state, world.request(request.request_id).status) == ("COMPLETED", "PARTIALLY_COMPLETED")
    assert quantities_sent(world, "reserve-inventory") == [5, 5]
    states = {e.effect_id: e.state for e in world.the_order.effects.values() if e.task_type == "reserve-inventory"}
    assert sorted(states.values()) == ["CONFIRMED", "REVERSED"]
    assert world.called("release-inventory") == 1


@pytest.mark.parametrize("rule", ["REDO", "UNDO_THEN_DO", "DO_THEN_UNDO"])
def test_what_nobody_outside_feels_is_done_again_for_what_is_left(rule: str) -> None:
    """There is nothing to undo, so it was left as it had been done, for the old quantity."""

    def change(document: dict[str, Any]) -> None:
        document["task_types"]["reserve-inventory"] |= {
            "external_effect_level": "NO_EXTERNAL_EFFECT",
            "on_input_change": rule,
        }
        del document["task_types"]["reserve-inventory"]["compensation"]

    world = routers(World(changed_telecom(change))).run_to("reserve-inventory")
    request = give_up(world, 2)
    assert (request.status, consequences(request)["reserve-inventory"]) == ("COMPLETED", "NOTHING_TO_UNDO")
    world.run_flow()
    assert world.state == "COMPLETED"
    assert (quantities_sent(world, "reserve-inventory"), quantities_sent(world, "ship-device")) == ([5, 3], [3])


@pytest.mark.parametrize("rule", ["KEEP", "REDO", "UNDO_THEN_DO", "DO_THEN_UNDO"])
def test_an_item_is_not_complete_while_a_part_of_it_is_being_given_up(rule: str) -> None:
    """The last of its work is in the air when the wish comes. Without `shrinking` in _finish_items the order ended with
    nothing delivered, what was to be done again never was, and the asset was of the old quantity."""

    def change(document: dict[str, Any]) -> None:
        types = document["task_types"]
        types["reserve-inventory"]["on_input_change"] = rule
        types["ship-device"] |= {"on_input_change": rule, "compensation": "release-inventory"}
        for point in ("irreversible_after_state", "withdrawal", "follow_up"):
            types["ship-device"].pop(point, None)

    world = routers(World(changed_telecom(change))).run_to("reserve-inventory")
    [shipping] = world.handed
    world.handed.clear()
    call = world.claim(shipping)
    request = world.cancel(scope="ITEMS", item_ids=("1",), quantities={"1": 2})
    assert world.begin(request)["verdict"] == "wait"
    world.report(call, {"state": "CONFIRMED", "external_reference": "s-1", "output": {}})
    request = world.judge(request)
    assert world.state == ("COMPLETED" if rule == "KEEP" else "IN_PROGRESS")
    world.run_flow()
    assert (world.state, world.request(request.request_id).status) == ("COMPLETED", "COMPLETED")
    assert quantities_sent(world, "ship-device") == ([5] if rule == "KEEP" else [5, 3])
    assert (world.the_order.items["1"].quantity, [a.quantity for a in world.the_order.assets.values()]) == (3, [3])


def test_a_part_that_is_not_given_up_after_all_completes_its_item() -> None:
    world = routers().run_to("reserve-inventory")
    [shipping] = world.handed
    call = world.claim(shipping)
    request = world.cancel(scope="ITEMS", item_ids=("1",), quantities={"1": 2}, force_manual_review=True)
    world.report(call, {"state": "CONFIRMED", "external_reference": "s-1", "output": {}})
    assert world.state == "IN_PROGRESS"
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    assert (world.state, [asset.quantity for asset in world.the_order.assets.values()]) == ("COMPLETED", [5])


def test_what_is_done_again_is_held_as_the_rest_is() -> None:
    world = routers().run_to("reserve-inventory")
    world.do(ask.HoldOrder(world.order_id), OPERATOR)
    give_up(world, 2)
    world.run_flow()
    assert (world.state, world.called("reserve-inventory"), world.called("release-inventory")) == ("ON_HOLD", 1, 1)
    world.do(ask.ReleaseOrder(world.order_id), OPERATOR)
    world.run_flow()
    assert (world.state, quantities_sent(world, "reserve-inventory")) == ("COMPLETED", [5, 3])


@pytest.mark.parametrize(("disposition", "released"), [("RETAIN", 0), ("COMPENSATE", 1)])
def test_a_person_judges_what_the_policy_leaves_to_people(disposition: str, released: int) -> None:
    world = routers(World(changed_telecom(on_input_change("reserve-inventory", "MANUAL")))).run_to("reserve-inventory")
    request = give_up(world, 2)
    assert (request.status, consequences(request)["reserve-inventory"]) == ("REQUIRES_APPROVAL", "MANUAL")
    world.approve(request, {str(world.task("reserve-inventory").task_id): disposition})
    world.plan(request)
    world.run_flow()
    assert (world.state, world.called("release-inventory")) == ("COMPLETED", released)
    assert quantities_sent(world, "ship-device") == [3]
    ended = world.request(request.request_id)
    assert ended.status == ("COMPLETED" if released else "PARTIALLY_COMPLETED")


def test_what_is_past_its_point_comes_back_by_a_return_order_for_as_many() -> None:
    world = World().accept(an_order(an_item("1", "fiber-500", quantity=5))).decompose()
    world.run_to("reserve-inventory", "assign-resource", "create-appointment", "ship-device")
    request = give_up(world, 2)
    assert request.assessment is not None
    assert (request.status, request.assessment["feasibility"]) == ("REQUIRES_APPROVAL", "PARTIALLY_CANCELLABLE")
    found = consequences(request)
    assert (found["ship-device"], found["reserve-inventory"]) == ("RETAIN", "RETAIN")
    assert "assign-resource" not in found  # it is told no quantity
    world.approve(request)
    world.plan(request)
    request = world.request(request.request_id)
    assert request.status == "PARTIALLY_COMPLETED"
    [proposal] = request.proposals
    assert (proposal["orderType"], proposal["items"][0]["action"]) == ("RETURN", "RETURN")
    assert proposal["items"][0]["quantity"] == 2
    world.run_flow()
    assert (world.state, quantities_sent(world, "start-billing")) == ("COMPLETED", [3])


def test_what_is_under_way_is_called_off_and_sent_again() -> None:
    world = routers()
    world.run_flow(only({"ship-device": accepted}), only=set(ROUTERS))
    request = give_up(world, 4)
    assert consequences(request)["ship-device"] == "WITHDRAW"
    world.run_flow()
    assert (world.state, quantities_sent(world, "ship-device")) == ("COMPLETED", [5, 1])
    assert quantities_sent(world, "reserve-inventory") == [5, 1]


def test_one_part_after_another_until_nothing_is_left() -> None:
    """EC21 with quantities: all that remains is the item itself, and the order ends with it."""
    world = routers().run_to("reserve-inventory")
    give_up(world, 2)
    world.run_to("release-inventory", "reserve-inventory")
    assert world.the_order.items["1"].quantity == 3
    give_up(world, 1)
    world.run_to("release-inventory", "reserve-inventory")
    assert (world.the_order.items["1"].quantity, quantities_sent(world, "reserve-inventory")) == (2, [5, 3, 2])
    give_up(world, 2)
    world.run_flow()
    assert (world.state, world.the_order.items["1"].state) == ("CANCELLED", "CANCELLED")
    assert world.called("ship-device") == 0
    assert world.called("release-inventory") == 3


@pytest.mark.parametrize(
    ("wish", "breach"),
    [
        ({"item_ids": ("1",), "quantities": {"1": 6}}, ScopeInvalid),
        ({"item_ids": ("2",), "quantities": {"2": 1}}, ItemUnknown),
        ({"item_ids": ("1", "1"), "quantities": {"1": 1}}, ScopeInvalid),
        ({"scope": "ORDER", "item_ids": ("1",), "quantities": {"1": 1}}, ScopeInvalid),
    ],
)
def test_a_part_that_the_order_does_not_have_is_refused(wish: dict[str, Any], breach: type[Exception]) -> None:
    world = routers()
    with pytest.raises(breach):
        world.cancel(**{"scope": "ITEMS", **wish})


def test_more_than_remains_is_refused_after_a_part_has_gone() -> None:
    world = routers()
    give_up(world, 2)
    with pytest.raises(ScopeInvalid):
        give_up(world, 4)
    give_up(world, 3)
    assert world.state == "CANCELLED"
    with pytest.raises(OrderTerminal):
        give_up(world, 1)


def test_an_item_that_relies_on_it_and_one_that_it_is_part_of_stay_as_they_are() -> None:
    bundle = an_order(
        an_item("1", "home-bundle"),
        an_item("2", "fiber-500", parent="1", quantity=3),
        an_item("3", "static-ip", parent="1", relies_on=("2",)),
    )
    world = World().accept(bundle).decompose().run_to("reserve-inventory", "assign-number")
    request = give_up(world, 1, "2")
    assert request.assessment is not None
    assert request.assessment["blockers"] == []
    assert set(consequences(request)) == {"reserve-inventory", "ship-device", "start-billing"}
    world.run_flow()
    assert (world.state, world.called("release-number")) == ("COMPLETED", 0)


def test_withdrawn_in_time_the_quantity_stays_what_it_was() -> None:
    world = routers().run_to("reserve-inventory")
    request = give_up(world, 2)
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    world.run_flow()
    assert (world.state, world.the_order.items["1"].quantity) == ("COMPLETED", 5)
    assert quantities_sent(world, "ship-device") == [5]


def test_an_undoing_that_fails_puts_the_item_and_not_the_order_into_fallout() -> None:
    world = routers().run_to("reserve-inventory")
    give_up(world, 2)
    world.run_flow(only({"release-inventory": refused}))
    assert (world.state, world.the_order.items["1"].state) == ("IN_PROGRESS", "FALLOUT")
    world.retry()
    world.run_flow()
    assert (world.state, quantities_sent(world, "ship-device")) == ("COMPLETED", [3])


def test_of_a_delivered_item_as_many_come_back_as_are_named() -> None:
    world = routers()
    world.run_flow()
    request = world.cancel(scope="ITEMS", item_ids=("1",), quantities={"1": 2})
    assert (request.status, request.outcome) == ("REJECTED", "NEW_ORDER_REQUIRED")
    assert [(p["orderType"], p["items"][0]["quantity"]) for p in request.proposals] == [("RETURN", 2)]
    assert world.the_order.items["1"].quantity == 5


def test_the_whole_order_can_still_be_cancelled_after_a_part() -> None:
    world = routers().run_to("reserve-inventory")
    give_up(world, 2)
    world.run_to("release-inventory", "reserve-inventory")
    world.judge(world.cancel())
    world.run_flow()
    assert world.state == "CANCELLED"
    assert world.called("release-inventory") == 2
