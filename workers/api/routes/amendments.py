"""Amendment requests: asked for, shown, decided by people. What a change means is never judged here."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from starlette.responses import Response

from domain.commands import (
    AnswerAmendmentCharge,
    ApplyAmendment,
    ApproveAmendment,
    AskedChange,
    RejectAmendment,
    RequestAmendment,
    WithdrawAmendment,
)
from domain.errors import RequestNotFound, RoleRequired
from domain.store import views
from domain.values import CaseId, OrderId, RequestId, derive_id
from workers.api.calls import Asked, Call, answer_page, answer_seen, ask, carry_out
from workers.api.routes.orders import order_of
from workers.api.routing import Routes
from workers.api.schemas import (
    AmendmentBody,
    B,
    ChangeBody,
    CommentBody,
    EmptyBody,
    ReasonBody,
    parse_uuid,
    read_part,
    read_time,
)

routes = Routes()

_REQUESTS = "/orders/{orderId}/amendment-requests"
_REQUEST = f"{_REQUESTS}/{{requestId}}"


def request_of(call: Call) -> RequestId:
    return call.id("requestId", RequestId, RequestNotFound)  # type: ignore[no-any-return]


@routes.post(_REQUESTS, "AmendmentAnswer", body=AmendmentBody, if_match="order")
async def request_amendment(call: Call) -> Response:
    """Ask for a change of the order's terms; whether it is possible, the assessment finds."""
    order_id = order_of(call)
    asked = await ask(call, AmendmentBody, partial(views.check_order, call.pool, call.tenant, order_id))
    return await carry_out(asked, call, amendment_command(asked, order_id))


def amendment_command(asked: Asked[Any], order_id: OrderId) -> RequestAmendment:
    body = asked.body
    # Of a faulty body the changes may still be readable: what they are about may stand in another change's way.
    parts = asked.document.part("changes")
    found = parts if isinstance(parts, list) else []
    readable = body.changes if body else [read_part(ChangeBody, part) for part in found[:100]]
    return RequestAmendment(
        order_id=order_id,
        request_id=RequestId(derive_id(asked.envelope.command_id, "request")),
        reason_code=body.reason_code if body else "",
        changes=tuple(_read_change(change) for change in readable if change is not None),
        claimed_at=read_time(body.requested_at) if body and body.requested_at else None,
        allow_partial=body.allow_partial if body else False,
        auto_apply=body.auto_apply if body else True,
        repairs_case=CaseId(UUID(body.repairs_case_id)) if body and body.repairs_case_id else None,
        preview_id=parse_uuid(body.preview_id) if body and body.preview_id else None,
        invalid=asked.invalid,
    )


def _read_change(change: ChangeBody) -> AskedChange:
    return AskedChange(change.path, change.operation, change.old_value, change.new_value)


@routes.get(_REQUESTS, "AmendmentPage")
async def list_amendments(call: Call) -> Response:
    """The amendments asked for on this order, oldest first."""
    page = await views.list_amendments(call.pool, call.tenant, order_of(call), limit=call.limit(), after=call.place())
    return answer_page(page)


@routes.get(_REQUEST, "Amendment")
async def show_amendment(call: Call) -> Response:
    """One amendment with its changes, assessment, decisions and outcome."""
    return answer_seen(await views.read_amendment(call.pool, call.tenant, order_of(call), request_of(call)))


async def _ask_about(call: Call, model: type[B]) -> Asked[B]:
    find = partial(views.find_amender, call.pool, call.tenant, order_of(call), request_of(call))
    return await ask(call, model, find)


@routes.post(f"{_REQUEST}/approve", "AmendmentAnswer", body=CommentBody, if_match="request")
async def approve(call: Call) -> Response:
    """Agree to what the assessment says."""
    asked = await _ask_about(call, CommentBody)
    comment = asked.body.comment if asked.body else None
    return await carry_out(asked, call, ApproveAmendment(order_of(call), request_of(call), comment, asked.invalid))


@routes.post(f"{_REQUEST}/reject", "AmendmentAnswer", body=ReasonBody, if_match="request")
async def reject(call: Call) -> Response:
    """Refuse the amendment; the order goes on as it is."""
    asked = await _ask_about(call, ReasonBody)
    reason = asked.body.reason if asked.body else None
    return await carry_out(asked, call, RejectAmendment(order_of(call), request_of(call), reason, asked.invalid))


@routes.post(f"{_REQUEST}/apply", "AmendmentAnswer", body=EmptyBody, if_match="request")
async def apply(call: Call) -> Response:
    """Put an agreed amendment that waits for this into the order."""
    asked = await _ask_about(call, EmptyBody)
    return await carry_out(asked, call, ApplyAmendment(order_of(call), request_of(call), asked.invalid))


@routes.post(f"{_REQUEST}/withdraw", "AmendmentAnswer", body=ReasonBody, if_match="request")
async def withdraw(call: Call) -> Response:
    """Take the request back, until the change is in the order."""
    order_id, request_id = order_of(call), request_of(call)
    if call.caller.roles.isdisjoint({"operator", "admin"}):
        requester = await views.find_amender(call.pool, call.tenant, order_id, request_id)
        if requester != call.caller.subject:
            raise RoleRequired("An agent withdraws only their own requests; an operator or admin may withdraw any.")
    asked = await _ask_about(call, ReasonBody)
    reason = asked.body.reason if asked.body else None
    return await carry_out(asked, call, WithdrawAmendment(order_id, request_id, reason, asked.invalid))


@routes.post(f"{_REQUEST}/accept-charge", "AmendmentAnswer", body=EmptyBody, if_match="request")
async def accept_charge(call: Call) -> Response:
    """Agree to the charge that was offered."""
    asked = await _ask_about(call, EmptyBody)
    command = AnswerAmendmentCharge(order_of(call), request_of(call), accepted=True, invalid=asked.invalid)
    return await carry_out(asked, call, command)


@routes.post(f"{_REQUEST}/decline-charge", "AmendmentAnswer", body=EmptyBody, if_match="request")
async def decline_charge(call: Call) -> Response:
    """Refuse the charge; the order goes on as it is."""
    asked = await _ask_about(call, EmptyBody)
    command = AnswerAmendmentCharge(order_of(call), request_of(call), accepted=False, invalid=asked.invalid)
    return await carry_out(asked, call, command)
