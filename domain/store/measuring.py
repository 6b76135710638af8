"""What measurements need of the database: its settings, orders by the hundred, the statements of a command as they went
over the wire. It must never be part of a running service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from domain.store.orders import write_rows
from domain.store.pool import Pool, fetch_all, fetch_row, tenant_transaction
from domain.store.queries import load_queries
from domain.values import OrderId, TenantId

_SQL = load_queries("measuring")

# What an order is, and what has been said about it.
STATE: Final = ("customer_order", "audit_head", "order_item", "fulfillment_plan", "fulfillment_task", "effect")
HISTORY: Final = ("audit_entry", "outbox", "order_history", "external_call_attempt")
_CLONES: Final = 5_000
_CLONED: Final = UUID("00000000-0000-4000-8000-00000000c10e")
_CLONED_ID: Final = "(copies.head || right({}::text, 17))::uuid"


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


async def read_sent(pool: Pool, order_ids: Sequence[UUID]) -> dict[UUID, float | None]:
    """Order → when its last event was marked as taken by Kafka, in seconds since 1970; None: one waits. For a role that
    sees them."""
    async with pool.acquire() as connection:
        rows = await fetch_all(connection, _SQL["read_sent"], order_ids=list(order_ids))
    return {row["order_id"]: row["sent"] for row in rows}


async def read_parked(pool: Pool, tenant_id: UUID) -> dict[str, UUID]:
    """Incident → the order whose open case says that it waits there. For a role that reads all tenants."""
    async with pool.acquire() as connection:
        rows = await fetch_all(connection, _SQL["read_parked"], tenant_id=tenant_id)
    return {row["incident_key"]: row["order_id"] for row in rows}


async def count_rows_of(pool: Pool, order_ids: Sequence[str]) -> dict[str, int]:
    """Table → rows about these orders; for a role that reads all tenants."""
    async with pool.acquire() as connection:
        rows = await fetch_all(connection, _SQL["count_rows_of"], order_ids=list(order_ids))
    return {row["name"]: row["rows"] for row in rows}


async def read_size(pool: Pool) -> int:
    """Bytes of the whole database."""
    async with pool.acquire() as connection:
        row = await fetch_row(connection, _SQL["read_size"])
    assert row is not None
    return int(row["bytes"])


async def count_leftovers(pool: Pool, tenant_id: UUID) -> dict[str, int]:
    """What must be nothing at rest, by name; for a role that reads all tenants."""
    async with pool.acquire() as connection:
        row = await fetch_row(connection, _SQL["count_leftovers"], tenant_id=tenant_id)
    assert row is not None
    return dict(row)


async def clone_orders(owner_url: str, order_id: OrderId, count: int, tables: Sequence[str]) -> None:
    """So many copies of an order's rows in these tables, for a tenant of their own: every id another, all else alike.
    Only the server's owner may: references are not looked at one by one.

    Ids are spread as random ones are, but all of one copy begin alike, and copies are written in that order: indexes
    grow at one end. In any other order every row looks for its page in each index, and a million orders take hours.
    """
    connection = await asyncpg.connect(owner_url, server_settings={"session_replication_role": "replica"})
    try:
        await connection.execute(_SQL["make_copies"].text, count)
        await connection.execute(_SQL["index_copies"].text)
        tenant_id = await connection.fetchval(_SQL["find_tenant"].text, order_id)
        statements = [await _clone_statement(connection, table) for table in tables]
        for first in range(1, count + 1, _CLONES):
            async with connection.transaction():
                for statement in statements:
                    await connection.execute(statement, tenant_id, order_id, first, first + _CLONES - 1)
        for table in tables:
            await connection.execute(f"vacuum analyze {table}")
    finally:
        await connection.close()


async def _clone_statement(connection: asyncpg.Connection, table: str) -> str:
    """Copies $3 to $4 of the rows of order $2 of tenant $1. Names come from the catalogue and from the lists above."""
    values: dict[str, str] = {}
    for row in await connection.fetch(_SQL["list_columns"].text, table):
        name = row["name"]
        if name == "tenant_id":
            values[name] = f"'{_CLONED}'::uuid"
        elif row["is_id"]:
            values[name] = _CLONED_ID.format(f"r.{name}")
        elif row["is_ids"]:
            values[name] = f"array(select {_CLONED_ID.format('one')} from unnest(r.{name}) one)"  # noqa: S608 - as below
        elif name == "published_at":
            values[name] = "clock_timestamp()"
        else:
            values[name] = f"r.{name}"
    whose = "r.order_id = $2"
    if "order_id" not in values:
        whose = "r.effect_id in (select effect_id from effect where tenant_id = $1 and order_id = $2)"
    return (
        f"insert into {table} ({', '.join(values)}) select {', '.join(values.values())} "  # noqa: S608 - see above
        f"from copies cross join {table} r "
        f"where copies.place between $3 and $4 and r.tenant_id = $1 and {whose} order by copies.place"
    )


async def mark_all_sent(owner_url: str) -> None:
    """Say of all messages that they have been sent: no relay runs, and none is late."""
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute(_SQL["mark_all_sent"].text)
    finally:
        await connection.close()


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
