"""The pages: an order with what is asked of it, lists, what needs a person. They show what routes answer and send what
forms say; they must never decide anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.responses import Response

from domain.store.pool import tenant_transaction
from domain.values import Json
from workers.api.graph import Node, draw_svg
from workers.api.routes.cases import STATUSES as CASE_STATUSES
from workers.api.routes.orders import STATES
from workers.api.routes.plans import draw_plan
from workers.api.ui.shapes import render
from workers.api.ui.visits import ROOT, Visit, go_to

Page = Callable[[Visit], Awaitable[Response]]

ORDER: Final = "/orders/{orderId}"
REQUESTS: Final = f"{ORDER}/cancellation-requests"
REQUEST: Final = f"{REQUESTS}/{{requestId}}"
PREVIEWS: Final = f"{ORDER}/previews"

_ENDED: Final = frozenset({"COMPLETED", "PARTIALLY_COMPLETED", "CANCELLED", "FAILED", "REJECTED"})
_REQUEST_ENDED: Final = frozenset({"COMPLETED", "PARTIALLY_COMPLETED", "REJECTED", "WITHDRAWN", "SUPERSEDED"})
_UNCOMMITTED: Final = frozenset(
    {"ACCEPTED_FOR_ASSESSMENT", "ASSESSING", "REQUIRES_APPROVAL", "AWAITING_CHARGE_DECISION", "APPROVED"}
)
_OVERSEEING: Final = frozenset({"operator", "admin"})
RECENT: Final = 25  # entries of the timeline that are shown unfolded


# -- looking -------------------------------------------------------------------------------------------------


async def list_orders(visit: Visit) -> Response:
    asked = visit.request.query_params
    query = {name: value for name in ("state", "customerId", "externalId", "cursor") if (value := asked.get(name))}
    page = (await visit.read("/orders", {}, limit="50", **query)).body
    more = {**query, "cursor": page["next"]} if page["next"] else None
    return render(visit, "orders.html", orders=page["items"], asked=query, more=more, states=sorted(STATES))


async def list_cases(visit: Visit) -> Response:
    asked = visit.request.query_params
    query = {name: value for name in ("status", "orderId", "cursor") if (value := asked.get(name))}
    page = (await visit.read("/fallout-cases", {}, limit="50", **query)).body
    more = {**query, "cursor": page["next"]} if page["next"] else None
    return render(visit, "cases.html", cases=page["items"], asked=query, more=more, statuses=sorted(CASE_STATUSES))


async def show_dashboard(visit: Visit) -> Response:
    return render(visit, "dashboard.html", live=True, board=(await visit.read("/dashboard", {})).body)


async def show_order(visit: Visit) -> Response:
    seen = await visit.read(ORDER)
    order = seen.body
    requests = await visit.read_all(REQUESTS)
    plans = await visit.read_all(f"{ORDER}/compensation-plans")
    timeline = await visit.read_all(f"{ORDER}/timeline", pages=10)
    graph = (await visit.read(f"{ORDER}/related-orders")).body
    cases = (await visit.read("/fallout-cases", {}, limit="200", orderId=visit.ids["orderId"])).body["items"]
    progress = (await visit.read(f"{ORDER}/progress")).body
    running = order["state"] not in _ENDED or any(plan["state"] == "IN_PROGRESS" for plan in plans)
    return render(
        visit,
        "order.html",
        live=running,
        order=order,
        etag=seen.etag,
        ended=order["state"] in _ENDED,
        progress=progress,
        requests=[_shown(visit, request) for request in reversed(requests)],
        plans=[{**plan, "picture": draw_plan(plan)} for plan in reversed(plans)],
        steps=await visit.read_all(f"{ORDER}/plan"),
        effects=await visit.read_all(f"{ORDER}/effects"),
        cases=cases,
        graph=graph if len(graph["nodes"]) > 1 else None,
        recent=list(reversed(timeline[-RECENT:])),
        older=list(reversed(timeline[:-RECENT])),
        may={
            "cancel": visit.may("POST", PREVIEWS) and visit.may("POST", REQUESTS),
            "hold": visit.may("POST", f"{ORDER}/hold"),
            "release": visit.may("POST", f"{ORDER}/release"),
        },
        reasons=await _read_reasons(visit, order["policyVersion"]),
    )


def _shown(visit: Visit, request: dict[str, Any]) -> dict[str, Any]:
    """The request with what this person may do about it now: roles, and what is known here of the person. The door
    has the last word."""
    status, me = request["status"], visit.caller.subject
    own = me in {request["requestedBy"], request.get("onBehalfOf")}
    oversees = not visit.caller.roles.isdisjoint(_OVERSEEING)
    deciding = status == "REQUIRES_APPROVAL"
    charged = status == "AWAITING_CHARGE_DECISION"
    may = {
        "approve": deciding and not own and visit.may("POST", f"{REQUEST}/approve"),
        "reject": deciding and not own and visit.may("POST", f"{REQUEST}/reject"),
        "withdraw": status in _UNCOMMITTED
        and visit.may("POST", f"{REQUEST}/withdraw")
        and (oversees or request["requestedBy"] == me),
        "charge": charged and visit.may("POST", f"{REQUEST}/accept-charge"),
    }
    impacts = (request["assessment"] or {}).get("taskImpacts", [])
    return {
        **request,
        "may": may,
        "own": own and deciding,
        "over": status in _REQUEST_ENDED,
        "judged": [impact for impact in impacts if impact["consequence"] == "MANUAL"],
        "etag": f'"request-version-{request["version"]}"',
    }


async def _read_reasons(visit: Visit, version: int) -> list[str]:
    """The reasons that the order's own policy knows for a cancellation."""
    async with tenant_transaction(visit.service.pool, visit.caller.tenant, read_only=True) as connection:
        policy = await visit.service.policies.read(connection, version)
    return list(policy.reason_codes.get("cancellation", {}))


