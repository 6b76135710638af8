"""Which part of an order a flow of the engine carries, and how that part is taken up again when its flow is gone or
stuck. It must never derive a state from a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from domain.amendment import restart_amendment
from domain.cancellation import restart_request
from domain.commands import RestartFlow
from domain.fulfillment import restart_order, restart_plan
from domain.order import Amendment, Draft, Request
from domain.values import Json, PlanId, RequestId, Run


@dataclass(frozen=True, slots=True)
class Part:
    """What a flow carries: a plan, a request (cancellation or amendment) on its way to one or, where neither is named,
    an order before its plan. A plan that undoes names its request as well."""

    plan_id: PlanId | None = None
    request_id: RequestId | None = None


def find_part(draft: Draft, run: Run) -> Part | None:
    """The unfinished part that this run carries now; None for a flow that was replaced or has nothing left to do."""
    if run == draft.head.run or (draft.plan is not None and run == draft.plan.run):
        return part_of(draft, None)
    owners: list[Request | Amendment] = [*draft.requests.values(), *draft.amendments.values()]
    for owner in owners:
        if run == owner.run:
            return part_of(draft, owner.request_id)
    for plan in draft.plans.values():
        if run == plan.run:
            return _unfinished(draft, plan.plan_id, plan.owner_id)
    return None


def part_of(draft: Draft, request_id: RequestId | None) -> Part | None:
    """The unfinished part of this request, or of the order itself."""
    if request_id is None:
        if draft.head.has_ended:
            return None
        return _unfinished(draft, draft.plan.plan_id, None) if draft.plan else Part()
    owner = draft.requests.get(request_id) or draft.amendments.get(request_id)
    if owner is None:
        return None
    past = owner.committed_at if isinstance(owner, Request) else owner.applied_at
    if past and owner.plan_id:
        return _unfinished(draft, owner.plan_id, request_id)
    return None if owner.has_ended else Part(request_id=request_id)


def part_of_plan(draft: Draft, plan_id: PlanId) -> Part | None:
    """The unfinished plan with this id, whoever is carried by it; None for one that was replaced, too."""
    plan = draft.plans.get(plan_id)
    if plan is not None:
        return _unfinished(draft, plan_id, plan.owner_id)
    part = part_of(draft, None)
    return part if part is not None and part.plan_id == plan_id else None


def _unfinished(draft: Draft, plan_id: PlanId, request_id: RequestId | None) -> Part | None:
    if all(task.has_ended for task in draft.tasks_of_plan(plan_id)):
        return None
    return Part(plan_id, request_id)


def restart(draft: Draft, command: RestartFlow) -> Mapping[str, Json]:
    """Start a flow anew under a new run, from where the part that it carries stands."""
    if command.request_id is None:
        return restart_plan(draft, command) if command.plan_id else restart_order(draft, command)
    amended = command.request_id in draft.amendments
    return restart_amendment(draft, command) if amended else restart_request(draft, command)


def restart_part(draft: Draft, part: Part, reason: str) -> None:
    """The same for a part: past its request's commit point only the plan is started anew."""
    request_id = None if part.plan_id else part.request_id
    restart(draft, RestartFlow(draft.head.order_id, part.plan_id, reason, request_id))
