"""Engine outbox → engine: everything arrives, once to the engine's mind, whoever is ill meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tests.postgres import Database
from tests.workers.fake_engine import FakeEngine, open_engine
from tests.workers.outboxes import Outboxes, open_outboxes, relaying
from workers.relay import engine as relay_engine
from workers.relay.engine import AT_ONCE, EngineSink
from workers.settings import Settings

Code = grpc.StatusCode


@pytest.fixture
async def outboxes(database: Database) -> AsyncIterator[Outboxes]:
    async with open_outboxes(database) as opened:
        yield opened


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with open_engine() as opened:
        yield opened


async def test_a_message_arrives_as_it_was_written(outboxes: Outboxes, engine: FakeEngine) -> None:
    message_id = await outboxes.add_message("order-accepted", order_id="o-1", run="r-1")
    async with relaying(outboxes.settings(engine_grpc=engine.address), EngineSink):
        await outboxes.until_sent("engine_outbox")
    request = engine.published[str(message_id)]
    assert (request.name, request.correlationKey, request.timeToLive) == ("order-accepted", "key", 600_000)
    assert set(json.loads(request.variables)) == {"tenant_id", "order_id", "run"}


async def test_what_the_engine_has_already_counts_as_sent(outboxes: Outboxes, engine: FakeEngine) -> None:
    message_id = await outboxes.add_message()
    engine.published[str(message_id)] = None
    async with relaying(outboxes.settings(engine_grpc=engine.address), EngineSink):
        await outboxes.until_sent("engine_outbox")


async def test_an_engine_without_models_is_told_nothing_until_it_has_them(
    outboxes: Outboxes, engine: FakeEngine
) -> None:
    """It lost its data: a start that it took now would begin nothing, and its message would be marked as sent."""
    message_id = str(await outboxes.add_message("plan-restarted"))
    engine.has_models = False

    def asked() -> int:
        return sum(method == "CreateProcessInstance" for method, _ in engine.calls)

    async with relaying(outboxes.settings(engine_grpc=engine.address), EngineSink) as loop:
        await engine.until(lambda: asked() >= 3)
        assert (engine.published, loop.trouble) == ({}, "NO_MODELS")
        engine.has_models = True
        await outboxes.until_sent("engine_outbox")
        assert list(engine.published) == [message_id]
        before = asked()
        sent = [await outboxes.add_message() for _ in range(3)]
        await outboxes.until_sent("engine_outbox")
        assert (len(engine.published), asked()) == (1 + len(sent), before), "asked once in a while, not for each batch"


async def test_back_pressure_costs_time_and_no_message(outboxes: Outboxes, engine: FakeEngine) -> None:
    sent = {str(await outboxes.add_message()) for _ in range(100)}
    engine.fail("PublishMessage", Code.RESOURCE_EXHAUSTED, "too busy", times=150)
    engine.fail("PublishMessage", Code.UNAVAILABLE, "away", times=20)
    async with relaying(outboxes.settings(engine_grpc=engine.address), EngineSink):
        await outboxes.until_sent("engine_outbox")
    assert set(engine.published) == sent


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (Code.INVALID_ARGUMENT, "Expected variables to be a document"),
        (Code.RESOURCE_EXHAUSTED, "gRPC message exceeds maximum size 4194304: 5000000"),
    ],
)
async def test_a_poisoned_message_is_held_back_and_the_others_pass(
    outboxes: Outboxes, engine: FakeEngine, code: grpc.StatusCode, details: str
) -> None:
    def refuse(request: Any) -> tuple[grpc.StatusCode, str] | None:
        return (code, details) if request.name == "poison" else None

    engine.refuse_message = refuse
    await outboxes.add_message("poison")
    others = [await outboxes.add_message() for _ in range(10)]
    async with relaying(outboxes.settings(engine_grpc=engine.address), EngineSink):
        await outboxes.until_sent("engine_outbox", left=1)
        others.append(await outboxes.add_message())
        await outboxes.until_sent("engine_outbox", left=1)
    assert set(engine.published) == {str(message_id) for message_id in others}
    reason = await outboxes.as_owner.fetchval("select parked_reason from engine_outbox where parked_at is not null")
    assert reason.startswith(code.name)
    assert "document" not in reason


async def test_an_engine_that_was_away_gets_everything_when_it_is_back(outboxes: Outboxes) -> None:
    async with open_engine() as first:
        address = first.address
    settings = outboxes.settings(engine_grpc=address)
    sent = {str(await outboxes.add_message()) for _ in range(5)}
    async with relaying(settings, EngineSink) as loop:
        async with asyncio.timeout(20):
            while loop.trouble != "UNAVAILABLE":
                await asyncio.sleep(0.05)
        async with open_engine(address) as second:
            await outboxes.until_sent("engine_outbox")
            assert set(second.published) == sent


async def test_a_call_without_an_answer_costs_the_others_neither_lead_nor_connection(
    outboxes: Outboxes, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy engine leaves some unanswered. Whoever begins anew each time asks it for connections on top of that."""
    monkeypatch.setattr(relay_engine, "_SECONDS", 0.5)
    lost = {str(await outboxes.add_message("lost")) for _ in range(3)}
    unasked = set(lost)

    def is_silent(request: Any) -> bool:
        first = request.messageId in unasked
        unasked.discard(request.messageId)
        return first

    engine.is_silent = is_silent
    others = {str(await outboxes.add_message()) for _ in range(20)}
    opened: list[Settings] = []

    class Counted(EngineSink):
        @asynccontextmanager
        async def opened(self) -> AsyncIterator[None]:
            opened.append(self._settings)
            async with super().opened():
                yield

    async with relaying(outboxes.settings(engine_grpc=engine.address), Counted):
        await outboxes.until_sent("engine_outbox")
    assert not unasked
    assert engine.published.keys() == lost | others
    assert len(opened) == 1


async def test_messages_that_are_never_answered_hold_up_no_others(
    outboxes: Outboxes, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a partition without a leader are: the oldest, and more than fit on the wire at once. If the refused
    ones did not go last, they would have the wire for ever."""
    monkeypatch.setattr(relay_engine, "_SECONDS", 0.5)
    engine.is_silent = lambda request: request.name == "lost"
    lost = {str(await outboxes.add_message("lost")) for _ in range(AT_ONCE + 6)}
    others = {str(await outboxes.add_message()) for _ in range(100)}
    async with relaying(outboxes.settings(engine_grpc=engine.address), EngineSink):
        await outboxes.until_sent("engine_outbox", left=len(lost))
        assert engine.published.keys() == others
        engine.is_silent = lambda _: False
        await outboxes.until_sent("engine_outbox")
    assert engine.published.keys() == lost | others


async def test_messages_are_forgotten_a_day_after_they_were_sent(outboxes: Outboxes, engine: FakeEngine) -> None:
    for _ in range(3):
        await outboxes.add_message()
    async with relaying(outboxes.settings(engine_grpc=engine.address), EngineSink) as loop:
        await outboxes.until_sent("engine_outbox")
        await outboxes.as_owner.execute(
            "update engine_outbox set published_at = now() - interval '25 hours' where id <> 2"
        )
        loop._prune_at = 0.0
        async with asyncio.timeout(10):
            while await outboxes.count("engine_outbox", "true") > 1:
                await asyncio.sleep(0.02)
    assert await outboxes.count("engine_outbox", "id = 2") == 1
