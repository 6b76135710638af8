"""The vocabulary that every room shares: ids, money, people, levels; it must never hold a rule of any business."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NewType, TypeVar
from zoneinfo import available_timezones

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TenantId = NewType("TenantId", uuid.UUID)
OrderId = NewType("OrderId", uuid.UUID)
TaskId = NewType("TaskId", uuid.UUID)
EffectId = NewType("EffectId", uuid.UUID)
RequestId = NewType("RequestId", uuid.UUID)
PlanId = NewType("PlanId", uuid.UUID)
CaseId = NewType("CaseId", uuid.UUID)
AssetId = NewType("AssetId", uuid.UUID)
Run = NewType("Run", uuid.UUID)

Json = Any  # a JSON value; the documents of customers and outside systems have no fixed shape

# Weakest first: `effect_level_at_least` and "above NO_EXTERNAL_EFFECT" compare positions.
EFFECT_LEVELS: Final = (
    "NO_EXTERNAL_EFFECT",
    "RESERVATION_ONLY",
    "CUSTOMER_VISIBLE",
    "BILLING_VISIBLE",
    "NETWORK_VISIBLE",
    "LEGAL_VISIBLE",
    "UNKNOWN",
)
REVERSIBILITIES: Final = ("NONE", "AUTOMATIC", "MANUAL", "PARTIAL", "UNKNOWN")
ITEM_ACTIONS: Final = ("ADD", "MODIFY", "DISCONNECT", "RETURN", "NO_CHANGE")
ORDER_TYPES: Final = (
    "STANDARD",
    "AMENDMENT",
    "CANCELLATION",
    "SUPPLEMENTAL",
    "DISCONNECT",
    "RETURN",
    "REPAIR",
    "BILLING_ADJUSTMENT",
)
RELATION_TYPES: Final = (
    "AMENDS",
    "CANCELS",
    "SUPPLEMENTS",
    "REPLACES",
    "COMPENSATES",
    "REPAIRS",
    "ROLLS_BACK",
    "SPLITS_FROM",
)
ROLES: Final = ("agent", "approver", "operator", "auditor", "admin")

# ISO 4217: how many decimals the minor unit of a currency stands for, where it is not two.
_DECIMALS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"), 0),
    **dict.fromkeys(("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in integer minor units (cents) of one currency (ISO 4217)."""

    amount_minor: int
    currency: str

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise ValueError(f"cannot add {other.currency} to {self.currency}")
        return Money(self.amount_minor + other.amount_minor, self.currency)

    def __str__(self) -> str:
        """As people read it, with the decimals of its currency: 25.00 EUR, 1500 JPY, 1.250 KWD."""
        decimals = _DECIMALS.get(self.currency, 2)
        whole, part = divmod(abs(self.amount_minor), 10**decimals)
        sign = "-" if self.amount_minor < 0 else ""
        return f"{sign}{whole}{f'.{part:0{decimals}d}' if decimals else ''} {self.currency}"

    @property
    def units(self) -> float:
        """In whole units of the currency, as systems that know no minor ones have it."""
        return self.amount_minor / float(10 ** _DECIMALS.get(self.currency, 2))

    @classmethod
    def from_units(cls, units: float, currency: str) -> Money:
        """The other way; parts of a minor unit are rounded."""
        return cls(round(units * 10 ** _DECIMALS.get(currency, 2)), currency)

    def to_json(self) -> dict[str, Json]:
        return {"amountMinor": self.amount_minor, "currency": self.currency}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Money:
        return cls(int(value["amountMinor"]), str(value["currency"]))


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: the person of the token, or a part of the product itself (`system:<part>`, no roles)."""

    subject: str
    roles: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_system(self) -> bool:
        return self.subject.startswith("system:")


def system_actor(part: str) -> Actor:
    """The product's own part as actor, e.g. `system:walker`; no token can carry such a subject."""
    return Actor(f"system:{part}")


def is_external(level: str) -> bool:
    """Whether an effect of this level is felt outside; an unknown level counts as felt."""
    return level != "NO_EXTERNAL_EFFECT"


def derive_id(namespace: uuid.UUID, *parts: object) -> uuid.UUID:
    """A name-based id (uuid5): the same command gives the same ids, however often it is delivered."""
    name = "/".join(map(str, parts)).encode()
    # What `uuid.uuid5` does, without its detours: a command makes a dozen.
    digest = hashlib.sha1(namespace.bytes + name, usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[:16], version=5)


Row = TypeVar("Row", bound="DataclassInstance")


def alter(row: Row, **changes: Any) -> Row:
    """`dataclasses.replace` at a sixth of its price, for rows: frozen dataclasses with a `__dict__` that have no say in
    their own making. Every move of a draft is one."""
    assert changes.keys() <= row.__dataclass_fields__.keys(), f"{type(row).__name__} has no {sorted(changes)}"
    altered = object.__new__(type(row))
    vars(altered).update(vars(row), **changes)
    return altered


def format_time(moment: datetime) -> str:
    """RFC 3339 with offset, as the API and the engine spell time."""
    return moment.isoformat().replace("+00:00", "Z")


_DATED: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def is_dated(text: str) -> bool:
    """Whether an order may hold this time: RFC 3339 in the one spelling that all readers take, and far enough from the
    ends of the calendar, since deadlines are computed from it."""
    try:
        return bool(_DATED.fullmatch(text)) and 1900 <= parse_time(text).astimezone(UTC).year < 3000
    except (ValueError, OverflowError):
        return False


def is_time_zone(name: str) -> bool:
    """Whether this is a zone by its name in the IANA database, e.g. Europe/Berlin."""
    return name in _time_zones()


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def parse_time(text: str) -> datetime:
    """The inverse of `format_time`; raises ValueError without an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset, e.g. 2026-12-01T09:00:00+01:00")
    return moment
