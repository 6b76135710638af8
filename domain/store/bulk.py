"""Jobs over many orders or cases, in and out of PostgreSQL; one row per subject. It must never carry one out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NewType
from uuid import UUID

import orjson

from domain.commands import Envelope
from domain.errors import FieldError, JobNotFound, ReasonUnknown, RequestClosed
from domain.store.policies import PolicyBook
from domain.store.pool import Connection, Pool, fetch_all, fetch_row, run, tenant_transaction
from domain.store.queries import load_queries
from domain.store.registry import Filed, find_answer, read_policy_in_force, store_answer
from domain.store.views import Page
from domain.values import Actor, Json, OrderId, TenantId, derive_id, format_time, parse_time

_SQL = load_queries("bulk")

Kind = Literal["CANCELLATION", "REPAIR"]
JobId = NewType("JobId", UUID)
PATHS: Final[Mapping[Kind, str]] = {"CANCELLATION": "bulk-cancellations", "REPAIR": "bulk-repairs"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Whom a job is about. ids: those that were named; without them whatever the filter means."""

    ids: tuple[UUID, ...] | None = None
    states: tuple[str, ...] | None = None
    customer_id: str | None = None
    external_id: str | None = None
    order_type: str | None = None
    offering: str | None = None
    updated_since: datetime | None = None
    category: str | None = None
    context: str | None = None
    order_id: UUID | None = None
    system: str | None = None
    task_type: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """One row that is this process's to carry out. order_id None: the tenant has no such order."""

    position: int
    subject_id: UUID
    order_id: OrderId | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a job asks of each of its subjects, and in whose name."""

    kind: Kind
    body: Mapping[str, Json]
    actor: Actor
    on_behalf_of: str | None
    rate_per_minute: int


async def _find(connection: Connection, tenant_id: TenantId, kind: Kind, chosen: Chosen) -> list[Any]:
    if kind == "REPAIR":
        return await fetch_all(
            connection,
            _SQL["find_cases"],
            tenant_id=tenant_id,
            ids=_listed(chosen.ids),
            statuses=_listed(chosen.states),
            category=chosen.category,
            context=chosen.context,
            order_id=chosen.order_id,
            system=chosen.system,
            task_type=chosen.task_type,
        )
    if chosen.ids is not None:
        ids = list(dict.fromkeys(chosen.ids))
        return await fetch_all(connection, _SQL["find_named_orders"], tenant_id=tenant_id, ids=ids)
    return await fetch_all(
        connection,
        _SQL["find_orders"],
        tenant_id=tenant_id,
        states=_listed(chosen.states),
        customer_id=chosen.customer_id,
        external_id=chosen.external_id,
        order_type=chosen.order_type,
        updated_since=chosen.updated_since,
        offering=chosen.offering,
    )


def _listed(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


async def count_subjects(pool: Pool, tenant_id: TenantId, kind: Kind, chosen: Chosen) -> dict[str, Json]:
    """The totals beforehand: how many there are, and how many of each state (of cases: category)."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        found = await _find(connection, tenant_id, kind, chosen)
    counts = Counter(str(row["word"]) for row in found)
    by = "byCategory" if kind == "REPAIR" else "byState"
    return {"dryRun": True, "total": len(found), by: dict(sorted(counts.items()))}


async def add_job(
    pool: Pool,
    book: PolicyBook,
    envelope: Envelope,
    kind: Kind,
    chosen: Chosen,
    body: Mapping[str, Json],
    rate: int,
) -> Filed:
    """Store a job with all its subjects, once per command. Raises ReasonUnknown."""
    async with tenant_transaction(pool, envelope.tenant_id) as connection:
        before = await find_answer(connection, envelope)
        if before is not None:
            return before
        policy = await read_policy_in_force(connection, book, envelope.tenant_id)
        if body["reasonCode"] not in policy.reason_codes[kind.lower()]:
            raise ReasonUnknown(errors=(FieldError("/reasonCode", f"the policy has no such {kind.lower()} reason"),))
        found = await _find(connection, envelope.tenant_id, kind, chosen)
        job_id = derive_id(envelope.command_id, "bulk")
        await run(
            connection,
            _SQL["add_job"],
            tenant_id=envelope.tenant_id,
            job_id=job_id,
            kind=kind,
            body=orjson.dumps(body).decode(),
            rate=rate,
            total=len(found),
            created_by=envelope.actor.subject,
            created_roles=sorted(envelope.actor.roles),
            on_behalf_of=envelope.on_behalf_of,
        )
        await run(
            connection,
            _SQL["add_rows"],
            tenant_id=envelope.tenant_id,
            job_id=job_id,
            subjects=[row["subject_id"] for row in found],
            orders=[row["order_id"] for row in found],
        )
        shown = await _read(connection, envelope.tenant_id, kind, job_id)
        filed = Filed(202, shown, location=str(shown["links"]["self"]))
        return await store_answer(connection, envelope, filed)


async def set_status(pool: Pool, envelope: Envelope, kind: Kind, job_id: UUID, status: str) -> Filed:
    """Pause a job or let it go on; saying the same again changes nothing. Raises JobNotFound, RequestClosed."""
    async with tenant_transaction(pool, envelope.tenant_id) as connection:
        before = await find_answer(connection, envelope)
        if before is not None:
            return before
        row = await fetch_row(connection, _SQL["lock_job"], tenant_id=envelope.tenant_id, job_id=job_id, kind=kind)
        if row is None:
            raise JobNotFound
        if row["status"] == "DONE":
            raise RequestClosed("The job is done.")
        await run(connection, _SQL["set_status"], tenant_id=envelope.tenant_id, job_id=job_id, status=status)
        shown = await _read(connection, envelope.tenant_id, kind, job_id)
        return await store_answer(connection, envelope, Filed(202, shown))


