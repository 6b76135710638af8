"""Orders that depend on one that is being cancelled: told by it, each in a transaction of its own, and then held, let
go or shown to people. It must never write two orders at once, and never cancel one for another's sake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from domain.assessment import closure_items, closure_of, find_dependents
from domain.commands import FollowCancellation
from domain.fallout import open_case
from domain.order import OPERATOR_HOLD, Cause, Draft, Request, Surroundings, Telling
from domain.values import CaseId, Json, OrderId, RequestId, Run, derive_id

_CAUSE: Final = "order:"
# How a cancellation ends that has taken something away.
_UNDONE: Final = frozenset({"COMPLETED", "PARTIALLY_COMPLETED"})


def name_cause(source_id: OrderId, request_id: RequestId) -> str:
    """The holder of what another order's cancellation holds, as people see it."""
    return f"{_CAUSE}{source_id}/{request_id}"


def holds_order(holder: str) -> bool:
    """Whether an order is ON_HOLD by this holder; its own changes and cases show states of their own."""
    return holder == OPERATOR_HOLD or holder.startswith(_CAUSE)


# -- the order that is being cancelled ---------------------------------------------------------------------------


def tell_dependents(draft: Draft) -> None:
    """Ask each order that depends on what goes to follow: those that have come to light since, and, once the request
    has ended, all of them again. Who they are is found anew each time; what they do is their own transaction's."""
    waits = draft.policy.cancellation.closure.dependent_order == "HOLD" and (draft.dependents or draft.busy_assets)
    for request in list(draft.requests.values()):
        if request.has_ended:
            late = _find_latecomers(draft, request) if waits else ()
            _tell(draft, request, (*request.dependents, *late))
            if request.dependents:
                draft.change_request(request.request_id, dependents=())
        elif waits and not request.has_ended:
            found = closure_of(draft, request).dependents
            new = tuple(order_id for order_id in found if order_id not in request.dependents)
            if new:
                draft.change_request(request.request_id, dependents=(*request.dependents, *new))
                orders = [str(order_id) for order_id in new]
                draft.record(
                    "DEPENDENTS_HELD", "REQUEST", request.request_id, request_id=request.request_id, orders=orders
                )
                _tell(draft, request, new)


def _find_latecomers(draft: Draft, request: Request) -> tuple[OrderId, ...]:
    """Who has come to depend, since the last look, on what this very transaction has taken away."""
    before = draft.before.requests.get(request.request_id)
    if (before is not None and before.has_ended) or request.status not in _UNDONE:
        return ()
    items, _ = closure_items(draft, request.scope, request.item_ids)
    found = find_dependents(draft, request.scope, items)
    return tuple(order_id for order_id in found if order_id not in request.dependents)


def _tell(draft: Draft, request: Request, dependents: tuple[OrderId, ...]) -> None:
    """By message, and by a row that is owed until the order has followed: a message can be lost, with the engine or the
    flow that it began, and then the reconciler says it again."""
    for order_id in dependents:
        run = Run(draft.new_id("run"))
        draft.tellings.append(Telling(order_id, OrderId(draft.head.order_id), request.request_id, run))
        draft.send(
            "dependence-changed",
            f"{order_id}:{request.request_id}",
            ttl=3600,
            order_id=order_id,
            source_id=draft.head.order_id,
            request_id=request.request_id,
            run=run,
        )


# -- the order that depends on it ----------------------------------------------------------------------------------


def follow_cancellation(draft: Draft, command: FollowCancellation, around: Surroundings) -> Mapping[str, Json]:
    """Be held while the other order is being cancelled, go on if that came to nothing; if what this one rests on is
    gone, a person says what becomes of it. By how the cancellation stands now, not by what a message said: asked twice,
    or late, it comes to the same."""
    verdict = weigh_cause(around.cause)
    if around.cause and around.cause.owed:
        own = OrderId(draft.head.order_id)
        draft.heard.append(Telling(own, command.source_id, command.request_id, around.cause.owed))
    if draft.head.has_ended:
        return {"verdict": "stand_down"}
    holder = name_cause(command.source_id, command.request_id)
    if verdict == "hold" and holder not in draft.order_holds:
        draft.hold_all(holder)
    elif verdict == "release":
        draft.unhold_all(holder)
    elif verdict == "lost":
        _lose_ground(draft, command, holder)
    return {"verdict": verdict}


def weigh_cause(cause: Cause | None) -> str:
    """hold, release or lost: what the cancellation of another order means for one that depends on it."""
    if cause is None:
        return "release"
    if not cause.has_ended:
        return "hold"
    if cause.status not in _UNDONE:
        return "release"
    stays = bool(cause.grounds) and all(state == "ACTIVE" for state in cause.grounds)
    return "release" if stays else "lost"


def _lose_ground(draft: Draft, command: FollowCancellation, holder: str) -> None:
    """The hold passes to a case: cancel the order, or let it go on by a repair of the case."""
    case_id = CaseId(derive_id(draft.head.order_id, "dependence", command.request_id))
    if case_id in draft.cases:
        return  # told before; a person may have answered already
    title = f"Order {command.source_id}, on which this one depends, has been cancelled"
    case = open_case(draft, None, "BUSINESS", title, case_id=case_id)
    draft.unhold_all(holder)
    draft.hold_all(str(case.case_id))
