"""What operators and auditors look at: the dashboard, and whether the history still holds together."""

from __future__ import annotations

from starlette.responses import Response

from domain.store import views
from domain.values import OrderId
from workers.api.calls import Call, answer_json, encode_cursor
from workers.api.routing import Parameter, Routes

routes = Routes()


@routes.get("/dashboard", "Dashboard")
async def show_dashboard(call: Call) -> Response:
    """Counts of what is live by state and age, cases, jeopardy, unknown outcomes, age of the outboxes."""
    return answer_json(await views.read_dashboard(call.pool, call.tenant))


@routes.get("/audit/verification", "Verification", query=(Parameter("orderId", {"type": "string", "format": "uuid"}),))
async def verify_audit(call: Call) -> Response:
    """Whether the chain of hashes holds, of one order or, page by page, of all; and its first broken link."""
    order_id = call.uuid("orderId")
    found = await views.verify_audit(
        call.pool,
        call.tenant,
        order_id=OrderId(order_id) if order_id else None,
        limit=call.limit(),
        after=call.place(),
    )
    return answer_json({**found.body, "next": encode_cursor(found.last)})
