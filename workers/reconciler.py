"""Finds what has fallen silent and starts its flow anew, and carries bulk jobs on, through the one door; it must never
change an order's row itself, nor act on what it cannot see."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from domain.commands import Envelope, RestartFlow
from domain.errors import Breach
from domain.handle import Door
from domain.store.outages import OUTAGES
from domain.store.pool import Connection, open_pool
from domain.store.reconcile import (
    SilentTask,
    StuckOutbox,
    find_idle_tasks,
    find_overdue_effects,
    find_stuck_outboxes,
    take_watch,
)
from domain.values import OrderId, PlanId, TenantId, derive_id, system_actor
from workers.bulk import work
from workers.gateways.engine import Engine, open_channel
from workers.settings import Settings
from workers.telemetry import serve_health

log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 5.0
# The flows' own heartbeat comes first; whoever is still silent after one and a half of them has no flow.
SETTLE_HEARTBEATS: Final = 1.5
# Automatic restarts of one plan; then it is only reported, for a person to look at.
RESTARTS: Final = 3
OUTBOX_SETTLE: Final = timedelta(minutes=1)

_STANDBY_SECONDS: Final = 2.0

_FINDINGS = Gauge("recourse_findings", "Differences that the last sweep found", ["klass"])
_REPAIRS = Counter("recourse_restarts", "Flows that were started anew")


@dataclass(frozen=True, slots=True)
class Repair:
    """Start the walker of a plan anew. command_id: the same for whoever finds the same."""

    tenant_id: TenantId
    order_id: OrderId
    plan_id: PlanId
    command_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between what is and what should be. repair: the plan to start anew; None: a person's work.

    subject: the plan or the outbox · evidence: in words, without personal data
    """

    klass: str
    subject: str
    evidence: str
    silent_since: datetime
    repair: Repair | None = None


def compare(
    tasks: Sequence[SilentTask], outboxes: Sequence[StuckOutbox], settle: timedelta, now: datetime
) -> list[Finding]:
    """What is silent, in; findings out, one per plan. A plan that was restarted waits twice as long each time, and
    after RESTARTS times for a person. Pure."""
    by_plan: dict[PlanId, list[SilentTask]] = {}
    for task in tasks:
        by_plan.setdefault(task.plan_id, []).append(task)
    findings = [_judge_plan(found, settle, now) for found in by_plan.values()]
    findings += [
        Finding(
            "OUTBOX_STUCK",
            stuck.outbox,
            f"{stuck.rows} rows wait, {stuck.parked} of them held back",
            stuck.silent_since,
        )
        for stuck in outboxes
    ]
    return findings


def _judge_plan(tasks: Sequence[SilentTask], settle: timedelta, now: datetime) -> Finding:
    first = min(tasks, key=lambda task: task.silent_since)
    evidence = f"{len(tasks)} tasks silent, restarted {first.restarts} times"
    last = max((task.restarted_at for task in tasks if task.restarted_at), default=first.silent_since)
    repair = None
    if first.restarts < RESTARTS and now - last >= settle * 2**first.restarts:
        repair = Repair(
            first.tenant_id,
            first.order_id,
            first.plan_id,
            derive_id(first.plan_id, "restart", first.restarts),
            first.klass,
        )
    return Finding(first.klass, str(first.plan_id), evidence, first.silent_since, repair)


async def sweep(connection: Connection, settle: timedelta) -> list[Finding]:
    """Look once. `connection` is the auditor's."""
    tasks = [*await find_idle_tasks(connection, settle), *await find_overdue_effects(connection, settle)]
    outboxes = await find_stuck_outboxes(connection, OUTBOX_SETTLE)
    findings = compare(tasks, outboxes, settle, datetime.now(UTC))
    _FINDINGS.clear()
    for finding in findings:
        _FINDINGS.labels(finding.klass).inc()
    return findings


async def mend(door: Door, findings: Sequence[Finding]) -> int:
    """Carry out the repairs; how many were. The same finding seen twice is the same command."""
    done = 0
    for finding in findings:
        if finding.repair is None:
            continue
        repair = finding.repair
        envelope = Envelope(repair.tenant_id, repair.command_id, system_actor("reconciler"))
        try:
            answer = await door.handle(envelope, RestartFlow(repair.order_id, repair.plan_id, repair.reason))
        except Breach as breach:
            log.warning("not restarted", plan_id=finding.subject, code=breach.code)
            continue
        if not answer.replayed:
            done += 1
            _REPAIRS.inc()
            log.info("flow restarted", plan_id=finding.subject, reason=repair.reason, order_id=str(repair.order_id))
    return done


async def run(
    settings: Settings, *, report_only: bool = False, once: bool = False, settle: timedelta | None = None
) -> None:
    """`recourse reconcile`: sweep until cancelled, as the one of all replicas that holds the watch."""
    settle = settle or settings.heartbeat * SETTLE_HEARTBEATS
    troubles = {"database": "not reached yet"}
    async with serve_health(settings, lambda: troubles):
        while True:
            try:
                await _watch(settings, troubles, settle, report_only=report_only, once=once)
            except OUTAGES as outage:
                if once:
                    raise
                troubles["database"] = type(outage).__name__
                log.warning("not reconciled", error=type(outage).__name__)
                await asyncio.sleep(_STANDBY_SECONDS * random.uniform(0.5, 1.5))
            else:
                return


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _watch(
    settings: Settings, troubles: dict[str, str], settle: timedelta, *, report_only: bool, once: bool
) -> None:
    async with AsyncExitStack() as stack:
        auditor = await open_pool(settings.auditor_database_url, size=2, name="reconciler")
        stack.callback(auditor.terminate)
        pool = await open_pool(settings.database_url, size=2, name="reconciler")
        stack.callback(pool.terminate)
        channel = open_channel(settings.engine_grpc)
        stack.push_async_callback(channel.close)
        engine, door = Engine(channel, ""), Door(pool)
        connection = await stack.enter_async_context(auditor.acquire())
        troubles.clear()
        while True:
            if await take_watch(connection):
                break
            await asyncio.sleep(_STANDBY_SECONDS)
        if not (once or report_only):
            bulk = asyncio.create_task(work(pool, door, auditor))
            stack.push_async_callback(_stop, bulk)
        while True:
            findings = await sweep(connection, settle)
            if not report_only and any(finding.repair for finding in findings):
                # Without an engine a new flow would only be one more to wait.
                if await engine.is_ready():
                    await mend(door, findings)
                else:
                    log.warning("the engine is not there; nothing is restarted", findings=len(findings))
            if once:
                for finding in findings:
                    log.info("finding", klass=finding.klass, subject=finding.subject, evidence=finding.evidence)
                return
            await asyncio.sleep(SWEEP_SECONDS)
