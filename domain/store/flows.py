"""Remembers which instances of the engine carry an order, for people who look; nothing may be decided by it."""

from __future__ import annotations

from datetime import datetime

from domain.store.pool import Pool, fetch_row, run, tenant_transaction
from domain.store.queries import load_queries
from domain.values import OrderId, Run, TenantId

_SQL = load_queries("flows")


async def note_flow(
    pool: Pool, tenant_id: TenantId, order_id: OrderId, flow_run: Run, instance_key: int, process: str
) -> None:
    """Once per instance; what is known already stays. Raises as any statement does."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await run(
            connection,
            _SQL["note_flow"],
            tenant_id=tenant_id,
            order_id=order_id,
            run=flow_run,
            instance_key=instance_key,
            process=process,
        )


async def find_cause(pool: Pool, tenant_id: TenantId, order_id: OrderId, flow_run: Run) -> tuple[str, datetime] | None:
    """The traceparent of what set a flow going last, and when that was; None where it is not recorded."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL["find_cause"], tenant_id=tenant_id, order_id=order_id, run=str(flow_run))
    return None if row is None else (row["trace_parent"], row["created_at"])
