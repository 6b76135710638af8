"""What is overdue, read across all tenants by the auditor's role or for one by the application's; and findings, kept
beside the orders. It must never change an order's row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from domain.reconciliation import (
    EXPLANATIONS,
    PAGED_CLASSES,
    REMEDIES,
    Canonical,
    CaseInEngine,
    Finding,
    Flow,
    Oddity,
    PersonsWait,
    RunningPlan,
    RunningTask,
    SilentFlow,
    SilentTask,
    StuckOutbox,
    Untold,
)
from domain.store.pool import Connection, Pool, fetch_all, fetch_row, run, tenant_transaction
from domain.store.queries import load_queries
from domain.store.views import Page, Place
from domain.values import CaseId, Json, OrderId, Run, TenantId, format_time, parse_time

_SQL = load_queries("reconcile")

# A sweep that finds more than this goes on in the next one.
_LIMIT: Final = 500
# Open effects that one sweep looks at: with a million orders under way most of them are in time.
_PAGE: Final = 5000
_OUTBOX_SETTLE: Final = timedelta(minutes=1)


async def take_watch(connection: Connection) -> bool:
    """Whether this session is the one that reconciles; it holds the watch until it ends."""
    row = await fetch_row(connection, _SQL["take_watch"])
    return bool(row and row["watches"])


async def find_page_end(connection: Connection, after: datetime | None) -> datetime | None:
    """Where the page of open effects that begins there ends, and the next begins; None: it is the last."""
    row = await fetch_row(connection, _SQL["find_page_of_effects"], after=after, limit=_PAGE)
    assert row is not None
    ends: datetime | None = row["ends"]
    # A page full of one moment would never end.
    return ends + timedelta(microseconds=1) if ends is not None and ends == after else ends


async def read_canonical(
    connection: Connection,
    settle: timedelta,
    case_ids: Iterable[CaseId] = (),
    incident_keys: Iterable[str] = (),
    page: tuple[datetime | None, datetime | None] = (None, None),
) -> tuple[Canonical, datetime]:
    """Everything that is due, and the database's time.

    case_ids, incident_keys: which cases the engine's incidents name, or are named by · page: of open effects, from when
    to when; all of them where it is not said
    """
    row = await fetch_row(connection, _SQL["read_clock"])
    assert row is not None
    canonical = Canonical(
        tasks=[*await _find_idle_tasks(connection, settle), *await _find_overdue_effects(connection, settle, page)],
        flows=await _find_silent_flows(connection, settle),
        untold=await _find_untold(connection, settle),
        outboxes=await _find_stuck_outboxes(connection, _OUTBOX_SETTLE),
        oddities=await _find_oddities(connection),
        cases=await _find_cases(connection, list(case_ids), list(incident_keys)),
        plans=(plans := await _find_running_plans(connection)),
        waits=(waits := await _find_persons_waits(connection)),
        medians=await _find_medians(connection, {task.task_type for plan in plans for task in plan.tasks})
        | (await _find_paces(connection) if waits else {}),
    )
    return canonical, row["now"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits, of one kind: `tasks`, `events`, `messages` (for a process of ours), `cases` (for a person) and so on.

    since: when the oldest began to wait; None where nothing waits, or the kind does not tell
    """

    kind: str
    rows: int
    since: datetime | None


async def measure_waiting(connection: Connection) -> list[Waiting]:
    """One row a kind, over all tenants."""
    rows = await fetch_all(connection, _SQL["measure_waiting"])
    return [Waiting(row["kind"], row["rows"], row["since"]) for row in rows]


async def _find_running_plans(connection: Connection) -> list[RunningPlan]:
    """Plans whose policy gives them a deadline."""
    rows = await fetch_all(connection, _SQL["find_running_plans"], limit=_LIMIT)
    return [
        RunningPlan(
            tenant_id=row["tenant_id"],
            order_id=row["order_id"],
            request_id=row["request_id"],
            started_at=row["started_at"],
            due=row["due"],
            told=row["told"],
            tasks=[
                RunningTask(
                    UUID(task["task_id"]),
                    task["task_type"],
                    parse_time(task["started_at"]) if task["started_at"] else None,
                    timedelta(seconds=float(task["allowance"] or 0)),
                    tuple(UUID(earlier) for earlier in task["after"] or ()),
                )
                for task in orjson.loads(row["tasks"] or "[]")
            ],
        )
        for row in rows
        if row["due"] is not None
    ]


async def _find_medians(connection: Connection, types: set[str]) -> dict[str, timedelta]:
    if not types:
        return {}
    rows = await fetch_all(connection, _SQL["find_medians"], types=sorted(types))
    return {row["task_type"]: timedelta(seconds=float(row["seconds"])) for row in rows}


