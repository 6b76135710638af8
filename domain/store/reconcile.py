"""What is overdue, read across all tenants by the auditor's role; it must never change a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from domain.store.pool import Connection, fetch_all, fetch_row
from domain.store.queries import load_queries
from domain.values import OrderId, PlanId, TenantId

_SQL = load_queries("reconcile")

# A sweep that finds more than this goes on in the next one.
_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class SilentTask:
    """A task that something should have happened to by now.

    klass: the finding's class · silent_since: last sign of life, or when it was due · restarts, restarted_at: how often
    its plan's flow has been started anew, and when last (None: not known or never)
    """

    klass: str
    tenant_id: TenantId
    order_id: OrderId
    plan_id: PlanId
    task_id: UUID
    silent_since: datetime
    restarts: int
    restarted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StuckOutbox:
    outbox: str
    rows: int
    parked: int
    silent_since: datetime


async def take_watch(connection: Connection) -> bool:
    """Whether this session is the one that reconciles; it holds the watch until it ends."""
    row = await fetch_row(connection, _SQL["take_watch"])
    return bool(row and row["watches"])


async def find_idle_tasks(connection: Connection, settle: timedelta) -> list[SilentTask]:
    """Tasks that may start and that no flow has asked for, or has claimed, since the settle window."""
    rows = await fetch_all(connection, _SQL["find_idle_tasks"], settle=settle, limit=_LIMIT)
    return [
        SilentTask(
            klass="READY_NOT_CLAIMED" if row["handed"] else "READY_NOT_STARTED",
            tenant_id=row["tenant_id"],
            order_id=row["order_id"],
            plan_id=row["plan_id"],
            task_id=row["task_id"],
            silent_since=row["silent_since"],
            restarts=row["restarts"],
        )
        for row in rows
    ]


async def find_overdue_effects(connection: Connection, settle: timedelta) -> list[SilentTask]:
    """Effects that are open past lease, callback or the end of asking, with no case that a person has."""
    rows = await fetch_all(connection, _SQL["find_overdue_effects"], settle=settle, limit=_LIMIT)
    return [
        SilentTask(
            klass=row["class"],
            tenant_id=row["tenant_id"],
            order_id=row["order_id"],
            plan_id=row["plan_id"],
            task_id=row["task_id"],
            silent_since=row["silent_since"],
            restarts=row["restarts"],
            restarted_at=row["restarted_at"],
        )
        for row in rows
    ]


async def find_stuck_outboxes(connection: Connection, settle: timedelta) -> list[StuckOutbox]:
    rows = await fetch_all(connection, _SQL["find_stuck_outboxes"], settle=settle)
    return [StuckOutbox(row["outbox"], row["rows"], row["parked"], row["silent_since"]) for row in rows]
