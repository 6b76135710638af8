"""Rows for the relay to carry, written as the application writes them, and a reader of what arrived."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer

from tests.postgres import Database
from workers.relay.run import Loop
from workers.relay.sink import Sink
from workers.settings import Settings

TENANT = uuid.uuid4()


@dataclass(frozen=True, slots=True)
class Arrived:
    """One record of the topic."""

    key: str
    value: dict[str, Any]
    headers: dict[str, str]

    @property
    def version(self) -> int:
        return int(self.headers["ce_orderversion"])


@dataclass
class Outboxes:
    """Both outboxes of one database: `as_app` writes as the service does, `as_owner` looks at everything."""

    database: Database
    as_app: asyncpg.Connection
    as_owner: asyncpg.Connection
    versions: dict[uuid.UUID, int] = field(default_factory=dict)

    def settings(self, **more: Any) -> Settings:
        topic = f"test-{secrets.token_hex(6)}"
        return Settings(**{"relay_database_url": self.database.relay_url, "kafka_topic": topic} | more)

    async def add_event(
        self, order_id: uuid.UUID, size: int = 0, connection: asyncpg.Connection | None = None
    ) -> uuid.UUID:
        version = self.versions[order_id] = self.versions.get(order_id, 0) + 1
        event_id = uuid.uuid4()
        payload = {"orderId": str(order_id), "sequence": version, "data": "x" * size}
        await (connection or self.as_app).execute(
            "insert into outbox (tenant_id, order_id, sequence, event_id, type, at, payload, trace_parent)"
            " values ($1, $2, $3, $4, 'recourse.OrderCancelled.v1', $5, $6, $7)",
            TENANT,
            order_id,
            version,
            event_id,
            datetime(2026, 11, 20, 9, 0, tzinfo=UTC),
            json.dumps(payload),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" if version == 1 else None,
        )
        return event_id

    async def add_message(self, name: str = "plan-progressed", **variables: str) -> uuid.UUID:
        message_id = uuid.uuid4()
        await self.as_app.execute(
            "insert into engine_outbox (tenant_id, order_id, message_id, name, correlation_key, variables, ttl)"
            " values ($1, $2, $3, $4, 'key', $5, 600)",
            TENANT,
            uuid.uuid4(),
            message_id,
            name,
            json.dumps({"tenant_id": str(TENANT)} | variables),
        )
        return message_id

    async def count(self, table: str, where: str) -> int:
        found: int = await self.as_owner.fetchval(f"select count(*) from {table} where {where}")
        return found

    async def until_sent(self, table: str, left: int = 0, seconds: float = 30) -> None:
        """Return when no more than `left` rows wait."""
        async with asyncio.timeout(seconds):
            while await self.count(table, "published_at is null") > left:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def open_outboxes(database: Database) -> AsyncIterator[Outboxes]:
    as_app = await asyncpg.connect(database.app_url)
    as_owner = await asyncpg.connect(database.owner_url)
    try:
        await as_app.execute(f"set recourse.tenant = '{TENANT}'")
        yield Outboxes(database, as_app, as_owner)
    finally:
        await as_app.close()
        await as_owner.close()


@asynccontextmanager
async def relaying(settings: Settings, sink: Callable[[Settings], Sink]) -> AsyncIterator[Loop]:
    """One loop of a relay, for as long as the block runs."""
    loop = Loop(settings, sink(settings))
    task = asyncio.create_task(loop.carry_for_ever())
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read_topic(settings: Settings) -> list[Arrived]:
    """Everything that a consumer of committed records sees, partition by partition."""
    consumer = AIOKafkaConsumer(
        settings.kafka_topic,
        bootstrap_servers=settings.kafka_bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        group_id=None,
    )
    await consumer.start()
    try:
        partitions = list(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        arrived: list[Arrived] = []
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                arrived += [
                    Arrived(r.key.decode(), json.loads(r.value), {k: v.decode() for k, v in r.headers}) for r in records
                ]
        return arrived
    finally:
        await consumer.stop()


def assert_in_order(arrived: list[Arrived], versions: dict[uuid.UUID, int]) -> None:
    """Every event of every order is there, and the first time that one is seen all before it have been."""
    seen: dict[str, int] = {}
    for record in arrived:
        so_far = seen.get(record.key, 0)
        assert record.version <= so_far + 1, f"version {record.version} of {record.key} came after {so_far}"
        seen[record.key] = max(so_far, record.version)
    assert seen == {str(order_id): version for order_id, version in versions.items()}
