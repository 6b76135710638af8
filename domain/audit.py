"""The audit of an order as a chain of hashes: whoever changes an entry breaks every later link. It must never be
written by anything but the transaction whose facts it records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from domain.values import Json

GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True)
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
        """The bytes that are hashed: every field but the hash, in one fixed spelling."""
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
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def expected_hash(self) -> bytes:
        return hashlib.sha256(self.previous_hash + self.canonical()).digest()


def find_break(entries: Iterable[AuditEntry]) -> int | None:
    """The sequence of the first link that does not hold (missing, altered or re-hashed); None for a sound chain.

    `entries` come in order of sequence, from the first.
    """
    previous, expected = GENESIS, 1
    for entry in entries:
        if entry.sequence != expected or entry.previous_hash != previous or entry.hash != entry.expected_hash():
            return min(entry.sequence, expected)
        previous, expected = entry.hash, expected + 1
    return None
