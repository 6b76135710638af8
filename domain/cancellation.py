"""A cancellation from request to end: judge, decide, plan, withdraw. It must never look at an engine, and never end
anything by itself: what follows from the ledger is for `settle`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from domain.arbitration import arbitrate_cancellation
from domain.assessment import (
    QUANTITY,
    Assessment,
    Closure,
    assess_cancellation,
    closure_of,
    find_closure,
    fingerprint,
    is_quiet,
    judge_grace,
    reversing_elsewhere,
)
from domain.commands import (
    AnswerCharge,
    ApproveCancellation,
    AssessCancellation,
    BeginAssessment,
    PlanCompensation,
    RecordReview,
    RejectCancellation,
    RequestCancellation,
    RestartFlow,
    WithdrawCancellation,
)
from domain.compensation import Node, draw_graph, store_plan, supersede_plan
from domain.consent import (
    accept_charge,
    add_decision,
    check_charge,
    check_four_eyes,
    end_charge,
    is_charge_due,
    offer_charge,
    refuse_decision,
    waive_charge,
    wake_waiting,
)
from domain.errors import (
    ChangeActive,
    CompensationStarted,
    DispositionRequired,
    FieldError,
    FourEyes,
    ItemUnknown,
    OrderTerminal,
    PreviewNotFound,
    PreviewStale,
    ReasonNotRefusable,
    ReasonUnknown,
    RequestClosed,
    RequestNotFound,
    ScopeInvalid,
    Unprocessable,
)
from domain.exhibit import CONSEQUENCE, FEASIBILITY, draw_up, say, tell_costs, tell_reasons, tell_works
from domain.order import Case, CompensationPlan, Draft, Item, Request, Task, tasks_by_item
from domain.policy import format_duration
from domain.values import EffectId, Json, OrderId, PlanId, RequestId, Run, TaskId, derive_id, format_time

DISPOSITIONS: Final = frozenset({"RETAIN", "COMPENSATE", "MANUAL"})
# What the assessment says of an order that depends on what goes, by the policy's `dependent_order`.
PROPOSALS: Final = {"PROPOSE": "CANCEL", "HOLD": "HOLD", "BLOCK": "BLOCKED"}
UNDECIDED: Final = frozenset({"ACCEPTED_FOR_ASSESSMENT", "ASSESSING", "REQUIRES_APPROVAL", "AWAITING_CHARGE_DECISION"})


# -- request ----------------------------------------------------------------------------------------------------


def request_cancellation(draft: Draft, command: RequestCancellation) -> Request:
    """T07 and T10: take the request in. Whether it is feasible, and whether it comes too late, the assessment finds."""
    if draft.head.state in {"CANCELLED", "FAILED", "REJECTED"}:
        raise OrderTerminal
    if not draft.head.has_ended:
        # Which items a faulty body means cannot be said; a change of the whole order stands in the way of any.
        arbitrate_cancellation(draft, command.scope, frozenset(command.item_ids), parts_of(draft, command))
        for item_id in command.item_ids:
            item = draft.items.get(item_id)
            if item and item.has_ended and item.state not in {"COMPLETED", "PARTIALLY_COMPLETED"}:
                raise OrderTerminal(f"Item {item_id} has ended ({item.state}).")
    _check_body(draft, command)
    request = Request(
        request_id=command.request_id,
        status="ACCEPTED_FOR_ASSESSMENT",
        scope=command.scope,
        item_ids=command.item_ids,
        reason_code=command.reason_code,
        reason_text=command.reason_text,
        requested_by=draft.actor.subject,
        on_behalf_of=draft.on_behalf_of,
        claimed_at=command.claimed_at,
        requested_at=draft.now,
        run=Run(draft.new_id("run")),
        force_manual_review=command.force_manual_review,
        policy_version=draft.policy_version,
        quantities=parts_of(draft, command),
    )
    facts: dict[str, Json] = {"scope": command.scope, "reasonCode": command.reason_code}
    done = [draft.items[i] for i in command.item_ids if draft.items[i].has_ended]
    if draft.head.has_ended or done:
        _store_rejected(draft, request, facts, done)
        return draft.requests[request.request_id]
    draft.add_request(request, "CANCELLATION_REQUESTED", **facts)
    _start(draft, request)
    return request


def _start(draft: Draft, request: Request) -> None:
    """Hold what the request touches, and start its flow."""
    closure = closure_of(draft, request)
    draft.hold((task_id for task_id in closure.tasks if not draft.tasks[task_id].has_ended), str(request.request_id))
    if request.scope == "ORDER":
        draft.order_holds = draft.order_holds | {str(request.request_id)}
    draft.send(
        "cancellation-requested",
        request.request_id,
        ttl=3600,
        order_id=draft.head.order_id,
        request_id=request.request_id,
        run=request.run,
    )


def give_up_items(draft: Draft, case: Case) -> None:
    """FAIL_ITEM: the cancellation of a case's items, asked for by who repairs it; its items end FAILED."""
    repair = case.repairs[-1]
    assert case.task_id is not None
    request = Request(
        request_id=RequestId(draft.new_id("request")),
        status="ACCEPTED_FOR_ASSESSMENT",
        scope="ITEMS",
        item_ids=draft.tasks[case.task_id].item_ids,
        reason_code=str(repair["reasonCode"]),
        reason_text=repair["reasonText"],
        requested_by=str(repair["by"]),
        on_behalf_of=repair.get("onBehalfOf"),
        claimed_at=None,
        requested_at=draft.now,
        run=Run(draft.new_id("run")),
        policy_version=draft.policy_version,
        repairs_case=case.case_id,
    )
    draft.add_request(request, "CANCELLATION_REQUESTED", scope="ITEMS", reasonCode=request.reason_code)
    _start(draft, request)


