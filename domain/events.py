"""What is told to the world: one row per kind of fact, the same for audit and Kafka; never the whole order."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from domain.values import Json

# kind in the audit -> type on the topic (recourse.<type>.v1). Names of lesson 39 §23 stand as they are there.
EVENT_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ORDER_ACCEPTED": "OrderAccepted",
        "ORDER_VALIDATED": "OrderValidated",
        "ORDER_REJECTED": "OrderRejected",
        "ORDER_DECOMPOSED": "OrderDecomposed",
        "ORDER_STATE_CHANGED": "OrderStateChanged",
        "ORDER_COMPLETED": "OrderCompleted",
        "ORDER_PARTIALLY_COMPLETED": "OrderPartiallyCompleted",
        "ORDER_CANCELLED": "OrderCancelled",
        "ORDER_FAILED": "OrderFailed",
        "ORDER_HELD": "OrderHeld",
        "ORDER_RELEASED": "OrderReleased",
        "DEPENDENTS_HELD": "OrderDependentsHeld",
        "ITEM_STATE_CHANGED": "OrderItemStateChanged",
        "TASK_STATE_CHANGED": "OrderTaskStateChanged",
        "EFFECT_STATE_CHANGED": "OrderEffectStateChanged",
        "EFFECT_ACCEPTED": "OrderEffectAccepted",
        "OUTCOME_CONTRADICTED": "OrderOutcomeContradicted",
        "LATE_EFFECT": "OrderLateEffect",
        "CANCELLATION_REQUESTED": "OrderCancellationRequested",
        "CANCELLATION_ASSESSMENT_STARTED": "OrderCancellationAssessmentStarted",
        "CANCELLATION_ASSESSED": "OrderCancellationAssessed",
        "CANCELLATION_REVIEW_REQUIRED": "OrderCancellationReviewRequired",
        "CANCELLATION_AWAITS_CHARGE": "OrderCancellationAwaitsCharge",
        "CANCELLATION_STALE": "OrderCancellationStale",
        "CANCELLATION_APPROVED": "OrderCancellationApproved",
        "CANCELLATION_REJECTED": "OrderCancellationRejected",
        "CANCELLATION_WITHDRAWN": "OrderCancellationWithdrawn",
        "CANCELLATION_SUPERSEDED": "OrderCancellationSuperseded",
        "CANCELLATION_COMPENSATING": "OrderCancellationCompensating",
        "CANCELLATION_COMMITTED": "OrderCancellationCommitted",
        "CANCELLATION_COMPLETED": "OrderCancellationCompleted",
        "AMENDMENT_REQUESTED": "OrderAmendmentRequested",
        "AMENDMENT_QUEUED": "OrderAmendmentQueued",
        "AMENDMENT_RESUMED": "OrderAmendmentResumed",
        "AMENDMENT_ASSESSMENT_STARTED": "OrderAmendmentAssessmentStarted",
        "AMENDMENT_ASSESSED": "OrderAmendmentAssessed",
        "AMENDMENT_REVIEW_REQUIRED": "OrderAmendmentReviewRequired",
        "AMENDMENT_AWAITS_CHARGE": "OrderAmendmentAwaitsCharge",
        "AMENDMENT_STALE": "OrderAmendmentStale",
        "AMENDMENT_APPROVED": "OrderAmendmentApproved",
        "AMENDMENT_RELEASED": "OrderAmendmentReleased",
        "AMENDMENT_REJECTED": "OrderAmendmentRejected",
        "AMENDMENT_APPLYING": "OrderAmendmentApplying",
        "AMENDMENT_APPLIED": "OrderAmendmentApplied",
        "AMENDMENT_FAILED": "OrderAmendmentFailed",
        "AMENDMENT_WITHDRAWN": "OrderAmendmentWithdrawn",
        "AMENDMENT_SUPERSEDED": "OrderAmendmentSuperseded",
        "AMENDMENT_CASE_OPENED": "OrderAmendmentFalloutCreated",
        "RE_DECOMPOSITION_REQUIRED": "OrderReDecompositionRequired",
        "GRACE_EXPIRED": "OrderCancellationGraceExpired",
        "CHARGE_OFFERED": "OrderChargeOffered",
        "CHARGE_ACCEPTED": "OrderChargeAccepted",
        "CHARGE_DECLINED": "OrderChargeDeclined",
        "CHARGE_EXPIRED": "OrderChargeExpired",
        "CHARGE_WAIVED": "OrderChargeWaived",
        "COMPENSATION_PLANNED": "OrderCompensationPlanned",
        "COMPENSATION_STARTED": "OrderCompensationStarted",
        "COMPENSATION_BLOCKED": "OrderCompensationBlocked",
        "COMPENSATION_RESUMED": "OrderCompensationResumed",
        "COMPENSATION_COMPLETED": "OrderCompensationCompleted",
        "COMPENSATION_SUPERSEDED": "OrderCompensationSuperseded",
        "CASE_OPENED": "OrderFalloutCreated",
        "CANCELLATION_CASE_OPENED": "OrderCancellationFalloutCreated",
        "CASE_STATE_CHANGED": "OrderFalloutStateChanged",
        "CASE_CHANGED": "OrderFalloutChanged",
        "REPAIR_SUBMITTED": "OrderRepairSubmitted",
        "REPAIR_DECIDED": "OrderRepairDecided",
        "REPAIR_REFUSED": "OrderRepairRefused",
        "JEOPARDY_RAISED": "OrderJeopardyRaised",
        "FLOW_RESTARTED": "OrderFlowRestarted",
        "DECISION_REFUSED": "OrderDecisionRefused",
        "RELATION_ADDED": "OrderRelationAdded",
        "SUPPLEMENTAL_CREATED": "SupplementalOrderCreated",
        "SUPPLEMENTAL_LINKED": "SupplementalOrderLinked",
        "ASSET_MODIFICATION_STARTED": "AssetModificationOrderStarted",
        "ASSET_MODIFICATION_COMPLETED": "AssetModificationOrderCompleted",
    }
)

ENTITIES: Final = ("ORDER", "ITEM", "TASK", "REQUEST", "EFFECT", "PLAN", "CASE")


@dataclass(frozen=True, slots=True)
class Event:
    """One fact about one entity of an order; `before`/`after` are set where a state moved.

    `data` is small, plain JSON and free of personal data: it goes into the audit and onto the topic alike.
    `note` is what a person wrote about it: kept in the audit, never told to the world.
    """

    kind: str
    entity: str
    entity_id: str
    before: str | None = None
    after: str | None = None
    request_id: uuid.UUID | None = None
    data: Mapping[str, Json] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A wake-up or a start for the engine. It carries ids only; what it means is asked in the database.

    key: names one wait (or one flow, for a start) · ttl: seconds the engine keeps it for a late listener
    """

    name: str
    key: str
    variables: Mapping[str, str] = field(default_factory=dict)
    ttl: int = 600
