"""The fleet against an engine that pushes back, loses, lies and dies: no job is stranded, none is lost."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import grpc
import pytest
from pyzeebe.grpc_internals.zeebe_adapter import ZeebeAdapter

from domain.errors import Breach, CaseClosed, IdempotencyInFlight
from domain.handle import Door
from tests.workers.fake_engine import FakeEngine, open_engine
from workers.gateways.engine import Engine, open_channel
from workers.gateways.systems import Systems
from workers.jobs import fleet as fleet_module
from workers.jobs.fleet import Fleet
from workers.jobs.job import Context, JobSpec, Means, job
from workers.jobs.outcome import BREACHES, Done, Later, Reply, Stuck
from workers.settings import Settings

Code = grpc.StatusCode
RUN = str(uuid.uuid4())
NOT_ASKED: tuple[Any, Any] = (None, None)  # these jobs ask nobody's roles, and belong to no process that is shown
IDS = {"tenant_id": str(uuid.uuid4()), "order_id": str(uuid.uuid4()), "run": RUN}


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with open_engine() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same waits, shorter."""
    monkeypatch.setattr(fleet_module, "_POLL_RETRY_LONGEST", 0.01)
    monkeypatch.setattr(fleet_module, "_BUSY_LONGEST", 0.01)
    monkeypatch.setattr(fleet_module, "_POLL_RETRY", 0.001)
    monkeypatch.setattr(fleet_module, "LONG_POLL", timedelta(seconds=0.5))


@asynccontextmanager
async def serving(engine: FakeEngine, *specs: JobSpec) -> AsyncIterator[Fleet]:
    """A fleet with handlers of the test's own; they need no door."""
    channel = open_channel(Settings(engine_grpc=engine.address))
    means = Means(Settings(), cast("Door", None), Systems({}), Engine(channel, Settings()), *NOT_ASKED)
    fleet = Fleet(ZeebeAdapter(channel, max_connection_retries=-1), means)
    fleet.employ({spec.job_type: spec for spec in specs})
    try:
        yield fleet
    finally:
        await fleet.drain()
        await channel.close()


def doing(handler: Callable[[Context], Awaitable[Reply]], job_type: str = "work", **more: Any) -> JobSpec:
    return job(job_type, fetch=("order_id", "run"), **more)(handler)


async def done(context: Context) -> Reply:
    return Done({"verdict": "done", "order": context.text("order_id")})


def raising(error: Exception) -> JobSpec:
    async def fail(_context: Context) -> Reply:
        raise error

    return doing(fail)


async def test_a_job_is_completed_with_its_verdict_and_only_listed_variables_are_fetched(engine: FakeEngine) -> None:
    async with serving(engine, doing(done)):
        given = await engine.add_job("work", **IDS, secret="not for workers")
        await engine.until(lambda: given.done is not None)
    assert given.done == {"verdict": "done", "order": IDS["order_id"]}
    assert engine.fetched["work"] == ("tenant_id", "order_id", "run")


def test_a_job_type_names_what_it_fetches() -> None:
    with pytest.raises(ValueError, match="name the variables"):
        job("greedy", fetch=())


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED])
async def test_a_thousand_failed_polls_do_not_end_a_poller(engine: FakeEngine, code: grpc.StatusCode) -> None:
    engine.fail("ActivateJobs", code, "for a while", times=250)
    async with serving(engine, doing(done)):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: given.done is not None, seconds=30)
    assert engine.failures_left == 0


async def test_pollers_live_through_an_engine_that_dies_and_comes_back() -> None:
    async with open_engine() as first:
        address = first.address
        channel = open_channel(Settings(engine_grpc=address))
        means = Means(Settings(), cast("Door", None), Systems({}), Engine(channel, Settings()), *NOT_ASKED)
        fleet = Fleet(ZeebeAdapter(channel, max_connection_retries=-1), means)
        fleet.employ({"work": doing(done)})
        before = await first.add_job("work", **IDS)
        await first.until(lambda: before.done is not None)
    async with open_engine(address) as second:
        after = await second.add_job("work", **IDS)
        await second.until(lambda: after.done is not None, seconds=15)
        await fleet.drain()
    await channel.close()


@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.INTERNAL])
async def test_a_completion_is_repeated_until_the_engine_takes_it(engine: FakeEngine, code: grpc.StatusCode) -> None:
    engine.fail("CompleteJob", code, "too busy", times=4)
    async with serving(engine, doing(done)):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: given.done is not None)
    assert given.deliveries == 1


async def test_pushing_back_lets_fewer_commands_onto_the_wire(engine: FakeEngine) -> None:
    engine.fail("CompleteJob", Code.RESOURCE_EXHAUSTED, "too busy", times=3)
    async with serving(engine, doing(done)) as fleet:
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: given.done is not None)
        assert fleet._pressure.allowed < fleet_module.COMMANDS


async def test_a_lost_lease_is_logged_and_work_goes_on(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    engine.fail("CompleteJob", Code.NOT_FOUND, "another has it")
    async with serving(engine, doing(done)):
        lost = await engine.add_job("work", **IDS)
        await engine.until(lambda: engine.failures_left == 0)
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: given.done is not None)
    assert lost.done is None
    assert sum(method == "CompleteJob" and request.jobKey == lost.key for method, request in engine.calls) == 1


