"""Who listens to orders at an address of theirs, and what is still to be told; it must never call anybody."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NewType
from uuid import UUID

import orjson

from domain.store.pool import Connection, Pool, fetch_all, fetch_row, run, tenant_transaction
from domain.store.product_orders import Numbered, Row
from domain.store.queries import load_queries
from domain.values import Json, OrderId, TenantId

_SQL = load_queries("listeners")

ListenerId = NewType("ListenerId", UUID)

MOST: Final = 20  # listeners of one tenant: each one is a row more for every event


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event that is this process's to tell. attempts: with this one · callback None: who wanted it is gone"""

    order_id: OrderId
    sequence: int
    event_id: UUID
    type: str
    at: datetime
    payload: dict[str, Json]
    attempts: int
    callback: str | None


async def add_listener(
    pool: Pool,
    tenant_id: TenantId,
    listener_id: ListenerId,
    *,
    callback: str,
    query: str | None,
    heard: Collection[str],
    created_by: str,
) -> Row | None:
    """The listener; the same id again changes nothing. None: the tenant has as many as it may."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await run(connection, _SQL["count_alone"], tenant_id=tenant_id)
        await run(
            connection,
            _SQL["add_listener"],
            tenant_id=tenant_id,
            listener_id=listener_id,
            callback=callback,
            asked=query,
            heard=sorted(heard),
            created_by=created_by,
            most=MOST,
        )
        row = await fetch_row(connection, _SQL["read_listener"], tenant_id=tenant_id, listener_id=listener_id)
    return None if row is None else _read(row)


async def read_listener(pool: Pool, tenant_id: TenantId, listener_id: ListenerId) -> Row | None:
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL["read_listener"], tenant_id=tenant_id, listener_id=listener_id)
    return None if row is None else _read(row)


async def list_listeners(pool: Pool, tenant_id: TenantId, *, limit: int, offset: int) -> Numbered:
    """Newest first."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        counted = await fetch_row(connection, _SQL["count_listeners"], tenant_id=tenant_id)
        rows = await fetch_all(connection, _SQL["list_listeners"], tenant_id=tenant_id, limit=limit, offset=offset)
    assert counted is not None
    return Numbered([_read(row) for row in rows], counted["total"])


async def remove_listener(pool: Pool, tenant_id: TenantId, listener_id: ListenerId) -> bool:
    """Nothing is told there any more; False where there is no such listener."""
    async with tenant_transaction(pool, tenant_id) as connection:
        gone = await fetch_row(connection, _SQL["remove_listener"], tenant_id=tenant_id, listener_id=listener_id)
    return gone is not None


def _read(row: Any) -> Row:
    return {**orjson.loads(row["document"]), "waiting": row["waiting"]}


async def find_due_listeners(connection: Connection, limit: int) -> list[tuple[TenantId, ListenerId]]:
    """Who is to be told something now, over all tenants; `connection` is the auditor's."""
    rows = await fetch_all(connection, _SQL["find_due_listeners"], limit=limit)
    return [(row["tenant_id"], row["listener_id"]) for row in rows]


async def claim_deliveries(
    pool: Pool, tenant_id: TenantId, listener_id: ListenerId, *, size: int, lease: timedelta
) -> list[Delivery]:
    """The next events for one listener, at most one of each order, for this process alone and as long as the lease."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await fetch_all(
            connection,
            _SQL["claim_deliveries"],
            tenant_id=tenant_id,
            listener_id=listener_id,
            size=size,
            lease=lease,
        )
    return [Delivery(**{**row, "payload": orjson.loads(row["payload"])}) for row in rows]


async def end_delivery(
    pool: Pool,
    tenant_id: TenantId,
    listener_id: ListenerId,
    delivery: Delivery,
    *,
    told: bool = False,
    given_up: str | None = None,
) -> None:
    """Taken, of no interest (neither), or given up for a reason; whoever lost the claim meanwhile changes nothing."""
    of = {"tenant_id": tenant_id, "listener_id": listener_id}
    async with tenant_transaction(pool, tenant_id) as connection:
        gone = await fetch_row(
            connection,
            _SQL["end_delivery"],
            **of,
            order_id=delivery.order_id,
            sequence=delivery.sequence,
            attempts=delivery.attempts,
        )
        if gone is not None and told:
            await run(connection, _SQL["note_told"], **of)
        elif gone is not None and given_up is not None:
            await run(connection, _SQL["note_given_up"], **of, trouble=given_up)


async def put_off(
    pool: Pool, tenant_id: TenantId, listener_id: ListenerId, delivery: Delivery, pause: timedelta, trouble: str
) -> None:
    """Not taken now; again after a pause."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await run(
            connection,
            _SQL["put_off"],
            tenant_id=tenant_id,
            listener_id=listener_id,
            order_id=delivery.order_id,
            sequence=delivery.sequence,
            attempts=delivery.attempts,
            pause=pause,
            trouble=trouble,
        )
