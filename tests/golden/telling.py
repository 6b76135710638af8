"""What lies in the topic after all stories, and the one example per type that is kept as golden file.

`python -m tests.golden.telling` writes the golden files again: what the world receives has changed, so say why.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from domain.store.outbox import OutboxEvent
from domain.values import parse_time
from tests.builders import TENANT
from tests.stories import STORIES, UNFINISHED, Recorder
from workers.relay.kafka import event_headers

FOLDER = Path(__file__).parent / "events"

# Kinds that no story reaches, and why they are told of all the same.
UNREACHED: dict[str, str] = {}

_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


@cache
def tell_stories() -> tuple[Recorder, ...]:
    """Every story, played on the pure core."""
    worlds = []
    for story in (*STORIES, *UNFINISHED):
        world = Recorder()
        story(world)
        worlds.append(world)
    return tuple(worlds)


def record_of(row: dict[str, Any]) -> dict[str, Any]:
    """An outbox row as the record that Kafka gets: headers and key as text, value as JSON."""
    event = OutboxEvent(
        id=0,
        tenant_id=TENANT,
        order_id=UUID(row["order_id"]),
        sequence=row["sequence"],
        event_id=UUID(row["event_id"]),
        type=row["type"],
        at=parse_time(row["at"]),
        payload=json.dumps(row["payload"]),
        trace_parent=row["trace_parent"],
    )
    headers = {name: value.decode() for name, value in event_headers(event)}
    return {"key": row["order_id"], "headers": headers, "value": row["payload"]}


@cache
def records() -> tuple[dict[str, Any], ...]:
    return tuple(record_of(row) for world in tell_stories() for row in world.told)


def anonymise(record: dict[str, Any]) -> dict[str, Any]:
    """The same record with stand-ins for what is incidental: ids numbered as they appear, one version, one trace."""
    record = {
        "key": record["key"],
        "headers": {**record["headers"], "ce_orderversion": "7", "traceparent": _TRACE},
        "value": {**record["value"], "sequence": 7},
    }
    known: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return known.setdefault(match[0], str(UUID(int=(0x4000 << 64) | (0x8 << 60) | (0xA01 + len(known)))))

    renamed: dict[str, Any] = json.loads(_UUID.sub(rename, json.dumps(record)))
    return renamed


@cache
def golden() -> dict[str, dict[str, Any]]:
    """Per type one example: the richest, and of those the first by its text."""
    chosen: dict[str, dict[str, Any]] = {}
    for record in map(anonymise, records()):
        name = record["headers"]["ce_type"].removeprefix("recourse.").removesuffix(".v1")
        if name not in chosen or _rank(record) < _rank(chosen[name]):
            chosen[name] = record
    return chosen


def _rank(record: dict[str, Any]) -> tuple[int, str]:
    return -len(record["value"]["data"]), json.dumps(record, sort_keys=True)


def render(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name, record in golden().items():
        (FOLDER / f"{name}.json").write_text(render(record), encoding="utf-8")
