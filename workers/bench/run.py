"""The benches by name, and how one is run: measured on a bed, judged. It must never call a number good whose data are
not."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from workers.bench.bed import NOTHING, Bed, Running, open_bed
from workers.bench.commands import measure_command, measure_replay, measure_store
from workers.bench.conditions import measure_growth, measure_hot_order, measure_observability
from workers.bench.flow import measure_flow, measure_latency
from workers.bench.harness import Case, Outcome, Scale, Target
from workers.bench.plan import SMALL, measure_plan
from workers.bench.reconcile import measure_reconcile
from workers.bench.relay import measure_lag, measure_relay
from workers.bench.stack import measure_start
from workers.bench.worker import measure_worker
from workers.settings import Settings

Measure = Callable[[Bed, Scale], Awaitable[list[Case]]]


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench: what it promises, how it is measured, how much in a full run and in a quick one."""

    target: Target
    measure: Measure
    scale: Scale
    quick: Scale


def _quick(amount: int) -> Scale:
    return Scale(1, amount, quick=True)


BENCHES: Final[Mapping[str, Bench]] = {
    "command": Bench(
        Target("cancellation requests per second over HTTP ÷ pgbench running the same SQL", 0.35, 0.5),
        measure_command,
        Scale(3, 400),
        _quick(32),
    ),
    "store": Bench(
        Target("the same transaction through the door, without HTTP ÷ the same pgbench", 0.65, 1.0),
        measure_store,
        Scale(3, 400),
        _quick(32),
    ),
    "replay": Bench(
        Target("idempotent replays per second ÷ first executions per second", 1.0, 2.0),
        measure_replay,
        Scale(3, 400),
        _quick(32),
    ),
    "relay": Bench(
        Target("events per second from the outbox to Kafka ÷ a bare producer sending the same", 0.35, 0.45),
        measure_relay,
        Scale(3, 400),
        _quick(20),
    ),
    "worker": Bench(
        Target("50 ms handlers drained by the fleet ÷ ideal: limit ÷ handler time, or the engine", 0.7, 0.8),
        measure_worker,
        Scale(3, 400),
        _quick(32),
    ),
    "flow": Bench(
        Target("whole cancellations per second ÷ the same models with workers that do nothing", 0.5, 0.7),
        measure_flow,
        Scale(3, 100),
        _quick(4),
    ),
    "latency": Bench(
        Target("p50 of one whole cancellation, without outside time ÷ with workers that do nothing", 2.0, 1.5, "less"),
        measure_latency,
        Scale(3, 15),
        _quick(3),
    ),
    "lag": Bench(
        Target("commit to Kafka's acknowledgement, p99 ÷ the relay's poll interval, at 20 % load", 5.0, 2.5, "less"),
        measure_lag,
        Scale(3, 400),
        _quick(20),
    ),
    "reconcile": Bench(
        Target(
            "incident shown to case told, p99 ÷ sweep interval; a sweep over many orders ÷ 1 000",
            2.0,
            1.1,
            "less",
        ),
        measure_reconcile,
        Scale(3, 12, 100_000),
        Scale(1, 0, 200, quick=True),
    ),
    "hot-order": Bench(
        Target("fifty clients that hold and release one order ÷ an order each", 0.2, 0.25),
        measure_hot_order,
        Scale(3, 1000),
        _quick(100),
    ),
    "observability": Bench(
        Target("cancellation requests per second with metrics, JSON logs, a tenth traced ÷ all off", 0.8, 0.9),
        measure_observability,
        Scale(5, 1200),
        _quick(32),
    ),
    "growth": Bench(
        Target("cancellation requests per second among very many orders and their history ÷ among 2 000", 0.8, 0.95),
        measure_growth,
        Scale(3, 400, 50_000),
        Scale(1, 32, 200, quick=True),
    ),
    "start": Bench(
        Target("seconds from `recourse up` to the first finished cancellation, everything downloaded", 90, 45, "less"),
        measure_start,
        Scale(3, 1),
        _quick(1),
    ),
    "plan": Bench(
        Target("planning a compensation over 10 000 effects ÷ over 1 000", 13.0, 10.5, "less"),
        measure_plan,
        Scale(9, SMALL),
        _quick(100),
    ),
}


async def run_benches(
    settings: Settings,
    names: Sequence[str],
    *,
    quick: bool,
    say: Callable[[str], None],
    running: Running = NOTHING,
    size: int = 0,
) -> list[Outcome]:
    """Measure them one after the other on one bed. size: how many orders `growth` and `reconcile` fill a database with

    Raises UnfitError where nothing can be measured.
    """
    outcomes: list[Outcome] = []
    async with AsyncExitStack() as stack:
        bed = await stack.enter_async_context(open_bed(settings, running))
        for place, name in enumerate(names, 1):
            say(f"{name} ({place} of {len(names)}): {BENCHES[name].target.ratio}")
            outcome = await _run_bench(bed, name, quick=quick, size=size)
            outcomes.append(outcome)
            for line in describe(outcome):
                say(line)
    return outcomes


async def _run_bench(bed: Bed, name: str, *, quick: bool, size: int) -> Outcome:
    bench = BENCHES[name]
    scale = bench.quick if quick else bench.scale
    if size and scale.size:
        scale = replace(scale, size=size)
    bed.verified.clear()
    started = time.monotonic()
    cases = tuple(await bench.measure(bed, scale))
    verified = all(bed.verified) if bed.verified else None
    return Outcome(name, bench.target, cases, scale, bed.server, verified, time.monotonic() - started)


def describe(outcome: Outcome) -> list[str]:
    """One line per case and one for the verdict."""
    lines = []
    for case in outcome.cases:
        spread = f"{min(case.ratios):.2f} to {max(case.ratios):.2f}"
        errors = f"  errors {case.errors}" if case.errors else ""
        lines.append(f"  {case.name:<14} {case.ratio:6.2f}  ({spread}){errors}")
    bound = "at least" if outcome.target.better == "more" else "at most"
    promise = f"must be {bound} {outcome.target.must:g}, goal {outcome.target.goal:g}"
    verified = {None: "", True: "; every invariant holds", False: "; INVARIANTS ARE BROKEN"}[outcome.verified]
    lines.append(f"  {outcome.verdict}: {promise}{verified} ({outcome.seconds:.0f} s)")
    return lines
