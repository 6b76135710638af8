"""Outbox → Kafka on the real broker: in version order per order, at least once, whoever dies or lies in the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.kafka import serve_kafka
from tests.postgres import Database
from tests.workers.fake_engine import open_engine
from tests.workers.outboxes import TENANT, Outboxes, assert_in_order, open_outboxes, read_topic, relaying
from workers.relay.kafka import KafkaSink
from workers.relay.run import run
from workers.settings import Settings, variable_name


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with serve_kafka() as address:
        yield address


@pytest.fixture
async def outboxes(database: Database) -> AsyncIterator[Outboxes]:
    async with open_outboxes(database) as opened:
        yield opened


async def test_an_event_is_a_cloud_event_keyed_by_its_order(outboxes: Outboxes, kafka: str) -> None:
    order_id = uuid.uuid4()
    event_id = await outboxes.add_event(order_id)
    settings = outboxes.settings(kafka_bootstrap=kafka)
    async with relaying(settings, KafkaSink):
        await outboxes.until_sent("outbox")
    (arrived,) = await read_topic(settings)
    assert arrived.key == str(order_id)
    assert arrived.value == {"orderId": str(order_id), "sequence": 1, "data": ""}
    assert arrived.headers == {
        "ce_specversion": "1.0",
        "ce_id": str(event_id),
        "ce_type": "recourse.OrderCancelled.v1",
        "ce_source": "/recourse",
        "ce_subject": str(order_id),
        "ce_time": "2026-11-20T09:00:00Z",
        "ce_orderversion": "1",
        "ce_tenant": str(TENANT),
        "content-type": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


async def test_an_event_that_no_trace_led_to_has_one_all_the_same(outboxes: Outboxes, kafka: str) -> None:
    """1-domain §11 names the header without a condition: a reader may count on it."""
    order_id = uuid.uuid4()
    event_id = await outboxes.add_event(order_id)
    await outboxes.as_owner.execute("update outbox set trace_parent = null")
    settings = outboxes.settings(kafka_bootstrap=kafka)
    async with relaying(settings, KafkaSink):
        await outboxes.until_sent("outbox")
    (arrived,) = await read_topic(settings)
    assert arrived.headers["traceparent"] == f"00-{order_id.hex}-{event_id.hex[:16]}-00"


async def test_the_events_of_an_order_stay_in_their_order(outboxes: Outboxes, kafka: str) -> None:
    orders = [uuid.uuid4() for _ in range(20)]
    settings = outboxes.settings(kafka_bootstrap=kafka)
    async with relaying(settings, KafkaSink):
        for _ in range(60):
            for order_id in orders:
                await outboxes.add_event(order_id)
        await outboxes.until_sent("outbox")
    arrived = await read_topic(settings)
    assert len(arrived) == 1200
    assert_in_order(arrived, outboxes.versions)


async def test_a_row_that_is_committed_late_is_not_passed_over(outboxes: Outboxes, kafka: str) -> None:
    """It has the smaller id and becomes visible after the greater one has been sent."""
    late, early = uuid.uuid4(), uuid.uuid4()
    settings = outboxes.settings(kafka_bootstrap=kafka)
    slow = await asyncpg.connect(outboxes.database.app_url)
    await slow.execute(f"set recourse.tenant = '{TENANT}'")
    async with relaying(settings, KafkaSink), slow.transaction():
        await outboxes.add_event(late, connection=slow)
        await outboxes.add_event(early)
        await outboxes.until_sent("outbox")
    async with relaying(settings, KafkaSink):
        await outboxes.until_sent("outbox")
    await slow.close()
    assert_in_order(await read_topic(settings), outboxes.versions)


async def test_a_poisoned_event_is_held_back_with_its_order_and_the_others_pass(outboxes: Outboxes, kafka: str) -> None:
    sick, well = uuid.uuid4(), uuid.uuid4()
    await outboxes.add_event(sick)
    poison = await outboxes.add_event(sick, size=1_200_000)
    for _ in range(30):
        await outboxes.add_event(well)
        await outboxes.add_event(sick)
    settings = outboxes.settings(kafka_bootstrap=kafka)
    async with relaying(settings, KafkaSink):
        await outboxes.until_sent("outbox", left=31)
        await outboxes.add_event(well)
        await outboxes.until_sent("outbox", left=31)
        assert await outboxes.as_owner.fetchval("select event_id from outbox where parked_at is not null") == poison
        assert_in_order(await read_topic(settings), {sick: 1, well: 31})
        # Mended and let go by a person: the order goes on where it stopped.
        await outboxes.as_owner.execute(
            'update outbox set payload = payload || \'{"data": ""}\' where parked_at is not null'
        )
        (held,) = json.loads(await recourse(settings, "outbox", "parked", "--json"))
        assert (held["sink"], held["orderId"]) == ("kafka", str(sick))
        assert held["reason"]
        assert "offered again" in await recourse(settings, "outbox", "release", "kafka", str(held["id"]))
        await outboxes.until_sent("outbox")
        assert "nothing is held back" in await recourse(settings, "outbox", "parked")
        assert "nothing is held back under" in await recourse(settings, "outbox", "release", "kafka", str(held["id"]))
    assert_in_order(await read_topic(settings), outboxes.versions)


async def recourse(settings: Settings, *arguments: str) -> str:
    """What a command of ours says to somebody who has the relay's settings."""
    environment = {variable_name("relay_database_url"): settings.relay_database_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers.cli", *arguments,
        env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return said.decode()


async def test_one_of_two_relays_leads_and_the_other_takes_over_without_an_inversion(
    outboxes: Outboxes, kafka: str
) -> None:
    orders = [uuid.uuid4() for _ in range(5)]
    settings = outboxes.settings(kafka_bootstrap=kafka)
    async with relaying(settings, KafkaSink) as first, relaying(settings, KafkaSink) as second:
        for turn in range(4):
            async with asyncio.timeout(30):
                while first.leads.is_set() == second.leads.is_set():
                    await asyncio.sleep(0.02)
            for _ in range(40):
                for order_id in orders:
                    await outboxes.add_event(order_id)
            if turn < 3:  # the leader's session dies in the middle of its work
                await outboxes.as_owner.execute(
                    "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted"
                    " and database = (select oid from pg_database where datname = current_database())"
                )
        await outboxes.until_sent("outbox", seconds=60)
    assert_in_order(await read_topic(settings), outboxes.versions)


async def test_a_broker_that_is_away_does_not_stop_the_engines_messages(outboxes: Outboxes, kafka: str) -> None:
    async with open_engine() as engine:
        settings = outboxes.settings(kafka_bootstrap="127.0.0.1:1", engine_grpc=engine.address)
        await outboxes.add_event(uuid.uuid4())
        task = asyncio.create_task(run(settings))
        for _ in range(20):
            await outboxes.add_message()
        await outboxes.until_sent("engine_outbox")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await outboxes.count("outbox", "published_at is null") == 1
    # And the other way round: the engine is gone now.
    settings = settings.model_copy(update={"kafka_bootstrap": kafka})
    task = asyncio.create_task(run(settings))
    await outboxes.add_message()
    await outboxes.until_sent("outbox")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await outboxes.count("engine_outbox", "published_at is null") == 1


@pytest.mark.parametrize("point", ["before-send", "after-send", "before-mark", "after-mark"])
async def test_a_relay_that_is_killed_anywhere_sends_everything_in_order(
    outboxes: Outboxes, kafka: str, point: str
) -> None:
    orders = [uuid.uuid4() for _ in range(3)]
    for _ in range(10):
        for order_id in orders:
            await outboxes.add_event(order_id)
    settings = outboxes.settings(kafka_bootstrap=kafka, engine_grpc="127.0.0.1:1")
    told = settings.model_dump(include={"relay_database_url", "kafka_bootstrap", "kafka_topic", "engine_grpc"})
    environment = {variable_name(name): str(value) for name, value in told.items()}
    environment["RECOURSE_CRASH_AT"] = f"{point}:kafka"
    relay = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers.cli", "relay", env={**os.environ, **environment}
    )
    async with asyncio.timeout(60):
        assert await relay.wait() == -signal.SIGKILL
    async with relaying(settings, KafkaSink):
        await outboxes.until_sent("outbox", seconds=60)
    arrived = await read_topic(settings)
    assert_in_order(arrived, outboxes.versions)
    assert len(arrived) == (60 if point in {"after-send", "before-mark"} else 30)
