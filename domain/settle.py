"""What follows by itself after any command, to a fixpoint: readiness, commit points, ends, states, wake-ups.

The only place where one wing's outcome means something for another; it must never decide what a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from domain.amendment import (
    finish,
    follow_results,
    forget_quote,
    hear_quote,
    queue_amendment,
    reach_of,
    reject_amendment,
    resume_amendment,
    retire,
    supersede_amendment,
)
from domain.amendment import is_quiet as is_amendment_quiet
from domain.assessment import closure_of, is_quiet
from domain.cancellation import (
    again_of,
    covered_items,
    give_up_items,
    is_parked,
    keeping_items,
    let_go,
    propose_orders,
    replaced_by_again,
)
from domain.compensation import advance_plan, find_type, lacks_amount, mark_block, supersede_plan
from domain.decomposition import takes_lock
from domain.dependence import holds_order, tell_dependents
from domain.execution import wait_key
from domain.fallout import (
    mark_made,
    mend_by_amendment,
    needs_offer,
    open_case,
    open_follow_up_cases,
    settle_cases,
)
from domain.fulfillment import count_at_work, may_be_handed, undo_asset, write_asset
from domain.ledger import Effect
from domain.machines import check_move, has_ended
from domain.order import (
    RUNNING,
    UNSTARTED,
    WINDOW,
    Amendment,
    CompensationPlan,
    Draft,
    Item,
    Order,
    Plan,
    Reported,
    Request,
    Task,
    tasks_by_item,
)
from domain.values import Json, OrderId, PlanId, Run, TaskId, derive_id

_ASSESSING: Final = frozenset({"ASSESSING", "REQUIRES_APPROVAL", "AWAITING_CHARGE_DECISION", "APPROVED"})
_ENDED_EVENTS: Final = {
    "COMPLETED": "ORDER_COMPLETED",
    "PARTIALLY_COMPLETED": "ORDER_PARTIALLY_COMPLETED",
    "CANCELLED": "ORDER_CANCELLED",
    "FAILED": "ORDER_FAILED",
}


def settle(draft: Draft, reported: Reported) -> None:
    """Carry a draft to rest. Idempotent: settling a settled draft changes nothing."""
    # A case changes what the order shows; whoever can report one must have been given the whole order.
    assert draft.beyond is None or not (reported.failures or reported.late or reported.twice)
    for case_id in reported.given_up:
        give_up_items(draft, draft.cases[case_id])
    _reopen_waiting(draft)
    for amendment in draft.amendments.values():
        if amendment.is_stored:
            mend_by_amendment(draft, amendment)
    while _step(draft):
        pass
    for failure in reported.failures:
        if failure.task is None or not draft.tasks[failure.task.task_id].has_ended:
            open_case(draft, failure.task, failure.category, failure.title)
    for effect_id in reported.twice:
        effect = draft.effects[effect_id]
        open_case(
            draft,
            draft.tasks[effect.task_id],
            "BUSINESS",
            f"Reversed twice: {effect.task_type}",
            context="LATE_EFFECT",
            blocking=False,
            effect_id=effect_id,
        )
    for effect_id in reported.late:
        _oblige(draft, draft.effects[effect_id])
    open_follow_up_cases(draft)
    while _step(draft):
        pass
    if not draft.beyond:
        if not draft.head.has_ended:
            _end_order(draft)
        _show_items(draft)
        _show_order(draft)
        tell_dependents(draft)
    _wake(draft)


def _step(draft: Draft) -> bool:
    """One pass; True while anything moved, so that what it made possible is looked at again."""
    moved = _ready(draft) | _doubt_held(draft)
    if draft.beyond:
        return moved
    for task in list(draft.fulfillment_tasks()):
        if task.superseded_by is not None and not task.has_ended:
            moved |= retire(draft, task)
    moved |= settle_cases(draft)
    moved |= _steer_amendments(draft)
    if draft.order_request() is None and not draft.head.has_ended:
        moved |= follow_results(draft)
    for request in list(draft.requests.values()):
        if request.status == "COMPENSATING" and request.plan_id:
            moved |= _advance_cancellation(draft, draft.requests[request.request_id])
    for plan in list(draft.plans.values()):
        if plan.state in {"IN_PROGRESS", "BLOCKED"} and plan.request_id is None:
            moved |= _advance_amendment_plan(draft, plan)
        elif plan.state in {"IN_PROGRESS", "BLOCKED"} and draft.has_owner_ended(plan):
            moved |= _advance_obligations(draft, plan.plan_id)
        if plan.state == "SUPERSEDED" and not plan.closed:
            moved |= forget_quote(draft, plan)
            if all(task.has_ended for task in draft.tasks_of_plan(plan.plan_id)):
                draft.change_plan(plan.plan_id, closed=True)  # its last withdrawal has its answer
    moved |= _finish_items(draft)
    return moved


# -- tasks ----------------------------------------------------------------------------------------------------


def _ready(draft: Draft) -> bool:
    moved = False
    for task in list(draft.fulfillment_tasks()):
        if task.state == "PENDING" and task.unmet == 0:
            draft.move_task(task.task_id, "READY")
            moved = True
    return moved


def _doubt_held(draft: Draft) -> bool:
    """A task on its way to a second call when somebody took hold of it: its first call may have worked, so its
    outcome is asked for, and everybody who waits for running work waits for it."""
    moved = False
    for task in list(draft.tasks.values()):
        effect = draft.effect_of(task)
        if task.state == "READY" and effect and effect.state == "UNKNOWN" and draft.is_held(task):
            draft.move_task(task.task_id, RUNNING[task.kind])
            draft.move_task(task.task_id, "OUTCOME_UNKNOWN")
            moved = True
    return moved


def _reopen_waiting(draft: Draft) -> None:
    """A task whose accepted effect was called off is unstarted again; its old flow is told by the outcome's wake-up."""
    for task in list(draft.fulfillment_tasks()):
        effect = draft.effect_of(task)
        if (
            task.state in {"WAITING_EXTERNAL", "OUTCOME_UNKNOWN"}
            and effect
            and effect.state == "NO_EFFECT"
            and any(e.withdraws == effect.effect_id and e.state == "CONFIRMED" for e in draft.effects.values())
        ):
            draft.move_task(task.task_id, "READY", handed=False, release=task.release + 1)


