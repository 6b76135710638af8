"""Everything that can be asked of an order, one frozen dataclass each; it must never say how it is done."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from domain.errors import FieldError
from domain.values import Actor, CaseId, EffectId, Json, Money, OrderId, PlanId, RequestId, Run, TaskId, TenantId


@dataclass(frozen=True, slots=True)
class Envelope:
    """Around a command: who asks, under which id, and what they believe to be true.

    command_id: the same id, the same command · fingerprint: hash of the body; another body under this id is
    IDEMPOTENCY_KEY_REUSED · if_match: the raw header, None where absent
    on_behalf_of: another person, named in the body by one who may (8.D8) · keep: whether the answer is kept as a
    receipt (False for commands whose repetition is harmless by itself)
    """

    tenant_id: TenantId
    command_id: uuid.UUID
    actor: Actor
    fingerprint: str = ""
    if_match: str | None = None
    on_behalf_of: str | None = None
    keep: bool = True
    trace_parent: str | None = None


@dataclass(frozen=True, slots=True)
class OrderItem:
    """One item as asked for; `content` holds configuration, price and what else the client said of it."""

    item_id: str
    action: str
    offering: str
    quantity: int
    content: Mapping[str, Json]
    parent: str | None = None
    relies_on: tuple[str, ...] = ()
    target_asset: uuid.UUID | None = None


# -- orders -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AcceptOrder:
    """A new order. `content` is the document without items; order_id is derived from the command's id.

    source: the order that it follows up · reason_code: why, in the policy's words; checked where a person gave it
    proposed: made from a proposal or a repair, which keep what another order's policy would refuse
    """

    order_id: OrderId
    external_id: str | None
    order_type: str
    content: Mapping[str, Json]
    items: tuple[OrderItem, ...]
    relations: tuple[Mapping[str, Json], ...] = ()
    source: OrderId | None = None
    reason_code: str | None = None
    proposed: bool = False
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class SupplementOrder:
    """POST /orders/{id}/supplemental-orders: `order_id` is the order that is followed up; `new` says only what the
    asker said, what is left out is the source's."""

    order_id: OrderId
    new: AcceptOrder


@dataclass(frozen=True, slots=True)
class CreateProposal:
    """Make the follow-up order that proposal `number` of a cancellation describes."""

    order_id: OrderId
    request_id: RequestId
    number: int
    new_order_id: OrderId
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class AddRelation:
    """Say how this order relates to an older one."""

    order_id: OrderId
    type: str
    target: OrderId | None
    reason_code: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class HoldOrder:
    order_id: OrderId
    reason: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseOrder:
    order_id: OrderId
    reason: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class FollowCancellation:
    """Another order, which this one depends on, is being cancelled, or is not any more: look how that stands now.
    Whoever asks twice, or in the wrong order, gets the same."""

    order_id: OrderId
    source_id: OrderId
    request_id: RequestId


# -- fulfillment, asked by the flow --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ValidateOrder:
    order_id: OrderId
    run: Run


@dataclass(frozen=True, slots=True)
class CheckStartDate:
    order_id: OrderId
    run: Run


@dataclass(frozen=True, slots=True)
class DecomposeOrder:
    order_id: OrderId
    run: Run


@dataclass(frozen=True, slots=True)
class ReleaseTasks:
    order_id: OrderId
    plan_id: PlanId
    run: Run


# -- effects ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimTask:
    """May this job call the outside system now? The answer is the claim, or the reason to stand down."""

    order_id: OrderId
    task_id: TaskId
    release: int
    run: Run


@dataclass(frozen=True, slots=True)
class ClaimVerification:
    """What is known of this task, and whether its system should be asked."""

    order_id: OrderId
    task_id: TaskId
    release: int
    run: Run


@dataclass(frozen=True, slots=True)
class RecordOutcome:
    """What an outside system said about an effect.

    state: CONFIRMED, NO_EFFECT, ACCEPTED, UNKNOWN (the call's answer did not come or made no sense), and for
    verification also MISSING (404) and UNREACHABLE · source: who reports · attempt: of which call, None for callbacks
    """

    order_id: OrderId
    effect_id: EffectId
    state: Literal["CONFIRMED", "NO_EFFECT", "ACCEPTED", "UNKNOWN", "MISSING", "UNREACHABLE"]
    source: Literal["CALL", "CALLBACK", "VERIFICATION"]
    attempt: int | None = None
    external_reference: str | None = None
    output: Json = None
    reason: str | None = None


