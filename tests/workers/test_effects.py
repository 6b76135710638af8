"""An effect's beats through the real door, the real wire to the engine and a system with a book of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain.policy import parse_policy, policy_to_json, read_policy_text
from domain.store.policies import add_policy
from domain.store.pool import tenant_transaction
from tests.builders import ROOT
from tests.postgres import Database
from tests.workers.fake_engine import Code
from tests.workers.flow_world import FlowWorld, open_flow_world

# Of this test's database only: what other tests keep open is none of its business.
_END_SESSIONS = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where usename = 'recourse_app' and datname = current_database()"
)


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[FlowWorld]:
    async with open_flow_world(database, tmp_path) as opened:
        yield opened


async def test_an_effect_is_claimed_called_and_written(world: FlowWorld) -> None:
    async with world.fleet():
        assert await world.verdict(await world.add_effect()) == {"verdict": "confirmed"}
    assert await world.effects() == [("CONFIRMED", 1)]
    assert len(world.book("DONE")) == 1


async def test_a_job_that_comes_again_hears_the_same_and_calls_nobody(world: FlowWorld) -> None:
    world.engine.fail("CompleteJob", Code.NOT_FOUND, "the completion was lost")
    async with world.fleet():
        given = await world.add_effect()
        await world.engine.until(lambda: world.engine.failures_left == 0)
        given.free_at = 0.0
        assert await world.verdict(given) == {"verdict": "confirmed"}
    assert given.deliveries == 2
    assert len(world.book("CALLED")) == 1


async def test_a_job_given_to_two_workers_at_once_calls_once(world: FlowWorld) -> None:
    await world.script(fault="delay", delayMs=700)
    async with world.fleet():
        one, two = await asyncio.gather(world.add_effect(), world.add_effect())
        await world.engine.until(lambda: any(job.errors for job in (one, two)))
        turned_away, caller = (one, two) if one.errors else (two, one)
        assert await world.verdict(caller) == {"verdict": "confirmed"}
        turned_away.free_at = 0.0
        assert await world.verdict(turned_away) == {"verdict": "confirmed"}
    ((retries, text, pause),) = turned_away.errors
    assert (retries, text.split(" ")[0]) == (3, "EFFECT_BUSY")
    assert pause > 10_000  # the lease: the call's timeout and a margin
    assert len(world.book("CALLED")) == 1


async def test_a_release_that_is_no_longer_current_stands_down(world: FlowWorld) -> None:
    async with world.fleet():
        given = await world.add_effect(release=world.task["release"] + 7)
        assert await world.verdict(given) == {"verdict": "stand_down"}
    assert world.book("CALLED") == []


async def test_a_lost_answer_is_unknown_and_found_out_by_asking(world: FlowWorld) -> None:
    await world.script(fault="lose-answer", times=1)
    async with world.fleet():
        told = await world.verdict(await world.add_effect())
        assert told["verdict"] == "unknown"
        assert told["wait"].startswith("PT")
        assert await world.effects() == [("UNKNOWN", 1)]
        assert await world.verdict(await world.add_verification()) == {"verdict": "confirmed"}
    assert await world.effects() == [("CONFIRMED", 1)]
    assert len(world.book("DONE")) == len(world.book("CALLED")) == 1


async def test_what_never_arrived_is_asked_for_again_under_the_same_id(world: FlowWorld) -> None:
    await world.script(fault="error-before", times=1)
    async with world.fleet():
        assert (await world.verdict(await world.add_effect()))["verdict"] == "unknown"
        assert (await world.verdict(await world.add_verification()))["verdict"] == "retry"
        assert (await world.verdict(await world.add_effect()))["verdict"] == "confirmed"
    assert await world.effects() == [("CONFIRMED", 2)]
    assert len({line["effectId"] for line in world.book("CALLED")}) == 1
    assert len(world.book("DONE")) == 1


async def test_a_refusal_becomes_a_case_for_people(world: FlowWorld) -> None:
    await world.script(fault="refuse", times=1)
    async with world.fleet():
        told = await world.verdict(await world.add_effect())
    assert told["verdict"] == "case"
    assert told["case_id"] == str(await world.owner.fetchval("select case_id from fallout_case"))
    assert told["wait_key"].startswith(told["case_id"])
    assert told["sla"].startswith("P")
    assert "(business failure)" in told["exhibit"].splitlines()[0]
    assert "- retry: Calls " in told["exhibit"]


async def test_a_promise_is_waited_for_under_a_key_that_names_the_wait(world: FlowWorld) -> None:
    await world.script(fault="accept-silent", times=1)
    async with world.fleet():
        told = await world.verdict(await world.add_effect())
        assert told["verdict"] == "accepted"
        assert told["wait_key"].endswith(":1")
        again = await world.verdict(await world.add_verification())
        assert again["verdict"] == "accepted"


async def test_a_system_that_never_knows_is_exhausted_into_an_incident(world: FlowWorld) -> None:
    await world.script(fault="error-before")
    async with world.fleet():
        asked = await world.add_effect()
        await world.verdict(asked)
        while asked.is_open or asked.done:
            if (asked.done or {}).get("verdict") == "retry":
                asked = await world.add_effect()
            else:
                # Two answers "unknown there" count, and none before the call's own time is over.
                await world.owner.execute("update effect set called_at = called_at - interval '1 minute'")
                asked = await world.add_verification()
            await world.engine.until(lambda asked=asked: asked.done is not None or not asked.is_open)  # type: ignore[misc]
    (retries, text, _), *_ = asked.errors
    case_id = await world.owner.fetchval("select case_id from fallout_case where closed_at is null")
    assert (retries, text) == (0, f"EFFECT_EXHAUSTED {case_id}")
    assert world.book("DONE") == []
    assert await world.owner.fetchval("select category from fallout_case") == "TECHNICAL"


async def test_an_outcome_outlives_an_outage_of_the_database(world: FlowWorld) -> None:
    """The call has been made; what it brought is written as soon as the database is back, within the lease."""
    await world.script(fault="delay", delayMs=400)
    async with world.fleet():
        given = await world.add_effect()
        await world.engine.until(lambda: given.deliveries == 1)
        async with asyncio.timeout(10):
            while not world.book_path.exists() or not world.book("CALLED"):
                await asyncio.sleep(0.01)
        name = await world.owner.fetchval("select current_database()")
        await world.owner.execute(f"alter role recourse_app in database {name} set default_transaction_read_only = on")
        await world.owner.execute(_END_SESSIONS)
        await asyncio.sleep(1)
        assert given.done is None
        await world.owner.execute(f"alter role recourse_app in database {name} reset default_transaction_read_only")
        await world.owner.execute(_END_SESSIONS)
        assert await world.verdict(given) == {"verdict": "confirmed"}
    assert (len(world.book("CALLED")), given.errors) == (1, [])


CRASHES = [
    ("before-claim:effect-inventory", 1),
    ("after-claim:reserve-inventory", 1),
    ("after-call:reserve-inventory", 2),
    ("before-outcome:reserve-inventory", 2),
    ("after-outcome:reserve-inventory", 1),
    ("before-complete:effect-inventory", 1),
    ("after-complete:effect-inventory", 1),
]


@pytest.mark.parametrize(("point", "calls"), CRASHES)
async def test_a_worker_killed_anywhere_leaves_one_effect(world: FlowWorld, point: str, calls: int) -> None:
    given = await world.add_effect()
    worker = await world.start_worker(crash_at=point)
    async with asyncio.timeout(60):
        assert await worker.wait() == -signal.SIGKILL
    await world.engine.until(lambda: world.engine.open_polls == 0)  # the dead one's polls would take the job along
    given.free_at = 0.0  # the engine's lease runs out, and the ledger's
    await world.let_leases_end()
    async with world.fleet():
        assert await world.verdict(given) == {"verdict": "confirmed"}
    assert len(world.book("DONE")) == 1
    assert len(world.book("CALLED")) == calls
    assert [state for state, _ in await world.effects()] == ["CONFIRMED"]


async def test_sigterm_finishes_what_runs(world: FlowWorld) -> None:
    await world.script(fault="delay", delayMs=1500)
    given = await world.add_effect()
    worker = await world.start_worker()
    await world.engine.until(lambda: given.deliveries == 1, 60)
    worker.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        assert await worker.wait() == 0
    assert given.done == {"verdict": "confirmed"}
    assert (given.deliveries, given.errors, world.engine.open_polls) == (1, [], 0)


async def test_the_systems_of_a_new_policy_are_served_within_five_seconds(world: FlowWorld) -> None:
    worker = await world.start_worker()
    try:
        await world.engine.until(lambda: "effect-inventory" in world.engine.polls, 60)
        await load_policy_with_system(world, "solar")
        await world.engine.until(lambda: "effect-solar" in world.engine.polls, 5)
    finally:
        worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await worker.wait() == 0


async def load_policy_with_system(world: FlowWorld, system: str) -> None:
    text = (ROOT / "domain/telecom.policy.yaml").read_text()
    document = policy_to_json(read_policy_text(text))
    document["systems"].append(system)
    document["task_types"]["tilt-panel"] = {"system": system, "operation": "tilt", "reversibility": "NONE"}
    policy = parse_policy(document)
    async with tenant_transaction(world.pool, world.tenant_id) as connection:
        await add_policy(connection, world.tenant_id, document, effective_from=policy.effective_from, loaded_by="admin")
