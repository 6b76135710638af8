"""What a cancellation would mean: closure, consequence per task, feasibility, cost, and why. Pure, and the same
function for preview, request and the look just before acting; it must never change anything."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from domain.ledger import Effect, refundable
from domain.order import IN_FLIGHT, UNSTARTED, Draft, Item, Request, Task
from domain.policy import Charge, PointOfNoReturn, TaskType
from domain.values import (
    AssetId,
    EffectId,
    Json,
    Money,
    OrderId,
    RequestId,
    TaskId,
    format_time,
    is_external,
    parse_time,
)

# §4: inclusive ranks of `irreversible_after_state`.
_RANK: Final[Mapping[str, int]] = {
    "PENDING": -1,
    "READY": 0,
    "IN_PROGRESS": 1,
    "WAITING_EXTERNAL": 2,
    "OUTCOME_UNKNOWN": 2,
    "COMPLETED": 3,
    "COMPENSATING": 3,
    "COMPENSATED": 3,
}

QUANTITY: Final = "/items/{itemId}/quantity"

Consequence = str
STOPPABLE: Final = frozenset(
    {"NOT_STARTED_WILL_NOT_START", "COMPENSATE", "WITHDRAW", "AWAIT_OUTCOME", "VERIFY_OUTCOME"}
)


_UNDONE: Final = frozenset({"COMPENSATE", "WITHDRAW", "AWAIT_OUTCOME", "VERIFY_OUTCOME"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the trace: which rule, on what, with which result, in a sentence for people."""

    rule_id: str
    result: str
    sentence: str
    inputs: Mapping[str, Json] = field(default_factory=dict)
    severity: str = "INFO"

    def to_json(self) -> dict[str, Json]:
        return {
            "ruleId": self.rule_id,
            "inputs": dict(self.inputs),
            "result": self.result,
            "severity": self.severity,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class Blocker:
    code: str
    message: str
    rule_id: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "ruleId": self.rule_id}


@dataclass(frozen=True, slots=True)
class Impact:
    """What happens to one task. stays: an effect (present or still possible) will not be undone · replaced: the same is
    done once more, and takes the effect's place"""

    task: Task
    type: TaskType
    effect: Effect | None
    consequence: Consequence
    stays: bool = False
    replaced: bool = False

    @property
    def key(self) -> uuid.UUID:
        """What tells it from the others: its effect; a task has more than one where an older one came true late."""
        return self.effect.effect_id if self.effect else self.task.task_id

    @property
    def is_surplus(self) -> bool:
        """Whether the effect stands beside the one that the task itself goes by."""
        return self.effect is not None and self.effect.effect_id != self.task.effect_id

    def to_json(self) -> dict[str, Json]:
        return {
            "taskId": str(self.task.task_id),
            "type": self.task.task_type,
            "state": self.task.state,
            **({"effectState": self.effect.state, "effectId": str(self.effect.effect_id)} if self.effect else {}),
            "reversibility": self.type.reversibility,
            "externalEffectLevel": self.type.external_effect_level,
            "consequence": self.consequence,
            **({"replaced": True} if self.replaced else {}),
        }


@dataclass(frozen=True, slots=True)
class Closure:
    """Everything that a change touches.

    dependents: other live orders that build on what goes, and why · relying: active assets that do
    items: those that go as a whole · reduced: those that only become fewer, and by how many · resized: the tasks of
    these that are told a quantity; they are among `tasks`, and start again with the new one
    """

    items: frozenset[str]
    tasks: tuple[TaskId, ...]
    blockers: tuple[Blocker, ...] = ()
    trace: tuple[Rule, ...] = ()
    reduced: Mapping[str, int] = field(default_factory=dict)
    resized: frozenset[TaskId] = frozenset()
    dependents: Mapping[OrderId, str] = field(default_factory=dict)
    relying: frozenset[AssetId] = frozenset()

    @property
    def touched(self) -> frozenset[str]:
        return self.items | self.reduced.keys()


@dataclass(frozen=True, slots=True)
class Offer:
    """The charge that undoing costs; `respond_by` is the last moment to accept it."""

    code: str
    amount: Money
    blocking: bool
    respond_by: datetime
    waived: bool

    def to_json(self, status: str) -> dict[str, Json]:
        return {
            "code": self.code,
            "amount": self.amount.to_json(),
            "blocking": self.blocking,
            "status": status,
            **({"respondBy": format_time(self.respond_by)} if status == "OFFERED" else {}),
        }


@dataclass(frozen=True, slots=True)
class Assessment:
    feasibility: str
    manual_review_required: bool
    automatic: bool
    impacts: tuple[Impact, ...]
    blockers: tuple[Blocker, ...]
    cost: Money
    offer: Offer | None
    trace: tuple[Rule, ...]
    fingerprint: str
    closure: Closure

    @property
    def retained(self) -> tuple[Impact, ...]:
        return tuple(impact for impact in self.impacts if impact.consequence == "RETAIN")

    @property
    def replaced(self) -> frozenset[TaskId]:
        return frozenset(impact.task.task_id for impact in self.impacts if impact.replaced)

    @property
    def retained_ids(self) -> tuple[str, ...]:
        return tuple(sorted(str(impact.task.task_id) for impact in self.retained))


