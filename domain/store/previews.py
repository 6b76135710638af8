"""Previews in and out of PostgreSQL: only what they rested on is kept; what they showed can be asked for again."""

from __future__ import annotations

from uuid import UUID

from domain.store.pool import Connection, fetch_row, run
from domain.store.queries import load_queries
from domain.values import OrderId, TenantId

_SQL = load_queries("previews")


async def add_preview(
    connection: Connection, tenant_id: TenantId, order_id: OrderId, preview_id: UUID, kind: str, fingerprint: str
) -> None:
    await run(
        connection,
        _SQL["add_preview"],
        tenant_id=tenant_id,
        order_id=order_id,
        preview_id=preview_id,
        kind=kind,
        fingerprint=fingerprint,
    )


async def find_preview(
    connection: Connection, tenant_id: TenantId, order_id: OrderId, preview_id: UUID, kind: str
) -> str | None:
    """The fingerprint that a preview of this order was made of; None where there is none."""
    row = await fetch_row(
        connection, _SQL["find_preview"], tenant_id=tenant_id, order_id=order_id, preview_id=preview_id, kind=kind
    )
    return row["fingerprint"] if row else None
