"""Cases: failures that a person manages, and the repairs that end them; never a repair without who and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from domain.commands import AssignCase, RaiseJeopardy, RecordRepair, RepairCase
from domain.errors import (
    CaseClosed,
    CaseNotFound,
    ChangeActive,
    FieldError,
    ReasonUnknown,
    RepairNotPossible,
    Unprocessable,
)
from domain.machines import has_ended
from domain.order import UNSTARTED, Case, Draft, Request, Task
from domain.policy import format_duration
from domain.values import CaseId, EffectId, Json, RequestId, Run, TaskId, format_time

ACTIONS: Final = (
    "RETRY",
    "VERIFY_OUTCOME",
    "MARK_TOOK_EFFECT",
    "MARK_NO_EFFECT",
    "FORCE_COMPLETE",
    "WAIVE",
    "REPLACE_INPUT",
    "CONVERT_TO_ORDER",
    "FAIL_ITEM",
)


def open_case(
    draft: Draft,
    task: Task | None,
    category: str,
    title: str,
    *,
    context: str | None = None,
    blocking: bool | None = None,
    effect_id: EffectId | None = None,
    request_id: RequestId | None = None,
) -> Case:
    """One open case per task (None: one about the order as a whole): a second failure is told on the one there is.

    effect_id: the one effect that the case is about, where that is not the task's own; it has a case to itself
    """
    present = find_case_of(draft, task.task_id if task else None, effect_id)
    if present is not None:
        if (present.category, present.title) != (category, title):
            draft.change_case(
                present.case_id,
                "CASE_CHANGED",
                category=category,
                title=title,
                note={"category": category, "title": title},
            )
        return draft.cases[present.case_id]
    request = draft.order_request()
    undoing = task is not None and task.kind == "COMPENSATION"
    stage = draft.committed_for(task) if task else None
    case = Case(
        case_id=CaseId(draft.new_id("case")),
        status="OPEN",
        context=context or ("COMPENSATION" if undoing or stage else "FULFILLMENT"),
        category=category,
        # Under an order cancellation a failed task is a fact for its assessment, not one more thing in its way.
        blocking=(undoing or stage is not None or request is None) if blocking is None else blocking,
        title=title,
        opened_at=draft.now,
        sla_at=draft.now + draft.policy.fallout_sla,
        task_id=task.task_id if task else None,
        effect_id=effect_id or (task.effect_id if task else None),
        request_id=request_id or _request_of(draft, task, stage or request),
    )
    draft.add_case(case, "CANCELLATION_CASE_OPENED" if undoing else "CASE_OPENED")
    return case


def _request_of(draft: Draft, task: Task | None, otherwise: Request | None) -> RequestId | None:
    if task is not None and task.kind == "COMPENSATION":
        return draft.plans[task.plan_id].request_id
    return otherwise.request_id if otherwise else None


def find_case_of(draft: Draft, task_id: TaskId | None, late: EffectId | None = None) -> Case | None:
    """The case about this task's work, or (late) the one about an effect that it should not have had."""
    return next(
        (
            case
            for case in draft.open_cases()
            if case.task_id == task_id and (case.effect_id if case.context == "LATE_EFFECT" else None) == late
        ),
        None,
    )


def open_follow_up_cases(draft: Draft) -> None:
    """§7: a wish that came too late, and no order can be proposed that would fulfil it: a person finds a way. It is
    about undoing, and blocks nothing: the order that it is about may have ended."""
    for request in list(draft.requests.values()):
        without_answer = request.outcome == "NEW_ORDER_REQUIRED" and not request.proposals
        if without_answer and all(case.request_id != request.request_id for case in draft.cases.values()):
            open_case(
                draft,
                None,
                "BUSINESS",
                "Cancelled too late, and no follow-up order can be proposed",
                context="COMPENSATION",
                blocking=False,
                request_id=request.request_id,
            )


