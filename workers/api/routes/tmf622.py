"""TM Forum's front door (TMF622, version 4): the same commands through the same door, in their words. It must never
decide, nor do what the other door would refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

from starlette.responses import Response

from domain.commands import RequestCancellation
from domain.errors import (
    Breach,
    FieldError,
    IdempotencyKeyReused,
    ListenerNotFound,
    Malformed,
    OrderNotFound,
    RequestNotFound,
    Unprocessable,
)
from domain.handle import Answer
from domain.store import listeners, product_orders
from domain.store.listeners import ListenerId
from domain.store.product_orders import Numbered, Row, Wanted, WantedTasks
from domain.values import Json, OrderId, RequestId, derive_id
from workers import tmf
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
from workers.api.routes.amendments import amendment_command
from workers.api.routes.orders import make_order
from workers.api.routing import Parameter, Routes
from workers.api.schemas import AmendmentBody, CancelProductOrderBody, HubBody, OrderBody, parse_uuid, read_time
from workers.notifications import is_allowed

routes = Routes(table=TMF_ROLES_OF, prefix=tmf.BASE)

_CHANGE: Final = re.compile(r"/changes/(\d+)\b", re.ASCII)
_OFFSET: Final = re.compile(r"\d{1,6}", re.ASCII)
_TEXT: Final = {"type": "string"}
_TIME: Final = {"type": "string", "format": "date-time"}
_UUID: Final = {"type": "string", "format": "uuid"}
_FIELDS: Final = Parameter("fields", _TEXT, "members to show, with commas between")
_PAGES: Final = (
    Parameter("offset", {"type": "integer", "minimum": 0, "maximum": 999_999, "default": 0}),
    Parameter("limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
    _FIELDS,
)


_DATES: Final = {
    "orderDate": "at that moment",
    "orderDate.gt": "after that moment",
    "orderDate.gte": "from that moment on",
    "orderDate.lt": "before that moment",
    "orderDate.lte": "until that moment",
}
# What an order's filters find among what is only kept of it.
_KEPT_FILTERS: Final = ("category", "priority")
_ORDER_FILTERS: Final = (
    Parameter("id", _UUID),
    Parameter("state", _TEXT, "one or more, with commas between"),
    Parameter("externalId", _TEXT),
    Parameter("relatedParty.id", _TEXT, "the customer"),
    *(Parameter(name, _TEXT) for name in _KEPT_FILTERS),
    *(Parameter(name, _TIME, meaning) for name, meaning in _DATES.items()),
)
_TASK_FILTERS: Final = (
    Parameter("id", _UUID),
    Parameter("productOrder.id", _UUID),
    Parameter("state", _TEXT, "one or more, with commas between"),
)
# Times are shown, and so named, to the millisecond.
_TICK: Final = timedelta(milliseconds=1)
_LAST: Final = datetime.max.replace(tzinfo=UTC) - _TICK


@routes.post("/productOrder", "ProductOrder", status=201, keyless=True, sent="ProductOrderCreate")
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


@routes.get("/productOrder/{id}", "ProductOrderView", query=(_FIELDS,))
async def show_product_order(call: Call) -> Response:
    """One order as it stands."""
    _check_names(call, (_FIELDS,))
    row = await _find_order(call, call.id("id", OrderId, OrderNotFound))
    shown = tmf.show_product_order(row, call.service.base_url)
    return answer_json(tmf.choose_fields(shown, call.text("fields")), headers={"ETag": tmf.etag_of(row)})


@routes.get("/productOrder", "ProductOrders", query=(*_PAGES, *_ORDER_FILTERS))
async def list_product_orders(call: Call) -> Response:
    """Orders, newest first, in numbered pages."""
    _check_names(call, (*_PAGES, *_ORDER_FILTERS))
    since, until = _span(call)
    wanted = Wanted(
        order_id=call.uuid("id"),
        states=_states(call, tmf.ORDER_STATES),
        external_id=call.text("externalId"),
        customer_id=call.text("relatedParty.id"),
        kept={name: told for name in _KEPT_FILTERS if (told := call.text(name)) is not None},
        since=since,
        until=until,
    )
    offset, limit = _offset(call), call.limit()
    page = await product_orders.list_product_orders(call.pool, call.tenant, wanted, limit=limit, offset=offset)
    return _numbered(call, page, tmf.show_product_order)


@routes.patch("/productOrder/{id}", "ProductOrder", keyless=True, sent="ProductOrderPatch", also=("412",))
async def patch_product_order(call: Call) -> Response:
    """Ask for a change of a live order's terms: an amendment, judged and applied like any other."""
    order_id = call.id("id", OrderId, OrderNotFound)
    document = await _read(call)
    row = await _find_order(call, order_id)
    if document.hostile:
        raise Unprocessable(errors=document.hostile)
    wish = tmf.read_patch(document.value, row)
    if not wish["changes"]:
        return _accepted(call, row)
    ours = Document(wish, (), document.fingerprint)
    body, invalid = ours.check(AmendmentBody)
    envelope = make_envelope(call, _key(call), document.fingerprint)
    if envelope.if_match is None:
        envelope = replace(envelope, if_match=tmf.etag_of(row))
    command = amendment_command(Asked(body, _name_faults(invalid, wish), ours, envelope), order_id)
    try:
        answer = await call.service.door.handle(envelope, command)
    except Breach as breach:
        breach.errors = _name_faults(breach.errors, wish)
        raise
    return _accepted(call, await _find_order(call, order_id), answer)


