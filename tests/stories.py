"""Short lives of one order that together make everything happen that the product can tell the world.

Each is played twice: on the pure core, for the events that it tells, and on a real database, for what it leaves there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson

from domain import commands as ask
from domain.order import Asset, Cause, Decision, Order, Request, Surroundings
from domain.store.orders import _plain, draft_rows
from domain.values import Actor, AssetId, EffectId, Money, OrderId, Run, TaskId
from tests.builders import (
    AGENT,
    APPROVER,
    OPERATOR,
    Outside,
    World,
    an_item,
    an_order,
    change,
    changed_telecom,
    confirmed,
)

ASSET = AssetId(uuid.UUID("00000000-0000-4000-8000-0000000000a5"))
FIBER = (
    "reserve-inventory",
    "assign-resource",
    "create-appointment",
    "ship-device",
    "perform-visit",
    "activate-service",
    "start-billing",
)


class Stage(World):
    """A world whose policy can be changed while an order is under way."""

    def change_policy(self, change: Callable[[dict[str, Any]], None]) -> None:
        self.policy = changed_telecom(change)
        self.policy_version += 1


class Recorder(Stage):
    """A stage that keeps what would lie in the outboxes: `told` as it goes to Kafka, `messages` as to the engine."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []

    def do(
        self,
        command: ask.Command,
        actor: Actor | None = None,
        around: Surroundings | None = None,
        command_id: uuid.UUID | None = None,
        on_behalf_of: str | None = None,
    ) -> Decision:
        known = len(self.followed)
        decision = super().do(command, actor, around, command_id, on_behalf_of)
        told = [decision, *self.followed[known:]]
        rows = [row for one in told for row in draft_rows(one.draft, None)["outbox"]]
        self.told += orjson.loads(orjson.dumps(rows, default=_plain))
        self.order = decision.draft.result()  # with its new place in the chain
        if around:  # what the store would load with the order from now on
            self.order = replace(self.order, assets={**around.assets, **self.order.assets})
        return decision


Story = Callable[[Stage], None]


# -- what outside systems may say -------------------------------------------------------------------------------


def answers(**said: Mapping[str, Any]) -> Outside:
    """Everything is confirmed, but the task types named here (with _ for -)."""
    special = {name.replace("_", "-"): answer for name, answer in said.items()}
    return lambda call: special.get(call["body"]["taskType"]) or confirmed(call)


ACCEPTED: Mapping[str, Any] = {"state": "ACCEPTED"}
UNKNOWN: Mapping[str, Any] = {"state": "UNKNOWN", "reason": "timed out"}
REFUSED: Mapping[str, Any] = {"state": "NO_EFFECT", "reason": "out of stock"}
CONFIRMED: Mapping[str, Any] = {"state": "CONFIRMED", "external_reference": "late-1", "output": {}}


def hear(world: World, task_type: str, said: Mapping[str, Any], nth: int = -1) -> None:
    """The system calls back about the nth effect of a type."""
    effects = [effect for effect in world.the_order.effects.values() if effect.task_type == task_type]
    world.report({"effect_id": effects[nth].effect_id}, said, source="CALLBACK")


def verify(world: World, handed: Mapping[str, Any], finding: Any) -> Mapping[str, Any]:
    """One round of verification: ask the core, play the system's answer, tell the core."""
    task_id = TaskId(uuid.UUID(handed["task_id"]))
    told = world.do(ask.ClaimVerification(world.order_id, task_id, handed["release"], Run(task_id))).body
    if told["verdict"] != "ask":
        return told
    effect_id = EffectId(uuid.UUID(told["effect_id"]))
    return world.do(ask.RecordOutcome(world.order_id, effect_id, finding, "VERIFICATION", told["attempt"])).body


def approve(world: World, request: Request, **dispositions: str) -> None:
    command = ask.ApproveCancellation(world.order_id, request.request_id, "agreed", dispositions)
    world.do(command, APPROVER)


def retry(world: World) -> None:
    case = world.open_case()
    world.do(ask.RepairCase(world.order_id, case.case_id, "RETRY", "SYSTEM_RECOVERED", "it is back"), OPERATOR)


def undo(world: World, request: Request, outside: Outside = confirmed) -> None:
    world.plan(request)
    world.run_flow(outside)