def describe_wait(draft: Draft, task_id: TaskId) -> dict[str, Json]:
    """What a flow needs in order to show this task's case to people and to wait for its end; stand down without one."""
    case = find_case_of(draft, task_id)
    if case is None:
        return {"verdict": "stand_down"}
    left = max(case.sla_at - draft.now, case.sla_at - case.sla_at)
    return {
        "case_id": str(case.case_id),
        "wait_key": case.wait_key,
        "sla": format_duration(left),
        "exhibit": f"{case.category}: {case.title}"[:2000],
    }


def find_case(draft: Draft, case_id: CaseId) -> Case:
    case = draft.cases.get(case_id)
    if case is None:
        raise CaseNotFound
    return case


def assign_case(draft: Draft, command: AssignCase) -> Case:
    case = find_case(draft, command.case_id)
    if not case.is_open:
        raise CaseClosed
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    return draft.move_case(case.case_id, "ASSIGNED", owner=command.assignee)


def repair_case(draft: Draft, command: RepairCase) -> Case:
    """RETRY: the task goes back to its walker for a new attempt, an order that could not start to its flow for a new
    look; the case ends with who asked for it and why."""
    case = find_case(draft, command.case_id)
    if not case.is_open:
        raise CaseClosed(f"The case is {case.status}.")
    _check_retry(draft, case)
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    if command.action not in ACTIONS:
        raise Unprocessable(errors=(FieldError("/action", f"one of {', '.join(ACTIONS)}"),))
    if command.reason_code not in draft.policy.reason_codes["repair"]:
        raise ReasonUnknown(errors=(FieldError("/reasonCode", "the policy has no such repair reason"),))
    if command.action != "RETRY":
        raise RepairNotPossible(f"{command.action} is not possible here; RETRY is.")
    repair = {
        "n": len(case.repairs) + 1,
        "action": command.action,
        "reasonCode": command.reason_code,
        "reasonText": command.reason_text,
        "by": draft.actor.subject,
        "at": format_time(draft.now),
        "status": "DONE",
    }
    if case.task_id:
        retry_task(draft, draft.tasks[case.task_id])
    else:
        restart_fulfillment(draft)
    draft.record(
        "REPAIR_SUBMITTED",
        "CASE",
        case.case_id,
        request_id=case.request_id,
        action=command.action,
        reasonCode=command.reason_code,
    )
    return close_case(draft, case.case_id, "RESOLVED", "RETRY", repairs=(*case.repairs, repair))


def _check_retry(draft: Draft, case: Case) -> None:
    task = draft.tasks.get(case.task_id) if case.task_id else None
    if draft.is_held(task) if task else draft.order_holds:
        raise ChangeActive("Another change holds this work; it decides what becomes of it.")
    if _is_false_start(draft, case):
        return
    if task is not None and task.purpose == "MANUAL":
        raise RepairNotPossible("There is no call to repeat: a person undoes this.")
    if task is None or task.state not in {"FAILED", "IN_FALLOUT", "OUTCOME_UNKNOWN", "WAITING_EXTERNAL"}:
        raise RepairNotPossible("There is nothing to try again.")


def _is_false_start(draft: Draft, case: Case) -> bool:
    """A case about an order that could not be decomposed, and still is not."""
    return case.task_id is None and case.context == "FULFILLMENT" and draft.plan is None and not draft.head.has_ended


def restart_fulfillment(draft: Draft) -> None:
    """Start the order's flow again under a new run: it decides anew, and what is left of the old one stands down."""
    run = Run(draft.new_id("run"))
    draft.change_head(run=run)
    draft.send("order-accepted", draft.head.order_id, ttl=3600, order_id=draft.head.order_id, run=run)


def retry_task(draft: Draft, task: Task) -> None:
    """Hand the task back under a new release. An effect that did not happen gets a new row; one whose outcome nobody
    knows keeps its own, so that the system can tell the second call from a second wish."""
    effect = draft.effect_of(task)
    if effect is not None and effect.is_open:
        draft.change_effect(effect.effect_id, failures=0, unknown_since=None, missed_at=None)
    if task.state in {"FAILED", "IN_FALLOUT", "OUTCOME_UNKNOWN"}:
        keep: EffectId | None = effect.effect_id if effect is not None and effect.is_open else None
        draft.move_task(task.task_id, "READY", handed=False, release=task.release + 1, effect_id=keep or task.effect_id)
    else:
        draft.change_task(task.task_id, handed=False, release=task.release + 1)