# -- closure ------------------------------------------------------------------------------------------


def live_items(draft: Draft, request_id: object) -> set[str]:
    """The items that still need their tasks: neither ended nor being taken away by another cancellation."""
    leaving: set[str] = set()
    for other in draft.requests.values():
        if other.request_id != request_id and other.scope == "ITEMS" and other.status in {"APPROVED", "COMPENSATING"}:
            leaving |= closure_items(draft, other.scope, whole_items(other.item_ids, other.quantities))[0]
    return {
        item_id
        for item_id, item in draft.items.items()
        if (not item.has_ended or item.state == "COMPLETED") and item_id not in leaving
    }


def whole_items(item_ids: Iterable[str], quantities: Mapping[str, int]) -> tuple[str, ...]:
    """Those of the items named that are to go as a whole."""
    return tuple(item_id for item_id in item_ids if item_id not in quantities)


def closure_items(draft: Draft, scope: str, chosen: Iterable[str]) -> tuple[set[str], list[Rule]]:
    """The fixpoint over the chosen items, by the policy's closure keys (1-domain §4)."""
    rules = draft.policy.cancellation.closure
    trace: list[Rule] = []
    taken = (
        {item_id for item_id, item in draft.items.items() if item.state != "SUPERSEDED"}
        if scope == "ORDER"
        else set(chosen)
    )
    grown = scope != "ORDER"
    while grown:
        grown = False
        for item in draft.items.values():
            inside = item.item_id in taken
            if not inside and item.parent in taken:
                taken.add(item.item_id)
                grown = True
                trace.append(
                    Rule(
                        "closure.children",
                        "INCLUDED",
                        f"Item {item.item_id} is part of item {item.parent}.",
                        {"itemId": item.item_id, "parentItemId": item.parent},
                    )
                )
            elif not inside and not item.has_ended and taken & set(item.relies_on) and rules.relies_on == "INCLUDE":
                taken.add(item.item_id)
                grown = True
                trace.append(
                    Rule(
                        "closure.relies_on",
                        "INCLUDED",
                        f"Item {item.item_id} relies on what is cancelled.",
                        {"itemId": item.item_id, "reliesOn": list(item.relies_on)},
                    )
                )
            elif (
                inside
                and item.parent
                and item.parent not in taken
                and rules.mandatory_child == "PULL_PARENT"
                and _is_mandatory(draft, item)
            ):
                taken.add(item.parent)
                grown = True
                trace.append(
                    Rule(
                        "closure.mandatory_child",
                        "PULLED_PARENT",
                        f"Item {item.parent} cannot be delivered without item {item.item_id}.",
                        {"itemId": item.item_id, "parentItemId": item.parent},
                    )
                )
    return taken, trace


def closure_of(draft: Draft, request: Request) -> Closure:
    """What this request touches, as the order stands now."""
    return find_closure(draft, request.scope, request.item_ids, request.request_id, request.quantities)


