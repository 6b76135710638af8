"""The door, decomposition and waves, as decisions."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.errors import (
    AssetNotModifiable,
    Breach,
    ChangeActive,
    DependentAsset,
    ItemUnknown,
    OfferingUnknown,
    Unprocessable,
)
from domain.order import WINDOW, Asset, Surroundings
from domain.values import AssetId, Run
from tests.builders import AGENT, OPERATOR, World, an_item, an_order, changed_telecom

ASSET = AssetId(uuid.UUID(int=7))


def an_asset(**overrides: Any) -> Asset:
    fields: dict[str, Any] = {
        "asset_id": ASSET,
        "customer_id": "c-9",
        "offering": "fiber-500",
        "configuration": {},
        "state": "ACTIVE",
    } | overrides
    return Asset(**fields)


@pytest.mark.parametrize(
    ("items", "breach"),
    [
        ([an_item(offering="gold")], OfferingUnknown),
        ([an_item(offering="static-ip", action="RETURN")], OfferingUnknown),
        ([an_item(parent="9")], ItemUnknown),
        ([an_item(relies_on=("9",))], ItemUnknown),
        ([an_item(), an_item()], Unprocessable),  # one id, two items
        ([an_item(), an_item("2", "static-ip")], Unprocessable),
        ([an_item(offering="home-bundle")], Unprocessable),
        ([an_item(offering="home-bundle"), an_item("2", "mobile-sim", parent="1")], Unprocessable),
        ([an_item(relies_on=("2",)), an_item("2", relies_on=("1",))], Unprocessable),
        ([an_item(action="MODIFY")], Unprocessable),
    ],
)
def test_what_cannot_be_carried_out_is_refused_at_the_door(items: list[ask.OrderItem], breach: type[Breach]) -> None:
    world = World()
    with pytest.raises(breach) as refusal:
        world.accept(an_order(*items))
    assert refusal.value.errors
    assert world.order is None


@pytest.mark.parametrize(
    ("asset", "item", "breach"),
    [
        (an_asset(state="TERMINATED"), an_item(action="MODIFY", target_asset=ASSET), AssetNotModifiable),
        (an_asset(customer_id="c-1"), an_item(action="MODIFY", target_asset=ASSET), AssetNotModifiable),
        (an_asset(offering="mobile-sim"), an_item(action="MODIFY", target_asset=ASSET), AssetNotModifiable),
        (
            an_asset(offering="mobile-sim"),
            an_item(action="ADD", offering="static-ip", target_asset=ASSET),
            AssetNotModifiable,
        ),
        (
            an_asset(asset_id=AssetId(uuid.UUID(int=8))),
            an_item(action="DISCONNECT", target_asset=ASSET),
            AssetNotModifiable,
        ),
    ],
)
def test_an_asset_must_be_the_customers_active_and_fitting(
    asset: Asset, item: ask.OrderItem, breach: type[Breach]
) -> None:
    world = World()
    with pytest.raises(breach):
        world.do(an_order(item), AGENT, Surroundings({asset.asset_id: asset}))


def test_what_others_rely_on_is_not_disconnected_alone() -> None:
    relying = an_asset(asset_id=AssetId(uuid.UUID(int=8)), offering="static-ip", relies_on=(str(ASSET),))
    around = Surroundings({ASSET: an_asset()}, {ASSET: (relying,)})
    with pytest.raises(DependentAsset):
        World().do(an_order(an_item(action="DISCONNECT", target_asset=ASSET)), AGENT, around)


def test_what_others_have_come_to_rely_on_is_not_disconnected_either() -> None:
    """T03: the dependant was brought into the books while the order waited; the case says which, and what helps."""
    target = an_asset()
    relying = an_asset(asset_id=AssetId(uuid.UUID(int=8)), offering="static-ip", relies_on=(str(ASSET),))
    world = World()
    world.do(an_order(an_item(action="DISCONNECT", target_asset=ASSET)), AGENT, Surroundings({ASSET: target}))
    world.decompose(Surroundings({ASSET: target}, {ASSET: (relying,)}))
    case = world.open_case()
    assert (world.state, case.category, case.blocking) == ("FALLOUT", "DATA", True)
    assert str(relying.asset_id) in case.title
    assert "disconnect it first" in case.title
    world.retry()
    world.decompose()  # it has gone by now
    assert world.run_flow().state == "COMPLETED"


def test_what_ends_with_it_does_not_stand_in_the_way() -> None:
    address = an_asset(asset_id=AssetId(uuid.UUID(int=8)), offering="static-ip", relies_on=(str(ASSET),))
    around = Surroundings({ASSET: an_asset(), address.asset_id: address}, {ASSET: (address,)})
    items = (
        an_item(action="DISCONNECT", target_asset=ASSET),
        an_item("2", "static-ip", action="DISCONNECT", target_asset=address.asset_id),
    )
    world = World()
    world.do(an_order(*items), AGENT, around)
    assert world.decompose(around).state == "IN_PROGRESS"


def test_fiber_with_static_ip_becomes_one_graph() -> None:
    world = World().accept(an_order(an_item(), an_item("2", "static-ip", relies_on=("1",)))).decompose()
    activations = [t for t in world.the_order.tasks.values() if t.task_type == "activate-service"]
    of_item = {task.item_ids[0]: task for task in activations}
    assert of_item["1"].task_id in of_item["2"].depends_on


def test_tasks_per_order_are_shared_by_the_items_that_ask_for_them() -> None:
    world = World().accept(an_order(an_item(), an_item("2"))).decompose()
    visits = [t for t in world.the_order.tasks.values() if t.task_type == "perform-visit"]
    assert [set(task.item_ids) for task in visits] == [{"1", "2"}]
    assert len([t for t in world.the_order.tasks.values() if t.task_type == "ship-device"]) == 2


def share_a_fitting(document: dict[str, Any]) -> None:
    """A step that items share comes after what the item relied on does, which comes after that step: each plan by
    itself is sound, and so are items that rely on none of their like."""
    document["offerings"]["router"]["plans"]["ADD"] = [
        {"step": "fit", "type": "perform-visit", "per": "ORDER", "after": ["reliesOn.light"]},
        {"step": "light", "type": "activate-service", "after": ["fit"]},
    ]
    document["offerings"]["router"]["plans"]["DISCONNECT"] = []


def a_part_waits(document: dict[str, Any]) -> None:
    """A bundle begins when its parts have shipped, and what relies on it ships when it has begun."""
    offerings = document["offerings"]
    begin = {"step": "begin", "type": "legacy-contract-note", "after": ["children.ship"]}
    offerings["home-bundle"] = {"children": {"mandatory": ["router"]}, "plans": {"ADD": [begin], "DISCONNECT": []}}
    offerings["router"]["plans"]["ADD"] = [{"step": "ship", "type": "ship-device", "after": ["reliesOn.begin"]}]


WAITING_FOR_ITSELF = (
    (share_a_fitting, (an_item("1", "router"), an_item("2", "router", relies_on=("1",)))),
    (a_part_waits, (an_item("1", "home-bundle"), an_item("2", "router", parent="1", relies_on=("1",)))),
)


@pytest.mark.parametrize(("business", "items"), WAITING_FOR_ITSELF)
def test_items_whose_work_would_wait_for_itself_are_refused_at_the_door(business: Any, items: Any) -> None:
    """Such work was left out of the plan in silence, and the order ended COMPLETED with nothing done. Takes the look
    for circles out of `check_items` to see it fail."""
    world = World(changed_telecom(business))
    with pytest.raises(Unprocessable, match="do not fit") as refusal:
        world.accept(an_order(*items))
    assert "would wait for itself" in refusal.value.errors[0].message
    apart = [replace(item, relies_on=()) for item in items]
    assert World(changed_telecom(business)).accept(an_order(*apart)).decompose().state == "IN_PROGRESS"


@pytest.mark.parametrize(("validated", "state"), [(False, "REJECTED"), (True, "FALLOUT")])
def test_work_that_has_come_to_wait_for_itself_is_no_plan(validated: bool, state: str) -> None:
    """A newer policy brings the circle after the door."""
    _, items = WAITING_FOR_ITSELF[0]
    world = World().accept(an_order(*items))
    if validated:
        world.do(ask.ValidateOrder(world.order_id, world.the_order.head.run))
    world.policy = changed_telecom(share_a_fitting)
    assert world.decompose().state == state
    assert not world.the_order.tasks


def test_an_item_without_a_plan_ends_with_its_last_child() -> None:
    world = World().accept(an_order(an_item(offering="home-bundle"), an_item("2", parent="1"))).decompose()
    assert world.the_order.items["1"].state == "IN_PROGRESS"
    world.run_flow()
    assert {item.state for item in world.the_order.items.values()} == {"COMPLETED"}
    assert world.state == "COMPLETED"


def test_the_wished_date_is_waited_for_only_if_the_order_says_so() -> None:
    later = "2026-12-24T00:00:00+01:00"
    world = World().accept(an_order(requestedStartDate=later, startOnRequestedDate=True))
    order_id, run = world.order_id, world.the_order.head.run
    world.do(ask.ValidateOrder(order_id, run))
    first = world.do(ask.CheckStartDate(order_id, run)).body
    second = world.do(ask.CheckStartDate(order_id, run)).body
    assert (first["verdict"], first["start_at"]) == ("wait", later)
    assert first["wait_key"] != second["wait_key"]
    world.wait(timedelta(days=40))
    assert world.do(ask.CheckStartDate(order_id, run)).body == {"verdict": "go"}
    assert World().accept(an_order(requestedStartDate=later)).decompose().state == "IN_PROGRESS"


def test_questions_of_the_flow_get_the_same_answer_however_often() -> None:
    world = World().accept().decompose()
    order_id, run = world.order_id, world.the_order.head.run
    before = len(world.the_order.tasks)
    assert world.do(ask.ValidateOrder(order_id, run)).body == {"verdict": "valid"}
    planned = world.do(ask.DecomposeOrder(order_id, run)).body
    assert planned["verdict"] == "planned"
    assert len(world.the_order.tasks) == before
    foreign = Run(uuid.uuid4())
    assert world.do(ask.DecomposeOrder(order_id, foreign)).body == {"verdict": "stand_down"}


def wide(document: dict[str, Any]) -> None:
    """An offering of 120 steps side by side and one behind them all."""
    steps: list[dict[str, Any]] = [{"step": f"s{n}", "type": "reserve-inventory"} for n in range(120)]
    steps.append({"step": "last", "type": "assign-resource", "after": [f"s{n}" for n in range(120)]})
    document["offerings"]["router"]["plans"]["ADD"] = steps


def test_the_window_bounds_a_wave_and_every_task_starts_once() -> None:
    world = World(changed_telecom(wide)).accept(an_order(an_item(offering="router"))).decompose()
    wave = world.release()
    assert len(wave) == WINDOW
    assert world.release() == []
    world.handed += wave
    world.run_flow()
    assert world.called("reserve-inventory") == 120
    assert world.called("assign-resource") == 1
    assert world.state == "COMPLETED"


def test_a_released_task_that_is_held_goes_out_again_under_a_new_release() -> None:
    """I6: the claim is the gate."""
    world = World().accept().decompose()
    handed = world.release()
    world.do(ask.HoldOrder(world.order_id), OPERATOR)
    assert world.state == "ON_HOLD"
    assert {world.claim(h)["verdict"] for h in handed} == {"stand_down"}
    assert world.release() == []
    with pytest.raises(ChangeActive):
        world.do(ask.HoldOrder(world.order_id), OPERATOR)
    world.do(ask.ReleaseOrder(world.order_id), OPERATOR)
    again = world.release()
    assert {(h["task_id"], h["release"]) for h in again} == {(h["task_id"], 2) for h in handed}
    assert {world.claim(h)["verdict"] for h in handed} == {"stand_down"}
    world.handed = again
    world.run_flow()
    assert world.state == "COMPLETED"


def test_a_restart_hands_out_everything_unfinished_and_silences_the_old_flow() -> None:
    world = World().accept().decompose()
    assert world.the_order.plan is not None
    handed = world.release()
    call = world.claim(handed[0])
    world.do(ask.RestartFlow(world.order_id, world.the_order.plan.plan_id, "the engine lost it"))
    assert world.claim(handed[1])["verdict"] == "stand_down"
    again = world.release()
    assert len(again) == 2
    # The call that was under way keeps its lease; the new job waits for it and calls nobody.
    assert {world.claim(h)["verdict"] for h in again} == {"busy", "call"}
    world.report(call, {"state": "CONFIRMED"})
    world.run_flow()
    assert world.called("reserve-inventory") == 1
