"""Compensation plans: what is undone, after what, and how far it is; as JSON or as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from domain.errors import PlanNotFound
from domain.store import views
from domain.values import Json, PlanId
from workers.api.calls import Call, answer_json, answer_page
from workers.api.graph import SVG, Node, draw_svg, prefers_svg
from workers.api.routes.orders import order_of
from workers.api.routing import Routes
from workers.api.ui.wording import words

routes = Routes()


def plan_of(call: Call) -> PlanId:
    return call.id("planId", PlanId, PlanNotFound)  # type: ignore[no-any-return]


@routes.get("/orders/{orderId}/compensation-plans", "CompensationPlanPage")
async def list_plans(call: Call) -> Response:
    """The compensation plans of the order, oldest first, each with its tasks and edges."""
    page = await views.list_compensation_plans(
        call.pool, call.tenant, order_of(call), limit=call.limit(), after=call.place()
    )
    return answer_page(page)


@routes.get("/orders/{orderId}/compensation-plans/{planId}", "CompensationPlan", media=("application/json", SVG))
async def show_plan(call: Call) -> Response:
    """One compensation plan; asked for as image/svg+xml, a picture of its graph."""
    plan = await views.read_compensation_plan(call.pool, call.tenant, order_of(call), plan_of(call))
    if prefers_svg(call.request):
        # The picture carries its colours as attributes: it needs nothing that the page's policy forbids.
        return Response(draw_plan(plan), media_type=SVG, headers={"Vary": "Accept"})
    return answer_json(plan, headers={"Vary": "Accept"})


def draw_plan(plan: Mapping[str, Json]) -> str:
    """The picture of a compensation plan as `read_compensation_plan` shows it."""
    nodes = [
        Node(
            task["taskId"],
            words(task["type"]),
            f"undoes {words(task['step'])}",
            task["state"],
            words(task["state"], "undoing"),
            task["type"],
        )
        for task in plan["tasks"]
    ]
    edges = [(edge["source"], edge["target"]) for edge in plan["edges"]]
    return draw_svg(f"Compensation: {words(plan['state'], 'plan')}", nodes, edges)