def check_preview(draft: Draft, command: RequestCancellation, shown: str | None) -> None:
    """Whoever cites a preview gets what it showed, or hears that it no longer stands.

    shown: the fingerprint that the preview was made of; None where there is no such preview of this order
    """
    if command.preview_id is None:
        return
    if shown is None:
        raise PreviewNotFound
    if fingerprint_of(draft, command) != shown:
        raise PreviewStale


def fingerprint_of(draft: Draft, command: RequestCancellation) -> str:
    """What this cancellation would rest on, before it is one of the open changes itself, and what of the wish decides
    about it: another wish is not what was shown."""
    parts = {item_id: count for item_id, count in parts_of(draft, command).items() if item_id in draft.items}
    rests_on = fingerprint(draft, None, find_closure(draft, command.scope, command.item_ids, quantities=parts))
    asked = (command.scope, sorted(command.item_ids), sorted(parts.items()), command.reason_code)
    wish = json.dumps([rests_on, asked, command.force_manual_review])
    return hashlib.sha256(wish.encode()).hexdigest()


def parts_of(draft: Draft, command: RequestCancellation) -> dict[str, int]:
    """Of which items only a part is to go; all that remains of an item is the item."""
    return {
        item_id: quantity
        for item_id, quantity in command.quantities.items()
        if item_id not in draft.items or quantity < draft.items[item_id].quantity
    }


def preview_cancellation(draft: Draft, command: RequestCancellation) -> tuple[dict[str, Json], str]:
    """What the request would find and do, on a draft that is thrown away: (body as 2-api gives it, fingerprint).

    The same stair as the request itself, so what is refused there is refused here.
    """
    shown = fingerprint_of(draft, command)
    request = request_cancellation(draft, command)
    if request.has_ended:
        return {
            "assessment": None,
            "compensationPlan": None,
            "newOrders": list(request.proposals),
            "estimatedCost": None,
            "outcome": request.outcome,
        }, shown
    found = assess_cancellation(draft, request)
    document = assessment_document(draft, request, found)
    for impact in found.impacts:
        if impact.effect is not None and impact.consequence in {"COMPENSATE", "WITHDRAW"}:
            draft.change_effect(impact.effect.effect_id, state="REVERSED")  # as it would stand when all is undone
    kept = [draft.items[item_id] for item_id in keeping_items(draft, found.closure, found.replaced)]
    return {
        "assessment": document,
        "compensationPlan": {
            "tasks": document["compensations"],
            "edges": [
                {"source": earlier, "target": node["reverses"]}
                for node in document["compensations"]
                for earlier in node["dependsOn"]
            ],
        },
        "newOrders": propose_orders(draft, kept, found.closure.reduced, command.reason_code),
        "estimatedCost": document["estimatedCost"],
    }, shown


def _check_body(draft: Draft, command: RequestCancellation) -> None:
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    if command.reason_code not in draft.policy.reason_codes["cancellation"]:
        known = ", ".join(sorted(draft.policy.reason_codes["cancellation"]))
        raise ReasonUnknown(
            f"The policy has no cancellation reason {command.reason_code!r}; it knows {known}.",
            errors=(FieldError("/reasonCode", "unknown reason"),),
        )
    if command.scope == "ORDER" and command.item_ids:
        where = "/items" if command.quantities else "/scope/orderItemIds"
        raise ScopeInvalid(errors=(FieldError(where, "leave it empty for scope ORDER"),))
    if command.scope == "ITEMS":
        if not command.item_ids:
            raise ScopeInvalid(errors=(FieldError("/scope/orderItemIds", "name at least one item"),))
        if len(set(command.item_ids)) != len(command.item_ids):
            raise ScopeInvalid(errors=(FieldError("/scope/orderItemIds", "name each item once"),))
        for item_id in command.item_ids:
            if item_id not in draft.items:
                raise ItemUnknown(errors=(FieldError("/scope/orderItemIds", f"unknown item {item_id}"),))
        for item_id, quantity in command.quantities.items():
            remaining = draft.items[item_id].quantity
            if quantity > remaining:
                raise ScopeInvalid(
                    f"Item {item_id}: {quantity} cannot be cancelled, {remaining} remain.",
                    errors=(FieldError("/items", f"item {item_id}: at most {remaining}"),),
                )


