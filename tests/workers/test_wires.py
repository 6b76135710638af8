"""Damaged wires between our processes and what they talk to: they cost time, never a command, an effect or an event.

Every experiment runs until the damage of the wire has been met, mends it, and asks for everything again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from domain.store import pool as pool_module
from tests.kafka import serve_kafka
from tests.postgres import Database
from tests.wire import DAMAGES, Damage, Wire, open_wires
from tests.workers.api_world import ApiWorld, an_order_body, load_shared_policy, open_world
from tests.workers.fake_engine import FakeJob, open_engine
from tests.workers.flow_world import FlowWorld, open_flow_world
from tests.workers.outboxes import Arrived, Outboxes, assert_in_order, open_outboxes, read_topic, relaying
from workers.gateways import engine as engine_module
from workers.relay.engine import EngineSink
from workers.relay.kafka import KafkaSink
from workers.settings import System

pytestmark = pytest.mark.timeout(300)


async def until_met(wire: Wire, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not wire.met:
            await asyncio.sleep(0.02)


async def done(world: FlowWorld, job: FakeJob) -> dict[str, Any]:
    """What the job was completed with; one that was handed into a dead wire comes again when its leases have ended."""
    while True:
        with suppress(TimeoutError):
            return await world.verdict(job, 5)
        job.free_at = 0.0
        await world.let_leases_end()


def port_of(url: str) -> int:
    port = urlsplit(url if "//" in url else f"//{url}").port
    assert port is not None
    return port


# -- the database ------------------------------------------------------------------------------------------------


@pytest.fixture
async def wired_api(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[ApiWorld, Wire]]:
    """The API with its pool on a wire, less patient than it is in earnest."""
    monkeypatch.setattr(pool_module, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(pool_module, "CONNECT_SECONDS", 1.0)
    await load_shared_policy(database.owner_url)
    with open_wires((port_of(database.app_url), False)) as (wire,):
        url = urlsplit(database.app_url)
        told = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{wire.port}")).geturl()
        async with open_world(told) as world:
            yield world, wire


@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_api_answers_whatever_the_wire_to_the_database_does(
    wired_api: tuple[ApiWorld, Wire], damage: Damage
) -> None:
    """Every request is answered, at worst with 503; the same keys again, once it is mended, are each done once.

    Without the pool's own limit (`ANSWER_SECONDS`; the server's `statement_timeout` cannot reach whom no byte reaches)
    a stalled wire and a half-open one are never answered, and the dead connections are never given back.
    """
    world, wire = wired_api
    order_id = await world.create()
    wire.damage(damage)
    keys = [f"order-{number}" for number in range(12)]  # more than the pool has connections

    async def submit(key: str) -> httpx.Response:
        return await world.post("/orders", an_order_body(), key=key)

    async with asyncio.timeout(60):
        told = await asyncio.gather(*map(submit, keys), world.get(f"/orders/{order_id}"))
    assert wire.met
    assert {answer.status_code for answer in told} <= {200, 202, 503}
    assert all(answer.headers["retry-after"] for answer in told if answer.status_code == 503)
    wire.mend()
    again = told
    async with asyncio.timeout(60):  # each connection of the pool may be dead, and cost somebody a 503
        while any(answer.status_code == 503 for answer in again):
            again = await asyncio.gather(*map(submit, keys), world.get(f"/orders/{order_id}"))
    assert {answer.status_code for answer in again} <= {200, 202}
    assert await world.rows("customer_order") == len(keys) + 1
    for first, second in zip(told[:-1], again[:-1], strict=True):
        assert first.status_code == 503 or first.json() == second.json()


# -- an outside system -------------------------------------------------------------------------------------------


@pytest.fixture
async def flow(database: Database, tmp_path: Path) -> AsyncIterator[FlowWorld]:
    async with open_flow_world(database, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_call_over_a_damaged_wire_takes_effect_once(flow: FlowWorld, damage: Damage) -> None:
    """The call is under way when the wire is damaged: what became of it is found out, and it is there once.

    Without the effect's id as the idempotency key of the second call the book shows two.
    """
    with open_wires((port_of(flow.simulator), False)) as (wire,):
        systems = {"*": System.model_validate({"url": f"http://{wire.address}"})}
        world = replace(flow, settings=flow.settings.model_copy(update={"systems": systems}))
        await flow.script(fault="delay", delayMs=500)
        async with world.fleet():
            job = await world.add_effect()
            async with asyncio.timeout(20):
                while not flow.book_path.exists() or not flow.book("CALLED"):
                    await asyncio.sleep(0.01)
            wire.damage(damage)
            await until_met(wire)
            wire.mend()
            told = await done(world, job)
            while told["verdict"] != "confirmed":  # as its flow does it: ask, or call again under the same id
                await world.owner.execute("update effect set called_at = called_at - interval '1 minute'")
                await world.let_leases_end()
                again = world.add_effect if told["verdict"] == "retry" else world.add_verification
                told = await done(world, await again())
    assert len(flow.book("DONE")) == 1
    assert [state for state, _ in await flow.effects()] == ["CONFIRMED"]


# -- the engine --------------------------------------------------------------------------------------------------


@pytest.fixture
async def outboxes(database: Database) -> AsyncIterator[Outboxes]:
    async with open_outboxes(database) as opened:
        yield opened


@pytest.mark.parametrize("damage", DAMAGES)
async def test_every_message_reaches_the_engine_over_a_damaged_wire(outboxes: Outboxes, damage: Damage) -> None:
    """Without marking only what was acknowledged, what was on the wire is lost."""
    async with open_engine() as engine:
        with open_wires((port_of(engine.address), False)) as (wire,):
            settings = outboxes.settings(engine_grpc=wire.address)
            async with relaying(settings, EngineSink) as relay:
                first = await outboxes.add_message()
                await outboxes.until_sent("engine_outbox")
                assert relay.leads.is_set()
                wire.damage(damage)
                sent = [await outboxes.add_message() for _ in range(50)]
                await until_met(wire)
                wire.mend()
                await outboxes.until_sent("engine_outbox", seconds=60)
        assert engine.published.keys() == {str(message) for message in (first, *sent)}


async def test_an_engine_that_is_late_with_its_first_word_is_reached(outboxes: Outboxes) -> None:
    """As one is that has just begun on a busy machine. With a channel that waits for two seconds at most (the least
    back-off of its library is that wait as well) nobody ever reaches it, for as long as it is so."""
    async with open_engine() as engine:
        with open_wires((port_of(engine.address), False)) as (wire,):
            async with relaying(outboxes.settings(engine_grpc=wire.address), EngineSink):
                first = await outboxes.add_message()
                await outboxes.until_sent("engine_outbox")
                wire.damage("late")
                second = await outboxes.add_message()
                await outboxes.until_sent("engine_outbox")
                assert wire.met
        assert engine.published.keys() == {str(first), str(second)}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_worker_goes_on_over_a_damaged_wire_to_the_engine(
    flow: FlowWorld, monkeypatch: pytest.MonkeyPatch, damage: Damage
) -> None:
    """Polls, and what jobs were completed with, are lost on the wire; the next job is done all the same, and the
    effect is there once.

    Without the channel's `KEEPALIVE` a half-open wire is polled for ever, and the worker never has a job again.
    """
    monkeypatch.setattr(
        engine_module, "KEEPALIVE", (("grpc.keepalive_time_ms", 1_000), ("grpc.keepalive_timeout_ms", 1_000))
    )
    with open_wires((port_of(flow.engine.address), False)) as (wire,):
        world = replace(flow, settings=flow.settings.model_copy(update={"engine_grpc": wire.address}))
        async with world.fleet():
            await flow.engine.until(lambda: bool(flow.engine.polls["effect-inventory"]))
            wire.damage(damage)
            job = await world.add_effect()
            await until_met(wire)
            wire.mend()
            assert (await done(world, job))["verdict"] == "confirmed"
            again = await world.add_effect()  # the engine hands it out once more
            assert (await done(world, again))["verdict"] == "confirmed"
    assert len(flow.book("DONE")) == 1
    assert [state for state, _ in await flow.effects()] == ["CONFIRMED"]


# -- Kafka -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with serve_kafka() as address:
        yield address


@pytest.mark.parametrize("damage", DAMAGES)
async def test_every_event_reaches_kafka_in_order_over_a_damaged_wire(
    outboxes: Outboxes, kafka: str, damage: Damage
) -> None:
    """Without a transaction a batch, the events behind one that was lost on the wire pass it."""
    with open_wires((port_of(kafka), True)) as (wire,):
        settings = outboxes.settings(kafka_bootstrap=wire.address)
        orders = [uuid.uuid4() for _ in range(5)]
        async with relaying(settings, KafkaSink) as relay:
            await asyncio.wait_for(relay.leads.wait(), 60)
            wire.damage(damage)
            for _ in range(20):
                for order_id in orders:
                    await outboxes.add_event(order_id)
            await until_met(wire)
            wire.mend()
            await outboxes.until_sent("outbox", seconds=150)
    # A commit is acknowledged when it is decided; its marks, which a reader of committed records waits for, come later.
    arrived: list[Arrived] = []
    async with asyncio.timeout(60):
        while len({(record.key, record.version) for record in arrived}) < sum(outboxes.versions.values()):
            arrived = await read_topic(settings.model_copy(update={"kafka_bootstrap": kafka}))
    assert_in_order(arrived, outboxes.versions)