# -- fulfillment ------------------------------------------------------------------------------------------------


def delivered_then_cancelled_too_late(world: Stage) -> None:
    """T10, and a system that takes its word back."""
    world.accept().decompose().run_flow()
    assert world.state == "COMPLETED"
    assert world.cancel().outcome == "NEW_ORDER_REQUIRED"
    hear(world, "reserve-inventory", REFUSED)


def delivered_then_followed_up(world: Stage) -> None:
    """What a cancellation came too late for is ended by the order that it proposed."""
    world.accept().decompose().run_flow()
    request = world.cancel()
    [disconnect] = [one["n"] for one in request.proposals if one["orderType"] == "DISCONNECT"]
    new_order = OrderId(uuid.uuid4())
    world.do(ask.CreateProposal(world.order_id, request.request_id, disconnect, new_order), AGENT)
    [created] = [one for one in world.request(request.request_id).proposals if "createdOrderId" in one]
    assert created["createdOrderId"] == str(new_order)


def no_longer_sold(world: Stage) -> None:
    world.accept(an_order(an_item(offering="legacy-contract")))
    world.change_policy(lambda document: document["offerings"].pop("legacy-contract"))
    world.do(ask.ValidateOrder(world.order_id, world.the_order.head.run))
    assert world.state == "REJECTED"
    world.change_policy(lambda _: None)


def held_and_released(world: Stage) -> None:
    world.accept().decompose().run_to("reserve-inventory")
    world.do(ask.HoldOrder(world.order_id), OPERATOR)
    assert (world.state, world.release()) == ("ON_HOLD", [])
    world.do(ask.ReleaseOrder(world.order_id), OPERATOR)
    world.run_flow()
    assert world.state == "COMPLETED"


def asset_modified(world: Stage) -> None:
    asset = Asset(ASSET, "c-9", "fiber-500", {}, "ACTIVE")
    world.do(an_order(an_item(action="MODIFY", target_asset=ASSET)), AGENT, Surroundings({ASSET: asset}))
    world.decompose().run_flow()
    assert world.state == "COMPLETED"


def related_to_an_older_one(world: Stage) -> None:
    older = world.accept().order_id
    relation = {"type": "SUPPLEMENTS", "targetOrderId": str(older), "reasonCode": "ADD_ON"}
    world.accept(replace(an_order(), relations=(relation,)))


def held_by_another(world: Stage) -> tuple[Order, Request]:
    """EC51: what supplements an order waits while that one is being cancelled; (that order, its cancellation)."""
    world.change_policy(lambda doc: doc["cancellation"]["closure"].update(dependent_order="HOLD"))
    source = world.accept().the_order
    relation = {"type": "SUPPLEMENTS", "targetOrderId": str(source.head.order_id), "reasonCode": "ADD_ON"}
    dependent = world.accept(replace(an_order(), relations=(relation,))).the_order
    world.order = replace(source, dependents={dependent.head.order_id: "SUPPLEMENTS"})
    request = world.cancel()
    follow = ask.FollowCancellation(dependent.head.order_id, source.head.order_id, request.request_id)
    source, world.order = world.the_order, dependent
    world.do(follow, around=Surroundings(cause=Cause(request.status)))
    assert world.state == "ON_HOLD"
    return source, request


def held_while_another_is_cancelled(world: Stage) -> None:
    """This time nothing comes of it."""
    source, request = held_by_another(world)
    dependent, world.order = world.the_order, source
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    world.order = dependent
    follow = ask.FollowCancellation(dependent.head.order_id, source.head.order_id, request.request_id)
    world.do(follow, around=Surroundings(cause=Cause("WITHDRAWN")))
    assert world.state == "ACKNOWLEDGED"


def let_go_after_another_was_cancelled(world: Stage) -> None:
    """What it supplements is gone; a person lets it go on all the same."""
    source, request = held_by_another(world)
    dependent, world.order = world.the_order, source
    assert world.judge(request).status == "COMPLETED"
    world.order = dependent
    follow = ask.FollowCancellation(dependent.head.order_id, source.head.order_id, request.request_id)
    world.do(follow, around=Surroundings(cause=Cause("COMPLETED")))
    assert world.state == "FALLOUT"
    retry(world)
    world.decompose().run_flow()
    assert world.state == "COMPLETED"