async def _find_persons_waits(connection: Connection) -> list[PersonsWait]:
    rows = await fetch_all(connection, _SQL["find_persons_waits"], limit=_LIMIT)
    return [PersonsWait(**row) for row in rows]


async def _find_paces(connection: Connection) -> dict[str, timedelta]:
    rows = await fetch_all(connection, _SQL["find_paces"])
    return {row["kind"]: timedelta(seconds=float(row["seconds"])) for row in rows}


async def _find_idle_tasks(connection: Connection, settle: timedelta) -> list[SilentTask]:
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


async def _find_overdue_effects(
    connection: Connection, settle: timedelta, page: tuple[datetime | None, datetime | None]
) -> list[SilentTask]:
    """Effects that are open past lease, callback or the end of asking, with no case that a person has."""
    after, until = page
    rows = await fetch_all(
        connection, _SQL["find_overdue_effects"], settle=settle, after=after, until=until, limit=_LIMIT
    )
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


async def _find_silent_flows(connection: Connection, settle: timedelta) -> list[SilentFlow]:
    """Orders and requests whose flow was started and has not been heard of."""
    rows = await fetch_all(connection, _SQL["find_silent_flows"], settle=settle, limit=_LIMIT)
    return [
        SilentFlow(
            row["tenant_id"], row["order_id"], row["request_id"], row["status"], row["silent_since"], row["restarts"]
        )
        for row in rows
    ]


async def _find_untold(connection: Connection, settle: timedelta) -> list[Untold]:
    rows = await fetch_all(connection, _SQL["find_untold"], settle=settle, limit=_LIMIT)
    return [Untold(**row) for row in rows]


async def _find_stuck_outboxes(connection: Connection, settle: timedelta) -> list[StuckOutbox]:
    rows = await fetch_all(connection, _SQL["find_stuck_outboxes"], settle=settle)
    return [
        StuckOutbox(row["tenant_id"], row["outbox"], row["rows"], row["parked"], row["silent_since"]) for row in rows
    ]


async def _find_oddities(connection: Connection) -> list[Oddity]:
    rows = await fetch_all(connection, _SQL["find_oddities"], limit=_LIMIT)
    return [
        Oddity(row["class"], row["tenant_id"], row["order_id"], row["effect_id"], row["at"], row["evidence"])
        for row in rows
    ]


async def _find_cases(
    connection: Connection, case_ids: Sequence[CaseId], incident_keys: Sequence[str]
) -> list[CaseInEngine]:
    if not (case_ids or incident_keys):
        return []
    rows = await fetch_all(
        connection, _SQL["find_cases_in_engine"], case_ids=list(case_ids), incident_keys=list(incident_keys)
    )
    return [
        CaseInEngine(row["tenant_id"], row["order_id"], row["case_id"], row["is_open"], row["incident_key"])
        for row in rows
    ]


# -- the engine's instances -----------------------------------------------------------------------------------


async def find_newest_flows(
    connection: Connection, limit: int, *, settle: timedelta, before: datetime | None = None
) -> tuple[list[int], datetime | None]:
    """The keys of the flows that were noted last, but for the very youngest, or of those before a time; and when the
    oldest of them was noted."""
    rows = await fetch_all(connection, _SQL["find_newest_flows"], limit=limit, settle=settle, before=before)
    return [row["instance_key"] for row in rows], rows[-1]["noted_at"] if rows else None


async def find_flows_of_orders(connection: Connection, orders: Iterable[tuple[TenantId, OrderId]]) -> list[int]:
    """The keys of all flows that were ever noted for these orders."""
    wanted = sorted(set(orders), key=str)
    rows = await fetch_all(
        connection,
        _SQL["find_flows_of_orders"],
        tenant_ids=[tenant_id for tenant_id, _ in wanted],
        order_ids=[order_id for _, order_id in wanted],
    )
    return [row["instance_key"] for row in rows]


async def find_late_loss(connection: Connection, within: timedelta) -> datetime | None:
    """The database's time, if flows that the engine has lost were found within this time."""
    row = await fetch_row(connection, _SQL["find_late_loss"], within=within)
    return row["now"] if row else None


async def find_live_flows(connection: Connection, orders: int, *, settle: timedelta) -> list[int]:
    """The keys of the flows of so many orders that have not ended, but for the very youngest."""
    return [
        row["instance_key"] for row in await fetch_all(connection, _SQL["find_live_flows"], limit=orders, settle=settle)
    ]


