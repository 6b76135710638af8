"""The business's rules as data: a document in, a frozen `Policy` out; never one business's rules in code.

`read_policy_text` → `parse_policy` → `Policy`; what is wrong comes all at once, as `PolicyInvalid`.
The format is described in docs/policy.md; the policy that ships is `domain/telecom.policy.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping

from domain.errors import FieldError as Problem
from domain.policy.documents import PolicyInvalid, Spot, policy_to_json, read_policy_text
from domain.policy.durations import format_duration, parse_duration
from domain.policy.reading import Draft, read_draft
from domain.policy.rules import check_draft, resolve_offerings
from domain.policy.schemas import SHAPES, member_errors, member_of
from domain.policy.terms import (
    AMENDMENT_CLASSES,
    APPROVALS,
    CHILDREN,
    FEASIBILITIES,
    PHASES,
    REASON_KINDS,
    RELIES_ON,
    REVALIDATION,
    SAFETY_RESULTS,
    AmendableField,
    AmendmentRules,
    CancellationRules,
    Charge,
    Children,
    ClosureRules,
    Condition,
    EffectLevelAtLeast,
    FieldMatch,
    FollowUp,
    Offering,
    PlanStep,
    PointOfNoReturn,
    Policy,
    PriceAccepted,
    ReasonCode,
    SafetyRule,
    SupplementalRules,
    TaskInState,
    TaskType,
    VerifyRule,
    split_pointer,
)
from domain.values import Json


def parse_policy(document: Mapping[str, Json]) -> Policy:
    """The policy that a document says; raises PolicyInvalid with everything that is wrong with it."""
    problems: list[Problem] = []
    draft = read_draft(Spot(policy_to_json(document), "", "", problems))
    problems += check_draft(draft)
    if problems:
        raise PolicyInvalid(tuple(dict.fromkeys(problems)))
    return _make_policy(draft)


def _make_policy(draft: Draft) -> Policy:
    return Policy(
        name=draft.name,
        effective_from=draft.effective_from,
        currency=draft.currency,
        reason_codes=draft.reason_codes,
        systems=draft.systems,
        task_types=draft.task_types,
        offerings=resolve_offerings(draft),
        amendable_fields=tuple(field for field in draft.amendable_fields if field is not None),
        amendment=draft.amendment,
        cancellation=draft.cancellation,
        supplemental=draft.supplemental,
        fallout_sla=draft.fallout_sla,
    )


__all__ = [
    "AMENDMENT_CLASSES",
    "APPROVALS",
    "CHILDREN",
    "FEASIBILITIES",
    "PHASES",
    "REASON_KINDS",
    "RELIES_ON",
    "REVALIDATION",
    "SAFETY_RESULTS",
    "SHAPES",
    "AmendableField",
    "AmendmentRules",
    "CancellationRules",
    "Charge",
    "Children",
    "ClosureRules",
    "Condition",
    "EffectLevelAtLeast",
    "FieldMatch",
    "FollowUp",
    "Offering",
    "PlanStep",
    "PointOfNoReturn",
    "Policy",
    "PolicyInvalid",
    "PriceAccepted",
    "Problem",
    "ReasonCode",
    "SafetyRule",
    "SupplementalRules",
    "TaskInState",
    "TaskType",
    "VerifyRule",
    "format_duration",
    "member_errors",
    "member_of",
    "parse_duration",
    "parse_policy",
    "policy_to_json",
    "read_policy_text",
    "split_pointer",
]
