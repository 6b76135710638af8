"""Breaches: the asker is wrong. One class per code; the docstring is the message. It must never describe an outage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a body: JSON pointer, message that says what to do, and (rarely) a rule id."""

    path: str
    message: str

    def to_json(self) -> dict[str, str]:
        return {"path": self.path, "message": self.message}


class Breach(Exception):
    """The request breaks a rule of the domain."""

    code: ClassVar[str] = "BREACH"

    def __init__(
        self,
        detail: str | None = None,
        *,
        blocked_by: str | None = None,
        errors: tuple[FieldError, ...] = (),
        **facts: Any,
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.blocked_by = blocked_by
        self.errors = errors
        self.facts = facts
        super().__init__(self.detail)


# -- who asks -------------------------------------------------------------------------------------


class RoleRequired(Breach):
    """The caller's roles do not allow this."""

    code = "ROLE_REQUIRED"


class FourEyes(Breach):
    """The person who asked, or for whom it was asked, may not decide it."""

    code = "FOUR_EYES"


class OnBehalfNotAllowed(RoleRequired):
    """Only agents, operators and admins may act on behalf of another person."""


# -- what is asked about ----------------------------------------------------------------------------


class NotFound(Breach):
    """There is no such object."""

    code = "NOT_FOUND"


class OrderNotFound(NotFound):
    """There is no such order."""

    code = "ORDER_NOT_FOUND"


class RequestNotFound(NotFound):
    """There is no such request on this order."""

    code = "REQUEST_NOT_FOUND"


class PlanNotFound(NotFound):
    """There is no such compensation plan on this order."""

    code = "PLAN_NOT_FOUND"


class TaskNotFound(NotFound):
    """There is no such task on this order."""

    code = "TASK_NOT_FOUND"


class EffectNotFound(NotFound):
    """There is no such effect."""

    code = "EFFECT_NOT_FOUND"


class CaseNotFound(NotFound):
    """There is no such case."""

    code = "CASE_NOT_FOUND"


class RepairNotFound(NotFound):
    """There is no such repair of this case."""

    code = "REPAIR_NOT_FOUND"


class JobNotFound(NotFound):
    """There is no such bulk job."""

    code = "JOB_NOT_FOUND"


class AssetNotFound(NotFound):
    """There is no such asset."""

    code = "ASSET_NOT_FOUND"


class PolicyNotFound(NotFound):
    """There is no such policy version, or none is in force yet."""

    code = "POLICY_NOT_FOUND"


class PreviewNotFound(NotFound):
    """There is no such preview."""

    code = "PREVIEW_NOT_FOUND"


class ProposalNotFound(NotFound):
    """There is no such proposal on this request."""

    code = "PROPOSAL_NOT_FOUND"


class ListenerNotFound(NotFound):
    """There is no such listener."""

    code = "LISTENER_NOT_FOUND"


# -- preconditions ------------------------------------------------------------------------------------


class Malformed(Breach):
    """The request could not be read."""

    code = "MALFORMED"


class IdempotencyKeyRequired(Malformed):
    """Every changing POST needs an Idempotency-Key header (1 to 255 visible characters)."""

    code = "IDEMPOTENCY_KEY_REQUIRED"


class IdempotencyKeyReused(Breach):
    """This Idempotency-Key was used before with another body; take a new key for a new request."""

    code = "IDEMPOTENCY_KEY_REUSED"


class IdempotencyInFlight(Breach):
    """The same request is being carried out right now; ask again in a moment."""

    code = "IDEMPOTENCY_IN_FLIGHT"


class PreconditionRequired(Breach):
    """This command needs an If-Match header with the object's ETag."""

    code = "PRECONDITION_REQUIRED"


class VersionStale(Breach):
    """The object has changed since you read it; read it again and decide anew."""

    code = "VERSION_STALE"


class PreviewStale(Breach):
    """What the preview showed no longer stands; preview again."""

    code = "PREVIEW_STALE"


class RateLimited(Breach):
    """Too many requests; wait as long as Retry-After says."""

    code = "RATE_LIMITED"


# -- conflicts with the state ---------------------------------------------------------------------------


class OrderTerminal(Breach):
    """The order has ended and cannot be changed; a supplemental order can change what it delivered."""

    code = "ORDER_TERMINAL"


class ChangeActive(Breach):
    """Another change of this order stands in the way."""

    code = "CHANGE_ACTIVE"


class AssetBusy(Breach):
    """Another live order holds this asset."""

    code = "ASSET_BUSY"


class ProposalTaken(Breach):
    """The order that was proposed has been made already."""

    code = "PROPOSAL_TAKEN"


class ExternalIdTaken(Breach):
    """A live order with this externalId exists already."""

    code = "EXTERNAL_ID_TAKEN"


class RequestClosed(Breach):
    """The request has already been decided or has ended."""

    code = "REQUEST_CLOSED"


class OldValueMismatch(Breach):
    """What the change says was there is not there; read the order again."""

    code = "OLD_VALUE_MISMATCH"


class CompensationStarted(Breach):
    """Compensation has begun; the request can no longer be withdrawn."""

    code = "COMPENSATION_STARTED"


class CaseClosed(Breach):
    """The case is closed, or not in a state that allows this."""

    code = "CASE_CLOSED"


# -- what the body says ---------------------------------------------------------------------------------


class Unprocessable(Breach):
    """The body does not say what is needed."""

    code = "INVALID_BODY"


class ReasonUnknown(Unprocessable):
    """The policy knows no such reason code."""

    code = "REASON_UNKNOWN"


class OfferingUnknown(Unprocessable):
    """The policy knows no such offering, or no plan for this action on it."""

    code = "OFFERING_UNKNOWN"


class ItemUnknown(Unprocessable):
    """The order has no such item."""

    code = "ITEM_UNKNOWN"


class ScopeInvalid(Unprocessable):
    """The scope contradicts itself."""

    code = "SCOPE_INVALID"


class ReasonNotRefusable(Unprocessable):
    """A cancellation for this reason may not be refused."""

    code = "REASON_NOT_REFUSABLE"


class DispositionRequired(Unprocessable):
    """Approving this needs a disposition for every task that a person must judge."""

    code = "DISPOSITION_REQUIRED"


class FieldNotAmendable(Unprocessable):
    """The policy lets nobody amend this field."""

    code = "FIELD_NOT_AMENDABLE"


class UseCancellation(Unprocessable):
    """This takes something out of the order: ask for a cancellation of it."""

    code = "USE_CANCELLATION"


class AssetNotModifiable(Unprocessable):
    """The asset cannot be changed in this way."""

    code = "ASSET_NOT_MODIFIABLE"


class DependentAsset(Unprocessable):
    """Another active asset relies on this one; end it in the same order."""

    code = "DEPENDENT_ASSET"


class EvidenceRequired(Unprocessable):
    """This repair needs evidence: {kind, reference, note}."""

    code = "EVIDENCE_REQUIRED"


class RepairNotPossible(Unprocessable):
    """This repair does not fit the case as it is."""

    code = "REPAIR_NOT_POSSIBLE"


class UseAmendment(Unprocessable):
    """This is a value of the order: change it with an amendment, so that everybody sees it."""

    code = "USE_AMENDMENT"


class RelationTargetUnknown(Unprocessable):
    """The order that the relation points to does not exist."""

    code = "RELATION_TARGET_UNKNOWN"


class RelationCycle(Unprocessable):
    """The relation would close a circle."""

    code = "RELATION_CYCLE"


class ChargeNotOpen(RequestClosed):
    """There is no open charge to answer."""