async def test_completing_is_given_up_when_the_lease_has_ended(engine: FakeEngine) -> None:
    engine.fail("CompleteJob", Code.UNAVAILABLE, "gone", times=10_000)
    async with serving(engine, doing(done, timeout=timedelta(seconds=0.6))) as fleet:
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: given.deliveries >= 2)
        engine._failures.clear()
        await engine.until(lambda: given.done is not None)
        assert fleet.at_work >= 0


async def test_busy_comes_back_after_its_wait_with_the_retries_it_had(engine: FakeEngine) -> None:
    answers: Iterator[Reply] = iter([Later(0.25, "EFFECT_BUSY"), Done({"verdict": "done"})])

    async def busy(_context: Context) -> Reply:
        return next(answers)

    async with serving(engine, doing(busy)):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: given.done is not None)
    (retries, text, pause), *rest = given.errors
    assert (retries, pause, rest) == (3, 250, [])
    assert text.startswith("EFFECT_BUSY ")


async def test_an_outage_never_burns_retries_and_waits_longer_and_longer(engine: FakeEngine) -> None:
    ill = True

    async def ask(_context: Context) -> Reply:
        if ill:
            raise ConnectionRefusedError("the password of the database")
        return Done({})

    async with serving(engine, doing(ask)):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: len(given.errors) >= 4)
        ill = False
        await engine.until(lambda: given.done is not None)
    assert {retries for retries, _, _ in given.errors} == {3}
    pauses = [pause for _, _, pause in given.errors]
    assert pauses[-1] > pauses[0]
    assert "password" not in str(given.errors)


async def test_a_breach_is_an_incident_and_tells_a_code_and_an_id(engine: FakeEngine) -> None:
    async with serving(engine, raising(CaseClosed("Ada's case"))):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: not given.is_open)
    ((retries, text, _),) = given.errors
    code, correlation = text.split(" ")
    assert (retries, code) == (0, "CASE_CLOSED")
    assert uuid.UUID(correlation) == uuid.uuid5(uuid.UUID(RUN), str(given.key))


async def test_a_command_in_flight_elsewhere_comes_back(engine: FakeEngine) -> None:
    async with serving(engine, raising(IdempotencyInFlight())):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: bool(given.errors))
    assert given.errors[0][0] == 3


async def test_the_unforeseen_uses_up_retries_and_its_words_stay_here(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(engine, raising(KeyError("+49 30 1234567"))):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: bool(given.errors))
    assert given.errors[0][0] == 2
    assert given.errors[0][1].startswith("UNEXPECTED ")
    assert "1234567" not in str(given.errors) + caplog.text


async def test_exhaustion_is_an_incident_that_names_its_case(engine: FakeEngine) -> None:
    async def exhausted(_context: Context) -> Reply:
        return Stuck("EFFECT_EXHAUSTED", "8c0e")

    async with serving(engine, doing(exhausted)):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: not given.is_open)
    assert given.errors == [(0, "EFFECT_EXHAUSTED 8c0e", 0)]


async def test_a_job_without_its_variables_is_an_incident_that_names_the_first(engine: FakeEngine) -> None:
    async with serving(engine, doing(done)):
        given = await engine.add_job("work", tenant_id=IDS["tenant_id"], run=RUN)
        await engine.until(lambda: not given.is_open)
    assert given.errors == [(0, "VARIABLE_INVALID order_id", 0)]


async def test_variables_that_the_engine_refuses_are_an_incident(engine: FakeEngine) -> None:
    engine.fail("CompleteJob", Code.RESOURCE_EXHAUSTED, "gRPC message exceeds maximum size 4194304: 5000000")
    async with serving(engine, doing(done)):
        given = await engine.add_job("work", **IDS)
        await engine.until(lambda: not given.is_open)
    assert given.errors[0][:2] == (0, f"VARIABLES_REFUSED {uuid.uuid5(uuid.UUID(RUN), str(given.key))}")


def test_every_breach_has_its_row() -> None:
    def below(kind: type[Breach]) -> set[type[Breach]]:
        return {kind, *(grandchild for child in kind.__subclasses__() for grandchild in below(child))}

    assert below(Breach) - {Breach} == set(BREACHES)


async def test_stopping_waits_for_the_open_poll_and_does_the_job_that_it_brings(engine: FakeEngine) -> None:
    """The long poll is open when the order to stop comes; the engine hands out a job into it afterwards."""
    async with serving(engine, doing(done)) as fleet:
        await engine.until(lambda: engine.open_polls == 1)
        stopping = asyncio.create_task(fleet.drain())
        await asyncio.sleep(0)
        given = await engine.add_job("work", **IDS)
        await stopping
        assert given.done is not None
        assert engine.open_polls == 0
        polls = len(engine.polls["work"])
        await engine.add_job("work", **IDS)
        await asyncio.sleep(0)
        assert len(engine.polls["work"]) == polls


