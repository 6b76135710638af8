"""Sends events to Kafka, a batch a transaction; it must never send an event before an earlier one of its order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any, Final
from uuid import UUID

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RecordTooLargeError,
    TopicAlreadyExistsError,
)
from aiokafka.partitioner import DefaultPartitioner

from domain.store.outbox import Outbox, OutboxEvent
from domain.values import format_time
from workers.gateways.access import open_context
from workers.relay.sink import CARRIED, PARKED, NotCarriedError
from workers.runtime import crash_point
from workers.settings import Settings
from workers.spans import NOTHING, Span, open_span

log = structlog.get_logger(__name__)

BATCH: Final = 500
# Orders keep their order within a partition; the number stays as it is for the life of the topic.
PARTITIONS: Final = 6
COPIES: Final = 3

_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 5.0
_REMEMBERED: Final = 10_000
_SOURCE: Final = b"/recourse"

# Errors that one record is guilty of; no waiting helps it.
POISON: Final = (
    MessageSizeTooLargeError,
    RecordTooLargeError,
    RecordListTooLargeError,
    CorruptRecordException,
    InvalidTimestampError,
    PolicyViolationError,
)


class KafkaSink:
    """The topic as the end of a pipe.

    A transaction makes a batch visible as a whole or not at all, so nothing of an order passes an event that failed;
    its id fences a leader that has lost the lead and does not know it yet.
    """

    name: Final = "kafka"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.kafka_topic

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Raises NotCarriedError where no broker answers."""
        producer = AIOKafkaProducer(
            **_connection(self._settings),
            client_id="recourse-relay",
            transactional_id=f"recourse-relay-{self._topic}",
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=256 * 1024,
            partitioner=_Partitioner(),
            request_timeout_ms=15_000,
        )
        self._producer = producer
        try:
            async with asyncio.timeout(_SECONDS):
                await self._ensure_topic()
                await producer.start()
            yield
        except (KafkaError, TimeoutError) as error:
            raise NotCarriedError(repr(error)) from error
        finally:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await producer.stop()

    async def carry(self, outbox: Outbox) -> int:
        """Send the oldest events; how many were dealt with. Raises NotCarriedError when Kafka is ill."""
        events = await outbox.next_events(BATCH)
        try:
            return await self._drain(outbox, events) if events else 0
        except (KafkaError, TimeoutError) as error:
            # What this producer still holds or believes is not to be trusted; the caller opens a new one.
            raise NotCarriedError(repr(error)) from error

    async def _drain(self, outbox: Outbox, events: Sequence[OutboxEvent]) -> int:
        """Send while there is a backlog: while one batch is on the wire, the one before is marked and the next is read.

        Batches follow each other; what a failed one leaves behind is read anew.
        """
        sent: Sequence[OutboxEvent] = ()
        dealt_with = 0
        while events:
            crash_point(self._settings, "before-send:kafka")
            sending = asyncio.create_task(self._transact(events))
            try:
                await self._mark(outbox, sent)
                full = len(events) == BATCH
                ahead = await outbox.next_events(BATCH, (event.id for event in events)) if full else []
            finally:
                await asyncio.wait([sending])
            try:
                sending.result()
            except POISON:
                await self._sort_out(outbox, events)
                return dealt_with + len(events)
            crash_point(self._settings, "after-send:kafka")
            dealt_with += len(events)
            sent, events = events, ahead
        await self._mark(outbox, sent)
        return dealt_with

    async def _sort_out(self, outbox: Outbox, events: Sequence[OutboxEvent]) -> set[tuple[UUID, UUID]]:
        """A batch was refused for one record's sake: halve it until that record is alone and can be parked. Answers the
        orders that wait now."""
        if len(events) == 1:
            return await self._try(outbox, events)
        parked: set[tuple[UUID, UUID]] = set()
        half = len(events) // 2
        for part in (events[:half], events[half:]):
            rest = [event for event in part if (event.tenant_id, event.order_id) not in parked]
            parked |= await self._try(outbox, rest) if rest else set()
        return parked

    async def _try(self, outbox: Outbox, events: Sequence[OutboxEvent]) -> set[tuple[UUID, UUID]]:
        try:
            await self._transact(events)
        except POISON as error:
            if len(events) > 1:
                return await self._sort_out(outbox, events)
            await self._park(outbox, events[0], error)
            return {(events[0].tenant_id, events[0].order_id)}
        await self._mark(outbox, events)
        return set()

    async def _mark(self, outbox: Outbox, events: Sequence[OutboxEvent]) -> None:
        if events:
            crash_point(self._settings, "before-mark:kafka")
            await outbox.mark_events(event.id for event in events)
            crash_point(self._settings, "after-mark:kafka")
            CARRIED.labels(self.name).inc(len(events))

    async def _transact(self, events: Sequence[OutboxEvent]) -> None:
        async with asyncio.timeout(_SECONDS), self._producer.transaction():
            sent = []
            for event in events:
                with _recorded(event) as span:
                    acknowledged = await self._producer.send(
                        self._topic,
                        value=event.payload.encode(),
                        key=str(event.order_id).encode(),
                        headers=event_headers(event, span.parent),
                    )
                acknowledged.add_done_callback(_look_at)
                sent.append(acknowledged)
            await asyncio.gather(*sent)

    async def _park(self, outbox: Outbox, event: OutboxEvent, error: Exception) -> None:
        reason = f"{type(error).__name__}: Kafka will never take it"
        log.error("event parked, and its order with it", event_id=str(event.event_id), reason=reason)
        await outbox.park_event(event.id, reason)
        PARKED.labels(self.name).inc()

    async def _ensure_topic(self) -> None:
        admin = AIOKafkaAdminClient(**_connection(self._settings), request_timeout_ms=10_000)
        try:
            await admin.start()
            if self._topic not in await admin.list_topics():
                brokers = (await admin.describe_cluster())["brokers"]
                await admin.create_topics([NewTopic(self._topic, PARTITIONS, min(len(brokers), COPIES))])
        except TopicAlreadyExistsError:
            return
        finally:
            await admin.close()