def _store_rejected(draft: Draft, request: Request, facts: Mapping[str, Json], done: list[Item]) -> None:
    """History is not undone: the wish is kept, and answered with the orders that can still fulfil it."""
    items = done or [item for item in draft.items.values() if item.state in {"COMPLETED", "PARTIALLY_COMPLETED"}]
    draft.add_request(
        replace(
            request,
            status="REJECTED",
            outcome="NEW_ORDER_REQUIRED",
            ended_at=draft.now,
            proposals=tuple(propose_orders(draft, items, request.quantities, request.reason_code)),
        ),
        "CANCELLATION_REQUESTED",
        **facts,
    )
    draft.record(
        "CANCELLATION_REJECTED",
        "REQUEST",
        request.request_id,
        request_id=request.request_id,
        outcome="NEW_ORDER_REQUIRED",
    )


def propose_orders(
    draft: Draft, items: list[Item], quantities: Mapping[str, int], reason_code: str
) -> list[dict[str, Json]]:
    """Follow-up orders for what stays, one per asset and action (1-domain §7). quantities: of which items only so many
    are not wanted any more; nothing is proposed that would end the rest of them."""
    proposals: list[dict[str, Json]] = []
    seen: set[tuple[str, str]] = set()

    def propose(
        order_type: str,
        action: str,
        item: Item,
        because: str,
        offering: str | None = None,
        configuration: Json = None,
    ) -> None:
        asset = str(item.asset or item.target_asset or "")
        if (asset or f"item {item.item_id}", action) in seen:
            return
        seen.add((asset or f"item {item.item_id}", action))
        proposals.append(
            {
                "n": len(proposals) + 1,
                "orderType": order_type,
                "reasonCode": reason_code,
                "because": because,
                "items": [
                    {
                        "itemId": item.item_id,
                        "action": action,
                        "productOfferingId": offering or item.offering,
                        "quantity": _proposed_quantity(item, action, quantities),
                        "configuration": configuration
                        if configuration is not None
                        else item.content.get("configuration") or {},
                        # what ADD names is relied on; it installs anew what was disconnected
                        "targetAssetId": None if action == "ADD" else asset or None,
                    }
                ],
            }
        )

    tasks = tasks_by_item(draft)
    for item in items:
        asset = str(item.asset or item.target_asset or "")
        if item.item_id in quantities:
            _propose_part(draft, item, tasks.get(item.item_id, ()), propose)
        elif item.action == "ADD":
            for task in tasks.get(item.item_id, ()):
                effect = draft.effect_of(task)
                if effect and effect.stands:
                    follow_up = draft.task_type(task).follow_up
                    if follow_up:
                        propose(follow_up.order_type, follow_up.action, item, str(effect.effect_id))
            offering = draft.policy.offerings.get(item.offering)
            live = item.asset is not None and draft.assets[item.asset].state != "TERMINATED"
            if offering and offering.plan_for("DISCONNECT", "DISCONNECT") is not None and live:
                propose("DISCONNECT", "DISCONNECT", item, asset)
        elif item.action == "MODIFY" and item.snapshot:
            propose(
                "SUPPLEMENTAL",
                "MODIFY",
                item,
                asset,
                item.snapshot["productOfferingId"],
                item.snapshot["configuration"],
            )
        elif item.action == "DISCONNECT" and item.snapshot:
            propose(
                "SUPPLEMENTAL",
                "ADD",
                item,
                asset,
                item.snapshot["productOfferingId"],
                item.snapshot["configuration"],
            )
    return proposals


def _proposed_quantity(item: Item, action: str, quantities: Mapping[str, int]) -> int:
    """Of an item that only becomes fewer, so many come back, and the rest is what a changed order is about."""
    given_up = quantities.get(item.item_id)
    if given_up is None:
        return item.quantity
    return item.quantity - given_up if action == "MODIFY" else given_up


def _propose_part(draft: Draft, item: Item, tasks: Iterable[Task], propose: Callable[..., None]) -> None:
    """What was delivered and is not wanted any more comes back; the rest of the item stays as it is."""
    offering = draft.policy.offerings.get(item.offering)
    returnable = offering is not None and offering.plan_for("RETURN", "RETURN") is not None
    for task in tasks:
        effect, task_type = draft.effect_of(task), draft.task_type(task)
        if not effect or not effect.stands or not task_type.reads(QUANTITY):
            continue
        if task_type.on_input_change == "KEEP":
            continue
        if task_type.follow_up and task_type.follow_up.action != "DISCONNECT":
            propose(task_type.follow_up.order_type, task_type.follow_up.action, item, str(effect.effect_id))
        elif returnable:
            propose("RETURN", "RETURN", item, str(effect.effect_id))