def find_closure(
    draft: Draft,
    scope: str,
    chosen: Iterable[str],
    request_id: object = None,
    quantities: Mapping[str, int] = MappingProxyType({}),
) -> Closure:
    """Items, tasks and blockers of a cancellation of these items; `quantities`: of which of them only a part."""
    taken, trace = closure_items(draft, scope, whole_items(chosen, quantities))
    reduced = {item_id: quantity for item_id, quantity in quantities.items() if item_id not in taken}
    trace += [
        Rule(
            "closure.quantity",
            "REDUCED",
            f"Of item {item_id}, {quantity} of {draft.items[item_id].quantity} are cancelled; the item itself stays.",
            {"itemId": item_id, "quantity": quantity, "remaining": draft.items[item_id].quantity - quantity},
        )
        for item_id, quantity in reduced.items()
        if quantity < draft.items[item_id].quantity
    ]
    blockers: list[Blocker] = []
    for item in draft.items.values():
        if item.item_id in taken and item.parent and item.parent not in taken and _is_mandatory(draft, item):
            blockers.append(
                Blocker(
                    "MANDATORY_CHILD",
                    f"Item {item.item_id} is a mandatory part of item {item.parent}.",
                    "closure.mandatory_child",
                )
            )
        lives_on = not item.has_ended or item.state == "COMPLETED"
        if scope != "ORDER" and item.item_id not in taken and lives_on and taken & set(item.relies_on):
            blockers.append(
                Blocker(
                    "RELIED_ON",
                    f"Item {item.item_id} relies on what would be cancelled.",
                    "closure.relies_on",
                )
            )
    dependents = find_dependents(draft, scope, taken)
    verdict = draft.policy.cancellation.closure.dependent_order
    for order_id, because in dependents.items():
        sentence = f"Order {order_id} depends on what would be cancelled: {because}."
        facts = {"orderId": str(order_id), "because": because}
        severity = "BLOCKER" if verdict == "BLOCK" else "WARNING"
        trace.append(Rule("closure.dependent_order", verdict, sentence, facts, severity))
        if verdict == "BLOCK":
            blockers.append(Blocker("DEPENDENT_ORDER", sentence, "closure.dependent_order"))
    relying = _find_relying(draft, taken)
    for asset_id, (offering, base) in relying.items():
        sentence = f"Asset {asset_id} ({offering}) relies on asset {base}, which would be gone; disconnect it first."
        facts = {"assetId": str(asset_id), "reliesOn": str(base)}
        severity, result = ("BLOCKER", "BLOCK") if verdict == "BLOCK" else ("WARNING", "SHOWN")
        trace.append(Rule("closure.dependent_asset", result, sentence, facts, severity))
        if verdict == "BLOCK":
            blockers.append(Blocker("DEPENDENT_ASSET", sentence, "closure.dependent_asset"))
    live = set() if scope == "ORDER" else live_items(draft, request_id)
    tasks: list[TaskId] = []
    resized: set[TaskId] = set()
    for task in draft.fulfillment_tasks():
        if task.state == "SUPERSEDED" and not _left_something(draft, task):
            continue
        mine = taken.intersection(task.item_ids)
        left = live.difference(taken).intersection(task.item_ids)
        if scope == "ORDER" or (mine and not left):
            tasks.append(task.task_id)
        elif not reduced.keys().isdisjoint(task.item_ids) and draft.task_type(task).reads(QUANTITY):
            tasks.append(task.task_id)
            resized.add(task.task_id)
        elif mine:
            trace.append(
                Rule(
                    "closure.shared",
                    "GOES_ON",
                    f"{task.step} ({task.task_type}) is shared with item {', '.join(sorted(left))}; "
                    f"it goes on without item {', '.join(sorted(mine))}.",
                    {"taskId": str(task.task_id), "itemIds": sorted(left)},
                )
            )
    return Closure(
        frozenset(taken), tuple(tasks), tuple(blockers), tuple(trace), reduced, frozenset(resized), dependents,
        frozenset(relying),
    )  # fmt: skip


def _find_relying(draft: Draft, taken: Iterable[str]) -> dict[AssetId, tuple[str, AssetId]]:
    """What other orders have built on what these items installed, whether those orders live or not: asset → (its
    offering, what it relies on)."""
    found: dict[AssetId, tuple[str, AssetId]] = {}
    for item_id in sorted(taken):
        item = draft.items.get(item_id)
        asset = draft.assets.get(item.asset) if item and item.action == "ADD" and item.asset else None
        if asset is not None and asset.state != "TERMINATED":
            relying = draft.relying.get(asset.asset_id, {})
            found.update({other: (offering, asset.asset_id) for other, offering in relying.items()})
    return found


def find_dependents(draft: Draft, scope: str, taken: Iterable[str]) -> dict[OrderId, str]:
    """Other live orders that a cancellation of these items would pull the ground from under (1-domain §4): those that
    supplement or amend the order as a whole, and those that are changing, or building on, what its items installed."""
    found: dict[OrderId, str] = {}
    if scope == "ORDER":
        found.update({order_id: f"it {kind} this order" for order_id, kind in draft.dependents.items()})
    for item_id in sorted(taken):
        item = draft.items.get(item_id)
        if item and item.action == "ADD" and item.asset and item.asset in draft.busy_assets:
            found.setdefault(
                draft.busy_assets[item.asset], f"it is about asset {item.asset}, which item {item_id} installed"
            )
    return found


def _left_something(draft: Draft, task: Task) -> bool:
    """Whether a task that an amendment replaced has an effect that still stands, or may yet come true."""
    return any(effect.stands or effect.is_open for effect in draft.originals_of(task.task_id))


def _is_mandatory(draft: Draft, item: Item) -> bool:
    parent = draft.items.get(item.parent or "")
    offering = draft.policy.offerings.get(parent.offering) if parent and not parent.has_ended else None
    return bool(offering and item.offering in offering.children.mandatory)


# -- points of no return --------------------------------------------------------------------------------


def moment_of(point: PointOfNoReturn, content: Mapping[str, Json]) -> datetime | None:
    """When a dated point is reached: the field's moment less `by`, as an instant, whatever clocks do in between.

    `content` is the order as the task sees it; of several items (`/items/*/…`) the earliest counts. None where the
    field is absent: that is never.
    """
    moments = [_instant(value) for value in values_at(content, point.field or "")]
    return min((moment - point.by for moment in moments if moment), default=None)


def values_at(document: Json, pointer: str) -> list[Json]:
    """What a document says at a pointer; in a list of items a part is an item's id, or `*` for every one."""
    found: list[Json] = [document]
    for part in pointer.strip("/").split("/"):
        found = [
            value
            for source in found
            for value in (
                [source[part]]
                if isinstance(source, Mapping) and part in source
                else [item for item in source if part in ("*", item["itemId"])]
                if isinstance(source, list)
                else []
            )
        ]
    return found


