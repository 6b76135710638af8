"""Follow-up orders: one row = one sentence of how orders relate, what they lock, and what stands in their way."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.errors import (
    AssetBusy,
    AssetNotModifiable,
    Breach,
    ChangeActive,
    DependentAsset,
    OrderTerminal,
    ProposalNotFound,
    ProposalTaken,
    ReasonUnknown,
    RelationCycle,
    RelationTargetUnknown,
    RequestNotFound,
    Unprocessable,
)
from domain.order import Asset, Surroundings
from domain.supplemental import name_relation
from domain.values import AssetId, OrderId, RequestId
from tests.builders import AGENT, NOW, OPERATOR, World, an_item, an_order, change, changed_telecom

FIBER = Asset(AssetId(uuid.UUID(int=1)), "c-9", "fiber-500", {"bandwidth": "500M"}, "ACTIVE")
ADDRESS = Asset(AssetId(uuid.UUID(int=2)), "c-9", "static-ip", {}, "ACTIVE", relies_on=(str(FIBER.asset_id),))
OTHER = OrderId(uuid.UUID(int=9))


def a_new_order(*items: ask.OrderItem, **fields: Any) -> ask.AcceptOrder:
    defaults: dict[str, Any] = {"order_type": "SUPPLEMENTAL", "source": OTHER, "reason_code": "UPGRADE"}
    return replace(an_order(*items), **(defaults | fields))


def a_change(action: str = "MODIFY", offering: str = "fiber-1000", asset: Asset = FIBER) -> ask.OrderItem:
    return an_item(action=action, offering=offering, target_asset=asset.asset_id)


@pytest.mark.parametrize(
    ("order_type", "proposed", "relation"),
    [
        ("SUPPLEMENTAL", False, "SUPPLEMENTS"),
        ("SUPPLEMENTAL", True, "SUPPLEMENTS"),
        ("DISCONNECT", False, "SUPPLEMENTS"),
        ("DISCONNECT", True, "CANCELS"),
        ("RETURN", False, "ROLLS_BACK"),
        ("RETURN", True, "ROLLS_BACK"),
        ("BILLING_ADJUSTMENT", True, "COMPENSATES"),
        ("REPAIR", False, "REPAIRS"),
    ],
)
def test_the_relation_follows_from_type_and_origin(order_type: str, proposed: bool, relation: str) -> None:
    assert name_relation(order_type, proposed=proposed) == relation


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ("MODIFY", "MODIFY", True),
        ("MODIFY", "DISCONNECT", True),
        ("DISCONNECT", "DISCONNECT", True),
        ("MODIFY", "NO_CHANGE", False),
        ("MODIFY", "ADD", False),  # something new that relies on what is changed
        ("DISCONNECT", "RETURN", False),  # it is switched off and fetched back
    ],
)
def test_an_asset_is_changed_by_one_item_of_an_order(first: str, second: str, *, refused: bool) -> None:
    """Both would start from the same snapshot, and whoever is undone would take the other's change along."""
    items = [replace(a_change(first, "fiber-500"), item_id="1"), replace(a_change(second, "fiber-500"), item_id="2")]
    if second == "ADD":
        items[1] = replace(items[1], offering="static-ip")
    world, around = World(), Surroundings({FIBER.asset_id: FIBER})
    if not refused:
        world.do(a_new_order(*items), AGENT, around)
        return
    with pytest.raises(AssetNotModifiable) as refusal:
        world.do(a_new_order(*items), AGENT, around)
    assert (refusal.value.detail, [error.path for error in refusal.value.errors]) == (
        "Item 1 changes the same asset; say it in one item.",
        ["/items/1/targetAssetId"],
    )
    assert world.order is None


def test_an_order_that_asks_for_nothing_is_cancelled_like_any_other() -> None:
    """T04 leaves NO_CHANGE items out; where there is nothing else, their own end is the order's."""
    left = a_new_order(a_change("NO_CHANGE", "fiber-500"))
    around = Surroundings({FIBER.asset_id: FIBER})
    world = World()
    world.do(left, AGENT, around)
    assert world.judge(world.cancel()).outcome == "CANCELLED"
    assert (world.state, world.the_order.items["1"].state) == ("CANCELLED", "CANCELLED")
    other = World()
    other.do(left, AGENT, around)
    assert other.decompose(around).state == "COMPLETED"


