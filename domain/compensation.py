"""The compensation graph: from effects in the ledger to tasks that undo them, and when each may go. It must never undo
a status; only an effect that the ledger confirms."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Final

from domain.assessment import Impact, find_refund, must_stay, related_items
from domain.circles import find_circle
from domain.ledger import Effect, read_money
from domain.order import RUNNING, CompensationPlan, Draft, Task
from domain.policy import TaskType
from domain.values import EffectId, Json, PlanId, TaskId, derive_id, format_time

_AWAITED: Final = frozenset({"AWAIT_OUTCOME", "VERIFY_OUTCOME"})


@dataclass(frozen=True, slots=True)
class Node:
    """One undoing: of which task and effect, by what, and after the undoing of which other effects."""

    original: Task
    effect_id: EffectId
    task_type: str
    purpose: str
    after: tuple[EffectId, ...]


def draw_graph(
    draft: Draft,
    impacts: Iterable[Impact],
    dispositions: Mapping[str, str],
    taken: frozenset[EffectId] = frozenset(),
) -> list[Node]:
    """The graph of undoings: reverse of the fulfillment's order (through tasks without an undoing), plus `undo_after`.

    dispositions: per MANUAL task what a person decided (RETAIN, COMPENSATE, MANUAL)
    taken: effects that another plan is already reversing; nothing is undone twice (I4)
    Linear in tasks and edges. The order of the result is topological: a node stands behind what it waits for.
    """
    impacts = list(impacts)
    chosen: dict[EffectId, tuple[Impact, str, str]] = {}
    of_task: dict[TaskId, list[EffectId]] = {}
    for impact in impacts:
        effect = impact.effect
        if effect is None or effect.effect_id in taken:
            continue
        purpose = _purpose(impact, dispositions.get(str(impact.task.task_id)))
        if purpose == "WITHDRAW":
            chosen[effect.effect_id] = (impact, purpose, impact.type.withdrawal or impact.type.name)
        elif purpose:
            chosen[effect.effect_id] = (impact, purpose, impact.type.compensation or impact.type.name)
        if purpose:
            of_task.setdefault(impact.task.task_id, []).append(effect.effect_id)

    tasks = list({impact.task.task_id: impact.task for impact in impacts}.values())
    # By place in that list from here on: a place is found without hashing an id.
    place_of = {task.task_id: place for place, task in enumerate(tasks)}
    before = [[place_of[other] for other in task.depends_on if other in place_of] for task in tasks]
    effects = [of_task.get(task.task_id, ()) for task in tasks]
    ordered, followers = _topological(before)
    nearest: list[Sequence[EffectId]] = [()] * len(tasks)
    for place in reversed(ordered):
        behind = [effects[follower] or nearest[follower] for follower in followers[place]]
        nearest[place] = behind[0] if len(behind) == 1 else tuple(dict.fromkeys(chain.from_iterable(behind)))

    by_type: dict[tuple[str, str], list[EffectId]] = {}
    for effect_id, (impact, _, task_type) in chosen.items():
        for item_id in impact.task.item_ids:
            by_type.setdefault((task_type, item_id), []).append(effect_id)
    relying: dict[str, set[str]] = {}
    for item_id in draft.items:
        for base in related_items(draft, [item_id]):
            relying.setdefault(base, set()).add(item_id)

    # An effect that may yet stay decides about what it keeps: those wait until it is known.
    keepers: dict[tuple[str, str], list[EffectId]] = {}
    for effect_id, (impact, purpose, _) in chosen.items():
        if purpose == "AWAIT" and impact.type.keeps:
            for item_id in related_items(draft, impact.task.item_ids):
                for kept in impact.type.keeps:
                    keepers.setdefault((kept, item_id), []).append(effect_id)

    nodes: dict[EffectId, Node] = {}
    wished: set[tuple[EffectId, EffectId]] = set()
    undoings = [(place, effect_id) for place in reversed(ordered) for effect_id in effects[place]]
    for place, effect_id in undoings:
        task = tasks[place]
        impact, purpose, task_type = chosen[effect_id]
        after = dict.fromkeys(nearest[place])
        if purpose in {"COMPENSATE", "MANUAL"}:
            for earlier in find_type(draft, task_type).undo_after:
                for item_id in impact.task.item_ids:
                    for user in relying.get(item_id, ()):
                        others = by_type.get((earlier, user), ())
                        wished.update((effect_id, other) for other in others if other not in after)
                        after.update(dict.fromkeys(others))
        for item_id in task.item_ids:
            after.update(dict.fromkeys(keepers.get((task.task_type, item_id), ())))
        after.pop(effect_id, None)
        nodes[effect_id] = Node(task, effect_id, task_type, purpose, tuple(after))
    drawn = _sorted_nodes(nodes)
    return drawn if len(drawn) == len(nodes) else _sorted_nodes(_untangle(nodes, wished))


def _untangle(nodes: dict[EffectId, Node], wished: Container[tuple[EffectId, EffectId]]) -> dict[EffectId, Node]:
    """Take out what would make undoings wait for each other: none of them would ever come. The reverse of the plan
    holds; `undo_after` (wished) adds to it, and where the policy's plans agree with it and these items together do not,
    it gives way. What only awaits an outcome calls nobody, so it need not wait for anything."""
    while circle := find_circle({effect_id: node.after for effect_id, node in nodes.items()}):
        waiting, other = next(
            (one, other) for one, other in pairwise(circle) if (one, other) in wished or nodes[one].purpose == "AWAIT"
        )
        nodes[waiting] = replace(nodes[waiting], after=tuple(e for e in nodes[waiting].after if e != other))
    return nodes


def _purpose(impact: Impact, disposition: str | None) -> str | None:
    if impact.consequence == "COMPENSATE":
        return "COMPENSATE"
    if impact.consequence == "WITHDRAW":
        return "WITHDRAW"
    if impact.consequence in _AWAITED:
        return "COMPENSATE" if impact.type.compensation else "AWAIT"
    if impact.consequence == "MANUAL" and disposition in {"COMPENSATE", "MANUAL"}:
        return disposition
    if impact.consequence in {"RETAIN", "MANUAL"} and impact.effect is not None and impact.effect.is_open:
        return "AWAIT"
    return None


def _topological(before: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Predecessors first, and per place the places that follow it. before: per place its predecessors' places"""
    waiting = [len(places) for places in before]
    followers: list[list[int]] = [[] for _ in before]
    for place, places in enumerate(before):
        for earlier in places:
            followers[earlier].append(place)
    ready = [place for place, count in enumerate(waiting) if not count]
    ordered: list[int] = []
    while ready:
        place = ready.pop()
        ordered.append(place)
        for follower in followers[place]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    return ordered, followers