def flow_restarted(world: Stage) -> None:
    world.accept().decompose().release()
    plan = world.the_order.plan
    assert plan is not None
    world.do(ask.RestartFlow(world.order_id, plan.plan_id, "INSTANCE_GONE"))
    world.run_flow()
    assert world.state == "COMPLETED"


def bundle_loses_a_part(world: Stage) -> None:
    world.accept(
        an_order(an_item(offering="home-bundle"), an_item("2", parent="1"), an_item("3", "router", parent="1"))
    )
    world.decompose().run_to("reserve-inventory")
    request = world.judge(world.cancel(scope="ITEMS", item_ids=("3",)))
    world.run_flow()
    assert (world.request(request.request_id).status, world.state) == ("COMPLETED", "PARTIALLY_COMPLETED")


# -- failures and cases -----------------------------------------------------------------------------------------


def refused_and_repaired(world: Stage) -> None:
    world.accept().decompose().run_flow(answers(reserve_inventory=REFUSED))
    case = world.open_case()
    world.do(ask.AssignCase(world.order_id, case.case_id, "olga"), OPERATOR)
    world.do(ask.RaiseJeopardy(world.order_id, case.case_id, "CASE_SLA"))
    shown = ask.RecordRepair(world.order_id, case.case_id, Run(case.case_id), case.wait_key, "olga", "WAIVE", "no")
    world.do(shown, OPERATOR)
    world.do(ask.HoldOrder(world.order_id), OPERATOR)
    world.do(replace(shown, action="RETRY"), OPERATOR)
    assert world.open_case().status == "ASSIGNED"
    world.do(ask.ReleaseOrder(world.order_id), OPERATOR)
    retry(world)
    world.run_flow()
    assert world.state == "COMPLETED"


def unknown_for_long_then_refused(world: Stage) -> None:
    """The case was about an outcome that nobody knew; then the outcome comes, and it is a refusal."""
    world.accept().decompose()
    handed = next(h for h in world.release() if world.task_by_id(h["task_id"]).task_type == "reserve-inventory")
    world.report(world.claim(handed), UNKNOWN)
    world.wait(timedelta(days=2))
    assert verify(world, handed, "UNREACHABLE")["verdict"] == "case"
    hear(world, "reserve-inventory", REFUSED)
    assert world.open_case().category == "BUSINESS"


def unknown_then_found(world: Stage) -> None:
    world.accept().decompose()
    world.handed = world.release()
    handed = next(h for h in world.handed if world.task_by_id(h["task_id"]).task_type == "reserve-inventory")
    world.report(world.claim(handed), UNKNOWN)
    assert verify(world, handed, "CONFIRMED") == {"verdict": "confirmed"}
    world.run_flow()
    assert world.state == "COMPLETED"


def refused_under_a_cancellation(world: Stage) -> None:
    """A fact for the assessment, not in anybody's way; with the request withdrawn it is."""
    world.accept().decompose().run_flow(answers(reserve_inventory=ACCEPTED), only={"reserve-inventory"})
    request = world.cancel()
    hear(world, "reserve-inventory", REFUSED)
    assert (world.state, world.open_case().blocking) == ("CANCELLATION_REQUESTED", False)
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    assert world.state == "FALLOUT"
    retry(world)
    world.run_flow()
    assert world.state == "COMPLETED"


def happened_after_all(world: Stage) -> None:
    """T11: refused, given up and cancelled; then the system says that it did it."""
    world.accept().decompose()
    world.run_flow(answers(reserve_inventory=REFUSED), only={"reserve-inventory", "assign-resource"})
    request = world.judge(world.cancel())
    world.run_flow()
    assert (world.state, request.status) == ("CANCELLED", "COMPENSATING")
    hear(world, "reserve-inventory", CONFIRMED)
    assert world.open_case().context == "LATE_EFFECT"
    world.run_flow()
    assert world.effect("reserve-inventory").state == "REVERSED"


# -- cancellation -----------------------------------------------------------------------------------------------


def cancelled_before_anything(world: Stage) -> None:
    world.accept()
    world.judge(world.cancel())
    assert world.state == "CANCELLED"


def cancelled_on_the_way(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:3])
    world.judge(world.cancel())
    world.run_flow()
    assert world.state == "CANCELLED"


