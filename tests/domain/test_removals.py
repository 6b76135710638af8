"""An item taken out of an order by an amendment: a commercial change, while nothing has been done for it."""

from __future__ import annotations

from typing import Any

import pytest

from domain import commands as ask
from domain.errors import ItemUnknown, OldValueMismatch, Unprocessable, UseCancellation
from tests.builders import (
    APPROVER,
    Outside,
    World,
    accepted,
    an_item,
    an_order,
    change,
    changed_telecom,
    confirmed,
    refused,
    silent,
)
from tests.properties.invariants import audit_tells_the_states, check_order

DEARER = [{"itemId": "1", "price": {"amountMinor": 4999, "currency": "EUR"}}]
FIBER = {
    "reserve-inventory",
    "assign-resource",
    "create-appointment",
    "ship-device",
    "perform-visit",
    "activate-service",
    "start-billing",
}


def remove(item_id: str, old: Any = None) -> ask.AskedChange:
    return change(f"/items/{item_id}", old, None, "REMOVE")


def two() -> World:
    return World().accept(an_order(an_item(), an_item("2", "mobile-sim")))


def finished(world: World, state: str = "COMPLETED") -> World:
    world.run_flow()
    check_order(world.the_order, None)
    audit_tells_the_states(world.the_order, world.events)
    assert world.state == state
    return world


def test_before_the_plan_the_item_is_never_planned() -> None:
    world = two()
    amendment = world.drive(world.amend(remove("2")))
    assert (amendment.status, world.the_order.items["2"].state) == ("APPLIED", "SUPERSEDED")
    assert (amendment.changes[0]["command"], amendment.changes[0]["class"]) == ("RemoveOrderItem", "COMMERCIAL")
    assert amendment.changes[0]["before"]["productOfferingId"] == "mobile-sim"
    finished(world.decompose())
    done = [task for task in world.the_order.tasks.values() if task.kind == "FULFILLMENT"]
    assert {item_id for task in done for item_id in task.item_ids} == {"1"}


def test_after_it_what_was_planned_goes_and_the_rest_goes_on() -> None:
    world = two().decompose().run_to("reserve-inventory", "assign-resource")
    amendment = world.drive(world.amend(remove("2")))
    assert (amendment.status, amendment.new_plan_version) == ("APPLIED", 2)
    assert world.called("revalidate-quote") == 1
    asked = world.calls_of("revalidate-quote")[0]["body"]["input"]["order"]["items"]
    assert [item["itemId"] for item in asked] == ["1"]
    gone = [task for task in world.the_order.tasks.values() if task.item_ids == ("2",) and task.kind == "FULFILLMENT"]
    assert {task.state for task in gone} == {"SUPERSEDED"}
    finished(world)
    assert world.called("assign-number") == 0
    assert world.called("reserve-inventory") == 1


def test_a_shared_task_goes_on_without_it() -> None:
    world = World().accept(an_order(an_item(), an_item("2"))).decompose()
    assert set(world.task("create-appointment").item_ids) == {"1", "2"}
    world.drive(world.amend(remove("2")))
    assert world.task("create-appointment").item_ids == ("1",)
    finished(world)
    assert (world.called("create-appointment"), world.called("assign-resource")) == (1, 1)


@pytest.mark.parametrize("answer", [confirmed, accepted, silent])
def test_what_has_begun_for_it_is_for_a_cancellation(answer: Outside) -> None:
    world = two().decompose().run_flow(answer, only={"assign-number"})
    before = world.the_order
    with pytest.raises(UseCancellation) as refusal:
        world.amend(remove("2"))
    assert "assign-number" in refusal.value.detail
    assert world.the_order is before


def test_what_came_to_nothing_was_not_begun() -> None:
    world = two().decompose().run_flow(refused, only={"assign-number"})
    assert world.state == "FALLOUT"
    world.drive(world.amend(remove("2")))
    finished(world)


def test_what_others_are_charged_for_it_is_agreed_to_first() -> None:
    """The price of what stays rises when a part goes: a person sees it before anything is taken out."""
    world = two().decompose()
    amendment = world.amend(remove("2"))
    amendment = world.drive(amendment, quote=lambda _: {"state": "CONFIRMED", "output": {"prices": DEARER}})
    assert (amendment.status, world.the_order.items["2"].state) == ("REQUIRES_APPROVAL", "IN_PROGRESS")
    world.do(ask.ApproveAmendment(world.order_id, amendment.request_id), APPROVER)
    assert world.drive(amendment).status == "APPLIED"
    assert world.the_order.items["1"].content["price"]["amountMinor"] == 4999


def test_what_is_begun_meanwhile_is_not_taken_out() -> None:
    """Nothing had been done when it was asked for; by the time it is judged the number is assigned."""
    world = two().decompose()
    amendment = world.amend(remove("2"))
    world.run_to("assign-number")
    amendment = world.drive(amendment)
    assert (amendment.status, amendment.outcome) == ("REJECTED", "NOT_APPLICABLE")
    assert world.the_order.items["2"].state == "IN_PROGRESS"
    finished(world)


