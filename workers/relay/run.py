"""The relay process: for each end of the pipe a loop of its own with a lead of its own; one's illness is not the
other's. It must never send without holding the lead."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import structlog
from prometheus_client import Gauge

from domain.store.outages import OUTAGES
from domain.store.outbox import Outbox, open_session, take_lead
from workers.relay.engine import EngineSink
from workers.relay.kafka import KafkaSink
from workers.relay.sink import NotCarriedError, Sink
from workers.settings import Settings
from workers.telemetry import serve_health

log = structlog.get_logger(__name__)

# How long a row is kept after it was sent: messages for a look at yesterday, events for a consumer's replay.
KEEP: Final[Mapping[str, timedelta]] = {"kafka": timedelta(days=30), "engine": timedelta(days=1)}

_STANDBY_SECONDS: Final = 0.5
_PRUNE_SECONDS: Final = 10.0
_PRUNE_ROWS: Final = 2_000
_SHORTEST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0

_LEADS = Gauge("recourse_relay_leads", "Whether this process carries to that end (1), or stands by (0)", ["sink"])


async def run(settings: Settings) -> None:
    """`recourse relay`: carry until cancelled. Several may run; per end one leads and the others stand by."""
    loops = [Loop(settings, KafkaSink(settings)), Loop(settings, EngineSink(settings))]

    def troubles() -> dict[str, str]:
        return {loop.sink.name: loop.trouble for loop in loops if loop.trouble}

    async with serve_health(settings, troubles), asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(loop.carry_for_ever(), name=f"relay {loop.sink.name}")


class Loop:
    """One end of the pipe: lead, carry, wait; from the start again after whatever went wrong."""

    def __init__(self, settings: Settings, sink: Sink) -> None:
        self.sink = sink
        self.trouble = "not started"
        self.leads = asyncio.Event()
        self._settings = settings
        self._leading = _LEADS.labels(sink.name)
        self._failures = 0
        self._prune_at = time.monotonic() + _PRUNE_SECONDS

    async def carry_for_ever(self) -> None:
        while True:
            try:
                async with open_session(self._settings.relay_database_url, f"relay-{self.sink.name}") as connection:
                    while (outbox := await take_lead(connection, self.sink.name)) is None:
                        self.trouble = ""  # standing by is being well
                        await asyncio.sleep(_STANDBY_SECONDS)
                    await self._lead(outbox)
            except NotCarriedError as refused:
                await self._recover(str(refused))
            except OUTAGES as outage:
                await self._recover(type(outage).__name__)

    async def _lead(self, outbox: Outbox) -> None:
        async with self.sink.opened():
            self.leads.set()
            self._leading.set(1)
            log.info("leading", sink=self.sink.name)
            try:
                while not _is_cancelled():
                    carried = await self.sink.carry(outbox)
                    self.trouble, self._failures = "", 0
                    if time.monotonic() >= self._prune_at:
                        await self._prune(outbox)
                    if not carried:
                        await asyncio.sleep(self._settings.poll_interval)
            finally:
                self.leads.clear()
                self._leading.set(0)
        raise asyncio.CancelledError

    async def _prune(self, outbox: Outbox) -> None:
        gone = await outbox.prune(self.sink.name, KEEP[self.sink.name], _PRUNE_ROWS)
        self._prune_at = time.monotonic() + (0.0 if gone == _PRUNE_ROWS else _PRUNE_SECONDS)

    async def _recover(self, reason: str) -> None:
        self.trouble = reason
        if self._failures == 0:
            log.warning("not carried", sink=self.sink.name, reason=reason)
        self._failures += 1
        pause = min(_SHORTEST_PAUSE * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))


def _is_cancelled() -> bool:
    """Whether somebody wants this loop to end. Below us are libraries that wait in ways which may lose the request."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