def _billed_first(document: dict[str, Any]) -> None:
    plans = document["offerings"]["router"]["plans"]
    plans["ADD"] = [{"step": "bill", "type": "start-billing"}, {**plans["ADD"][0], "after": ["bill"]}]
    plans["MODIFY"] = [{"step": "bill", "type": "change-billing"}]


def money_that_cannot_be_read(world: Stage) -> None:
    """A person names the amount that the system did not."""
    world.change_policy(_billed_first)
    world.accept(an_order(an_item(offering="router"))).decompose()
    told = {"captured": {"amountMinor": "39.99", "currency": "EUR"}}
    world.run_to("start-billing", outside=answers(start_billing={**CONFIRMED, "output": told}))
    world.judge(world.cancel())
    case = world.open_case()
    named = {"refund": {"amountMinor": 3999, "currency": "EUR"}}
    repair = ask.RepairCase(world.order_id, case.case_id, "REPLACE_INPUT", "CONFIRMED_WITH_SYSTEM_OWNER", input=named)
    world.do(repair, OPERATOR)
    world.run_flow(answers(stop_billing={**CONFIRMED, "output": {"refunded": named["refund"]}}))
    assert world.state == "CANCELLED"
    world.change_policy(lambda _: None)


def not_cancellable(world: Stage) -> None:
    world.accept(an_order(an_item(offering="mobile-port-in"))).decompose().run_to("ship-device", "port-number")
    assert world.judge(world.cancel()).outcome == "NOT_CANCELLABLE"
    world.run_flow()
    assert world.state == "COMPLETED"


def out_of_grace(world: Stage) -> None:
    world.accept().decompose()
    world.run_flow(answers(assign_resource=ACCEPTED), only={"reserve-inventory", "assign-resource"})
    request = world.cancel()
    assert world.begin(request)["verdict"] == "wait"
    world.wait(timedelta(minutes=2, seconds=1))
    world.judge(request)
    hear(world, "assign-resource", CONFIRMED)
    world.run_flow()
    assert world.state == "CANCELLED"


def shipment_stopped(world: Stage) -> None:
    world.accept().decompose().run_flow(answers(ship_device=ACCEPTED), only=set(FIBER[:4]))
    world.judge(world.cancel())
    world.run_flow()
    assert (world.state, world.effect("ship-device").state) == ("CANCELLED", "NO_EFFECT")


def shipment_not_stopped(world: Stage) -> None:
    """A refused withdrawal sends the request back; its plan is superseded."""
    world.accept().decompose().run_flow(answers(ship_device=ACCEPTED), only=set(FIBER[:4]))
    request = world.judge(world.cancel())
    world.run_flow(answers(stop_shipment=REFUSED))
    assert world.begin(request)["verdict"] == "wait"
    hear(world, "ship-device", CONFIRMED)
    request = world.judge(request)
    approve(world, request)
    undo(world, request)
    assert world.state == "PARTIALLY_COMPLETED"


def reviewed_and_kept_in_part(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:6])
    request = world.judge(world.cancel())
    world.do(ask.RaiseJeopardy(world.order_id, request.request_id, "APPROVAL_SLA"))
    review = ask.RecordReview(world.order_id, request.request_id, request.run, request.wait_key)
    assert world.do(review).body == {"verdict": "again"}
    approve(world, request)
    undo(world, request)
    assert world.state == "PARTIALLY_COMPLETED"


def reviewed_and_refused(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:4])
    request = world.judge(world.cancel())
    world.do(ask.RejectCancellation(world.order_id, request.request_id, "too late"), APPROVER)
    world.run_flow()
    assert world.state == "COMPLETED"


def thought_better(world: Stage) -> None:
    world.accept().decompose().run_to("reserve-inventory")
    request = world.judge(world.cancel())
    world.do(ask.RaiseJeopardy(world.order_id, request.request_id, "PREDICTED"))
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id, "stay"), AGENT)
    world.run_flow()
    assert world.state == "COMPLETED"


def late_and_paid(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:3])
    world.wait(timedelta(days=10, hours=9))
    request = world.judge(world.cancel())
    world.do(ask.AnswerCharge(world.order_id, request.request_id, True), AGENT)
    undo(world, request)
    assert world.state == "CANCELLED"