async def find_flows(connection: Connection, keys: Iterable[int]) -> tuple[dict[int, Flow], dict[Run, Flow]]:
    """What our books know of these instances of the engine, by key; and, by run, of older ones with these keys that had
    something to carry: the engine that they were in is no more."""
    rows = await fetch_all(connection, _SQL["find_flows"], keys=sorted(set(keys)))
    found: dict[int, Flow] = {}
    displaced: dict[Run, Flow] = {}
    for row in rows:
        flow = Flow(
            tenant_id=row["tenant_id"],
            order_id=row["order_id"],
            run=row["run"],
            key=row["instance_key"],
            process=row["process"],
            noted_at=row["noted_at"],
            part=row["part"],
            restarts=row["restarts"],
            idle_since=row["idle_since"],
        )
        if not row["displaced"]:
            found[flow.key] = flow
        elif flow.part:
            displaced[flow.run] = flow
    return found, displaced


async def find_orders(
    connection: Connection, orders: Iterable[tuple[TenantId, OrderId]]
) -> set[tuple[TenantId, OrderId]]:
    """Which of these orders there are."""
    wanted = sorted(set(orders), key=str)
    rows = await fetch_all(
        connection,
        _SQL["find_orders"],
        tenant_ids=[tenant_id for tenant_id, _ in wanted],
        order_ids=[order_id for _, order_id in wanted],
    )
    return {(row["tenant_id"], row["order_id"]) for row in rows}


# -- findings -------------------------------------------------------------------------------------------------


async def find_tenants_with_findings(connection: Connection) -> set[TenantId]:
    return {row["tenant_id"] for row in await fetch_all(connection, _SQL["find_tenants_with_findings"])}


async def keep_findings(
    pool: Pool,
    tenant_id: TenantId,
    findings: Sequence[Finding],
    classes: Iterable[str],
    repaired: Mapping[tuple[str, str], datetime],
    round_began: datetime | None = None,
) -> None:
    """Write what stands for one tenant, and end what does not any more of the classes that were looked for.

    repaired: when a finding's repair was carried out, by (class, subject) · round_began: when the first of the pages of
    effects was looked at; what has been seen since stands, though it is not on the last one. None: all were one page
    """
    rows = [
        {
            "class": finding.klass,
            "subject": finding.subject,
            "order_id": str(finding.order_id) if finding.order_id else None,
            "evidence": finding.evidence,
            "repair": finding.repair.kind if finding.repair else None,
            "silent_since": finding.silent_since,
            "repaired_at": repaired.get((finding.klass, finding.subject)),
        }
        for finding in {(finding.klass, finding.subject): finding for finding in findings}.values()
    ]
    document = orjson.dumps(rows).decode()
    async with tenant_transaction(pool, tenant_id) as connection:
        await fetch_row(connection, _SQL["lock_findings"])
        await run(connection, _SQL["keep_findings"], tenant_id=tenant_id, findings=document)
        await run(
            connection,
            _SQL["end_findings"],
            tenant_id=tenant_id,
            findings=document,
            classes=list(classes),
            paged=list(PAGED_CLASSES),
            round_began=round_began,
        )


async def list_findings(
    pool: Pool, tenant_id: TenantId, *, limit: int, after: Place | None, klass: str | None, standing: bool | None
) -> Page:
    """Newest first. standing: only those that stand, or only those that do not any more."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        found = await fetch_all(
            connection,
            _SQL["list_findings"],
            tenant_id=tenant_id,
            limit=limit + 1,
            klass=klass,
            standing=standing,
            after_at=after.at if after else None,
            after_id=after.id if after else None,
        )
    rows = [orjson.loads(row["document"]) for row in found]
    last = (rows[limit - 1]["first_seen_at"], rows[limit - 1]["finding_id"]) if len(rows) > limit else None
    return Page([_show_finding(row) for row in rows[:limit]], last)


def _show_finding(row: Mapping[str, Any]) -> dict[str, Json]:
    def time(name: str) -> str | None:
        return format_time(parse_time(row[name])) if row[name] else None

    return {
        "findingId": row["finding_id"],
        "class": row["class"],
        "subject": row["subject"],
        "orderId": row["order_id"],
        "explanation": EXPLANATIONS[row["class"]],
        "remedy": REMEDIES[row["class"]],
        "evidence": row["evidence"],
        "repair": row["repair"],
        "silentSince": time("silent_since"),
        "firstSeenAt": time("first_seen_at"),
        "lastSeenAt": time("last_seen_at"),
        "repairedAt": time("repaired_at"),
        "resolvedAt": time("resolved_at"),
    }
