"""What an order's items decompose into, and what a changed order needs instead; it must never say what becomes of work
that has had an effect."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from domain.circles import find_circle
from domain.commands import OrderItem
from domain.errors import FieldError, ItemUnknown, OfferingUnknown, Unprocessable
from domain.order import UNSTARTED, Asset, Draft, Item, Task
from domain.policy import Policy, TaskType
from domain.values import Json, PlanId, TaskId, derive_id


def takes_lock(order_type: str, action: str) -> bool:
    """Whether an item's work changes its target (1-domain §7); what only fetches back or bills leaves it to others."""
    return order_type != "BILLING_ADJUSTMENT" and action not in {"NO_CHANGE", "RETURN"}


def find_asset_problem(
    policy: Policy, order_type: str, offering_name: str, action: str, asset: Asset, customer: Json
) -> str | None:
    """What stands against this action on this asset, in words; None where nothing does. What is fetched back or billed
    may have ended."""
    if asset.state != "ACTIVE" and action != "RETURN" and order_type != "BILLING_ADJUSTMENT":
        return f"The asset is {asset.state}, not ACTIVE."
    if asset.customer_id != customer:
        return "The asset belongs to another customer."
    offering = policy.offerings[offering_name]
    if action == "ADD":
        if offering.requires and asset.offering not in offering.requires:
            return f"{offering_name} needs one of {', '.join(offering.requires)}; the asset is {asset.offering}."
    elif action == "MODIFY":
        if asset.offering not in (offering.compatible_from or (offering_name,)) and asset.offering != offering_name:
            return f"{asset.offering} cannot be changed into {offering_name}."
    elif action in {"DISCONNECT", "RETURN"} and asset.offering != offering_name:
        return f"The asset is {asset.offering}, not {offering_name}."
    return None


def check_items(policy: Policy, order_type: str, items: Iterable[OrderItem]) -> None:
    """Whether the items can be ordered and fit together. Raises OfferingUnknown, ItemUnknown, Unprocessable; their
    paths count the items in the order in which they are given."""
    items = list(items)
    known = {item.item_id: item for item in items}
    problems: list[FieldError] = []
    for index, item in enumerate(items):
        at = f"/items/{index}"
        if known[item.item_id] is not item:
            problems.append(FieldError(f"{at}/itemId", "another item of this order has this id"))
        offering = policy.offerings.get(item.offering)
        if offering is None:
            raise OfferingUnknown(
                f"The policy has no offering {item.offering!r}.",
                errors=(FieldError(f"{at}/productOfferingId", "unknown offering"),),
            )
        if item.action != "NO_CHANGE" and offering.plan_for(order_type, item.action) is None:
            raise OfferingUnknown(
                f"{item.offering} has no plan for {item.action}.",
                errors=(FieldError(f"{at}/action", f"not possible for {item.offering}"),),
            )
        for field, others in (
            ("parentItemId", (item.parent,) if item.parent else ()),
            ("reliesOn", item.relies_on),
        ):
            for other in others:
                if other not in known:
                    raise ItemUnknown(
                        f"Item {item.item_id} names item {other}, which the order does not have.",
                        errors=(FieldError(f"{at}/{field}", f"unknown item {other}"),),
                    )
        if takes_lock(order_type, item.action) and item.action != "ADD" and item.target_asset is None:
            problems.append(FieldError(f"{at}/targetAssetId", f"{item.action} needs the asset it is about"))
        parent = known.get(item.parent or "")
        parent_offering = policy.offerings.get(parent.offering) if parent else None
        if parent_offering is not None and item.offering not in {
            *parent_offering.children.mandatory,
            *parent_offering.children.optional,
        }:
            problems.append(FieldError(f"{at}/parentItemId", f"{item.offering} is not part of {parent_offering.name}"))
        if item.action == "ADD":
            present = {other.offering for other in items if other.parent == item.item_id}
            problems += [
                FieldError(at, f"{item.offering} needs {child} as a part")
                for child in offering.children.mandatory
                if child not in present
            ]
        if item.action == "ADD" and offering.requires and item.target_asset is None:
            bases = {known[other].offering for other in item.relies_on}
            if not bases & set(offering.requires):
                problems.append(
                    FieldError(f"{at}/reliesOn", f"{item.offering} needs one of {', '.join(offering.requires)}")
                )
    problems += [FieldError("/items", f"items {' and '.join(cycle)} wait for each other") for cycle in _cycles(known)]
    if not problems and (circle := describe_circle(policy, order_type, items)):
        problems.append(FieldError("/items", f"the work of these items would wait for itself: {circle}"))
    if problems:
        raise Unprocessable("The items do not fit together.", errors=tuple(problems))


