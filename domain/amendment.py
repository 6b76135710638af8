"""An amendment from request to end: typed, judged, agreed to, put into the order as a whole or not at all. It must
never patch the order as a document, and never undo anything but effects of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from domain.arbitration import Reach, arbitrate_amendment
from domain.assessment import Rule
from domain.commands import (
    AnswerAmendmentCharge,
    ApplyAmendment,
    ApproveAmendment,
    AskedChange,
    AssessAmendment,
    CarryOutAmendment,
    RecordReview,
    RejectAmendment,
    RequestAmendment,
    RestartFlow,
    WithdrawAmendment,
)
from domain.compensation import draw_graph, find_type, supersede_plan
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
from domain.decomposition import Redraw, again_id, copy_types, live_tasks, redraw_plan
from domain.errors import (
    CaseClosed,
    CaseNotFound,
    CompensationStarted,
    FieldError,
    FourEyes,
    OrderTerminal,
    PreviewNotFound,
    PreviewStale,
    ReasonUnknown,
    RequestClosed,
    RequestNotFound,
    Unprocessable,
)
from domain.exhibit import FEASIBILITY, SAFETY, STRATEGY, draw_up, place, say, tell_costs, tell_reasons, tell_works
from domain.impact import (
    AGREED,
    Fate,
    Finding,
    amended,
    assess_amendment,
    assessment_document,
    check_fit,
    find_touched,
    is_leaving,
    judge_task,
    judged_changes,
    match_changes,
    quote_task_id,
    quoted_prices,
    read_again,
    read_changes,
    reshapes,
    tasks_again,
    undo_impacts,
    write_change,
)
from domain.order import IN_FLIGHT, UNSTARTED, Amendment, CompensationPlan, Draft, Plan, Task
from domain.policy import REVALIDATION, SAFETY_RESULTS, AmendableField, TaskType, format_duration
from domain.values import EffectId, Json, OrderId, PlanId, RequestId, Run, TaskId, derive_id

_OPEN: Final = frozenset({"REQUESTED", "ASSESSING", "REQUIRES_APPROVAL", "AWAITING_CHARGE_DECISION", "APPROVED"})
_UNDONE_FIRST: Final = frozenset({"UNDO_THEN_DO", "MANUAL", "WITHDRAW"})


# -- request ---------------------------------------------------------------------------------------------------


def request_amendment(draft: Draft, command: RequestAmendment) -> Amendment:
    """Take the wish in. What needs no question and touches no plan is decided, and done, in this transaction."""
    if draft.head.has_ended:
        raise OrderTerminal
    reach = _reach_of_asked(draft, command.changes)
    others = [(other, reach_of(draft, other)) for other in draft.changes_of_terms()]
    superseded, waits_for = arbitrate_amendment(draft, reach, others)
    changes = read_changes(draft, command.changes) if not command.invalid else ()
    _check_body(draft, command, changes)
    amendment = Amendment(
        request_id=command.request_id,
        status="REQUESTED",
        reason_code=command.reason_code,
        requested_by=draft.actor.subject,
        on_behalf_of=draft.on_behalf_of,
        claimed_at=command.claimed_at,
        requested_at=draft.now,
        run=Run(draft.new_id("run")),
        changes=changes,
        allow_partial=command.allow_partial,
        auto_apply=command.auto_apply,
        repairs_case=command.repairs_case,
        policy_version=draft.policy_version,
    )
    draft.add_amendment(
        amendment,
        "AMENDMENT_REQUESTED",
        reasonCode=command.reason_code,
        paths=[change["path"] for change in changes],
    )
    for other in superseded:
        supersede_amendment(draft, other, "SUPERSEDED_BY_NEWER")
    if all(change["before"] == change["after"] for change in changes):
        return reject_amendment(draft, amendment, "NO_CHANGE")
    if waits_for is not None:
        return draft.move_amendment(
            amendment.request_id,
            "QUEUED",
            "AMENDMENT_QUEUED",
            note={"behind": str(waits_for.request_id)},
        )
    return start_amendment(draft, amendment)


def start_amendment(draft: Draft, amendment: Amendment) -> Amendment:
    """Decide at once what is allowed and touches no plan; for everything else start the flow."""
    found = assess_amendment(draft, amendment)
    if found.automatic and not found.redraws and not found.reshaped and not found.needs_quote:
        draft.move_amendment(amendment.request_id, "ASSESSING", "AMENDMENT_ASSESSMENT_STARTED")
        amendment = conclude(draft, draft.amendments[amendment.request_id])
        if amendment.status == "APPROVED" and amendment.auto_apply:
            amendment = _apply(draft, amendment, assess_amendment(draft, amendment))
        return amendment
    _send_start(draft, amendment)
    return amendment


def _send_start(draft: Draft, amendment: Amendment) -> None:
    draft.send(
        "amendment-requested",
        f"{amendment.request_id}:{amendment.run}",
        ttl=3600,
        order_id=draft.head.order_id,
        request_id=amendment.request_id,
        run=amendment.run,
    )


def restart_amendment(draft: Draft, command: RestartFlow) -> Mapping[str, Json]:
    """An amendment whose flow is gone is taken up where it stands; once it is in the order only its plan can be, and
    while it is queued it has no flow."""
    assert command.request_id is not None
    amendment = find_amendment(draft, command.request_id)
    if amendment.has_ended or amendment.is_stored or amendment.status == "QUEUED":
        return {"verdict": "stand_down"}
    run = Run(draft.new_id("run"))
    amendment = draft.change_amendment(amendment.request_id, run=run, waiting=False)
    draft.record(
        "FLOW_RESTARTED", "REQUEST", amendment.request_id, request_id=amendment.request_id, reason=command.reason
    )
    _send_start(draft, amendment)
    return {"run": str(run)}


def _check_body(draft: Draft, command: RequestAmendment, changes: tuple[Mapping[str, Json], ...]) -> None:
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    if command.reason_code not in draft.policy.reason_codes["amendment"]:
        known = ", ".join(sorted(draft.policy.reason_codes["amendment"]))
        raise ReasonUnknown(
            f"The policy has no amendment reason {command.reason_code!r}; it knows {known}.",
            errors=(FieldError("/reasonCode", "unknown reason"),),
        )
    if not changes:
        raise Unprocessable(errors=(FieldError("/changes", "name at least one change"),))
    paths = [str(change["path"]) + "/" for change in changes]
    for number, path in enumerate(paths):
        if path != "/items/-/" and any(path.startswith(other) or other.startswith(path) for other in paths[:number]):
            raise Unprocessable(errors=(FieldError(f"/changes/{number}/path", "is changed twice"),))
    if command.repairs_case is not None:
        case = draft.cases.get(command.repairs_case)
        if case is None:
            raise CaseNotFound
        if not case.is_open:
            raise CaseClosed(f"The case is {case.status}.")
    if any(reshapes(change) for change in changes):
        check_fit(amended(draft, changes))


def _reach_of_asked(draft: Draft, changes: tuple[AskedChange, ...]) -> Reach:
    matches = [(change, match) for change, match in match_changes(draft, changes) if match is not None]
    rows = [(match.field, match.item_id) for _, match in matches]
    return _reach(draft, rows, whole=len(rows) == len(changes))


def reach_of(draft: Draft, amendment: Amendment) -> Reach:
    """What an amendment under way is about."""
    rows = {row.field: row for row in draft.policy.amendable_fields}
    fields = [(rows[c["field"]], c["itemId"]) for c in amendment.changes if c["field"] in rows]
    return _reach(draft, fields, whole=True)


def _reach(draft: Draft, fields: list[tuple[AmendableField, str | None]], *, whole: bool) -> Reach:
    return Reach(
        fields=frozenset((row.field, item_id) for row, item_id in fields),
        items=frozenset(item_id for _, item_id in fields if item_id is not None),
        tasks=frozenset(task.task_id for row, item_id in fields for task in find_touched(draft, row, item_id)),
        administrative=whole and bool(fields) and all(row.class_ == "ADMINISTRATIVE" for row, _ in fields),
        allowed_while_cancelling=whole and all(row.allowed_while_cancelling for row, _ in fields),
    )


def check_preview(draft: Draft, command: RequestAmendment, shown: str | None) -> None:
    """Whoever cites a preview gets what it showed, or hears that it no longer stands."""
    if command.preview_id is None:
        return
    if shown is None:
        raise PreviewNotFound
    if fingerprint_of(draft, command) != shown:
        raise PreviewStale


def fingerprint_of(draft: Draft, command: RequestAmendment) -> str:
    """What this amendment would rest on, before it is one of the open changes itself."""
    return assess_amendment(draft, _unasked(draft, command)).fingerprint


def _unasked(draft: Draft, command: RequestAmendment) -> Amendment:
    return Amendment(
        request_id=command.request_id,
        status="REQUESTED",
        reason_code=command.reason_code,
        requested_by=draft.actor.subject,
        on_behalf_of=None,
        claimed_at=None,
        requested_at=draft.now,
        run=Run(command.request_id),
        changes=read_changes(draft, command.changes) if not command.invalid else (),
        allow_partial=command.allow_partial,
    )


def preview_amendment(draft: Draft, command: RequestAmendment) -> tuple[dict[str, Json], str]:
    """What the amendment would find and do, on a draft that is thrown away: (body as 2-api gives it, fingerprint)."""
    reach = _reach_of_asked(draft, command.changes)
    if draft.head.has_ended:
        raise OrderTerminal
    arbitrate_amendment(draft, reach, [])
    amendment = _unasked(draft, command)
    _check_body(draft, command, amendment.changes)
    found = assess_amendment(draft, amendment)
    document = {**assessment_document(draft, amendment, found), "changes": list(judged_changes(amendment, found))}
    nodes = draw_graph(draft, undo_impacts(found.fates), _by_hand(found.fates))
    return {
        "assessment": document,
        "compensationPlan": {
            "tasks": [
                {
                    "taskType": node.task_type,
                    "purpose": node.purpose,
                    "reverses": str(node.effect_id),
                    "dependsOn": [str(effect_id) for effect_id in node.after],
                }
                for node in nodes
            ]
        },
        "newOrders": [],
        "estimatedCost": document["estimatedCost"],
    }, found.fingerprint


# -- assessment, asked by the flow -----------------------------------------------------------------------------


def _current(draft: Draft, request_id: RequestId, run: Run) -> Amendment | None:
    amendment = draft.amendments.get(request_id)
    return amendment if amendment and amendment.run == run and not amendment.has_ended else None


def assess(draft: Draft, command: AssessAmendment) -> Mapping[str, Json]:
    """Where the amendment stands and which way its flow goes on; asked again, it says the same again."""
    amendment = _current(draft, command.request_id, command.run)
    if amendment is None or amendment.status == "QUEUED":
        ended = draft.amendments.get(command.request_id)
        return {"verdict": "rejected" if ended and ended.status == "REJECTED" else "stand_down"}
    if amendment.status == "REQUESTED":
        amendment = draft.move_amendment(amendment.request_id, "ASSESSING", "AMENDMENT_ASSESSMENT_STARTED")
    if amendment.status == "ASSESSING":
        found = assess_amendment(draft, amendment)
        if found.needs_quote and found.feasibility != "NOT_APPLICABLE" and amendment.quote is None:
            return _revalidate(draft, amendment)
        amendment = conclude(draft, amendment)
    elif amendment.status == "AWAITING_CHARGE_DECISION" and is_charge_due(amendment, draft.now):
        amendment = _end_charge(draft, amendment, "EXPIRED")
    return _direction(draft, amendment)


def _direction(draft: Draft, amendment: Amendment) -> Mapping[str, Json]:
    match amendment.status:
        case "APPROVED" if amendment.auto_apply:
            return {"verdict": "apply"}
        case "APPLYING":
            return {"verdict": "apply"}
        case "REQUIRES_APPROVAL":
            return {
                "verdict": "review",
                "wait_key": amendment.wait_key,
                "exhibit": exhibit(amendment, draft.head.order_id),
                "sla": format_duration(draft.policy.amendment.approval_sla),
            }
        case "AWAITING_CHARGE_DECISION":
            respond_by = datetime.fromisoformat(str((amendment.charge or {})["respondBy"]))
            return {
                "verdict": "charge",
                "wait_key": amendment.wait_key,
                "wait": format_duration(max(respond_by - draft.now, respond_by - respond_by)),
            }
        case "REJECTED":
            return {"verdict": "rejected"}
        case _:  # waits to be applied by a person, who starts the flow anew; or is over
            return {"verdict": "stand_down"}


def _revalidate(draft: Draft, amendment: Amendment) -> Mapping[str, Json]:
    """Ask for the prices of the order as it would be, before anybody agrees to anything."""
    if amendment.quote_plan is None:
        plan_id = PlanId(derive_id(amendment.request_id, "quote", amendment.version))
        kind = draft.policy.task_types[REVALIDATION]
        run = Run(draft.new_id("run"))
        draft.add_plan(
            CompensationPlan(
                plan_id,
                None,
                "PLANNED",
                run,
                {kind.name: kind},
                draft.now,
                amendment_id=amendment.request_id,
                purpose="QUOTE",
            )
        )
        items = tuple(dict.fromkeys(c["itemId"] for c in amendment.changes if c["itemId"] in draft.items))
        draft.add_task(
            Task(
                task_id=quote_task_id(plan_id),
                kind="COMPENSATION",
                plan_id=plan_id,
                step=kind.name,
                task_type=kind.name,
                item_ids=items or tuple(draft.items)[:1],
                state="PLANNED",
                purpose="QUOTE",
            )
        )
        draft.move_task(quote_task_id(plan_id), "READY")
        draft.move_plan(plan_id, "IN_PROGRESS", "COMPENSATION_STARTED")
        amendment = draft.change_amendment(amendment.request_id, quote_plan=plan_id)
    assert amendment.quote_plan is not None
    plan = draft.plans[amendment.quote_plan]
    return {"verdict": "revalidate", "plan_id": str(plan.plan_id), "plan_run": str(plan.run)}


def hear_quote(draft: Draft, amendment: Amendment) -> bool:
    """What the revalidation said, once it has: prices, or a refusal that ends the amendment. True if it did."""
    if amendment.quote_plan is None or amendment.quote is not None or amendment.status != "ASSESSING":
        return False
    task = draft.tasks[quote_task_id(amendment.quote_plan)]
    effect = draft.effect_of(task)
    if task.state != "COMPLETED" or effect is None:
        return False
    if effect.state == "NO_EFFECT":
        reject_amendment(draft, amendment, "QUOTE_REFUSED")
    else:
        quote = effect.output if isinstance(effect.output, Mapping) else {}
        draft.change_amendment(amendment.request_id, quote=dict(quote))
    return True


def conclude(draft: Draft, amendment: Amendment) -> Amendment:
    """Judge now, store the finding with its reasons, and move the amendment to where the policy sends it."""
    found = assess_amendment(draft, amendment)
    stands = amendment.approval is not None and _covers(amendment.approval, found)
    if amendment.approval is not None and not found.automatic and found.feasibility != "NOT_APPLICABLE":
        found = found.with_rule(_explain_approval(amendment.approval, stands=stands))
    draft.record(
        "AMENDMENT_ASSESSED",
        "REQUEST",
        amendment.request_id,
        request_id=amendment.request_id,
        feasibility=found.feasibility,
        automatic=found.automatic,
        policyVersion=draft.policy_version,
        estimatedCost=found.cost.to_json(),
    )
    amendment = draft.change_amendment(
        amendment.request_id,
        assessment=assessment_document(draft, amendment, found),
        changes=judged_changes(amendment, found),
        fingerprint=found.fingerprint,
        assessed_at=draft.now,
        policy_version=draft.policy_version,
        waiting=False,
    )
    if found.redraws:
        draft.record(
            "RE_DECOMPOSITION_REQUIRED",
            "REQUEST",
            amendment.request_id,
            request_id=amendment.request_id,
            planVersion=draft.head.plan_version,
            tasks=len(found.again),
        )
    if found.feasibility == "NOT_APPLICABLE":
        return reject_amendment(draft, amendment, "NOT_APPLICABLE", [b.to_json() for b in found.blockers])
    # A task that is still running when it was to be changed is for people to see, whatever was agreed before.
    if found.automatic or stands:
        return _past_review(draft, amendment, found)
    return _to_review(draft, amendment)


def _to_review(draft: Draft, amendment: Amendment) -> Amendment:
    return draft.move_amendment(
        amendment.request_id,
        "REQUIRES_APPROVAL",
        "AMENDMENT_REVIEW_REQUIRED",
        round=amendment.round + 1,
        approval=None,
        sla_at=draft.now + draft.policy.amendment.approval_sla,
    )


def _explain_approval(approval: Mapping[str, Json], *, stands: bool) -> Rule:
    by = approval["by"]
    if stands:
        return Rule("freshness.approval", "STANDS", f"{by} has agreed to no less: the approval stands.", {"by": by})
    sentence = f"{by} has agreed to less than would be done now: it is asked for again."
    return Rule("freshness.approval", "ASKED_AGAIN", sentence, {"by": by}, "WARNING")


def _covers(approval: Mapping[str, Json], found: Finding) -> bool:
    """Whether what was agreed to is still what would be done or less, at no higher cost."""
    fresh = found.agreement()
    return (
        all(
            path in approval["results"]
            and SAFETY_RESULTS.index(result) <= SAFETY_RESULTS.index(approval["results"][path])
            for path, result in fresh["results"].items()
        )
        and set(fresh["undone"]) <= set(approval["undone"])
        and bool(fresh["cost"] <= approval["cost"])
    )


def _past_review(draft: Draft, amendment: Amendment, found: Finding) -> Amendment:
    """Review is over or was not needed: a blocking charge is offered before anything is undone."""
    amendment = offer_charge(draft, amendment, found.offer)
    if amendment.charge and amendment.charge["status"] == "OFFERED":
        return draft.move_amendment(
            amendment.request_id, "AWAITING_CHARGE_DECISION", "AMENDMENT_AWAITS_CHARGE", round=amendment.round + 1
        )
    return draft.move_amendment(
        amendment.request_id, "APPROVED", "AMENDMENT_APPROVED", note={"automatic": amendment.approval is None}
    )


def exhibit(amendment: Amendment, order_id: OrderId) -> str:
    """What the review form shows: which terms would change (no value), what becomes of the work, cost and why."""
    found = amendment.assessment
    assert found is not None
    return draw_up(
        (
            f"Before and after, every rule and task: /ui/orders/{order_id} at the address of Recourse",
            FEASIBILITY[found["feasibility"]],
            f"Reason: {say(amendment.reason_code)}",
            *(
                f"May {place(change['path'])} change? {SAFETY[change['safetyResult']]}"
                for change in amendment.changes[:20]
            ),
            tell_costs(found),
            *tell_works(((fate["type"], fate["strategy"]) for fate in found.get("strategy", ())), STRATEGY),
            *tell_reasons(found),
        )
    )


# -- decisions -------------------------------------------------------------------------------------------------


def find_amendment(draft: Draft, request_id: RequestId) -> Amendment:
    amendment = draft.amendments.get(request_id)
    if amendment is None:
        raise RequestNotFound
    return amendment


def _check_reviewer(draft: Draft, amendment: Amendment) -> None:
    check_four_eyes(amendment, draft.actor.subject)
    if amendment.status != "REQUIRES_APPROVAL":
        raise RequestClosed(f"The request is {amendment.status}; only REQUIRES_APPROVAL can be decided.")


def _decide(draft: Draft, amendment: Amendment, decision: str, comment: str | None, **more: Json) -> Amendment:
    draft.send("review-decided", amendment.wait_key)
    decisions = add_decision(draft, amendment, decision, comment)
    return draft.change_amendment(amendment.request_id, decisions=decisions, **more)


def approve(draft: Draft, command: ApproveAmendment) -> Amendment:
    amendment = find_amendment(draft, command.request_id)
    _check_reviewer(draft, amendment)
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    seen = amendment.assessment or {}
    agreed = {
        "by": draft.actor.subject,
        "results": {impact["path"]: impact["safetyResult"] for impact in seen["changeImpacts"]},
        "undone": [fate["taskId"] for fate in seen["strategy"] if fate["strategy"] in AGREED],
        "cost": seen["estimatedCost"]["amountMinor"],
    }
    amendment = _decide(draft, amendment, "APPROVED", command.comment, approval=agreed)
    fresh = assess_amendment(draft, amendment)
    if fresh.fingerprint == amendment.fingerprint:
        return _past_review(draft, amendment, fresh)
    draft.move_amendment(amendment.request_id, "ASSESSING", "AMENDMENT_STALE")
    return conclude(draft, draft.amendments[amendment.request_id])


def reject(draft: Draft, command: RejectAmendment) -> Amendment:
    amendment = find_amendment(draft, command.request_id)
    _check_reviewer(draft, amendment)
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    amendment = _decide(draft, amendment, "REJECTED", command.reason)
    return reject_amendment(draft, amendment, "REJECTED_BY_REVIEW")


def reject_amendment(
    draft: Draft, amendment: Amendment, outcome: str, blockers: Iterable[Mapping[str, Json]] = ()
) -> Amendment:
    amendment = draft.move_amendment(
        amendment.request_id,
        "REJECTED",
        "AMENDMENT_REJECTED",
        outcome=outcome,
        note={"outcome": outcome, "blockers": [blocker["code"] for blocker in blockers]},
    )
    let_go(draft, amendment)
    return draft.amendments[amendment.request_id]


def supersede_amendment(draft: Draft, amendment: Amendment, outcome: str) -> None:
    wake_waiting(draft, amendment)
    draft.move_amendment(amendment.request_id, "SUPERSEDED", "AMENDMENT_SUPERSEDED", outcome=outcome)
    let_go(draft, amendment)


def queue_amendment(draft: Draft, amendment: Amendment, behind: RequestId) -> None:
    """A cancellation goes first; what has been found out is found out again when its turn comes, and a charge that
    nobody can answer meanwhile is offered again then."""
    wake_waiting(draft, amendment)
    offered = amendment.charge is not None and amendment.charge["status"] == "OFFERED"
    draft.move_amendment(
        amendment.request_id,
        "QUEUED",
        "AMENDMENT_QUEUED",
        run=Run(draft.new_id("run")),
        waiting=False,
        quote=None,
        quote_plan=None,
        charge=None if offered else amendment.charge,
        note={"behind": str(behind)},
    )
    let_go(draft, amendment)


def resume_amendment(draft: Draft, amendment: Amendment) -> None:
    """What stood in its way is gone: it begins again, from what that has left. The same wish twice is done once."""
    changes = read_again(draft, amendment.changes)
    amendment = draft.move_amendment(
        amendment.request_id, "REQUESTED", "AMENDMENT_RESUMED", run=Run(draft.new_id("run")), changes=changes
    )
    if all(change["before"] == change["after"] for change in changes):
        reject_amendment(draft, amendment, "NO_CHANGE")
    else:
        start_amendment(draft, amendment)


def let_go(draft: Draft, amendment: Amendment) -> None:
    """What it held is free again, what it asked for prices is not asked any more."""
    draft.unhold(str(amendment.request_id))
    if draft.amendments[amendment.request_id].has_ended:
        waive_charge(draft, draft.amendments[amendment.request_id])
    for plan in list(draft.plans.values()):
        if plan.amendment_id == amendment.request_id and plan.purpose == "QUOTE" and plan.state == "IN_PROGRESS":
            supersede_plan(draft, plan.plan_id)


def forget_quote(draft: Draft, plan: CompensationPlan) -> bool:
    """A price that nobody waits for any more, and that does not come, need not come: asking does nothing outside."""
    moved = False
    for task in draft.tasks_of_plan(plan.plan_id):
        effect = draft.effect_of(task)
        if task.purpose == "QUOTE" and effect and task.state in {"OUTCOME_UNKNOWN", "WAITING_EXTERNAL"}:
            draft.move_effect(effect.effect_id, "NO_EFFECT", reason="nobody waits for the answer any more")
            draft.move_task(task.task_id, "NOT_REQUIRED")
            moved = True
    return moved


def withdraw(draft: Draft, command: WithdrawAmendment) -> Amendment:
    """Until the change is in the order its asker may change their mind."""
    amendment = find_amendment(draft, command.request_id)
    if amendment.has_ended:
        raise RequestClosed(f"The request has ended ({amendment.status}).")
    if amendment.is_stored:
        raise CompensationStarted("The change is in the order already; ask for another one.")
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    wake_waiting(draft, amendment)
    amendment = draft.move_amendment(amendment.request_id, "CANCELLED", "AMENDMENT_WITHDRAWN", outcome="WITHDRAWN")
    let_go(draft, amendment)
    return draft.amendments[amendment.request_id]


def apply(draft: Draft, command: ApplyAmendment) -> Amendment:
    """A person says now: what touches no plan is done here, everything else by a flow of its own."""
    amendment = find_amendment(draft, command.request_id)
    if amendment.status != "APPROVED" or amendment.auto_apply:
        raise RequestClosed(f"The request is {amendment.status} and does not wait to be applied.")
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    amendment = draft.change_amendment(amendment.request_id, auto_apply=True, run=Run(draft.new_id("run")))
    draft.record("AMENDMENT_RELEASED", "REQUEST", amendment.request_id, request_id=amendment.request_id)
    found = assess_amendment(draft, amendment)
    if found.automatic and not found.redraws and not found.reshaped and not found.needs_quote:
        if found.fingerprint != amendment.fingerprint:
            draft.move_amendment(amendment.request_id, "ASSESSING", "AMENDMENT_STALE")
            amendment = conclude(draft, draft.amendments[amendment.request_id])
        return _apply(draft, amendment, found) if amendment.status == "APPROVED" else amendment
    _send_start(draft, amendment)
    return amendment


def answer_charge(draft: Draft, command: AnswerAmendmentCharge) -> Amendment:
    amendment = find_amendment(draft, command.request_id)
    check_charge(draft, amendment, command.invalid)
    draft.send("charge-decided", amendment.wait_key)
    if not command.accepted:
        return _end_charge(draft, amendment, "DECLINED")
    amendment = accept_charge(draft, amendment)
    if assess_amendment(draft, amendment).fingerprint != amendment.fingerprint:
        draft.move_amendment(amendment.request_id, "ASSESSING", "AMENDMENT_STALE")
        return conclude(draft, draft.amendments[amendment.request_id])
    return draft.move_amendment(amendment.request_id, "APPROVED", "AMENDMENT_APPROVED", note={"automatic": False})


def _end_charge(draft: Draft, amendment: Amendment, status: str) -> Amendment:
    return reject_amendment(draft, end_charge(draft, amendment, status), f"CHARGE_{status}")


def record_review(draft: Draft, command: RecordReview) -> Mapping[str, Json]:
    """What became of a review round: a decision entered in Tasklist counts like one through the API."""
    amendment = _current(draft, command.request_id, command.run)
    if amendment is None or amendment.status != "REQUIRES_APPROVAL" or amendment.wait_key != command.wait_key:
        return {"verdict": "decided"}
    if command.decision not in {"approve", "reject"} or not command.reviewer:
        return refuse_decision(draft, amendment, "NO_DECISION")
    if "approver" not in draft.actor.roles:
        return refuse_decision(draft, amendment, "ROLE_REQUIRED")
    comment = (command.comment or "")[:500] or None
    try:
        if command.decision == "approve":
            approve(draft, ApproveAmendment(command.order_id, command.request_id, comment))
        else:
            reject(draft, RejectAmendment(command.order_id, command.request_id, comment))
    except FourEyes as breach:
        return refuse_decision(draft, amendment, breach.code)
    return {"verdict": "decided"}


# -- application -----------------------------------------------------------------------------------------------


def carry_out(draft: Draft, command: CarryOutAmendment) -> Mapping[str, Json]:
    """Hold what it touches, wait until that is quiet, look again, and put the change into the order as a whole."""
    amendment = _current(draft, command.request_id, command.run)
    if amendment is None or amendment.status not in {"APPROVED", "APPLYING"}:
        ended = draft.amendments.get(command.request_id)
        if ended is not None and ended.status == "APPLIED" and ended.run == command.run:
            return _carried(draft, ended)
        open_ = amendment is not None and amendment.status in _OPEN
        return {"verdict": "assess" if open_ else "stand_down"}
    if amendment.is_stored:
        return _carried(draft, amendment)
    found = assess_amendment(draft, amendment)
    if amendment.status == "APPROVED":
        if draft.amending() is not None:  # one at a time; each is judged on what the one before it left
            amendment = draft.change_amendment(amendment.request_id, round=amendment.round + 1, waiting=True)
            return {"verdict": "wait", "wait_key": amendment.wait_key, "wait": "PT10M"}
        if found.fingerprint != amendment.fingerprint:
            draft.move_amendment(amendment.request_id, "ASSESSING", "AMENDMENT_STALE")
            return {"verdict": "assess"}
        amendment = draft.move_amendment(
            amendment.request_id,
            "APPLYING",
            "AMENDMENT_APPLYING",
            grace_until=draft.now + draft.policy.amendment.grace,
        )
        draft.hold(
            (task_id for task_id in found.closure if not draft.tasks[task_id].has_ended), str(amendment.request_id)
        )
    if found.running and draft.now < (amendment.grace_until or draft.now):
        amendment = draft.change_amendment(amendment.request_id, round=amendment.round + 1, waiting=True)
        rest = (amendment.grace_until or draft.now) - draft.now
        return {"verdict": "wait", "wait_key": amendment.wait_key, "wait": format_duration(rest)}
    if found.fingerprint != amendment.fingerprint or found.running:
        amendment = _look_again(draft, amendment, found)
        if amendment.status != "APPROVED":
            return {"verdict": "assess"}
        amendment = draft.move_amendment(amendment.request_id, "APPLYING", "AMENDMENT_APPLYING")
        found = assess_amendment(draft, amendment)
    return _carried(draft, _apply(draft, amendment, found))


def _look_again(draft: Draft, amendment: Amendment, found: Finding) -> Amendment:
    """What was waited for has changed what was agreed, or has not ended: judge again; what still runs, people see."""
    draft.unhold(str(amendment.request_id))
    draft.move_amendment(amendment.request_id, "ASSESSING", "AMENDMENT_STALE", waiting=False)
    if found.running and found.feasibility != "NOT_APPLICABLE":
        amendment = draft.change_amendment(
            amendment.request_id,
            assessment=assessment_document(draft, amendment, found),
            changes=judged_changes(amendment, found),
            fingerprint=found.fingerprint,
            assessed_at=draft.now,
            policy_version=draft.policy_version,
            jeopardy=True,
        )
        draft.record(
            "GRACE_EXPIRED",
            "REQUEST",
            amendment.request_id,
            request_id=amendment.request_id,
            running=[str(fate.task.task_id) for fate in found.running],
        )
        draft.record(
            "JEOPARDY_RAISED", "REQUEST", amendment.request_id, request_id=amendment.request_id, reason="GRACE"
        )
        return _to_review(draft, amendment)
    return conclude(draft, draft.amendments[amendment.request_id])


def is_quiet(draft: Draft, amendment: Amendment) -> bool:
    """Whether nothing that the amendment touches is under way any more."""
    return not assess_amendment(draft, amendment).running


def _carried(draft: Draft, amendment: Amendment) -> Mapping[str, Json]:
    if amendment.plan_id is None or draft.plans[amendment.plan_id].state in {"COMPLETED", "SUPERSEDED"}:
        return {"verdict": "done"}
    plan = draft.plans[amendment.plan_id]
    return {
        "verdict": "planned",
        "plan_id": str(plan.plan_id),
        "plan_run": str(plan.run),
        "sla": format_duration(draft.policy.cancellation.compensation_sla),
    }


def _apply(draft: Draft, amendment: Amendment, found: Finding) -> Amendment:
    """Put the accepted changes into the order, with the new plan that they need; nothing of it is done by halves."""
    request_id = amendment.request_id
    for judged in found.accepted:
        if judged.change["before"] != judged.change["after"]:
            write_change(draft, judged.change)
    _write_prices(draft, amendment)
    if draft.head.start_key and draft.head.base == "VALIDATED":  # it may begin at another time than it waits for
        draft.send("start-date-changed", f"{draft.head.order_id}:{draft.head.start_key}")
    draft.unhold(str(request_id))
    plan_id: PlanId | None = None
    version: int | None = None
    if draft.plan is not None and found.redraws:
        if amendment.status == "APPROVED":
            amendment = draft.move_amendment(request_id, "APPLYING", "AMENDMENT_APPLYING")
        version = draft.plan.version + 1
        plan_id = _store_new_plan(draft, amendment, found.fates, found.reshaped)
    amendment = draft.change_amendment(
        request_id,
        applied_at=draft.now,
        new_plan_version=version,
        plan_id=plan_id,
        waiting=False,
        changes=tuple(
            {**change, "applied": not judged.is_blocked}
            for change, judged in zip(amendment.changes, found.judged, strict=True)
        ),
    )
    return amendment if plan_id is not None else finish(draft, amendment)


def finish(draft: Draft, amendment: Amendment) -> Amendment:
    """The change is in the order and everything that it had to undo has its outcome."""
    blocked = any(not change.get("applied", True) for change in amendment.changes)
    return draft.move_amendment(
        amendment.request_id,
        "APPLIED",
        "AMENDMENT_APPLIED",
        outcome="PARTIALLY_APPLIED" if blocked else "APPLIED",
        note={
            "paths": [change["path"] for change in amendment.changes if change.get("applied")],
            "planVersion": draft.head.plan_version,
        },
    )


def _write_prices(draft: Draft, amendment: Amendment) -> None:
    """The quoted price comes beside the one that was agreed before, which is kept."""
    for price in quoted_prices(draft, amendment):
        item = draft.items.get(price["itemId"])
        if item is None or price["after"] == item.content.get("price"):
            continue
        former = [*item.content.get("formerPrices", ()), *([price["before"]] if price["before"] else [])]
        draft.change_item(item.item_id, content={**item.content, "price": price["after"], "formerPrices": former})
        draft.content_changed = True


def _by_hand(fates: Iterable[Fate]) -> dict[str, str]:
    return {str(fate.task.task_id): "MANUAL" for fate in fates if fate.strategy in {"MANUAL", "MANUAL_UNDO"}}


def _store_new_plan(
    draft: Draft, amendment: Amendment, fates: tuple[Fate, ...], reshaped: frozenset[str] = frozenset()
) -> PlanId | None:
    """The new version as a whole: new tasks, what goes, what waits for what; and the plan of what must be undone."""
    former = draft.plan
    assert former is not None
    version = former.version + 1
    new_id = PlanId(derive_id(draft.head.order_id, "plan", version))
    redraw = redraw_plan(draft, new_id, version, tasks_again(fates), reshaped)
    # What is known of a type stays as it was when the order first had such work.
    types = {**copy_types(draft.policy, (task.task_type for task in redraw.tasks)), **former.types}
    draft.former_plans.append(replace(former, closed=True))
    draft.send("plan-progressed", former.run)
    run = Run(draft.new_id("run"))
    draft.plan = Plan(new_id, version, run, types, draft.policy_version)
    draft.change_head(plan_version=version)
    draft.record(
        "ORDER_DECOMPOSED",
        "ORDER",
        draft.head.order_id,
        planVersion=version,
        tasks=len(redraw.tasks),
        policyVersion=draft.policy_version,
    )
    undo_plan, awaited = _plan_undoing(draft, amendment, fates, redraw)
    _weave(draft, new_id, redraw, awaited)
    for item in list(draft.items.values()):
        if item.base == "ACKNOWLEDGED":
            draft.change_item(item.item_id, base="IN_PROGRESS")
    draft.send("plan-restarted", run, ttl=3600, order_id=draft.head.order_id, plan_id=new_id, run=run, root=new_id)
    return undo_plan


def follow_results(draft: Draft) -> bool:
    """What was done again may have come to another result than before. Work that is done, and was sent the old one, is
    touched by that as by a changed value of the order: by its type's `on_input_change` it stays, or is done again too,
    in a version of the plan of its own. True if anything was looked at; each result is looked at once."""
    moved = False
    fates: dict[PlanId, tuple[Amendment, list[Fate]]] = {}
    for old in list(draft.fulfillment_tasks()):
        new = _done_anew(draft, old)
        if new is None:
            continue
        before, after = draft.effect_of(old), draft.effect_of(new)
        if new.state != "COMPLETED" or before is None or after is None or after.state != "CONFIRMED":
            continue
        owner = _amendment_of(draft, new.plan_version)
        for task in live_tasks(draft):
            if old.task_id not in task.depends_on or task.state in IN_FLIGHT or is_leaving(draft, task):
                continue  # what is under way, or being cancelled, is looked at when that is over
            depends_on = tuple(new.task_id if other == old.task_id else other for other in task.depends_on)
            task = draft.change_task(task.task_id, depends_on=depends_on)
            draft.successors_of = None
            moved = True
            fate = judge_task(draft, task, again=True, goes=False)
            if owner is not None and before.output != after.output and fate.effect and fate.strategy != "KEEP":
                fates.setdefault(task.plan_id, (owner, []))[1].append(fate)
    for owner, found in fates.values():
        unique = {fate.task.task_id: fate for fate in found}
        draft.record(
            "RE_DECOMPOSITION_REQUIRED",
            "REQUEST",
            owner.request_id,
            request_id=owner.request_id,
            planVersion=draft.head.plan_version,
            tasks=len(unique),
        )
        undo_plan = _store_new_plan(draft, owner, tuple(unique.values()))
        if undo_plan is not None:  # the amendment's own flow has gone by; this plan is walked by one of its own
            run = draft.plans[undo_plan].run
            draft.send(
                "plan-restarted",
                run,
                ttl=3600,
                order_id=draft.head.order_id,
                plan_id=undo_plan,
                run=run,
                root=undo_plan,
            )
    return moved


def _done_anew(draft: Draft, old: Task) -> Task | None:
    """The task by which amendments have had this one's work done anew, however many of them there were meanwhile."""
    task = old
    while (new := draft.tasks.get(task.superseded_by) if task.superseded_by else None) is not None:
        if new.task_id != again_id(draft.head.order_id, new.plan_version, task.task_id):
            return None
        task = new
    return task if task is not old else None


