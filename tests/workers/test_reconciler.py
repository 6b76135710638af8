"""A flow that has fallen silent is started anew, through the door, a few times and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from domain.store.reconcile import SilentTask, StuckOutbox
from domain.values import OrderId, PlanId, TenantId
from tests.postgres import Database
from tests.workers.flow_world import FlowWorld, open_flow_world
from workers import reconciler
from workers.reconciler import RESTARTS, compare, run

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SETTLE = timedelta(minutes=15)
PLAN = PlanId(uuid.uuid4())


def silent(minutes: float, restarts: int = 0, **more: Any) -> SilentTask:
    since = NOW - timedelta(minutes=minutes)
    fields: dict[str, Any] = {
        "klass": "READY_NOT_STARTED",
        "tenant_id": TenantId(uuid.uuid4()),
        "order_id": OrderId(uuid.uuid4()),
        "plan_id": PLAN,
        "task_id": uuid.uuid4(),
        "silent_since": since,
        "restarts": restarts,
    }
    return SilentTask(**(fields | more))


@pytest.mark.parametrize(
    ("minutes", "restarts", "repaired"),
    [(16, 0, True), (16, 1, False), (31, 1, True), (59, 2, False), (61, 2, True), (10_000, RESTARTS, False)],
)
def test_each_restart_waits_twice_as_long_and_the_last_is_a_persons(
    minutes: float, restarts: int, repaired: bool
) -> None:
    (finding,) = compare([silent(minutes, restarts)], [], SETTLE, NOW)
    assert (finding.repair is not None) is repaired


def test_a_plan_is_one_finding_however_many_of_its_tasks_are_silent() -> None:
    other = PlanId(uuid.uuid4())
    findings = compare([silent(20), silent(30), silent(40, plan_id=other)], [], SETTLE, NOW)
    assert {finding.subject for finding in findings} == {str(PLAN), str(other)}
    assert next(f for f in findings if f.subject == str(PLAN)).evidence.startswith("2 tasks")


def test_the_same_finding_is_the_same_command_and_the_next_restart_another() -> None:
    def command_id(restarts: int) -> uuid.UUID:
        (finding,) = compare([silent(10_000, restarts)], [], SETTLE, NOW)
        assert finding.repair is not None
        return finding.repair.command_id

    assert command_id(0) == command_id(0) != command_id(1)


def test_a_stuck_outbox_is_told_and_left_to_people() -> None:
    (finding,) = compare([], [StuckOutbox("outbox", 12, 1, NOW)], SETTLE, NOW)
    assert (finding.klass, finding.subject, finding.repair) == ("OUTBOX_STUCK", "outbox", None)
    assert finding.evidence == "12 rows wait, 1 of them held back"


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[FlowWorld]:
    async with open_flow_world(database, tmp_path) as opened:
        yield opened


async def age(world: FlowWorld, minutes: int) -> None:
    """Let time pass: everything that has been written is older now. The audit is append-only for the product."""
    back = timedelta(minutes=minutes)
    await world.owner.execute("update audit_entry set at = at - $1::interval", back)
    await world.owner.execute(
        "update engine_outbox set published_at = now(), created_at = created_at - $1::interval", back
    )
    await world.owner.execute("update outbox set published_at = now()")
    await world.owner.execute(
        "update effect set intended_at = intended_at - $1::interval, lease_until = lease_until - $1::interval,"
        " called_at = called_at - $1::interval, accepted_at = accepted_at - $1::interval,"
        " unknown_since = unknown_since - $1::interval",
        back,
    )


async def restarts(world: FlowWorld) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await world.owner.fetch(
        "select correlation_key, variables::jsonb ->> 'plan_id' as plan_id from engine_outbox"
        " where name = 'plan-restarted' order by id"
    )
    return rows


async def test_a_plan_that_nobody_asks_for_is_started_anew_once(world: FlowWorld) -> None:
    await run(world.settings, once=True, settle=SETTLE)
    assert await restarts(world) == []
    await age(world, 20)
    await run(world.settings, once=True, settle=SETTLE)
    ((run_key, plan_id),) = await restarts(world)
    assert plan_id == str(world.plan_id)
    assert uuid.UUID(run_key) == await world.owner.fetchval("select run from fulfillment_plan") != world.run
    await run(world.settings, once=True, settle=SETTLE)
    assert len(await restarts(world)) == 1
    # What the old flow still asks for is refused; the new walker gets the task under a new release.
    async with world.fleet():
        old = await world.verdict(await world.add_effect())
        assert old == {"verdict": "stand_down"}


async def test_restarting_ends_after_a_few_times(world: FlowWorld) -> None:
    for _ in range(RESTARTS + 2):
        await age(world, 500)
        await run(world.settings, once=True, settle=SETTLE)
    assert len(await restarts(world)) == RESTARTS


async def test_report_only_changes_nothing(world: FlowWorld) -> None:
    await age(world, 20)
    await run(world.settings, once=True, report_only=True, settle=SETTLE)
    assert await restarts(world) == []


async def test_nothing_is_restarted_while_the_engine_is_away(world: FlowWorld) -> None:
    await age(world, 20)
    away = world.settings.model_copy(update={"engine_grpc": "127.0.0.1:1"})
    await run(away, once=True, settle=SETTLE)
    assert await restarts(world) == []


@pytest.mark.parametrize("fault", ["hang", "accept-silent", "error-before"])
async def test_an_effect_whose_flow_is_gone_is_taken_up_again(world: FlowWorld, fault: str) -> None:
    """The caller died in the call; the promise was never kept; nobody asked what became of the call."""
    await world.script(fault=fault, times=1)
    async with world.fleet():
        given = await world.add_effect()
        await world.engine.until(lambda: given.deliveries == 1)
        async with asyncio.timeout(10):
            while not world.book_path.exists() or not world.book("CALLED"):
                await asyncio.sleep(0.01)
        if fault != "hang":
            await world.verdict(given)
        found = await world.owner.fetchval("select state from effect")
    await world.owner.execute("update fulfillment_task set state = 'PENDING' where state = 'READY'")
    await age(world, 60 + 14)
    await run(world.settings, once=True, settle=SETTLE)
    assert await restarts(world) == [] or fault == "hang"
    await age(world, 60 + 20)
    await run(world.settings, once=True, settle=SETTLE)
    assert len(await restarts(world)) == 1, found


async def test_a_held_task_is_not_silent(world: FlowWorld) -> None:
    await world.owner.execute(
        "insert into task_hold (tenant_id, order_id, task_id, holder)"
        " select tenant_id, order_id, task_id, 'operator' from fulfillment_task"
    )
    await age(world, 20)
    await run(world.settings, once=True, settle=SETTLE)
    assert await restarts(world) == []


async def test_one_of_two_reconcilers_watches(world: FlowWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "_STANDBY_SECONDS", 0.05)
    monkeypatch.setattr(reconciler, "SWEEP_SECONDS", 0.05)
    tasks = [asyncio.create_task(run(world.settings, settle=SETTLE)) for _ in range(2)]
    locks = (
        "select count(*) from pg_locks where locktype = 'advisory' and granted"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    try:
        async with asyncio.timeout(10):
            while await world.owner.fetchval(locks) != 1:
                await asyncio.sleep(0.02)
        await age(world, 20)
        async with asyncio.timeout(10):
            while not await restarts(world):
                await asyncio.sleep(0.02)
        assert await world.owner.fetchval(locks) == 1
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert len(await restarts(world)) == 1