def _instant(value: Json) -> datetime | None:
    try:
        return parse_time(value) if isinstance(value, str) else None
    except ValueError:
        return None


def is_past_return(
    task_type: TaskType, state: str, content: Mapping[str, Json], now: datetime
) -> tuple[str, str] | None:
    """The rule by which a task in this state can no longer be undone, with its sentence; None while it can."""
    after = task_type.irreversible_after_state
    if after and _RANK.get(state, -1) >= _RANK[after]:
        return "no_return.state", f"{task_type.name} cannot be undone once it is {after}."
    if task_type.hard_point_of_no_return:
        moment = moment_of(task_type.hard_point_of_no_return, content)
        if moment and now >= moment:
            return "no_return.date", f"{task_type.name} could be undone only until {format_time(moment)}."
    if task_type.reversibility == "NONE" and state == "COMPLETED":
        return "no_return.never", f"{task_type.name} cannot be undone."
    return None


# -- consequence --------------------------------------------------------------------------------------------


def is_running(draft: Draft, task: Task, refused: Iterable[EffectId]) -> bool:
    """Whether quiescing waits for it (§4): in flight, not withdrawable, not past its point of no return."""
    if task.state not in IN_FLIGHT:
        return False
    task_type, effect = draft.task_type(task), draft.effect_of(task)
    if is_past_return(task_type, task.state, draft.document_of(task), draft.now):
        return False
    return not (
        task.state == "WAITING_EXTERNAL"
        and task_type.withdrawal
        and effect is not None
        and effect.effect_id not in set(refused)
    )


def is_quiet(draft: Draft, request: Request, closure: Closure) -> bool:
    """Whether nothing in the closure is under way any more that a decision would have to wait for."""
    return not find_running(draft, request, closure)


def find_running(draft: Draft, request: Request, closure: Closure) -> list[Task]:
    """The tasks of the closure whose outcome a decision would rather wait for."""
    tasks = (draft.tasks[task_id] for task_id in closure.tasks)
    return [task for task in tasks if is_running(draft, task, request.refused_withdrawals)]


def judge_grace(draft: Draft, request: Request, closure: Closure) -> Rule | None:
    """The forced path (EC9): the time to wait for running work is over, and some of it still runs. None otherwise."""
    if request.grace_until is None or draft.now < request.grace_until:
        return None
    running = find_running(draft, request, closure)
    if not running:
        return None
    return explain_grace(request.grace_until, running, "it is judged by what may still become of it")


def explain_grace(until: datetime, running: list[Task], then: str) -> Rule:
    """The rule that says what was not waited for any longer, and what follows."""
    names = ", ".join(f"{task.step} ({task.task_type})" for task in running)
    return Rule(
        "grace",
        "FORCED",
        f"The time to wait for running work was over at {format_time(until)} and {names} had no outcome yet; {then}.",
        {"graceUntil": format_time(until), "running": [str(task.task_id) for task in running]},
        "WARNING",
    )


def judge_surplus(draft: Draft, task: Task, effect: Effect) -> tuple[Impact, Rule]:
    """An older effect of a task that came true after all (T11): undone if anything undoes it, whatever its point."""
    task_type = draft.task_type(task)
    consequence = "COMPENSATE" if task_type.compensation else "RETAIN"
    sentence = f"{task.step} ({task.task_type}) has happened once more than was wanted; " + (
        f"that is undone by {task_type.compensation}." if task_type.compensation else "nothing undoes it."
    )
    facts = {"taskId": str(task.task_id), "type": task.task_type, "effectId": str(effect.effect_id)}
    return (
        Impact(task, task_type, effect, consequence, stays=not task_type.compensation),
        Rule("consequence.surplus", consequence, sentence, facts, "WARNING"),
    )