def _amendment_of(draft: Draft, version: int) -> Amendment | None:
    """The amendment that made this version of the plan, or that it follows from."""
    made = [a for a in draft.amendments.values() if a.new_plan_version and a.new_plan_version <= version]
    return max(made, key=lambda amendment: amendment.new_plan_version or 0, default=None)


def _weave(draft: Draft, plan_id: PlanId, redraw: Redraw, awaited: Mapping[TaskId, tuple[TaskId, ...]]) -> None:
    """Put the new tasks in, the replaced ones out, and count anew what everything unfinished waits for."""
    held = {task_id: draft.holds.get(task_id, frozenset()) for task_id in redraw.replaced}
    inherited = {new: held[old] for old, new in redraw.replaced.items() if new is not None}
    for task in redraw.tasks:
        depends_on = (*task.depends_on, *awaited.get(task.task_id, ()))
        draft.add_task(replace(task, depends_on=depends_on, unmet=len(depends_on)))
        for holder in inherited.get(task.task_id, draft.order_holds):
            draft.hold([task.task_id], holder)
    for task_id, item_ids in redraw.joined.items():
        draft.change_task(task_id, item_ids=item_ids)
    for task_id, depends_on in redraw.rewired.items():
        draft.change_task(task_id, depends_on=depends_on)
    draft.successors_of = None
    for task_id, new_id in redraw.replaced.items():
        draft.change_task(task_id, superseded_by=new_id)
        retire(draft, draft.tasks[task_id])
    for task in list(draft.tasks.values()):
        if task.has_ended:
            continue
        depends_on = task.depends_on
        if task.kind == "COMPENSATION":  # what waits for the new to be certain waits for the newest
            depends_on = (*depends_on, *(new for other in depends_on if (new := redraw.replaced.get(other))))
        unmet = sum(not draft.tasks[other].satisfies for other in depends_on if other in draft.tasks)
        if task.kind == "COMPENSATION":
            if (unmet, depends_on) != (task.unmet, task.depends_on):
                draft.change_task(task.task_id, unmet=unmet, depends_on=depends_on)
            continue
        draft.change_task(task.task_id, unmet=unmet, plan_id=plan_id)
        if unmet and task.state == "READY":  # what it builds on is done again first
            draft.move_task(task.task_id, "PENDING", handed=False, release=task.release + 1)