# -- assessment, asked by the flow ----------------------------------------------------------------------------------


def _current(draft: Draft, request_id: RequestId, run: Run) -> Request | None:
    request = draft.requests.get(request_id)
    return request if request and request.run == run and not request.has_ended else None


def begin_assessment(draft: Draft, command: BeginAssessment) -> Mapping[str, Json]:
    """Start the quiet time: say whether anything is still under way, and how long that may be waited for."""
    request = _current(draft, command.request_id, command.run)
    if request is None or request.committed_at:
        return {"verdict": "stand_down"}
    if is_parked(draft, request):
        return _park(draft, request)
    if request.status == "ACCEPTED_FOR_ASSESSMENT":
        request = draft.move_request(
            request.request_id,
            "ASSESSING",
            "CANCELLATION_ASSESSMENT_STARTED",
            grace_until=draft.now + draft.policy.cancellation.grace,
        )
    if request.status != "ASSESSING":
        return {"verdict": "quiet"}
    return _quiet_or_wait(draft, request)


def restart_request(draft: Draft, command: RestartFlow) -> Mapping[str, Json]:
    """A request whose flow is gone is taken up where it stands; past its commit point only its plan can be."""
    assert command.request_id is not None
    request = find_request(draft, command.request_id)
    if request.has_ended or request.committed_at:
        return {"verdict": "stand_down"}
    run = Run(draft.new_id("run"))
    draft.change_request(request.request_id, run=run, waiting=False)
    draft.record("FLOW_RESTARTED", "REQUEST", request.request_id, request_id=request.request_id, reason=command.reason)
    draft.send(
        "cancellation-requested",
        f"{request.request_id}:{run}",
        ttl=3600,
        order_id=draft.head.order_id,
        request_id=request.request_id,
        run=run,
    )
    return {"run": str(run)}


def is_parked(draft: Draft, request: Request) -> bool:
    return draft.is_parked(request)


def _park(draft: Draft, request: Request) -> Mapping[str, Json]:
    """Wait for the larger cancellation to end; `wait` is how long the flow sleeps before it asks by itself."""
    request = draft.change_request(request.request_id, round=request.round + 1, waiting=True)
    return {"verdict": "parked", "wait_key": request.wait_key, "wait": "PT10M"}


def _quiet_or_wait(draft: Draft, request: Request) -> Mapping[str, Json]:
    closure = closure_of(draft, request)
    grace_until = request.grace_until or draft.now
    if is_quiet(draft, request, closure) or draft.now >= grace_until:
        if request.waiting:
            draft.change_request(request.request_id, waiting=False)
        return {"verdict": "quiet"}
    request = draft.change_request(request.request_id, round=request.round + 1, waiting=True)
    return {"verdict": "wait", "wait_key": request.wait_key, "wait": format_duration(grace_until - draft.now)}


def assess(draft: Draft, command: AssessCancellation) -> Mapping[str, Json]:
    """Assess what is to be assessed, and say which way the flow goes on; asked again, it says the same again."""
    request = _current(draft, command.request_id, command.run)
    if request is None:
        ended = draft.requests.get(command.request_id)
        return {"verdict": "rejected" if ended and ended.status == "REJECTED" else "stand_down"}
    if is_parked(draft, request):
        return {**_park(draft, request), "verdict": "wait"}
    if request.status == "ACCEPTED_FOR_ASSESSMENT":
        return {"verdict": "wait", "wait_key": request.wait_key, "wait": "PT1S"}
    if request.status == "ASSESSING":
        told = _quiet_or_wait(draft, request)
        if told["verdict"] == "wait":
            return told
        request = conclude_assessment(draft, draft.requests[request.request_id])
    elif request.status == "AWAITING_CHARGE_DECISION" and is_charge_due(request, draft.now):
        request = _end_charge(draft, request, "EXPIRED")
    return _direction(draft, request)


def _direction(draft: Draft, request: Request) -> Mapping[str, Json]:
    match request.status:
        case "APPROVED" | "COMPENSATING":
            return {"verdict": "automatic"}
        case "REQUIRES_APPROVAL":
            return {
                "verdict": "review",
                "wait_key": request.wait_key,
                "exhibit": exhibit(request, draft.head.order_id),
                "sla": format_duration(draft.policy.cancellation.approval_sla),
            }
        case "AWAITING_CHARGE_DECISION":
            respond_by = datetime.fromisoformat(str((request.charge or {})["respondBy"]))
            return {
                "verdict": "charge",
                "wait_key": request.wait_key,
                "wait": format_duration(max(respond_by - draft.now, respond_by - respond_by)),
            }
        case "REJECTED":
            return {"verdict": "rejected"}
        case _:
            return {"verdict": "stand_down"}


