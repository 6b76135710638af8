"""What all benches share: runs, ratios, verdicts, records. It must never let a number out without its errors."""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. repetitions: of the interleaved pairs · amount: commands, rows or flows per run · size: how
    much lies there already, where that is what is measured"""

    repetitions: int
    amount: int
    size: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.repetitions < 3 and not self.quick:
            raise ValueError("fewer than three repetitions show no range")


@dataclass(frozen=True, slots=True)
class Run:
    """One side of one repetition. seconds: of the whole · times: of each piece, seconds · errors: kind → count"""

    done: int
    seconds: float
    times: tuple[float, ...] = ()
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Pieces of work per second; what failed is no work."""
        return self.done / self.seconds


@dataclass(frozen=True, slots=True)
class Case:
    """One pair of things that are compared, all its repetitions. of: what the ratio is made of; a rate where more is
    better, a time where less is."""

    name: str
    pairs: tuple[tuple[Run, Run], ...]
    of: Literal["rate", "time", "median time"]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(_measure(ours, self.of) / _measure(other, self.of) for ours, other in self.pairs)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def errors(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for ours, other in self.pairs:
            found.update(ours.errors)
            found.update(other.errors)
        return dict(found)


def _measure(run: Run, of: str) -> float:
    match of:
        case "rate":
            return run.rate
        case "median time":
            return statistics.median(run.times)
        case _:
            return run.seconds


@dataclass(frozen=True, slots=True)
class Target:
    """What a bench promises. ratio: in words · must, goal: bounds of the ratio, from below or from above"""

    ratio: str
    must: float
    goal: float
    better: Literal["more", "less"] = "more"

    def judge(self, ratio: float) -> Literal["goal", "must", "missed"]:
        for name, bound in (("goal", self.goal), ("must", self.must)):
            if ratio >= bound if self.better == "more" else ratio <= bound:
                return "goal" if name == "goal" else "must"
        return "missed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One bench, measured. verified: what `recourse verify` said of the data afterwards (None: there are none)."""

    name: str
    target: Target
    cases: tuple[Case, ...]
    scale: Scale
    server: Mapping[str, str]
    verified: bool | None
    seconds: float

    @property
    def worst(self) -> Case:
        """The bench is as good as the worst of its cases."""
        sign = 1 if self.target.better == "more" else -1
        return min(self.cases, key=lambda case: sign * case.ratio)

    @property
    def verdict(self) -> str:
        """goal, must, missed; or broken, where the invariants are or anything failed on the way."""
        if self.verified is False or any(case.errors for case in self.cases):
            return "broken"
        return self.target.judge(self.worst.ratio)

    def to_json(self) -> dict[str, Any]:
        return {
            "bench": self.name,
            "ratio": self.target.ratio,
            "must": self.target.must,
            "goal": self.target.goal,
            "better": self.target.better,
            "verdict": self.verdict,
            "median": round(self.worst.ratio, 3),
            "range": [round(min(self.worst.ratios), 3), round(max(self.worst.ratios), 3)],
            "verified": self.verified,
            "seconds": round(self.seconds, 1),
            "repetitions": self.scale.repetitions,
            "amount": self.scale.amount,
            **({"size": self.scale.size} if self.scale.size else {}),
            "quick": self.scale.quick,
            "cases": [_case_json(case) for case in self.cases],
            "machine": machine_facts(),
            "database": dict(self.server),
            "versions": _versions(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _case_json(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "of": case.of,
        "median": round(case.ratio, 3),
        "range": [round(min(case.ratios), 3), round(max(case.ratios), 3)],
        "ratios": [round(ratio, 3) for ratio in case.ratios],
        "numerator": _side_json([ours for ours, _ in case.pairs]),
        "denominator": _side_json([other for _, other in case.pairs]),
        **({"notes": dict(case.notes)} if case.notes else {}),
    }


def _side_json(runs: Sequence[Run]) -> dict[str, Any]:
    times = [taken for run in runs for taken in run.times]
    errors: Counter[str] = Counter()
    for run in runs:
        errors.update(run.errors)
    told: dict[str, Any] = {
        "done": sum(run.done for run in runs),
        "perSecond": [round(run.rate, 1) for run in runs],
        "seconds": [round(run.seconds, 4) for run in runs],
        "errors": dict(errors),
    }
    if times:
        told |= {
            "p50ms": round(percentile(times, 50) * 1000, 3),
            "p99ms": round(percentile(times, 99) * 1000, 3),
            "maxms": round(max(times) * 1000, 3),
        }
    return told


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed. Raises ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


async def interleave(
    repetitions: int, ours: Callable[[int], Awaitable[Run]], other: Callable[[int], Awaitable[Run]]
) -> tuple[tuple[Run, Run], ...]:
    """Numerator and denominator in turn, the one that goes first changing: what else the machine does meets both."""
    pairs: list[tuple[Run, Run]] = []
    for number in range(repetitions):
        if number % 2:
            second = await other(number)
            pairs.append((await ours(number), second))
        else:
            first = await ours(number)
            pairs.append((first, await other(number)))
    return tuple(pairs)


async def run_clients(clients: int, amount: int, do: Callable[[int], Awaitable[str | None]]) -> Run:
    """A closed loop: so many clients, each doing its share one after the other.

    do: carries out piece number 0 … amount - 1; answers None, or the kind of its error
    """
    times: list[float] = []
    errors: Counter[str] = Counter()

    async def client(number: int) -> None:
        for piece in range(number, amount, clients):
            began = time.perf_counter()
            error = await do(piece)
            if error is None:
                times.append(time.perf_counter() - began)
            else:
                errors[error] += 1

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return Run(len(times), time.perf_counter() - started, tuple(times), dict(errors))


# -- facts ----------------------------------------------------------------------------------------------------


def machine_facts() -> dict[str, Any]:
    """The machine that all of it ran on, and how busy it was with other things."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memoryGiB": round(pages / 2**30, 1),
        "kernel": platform.release(),
        "loadAverage": [round(load, 2) for load in os.getloadavg()],
    }


_PACKAGES: Final = ("aiokafka", "asyncpg", "fastapi", "pyzeebe", "uvicorn", "uvloop")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "recourse": version("recourse")} | {
        package: version(package) for package in _PACKAGES
    }


def write_record(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One JSON document of everything that was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([outcome.to_json() for outcome in outcomes], indent=2) + "\n", encoding="utf-8")
