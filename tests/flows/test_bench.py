"""Benches that need an engine work on the one that runs, in their quick form; no number is judged."""

from __future__ import annotations

import asyncio

from tests.flows.running import RunningStack
from tests.postgres import PASSWORDS, PostgresServer
from workers.bench.bed import Running
from workers.bench.run import run_benches
from workers.settings import Settings


def test_the_fleet_drains_its_backlog_to_the_last_job(stack: RunningStack, postgres_server: PostgresServer) -> None:
    engine = str(stack.status()["engineGrpc"])
    told = run_benches(
        Settings(),
        ["worker"],
        quick=True,
        say=lambda _: None,
        running=Running(postgres_server.owner_url, PASSWORDS, engine=engine),
    )
    (outcome,) = asyncio.run(told)
    assert outcome.verdict != "broken"
    ((ours, ideal),) = outcome.cases[0].pairs
    assert ours.done == ideal.done == 32
    assert min(ours.times) >= 0.05
