"""Publishes starts and wake-ups to the engine, many at once; it must never hold a message back for another's sake."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from pyzeebe.proto.gateway_pb2 import PublishMessageRequest
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from domain.store.outbox import EngineMessage, Outbox
from workers.gateways.engine import Pressure, ask_for_models, open_channel
from workers.relay.sink import CARRIED, PARKED, NotCarriedError
from workers.runtime import crash_point
from workers.settings import Settings
from workers.spans import NOTHING, Span, open_span

log = structlog.get_logger(__name__)

BATCH: Final = 200
AT_ONCE: Final = 24

_SECONDS: Final = 5.0
_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
# No engine loses its data and is there again within this time.
_MODELS_SECONDS: Final = 3.0
# Comes as RESOURCE_EXHAUSTED, like back-pressure, but no waiting makes a message smaller.
_TOO_LARGE: Final = re.compile(r"exceeds maximum size|larger than max", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a message was not taken; `passes`: waiting may help · `busy`: the engine is there and has too much to do."""

    reason: str
    passes: bool
    busy: bool = False


_NO_TURN: Final = _Refusal("no turn in this batch", passes=True)


def _recorded(message: EngineMessage) -> AbstractContextManager[Span]:
    """A span of whoever caused it; of a message that nobody's trace leads to there is none."""
    if message.trace_parent is None:
        return nullcontext(NOTHING)
    ids = {"order_id": message.order_id, "tenant_id": message.tenant_id}
    parent, since = message.trace_parent, message.created_at
    return open_span("message", message.name, parent=parent, since=since, message=message.name, **ids)


class EngineSink:
    """The engine as the end of a pipe. A message that was published twice was published once: its id is the event's."""

    name: Final = "engine"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pressure = Pressure(AT_ONCE)
        self._pause = _PAUSE
        self._refused: set[int] = set()
        self._models_until = 0.0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        channel = open_channel(self._settings)
        self._models_until = 0.0
        self._stub: Any = GatewayStub(channel)
        try:
            yield
        finally:
            await channel.close()

    async def carry(self, outbox: Outbox) -> int:
        """Publish the oldest messages; how many were dealt with. Raises NotCarriedError where no engine answers.

        What an engine took is marked within twice the time of one call, however many others it leaves waiting. While it
        takes any, the lead and the channel are kept: to begin anew helps on a dead wire only, and there none arrives.
        """
        messages = await outbox.next_messages(BATCH)
        if not messages:
            return 0
        await self._ask_for_models()
        # Who was refused last time goes last: one part of the engine may be away, and its messages are the oldest.
        messages.sort(key=lambda message: message.id in self._refused)
        crash_point(self._settings, "before-send:engine")
        until = time.monotonic() + _SECONDS
        fates = await asyncio.gather(*(self._publish(message, until) for message in messages))
        crash_point(self._settings, "after-send:engine")
        sent = [message.id for message, fate in zip(messages, fates, strict=True) if fate is None]
        crash_point(self._settings, "before-mark:engine")
        if sent:
            await outbox.mark_messages(sent)
            CARRIED.labels(self.name).inc(len(sent))
        crash_point(self._settings, "after-mark:engine")
        for message, fate in zip(messages, fates, strict=True):
            if fate is not None and not fate.passes:
                log.error("message parked", message_id=str(message.message_id), name=message.name, reason=fate.reason)
                await outbox.park_message(message.id, fate.reason)
                PARKED.labels(self.name).inc()
        left = {m.id: fate for m, fate in zip(messages, fates, strict=True) if fate is not None and fate.passes}
        self._refused = {message_id for message_id, fate in left.items() if fate is not _NO_TURN}
        if self._refused and not sent and not any(fate.busy for fate in left.values()):
            raise NotCarriedError(left[min(self._refused)].reason)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE) if left and not sent else _PAUSE
        if left:
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))
        return len(messages)

    async def _ask_for_models(self) -> None:
        """An engine without our models takes every message, and starts nothing by it."""
        if time.monotonic() < self._models_until:
            return
        known = await ask_for_models(self._stub)
        if known is False:
            raise NotCarriedError("NO_MODELS")
        if known:
            self._models_until = time.monotonic() + _MODELS_SECONDS

    async def _publish(self, message: EngineMessage, until: float) -> _Refusal | None:
        request = PublishMessageRequest(
            name=message.name,
            correlationKey=message.correlation_key,
            messageId=str(message.message_id),
            timeToLive=message.ttl * 1000,
            variables=message.variables,
        )
        async with self._pressure.turn():
            if time.monotonic() > until:
                return _NO_TURN
            with _recorded(message) as span:
                try:
                    await self._stub.PublishMessage(request, timeout=_SECONDS)
                except grpc.aio.AioRpcError as error:
                    if refusal := self._refusal(error):
                        span.fail(error.code().name)
                    return refusal
        self._pressure.ease()
        return None

    def _refusal(self, error: grpc.aio.AioRpcError) -> _Refusal | None:
        code = error.code()
        if code is grpc.StatusCode.ALREADY_EXISTS:
            return None
        if code is grpc.StatusCode.INVALID_ARGUMENT or _TOO_LARGE.search(error.details() or ""):
            return _Refusal(f"{code.name}: the engine will never take it", passes=False)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._pressure.push_back()
            return _Refusal(code.name, passes=True, busy=True)
        return _Refusal(code.name, passes=True)