def conclude_assessment(draft: Draft, request: Request) -> Request:
    """Judge now, store the finding with its reasons, and move the request to where the policy sends it."""
    assessment = assess_cancellation(draft, request)
    closure = assessment.closure
    # The closure may have grown since the request came (a shared task whose other item goes too).
    draft.hold((t for t in closure.tasks if not draft.tasks[t].has_ended), str(request.request_id))
    forced = judge_grace(draft, request, closure)
    if forced:
        draft.record(
            "GRACE_EXPIRED",
            "REQUEST",
            request.request_id,
            request_id=request.request_id,
            running=forced.inputs["running"],
        )
    if forced and not request.jeopardy:
        draft.record("JEOPARDY_RAISED", "REQUEST", request.request_id, request_id=request.request_id, reason="GRACE")
        request = draft.change_request(request.request_id, jeopardy=True)
    document = assessment_document(draft, request, assessment)
    draft.record(
        "CANCELLATION_ASSESSED",
        "REQUEST",
        request.request_id,
        request_id=request.request_id,
        feasibility=assessment.feasibility,
        automatic=assessment.automatic,
        policyVersion=draft.policy_version,
        estimatedCost=assessment.cost.to_json(),
    )
    request = draft.change_request(
        request.request_id,
        assessment=document,
        fingerprint=assessment.fingerprint,
        assessed_at=draft.now,
        policy_version=draft.policy_version,
        waiting=False,
    )
    if assessment.automatic or _is_agreed(assessment, request):
        return _past_review(draft, request, assessment)
    reason = draft.policy.reason_codes["cancellation"].get(request.reason_code)
    if draft.policy.cancellation.approval[assessment.feasibility] == "REJECT" and (reason is None or reason.refusable):
        return reject_request(draft, request, "NOT_CANCELLABLE", [b.to_json() for b in assessment.blockers])
    return draft.move_request(
        request.request_id,
        "REQUIRES_APPROVAL",
        "CANCELLATION_REVIEW_REQUIRED",
        round=request.round + 1,
        sla_at=draft.now + draft.policy.cancellation.approval_sla,
    )


def _is_agreed(assessment: Assessment, request: Request) -> bool:
    """Whether a given approval covers this: it is no worse, and of every task that a person must judge one has."""
    manual = (str(impact.task.task_id) for impact in assessment.impacts if impact.consequence == "MANUAL")
    return (
        request.approval is not None
        and not _is_worse(assessment, request.approval)
        and all(task_id in request.dispositions for task_id in manual)
    )


def _is_worse(assessment: Assessment, approved: Mapping[str, Json]) -> bool:
    """Whether a given approval no longer covers this: worse feasibility, more that stays, or a higher cost."""
    order = ["FULLY_CANCELLABLE", "PARTIALLY_CANCELLABLE", "REQUIRES_MANUAL_REVIEW", "NOT_CANCELLABLE"]
    return (
        order.index(assessment.feasibility) > order.index(str(approved["feasibility"]))
        or not set(assessment.retained_ids) <= set(approved["retained"])
        or assessment.cost.amount_minor > int(approved["cost"])
    )


def _past_review(draft: Draft, request: Request, assessment: Assessment) -> Request:
    """Review is over or was not needed: a blocking charge is offered before anything is undone."""
    request = offer_charge(draft, request, assessment.offer)
    if request.charge and request.charge["status"] == "OFFERED":
        return draft.move_request(
            request.request_id,
            "AWAITING_CHARGE_DECISION",
            "CANCELLATION_AWAITS_CHARGE",
            round=request.round + 1,
        )
    return draft.move_request(
        request.request_id, "APPROVED", "CANCELLATION_APPROVED", note={"automatic": request.approval is None}
    )


