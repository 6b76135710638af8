"""The order as it is loaded and decided about: frozen rows, and a draft that records every move.

It must never read a clock or a database; a draft is the only thing that changes anything, and only in memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar, final

from domain.commands import AcceptOrder
from domain.events import Event, Message
from domain.ledger import Attempt, Effect
from domain.machines import ENDED, check_move, has_ended
from domain.policy import Policy, TaskType
from domain.values import (
    Actor,
    AssetId,
    CaseId,
    EffectId,
    Json,
    OrderId,
    PlanId,
    RequestId,
    Run,
    TaskId,
    TenantId,
    alter,
    derive_id,
)

TaskKind = Literal["FULFILLMENT", "COMPENSATION"]

# What a claimed task is called, and what its refusal makes of it: the two machines differ in words only.
RUNNING: Final[Mapping[TaskKind, str]] = {"FULFILLMENT": "IN_PROGRESS", "COMPENSATION": "DISPATCHED"}
REFUSED: Final[Mapping[TaskKind, str]] = {"FULFILLMENT": "FAILED", "COMPENSATION": "IN_FALLOUT"}
MACHINE_OF: Final[Mapping[TaskKind, str]] = {"FULFILLMENT": "TASK", "COMPENSATION": "COMPENSATION_TASK"}

IN_FLIGHT: Final = frozenset({"IN_PROGRESS", "DISPATCHED", "WAITING_EXTERNAL", "OUTCOME_UNKNOWN"})
UNSTARTED: Final = frozenset({"PENDING", "READY"})

# Who holds the whole order: a person, the cancellation of another order (`dependence`), or a case, by its id.
OPERATOR_HOLD: Final = "operator"

# How many tasks of one plan may be with the engine and not yet waiting for the world: a wave of a thousand
# blocks every other flow of the engine for seconds.
WINDOW: Final = 50


@dataclass(frozen=True)
class Head:
    """The order's own row.

    version: the ETag's number · sequence, chain: number and hash of the last audit entry · content: the customer's
    document (contact, addresses, appointment, …) · base: how far fulfillment is, whatever else is going on
    run: identity of the fulfillment flow that may act
    """

    tenant_id: TenantId
    order_id: OrderId
    external_id: str | None
    order_type: str
    state: str
    base: str
    resume_state: str | None
    version: int
    sequence: int
    chain: bytes
    content: Mapping[str, Json]
    policy_version: int
    plan_version: int
    run: Run
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    start_key: int = 0

    @property
    def has_ended(self) -> bool:
        return has_ended("ORDER", self.state)


@dataclass(frozen=True)
class Item:
    """One line of the order. `quantity` is what remains of `ordered_quantity`; price is per unit."""

    item_id: str
    action: str
    offering: str
    state: str
    base: str
    quantity: int
    ordered_quantity: int
    content: Mapping[str, Json]
    parent: str | None = None
    relies_on: tuple[str, ...] = ()
    target_asset: AssetId | None = None
    asset: AssetId | None = None
    snapshot: Mapping[str, Json] | None = None

    @property
    def has_ended(self) -> bool:
        return has_ended("ITEM", self.state)

    def document(self) -> dict[str, Json]:
        """The item in the order's own shape, as 2-api gives and takes it."""
        return {
            "itemId": self.item_id,
            "action": self.action,
            "productOfferingId": self.offering,
            "quantity": self.quantity,
            **self.content,
        }


@dataclass(frozen=True)
class Plan:
    """One version of the fulfillment plan. `types` is the policy's metadata as it stood at decomposition."""

    plan_id: PlanId
    version: int
    run: Run
    types: Mapping[str, TaskType]
    policy_version: int
    closed: bool = False
    woken: bool = True


@dataclass(frozen=True)
class CompensationPlan:
    """What undoes the effects of one cancellation or one amendment; exactly one of the two ids is set.

    purpose: UNDO, or QUOTE where an amendment only asks for prices
    """

    plan_id: PlanId
    request_id: RequestId | None
    state: str
    run: Run
    types: Mapping[str, TaskType]
    created_at: datetime
    closed: bool = False
    woken: bool = True
    committed_at: datetime | None = None
    completed_at: datetime | None = None
    amendment_id: RequestId | None = None
    purpose: str = "UNDO"

    @property
    def owner_id(self) -> RequestId:
        owner = self.request_id or self.amendment_id
        assert owner is not None
        return owner