# -- one cancellation past its approval -----------------------------------------------------------------------


def _advance_cancellation(draft: Draft, request: Request) -> bool:
    assert request.plan_id is not None
    plan_id = request.plan_id
    if _resume_after_refused_withdrawal(draft, request, plan_id):
        return True
    moved = advance_plan(draft, plan_id) | _hand_to_people(draft, plan_id)
    tasks = draft.tasks_of_plan(plan_id)
    first = [] if request.committed_at else _done_first(draft, request, tasks)
    if not request.committed_at and (
        first or any(_is_intent(task) for task in tasks) or all(task.has_ended for task in tasks)
    ):
        _commit(draft, request)
        _do_again(draft, request, [*_redone_before(draft, request, first), *first])
        moved = True
    request = draft.requests[request.request_id]
    if request.committed_at:
        moved |= _cancel_unstarted(draft, request)
    mark_block(draft, plan_id)
    if (
        request.committed_at
        and all(task.has_ended for task in draft.tasks_of_plan(plan_id))
        and not _open_effects(draft, request)
    ):
        _finish_cancellation(draft, request)
        moved = True
    return moved


def _hand_to_people(draft: Draft, plan_id: PlanId) -> bool:
    """What no call can undo, and money of which nobody knows how much it was, is a case once its turn has come."""
    moved = False
    for task in draft.tasks_of_plan(plan_id):
        if task.state != "READY":
            continue
        if task.purpose == "MANUAL":
            category, title = "BUSINESS", f"Undo {task.step} by hand ({task.task_type})"
        elif lacks_amount(draft, task):
            category, title = "DATA", f"How much {task.task_type} must give back for {task.step} cannot be read"
        else:
            continue
        draft.move_task(task.task_id, "IN_FALLOUT")
        open_case(draft, draft.tasks[task.task_id], category, title)
        moved = True
    return moved


def _is_intent(task: Task) -> bool:
    """The commit point (1-domain §4): the first undoing that was called for, or handed to a person."""
    if task.purpose == "WITHDRAW":
        return False
    return task.effect_id is not None or task.state == "IN_FALLOUT"


def _resume_after_refused_withdrawal(draft: Draft, request: Request, plan_id: PlanId) -> bool:
    """Too late to stop it: the original is awaited, and the request is assessed again with that known."""
    refused = tuple(
        task.reverses
        for task in draft.tasks_of_plan(plan_id)
        if task.purpose == "WITHDRAW"
        and task.state == "COMPLETED"
        and task.reverses
        and (effect := draft.effect_of(task))
        and effect.state == "NO_EFFECT"
        and draft.effects[task.reverses].is_open
        and task.reverses not in request.refused_withdrawals
    )
    happened = any(
        task.purpose == "WITHDRAW" and task.reverses and draft.effects[task.reverses].state == "CONFIRMED"
        for task in draft.tasks_of_plan(plan_id)
    )
    if request.committed_at or not (refused or happened):
        return False
    supersede_plan(draft, plan_id)
    draft.move_request(
        request.request_id,
        "ASSESSING",
        "CANCELLATION_STALE",
        plan_id=None,
        refused_withdrawals=(*request.refused_withdrawals, *refused),
        grace_until=draft.now + draft.policy.cancellation.grace,
        run=Run(draft.new_id("run")),
    )
    # The flow that ran the plan is on its way out; a new one assesses.
    request = draft.requests[request.request_id]
    draft.send(
        "cancellation-requested",
        f"{request.request_id}:{request.run}",
        ttl=3600,
        order_id=draft.head.order_id,
        request_id=request.request_id,
        run=request.run,
    )
    return True


def _done_first(draft: Draft, request: Request, undoings: list[Task]) -> list[Task]:
    """The tasks that are done again before they are undone; none while something is still being called off. Only for
    a part of a quantity is anything done again."""
    if not request.quantities or any(task.purpose == "WITHDRAW" and not task.has_ended for task in undoings):
        return []
    waited_for = {other for task in undoings for other in task.depends_on}
    waited_for.difference_update(task.task_id for task in undoings)
    if not waited_for:
        return []
    originals = [draft.tasks[task.original_task] for task in undoings if task.original_task]
    return [task for task in originals if again_of(request, task) in waited_for]


