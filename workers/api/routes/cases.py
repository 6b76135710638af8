"""Fallout cases: failures that people manage; shown, given to a person, repaired."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final
from uuid import UUID

from starlette.responses import Response

from domain import machines, values
from domain.commands import AssignCase, DecideRepair, NoteRefusal, RepairCase
from domain.errors import CaseNotFound, RepairNotFound
from domain.store import views
from domain.values import CaseId, OrderId
from workers.api.calls import Call, answer_page, answer_seen, ask, carry_out, make_envelope
from workers.api.routing import Parameter, Routes
from workers.api.schemas import AssignBody, RepairBody, RepairDecisionBody, parse_uuid

routes = Routes()

_REPAIRS: Final = "/fallout-cases/{caseId}/repairs"
_NUMBER: Final = re.compile(r"[1-9]\d{0,5}", re.ASCII)

STATUSES: Final = frozenset(machines.CASE)
CATEGORIES: Final = frozenset({"TECHNICAL", "BUSINESS", "DATA", "CAPACITY", "UNKNOWN_OUTCOME"})
CONTEXTS: Final = frozenset({"FULFILLMENT", "COMPENSATION", "AMENDMENT", "RECONCILIATION", "LATE_EFFECT"})


def case_of(call: Call) -> CaseId:
    return call.id("caseId", CaseId, CaseNotFound)  # type: ignore[no-any-return]


@routes.get(
    "/fallout-cases",
    "CasePage",
    query=(
        Parameter("status", {"type": "string", "enum": sorted(STATUSES)}),
        Parameter("category", {"type": "string", "enum": sorted(CATEGORIES)}),
        Parameter("context", {"type": "string", "enum": sorted(CONTEXTS)}),
        Parameter("orderId", {"type": "string", "format": "uuid"}),
    ),
)
async def list_cases(call: Call) -> Response:
    """Cases, newest first."""
    return answer_page(
        await views.list_cases(
            call.pool,
            call.tenant,
            limit=call.limit(),
            after=call.place(),
            status=call.choice("status", STATUSES),
            category=call.choice("category", CATEGORIES),
            context=call.choice("context", CONTEXTS),
            order_id=call.uuid("orderId"),
        )
    )


@routes.get("/fallout-cases/{caseId}", "Case")
async def show_case(call: Call) -> Response:
    """One case with its repairs, and those that are possible now, each with what it will do."""
    case_id = case_of(call)
    seen = await views.read_case(call.pool, call.tenant, case_id)
    order_id = OrderId(UUID(seen.body["orderId"]))
    possible = await call.service.door.foresee_repairs(call.tenant, order_id, case_id)
    return answer_seen(replace(seen, body={**seen.body, "possibleRepairs": possible}))


@routes.post("/fallout-cases/{caseId}/assign", "CaseAnswer", body=AssignBody, if_match="case")
async def assign_case(call: Call) -> Response:
    """Give the case to a person."""
    case_id = case_of(call)
    order_id = await views.find_case_order(call.pool, call.tenant, case_id)
    asked = await ask(call, AssignBody)
    assignee = asked.body.assignee if asked.body else ""
    return await carry_out(asked, call, AssignCase(order_id, case_id, assignee, asked.invalid))


async def note_stranger(call: Call) -> None:
    """Somebody without the role tried to repair: that is kept in the audit of the case's order."""
    case_id = parse_uuid(call.request.path_params["caseId"])
    if case_id is None:
        return
    try:
        order_id = await views.find_case_order(call.pool, call.tenant, CaseId(case_id))
    except CaseNotFound:
        return
    envelope = replace(make_envelope(call, "refused", ""), keep=False)
    await call.service.door.handle(envelope, NoteRefusal(order_id, CaseId(case_id), "ROLE_REQUIRED"))


@routes.post(_REPAIRS, "CaseAnswer", body=RepairBody, if_match="case", refused=note_stranger)
async def repair_case(call: Call) -> Response:
    """Mend what failed, with a reason, and with evidence where that is asked for."""
    case_id = case_of(call)
    order_id = await views.find_case_order(call.pool, call.tenant, case_id)
    asked = await ask(call, RepairBody)
    body = asked.body
    command = RepairCase(
        order_id=order_id,
        case_id=case_id,
        action=body.action if body else "",
        reason_code=body.reason_code if body else "",
        reason_text=body.reason_text if body else None,
        evidence=body.evidence.model_dump(by_alias=True, exclude_none=True) if body and body.evidence else None,
        input=body.input if body else None,
        amount=values.Money(body.amount.amount_minor, body.amount.currency) if body and body.amount else None,
        invalid=asked.invalid,
    )
    return await carry_out(asked, call, command)


@routes.post(
    f"{_REPAIRS}/{{number}}/approve", "CaseAnswer", body=RepairDecisionBody, if_match="case", refused=note_stranger
)
async def approve_repair(call: Call) -> Response:
    """Agree to a repair as its second person; it is carried out unless the outcome has come meanwhile."""
    return await _decide(call, approved=True)


@routes.post(
    f"{_REPAIRS}/{{number}}/reject", "CaseAnswer", body=RepairDecisionBody, if_match="case", refused=note_stranger
)
async def reject_repair(call: Call) -> Response:
    """Refuse a repair as its second person; the case is open again."""
    return await _decide(call, approved=False)


async def _decide(call: Call, *, approved: bool) -> Response:
    case_id = case_of(call)
    order_id = await views.find_case_order(call.pool, call.tenant, case_id)
    number = call.request.path_params["number"]
    if not _NUMBER.fullmatch(number):
        raise RepairNotFound
    asked = await ask(call, RepairDecisionBody)
    said = (asked.body.comment or asked.body.reason) if asked.body else None
    command = DecideRepair(order_id, case_id, int(number), approved, said, asked.invalid)
    return await carry_out(asked, call, command)
