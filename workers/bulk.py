"""Carries bulk jobs out, row by row, through the one door; it must never let one bad order stop the others."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final

import structlog
from prometheus_client import Counter

from domain.commands import Envelope, RepairCase, RequestCancellation
from domain.decide import case_etag, order_etag
from domain.errors import Breach, IdempotencyInFlight, VersionStale
from domain.handle import Answer, Door
from domain.store.bulk import (
    Assignment,
    Claimed,
    claim_rows,
    find_due_jobs,
    finish_row,
    read_assignment,
    read_versions,
)
from domain.store.outages import OUTAGES
from domain.store.pool import Pool
from domain.values import CaseId, Money, OrderId, RequestId, TenantId, derive_id
from workers.runtime import crash_point
from workers.settings import Settings

log = structlog.get_logger(__name__)

_PAUSE_SECONDS: Final = 0.5
_BATCH: Final = 20
_READS: Final = 5  # of a version that somebody else moves on meanwhile
_ATTEMPTS: Final = 5  # of a row whose outcome never came; then it is given up

_ROWS = Counter("recourse_bulk_rows", "Subjects of bulk jobs that were dealt with", ["status"])


async def work(pool: Pool, door: Door, auditor: Pool, settings: Settings) -> None:
    """Go on with every job that is due, until cancelled; an outage is waited for."""
    while True:
        try:
            dealt = await advance(pool, door, auditor, settings)
        except OUTAGES as outage:
            log.warning("bulk jobs wait", error=type(outage).__name__)
            dealt = 0
        if not dealt:
            await asyncio.sleep(_PAUSE_SECONDS)


async def advance(pool: Pool, door: Door, auditor: Pool, settings: Settings) -> int:
    """One look: the next rows of every job that is due; how many were dealt with. `auditor` sees all tenants."""
    dealt = 0
    async with auditor.acquire() as connection:
        due = await find_due_jobs(connection)
    for tenant_id, job_id in due:
        assignment = await read_assignment(pool, tenant_id, job_id)
        # A second's worth at a time, so that a job that is paused stops within one.
        size = max(1, min(_BATCH, assignment.rate_per_minute // 60))
        rows = await claim_rows(pool, tenant_id, job_id, size)
        for row in rows:
            crash_point(settings, "after-claim:bulk")
            await _deal_with(pool, door, settings, tenant_id, job_id, assignment, row)
            crash_point(settings, "after-mark:bulk")
            dealt += 1
    return dealt


async def _deal_with(
    pool: Pool,
    door: Door,
    settings: Settings,
    tenant_id: TenantId,
    job_id: uuid.UUID,
    assignment: Assignment,
    row: Claimed,
) -> None:
    """One subject. Its command's id is made of job and subject: carried out once, however often it is tried."""
    try:
        if row.order_id is None:
            await _finish(pool, tenant_id, job_id, row, "REFUSED", "ORDER_NOT_FOUND", "There is no such order.")
            return
        answer = await _command(pool, door, tenant_id, job_id, assignment, row, row.order_id)
        crash_point(settings, "before-mark:bulk")
    except Breach as breach:
        await _finish(pool, tenant_id, job_id, row, "REFUSED", breach.code, breach.detail)
    except OUTAGES as outage:
        # The claim ends by itself and the row is tried again, unless that has been so too often.
        log.warning("bulk row not done", job_id=str(job_id), error=type(outage).__name__, attempts=row.attempts)
        if row.attempts >= _ATTEMPTS:
            await _finish(pool, tenant_id, job_id, row, "FAILED", "UNAVAILABLE", type(outage).__name__)
    except Exception as defect:
        log.exception("bulk row failed", job_id=str(job_id), order_id=str(row.order_id))
        await _finish(pool, tenant_id, job_id, row, "FAILED", "INTERNAL", type(defect).__name__)
    else:
        result = answer.body.get("cancellationRequestId")
        await finish_row(
            pool,
            tenant_id,
            job_id,
            row.position,
            "DONE",
            code=str(answer.body["status"]),
            result_id=uuid.UUID(str(result)) if result else None,
        )
        _ROWS.labels("DONE").inc()


async def _finish(
    pool: Pool, tenant_id: TenantId, job_id: uuid.UUID, row: Claimed, status: str, code: str, detail: str
) -> None:
    await finish_row(
        pool, tenant_id, job_id, row.position, "REFUSED" if status == "REFUSED" else "FAILED", code=code, detail=detail
    )
    _ROWS.labels(status).inc()


async def _command(
    pool: Pool,
    door: Door,
    tenant_id: TenantId,
    job_id: uuid.UUID,
    assignment: Assignment,
    row: Claimed,
    order_id: OrderId,
) -> Answer:
    command_id = derive_id(job_id, row.subject_id)
    case_id = CaseId(row.subject_id) if assignment.kind == "REPAIR" else None
    for reading in range(_READS):
        order_version, case_version = await read_versions(pool, tenant_id, order_id, case_id)
        seen = order_etag(order_version) if case_id is None else case_etag(case_version or 0)
        envelope = Envelope(
            tenant_id,
            command_id,
            assignment.actor,
            fingerprint="bulk",
            if_match=seen,
            on_behalf_of=assignment.on_behalf_of,
        )
        try:
            return await door.handle(envelope, _make_command(assignment, row, order_id, command_id))
        except (VersionStale, IdempotencyInFlight):
            if reading == _READS - 1:
                raise
    raise AssertionError("unreachable")


def _make_command(
    assignment: Assignment, row: Claimed, order_id: OrderId, command_id: uuid.UUID
) -> RequestCancellation | RepairCase:
    body = assignment.body
    if assignment.kind == "CANCELLATION":
        return RequestCancellation(
            order_id,
            RequestId(derive_id(command_id, "request")),
            "ORDER",
            (),
            str(body["reasonCode"]),
            body.get("reasonText"),
        )
    return RepairCase(
        order_id,
        CaseId(row.subject_id),
        str(body["action"]),
        str(body["reasonCode"]),
        body.get("reasonText"),
        body.get("evidence"),
        body.get("input"),
        Money.from_json(body["amount"]) if body.get("amount") else None,
    )