def judge_task(
    draft: Draft, task: Task, refused: Iterable[EffectId], stopping: frozenset[EffectId] = frozenset()
) -> tuple[Impact, Rule, Blocker | None]:
    """One task's consequence: the first rule of §4 that holds. stopping: effects that a withdrawal is at work on."""
    task_type = draft.task_type(task)
    effect = draft.effect_of(task)
    facts: dict[str, Json] = {"taskId": str(task.task_id), "type": task.task_type, "state": task.state}
    name = f"{task.step} ({task.task_type})"

    def found(
        consequence: str,
        rule_id: str,
        sentence: str,
        *,
        stays: bool = False,
        severity: str = "INFO",
        blocker: Blocker | None = None,
    ) -> tuple[Impact, Rule, Blocker | None]:
        return (
            Impact(task, task_type, effect, consequence, stays),
            Rule(f"consequence.{rule_id}", consequence, sentence, facts, severity),
            blocker,
        )

    if (task.state in UNSTARTED and (effect is None or effect.state != "UNKNOWN")) or task.state == "CANCELLED":
        return found("NOT_STARTED_WILL_NOT_START", "unstarted", f"{name} has not started and will not start.")
    if not is_external(task_type.external_effect_level):
        return found("NOTHING_TO_UNDO", "no_external_effect", f"{name} is not felt outside; nothing to undo.")
    if effect is None or effect.state in {"NO_EFFECT", "REVERSED", "WAIVED"}:
        return found("NOTHING_TO_UNDO", "no_effect", f"{name} has had no effect that still stands.")
    # Work that an amendment replaced goes by what it has done, and it has done it.
    state = "COMPLETED" if task.state == "SUPERSEDED" and effect.state == "CONFIRMED" else task.state
    past = is_past_return(task_type, state, draft.document_of(task), draft.now)
    if past:
        if task_type.past_no_return == "BLOCK":
            blocker = Blocker("PAST_NO_RETURN", past[1], past[0])
            return found("RETAIN", past[0], past[1], stays=True, severity="BLOCKER", blocker=blocker)
        return found("RETAIN", past[0], past[1], stays=True, severity="WARNING")
    if task_type.reversibility in {"UNKNOWN", "MANUAL"}:
        return found(
            "MANUAL",
            "manual",
            f"{name}: whether and how it can be undone, a person must judge.",
            severity="WARNING",
        )
    if effect.accepted_at and effect.is_open:
        if effect.effect_id in stopping:
            return found("AWAIT_OUTCOME", "being_withdrawn", f"{name} is being called off; the answer is awaited.")
        if task_type.withdrawal and effect.effect_id not in set(refused):
            return found("WITHDRAW", "withdrawable", f"{name} is under way and can still be called off.")
        stays = must_stay(draft, task)
        return found("AWAIT_OUTCOME", "accepted", f"{name} is under way; its outcome is awaited first.", stays=stays)
    if effect.state == "UNKNOWN":
        return found(
            "VERIFY_OUTCOME",
            "unknown",
            f"{name}: nobody knows yet whether it happened; it is verified first.",
            stays=must_stay(draft, task),
            severity="WARNING",
        )
    if effect.state == "INTENDED":
        return found(
            "AWAIT_OUTCOME",
            "running",
            f"{name} is running; its outcome is awaited first.",
            stays=must_stay(draft, task),
        )
    if not task_type.compensation:
        return found(
            "RETAIN", "no_compensation", f"{name} has happened; nothing undoes it.", stays=True, severity="WARNING"
        )
    return found("COMPENSATE", "confirmed", f"{name} has happened and is undone by {task_type.compensation}.")


def judge_resized(
    draft: Draft, task: Task, refused: Iterable[EffectId], stopping: frozenset[EffectId] = frozenset()
) -> tuple[Impact, Rule, Blocker | None]:
    """One task that is told a quantity which becomes smaller: what has not started, starts with the new one; what has
    happened follows the policy's `on_input_change`."""
    task_type, effect = draft.task_type(task), draft.effect_of(task)
    facts: dict[str, Json] = {
        "taskId": str(task.task_id),
        "type": task.task_type,
        "state": task.state,
        "onInputChange": task_type.on_input_change,
    }
    name = f"{task.step} ({task.task_type})"
    started = effect is not None and effect.state in {"CONFIRMED", "INTENDED", "UNKNOWN"}
    past = is_past_return(task_type, task.state, draft.document_of(task), draft.now)
    undone = task_type.on_input_change in {"UNDO_THEN_DO", "DO_THEN_UNDO"}
    rule: tuple[str, str, str] | None = None
    replaced = False
    if not started:
        rule = (
            "quantity.unstarted",
            "NOTHING_TO_UNDO",
            f"{name} has not happened yet; it is asked for the new quantity.",
        )
    elif task_type.on_input_change == "KEEP":
        rule = "quantity.keep", "NOTHING_TO_UNDO", f"{name} stays as it is when a quantity changes."
    elif (
        task.state == "COMPLETED"
        and not past
        # What is not felt outside has nothing to undo before or after it is done once more.
        and (task_type.on_input_change == "REDO" or (undone and not is_external(task_type.external_effect_level)))
    ):
        replaced = True
        rule = "quantity.redo", "NOTHING_TO_UNDO", f"{name} is done once more, for the new quantity."
    elif (
        task_type.on_input_change == "MANUAL"
        and not past
        and not (effect and effect.accepted_at and effect.is_open and task_type.withdrawal)
        and is_external(task_type.external_effect_level)
    ):
        rule = "quantity.manual", "MANUAL", f"{name}: how it follows the new quantity, a person must judge."
    if rule is None:
        return judge_task(draft, task, refused, stopping)
    rule_id, consequence, sentence = rule
    severity = "WARNING" if consequence == "MANUAL" else "INFO"
    return (
        Impact(task, task_type, effect, consequence, replaced=replaced),
        Rule(f"consequence.{rule_id}", consequence, sentence, facts, severity),
        None,
    )


def must_stay(draft: Draft, task: Task) -> bool:
    """What a task in flight may still become: will its effect, once confirmed, have to stay?"""
    task_type = draft.task_type(task)
    past = is_past_return(task_type, "COMPLETED", draft.document_of(task), draft.now)
    return past is not None or not task_type.compensation


