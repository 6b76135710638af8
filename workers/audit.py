"""An order's history as a file that anybody can check without us: export, and verification of chains, live or offline.
It must never repair what it finds broken."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from domain.audit import AuditEntry, Break, Walk
from domain.errors import OrderNotFound
from domain.store.verify import ChainLink, open_auditor
from domain.values import format_time, parse_time

FORMAT: Final = "recourse.audit.v1"


class ExportUnreadableError(Exception):
    """The file is not an export of ours; the message names the line."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What walking chains came to. order_id, first_broken: of the first chain that does not hold."""

    orders: int
    entries: int
    order_id: UUID | None = None
    first_broken: int | None = None

    @property
    def valid(self) -> bool:
        return self.first_broken is None

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"valid": self.valid, "orders": self.orders, "entries": self.entries}
        if not self.valid:
            told |= {"orderId": str(self.order_id), "firstBroken": self.first_broken}
        return told

    def to_text(self) -> str:
        if self.valid:
            return f"{self.entries} entries of {self.orders} orders hold together"
        return f"BROKEN: order {self.order_id}, first broken link is audit {self.first_broken}"


# -- live -------------------------------------------------------------------------------------------------


async def verify_live(auditor_url: str, *, order_id: UUID | None, tenant_id: UUID | None) -> Verified:
    """Walk one order's chain, or all, to the first break. Raises OrderNotFound, NotAnAuditorError, or as asyncpg."""
    walk = Walk()
    async with open_auditor(auditor_url, tenant_id=tenant_id) as auditor:
        async for broken in auditor.walk_chains(walk, order_id):
            if broken is not None:
                return _verified(walk, broken)
    if order_id is not None and not walk.orders:
        raise OrderNotFound
    return _verified(walk)


def _verified(walk: Walk, broken: Break | None = None) -> Verified:
    if broken is None:
        return Verified(walk.orders, walk.entries)
    return Verified(walk.orders, walk.entries, broken.order_id, broken.sequence)


# -- export -----------------------------------------------------------------------------------------------


async def export_order(auditor_url: str, *, order_id: UUID, tenant_id: UUID | None) -> AsyncIterator[str]:
    """The order's history, one JSON text a line: first what the order's row says of its end, then every entry.

    Raises OrderNotFound, NotAnAuditorError, or as asyncpg.
    """
    place: tuple[UUID, UUID] | None = None
    async with open_auditor(auditor_url, tenant_id=tenant_id) as auditor:
        async for links in auditor.read_chains(order_id):
            for link in links:
                if (link.tenant_id, link.entry.order_id) != place:
                    place = link.tenant_id, link.entry.order_id
                    yield _line(_head(link))
                yield _line(show_entry(link.entry))
    if place is None:
        raise OrderNotFound


def _head(link: ChainLink) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "tenantId": str(link.tenant_id),
        "orderId": str(link.entry.order_id),
        "sequence": link.last_sequence,
        "hash": link.last_hash.hex(),
    }


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def show_entry(entry: AuditEntry) -> dict[str, Any]:
    """An entry in the words of the timeline; everything that is hashed is there."""
    return {
        "sequence": entry.sequence,
        "at": format_time(entry.at),
        "actor": entry.actor,
        "onBehalfOf": entry.on_behalf_of,
        "entity": entry.entity,
        "entityId": entry.entity_id,
        "kind": entry.kind,
        "from": entry.before,
        "to": entry.after,
        "requestId": str(entry.request_id) if entry.request_id else None,
        "data": entry.data,
        "previousHash": entry.previous_hash.hex(),
        "hash": entry.hash.hex(),
    }


def read_entry(order_id: UUID, shown: Mapping[str, Any]) -> AuditEntry:
    """The inverse of `show_entry`; raises KeyError, TypeError or ValueError for what is none."""
    return AuditEntry(
        order_id=order_id,
        sequence=shown["sequence"],
        at=parse_time(shown["at"]),
        actor=shown["actor"],
        on_behalf_of=shown["onBehalfOf"],
        entity=shown["entity"],
        entity_id=shown["entityId"],
        kind=shown["kind"],
        before=shown["from"],
        after=shown["to"],
        request_id=UUID(shown["requestId"]) if shown["requestId"] else None,
        data=shown["data"],
        previous_hash=bytes.fromhex(shown["previousHash"]),
        hash=bytes.fromhex(shown["hash"]),
    )


# -- offline ----------------------------------------------------------------------------------------------


def verify_export(lines: Iterable[str]) -> Verified:
    """Walk the chains of an export (or of several, one after the other) without any database, to the first break.

    It shows that nothing was changed, left out or added since the export was made; whether the export is the history
    itself, only a hash shows that was noted elsewhere. Raises ExportUnreadableError.
    """
    walk = Walk()
    order_id: UUID | None = None
    for number, line in enumerate(lines, 1):
        try:
            read = json.loads(line)
            if read.get("format") == FORMAT:
                order_id = UUID(read["orderId"])
                end = int(read["sequence"]), bytes.fromhex(read["hash"])
                broken = walk.enter(UUID(read["tenantId"]), order_id, *end)
            elif order_id is None:
                raise ExportUnreadableError(f"line {number}: an export begins with its format, {FORMAT}")
            else:
                broken = walk.follow(read_entry(order_id, read))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ExportUnreadableError(f"line {number}: {type(error).__name__}: {error}") from error
        if broken is not None:
            return _verified(walk, broken)
    if order_id is None:
        raise ExportUnreadableError("the file is empty")
    return _verified(walk, walk.finish())