def assessment_document(draft: Draft, request: Request, assessment: Assessment) -> dict[str, Json]:
    """The assessment as 2-api shows it; stored with the request, and given by a preview."""
    rules = draft.policy.cancellation.closure
    nodes = draw_graph(draft, assessment.impacts, request.dispositions, reversing_elsewhere(draft, request.request_id))
    return {
        "feasibility": assessment.feasibility,
        "manualReviewRequired": assessment.manual_review_required,
        "automatic": assessment.automatic,
        "taskImpacts": [impact.to_json() for impact in assessment.impacts],
        "compensations": [
            {
                "taskType": node.task_type,
                "purpose": node.purpose,
                "reverses": str(node.effect_id),
                "dependsOn": [str(effect_id) for effect_id in node.after],
            }
            for node in nodes
        ],
        "retainedEffects": [
            {
                "taskId": str(impact.task.task_id),
                "taskType": impact.task.task_type,
                "effectId": str(impact.effect.effect_id) if impact.effect else None,
                "externalEffectLevel": impact.type.external_effect_level,
            }
            for impact in assessment.retained
        ],
        "blockers": [blocker.to_json() for blocker in assessment.blockers],
        "estimatedCost": assessment.cost.to_json(),
        "orderVersion": draft.head.version,
        "planVersion": draft.head.plan_version,
        "ledgerVersion": draft.head.sequence,
        "policyVersion": draft.policy_version,
        "dependentOrders": [
            {
                "orderId": str(order_id),
                "because": because,
                "proposal": PROPOSALS[rules.dependent_order],
                "links": {"order": f"/api/v1/orders/{order_id}"},
            }
            for order_id, because in assessment.closure.dependents.items()
        ],
        "trace": [rule.to_json() for rule in assessment.trace],
        "assessedAt": format_time(draft.now),
    }


def exhibit(request: Request, order_id: OrderId) -> str:
    """What the review form shows: consequences, cost and why."""
    found = request.assessment
    assert found is not None
    return draw_up(
        (
            f"Every rule, task and cost: /ui/orders/{order_id} at the address of Recourse",
            FEASIBILITY[found["feasibility"]],
            f"Reason: {say(request.reason_code)}",
            tell_costs(found),
            *tell_works(((row["type"], row["consequence"]) for row in found.get("taskImpacts", ())), CONSEQUENCE),
            *tell_reasons(found),
        )
    )


# -- decisions ---------------------------------------------------------------------------------------------------


def find_request(draft: Draft, request_id: RequestId) -> Request:
    request = draft.requests.get(request_id)
    if request is None:
        raise RequestNotFound
    return request


def approve(draft: Draft, command: ApproveCancellation) -> Request:
    request = find_request(draft, command.request_id)
    check_four_eyes(request, draft.actor.subject)
    if request.status != "REQUIRES_APPROVAL":
        raise RequestClosed(f"The request is {request.status}; only REQUIRES_APPROVAL can be approved.")
    if is_parked(draft, request):
        raise ChangeActive("A cancellation of the whole order is under way; it decides what becomes of this one.")
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    _check_dispositions(draft, request, command.dispositions)
    seen = request.assessment or {}
    request = draft.change_request(
        request.request_id,
        dispositions=dict(command.dispositions),
        decisions=add_decision(draft, request, "APPROVED", command.comment),
        approval={
            "feasibility": seen["feasibility"],
            "by": draft.actor.subject,
            "retained": [effect["taskId"] for effect in seen["retainedEffects"]],
            "cost": seen["estimatedCost"]["amountMinor"],
        },
    )
    undisposed = assess_cancellation(draft, replace(request, dispositions={}))
    fresh = assess_cancellation(draft, request)
    if fresh.fingerprint == request.fingerprint and not _is_worse(undisposed, request.approval or {}):
        # What the dispositions keep, what that keeps in turn, and what they cost has been agreed to with them.
        agreed = {"retained": list(fresh.retained_ids), "cost": fresh.cost.amount_minor}
        request = draft.change_request(request.request_id, approval={**(request.approval or {}), **agreed})
        request = _past_review(draft, request, fresh)
    else:
        draft.move_request(request.request_id, "ASSESSING", "CANCELLATION_STALE")
        request = conclude_assessment(draft, draft.requests[request.request_id])
    draft.send("review-decided", _review_key(draft, request.request_id))
    return request


def _review_key(draft: Draft, request_id: RequestId) -> str:
    """The wait of the review that has just been decided: the round it was shown in."""
    return draft.before.requests[request_id].wait_key


def _check_dispositions(draft: Draft, request: Request, dispositions: Mapping[str, str]) -> None:
    manual = {
        impact["taskId"]: impact
        for impact in (request.assessment or {})["taskImpacts"]
        if impact["consequence"] == "MANUAL"
    }
    problems = [
        FieldError("/dispositions", f"task {task_id} needs RETAIN, COMPENSATE or MANUAL")
        for task_id in manual
        if task_id not in dispositions
    ]
    for task_id, disposition in dispositions.items():
        if task_id not in manual:
            problems.append(FieldError("/dispositions", f"task {task_id} is not one that a person must judge"))
        elif disposition == "COMPENSATE" and not draft.fulfillment_types[manual[task_id]["type"]].compensation:
            problems.append(FieldError("/dispositions", f"{manual[task_id]['type']} has no compensation"))
    if problems:
        raise DispositionRequired(errors=tuple(problems))