def _redone_before(draft: Draft, request: Request, first: Iterable[Task]) -> list[Task]:
    """What these build on and is done again in its own place: they are given the new result, not the old one."""
    again = replaced_by_again(request)
    found: dict[TaskId, Task] = {}
    ahead = [task_id for task in first for task_id in task.depends_on]
    while ahead:
        task = draft.newest_of(draft.tasks[ahead.pop()])
        if task.task_id in again and task.task_id not in found and task.state == "COMPLETED":
            found[task.task_id] = task
            ahead.extend(task.depends_on)
    return list(found.values())


def _commit(draft: Draft, request: Request) -> None:
    """From here only forward: what never started never will, failures become facts of the undoing."""
    draft.change_request(request.request_id, committed_at=draft.now)
    closure = closure_of(draft, request)
    left = {item_id: draft.items[item_id].quantity - count for item_id, count in closure.reduced.items()}
    quantities: dict[str, Json] = {"quantities": left} if left else {}
    draft.record("CANCELLATION_COMMITTED", "REQUEST", request.request_id, request_id=request.request_id, **quantities)
    for item_id, quantity in left.items():
        draft.change_item(item_id, quantity=quantity)
        draft.content_changed = True
    mine = {task.original_task for task in draft.tasks_of_plan(request.plan_id)} if request.plan_id else set()
    for task in list(
        draft.fulfillment_tasks()
    ):  # a shared task that this plan does not undo is the others' from now on
        staying = tuple(
            item_id
            for item_id in task.item_ids
            if item_id not in closure.items and draft.items[item_id].base not in {"CANCELLED", "FAILED"}
        )
        if task.task_id not in mine and staying and staying != task.item_ids:
            draft.change_task(task.task_id, item_ids=staying)
    ending = set(closure.tasks) - closure.resized
    for case in draft.open_cases():
        if case.task_id in ending and case.context == "FULFILLMENT":
            draft.change_case(
                case.case_id,
                "CASE_CHANGED",
                context="COMPENSATION",
                blocking=True,
                request_id=request.request_id,
                note={"context": "COMPENSATION"},
            )
    for other in list(draft.requests.values()):
        if request.scope == "ORDER" and is_parked(draft, other) and not other.has_ended:
            _supersede(draft, other)
    for amendment in list(draft.amendments.values()):
        if request.scope == "ORDER" and not amendment.has_ended and not amendment.is_stored:
            supersede_amendment(draft, amendment, "OVERTAKEN_BY_CANCELLATION")
    _take_over(draft, request)


def _take_over(draft: Draft, request: Request) -> None:
    """What an amendment had left to undo of what goes now is this cancellation's to judge; nothing is undone twice."""
    closure = closure_of(draft, request)
    ending = set(closure.tasks) - closure.resized
    for plan in draft.undo_plans():
        for task in draft.tasks_of_plan(plan.plan_id):
            if task.state == "PLANNED" and task.original_task in ending:
                draft.move_task(task.task_id, "SUPERSEDED")


def _cancel_unstarted(draft: Draft, request: Request) -> bool:
    """Past the commit point nothing of the closure starts (again): what has had no effect is cancelled."""
    moved = False
    closure = closure_of(draft, request)
    for task_id in closure.tasks:
        task = draft.tasks[task_id]
        if task_id in closure.resized:
            continue  # it starts after all, for the quantity that is left
        effect = draft.effect_of(task)
        if task.state in UNSTARTED | {"FAILED"} and (effect is None or effect.state == "NO_EFFECT"):
            draft.move_task(task_id, "CANCELLED")
            moved = True
    return moved


def _supersede(draft: Draft, request: Request) -> None:
    """The larger cancellation has passed its commit point: the smaller one has nothing left to ask for."""
    if request.plan_id:
        supersede_plan(draft, request.plan_id)
    draft.move_request(
        request.request_id, "SUPERSEDED", "CANCELLATION_SUPERSEDED", outcome="OVERTAKEN_BY_CANCELLATION", waiting=False
    )
    let_go(draft, request)
    draft.send("closure-quiesced", request.wait_key)


def _open_effects(draft: Draft, request: Request) -> bool:
    tasks = set(closure_of(draft, request).tasks)
    if any(effect.is_open and effect.task_id in tasks for effect in draft.effects.values()):
        return True
    return any(  # another plan past its commit point is still undoing an effect of ours
        task.kind == "COMPENSATION"
        and not task.has_ended
        and task.original_task in tasks
        and task.plan_id != request.plan_id
        and draft.is_past_commit(draft.plans[task.plan_id])
        for task in draft.tasks.values()
    )


# -- amendments -------------------------------------------------------------------------------------------------


