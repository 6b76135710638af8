"""What another policy would have said of a past cancellation: the order is put back to how it stood, and judged again.
It must never guess: a past that does not give the stored finding under its own policy is not judged under another."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from domain.assessment import Assessment, assess_cancellation
from domain.ledger import Effect
from domain.order import Draft, Item, Order, Request, Task
from domain.policy import Policy
from domain.values import Json, RequestId, system_actor

PAST_UNKNOWN: Final = "PAST_UNKNOWN"
TASK_TYPE_UNKNOWN: Final = "TASK_TYPE_UNKNOWN"

_WORDS: Final[Mapping[str, str]] = {
    PAST_UNKNOWN: "How the order stood when it was judged cannot be told any more with certainty.",
    TASK_TYPE_UNKNOWN: "This policy does not have a task type that the order's plan was made of.",
}


@dataclass(frozen=True, slots=True)
class Past:
    """How an order stood after an entry of its audit: its document, its items, and the state of everything that was
    there, by (entity, id)."""

    content: Mapping[str, Json]
    items: Mapping[str, Item]
    states: Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Rejudged:
    """One stored finding beside what the other policy says of it. after: None where it was not judged, and why_not
    says the reason."""

    request: Request
    before: Mapping[str, Json]
    after: Mapping[str, Json] | None
    why_not: str | None = None

    @property
    def differs(self) -> bool:
        return self.after is not None and self.after != self.before

    @property
    def sentence(self) -> str:
        return _WORDS[self.why_not] if self.why_not else ""


def rejudge(
    order: Order, request_id: RequestId, past: Past, then: tuple[int, Policy], other: tuple[int, Policy]
) -> Rejudged:
    """Judge an assessed request again, as the order stood, as if its plan had been made under the other policy too.

    then, other: (version, policy) of the stored finding, and of the one that is asked about
    """
    request = order.requests[request_id]
    assert request.assessment is not None
    assert request.assessed_at is not None
    before = _tell(request.assessment)
    order = rewind(order, past, request.assessed_at)
    # What was decided after the finding was not known to it; what had been decided before it was.
    for known in (request, replace(request, dispositions={}, refused_withdrawals=())):
        found, told = _judge(order, known, then)
        if found.fingerprint == request.fingerprint and told == before:
            break
    else:
        return Rejudged(request, before, None, PAST_UNKNOWN)
    types = other[1].task_types
    if any(task.task_type not in types for task in order.tasks.values() if task.kind == "FULFILLMENT"):
        return Rejudged(request, before, None, TASK_TYPE_UNKNOWN)
    if order.plan is not None:
        order = replace(order, plan=replace(order.plan, types=types))
    return Rejudged(request, before, _judge(order, known, other)[1])


def rewind(order: Order, past: Past, at: datetime) -> Order:
    """The order as it stood: what came later is gone, what is left has the state of then."""

    def state_of(entity: str, entity_id: object) -> str | None:
        return past.states.get((entity, str(entity_id)))

    effects = {
        key: _effect_then(effect, state, at)
        for key, effect in order.effects.items()
        if (state := state_of("EFFECT", key)) is not None
    }
    tasks = {
        key: replace(task, state=state, effect_id=_effect_id_then(task, effects), ended_at=_until(task.ended_at, at))
        for key, task in order.tasks.items()
        if (state := state_of("TASK", key)) is not None
    }
    requests = {
        key: replace(
            request,
            status=state,
            committed_at=_until(request.committed_at, at),
            ended_at=_until(request.ended_at, at),
        )
        for key, request in order.requests.items()
        if (state := state_of("REQUEST", key)) is not None
    }
    amendments = {
        key: replace(
            amendment,
            status=state,
            applied_at=_until(amendment.applied_at, at),
            ended_at=_until(amendment.ended_at, at),
        )
        for key, amendment in order.amendments.items()
        if (state := state_of("REQUEST", key)) is not None
    }
    plans = {
        key: replace(plan, state=state, committed_at=_until(plan.committed_at, at))
        for key, plan in order.plans.items()
        if (state := state_of("PLAN", key)) is not None
    }
    superseded = {
        key: replace(task, superseded_by=task.superseded_by if task.superseded_by in tasks else None)
        for key, task in tasks.items()
    }
    return replace(
        order,
        head=replace(order.head, content=past.content),
        items=past.items,
        tasks=superseded,
        effects=effects,
        requests=requests,
        amendments=amendments,
        plans=plans,
    )


def _effect_then(effect: Effect, state: str, at: datetime) -> Effect:
    return replace(
        effect,
        state=state,
        called_at=_until(effect.called_at, at),
        accepted_at=_until(effect.accepted_at, at),
        unknown_since=_until(effect.unknown_since, at),
        missed_at=_until(effect.missed_at, at),
        settled_at=_until(effect.settled_at, at),
        reversed_by=effect.reversed_by if state == "REVERSED" else None,
    )


def _effect_id_then(task: Task, effects: Mapping[Any, Effect]) -> Any:
    """The effect that the task went by: its present one if that was there, else the latest of those that were."""
    if task.effect_id is None or task.effect_id in effects:
        return task.effect_id
    own = [effect for effect in effects.values() if effect.task_id == task.task_id and effect.is_original]
    return max(own, key=lambda effect: effect.intended_at).effect_id if own else None


def _until(moment: datetime | None, at: datetime) -> datetime | None:
    return moment if moment is not None and moment <= at else None


def _judge(order: Order, request: Request, under: tuple[int, Policy]) -> tuple[Assessment, dict[str, Json]]:
    assert request.assessed_at is not None
    version, policy = under
    draft = Draft(
        order,
        actor=system_actor("replay"),
        on_behalf_of=None,
        now=request.assessed_at,
        command_id=uuid.UUID(int=0),
        policy=policy,
        policy_version=version,
    )
    found = assess_cancellation(draft, request)
    return found, {
        "feasibility": found.feasibility,
        "automatic": found.automatic,
        "manualReviewRequired": found.manual_review_required,
        "decision": next(rule.result for rule in found.trace if rule.rule_id == "approval"),
        "estimatedCost": found.cost.to_json(),
        "retained": len(found.retained),
    }


def _tell(stored: Mapping[str, Any]) -> dict[str, Json]:
    """The same of a stored assessment."""
    return {
        "feasibility": stored["feasibility"],
        "automatic": stored["automatic"],
        "manualReviewRequired": stored["manualReviewRequired"],
        "decision": next(rule["result"] for rule in stored["trace"] if rule["ruleId"] == "approval"),
        "estimatedCost": stored["estimatedCost"],
        "retained": len(stored["retainedEffects"]),
    }