def reject(draft: Draft, command: RejectCancellation) -> Request:
    request = find_request(draft, command.request_id)
    check_four_eyes(request, draft.actor.subject)
    if request.status != "REQUIRES_APPROVAL":
        raise RequestClosed(f"The request is {request.status}; only REQUIRES_APPROVAL can be rejected.")
    reason = draft.policy.reason_codes["cancellation"].get(request.reason_code)
    if reason and not reason.refusable:
        raise ReasonNotRefusable
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    decisions = add_decision(draft, request, "REJECTED", command.reason)
    request = draft.change_request(request.request_id, decisions=decisions)
    draft.send("review-decided", _review_key(draft, request.request_id))
    return reject_request(draft, request, "REJECTED_BY_REVIEW", [])


def reject_request(draft: Draft, request: Request, outcome: str, blockers: list[dict[str, str]]) -> Request:
    """The order goes on: what the request held is free again, exactly once."""
    request = draft.move_request(
        request.request_id,
        "REJECTED",
        "CANCELLATION_REJECTED",
        outcome=outcome,
        note={"outcome": outcome, "blockers": [b["code"] for b in blockers]},
    )
    let_go(draft, request)
    return draft.requests[request.request_id]


def let_go(draft: Draft, request: Request) -> None:
    draft.unhold(str(request.request_id))
    if draft.requests[request.request_id].status in {"REJECTED", "WITHDRAWN", "SUPERSEDED"}:
        waive_charge(draft, draft.requests[request.request_id])
    for case in draft.open_cases():
        if case.request_id == request.request_id and case.context == "FULFILLMENT" and not case.blocking:
            # A fact for the assessment no more: the order goes on, and this stands in its way.
            draft.change_case(case.case_id, "CASE_CHANGED", blocking=True, request_id=None, note={"blocking": True})


def withdraw(draft: Draft, command: WithdrawCancellation) -> Request:
    """Until the commit point the asker may change their mind; then it is too late to un-undo."""
    request = find_request(draft, command.request_id)
    if request.has_ended:
        raise RequestClosed(f"The request has ended ({request.status}).")
    if request.committed_at:
        raise CompensationStarted
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    before = request
    if request.plan_id:
        supersede_plan(draft, request.plan_id)
    request = draft.move_request(
        request.request_id, "WITHDRAWN", "CANCELLATION_WITHDRAWN", outcome="WITHDRAWN", waiting=False
    )
    let_go(draft, request)
    request = draft.requests[request.request_id]
    wake_waiting(draft, before)
    return request


def answer_charge(draft: Draft, command: AnswerCharge) -> Request:
    request = find_request(draft, command.request_id)
    check_charge(draft, request, command.invalid)
    draft.send("charge-decided", request.wait_key)
    if not command.accepted:
        return _end_charge(draft, request, "DECLINED")
    request = accept_charge(draft, request)
    fresh = assess_cancellation(draft, request)
    if fresh.fingerprint != request.fingerprint:
        draft.move_request(request.request_id, "ASSESSING", "CANCELLATION_STALE")
        return conclude_assessment(draft, draft.requests[request.request_id])
    return draft.move_request(request.request_id, "APPROVED", "CANCELLATION_APPROVED", note={"automatic": False})


def _end_charge(draft: Draft, request: Request, status: str) -> Request:
    return reject_request(draft, end_charge(draft, request, status), f"CHARGE_{status}", [])


def record_review(draft: Draft, command: RecordReview) -> Mapping[str, Json]:
    """What became of a review round. A decision entered in Tasklist counts like one through the API: same checks, same
    words; one that may not count is recorded as refused and the task is offered again."""
    request = _current(draft, command.request_id, command.run)
    if request is None or request.status != "REQUIRES_APPROVAL" or request.wait_key != command.wait_key:
        return {"verdict": "decided"}
    if command.decision not in {"approve", "reject"} or not command.reviewer:
        return refuse_decision(draft, request, "NO_DECISION")
    if "approver" not in draft.actor.roles:
        return refuse_decision(draft, request, "ROLE_REQUIRED")
    comment = (command.comment or "")[:500] or None
    try:
        if command.decision == "approve":
            dispositions = _dispose_of_all(request, command.disposition)
            approve(draft, ApproveCancellation(command.order_id, command.request_id, comment, dispositions))
        else:
            reject(draft, RejectCancellation(command.order_id, command.request_id, comment))
    except (FourEyes, DispositionRequired, ReasonNotRefusable, ChangeActive) as breach:
        return refuse_decision(draft, request, breach.code)
    return {"verdict": "decided"}


def _dispose_of_all(request: Request, disposition: str | None) -> dict[str, str]:
    """A form asks once: the answer holds for every task that only a person can undo."""
    if disposition not in DISPOSITIONS:
        return {}
    impacts = (request.assessment or {}).get("taskImpacts", ())
    return {impact["taskId"]: disposition for impact in impacts if impact["consequence"] == "MANUAL"}


# -- plan ----------------------------------------------------------------------------------------------------------


