"""The ledger: what really happened outside, one row per effect. It must never guess an outcome."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from domain.policy import TaskType
from domain.values import EffectId, Json, TaskId, is_external

OPEN_EFFECT: Final = frozenset({"INTENDED", "UNKNOWN"})

# Time beyond the call's own timeout that a lease lasts: writing the outcome must fit into it.
LEASE_MARGIN: Final = timedelta(seconds=5)


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


def captured_minor(effect: Effect) -> int:
    """What a CAPTURE effect took, in minor units: `output.captured`, an amount or money; 0 where it says nothing."""
    return _amount(effect.output, "captured")


def captured_currency(effect: Effect) -> str | None:
    """In which currency it was taken, where the system says so: what is given back is of the same money."""
    taken = effect.output.get("captured") if isinstance(effect.output, dict) else None
    currency = taken.get("currency") if isinstance(taken, dict) else None
    return currency if isinstance(currency, str) else None


def refunded_minor(effect: Effect) -> int:
    return _amount(effect.output, "refunded")


def _amount(output: Json, key: str) -> int:
    value = output.get(key) if isinstance(output, dict) else None
    if isinstance(value, dict):
        value = value.get("amountMinor")
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
