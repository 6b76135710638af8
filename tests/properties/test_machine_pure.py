"""One order under every interleaving that people, systems, crashes and time can make, over the pure core."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import commands as ask
from domain.errors import Breach
from domain.order import Amendment, Order, Request
from domain.values import EffectId, RequestId, TaskId
from tests.builders import AGENT, APPROVER, OPERATOR, World, an_item, an_order, changed_telecom
from tests.properties.invariants import audit_tells_the_states, check_order

# What fails is made small before it is told.
pytestmark = pytest.mark.timeout(900)

OUTCOMES: tuple[Mapping[str, Any], ...] = (
    {"state": "CONFIRMED", "external_reference": "ref", "output": {"captured": 100}},
    {"state": "CONFIRMED", "external_reference": "ref", "output": {}},
    {"state": "NO_EFFECT", "reason": "no"},
    {"state": "ACCEPTED"},
    {"state": "UNKNOWN", "reason": "timed out"},
)
SHAPES = (
    (an_item(),),
    (an_item(offering="mobile-sim"),),
    (an_item(), an_item("2", "fiber-1000")),  # they share the visit
    (an_item(), an_item("2", "static-ip", relies_on=("1",))),
    (an_item(offering="home-bundle"), an_item("2", parent="1"), an_item("3", "router", parent="1")),
    (an_item(offering="legacy-contract"), an_item("2", "mobile-port-in")),
    (an_item(offering="router", quantity=4), an_item("2", quantity=3)),
)
WISHES: Mapping[str, tuple[Any, ...]] = {
    "phone": ("/contact/phone", "+49 30 1234567", "+49 30 7654321"),
    "postal code": ("/deliveryAddress/postalCode", "12930", "12940"),
    "place": ("/installationAddress/postalCode", "12930", "12940"),
    "hour": ("/appointment/end", "2026-12-01T12:00:00+01:00", "2026-12-01T13:00:00+01:00"),
    "device": ("/items/1/configuration/deviceModel", "R7", "R9"),
    "quantity": ("/items/1/quantity", 2, 3),
    "product": ("/items/1/productOfferingId", "fiber-500", "fiber-1000"),
}


def value_at(order: Order, parts: list[str]) -> Any:
    """What an order says at a place, read from its documents as they are."""
    value: Any = order.items[parts[1]].document() if parts[0] == "items" else order.head.content
    for part in parts[2:] if parts[0] == "items" else parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class OrderMachine(RuleBasedStateMachine):
    """Draws from what the world could do next; a breach is an answer, an illegal move or a broken invariant is not."""

    def make_world(self) -> World:
        return World()

    @initialize(shape=st.sampled_from(SHAPES), progress=st.integers(-1, 6))
    def accept(self, shape: tuple[ask.OrderItem, ...], progress: int) -> None:
        """An order that has come so far: -1 not decomposed, 0 decomposed, n so many effects confirmed."""
        self.world = self.make_world().accept(an_order(*shape))
        self.previous: Order | None = None
        self.jobs: list[Mapping[str, Any]] = []
        self.calls: list[Mapping[str, Any]] = []
        if progress >= 0:
            self.world.decompose()
        for _ in range(progress):
            self.work(0, OUTCOMES[0], True)

    def ask(self, command: ask.Command, actor: Any = None) -> Mapping[str, Any] | None:
        before = self.world.the_order
        with contextlib.suppress(Breach):
            self.previous = before
            return self.world.do(command, actor).body
        return None

    def pick(self, things: list[Any], number: int) -> Any:
        return things[number % len(things)] if things else None

    # -- the flows ----------------------------------------------------------------------------------------

    @rule()
    def drive_fulfillment(self) -> None:
        self.world.decompose()

    @rule(number=st.integers(0, 99), outcome=st.sampled_from(OUTCOMES), answered=st.booleans())
    def work(self, number: int, outcome: Mapping[str, Any], answered: bool) -> None:
        """What mostly happens: a wave is asked for, one of its jobs claims and calls, and usually hears an answer."""
        for plan in [self.world.the_order.plan, *self.world.the_order.plans.values()]:
            if plan:
                told = self.ask(ask.ReleaseTasks(self.world.order_id, plan.plan_id, plan.run))
                self.jobs += (told or {})["tasks"]
        fresh = [j for j in self.jobs if self.world.task_by_id(j["task_id"]).state == "READY"]
        job = self.pick(fresh, number)
        if job:
            self.claim_job(job)
            if answered and self.calls:
                self.world.report(self.calls[-1], outcome)

    @rule(number=st.integers(0, 9))
    def release(self, number: int) -> None:
        plans = [plan for plan in [self.world.the_order.plan, *self.world.the_order.plans.values()] if plan]
        plan = self.pick(plans, number)
        if plan:
            told = self.ask(ask.ReleaseTasks(self.world.order_id, plan.plan_id, plan.run))
            self.jobs += (told or {})["tasks"]

    @rule(number=st.integers(0, 99))
    def claim(self, number: int) -> None:
        """Any job that was ever handed out may come (again): redelivery, a second worker, a dead flow."""
        job = self.pick(self.jobs, number)
        if job:
            self.claim_job(job)

    def claim_job(self, job: Mapping[str, Any]) -> None:
        task = self.world.task_by_id(job["task_id"])
        held = self.world.the_order.holds.get(task.task_id)
        run = self.world.the_order.head.run
        told = self.ask(ask.ClaimTask(self.world.order_id, task.task_id, job["release"], run))
        if told and told["verdict"] == "call":
            assert not (held and task.state == "READY"), "I6: a held task started"
            self.calls.append(told)

    @rule(number=st.integers(0, 99), outcome=st.sampled_from(OUTCOMES), source=st.sampled_from(["CALL", "CALLBACK"]))
    def report(self, number: int, outcome: Mapping[str, Any], source: Any) -> None:
        """The answer to any call that was ever made: the first time, again, late, contradicting."""
        call = self.pick(self.calls, number)
        if call and not (source == "CALLBACK" and outcome["state"] in {"ACCEPTED", "UNKNOWN"}):
            attempt = call["attempt"] if source == "CALL" else None
            effect_id = EffectId(uuid.UUID(call["effect_id"]))
            self.ask(ask.RecordOutcome(self.world.order_id, effect_id, source=source, attempt=attempt, **outcome))

    @rule(
        number=st.integers(0, 99),
        found=st.sampled_from(["CONFIRMED", "NO_EFFECT", "ACCEPTED", "MISSING", "UNREACHABLE"]),
    )
    def verify(self, number: int, found: Any) -> None:
        job = self.pick(self.jobs, number)
        if job:
            task_id = TaskId(uuid.UUID(job["task_id"]))
            run = self.world.the_order.head.run
            told = self.ask(ask.ClaimVerification(self.world.order_id, task_id, job["release"], run))
            if told and told["verdict"] == "ask":
                effect_id = EffectId(uuid.UUID(told["effect_id"]))
                self.ask(ask.RecordOutcome(self.world.order_id, effect_id, found, "VERIFICATION", told["attempt"]))

    @rule(number=st.integers(0, 9))
    def restart(self, number: int) -> None:
        plans = [plan for plan in [self.world.the_order.plan, *self.world.the_order.plans.values()] if plan]
        plan = self.pick(plans, number)
        if plan:
            self.ask(ask.RestartFlow(self.world.order_id, plan.plan_id, "lost"))

    # -- people -------------------------------------------------------------------------------------------

    @rule(wish=st.sampled_from(sorted(WISHES)), auto_apply=st.booleans(), allow_partial=st.booleans())
    def amend(self, wish: str, auto_apply: bool, allow_partial: bool) -> None:
        """One of a few fields to one of two values: the same again is no change, another one supersedes."""
        path, *values = WISHES[wish]
        parts = path.removeprefix("/").split("/")
        stands = value_at(self.world.the_order, parts)
        new = values[0] if stands != values[0] else values[1]
        asked = ask.AskedChange(path, "REPLACE" if stands is not None else "ADD", stands, new)
        request_id = RequestId(uuid.uuid4())
        command = ask.RequestAmendment(
            self.world.order_id,
            request_id,
            "CUSTOMER_REQUEST",
            (asked,),
            allow_partial=allow_partial,
            auto_apply=auto_apply,
        )
        self.ask(command, AGENT)

    @rule(item_id=st.sampled_from(["1", "2", "3"]))
    def take_out(self, item_id: str) -> None:
        asked = (ask.AskedChange(f"/items/{item_id}", "REMOVE", None, None),)
        self.ask(ask.RequestAmendment(self.world.order_id, RequestId(uuid.uuid4()), "CUSTOMER_REQUEST", asked), AGENT)

    @precondition(lambda self: self.world.the_order.amendments)
    @rule(
        number=st.integers(0, 9),
        how=st.sampled_from(["assess", "carry_out", "restart", "approve", "reject", "withdraw", "apply", "accept"]),
    )
    def drive_amendment(self, number: int, how: str) -> None:
        """Its flow and the people of it, in any order."""
        amendment = self.pick(list(self.world.the_order.amendments.values()), number)
        order_id, request_id = self.world.order_id, amendment.request_id
        commands: dict[str, tuple[ask.Command, Any]] = {
            "assess": (ask.AssessAmendment(order_id, request_id, amendment.run), None),
            "carry_out": (ask.CarryOutAmendment(order_id, request_id, amendment.run), None),
            "restart": (ask.RestartFlow(order_id, None, "lost", request_id), None),
            "approve": (ask.ApproveAmendment(order_id, request_id), APPROVER),
            "reject": (ask.RejectAmendment(order_id, request_id), APPROVER),
            "withdraw": (ask.WithdrawAmendment(order_id, request_id), AGENT),
            "apply": (ask.ApplyAmendment(order_id, request_id), AGENT),
            "accept": (ask.AnswerAmendmentCharge(order_id, request_id, True), AGENT),
        }
        self.ask(*commands[how])

    @rule(
        reason=st.sampled_from(["CUSTOMER_CHANGED_MIND", "REGULATORY", "CANNOT_DELIVER"]),
        forced=st.booleans(),
        item=st.sampled_from([None, None, "1", "2"]),
        part=st.sampled_from([None, 1, 2]),
    )
    def cancel(self, reason: str, forced: bool, item: str | None, part: int | None) -> None:
        """The order, an item of it, or so many of an item."""
        if item is not None and item not in self.world.the_order.items:
            return
        scope: dict[str, Any] = {"scope": "ITEMS", "item_ids": (item,)} if item else {}
        if item and part:
            scope["quantities"] = {item: part}
        with contextlib.suppress(Breach):
            self.previous = self.world.the_order
            self.world.cancel(reason, force_manual_review=forced, **scope)

    @precondition(lambda self: any(item.quantity > 1 for item in self.world.the_order.items.values()))
    @rule(number=st.integers(0, 9), judged=st.booleans())
    def give_up_one(self, number: int, judged: bool) -> None:
        """One of several of an item, mostly seen through at once: by chance it would seldom come so far."""
        item = self.pick([item for item in self.world.the_order.items.values() if item.quantity > 1], number)
        with contextlib.suppress(Breach):
            self.previous = self.world.the_order
            one = {item.item_id: 1}
            request = self.world.cancel(scope="ITEMS", item_ids=(item.item_id,), quantities=one)
            if judged:
                self.previous = self.world.the_order
                self.world.judge(request)

    def request(self, number: int) -> Request | None:
        found: Request | None = self.pick(list(self.world.the_order.requests.values()), number)
        return found

    @precondition(lambda self: self.world.the_order.requests)
    @rule(number=st.integers(0, 9), step=st.sampled_from(["begin", "assess", "plan", "all"]))
    def drive_cancellation(self, number: int, step: str) -> None:
        request = self.request(number)
        assert request is not None
        self.previous = self.world.the_order
        if step == "all":
            self.world.judge(request)
        else:
            getattr(self.world, step)(request)

    @precondition(lambda self: self.world.the_order.requests)
    @rule(
        number=st.integers(0, 9),
        how=st.sampled_from(["approve", "reject", "withdraw", "accept", "decline"]),
        disposition=st.sampled_from(["RETAIN", "MANUAL"]),
    )
    def decide(self, number: int, how: str, disposition: str) -> None:
        request = self.request(number)
        assert request is not None
        order_id, request_id = self.world.order_id, request.request_id
        impacts = (request.assessment or {}).get("taskImpacts", ())
        manual = {impact["taskId"]: disposition for impact in impacts if impact["consequence"] == "MANUAL"}
        commands: dict[str, tuple[ask.Command, Any]] = {
            "approve": (ask.ApproveCancellation(order_id, request_id, dispositions=manual), APPROVER),
            "reject": (ask.RejectCancellation(order_id, request_id), APPROVER),
            "withdraw": (ask.WithdrawCancellation(order_id, request_id), AGENT),
            "accept": (ask.AnswerCharge(order_id, request_id, True), AGENT),
            "decline": (ask.AnswerCharge(order_id, request_id, False), AGENT),
        }
        self.ask(*commands[how])

    @rule(number=st.integers(0, 9))
    def retry(self, number: int) -> None:
        case = self.pick(list(self.world.the_order.cases.values()), number)
        if case:
            self.ask(ask.RepairCase(self.world.order_id, case.case_id, "RETRY", "SYSTEM_RECOVERED"), OPERATOR)

    @rule(on=st.booleans())
    def hold(self, on: bool) -> None:
        order_id = self.world.order_id
        self.ask(ask.HoldOrder(order_id) if on else ask.ReleaseOrder(order_id), OPERATOR)

    @rule(span=st.sampled_from([timedelta(seconds=16), timedelta(minutes=2), timedelta(hours=2), timedelta(days=11)]))
    def wait(self, span: timedelta) -> None:
        self.world.wait(span)

    # -- what must hold --------------------------------------------------------------------------------------

    @invariant()
    def the_order_is_sound(self) -> None:
        if hasattr(self, "world"):
            check_order(self.world.the_order, self.previous)
            self.check_audit()

    def check_audit(self) -> None:
        audit_tells_the_states(self.world.the_order, self.world.events)

    def teardown(self) -> None:
        """Once faults stop and people answer, every order comes to an end; nothing is stuck for ever."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for _ in range(40):
            if world.the_order.head.has_ended and not self._open_work():
                break
            with contextlib.suppress(Breach):
                world.do(ask.ReleaseOrder(world.order_id), OPERATOR)
            world.wait(timedelta(seconds=30)).decompose()
            for request in list(world.the_order.requests.values()):
                self._push(request)
            for amendment in list(world.the_order.amendments.values()):
                self._push_amendment(amendment)
            for case in list(world.the_order.cases.values()):
                self.ask(ask.RepairCase(world.order_id, case.case_id, "RETRY", "SYSTEM_RECOVERED"), OPERATOR)
            self._work()
            self.previous = None
            check_order(world.the_order, None)
            self.check_audit()
        assert world.the_order.head.has_ended or self._by_hand(), f"stuck in {world.state}"
        left = [amendment.status for amendment in world.the_order.amendments.values() if not amendment.has_ended]
        assert not left or self._by_hand(), f"amendments are left {left}"
        assert not self._open_work() or self._by_hand(), "work is left that nobody will do"

    def _by_hand(self) -> bool:
        """Whether a person was given something to undo; only that person can end it."""
        return any(t.purpose == "MANUAL" and t.state == "IN_FALLOUT" for t in self.world.the_order.tasks.values())

    def _open_work(self) -> list[str]:
        return [
            f"{t.task_type} {t.state}"
            for t in self.world.the_order.tasks.values()
            if not t.has_ended and t.purpose != "MANUAL"
        ]

    def _push(self, request: Request) -> None:
        """The flow and the people of one request do their part."""
        world = self.world
        if request.has_ended:
            return
        world.judge(request)
        request = world.request(request.request_id)
        impacts = (request.assessment or {}).get("taskImpacts", ())
        manual = {impact["taskId"]: "RETAIN" for impact in impacts if impact["consequence"] == "MANUAL"}
        order_id, request_id = world.order_id, request.request_id
        self.ask(ask.ApproveCancellation(order_id, request_id, dispositions=manual), APPROVER)
        self.ask(ask.AnswerCharge(order_id, request_id, True), AGENT)
        if not world.request(request_id).has_ended:
            world.plan(request)

    def _push_amendment(self, amendment: Amendment) -> None:
        """The flow and the people of one amendment do their part."""
        order_id, request_id = self.world.order_id, amendment.request_id
        for command, actor in (
            (ask.ApproveAmendment(order_id, request_id), APPROVER),
            (ask.AnswerAmendmentCharge(order_id, request_id, True), AGENT),
            (ask.ApplyAmendment(order_id, request_id), AGENT),
        ):
            self.ask(command, actor)
        for _ in range(2):
            run = self.world.amendment(request_id).run
            self.ask(ask.AssessAmendment(order_id, request_id, run))
            self.ask(ask.CarryOutAmendment(order_id, request_id, run))

    def _work(self) -> None:
        """Walkers ask, workers call, systems confirm; a job that waits is asked again."""
        world = self.world
        for plan in [world.the_order.plan, *world.the_order.plans.values()]:
            if plan:
                self.jobs += (self.ask(ask.ReleaseTasks(world.order_id, plan.plan_id, plan.run)) or {}).get("tasks", [])
        for job in {(j["task_id"], j["release"]): j for j in self.jobs}.values():
            told = world.claim(job)
            if told["verdict"] == "call":
                world.report(told, OUTCOMES[0])
            elif told["verdict"] in {"accepted", "unknown"}:
                self.jobs.append(job)
                self._verify(job)

    def _verify(self, job: Mapping[str, Any]) -> None:
        task_id = TaskId(uuid.UUID(job["task_id"]))
        run = self.world.the_order.head.run
        told = self.ask(ask.ClaimVerification(self.world.order_id, task_id, job["release"], run))
        if told and told["verdict"] == "ask":
            effect_id = EffectId(uuid.UUID(told["effect_id"]))
            self.ask(ask.RecordOutcome(self.world.order_id, effect_id, "CONFIRMED", "VERIFICATION", told["attempt"]))


