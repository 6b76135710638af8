"""Cancellation requests: asked for, shown, decided by people. Feasibility is never judged here, nor at the door."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from uuid import uuid4

from starlette.responses import Response

from domain.commands import (
    AnswerCharge,
    ApproveCancellation,
    CreateProposal,
    RejectCancellation,
    RequestCancellation,
    WithdrawCancellation,
)
from domain.errors import ProposalNotFound, RequestNotFound, RoleRequired
from domain.store import views
from domain.values import OrderId, RequestId, derive_id
from workers.api.calls import Asked, Call, answer_command, answer_page, answer_seen, ask, carry_out, recheck
from workers.api.routes.amendments import amendment_command
from workers.api.routes.orders import order_of
from workers.api.routing import Routes
from workers.api.schemas import (
    AmendmentPreviewBody,
    ApprovalBody,
    B,
    CancellationBody,
    CancellationPreviewBody,
    EmptyBody,
    PreviewBody,
    ReasonBody,
    Scope,
    parse_uuid,
    read_part,
    read_time,
)

routes = Routes()

_REQUESTS = "/orders/{orderId}/cancellation-requests"
_REQUEST = f"{_REQUESTS}/{{requestId}}"
_PREVIEWS = "/orders/{orderId}/previews"
_NUMBER = re.compile(r"[1-9]\d{0,5}", re.ASCII)


def request_of(call: Call) -> RequestId:
    return call.id("requestId", RequestId, RequestNotFound)  # type: ignore[no-any-return]


@routes.post(_REQUESTS, "RequestAnswer", body=CancellationBody, if_match="order")
async def request_cancellation(call: Call) -> Response:
    """Ask for the cancellation of an order or of items of it; whether it is possible, the assessment finds."""
    order_id = order_of(call)
    asked = await ask(call, CancellationBody, partial(views.check_order, call.pool, call.tenant, order_id))
    return await carry_out(asked, call, _command(asked, order_id))


def _command(asked: Asked[Any], order_id: OrderId) -> RequestCancellation:
    body = asked.body
    # Of a faulty body the scope may still be readable, and stand in the way of another change.
    scope = body.scope if body else read_part(Scope, asked.document.part("scope"))
    parts = list(body.items) if body else []
    named = tuple(scope.order_item_ids) if scope else ()
    counted = [part.item_id for part in parts]
    return RequestCancellation(
        order_id=order_id,
        request_id=RequestId(derive_id(asked.envelope.command_id, "request")),
        scope=scope.type if scope else "ITEMS",
        # An item may be named in either list, or in both; twice in one of them is for the door to refuse.
        item_ids=named + tuple(i for i in counted if i not in named or counted.count(i) > 1),
        quantities={part.item_id: part.quantity for part in parts},
        reason_code=body.reason_code if body else "",
        reason_text=body.reason_text if body else None,
        claimed_at=read_time(body.requested_at) if body and body.requested_at else None,
        force_manual_review=body.force_manual_review if body else False,
        preview_id=parse_uuid(body.preview_id) if body and body.preview_id else None,
        invalid=asked.invalid,
    )


@routes.post(_PREVIEWS, "Preview", body=PreviewBody, status=200, key=False)
async def preview(call: Call) -> Response:
    """What a cancellation or an amendment would find and do as the order stands now; nothing else is written."""
    order_id = order_of(call)
    find = partial(views.check_order, call.pool, call.tenant, order_id)
    key = call.request.headers.get("idempotency-key") or uuid4().hex
    asked = await ask(call, CancellationPreviewBody, find, key=key)
    if asked.document.part("kind") == "AMENDMENT":
        again = recheck(call, asked, AmendmentPreviewBody)
        return answer_command(await call.service.door.preview(again.envelope, amendment_command(again, order_id)))
    return answer_command(await call.service.door.preview(asked.envelope, _command(asked, order_id)))


@routes.get(_REQUESTS, "RequestPage")
async def list_requests(call: Call) -> Response:
    """The cancellations asked for on this order, oldest first."""
    page = await views.list_requests(call.pool, call.tenant, order_of(call), limit=call.limit(), after=call.place())
    return answer_page(page)


@routes.get(_REQUEST, "Request")
async def show_request(call: Call) -> Response:
    """One cancellation with its assessment, charge, decisions and outcome."""
    return answer_seen(await views.read_request(call.pool, call.tenant, order_of(call), request_of(call)))


async def ask_about(call: Call, model: type[B]) -> Asked[B]:
    find = partial(views.find_requester, call.pool, call.tenant, order_of(call), request_of(call))
    return await ask(call, model, find)


@routes.post(f"{_REQUEST}/approve", "RequestAnswer", body=ApprovalBody, if_match="request")
async def approve(call: Call) -> Response:
    """Agree to what the assessment says, with a disposition for every task that a person must judge."""
    asked = await ask_about(call, ApprovalBody)
    body = asked.body
    command = ApproveCancellation(
        order_id=order_of(call),
        request_id=request_of(call),
        comment=body.comment if body else None,
        dispositions={given.task_id.lower(): given.disposition for given in body.dispositions} if body else {},
        invalid=asked.invalid,
    )
    return await carry_out(asked, call, command)


@routes.post(f"{_REQUEST}/reject", "RequestAnswer", body=ReasonBody, if_match="request")
async def reject(call: Call) -> Response:
    """Refuse the cancellation; the order goes on."""
    asked = await ask_about(call, ReasonBody)
    reason = asked.body.reason if asked.body else None
    return await carry_out(asked, call, RejectCancellation(order_of(call), request_of(call), reason, asked.invalid))


@routes.post(f"{_REQUEST}/withdraw", "RequestAnswer", body=ReasonBody, if_match="request")
async def withdraw(call: Call) -> Response:
    """Take the request back, until compensation has begun."""
    order_id, request_id = order_of(call), request_of(call)
    if call.caller.roles.isdisjoint({"operator", "admin"}):
        requester = await views.find_requester(call.pool, call.tenant, order_id, request_id)
        if requester != call.caller.subject:
            raise RoleRequired("An agent withdraws only their own requests; an operator or admin may withdraw any.")
    asked = await ask_about(call, ReasonBody)
    reason = asked.body.reason if asked.body else None
    return await carry_out(asked, call, WithdrawCancellation(order_id, request_id, reason, asked.invalid))


@routes.post(f"{_REQUEST}/accept-charge", "RequestAnswer", body=EmptyBody, if_match="request")
async def accept_charge(call: Call) -> Response:
    """Agree to the charge that was offered."""
    asked = await ask_about(call, EmptyBody)
    command = AnswerCharge(order_of(call), request_of(call), accepted=True, invalid=asked.invalid)
    return await carry_out(asked, call, command)


@routes.post(f"{_REQUEST}/decline-charge", "RequestAnswer", body=EmptyBody, if_match="request")
async def decline_charge(call: Call) -> Response:
    """Refuse the charge; the order goes on."""
    asked = await ask_about(call, EmptyBody)
    command = AnswerCharge(order_of(call), request_of(call), accepted=False, invalid=asked.invalid)
    return await carry_out(asked, call, command)


@routes.post(f"{_REQUEST}/proposals/{{number}}/create", "OrderAnswer", body=EmptyBody)
async def create_proposal(call: Call) -> Response:
    """Make the follow-up order that the request proposes, filled in and linked."""
    number = call.request.path_params["number"]
    if not _NUMBER.fullmatch(number):
        raise ProposalNotFound
    asked = await ask_about(call, EmptyBody)
    command = CreateProposal(
        order_id=order_of(call),
        request_id=request_of(call),
        number=int(number),
        new_order_id=OrderId(derive_id(asked.envelope.command_id, "order")),
        invalid=asked.invalid,
    )
    return await carry_out(asked, call, command)