def _name_faults(faults: tuple[FieldError, ...], wish: Mapping[str, Json]) -> tuple[FieldError, ...]:
    """The same faults where they stand in the patch, and not in the amendment that was made of it."""
    told = []
    for fault in faults:
        change = _CHANGE.match(fault.path)
        if fault.path == "/reasonCode":
            told.append(replace(fault, path="/amendmentReason"))
        elif change:
            told.append(replace(fault, path=str(wish["changes"][int(change[1])]["path"])))
        else:
            told.append(fault)
    return tmf.name_faults(tuple(told))


def _accepted(call: Call, row: Row, answer: Answer | None = None) -> Response:
    """The order as it stands: with the change where that was done at once (200), still without it where it is to be
    judged first (202); Location is the amendment."""
    status, headers = 200, {"ETag": tmf.etag_of(row)}
    if answer is not None:
        status = 200 if answer.replayed or answer.body["status"] == "APPLIED" else 202
        headers |= {"Location": str(answer.location)} if answer.location else {}
        headers |= {"Idempotent-Replayed": "true"} if answer.replayed else {}
    return answer_json(tmf.show_product_order(row, call.service.base_url), status, headers)


@routes.post(
    "/cancelProductOrder",
    "CancelProductOrder",
    status=201,
    keyless=True,
    body=CancelProductOrderBody,
    also=("404", "412"),
)
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


@routes.get("/cancelProductOrder/{id}", "CancelProductOrder", query=(_FIELDS,))
async def show_cancel_task(call: Call) -> Response:
    """One task as it stands."""
    _check_names(call, (_FIELDS,))
    row = await _find_task(call, call.id("id", RequestId, RequestNotFound))
    return answer_json(tmf.choose_fields(tmf.show_task(row, call.service.base_url), call.text("fields")))


@routes.get("/cancelProductOrder", "CancelProductOrders", query=(*_PAGES, *_TASK_FILTERS))
async def list_cancel_tasks(call: Call) -> Response:
    """Tasks, newest first, in numbered pages."""
    _check_names(call, (*_PAGES, *_TASK_FILTERS))
    wanted = WantedTasks(call.uuid("id"), call.uuid("productOrder.id"), _states(call, tmf.TASK_STATES))
    offset, limit = _offset(call), call.limit()
    page = await product_orders.list_cancel_tasks(call.pool, call.tenant, wanted, limit=limit, offset=offset)
    return _numbered(call, page, tmf.show_task)


