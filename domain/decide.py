"""decide(draft, command) → Decision: one line per command to its wing, then `settle`; never a wing's own work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from domain import amendment as amending
from domain import commands as ask
from domain.cancellation import (
    answer_charge,
    approve,
    assess,
    begin_assessment,
    plan_compensation,
    record_review,
    reject,
    request_cancellation,
    withdraw,
)
from domain.dependence import follow_cancellation
from domain.execution import claim_task, claim_verification, record_outcome
from domain.fallout import (
    assign_case,
    decide_repair,
    describe_wait,
    note_gone_flow,
    note_incident,
    note_refusal,
    note_silent_flow,
    offer_case,
    park_case,
    raise_jeopardy,
    record_repair,
    repair_case,
    resume_case,
)
from domain.flows import restart
from domain.fulfillment import (
    accept_order,
    check_start_date,
    decompose_order,
    hold_order,
    release_order,
    release_tasks,
    validate_order,
)
from domain.order import Amendment, Case, Decision, Draft, Reported, Request, Surroundings
from domain.settle import settle
from domain.supplemental import add_relation, create_proposal, supplement_order
from domain.values import Json, TaskId

# What a wing's function says: the answer itself, or the object that the answer is about, or nothing but "done".
Told = Mapping[str, Json] | Request | Amendment | Case | None


def decide(draft: Draft, command: ask.Command, around: Surroundings) -> Decision:
    """Carry one command to its end on a draft. Raises a Breach where the asker is wrong; then nothing is kept."""
    reported = Reported()
    told: Told = None
    match command:
        case ask.AcceptOrder():
            accept_order(draft, command, around)
        case ask.SupplementOrder():
            supplement_order(draft, command)
        case ask.CreateProposal():
            create_proposal(draft, command)
        case ask.AddRelation():
            add_relation(draft, command, around)
        case ask.HoldOrder():
            hold_order(draft, command)
        case ask.ReleaseOrder():
            release_order(draft, command)
        case ask.FollowCancellation():
            told = follow_cancellation(draft, command, around)
        case ask.ValidateOrder():
            told = validate_order(draft, command)
        case ask.CheckStartDate():
            told = check_start_date(draft, command)
        case ask.DecomposeOrder():
            told = decompose_order(draft, command, around, reported)
        case ask.ReleaseTasks():
            told = release_tasks(draft, command)
        case ask.ClaimTask():
            told = claim_task(draft, command)
        case ask.ClaimVerification():
            told = claim_verification(draft, command)
        case ask.RecordOutcome():
            told = record_outcome(draft, command, reported)
        case ask.RequestCancellation():
            told = request_cancellation(draft, command)
        case ask.BeginAssessment():
            told = begin_assessment(draft, command)
        case ask.AssessCancellation():
            told = assess(draft, command)
        case ask.PlanCompensation():
            told = plan_compensation(draft, command)
        case ask.ApproveCancellation():
            told = approve(draft, command)
        case ask.RejectCancellation():
            told = reject(draft, command)
        case ask.WithdrawCancellation():
            told = withdraw(draft, command)
        case ask.AnswerCharge():
            told = answer_charge(draft, command)
        case ask.RequestAmendment():
            told = amending.request_amendment(draft, command)
        case ask.AssessAmendment():
            told = amending.assess(draft, command)
        case ask.CarryOutAmendment():
            told = amending.carry_out(draft, command)
        case ask.ApproveAmendment():
            told = amending.approve(draft, command)
        case ask.RejectAmendment():
            told = amending.reject(draft, command)
        case ask.ApplyAmendment():
            told = amending.apply(draft, command)
        case ask.WithdrawAmendment():
            told = amending.withdraw(draft, command)
        case ask.AnswerAmendmentCharge():
            told = amending.answer_charge(draft, command)
        case ask.AssignCase():
            told = assign_case(draft, command)
        case ask.RepairCase():
            told = repair_case(draft, command, reported)
        case ask.DecideRepair():
            told = decide_repair(draft, command, reported)
        case ask.NoteRefusal():
            told = note_refusal(draft, command)
        case ask.RaiseJeopardy():
            told = raise_jeopardy(draft, command)
        case ask.RecordReview():
            amended = command.request_id in draft.amendments
            told = amending.record_review(draft, command) if amended else record_review(draft, command)
        case ask.RecordRepair():
            told = record_repair(draft, command, reported)
        case ask.OfferCase():
            told = offer_case(draft, command)
        case ask.RestartFlow():
            told = restart(draft, command)
        case ask.ParkCase():
            told = park_case(draft, command)
        case ask.ResumeCase():
            told = resume_case(draft, command)
        case ask.NoteIncident():
            told = note_incident(draft, command)
        case ask.NoteGoneFlow():
            told = note_gone_flow(draft, command)
        case ask.NoteSilentFlow():
            told = note_silent_flow(draft, command)
        case _:
            assert_never(command)
    settle(draft, reported)
    _raise_version(draft)
    return _answer(draft, command, told)


def _raise_version(draft: Draft) -> None:
    """The ETag's number moves with content, shown state, plan version and, on a live order, requests; never with an
    outcome alone (1-domain §11). Once per transaction."""
    head, before = draft.head, draft.before.head
    requests_moved = not before.has_ended and any(
        request.version != (old.version if (old := draft.before.requests.get(request_id)) else 0)
        for request_id, request in draft.requests.items()
    )
    requests_moved |= not before.has_ended and any(
        amendment.version != (was.version if (was := draft.before.amendments.get(request_id)) else 0)
        for request_id, amendment in draft.amendments.items()
    )
    moved = (
        before.version == 0
        or draft.content_changed
        or head.state != before.state
        or head.plan_version != before.plan_version
        or requests_moved
        or draft.order_holds != draft.before.order_holds
    )
    if moved:
        draft.change_head(version=before.version + 1, updated_at=draft.now)


def order_etag(version: int) -> str:
    return f'"order-version-{version}"'


def request_etag(version: int) -> str:
    return f'"request-version-{version}"'


def case_etag(version: int) -> str:
    return f'"case-version-{version}"'


def _answer(draft: Draft, command: ask.Command, told: Told) -> Decision:
    """The body that the asker gets: of the object that the command was about, as it stands after settling."""
    order_id = str(draft.head.order_id)
    base = f"/api/v1/orders/{order_id}"
    body: dict[str, Json]
    if isinstance(told, Request):
        request = draft.requests[told.request_id]
        link = f"{base}/cancellation-requests/{request.request_id}"
        body = {
            "cancellationRequestId": str(request.request_id),
            "orderId": order_id,
            "status": request.status,
            "currentOrderState": draft.head.state,
            **({"outcome": request.outcome} if request.outcome else {}),
            "links": {"self": link},
        }
        if not isinstance(command, ask.RequestCancellation):  # the first answer is the lesson's (§9), to the letter
            body |= {"version": request.version, "links": {"self": link, "order": base}}
        return Decision(draft, 202, body, request_etag(request.version), link)
    if isinstance(told, Amendment):
        amendment = draft.amendments[told.request_id]
        link = f"{base}/amendment-requests/{amendment.request_id}"
        body = {
            "amendmentRequestId": str(amendment.request_id),
            "orderId": order_id,
            "status": amendment.status,
            "currentOrderState": draft.head.state,
            **({"outcome": amendment.outcome} if amendment.outcome else {}),
            "links": {"self": link},
        }
        if not isinstance(command, ask.RequestAmendment):
            body |= {"version": amendment.version, "links": {"self": link, "order": base}}
        return Decision(draft, 202, body, request_etag(amendment.version), link)
    if isinstance(told, Case):
        case = draft.cases[told.case_id]
        link = f"/api/v1/fallout-cases/{case.case_id}"
        body = {
            "caseId": str(case.case_id),
            "orderId": order_id,
            "status": case.status,
            "version": case.version,
            **({"resolution": case.resolution} if case.resolution else {}),
            **({"n": case.repairs[-1]["n"]} if case.repairs else {}),
            **(
                {"createdOrderId": case.repairs[-1]["createdOrderId"]}
                if case.repairs and "createdOrderId" in case.repairs[-1]
                else {}
            ),
            "currentOrderState": draft.head.state,
            "links": {"self": link, "order": base},
        }
        return Decision(draft, 202, body, case_etag(case.version), link)
    if told is not None:
        return Decision(draft, 200, _with_case(draft, command, told))
    body = {
        "orderId": order_id,
        "externalId": draft.head.external_id,
        "state": draft.head.state,
        "version": draft.head.version,
        "links": {"self": base, "plan": f"{base}/plan", "timeline": f"{base}/timeline"},
    }
    return Decision(draft, 202, body, order_etag(draft.head.version), base)


def _with_case(draft: Draft, command: ask.Command, told: Mapping[str, Json]) -> Mapping[str, Json]:
    """A job that ran into a case is told which one, so that its flow can show it to people."""
    if told.get("verdict") not in {"case", "exhausted"}:
        return told
    if isinstance(command, ask.RecordOutcome):
        task_id: TaskId = draft.effects[command.effect_id].task_id
    else:
        assert isinstance(command, ask.ClaimTask | ask.ClaimVerification)
        task_id = command.task_id
    return {**told, **describe_wait(draft, task_id)}