def related_items(draft: Draft, item_ids: Iterable[str]) -> set[str]:
    """The items themselves and what they rely on, all the way down."""
    reached = set(item_ids)
    frontier = list(reached)
    while frontier:
        item = draft.items.get(frontier.pop())
        for other in item.relies_on if item else ():
            if other not in reached:
                reached.add(other)
                frontier.append(other)
    return reached


def spread_retention(
    draft: Draft, impacts: Iterable[Impact], dispositions: Mapping[str, str]
) -> tuple[list[Impact], list[Rule]]:
    """`keeps` and `undo_after` to a fixpoint: what an effect that stays needs, stays too, also where a person was to
    judge: the policy has said."""

    def may_go(impact: Impact) -> bool:
        decided = dispositions.get(str(impact.task.task_id))
        return impact.consequence == "COMPENSATE" or (impact.consequence == "MANUAL" and decided != "RETAIN")

    current = {impact.key: impact for impact in impacts}
    # By type and by compensation, each per item: whoever stays finds what it needs without looking at all the rest.
    by_type: dict[tuple[str, str], list[uuid.UUID]] = {}
    by_compensation: dict[tuple[str, str], list[uuid.UUID]] = {}
    compensations: dict[str, None] = {}
    for impact in current.values():
        if impact.is_surplus or not may_go(impact):
            continue  # nobody needs it twice; and only what would be undone can be kept
        for item_id in impact.task.item_ids:
            by_type.setdefault((impact.task.task_type, item_id), []).append(impact.key)
            if impact.type.compensation:
                by_compensation.setdefault((impact.type.compensation, item_id), []).append(impact.key)
                compensations[impact.type.compensation] = None
    # undone_before[Y]: the compensations that may only come after Y
    undone_before: dict[str, list[str]] = {}
    for compensation in compensations:
        for earlier in _type_row(draft, compensation).undo_after:
            undone_before.setdefault(earlier, []).append(compensation)
    trace: list[Rule] = []
    frontier = [
        impact
        for impact in current.values()
        if impact.consequence == "RETAIN"
        or (impact.consequence == "MANUAL" and dispositions.get(str(impact.task.task_id)) == "RETAIN")
    ]

    def keep(key: uuid.UUID, rule_id: str, because: Impact) -> None:
        impact = current[key]
        if not may_go(impact):
            return
        kept = Impact(impact.task, impact.type, impact.effect, "RETAIN", True)
        current[key] = kept
        frontier.append(kept)
        trace.append(
            Rule(
                rule_id,
                "RETAIN",
                f"{impact.task.step} ({impact.task.task_type}) stays, because {because.task.task_type} stays.",
                {"taskId": str(impact.task.task_id), "because": str(because.task.task_id)},
                "WARNING",
            )
        )

    while frontier:
        retained = frontier.pop()
        later = undone_before.get(retained.type.compensation or "", ())
        for item_id in related_items(draft, retained.task.item_ids) if retained.type.keeps or later else ():
            # Once kept, always kept: what has been found is not looked at again.
            for kept_type in retained.type.keeps:
                for key in by_type.pop((kept_type, item_id), ()):
                    keep(key, "retention.keeps", retained)
            for compensation in later:
                for key in by_compensation.pop((compensation, item_id), ()):
                    keep(key, "retention.undo_after", retained)
    return list(current.values()), trace


def _type_row(draft: Draft, name: str) -> TaskType:
    return draft.fulfillment_types.get(name) or draft.policy.task_types[name]


# -- the assessment -----------------------------------------------------------------------------------------