def _sorted_nodes(nodes: Mapping[EffectId, Node]) -> list[Node]:
    """Behind what they wait for; those in a circle, and behind one, are left out."""
    place_of = {effect_id: place for place, effect_id in enumerate(nodes)}
    drawn = list(nodes.values())
    ordered, _ = _topological([[place_of[earlier] for earlier in node.after] for node in drawn])
    return [drawn[place] for place in ordered]


def find_type(draft: Draft, name: str) -> TaskType:
    """The type as copied at decomposition; one that only a newer policy knows, from there."""
    return draft.fulfillment_types.get(name) or draft.policy.task_types[name]


def store_plan(draft: Draft, plan: CompensationPlan, nodes: list[Node], done_first: Mapping[EffectId, TaskId]) -> None:
    """Write the plan's tasks. Withdrawals go first and alone: everything else waits for them.

    done_first: per effect the fulfillment task that must have worked before it is undone
    """
    draft.add_plan(plan)
    id_of = {node.effect_id: TaskId(derive_id(plan.plan_id, node.effect_id, node.purpose)) for node in nodes}
    withdrawals = [id_of[node.effect_id] for node in nodes if node.purpose == "WITHDRAW"]
    for node in nodes:
        after = [id_of[effect_id] for effect_id in node.after]
        if node.purpose != "WITHDRAW":
            after += [task_id for task_id in withdrawals if task_id not in after]
        else:
            after = []
        if node.effect_id in done_first:
            # Its own undoing waits for the new effect; whatever was behind the old one must not wait for both.
            after = [*after, done_first[node.effect_id]]
        draft.add_task(
            Task(
                task_id=id_of[node.effect_id],
                kind="COMPENSATION",
                plan_id=plan.plan_id,
                step=node.original.step,
                task_type=node.task_type,
                item_ids=node.original.item_ids,
                state="PLANNED",
                depends_on=tuple(after),
                unmet=len(after),
                original_task=node.original.task_id,
                reverses=node.effect_id,
                purpose=node.purpose,
            )
        )


def advance_plan(draft: Draft, plan_id: PlanId) -> bool:
    """Move every undoing as far as the ledger and its predecessors allow; True if anything moved."""
    moved = False
    tasks = draft.tasks_of_plan(plan_id)
    retained = _Retained()
    for task in tasks:
        if task.state == "RETAINED":
            retained.add(draft, task)
    for task in tasks:
        state = _next_state(draft, task, retained)
        if state and state != task.state:
            _enter(draft, task, state)
            moved = True
            if state == "RETAINED":
                retained.add(draft, task)
    return moved