@dataclass(frozen=True)
class Task:
    """One unit of a plan, fulfillment or compensation.

    unmet: predecessors that have not ended yet · release: the number that a claim must name; raised whenever the
    task goes back to the walker, so that an older job stands down · handed: given to the walker, not yet come back
    For compensation: reverses = the original effect; purpose COMPENSATE (undo it), WITHDRAW (stop it while it is
    accepted), MANUAL (a person undoes it), AWAIT (nothing can undo it; its outcome is awaited) or QUOTE (undoes
    nothing: asks for the prices of what an amendment would make of the order).
    replaced_input: parts of the input that a repair put in the place of what the order says
    """

    task_id: TaskId
    kind: TaskKind
    plan_id: PlanId
    step: str
    task_type: str
    item_ids: tuple[str, ...]
    state: str
    depends_on: tuple[TaskId, ...] = ()
    unmet: int = 0
    release: int = 1
    handed: bool = False
    effect_id: EffectId | None = None
    plan_version: int = 0
    original_task: TaskId | None = None
    reverses: EffectId | None = None
    purpose: str | None = None
    superseded_by: TaskId | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    replaced_input: Mapping[str, Json] | None = None

    @property
    def machine(self) -> str:
        return MACHINE_OF[self.kind]

    @property
    def has_ended(self) -> bool:
        return has_ended(self.machine, self.state)

    @property
    def satisfies(self) -> bool:
        """Whether those behind it need not wait for it; undoing it later never takes that back."""
        return self.has_ended or self.state == "COMPENSATING"


@final
@dataclass(frozen=True)
class Request:
    """One cancellation, from acceptance to its end.

    quantities: of which items only a part is cancelled, and how many · round: number of the latest wait that this
    request's flow was told to make · waiting: that wait is still on
    closure: the tasks it holds · approval: what was agreed to (feasibility, retained, cost), by whom
    repairs_case: the case whose repair FAIL_ITEM this is; its items end FAILED
    dependents: other orders that have been told to follow it, and are told again when it ends
    """

    request_id: RequestId
    status: str
    scope: str
    item_ids: tuple[str, ...]
    reason_code: str
    reason_text: str | None
    requested_by: str
    on_behalf_of: str | None
    claimed_at: datetime | None
    requested_at: datetime
    run: Run
    quantities: Mapping[str, int] = field(default_factory=dict)
    version: int = 1
    force_manual_review: bool = False
    round: int = 0
    waiting: bool = False
    grace_until: datetime | None = None
    sla_at: datetime | None = None
    assessed_at: datetime | None = None
    assessment: Mapping[str, Json] | None = None
    fingerprint: str | None = None
    policy_version: int | None = None
    charge: Mapping[str, Json] | None = None
    approval: Mapping[str, Json] | None = None
    dispositions: Mapping[str, str] = field(default_factory=dict)
    decisions: tuple[Mapping[str, Json], ...] = ()
    proposals: tuple[Mapping[str, Json], ...] = ()
    refused_withdrawals: tuple[EffectId, ...] = ()
    plan_id: PlanId | None = None
    outcome: str | None = None
    jeopardy: bool = False
    committed_at: datetime | None = None
    ended_at: datetime | None = None
    repairs_case: CaseId | None = None
    dependents: tuple[OrderId, ...] = ()

    @property
    def has_ended(self) -> bool:
        return has_ended("REQUEST", self.status)

    @property
    def wait_key(self) -> str:
        return f"{self.request_id}:{self.round}"


@final
@dataclass(frozen=True)
class Amendment:
    """One requested change of the order's terms, from acceptance to its end.

    changes: per change {path, operation, field, command, class, itemId, before, after} and, once assessed,
    {safetyResult, ruleId, blockerReason} · quote: what the revalidation said ({prices}) · approval: what was agreed to
    quote_plan: the plan that asks for prices · plan_id: the one that undoes · new_plan_version: set once the change is
    in the order and its new plan is stored
    """

    request_id: RequestId
    status: str
    reason_code: str
    requested_by: str
    on_behalf_of: str | None
    claimed_at: datetime | None
    requested_at: datetime
    run: Run
    changes: tuple[Mapping[str, Json], ...]
    version: int = 1
    allow_partial: bool = False
    auto_apply: bool = True
    repairs_case: CaseId | None = None
    round: int = 0
    waiting: bool = False
    grace_until: datetime | None = None
    sla_at: datetime | None = None
    assessed_at: datetime | None = None
    assessment: Mapping[str, Json] | None = None
    fingerprint: str | None = None
    policy_version: int | None = None
    quote: Mapping[str, Json] | None = None
    quote_plan: PlanId | None = None
    charge: Mapping[str, Json] | None = None
    approval: Mapping[str, Json] | None = None
    decisions: tuple[Mapping[str, Json], ...] = ()
    plan_id: PlanId | None = None
    new_plan_version: int | None = None
    outcome: str | None = None
    jeopardy: bool = False
    applied_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        return has_ended("AMENDMENT", self.status)

    @property
    def is_stored(self) -> bool:
        """Whether the change is in the order already; what is left is undoing."""
        return self.applied_at is not None

    @property
    def wait_key(self) -> str:
        return f"{self.request_id}:{self.round}"