def late_and_thought_better(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:3])
    world.wait(timedelta(days=10, hours=9))
    request = world.judge(world.cancel())
    world.do(ask.AnswerCharge(world.order_id, request.request_id, True), AGENT)
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id, "stay"), AGENT)
    assert world.state == "IN_PROGRESS"


def late_and_declined(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:3])
    world.wait(timedelta(days=10, hours=9))
    request = world.judge(world.cancel())
    world.do(ask.AnswerCharge(world.order_id, request.request_id, False), AGENT)
    assert world.state == "IN_PROGRESS"


def late_and_silent(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:3])
    world.wait(timedelta(days=10, hours=9))
    request = world.judge(world.cancel())
    world.wait(timedelta(days=2))
    assert world.assess(request)["verdict"] == "rejected"


def paid_back(world: Stage) -> None:
    """Under a policy by which even an active service can be undone: billing stops, and the money goes back."""

    def reversible(document: dict[str, Any]) -> None:
        for name in ("activate-service", "ship-device"):
            document["task_types"][name].pop("irreversible_after_state")
            document["task_types"][name]["reversibility"] = "AUTOMATIC"
        document["task_types"]["ship-device"]["compensation"] = "collect-parcel"
        document["task_types"]["collect-parcel"] = {
            "system": "shipping",
            "operation": "collect",
            "external_effect_level": "CUSTOMER_VISIBLE",
            "reversibility": "NONE",
        }
        # Something behind billing that never happens, so that the order is still alive when all else is done.
        welcome = {"step": "welcome", "type": "reserve-inventory", "after": ["bill"]}
        document["offerings"]["mobile-sim"]["plans"]["ADD"].append(welcome)

    world.change_policy(reversible)
    world.accept(an_order(an_item(offering="mobile-sim"))).decompose()
    world.run_to("assign-number", "ship-device", "activate-service", "start-billing")
    world.judge(world.cancel())
    world.run_flow()
    assert (world.state, world.called("stop-billing")) == ("CANCELLED", 1)
    world.change_policy(lambda _: None)


def undoing_refused_and_repaired(world: Stage) -> None:
    world.accept().decompose().run_to("reserve-inventory")
    world.judge(world.cancel())
    world.run_flow(answers(release_inventory=REFUSED))
    assert (world.state, world.compensation().state) == ("FALLOUT", "BLOCKED")
    retry(world)
    world.run_flow()
    assert world.state == "CANCELLED"


def undone_by_hand(world: Stage) -> None:
    world.accept(an_order(an_item(offering="legacy-contract"))).decompose().run_to("legacy-contract-note")
    request = world.judge(world.cancel())
    approve(world, request, **{str(world.task("legacy-contract-note").task_id): "MANUAL"})
    world.plan(request)
    assert (world.state, world.open_case().context) == ("FALLOUT", "COMPENSATION")


def undone_by_hand_and_vouched_for(world: Stage) -> None:
    """What a person undid, a second one believes: nobody was called, and the order is CANCELLED."""
    undone_by_hand(world)
    case_id, proof = world.open_case().case_id, {"kind": "TICKET", "reference": "INC-8"}
    world.do(ask.RepairCase(world.order_id, case_id, "FORCE_COMPLETE", "MANUAL_WORK_DONE", None, proof), OPERATOR)
    world.do(ask.DecideRepair(world.order_id, case_id, 1, True), APPROVER)
    assert world.state == "CANCELLED"


def forced_by_two(world: Stage) -> None:
    world.accept().decompose().run_flow(answers(assign_resource=REFUSED))
    proof = {"kind": "TICKET", "reference": "INC-7"}
    case_id = world.open_case().case_id
    reason = "MANUAL_WORK_DONE"
    world.do(ask.NoteRefusal(world.order_id, case_id, "EVIDENCE_REQUIRED", "FORCE_COMPLETE"), OPERATOR)
    for number, approved in ((1, False), (2, True)):
        world.do(ask.RepairCase(world.order_id, case_id, "FORCE_COMPLETE", reason, None, proof), OPERATOR)
        world.do(ask.DecideRepair(world.order_id, case_id, number, approved), APPROVER)
    world.run_flow()
    assert (world.state, world.called("assign-resource")) == ("COMPLETED", 1)


