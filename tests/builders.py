"""What tests build with: an order in memory, driven through the pure core as the flows would drive it.

`World` keeps nothing but the order, the messages that were sent and a book of outside calls; it decides nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from domain import commands as ask
from domain.decide import decide
from domain.events import Event, Message
from domain.fulfillment import blank_order
from domain.ledger import Effect
from domain.order import Amendment, Case, CompensationPlan, Decision, Draft, Order, Request, Surroundings, Task
from domain.policy import Policy, parse_policy, read_policy_text
from domain.values import Actor, EffectId, OrderId, PlanId, RequestId, Run, TaskId, TenantId, system_actor

ROOT = Path(__file__).parent.parent
TENANT = TenantId(uuid.UUID("00000000-0000-4000-8000-000000000001"))
NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
AGENT = Actor("alice", frozenset({"agent"}))
APPROVER = Actor("bob", frozenset({"approver"}))
OPERATOR = Actor("olga", frozenset({"operator"}))

Outside = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@cache
def telecom() -> Policy:
    return parse_policy(read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text()))


def energy(change: Callable[[dict[str, Any]], None] | None = None) -> Policy:
    """Another business altogether: nothing in the product knows it."""
    document: Any = read_policy_text((ROOT / "tests/policies/energy.policy.yaml").read_text())
    if change:
        change(document)
    return parse_policy(document)


def changed_telecom(change: Callable[[dict[str, Any]], None]) -> Policy:
    """The shipped policy with one thing changed, for rules that it does not use."""
    document: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    change(document)
    return parse_policy(document)


def confirmed(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """The outside system that does everything at once."""
    return {"state": "CONFIRMED", "external_reference": f"ref-{call['body']['taskType']}", "output": {"captured": 3999}}


def accepted(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"state": "ACCEPTED"}


def refused(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"state": "NO_EFFECT", "reason": "not here"}


def silent(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"state": "UNKNOWN", "reason": "timed out"}


def only(types: Mapping[str, Outside]) -> Outside:
    """Outside systems that answer these task types so, and do everything else at once."""
    return lambda call: types.get(call["body"]["taskType"], confirmed)(call)


def an_item(item_id: str = "1", offering: str = "fiber-500", **overrides: Any) -> ask.OrderItem:
    content = {
        "configuration": {"bandwidth": "500M", "deviceModel": "R7"},
        "price": {"amountMinor": 3999, "currency": "EUR"},
    }
    fields: dict[str, Any] = {"item_id": item_id, "action": "ADD", "offering": offering, "quantity": 1} | overrides
    fields.setdefault("content", content)
    return ask.OrderItem(**fields)


def an_order(*items: ask.OrderItem, **content: Any) -> ask.AcceptOrder:
    address = {"street": "Weg 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}
    document = {
        "customer": {"id": "c-9", "name": "Ada"},
        "contact": {"name": "Ada", "phone": "+49 30 1234567"},
        "deliveryAddress": address,
        "installationAddress": address,
        "appointment": {
            "start": "2026-12-01T09:00:00+01:00",
            "end": "2026-12-01T12:00:00+01:00",
            "timeZone": "Europe/Berlin",
        },
    } | content
    return ask.AcceptOrder(
        order_id=OrderId(uuid.uuid4()),
        external_id=None,
        order_type="STANDARD",
        content={key: value for key, value in document.items() if value is not None},
        items=items or (an_item(),),
    )


def change(path: str, old: Any, new: Any, operation: str = "REPLACE") -> ask.AskedChange:
    return ask.AskedChange(path, operation, old, new)


class World:
    """One order and the flows around it. `settle_outside` plays walker and workers until nothing moves."""

    def __init__(self, policy: Policy | None = None, now: datetime = NOW) -> None:
        self.policy = policy or telecom()
        self.policy_version = 1
        self.now = now
        self.order: Order | None = None
        self.messages: list[Message] = []
        self.events: list[Event] = []
        self.calls: list[Mapping[str, Any]] = []
        self.handed: list[dict[str, Any]] = []
        self.followed: list[Decision] = []

    # -- asking -----------------------------------------------------------------------------------------

    def do(
        self,
        command: ask.Command,
        actor: Actor | None = None,
        around: Surroundings | None = None,
        command_id: uuid.UUID | None = None,
        on_behalf_of: str | None = None,
    ) -> Decision:
        order = self.order
        if isinstance(command, ask.AcceptOrder):
            order = blank_order(TENANT, command, self.policy_version, self.now)
        assert order is not None
        draft = Draft(
            order,
            actor=actor or system_actor("test"),
            on_behalf_of=on_behalf_of,
            now=self.now,
            command_id=command_id or uuid.uuid4(),
            policy=self.policy,
            policy_version=self.policy_version,
        )
        decision = decide(draft, command, around or Surroundings())
        self.order = draft.result()
        if isinstance(command, ask.AcceptOrder) and around:
            self.order = replace(self.order, assets=around.assets)  # as the store would load them from then on
        self.messages += draft.messages
        self.events += draft.events
        if draft.follow_up:
            self.followed.append(self._take_in(draft, draft.follow_up))
        return decision

    def _take_in(self, source: Draft, command: ask.AcceptOrder) -> Decision:
        """The new order that a command on this one asked for, as the door would take it in with it."""
        draft = Draft(
            blank_order(TENANT, command, self.policy_version, self.now),
            actor=source.actor,
            on_behalf_of=None,
            now=self.now,
            command_id=command.order_id,
            policy=self.policy,
            policy_version=self.policy_version,
        )
        return decide(draft, command, Surroundings(source.assets, source_state=source.before.head.state))

    def accept(self, command: ask.AcceptOrder | None = None) -> World:
        self.do(command or an_order(), AGENT)
        return self

    def decompose(self, around: Surroundings | None = None) -> World:
        run = self.the_order.head.run
        order_id = self.the_order.head.order_id
        self.do(ask.ValidateOrder(order_id, run))
        self.do(ask.CheckStartDate(order_id, run))
        self.do(ask.DecomposeOrder(order_id, run), around=around)
        return self

    def wait(self, span: timedelta) -> World:
        self.now += span
        return self

    # -- the walker and its workers ---------------------------------------------------------------------

    def release(self, plan_id: PlanId | None = None) -> list[dict[str, Any]]:
        plan = (self.the_order.plans.get(plan_id) if plan_id else None) or self.the_order.plan
        assert plan is not None
        return list(self.do(ask.ReleaseTasks(self.order_id, plan.plan_id, plan.run)).body["tasks"])

    def claim(self, handed: Mapping[str, Any]) -> Mapping[str, Any]:
        command = ask.ClaimTask(
            self.order_id, TaskId(uuid.UUID(handed["task_id"])), handed["release"], Run(uuid.uuid4())
        )
        told = self.do(command).body
        if told["verdict"] == "call":
            self.calls.append(told)
        return told

    def report(self, call: Mapping[str, Any], answer: Mapping[str, Any], source: Any = "CALL") -> Mapping[str, Any]:
        effect_id = EffectId(uuid.UUID(str(call["effect_id"])))
        attempt = None if source == "CALLBACK" else call.get("attempt")
        command = ask.RecordOutcome(self.order_id, effect_id, source=source, attempt=attempt, **answer)
        return self.do(command).body

    def run_flow(self, outside: Outside = confirmed, *, only: set[str] | None = None) -> World:
        """Release, claim, call and report until nothing more can be handed out.

        `only`: names of task types that are called; jobs of others wait, as if their workers were slow.
        """
        moved = True
        while moved:
            moved = False
            for plan in [self.the_order.plan, *self.the_order.plans.values()]:
                if plan is not None:
                    self.handed += self.release(plan.plan_id)
            for handed in list(self.handed):
                if only is not None and self.task_by_id(handed["task_id"]).task_type not in only:
                    continue
                self.handed.remove(handed)
                told = self.claim(handed)
                if told["verdict"] == "call":
                    self.report(told, outside(told))
                    moved = True
        return self

    def run_to(self, *types: str, outside: Outside = confirmed) -> World:
        return self.run_flow(outside, only=set(types))

    # -- cancelling ---------------------------------------------------------------------------------------

    def cancel(self, reason: str = "CUSTOMER_CHANGED_MIND", actor: Actor = AGENT, **more: Any) -> Request:
        request_id = RequestId(uuid.uuid4())
        fields: dict[str, Any] = {"scope": "ORDER", "item_ids": ()} | more
        self.do(ask.RequestCancellation(self.order_id, request_id, reason_code=reason, **fields), actor)
        return self.request(request_id)

    def begin(self, request: Request) -> Mapping[str, Any]:
        return self.do(
            ask.BeginAssessment(self.order_id, request.request_id, self.request(request.request_id).run)
        ).body

    def assess(self, request: Request) -> Mapping[str, Any]:
        return self.do(
            ask.AssessCancellation(self.order_id, request.request_id, self.request(request.request_id).run)
        ).body

    def plan(self, request: Request) -> Mapping[str, Any]:
        return self.do(
            ask.PlanCompensation(self.order_id, request.request_id, self.request(request.request_id).run)
        ).body

    def judge(self, request: Request) -> Request:
        """As far as the flow goes without people: quiet, assessed, and planned where that is automatic."""
        self.begin(request)
        if self.assess(request)["verdict"] == "automatic":
            self.plan(request)
        return self.request(request.request_id)

    def approve(self, request: Request, dispositions: Mapping[str, str] | None = None) -> Request:
        command = ask.ApproveCancellation(self.order_id, request.request_id, dispositions=dispositions or {})
        self.do(command, APPROVER)
        return self.request(request.request_id)

    # -- amending -----------------------------------------------------------------------------------------

    def amend(self, *changes: ask.AskedChange, reason: str = "CUSTOMER_REQUEST", **more: Any) -> Amendment:
        request_id = RequestId(uuid.uuid4())
        actor = more.pop("actor", AGENT)
        self.do(ask.RequestAmendment(self.order_id, request_id, reason, changes, **more), actor)
        return self.amendment(request_id)

    def assess_amendment(self, amendment: Amendment) -> Mapping[str, Any]:
        run = self.amendment(amendment.request_id).run
        return self.do(ask.AssessAmendment(self.order_id, amendment.request_id, run)).body

    def carry_out(self, amendment: Amendment) -> Mapping[str, Any]:
        run = self.amendment(amendment.request_id).run
        return self.do(ask.CarryOutAmendment(self.order_id, amendment.request_id, run)).body

    def drive(self, amendment: Amendment, quote: Outside = confirmed) -> Amendment:
        """As far as the amendment's flow goes without people: assessed, prices asked for, applied."""
        told = self.assess_amendment(amendment)
        if told["verdict"] == "revalidate":
            self.run_flow(quote, only={"revalidate-quote"})
            told = self.assess_amendment(amendment)
        while told["verdict"] in {"apply", "assess"}:
            told = self.carry_out(amendment) if told["verdict"] == "apply" else self.assess_amendment(amendment)
        return self.amendment(amendment.request_id)

    def agree(self, amendment: Amendment) -> Amendment:
        """A person approves, and the flow goes on."""
        self.do(ask.ApproveAmendment(self.order_id, amendment.request_id), APPROVER)
        return self.drive(amendment)

    def amendment(self, request_id: RequestId) -> Amendment:
        return self.the_order.amendments[request_id]

    def retry(self) -> None:
        """The operator's answer to the one open case: try again."""
        self.do(ask.RepairCase(self.order_id, self.open_case().case_id, "RETRY", "SYSTEM_RECOVERED"), OPERATOR)

    def verify(self, task_type: str, finding: Any) -> Mapping[str, Any]:
        """One round of verification: ask the core, play the system's answer, tell the core."""
        task = self.task(task_type)
        told = self.do(ask.ClaimVerification(self.order_id, task.task_id, task.release, Run(task.task_id))).body
        if told["verdict"] != "ask":
            return told
        return self.report(told, {"state": finding}, source="VERIFICATION")

    # -- looking --------------------------------------------------------------------------------------------

    @property
    def the_order(self) -> Order:
        assert self.order is not None
        return self.order

    @property
    def order_id(self) -> OrderId:
        return self.the_order.head.order_id

    @property
    def state(self) -> str:
        return self.the_order.head.state

    def request(self, request_id: RequestId) -> Request:
        return self.the_order.requests[request_id]

    def task_by_id(self, task_id: str) -> Task:
        return self.the_order.tasks[TaskId(uuid.UUID(task_id))]

    def task(self, task_type: str) -> Task:
        """The one live task of this type (the newest, where an undoing shares its name)."""
        return [task for task in self.the_order.tasks.values() if task.task_type == task_type][-1]

    def effect(self, task_type: str) -> Effect:
        return [effect for effect in self.the_order.effects.values() if effect.task_type == task_type][-1]

    def undoings(self) -> dict[str, str]:
        return {t.task_type: t.state for t in self.the_order.tasks.values() if t.kind == "COMPENSATION"}

    def compensation(self) -> CompensationPlan:
        return list(self.the_order.plans.values())[-1]

    def open_case(self) -> Case:
        return next(case for case in self.the_order.cases.values() if case.is_open)

    def called(self, task_type: str) -> int:
        return len(self.calls_of(task_type))

    def calls_of(self, task_type: str) -> list[Mapping[str, Any]]:
        return [call for call in self.calls if call["body"]["taskType"] == task_type]

    def sent(self, name: str) -> list[Message]:
        return [message for message in self.messages if message.name == name]