def assess_cancellation(draft: Draft, request: Request) -> Assessment:
    """Judge one cancellation as the order stands now, under the policy in force."""
    policy = draft.policy
    closure = closure_of(draft, request)
    trace = list(closure.trace)
    blockers = list(closure.blockers)
    judged: list[Impact] = []
    surplus = _surplus_effects(draft)
    stopping = frozenset(e.withdraws for e in draft.effects.values() if e.withdraws and e.is_open)
    for task_id in closure.tasks:
        task = draft.tasks[task_id]
        judge = judge_resized if task_id in closure.resized else judge_task
        impact, rule, blocker = judge(draft, task, request.refused_withdrawals, stopping)
        judged.append(impact)
        trace.append(rule)
        if blocker:
            blockers.append(blocker)
        for effect in surplus.get(task_id, ()):
            impact, rule = judge_surplus(draft, task, effect)
            judged.append(impact)
            trace.append(rule)
    forced = judge_grace(draft, request, closure)
    trace += [forced] if forced else []
    impacts, kept = spread_retention(draft, judged, request.dispositions)
    trace += kept

    reason = policy.reason_codes["cancellation"].get(request.reason_code)
    feasibility, sentence = _feasibility(impacts, blockers, something_left=bool(closure.reduced))
    trace.append(
        Rule(
            "feasibility",
            feasibility,
            sentence,
            {"blockers": [b.code for b in blockers]},
            "BLOCKER" if feasibility == "NOT_CANCELLABLE" else "INFO",
        )
    )
    if feasibility == "NOT_CANCELLABLE" and reason is not None and not reason.refusable:
        feasibility = "REQUIRES_MANUAL_REVIEW"
        trace.append(
            Rule(
                "feasibility.not_refusable",
                feasibility,
                f"A cancellation for {request.reason_code} may not be refused; a person decides how.",
                {"reasonCode": request.reason_code},
                "WARNING",
            )
        )

    waived = bool(request.repairs_case or (reason and reason.charge_waived))  # what we failed at costs nobody
    elsewhere = reversing_elsewhere(draft, request.request_id)  # undone and charged by another request
    mine = [impact for impact in impacts if impact.effect is None or impact.effect.effect_id not in elsewhere]
    by_hand = {task_id for task_id, disposition in request.dispositions.items() if disposition != "RETAIN"}
    cost, offer, charged = price_undoing(draft, mine, request.requested_at, waived, by_hand)
    trace += charged
    trace += explain_refunds(draft, mine)
    verdict = policy.cancellation.approval[feasibility]
    manual = request.force_manual_review or feasibility == "REQUIRES_MANUAL_REVIEW"
    automatic = verdict == "AUTOMATIC" and not manual
    refusable = reason is None or reason.refusable
    trace.append(
        Rule(
            "approval",
            "AUTOMATIC" if automatic else "REJECT" if verdict == "REJECT" and refusable else "APPROVAL",
            f"The policy answers {feasibility} with {verdict}."
            + (" The requester asked for a review." if request.force_manual_review else ""),
            {"feasibility": feasibility, "forceManualReview": request.force_manual_review},
        )
    )
    return Assessment(
        feasibility=feasibility,
        manual_review_required=manual,
        automatic=automatic,
        impacts=tuple(impacts),
        blockers=tuple(blockers),
        cost=cost,
        offer=offer,
        trace=tuple(trace),
        fingerprint=fingerprint(draft, request.request_id, closure),
        closure=closure,
    )


def _surplus_effects(draft: Draft) -> dict[TaskId, list[Effect]]:
    """Per task the originals that stand beside the one that the task goes by."""
    found: dict[TaskId, list[Effect]] = {}
    for effect in draft.effects.values():
        task = draft.tasks.get(effect.task_id)
        if effect.stands and effect.is_original and task and task.effect_id != effect.effect_id:
            found.setdefault(task.task_id, []).append(effect)
    return found


def reversing_elsewhere(draft: Draft, request_id: RequestId) -> frozenset[EffectId]:
    """Effects that another plan, past its own commit point, is already reversing."""
    return frozenset(
        task.reverses
        for task in draft.tasks.values()
        if task.kind == "COMPENSATION"
        and task.reverses
        and task.state not in {"SUPERSEDED", "RETAINED", "NOT_REQUIRED"}
        and (plan := draft.plans[task.plan_id]).request_id != request_id
        and plan.state != "SUPERSEDED"
        and draft.is_past_commit(plan)
    )


def _feasibility(impacts: list[Impact], blockers: list[Blocker], *, something_left: bool) -> tuple[str, str]:
    """something_left: what has not happened for a smaller quantity yet can always still be asked for."""
    if any(impact.consequence == "MANUAL" for impact in impacts):
        return "REQUIRES_MANUAL_REVIEW", "At least one effect can be judged by a person only."
    if blockers:
        return "NOT_CANCELLABLE", " ".join(blocker.message for blocker in blockers)
    stays = [impact for impact in impacts if impact.stays]
    # A failed task is work that somebody would try again: it can still be stopped.
    stoppable = something_left or any(i.consequence in STOPPABLE or i.task.state == "FAILED" for i in impacts)
    if stays and not stoppable:
        return "NOT_CANCELLABLE", "Everything has happened already and nothing of it can be undone."
    if stays:
        names = ", ".join(sorted({impact.task.task_type for impact in stays}))
        return "PARTIALLY_CANCELLABLE", f"Something stays or may stay: {names}."
    return "FULLY_CANCELLABLE", "Everything that has happened can be undone, the rest will not happen."