@routes.post("/hub", "Listener", status=201, keyless=True, body=HubBody)
async def add_listener(call: Call) -> Response:
    """Have an address told of what happens to orders, from now on."""
    document = await _read(call)
    body, invalid = document.check(HubBody)
    if body is None:
        raise Unprocessable(errors=invalid)
    if not is_allowed(body.callback, call.service.settings.listeners):
        raise Unprocessable(errors=(FieldError("/callback", "is not an address that this service may call"),))
    try:
        heard = tmf.read_listening(body.query)
    except ValueError as error:
        raise Unprocessable(errors=(FieldError("/query", str(error)),)) from None
    envelope = make_envelope(call, _key(call), document.fingerprint)
    row = await listeners.add_listener(
        call.pool,
        call.tenant,
        ListenerId(derive_id(envelope.command_id, "listener")),
        callback=body.callback,
        query=body.query,
        heard=heard,
        created_by=call.caller.subject,
    )
    if row is None:
        raise Unprocessable(f"A tenant has at most {listeners.MOST} listeners; take one out first.")
    if (row["callback"], row["query"]) != (body.callback, body.query):
        raise IdempotencyKeyReused
    shown = tmf.show_listener(row)
    return answer_json(shown, 201, {"Location": f"{call.service.base_url}{tmf.BASE}/hub/{shown['id']}"})


@routes.get("/hub/{id}", "Listener")
async def show_listener(call: Call) -> Response:
    """One listener: what waits for it, and why it was not told."""
    row = await listeners.read_listener(call.pool, call.tenant, _listener(call))
    if row is None:
        raise ListenerNotFound
    return answer_json(tmf.show_listener(row))


@routes.get("/hub", "Listeners", query=_PAGES)
async def list_listeners(call: Call) -> Response:
    """Who is told, newest first, in numbered pages."""
    _check_names(call, _PAGES)
    page = await listeners.list_listeners(call.pool, call.tenant, limit=call.limit(), offset=_offset(call))
    return _numbered(call, page, lambda row, _: tmf.show_listener(row))


@routes.delete("/hub/{id}")
async def remove_listener(call: Call) -> Response:
    """Tell it nothing any more, what waits included."""
    if not await listeners.remove_listener(call.pool, call.tenant, _listener(call)):
        raise ListenerNotFound
    return Response(status_code=204)


def _listener(call: Call) -> ListenerId:
    return call.id("id", ListenerId, ListenerNotFound)  # type: ignore[no-any-return]


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


def _states(call: Call, table: Mapping[str, str]) -> frozenset[str] | None:
    """Ours of one or more of theirs, with commas between. table: ours → theirs"""
    told = call.text("state")
    if told is None:
        return None
    wanted = {state.strip() for state in told.split(",")}
    if not wanted <= set(table.values()):
        raise Malformed(f"The query parameter state is one or more of {', '.join(sorted(set(table.values())))}.")
    return frozenset(ours for ours, theirs in table.items() if theirs in wanted)


def _span(call: Call) -> tuple[datetime | None, datetime | None]:
    """From one moment on and before the other: what all that was said of the date comes to."""
    at, after, since, before, until = (call.time(name) for name in _DATES)
    starts = [at, since, after and min(after, _LAST) + _TICK]
    ends = [before, *(moment and min(moment, _LAST) + _TICK for moment in (at, until))]
    return max(filter(None, starts), default=None), min(filter(None, ends), default=None)


def _check_names(call: Call, known: Iterable[Parameter]) -> None:
    """A filter that is passed over would answer more than was asked for."""
    names = {parameter.name for parameter in known}
    if unknown := set(call.request.query_params) - names:
        raise Malformed(f"There is no query parameter {min(unknown)}; known are {', '.join(sorted(names))}.")