@pytest.mark.parametrize(
    ("order_type", "action", "offering", "locked"),
    [
        ("SUPPLEMENTAL", "MODIFY", "fiber-1000", True),
        ("SUPPLEMENTAL", "ADD", "static-ip", True),
        ("SUPPLEMENTAL", "NO_CHANGE", "fiber-500", False),
        ("DISCONNECT", "DISCONNECT", "fiber-500", True),
        ("RETURN", "RETURN", "fiber-500", False),
        ("REPAIR", "MODIFY", "fiber-500", True),
        ("BILLING_ADJUSTMENT", "MODIFY", "fiber-500", False),
    ],
)
def test_what_a_new_order_locks(order_type: str, action: str, offering: str, locked: bool) -> None:
    """And whom it meets: a lock that somebody else has stands in the way of exactly those that would take it."""
    order = a_new_order(a_change(action, offering), order_type=order_type)
    around = Surroundings({FIBER.asset_id: FIBER})
    decision = World().do(order, AGENT, around)
    assert (FIBER.asset_id in decision.draft.locks_taken) == locked
    held = replace(around, holders={FIBER.asset_id: OTHER})
    if locked:
        with pytest.raises(AssetBusy) as refused:
            World().do(order, AGENT, held)
        assert refused.value.blocked_by == f"/api/v1/orders/{OTHER}"
    else:
        World().do(order, AGENT, held)


REFUSED: list[tuple[str, ask.AcceptOrder, dict[str, Any], type[Breach]]] = [
    ("busy before faulty", a_new_order(a_change(), reason_code="X"), {"holders": {FIBER.asset_id: OTHER}}, AssetBusy),
    ("unknown reason", a_new_order(a_change(), reason_code="REGULATORY"), {}, ReasonUnknown),
    ("suspended", a_new_order(a_change()), {"assets": {FIBER.asset_id: replace(FIBER, state="SUSPENDED")}},
     AssetNotModifiable),
    ("terminated", a_new_order(a_change()), {"assets": {FIBER.asset_id: replace(FIBER, state="TERMINATED")}},
     AssetNotModifiable),
    ("another's", a_new_order(a_change()), {"assets": {FIBER.asset_id: replace(FIBER, customer_id="c-1")}},
     AssetNotModifiable),
    ("incompatible", a_new_order(a_change(offering="mobile-sim")), {}, AssetNotModifiable),
    ("relied on", a_new_order(a_change("DISCONNECT", "fiber-500")), {"relying": {FIBER.asset_id: (ADDRESS,)}},
     DependentAsset),
    ("without an asset", a_new_order(an_item(action="MODIFY")), {}, Unprocessable),
]  # fmt: skip


