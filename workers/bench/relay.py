"""The bench about the relay: events from the outbox to the topic against a bare producer that sends the very same. It
must never count a run in which an event came before an earlier one of its order."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer

from domain.store.measuring import count_unsent
from domain.store.outbox import OutboxEvent, open_session, take_lead
from domain.store.pool import Pool, open_pool
from workers.bench.bed import Bed, Database
from workers.bench.harness import Case, Run, Scale, interleave
from workers.bench.seeds import Seeds
from workers.relay.kafka import BATCH, KafkaSink, event_headers
from workers.relay.reading import read_versions
from workers.relay.run import Loop
from workers.settings import Settings

_LOOK: Final = 0.005
_PATIENCE: Final = 300.0


async def measure_relay(bed: Bed, scale: Scale) -> list[Case]:
    """Events per second out of the outbox ÷ a bare aiokafka producer: the same payloads, keys, headers and batches.

    scale.amount: orders whose events wait
    """
    kafka = await bed.kafka()
    async with bed.database() as database:
        app = await open_pool(database.app_url, size=2, name="bench")
        relay = await open_pool(database.relay_url, size=1, name="bench")
        try:
            seeds = Seeds(app)
            waiting: dict[int, list[OutboxEvent]] = {}

            async def fill(number: int) -> list[OutboxEvent]:
                if number not in waiting:
                    await seeds.add(scale.amount)
                    waiting[number] = await _read_waiting(database)
                return waiting[number]

            async def drain(number: int) -> Run:
                return await _drain(bed.settings, database, kafka, relay, await fill(number))

            async def send(number: int) -> Run:
                return await _send(kafka, await fill(number))

            pairs = await interleave(scale.repetitions, drain, send)
        finally:
            await app.close()
            await relay.close()
    return [Case("backlog", pairs, "rate", {"events": [len(events) for events in waiting.values()]})]


async def _read_waiting(database: Database) -> list[OutboxEvent]:
    """All that waits, as the leader reads it; its lead ends with the session."""
    async with open_session(database.relay_url, "bench") as connection:
        outbox = await take_lead(connection, "kafka")
        assert outbox is not None
        return await outbox.next_events(1_000_000)


async def _drain(settings: Settings, database: Database, kafka: str, relay: Pool, events: Sequence[OutboxEvent]) -> Run:
    """The relay's own loop, from the moment it leads until nothing waits."""
    topic = f"bench-{secrets.token_hex(6)}"
    told = {"relay_database_url": database.relay_url, "kafka_bootstrap": kafka, "kafka_topic": topic}
    mine = settings.model_copy(update=told)
    loop = Loop(mine, KafkaSink(mine))
    carrying = asyncio.create_task(loop.carry_for_ever())
    try:
        async with asyncio.timeout(_PATIENCE):
            await loop.leads.wait()
            started = time.perf_counter()
            while await count_unsent(relay):  # noqa: ASYNC110 - as it is marked, nobody is told
                await asyncio.sleep(_LOOK)
            seconds = time.perf_counter() - started
    finally:
        carrying.cancel()
        await asyncio.wait([carrying])
    wanted: dict[str, list[int]] = {}
    for event in events:
        wanted.setdefault(str(event.order_id), []).append(event.sequence)
    found = await read_versions(kafka, topic, len(events), seconds=30)
    wrong = sum(found.get(order) != versions for order, versions in wanted.items())
    return Run(len(events), seconds, (), {"orders not in order in the topic": wrong} if wrong else {})


async def _send(kafka: str, events: Sequence[OutboxEvent]) -> Run:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, enable_idempotence=True, acks="all", linger_ms=0, max_batch_size=256 * 1024
    )
    topic = f"bench-{secrets.token_hex(6)}"
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"{}")  # the topic is there, its leader known
        started = time.perf_counter()
        for place in range(0, len(events), BATCH):
            sent = [
                await producer.send(
                    topic,
                    value=event.payload.encode(),
                    key=str(event.order_id).encode(),
                    headers=event_headers(event),
                )
                for event in events[place : place + BATCH]
            ]
            await asyncio.gather(*sent)
        return Run(len(events), time.perf_counter() - started)
    finally:
        await producer.stop()
