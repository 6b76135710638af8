"""Benches that need an engine work on one that runs, in their quick form; no number is judged."""

from __future__ import annotations

import asyncio

import pytest

from tests.browser.consoles import Consoles
from tests.flows.running import RunningStack
from tests.postgres import PASSWORDS, PostgresServer
from workers.bench.bed import Running, open_bed
from workers.bench.harness import Outcome, Scale
from workers.bench.run import run_benches
from workers.bench.stack import measure_incidents
from workers.settings import Settings


def run_quick(running: Running, *names: str) -> list[Outcome]:
    return asyncio.run(run_benches(Settings(), names, quick=True, say=lambda _: None, running=running))


def test_the_fleet_drains_its_backlog_to_the_last_job(stack: RunningStack, postgres_server: PostgresServer) -> None:
    engine = str(stack.status()["engineGrpc"])
    (outcome,) = run_quick(Running(postgres_server.owner_url, PASSWORDS, engine=engine), "worker")
    assert outcome.verdict != "broken"
    ((ours, ideal),) = outcome.cases[0].pairs
    assert ours.done == ideal.done == 32
    assert min(ours.times) >= 0.05


def test_the_first_cancellation_of_a_stack_is_waited_for(stack: RunningStack) -> None:
    (outcome,) = run_quick(Running(home=stack.folder), "start")
    assert outcome.verdict != "broken"
    ((ours, _),) = outcome.cases[0].pairs
    assert (ours.done, ours.errors) == (1, {})


@pytest.mark.timeout(600)
def test_an_incident_is_followed_from_the_search_to_its_case(stack: RunningStack, consoles: Consoles) -> None:
    async def follow() -> None:
        async with open_bed(Settings(), Running(home=stack.folder)) as bed:
            (case,) = await measure_incidents(bed, Scale(1, 2, quick=True))
        ((ours, interval),) = case.pairs
        assert len(ours.times) == 2
        assert min(ours.times) > 0
        assert interval.seconds == case.notes["sweepSeconds"]
        assert bed.verified == [True]

    asyncio.run(follow())


@pytest.mark.timeout(600)
def test_whole_cancellations_go_through_the_same_elements_with_workers_that_do_nothing(
    stack: RunningStack, postgres_server: PostgresServer
) -> None:
    # An engine of their own: the stack's workers would take the jobs.
    kafka = str(stack.status()["kafka"])
    outcomes = run_quick(Running(postgres_server.owner_url, PASSWORDS, kafka=kafka), "flow", "latency", "lag")
    assert [outcome.verdict == "broken" for outcome in outcomes] == [False, False, False]
    flow, latency, lag = (outcome.cases[0] for outcome in outcomes)
    for case, amount in ((flow, 4), (latency, 3)):
        ((ours, bare),) = case.pairs
        assert (ours.done, bare.done) == (amount, amount)
        assert (len(ours.times), len(bare.times)) == (amount, amount)
        # Three effects undone, and what was asked before and after: nothing of it is missing on either side.
        assert case.notes["undoings"] == 3
        assert case.notes["elements"]["SERVICE_TASK"] == case.notes["jobs"] == 9
    ((ours, interval),) = lag.pairs
    assert len(ours.times) == 20
    assert interval.seconds == 0.02
