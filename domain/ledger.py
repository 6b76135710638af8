"""The ledger: what really happened outside, one row per effect. It must never guess an outcome."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from domain.policy import TaskType
from domain.values import EffectId, Json, Money, TaskId, is_external

OPEN_EFFECT: Final = frozenset({"INTENDED", "UNKNOWN"})

# Time beyond the call's own timeout that a lease lasts: writing the outcome must fit into it.
LEASE_MARGIN: Final = timedelta(seconds=5)

MOST_MONEY: Final = 10**15  # minor units; what an order's own amounts are bounded by
_CURRENCY: Final = re.compile("[A-Z]{3}")


@dataclass(frozen=True)
class Effect:
    """One effect on one outside system, committed as INTENDED before anybody is called (I3).

    attempt: number of the latest call · failures: calls since the last repair whose outcome stayed unknown
    lease_until: until then the caller of this attempt has the only right to call · reverses: the original
    effect that this one undoes · withdraws: the original that this one tries to stop (no reversal for I4)
    missed_at: when verification first answered "unknown there" late enough to count
    """

    effect_id: EffectId
    task_id: TaskId
    task_type: str
    system: str
    operation: str
    level: str
    state: str
    input: Json
    intended_at: datetime
    attempt: int = 0
    failures: int = 0
    lease_until: datetime | None = None
    called_at: datetime | None = None
    accepted_at: datetime | None = None
    unknown_since: datetime | None = None
    missed_at: datetime | None = None
    settled_at: datetime | None = None
    basis: str = "SYSTEM"
    reverses: EffectId | None = None
    withdraws: EffectId | None = None
    reversed_by: EffectId | None = None
    external_reference: str | None = None
    output: Json = None
    reason: str | None = None

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_EFFECT

    @property
    def is_original(self) -> bool:
        return self.reverses is None and self.withdraws is None

    @property
    def stands(self) -> bool:
        """Whether the world still shows it: confirmed, not undone, and felt outside."""
        return self.state == "CONFIRMED" and is_external(self.level)


@dataclass(frozen=True)
class Attempt:
    """One call of one effect: the row written before the call (D6), completed by its outcome."""

    effect_id: EffectId
    attempt: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str | None = None
    detail: str | None = None


def back_off(task_type: TaskType, failures: int, seed: uuid.UUID) -> timedelta:
    """Doubling from the policy's back-off, capped by the pace of verification, ±20 % by the effect's own id.

    The jitter is derived, not drawn, so that the same ledger always gives the same wait.
    """
    doubled = task_type.backoff * float(2 ** min(max(failures - 1, 0), 16))
    spread = 0.8 + 0.4 * (uuid.uuid5(seed, str(failures)).int % 1000) / 1000
    return min(doubled, task_type.verify.every) * spread


def refundable(original: Effect, reversals: Iterable[Effect], currency: str) -> Money | None:
    """What a CAPTURE effect took less what has been given back, never below zero. None where a system has said
    something of it that is no amount: then nobody knows, and it must not count as nothing.

    reversals: what undoes this effect or has undone it · currency: of amounts that name none
    """
    amounts = [_amount(original, "captured", currency), _amount(original, "refunded", currency)]
    amounts += [_amount(effect, "refunded", currency) for effect in reversals if effect.state == "CONFIRMED"]
    known = [amount for amount in amounts if amount is not None]
    currencies = {amount.currency for amount in known if amount.amount_minor}
    if len(known) < len(amounts) or len(currencies) > 1:
        return None
    taken, *given = known
    left = taken.amount_minor - sum(amount.amount_minor for amount in given)
    return Money(max(left, 0), taken.currency)


def _amount(effect: Effect, key: str, currency: str) -> Money | None:
    """`output.captured` or `output.refunded`: an integer of minor units, or money; a system that leaves it out has
    moved none. None where what it says is neither."""
    said = effect.output.get(key) if isinstance(effect.output, dict) else None
    return Money(0, currency) if said is None else read_money(said, currency)


def read_money(said: Json, currency: str | None = None) -> Money | None:
    """Money as a system or a person writes it; None where it is none. currency: where they may leave it out"""
    if isinstance(said, dict):
        currency, said = said.get("currency", currency), said.get("amountMinor")
    counts = isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= MOST_MONEY
    if not counts or not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        return None
    return Money(said, currency)
