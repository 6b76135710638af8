"""The pages: an order with what is asked of it, lists, what needs a person. They show what routes answer and send what
forms say; they must never decide anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from starlette.responses import Response

from domain.machines import ENDED
from domain.store.pool import tenant_transaction
from domain.values import Json
from workers.api.graph import Node, draw_svg
from workers.api.routes.cases import STATUSES as CASE_STATUSES
from workers.api.routes.orders import STATES, draw_orders
from workers.api.routes.plans import draw_plan
from workers.api.ui.shapes import render
from workers.api.ui.versions import draw_versions
from workers.api.ui.visits import ROOT, Visit, go_to
from workers.api.ui.wording import words

Page = Callable[[Visit], Awaitable[Response]]

ORDER: Final = "/orders/{orderId}"
REQUESTS: Final = f"{ORDER}/cancellation-requests"
REQUEST: Final = f"{REQUESTS}/{{requestId}}"
AMENDMENTS: Final = f"{ORDER}/amendment-requests"
AMENDMENT: Final = f"{AMENDMENTS}/{{requestId}}"
CASE: Final = "/fallout-cases/{caseId}"
PREVIEWS: Final = f"{ORDER}/previews"

_ENDED: Final = ENDED["ORDER"]
# What its asker may still take back: nothing of it is in the order, nothing was undone for it.
_UNCOMMITTED: Final = frozenset(
    {
        "ACCEPTED_FOR_ASSESSMENT",
        "REQUESTED",
        "QUEUED",
        "ASSESSING",
        "REQUIRES_APPROVAL",
        "AWAITING_CHARGE_DECISION",
        "APPROVED",
    }
)
_OVERSEEING: Final = frozenset({"operator", "admin"})
RECENT: Final = 15  # entries of the timeline that are shown unfolded


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
    amendments = await visit.read_all(AMENDMENTS)
    plans = await visit.read_all(f"{ORDER}/compensation-plans")
    steps = await visit.read_all(f"{ORDER}/plan")
    effects = await visit.read_all(f"{ORDER}/effects")
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
        requests=[_shown(visit, request, REQUEST, "REQUEST") for request in reversed(requests)],
        amendments=[
            _shown(visit, amendment, AMENDMENT, "AMENDMENT")
            | {"picture": draw_versions(steps, amendments, amendment), "applied": "newPlanVersion" in amendment}
            for amendment in reversed(amendments)
        ],
        plans=[{**plan, "picture": draw_plan(plan)} for plan in reversed(plans)],
        steps=steps,
        over=ENDED["TASK"],
        effects=effects,
        cases=cases,
        graph={**graph, "picture": draw_orders(order["orderId"], graph)} if len(graph["nodes"]) > 1 else None,
        recent=list(reversed(timeline[-RECENT:])),
        older=list(reversed(timeline[:-RECENT])),
        names=_name(steps, effects, plans),
        may={
            "cancel": visit.may("POST", PREVIEWS) and visit.may("POST", REQUESTS),
            "hold": visit.may("POST", f"{ORDER}/hold"),
            "release": visit.may("POST", f"{ORDER}/release"),
        },
        reasons=await _read_reasons(visit, order["policyVersion"], "cancellation"),
    )


def _name(steps: list[Any], effects: list[Any], plans: list[Any]) -> dict[str, str]:
    """What the timeline speaks of, in words for its ids."""
    works = [*steps, *(task for plan in plans for task in plan["tasks"])]
    return {
        **{work["taskId"]: work["type"] for work in works},
        **{effect["effectId"]: f"{effect['operation']} in {effect['system']}" for effect in effects},
    }


def _shown(visit: Visit, request: dict[str, Any], path: str, machine: str) -> dict[str, Any]:
    """The request with what this person may do about it now: roles, and what is known here of the person. The door
    has the last word."""
    status, me = request["status"], visit.caller.subject
    own = me in {request["requestedBy"], request.get("onBehalfOf")}
    oversees = not visit.caller.roles.isdisjoint(_OVERSEEING)
    deciding = status == "REQUIRES_APPROVAL"
    held_back = status == "APPROVED" and request.get("autoApply") is False
    may = {
        "approve": deciding and not own and visit.may("POST", f"{path}/approve"),
        "reject": deciding and not own and visit.may("POST", f"{path}/reject"),
        "apply": held_back and visit.may("POST", f"{path}/apply"),
        "withdraw": status in _UNCOMMITTED
        and visit.may("POST", f"{path}/withdraw")
        and (oversees or request["requestedBy"] == me),
        "charge": status == "AWAITING_CHARGE_DECISION" and visit.may("POST", f"{path}/accept-charge"),
    }
    impacts = (request["assessment"] or {}).get("taskImpacts", [])
    return {
        **request,
        "may": may,
        "own": own and deciding,
        "over": status in ENDED[machine],
        "judged": [impact for impact in impacts if impact["consequence"] == "MANUAL"],
        "etag": f'"request-version-{request["version"]}"',
    }


async def show_case(visit: Visit) -> Response:
    seen = await visit.read(CASE)
    case = seen.body
    order = (await visit.read(ORDER, {"orderId": case["orderId"]})).body
    waiting = next((repair for repair in case["repairs"] if repair["status"] == "AWAITING_APPROVAL"), None)
    own = waiting is not None and visit.caller.subject in {waiting["by"], waiting.get("onBehalfOf")}
    return render(
        visit,
        "case.html",
        case=case,
        order=order,
        etag=seen.etag,
        waiting=waiting,
        own=own,
        may={
            "assign": case["status"] not in ENDED["CASE"] and visit.may("POST", f"{CASE}/assign"),
            "repair": visit.may("POST", f"{CASE}/repairs"),
            "decide": waiting is not None and not own and visit.may("POST", f"{CASE}/repairs/{{number}}/approve"),
        },
        reasons=await _read_reasons(visit, order["policyVersion"], "repair"),
    )


async def _read_reasons(visit: Visit, version: int, context: str) -> list[str]:
    """The reasons that the order's own policy knows for a cancellation, or for a repair."""
    async with tenant_transaction(visit.service.pool, visit.caller.tenant, read_only=True) as connection:
        policy = await visit.service.policies.read(connection, version)
    return list(policy.reason_codes.get(context, {}))