def _steer_amendments(draft: Draft) -> bool:
    """What other changes mean for amendments (§8), and what became of the prices that they asked for."""
    moved = False
    request = draft.order_request()
    for request_id, amendment in list(draft.amendments.items()):
        if amendment.has_ended:
            continue
        if hear_quote(draft, amendment):
            moved = True
        amendment = draft.amendments[request_id]
        if amendment.has_ended:
            continue
        if request is not None:
            moved |= _yield_to_cancellation(draft, amendment, request)
        elif amendment.status == "QUEUED":
            if not _must_wait(draft, amendment):
                resume_amendment(draft, amendment)
                moved = True
        elif not amendment.is_stored and (overtaking := _find_overtaking(draft, amendment)):
            queue_amendment(draft, amendment, overtaking.request_id)
            moved = True
    return moved


def _yield_to_cancellation(draft: Draft, amendment: Amendment, request: Request) -> bool:
    """The whole order is to be cancelled: what is not in the order yet is queued, then superseded; what is in it begins
    no further undoing, and ends when nothing of it is under way. The ledger tells the cancellation what it did."""
    if not amendment.is_stored:
        if request.committed_at:
            supersede_amendment(draft, amendment, "OVERTAKEN_BY_CANCELLATION")
            return True
        if amendment.status != "QUEUED":
            queue_amendment(draft, amendment, request.request_id)
            return True
        return False
    undoing = [plan for plan in draft.undo_plans() if plan.amendment_id == amendment.request_id]
    if any(map(draft.is_undoing, undoing)):
        return False
    if all(task.has_ended for plan in undoing for task in draft.tasks_of_plan(plan.plan_id)):
        finish(draft, amendment)
    else:
        draft.move_amendment(amendment.request_id, "FAILED", "AMENDMENT_FAILED", outcome="OVERTAKEN_BY_CANCELLATION")
    return True


def _find_overtaking(draft: Draft, amendment: Amendment) -> Request | None:
    """The cancellation that takes away an item which the amendment names."""
    items = reach_of(draft, amendment).items
    cancelling = (r for r in draft.requests.values() if r.scope == "ITEMS" and not r.has_ended)
    return next((request for request in cancelling if items & covered_items(draft, request)), None)


def _must_wait(draft: Draft, amendment: Amendment) -> bool:
    if _find_overtaking(draft, amendment) or draft.amending() is not None:
        return True
    mine = reach_of(draft, amendment)
    for other in draft.amendments.values():  # as they came in
        if other.request_id == amendment.request_id:
            return False
        if not other.has_ended and mine.overlaps(reach_of(draft, other)):
            return True
    return False


def _advance_amendment_plan(draft: Draft, plan: CompensationPlan) -> bool:
    amendment = draft.amendments[plan.owner_id]
    request = draft.order_request()
    if request is not None and plan.purpose != "QUOTE":
        if not request.committed_at or not amendment.has_ended:
            return False
        supersede_plan(draft, plan.plan_id)  # what it had not undone, the cancellation has judged
        for task in draft.tasks_of_plan(plan.plan_id):
            if task.state == "IN_FALLOUT":
                draft.move_task(task.task_id, "SUPERSEDED")
        return True
    moved = False
    if plan.purpose != "QUOTE":
        moved = advance_plan(draft, plan.plan_id) | _hand_to_people(draft, plan.plan_id)
    mark_block(draft, plan.plan_id)
    if not amendment.has_ended and amendment.is_stored and _waits_in_vain(draft, amendment):
        finish(draft, amendment)
        moved = True
    if all(task.has_ended for task in draft.tasks_of_plan(plan.plan_id)):
        draft.move_plan(plan.plan_id, "COMPLETED", "COMPENSATION_COMPLETED", completed_at=draft.now, closed=True)
        amendment = draft.amendments[plan.owner_id]
        more = any(other.amendment_id == amendment.request_id for other in draft.undo_plans())
        if amendment.is_stored and not amendment.has_ended and not more:
            finish(draft, amendment)
        moved = True
    return moved


def _waits_in_vain(draft: Draft, amendment: Amendment) -> bool:
    """Whether all that an amendment has yet to undo waits for work that has failed, or that a cancellation holds which
    itself waits for the amendment. It is in the order; were it open, it and they would wait for each other for ever.
    What is left is undone when that work is done after all, or by the cancellation."""
    plans = [plan for plan in draft.undo_plans() if plan.amendment_id == amendment.request_id]
    if not all(map(draft.waits_for_work, plans)):
        return False
    cancelling = {str(request.request_id) for request in draft.requests.values() if not request.has_ended}
    awaited = [task for plan in plans for task in draft.tasks_of_plan(plan.plan_id) if not task.has_ended]
    seen = {task.task_id for task in awaited}
    for task in awaited:  # grows while it is walked
        stopped = task.state in UNSTARTED and not cancelling.isdisjoint(draft.holds.get(task.task_id, ()))
        if task.state == "FAILED" or stopped:
            return True
        before = {other for other in task.depends_on if other in draft.tasks and not draft.tasks[other].has_ended}
        awaited += [draft.tasks[other] for other in task.depends_on if other in before - seen]
        seen |= before
    return False


# -- obligations ------------------------------------------------------------------------------------------------


