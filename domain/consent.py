"""What a change needs before anything is done for it: a person who agrees, a customer who accepts what it costs. Both
kinds of change need it alike; it must never judge what a change would do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from domain.assessment import Offer
from domain.errors import ChargeNotOpen, FieldError, FourEyes, Unprocessable
from domain.order import Change, Draft, Request
from domain.values import Json, format_time


def check_four_eyes(change: Change, person: str) -> None:
    """The person, not the role: neither who asked nor for whom it was asked may decide (I8)."""
    if person in {change.requested_by, change.on_behalf_of}:
        raise FourEyes


def add_decision(draft: Draft, change: Change, decision: str, comment: str | None) -> tuple[Mapping[str, Json], ...]:
    """All decisions about a change, this one last."""
    by, at = draft.actor.subject, format_time(draft.now)
    return (*change.decisions, {"decision": decision, "by": by, "at": at, "comment": comment, "round": change.round})


def refuse_decision(draft: Draft, change: Change, code: str) -> Mapping[str, Json]:
    """One that was entered and may not count is on record; people are asked again."""
    draft.record("DECISION_REFUSED", "REQUEST", change.request_id, request_id=change.request_id, code=code)
    return {"verdict": "again"}


def wake_waiting(draft: Draft, change: Change) -> None:
    """The flow that waits for a decision, or for quiet, is told that there is something to ask."""
    if change.status == "REQUIRES_APPROVAL":
        draft.send("review-decided", change.wait_key)
    elif change.status == "AWAITING_CHARGE_DECISION":
        draft.send("charge-decided", change.wait_key)
    elif change.waiting:
        draft.send("closure-quiesced", change.wait_key)


# -- charges -----------------------------------------------------------------------------------------------------


def offer_charge(draft: Draft, change: Change, offer: Offer | None) -> Change:
    """What the change costs now. One that was offered, or accepted, for another amount is offered anew."""
    if change.charge and (offer is None or offer.amount.to_json() != change.charge["amount"]):
        change = _alter(draft, waive_charge(draft, change), charge=None)
    if offer and change.charge is None:
        status = "WAIVED" if offer.waived else "OFFERED" if offer.blocking else "RECORDED"
        change = _alter(draft, change, charge=offer.to_json(status))
        if status == "OFFERED":
            _tell(draft, change, "CHARGE_OFFERED", amount=offer.amount.to_json())
    return change


def check_charge(draft: Draft, change: Change, invalid: tuple[FieldError, ...]) -> None:
    """That an answer may be given. Raises ChargeNotOpen, Unprocessable."""
    if change.status != "AWAITING_CHARGE_DECISION" or not change.charge:
        raise ChargeNotOpen
    if invalid:
        raise Unprocessable(errors=invalid)
    if is_charge_due(change, draft.now):
        raise ChargeNotOpen("The time to answer the charge has passed.")


def is_charge_due(change: Change, now: datetime) -> bool:
    return now >= datetime.fromisoformat(str((change.charge or {})["respondBy"]))


def accept_charge(draft: Draft, change: Change) -> Change:
    charge = change.charge or {}
    _tell(draft, change, "CHARGE_ACCEPTED", amount=charge["amount"])
    return _alter(draft, change, charge={**charge, "status": "ACCEPTED"})


def end_charge(draft: Draft, change: Change, status: str) -> Change:
    """Nobody will pay it. status: DECLINED or EXPIRED"""
    _tell(draft, change, f"CHARGE_{status}")
    return _alter(draft, change, charge={**(change.charge or {}), "status": status})


def waive_charge(draft: Draft, change: Change) -> Change:
    """What was accepted is not owed any more; billing has been told to collect it, so it is told that too."""
    charge = change.charge
    if not charge or charge["status"] != "ACCEPTED":
        return change
    _tell(draft, change, "CHARGE_WAIVED", amount=charge["amount"])
    return _alter(draft, change, charge={**charge, "status": "WAIVED"})


def _tell(draft: Draft, change: Change, kind: str, **more: Json) -> None:
    code = (change.charge or {})["code"]
    draft.record(kind, "REQUEST", change.request_id, request_id=change.request_id, code=code, **more)


def _alter(draft: Draft, change: Change, **changes: Json) -> Change:
    if isinstance(change, Request):
        return draft.change_request(change.request_id, **changes)
    return draft.change_amendment(change.request_id, **changes)