# -- acting --------------------------------------------------------------------------------------------------


async def preview(visit: Visit) -> Response:
    """What would happen, with the order as it was read just before: that is what the next form confirms."""
    order = await visit.read(ORDER)
    body = _wish(visit)
    told = (await visit.command(PREVIEWS, {"kind": "CANCELLATION", **body})).body
    plan = told["compensationPlan"]
    nodes = [
        Node(
            task["reverses"],
            words(task["taskType"]),
            "",
            "PLANNED",
            words(task["purpose"], "purpose"),
            task["taskType"],
        )
        for task in plan["tasks"]
    ]
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


def decide(path: str) -> Page:
    """A person's word on a request, whatever it is about: a form that goes to the command on that path."""

    async def decided(visit: Visit) -> Response:
        await visit.command(path, _reason(visit))
        return _back(visit)

    return decided


async def approve(visit: Visit) -> Response:
    given = visit.form.named("disposition:")
    body: dict[str, Json] = {
        "dispositions": [{"taskId": task_id, "disposition": chosen} for task_id, chosen in given.items()]
    }
    await visit.command(f"{REQUEST}/approve", {**body, **_comment(visit)})
    return _back(visit)


async def approve_amendment(visit: Visit) -> Response:
    await visit.command(f"{AMENDMENT}/approve", _comment(visit))
    return _back(visit)


async def assign(visit: Visit) -> Response:
    await visit.command(f"{CASE}/assign", {"assignee": visit.form.text("assignee")})
    return _back_to_case(visit)


async def repair(visit: Visit) -> Response:
    form = visit.form
    body: dict[str, Json] = {"action": form.text("action"), "reasonCode": form.text("reasonCode")}
    if text := form.text("reasonText"):
        body["reasonText"] = text
    if form.text("evidenceKind") or form.text("evidenceReference"):
        body["evidence"] = {"kind": form.text("evidenceKind"), "reference": form.text("evidenceReference")}
    if text := form.text("input"):
        body["input"] = _read_json(text)
    await visit.command(f"{CASE}/repairs", body)
    return _back_to_case(visit)


def _read_json(text: str) -> Json:
    """What was typed; what is no JSON goes on as text, for the route to refuse with its own words."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def decide_repair(word: str) -> Page:
    async def decided(visit: Visit) -> Response:
        await visit.command(f"{CASE}/repairs/{{number}}/{word}", _comment(visit))
        return _back_to_case(visit)

    return decided


def _comment(visit: Visit) -> Mapping[str, Json]:
    comment = visit.form.text("comment")
    return {"comment": comment} if comment else {}


def _reason(visit: Visit) -> Mapping[str, Json]:
    reason = visit.form.text("reason")
    return {"reason": reason} if reason else {}


def _back(visit: Visit) -> Response:
    return go_to(f"{ROOT}/orders/{visit.ids['orderId']}")


def _back_to_case(visit: Visit) -> Response:
    return go_to(f"{ROOT}/cases/{visit.ids['caseId']}")


# What people say to a request of either kind by a form with no more than a reason in it.
_WORDS: Final = ("reject", "withdraw", "accept-charge", "decline-charge")

# Every page for a person who is signed in: method, path below ROOT, what answers.
PAGES: Final[tuple[tuple[str, str, Page], ...]] = (
    ("GET", "", list_orders),
    ("GET", "/dashboard", show_dashboard),
    ("GET", "/cases", list_cases),
    ("GET", ORDER, show_order),
    ("POST", f"{ORDER}/preview", preview),
    ("POST", f"{ORDER}/cancel", cancel),
    ("POST", f"{ORDER}/hold", decide(f"{ORDER}/hold")),
    ("POST", f"{ORDER}/release", decide(f"{ORDER}/release")),
    ("POST", f"{ORDER}/requests/{{requestId}}/approve", approve),
    ("POST", f"{ORDER}/amendments/{{requestId}}/approve", approve_amendment),
    ("POST", f"{ORDER}/amendments/{{requestId}}/apply", decide(f"{AMENDMENT}/apply")),
    *(("POST", f"{ORDER}/requests/{{requestId}}/{word}", decide(f"{REQUEST}/{word}")) for word in _WORDS),
    *(("POST", f"{ORDER}/amendments/{{requestId}}/{word}", decide(f"{AMENDMENT}/{word}")) for word in _WORDS),
    ("GET", "/cases/{caseId}", show_case),
    ("POST", "/cases/{caseId}/assign", assign),
    ("POST", "/cases/{caseId}/repairs", repair),
    *(("POST", f"/cases/{{caseId}}/repairs/{{number}}/{word}", decide_repair(word)) for word in ("approve", "reject")),
)
