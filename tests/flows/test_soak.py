"""A minute of what `make soak` does for an hour: load, faults and killed parts; then nothing is lost, twice or left."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.flows.running import RunningStack
from tests.tally import TALLY

pytestmark = pytest.mark.timeout(900)

JUDGED = {
    "parts killed",
    "decided by people",
    "fiber-500 orders",
    "router orders",
    "acknowledged cancellations",
    "effects outside",
    "unsent events",
    "unsent messages",
    "asset locks",
    "task holds",
    "open cases",
    "receipts without answer",
    "verify --at-rest, COMPLETED",
    "verify --at-rest, CANCELLED",
    "memory of api",
    "memory of workers",
    "memory of relay",
    "memory of reconciler",
    "rows per order",
}


def test_a_minute_of_load_with_killed_parts(stack: RunningStack, tmp_path: Path) -> None:
    """Without the effect's id as the key of a second call, the row "effects outside" is not good: what a system did
    before its answer was lost it does again."""
    record = tmp_path / "soak.json"
    told = stack.cli("bench", "soak", "--seconds", "60", "--rate", "0.5", "--json", str(record), seconds=840)
    assert told.returncode == 0, told.stdout + told.stderr
    verdict = json.loads(record.read_text())
    assert verdict["good"] is True
    found = {row["name"]: [int(number) for number in re.findall(r"\d+", row["found"])] for row in verdict["rows"]}
    assert found.keys() == JUDGED
    acknowledged = int(verdict["load"]["orders"]) + sum(found["acknowledged cancellations"])
    TALLY.update(killed=sum(found["parts killed"]), acknowledged=acknowledged, done=found["effects outside"][1])
