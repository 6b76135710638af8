"""The same order under policies that nobody has thought of: task types, points of no return, plans and matrices drawn.

What `policy check` lets through must carry every order to an end, with its work done once for every item that is left,
and what is done again for fewer of it on what has been done again before it. Takes `_take_out` back to a bare move to
see it fail.
"""

from __future__ import annotations

import copy
import random
import uuid
from functools import cache
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from domain import commands as ask
from domain.errors import Breach
from domain.order import Order
from domain.policy import Policy, parse_policy, read_policy_text
from domain.policy.terms import IRREVERSIBLE_STATES, ON_INPUT_CHANGE, SAFETY_RESULTS
from domain.values import RequestId, is_external
from tests.builders import AGENT, APPROVER, OPERATOR, ROOT, World, an_item, an_order
from tests.properties.test_machine_pure import OUTCOMES, OrderMachine

LEVELS = ("NO_EXTERNAL_EFFECT", "RESERVATION_ONLY", "CUSTOMER_VISIBLE", "BILLING_VISIBLE", "NETWORK_VISIBLE", "UNKNOWN")
REVERSIBILITY = ("NONE", "AUTOMATIC", "AUTOMATIC", "AUTOMATIC", "PARTIAL", "PARTIAL", "MANUAL", "UNKNOWN")
QUANTITY = "/items/*/quantity"
INPUTS = (
    QUANTITY,
    "/items/*/configuration/deviceModel",
    "/items/*/productOfferingId",
    "/installationAddress",
    "/deliveryAddress",
    "/appointment",
)
LATE = {"amountMinor": 100, "currency": "EUR", "code": "LATE", "blocking": True, "respond_within": "P2D"}
SHAPES = (
    (an_item(),),
    (an_item(quantity=3), an_item("2", "fiber-1000", quantity=2)),
    (an_item(), an_item("2", "static-ip", relies_on=("1",))),
    (an_item(offering="home-bundle"), an_item("2", parent="1"), an_item("3", "fiber-1000", parent="1")),
    (an_item(offering="fiber-1000", quantity=4), an_item("2"), an_item("3", "static-ip", relies_on=("2",))),
)
MEDDLING = frozenset({"FORCE_COMPLETE", "MARK_TOOK_EFFECT", "MARK_NO_EFFECT", "WAIVE"})


def draw_type(dice: random.Random, number: int, names: list[str]) -> dict[str, dict[str, Any]]:
    """A kind of work, with what undoes it and what stops it."""
    row: dict[str, Any] = {
        "system": "inventory",
        "operation": "do",
        "external_effect_level": dice.choice(LEVELS),
        "reversibility": dice.choice(REVERSIBILITY),
        "on_input_change": dice.choice(ON_INPUT_CHANGE),
        "inputs": dice.sample(INPUTS, dice.randint(0, 3)),
        "attempts": dice.randint(1, 3),
        "past_no_return": dice.choice(("RETAIN", "RETAIN", "RETAIN", "BLOCK")),
        "keeps": dice.sample(names, dice.choice((0, 0, 1))),
    }
    if QUANTITY not in row["inputs"] and dice.random() < 0.3:  # so that whole chains of work are told it
        row["inputs"].append(QUANTITY)
    if QUANTITY in row["inputs"] and row["on_input_change"] == "KEEP":  # then what stands is for more than are left
        row["on_input_change"] = "REDO"
    if dice.random() < 0.3:
        row["irreversible_after_state"] = dice.choice(IRREVERSIBLE_STATES)
    if dice.random() < 0.2:
        row["hard_point_of_no_return"] = {"field": "/appointment/start", "by": "PT0S"}
    if dice.random() < 0.2:
        row["soft_point_of_no_return"] = {"field": "/appointment/start", "by": "P15D", "charge": LATE}
    rows = {f"work-{number}": row}
    for how, odds in (("compensation", 0.7), ("withdrawal", 0.4)):
        if dice.random() < odds:
            row[how] = f"{how}-{number}"
            plain = {"operation": how, "reversibility": "NONE", "external_effect_level": row["external_effect_level"]}
            rows[row[how]] = {"system": "inventory", **plain}
    return rows


