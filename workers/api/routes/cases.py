"""Fallout cases: failures that people manage; shown, given to a person, repaired."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from domain import machines
from domain.commands import AssignCase, RepairCase
from domain.errors import CaseNotFound
from domain.store import views
from domain.values import CaseId
from workers.api.calls import Call, answer_page, answer_seen, ask, carry_out
from workers.api.routing import Parameter, Routes
from workers.api.schemas import AssignBody, RepairBody

routes = Routes()

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
    """One case with its repairs."""
    return answer_seen(await views.read_case(call.pool, call.tenant, case_of(call)))


@routes.post("/fallout-cases/{caseId}/assign", "CaseAnswer", body=AssignBody, if_match="case")
async def assign_case(call: Call) -> Response:
    """Give the case to a person."""
    case_id = case_of(call)
    order_id = await views.find_case_order(call.pool, call.tenant, case_id)
    asked = await ask(call, AssignBody)
    assignee = asked.body.assignee if asked.body else ""
    return await carry_out(asked, call, AssignCase(order_id, case_id, assignee, asked.invalid))


@routes.post("/fallout-cases/{caseId}/repairs", "CaseAnswer", body=RepairBody, if_match="case")
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
        evidence=body.evidence.model_dump(by_alias=True) if body and body.evidence else None,
        invalid=asked.invalid,
    )
    return await carry_out(asked, call, command)