def _oblige(draft: Draft, effect: Effect) -> None:
    """T11: it happened after all. The ended rows stay as they are; beside them stands the duty to undo it."""
    task = draft.tasks[effect.task_id]
    task_type = draft.task_type(task)
    undone_by = task_type.compensation
    busy = next((holder for item_id in task.item_ids if (holder := _find_holder(draft, item_id))), None)
    title = f"{task.task_type} took effect after it had been given up"
    if busy is not None:
        title += f"; order {busy} holds its asset, nothing is called"
    elif undone_by is None and task_type.follow_up:
        title += f"; a {task_type.follow_up.order_type} order ({task_type.follow_up.action}) would undo it"
    open_case(
        draft,
        task,
        "UNKNOWN_OUTCOME",
        title,
        context="LATE_EFFECT",
        blocking=False,
        effect_id=effect.effect_id,
    )
    plan = _find_plan_for(draft, task)
    if undone_by is None or plan is None or busy is not None:
        return
    types = {**plan.types, undone_by: find_type(draft, undone_by)}
    run = Run(draft.new_id("run"))
    if plan.state == "COMPLETED":
        draft.move_plan(plan.plan_id, "IN_PROGRESS", "COMPENSATION_STARTED", completed_at=None)
    draft.change_plan(plan.plan_id, types=types, run=run, closed=False, woken=True)
    draft.add_task(
        Task(
            task_id=TaskId(derive_id(plan.plan_id, effect.effect_id, "OBLIGATION")),
            kind="COMPENSATION",
            plan_id=plan.plan_id,
            step=task.step,
            task_type=undone_by,
            item_ids=task.item_ids,
            state="PLANNED",
            original_task=task.task_id,
            reverses=effect.effect_id,
            purpose="COMPENSATE",
        )
    )
    draft.send(
        "plan-restarted", run, ttl=3600, order_id=draft.head.order_id, plan_id=plan.plan_id, run=run, root=plan.plan_id
    )


def _find_holder(draft: Draft, item_id: str) -> OrderId | None:
    """Another order that is changing what this item is about."""
    item = draft.items[item_id]
    assets = (asset_id for asset_id in (item.asset, item.target_asset) if asset_id)
    return next((draft.busy_assets[asset_id] for asset_id in assets if asset_id in draft.busy_assets), None)


def _find_plan_for(draft: Draft, task: Task) -> CompensationPlan | None:
    """The plan that undoes what this task did: the latest past its commit point, else one that is on its way there."""
    covering = [
        (owner.committed_at is not None, plan)
        for plan in draft.plans.values()
        if plan.state != "SUPERSEDED"
        and plan.request_id is not None
        and not draft.is_parked(owner := draft.requests[plan.request_id])
        and (owner.committed_at or owner.plan_id == plan.plan_id)
        and set(task.item_ids) & covered_items(draft, owner)
    ]
    return max(enumerate(covering), key=lambda found: (found[1][0], found[0]))[1][1] if covering else None


def _advance_obligations(draft: Draft, plan_id: PlanId) -> bool:
    moved = advance_plan(draft, plan_id) | _hand_to_people(draft, plan_id)
    mark_block(draft, plan_id)
    tasks = draft.tasks_of_plan(plan_id)
    if all(task.has_ended for task in tasks):
        draft.move_plan(plan_id, "COMPLETED", "COMPENSATION_COMPLETED", completed_at=draft.now, closed=True)
        moved = True
    return moved


def _finish_cancellation(draft: Draft, request: Request) -> None:
    """The ledger decides: nothing stands any more, or something stays and is proposed as a new order."""
    assert request.plan_id is not None
    if not has_ended("PLAN", draft.plans[request.plan_id].state):
        draft.move_plan(request.plan_id, "COMPLETED", "COMPENSATION_COMPLETED", completed_at=draft.now, closed=True)
    closure = closure_of(draft, request)
    items = [draft.items[item_id] for item_id in sorted(closure.items) if item_id in draft.items]
    again = replaced_by_again(request)
    new = {task.superseded_by for task in draft.fulfillment_tasks() if task.superseded_by == again_of(request, task)}
    keeping = keeping_items(draft, closure, again | new)
    kept = [item for item in items if item.item_id in keeping]
    for item in items:
        if not has_ended("ITEM", item.state) or item.base == "COMPLETED":
            ended = "PARTIALLY_COMPLETED" if item in kept else "CANCELLED"
            draft.change_item(item.item_id, base="FAILED" if request.repairs_case else ended)
            if item not in kept:
                undo_asset(draft, item)
    _write_retained_assets(draft, kept)
    draft.move_request(
        request.request_id,
        "PARTIALLY_COMPLETED" if keeping else "COMPLETED",
        "CANCELLATION_COMPLETED",
        outcome="PARTIALLY_CANCELLED" if keeping else "CANCELLED",
        proposals=mark_made(
            draft,
            propose_orders(draft, [draft.items[item_id] for item_id in keeping], closure.reduced, request.reason_code),
        ),
    )
    _do_again(
        draft,
        request,
        [
            task
            for task_id in closure.resized
            if (task := draft.tasks[task_id]).superseded_by is None
            and (task.state == "COMPENSATED" or task_id in again)
        ],
    )
    let_go(draft, request)