def draw_plan(dice: random.Random, names: list[str], *beyond: str) -> list[dict[str, Any]]:
    """Some of the work in some order; beyond: steps of other items that it may come after."""
    plan: list[dict[str, Any]] = []
    for name in dice.sample(names, dice.randint(1, len(names))):
        after = [row["step"] for row in plan if dice.random() < 0.5]
        after += [dice.choice(beyond)] if beyond and dice.random() < 0.5 else []
        shared = {"per": "ORDER"} if dice.random() < 0.25 else {}
        plan.append({"step": f"do-{name}", "type": name, "after": after, **shared})
    return plan


def draw_document(dice: random.Random) -> dict[str, Any]:
    document = copy.deepcopy(dict(read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())))
    names = [f"work-{number}" for number in range(dice.randint(2, 5))]
    types: dict[str, Any] = {"revalidate-quote": document["task_types"]["revalidate-quote"]}
    for number in range(len(names)):
        types |= draw_type(dice, number, names)
    undoings = [name for name in types if name.startswith("compensation")]
    for name in undoings:
        if dice.random() < 0.3:
            types[name]["undo_after"] = [dice.choice(undoings)]
    one, other = draw_plan(dice, names), draw_plan(dice, names)
    relied = [f"reliesOn.{row['step']}" for row in one]
    parts = [f"children.{row['step']}" for row in one]
    bundle = draw_plan(dice, names, *parts) if dice.random() < 0.5 else []
    document["task_types"] = types
    document["offerings"] = {
        "fiber-500": {"plans": {"ADD": one}},
        "fiber-1000": {"plans": {"ADD": other}},
        "static-ip": {"plans": {"ADD": draw_plan(dice, names, *relied)}},
        "home-bundle": {"children": {"mandatory": ["fiber-500"], "optional": ["fiber-1000"]}, "plans": {"ADD": bundle}},
    }
    for field in document["amendable_fields"]:
        if field["class"] != "ADMINISTRATIVE" or field["field"] == "deliveryNote":
            field["safety"] = {phase: dice.choice(SAFETY_RESULTS) for phase in field["safety"]}
    document["cancellation"]["closure"] |= {
        "mandatory_child": dice.choice(("BLOCK", "PULL_PARENT")),
        "relies_on": dice.choice(("INCLUDE", "BLOCK")),
    }
    document["cancellation"]["approval"]["PARTIALLY_CANCELLABLE"] = dice.choice(("AUTOMATIC", "APPROVAL"))
    return document


@cache
def draw_policy(seed: int) -> Policy:
    """The first one drawn that the policy's check lets through."""
    dice = random.Random(seed)
    while True:
        try:
            return parse_policy(draw_document(dice))
        except Breach:
            continue


def work_is_done_once(order: Order, policy: Policy) -> None:
    """Every item that was delivered has had every step of its plan, and none of them stands outside twice; but for what
    people have put into the books, or were given to undo, and what happened after it had been given up."""
    if any(repair["action"] in MEDDLING for case in order.cases.values() for repair in case.repairs):
        return
    if any(task.purpose == "MANUAL" for task in order.tasks.values()):
        return
    late = any(case.context == "LATE_EFFECT" for case in order.cases.values())
    for item in order.items.values():
        if item.base != "COMPLETED":
            continue
        for step in policy.offerings[item.offering].plan_for(order.head.order_type, item.action) or ():
            done = [
                effect
                for effect in order.effects.values()
                if effect.is_original
                and effect.state == "CONFIRMED"
                and (task := order.tasks[effect.task_id]).kind == "FULFILLMENT"
                and (task.step, task.task_type) == (step.step, step.type)
                and item.item_id in task.item_ids
            ]
            assert done, f"item {item.item_id} was delivered without {step.step}"
            external = is_external(policy.task_types[step.type].external_effect_level)
            assert late or not external or len(done) == 1, f"item {item.item_id}: {step.step} stands {len(done)} times"