def plan_compensation(draft: Draft, command: PlanCompensation) -> Mapping[str, Json]:
    """The look just before acting, then the plan from the ledger, stored as a whole."""
    request = _current(draft, command.request_id, command.run)
    if request is None:
        return {"verdict": "stand_down"}
    if is_parked(draft, request):
        return {"verdict": "assess"}
    if request.status == "COMPENSATING" and request.plan_id:
        return _planned(draft, draft.plans[request.plan_id])
    if request.status != "APPROVED":
        return {"verdict": "assess" if request.status in UNDECIDED else "stand_down"}
    fresh = assess_cancellation(draft, request)
    agreed = request.assessment or {}
    if fresh.fingerprint != request.fingerprint or fresh.feasibility != agreed.get("feasibility"):
        draft.move_request(
            request.request_id,
            "ASSESSING",
            "CANCELLATION_STALE",
            grace_until=draft.now + draft.policy.cancellation.grace,
        )
        return {"verdict": "assess"}
    nodes = draw_graph(draft, fresh.impacts, request.dispositions, reversing_elsewhere(draft, request.request_id))
    done_first = _find_done_first(draft, request, fresh, nodes)
    plan_id = PlanId(derive_id(request.request_id, "plan", request.version))
    types = dict(draft.fulfillment_types)
    for node in nodes:
        types.setdefault(node.task_type, draft.policy.task_types[node.task_type])
    plan = CompensationPlan(
        plan_id,
        request.request_id,
        "PLANNED",
        Run(draft.new_id("run")),
        {node.task_type: types[node.task_type] for node in nodes},
        draft.now,
    )
    store_plan(draft, plan, nodes, done_first)
    draft.move_request(request.request_id, "COMPENSATING", "CANCELLATION_COMPENSATING", plan_id=plan_id)
    draft.move_plan(plan_id, "IN_PROGRESS", "COMPENSATION_STARTED")
    return _planned(draft, draft.plans[plan_id])


def _find_done_first(
    draft: Draft, request: Request, assessment: Assessment, nodes: Iterable[Node]
) -> dict[EffectId, TaskId]:
    """DO_THEN_UNDO: per effect the task that must have done it again before it is undone. Where that would have to be
    done on something that is itself given back first, there is nothing yet to do it on: it is undone, then done."""
    own = {
        node.original.task_id: node.effect_id
        for node in nodes
        if node.original.task_id in assessment.closure.resized and node.effect_id == node.original.effect_id
    }
    wished = {
        task_id
        for task_id in own
        if (task := draft.tasks[task_id]).state == "COMPLETED"
        and draft.task_type(task).on_input_change == "DO_THEN_UNDO"
    }
    again = own.keys() | assessment.replaced
    late = own.keys() - wished
    ahead = list(late)
    while ahead:
        behind = again.intersection(draft.successors(ahead.pop())) - late
        late |= behind
        ahead += behind
    return {own[task_id]: again_of(request, draft.tasks[task_id]) for task_id in wished - late}


def _planned(draft: Draft, plan: CompensationPlan) -> Mapping[str, Json]:
    if not draft.tasks_of_plan(plan.plan_id):
        return {"verdict": "done"}
    return {
        "verdict": "planned",
        "plan_id": str(plan.plan_id),
        "plan_run": str(plan.run),
        "sla": format_duration(draft.policy.cancellation.compensation_sla),
    }


# -- what settle asks -------------------------------------------------------------------------------------------


def covered_items(draft: Draft, request: Request) -> frozenset[str]:
    """The items that this request takes with it, or makes fewer."""
    return closure_of(draft, request).touched


def keeping_items(draft: Draft, closure: Closure, again: Container[TaskId] = ()) -> list[str]:
    """The items of a closure that keep something outside which the cancellation would rather have undone.

    again: tasks whose effect gives way to the same once more, for a smaller quantity
    """
    standing = {effect.task_id for effect in draft.effects.values() if effect.stands and effect.is_original}
    keeping: set[str] = set()
    for task_id in standing:
        task = draft.tasks.get(task_id)
        if task is None:
            continue
        keeping.update(closure.items.intersection(task.item_ids))
        if task_id in closure.resized and task_id not in again and draft.task_type(task).on_input_change != "KEEP":
            keeping.update(closure.reduced.keys() & set(task.item_ids))
    return sorted(keeping)


def again_of(request: Request, task: Task) -> TaskId:
    """The task that does once more, for a smaller quantity, what this one has done."""
    return TaskId(derive_id(request.request_id, "again", task.task_id))


def replaced_by_again(request: Request) -> frozenset[TaskId]:
    """REDO: the tasks of which the assessment says that the new effect takes the old one's place."""
    impacts = (request.assessment or {}).get("taskImpacts", ())
    return frozenset(TaskId(UUID(impact["taskId"])) for impact in impacts if impact.get("replaced"))