def price_undoing(
    draft: Draft, impacts: list[Impact], asked_at: datetime, waived: bool, by_hand: Container[str] = ()
) -> tuple[Money, Offer | None, list[Rule]]:
    """The charges of effects that will be undone after their soft point; judged at the time of asking, once each. The
    time to answer runs from now, when the charge is named, and never beyond the hard point.

    by_hand: tasks that a person must judge, and has said are to be undone
    """
    cost = Money(0, draft.policy.currency)
    trace: list[Rule] = []
    charges: list[tuple[Charge, datetime]] = []
    for impact in impacts:
        point = impact.type.soft_point_of_no_return
        agreed = impact.consequence == "MANUAL" and str(impact.task.task_id) in by_hand
        # What stays costs nothing, and what is under way may come to stay.
        undone = agreed or (impact.consequence in _UNDONE and not impact.stays)
        if not undone or not point or not point.charge:
            continue
        document = draft.document_of(impact.task)
        moment = moment_of(point, document)
        if not moment or asked_at < moment:
            continue
        hard = impact.type.hard_point_of_no_return
        latest = draft.now + (point.charge.respond_within or timedelta())
        end = moment_of(hard, document) if hard else None
        charges.append((point.charge, min(latest, end) if end else latest))
        if not waived:
            cost = cost + point.charge.amount
        trace.append(
            Rule(
                "charge.soft_point",
                "WAIVED" if waived else point.charge.code,
                f"Undoing {impact.task.task_type} after {format_time(moment)} costs {point.charge.amount}"
                + (", waived for this reason." if waived else "."),
                {"taskId": str(impact.task.task_id), "askedAt": format_time(asked_at)},
                "WARNING",
            )
        )
    if not charges:
        return cost, None, trace
    total = Money(sum(charge.amount.amount_minor for charge, _ in charges), draft.policy.currency)
    offer = Offer(
        "+".join(sorted({charge.code for charge, _ in charges})),
        total,
        any(charge.blocking for charge, _ in charges),
        # A charge that nobody waits for has no time to answer of its own.
        min((by for charge, by in charges if charge.blocking), default=draft.now),
        waived,
    )
    return cost, offer, trace


def find_refund(draft: Draft, original: Effect) -> Money | None:
    """What is still to be given back for an effect; None where its system's own words do not tell."""
    return refundable(original, draft.reversals_of(original.effect_id), draft.policy.currency)


def explain_refunds(draft: Draft, impacts: Iterable[Impact]) -> list[Rule]:
    """How much money each undoing gives back, or that a person must say it; nothing counts as zero unsaid."""
    trace: list[Rule] = []
    for impact in impacts:
        undoing = _type_row(draft, impact.type.compensation) if impact.type.compensation else None
        effect = impact.effect
        if impact.consequence != "COMPENSATE" or effect is None or undoing is None or undoing.money != "REFUND":
            continue
        refund = find_refund(draft, effect)
        facts: dict[str, Json] = {"taskId": str(impact.task.task_id), "effectId": str(effect.effect_id)}
        what = f"{impact.task.step} ({impact.task.task_type})"
        if refund is None:
            sentence = f"{what}: how much it took cannot be read; a person must name what {undoing.name} gives back."
            trace.append(Rule("money.refund", "UNKNOWN", sentence, facts, "WARNING"))
        elif undoing.money_only and not refund.amount_minor:
            sentence = f"{what} has no money to give back; {undoing.name} is not called."
            trace.append(Rule("money.refund", "NOTHING", sentence, facts))
        else:
            facts["refund"] = refund.to_json()
            trace.append(Rule("money.refund", str(refund), f"Undoing {what} gives back {refund}.", facts))
    return trace


def _find_passed(draft: Draft, closure: Closure, asked_at: datetime) -> list[list[str]]:
    """The dated points behind which effects have come: hard ones by now, soft ones by the time of asking."""
    passed: list[list[str]] = []
    for task_id in closure.tasks:
        task = draft.tasks[task_id]
        task_type, effect = draft.task_type(task), draft.effect_of(task)
        hard, soft = task_type.hard_point_of_no_return, task_type.soft_point_of_no_return
        if effect is None or not (effect.is_open or effect.stands) or not (hard or soft):
            continue
        document = draft.document_of(task)
        for name, point, moment in (("HARD", hard, draft.now), ("SOFT", soft, asked_at)):
            reached = moment_of(point, document) if point else None
            if reached and moment >= reached:
                passed.append([str(task_id), name])
    return sorted(passed)


def fingerprint(draft: Draft, request_id: RequestId | None, closure: Closure) -> str:
    """What an assessment rests on: the closure's tasks and effects, the dates they have passed, the touched values,
    other open changes, the policy. Not the order's version, which moves for other reasons."""
    # Sorted as text: a UUID compares itself in Python.
    tasks = sorted(
        [str(task_id), "UNSTARTED" if draft.tasks[task_id].state in UNSTARTED else draft.tasks[task_id].state]
        for task_id in closure.tasks
    )
    touched = set(closure.tasks)
    effects = sorted(
        [str(effect.effect_id), effect.state, effect.accepted_at is not None]
        for effect in draft.effects.values()
        if effect.is_original and effect.task_id in touched
    )
    others = sorted(
        [str(other.request_id), other.status] for other in draft.open_changes() if other.request_id != request_id
    )
    values = {key: draft.head.content.get(key) for key in sorted(draft.head.content)}
    items = [draft.items[item_id].document() for item_id in sorted(closure.touched) if item_id in draft.items]
    rests_on = [tasks, effects, others, values, items, draft.policy_version]
    if closure.dependents:
        rests_on.append(sorted(map(str, closure.dependents)))
    if closure.relying:
        rests_on.append(sorted(map(str, closure.relying)))
    request = draft.requests.get(request_id) if request_id else None
    if passed := _find_passed(draft, closure, request.requested_at if request else draft.now):
        rests_on.append(passed)
    text = json.dumps(rests_on, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