def item_given_up(world: Stage) -> None:
    world.accept().decompose().run_flow(answers(assign_resource=REFUSED))
    world.do(ask.RepairCase(world.order_id, world.open_case().case_id, "FAIL_ITEM", "BUSINESS_DECISION"), OPERATOR)
    world.judge(next(iter(world.the_order.requests.values())))
    world.run_flow()
    assert (world.state, world.the_order.items["1"].state) == ("FAILED", "FAILED")


def waived(world: Stage) -> None:
    world.accept().decompose().run_to("reserve-inventory")
    world.judge(world.cancel())
    world.run_flow(answers(release_inventory=REFUSED))
    case_id, proof = world.open_case().case_id, {"kind": "MAIL", "reference": "of the supplier"}
    amount = Money(1250, "EUR")
    command = ask.RepairCase(world.order_id, case_id, "WAIVE", "BUSINESS_DECISION", None, proof, amount=amount)
    world.do(command, OPERATOR)
    world.do(ask.DecideRepair(world.order_id, case_id, 1, approved=True), APPROVER)
    world.run_flow()
    assert (world.state, world.effect("reserve-inventory").state) == ("CANCELLED", "WAIVED")


def input_replaced(world: Stage) -> None:
    world.accept().decompose().run_flow(answers(activate_service=REFUSED))
    command = ask.RepairCase(
        world.order_id, world.open_case().case_id, "REPLACE_INPUT", "SYSTEM_RECOVERED", input={"site": "B"}
    )
    world.do(command, OPERATOR)
    world.run_flow()
    assert (world.state, world.called("activate-service")) == ("COMPLETED", 2)


def fewer_than_ordered(world: Stage) -> None:
    """A part of a quantity is given up after the reservation: that is made again for what is left."""
    world.accept(an_order(an_item(offering="router", quantity=5))).decompose().run_to("reserve-inventory")
    world.judge(world.cancel(scope="ITEMS", item_ids=("1",), quantities={"1": 2}))
    world.run_flow()
    assert (world.state, world.the_order.items["1"].quantity) == ("COMPLETED", 3)


def small_cancellation_overtaken(world: Stage) -> None:
    world.accept(an_order(an_item(), an_item("2", "static-ip", relies_on=("1",)))).decompose()
    world.run_to("reserve-inventory", "assign-number")
    small = world.cancel(scope="ITEMS", item_ids=("2",))
    world.begin(small)
    world.judge(world.cancel())
    world.run_flow()
    assert (world.state, world.request(small.request_id).status) == ("CANCELLED", "SUPERSEDED")


# -- amendments -------------------------------------------------------------------------------------------------

_SLOT = {"start": "2026-12-01T09:00:00+01:00", "end": "2026-12-01T12:00:00+01:00", "timeZone": "Europe/Berlin"}
_LATER = {**_SLOT, "start": "2026-12-02T09:00:00+01:00", "end": "2026-12-02T12:00:00+01:00"}
_SOON = {**_SLOT, "start": "2026-11-21T08:00:00+01:00"}
_PHONE = change("/contact/phone", "+49 30 1234567", "+49 30 7654321")


def _postal_code(path: str, code: str = "12940") -> ask.AskedChange:
    return change(f"/{path}/postalCode", "12930", code)


def amended_on_the_way(world: Stage) -> None:
    """A number at once, an address by a new plan, an appointment by undoing the old booking first."""
    world.accept().decompose().run_to("reserve-inventory")
    world.amend(_PHONE)
    waiting = world.drive(world.amend(_postal_code("deliveryAddress"), auto_apply=False))
    world.do(ask.ApplyAmendment(world.order_id, waiting.request_id), AGENT)
    world.drive(waiting)
    world.run_to("assign-resource", "create-appointment")
    world.drive(world.amend(change("/appointment", _SLOT, _LATER)))
    world.run_flow()


def amended_by_a_part_less(world: Stage) -> None:
    world.accept(an_order(an_item(), an_item("2", "mobile-sim"))).decompose().run_to("assign-resource")
    world.drive(world.amend(change("/items/2", None, None, "REMOVE")))
    world.run_flow()
    assert (world.the_order.items["2"].state, world.state) == ("SUPERSEDED", "COMPLETED")