# -- cancellation --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestCancellation:
    """`item_ids` names every item that is meant; `quantities` says of which of them only so many."""

    order_id: OrderId
    request_id: RequestId
    scope: str
    item_ids: tuple[str, ...]
    reason_code: str
    reason_text: str | None = None
    claimed_at: datetime | None = None
    force_manual_review: bool = False
    quantities: Mapping[str, int] = field(default_factory=dict)
    preview_id: uuid.UUID | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class BeginAssessment:
    order_id: OrderId
    request_id: RequestId
    run: Run


@dataclass(frozen=True, slots=True)
class AssessCancellation:
    order_id: OrderId
    request_id: RequestId
    run: Run


@dataclass(frozen=True, slots=True)
class PlanCompensation:
    order_id: OrderId
    request_id: RequestId
    run: Run


@dataclass(frozen=True, slots=True)
class ApproveCancellation:
    order_id: OrderId
    request_id: RequestId
    comment: str | None = None
    dispositions: Mapping[str, str] = field(default_factory=dict)
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class RejectCancellation:
    order_id: OrderId
    request_id: RequestId
    reason: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class WithdrawCancellation:
    order_id: OrderId
    request_id: RequestId
    reason: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerCharge:
    order_id: OrderId
    request_id: RequestId
    accepted: bool
    invalid: tuple[FieldError, ...] = ()


# -- amendment -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskedChange:
    """One change as asked for. path: JSON pointer into the order, items by id · old: what stands there now as the
    requester knows it, None for nothing"""

    path: str
    operation: str
    old: Json = None
    new: Json = None


@dataclass(frozen=True, slots=True)
class RequestAmendment:
    order_id: OrderId
    request_id: RequestId
    reason_code: str
    changes: tuple[AskedChange, ...]
    claimed_at: datetime | None = None
    allow_partial: bool = False
    auto_apply: bool = True
    repairs_case: CaseId | None = None
    preview_id: uuid.UUID | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class AssessAmendment:
    """The flow asks where an amendment stands, and what comes next."""

    order_id: OrderId
    request_id: RequestId
    run: Run


@dataclass(frozen=True, slots=True)
class CarryOutAmendment:
    """The flow asks that an agreed amendment be put into the order."""

    order_id: OrderId
    request_id: RequestId
    run: Run


@dataclass(frozen=True, slots=True)
class ApproveAmendment:
    order_id: OrderId
    request_id: RequestId
    comment: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class RejectAmendment:
    order_id: OrderId
    request_id: RequestId
    reason: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class ApplyAmendment:
    """A person says that an amendment which waits for that may be applied now."""

    order_id: OrderId
    request_id: RequestId
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class WithdrawAmendment:
    order_id: OrderId
    request_id: RequestId
    reason: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerAmendmentCharge:
    order_id: OrderId
    request_id: RequestId
    accepted: bool
    invalid: tuple[FieldError, ...] = ()


# -- people and time -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AssignCase:
    order_id: OrderId
    case_id: CaseId
    assignee: str
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class RepairCase:
    order_id: OrderId
    case_id: CaseId
    action: str
    reason_code: str
    reason_text: str | None = None
    evidence: Mapping[str, Json] | None = None
    input: Mapping[str, Json] | None = None
    amount: Money | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class DecideRepair:
    """The second person's word on repair `number` of a case."""

    order_id: OrderId
    case_id: CaseId
    number: int
    approved: bool
    comment: str | None = None
    invalid: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class NoteRefusal:
    """Somebody tried a repair that was refused: `code` says why, `action` what they wanted where that is known."""

    order_id: OrderId
    case_id: CaseId
    code: str
    action: str | None = None


@dataclass(frozen=True, slots=True)
class RaiseJeopardy:
    """A deadline has passed: subject is the request or case that it belongs to."""

    order_id: OrderId
    subject_id: uuid.UUID
    kind: str