def _connection(settings: Settings) -> dict[str, Any]:
    """Where the brokers are, whom we believe to be one, and who we say that we are."""
    told: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": settings.kafka_security,
    }
    if settings.kafka_security.endswith("SSL"):
        told["ssl_context"] = context = open_context(settings.ca_file)
        if settings.kafka_cert_file:
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
    if settings.kafka_security.startswith("SASL"):
        told["sasl_mechanism"] = settings.kafka_mechanism
        told["sasl_plain_username"] = settings.kafka_username
        told["sasl_plain_password"] = settings.kafka_password
    return told


class _Partitioner:
    """The default choice, remembered: an order says many things, and the hash of its key is slow."""

    def __init__(self) -> None:
        self._choose = DefaultPartitioner()
        self._chosen: dict[bytes, int] = {}

    def __call__(self, key: bytes, every: list[int], available: list[int]) -> int:
        chosen = self._chosen.get(key)
        if chosen not in every:
            if len(self._chosen) >= _REMEMBERED:
                self._chosen.clear()
            chosen = self._chosen[key] = self._choose(key, every, available)
        return chosen


def _look_at(acknowledged: asyncio.Future[object]) -> None:
    """One failure ends the batch; those of the others have been seen then, too."""
    if not acknowledged.cancelled():
        acknowledged.exception()


def _recorded(event: OutboxEvent) -> AbstractContextManager[Span]:
    """A span of whoever caused it; of an event that nobody's trace leads to there is none."""
    if event.trace_parent is None:
        return nullcontext(NOTHING)
    ids = {"order_id": event.order_id, "tenant_id": event.tenant_id}
    return open_span("event", event.type, parent=event.trace_parent, since=event.at, event=event.type, **ids)


def event_headers(event: OutboxEvent, trace_parent: str | None = None) -> list[tuple[str, bytes]]:
    """CloudEvents 1.0, binary mode. trace_parent: of the span that sends it, where there is one

    What came by itself and was recorded by nobody has an unrecorded trace with the order's id: readers find the header
    in every record.
    """
    headers: list[tuple[str, bytes]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(event.event_id).encode()),
        ("ce_type", event.type.encode()),
        ("ce_source", _SOURCE),
        ("ce_subject", str(event.order_id).encode()),
        ("ce_time", format_time(event.at).encode()),
        ("ce_orderversion", str(event.sequence).encode()),
        ("ce_tenant", str(event.tenant_id).encode()),
        ("content-type", b"application/json"),
    ]
    told = trace_parent or event.trace_parent or f"00-{event.order_id.hex}-{event.event_id.hex[:16]}-00"
    headers.append(("traceparent", told.encode()))
    return headers
