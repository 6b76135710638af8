"""What the relay's loop needs of an end of the pipe; it must never know which end it is."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from prometheus_client import Counter

from domain.store.outbox import Outbox
from domain.store.outbox import Sink as SinkName

CARRIED = Counter("recourse_relay_carried", "Rows that an end of the pipe has taken", ["sink"])
PARKED = Counter("recourse_relay_parked", "Rows held back because no waiting would help", ["sink"])


class NotCarriedError(Exception):
    """This end does not take anything now; wait and offer it again. The message names the reason's kind."""


class Sink(Protocol):
    """Kafka, or the engine."""

    @property
    def name(self) -> SinkName: ...

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Connected while the block runs; opened anew after whatever went wrong."""
        ...

    async def carry(self, outbox: Outbox) -> int:
        """Carry one batch, oldest first, and mark it; how many rows were dealt with, 0 when there are none.

        Raises NotCarriedError, or what the store raises in an outage; what was not marked is sent again.
        """
        ...