def amended_and_followed(world: Stage) -> None:
    """Another port makes another booking necessary, although the booking was never sent the address."""

    def touch_the_port(document: dict[str, Any]) -> None:
        document["task_types"]["assign-resource"]["on_input_change"] = "REDO"
        document["task_types"]["create-appointment"]["inputs"] = ["/appointment", "/contact"]
        document["task_types"]["perform-visit"]["inputs"] = ["/appointment"]

    world.change_policy(touch_the_port)
    world.accept().decompose().run_to(*FIBER[:3])
    address = world.the_order.head.content["installationAddress"]
    amendment = world.drive(world.amend(change("/installationAddress", address, {**address, "postalCode": "12940"})))
    world.agree(amendment)
    world.run_flow(
        answers(assign_resource={"state": "CONFIRMED", "external_reference": "port-2", "output": {"port": 2}})
    )
    assert (world.state, world.the_order.head.plan_version) == ("COMPLETED", 3)


def amended_and_converted(world: Stage) -> None:
    """A booking that cannot be taken back is left to an order of its own; the new one is made beside it."""
    world.accept().decompose().run_to(*FIBER[:3])
    slot = world.the_order.head.content["appointment"]
    later = {**slot, "start": "2026-12-02T09:00:00+01:00", "end": "2026-12-02T12:00:00+01:00"}
    world.drive(world.amend(change("/appointment", slot, later)))
    world.run_flow(answers(cancel_appointment=REFUSED), only={"cancel-appointment"})
    line = {"itemId": "1", "action": "ADD", "productOfferingId": "fiber-500"}
    wish = {"orderType": "REPAIR", "items": [line]}
    case = world.open_case()
    order_id = world.order_id
    world.do(
        ask.RepairCase(order_id, case.case_id, "CONVERT_TO_ORDER", "CUSTOMER_AGREED", "they keep both", input=wish),
        OPERATOR,
    )
    world.run_flow()
    assert (world.order_id, world.state) == (order_id, "COMPLETED")


def amended_with_consent(world: Stage) -> None:
    """What is done is done elsewhere, and the old given back; more had happened than the first reviewer saw."""
    world.accept().decompose().run_to("reserve-inventory", "assign-resource")
    amendment = world.drive(world.amend(_postal_code("installationAddress")))
    world.run_to("create-appointment")
    world.do(ask.ApproveAmendment(world.order_id, amendment.request_id, "agreed"), APPROVER)
    world.agree(world.amendment(amendment.request_id))
    world.run_flow()


def amended_in_price(world: Stage) -> None:
    """A dearer product, a reviewer who says no, a system that has no such offer, and a part of what was wished."""
    world.accept()
    prices = [{"itemId": "1", "price": {"amountMinor": 5999, "currency": "EUR"}}]
    dearer = answers(revalidate_quote={"state": "CONFIRMED", "output": {"prices": prices}})
    amendment = world.drive(world.amend(change("/items/1/productOfferingId", "fiber-500", "fiber-1000")), dearer)
    world.do(ask.RejectAmendment(world.order_id, amendment.request_id, "too dear"), APPROVER)
    refusing = answers(revalidate_quote=REFUSED)
    world.drive(world.amend(change("/items/1/productOfferingId", "fiber-500", "fiber-100")), refusing)
    world.decompose()
    world.drive(world.amend(change("/items/1/quantity", 1, 2)), dearer)
    world.run_flow()


def amended_late_and_paid(world: Stage) -> None:
    world.accept(an_order(appointment=_SOON)).decompose()
    world.run_to("reserve-inventory", "assign-resource", "create-appointment")
    amendment = world.drive(world.amend(change("/appointment", _SOON, _LATER)))
    world.do(ask.AnswerAmendmentCharge(world.order_id, amendment.request_id, True), AGENT)
    world.drive(amendment)
    world.run_flow()


def amendments_in_each_others_way(world: Stage) -> None:
    """Queued behind another, superseded by a newer one, taken back, and resumed."""
    world.accept().decompose().run_to("reserve-inventory", "assign-resource", "create-appointment")
    world.drive(world.amend(_postal_code("installationAddress", "10115")))
    newer = world.drive(world.amend(_postal_code("installationAddress")))
    world.amend(change("/appointment", _SLOT, _LATER))
    world.do(ask.WithdrawAmendment(world.order_id, newer.request_id, "never mind"), AGENT)
    for amendment in list(world.the_order.amendments.values()):
        world.drive(amendment)
    world.run_flow()