def retire(draft: Draft, task: Task) -> bool:
    """A replaced task leaves as soon as nothing of it is under way; its effects stay in the ledger."""
    if task.state in UNSTARTED | {"FAILED", "COMPLETED"}:
        draft.move_task(task.task_id, "SUPERSEDED")
        return True
    return False


def _plan_undoing(
    draft: Draft, amendment: Amendment, fates: tuple[Fate, ...], redraw: Redraw
) -> tuple[PlanId | None, dict[TaskId, tuple[TaskId, ...]]]:
    """The compensation plan of what the amendment undoes, and per new task the undoings that it waits for."""
    strategy = {fate.effect.effect_id: fate.strategy for fate in fates if fate.effect is not None}
    nodes = draw_graph(draft, undo_impacts(fates), _by_hand(fates))
    if not nodes:
        return None, {}
    plan_id = PlanId(derive_id(amendment.request_id, "plan", draft.head.plan_version))
    # Withdrawn or not, the outcome is known before anything new is done: behind each withdrawal stands an undoing for
    # the case that it came too late.
    undo_of = {node.effect_id: TaskId(derive_id(plan_id, node.effect_id, "UNDO")) for node in nodes}
    types: dict[str, TaskType] = {}
    tasks: list[Task] = []
    awaited: dict[TaskId, tuple[TaskId, ...]] = {}
    for node in nodes:
        fate = strategy[node.effect_id]
        own = find_type(draft, node.original.task_type)
        after = [
            undo_of[other] for other in node.after if not (strategy[other] == "DO_THEN_UNDO" and fate != "DO_THEN_UNDO")
        ]
        undone_by, purpose = node.task_type, node.purpose
        if node.purpose == "WITHDRAW":
            called_off = TaskId(derive_id(plan_id, node.effect_id, "WITHDRAW"))
            types[node.task_type] = find_type(draft, node.task_type)
            tasks.append(_undo_task(plan_id, called_off, node.original, node.task_type, node.effect_id, "WITHDRAW", []))
            after.append(called_off)
            undone_by = own.compensation or own.name
            purpose = (
                "AWAIT"
                if own.on_input_change in {"KEEP", "REDO"}
                else "COMPENSATE"
                if own.compensation and own.on_input_change != "MANUAL"
                else "MANUAL"
            )
        new_task = redraw.replaced.get(node.original.task_id)
        if fate == "DO_THEN_UNDO" and new_task is not None:
            after.append(new_task)
        if new_task is not None and fate in _UNDONE_FIRST:
            awaited[new_task] = (undo_of[node.effect_id],)
        types[undone_by] = find_type(draft, undone_by)
        tasks.append(
            _undo_task(plan_id, undo_of[node.effect_id], node.original, undone_by, node.effect_id, purpose, after)
        )
    draft.add_plan(
        CompensationPlan(
            plan_id,
            None,
            "PLANNED",
            Run(draft.new_id("run")),
            types,
            draft.now,
            amendment_id=amendment.request_id,
        )
    )
    for task in tasks:
        draft.add_task(task)
    draft.move_plan(plan_id, "IN_PROGRESS", "COMPENSATION_STARTED")
    return plan_id, awaited


def _undo_task(
    plan_id: PlanId,
    task_id: TaskId,
    original: Task,
    task_type: str,
    effect_id: EffectId,
    purpose: str,
    after: list[TaskId],
) -> Task:
    return Task(
        task_id=task_id,
        kind="COMPENSATION",
        plan_id=plan_id,
        step=original.step,
        task_type=task_type,
        item_ids=original.item_ids,
        state="PLANNED",
        depends_on=tuple(after),
        unmet=len(after),
        original_task=original.task_id,
        reverses=effect_id,
        purpose=purpose,
    )
