"""Orders and cancellations of whole orders, read in numbered pages with a total. It must never write."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from domain.store.pool import Pool, fetch_all, fetch_row, tenant_transaction
from domain.store.queries import load_queries
from domain.values import Json, OrderId, RequestId, TenantId

_SQL = load_queries("product_orders")

Row = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Numbered:
    """One page, and how many there are in all."""

    rows: list[Row]
    total: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which orders; None: whatever it is. kept: members that were told so · since and until: of the moment when it was
    taken in, from the one on and before the other."""

    order_id: UUID | None = None
    states: Collection[str] | None = None
    external_id: str | None = None
    customer_id: str | None = None
    kept: Mapping[str, str] | None = None
    since: datetime | None = None
    until: datetime | None = None


async def list_product_orders(pool: Pool, tenant_id: TenantId, wanted: Wanted, *, limit: int, offset: int) -> Numbered:
    """Newest first: rows of {head, items}, as their tables have them."""
    values = {
        "order_id": wanted.order_id,
        "states": None if wanted.states is None else sorted(wanted.states),
        "external_id": wanted.external_id,
        "customer_id": wanted.customer_id,
        "kept": orjson.dumps(wanted.kept).decode() if wanted.kept else None,
        "since": wanted.since,
        "until": wanted.until,
    }
    return await _page(pool, tenant_id, ("list_product_orders", "count_product_orders"), values, limit, offset)


@dataclass(frozen=True, slots=True)
class WantedTasks:
    """Which requests to cancel a whole order; None: whatever it is."""

    request_id: UUID | None = None
    order_id: UUID | None = None
    statuses: Collection[str] | None = None


async def list_cancel_tasks(
    pool: Pool, tenant_id: TenantId, wanted: WantedTasks, *, limit: int, offset: int
) -> Numbered:
    """Newest first: rows of the requests to cancel a whole order."""
    values = {
        "request_id": wanted.request_id,
        "order_id": wanted.order_id,
        "statuses": None if wanted.statuses is None else sorted(wanted.statuses),
    }
    return await _page(pool, tenant_id, ("list_cancel_tasks", "count_cancel_tasks"), values, limit, offset)


async def read_product_order(pool: Pool, tenant_id: TenantId, order_id: OrderId) -> Row | None:
    return await _one(pool, tenant_id, "read_product_order", order_id=order_id)


async def read_cancel_task(pool: Pool, tenant_id: TenantId, request_id: RequestId) -> Row | None:
    return await _one(pool, tenant_id, "read_cancel_task", request_id=request_id)


async def _one(pool: Pool, tenant_id: TenantId, query: str, **values: Any) -> Row | None:
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL[query], tenant_id=tenant_id, **values)
    return None if row is None else dict(orjson.loads(row["document"]))


async def _page(
    pool: Pool, tenant_id: TenantId, queries: tuple[str, str], values: dict[str, Any], limit: int, offset: int
) -> Numbered:
    page, total = queries
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        counted = await fetch_row(connection, _SQL[total], tenant_id=tenant_id, **values)
        rows = await fetch_all(connection, _SQL[page], tenant_id=tenant_id, limit=limit, offset=offset, **values)
    assert counted is not None
    return Numbered([orjson.loads(row["document"]) for row in rows], counted["total"])