def _do_again(draft: Draft, request: Request, tasks: Iterable[Task]) -> None:
    """Do these tasks again for a quantity that is smaller now; those behind them wait for the new ones."""
    instead = {task.task_id: again_of(request, task) for task in tasks}
    if not instead:
        return
    assert draft.plan is not None
    for old_id, new_id in instead.items():
        task = draft.change_task(old_id, superseded_by=new_id)
        if task.state == "COMPLETED":
            draft.move_task(old_id, "SUPERSEDED")
    for old_id, new_id in instead.items():
        task = draft.tasks[old_id]
        again = Task(
            task_id=new_id,
            kind="FULFILLMENT",
            plan_id=draft.plan.plan_id,  # that of the old one may be one that nobody walks any more
            plan_version=draft.plan.version,
            step=task.step,
            task_type=task.task_type,
            item_ids=task.item_ids,
            state="PENDING",
        )
        draft.add_task(replace(again, **_behind(draft, task, instead)))
        for holder in (draft.holds.get(old_id, frozenset()) | draft.order_holds) - {str(request.request_id)}:
            draft.hold([new_id], holder)
    for task in list(draft.fulfillment_tasks()):
        if task.state in UNSTARTED and not instead.keys().isdisjoint(task.depends_on):
            task = draft.change_task(task.task_id, **_behind(draft, task, instead))
            if task.unmet and task.state == "READY":  # what it builds on is done again first
                draft.move_task(task.task_id, "PENDING", handed=False, release=task.release + 1)
    draft.successors_of = None


def _behind(draft: Draft, task: Task, instead: Mapping[TaskId, TaskId]) -> dict[str, Any]:
    """A task's predecessors once some of them have others in their place, and how many of them it waits for."""
    newest = (draft.newest_of(draft.tasks[other]).task_id for other in task.depends_on)
    before = tuple(instead.get(other, other) for other in newest)
    done = {other for other in before if other in draft.tasks and draft.tasks[other].satisfies}
    return {"depends_on": before, "unmet": len(set(before) - done)}


def _write_retained_assets(draft: Draft, kept: list[Item]) -> None:
    """An effect that stays and is followed by a DISCONNECT means that the customer now has the thing."""
    standing: set[str] = set()
    undone: set[str] = set()
    for effect in draft.effects.values():
        task = draft.tasks.get(effect.task_id)
        if task is None or not effect.is_original or task.kind != "FULFILLMENT":
            continue
        follow_up = draft.task_type(task).follow_up
        if follow_up is not None and follow_up.action == "DISCONNECT":
            (standing if effect.stands else undone if effect.state == "REVERSED" else set()).update(task.item_ids)
    tasks = tasks_by_item(draft)
    for item in kept:
        if item.item_id in standing:
            if item.asset is None:
                write_asset(draft, item, tasks.get(item.item_id, ()))
        elif item.base == "COMPLETED" and item.item_id in undone:
            undo_asset(draft, item)  # what made it a thing of the customer's has been undone; something else stays


# -- items and the order ----------------------------------------------------------------------------------------


def _finish_items(draft: Draft) -> bool:
    """An item is complete when all its tasks are; one without tasks, with its last child. One of which a part is being
    cancelled is not yet: some of its work may be done again, for what is left."""
    if draft.head.base != "IN_PROGRESS" or draft.plan is None:
        return False
    moved = False
    tasks = tasks_by_item(draft)
    parts: dict[str, list[str]] = {}
    for item in draft.items.values():
        if item.parent:
            parts.setdefault(item.parent, []).append(item.item_id)
    shrinking = {
        item_id for request in draft.requests.values() if not request.has_ended for item_id in request.quantities
    }
    for item in list(draft.items.values()):
        if item.base != "IN_PROGRESS" or item.state == "SUPERSEDED" or item.item_id in shrinking:
            continue
        own = [t for t in tasks.get(item.item_id, ()) if t.state != "SUPERSEDED" and not t.superseded_by]
        children = [draft.items[part] for part in parts.get(item.item_id, ())]
        if all(task.state == "COMPLETED" for task in own) and all(child.base != "IN_PROGRESS" for child in children):
            bases = [child.base for child in children if child.base != "SUPERSEDED" and child.action != "NO_CHANGE"]
            base = "COMPLETED" if own else _sum_up(bases)
            draft.change_item(item.item_id, base=base)
            if item.action != "NO_CHANGE" and base in {"COMPLETED", "PARTIALLY_COMPLETED"}:
                write_asset(draft, item, tasks.get(item.item_id, ()))
            moved = True
    return moved


def _sum_up(bases: list[str]) -> str:
    """How the whole ended, from its parts (T04)."""
    if all(base == "COMPLETED" for base in bases):
        return "COMPLETED"
    if all(base == "CANCELLED" for base in bases):
        return "CANCELLED"
    if "FAILED" in bases and not {"COMPLETED", "PARTIALLY_COMPLETED"} & set(bases):
        return "FAILED"
    return "PARTIALLY_COMPLETED"


