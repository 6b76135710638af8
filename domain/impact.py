"""What an amendment would mean: typed changes, the phase of what they touch, the cell of the matrix, what becomes of
each task, and why. Pure, and the same for preview, request and the look just before applying; it changes nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from domain.assessment import Blocker, Impact, Offer, Rule, explain_grace, explain_refunds, price_undoing
from domain.commands import AskedChange, OrderItem
from domain.decomposition import LIVE_ITEMS, Redraw, check_items, find_asset_problem, live_tasks, redraw_plan
from domain.errors import (
    AssetNotModifiable,
    Breach,
    FieldError,
    FieldNotAmendable,
    ItemUnknown,
    OldValueMismatch,
    Unprocessable,
    UseCancellation,
)
from domain.ledger import Effect
from domain.machines import has_ended
from domain.order import UNSTARTED, Amendment, Draft, Item, Task
from domain.policy import (
    AmendableField,
    EffectLevelAtLeast,
    FieldMatch,
    PriceAccepted,
    SafetyRule,
    TaskInState,
    TaskType,
    member_errors,
    member_of,
    split_pointer,
)
from domain.values import Json, Money, PlanId, TaskId, derive_id, format_time, is_external

# What becomes of one task. REPLACE: it has not begun, a new one comes for it · NEW_VALUE: it has not begun and will be
# sent the new value · WITHDRAW: it is under way and called off · AWAIT: its outcome must be known first · REMOVE: the
# changed order has no such work and it has had no effect · FOLLOW: it stays unless a result that it was sent changes
REPLACING: Final = frozenset({"REPLACE", "REDO", "UNDO_THEN_DO", "DO_THEN_UNDO", "MANUAL", "WITHDRAW"})
UNDOING: Final = frozenset({"UNDO_THEN_DO", "DO_THEN_UNDO", "MANUAL", "WITHDRAW", "UNDO", "MANUAL_UNDO"})
# What a person who approves has agreed to, should it come to that.
AGREED: Final = UNDOING | {"AWAIT", "FOLLOW"}

_ADDS_ITEM: Final = "-"
_AN_ITEM: Final = "{itemId}"
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Judged:
    """One change and its cell: in which phase, by which rule, with which result; `approval` is the policy's answer."""

    change: Mapping[str, Json]
    field: AmendableField
    phase: str
    result: str
    rule_id: str
    approval: str
    touched: tuple[Task, ...]
    reason: str | None = None

    @property
    def is_blocked(self) -> bool:
        return self.approval == "REJECT"

    def to_json(self) -> dict[str, Json]:
        return {
            "path": self.change["path"],
            "field": self.field.field,
            "command": self.field.command,
            "class": self.field.class_,
            "phase": self.phase,
            "safetyResult": self.result,
            "ruleId": self.rule_id,
            "touchedTasks": [str(task.task_id) for task in self.touched],
            **({"blockerReason": self.reason} if self.reason else {}),
        }


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one task; an effect of it that is undone is named."""

    task: Task
    type: TaskType
    effect: Effect | None
    strategy: str

    def to_json(self) -> dict[str, Json]:
        return {
            "taskId": str(self.task.task_id),
            "type": self.task.task_type,
            "step": self.task.step,
            "state": self.task.state,
            **({"effectId": str(self.effect.effect_id), "effectState": self.effect.state} if self.effect else {}),
            "strategy": self.strategy,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """The whole assessment. `accepted` are the changes that would be applied."""

    feasibility: str
    automatic: bool
    judged: tuple[Judged, ...]
    fates: tuple[Fate, ...]
    blockers: tuple[Blocker, ...]
    needs_quote: bool
    redraws: bool
    reshaped: frozenset[str]
    cost: Money
    offer: Offer | None
    trace: tuple[Rule, ...]
    fingerprint: str

    @property
    def accepted(self) -> tuple[Judged, ...]:
        return tuple(found for found in self.judged if not found.is_blocked)

    @property
    def again(self) -> frozenset[TaskId]:
        return tasks_again(self.fates)

    @property
    def running(self) -> tuple[Fate, ...]:
        return tuple(fate for fate in self.fates if fate.strategy == "AWAIT")

    @property
    def closure(self) -> tuple[TaskId, ...]:
        return tuple(fate.task.task_id for fate in self.fates if fate.strategy != "FOLLOW")

    def agreement(self) -> dict[str, Json]:
        """What a person agrees to when approving: results, what becomes of each task, the cost."""
        return {
            "results": {found.change["path"]: found.result for found in self.judged},
            "undone": [str(fate.task.task_id) for fate in self.fates if fate.strategy in AGREED],
            "cost": self.cost.amount_minor,
        }

    def with_rule(self, rule: Rule) -> Finding:
        return replace(self, trace=(*self.trace, rule))


def tasks_again(fates: Iterable[Fate]) -> frozenset[TaskId]:
    """Those for which a new task comes."""
    return frozenset(fate.task.task_id for fate in fates if fate.strategy in REPLACING)


# -- reading what is asked -------------------------------------------------------------------------------------


def match_changes(draft: Draft, asked: Iterable[AskedChange]) -> list[tuple[AskedChange, FieldMatch | None]]:
    return [(change, draft.policy.match_field(change.path)) for change in asked]


def read_changes(draft: Draft, asked: tuple[AskedChange, ...]) -> tuple[Mapping[str, Json], ...]:
    """The typed changes, as they are stored. Raises OldValueMismatch, then what is wrong with the body."""
    matched = match_changes(draft, asked)
    for number, (change, match) in enumerate(matched):
        known = match is not None and (match.item_id is None or match.item_id in draft.items)
        if match is not None and known and not _is_new_item(match) and not _stands(draft, change, match):
            raise OldValueMismatch(
                f"{change.path} is not what the change says it was.",
                errors=(FieldError(f"/changes/{number}/oldValue", "another value stands there now"),),
            )
    changes = tuple(_read_change(draft, number, change, match) for number, (change, match) in enumerate(matched))
    _check_removals(draft, changes)
    return changes


def _stands(draft: Draft, change: AskedChange, match: FieldMatch) -> bool:
    """Whether the old value is what stands. An item that goes is named by its id; what else is said must be so."""
    stands = value_at(draft, split_pointer(change.path))
    if _is_whole_item(match) and isinstance(change.old, Mapping):
        return all(stands.get(name) == value for name, value in change.old.items())
    return stands == change.old or (_is_whole_item(match) and change.old is None)


def _is_new_item(match: FieldMatch) -> bool:
    return split_pointer(match.field.path)[-1] == _ADDS_ITEM


def _is_whole_item(match: FieldMatch) -> bool:
    return split_pointer(match.field.path)[-1] == _AN_ITEM


def reshapes(change: Mapping[str, Json]) -> bool:
    """Whether an item comes, goes, or decomposes into something else."""
    parts = split_pointer(str(change["path"]))
    return parts[-1] in {_ADDS_ITEM, "productOfferingId"} or takes_out(parts)


def takes_out(parts: tuple[str, ...]) -> bool:
    """Whether a pointer means an item as a whole, which only REMOVE does."""
    return parts[0] == "items" and len(parts) == 2 and parts[1] != _ADDS_ITEM


def _read_change(draft: Draft, number: int, change: AskedChange, match: FieldMatch | None) -> Mapping[str, Json]:
    at = f"/changes/{number}"
    parts = split_pointer(change.path)
    if match is None and change.operation == "REMOVE" and takes_out(parts) and parts[1] in draft.items:
        raise UseCancellation(errors=(FieldError(f"{at}/path", "cancel the item instead"),))
    if match is None:
        raise FieldNotAmendable(
            f"The policy lets nobody amend {change.path}.",
            errors=(FieldError(f"{at}/path", "not an amendable field"),),
        )
    if match.item_id is not None and match.item_id not in draft.items:
        raise ItemUnknown(errors=(FieldError(f"{at}/path", f"unknown item {match.item_id}"),))
    whole = split_pointer(match.field.path)
    if _is_new_item(match):
        if change.operation != "ADD":
            raise Unprocessable(errors=(FieldError(f"{at}/operation", "a new item takes ADD"),))
        before = None
        after = change.new
        _check_new_item(draft, at, match.field, after)
    elif _is_whole_item(match):
        if change.operation != "REMOVE":
            raise Unprocessable(errors=(FieldError(f"{at}/operation", "an item as a whole takes REMOVE"),))
        before, after = value_at(draft, parts), None
    else:
        before = value_at(draft, parts)
        after = None if change.operation == "REMOVE" else change.new
        if after is None and change.operation != "REMOVE":
            raise Unprocessable(errors=(FieldError(f"{at}/newValue", "is required; take REMOVE to leave it out"),))
        root = parts[: len(whole)]
        if not _leads_on(value_at(draft, root), parts[len(whole) :], change.operation):
            raise Unprocessable(
                "A list is changed as a whole, or in a member that it has; what has no members has none to change.",
                errors=(FieldError(f"{at}/path", "leads nowhere in the value that stands"),),
            )
        value = _set_in(value_at(draft, root), parts[len(whole) :], after)
        wrong = (
            () if value is None and match.item_id is None else match.field.value_errors(value)
        )  # what an item is made of is not left out
        if not wrong and value is not None:
            member = member_of(parts)
            wrong = member_errors(member, _set_in(value_at(draft, member), parts[len(member) :], after))
        if wrong:
            raise Unprocessable(
                errors=tuple(FieldError(f"{at}/newValue{problem.path}", problem.message) for problem in wrong)
            )
        if root[2:] == ("quantity",) and draft.plan is not None and value < draft.items[root[1]].quantity:
            raise UseCancellation(
                "Work for the larger quantity has been planned; cancel a part of the item instead.",
                errors=(FieldError(f"{at}/newValue", "smaller than what stands"),),
            )
    return {
        "path": change.path,
        "operation": change.operation,
        "field": match.field.field,
        "command": match.field.command,
        "class": match.field.class_,
        "itemId": after.get("itemId") if _is_new_item(match) else match.item_id,
        "before": before,
        "after": after,
    }


def _check_new_item(draft: Draft, at: str, field: AmendableField, item: Json) -> None:
    wrong = field.value_errors(item)
    if wrong:
        raise Unprocessable(errors=tuple(FieldError(f"{at}/newValue{error.path}", error.message) for error in wrong))
    if item["itemId"] in draft.items or item["itemId"] in {"*", "-"}:
        raise Unprocessable(errors=(FieldError(f"{at}/newValue/itemId", "the order has an item of this id already"),))
    if item.get("targetAssetId") or item["action"] != "ADD":
        raise Unprocessable(
            "What is there already is changed by a supplemental order.",
            errors=(FieldError(f"{at}/newValue/action", "a new item takes ADD and no asset"),),
        )


def _check_removals(draft: Draft, changes: tuple[Mapping[str, Json], ...]) -> None:
    """An item can be taken out while nothing has been done for it alone; from then on its effects must be undone, which
    is what a cancellation does. So it is for the last one: nothing would be left to carry out."""
    parts = [split_pointer(str(change["path"])) for change in changes]
    going = {number: path[1] for number, path in enumerate(parts) if takes_out(path)}
    staying = {i for i, item in draft.items.items() if item.base in LIVE_ITEMS} - set(going.values())
    for number, item_id in going.items():
        where = (FieldError(f"/changes/{number}/path", "cancel the item instead"),)
        if not staying:
            raise UseCancellation("Nothing would be left of the order; cancel it instead.", errors=where)
        kept = kept_effects(draft)
        for task in live_tasks(draft):
            own = item_id in task.item_ids and staying.isdisjoint(task.item_ids)
            effects = [*draft.originals_of(task.task_id), *kept.get(task.task_id, ())]
            if own and any(is_external(e.level) and (e.is_open or e.stands) for e in effects):
                raise UseCancellation(
                    f"{task.step} ({task.task_type}) has begun for item {item_id}; cancel the item instead.",
                    errors=where,
                )


def check_fit(draft: Draft) -> None:
    """Whether the items still fit together, and each the asset that it is about, on a draft whose terms have been
    changed. What stood in the way before is no matter of the change."""
    check_items(
        draft.policy,
        draft.head.order_type,
        (
            OrderItem(
                item_id=item.item_id,
                action=item.action,
                offering=item.offering,
                quantity=item.quantity,
                content=item.content,
                parent=item.parent,
                relies_on=item.relies_on,
                target_asset=item.target_asset,
            )
            for item in draft.items.values()
            if item.base != "SUPERSEDED"
        ),
    )
    for item_id in draft.items.keys() - draft.before.items.keys():
        item = draft.items[item_id]
        for other in (draft.items[base] for base in (*item.relies_on, *((item.parent,) if item.parent else ()))):
            if other.base not in LIVE_ITEMS:
                raise Unprocessable(
                    f"Item {item_id} would build on item {other.item_id}, which has ended ({other.base}).",
                    errors=(FieldError("/changes", "see detail"),),
                )
    customer = draft.head.content.get("customer", {}).get("id")
    for item in draft.items.values():
        asset = draft.assets.get(item.target_asset) if item.target_asset else None
        if asset is None or item.base not in LIVE_ITEMS or item.offering == draft.before.items[item.item_id].offering:
            continue
        problem = find_asset_problem(draft.policy, draft.head.order_type, item.offering, item.action, asset, customer)
        if problem:
            raise AssetNotModifiable(f"Item {item.item_id}: {problem}", errors=(FieldError("/changes", "see detail"),))


# -- values ----------------------------------------------------------------------------------------------------


def value_at(draft: Draft, parts: tuple[str, ...]) -> Json:
    """What the order says at a pointer; None where it says nothing."""
    if parts[0] == "items":
        item = draft.items.get(parts[1]) if len(parts) > 1 else None
        source: Json = item.document() if item else None
        parts = parts[2:]
    else:
        source = draft.head.content
    for part in parts:
        source = _member(source, part)
    return source


def _member(source: Json, part: str) -> Json:
    """What a value has under a name, or a list at a place; None where there is nothing."""
    if isinstance(source, list):
        return source[int(part)] if _INDEX.fullmatch(part) and int(part) < len(source) else None
    return source.get(part) if isinstance(source, Mapping) else None


def _leads_on(source: Json, parts: tuple[str, ...], operation: str) -> bool:
    """Whether a pointer inside a value can be followed: places that a list has are replaced, nothing else in it moves;
    under names that are not there yet something new comes."""
    for left, part in enumerate(parts, 1 - len(parts)):
        if isinstance(source, list):
            if _member(source, part) is None or (left == 0 and operation != "REPLACE"):
                return False
        elif source is not None and not isinstance(source, Mapping):
            return False
        source = _member(source, part)
    return True


def _set_in(source: Json, parts: tuple[str, ...], value: Json) -> Json:
    """A copy of a document with one value in it changed; None takes it out."""
    if not parts:
        return value
    if isinstance(source, list):
        place = int(parts[0])
        return [*source[:place], _set_in(source[place], parts[1:], value), *source[place + 1 :]]
    changed = dict(source) if isinstance(source, Mapping) else {}
    inner = _set_in(changed.get(parts[0]), parts[1:], value)
    if inner is None:
        changed.pop(parts[0], None)
    else:
        changed[parts[0]] = inner
    return changed


def write_change(draft: Draft, change: Mapping[str, Json]) -> None:
    """Put one change into the order."""
    parts = split_pointer(str(change["path"]))
    after = change["after"]
    draft.content_changed = True
    if parts[-1] == _ADDS_ITEM:
        own = {"itemId", "action", "productOfferingId", "quantity", "parentItemId", "reliesOn", "targetAssetId"}
        quantity = after.get("quantity", 1)
        draft.add_item(
            Item(
                item_id=after["itemId"],
                action=after["action"],
                offering=after["productOfferingId"],
                state="ACKNOWLEDGED",
                base="ACKNOWLEDGED",
                quantity=quantity,
                ordered_quantity=quantity,
                content={key: value for key, value in after.items() if key not in own},
                parent=after.get("parentItemId"),
                relies_on=tuple(after.get("reliesOn", ())),
            )
        )
    elif takes_out(parts):
        _take_out(draft, draft.items[parts[1]])
    elif parts[0] == "items":
        item = draft.items[parts[1]]
        if parts[2:] == ("productOfferingId",):
            draft.change_item(item.item_id, offering=after)
        elif parts[2:] == ("quantity",):
            ordered = item.ordered_quantity + after - item.quantity
            draft.change_item(item.item_id, quantity=after, ordered_quantity=ordered)
        else:
            draft.change_item(item.item_id, content=_set_in(item.content, parts[2:], after))
    else:
        draft.change_head(content=_set_in(draft.head.content, parts, after))


def _take_out(draft: Draft, item: Item) -> None:
    if has_ended("ITEM", item.base):  # it is judged as ended, and nothing is tried on it
        return
    if item.state not in {item.base, "FALLOUT"}:  # still shown as what a cancellation that has just ended made of it
        draft.move_item(item.item_id, item.base)
    draft.move_item(item.item_id, "SUPERSEDED", base="SUPERSEDED")


def amended(draft: Draft, changes: Iterable[Mapping[str, Json]]) -> Draft:
    """A draft to try things on: the order with these changes, kept by nobody."""
    trial = Draft(
        draft.result(),
        actor=draft.actor,
        on_behalf_of=draft.on_behalf_of,
        now=draft.now,
        command_id=draft.command_id,
        policy=draft.policy,
        policy_version=draft.policy_version,
    )
    for change in changes:
        write_change(trial, change)
    return trial


# -- the matrix ------------------------------------------------------------------------------------------------


def find_touched(draft: Draft, field: AmendableField, item_id: str | None) -> list[Task]:
    """The tasks over which the field's phase is computed (D10): never the whole order's."""
    return [
        task
        for task in live_tasks(draft)
        if not is_leaving(draft, task)
        and (
            field.touches == "ORDER"
            or (field.touches == "ITEM" and item_id in task.item_ids)
            or (field.touches == "INPUTS" and is_fed_by(draft, task, field, item_id))
        )
    ]


def is_fed_by(draft: Draft, task: Task, field: AmendableField, item_id: str | None) -> bool:
    """Whether the task is sent what the field says."""
    return (item_id is None or item_id in task.item_ids) and field.touches_type(draft.task_type(task))


def is_leaving(draft: Draft, task: Task) -> bool:
    """A task whose items have all ended, or are being cancelled, is not for an amendment to touch."""
    return all(has_ended("ITEM", draft.items[i].base) for i in task.item_ids) or any(
        holder != "operator" and any(str(r.request_id) == holder and not r.has_ended for r in draft.requests.values())
        for holder in draft.holds.get(task.task_id, ())
    )


def kept_effects(draft: Draft) -> dict[TaskId, list[Effect]]:
    """Per task the effects that it is to take the place of by being done (REDO): until then they are what stands of its
    work. What has an undoing of its own does not count."""
    undone = {task.reverses for task in draft.tasks.values() if task.kind == "COMPENSATION" and task.reverses}
    kept: dict[TaskId, list[Effect]] = {}
    for task in draft.fulfillment_tasks():
        effect = draft.effect_of(task) if task.superseded_by else None
        if effect is not None and effect.stands and effect.effect_id not in undone:
            kept.setdefault(draft.newest_of(task).task_id, []).append(effect)
    return kept


def find_phase(draft: Draft, touched: Iterable[Task]) -> str:
    """How far the touched work has come, from the ledger."""
    if draft.plan is None:
        return "BEFORE_DECOMPOSITION"
    kept = kept_effects(draft)
    states = {
        effect.state for task in touched for effect in (*draft.originals_of(task.task_id), *kept.get(task.task_id, ()))
    }
    if "CONFIRMED" in states:
        return "TASK_COMPLETED"
    if states & {"INTENDED", "UNKNOWN"}:
        return "TASK_STARTED"
    return "AFTER_DECOMPOSITION"


def _holds(draft: Draft, rule: SafetyRule, touched: list[Task], item_id: str | None) -> bool:
    match rule.condition:
        case None:
            return True
        case PriceAccepted(price_accepted=wanted):
            return bool(draft.head.content.get("priceAccepted")) == wanted
        case EffectLevelAtLeast() as level:
            effects = (draft.effect_of(task) for task in touched)
            return any(e is not None and e.state == "CONFIRMED" and level.holds_for(e.level) for e in effects)
        case TaskInState(task_type=name, state_in=states):
            items = {i for task in touched for i in task.item_ids} | ({item_id} if item_id else set())
            return any(
                task.task_type == name and task.state in states and (not items or not items.isdisjoint(task.item_ids))
                for task in live_tasks(draft)
            )


def judge_change(draft: Draft, change: Mapping[str, Json]) -> Judged:
    """The cell that decides about one change; before it, whether the change still means what it meant at the door."""
    known = next((row for row in draft.policy.amendable_fields if row.field == change["field"]), None)
    field = known or AmendableField(change["field"], change["command"], change["class"], change["path"], {}, {})
    item_id = change["itemId"] if change["before"] is not None or change["itemId"] in draft.items else None
    touched = find_touched(draft, field, item_id)
    phase = find_phase(draft, touched)
    approval = draft.policy.amendment.approval
    overtaken = _find_overtaken(draft, change, known=known is not None)
    if overtaken:
        return Judged(change, field, phase, "BLOCKED", overtaken[0], "REJECT", (), overtaken[1])
    if change["after"] == change["before"] or _is_so_already(draft, change):
        return Judged(change, field, phase, "ALLOWED", "no_change", approval["ALLOWED"], ())
    rule = next(rule for rule in field.safety[phase] if _holds(draft, rule, touched, item_id))
    refused = f"{field.field} cannot be changed any more ({phase.replace('_', ' ').lower()})"
    why = (rule.reason or refused) if approval[rule.result] == "REJECT" else None
    return Judged(change, field, phase, rule.result, rule.rule_id, approval[rule.result], tuple(touched), why)


def _find_overtaken(draft: Draft, change: Mapping[str, Json], *, known: bool) -> tuple[str, str] | None:
    """The rule by which a change has been overtaken while it waited, with its reason; None where it has not."""
    parts = split_pointer(str(change["path"]))
    if not known:
        return "field.dropped", "the policy in force lets nobody amend it any more"
    if parts[-1] == _ADDS_ITEM:
        item_id = change["itemId"]
        return ("item.exists", f"the order has an item {item_id} by now") if item_id in draft.items else None
    item = draft.items.get(change["itemId"] or "")
    if item is not None and has_left(draft, item):
        return "item.ended", f"item {item.item_id} has ended or is being cancelled ({item.state})"
    if not takes_out(parts) and value_at(draft, parts) not in (change["before"], change["after"]):
        return "value.changed", "another value stands there by now"
    return None


def _is_so_already(draft: Draft, change: Mapping[str, Json]) -> bool:
    parts = split_pointer(str(change["path"]))
    return parts[-1] != _ADDS_ITEM and not takes_out(parts) and bool(value_at(draft, parts) == change["after"])


def read_again(draft: Draft, changes: Iterable[Mapping[str, Json]]) -> tuple[Mapping[str, Json], ...]:
    """The same wishes once what they waited for is over: before is what stands now."""
    parts = [(change, split_pointer(str(change["path"]))) for change in changes]
    return tuple(
        change if path[-1] == _ADDS_ITEM or takes_out(path) else {**change, "before": value_at(draft, path)}
        for change, path in parts
    )


def _still_fit(draft: Draft, judged: list[Judged]) -> list[Judged]:
    """The changes, those blocked by which the items would not fit together under the policy in force."""
    reshaping = [found for found in judged if not found.is_blocked and reshapes(found.change)]
    if not reshaping:
        return judged
    try:
        check_fit(amended(draft, (found.change for found in judged if not found.is_blocked)))
    except Breach as breach:
        return [
            replace(found, result="BLOCKED", rule_id="items.fit", approval="REJECT", touched=(), reason=breach.detail)
            if found in reshaping
            else found
            for found in judged
        ]
    return judged


def has_left(draft: Draft, item: Item) -> bool:
    return has_ended("ITEM", item.base) or any(
        request.scope == "ITEMS" and not request.has_ended and item.item_id in request.item_ids
        for request in draft.requests.values()
    )


# -- what becomes of each task ---------------------------------------------------------------------------------


def judge_task(draft: Draft, task: Task, *, again: bool, goes: bool, kept: Iterable[Effect] = ()) -> Fate:
    """What becomes of a task that is done `again`, or that `goes`; kept: what stands of its work from before it."""
    task_type, effect = draft.task_type(task), draft.effect_of(task)
    own = effect if effect and effect.state in {"INTENDED", "UNKNOWN", "CONFIRMED"} else None
    standing = own or next(iter(kept), None)

    def fate(strategy: str) -> Fate:
        return Fate(task, task_type, standing, strategy)

    if not again and not goes:
        return fate("NEW_VALUE" if own is None and task.state in UNSTARTED else "KEEP")
    if standing is None:
        return fate("REMOVE" if goes else "REPLACE")
    if standing.is_open:
        called_off = standing.accepted_at and task_type.withdrawal and task.state == "WAITING_EXTERNAL" and not goes
        return fate("WITHDRAW" if called_off else "AWAIT")
    if goes:
        if not is_external(task_type.external_effect_level):
            return fate("REMOVE")
        return fate("UNDO" if task_type.compensation else "MANUAL_UNDO")
    if task_type.on_input_change in {"UNDO_THEN_DO", "DO_THEN_UNDO"} and not task_type.compensation:
        return fate("MANUAL" if is_external(task_type.external_effect_level) else "REDO")
    return fate(task_type.on_input_change)


def _find_fates(
    draft: Draft, accepted: Iterable[Judged], reshaped: frozenset[str]
) -> tuple[tuple[Fate, ...], Redraw | None]:
    """Touched tasks and, where an item decomposes anew, those that the changed order no longer has."""
    accepted = list(accepted)
    touched = {task.task_id: task for found in accepted for task in found.touched}
    redone: set[TaskId] = set()
    for found in accepted:
        if found.result in {"REDECOMPOSE", "MANUAL"} or reshaped & {found.change["itemId"]}:
            for task in touched.values():
                if is_fed_by(draft, task, found.field, found.change["itemId"]):
                    redone.add(task.task_id)
    redraw = None
    gone: set[TaskId] = set()
    if draft.plan is not None and (redone or reshaped):
        trial = amended(draft, (found.change for found in accepted))
        redraw = redraw_plan(trial, draft.plan.plan_id, draft.plan.version + 1, frozenset(redone), reshaped)
        gone = {task_id for task_id, new in redraw.replaced.items() if new is None}
    wanted = {**touched, **{task_id: draft.tasks[task_id] for task_id in gone}}
    kept = kept_effects(draft)
    fates = tuple(
        judge_task(
            draft,
            task,
            again=task_id in redone and task_id not in gone,
            goes=task_id in gone,
            kept=kept.get(task_id, ()),
        )
        for task_id, task in wanted.items()
    )
    return (*fates, *_find_followers(draft, fates)), redraw


def _find_followers(draft: Draft, fates: Iterable[Fate]) -> list[Fate]:
    """Work that is done and was sent the result of work that is done again, or would be in its turn: it stays unless
    that comes to another result, which nobody can know before."""
    known = {fate.task.task_id for fate in fates}
    leading = {f.task.task_id for f in fates if f.strategy in REPLACING and f.effect and f.effect.state == "CONFIRMED"}
    found: list[Fate] = []
    grown = bool(leading)
    while grown:
        grown = False
        for task in live_tasks(draft):
            effect, task_type = draft.effect_of(task), draft.task_type(task)
            done = effect is not None and effect.state == "CONFIRMED" and task.task_id not in known
            if done and task_type.on_input_change != "KEEP" and not leading.isdisjoint(task.depends_on):
                found.append(Fate(task, task_type, effect, "FOLLOW"))
                known.add(task.task_id)
                leading.add(task.task_id)
                grown = True
    return found


def find_reshaped(accepted: Iterable[Judged]) -> frozenset[str]:
    """Items that are new, that go, or whose offering changes: they decompose into something else."""
    return frozenset(
        str(found.change["itemId"]) for found in accepted if found.rule_id != "no_change" and reshapes(found.change)
    )


def undo_impacts(fates: Iterable[Fate]) -> list[Impact]:
    """The fates in the words of the compensation graph."""
    words = {"UNDO_THEN_DO": "COMPENSATE", "DO_THEN_UNDO": "COMPENSATE", "UNDO": "COMPENSATE", "WITHDRAW": "WITHDRAW"}
    words |= {"MANUAL": "MANUAL", "MANUAL_UNDO": "MANUAL"}
    return [Impact(f.task, f.type, f.effect, words.get(f.strategy, "NOTHING_TO_UNDO")) for f in fates]


# -- the assessment --------------------------------------------------------------------------------------------


def assess_amendment(draft: Draft, amendment: Amendment) -> Finding:
    """Judge one amendment as the order stands now, under the policy in force."""
    judged = _still_fit(draft, [judge_change(draft, change) for change in amendment.changes])
    accepted = [found for found in judged if not found.is_blocked]
    trace = [
        Rule(
            found.rule_id,
            found.result,
            f"{found.field.field} ({found.field.class_.replace('_', ' ').lower()}) {_RESULTS[found.result]}: "
            f"{found.reason or _PHASES[found.phase]}.",
            {"path": found.change["path"], "phase": found.phase, "touched": len(found.touched)},
            "BLOCKER" if found.is_blocked else "INFO",
        )
        for found in judged
    ]
    if amendment.policy_version is not None and amendment.policy_version != draft.policy_version:
        trace.append(
            Rule(
                "freshness.policy",
                "ASSESSED_AGAIN",
                f"It was judged under policy version {amendment.policy_version} before; version {draft.policy_version} "
                "is in force now, and decides.",
                {"before": amendment.policy_version, "now": draft.policy_version},
                "WARNING",
            )
        )
    blockers = [
        Blocker("CHANGE_BLOCKED", f"{found.change['path']}: {found.reason or found.result}", found.rule_id)
        for found in judged
        if found.is_blocked
    ]
    partial = bool(blockers) and bool(accepted) and amendment.allow_partial
    reshaped = find_reshaped(accepted)
    fates, redraw = _find_fates(draft, accepted, reshaped)
    trace += [
        Rule(
            "strategy",
            fate.strategy,
            f"{fate.task.step} ({fate.task.task_type}): {_SENTENCES[fate.strategy]}.",
            {
                "taskId": str(fate.task.task_id),
                "state": fate.task.state,
                "onInputChange": fate.type.on_input_change,
            },
        )
        for fate in fates
    ]
    running = [fate.task for fate in fates if fate.strategy == "AWAIT"]
    if running and amendment.grace_until is not None and draft.now >= amendment.grace_until:
        trace.append(explain_grace(amendment.grace_until, running, "people see it before anything is applied"))
    undone = undo_impacts(fates)
    cost, offer, charged = price_undoing(draft, undone, amendment.requested_at, waived=False)
    trace += charged
    trace += explain_refunds(draft, undone)
    answers = {found.approval for found in accepted}
    needs_quote = draft.policy.revalidation is not None and any(
        found.result == "ALLOWED_WITH_REVALIDATION"
        or (found.field.class_ == "COMMERCIAL" and found.result in {"REDECOMPOSE", "MANUAL"})
        for found in accepted
    )
    if amendment.quote is not None and _costs_more(draft, amendment):
        answer = draft.policy.amendment.price_increase
        trace.append(
            Rule(
                "price_increase",
                answer,
                f"The price rises; the policy answers {answer}.",
                {},
                "WARNING",
            )
        )
        answers.add(answer)
        if answer == "REJECT":
            blockers.append(Blocker("PRICE_INCREASE", "The price is higher than it was.", "price_increase"))
    if "REJECT" in answers or not accepted or (blockers and not partial):
        feasibility = "NOT_APPLICABLE"
    elif "APPROVAL" in answers:
        feasibility = "REQUIRES_APPROVAL"
    else:
        feasibility = "PARTIALLY_APPLICABLE" if partial else "APPLICABLE"
    trace.append(
        Rule(
            "feasibility",
            feasibility,
            f"Under policy version {draft.policy_version}: {len(accepted)} of {len(judged)} changes can be made.",
            {"allowPartial": amendment.allow_partial, "policyVersion": draft.policy_version},
            "BLOCKER" if feasibility == "NOT_APPLICABLE" else "INFO",
        )
    )
    return Finding(
        feasibility=feasibility,
        automatic=feasibility in {"APPLICABLE", "PARTIALLY_APPLICABLE"},
        judged=tuple(judged),
        fates=fates,
        blockers=tuple(blockers),
        needs_quote=needs_quote,
        redraws=redraw is not None,
        reshaped=reshaped,
        cost=cost,
        offer=offer,
        trace=tuple(trace),
        fingerprint=fingerprint_amendment(draft, amendment, judged, fates),
    )


_RESULTS: Final[Mapping[str, str]] = {
    "ALLOWED": "may change",
    "ALLOWED_WITH_REVALIDATION": "may change once its price has been asked for",
    "REDECOMPOSE": "may change with a new plan",
    "MANUAL": "may change if a person agrees",
    "BLOCKED": "may not change any more",
}
_PHASES: Final[Mapping[str, str]] = {
    "BEFORE_DECOMPOSITION": "there is no plan yet",
    "AFTER_DECOMPOSITION": "no work with it has begun",
    "TASK_STARTED": "work with it is under way",
    "TASK_COMPLETED": "work with it has been done",
}
_SENTENCES: Final[Mapping[str, str]] = {
    "KEEP": "stays as it is",
    "NEW_VALUE": "has not started and will be sent the new value",
    "REPLACE": "has not started; a new task comes for it",
    "REMOVE": "the changed order has no such work",
    "REDO": "is done once more with the new value, which replaces the old effect",
    "UNDO_THEN_DO": "is undone, then done with the new value",
    "DO_THEN_UNDO": "is done with the new value, then the old effect is undone",
    "UNDO": "is undone; the changed order has no such work",
    "MANUAL": "a person undoes it, then it is done with the new value",
    "MANUAL_UNDO": "a person undoes it; the changed order has no such work",
    "WITHDRAW": "is under way and is called off, then done with the new value",
    "AWAIT": "is running; its outcome must be known first",
    "FOLLOW": "stays, unless what it builds on comes to another result; then it follows its own on_input_change",
}


def _costs_more(draft: Draft, amendment: Amendment) -> bool:
    return any(
        price["before"] is not None
        and price["after"] is not None
        and price["after"]["amountMinor"] > price["before"]["amountMinor"]
        for price in quoted_prices(draft, amendment)
    )


def quoted_prices(draft: Draft, amendment: Amendment) -> list[dict[str, Json]]:
    """Per item that the revalidation named: the price that stands and the one that was quoted."""
    found = (amendment.quote or {}).get("prices") or []
    return [
        {
            "itemId": row["itemId"],
            "before": item.content.get("price") if (item := draft.items.get(row["itemId"])) else None,
            "after": row["price"],
        }
        for row in found
        if isinstance(row, Mapping) and isinstance(row.get("price"), Mapping) and isinstance(row.get("itemId"), str)
    ]


def fingerprint_amendment(draft: Draft, amendment: Amendment, judged: Iterable[Judged], fates: Iterable[Fate]) -> str:
    """What the assessment rests on: the touched tasks and their effects, the values that would change, other open
    changes, the policy."""
    tasks = {task.task_id: task for found in judged for task in found.touched}
    tasks |= {fate.task.task_id: fate.task for fate in fates}
    rows = sorted(
        [str(task_id), "UNSTARTED" if task.state in UNSTARTED else task.state] for task_id, task in tasks.items()
    )
    effects = sorted(
        [str(effect.effect_id), effect.state, effect.accepted_at is not None]
        for effect in draft.effects.values()
        if effect.is_original and effect.task_id in tasks
    )
    others = sorted(
        [str(other.request_id), other.status]
        for other in draft.open_changes()
        if other.request_id != amendment.request_id
    )
    values = [[change["path"], value_at(draft, split_pointer(str(change["path"])))] for change in amendment.changes]
    plan = draft.plan.version if draft.plan else 0
    text = json.dumps([rows, effects, others, values, plan, draft.policy_version], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def assessment_document(draft: Draft, amendment: Amendment, found: Finding) -> dict[str, Json]:
    """The assessment as 2-api shows it; stored with the request, and given by a preview."""
    classes = {judged.field.class_ for judged in found.accepted}
    paths = [split_pointer(str(judged.change["path"])) for judged in found.accepted]
    return {
        "feasibility": found.feasibility,
        "automatic": found.automatic,
        "changeImpacts": [judged.to_json() for judged in found.judged],
        "requiresRepricing": found.needs_quote or any(path[-1] == "price" or "price" in path for path in paths),
        "requiresReconfiguration": "TECHNICAL" in classes
        or any("configuration" in path or path[-1] == "productOfferingId" for path in paths),
        "requiresRedecomposition": found.redraws,
        "requiresApproval": found.feasibility == "REQUIRES_APPROVAL",
        "requiresManualReview": any(judged.result == "MANUAL" for judged in found.accepted),
        "blockers": [blocker.to_json() for blocker in found.blockers],
        "strategy": [fate.to_json() for fate in found.fates],
        "prices": quoted_prices(draft, amendment),
        "estimatedCost": found.cost.to_json(),
        "orderVersion": draft.head.version,
        "planVersion": draft.head.plan_version,
        "ledgerVersion": draft.head.sequence,
        "policyVersion": draft.policy_version,
        "trace": [rule.to_json() for rule in found.trace],
        "assessedAt": format_time(draft.now),
    }


def quote_input(draft: Draft, amendment: Amendment) -> dict[str, Json]:
    """What the revalidation is asked about: the order as it would be."""
    trial = amended(draft, amendment.changes)
    content = trial.head.content
    return {
        "order": {
            **{key: content[key] for key in ("customer", "quoteId") if key in content},
            "orderType": trial.head.order_type,
            "items": [item.document() for item in trial.items.values() if item.base in LIVE_ITEMS],
        },
        "upstream": {},
        "asset": None,
    }


def quote_task_id(plan_id: PlanId) -> TaskId:
    return TaskId(derive_id(plan_id, "quote"))


def judged_changes(amendment: Amendment, found: Finding) -> tuple[Mapping[str, Json], ...]:
    """The changes with what the assessment says of each."""
    return tuple(
        {
            **change,
            "safetyResult": judged.result,
            "ruleId": judged.rule_id,
            "blockerReason": judged.reason,
        }
        for change, judged in zip(amendment.changes, found.judged, strict=True)
    )