@dataclass(frozen=True)
class Case:
    """A managed failure. blocking: the order shows FALLOUT until it is solved · round: names its latest wait."""

    case_id: CaseId
    status: str
    context: str
    category: str
    blocking: bool
    title: str
    opened_at: datetime
    sla_at: datetime
    task_id: TaskId | None = None
    effect_id: EffectId | None = None
    request_id: RequestId | None = None
    owner: str | None = None
    incident_key: str | None = None
    version: int = 1
    repairs: tuple[Mapping[str, Json], ...] = ()
    resolution: str | None = None
    jeopardy: bool = False
    closed_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        return not has_ended("CASE", self.status)

    @property
    def is_about_flow(self) -> bool:
        """About a flow that is stuck, gone or silent, and not about any work of the order."""
        return self.task_id is None and (self.context == "RECONCILIATION" or self.incident_key is not None)

    @property
    def wait_key(self) -> str:
        return f"{self.case_id}:1"


@dataclass(frozen=True)
class Asset:
    """A thing of the installed base; `references` keeps what the outside systems call it, per task type."""

    asset_id: AssetId
    customer_id: str
    offering: str
    configuration: Mapping[str, Json]
    state: str
    version: int = 1
    references: Mapping[str, Json] = field(default_factory=dict)
    relies_on: tuple[str, ...] = ()
    installed_by: OrderId | None = None
    quantity: int = 1

    def snapshot(self) -> dict[str, Json]:
        return {
            "assetId": str(self.asset_id),
            "customerId": self.customer_id,
            "productOfferingId": self.offering,
            "configuration": dict(self.configuration),
            "state": self.state,
            "version": self.version,
            "references": dict(self.references),
            "reliesOn": list(self.relies_on),
            "quantity": self.quantity,
        }


@dataclass(frozen=True, slots=True)
class Cause:
    """How the cancellation of another order stands: its status, the states of the assets which that order installed and
    this one is about, and which telling of it this one has still to hear; None: all have been heard."""

    status: str
    grounds: tuple[str, ...] = ()
    owed: Run | None = None

    @property
    def has_ended(self) -> bool:
        return has_ended("REQUEST", self.status)