def _end_order(draft: Draft) -> None:
    """T04: evaluated whenever nothing stands in the way; the items say how the order ended."""
    if draft.head.base != "IN_PROGRESS" and not _was_cancelled(draft):
        return
    if any(not request.has_ended for request in draft.requests.values()):
        return
    if any(amendment.status in {"APPROVED", "APPLYING"} for amendment in draft.amendments.values()):
        return
    if draft.undo_plans():  # what followed another result is not all undone yet
        return
    if any(case.blocking for case in draft.open_cases()) or any(e.is_open for e in draft.effects.values()):
        return
    bases = [item.base for item in draft.items.values() if item.state != "SUPERSEDED" and item.action != "NO_CHANGE"]
    if any(not has_ended("ITEM", base) for base in bases):
        return
    for amendment in list(draft.amendments.values()):
        if not amendment.has_ended:
            reject_amendment(draft, amendment, "ORDER_ENDED")
    # Nothing was asked for but to leave things as they are: what became of that says it.
    state = _sum_up(bases or [item.base for item in draft.items.values() if item.base == "CANCELLED"])
    before = draft.head.state
    check_move("ORDER", before, state)
    draft.change_head(state=state, resume_state=None, ended_at=draft.now)
    draft.locks_released = True
    if draft.plan and not draft.plan.closed:
        draft.change_plan(draft.plan.plan_id, closed=True)
    draft.record(_ENDED_EVENTS[state], "ORDER", draft.head.order_id, before=before, after=state)
    if any(i.target_asset and takes_lock(draft.head.order_type, i.action) for i in draft.items.values()):
        draft.record("ASSET_MODIFICATION_COMPLETED", "ORDER", draft.head.order_id, outcome=state)


def _was_cancelled(draft: Draft) -> bool:
    """Before decomposition only a finished cancellation can end the order."""
    return any(item.base == "CANCELLED" for item in draft.items.values())


def _show_items(draft: Draft) -> None:
    """Each item's shown state: final, or what its cancellation does with it, or how far it has come."""
    cover: dict[str, Request] = {}
    for request in draft.requests.values():
        if not request.has_ended:
            for item_id in covered_items(draft, request):
                if request.scope == "ORDER" or item_id not in cover:
                    cover[item_id] = request
    for item in list(draft.items.values()):
        if item.action == "NO_CHANGE" and item.base == "ACKNOWLEDGED":
            continue
        shown = item.base
        covering = cover.get(item.item_id)
        if covering is not None and item.base in {"ACKNOWLEDGED", "IN_PROGRESS", "COMPLETED"}:
            shown = _chain_state(covering)
            if covering.scope == "ITEMS" and any(
                case.blocking and case.request_id == covering.request_id for case in draft.open_cases()
            ):
                shown = "FALLOUT"
        if shown != item.state:
            for step in _path(item.state, shown):
                draft.move_item(item.item_id, step)


def _chain_state(request: Request) -> str:
    if request.status == "ACCEPTED_FOR_ASSESSMENT":
        return "CANCELLATION_REQUESTED"
    return "CANCELLING" if request.status == "COMPENSATING" else "CANCELLATION_ASSESSING"


def _path(before: str, after: str) -> list[str]:
    """The chain is told step by step, even where one transaction runs through several."""
    chain = ["CANCELLATION_REQUESTED", "CANCELLATION_ASSESSING", "CANCELLING"]
    if after in {"CANCELLED", "PARTIALLY_COMPLETED", "FAILED"} and before == "FALLOUT":
        return ["CANCELLING", after]
    if after in {"CANCELLED", "PARTIALLY_COMPLETED", "FAILED"} and before != "CANCELLING":
        start = chain.index(before) + 1 if before in chain else 0
        return [*chain[start:], after]
    if after in chain and before == "FALLOUT":
        return [after]  # it was on the chain all the time
    if after in chain:
        start = chain.index(before) + 1 if before in chain else 0
        stop = chain.index(after) + 1
        return chain[start:stop] if start < stop else [after]
    if before in chain and after in {"ACKNOWLEDGED", "IN_PROGRESS", "COMPLETED"}:
        return [after]
    if before == "ACKNOWLEDGED" and after == "COMPLETED":
        return ["IN_PROGRESS", "COMPLETED"]
    return [after]


def _show_order(draft: Draft) -> None:
    """The shown state is recomputed, never restored: the highest thing that holds, and the next one down beneath it."""
    if draft.head.has_ended:
        return
    state, resume = shown_state(_standing(draft))
    if state != draft.head.state:
        for step in _order_path(draft.head.state, state):
            check_move("ORDER", draft.head.state, step)
            draft.record("ORDER_STATE_CHANGED", "ORDER", draft.head.order_id, before=draft.head.state, after=step)
            draft.change_head(state=step)
    if resume != draft.head.resume_state:
        draft.change_head(resume_state=resume)


def _order_path(before: str, after: str) -> list[str]:
    chain = ["CANCELLATION_REQUESTED", "CANCELLATION_ASSESSING", "CANCELLING"]
    if before == "ACKNOWLEDGED" and after == "IN_PROGRESS":
        return ["VALIDATED", "IN_PROGRESS"]
    if after in chain and before in chain and chain.index(after) > chain.index(before):
        return chain[chain.index(before) + 1 : chain.index(after) + 1]
    return [after]


def shown_state(standing: list[str]) -> tuple[str, str | None]:
    """The state to show and the one to resume, out of what `rank_states` says."""
    return standing[0], next((other for other in standing[1:] if other != standing[0]), None)