def test_the_order_ends_with_the_last_thing_that_was_open() -> None:
    world = World().accept(an_order(an_item(), an_item("2", "legacy-contract"))).decompose().run_to(*FIBER)
    assert (world.the_order.items["1"].state, world.state) == ("COMPLETED", "IN_PROGRESS")
    world.drive(world.amend(remove("2")))
    assert world.state == "COMPLETED"


@pytest.mark.parametrize(
    ("items", "changes", "breach"),
    [
        ((an_item(),), (remove("1"),), UseCancellation),  # nothing would be left
        ((an_item(), an_item("2")), (remove("1"), remove("2")), UseCancellation),
        ((an_item(), an_item("2")), (remove("3"),), ItemUnknown),
        ((an_item(), an_item("2")), (remove("2", {"productOfferingId": "router"}),), OldValueMismatch),
        ((an_item(), an_item("2")), (change("/items/2", None, {"itemId": "2"}),), Unprocessable),
        ((an_item(), an_item("2")), (remove("2"), change("/items/2/quantity", 1, 2)), Unprocessable),
        # What is left must fit together: a static address needs its line, a bundle its mandatory part.
        ((an_item(), an_item("2", "static-ip", relies_on=("1",))), (remove("1"),), ItemUnknown),
        ((an_item("0", "home-bundle"), an_item(parent="0")), (remove("1"),), Unprocessable),
    ],
)
def test_what_cannot_be_taken_out(
    items: tuple[ask.OrderItem, ...], changes: tuple[ask.AskedChange, ...], breach: type[Exception]
) -> None:
    world = World().accept(an_order(*items)).decompose()
    before = world.the_order
    with pytest.raises(breach):
        world.amend(*changes)
    assert world.the_order is before


def test_a_part_goes_and_its_bundle_ends_without_it() -> None:
    items = (an_item("0", "home-bundle"), an_item(parent="0"), an_item("2", "router", parent="0"))
    world = World().accept(an_order(*items)).decompose()
    assert world.drive(world.amend(remove("2", {"productOfferingId": "router"}))).status == "APPLIED"
    finished(world)
    assert {item_id: item.state for item_id, item in world.the_order.items.items()} == {
        "0": "COMPLETED",
        "1": "COMPLETED",
        "2": "SUPERSEDED",
    }


def test_what_relies_on_it_goes_with_it_where_both_are_named() -> None:
    world = World().accept(an_order(an_item(), an_item("2", "static-ip", relies_on=("1",)), an_item("3", "mobile-sim")))
    assert world.drive(world.amend(remove("1"), remove("2"))).status == "APPLIED"
    finished(world.decompose())
    assert world.called("assign-resource") == 0


def test_a_policy_without_such_a_row_sends_to_the_cancellation() -> None:
    def drop(document: dict[str, Any]) -> None:
        document["amendable_fields"] = [f for f in document["amendable_fields"] if f["field"] != "itemRemove"]

    world = World(changed_telecom(drop)).accept(an_order(an_item(), an_item("2")))
    with pytest.raises(UseCancellation):
        world.amend(remove("2"))


def test_what_was_taken_out_is_not_cancelled_with_the_rest() -> None:
    world = two().decompose()
    world.drive(world.amend(remove("2")))
    world.run_to("reserve-inventory")
    world.judge(world.cancel())
    finished(world, "CANCELLED")
    assert world.the_order.items["2"].state == "SUPERSEDED"


def cancelled(world: World) -> None:
    world.judge(world.cancel(scope="ITEMS", item_ids=("2",)))


def taken_out(world: World) -> None:
    world.drive(world.amend(remove("2")))


@pytest.mark.parametrize(
    ("end", "state", "ended"),
    [(cancelled, "CANCELLED", "PARTIALLY_COMPLETED"), (taken_out, "SUPERSEDED", "COMPLETED")],
)
def test_what_has_ended_already_is_not_taken_out_once_more(end: Any, state: str, ended: str) -> None:
    """It was an error of ours (500): the wish is tried before it is judged, and no move leads on from there."""
    world = two().decompose()
    end(world)
    assert world.the_order.items["2"].state == state
    amendment = world.drive(world.amend(remove("2")))
    assert (amendment.outcome, amendment.changes[0]["ruleId"]) == ("NOT_APPLICABLE", "item.ended")
    finished(world, ended)


def test_a_removal_that_waited_for_a_cancellation_of_a_part_is_carried_out_behind_it() -> None:
    """The end of the cancellation and the removal come in one transaction: it was an error of ours, neither came."""
    world = World().accept(an_order(an_item(), an_item("2", "mobile-sim", quantity=3))).decompose()
    amendment = world.amend(remove("2"))
    request = world.judge(world.cancel(scope="ITEMS", item_ids=("2",), quantities={"2": 1}))
    assert world.request(request.request_id).status == "COMPLETED"
    assert world.drive(amendment).outcome == "APPLIED"
    assert world.the_order.items["2"].state == "SUPERSEDED"
    finished(world)
