"""Codes as words for people; a code that has none here is shown as its own words. It must never hide one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from domain.exhibit import CONSEQUENCE, FEASIBILITY, SAFETY, STRATEGY, place
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
AMENDMENT: Final[Mapping[str, str]] = {
    "REQUESTED": "waits to be judged",
    "QUEUED": "waits until another change is over",
    "ASSESSING": "is being judged",
    "REQUIRES_APPROVAL": "waits for a person's approval",
    "AWAITING_CHARGE_DECISION": "waits for an answer to the charge",
    "APPROVED": "approved, not in the order yet",
    "APPLYING": "is in the order; its work is being done",
    "APPLIED": "made",
    "REJECTED": "refused",
    "FAILED": "could not be made; the order is as it was",
    "CANCELLED": "taken back",
    "SUPERSEDED": "replaced by a newer one",
}
CASE: Final[Mapping[str, str]] = {
    "OPEN": "waits for a person",
    "ASSIGNED": "somebody is at it",
    "REPAIR_SUBMITTED": "a repair waits for a second person",
    "RESOLVED": "mended",
    "CANCELLED": "no longer needed",
}
REPAIR: Final[Mapping[str, str]] = {
    "RETRY": "try it again",
    "VERIFY_OUTCOME": "ask the outside system what happened",
    "MARK_TOOK_EFFECT": "it took effect",
    "MARK_NO_EFFECT": "it did not take effect",
    "FORCE_COMPLETE": "a person has done it",
    "WAIVE": "leave it as it is",
    "REPLACE_INPUT": "replace parts of the input",
    "CONVERT_TO_ORDER": "make a new order of it",
    "FAIL_ITEM": "give the item up",
    "RESOLVED_IN_ENGINE": "resolved in Operate",
    "AMENDED": "the order was changed",
}
REPAIR_STATUS: Final[Mapping[str, str]] = {
    "AWAITING_APPROVAL": "waits for a second person",
    "DONE": "carried out",
    "REJECTED": "refused",
}
DISPOSITION: Final[Mapping[str, str]] = {
    "RETAIN": "let it stay",
    "COMPENSATE": "undo it",
    "MANUAL": "a person undoes it by hand",
}
TASK: Final[Mapping[str, str]] = {
    "PENDING": "waits for others",
    "READY": "about to start",
    "IN_PROGRESS": "under way",
    "WAITING_EXTERNAL": "accepted, under way",
    "OUTCOME_UNKNOWN": "outcome unknown",
    "FAILED": "failed",
    "COMPLETED": "done",
    "COMPENSATING": "being undone",
    "COMPENSATED": "undone",
    "CANCELLED": "will not happen",
    "SUPERSEDED": "replaced",
}
# How far an undoing is.
UNDOING: Final[Mapping[str, str]] = {
    "PLANNED": "to come",
    "AWAITING_ORIGINAL": "waits for what it undoes",
    "READY": "about to start",
    "DISPATCHED": "under way",
    "WAITING_EXTERNAL": "accepted, under way",
    "OUTCOME_UNKNOWN": "outcome unknown",
    "FAILED": "failed",
    "IN_FALLOUT": "needs a person",
    "COMPLETED": "done",
    "NOT_REQUIRED": "not needed",
    "RETAINED": "left as it is",
    "WAIVED": "waived",
    "SUPERSEDED": "given up",
}
# How something is undone, before it is.
PURPOSE: Final[Mapping[str, str]] = {
    "COMPENSATE": "undoes it",
    "WITHDRAW": "calls it off on its way",
    "MANUAL": "by a person",
    "AWAIT": "its outcome is awaited",
}
PLAN: Final[Mapping[str, str]] = {
    "PLANNED": "to come",
    "IN_PROGRESS": "under way",
    "BLOCKED": "needs a person",
    "COMPLETED": "done",
    "SUPERSEDED": "given up",
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
    state: tone
    for tone, states in {
        "done": "COMPLETED CONFIRMED COMPENSATED RESOLVED CLOSED APPROVED ACCEPTED APPLIED",
        "stuck": "FALLOUT FAILED UNKNOWN OUTCOME_UNKNOWN IN_FALLOUT BLOCKED OPEN",
        "stay": "REQUIRES_APPROVAL AWAITING_CHARGE_DECISION ON_HOLD PARTIALLY_COMPLETED RETAINED OFFERED "
        "REPAIR_SUBMITTED",
        "quiet": "CANCELLED REJECTED WITHDRAWN SUPERSEDED NO_EFFECT PENDING REVERSED",
    }.items()
    for state in states.split()
}

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)")

_KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "order": ORDER,
    "request": REQUEST,
    "amendment": AMENDMENT,
    "safety": SAFETY,
    "strategy": STRATEGY,
    "case": CASE,
    "repair": REPAIR,
    "repair-status": REPAIR_STATUS,
    "feasibility": FEASIBILITY,
    "consequence": CONSEQUENCE,
    "disposition": DISPOSITION,
    "task": TASK,
    "undoing": UNDOING,
    "purpose": PURPOSE,
    "plan": PLAN,
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
    return _at(moment, "%-d %b %Y, %H:%M:%S UTC")


def age(seconds: float | None) -> str:
    """A span in its largest fitting unit: 40 s, 12 min, 5 h, 3 days."""
    if seconds is None:
        return ""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def until(moment: str | None) -> str:
    """The same to the minute, for what is agreed or due."""
    return _at(moment, "%-d %b %Y, %H:%M UTC")


def _at(moment: str | None, form: str) -> str:
    return datetime.fromisoformat(moment).astimezone(UTC).strftime(form) if moment else ""


def spoken(sentence: str) -> str:
    """A sentence with its RFC 3339 times as people say them."""
    return _MOMENT.sub(lambda found: until(found[0]), sentence)


def differences(change: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a change says, as (where, before, after) in words; of a value with parts those that differ."""
    return list(_differ(str(change["path"]), change.get("before"), change.get("after")))


def _differ(at: str, before: Any, after: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping) and not {"amountMinor"} & {*before, *after}:
        for name in dict.fromkeys((*before, *after)):
            if before.get(name) != after.get(name):
                yield from _differ(f"{at}/{name}", before.get(name), after.get(name))
    else:
        yield place(at), value(before), value(after)


def value(given: Any) -> str:
    """A value of an order as a person would read it out."""
    match given:
        case None | "":
            return "nothing"
        case bool():
            return "yes" if given else "no"
        case {"amountMinor": int(), "currency": str()}:
            return money(given)
        case Mapping():
            return ", ".join(f"{place(f'/{name}')} {value(part)}" for name, part in given.items())
        case list():
            return ", ".join(value(part) for part in given)
        case str() if _MOMENT.fullmatch(given):
            return until(given)
        case _:
            return str(given)


def short(identifier: str) -> str:
    """The first part of a UUID: enough to tell two apart by eye."""
    return identifier[:8]
