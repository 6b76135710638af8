"""What measurements need of the database: its settings, orders by the hundred, the statements of a command as they went
over the wire. It must never be part of a running service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from domain.store.orders import write_rows
from domain.store.pool import Pool, fetch_all, fetch_row, tenant_transaction
from domain.store.queries import load_queries
from domain.values import TenantId

_SQL = load_queries("measuring")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement as it was sent, and its arguments."""

    text: str
    arguments: tuple[Any, ...]


async def read_server(pool: Pool) -> dict[str, str]:
    """version, fsync, synchronous_commit, full_page_writes, shared_buffers."""
    async with pool.acquire() as connection:
        row = await fetch_row(connection, _SQL["read_server"])
    assert row is not None
    return dict(row)


async def count_unsent(pool: Pool) -> int:
    """Events that wait for Kafka, of all tenants; for a role that sees them."""
    async with pool.acquire() as connection:
        row = await fetch_row(connection, _SQL["count_unsent"])
    assert row is not None
    return int(row["unsent"])


async def read_ends(pool: Pool, tenant_id: UUID) -> dict[UUID, float | None]:
    """Order → when its cancellation ended, in seconds since 1970; None: it has not. For a role that sees them."""
    async with pool.acquire() as connection:
        rows = await fetch_all(connection, _SQL["read_ends"], tenant_id=tenant_id)
    return {row["order_id"]: row["ended"] for row in rows}


async def count_leftovers(pool: Pool, tenant_id: UUID) -> dict[str, int]:
    """What must be nothing at rest, by name; for a role that reads all tenants."""
    async with pool.acquire() as connection:
        row = await fetch_row(connection, _SQL["count_leftovers"], tenant_id=tenant_id)
    assert row is not None
    return dict(row)


def merge_rows(decisions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of decisions about different orders, each as `draft_rows` makes them, as one document."""
    merged: dict[str, list[Any]] = {}
    for rows in decisions:
        for table, some in rows.items():
            merged.setdefault(table, []).extend(some)
    return merged


async def write_many(pool: Pool, tenant_id: TenantId, rows: dict[str, Any]) -> None:
    """Write what many decisions changed in one transaction, by the statement that writes one."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await write_rows(connection, rows, tenant_id=tenant_id, command_id=UUID(int=0))


@asynccontextmanager
async def recorded_statements(pool: Pool) -> AsyncIterator[list[Statement]]:
    """Everything that the one connection of `pool` sends while the block runs, in order."""
    sent: list[Statement] = []

    def note(query: Any) -> None:
        sent.append(Statement(query.query, tuple(query.args or ())))

    async with pool.acquire() as connection:
        connection.add_query_logger(note)
    try:
        yield sent
    finally:
        async with pool.acquire() as connection:
            connection.remove_query_logger(note)