def _cycles(items: Mapping[str, OrderItem]) -> list[list[str]]:
    """Circles over parents and over reliance, each named once by the item where it was met."""
    found: list[list[str]] = []
    for edges in (lambda i: (i.parent,) if i.parent else (), lambda i: i.relies_on):
        done: set[str] = set()
        for start in items:
            path: list[str] = []
            stack: list[tuple[str, bool]] = [(start, False)]
            while stack:
                item_id, leaving = stack.pop()
                if leaving:
                    done.add(path.pop())
                elif item_id in path:
                    found.append(path[path.index(item_id) :])
                    stack.clear()
                elif item_id not in done:
                    path.append(item_id)
                    stack.append((item_id, True))
                    stack += [(other, False) for other in edges(items[item_id])]
            if found:
                return found
    return found


def copy_types(policy: Policy, names: Iterable[str]) -> dict[str, TaskType]:
    """The metadata that goes with a plan: its types, and those that undo or stop them."""
    copied: dict[str, TaskType] = {}
    for name in names:
        row = policy.task_types[name]
        for wanted in (name, row.compensation, row.withdrawal):
            if wanted:
                copied[wanted] = policy.task_types[wanted]
    return copied


def draw_plan(
    order_id: uuid.UUID, plan_id: PlanId, order_type: str, items: Iterable[Item], policy: Policy, version: int = 1
) -> list[Task]:
    """What the items decompose into, by the policy's plans: a graph of tasks, shared ones once per order.

    Predecessors stand before their successors in the result; the policy's check and `check_items` have refused circles.
    """
    shape, after = _draw_steps(order_type, items, policy)
    id_of = {key: TaskId(derive_id(order_id, "task", version, *key)) for key in shape}
    tasks: list[Task] = []
    for at in _in_order(after):
        step_name, type_name, item_ids = shape[at]
        depends_on = tuple(id_of[earlier] for earlier in after[at])
        tasks.append(
            Task(
                task_id=id_of[at],
                kind="FULFILLMENT",
                plan_id=plan_id,
                plan_version=version,
                step=step_name,
                task_type=type_name,
                item_ids=tuple(item_ids),
                state="PENDING" if depends_on else "READY",
                depends_on=depends_on,
                unmet=len(depends_on),
            )
        )
    return tasks


def describe_circle(policy: Policy, order_type: str, items: Iterable[Item | OrderItem]) -> str | None:
    """Work that would wait for itself, in words. A policy that is sound by itself can still come to that where items
    rely on each other or are parts: a shared step (`per: ORDER`) of one waits for what comes after it in the other."""
    items = list(items)
    if not any(item.parent or item.relies_on for item in items):
        return None
    shape, after = _draw_steps(order_type, items, policy)
    circle = find_circle(after)
    return " before ".join(f"{shape[key][0]} of item {'/'.join(shape[key][2])}" for key in reversed(circle)) or None


_Key = tuple[str, ...]