@dataclass(frozen=True, slots=True)
class RecordReview:
    """The flow asks what became of a review; `decision` is what a person entered in Tasklist, if one did, and
    `disposition` what becomes of everything that only a person can undo."""

    order_id: OrderId
    request_id: RequestId
    run: Run
    wait_key: str
    reviewer: str | None = None
    decision: str | None = None
    comment: str | None = None
    disposition: str | None = None


@dataclass(frozen=True, slots=True)
class RecordRepair:
    """The flow asks what became of a repair that it showed to people; `action` and what goes with it is what a person
    entered in Tasklist, if one did. refusal: the code for which the same was just refused, for it to be told."""

    order_id: OrderId
    case_id: CaseId
    run: Run
    wait_key: str
    repairer: str | None = None
    action: str | None = None
    comment: str | None = None
    reason_code: str | None = None
    evidence: Mapping[str, Json] | None = None
    input: Mapping[str, Json] | None = None
    amount: Money | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class OfferCase:
    """A flow of its own asks what it has to show to people of a case that no other flow shows."""

    order_id: OrderId
    case_id: CaseId


@dataclass(frozen=True, slots=True)
class RestartFlow:
    """Start a flow again under a new run, because the engine lost it: a plan's walker, a request's, or, where neither
    is named, that of an order before its plan."""

    order_id: OrderId
    plan_id: PlanId | None
    reason: str
    request_id: RequestId | None = None


@dataclass(frozen=True, slots=True)
class ParkCase:
    """The engine shows this incident for the job that a case is about."""

    order_id: OrderId
    case_id: CaseId
    incident_key: str


@dataclass(frozen=True, slots=True)
class ResumeCase:
    """The incident of a case was resolved in the engine: whoever did that wants it tried again."""

    order_id: OrderId
    case_id: CaseId
    incident_key: str


@dataclass(frozen=True, slots=True)
class NoteIncident:
    """The engine shows an incident that no job of ours speaks of. run: of the flow that it is in, where that is known
    · place: element and process, and what the engine calls the failure; no value of the flow · noted: our jobs have met
    that flow; otherwise only its own variables name the order"""

    order_id: OrderId
    incident_key: str
    place: str
    run: Run | None = None
    noted: bool = True


@dataclass(frozen=True, slots=True)
class NoteGoneFlow:
    """An instance that carried a part of the order is not there any more. reason: a finding's class · restart: start
    the part's flow anew; otherwise a person does"""

    order_id: OrderId
    run: Run
    instance_key: str
    reason: str
    evidence: str
    restart: bool


@dataclass(frozen=True, slots=True)
class NoteSilentFlow:
    """A flow has been started anew as often as it is by itself, and is not heard of. plan_id, request_id: what it
    carries; neither: the order before its plan · title: what is silent, and where a person looks"""

    order_id: OrderId
    plan_id: PlanId | None
    request_id: RequestId | None
    title: str


Command = (
    AcceptOrder
    | SupplementOrder
    | CreateProposal
    | AddRelation
    | HoldOrder
    | ReleaseOrder
    | FollowCancellation
    | ValidateOrder
    | CheckStartDate
    | DecomposeOrder
    | ReleaseTasks
    | ClaimTask
    | ClaimVerification
    | RecordOutcome
    | RequestCancellation
    | BeginAssessment
    | AssessCancellation
    | PlanCompensation
    | ApproveCancellation
    | RejectCancellation
    | WithdrawCancellation
    | AnswerCharge
    | RequestAmendment
    | AssessAmendment
    | CarryOutAmendment
    | ApproveAmendment
    | RejectAmendment
    | ApplyAmendment
    | WithdrawAmendment
    | AnswerAmendmentCharge
    | AssignCase
    | RepairCase
    | DecideRepair
    | NoteRefusal
    | RaiseJeopardy
    | RecordReview
    | RecordRepair
    | OfferCase
    | RestartFlow
    | ParkCase
    | ResumeCase
    | NoteIncident
    | NoteGoneFlow
    | NoteSilentFlow
)
