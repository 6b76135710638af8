"""The bench about reconciling: how soon an incident of the engine is told on its case, and that a sweep costs by what
is wrong and not by what there is. It must never look into the reconciler's own rules."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Final

from domain.reconciliation import Observed
from domain.store.measuring import mark_all_sent
from domain.store.pool import open_pool
from workers.bench.bed import Bed
from workers.bench.commands import app_pool
from workers.bench.conditions import fill
from workers.bench.harness import Case, Run, Scale, interleave
from workers.bench.seeds import Seeds
from workers.bench.stack import measure_incidents
from workers.reconciler import SETTLE_HEARTBEATS, sweep

SMALL: Final = 1_000
_UNDER_WAY: Final = 100
_SWEEPS: Final = 10


async def measure_reconcile(bed: Bed, scale: Scale) -> list[Case]:
    """Two cases: an incident that the engine's search shows until its case says so, p99 ÷ the interval of the sweeps;
    and one sweep over `scale.size` orders that are well ÷ one over 1 000.

    scale.amount: incidents per repetition; none, then only the sweeps are measured
    """
    cases = await measure_incidents(bed, scale) if scale.amount else []
    return [*cases, await _measure_sweeps(bed, scale)]


async def _measure_sweeps(bed: Bed, scale: Scale) -> Case:
    """Nearly all orders have ended; a hundred on either side are under way."""
    settle = bed.settings.heartbeat * SETTLE_HEARTBEATS
    small = min(SMALL, scale.size)
    async with AsyncExitStack() as stack:
        sides = []
        for size in (scale.size, small):
            database = await stack.enter_async_context(bed.database())
            seeds = Seeds(await stack.enter_async_context(app_pool(database)))
            await fill(database, size, history=False)
            await seeds.add(_UNDER_WAY)
            await mark_all_sent(database.owner_url)  # a relay that is not there would be a finding by now
            auditor = await open_pool(database.auditor_url, size=1, name="bench")
            stack.push_async_callback(auditor.close)
            sides.append(await stack.enter_async_context(auditor.acquire()))

        async def run(side: int) -> Run:
            times = []
            found = 0
            for _ in range(_SWEEPS):
                began = time.perf_counter()
                found += len(await sweep(sides[side], settle, Observed()))
                times.append(time.perf_counter() - began)
            return Run(
                _SWEEPS, sum(times), tuple(times), {"findings about orders that are well": found} if found else {}
            )

        for side in (0, 1):
            await run(side)
        pairs = await interleave(scale.repetitions, lambda _: run(0), lambda _: run(1))
    return Case(f"{scale.size} orders", pairs, "median time", {"large": scale.size, "small": small})