def _draw_steps(
    order_type: str, items: Iterable[Item | OrderItem], policy: Policy
) -> tuple[dict[_Key, tuple[str, str, dict[str, None]]], dict[_Key, dict[_Key, None]]]:
    """Per piece of work its step, type and items, and what it comes after."""
    items = [item for item in items if item.action != "NO_CHANGE"]
    known = {item.item_id for item in items}
    key_of: dict[tuple[str, str], _Key] = {}
    after: dict[_Key, dict[_Key, None]] = {}
    shape: dict[_Key, tuple[str, str, dict[str, None]]] = {}
    steps = {item.item_id: policy.offerings[item.offering].plan_for(order_type, item.action) or () for item in items}
    for item in items:
        for step in steps[item.item_id]:
            key = ("order", step.step, step.type) if step.per_order else (item.item_id, step.step, step.type)
            key_of[item.item_id, step.step] = key
            shape.setdefault(key, (step.step, step.type, {}))[2][item.item_id] = None
            after.setdefault(key, {})
    children: dict[str, list[str]] = {item.item_id: [] for item in items}
    for item in items:
        if item.parent in children:
            children[item.parent].append(item.item_id)
    for item in items:
        near = {None: [item.item_id], "reliesOn": list(item.relies_on), "children": children[item.item_id]}
        for step in steps[item.item_id]:
            for where, name in step.predecessors():
                for other in known.intersection(near[where]):
                    earlier = key_of.get((other, name))
                    if earlier and earlier != key_of[item.item_id, step.step]:
                        after[key_of[item.item_id, step.step]][earlier] = None
    return shape, after


def _in_order(after: Mapping[_Key, Mapping[_Key, None]]) -> list[_Key]:
    waiting = {key: len(earlier) for key, earlier in after.items()}
    followers: dict[_Key, list[_Key]] = {}
    for key, earlier in after.items():
        for other in earlier:
            followers.setdefault(other, []).append(key)
    ready = [key for key, count in waiting.items() if not count]
    for key in ready:  # grows while it is walked
        for follower in followers.get(key, ()):
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    return ready


# -- again ---------------------------------------------------------------------------------------------------------

LIVE_ITEMS = frozenset({"ACKNOWLEDGED", "IN_PROGRESS", "COMPLETED"})
_GONE = frozenset({"SUPERSEDED", "CANCELLED", "COMPENSATED"})


@dataclass(frozen=True, slots=True)
class Redraw:
    """What a new version of the plan has that the present one has not.

    tasks: the new ones, with what they wait for among fulfillment tasks · replaced: per task that goes, the one that
    comes for it, or None · rewired: per unstarted task that stays, what it waits for now · joined: per task that stays,
    the items that it is for now
    """

    tasks: tuple[Task, ...]
    replaced: Mapping[TaskId, TaskId | None]
    rewired: Mapping[TaskId, tuple[TaskId, ...]]
    joined: Mapping[TaskId, tuple[str, ...]]


def again_id(order_id: uuid.UUID, version: int, task_id: TaskId) -> TaskId:
    """The task that does anew, in this version of the plan, what another one has done."""
    return TaskId(derive_id(order_id, "task", version, "again", task_id))


def live_tasks(draft: Draft) -> list[Task]:
    return [task for task in draft.fulfillment_tasks() if task.state not in _GONE and not task.superseded_by]