async def test_stopping_finishes_sixty_four_running_handlers(engine: FakeEngine) -> None:
    gate = asyncio.Event()

    async def wait(_context: Context) -> Reply:
        await gate.wait()
        return Done({})

    types = [f"work-{number}" for number in range(8)]
    async with serving(engine, *(doing(wait, name, limit=8) for name in types)) as fleet:
        jobs = [await engine.add_job(name, **IDS) for name in types for _ in range(8)]
        await engine.until(lambda: sum(job.deliveries for job in jobs) == 64)
        stopping = asyncio.create_task(fleet.drain())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        gate.set()
        await stopping
    assert all(job.done is not None and job.deliveries == 1 for job in jobs)


async def test_one_hanging_type_leaves_the_others_at_work(engine: FakeEngine) -> None:
    gate = asyncio.Event()

    async def hang(_context: Context) -> Reply:
        await gate.wait()
        return Done({})

    hanging = [doing(hang, f"effect-{name}") for name in ("billing", "shipping", "cpq", "numbering")]
    async with serving(engine, *hanging, doing(done)) as fleet:
        for spec in hanging:
            for _ in range(40):
                await engine.add_job(spec.job_type, **IDS)
        await engine.until(lambda: fleet.at_work >= Settings().jobs_at_once)
        started = time.monotonic()
        given = [await engine.add_job("work", **IDS) for _ in range(20)]
        await engine.until(lambda: all(job.done is not None for job in given))
        assert time.monotonic() - started < 5
        gate.set()


async def test_no_type_has_more_at_work_than_its_limit(engine: FakeEngine) -> None:
    at_work = most = 0

    async def count(_context: Context) -> Reply:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.01)
        at_work -= 1
        return Done({})

    async with serving(engine, doing(count, limit=5)):
        jobs = [await engine.add_job("work", **IDS) for _ in range(60)]
        await engine.until(lambda: all(job.done is not None for job in jobs))
    assert most == 5


async def test_places_do_not_stand_idle_while_the_engine_is_told_and_it_is_not_asked_for_ever_more(
    engine: FakeEngine,
) -> None:
    handled = 0

    async def count(_context: Context) -> Reply:
        nonlocal handled
        handled += 1
        return Done({})

    limit = 4
    engine.fail("CompleteJob", Code.UNAVAILABLE, "not now", times=80)
    async with serving(engine, doing(count, limit=limit)):
        jobs = [await engine.add_job("work", **IDS) for _ in range(60)]
        await engine.until(lambda: any(job.done is not None for job in jobs), seconds=30)
        # As many again as may be at work wait, and as many as both are over and not told.
        assert 2 * limit < handled <= 4 * limit
        await engine.until(lambda: all(job.done is not None for job in jobs), seconds=30)
    assert all(job.deliveries == 1 for job in jobs)


@pytest.mark.parametrize(
    ("limit", "seconds", "ahead"),
    [(16, 0.0, 16), (16, 0.05, 16), (16, 0.2, 8), (16, 1.0, 2), (16, 10.0, 1), (1, 10.0, 1)],
)
def test_what_takes_long_is_left_to_others_who_may_have_a_place_for_it(limit: int, seconds: float, ahead: int) -> None:
    assert fleet_module.jobs_ahead(limit, seconds) == ahead


async def test_a_type_that_a_new_policy_brings_is_served_at_once(engine: FakeEngine) -> None:
    async with serving(engine, doing(done)) as fleet:
        fleet.employ({"effect-solar": doing(done, "effect-solar")})
        given = await engine.add_job("effect-solar", **IDS)
        await engine.until(lambda: given.done is not None)


async def test_a_fleet_that_cannot_poll_says_so_and_recovers(engine: FakeEngine) -> None:
    async with serving(engine, doing(done)) as fleet:
        await engine.until(lambda: engine.open_polls == 1)
        assert fleet.troubles() == {}
        engine.fail("ActivateJobs", Code.UNAVAILABLE, times=100_000)
        async with asyncio.timeout(20):
            while not fleet.troubles():
                await asyncio.sleep(0.05)
        assert "no good poll" in fleet.troubles()["work"]
        engine._failures.clear()
        async with asyncio.timeout(20):
            while fleet.troubles():
                await asyncio.sleep(0.05)


async def test_a_job_that_has_waited_too_long_for_its_turn_is_left_to_its_lease(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning it now could end after the engine has given it to another worker."""
    monkeypatch.setattr(fleet_module, "_STALE_SECONDS", 0.05)
    gate, begun = asyncio.Event(), []

    async def wait(context: Context) -> Reply:
        begun.append(context.job.key)
        await gate.wait()
        return Done({})

    async with serving(engine, doing(wait, limit=1)):
        first, second = await engine.add_job("work", **IDS), await engine.add_job("work", **IDS)
        await engine.until(lambda: first.deliveries == second.deliveries == 1)
        await asyncio.sleep(0.1)
        gate.set()
        await engine.until(lambda: first.done is not None)
        second.free_at = 0.0
        await engine.until(lambda: second.done is not None)
    assert second.deliveries == 2
    assert begun == [first.key, second.key]