@pytest.mark.parametrize(("order", "around", "breach"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_a_new_order_is_refused_for(order: ask.AcceptOrder, around: dict[str, Any], breach: type[Breach]) -> None:
    with pytest.raises(breach):
        World().do(order, AGENT, Surroundings(**({"assets": {FIBER.asset_id: FIBER}} | around)))


@pytest.mark.parametrize(
    ("rule", "around", "proposed", "refused"),
    [
        ("REFUSE", {"source_state": "PARTIALLY_COMPLETED"}, False, True),
        ("REFUSE", {"doubtful": frozenset({FIBER.asset_id})}, False, True),
        ("REFUSE", {"source_state": "PARTIALLY_COMPLETED"}, True, False),
        ("REFUSE", {"source_state": "COMPLETED"}, False, False),
        ("ALLOW", {"source_state": "PARTIALLY_COMPLETED", "doubtful": frozenset({FIBER.asset_id})}, False, False),
    ],
)
def test_what_was_delivered_in_part_is_a_matter_of_the_policy(
    rule: str, around: dict[str, Any], proposed: bool, refused: bool
) -> None:
    """EC50."""
    policy = changed_telecom(lambda doc: doc["supplemental"].update(on_partially_completed_source=rule))
    order = a_new_order(a_change(), proposed=proposed)
    surroundings = Surroundings({FIBER.asset_id: FIBER}, **around)
    if refused:
        with pytest.raises(AssetNotModifiable):
            World(policy).do(order, AGENT, surroundings)
    else:
        World(policy).do(order, AGENT, surroundings)


def supplement(world: World) -> ask.AcceptOrder:
    new = a_new_order(an_item(), source=None, content={"deliveryNote": "ring"})
    draft = world.do(ask.SupplementOrder(world.order_id, new), AGENT).draft
    assert draft.follow_up is not None
    return draft.follow_up


def test_what_the_asker_leaves_out_is_the_sources() -> None:
    world = World().accept().decompose().run_flow()
    made = supplement(world)
    source = world.the_order.head.content
    for name in ("customer", "contact", "deliveryAddress", "installationAddress"):
        assert made.content[name] == source[name]
    assert made.content["deliveryNote"] == "ring"
    assert "appointment" not in made.content
    assert world.the_order.head.version == world.the_order.head.version


def test_a_change_under_way_comes_first() -> None:
    world = World().accept()
    request = world.cancel()
    with pytest.raises(ChangeActive) as refused:
        supplement(world)
    assert str(refused.value.blocked_by).endswith(str(request.request_id))
    world.judge(request)
    assert world.state == "CANCELLED"
    with pytest.raises(OrderTerminal):
        supplement(world)


def test_a_proposal_is_made_once_and_only_if_it_is_there() -> None:
    world = World().accept().decompose().run_flow()
    head = world.the_order.head
    request = world.cancel()
    made = OrderId(uuid.uuid4())
    create = ask.CreateProposal(world.order_id, request.request_id, 1, made)
    for wrong, breach in (
        (replace(create, number=7), ProposalNotFound),
        (replace(create, request_id=RequestId(uuid.uuid4())), RequestNotFound),
    ):
        with pytest.raises(breach):
            world.do(wrong, AGENT)
    world.do(create, AGENT)
    [decision] = world.followed
    assert decision.draft.head.order_id == made
    with pytest.raises(ProposalTaken) as refused:
        world.do(replace(create, new_order_id=OTHER), AGENT)
    assert refused.value.blocked_by == f"/api/v1/orders/{made}"
    assert replace(world.the_order.head, sequence=0, chain=b"") == replace(head, sequence=0, chain=b"")


@pytest.mark.parametrize(
    ("action", "offering", "fits"),
    [("MODIFY", "fiber-100", True), ("MODIFY", "mobile-sim", False), ("DISCONNECT", "fiber-100", False)],
)
def test_an_amended_offering_must_fit_the_asset_too(action: str, offering: str, fits: bool) -> None:
    """What the door would have refused no amendment brings in, neither before the plan nor after it."""
    for planned in (False, True):
        world = World()
        around = Surroundings({FIBER.asset_id: FIBER})
        world.do(an_order(a_change(action, "fiber-500")), AGENT, around)
        world.order = replace(world.the_order, assets={FIBER.asset_id: FIBER})
        if planned:
            world.decompose(around)
        wish = change("/items/1/productOfferingId", "fiber-500", offering)
        if fits:
            assert world.amend(wish).status == "REQUESTED"
        else:
            with pytest.raises(AssetNotModifiable):
                world.amend(wish)
            assert not world.the_order.amendments


def test_a_relation_is_said_of_the_newer_order() -> None:
    world = World().accept()
    older = (NOW - timedelta(days=1), OTHER)
    newer = (NOW + timedelta(days=1), OTHER)
    say = ask.AddRelation(world.order_id, "AMENDS", OTHER)
    for command, around, breach in (
        (replace(say, target=world.order_id), Surroundings(), RelationCycle),
        (say, Surroundings(target=newer), RelationCycle),
        (say, Surroundings(), RelationTargetUnknown),
        (say, Surroundings(target=older, related=True), Unprocessable),
    ):
        with pytest.raises(breach):
            world.do(command, OPERATOR, around)
    draft = world.do(say, OPERATOR, Surroundings(target=older)).draft
    assert [relation["targetOrderId"] for relation in draft.relations] == [str(OTHER)]


@pytest.mark.parametrize(
    ("rule", "scope", "feasibility"),
    [
        ("PROPOSE", {}, "FULLY_CANCELLABLE"),
        ("BLOCK", {}, "NOT_CANCELLABLE"),
        ("BLOCK", {"scope": "ITEMS", "item_ids": ("1",)}, "FULLY_CANCELLABLE"),
    ],
)
def test_what_supplements_the_whole_order_is_found_where_the_whole_order_goes(
    rule: str, scope: dict[str, Any], feasibility: str
) -> None:
    """EC51."""
    policy = changed_telecom(lambda doc: doc["cancellation"]["closure"].update(dependent_order=rule))
    world = World(policy).accept()
    world.order = replace(world.the_order, dependents={OTHER: "SUPPLEMENTS"})
    found = world.judge(world.cancel(**scope)).assessment
    assert found is not None
    assert found["feasibility"] == feasibility
    assert [one["orderId"] for one in found["dependentOrders"]] == ([] if scope else [str(OTHER)])