def _standing(draft: Draft) -> list[str]:
    request = draft.order_request()
    cases = [case for case in draft.open_cases() if case.blocking]
    return rank_states(
        draft.head.base,
        request_status=request.status if request else None,
        request_stuck=request is not None
        and any(case.request_id == request.request_id and case.context == "COMPENSATION" for case in cases),
        amending=draft.applying() is not None,
        amendment_stuck=any(case.context == "AMENDMENT" for case in cases),
        on_hold=any(map(holds_order, draft.order_holds)),
        work_stuck=any(case.context in {"FULFILLMENT", "RECONCILIATION"} for case in cases),
    )


def rank_states(
    base: str,
    *,
    request_status: str | None,
    request_stuck: bool,
    amending: bool,
    amendment_stuck: bool,
    on_hold: bool,
    work_stuck: bool,
) -> list[str]:
    """Everything that holds for a live order, highest first (1-domain §2): the first is shown, the next one resumed.

    request_status: of the active order-scope cancellation · request_stuck, amendment_stuck, work_stuck: a blocking case
    is open on it, on an amendment, or on fulfillment · amending: an amendment is being applied
    """
    found: list[str] = []
    if request_stuck:
        found.append("FALLOUT")
    if request_status == "COMPENSATING":
        found.append("CANCELLING")
    elif request_status in _ASSESSING:
        found.append("CANCELLATION_ASSESSING")
    elif request_status is not None:
        found.append("CANCELLATION_REQUESTED")
    if amendment_stuck:
        found.append("FALLOUT")
    if amending:
        found.append("AMENDING")
    if on_hold:
        found.append("ON_HOLD")
    if work_stuck:
        found.append("FALLOUT")
    found.append(base)
    return found


# -- wake-ups -----------------------------------------------------------------------------------------------------


def _wake(draft: Draft) -> None:
    """Tell the waiting flows that there is something to ask for. Level-triggered: a wake-up that was lost is made good
    by the next transaction, the heartbeat or the reconciler; between a wake-up and its question none is sent again."""
    plans: list[Plan | CompensationPlan] = [*draft.plans.values(), *([draft.plan] if draft.plan else [])]
    for plan in plans:
        before = draft.before.plans.get(plan.plan_id) or draft.before.plan
        was_closed = before is not None and before.plan_id == plan.plan_id and before.closed
        if plan.closed:
            if not was_closed:
                draft.send("plan-progressed", plan.run)
        elif not plan.woken and _has_work(draft, plan.plan_id):
            draft.change_plan(plan.plan_id, woken=True)
            draft.send("plan-progressed", plan.run)
    for task in draft.tasks.values():
        before_task = draft.before.tasks.get(task.task_id)
        if before_task is not None and before_task.state == "WAITING_EXTERNAL" and task.state != "WAITING_EXTERNAL":
            effect = draft.before.effects.get(before_task.effect_id) if before_task.effect_id else None
            if effect is not None:
                draft.send("effect-outcome", wait_key(effect))
    for request in list(draft.requests.values()):
        if not request.waiting or request.has_ended or is_parked(draft, request):
            continue
        closure = closure_of(draft, request)
        if request.status != "ASSESSING" or is_quiet(draft, request, closure):
            draft.requests[request.request_id] = replace(request, waiting=False)
            draft.send("closure-quiesced", request.wait_key)
    _wake_amendments(draft)
    _offer_cases(draft)


def _offer_cases(draft: Draft) -> None:
    """Show to people what no flow shows: a case that is new, that has become one of those, or whose order has had a
    flow started anew, for then the engine may have lost this one as well. A second showing ends with the first."""
    anew = bool(draft.before.cases) and bool(_runs(draft.before) - _runs(draft))
    for case in draft.cases.values():
        before = draft.before.cases.get(case.case_id)
        if needs_offer(draft, case) and (anew or before is None or not needs_offer(draft, before)):
            order_id = draft.head.order_id
            draft.send("case-opened", case.case_id, ttl=3600, order_id=order_id, case_id=case.case_id, run=case.case_id)


def _runs(order: Order | Draft) -> set[Run | None]:
    runs: set[Run | None] = {order.head.run, order.plan.run if order.plan else None}
    runs.update(request.run for request in order.requests.values())
    runs.update(amendment.run for amendment in order.amendments.values())
    runs.update(plan.run for plan in order.plans.values())
    return runs


def _wake_amendments(draft: Draft) -> None:
    for amendment in list(draft.amendments.values()):
        if not amendment.waiting or amendment.has_ended:
            continue
        applying = draft.amending()
        if applying is None or (applying.request_id == amendment.request_id and is_amendment_quiet(draft, amendment)):
            draft.change_amendment(amendment.request_id, waiting=False)
            draft.send("closure-quiesced", amendment.wait_key)


def _has_work(draft: Draft, plan_id: PlanId) -> bool:
    far = draft.beyond
    if count_at_work(draft, plan_id) + (far.at_work if far else 0) > WINDOW // 2:
        return False
    return bool(far and far.waiting) or any(may_be_handed(draft, task) for task in draft.tasks_of_plan(plan_id))