TestOrder = OrderMachine.TestCase
TestOrder.settings = settings(stateful_step_count=50, suppress_health_check=list(HealthCheck))


def do_anew(document: dict[str, Any]) -> None:
    """A business that changes its mind a lot: nearly everything may be done anew, in every way there is, and what comes
    after it follows its result."""
    types = document["task_types"]
    for name, how, inputs in (
        ("reserve-inventory", "DO_THEN_UNDO", ["/items/*/configuration/deviceModel"]),
        ("assign-resource", "REDO", ["/installationAddress"]),
        ("create-appointment", "UNDO_THEN_DO", ["/appointment"]),
        ("ship-device", "REDO", ["/deliveryAddress"]),
        ("activate-service", "DO_THEN_UNDO", ["/items/*/configuration/bandwidth"]),
        ("start-billing", "UNDO_THEN_DO", ["/items/*/price"]),
    ):
        types[name] |= {"on_input_change": how, "inputs": inputs}
    for field in document["amendable_fields"]:
        if field["field"] in {"installationAddress", "deliveryAddress", "appointment", "deviceModel"}:
            field["safety"] = dict.fromkeys(field["safety"], "REDECOMPOSE")


class RestlessMachine(OrderMachine):
    def make_world(self) -> World:
        return World(changed_telecom(do_anew))


TestRestlessOrder = RestlessMachine.TestCase
TestRestlessOrder.settings = settings(
    max_examples=2 * settings().max_examples, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
