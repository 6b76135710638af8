"""Which move is legal, as tables: one row per state, its successors. It must never decide whether a move is wise."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

Machine = Mapping[str, frozenset[str]]


def _machine(rows: Mapping[str, str]) -> Machine:
    return MappingProxyType({state: frozenset(successors.split()) for state, successors in rows.items()})


# 1-domain §2. The shown state of an order is recomputed, so every live state may follow every other;
# `base` is what fulfillment alone has reached.
_LIVE_ORDER = (
    "ACKNOWLEDGED VALIDATED IN_PROGRESS FALLOUT CANCELLATION_REQUESTED CANCELLATION_ASSESSING "
    "CANCELLING AMENDING ON_HOLD"
)
_ENDED_ORDER = "COMPLETED PARTIALLY_COMPLETED CANCELLED FAILED REJECTED"

ORDER: Final = _machine(
    {
        "ACKNOWLEDGED": "VALIDATED REJECTED CANCELLED CANCELLATION_REQUESTED AMENDING ON_HOLD FALLOUT",
        "VALIDATED": f"IN_PROGRESS FALLOUT CANCELLATION_REQUESTED AMENDING ON_HOLD {_ENDED_ORDER}",
        "IN_PROGRESS": f"FALLOUT CANCELLATION_REQUESTED AMENDING ON_HOLD {_ENDED_ORDER}",
        "FALLOUT": f"ACKNOWLEDGED VALIDATED IN_PROGRESS CANCELLATION_REQUESTED CANCELLATION_ASSESSING "
        f"CANCELLING AMENDING ON_HOLD {_ENDED_ORDER}",
        "CANCELLATION_REQUESTED": "CANCELLATION_ASSESSING ACKNOWLEDGED VALIDATED IN_PROGRESS FALLOUT AMENDING "
        f"ON_HOLD {_ENDED_ORDER}",
        "CANCELLATION_ASSESSING": "CANCELLING ACKNOWLEDGED VALIDATED IN_PROGRESS FALLOUT AMENDING ON_HOLD "
        f"{_ENDED_ORDER}",
        "CANCELLING": f"CANCELLATION_ASSESSING ACKNOWLEDGED VALIDATED IN_PROGRESS FALLOUT ON_HOLD {_ENDED_ORDER}",
        "AMENDING": f"ACKNOWLEDGED VALIDATED IN_PROGRESS FALLOUT CANCELLATION_REQUESTED ON_HOLD {_ENDED_ORDER}",
        "ON_HOLD": f"ACKNOWLEDGED VALIDATED IN_PROGRESS FALLOUT CANCELLATION_REQUESTED AMENDING {_ENDED_ORDER}",
        **dict.fromkeys(_ENDED_ORDER.split(), ""),
    }
)
ORDER_BASE: Final = _machine({"ACKNOWLEDGED": "VALIDATED", "VALIDATED": "IN_PROGRESS", "IN_PROGRESS": ""})

ITEM: Final = _machine(
    {
        "ACKNOWLEDGED": "IN_PROGRESS CANCELLATION_REQUESTED COMPLETED CANCELLED FALLOUT SUPERSEDED FAILED",
        "IN_PROGRESS": "COMPLETED CANCELLATION_REQUESTED FALLOUT FAILED SUPERSEDED",
        "COMPLETED": "CANCELLATION_REQUESTED",
        "CANCELLATION_REQUESTED": "CANCELLATION_ASSESSING ACKNOWLEDGED IN_PROGRESS COMPLETED",
        # Back to REQUESTED where a cancellation of the whole order comes over one of the item.
        "CANCELLATION_ASSESSING": "CANCELLING CANCELLATION_REQUESTED ACKNOWLEDGED IN_PROGRESS COMPLETED",
        "CANCELLING": "CANCELLED PARTIALLY_COMPLETED FALLOUT FAILED CANCELLATION_ASSESSING CANCELLATION_REQUESTED "
        "ACKNOWLEDGED IN_PROGRESS COMPLETED",
        "FALLOUT": "ACKNOWLEDGED IN_PROGRESS CANCELLING CANCELLATION_REQUESTED COMPLETED FAILED SUPERSEDED",
        "PARTIALLY_COMPLETED": "",
        "CANCELLED": "",
        "FAILED": "",
        "SUPERSEDED": "",
    }
)

# Fulfillment tasks. OUTCOME_UNKNOWN may learn that the system is still working on it (WAITING_EXTERNAL).
FULFILLMENT_TASK: Final = _machine(
    {
        "PENDING": "READY CANCELLED SUPERSEDED",
        "READY": "IN_PROGRESS CANCELLED SUPERSEDED",
        "IN_PROGRESS": "WAITING_EXTERNAL COMPLETED OUTCOME_UNKNOWN FAILED CANCELLED READY",
        "WAITING_EXTERNAL": "COMPLETED OUTCOME_UNKNOWN FAILED CANCELLED READY",
        "OUTCOME_UNKNOWN": "COMPLETED READY FAILED WAITING_EXTERNAL CANCELLED",
        "FAILED": "READY COMPLETED CANCELLED SUPERSEDED",
        "COMPLETED": "COMPENSATING SUPERSEDED",
        "COMPENSATING": "COMPENSATED COMPLETED",
        "COMPENSATED": "",
        "CANCELLED": "",
        "SUPERSEDED": "",
    }
)

COMPENSATION_TASK: Final = _machine(
    {
        "PLANNED": "AWAITING_ORIGINAL READY NOT_REQUIRED RETAINED SUPERSEDED",
        "AWAITING_ORIGINAL": "READY NOT_REQUIRED RETAINED SUPERSEDED",
        "READY": "NOT_REQUIRED DISPATCHED IN_FALLOUT SUPERSEDED",
        "DISPATCHED": "COMPLETED WAITING_EXTERNAL FAILED OUTCOME_UNKNOWN IN_FALLOUT NOT_REQUIRED",
        "WAITING_EXTERNAL": "COMPLETED FAILED OUTCOME_UNKNOWN IN_FALLOUT NOT_REQUIRED",
        "OUTCOME_UNKNOWN": "COMPLETED READY WAITING_EXTERNAL IN_FALLOUT FAILED NOT_REQUIRED",
        "FAILED": "READY IN_FALLOUT",
        "IN_FALLOUT": "READY COMPLETED WAIVED",
        "COMPLETED": "",
        "NOT_REQUIRED": "",
        "RETAINED": "",
        "WAIVED": "",
        "SUPERSEDED": "",
    }
)

COMPENSATION_PLAN: Final = _machine(
    {
        "PLANNED": "IN_PROGRESS COMPLETED SUPERSEDED",
        "IN_PROGRESS": "BLOCKED COMPLETED SUPERSEDED",
        "BLOCKED": "IN_PROGRESS COMPLETED SUPERSEDED",
        "COMPLETED": "IN_PROGRESS",
        "SUPERSEDED": "",
    }
)

# §3. REVERSED and WAIVED are said of a confirmed effect only; NO_EFFECT → CONFIRMED is the late effect.
EFFECT: Final = _machine(
    {
        "INTENDED": "CONFIRMED NO_EFFECT UNKNOWN",
        "UNKNOWN": "CONFIRMED NO_EFFECT",
        "CONFIRMED": "REVERSED WAIVED",
        "NO_EFFECT": "CONFIRMED",
        "REVERSED": "",
        "WAIVED": "",
    }
)

CANCELLATION_REQUEST: Final = _machine(
    {
        "ACCEPTED_FOR_ASSESSMENT": "ASSESSING WITHDRAWN SUPERSEDED REJECTED",
        "ASSESSING": "REQUIRES_APPROVAL AWAITING_CHARGE_DECISION APPROVED REJECTED WITHDRAWN SUPERSEDED",
        "REQUIRES_APPROVAL": "AWAITING_CHARGE_DECISION APPROVED REJECTED ASSESSING WITHDRAWN SUPERSEDED",
        "AWAITING_CHARGE_DECISION": "APPROVED REJECTED ASSESSING WITHDRAWN SUPERSEDED",
        "APPROVED": "COMPENSATING ASSESSING WITHDRAWN SUPERSEDED",
        "COMPENSATING": "COMPLETED PARTIALLY_COMPLETED ASSESSING WITHDRAWN SUPERSEDED",
        "COMPLETED": "",
        "PARTIALLY_COMPLETED": "",
        "REJECTED": "",
        "WITHDRAWN": "",
        "SUPERSEDED": "",
    }
)

CASE: Final = _machine(
    {
        "OPEN": "ASSIGNED REPAIR_SUBMITTED RESOLVED CANCELLED",
        "ASSIGNED": "ASSIGNED REPAIR_SUBMITTED RESOLVED CANCELLED",
        "REPAIR_SUBMITTED": "RESOLVED OPEN ASSIGNED CANCELLED",
        "RESOLVED": "",
        "CANCELLED": "",
    }
)

MACHINES: Final[Mapping[str, Machine]] = MappingProxyType(
    {
        "ORDER": ORDER,
        "ITEM": ITEM,
        "TASK": FULFILLMENT_TASK,
        "COMPENSATION_TASK": COMPENSATION_TASK,
        "PLAN": COMPENSATION_PLAN,
        "EFFECT": EFFECT,
        "REQUEST": CANCELLATION_REQUEST,
        "CASE": CASE,
    }
)

INITIAL: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "ORDER": frozenset({"ACKNOWLEDGED"}),
        "ITEM": frozenset({"ACKNOWLEDGED"}),
        "TASK": frozenset({"PENDING", "READY"}),
        "COMPENSATION_TASK": frozenset({"PLANNED"}),
        "PLAN": frozenset({"PLANNED"}),
        "EFFECT": frozenset({"INTENDED"}),
        # A request about a completed order is stored as rejected at once (T10).
        "REQUEST": frozenset({"ACCEPTED_FOR_ASSESSMENT", "REJECTED"}),
        "CASE": frozenset({"OPEN"}),
    }
)

ENDED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "ORDER": frozenset(_ENDED_ORDER.split()),
        "ITEM": frozenset({"COMPLETED", "PARTIALLY_COMPLETED", "CANCELLED", "FAILED", "SUPERSEDED"}),
        "TASK": frozenset({"COMPLETED", "COMPENSATED", "CANCELLED", "SUPERSEDED"}),
        "COMPENSATION_TASK": frozenset({"COMPLETED", "NOT_REQUIRED", "RETAINED", "WAIVED", "SUPERSEDED"}),
        "PLAN": frozenset({"COMPLETED", "SUPERSEDED"}),
        "EFFECT": frozenset({"CONFIRMED", "NO_EFFECT", "REVERSED", "WAIVED"}),
        "REQUEST": frozenset({"COMPLETED", "PARTIALLY_COMPLETED", "REJECTED", "WITHDRAWN", "SUPERSEDED"}),
        "CASE": frozenset({"RESOLVED", "CANCELLED"}),
    }
)


class IllegalMove(AssertionError):
    """A wing asked for a move that its table does not have: a defect of ours, never the asker's."""


def check_move(entity: str, before: str | None, after: str) -> None:
    """Raise IllegalMove unless `entity` may go from `before` (None: is created) to `after`."""
    legal = INITIAL[entity] if before is None else MACHINES[entity].get(before, frozenset())
    if after not in legal:
        raise IllegalMove(f"{entity}: {before} -> {after}")


def has_ended(entity: str, state: str) -> bool:
    return state in ENDED[entity]
