"""Cases: failures that a person manages, and the repairs that end them; never a repair without who and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from domain.arbitration import arbitrate_cancellation
from domain.commands import (
    AssignCase,
    DecideRepair,
    NoteGoneFlow,
    NoteIncident,
    NoteRefusal,
    NoteSilentFlow,
    OfferCase,
    ParkCase,
    RaiseJeopardy,
    RecordRepair,
    RepairCase,
    ResumeCase,
)
from domain.compensation import confirm_effect, finish_original, lacks_amount, step_in
from domain.errors import (
    Breach,
    CaseClosed,
    CaseNotFound,
    ChangeActive,
    EvidenceRequired,
    FieldError,
    FourEyes,
    ReasonUnknown,
    RepairNotFound,
    RepairNotPossible,
    RequestClosed,
    Unprocessable,
    UseAmendment,
)
from domain.exhibit import draw_up, say
from domain.flows import Part, find_part, part_of, part_of_plan, restart_part
from domain.ledger import Effect, read_money
from domain.machines import has_ended
from domain.order import UNSTARTED, Amendment, Case, Draft, Reported, Request, Task
from domain.policy import format_duration
from domain.supplemental import convert, follow_effect, read_wish
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

# What changes the books without the system's own word: somebody shows why, and somebody else agrees.
SECOND_PERSON: Final = frozenset({"FORCE_COMPLETE", "WAIVE", "MARK_TOOK_EFFECT", "MARK_NO_EFFECT"})

# States of a repair beside DONE, REJECTED and VOID (its cause vanished before its second person spoke).
AWAITING: Final = "AWAITING_APPROVAL"
RUNNING: Final = "RUNNING"


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
    case_id: CaseId | None = None,
) -> Case:
    """One open case per task (None: one about the order as a whole): a second failure is told on the one there is.

    case_id: of a new case, where what it is about names it · effect_id: the one effect that the case is about, where
    that is not the task's own; it has a case to itself
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
    amending = task is not None and undoing and draft.plans[task.plan_id].amendment_id is not None
    if blocking is None and task is not None and task.purpose == "QUOTE":
        blocking = False  # nothing waits for the price but the amendment that asks
    case = Case(
        case_id=case_id or CaseId(draft.new_id("case")),
        status="OPEN",
        context=context or ("AMENDMENT" if amending else "COMPENSATION" if undoing or stage else "FULFILLMENT"),
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
    draft.add_case(
        case, "AMENDMENT_CASE_OPENED" if amending else "CANCELLATION_CASE_OPENED" if undoing else "CASE_OPENED"
    )
    return case


def _request_of(draft: Draft, task: Task | None, otherwise: Request | None) -> RequestId | None:
    if task is not None and task.kind == "COMPENSATION":
        return draft.plans[task.plan_id].owner_id
    return otherwise.request_id if otherwise else None


def find_case_of(draft: Draft, task_id: TaskId | None, late: EffectId | None = None) -> Case | None:
    """The case about this task's work, or (late) the one about an effect that it should not have had."""
    return next(
        (
            case
            for case in draft.open_cases()
            if not case.is_about_flow
            and case.task_id == task_id
            and (case.effect_id if case.context == "LATE_EFFECT" else None) == late
        ),
        None,
    )


def open_follow_up_cases(draft: Draft) -> None:
    """§7: a wish that came too late, and no order can be proposed that would fulfil it: a person finds a way. It is
    about undoing, and blocks nothing: the order that it is about may have ended."""
    for request in list(draft.requests.values()):
        without_answer = request.outcome == "NEW_ORDER_REQUIRED" and not request.proposals
        if without_answer and all(
            case.request_id != request.request_id or case.is_about_flow for case in draft.cases.values()
        ):
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
    return {"case_id": str(case.case_id), **_show(draft, case)}


def offer_case(draft: Draft, command: OfferCase) -> Mapping[str, Json]:
    """The same for a case that has a flow of its own."""
    case = draft.cases.get(command.case_id)
    if case is None or not case.is_open:
        return {"verdict": "stand_down"}
    return {"verdict": "open", **_show(draft, case)}


def _show(draft: Draft, case: Case) -> dict[str, Json]:
    left = max(case.sla_at - draft.now, case.sla_at - case.sla_at)
    return {"wait_key": case.wait_key, "sla": format_duration(left), "exhibit": exhibit(draft, case)}


def needs_offer(draft: Draft, case: Case) -> bool:
    """Whether no flow shows this case to people by itself. The flow of a task does where its work was refused or is
    unknown; it cannot where it stands at an incident, where nobody was called, or where it has ended. An incident of
    nobody knows which flow is not shown: it may be that of the showing."""
    if not case.is_open:
        return False
    task = draft.tasks.get(case.task_id) if case.task_id else None
    if task is not None and case.context != "LATE_EFFECT":
        return case.category == "TECHNICAL" or task.purpose == "MANUAL"
    return case.context != "RECONCILIATION" or case.incident_key is None


def exhibit(draft: Draft, case: Case) -> str:
    """What the repair form shows: what failed, and what each repair that fits would do."""
    waiting = [repair for repair in case.repairs if repair["status"] == AWAITING]
    return draw_up(
        (
            f"{case.title} ({say(case.category)} failure)",
            f"Evidence, and all that was tried: /ui/cases/{case.case_id} at the address of Recourse",
            *(f"Waits for a second person: {say(repair['action'])}, {say(repair['reasonCode'])}" for repair in waiting),
            *(f"{say(one['action'])}: {one['sentence']}" for one in foresee_repairs(draft, case)),
        )
    )


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
    if case.status == "REPAIR_SUBMITTED":  # still under way, whoever looks after it
        return draft.change_case(case.case_id, "CASE_CHANGED", owner=command.assignee)
    return draft.move_case(case.case_id, "ASSIGNED", owner=command.assignee)


# -- repairs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subject:
    """What a case is about: the task that it came from, and the effect that its repair would settle."""

    task: Task | None
    effect: Effect | None
    late: bool


def find_subject(draft: Draft, case: Case) -> Subject:
    task = draft.tasks.get(case.task_id) if case.task_id else None
    if case.context == "LATE_EFFECT":
        return Subject(task, draft.effects.get(case.effect_id) if case.effect_id else None, late=True)
    return Subject(task, draft.effect_of(task) if task else None, late=False)


def repair_case(draft: Draft, command: RepairCase, reported: Reported) -> Case:
    """Carry a repair out, or let it wait for its second person. What it may be, `check_repair` says."""
    case = find_case(draft, command.case_id)
    if not case.is_open:
        raise CaseClosed(f"The case is {case.status}.")
    if _is_awaiting(case):
        raise ChangeActive("A repair of this case waits for its second person.")
    check_repair(draft, case, command.action)
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    if command.action not in ACTIONS:
        raise Unprocessable(errors=(FieldError("/action", f"one of {', '.join(ACTIONS)}"),))
    if command.reason_code not in draft.policy.reason_codes["repair"]:
        raise ReasonUnknown(errors=(FieldError("/reasonCode", "the policy has no such repair reason"),))
    _check_means(draft, case, command)
    second = command.action in SECOND_PERSON
    repair = {
        "n": len(case.repairs) + 1,
        "action": command.action,
        "reasonCode": command.reason_code,
        "reasonText": command.reason_text,
        "by": draft.actor.subject,
        "at": format_time(draft.now),
        "status": AWAITING if second else "DONE",
        **({"onBehalfOf": draft.on_behalf_of} if draft.on_behalf_of else {}),
        **({"evidence": dict(command.evidence)} if command.evidence else {}),
        **({"input": dict(command.input)} if command.input else {}),
        **({"amount": command.amount.to_json()} if command.amount else {}),
    }
    draft.record(
        "REPAIR_SUBMITTED",
        "CASE",
        case.case_id,
        request_id=case.request_id,
        spoken=command.reason_text,
        action=command.action,
        reasonCode=command.reason_code,
    )
    if second:
        return _stand(draft, case, (*case.repairs, repair))
    return _carry_out(draft, case, repair, reported)


def decide_repair(draft: Draft, command: DecideRepair, reported: Reported) -> Case:
    """The second person's word. By the time it comes the outcome may have come too: then the case has ended by itself,
    and the repair is void."""
    case = find_case(draft, command.case_id)
    repair = next((repair for repair in case.repairs if repair["n"] == command.number), None)
    if repair is None:
        raise RepairNotFound
    if draft.actor.subject in {repair["by"], repair.get("onBehalfOf")}:
        raise FourEyes
    if not case.is_open:
        raise CaseClosed(f"The case is {case.status}; the repair is {repair['status']}.")
    if repair["status"] != AWAITING:
        raise RequestClosed(f"The repair is {repair['status']}.")
    if command.approved:
        check_repair(draft, case, str(repair["action"]))
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    decided = {**repair, "decidedBy": draft.actor.subject, "decidedAt": format_time(draft.now)}
    if command.comment:
        decided["comment"] = command.comment
    before = case.repairs[: command.number - 1]
    draft.record(
        "REPAIR_DECIDED",
        "CASE",
        case.case_id,
        request_id=case.request_id,
        spoken=command.comment,
        action=repair["action"],
        decision="APPROVED" if command.approved else "REJECTED",
    )
    if not command.approved:
        return _stand(draft, case, (*before, {**decided, "status": "REJECTED"}))
    draft.cases[case.case_id] = replace(case, repairs=before)  # what is carried out takes its place
    return _carry_out(draft, draft.cases[case.case_id], {**decided, "status": "DONE"}, reported)


def _is_awaiting(case: Case) -> bool:
    return any(repair["status"] == AWAITING for repair in case.repairs)


def _stand(draft: Draft, case: Case, repairs: tuple[Mapping[str, Json], ...]) -> Case:
    """Keep the repairs of an open case, and show whether one of them is under way."""
    under_way = any(repair["status"] in {AWAITING, RUNNING} for repair in repairs)
    status = "REPAIR_SUBMITTED" if under_way else "ASSIGNED" if case.owner else "OPEN"
    if status != case.status:
        return draft.move_case(case.case_id, status, repairs=repairs)
    draft.cases[case.case_id] = replace(case, repairs=repairs, version=case.version + 1)
    return draft.cases[case.case_id]


def note_refusal(draft: Draft, command: NoteRefusal) -> Mapping[str, Json]:
    """A repair that was asked for and refused leaves its trace, whoever asked (EC62)."""
    case = find_case(draft, command.case_id)
    action = command.action if command.action in ACTIONS else None
    draft.record("REPAIR_REFUSED", "CASE", case.case_id, action=action, code=command.code)
    return {"verdict": "noted"}


# -- whether a repair fits ----------------------------------------------------------------------------------------


def check_repair(draft: Draft, case: Case, action: str) -> None:
    """Raise RepairNotPossible or ChangeActive unless this repair fits the case as it stands now."""
    subject = find_subject(draft, case)
    match action:
        case "RETRY":
            _check_retry(draft, case)
            if subject.task is not None and lacks_amount(draft, subject.task):
                raise RepairNotPossible("Nobody knows the amount; name it in the input.")
        case "VERIFY_OUTCOME":
            _check_verifiable(subject)
        case "MARK_TOOK_EFFECT" | "MARK_NO_EFFECT":
            _check_unknown(case, subject)
        case "FORCE_COMPLETE":
            _check_forceable(draft, case, subject)
        case "WAIVE":
            _check_waivable(draft, case, subject)
        case "REPLACE_INPUT":
            _check_retry(draft, case)
            _check_replaceable(subject)
        case "FAIL_ITEM":
            _check_failable(draft, case, subject)
        case "CONVERT_TO_ORDER":
            _check_convertible(draft, case, subject)


def _check_retry(draft: Draft, case: Case) -> None:
    if case.is_about_flow:  # starting it anew calls nobody: what is held stays held
        return
    task = draft.tasks.get(case.task_id) if case.task_id else None
    if case.context == "LATE_EFFECT":
        raise RepairNotPossible("It has happened; there is nothing to try again.")
    if draft.is_held(task) if task else draft.order_holds - {str(case.case_id)}:
        raise ChangeActive("Another change holds this work; it decides what becomes of it.")
    if _is_false_start(draft, case) or _holds(draft, case):
        return
    if task is not None and task.purpose == "MANUAL":
        raise RepairNotPossible("There is no call to repeat: a person undoes this.")
    if task is None or task.state not in {"FAILED", "IN_FALLOUT", "OUTCOME_UNKNOWN", "WAITING_EXTERNAL"}:
        raise RepairNotPossible("There is nothing to try again.")


def _check_verifiable(subject: Subject) -> None:
    if subject.late or subject.effect is None or not subject.effect.is_open:
        raise RepairNotPossible("The outcome is known; there is nothing to ask for.")


def _check_unknown(case: Case, subject: Subject) -> None:
    effect = subject.effect
    # An accepted effect that is asked after in vain is as unknown as one whose call got no answer.
    unanswered = effect is not None and effect.is_open and effect.accepted_at and case.category == "UNKNOWN_OUTCOME"
    if subject.late or effect is None or not (effect.state == "UNKNOWN" or unanswered):
        raise RepairNotPossible("Only an effect whose outcome is unknown can be marked.")


_STUCK: Final = frozenset({"FAILED", "IN_FALLOUT", "OUTCOME_UNKNOWN", "WAITING_EXTERNAL"})


def _check_forceable(draft: Draft, case: Case, subject: Subject) -> None:
    if subject.late:
        _check_late(draft, subject)
    elif subject.task is None:
        if _is_false_start(draft, case):
            raise RepairNotPossible("The order has not been planned; there is nothing that could have been done.")
    elif subject.task.state not in _STUCK:
        raise RepairNotPossible(f"The task is {subject.task.state}; it goes on by itself.")


def _check_waivable(draft: Draft, case: Case, subject: Subject) -> None:
    if subject.late:
        _check_late(draft, subject)
    elif subject.task is None:
        if case.is_about_flow or _is_false_start(draft, case):
            raise RepairNotPossible("Nothing has happened that could be waived.")
    elif subject.task.kind != "COMPENSATION" or subject.task.purpose == "WITHDRAW":
        raise RepairNotPossible("Only an undoing can be waived; work that is not wanted any more is cancelled.")
    elif subject.task.state not in _STUCK:
        raise RepairNotPossible(f"The task is {subject.task.state}; it goes on by itself.")


def _check_late(draft: Draft, subject: Subject) -> None:
    if subject.effect is not None and any(
        task.reverses == subject.effect.effect_id and not task.has_ended for task in draft.tasks.values()
    ):
        raise RepairNotPossible("It is being undone; repair that, where it fails.")


def _check_replaceable(subject: Subject) -> None:
    if subject.task is None:
        raise RepairNotPossible("There is no task whose input could be replaced.")
    if subject.effect is not None and subject.effect.is_open:
        raise RepairNotPossible("While an outcome is unknown the effect keeps its input; find out what happened first.")


def _check_failable(draft: Draft, case: Case, subject: Subject) -> None:
    task = subject.task
    if subject.late or task is None or task.kind != "FULFILLMENT" or task.state not in _STUCK:
        raise RepairNotPossible("There is no unfinished work of an item here.")
    if case.context == "COMPENSATION":
        raise RepairNotPossible("The item is being cancelled already.")
    arbitrate_cancellation(draft, "ITEMS", frozenset(task.item_ids))


def _check_convertible(draft: Draft, case: Case, subject: Subject) -> None:
    """Something stays that should not, or a wish came too late: a new order can do what this one cannot any more."""
    task = subject.task
    if subject.late:
        _check_late(draft, subject)
        if subject.effect is None or not subject.effect.is_original or subject.effect.state != "CONFIRMED":
            raise RepairNotPossible("Nothing stands here that a new order could undo.")
    elif task is None:
        request = draft.requests.get(case.request_id) if case.request_id else None
        if case.is_about_flow or request is None or request.outcome != "NEW_ORDER_REQUIRED":
            raise RepairNotPossible("No order can be made out of this case.")
    elif task.kind != "COMPENSATION" or task.purpose not in {"COMPENSATE", "MANUAL"}:
        raise RepairNotPossible("Only what could not be undone becomes an order of its own.")
    elif task.state not in _STUCK:
        raise RepairNotPossible(f"The task is {task.state}; it goes on by itself.")


def _find_staying(draft: Draft, subject: Subject) -> Effect | None:
    """The effect that a converted case leaves as it is."""
    if subject.late:
        return subject.effect
    return draft.effects.get(subject.task.reverses) if subject.task and subject.task.reverses else None


def _find_follow_up(draft: Draft, case: Case, reason_code: str) -> dict[str, Json] | None:
    effect = _find_staying(draft, find_subject(draft, case))
    request = draft.requests.get(case.request_id) if case.request_id else None
    reason = request.reason_code if request else reason_code
    return follow_effect(draft, effect, request, reason) if effect else None


def _is_false_start(draft: Draft, case: Case) -> bool:
    """A case about an order that could not be decomposed, and still is not."""
    return (
        case.task_id is None
        and case.context == "FULFILLMENT"
        and not case.is_about_flow
        and draft.plan is None
        and not draft.head.has_ended
    )


def _holds(draft: Draft, case: Case) -> bool:
    """A case that holds the whole order until somebody says that it may go on."""
    return str(case.case_id) in draft.order_holds


def _check_means(draft: Draft, case: Case, command: RepairCase) -> None:
    """What the action needs beside its reason."""
    if command.action in SECOND_PERSON and not command.evidence:
        raise EvidenceRequired(errors=(FieldError("/evidence", "say what shows it: kind, reference, note"),))
    if command.amount and command.amount.currency != draft.policy.currency:
        raise Unprocessable(errors=(FieldError("/amount/currency", f"write it in {draft.policy.currency}"),))
    if command.action == "CONVERT_TO_ORDER":
        if command.input:
            read_wish(command.input, command.reason_code)
        elif _find_follow_up(draft, case, command.reason_code) is None:
            raise Unprocessable(
                "Nothing says which order would follow it up.",
                errors=(FieldError("/input", "say the new order: orderType, items"),),
            )
    if command.action != "REPLACE_INPUT":
        return
    if not command.input:
        raise Unprocessable(errors=(FieldError("/input", "say which parts to replace, and by what"),))
    task = find_subject(draft, case).task
    assert task is not None
    refund = command.input.get("refund")
    names_amount = draft.task_type(task).money == "REFUND" and (refund is not None or lacks_amount(draft, task))
    if names_amount and read_money(refund) is None:
        wrong = FieldError("/input/refund", "say amountMinor, from 0, and currency")
        raise Unprocessable("What is given back is an amount of money.", errors=(wrong,))
    ours = sorted(set(command.input) & _order_words(draft, task))
    if ours:
        raise UseAmendment(errors=tuple(FieldError(f"/input/{name}", "a value of the order") for name in ours))


def _order_words(draft: Draft, task: Task) -> set[str]:
    """Every name under which an input may hold a value of the order: its document's members, those of the task's own
    items, and whatever the policy reads or lets amend."""
    document = draft.document_of(task)
    words = {"order", "customer", "contact", *document}
    for item in document["items"]:
        words.update(item)
    pointers = [*draft.task_type(task).inputs, *(field.path for field in draft.policy.amendable_fields)]
    for pointer in pointers:
        words.update(part for part in pointer.split("/") if part and not part.startswith(("{", "*", "-")))
    return words


# -- what a repair does -------------------------------------------------------------------------------------------

_SENTENCES: Final[Mapping[str, str]] = {
    "RETRY": "Calls {system} again for {work}{again}.",
    "VERIFY_OUTCOME": "Asks {system} again what became of {work}; nothing is done a second time.",
    "MARK_TOOK_EFFECT": "Records that {work} took effect at {system}; the work goes on behind it, nothing is called.",
    "MARK_NO_EFFECT": "Records that {work} did not take effect at {system}; it is done anew, as a new effect.",
    "FORCE_COMPLETE": "Records that a person has done {work}; the call's own row is given up, nothing is called.",
    "WAIVE": "Leaves as it is what {work} should have undone, and records the amount that is waived.",
    "REPLACE_INPUT": "Calls {system} again for {work}, with the parts of its input that you give.",
    "FAIL_ITEM": "Gives up item {items}: what it has had as effects is undone, then it ends FAILED.",
}
_CONVERTED: Final = "Makes a {type} order ({action}) that follows this one up; what stands stays, nothing is called."
_CONVERTED_AS_SAID: Final = (
    "Makes the order that you describe in the input (orderType, items), which follows this one up; nothing is called."
)
_LETTING_GO: Final = "Lets the order go on, although what it depended on is gone."
_STARTING: Final = "Starts the order's flow again; it is checked and planned anew."
_RESTARTING: Final = "Starts the flow again from where the order stands; nothing that was done is done again."
_SETTLED_BY_HAND: Final = "Records that a person has dealt with it, and closes the case; nothing is called."
_LATE_UNDONE: Final = "Records that a person has undone what happened too late; nothing is called."
_LATE_WAIVED: Final = "Leaves standing what happened too late, and records the amount that is waived."


def foresee_repairs(draft: Draft, case: Case) -> list[dict[str, Json]]:
    """The repairs that fit the case now, with a sentence each that says what it will do."""
    if not case.is_open or _is_awaiting(case):
        return []
    found: list[dict[str, Json]] = []
    for action in ACTIONS:
        try:
            check_repair(draft, case, action)
        except (ChangeActive, RepairNotPossible):
            continue
        found.append(
            {
                "action": action,
                "sentence": _foretell(draft, case, action),
                "needsEvidence": action in SECOND_PERSON,
                "needsSecondPerson": action in SECOND_PERSON,
            }
        )
    return found


def _foretell(draft: Draft, case: Case, action: str) -> str:
    if action == "CONVERT_TO_ORDER":
        made = _find_follow_up(draft, case, "")
        if made is None:
            return _CONVERTED_AS_SAID
        return _CONVERTED.format(type=made["orderType"], action=made["items"][0]["action"])
    subject = find_subject(draft, case)
    if subject.late and subject.effect is not None:
        stands = subject.effect.is_original and subject.effect.state == "CONFIRMED"
        if not stands:
            return _SETTLED_BY_HAND
        return _LATE_UNDONE if action == "FORCE_COMPLETE" else _LATE_WAIVED
    task = subject.task
    if task is None:
        again = _LETTING_GO if _holds(draft, case) else _RESTARTING if case.is_about_flow else _STARTING
        return again if action == "RETRY" else _SETTLED_BY_HAND
    kept = subject.effect is not None and subject.effect.is_open
    return _SENTENCES[action].format(
        system=draft.task_type(task).system,
        work=task.task_type,
        items=", ".join(task.item_ids),
        again=", under the same effect id" if kept else ", as a new effect",
    )


def _carry_out(draft: Draft, case: Case, repair: Mapping[str, Json], reported: Reported) -> Case:
    """Do what was asked; the case ends with it, but for FAIL_ITEM, which has a cancellation to wait for."""
    action = str(repair["action"])
    subject = find_subject(draft, case)
    task = subject.task
    if action == "FAIL_ITEM":
        reported.given_up.append(case.case_id)
        return _stand(draft, case, (*case.repairs, {**repair, "status": RUNNING}))
    if action == "CONVERT_TO_ORDER":
        return _convert(draft, case, task, subject, repair)
    if action in {"FORCE_COMPLETE", "WAIVE"} and (subject.late or task is None):
        _settle_by_hand(draft, subject.effect if subject.late else None, repair)
    elif case.is_about_flow:
        _restart_flow(draft, case)
    elif task is not None:
        _repair_task(draft, task, subject.effect, repair)
    elif not _holds(draft, case):  # the end of a case that holds the order lets it go on
        restart_fulfillment(draft)
    return close_case(draft, case.case_id, "RESOLVED", action, repairs=(*case.repairs, repair))


def _convert(draft: Draft, case: Case, task: Task | None, subject: Subject, repair: Mapping[str, Json]) -> Case:
    """The case ends by an order of its own. What stands stays CONFIRMED, so the ledger says by itself that the
    cancellation undid only a part; an undoing that waits for a person is over."""
    reason = str(repair["reasonCode"])
    wish = repair.get("input")
    proposal = read_wish(wish, reason) if wish else _find_follow_up(draft, case, reason)
    assert proposal is not None
    staying = _find_staying(draft, subject)
    created = convert(draft, proposal, reason)
    if task is not None and not subject.late:
        _end_undoing(draft, task, subject.effect, repair)
        if staying is not None and staying.state == "CONFIRMED":
            finish_original(draft, staying, undone=False)
    made = {**repair, "createdOrderId": str(created), **({"because": str(staying.effect_id)} if staying else {})}
    return close_case(draft, case.case_id, "RESOLVED", "CONVERT_TO_ORDER", repairs=(*case.repairs, made))


def mark_made(draft: Draft, proposals: list[dict[str, Json]]) -> tuple[Mapping[str, Json], ...]:
    """Proposals as they are kept; what a repair has made an order of already is not made again."""
    made = {
        repair["because"]: repair["createdOrderId"]
        for case in draft.cases.values()
        for repair in case.repairs
        if "createdOrderId" in repair and "because" in repair
    }
    return tuple(
        {**proposal, "createdOrderId": made[proposal["because"]]} if proposal["because"] in made else proposal
        for proposal in proposals
    )


def _repair_task(draft: Draft, task: Task, effect: Effect | None, repair: Mapping[str, Json]) -> None:
    match repair["action"]:
        case "RETRY":
            retry_task(draft, task)
        case "REPLACE_INPUT":
            draft.change_task(task.task_id, replaced_input={**(task.replaced_input or {}), **repair["input"]})
            retry_task(draft, draft.tasks[task.task_id])
        case "VERIFY_OUTCOME":
            assert effect is not None
            draft.change_effect(effect.effect_id, unknown_since=None, missed_at=None)
            draft.change_task(task.task_id, handed=False, release=task.release + 1)
        case "MARK_TOOK_EFFECT":
            assert effect is not None
            confirm_effect(draft, effect.effect_id, basis="MANUAL", **_told(draft, task, repair))
        case "MARK_NO_EFFECT":
            assert effect is not None
            _mark_no_effect(draft, task, effect, repair)
        case "FORCE_COMPLETE":
            _force(draft, task, effect, repair)
        case "WAIVE":
            _waive(draft, task, effect, repair)


def _mark_no_effect(draft: Draft, task: Task, effect: Effect, repair: Mapping[str, Json]) -> None:
    draft.move_effect(effect.effect_id, "NO_EFFECT", basis="MANUAL", reason=_proof(repair))
    if task.has_ended:
        return
    if effect.withdraws:
        step_in(draft, task, "COMPLETED")  # it could not be stopped: an answer
        return
    if task.kind == "COMPENSATION" and task.state == "WAITING_EXTERNAL":
        draft.move_task(task.task_id, "OUTCOME_UNKNOWN")
    if task.state != "READY":
        draft.move_task(task.task_id, "READY", handed=False, release=task.release + 1)


def _abandon(draft: Draft, effect: Effect | None, repair: Mapping[str, Json]) -> None:
    """What the call's own row says from now on: nothing. Should it report success after all, that is a late effect."""
    if effect is not None and effect.is_open:
        draft.move_effect(
            effect.effect_id, "NO_EFFECT", basis="MANUAL", reason=f"given up by {repair['action']}: {_proof(repair)}"
        )


def _force(draft: Draft, task: Task, effect: Effect | None, repair: Mapping[str, Json]) -> None:
    _abandon(draft, effect, repair)
    task_type = draft.task_type(task)
    by_hand = Effect(
        effect_id=EffectId(draft.new_id("effect")),
        task_id=task.task_id,
        task_type=task.task_type,
        system=task_type.system,
        operation=task_type.operation,
        level=task_type.external_effect_level,
        state="INTENDED",
        input=effect.input if effect else {},  # nothing was sent
        intended_at=draft.now,
        basis="MANUAL",
        reverses=task.reverses if task.kind == "COMPENSATION" and task.purpose != "WITHDRAW" else None,
        withdraws=task.reverses if task.purpose == "WITHDRAW" else None,
    )
    told = _told(draft, task, repair)
    draft.add_effect(by_hand)
    draft.change_task(task.task_id, effect_id=by_hand.effect_id)
    confirm_effect(draft, by_hand.effect_id, **told)


def _waive(draft: Draft, task: Task, effect: Effect | None, repair: Mapping[str, Json]) -> None:
    _end_undoing(draft, task, effect, repair)
    original = draft.effects[task.reverses] if task.reverses else None
    if original is not None and original.state == "CONFIRMED":
        draft.move_effect(original.effect_id, "WAIVED", reason=_proof(repair))
        finish_original(draft, original, undone=False)


def _end_undoing(draft: Draft, task: Task, effect: Effect | None, repair: Mapping[str, Json]) -> None:
    """Nobody undoes it any more."""
    _abandon(draft, effect, repair)
    if task.state == "WAITING_EXTERNAL":
        draft.move_task(task.task_id, "OUTCOME_UNKNOWN")
    if draft.tasks[task.task_id].state == "OUTCOME_UNKNOWN":
        draft.move_task(task.task_id, "IN_FALLOUT")
    draft.move_task(task.task_id, "WAIVED")


def _settle_by_hand(draft: Draft, effect: Effect | None, repair: Mapping[str, Json]) -> None:
    """A case that no task can end: what happened too late is undone or left standing by a person; of everything else
    only the case itself says what was done."""
    if effect is None or not effect.is_original or effect.state != "CONFIRMED":
        return
    if repair["action"] == "WAIVE":
        draft.move_effect(effect.effect_id, "WAIVED", reason=_proof(repair))
        return
    task = draft.tasks[effect.task_id]
    compensation = draft.task_type(task).compensation
    by_hand = Effect(
        effect_id=EffectId(draft.new_id("effect")),
        task_id=effect.task_id,
        task_type=compensation or effect.task_type,
        system=effect.system,
        operation=effect.operation,
        level=effect.level,
        state="INTENDED",
        input=None,
        intended_at=draft.now,
        basis="MANUAL",
        reverses=effect.effect_id,
    )
    draft.add_effect(by_hand)
    confirm_effect(draft, by_hand.effect_id, reason=_proof(repair))


def _told(draft: Draft, task: Task, repair: Mapping[str, Json]) -> dict[str, Json]:
    """What the MANUAL outcome says: reference and output as the person gives them, and the money that moved."""
    given = repair.get("input") or {}
    output = given.get("output")
    money = draft.task_type(task).money
    if money and "amount" in repair:
        moved = {"captured" if money == "CAPTURE" else "refunded": repair["amount"]["amountMinor"]}
        output = {**output, **moved} if isinstance(output, dict) else moved
    reference = given.get("externalReference")
    return {
        "external_reference": reference if isinstance(reference, str) else None,
        "output": output,
        "reason": _proof(repair),
    }


def _proof(repair: Mapping[str, Json]) -> str:
    evidence = repair.get("evidence")
    if not evidence:
        return str(repair["reasonCode"])
    return f"{evidence['kind']}: {evidence['reference']}"


def restart_fulfillment(draft: Draft) -> None:
    """Start the order's flow again under a new run: it decides anew, and what is left of the old one stands down."""
    run = Run(draft.new_id("run"))
    draft.change_head(run=run)
    draft.send("order-accepted", f"{draft.head.order_id}:{run}", ttl=3600, order_id=draft.head.order_id, run=run)


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
    """End a case and wake the flow that shows it to people. A repair that still waits for its second person is void."""
    repairs = changes.pop("repairs", draft.cases[case_id].repairs)
    over = {AWAITING: "VOID", RUNNING: "DONE"}
    case = draft.move_case(
        case_id,
        status,
        resolution=resolution,
        note={"resolution": resolution},
        repairs=tuple({**repair, "status": over.get(repair["status"], repair["status"])} for repair in repairs),
        **changes,
    )
    draft.unhold_all(str(case_id))
    draft.send("case-decided", case.wait_key)
    return case


def settle_cases(draft: Draft) -> bool:
    """A case whose cause is gone ends by itself; True if one did."""
    ended = False
    for case in draft.open_cases():
        task = draft.tasks.get(case.task_id) if case.task_id else None
        if (_is_false_start(draft, case) or _holds(draft, case)) and all(
            has_ended("ITEM", item.base) and item.base != "COMPLETED" for item in draft.items.values()
        ):
            close_case(draft, case.case_id, "CANCELLED", "CAUSE_VANISHED")  # nobody wants it started any more
            ended = True
        late = draft.effects.get(case.effect_id) if case.effect_id and case.context == "LATE_EFFECT" else None
        if late is not None and late.state in {"REVERSED", "WAIVED"}:
            close_case(draft, case.case_id, "RESOLVED", "OBLIGATION_MET")
            ended = True
        if case.is_about_flow and not _is_carried(draft, case):
            close_case(draft, case.case_id, "CANCELLED", "CAUSE_VANISHED")  # it has ended without its flow
            ended = True
        elif case.is_about_flow and case.incident_key is None and _goes_on(draft, case):
            close_case(draft, case.case_id, "CANCELLED", "CAUSE_VANISHED")  # somebody serves it again
            ended = True
        if task is None or case.context == "LATE_EFFECT":
            continue
        failing = any(repair["status"] == RUNNING for repair in case.repairs)
        if failing and _is_abandoned(draft, case):
            _take_back(draft, case)
            failing = False
        solved = task.state in {"COMPLETED", "COMPENSATED", "COMPENSATING", "WAIVED"}
        vanished = task.state in {"CANCELLED", "SUPERSEDED", "RETAINED", "NOT_REQUIRED"} or task.state in UNSTARTED
        if solved or vanished:
            resolution = "OUTCOME_ARRIVED" if solved else "CAUSE_VANISHED"
            if failing and task.state == "CANCELLED":
                solved, resolution = True, "FAIL_ITEM"
            close_case(draft, case.case_id, "RESOLVED" if solved else "CANCELLED", resolution)
            ended = True
    return ended


def _is_abandoned(draft: Draft, case: Case) -> bool:
    """FAIL_ITEM has been asked for, and its cancellation was refused, withdrawn or overtaken."""
    own = [request for request in draft.requests.values() if request.repairs_case == case.case_id]
    return bool(own) and own[-1].status in {"REJECTED", "WITHDRAWN", "SUPERSEDED"}


def _take_back(draft: Draft, case: Case) -> None:
    _stand(
        draft,
        case,
        tuple({**repair, "status": "REJECTED"} if repair["status"] == RUNNING else repair for repair in case.repairs),
    )


def park_case(draft: Draft, command: ParkCase) -> Mapping[str, Json]:
    """Remember under which incident the engine shows this case's job."""
    case = draft.cases.get(command.case_id)
    if case is not None and case.is_open and case.incident_key != command.incident_key:
        draft.change_case(case.case_id, "CASE_CHANGED", incident_key=command.incident_key)
    return {"verdict": "parked"}


def resume_case(draft: Draft, command: ResumeCase) -> Mapping[str, Json]:
    """Somebody resolved the incident in the engine, which is a wish to try again: the same as RETRY, with the incident
    as its evidence (EC58). Held work and what cannot be tried again stay as they are, with their case."""
    case = draft.cases.get(command.case_id)
    if case is None or not case.is_open or case.incident_key != command.incident_key:
        return {"verdict": "stand_down"}
    try:
        _check_retry(draft, case)
    except (ChangeActive, RepairNotPossible):
        return {"verdict": "stand_down"}
    if case.task_id:
        retry_task(draft, draft.tasks[case.task_id])
    repair = _by_engine(draft, case, "INCIDENT", command.incident_key)
    close_case(draft, case.case_id, "RESOLVED", "RESOLVED_IN_ENGINE", repairs=(*case.repairs, repair))
    return {"verdict": "resumed"}


def _by_engine(draft: Draft, case: Case, kind: str, key: str) -> dict[str, Json]:
    """A RETRY that nobody asked for here, with what was seen in the engine as its evidence."""
    return {
        "n": len(case.repairs) + 1,
        "action": "RETRY",
        "reasonCode": None,
        "reasonText": None,
        "by": draft.actor.subject,
        "at": format_time(draft.now),
        "status": "DONE",
        "evidence": {"kind": kind, "reference": key},
    }


# -- flows that are stuck or gone ---------------------------------------------------------------------------------


def note_incident(draft: Draft, command: NoteIncident) -> Mapping[str, Json]:
    """An incident that no job of ours speaks of is a case, once ever for its key (EC58): it blocks what its flow
    carries, and the order shows that. Where no flow is known (EC60) it is told and blocks nothing; that of a flow that
    was replaced stops nobody."""
    if any(case.incident_key == command.incident_key for case in draft.cases.values()):
        return {"verdict": "known"}
    part = find_part(draft, command.run) if command.run else None
    if part is None and command.noted:
        return {"verdict": "stand_down"}
    carried = part or Part()
    # Under an order cancellation a stuck fulfillment is a fact for its assessment, not one more thing in its way.
    request = draft.order_request() if part and part.request_id is None else None
    case = _open_flow_case(
        draft,
        replace(carried, request_id=request.request_id) if request else carried,
        f"The flow is stuck at {command.place}",
        incident_key=command.incident_key,
        blocking=part is not None and request is None,
        context=_context_of(draft, part) if part else "RECONCILIATION",
    )
    return {"verdict": "told", "case_id": str(case.case_id)}


def note_gone_flow(draft: Draft, command: NoteGoneFlow) -> Mapping[str, Json]:
    """Somebody ended an instance in the engine, or the engine lost it, while what it carried was unfinished (EC14): the
    deed is kept as a case, and the flow starts anew from the plan. Past the cap of restarts the case is a person's."""
    part = find_part(draft, command.run)
    if part is None:
        return {"verdict": "stand_down"}
    title = f"The flow is gone: {command.evidence}"
    case = _open_flow_case(draft, part, title, blocking=False, context="RECONCILIATION")
    if not command.restart:
        return {"verdict": "told", "case_id": str(case.case_id)}
    restart_part(draft, part, command.reason)
    repair = _by_engine(draft, case, "INSTANCE", command.instance_key)
    close_case(draft, case.case_id, "RESOLVED", "FLOW_RESTARTED", repairs=(repair,))
    return {"verdict": "restarted"}


def note_silent_flow(draft: Draft, command: NoteSilentFlow) -> Mapping[str, Json]:
    """What was started anew as often as it is by itself, and is still not heard of, is a person's: a case that says
    what to look at, with a deadline. One that is open already about the same flow is enough; nothing is blocked, for
    an outcome that comes after all ends the order as ever."""
    plan_id = command.plan_id
    part = part_of_plan(draft, plan_id) if plan_id else part_of(draft, command.request_id)
    if part is None or part.plan_id != plan_id:
        return {"verdict": "stand_down"}
    for case in draft.open_cases():
        if case.is_about_flow and (carried := _carried_by(draft, case)) and carried.request_id == part.request_id:
            return {"verdict": "known", "case_id": str(case.case_id)}
    case = _open_flow_case(draft, part, command.title, blocking=False, context="RECONCILIATION")
    return {"verdict": "told", "case_id": str(case.case_id)}


def _open_flow_case(
    draft: Draft, part: Part, title: str, *, context: str, blocking: bool, incident_key: str | None = None
) -> Case:
    case = Case(
        case_id=CaseId(draft.new_id("case")),
        status="OPEN",
        context=context,
        category="TECHNICAL",
        blocking=blocking,
        title=title,
        opened_at=draft.now,
        sla_at=draft.now + draft.policy.fallout_sla,
        request_id=part.request_id,
        incident_key=incident_key,
    )
    draft.add_case(case, _OPENED.get(context, "CASE_OPENED"))
    return case


_OPENED: Final = {"COMPENSATION": "CANCELLATION_CASE_OPENED", "AMENDMENT": "AMENDMENT_CASE_OPENED"}


def _context_of(draft: Draft, part: Part) -> str:
    if part.request_id is None:
        return "FULFILLMENT"
    return "AMENDMENT" if part.request_id in draft.amendments else "COMPENSATION"


def _is_carried(draft: Draft, case: Case) -> bool:
    """Whether what a case's flow carries still needs a flow; where none is known the case ends with its incident."""
    unknown = case.context == "RECONCILIATION" and case.incident_key is not None
    return unknown or _carried_by(draft, case) is not None


def _goes_on(draft: Draft, case: Case) -> bool:
    """Whether the plan of a flow that was gone or silent is worked on again: something has been called since, nothing
    else waits to be, and no outcome from before is open."""
    part = _carried_by(draft, case)
    if part is None or part.plan_id is None:
        return False
    tasks = {task.task_id: task for task in draft.tasks_of_plan(part.plan_id)}
    if any(task.state == "READY" and task.purpose != "MANUAL" and not draft.is_held(task) for task in tasks.values()):
        return False
    effects = [effect for effect in draft.effects.values() if effect.task_id in tasks]
    if any(effect.is_open and effect.intended_at <= case.opened_at for effect in effects):
        return False
    return any(effect.intended_at > case.opened_at for effect in effects)


def _carried_by(draft: Draft, case: Case) -> Part | None:
    """The unfinished part that a case's flow carries. On a fulfillment's case the request is the one that weighs it."""
    return part_of(draft, None if case.context == "FULFILLMENT" else case.request_id)


def _restart_flow(draft: Draft, case: Case) -> None:
    part = _carried_by(draft, case)
    if part is not None:
        restart_part(draft, part, "CASE_REPAIRED")


def raise_jeopardy(draft: Draft, command: RaiseJeopardy) -> Mapping[str, Json]:
    """A deadline passed: mark it, tell the world; nothing is approved or refused by it."""
    request = draft.requests.get(RequestId(command.subject_id))
    amendment = draft.amendments.get(RequestId(command.subject_id))
    case = draft.cases.get(CaseId(command.subject_id))
    if amendment is not None and not amendment.has_ended and not amendment.jeopardy:
        draft.change_amendment(amendment.request_id, jeopardy=True)
        draft.record(
            "JEOPARDY_RAISED",
            "REQUEST",
            amendment.request_id,
            request_id=amendment.request_id,
            reason=command.kind,
        )
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


def record_repair(draft: Draft, command: RecordRepair, reported: Reported) -> Mapping[str, Json]:
    """What became of a repair task shown to people; what was entered there counts like the same through the API."""
    case = draft.cases.get(command.case_id)
    if case is None or not case.is_open or case.wait_key != command.wait_key:
        return {"verdict": "decided"}
    if not command.repairer or command.action not in {*ACTIONS, "APPROVE", "REJECT"}:
        return _refuse_repair(draft, case, command.action, "NO_DECISION")
    if command.refusal:
        return _refuse_repair(draft, case, command.action, command.refusal)
    deciding = command.action in {"APPROVE", "REJECT"}
    if ("approver" if deciding else "operator") not in draft.actor.roles:
        return _refuse_repair(draft, case, command.action, "ROLE_REQUIRED")
    comment = (command.comment or "")[:500] or None
    try:
        if deciding:
            number = next((repair["n"] for repair in case.repairs if repair["status"] == AWAITING), 0)
            approved = command.action == "APPROVE"
            decide_repair(draft, DecideRepair(command.order_id, case.case_id, number, approved, comment), reported)
        else:
            reason = command.reason_code or next(iter(draft.policy.reason_codes["repair"]), "")
            repair_case(
                draft,
                RepairCase(
                    command.order_id,
                    case.case_id,
                    command.action,
                    reason,
                    comment,
                    command.evidence,
                    command.input,
                    command.amount,
                ),
                reported,
            )
    except Breach as breach:
        return _refuse_repair(draft, case, command.action, breach.code)
    # What waits for its second person, or for a cancellation, is shown again until the case has ended.
    stands = draft.cases[case.case_id]
    return {"verdict": "again", **_show(draft, stands)} if stands.is_open else {"verdict": "decided"}


def _refuse_repair(draft: Draft, case: Case, action: str | None, code: str) -> Mapping[str, Json]:
    # What was typed there may be anything; only words of ours are told to the world.
    draft.record("REPAIR_REFUSED", "CASE", case.case_id, action=action if action in ACTIONS else None, code=code)
    return {"verdict": "again", **_show(draft, case)}


def mend_by_amendment(draft: Draft, amendment: Amendment) -> None:
    """The case that an amendment was asked for ends with it as its evidence; what failed is tried again."""
    case = draft.cases.get(amendment.repairs_case) if amendment.repairs_case else None
    if case is None or not case.is_open:
        return
    task = draft.tasks.get(case.task_id) if case.task_id else None
    if task is not None and task.state == "FAILED" and task.superseded_by is None:
        retry_task(draft, task)
    repair = {
        "n": len(case.repairs) + 1,
        "action": "AMENDMENT",
        "reasonCode": amendment.reason_code,
        "reasonText": None,
        "evidence": {"kind": "AMENDMENT", "reference": str(amendment.request_id), "note": None},
        "by": amendment.requested_by,
        "at": format_time(draft.now),
        "status": "DONE",
    }
    close_case(draft, case.case_id, "RESOLVED", "AMENDED", repairs=(*case.repairs, repair))