def again_is_done_on_again(order: Order, policy: Policy) -> None:
    """What was done once more for a smaller quantity stands on work that stands, not on what has been undone or
    replaced since; but for what a person or a point of no return kept, and where an amendment has looked at results."""
    kept = any(request.status == "PARTIALLY_COMPLETED" for request in order.requests.values())
    if kept or any(amendment.is_stored for amendment in order.amendments.values()):
        return
    if any(task.purpose == "MANUAL" for task in order.tasks.values()):
        return
    for old in order.tasks.values():
        new = order.tasks.get(old.superseded_by) if old.superseded_by else None
        if new is None or new.superseded_by or new.state != "COMPLETED":
            continue
        if policy.task_types[new.task_type].on_input_change == "MANUAL":
            continue
        for base in (order.tasks[other] for other in new.depends_on):
            if set(base.item_ids) & set(new.item_ids):
                stands = base.state == "COMPLETED" and base.superseded_by is None
                assert stands, f"{new.step} was done again on {base.step}, which is {base.state}"


class DrawnMachine(OrderMachine):
    """The machine of one order, in a business that is drawn with it."""

    @initialize(seed=st.integers(0, 1_000_000), shape=st.sampled_from(SHAPES), progress=st.integers(-1, 6))
    def accept(self, seed: int, shape: tuple[ask.OrderItem, ...], progress: int) -> None:
        self.policy = draw_policy(seed)
        self.previous: Order | None = None
        self.jobs, self.calls = [], []
        try:
            self.world = World(self.policy).accept(an_order(*shape))
        except Breach:  # work of these items would wait for itself
            self.world = World(self.policy).accept(an_order(*SHAPES[0]))
        if progress >= 0:
            self.world.decompose()
        for _ in range(progress):
            self.work(0, OUTCOMES[0], True)

    @rule(item_id=st.sampled_from(["7", "8"]), offering=st.sampled_from(["fiber-500", "fiber-1000"]))
    def add_item(self, item_id: str, offering: str) -> None:
        new = {"itemId": item_id, "action": "ADD", "productOfferingId": offering, "quantity": 1, "configuration": {}}
        asked = (ask.AskedChange("/items/-", "ADD", None, new),)
        self.ask(ask.RequestAmendment(self.world.order_id, RequestId(uuid.uuid4()), "CUSTOMER_REQUEST", asked), AGENT)

    @rule(
        number=st.integers(0, 9),
        action=st.sampled_from(["VERIFY_OUTCOME", "FAIL_ITEM", *sorted(MEDDLING)]),
        agreed=st.booleans(),
    )
    def repair(self, number: int, action: str, agreed: bool) -> None:
        case = self.pick(list(self.world.the_order.cases.values()), number)
        if case is None:
            return
        order_id, evidence = self.world.order_id, {"kind": "PHOTO", "reference": "p-1"}
        self.ask(ask.RepairCase(order_id, case.case_id, action, "SYSTEM_RECOVERED", evidence=evidence), OPERATOR)
        repairs = self.world.the_order.cases[case.case_id].repairs
        if agreed and repairs:
            self.ask(ask.DecideRepair(order_id, case.case_id, repairs[-1]["n"], True), APPROVER)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "world") and self.world.the_order.head.state in {"COMPLETED", "PARTIALLY_COMPLETED"}:
            work_is_done_once(self.world.the_order, self.policy)
            again_is_done_on_again(self.world.the_order, self.policy)


TestOrderUnderDrawnPolicies = DrawnMachine.TestCase
TestOrderUnderDrawnPolicies.settings = settings(stateful_step_count=40, suppress_health_check=list(HealthCheck))