# -- acting --------------------------------------------------------------------------------------------------


async def preview(visit: Visit) -> Response:
    """What would happen, with the order as it was read just before: that is what the next form confirms."""
    order = await visit.read(ORDER)
    body = _wish(visit)
    told = (await visit.command(PREVIEWS, {"kind": "CANCELLATION", **body})).body
    plan = told["compensationPlan"]
    nodes = [Node(task["reverses"], task["taskType"], task["purpose"].lower(), "PLANNED") for task in plan["tasks"]]
    edges = [(edge["source"], edge["target"]) for edge in plan["edges"]]
    return render(
        visit,
        "preview.html",
        order=order.body,
        etag=order.etag,
        preview=told,
        wish=body,
        picture=draw_svg("What would be undone, and after what", nodes, edges) if nodes else None,
        may={"cancel": visit.may("POST", REQUESTS)},
    )


async def cancel(visit: Visit) -> Response:
    body = _wish(visit)
    if preview_id := visit.form.text("previewId"):
        body["previewId"] = preview_id
    await visit.command(REQUESTS, body)
    return _back(visit)


def _wish(visit: Visit) -> dict[str, Json]:
    form = visit.form
    items: list[Json] = [*form.all("item")]
    body: dict[str, Json] = {
        "reasonCode": form.text("reasonCode"),
        "scope": {"type": "ITEMS" if items else "ORDER", "orderItemIds": items},
        "forceManualReview": form.text("forceManualReview") == "yes",
    }
    if text := form.text("reasonText"):
        body["reasonText"] = text
    return body


async def hold(visit: Visit) -> Response:
    await visit.command(f"{ORDER}/hold", _reason(visit))
    return _back(visit)


async def release(visit: Visit) -> Response:
    await visit.command(f"{ORDER}/release", _reason(visit))
    return _back(visit)


async def approve(visit: Visit) -> Response:
    given = visit.form.named("disposition:")
    body: dict[str, Json] = {
        "dispositions": [{"taskId": task_id, "disposition": chosen} for task_id, chosen in given.items()]
    }
    if comment := visit.form.text("comment"):
        body["comment"] = comment
    await visit.command(f"{REQUEST}/approve", body)
    return _back(visit)


async def reject(visit: Visit) -> Response:
    await visit.command(f"{REQUEST}/reject", _reason(visit))
    return _back(visit)


async def withdraw(visit: Visit) -> Response:
    await visit.command(f"{REQUEST}/withdraw", _reason(visit))
    return _back(visit)


async def accept_charge(visit: Visit) -> Response:
    await visit.command(f"{REQUEST}/accept-charge", {})
    return _back(visit)


async def decline_charge(visit: Visit) -> Response:
    await visit.command(f"{REQUEST}/decline-charge", {})
    return _back(visit)


def _reason(visit: Visit) -> Mapping[str, Json]:
    reason = visit.form.text("reason")
    return {"reason": reason} if reason else {}


def _back(visit: Visit) -> Response:
    return go_to(f"{ROOT}/orders/{visit.ids['orderId']}")


# Every page for a person who is signed in: method, path below ROOT, what answers.
PAGES: Final[tuple[tuple[str, str, Page], ...]] = (
    ("GET", "", list_orders),
    ("GET", "/dashboard", show_dashboard),
    ("GET", "/cases", list_cases),
    ("GET", ORDER, show_order),
    ("POST", f"{ORDER}/preview", preview),
    ("POST", f"{ORDER}/cancel", cancel),
    ("POST", f"{ORDER}/hold", hold),
    ("POST", f"{ORDER}/release", release),
    ("POST", f"{ORDER}/requests/{{requestId}}/approve", approve),
    ("POST", f"{ORDER}/requests/{{requestId}}/reject", reject),
    ("POST", f"{ORDER}/requests/{{requestId}}/withdraw", withdraw),
    ("POST", f"{ORDER}/requests/{{requestId}}/accept-charge", accept_charge),
    ("POST", f"{ORDER}/requests/{{requestId}}/decline-charge", decline_charge),
)