class _Retained:
    """What the effects that stay need to stay as well: types that they keep, undoings that would come after theirs."""

    def __init__(self) -> None:
        self._types: set[tuple[str, str]] = set()
        self._earlier: set[tuple[str, str]] = set()

    def add(self, draft: Draft, undoing: Task) -> None:
        if undoing.original_task is None:
            return
        task = draft.tasks[undoing.original_task]
        task_type = draft.task_type(task)
        for item_id in related_items(draft, task.item_ids):
            self._types.update((kept, item_id) for kept in task_type.keeps)
            if task_type.compensation:
                self._earlier.add((task_type.compensation, item_id))

    def keeps(self, draft: Draft, undoing: Task, task: Task) -> bool:
        """Whether this task's effect must stay because of them."""
        earlier = draft.task_type(undoing).undo_after
        return any(
            (task.task_type, item_id) in self._types or any((name, item_id) in self._earlier for name in earlier)
            for item_id in task.item_ids
        )


def _next_state(draft: Draft, task: Task, retained: _Retained) -> str | None:
    if task.state not in {"PLANNED", "AWAITING_ORIGINAL", "READY"}:
        return None
    effect = draft.effects[task.reverses] if task.reverses else None
    if effect is None:
        return None
    original = draft.tasks.get(effect.task_id)
    if effect.state in {"NO_EFFECT", "REVERSED", "WAIVED"}:
        return "NOT_REQUIRED"
    if task.state == "READY":
        return None
    if task.purpose == "WITHDRAW":
        if effect.state == "CONFIRMED":
            return "NOT_REQUIRED"
        return "READY"
    if effect.is_open:
        return "AWAITING_ORIGINAL"
    if task.purpose == "AWAIT":
        return "RETAINED"
    if (
        task.purpose == "COMPENSATE"
        and task.state == "AWAITING_ORIGINAL"
        and original is not None
        and must_stay(draft, original)
    ):
        return "RETAINED"
    if task.unmet:
        return "PLANNED" if task.state == "PLANNED" else None
    if _kept_by_retained(draft, task, retained):
        return "RETAINED"
    if _needs_no_call(draft, task, effect):
        return "NOT_REQUIRED"
    return "READY"


def _kept_by_retained(draft: Draft, task: Task, retained: _Retained) -> bool:
    """`keeps`, applied again to what ended as RETAINED while this undoing waited."""
    if task.original_task is None:
        return False
    mine = draft.tasks[task.original_task]
    if task.reverses != mine.effect_id:
        return False  # it happened once more than was wanted; nobody needs it twice
    return retained.keeps(draft, task, mine)


def _needs_no_call(draft: Draft, task: Task, original: Effect) -> bool:
    task_type = draft.task_type(task)
    if task_type.money != "REFUND" or not task_type.money_only:
        return False
    refund = find_refund(draft, original)
    return refund is not None and refund.amount_minor == 0


def _enter(draft: Draft, task: Task, state: str) -> None:
    draft.move_task(task.task_id, state)
    if state == "NOT_REQUIRED" and task.reverses and task.purpose == "COMPENSATE":
        effect = draft.effects[task.reverses]
        if effect.state == "CONFIRMED":
            # Nothing to give back: the books agree without a call, and the original counts as undone.
            draft.move_effect(effect.effect_id, "REVERSED")
            finish_original(draft, effect, undone=True)
    if state == "READY" and task.purpose == "COMPENSATE" and task.original_task:
        original = draft.tasks[task.original_task]
        if original.state == "COMPLETED" and original.effect_id == task.reverses:
            draft.move_task(original.task_id, "COMPENSATING")
    if state == "RETAINED" and task.original_task:
        original = draft.tasks[task.original_task]
        if original.state == "COMPENSATING":
            draft.move_task(original.task_id, "COMPLETED")


def finish_original(draft: Draft, effect: Effect, *, undone: bool) -> None:
    """The original task follows its own effect: COMPENSATED once undone, COMPLETED where the effect stays."""
    original = draft.tasks.get(effect.task_id)
    if original is None or original.kind != "FULFILLMENT" or original.effect_id != effect.effect_id:
        return
    if original.state == "COMPLETED" and undone:
        draft.move_task(original.task_id, "COMPENSATING")
        original = draft.tasks[original.task_id]
    if original.state == "COMPENSATING":
        draft.move_task(original.task_id, "COMPENSATED" if undone else "COMPLETED")


