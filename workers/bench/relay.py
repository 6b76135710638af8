"""The benches about the relay: events from the outbox to the topic against a bare producer that sends the very same,
and how long one event takes. It must never count a run in which an event came before an earlier one of its order."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final
from uuid import UUID

from aiokafka import AIOKafkaProducer

from domain.handle import Door
from domain.store.measuring import count_unsent, read_sent
from domain.store.outbox import OutboxEvent, open_session, take_lead
from domain.store.pool import Pool, open_pool
from workers.bench.bed import Bed, Database
from workers.bench.harness import Case, Run, Scale, interleave, percentile, run_clients
from workers.bench.seeds import Seeds, cancel, order_id
from workers.local.home import free_port
from workers.relay.kafka import BATCH, KafkaSink, event_headers
from workers.relay.reading import read_versions
from workers.relay.run import Loop
from workers.settings import Settings

_LOOK: Final = 0.005
_PATIENCE: Final = 300.0
_ASKERS: Final = 8
_SHARE: Final = 0.2


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


async def measure_lag(bed: Bed, scale: Scale) -> list[Case]:
    """From a command's commit until Kafka has acknowledged its event and the relay has marked it, p99 ÷ the relay's
    poll interval; at a fifth of the rate at which eight askers can have commands carried out.

    scale.amount: commands per run
    """
    kafka, engine = await bed.kafka(), await bed.engine()
    interval = bed.settings.poll_interval
    rates: list[float] = []
    async with bed.database() as database, AsyncExitStack() as stack:
        app = await open_pool(database.app_url, size=_ASKERS, name="bench")
        stack.push_async_callback(app.close)
        relay = await open_pool(database.relay_url, size=1, name="bench")
        stack.push_async_callback(relay.close)
        seeds, door, port = Seeds(app), Door(app), free_port()
        told = {
            "relay_database_url": database.relay_url,
            "kafka_bootstrap": kafka,
            "kafka_topic": f"bench-{database.name}",
            "engine_grpc": engine,
            "health_port": port,
        }
        await stack.enter_async_context(bed.running(bed.our_part("relay", ("relay",), port, told)))

        async def ask(number: int) -> float:
            await door.handle(*cancel(number))
            return time.time()

        async def saturate() -> float:
            first = await seeds.add(scale.amount)

            async def do(piece: int) -> str | None:
                await ask(first + piece)
                return None

            return (await run_clients(_ASKERS, scale.amount, do)).rate

        async def follow(_: int) -> Run:
            rates.append(await saturate() * _SHARE)
            first = await seeds.add(scale.amount)
            names = [order_id(first + piece) for piece in range(scale.amount)]
            await _until_sent(relay)
            committed: dict[UUID, float] = {}

            async def one(piece: int) -> None:
                committed[names[piece]] = await ask(first + piece)

            started = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for piece in range(scale.amount):
                    await asyncio.sleep(max(started + piece / rates[-1] - time.perf_counter(), 0))
                    group.create_task(one(piece))
            await _until_sent(relay)
            sent = await read_sent(relay, names)
            lags = tuple((sent[name] or 0.0) - committed[name] for name in names)
            return Run(len(lags), percentile(lags, 99), lags)

        pairs = [(await follow(number), Run(1, interval)) for number in range(scale.repetitions)]
    notes = {"pollIntervalms": interval * 1000, "perSecond": [round(rate, 1) for rate in rates]}
    return [Case(f"{_SHARE:.0%} load", tuple(pairs), "time", notes)]


async def _until_sent(relay: Pool) -> None:
    async with asyncio.timeout(_PATIENCE):
        while await count_unsent(relay):  # noqa: ASYNC110 - as it is marked, nobody is told
            await asyncio.sleep(_LOOK)


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
            await _until_sent(relay)
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