def redraw_plan(
    draft: Draft, plan_id: PlanId, version: int, again: frozenset[TaskId], reshaped: frozenset[str]
) -> Redraw:
    """The next version of the plan of an order whose terms have changed already.

    again: tasks that must be done anew · reshaped: items that are new, or that decompose into something else now
    Every other task stays as it is, with its id and its effects.
    """
    present = live_tasks(draft)
    replaced: dict[TaskId, TaskId | None] = {
        task.task_id: again_id(draft.head.order_id, version, task.task_id) for task in present if task.task_id in again
    }
    items = [item for item in draft.items.values() if item.base in LIVE_ITEMS]
    target = (
        draw_plan(draft.head.order_id, plan_id, draft.head.order_type, items, draft.policy, version) if reshaped else []
    )
    same_work = {(task.step, task.task_type, item_id): task for task in present for item_id in task.item_ids}
    final: dict[TaskId, list[tuple[TaskId, tuple[str, ...]]]] = {}  # who does a drawn task's work, and for which items
    wanted: dict[TaskId, Task] = {}  # per present task what the new items make of it
    fresh: list[Task] = []
    joined: dict[TaskId, tuple[str, ...]] = {}
    for task in target:
        does = {i: same_work.get((task.step, task.task_type, i)) for i in task.item_ids}
        matches = {match.task_id: match for match in does.values() if match is not None}
        final[task.task_id] = [(replaced.get(m.task_id) or m.task_id, m.item_ids) for m in matches.values()]
        if reshaped.isdisjoint(task.item_ids):
            continue
        wanted.update(dict.fromkeys(matches, task))
        new_items = tuple(item_id for item_id, match in does.items() if match is None and item_id in reshaped)
        if not new_items:
            continue
        open_ = next((m for m in matches.values() if m.task_id in again or m.state in UNSTARTED), None)
        if open_ is not None:
            joined[open_.task_id] = (*open_.item_ids, *new_items)
            final[task.task_id].append((replaced.get(open_.task_id) or open_.task_id, new_items))
        else:  # work of its own, beside what has been begun for the others
            fresh.append(replace(task, item_ids=new_items))
            final[task.task_id].append((task.task_id, new_items))
    for task in present if reshaped else ():
        if not reshaped.isdisjoint(task.item_ids) and task.task_id not in wanted:
            others = tuple(item_id for item_id in task.item_ids if item_id not in reshaped)
            if others:
                joined[task.task_id] = others
            else:
                replaced[task.task_id] = None

    def follow(task_ids: Iterable[TaskId]) -> tuple[TaskId, ...]:
        found = (replaced.get(task_id, task_id) for task_id in task_ids)
        return tuple(dict.fromkeys(task_id for task_id in found if task_id is not None))

    def place(drawn: Task, item_ids: tuple[str, ...]) -> tuple[TaskId, ...]:
        """Whom a drawn task comes after: where several do what was one, those that do it for these items."""
        found: dict[TaskId, None] = {}
        for doing in (final.get(other, ()) for other in drawn.depends_on):
            own = [task_id for task_id, theirs in doing if not set(theirs).isdisjoint(item_ids)]
            found.update(dict.fromkeys(own or (task_id for task_id, _ in doing)))
        return tuple(found)

    def needs(task: Task) -> tuple[TaskId, ...]:
        drawn = wanted.get(task.task_id)
        if drawn is None:
            return tuple(dict.fromkeys(follow(task.depends_on)))
        # What it came after in the old plan may come after it in the new one. Undoings it goes on waiting for.
        undoings = (o for o in task.depends_on if (undoing := draft.tasks.get(o)) and undoing.kind == "COMPENSATION")
        return tuple(dict.fromkeys((*undoings, *place(drawn, joined.get(task.task_id, task.item_ids)))))

    new = [
        Task(
            task_id=new_id,
            kind="FULFILLMENT",
            plan_id=plan_id,
            plan_version=version,
            step=task.step,
            task_type=task.task_type,
            item_ids=joined.get(task.task_id, task.item_ids),
            state="PENDING",
            depends_on=needs(task),
        )
        for task in present
        if (new_id := replaced.get(task.task_id)) is not None
    ]
    new += [replace(task, depends_on=place(task, task.item_ids)) for task in fresh]
    rewired = {
        task.task_id: needs(task)
        for task in present
        if task.state in UNSTARTED and task.task_id not in replaced and needs(task) != task.depends_on
    }
    stays = {task_id: item_ids for task_id, item_ids in joined.items() if replaced.get(task_id) is None}
    return Redraw(tuple(new), replaced, rewired, stays)
