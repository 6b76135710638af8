"""What a subscriber sees of everything that was told on the running stack, whatever was killed meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from domain.events import EVENT_TYPES
from tests.flows.running import RunningStack, Tenant, eventually
from tests.workers.outboxes import Arrived, read_topic
from workers.contracts import describe_event, describe_headers
from workers.settings import Settings


def what_is_wrong(record: Arrived) -> list[str]:
    """In what a record is not as its published schema says; closed: nothing goes along that no schema names."""
    kind = record.value["kind"]
    told: list[tuple[Any, Any]] = [
        (describe_headers(f"recourse.{EVENT_TYPES[kind]}.v1"), record.headers),
        (describe_event(kind, closed=True), record.value),
    ]
    return [
        f"{kind} {error.json_path}: {error.message}"
        for schema, value in told
        for error in Draft202012Validator(schema, format_checker=FormatChecker()).iter_errors(value)
    ]


def test_every_record_is_as_published_and_no_version_is_left_out(stack: RunningStack, tenant: Tenant) -> None:
    """All orders of all stories told on this stack so far, one of this test's own among them."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.cancel(order_id)
    tenant.wait_state(order_id, "CANCELLED")
    settings = Settings(kafka_bootstrap=stack.status()["kafka"])
    arrived = eventually(
        lambda: asyncio.run(read_topic(settings)),
        lambda records: any(one.key == order_id and one.value["kind"] == "ORDER_CANCELLED" for one in records),
        "the end of the order on the topic",
    )
    assert [line for record in arrived for line in what_is_wrong(record)] == []
    assert {record.key for record in arrived} == {record.value["orderId"] for record in arrived}
    seen: dict[str, int] = defaultdict(int)
    for record in arrived:
        assert record.version <= seen[record.key] + 1, f"{record.key}: {record.version} came after {seen[record.key]}"
        seen[record.key] = max(seen[record.key], record.version)