async def read_job(pool: Pool, tenant_id: TenantId, kind: Kind, job_id: UUID) -> dict[str, Json]:
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        return await _read(connection, tenant_id, kind, job_id)


async def _read(connection: Connection, tenant_id: TenantId, kind: Kind, job_id: UUID) -> dict[str, Json]:
    row = await fetch_row(connection, _SQL["read_job"], tenant_id=tenant_id, job_id=job_id, kind=kind)
    if row is None:
        raise JobNotFound
    document = orjson.loads(row["document"])
    job, counts = document["job"], document["counts"] or {}
    link = f"/api/v1/{PATHS[kind]}/{job_id}"
    return {
        "jobId": str(job_id),
        "kind": kind,
        "status": job["status"],
        "total": sum(counts.values()),
        "pending": counts.get("PENDING", 0) + counts.get("CLAIMED", 0),
        "done": counts.get("DONE", 0),
        "refused": counts.get("REFUSED", 0),
        "failed": counts.get("FAILED", 0),
        "ratePerMinute": job["rate_per_minute"],
        "createdAt": format_time(parse_time(job["created_at"])),
        "createdBy": job["created_by"],
        "finishedAt": format_time(parse_time(job["finished_at"])) if job["finished_at"] else None,
        "links": {"self": link, "results": f"{link}/results", "pause": f"{link}/pause", "resume": f"{link}/resume"},
    }


async def list_results(pool: Pool, tenant_id: TenantId, kind: Kind, job_id: UUID, *, limit: int, after: int) -> Page:
    """What became of each subject, in the order of the job."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        await _read(connection, tenant_id, kind, job_id)
        found = await fetch_all(
            connection, _SQL["list_results"], tenant_id=tenant_id, job_id=job_id, after=after, limit=limit + 1
        )
    rows = [orjson.loads(row["document"]) for row in found]
    last = (str(rows[limit - 1]["position"]),) if len(rows) > limit else None
    return Page([_show_row(row, kind) for row in rows[:limit]], last)


def _show_row(row: Mapping[str, Any], kind: Kind) -> dict[str, Json]:
    status = "PENDING" if row["status"] == "CLAIMED" else row["status"]
    shown: dict[str, Json] = {"orderId": row["order_id"] or row["subject_id"], "status": status}
    if kind == "REPAIR":
        shown["caseId"] = row["subject_id"]
    elif row["result_id"]:
        shown["cancellationRequestId"] = row["result_id"]
    told = {
        "code": row["code"],
        "detail": row["detail"],
        "at": format_time(parse_time(row["at"])) if row["at"] else None,
    }
    return shown | {name: value for name, value in told.items() if value is not None}


# -- carrying out -------------------------------------------------------------------------------------------------


async def find_due_jobs(connection: Connection) -> list[tuple[TenantId, UUID]]:
    """Jobs that may go on now, over all tenants; `connection` is the auditor's."""
    return [(row["tenant_id"], row["job_id"]) for row in await fetch_all(connection, _SQL["find_due_jobs"])]


async def read_assignment(pool: Pool, tenant_id: TenantId, job_id: UUID) -> Assignment:
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL["read_orders_of_job"], tenant_id=tenant_id, job_id=job_id)
    assert row is not None
    return Assignment(
        row["kind"],
        orjson.loads(row["body"]),
        Actor(row["created_by"], frozenset(row["created_roles"])),
        row["on_behalf_of"],
        row["rate_per_minute"],
    )


async def claim_rows(pool: Pool, tenant_id: TenantId, job_id: UUID, size: int) -> list[Claimed]:
    """The next rows of a job, for this process alone and for half a minute; none while somebody else is at the job."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await fetch_all(connection, _SQL["claim_rows"], tenant_id=tenant_id, job_id=job_id, size=size)
        if not rows:
            await run(connection, _SQL["finish_job"], tenant_id=tenant_id, job_id=job_id)
    claimed = [Claimed(row["position"], row["subject_id"], row["order_id"], row["attempts"]) for row in rows]
    return sorted(claimed, key=lambda row: row.position)


async def finish_row(
    pool: Pool,
    tenant_id: TenantId,
    job_id: UUID,
    position: int,
    status: Literal["DONE", "REFUSED", "FAILED"],
    *,
    code: str | None = None,
    detail: str | None = None,
    result_id: UUID | None = None,
) -> None:
    async with tenant_transaction(pool, tenant_id) as connection:
        await run(
            connection,
            _SQL["finish_row"],
            tenant_id=tenant_id,
            job_id=job_id,
            position=position,
            status=status,
            code=code,
            detail=detail,
            result_id=result_id,
        )


async def read_versions(
    pool: Pool, tenant_id: TenantId, order_id: OrderId, case_id: UUID | None
) -> tuple[int, int | None]:
    """(the order's version, the case's): what a command of the job will say that it has seen."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL["read_version"], tenant_id=tenant_id, order_id=order_id, case_id=case_id)
    assert row is not None
    return row["order_version"], row["case_version"]
