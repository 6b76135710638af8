"""One command for many orders or cases: totals beforehand, a job to watch, pause and resume, a result for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar
from uuid import UUID

from starlette.responses import Response

from domain.errors import JobNotFound, Unprocessable
from domain.store import bulk
from domain.store.bulk import Chosen, JobId, Kind
from workers.api.calls import Call, answer_command, answer_json, answer_page, ask
from workers.api.routing import Parameter, Routes
from workers.api.schemas import (
    Body,
    BulkCancellationBody,
    BulkRepairBody,
    EmptyBody,
    read_time,
)

routes = Routes()

B = TypeVar("B", bound=Body)

_DRY: Final = (Parameter("dryRun", {"type": "boolean"}, "Only count; nothing is done."),)
_CHOICES: Final = frozenset({"true", "false"})
_RATE: Final = 600


def _job_of(call: Call) -> JobId:
    return call.id("jobId", JobId, JobNotFound)  # type: ignore[no-any-return]


async def _open(
    call: Call, kind: Kind, model: type[B], choose: Callable[[B], Chosen], rate: Callable[[B], int | None]
) -> Response:
    dry = call.choice("dryRun", _CHOICES) == "true"
    key = (call.request.headers.get("idempotency-key") or "dry-run") if dry else None
    asked = await ask(call, model, key=key)
    if asked.body is None:
        raise Unprocessable(errors=asked.invalid)
    chosen = choose(asked.body)
    if dry:
        return answer_json(await bulk.count_subjects(call.pool, call.tenant, kind, chosen))
    body = asked.body.model_dump(by_alias=True, exclude_none=True, exclude={"filter", "order_ids", "case_ids"})
    return answer_command(
        await bulk.add_job(
            call.pool, call.service.policies, asked.envelope, kind, chosen, body, rate(asked.body) or _RATE
        )
    )


def _choose_orders(body: BulkCancellationBody) -> Chosen:
    if body.order_ids is not None:
        return Chosen(ids=tuple(UUID(given) for given in body.order_ids))
    wanted = body.filter
    assert wanted is not None
    return Chosen(
        states=_several(wanted.state),
        customer_id=wanted.customer_id,
        external_id=wanted.external_id,
        order_type=wanted.order_type,
        offering=wanted.product_offering_id,
        updated_since=read_time(wanted.updated_since) if wanted.updated_since else None,
    )


def _choose_cases(body: BulkRepairBody) -> Chosen:
    if body.case_ids is not None:
        return Chosen(ids=tuple(UUID(given) for given in body.case_ids))
    wanted = body.filter
    assert wanted is not None
    return Chosen(
        states=_several(wanted.status),
        category=wanted.category,
        context=wanted.context,
        order_id=UUID(wanted.order_id) if wanted.order_id else None,
        system=wanted.system,
        task_type=wanted.task_type,
    )


def _several(value: str | list[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


# -- cancellations ------------------------------------------------------------------------------------------

_CANCELLATIONS: Final = "/bulk-cancellations"
_CANCELLATION: Final = f"{_CANCELLATIONS}/{{jobId}}"


@routes.post(_CANCELLATIONS, "BulkJob", body=BulkCancellationBody, query=_DRY)
async def cancel_many(call: Call) -> Response:
    """Ask for the cancellation of every order that a filter means, or that is named; `dryRun` only counts them."""
    return await _open(call, "CANCELLATION", BulkCancellationBody, _choose_orders, lambda body: body.rate_per_minute)


@routes.get(_CANCELLATION, "BulkJob")
async def show_cancellations(call: Call) -> Response:
    """How far the job is."""
    return await _show(call, "CANCELLATION")


@routes.get(f"{_CANCELLATION}/results", "BulkResultPage")
async def list_cancellations(call: Call) -> Response:
    """What became of each order, in the order of the job."""
    return await _list(call, "CANCELLATION")


@routes.post(f"{_CANCELLATION}/pause", "BulkJob", body=EmptyBody)
async def pause_cancellations(call: Call) -> Response:
    """Stop before the next order; what has been asked for goes on."""
    return await _set(call, "CANCELLATION", "PAUSED")


@routes.post(f"{_CANCELLATION}/resume", "BulkJob", body=EmptyBody)
async def resume_cancellations(call: Call) -> Response:
    """Go on where the job was paused."""
    return await _set(call, "CANCELLATION", "RUNNING")


# -- repairs ------------------------------------------------------------------------------------------------

_REPAIRS: Final = "/bulk-repairs"
_REPAIR: Final = f"{_REPAIRS}/{{jobId}}"


@routes.post(_REPAIRS, "BulkJob", body=BulkRepairBody, query=_DRY)
async def repair_many(call: Call) -> Response:
    """Ask for the same repair of every open case that a filter means, or that is named; `dryRun` only counts them."""
    return await _open(call, "REPAIR", BulkRepairBody, _choose_cases, lambda body: body.rate_per_minute)


@routes.get(_REPAIR, "BulkJob")
async def show_repairs(call: Call) -> Response:
    """How far the job is."""
    return await _show(call, "REPAIR")


@routes.get(f"{_REPAIR}/results", "BulkResultPage")
async def list_repairs(call: Call) -> Response:
    """What became of each case, in the order of the job."""
    return await _list(call, "REPAIR")


@routes.post(f"{_REPAIR}/pause", "BulkJob", body=EmptyBody)
async def pause_repairs(call: Call) -> Response:
    """Stop before the next case; what has been repaired stays so."""
    return await _set(call, "REPAIR", "PAUSED")


@routes.post(f"{_REPAIR}/resume", "BulkJob", body=EmptyBody)
async def resume_repairs(call: Call) -> Response:
    """Go on where the job was paused."""
    return await _set(call, "REPAIR", "RUNNING")


async def _show(call: Call, kind: Kind) -> Response:
    return answer_json(await bulk.read_job(call.pool, call.tenant, kind, _job_of(call)))


async def _list(call: Call, kind: Kind) -> Response:
    page = await bulk.list_results(
        call.pool, call.tenant, kind, _job_of(call), limit=call.limit(), after=call.number() or 0
    )
    return answer_page(page)


async def _set(call: Call, kind: Kind, status: str) -> Response:
    job_id = _job_of(call)
    asked = await ask(call, EmptyBody)
    if asked.invalid:
        raise Unprocessable(errors=asked.invalid)
    return answer_command(await bulk.set_status(call.pool, asked.envelope, kind, job_id, status))