@dataclass(frozen=True, slots=True)
class Telling:
    """That an order is to follow the cancellation of another one; owed until it has. run: which telling this is"""

    order_id: OrderId
    source_id: OrderId
    request_id: RequestId
    run: Run


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a command looks at beside its order.

    For a new order, or one that is about to be planned, by asset that it aims at: assets · relying: the active assets
    that rely on it · holders: the live order that is changing it · doubtful: those whose installing order kept only a
    part, or still owes an undoing · not_older: what the new order relates to and was not there before it
    source_state: of the order that the new one follows up · target: (created_at, id) of the order that a relation
    would point to, None where there is none · related: that relation stands already · cause: the cancellation of
    another order that this one is to follow, None where there is no such request
    """

    assets: Mapping[AssetId, Asset] = field(default_factory=dict)
    relying: Mapping[AssetId, tuple[Asset, ...]] = field(default_factory=dict)
    holders: Mapping[AssetId, OrderId] = field(default_factory=dict)
    doubtful: frozenset[AssetId] = frozenset()
    not_older: frozenset[OrderId] = frozenset()
    source_state: str | None = None
    target: tuple[datetime, OrderId] | None = None
    related: bool = False
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Beyond:
    """What is known of the tasks that were not loaded: how many are at work, and whether any waits to be handed out."""

    at_work: int
    waiting: bool


@dataclass(frozen=True, slots=True)
class Order:
    """Everything under one order row, as one command sees it.

    busy_assets: those of its items' assets that another order is changing now
    relying: by asset that its items installed, the active assets of other orders that rely on it, and their offerings
    dependents: live orders that supplement or amend this one, and by which relation
    beyond: None where everything was loaded. Otherwise only one task with its neighbours is here, and only its own
    outcome and the readiness of its successors may be judged (`settle` knows).
    """

    head: Head
    items: Mapping[str, Item]
    plan: Plan | None = None
    tasks: Mapping[TaskId, Task] = field(default_factory=dict)
    effects: Mapping[EffectId, Effect] = field(default_factory=dict)
    holds: Mapping[TaskId, frozenset[str]] = field(default_factory=dict)
    requests: Mapping[RequestId, Request] = field(default_factory=dict)
    amendments: Mapping[RequestId, Amendment] = field(default_factory=dict)
    plans: Mapping[PlanId, CompensationPlan] = field(default_factory=dict)
    cases: Mapping[CaseId, Case] = field(default_factory=dict)
    assets: Mapping[AssetId, Asset] = field(default_factory=dict)
    order_holds: frozenset[str] = frozenset()
    busy_assets: Mapping[AssetId, OrderId] = field(default_factory=dict)
    relying: Mapping[AssetId, Mapping[AssetId, str]] = field(default_factory=dict)
    dependents: Mapping[OrderId, str] = field(default_factory=dict)
    beyond: Beyond | None = None


# One change of an order, of either kind.
Change = TypeVar("Change", Request, Amendment)


class Draft:
    """A working copy of an order: `decide` writes on it, the store writes what was touched.

    Every change of a state goes through `move`, which refuses what the machine's table does not have and records
    the event; so the audit cannot forget a move.

    follow_up: the new order that this command asks for; it is taken in by the same transaction, or neither is kept
    tellings: what other orders are owed from now on · heard: what this one was owed and is no more
    """

    def __init__(
        self,
        order: Order,
        *,
        actor: Actor,
        on_behalf_of: str | None,
        now: datetime,
        command_id: uuid.UUID,
        policy: Policy,
        policy_version: int,
    ) -> None:
        self.before = order
        self.head = order.head
        self.items = dict(order.items)
        self.plan = order.plan
        self.former_plans: list[Plan] = []
        self.tasks = dict(order.tasks)
        self.effects = dict(order.effects)
        self.holds = dict(order.holds)
        self.requests = dict(order.requests)
        self.amendments = dict(order.amendments)
        self.plans = dict(order.plans)
        self.cases = dict(order.cases)
        self.assets = dict(order.assets)
        self.order_holds = order.order_holds
        self.busy_assets = order.busy_assets
        self.relying = order.relying
        self.dependents = order.dependents
        self.beyond = order.beyond
        self.actor = actor
        self.on_behalf_of = on_behalf_of
        self.now = now
        self.command_id = command_id
        self.policy = policy
        self.policy_version = policy_version
        self.attempts: dict[tuple[EffectId, int], Attempt] = {}
        self.events: list[Event] = []
        self.messages: list[Message] = []
        self.relations: list[Mapping[str, Json]] = []
        self.tellings: list[Telling] = []
        self.heard: list[Telling] = []
        self.follow_up: AcceptOrder | None = None
        self.locks_taken: set[AssetId] = set()
        self.locks_released = False
        self.content_changed = False
        self.successors_of: dict[TaskId, list[TaskId]] | None = None
        self._reversals: dict[EffectId, list[EffectId]] | None = None
        self._ids = 0

    # -- identity ---------------------------------------------------------------------------------

    def new_id(self, what: str) -> uuid.UUID:
        """The next id of this command: the same command, delivered again, makes the same ids."""
        self._ids += 1
        return derive_id(self.command_id, what, self._ids)

    # -- reading ------------------------------------------------------------------------------------

    def task_type(self, task: Task) -> TaskType:
        """The type as it stood when the task's plan was made."""
        types = self.plans[task.plan_id].types if task.kind == "COMPENSATION" else self.fulfillment_types
        return types[task.task_type]

    @property
    def fulfillment_types(self) -> Mapping[str, TaskType]:
        return self.plan.types if self.plan else {}

    def document_of(self, task: Task) -> dict[str, Json]:
        """The order in its own shape, as one task may see it: with the task's own items only."""
        head = self.head
        own = [self.items[item_id].document() for item_id in task.item_ids]
        return {"externalId": head.external_id, "orderType": head.order_type, **head.content, "items": own}

    def effect_of(self, task: Task) -> Effect | None:
        return self.effects.get(task.effect_id) if task.effect_id else None

    def fulfillment_tasks(self) -> Iterator[Task]:
        return (task for task in self.tasks.values() if task.kind == "FULFILLMENT")

    def tasks_of_plan(self, plan_id: PlanId) -> list[Task]:
        # A UUID compares itself in Python, its number in C; every pass of settle asks this of every task.
        wanted = plan_id.int
        return [task for task in self.tasks.values() if task.plan_id.int == wanted]

    def originals_of(self, task_id: TaskId) -> list[Effect]:
        return [effect for effect in self.effects.values() if effect.task_id == task_id and effect.is_original]

    def reversals_of(self, effect_id: EffectId) -> list[Effect]:
        """What undoes this effect, tried to, or has undone it."""
        if self._reversals is None:
            self._reversals = {}
            for effect in self.effects.values():
                if effect.reverses:
                    self._reversals.setdefault(effect.reverses, []).append(effect.effect_id)
        return [self.effects[reversal] for reversal in self._reversals.get(effect_id, ())]

    def is_held(self, task: Task) -> bool:
        """Compensation is never held, but it waits while its own request is parked; everything else is held while
        anybody holds it."""
        if task.kind == "COMPENSATION":
            plan = self.plans[task.plan_id]
            if plan.request_id is None:  # the ledger's undoing is decided by the cancellation of the whole order
                return self.order_request() is not None
            return self.is_parked(self.requests[plan.request_id])
        return bool(self.holds.get(task.task_id))

    def is_parked(self, request: Request) -> bool:
        """An item's cancellation waits while one of the whole order is under way (§8), unless it is past its commit;
        any cancellation begins only when no amendment is being applied, and nothing of one is in the air. What an
        applied amendment has yet to undo, one of the whole order takes over and one of items waits for."""
        if request.has_ended or request.committed_at:
            return False
        if request.status == "ACCEPTED_FOR_ASSESSMENT":
            if self.applying() is not None or any(map(self.is_undoing, self.undo_plans())):
                return True
            if request.scope == "ITEMS" and self.amending() is not None:
                return True
        return request.scope == "ITEMS" and self.order_request() is not None

    def open_changes(self) -> list[Request | Amendment]:
        """Every change of this order that has not ended."""
        changes: list[Request | Amendment] = [*self.requests.values(), *self.amendments.values()]
        return [change for change in changes if not change.has_ended]

    def applying(self) -> Amendment | None:
        """The amendment that is being applied; there is at most one."""
        return next((a for a in self.amendments.values() if a.status == "APPLYING"), None)

    def amending(self) -> Amendment | None:
        """The amendment that is being applied, or that is in the order while something is still undone for it; not one
        whose last undoings wait for ordinary work of the plan."""
        moving = (self.amendments[plan.owner_id] for plan in self.undo_plans() if not self.waits_for_work(plan))
        return self.applying() or next(moving, None)

    def changes_of_terms(self) -> list[Amendment]:
        """The amendments that another change meets: those that have not ended, and the one that still undoes."""
        last = self.amending()
        return [amendment for amendment in self.amendments.values() if not amendment.has_ended or amendment is last]

    def undo_plans(self) -> list[CompensationPlan]:
        """The unfinished plans by which amendments undo what they have done anew."""
        return [
            plan
            for plan in self.plans.values()
            if plan.amendment_id is not None and plan.purpose != "QUOTE" and not has_ended("PLAN", plan.state)
        ]

    def waits_for_work(self, plan: CompensationPlan) -> bool:
        """Whether nothing of the plan can be undone before fulfillment has done something: its undoings wait for each
        other in no circle, so if all that are left wait, one of them waits for a task outside."""
        return all(task.state == "PLANNED" for task in self.tasks_of_plan(plan.plan_id) if not task.has_ended)

    def is_undoing(self, plan: CompensationPlan) -> bool:
        """Whether an outside call of the plan is in the air, or its outcome is not known."""
        return any(
            task.state in IN_FLIGHT or bool((effect := self.effect_of(task)) and effect.is_open)
            for task in self.tasks_of_plan(plan.plan_id)
        )

    def newest_of(self, task: Task) -> Task:
        """The task that does the work of this one by now: itself, or the last one that came in its place."""
        while task.superseded_by is not None and task.superseded_by in self.tasks:
            task = self.tasks[task.superseded_by]
        return task

    def has_owner_ended(self, plan: CompensationPlan) -> bool:
        """Whether the change that a compensation plan belongs to is over."""
        if plan.request_id is not None:
            return self.requests[plan.request_id].has_ended
        return self.amendments[plan.owner_id].has_ended

    def is_past_commit(self, plan: CompensationPlan) -> bool:
        """Whether the plan is one of a cancellation that can no longer be taken back."""
        return plan.request_id is not None and self.requests[plan.request_id].committed_at is not None

    def order_request(self) -> Request | None:
        """The active order-scope cancellation; there is at most one (I2)."""
        return next((r for r in self.requests.values() if r.scope == "ORDER" and not r.has_ended), None)

    def committed_for(self, task: Task) -> Request | None:
        """The cancellation past its commit point that awaits this task's outcome."""
        return next(
            (
                request
                for request in self.requests.values()
                if request.committed_at
                and request.plan_id is not None
                and not request.has_ended
                and any(other.original_task == task.task_id for other in self.tasks_of_plan(request.plan_id))
            ),
            None,
        )

    def open_cases(self) -> list[Case]:
        return [case for case in self.cases.values() if case.is_open]

    def successors(self, task_id: TaskId) -> list[TaskId]:
        if self.successors_of is None:
            index: dict[TaskId, list[TaskId]] = {}
            for task in self.tasks.values():
                for predecessor in task.depends_on:
                    index.setdefault(predecessor, []).append(task.task_id)
            self.successors_of = index
        return self.successors_of.get(task_id, [])

    # -- telling ------------------------------------------------------------------------------------

    def record(
        self,
        kind: str,
        entity: str,
        entity_id: object,
        *,
        before: str | None = None,
        after: str | None = None,
        request_id: uuid.UUID | None = None,
        spoken: str | None = None,
        **data: Json,
    ) -> None:
        """`spoken` is what a person wrote; everything else may be told to the world."""
        self.events.append(Event(kind, entity, str(entity_id), before, after, request_id, data, spoken))

    def send(self, name: str, key: object, *, ttl: int = 600, **variables: object) -> None:
        self.messages.append(Message(name, str(key), {k: str(v) for k, v in variables.items()}, ttl))

    # -- moving ---------------------------------------------------------------------------------------

    def add_task(self, task: Task) -> None:
        check_move(task.machine, None, task.state)
        self.tasks[task.task_id] = task
        self.successors_of = None
        self.record(
            "TASK_STATE_CHANGED",
            "TASK",
            task.task_id,
            after=task.state,
            step=task.step,
            type=task.task_type,
        )

    def move_task(self, task_id: TaskId, state: str, **changes: Any) -> Task:
        task = self.tasks[task_id]
        check_move(task.machine, task.state, state)
        if has_ended(task.machine, state):
            changes.setdefault("ended_at", self.now)
            changes.setdefault("handed", False)
        moved = alter(task, state=state, **changes)
        self.tasks[task_id] = moved
        self.record(
            "TASK_STATE_CHANGED",
            "TASK",
            task_id,
            before=task.state,
            after=state,
            step=task.step,
            type=task.task_type,
        )
        if moved.satisfies and not task.satisfies:
            for successor_id in self.successors(task_id):
                successor = self.tasks[successor_id]
                self.tasks[successor_id] = alter(successor, unmet=successor.unmet - 1)
        return moved

    def change_task(self, task_id: TaskId, **changes: Any) -> Task:
        changed = alter(self.tasks[task_id], **changes)
        self.tasks[task_id] = changed
        return changed

    def add_effect(self, effect: Effect) -> None:
        check_move("EFFECT", None, effect.state)
        self.effects[effect.effect_id] = effect
        if effect.reverses and self._reversals is not None:
            self._reversals.setdefault(effect.reverses, []).append(effect.effect_id)
        self.record(
            "EFFECT_STATE_CHANGED",
            "EFFECT",
            effect.effect_id,
            after=effect.state,
            system=effect.system,
            operation=effect.operation,
            taskId=str(effect.task_id),
        )

    def move_effect(self, effect_id: EffectId, state: str, **changes: Any) -> Effect:
        effect = self.effects[effect_id]
        check_move("EFFECT", effect.state, state)
        if state in ENDED["EFFECT"]:
            changes.setdefault("settled_at", self.now)
            changes.setdefault("lease_until", None)
        moved = alter(effect, state=state, **changes)
        self.effects[effect_id] = moved
        self.record(
            "EFFECT_STATE_CHANGED",
            "EFFECT",
            effect_id,
            before=effect.state,
            after=state,
            system=effect.system,
            operation=effect.operation,
            taskId=str(effect.task_id),
            basis=moved.basis,
        )
        return moved

    def change_effect(self, effect_id: EffectId, **changes: Any) -> Effect:
        changed = alter(self.effects[effect_id], **changes)
        self.effects[effect_id] = changed
        return changed

    def move_item(self, item_id: str, state: str, **changes: Any) -> Item:
        item = self.items[item_id]
        check_move("ITEM", item.state, state)
        moved = alter(item, state=state, **changes)
        self.items[item_id] = moved
        self.record("ITEM_STATE_CHANGED", "ITEM", item_id, before=item.state, after=state)
        return moved

    def change_item(self, item_id: str, **changes: Any) -> Item:
        changed = alter(self.items[item_id], **changes)
        self.items[item_id] = changed
        return changed

    def add_item(self, item: Item) -> None:
        check_move("ITEM", None, item.state)
        self.items[item.item_id] = item
        self.record("ITEM_STATE_CHANGED", "ITEM", item.item_id, after=item.state)

    def add_request(self, request: Request, kind: str, **data: Json) -> None:
        self._add_change("REQUEST", self.requests, request, kind, data)

    def move_request(
        self, request_id: RequestId, status: str, kind: str, *, note: Mapping[str, Json] | None = None, **changes: Any
    ) -> Request:
        return self._move_change("REQUEST", self.requests, request_id, status, kind, note, changes)

    def change_request(self, request_id: RequestId, **changes: Any) -> Request:
        """A change that the asker can see raises the request's version; the flow's own bookkeeping does not."""
        request = self.requests[request_id]
        seen = changes.keys() - {"round", "waiting", "run", "dependents"}
        changed = alter(request, version=request.version + (1 if seen else 0), **changes)
        self.requests[request_id] = changed
        return changed

    def add_amendment(self, amendment: Amendment, kind: str, **data: Json) -> None:
        self._add_change("AMENDMENT", self.amendments, amendment, kind, data)

    def move_amendment(
        self, request_id: RequestId, status: str, kind: str, *, note: Mapping[str, Json] | None = None, **changes: Any
    ) -> Amendment:
        if has_ended("AMENDMENT", status):
            changes.setdefault("waiting", False)
        return self._move_change("AMENDMENT", self.amendments, request_id, status, kind, note, changes)

    def change_amendment(self, request_id: RequestId, **changes: Any) -> Amendment:
        """As with a cancellation: the flow's own bookkeeping is nobody's new version."""
        amendment = self.amendments[request_id]
        seen = changes.keys() - {"round", "waiting", "run"}
        changed = alter(amendment, version=amendment.version + (1 if seen else 0), **changes)
        self.amendments[request_id] = changed
        return changed

    def _add_change(
        self, machine: str, book: dict[RequestId, Change], change: Change, kind: str, data: Mapping[str, Json]
    ) -> None:
        check_move(machine, None, change.status)
        book[change.request_id] = change
        self.record(kind, "REQUEST", change.request_id, after=change.status, request_id=change.request_id, **data)

    def _move_change(
        self,
        machine: str,
        book: dict[RequestId, Change],
        request_id: RequestId,
        status: str,
        kind: str,
        note: Mapping[str, Json] | None,
        changes: dict[str, Any],
    ) -> Change:
        change = book[request_id]
        check_move(machine, change.status, status)
        if has_ended(machine, status):
            changes.setdefault("ended_at", self.now)
        book[request_id] = moved = alter(change, status=status, version=change.version + 1, **changes)
        before = change.status
        self.record(kind, "REQUEST", request_id, before=before, after=status, request_id=request_id, **(note or {}))
        return moved

    def add_plan(self, plan: CompensationPlan) -> None:
        check_move("PLAN", None, plan.state)
        self.plans[plan.plan_id] = plan
        self.record(
            "COMPENSATION_PLANNED",
            "PLAN",
            plan.plan_id,
            after=plan.state,
            request_id=plan.owner_id,
        )

    def move_plan(self, plan_id: PlanId, state: str, kind: str, **changes: Any) -> CompensationPlan:
        plan = self.plans[plan_id]
        check_move("PLAN", plan.state, state)
        moved = alter(plan, state=state, **changes)
        self.plans[plan_id] = moved
        self.record(kind, "PLAN", plan_id, before=plan.state, after=state, request_id=plan.owner_id)
        return moved

    def change_plan(self, plan_id: PlanId, **changes: Any) -> None:
        if self.plan and self.plan.plan_id == plan_id:
            self.plan = alter(self.plan, **changes)
        else:
            self.plans[plan_id] = alter(self.plans[plan_id], **changes)

    def add_case(self, case: Case, kind: str = "CASE_OPENED") -> None:
        check_move("CASE", None, case.status)
        self.cases[case.case_id] = case
        self.record(
            kind,
            "CASE",
            case.case_id,
            after=case.status,
            request_id=case.request_id,
            context=case.context,
            category=case.category,
            blocking=case.blocking,
            title=case.title,
            taskId=str(case.task_id) if case.task_id else None,
        )

    def move_case(
        self, case_id: CaseId, status: str, *, note: Mapping[str, Json] | None = None, **changes: Any
    ) -> Case:
        case = self.cases[case_id]
        check_move("CASE", case.status, status)
        if has_ended("CASE", status):
            changes.setdefault("closed_at", self.now)
        moved = alter(case, status=status, version=case.version + 1, **changes)
        self.cases[case_id] = moved
        self.record(
            "CASE_STATE_CHANGED",
            "CASE",
            case_id,
            before=case.status,
            after=status,
            request_id=case.request_id,
            **(note or {}),
        )
        return moved

    def change_case(
        self, case_id: CaseId, kind: str, *, note: Mapping[str, Json] | None = None, **changes: Any
    ) -> Case:
        case = self.cases[case_id]
        changed = alter(case, version=case.version + 1, **changes)
        self.cases[case_id] = changed
        self.record(kind, "CASE", case_id, request_id=case.request_id, **(note or {}))
        return changed

    # -- holding --------------------------------------------------------------------------------------

    def hold(self, task_ids: Iterable[TaskId], holder: str) -> None:
        for task_id in task_ids:
            self.holds[task_id] = self.holds.get(task_id, frozenset()) | {holder}

    def hold_all(self, holder: str, spoken: str | None = None) -> None:
        """Hold the order as a whole: all that has not ended, and what is planned while the hold stands."""
        self.order_holds = self.order_holds | {holder}
        self.hold((task.task_id for task in self.fulfillment_tasks() if not task.has_ended), holder)
        self._tell_hold("ORDER_HELD", holder, spoken)

    def unhold_all(self, holder: str, spoken: str | None = None) -> None:
        """The reverse of `hold_all`; nothing where this holder holds nothing."""
        if holder in self.order_holds:
            self.unhold(holder)
            self._tell_hold("ORDER_RELEASED", holder, spoken)

    def _tell_hold(self, kind: str, holder: str, spoken: str | None) -> None:
        named: dict[str, Json] = {} if holder == OPERATOR_HOLD else {"holder": holder}
        self.record(kind, "ORDER", self.head.order_id, spoken=spoken, **named)

    def unhold(self, holder: str) -> None:
        """Take away one holder's holds. Tasks that a job was told to leave alone go out again under a new release."""
        self.order_holds = self.order_holds - {holder}
        for task_id, holders in list(self.holds.items()):
            if holder in holders:
                self.holds[task_id] = holders - {holder}

    def result(self) -> Order:
        """The order as this draft leaves it: what the store writes, and what the next command would load."""
        return Order(
            head=self.head,
            items=self.items,
            plan=self.plan,
            tasks=self.tasks,
            effects=self.effects,
            holds={task_id: holders for task_id, holders in self.holds.items() if holders},
            requests=self.requests,
            amendments=self.amendments,
            plans=self.plans,
            cases=self.cases,
            assets=self.assets,
            order_holds=self.order_holds,
            busy_assets=self.busy_assets,
            relying=self.relying,
            dependents=self.dependents,
            beyond=self.beyond,
        )

    # -- the order's own state ------------------------------------------------------------------------

    def change_head(self, **changes: Any) -> None:
        self.head = alter(self.head, **changes)


def tasks_by_item(draft: Draft) -> dict[str, list[Task]]:
    """Per item its fulfillment tasks, of whatever state."""
    found: dict[str, list[Task]] = {}
    for task in draft.fulfillment_tasks():
        for item_id in task.item_ids:
            found.setdefault(item_id, []).append(task)
    return found


@dataclass(frozen=True, slots=True)
class Failure:
    """What `settle` turns into a case: which task failed (None: the order as a whole), in what way, in words."""

    task: Task | None
    category: str
    title: str


@dataclass(slots=True)
class Reported:
    """What a wing left for `settle`: failures that need a case, effects that came true after all (T11), and cases whose
    items are given up."""

    failures: list[Failure] = field(default_factory=list)
    late: list[EffectId] = field(default_factory=list)
    twice: list[EffectId] = field(default_factory=list)
    given_up: list[CaseId] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command comes to: the draft with its rows and events, and the answer that its asker gets."""

    draft: Draft
    status: int
    body: Mapping[str, Json]
    etag: str | None = None
    location: str | None = None
