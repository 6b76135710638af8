"""The same stories under the policies of three businesses: each row is what its policy says, typed from its text.

Nothing in the product knows energy or furniture; whatever differs between the rows differs in the policy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.order import Request
from domain.policy import Policy, parse_policy, read_policy_text
from tests.builders import AGENT, NOW, ROOT, World, accepted, an_item, an_order, energy, only, telecom


def furniture() -> Policy:
    return parse_policy(read_policy_text((ROOT / "tests/policies/furniture.policy.yaml").read_text()))


@dataclass(frozen=True)
class Scene:
    """An order that has come this far, and what its cancellation then is.

    done: the task types that have happened · stays, manual: types that the assessment says so of · decided: what a
    person says of the manual ones · undone: what is then called, in this order · ends: order and request
    """

    policy: Callable[[], Policy]
    offering: str
    done: tuple[str, ...]
    feasibility: str
    review: bool
    undone: tuple[str, ...]
    ends: tuple[str, str]
    stays: frozenset[str] = frozenset()
    manual: Mapping[str, str] = field(default_factory=dict)
    reason: str = "CUSTOMER_CHANGED_MIND"

    @property
    def order(self) -> ask.AcceptOrder:
        return an_order(an_item(offering=self.offering))


FULLY, PARTLY, BY_HAND, NOT = (
    "FULLY_CANCELLABLE",
    "PARTIALLY_CANCELLABLE",
    "REQUIRES_MANUAL_REVIEW",
    "NOT_CANCELLABLE",
)
GONE = ("CANCELLED", "COMPLETED")
IN_PART = ("PARTIALLY_COMPLETED", "PARTIALLY_COMPLETED")
GOES_ON = ("COMPLETED", "REJECTED")

SCENES: Mapping[str, Scene] = {
    # Telecom: what is reserved goes back by itself; what was delivered or activated stays, and a person agrees.
    "telecom, nothing yet": Scene(telecom, "router", (), FULLY, False, (), GONE),
    "telecom, reserved": Scene(telecom, "router", ("reserve-inventory",), FULLY, False, ("release-inventory",), GONE),
    "telecom, active": Scene(
        telecom,
        "mobile-sim",
        ("assign-number", "ship-device", "activate-service"),
        PARTLY,
        True,
        (),
        IN_PART,
        stays=frozenset({"assign-number", "ship-device", "activate-service"}),
    ),
    "telecom, ported": Scene(
        telecom,
        "mobile-port-in",
        ("ship-device", "port-number"),
        NOT,
        False,
        (),
        GOES_ON,
        stays=frozenset({"ship-device", "port-number"}),
    ),
    # Energy: a site can be switched off at any time, meter last; a contract is for people.
    "energy, supplied": Scene(
        energy,
        "site-power",
        ("allocate-meter", "switch-supply-on"),
        FULLY,
        False,
        ("cut-supply", "return-meter"),
        GONE,
        reason="MOVED_AWAY",
    ),
    "energy, signed and annulled": Scene(
        energy,
        "power-green",
        ("check-credit", "sign-contract"),
        BY_HAND,
        True,
        ("annul-contract",),
        GONE,
        manual={"sign-contract": "COMPENSATE"},
        reason="MOVED_AWAY",
    ),
    "energy, mounted and kept": Scene(
        energy,
        "power-green",
        ("check-credit", "sign-contract", "register-supply", "allocate-meter", "book-fitter", "mount-meter"),
        BY_HAND,
        True,
        ("deregister-supply",),
        IN_PART,
        stays=frozenset({"mount-meter", "book-fitter", "allocate-meter"}),
        manual={"sign-contract": "RETAIN"},
        reason="MOVED_AWAY",
    ),
    # Furniture: what can go back whole is looked at first, what goes in part goes by itself, cut wood stays cut.
    "furniture, picked": Scene(
        furniture, "chair", ("pick-from-stock",), FULLY, True, ("put-back",), GONE, reason="NO_ROOM_FOR_IT"
    ),
    "furniture, timber ordered": Scene(
        furniture,
        "kitchen",
        ("measure-room", "draw-plan", "take-deposit", "order-timber"),
        PARTLY,
        False,
        ("send-timber-back", "pay-deposit-back"),
        IN_PART,
        stays=frozenset({"measure-room"}),
        reason="NO_ROOM_FOR_IT",
    ),
    "furniture, cut": Scene(
        furniture,
        "kitchen",
        ("measure-room", "draw-plan", "take-deposit", "order-timber", "cut-timber"),
        NOT,
        False,
        (),
        GOES_ON,
        stays=frozenset({"measure-room", "cut-timber"}),
        reason="NO_ROOM_FOR_IT",
    ),
    # The same, but this wish may not be refused: a person decides, and the cut wood stays with what it needs.
    "furniture, cut, by order of the court": Scene(
        furniture,
        "kitchen",
        ("measure-room", "draw-plan", "take-deposit", "order-timber", "cut-timber"),
        BY_HAND,
        True,
        ("send-timber-back", "pay-deposit-back"),
        IN_PART,
        stays=frozenset({"measure-room", "cut-timber"}),
        reason="COURT_ORDER",
    ),
    "furniture, built": Scene(
        furniture,
        "kitchen",
        ("measure-room", "draw-plan", "take-deposit", "order-timber", "cut-timber", "assemble"),
        BY_HAND,
        True,
        ("send-timber-back", "pay-deposit-back"),
        IN_PART,
        stays=frozenset({"measure-room", "cut-timber"}),
        manual={"assemble": "RETAIN"},
        reason="COURT_ORDER",
    ),
}


def impacts(request: Request, consequence: str) -> set[str]:
    assert request.assessment is not None
    return {i["type"] for i in request.assessment["taskImpacts"] if i["consequence"] == consequence}


@pytest.mark.parametrize("name", SCENES)
def test_the_same_story_under_every_policy(name: str) -> None:
    scene = SCENES[name]
    world = World(scene.policy()).accept(scene.order).decompose().run_to(*scene.done)
    request = world.judge(world.cancel(scene.reason))
    assert request.assessment is not None
    assert request.assessment["feasibility"] == scene.feasibility
    assert request.assessment["manualReviewRequired"] == (scene.feasibility == BY_HAND)
    assert impacts(request, "RETAIN") == set(scene.stays)
    assert impacts(request, "MANUAL") == set(scene.manual)
    assert (request.status == "REQUIRES_APPROVAL") == scene.review
    assert all(rule["sentence"] and rule["ruleId"] for rule in request.assessment["trace"])
    if scene.review:
        said = {str(world.task(task_type).task_id): word for task_type, word in scene.manual.items()}
        world.approve(request, said)
        world.plan(request)
    world.calls.clear()
    world.run_flow()
    undone = [call["body"]["taskType"] for call in world.calls if call["body"]["reverses"]]
    assert undone == list(scene.undone)
    assert (world.state, world.request(request.request_id).status) == scene.ends


@pytest.mark.parametrize(
    ("policy", "offering", "task_type", "withdrawal", "before", "reason"),
    [
        (telecom, "router", "ship-device", "stop-shipment", {"reserve-inventory"}, "CUSTOMER_CHANGED_MIND"),
        (
            energy,
            "power-green",
            "register-supply",
            "recall-registration",
            {"check-credit", "sign-contract"},
            "MOVED_AWAY",
        ),
        (furniture, "kitchen", "measure-room", "stay-at-home", set(), "NO_ROOM_FOR_IT"),
    ],
)
def test_what_is_under_way_is_called_off_first_and_alone(
    policy: Callable[[], Policy], offering: str, task_type: str, withdrawal: str, before: set[str], reason: str
) -> None:
    world = World(policy()).accept(an_order(an_item(offering=offering))).decompose()
    world.run_flow(only({task_type: accepted}), only={*before, task_type})
    request = world.judge(world.cancel(reason))
    assert impacts(request, "WITHDRAW") == {task_type}
    if request.status == "REQUIRES_APPROVAL":
        world.approve(request, {str(world.task(name).task_id): "COMPENSATE" for name in impacts(request, "MANUAL")})
        world.plan(request)
    assert [name for name, state in world.undoings().items() if state == "READY"] == [withdrawal]
    world.run_flow()
    assert (world.state, world.effect(task_type).state) == ("CANCELLED", "NO_EFFECT")


@pytest.mark.parametrize(
    ("policy", "offering", "done", "days", "status", "amount", "reason"),
    [
        # PT24H before the visit, blocking: the customer is asked.
        (
            telecom,
            "fiber-500",
            ("assign-resource", "create-appointment"),
            10.4,
            "OFFERED",
            2500,
            "CUSTOMER_CHANGED_MIND",
        ),
        (telecom, "fiber-500", ("assign-resource", "create-appointment"), 10.4, "WAIVED", 2500, "CANNOT_DELIVER"),
        # Not yet: two days before.
        (telecom, "fiber-500", ("assign-resource", "create-appointment"), 8, None, 0, "CUSTOMER_CHANGED_MIND"),
        # A week before the truck, not blocking: it is recorded and goes on.
        (furniture, "chair", ("book-truck",), 6, "RECORDED", 60000, "NO_ROOM_FOR_IT"),
        (furniture, "chair", ("book-truck",), 6, "WAIVED", 60000, "WORKSHOP_CLOSED"),
        (furniture, "chair", ("book-truck",), 3, None, 0, "NO_ROOM_FOR_IT"),
    ],
)
def test_late_undoing_costs_what_the_policy_says(
    policy: Callable[[], Policy],
    offering: str,
    done: tuple[str, ...],
    days: float,
    status: str | None,
    amount: int,
    reason: str,
) -> None:
    """The appointment is on 1 December, 9:00 in Berlin; the clock of these stories starts on 20 November."""
    world = World(policy(), NOW).accept(an_order(an_item(offering=offering))).decompose().run_to(*done)
    world.wait(timedelta(days=days))
    request = world.judge(world.cancel(reason))
    if request.status == "REQUIRES_APPROVAL":
        request = world.approve(request)
    assert request.assessment is not None
    charge = request.charge
    assert (charge and charge["status"]) == status
    cost = request.assessment["estimatedCost"]["amountMinor"]
    assert cost == (0 if status == "WAIVED" else amount)
    assert charge is None or charge["amount"]["amountMinor"] == amount
    assert charge is None or ("respondBy" in charge) == (status == "OFFERED")
    if status == "OFFERED":
        world.do(ask.AnswerCharge(world.order_id, request.request_id, True), AGENT)
        assert "CHARGE_ACCEPTED" in {event.kind for event in world.events}
    world.plan(request)
    world.run_flow()
    assert world.state == "CANCELLED"


@pytest.mark.parametrize(
    ("policy", "items", "cancelled", "taken", "feasibility", "reason"),
    [
        # EC16: a bundle without its mandatory part is refused (BLOCK), or goes with it (PULL_PARENT).
        (telecom, (("1", "home-bundle", None), ("2", "fiber-500", "1")), "2", set(), NOT, "CUSTOMER_CHANGED_MIND"),
        (furniture, (("1", "dining-set", None), ("2", "chair", "1")), "2", {"1", "2"}, FULLY, "TOO_EXPENSIVE"),
        (
            telecom,
            (("1", "home-bundle", None), ("2", "fiber-500", "1")),
            "1",
            {"1", "2"},
            FULLY,
            "CUSTOMER_CHANGED_MIND",
        ),
    ],
)
def test_a_part_that_its_bundle_cannot_do_without(
    policy: Callable[[], Policy],
    items: tuple[tuple[str, str, str | None], ...],
    cancelled: str,
    taken: set[str],
    feasibility: str,
    reason: str,
) -> None:
    order = an_order(*(an_item(item_id, offering, parent=parent) for item_id, offering, parent in items))
    world = World(policy()).accept(order).decompose()
    request = world.judge(world.cancel(reason, scope="ITEMS", item_ids=(cancelled,)))
    assert request.assessment is not None
    assert request.assessment["feasibility"] == feasibility
    if request.status == "REQUIRES_APPROVAL":
        world.approve(request)
        world.plan(request)
        world.run_flow()
    assert {item.item_id for item in world.the_order.items.values() if item.state == "CANCELLED"} == taken


@pytest.mark.parametrize(
    ("policy", "offering", "step", "undoing", "reason"),
    [
        (telecom, "router", "reserve-inventory", "release-inventory", "CUSTOMER_CHANGED_MIND"),
        (energy, "site-power", "allocate-meter", "return-meter", "MOVED_AWAY"),
        (furniture, "chair", "pick-from-stock", "put-back", "NO_ROOM_FOR_IT"),
    ],
)
def test_a_late_effect_is_undone_once_beside_the_ended_order(
    policy: Callable[[], Policy], offering: str, step: str, undoing: str, reason: str
) -> None:
    """T11, whatever the business."""
    world = World(policy()).accept(an_order(an_item(offering=offering))).decompose()
    world.run_flow(only({step: accepted}), only={step})
    request = world.cancel(reason)
    world.begin(request)
    world.wait(timedelta(hours=2))
    request = world.judge(request)
    if request.status == "REQUIRES_APPROVAL":
        world.approve(request)
        world.plan(request)
    call: Any = world.calls_of(step)[0]
    world.report(call, {"state": "NO_EFFECT", "reason": "no"}, source="CALLBACK")
    assert world.state == "CANCELLED"
    ended = world.the_order.head
    for _ in range(2):
        world.report(call, {"state": "CONFIRMED", "external_reference": "late"}, source="CALLBACK")
    world.run_flow()
    assert (world.called(undoing), world.effect(step).state) == (1, "REVERSED")
    assert world.the_order.head == ended


@pytest.mark.parametrize(
    ("policy", "offering", "step", "undoing", "reason"),
    [
        (telecom, "router", "reserve-inventory", "release-inventory", "CUSTOMER_CHANGED_MIND"),
        (furniture, "chair", "pick-from-stock", "put-back", "NO_ROOM_FOR_IT"),
    ],
)
def test_a_smaller_quantity_is_undone_and_done_again(
    policy: Callable[[], Policy], offering: str, step: str, undoing: str, reason: str
) -> None:
    world = World(policy()).accept(an_order(an_item(offering=offering, quantity=6))).decompose().run_to(step)
    request = world.judge(world.cancel(reason, scope="ITEMS", item_ids=("1",), quantities={"1": 4}))
    if request.status == "REQUIRES_APPROVAL":
        world.approve(request)
        world.plan(request)
    world.run_flow()
    assert (world.state, world.the_order.items["1"].quantity, world.called(undoing)) == ("COMPLETED", 2, 1)
    assert [c["body"]["input"]["order"]["items"][0]["quantity"] for c in world.calls_of(step)] == [6, 2]