def confirm_effect(draft: Draft, effect_id: EffectId, **told: Json) -> None:
    """It happened, whoever says so: the effect, its task, and what it undoes or calls off follow."""
    effect = draft.move_effect(effect_id, "CONFIRMED", **told)
    task = draft.tasks[effect.task_id]
    if not task.has_ended and task.effect_id == effect_id:
        step_in(draft, task, "COMPLETED")
    if effect.reverses:
        original = draft.effects[effect.reverses]
        if original.state == "CONFIRMED":
            draft.move_effect(original.effect_id, "REVERSED", reversed_by=effect.effect_id)
            finish_original(draft, original, undone=True)
    if effect.is_original and task.kind == "FULFILLMENT":
        _replace_older(draft, task, effect)
    if effect.withdraws:
        original = draft.effects[effect.withdraws]
        if original.is_open:
            draft.move_effect(original.effect_id, "NO_EFFECT", reason="withdrawn")


def _replace_older(draft: Draft, task: Task, effect: Effect) -> None:
    """REDO: what an amendment had done once more stands in the place of what was done before; undoings of their own
    are none of its business."""
    undone = {other.reverses for other in draft.tasks.values() if other.kind == "COMPENSATION" and other.reverses}
    for older in list(draft.fulfillment_tasks()):
        replaced = older.superseded_by is not None and draft.newest_of(older).task_id == task.task_id
        former = draft.effect_of(older) if replaced else None
        if former is not None and former.state == "CONFIRMED" and former.effect_id not in undone:
            draft.move_effect(former.effect_id, "REVERSED", reversed_by=effect.effect_id)


def step_in(draft: Draft, task: Task, state: str) -> None:
    """A task whose effect has settled moves on, whatever it was waiting for."""
    if task.state == "READY":  # back with the walker for another call, and now the answer came after all
        draft.move_task(task.task_id, RUNNING[task.kind])
    draft.move_task(task.task_id, state)


def lacks_amount(draft: Draft, task: Task) -> bool:
    """Whether nobody can tell what this undoing has to give back, until a person says it."""
    if task.purpose != "COMPENSATE" or draft.task_type(task).money != "REFUND" or task.reverses is None:
        return False
    said = (task.replaced_input or {}).get("refund")
    return read_money(said) is None and find_refund(draft, draft.effects[task.reverses]) is None


def compensation_input(draft: Draft, task: Task) -> dict[str, Json]:
    """What an undoing is sent: the original, the asset, whom to reach now, and the money if it is due."""
    original = draft.effects[task.reverses] if task.reverses else None
    item = draft.items.get(task.item_ids[0]) if task.item_ids else None
    body: dict[str, Json] = {
        "original": {
            "input": original.input,
            "output": original.output,
            "externalReference": original.external_reference,
        }
        if original
        else None,
        "asset": item.snapshot if item else None,
        "contact": draft.head.content.get("contact"),
    }
    if original and draft.task_type(task).money == "REFUND":
        refund = find_refund(draft, original)
        if refund is not None:  # else a person has named it (`lacks_amount`)
            body["refund"] = refund.to_json()
        body["from"] = format_time(original.settled_at) if original.settled_at else None
        body["asOf"] = format_time(draft.now)
    return body


def mark_block(draft: Draft, plan_id: PlanId) -> None:
    """BLOCKED while any undoing needs a person; its independents go on."""
    plan = draft.plans[plan_id]
    stuck = any(task.state == "IN_FALLOUT" for task in draft.tasks_of_plan(plan_id))
    if stuck and plan.state == "IN_PROGRESS":
        draft.move_plan(plan_id, "BLOCKED", "COMPENSATION_BLOCKED")
    elif not stuck and plan.state == "BLOCKED":
        draft.move_plan(plan_id, "IN_PROGRESS", "COMPENSATION_RESUMED")


def supersede_plan(draft: Draft, plan_id: PlanId) -> None:
    """Give the plan up before its commit point. A withdrawal that is already with its system keeps its outcome."""
    for task in draft.tasks_of_plan(plan_id):
        if task.state in {"PLANNED", "AWAITING_ORIGINAL", "READY"}:
            draft.move_task(task.task_id, "SUPERSEDED")
        if task.original_task and draft.tasks[task.original_task].state == "COMPENSATING":
            draft.move_task(task.original_task, "COMPLETED")
    draft.move_plan(
        plan_id,
        "SUPERSEDED",
        "COMPENSATION_SUPERSEDED",
        closed=all(task.has_ended for task in draft.tasks_of_plan(plan_id)),
    )
