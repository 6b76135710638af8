"""The roles that people hold for deciding in Tasklist; it must never be asked about a token's holder."""

from __future__ import annotations

from domain.store.pool import Pool, fetch_row, tenant_transaction
from domain.store.queries import load_queries
from domain.values import TenantId

_SQL = load_queries("staff")


async def read_roles(pool: Pool, tenant_id: TenantId, subject: str) -> frozenset[str]:
    """The roles of a person; none for one that the tenant does not know."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL["read_roles"], tenant_id=tenant_id, subject=subject)
    return frozenset(row["roles"]) if row else frozenset()
