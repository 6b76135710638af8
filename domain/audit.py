"""The audit of an order as a chain of hashes: whoever changes an entry breaks every later link. It must never be
written by anything but the transaction whose facts it records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import orjson

from domain.values import Json

GENESIS: Final = bytes(32)


@dataclass(frozen=True)
class AuditEntry:
    """One fact, its place in the order's history, and the hash that binds it to all before it."""

    order_id: UUID
    sequence: int
    at: datetime
    actor: str
    on_behalf_of: str | None
    entity: str
    entity_id: str
    kind: str
    before: str | None
    after: str | None
    request_id: UUID | None
    data: Mapping[str, Json]
    previous_hash: bytes
    hash: bytes = b""

    def canonical(self) -> bytes:
        """The bytes that are hashed: every field but the hashes, as one JSON list in UTF-8, keys sorted, no spaces."""
        fields = [
            str(self.order_id),
            self.sequence,
            self.at.isoformat(),
            self.actor,
            self.on_behalf_of,
            self.entity,
            self.entity_id,
            self.kind,
            self.before,
            self.after,
            str(self.request_id) if self.request_id else None,
            self.data,
        ]
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)

    def expected_hash(self) -> bytes:
        return hashlib.sha256(self.previous_hash + self.canonical()).digest()


class Chain:
    """A chain as it is walked, entry by entry from the first; it remembers where it broke and nothing else."""

    __slots__ = ("hash", "sequence")

    def __init__(self) -> None:
        self.sequence, self.hash = 0, GENESIS

    def follow(self, entry: AuditEntry) -> int | None:
        """Take the next entry; where it does not hold, the sequence of the first link that is missing or altered."""
        expected = self.sequence + 1
        if entry.sequence != expected or entry.previous_hash != self.hash or entry.hash != entry.expected_hash():
            return min(entry.sequence, expected)
        self.sequence, self.hash = expected, entry.hash
        return None

    def ends_at(self, sequence: int, digest: bytes) -> int | None:
        """Whether the order's row names this very end; else the first link that is missing, cut off or rewritten."""
        if (self.sequence, self.hash) == (sequence, digest):
            return None
        return min(self.sequence, sequence) + (self.sequence != sequence)


def find_break(entries: Iterable[AuditEntry], head: tuple[int, bytes] | None = None) -> int | None:
    """The sequence of the first link that does not hold (missing, altered or re-hashed); None for a sound chain.

    `entries` come in order of sequence, from the first · head: sequence and hash of the last one, as the order's row
    has them; without it a chain that lost its end looks sound.
    """
    chain = Chain()
    for entry in entries:
        broken = chain.follow(entry)
        if broken is not None:
            return broken
    return chain.ends_at(*head) if head else None


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain does not hold: its order, and the first link that is missing, altered or re-hashed."""

    tenant_id: UUID
    order_id: UUID
    sequence: int


class Walk:
    """Many chains, one order after the other; each tells its first break and is not looked at any further."""

    def __init__(self) -> None:
        self.orders = self.entries = 0
        self._end: tuple[UUID, UUID, int, bytes] | None = None
        self._chain = Chain()
        self._broken = False

    def enter(self, tenant_id: UUID, order_id: UUID, sequence: int, digest: bytes) -> Break | None:
        """The next entries are this order's, whose row names that end; how the order before it ended."""
        if self._end is not None and self._end[:2] == (tenant_id, order_id):
            return None
        left = self.finish()
        self.orders += 1
        self._end, self._chain, self._broken = (tenant_id, order_id, sequence, digest), Chain(), False
        return left

    def follow(self, entry: AuditEntry) -> Break | None:
        self.entries += 1
        return None if self._broken else self._tell(self._chain.follow(entry))

    def finish(self) -> Break | None:
        """There are no more entries of this order."""
        if self._end is None or self._broken:
            return None
        return self._tell(self._chain.ends_at(*self._end[2:]))

    def _tell(self, sequence: int | None) -> Break | None:
        if sequence is None:
            return None
        assert self._end is not None
        self._broken = True
        return Break(*self._end[:2], sequence)
