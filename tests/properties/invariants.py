"""What must hold after every command, as plain functions: each raises AssertionError with the rule's number."""

from __future__ import annotations

from collections.abc import Iterable

from domain.events import Event
from domain.machines import has_ended
from domain.order import Order
from domain.values import is_external


def check_order(order: Order, previous: Order | None) -> None:
    """Everything that can be said of one order by itself. `previous` is the order before the last command."""
    if previous is not None:
        ended_rows_never_change(order, previous)
    one_order_scope_change(order)
    one_reversal_per_effect(order)
    cancelled_means_undone(order)
    quantities_are_conserved(order)
    what_stands_is_what_is_left(order)
    what_ended_is_done(order)
    counters_are_true(order)
    what_ended_holds_nothing(order)


def ended_rows_never_change(order: Order, previous: Order) -> None:
    """I1. Only the audit's place in the row may move; obligations stand beside it."""
    if not previous.head.has_ended:
        return
    for name in ("state", "base", "version", "content", "ended_at", "plan_version"):
        assert getattr(order.head, name) == getattr(previous.head, name), f"I1: {name} of an ended order moved"
    for item_id, item in previous.items.items():
        assert order.items[item_id] == item, f"I1: item {item_id} of an ended order moved"


def one_order_scope_change(order: Order) -> None:
    """I2."""
    active = [r for r in order.requests.values() if r.scope == "ORDER" and not r.has_ended]
    assert len(active) <= 1, "I2: two order-scope cancellations are active"


def one_reversal_per_effect(order: Order) -> None:
    """I4: a reversal names its effect, and no effect has two confirmed ones."""
    seen: set[object] = set()
    for effect in order.effects.values():
        if effect.reverses and effect.state == "CONFIRMED":
            assert effect.reverses not in seen, "I4: reversed twice"
            seen.add(effect.reverses)
            assert order.effects[effect.reverses].state == "REVERSED", "I4: reversal without its original"


def cancelled_means_undone(order: Order) -> None:
    """I5: nothing that is felt outside stands after CANCELLED, unless an obligation says that it will be undone."""
    if order.head.state != "CANCELLED":
        return
    owed = {t.reverses for t in order.tasks.values() if t.kind == "COMPENSATION" and not t.has_ended}
    cases = {case.effect_id for case in order.cases.values()} | {case.task_id for case in order.cases.values()}
    for effect in order.effects.values():
        if effect.is_original and is_external(effect.level) and effect.state in {"CONFIRMED", "INTENDED", "UNKNOWN"}:
            assert effect.effect_id in owed or effect.task_id in cases, f"I5: {effect.task_type} stands"


def quantities_are_conserved(order: Order) -> None:
    """Of every item so many are left as were ordered, less those that cancellations past their commit point gave up."""
    for item in order.items.values():
        given_up = sum(r.quantities.get(item.item_id, 0) for r in order.requests.values() if r.committed_at)
        assert item.quantity == item.ordered_quantity - given_up, f"item {item.item_id}: {given_up} were given up"
        assert item.quantity > 0, f"item {item.item_id} has nothing left and is still there"


def what_stands_is_what_is_left(order: Order) -> None:
    """Stock: once an order has ended, what stands outside for an item is for as many as are left of it, unless a person
    or a point of no return kept more, which the request then says."""
    if not order.head.has_ended:
        return
    for effect in order.effects.values():
        if effect.state != "CONFIRMED" or not effect.is_original or not is_external(effect.level):
            continue
        for sent in ((effect.input or {}).get("order") or {}).get("items", ()):
            item = order.items.get(sent.get("itemId"))
            if item is None or "quantity" not in sent or item.base != "COMPLETED":
                continue
            kept = any(
                item.item_id in r.quantities and r.status == "PARTIALLY_COMPLETED" for r in order.requests.values()
            )
            assert kept or sent["quantity"] == item.quantity, (
                f"{effect.task_type} stands for {sent['quantity']} of item {item.item_id}, {item.quantity} are left"
            )


def what_ended_is_done(order: Order) -> None:
    """T04: an order does not end over work that is still to be done, and what it installed is as many as are left."""
    if not order.head.has_ended:
        return
    for task in order.tasks.values():
        assert task.kind != "FULFILLMENT" or task.has_ended, f"T04: {task.step} is {task.state} in an ended order"
    for item in order.items.values():
        if item.base == "COMPLETED" and item.action == "ADD" and item.asset is not None:
            count = order.assets[item.asset].quantity
            assert count == item.quantity, f"item {item.item_id}: {item.quantity} are left, its asset is of {count}"


def counters_are_true(order: Order) -> None:
    """The counters of unmet predecessors are what counting gives."""
    for task in order.tasks.values():
        if not task.has_ended:
            unmet = sum(not order.tasks[p].satisfies for p in task.depends_on if p in order.tasks)
            assert task.unmet == unmet, f"{task.task_type} {task.state}: unmet {task.unmet}, counted {unmet}"
            if task.kind == "FULFILLMENT":
                walked = order.plan is not None and task.plan_id == order.plan.plan_id
                assert walked, f"{task.task_type} {task.state}: in a version of the plan that nobody walks"
                assert (task.state == "PENDING") == (unmet > 0), f"{task.task_type}: {task.state} with {unmet} unmet"


def audit_tells_the_states(order: Order, events: Iterable[Event]) -> None:
    """I7: the state changes on record, replayed, give the stored states."""
    told: dict[tuple[str, str], str] = {}
    for event in events:
        if event.after is not None:
            key = (event.entity, event.entity_id)
            assert told.get(key) == event.before, f"{key}: {event.kind} from {event.before}, was {told.get(key)}"
            told[key] = event.after
    stored = {("ORDER", str(order.head.order_id)): order.head.state}
    stored |= {("ITEM", item.item_id): item.state for item in order.items.values()}
    stored |= {("TASK", str(task.task_id)): task.state for task in order.tasks.values()}
    stored |= {("EFFECT", str(effect.effect_id)): effect.state for effect in order.effects.values()}
    stored |= {("REQUEST", str(r.request_id)): r.status for r in order.requests.values()}
    stored |= {("REQUEST", str(a.request_id)): a.status for a in order.amendments.values()}
    stored |= {("PLAN", str(plan.plan_id)): plan.state for plan in order.plans.values()}
    stored |= {("CASE", str(case.case_id)): case.status for case in order.cases.values()}
    for key, state in stored.items():
        assert told.get(key) == state, f"I7: {key} is {state}, the audit says {told.get(key)}"


def what_ended_holds_nothing(order: Order) -> None:
    """An ended request holds no task; a plan whose order has ended tells its walker so."""
    ended = [str(request.request_id) for request in order.requests.values() if request.has_ended]
    ended += [str(amendment.request_id) for amendment in order.amendments.values() if amendment.has_ended]
    for holder in ended:
        assert not any(holder in holders for holders in order.holds.values()), "an ended request still holds tasks"
    if order.head.has_ended:
        assert order.plan is None or order.plan.closed, "an ended order's walker is not told"
        for plan in order.plans.values():
            if has_ended("PLAN", plan.state):
                assert plan.closed, "an ended plan's walker is not told"
