"""Reads events back from the topic, for demonstrations and tests; it must never commit an offset."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import orjson
from aiokafka import AIOKafkaConsumer


async def read_events(
    bootstrap: str, topic: str, order_id: UUID, *, until: str, seconds: float
) -> list[dict[str, Any]]:
    """The events of one order in the order of the topic: {headers, value}, up to and with the type `until`.

    Returns what there is when the time is over; the caller judges whether that is enough.
    """
    consumer = _open_consumer(bootstrap, topic)
    await consumer.start()
    found: list[dict[str, Any]] = []
    try:
        key = str(order_id).encode()
        async with asyncio.timeout(seconds):
            async for record in consumer:
                if record.key != key:
                    continue
                headers = {name: value.decode() for name, value in record.headers}
                found.append({"headers": headers, "value": orjson.loads(record.value)})
                if headers.get("ce_type") == until:
                    break
    except TimeoutError:
        pass
    finally:
        await consumer.stop()
    return found


async def read_versions(bootstrap: str, topic: str, count: int, *, seconds: float) -> dict[str, list[int]]:
    """Order → the versions of its events in the order of the topic, of the first `count` events that can be read.

    Returns what there is when the time is over.
    """
    consumer = _open_consumer(bootstrap, topic)
    await consumer.start()
    found: dict[str, list[int]] = {}
    try:
        async with asyncio.timeout(seconds):
            async for record in consumer:
                version = next(int(value) for name, value in record.headers if name == "ce_orderversion")
                found.setdefault(record.key.decode(), []).append(version)
                count -= 1
                if not count:
                    break
    except TimeoutError:
        pass
    finally:
        await consumer.stop()
    return found


def _open_consumer(bootstrap: str, topic: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        group_id=None,
    )
