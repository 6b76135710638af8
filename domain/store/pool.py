"""Connections and transactions of the application's role; it must never hand out one without its tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from domain.store.queries import Query
from domain.values import TenantId

Connection = asyncpg.pool.PoolConnectionProxy
Pool = asyncpg.Pool
LockTimeout = asyncpg.LockNotAvailableError
StatementTimeout = asyncpg.QueryCanceledError
UniqueViolation = asyncpg.UniqueViolationError

# A lock is waited for so long, a statement lasts so long; then the caller hears about it and tries again.
LIMITS: Final = {"lock_timeout": "2s", "statement_timeout": "5s", "timezone": "UTC", "jit": "off"}


# The server ends a statement by itself; who hears nothing for longer than that talks into a dead wire.
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 8.0

# What asyncpg says of a connection whose other end is gone.
_CUT: Final = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)


async def _keep(connection: Any) -> None:
    """Nothing to reset between users: every setting of ours is local to its transaction."""


async def open_pool(database_url: str, *, size: int = 16, name: str = "recourse") -> Pool:
    """A pool of up to `size` connections. Raises OSError or asyncpg.PostgresError where no database answers."""
    return await asyncpg.create_pool(
        database_url,
        min_size=min(2, size),
        max_size=size,
        reset=_keep,
        timeout=CONNECT_SECONDS,
        command_timeout=ANSWER_SECONDS,
        server_settings={**LIMITS, "application_name": name},
    )


@asynccontextmanager
async def tenant_transaction(pool: Pool, tenant_id: TenantId, *, read_only: bool = False) -> AsyncIterator[Connection]:
    """One transaction that sees one tenant. The tenant is a parsed UUID, so it may stand in simple-protocol text."""
    mode = "begin isolation level repeatable read read only" if read_only else "begin"
    begin = f"{mode}; set local recourse.tenant = '{tenant_id}'"
    connection = await _begin(pool, begin)
    try:
        try:
            yield connection
            await connection.execute("commit")
        except TimeoutError:
            _discard(connection)  # nobody answers there; where the server lives, it rolls back by itself
            raise
        except BaseException:
            await _roll_back(connection)
            raise
    finally:
        await pool.release(connection)


async def _begin(pool: Pool, begin: str) -> Connection:
    """A connection with an open transaction. Whatever lies in the pool may have been cut there, which only its first
    statement notices; nothing has happened by then, so the next one is tried, and at last a new one."""
    for _ in range(pool.get_size()):
        try:
            return await _acquire(pool, begin)
        except _CUT:
            continue
    return await _acquire(pool, begin)


async def _acquire(pool: Pool, begin: str) -> Connection:
    connection = await pool.acquire()
    try:
        await connection.execute(begin)
    except BaseException:
        _discard(connection)
        await pool.release(connection)
        raise
    return connection


def _discard(connection: Connection) -> None:
    """Never use it again. One that the driver has seen end is out of the pool already, and says so."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


async def _roll_back(connection: Connection) -> None:
    try:
        await connection.execute("rollback")
    except (*_CUT, asyncpg.InterfaceError, TimeoutError):
        _discard(connection)


async def fetch_row(connection: Connection, query: Query, **values: Any) -> asyncpg.Record | None:
    return await connection.fetchrow(query.text, *query.arguments(values))


async def fetch_all(connection: Connection, query: Query, **values: Any) -> list[asyncpg.Record]:
    return await connection.fetch(query.text, *query.arguments(values))


async def run(connection: Connection, query: Query, **values: Any) -> str:
    return await connection.execute(query.text, *query.arguments(values))
