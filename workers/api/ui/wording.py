"""Codes as words for people; a code that has none here is shown as its own words. It must never hide one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from domain.values import Money

ORDER: Final[Mapping[str, str]] = {
    "ACKNOWLEDGED": "received",
    "VALIDATED": "checked, about to start",
    "IN_PROGRESS": "being carried out",
    "FALLOUT": "stopped by a failure that a person must mend",
    "CANCELLATION_REQUESTED": "a cancellation was asked for",
    "CANCELLATION_ASSESSING": "the cancellation is being judged",
    "CANCELLING": "being cancelled: what was done is being undone",
    "AMENDING": "being changed",
    "ON_HOLD": "on hold",
    "COMPLETED": "complete",
    "PARTIALLY_COMPLETED": "ended; a part of it was delivered and stays",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "REJECTED": "not accepted",
}
REQUEST: Final[Mapping[str, str]] = {
    "ACCEPTED_FOR_ASSESSMENT": "waits to be judged",
    "ASSESSING": "is being judged",
    "REQUIRES_APPROVAL": "waits for a person's approval",
    "AWAITING_CHARGE_DECISION": "waits for an answer to the charge",
    "APPROVED": "approved",
    "COMPENSATING": "is being carried out: what was done is being undone",
    "COMPLETED": "carried out",
    "PARTIALLY_COMPLETED": "carried out; a part of what was done stays",
    "REJECTED": "refused",
    "WITHDRAWN": "taken back",
    "SUPERSEDED": "replaced by a wider one",
}
FEASIBILITY: Final[Mapping[str, str]] = {
    "FULLY_CANCELLABLE": "It can be cancelled as a whole.",
    "PARTIALLY_CANCELLABLE": "It can be cancelled in part; something stays.",
    "NOT_CANCELLABLE": "It cannot be cancelled.",
    "APPLICABLE": "It can be changed as asked.",
    "PARTIALLY_APPLICABLE": "It can be changed in part.",
    "REQUIRES_APPROVAL": "It can be changed if a person agrees.",
    "NOT_APPLICABLE": "It cannot be changed as asked.",
}
CONSEQUENCE: Final[Mapping[str, str]] = {
    "NOT_STARTED_WILL_NOT_START": "has not started and will not",
    "NOTHING_TO_UNDO": "leaves nothing to undo",
    "COMPENSATE": "will be undone",
    "AWAIT_OUTCOME": "is under way; its outcome is awaited first",
    "VERIFY_OUTCOME": "has an unknown outcome; it is asked for first",
    "RETAIN": "cannot be undone and stays",
    "WITHDRAW": "will be called off before it happens",
    "MANUAL": "a person must say what becomes of it",
}
DISPOSITION: Final[Mapping[str, str]] = {
    "RETAIN": "let it stay",
    "COMPENSATE": "undo it",
    "MANUAL": "a person undoes it by hand",
}
EFFECT: Final[Mapping[str, str]] = {
    "INTENDED": "called, no answer yet",
    "CONFIRMED": "has happened",
    "NO_EFFECT": "did not happen",
    "UNKNOWN": "nobody knows yet whether it happened",
    "REVERSED": "has happened and was undone",
    "WAIVED": "has happened; its undoing was waived",
}
LEVEL: Final[Mapping[str, str]] = {
    "NO_EXTERNAL_EFFECT": "nobody notices",
    "RESERVATION_ONLY": "a reservation only",
    "CUSTOMER_VISIBLE": "the customer notices",
    "BILLING_VISIBLE": "on the bill",
    "NETWORK_VISIBLE": "in the network",
    "LEGAL_VISIBLE": "legally binding",
}

# What a state says at a glance, whatever its word: at work, done, needs a person, over without success.
_TONES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("COMPLETED", "CONFIRMED", "COMPENSATED", "RESOLVED", "CLOSED", "APPROVED", "ACCEPTED"), "done"),
    **dict.fromkeys(("FALLOUT", "FAILED", "UNKNOWN", "OUTCOME_UNKNOWN", "IN_FALLOUT", "BLOCKED", "OPEN"), "stuck"),
    **dict.fromkeys(
        ("REQUIRES_APPROVAL", "AWAITING_CHARGE_DECISION", "ON_HOLD", "PARTIALLY_COMPLETED", "RETAINED", "OFFERED"),
        "stay",
    ),
    **dict.fromkeys(("CANCELLED", "REJECTED", "WITHDRAWN", "SUPERSEDED", "NO_EFFECT", "PENDING", "REVERSED"), "quiet"),
}

_KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "order": ORDER,
    "request": REQUEST,
    "feasibility": FEASIBILITY,
    "consequence": CONSEQUENCE,
    "disposition": DISPOSITION,
    "effect": EFFECT,
    "level": LEVEL,
}


def words(code: str, kind: str = "") -> str:
    """The words of a code, e.g. words("RETAIN", "consequence")."""
    return _KINDS.get(kind, {}).get(code) or code.replace("_", " ").replace("-", " ").lower()


def tone(state: str) -> str:
    return _TONES.get(state, "work")


def money(amount: Mapping[str, Any] | None) -> str:
    """`{"amountMinor": 2500, "currency": "EUR"}` as 25.00 EUR."""
    if not amount:
        return "nothing"
    return str(Money.from_json(amount))


def when(moment: str | None) -> str:
    """An RFC 3339 time for people, in UTC."""
    if not moment:
        return ""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%-d %b %Y, %H:%M:%S UTC")


def age(seconds: float | None) -> str:
    """A span in its largest fitting unit: 40 s, 12 min, 5 h, 3 days."""
    if seconds is None:
        return ""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def short(identifier: str) -> str:
    """The first part of a UUID: enough to tell two apart by eye."""
    return identifier[:8]