def amended_then_cancelled(world: Stage) -> None:
    """A cancellation comes over an amendment that has undone nothing yet; what it had begun, the cancellation ends."""
    world.accept().decompose().run_to("reserve-inventory", "assign-resource", "create-appointment")
    world.drive(world.amend(change("/appointment", _SLOT, _LATER)))
    request = world.judge(world.cancel())
    world.run_flow()
    assert world.request(request.request_id).status == "COMPLETED"


def amended_by_hand(world: Stage) -> None:
    """A shipment under way that could not be stopped: a person must see to it."""
    world.accept().decompose().run_to("reserve-inventory", "assign-resource")
    world.run_flow(answers(ship_device=ACCEPTED), only={"ship-device"})
    world.agree(world.drive(world.amend(_postal_code("deliveryAddress"))))
    world.run_flow(answers(stop_shipment=REFUSED), only={"stop-shipment"})
    hear(world, "ship-device", CONFIRMED)


def done_once_more(world: Stage) -> None:
    """REDO: the new effect takes the place of the old one, and nothing is undone by a call."""

    def redo(document: dict[str, Any]) -> None:
        document["task_types"]["create-appointment"]["on_input_change"] = "REDO"

    world.change_policy(redo)
    world.accept().decompose().run_to("reserve-inventory", "assign-resource", "create-appointment")
    world.drive(world.amend(change("/appointment", _SLOT, _LATER)))
    world.run_flow()


STORIES: tuple[Story, ...] = (
    delivered_then_cancelled_too_late,
    delivered_then_followed_up,
    no_longer_sold,
    held_and_released,
    asset_modified,
    related_to_an_older_one,
    held_while_another_is_cancelled,
    let_go_after_another_was_cancelled,
    flow_restarted,
    bundle_loses_a_part,
    refused_and_repaired,
    unknown_for_long_then_refused,
    unknown_then_found,
    refused_under_a_cancellation,
    happened_after_all,
    cancelled_before_anything,
    cancelled_on_the_way,
    not_cancellable,
    money_that_cannot_be_read,
    out_of_grace,
    shipment_stopped,
    shipment_not_stopped,
    reviewed_and_kept_in_part,
    reviewed_and_refused,
    thought_better,
    late_and_paid,
    late_and_thought_better,
    late_and_declined,
    late_and_silent,
    paid_back,
    undoing_refused_and_repaired,
    undone_by_hand,
    forced_by_two,
    undone_by_hand_and_vouched_for,
    item_given_up,
    waived,
    input_replaced,
    small_cancellation_overtaken,
    fewer_than_ordered,
    amended_on_the_way,
    amended_by_a_part_less,
    amended_and_followed,
    amended_and_converted,
    amended_with_consent,
    amended_in_price,
    amended_late_and_paid,
    amendments_in_each_others_way,
    amended_then_cancelled,
    done_once_more,
)


# -- left as they are, for what is true only of orders that live ------------------------------------------------


def being_cancelled(world: Stage) -> None:
    world.accept().decompose().run_to("reserve-inventory")
    world.cancel()
    assert world.state == "CANCELLATION_REQUESTED"


def being_reviewed(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:4])
    assert world.judge(world.cancel()).status == "REQUIRES_APPROVAL"


def being_undone(world: Stage) -> None:
    world.accept().decompose().run_to(*FIBER[:3])
    world.judge(world.cancel())
    assert set(world.undoings().values()) > {"PLANNED"}


def on_hold(world: Stage) -> None:
    world.accept().decompose().run_to("reserve-inventory")
    world.do(ask.HoldOrder(world.order_id), OPERATOR)


def asset_being_modified(world: Stage) -> None:
    asset = Asset(AssetId(uuid.UUID(int=0xA6)), "c-9", "fiber-500", {}, "ACTIVE")
    world.do(
        an_order(an_item(action="MODIFY", target_asset=asset.asset_id)), AGENT, Surroundings({asset.asset_id: asset})
    )
    world.decompose()


def waiting_for_another(world: Stage) -> None:
    held_by_another(world)


UNFINISHED: tuple[Story, ...] = (
    waiting_for_another,
    being_cancelled,
    being_reviewed,
    being_undone,
    on_hold,
    asset_being_modified,
    amended_by_hand,
)
