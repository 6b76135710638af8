"""TM Forum's front door (TMF622, version 4): the same commands through the same door, in their words. It must never
decide, nor do what the other door would refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from uuid import uuid4

from starlette.responses import Response

from domain.commands import RequestCancellation
from domain.errors import Malformed, OrderNotFound, RequestNotFound, Unprocessable
from domain.store import product_orders
from domain.store.product_orders import Numbered, Row, Wanted
from domain.values import Json, OrderId, RequestId, derive_id
from workers.api import tmf
from workers.api.calls import (
    Asked,
    Call,
    Document,
    answer_json,
    make_envelope,
    read_body,
    read_document,
    read_key,
)
from workers.api.identity import TMF_ROLES_OF
from workers.api.routes.orders import make_order
from workers.api.routing import Routes
from workers.api.schemas import CancelProductOrderBody, OrderBody, parse_uuid, read_time

routes = Routes(table=TMF_ROLES_OF)

_OFFSET: Final = re.compile(r"\d{1,6}", re.ASCII)
_STATES: Final = frozenset(tmf.ORDER_STATES.values())
_PAGING: Final = frozenset({"offset", "limit", "fields"})
_ORDER_FILTERS: Final = frozenset({"state", "externalId", "relatedParty.id", "orderDate.gt", "orderDate.lt"})
_TASK_FILTERS: Final = frozenset({"productOrder.id"})


@routes.post("/productOrder", "ProductOrder")
async def create_product_order(call: Call) -> Response:
    """Take an order in."""
    document = await _read(call)
    ours = Document(tmf.read_product_order(document.value), document.hostile, document.fingerprint)
    body, invalid = ours.check(OrderBody)
    asked = Asked(body, tmf.name_faults(invalid), ours, make_envelope(call, _key(call), document.fingerprint))
    command = make_order(asked)
    if kept := tmf.read_kept(document.value):
        command = replace(command, content={**command.content, "tmf": kept})
    answer = await call.service.door.handle(asked.envelope, command)
    row = await _find_order(call, OrderId(answer.body["orderId"]))
    return _created(tmf.show_product_order(row, call.service.base_url), replayed=answer.replayed)


@routes.get("/productOrder/{id}", "ProductOrder")
async def show_product_order(call: Call) -> Response:
    """One order as it stands."""
    _check_names(call, frozenset({"fields"}))
    row = await _find_order(call, call.id("id", OrderId, OrderNotFound))
    shown = tmf.show_product_order(row, call.service.base_url)
    return answer_json(tmf.choose_fields(shown, call.text("fields")), headers={"ETag": tmf.etag_of(row)})


@routes.get("/productOrder", "ProductOrder")
async def list_product_orders(call: Call) -> Response:
    """Orders, newest first, in numbered pages."""
    _check_names(call, _PAGING | _ORDER_FILTERS)
    wanted = Wanted(
        states=_states(call.text("state")),
        external_id=call.text("externalId"),
        customer_id=call.text("relatedParty.id"),
        since=call.time("orderDate.gt"),
        until=call.time("orderDate.lt"),
    )
    offset, limit = _offset(call), call.limit()
    page = await product_orders.list_product_orders(call.pool, call.tenant, wanted, limit=limit, offset=offset)
    return _numbered(call, page, tmf.show_product_order)


@routes.post("/cancelProductOrder", "CancelProductOrder")
async def cancel_product_order(call: Call) -> Response:
    """Ask for the cancellation of a whole order; the task tells what becomes of it."""
    document = await _read(call)
    body, invalid = document.check(CancelProductOrderBody)
    if body is None:
        raise Unprocessable(errors=invalid)
    order_id = parse_uuid(body.product_order.id)
    assert order_id is not None
    row = await _find_order(call, OrderId(order_id))
    envelope = make_envelope(call, _key(call), document.fingerprint)
    if envelope.if_match is None:
        # Their task names no version: what is asked for is the end of the order, whatever it has become.
        envelope = replace(envelope, if_match=tmf.etag_of(row))
    command = RequestCancellation(
        order_id=OrderId(order_id),
        request_id=RequestId(derive_id(envelope.command_id, "request")),
        scope="ORDER",
        item_ids=(),
        quantities={},
        reason_code=tmf.reason_code(body.cancellation_reason),
        reason_text=body.cancellation_reason,
        claimed_at=read_time(body.requested_cancellation_date) if body.requested_cancellation_date else None,
        force_manual_review=False,
        preview_id=None,
        invalid=(),
    )
    answer = await call.service.door.handle(envelope, command)
    task = await _find_task(call, RequestId(answer.body["cancellationRequestId"]))
    return _created(tmf.show_task(task, call.service.base_url), replayed=answer.replayed)


@routes.get("/cancelProductOrder/{id}", "CancelProductOrder")
async def show_cancel_task(call: Call) -> Response:
    """One task as it stands."""
    _check_names(call, frozenset({"fields"}))
    row = await _find_task(call, call.id("id", RequestId, RequestNotFound))
    return answer_json(tmf.choose_fields(tmf.show_task(row, call.service.base_url), call.text("fields")))


@routes.get("/cancelProductOrder", "CancelProductOrder")
async def list_cancel_tasks(call: Call) -> Response:
    """Tasks, newest first, in numbered pages."""
    _check_names(call, _PAGING | _TASK_FILTERS)
    offset, limit = _offset(call), call.limit()
    page = await product_orders.list_cancel_tasks(
        call.pool, call.tenant, call.uuid("productOrder.id"), limit=limit, offset=offset
    )
    return _numbered(call, page, tmf.show_task)


async def _read(call: Call) -> Document:
    return read_document(await read_body(call.request))


def _key(call: Call) -> str:
    """Their clients know no such header; without it every request is a command of its own."""
    return read_key(call.request) if "idempotency-key" in call.request.headers else uuid4().hex


async def _find_order(call: Call, order_id: OrderId) -> Row:
    row = await product_orders.read_product_order(call.pool, call.tenant, order_id)
    if row is None:
        raise OrderNotFound
    return row


async def _find_task(call: Call, request_id: RequestId) -> Row:
    row = await product_orders.read_cancel_task(call.pool, call.tenant, request_id)
    if row is None:
        raise RequestNotFound
    return row


def _created(shown: dict[str, Json], *, replayed: bool) -> Response:
    headers = {"Location": str(shown["href"]), **({"Idempotent-Replayed": "true"} if replayed else {})}
    return answer_json(shown, 200 if replayed else 201, headers)


def _numbered(call: Call, page: Numbered, show: Callable[[Row, str], dict[str, Json]]) -> Response:
    fields = call.text("fields")
    rows = [tmf.choose_fields(show(row, call.service.base_url), fields) for row in page.rows]
    return answer_json(rows, headers={"X-Total-Count": str(page.total), "X-Result-Count": str(len(rows))})


def _offset(call: Call) -> int:
    found = call.text("offset")
    if found is not None and not _OFFSET.fullmatch(found):
        raise Malformed("The query parameter offset is a whole number below a million.")
    return int(found or 0)


def _states(told: str | None) -> frozenset[str] | None:
    """Ours of one or more of theirs, with commas between."""
    if told is None:
        return None
    wanted = {state.strip() for state in told.split(",")}
    if not wanted <= _STATES:
        raise Malformed(f"The query parameter state is one or more of {', '.join(sorted(_STATES))}.")
    return frozenset(ours for ours, theirs in tmf.ORDER_STATES.items() if theirs in wanted)


def _check_names(call: Call, known: frozenset[str]) -> None:
    """A filter that is passed over would answer more than was asked for."""
    if unknown := set(call.request.query_params) - known:
        raise Malformed(f"There is no query parameter {min(unknown)}; known are {', '.join(sorted(known))}.")