def close_case(draft: Draft, case_id: CaseId, status: str, resolution: str, **changes: Json) -> Case:
    """End a case and wake the flow that shows it to people."""
    case = draft.move_case(case_id, status, resolution=resolution, note={"resolution": resolution}, **changes)
    draft.send("case-decided", case.wait_key)
    return case


def settle_cases(draft: Draft) -> bool:
    """A case whose cause is gone ends by itself; True if one did."""
    ended = False
    for case in draft.open_cases():
        task = draft.tasks.get(case.task_id) if case.task_id else None
        if _is_false_start(draft, case) and all(has_ended("ITEM", item.base) for item in draft.items.values()):
            close_case(draft, case.case_id, "CANCELLED", "CAUSE_VANISHED")  # nobody wants it started any more
            ended = True
        late = draft.effects.get(case.effect_id) if case.effect_id and case.context == "LATE_EFFECT" else None
        if late is not None and late.state in {"REVERSED", "WAIVED"}:
            close_case(draft, case.case_id, "RESOLVED", "OBLIGATION_MET")
            ended = True
        if task is None or case.context == "LATE_EFFECT":
            continue
        solved = task.state in {"COMPLETED", "COMPENSATED", "COMPENSATING", "NOT_REQUIRED", "WAIVED"}
        vanished = task.state in {"CANCELLED", "SUPERSEDED", "RETAINED"} or task.state in UNSTARTED
        if solved or vanished:
            close_case(
                draft,
                case.case_id,
                "RESOLVED" if solved else "CANCELLED",
                "OUTCOME_ARRIVED" if solved else "CAUSE_VANISHED",
            )
            ended = True
    return ended


def raise_jeopardy(draft: Draft, command: RaiseJeopardy) -> Mapping[str, Json]:
    """A deadline passed: mark it, tell the world; nothing is approved or refused by it."""
    request = draft.requests.get(RequestId(command.subject_id))
    case = draft.cases.get(CaseId(command.subject_id))
    if request is not None and not request.has_ended and not request.jeopardy:
        draft.change_request(request.request_id, jeopardy=True)
        draft.record(
            "JEOPARDY_RAISED",
            "REQUEST",
            request.request_id,
            request_id=request.request_id,
            reason=command.kind,
        )
    elif case is not None and case.is_open and not case.jeopardy:
        draft.cases[case.case_id] = replace(case, jeopardy=True)
        draft.record("JEOPARDY_RAISED", "CASE", case.case_id, request_id=case.request_id, reason=command.kind)
    return {"verdict": "raised"}


def record_repair(draft: Draft, command: RecordRepair) -> Mapping[str, Json]:
    """What became of a repair task shown to people; a RETRY entered there counts like one through the API."""
    case = draft.cases.get(command.case_id)
    if case is None or not case.is_open or case.wait_key != command.wait_key:
        return {"verdict": "decided"}
    if not command.repairer or "operator" not in draft.actor.roles or command.action != "RETRY":
        # What was typed there may be anything; only words of ours are told to the world.
        action = command.action if command.action in ACTIONS else None
        draft.record("REPAIR_REFUSED", "CASE", case.case_id, action=action)
        return {"verdict": "again"}
    reason = next(iter(draft.policy.reason_codes["repair"]), "")
    try:
        repair_case(
            draft,
            RepairCase(command.order_id, command.case_id, "RETRY", reason, (command.comment or "")[:500]),
        )
    except (ChangeActive, RepairNotPossible) as breach:
        draft.record("REPAIR_REFUSED", "CASE", case.case_id, action=command.action, code=breach.code)
        return {"verdict": "again"}
    return {"verdict": "decided"}
