"""The outboxes for the one who carries them: one leader per sink, rows oldest first; it must never skip a row of an
order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import asyncpg

from domain.store.queries import load_queries

_SQL = load_queries("outbox")

Sink = Literal["kafka", "engine"]

_LIMITS: Final = {"lock_timeout": "2s", "statement_timeout": "15s", "timezone": "UTC", "jit": "off"}
# A lock's session that went away unnoticed (a cable, a frozen machine) is given up by the server after this.
_ALIVE: Final = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """One fact for the world; `payload` is its JSON as it goes out."""

    id: int
    tenant_id: UUID
    order_id: UUID
    sequence: int
    event_id: UUID
    type: str
    at: datetime
    payload: str
    trace_parent: str | None


@dataclass(frozen=True, slots=True)
class EngineMessage:
    """One start or wake-up for the engine; `variables` is its JSON, `ttl` in seconds, `trace_parent` who caused it."""

    id: int
    tenant_id: UUID
    order_id: UUID
    message_id: UUID
    name: str
    correlation_key: str
    variables: str
    ttl: int
    trace_parent: str | None
    created_at: datetime


class Outbox:
    """A leader's session. The lock that makes it the leader lives in this very connection: whoever cannot read or mark
    any more has lost the lead as well."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def next_events(self, limit: int, without: Iterable[int] = ()) -> list[OutboxEvent]:
        """Unsent events, oldest first; those of an order in the order of its versions, none of a parked order.

        without: ids that are on their way already
        """
        query = _SQL["next_events"]
        rows = await self._connection.fetch(query.text, *query.arguments({"limit": limit, "without": list(without)}))
        return [OutboxEvent(**row) for row in rows]

    async def mark_events(self, ids: Iterable[int]) -> None:
        await self._connection.execute(_SQL["mark_events"].text, list(ids))

    async def park_event(self, event_id: int, reason: str) -> None:
        """Hold an event back, and with it whatever its order says after it."""
        query = _SQL["park_event"]
        await self._connection.execute(query.text, *query.arguments({"id": event_id, "reason": reason}))

    async def next_messages(self, limit: int) -> list[EngineMessage]:
        rows = await self._connection.fetch(_SQL["next_messages"].text, limit)
        return [EngineMessage(**row) for row in rows]

    async def mark_messages(self, ids: Iterable[int]) -> None:
        await self._connection.execute(_SQL["mark_messages"].text, list(ids))

    async def park_message(self, message_id: int, reason: str) -> None:
        query = _SQL["park_message"]
        await self._connection.execute(query.text, *query.arguments({"id": message_id, "reason": reason}))

    async def prune(self, sink: Sink, keep: timedelta, limit: int) -> int:
        """Delete up to `limit` of the oldest rows that were sent longer ago than `keep`; how many went."""
        query = _SQL["prune_events" if sink == "kafka" else "prune_messages"]
        rows = await self._connection.fetch(query.text, *query.arguments({"limit": limit, "keep": keep}))
        return len(rows)


@dataclass(frozen=True, slots=True)
class Parked:
    """A row that is held back. name: the event's type, or the message's name"""

    sink: Sink
    id: int
    tenant_id: UUID
    order_id: UUID
    name: str
    parked_at: datetime
    parked_reason: str


async def list_parked(connection: asyncpg.Connection, limit: int) -> list[Parked]:
    """What is held back, longest first."""
    rows = await connection.fetch(_SQL["list_parked"].text, limit)
    return [Parked(**row) for row in rows]


async def release_parked(connection: asyncpg.Connection, sink: Sink, row_id: int) -> bool:
    """Let it be carried again; False where no such row is held back."""
    query = _SQL["release_event" if sink == "kafka" else "release_message"]
    return await connection.fetchval(query.text, row_id) is not None


@asynccontextmanager
async def open_session(relay_url: str, name: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the relay's role. Raises OSError or asyncpg.PostgresError where no database answers."""
    connection = await asyncpg.connect(
        relay_url, timeout=10, command_timeout=20, server_settings={**_LIMITS, **_ALIVE, "application_name": name}
    )
    try:
        yield connection
    finally:
        connection.terminate()


async def take_lead(connection: asyncpg.Connection, sink: Sink) -> Outbox | None:
    """The outbox, for the one session that holds its lock; None for everybody else."""
    leads = await connection.fetchval(_SQL["take_lead"].text, sink)
    return Outbox(connection) if leads else None
