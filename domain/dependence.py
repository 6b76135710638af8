"""Orders that depend on one that is being cancelled: told by it, each in a transaction of its own, and then held, let
go or shown to people. It must never write two orders at once, and never cancel one for another's sake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from domain.assessment import closure_of
from domain.commands import FollowCancellation
from domain.fallout import open_case
from domain.order import OPERATOR_HOLD, Cause, Draft, Request, Surroundings
from domain.values import CaseId, Json, OrderId, RequestId, derive_id

_CAUSE: Final = "order:"


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
        if request.has_ended and request.dependents:
            _tell(draft, request, request.dependents)
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


def _tell(draft: Draft, request: Request, dependents: tuple[OrderId, ...]) -> None:
    for order_id in dependents:
        draft.send(
            "dependence-changed",
            f"{order_id}:{request.request_id}",
            ttl=3600,
            order_id=order_id,
            source_id=draft.head.order_id,
            request_id=request.request_id,
            run=draft.new_id("run"),
        )


# -- the order that depends on it ----------------------------------------------------------------------------------


def follow_cancellation(draft: Draft, command: FollowCancellation, around: Surroundings) -> Mapping[str, Json]:
    """Be held while the other order is being cancelled, go on if that came to nothing; if what this one rests on is
    gone, a person says what becomes of it. By how the cancellation stands now, not by what a message said: asked twice,
    or late, it comes to the same."""
    verdict = weigh_cause(around.cause)
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
    if cause.status not in {"COMPLETED", "PARTIALLY_COMPLETED"}:
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
