"""What people are shown: rows in the contract's shapes. Each view is one read-only transaction of one tenant; it must
never show what another tenant owns, and never change anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from domain.assessment import is_past_return, moment_of
from domain.audit import AuditEntry, find_break
from domain.decide import case_etag, order_etag, request_etag
from domain.dependence import holds_order
from domain.errors import (
    AssetNotFound,
    CaseNotFound,
    OrderNotFound,
    PlanNotFound,
    PolicyNotFound,
    RequestNotFound,
)
from domain.policy import TaskType
from domain.progress import describe_progress, find_depths
from domain.reconciliation import EXPLANATIONS, REMEDIES
from domain.store.pool import Connection, Pool, fetch_all, fetch_row, tenant_transaction
from domain.store.queries import load_queries
from domain.values import CaseId, EffectId, Json, OrderId, PlanId, RequestId, TenantId, format_time, parse_time

_SQL = load_queries("views")
_BASE: Final = "/api/v1"
_KEPT: Final = ("productOfferingId", "configuration", "state", "version", "quantity")  # of a snapshot, for a history

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """One object as it stands, with its ETag where it has one."""

    body: dict[str, Json]
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; `last` is the place to read on from, None at the end."""

    items: list[dict[str, Json]]
    last: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a list ordered by (moment, id) to read on."""

    at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class EffectAddress:
    """Whose effect it is, and which system may speak about it."""

    tenant_id: TenantId
    order_id: OrderId
    system: str


def asset_etag(version: int) -> str:
    return f'"asset-version-{version}"'


# -- asking --------------------------------------------------------------------------------------------------


async def _one(pool: Pool, tenant_id: TenantId, query: str, **values: Any) -> Any:
    """The document of the one row, or None where there is no row."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL[query], tenant_id=tenant_id, **values)
    return None if row is None else orjson.loads(row["document"])


async def _many(pool: Pool, tenant_id: TenantId, query: str, **values: Any) -> list[Any]:
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        rows = await fetch_all(connection, _SQL[query], tenant_id=tenant_id, **values)
    return [orjson.loads(row["document"]) for row in rows]


def _after(place: Place | None) -> dict[str, Any]:
    return {"after_at": place.at if place else None, "after_id": place.id if place else None}


def _page(rows: list[Any], limit: int, shown: Iterable[dict[str, Json]], *key: str) -> Page:
    """One row more than the limit is asked for: whether there is a next page is then known without counting."""
    more = len(rows) > limit
    return Page(list(shown)[:limit], tuple(str(rows[limit - 1][name]) for name in key) if more else None)


def _time(text: str | None) -> str | None:
    return None if text is None else format_time(datetime.fromisoformat(text))


def _said(**members: Json) -> dict[str, Json]:
    """The members that there is something to say about."""
    return {name: value for name, value in members.items() if value is not None}


# -- orders --------------------------------------------------------------------------------------------------


async def read_order(
    pool: Pool, tenant_id: TenantId, order_id: OrderId, as_of: datetime | None = None, operate_url: str = ""
) -> Seen:
    """The order in the shape in which it was given, with states, relations and what is asked of it; as it stands, or
    as it stood at a time. operate_url: where an engineer can look at its flows, for a link to them."""
    if as_of is None:
        found = await _one(pool, tenant_id, "read_order", order_id=order_id)
    else:
        found = await _one(pool, tenant_id, "read_order_then", order_id=order_id, as_of=as_of)
    if found is None:
        raise OrderNotFound
    head, request = found["head"], found["request"]
    base = f"{_BASE}/orders/{order_id}"
    active = request and {
        "cancellationRequestId": request["request_id"],
        "status": request["status"],
        "scope": request["scope"],
        "links": {"self": f"{base}/cancellation-requests/{request['request_id']}"},
    }
    holders = [holder for holder in head["order_holds"] if holds_order(holder)]
    amendment = found.get("amendment")
    if amendment and not active:
        active = {
            "amendmentRequestId": amendment["request_id"],
            "status": amendment["status"],
            "links": {"self": f"{base}/amendment-requests/{amendment['request_id']}"},
        }
    body = {
        **head["content"],
        **_order_head(head),
        "items": [_item(row) for row in found["items"] or ()],
        **_said(activeRequest=active),
        "relations": [
            {
                "type": row["relation_type"],
                "sourceOrderId": row["source_order_id"],
                "targetOrderId": row["target_order_id"],
                "reasonCode": row["reason_code"],
                "createdAt": _time(row["created_at"]),
            }
            for row in found["relations"] or ()
        ],
        "planVersion": head["plan_version"],
        "held": bool(holders),
        "heldBy": holders,
        "links": {
            "self": base,
            "plan": f"{base}/plan",
            "effects": f"{base}/effects",
            "timeline": f"{base}/timeline",
            "progress": f"{base}/progress",
            "relatedOrders": f"{base}/related-orders",
            "cancellationRequests": f"{base}/cancellation-requests",
            "amendmentRequests": f"{base}/amendment-requests",
            "compensationPlans": f"{base}/compensation-plans",
            **_said(operate=_operate_link(operate_url, found.get("flows") or ())),
        },
    }
    return Seen(body, order_etag(head["version"]))


def _operate_link(operate_url: str, flows: Sequence[int]) -> str | None:
    """The page of the one flow, or the list of all; None where nobody can look, or nothing runs yet."""
    if not operate_url or not flows:
        return None
    if len(flows) == 1:
        return f"{operate_url}/processes/{flows[0]}"
    every = "active=true&incidents=true&completed=true&canceled=true"
    return f"{operate_url}/processes?{every}&ids={','.join(str(key) for key in flows)}"


def _order_head(row: Row) -> dict[str, Json]:
    return {
        "orderId": row["order_id"],
        "externalId": row["external_id"],
        "orderType": row["order_type"],
        "state": row["state"],
        "version": row["version"],
        **_said(resumeState=row["resume_state"]),
        "policyVersion": row["policy_version"],
        "createdAt": _time(row["created_at"]),
        "updatedAt": _time(row["updated_at"]),
        **_said(endedAt=_time(row["ended_at"])),
    }


def _item(row: Row) -> dict[str, Json]:
    return {
        **row["content"],
        "itemId": row["item_id"],
        "action": row["action"],
        "productOfferingId": row["offering"],
        "quantity": row["quantity"],
        "orderedQuantity": row["ordered_quantity"],
        "state": row["state"],
        "parentItemId": row["parent"],
        "reliesOn": row["relies_on"],
        "targetAssetId": row["target_asset"],
        **_said(assetId=row["asset"]),
    }


async def list_orders(
    pool: Pool,
    tenant_id: TenantId,
    *,
    limit: int,
    after: Place | None,
    state: str | None = None,
    customer_id: str | None = None,
    external_id: str | None = None,
    updated_since: datetime | None = None,
) -> Page:
    """Newest first, without items."""
    rows = await _many(
        pool,
        tenant_id,
        "list_orders",
        limit=limit + 1,
        **_after(after),
        state=state,
        customer_id=customer_id,
        external_id=external_id,
        updated_since=updated_since,
    )
    shown = (
        {
            **_order_head(row),
            **_said(customer=row["customer"]),
            "links": {"self": f"{_BASE}/orders/{row['order_id']}"},
        }
        for row in rows
    )
    return _page(rows, limit, shown, "created_at", "order_id")


async def check_order(pool: Pool, tenant_id: TenantId, order_id: OrderId) -> None:
    """Raises OrderNotFound."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        if await fetch_row(connection, _SQL["find_order"], tenant_id=tenant_id, order_id=order_id) is None:
            raise OrderNotFound


async def read_relations(pool: Pool, tenant_id: TenantId, order_id: OrderId) -> dict[str, Json]:
    """The graph that the order belongs to; an edge goes from the newer order to the older one."""
    found = await _one(pool, tenant_id, "read_relations", order_id=order_id)
    if found is None:
        raise OrderNotFound
    edges = [{**edge, "createdAt": _time(edge["createdAt"])} for edge in found["edges"] or ()]
    return {"nodes": found["nodes"], "edges": edges}


async def list_audit(pool: Pool, tenant_id: TenantId, order_id: OrderId, *, limit: int, after: int) -> Page:
    """The order's history, oldest first; hashes in hexadecimal."""
    rows = await _one(pool, tenant_id, "list_audit", order_id=order_id, limit=limit + 1, after_sequence=after)
    if rows is None:
        raise OrderNotFound
    shown = (
        {
            "sequence": row["sequence"],
            "at": _time(row["at"]),
            "actor": row["actor"],
            **_said(onBehalfOf=row["on_behalf_of"]),
            "entity": row["entity"],
            "entityId": row["entity_id"],
            "kind": row["kind"],
            **_said(**{"from": row["before"], "to": row["after"], "requestId": row["request_id"]}),
            "data": row["data"],
            "hash": row["hash"],
            "previousHash": row["previous_hash"],
        }
        for row in rows
    )
    return _page(rows, limit, shown, "sequence")


# -- plan ----------------------------------------------------------------------------------------------------


async def list_tasks(pool: Pool, tenant_id: TenantId, order_id: OrderId, *, limit: int, after: int) -> Page:
    """The tasks of every plan version, predecessors before successors; `after` counts tasks."""
    found = await _one(pool, tenant_id, "read_plan", order_id=order_id)
    if found is None:
        raise OrderNotFound
    now = datetime.fromisoformat(found["now"])
    types = {
        (plan["version"], name): TaskType.from_json(row)
        for plan in found["plans"] or ()
        for name, row in plan["types"].items()
    }
    holds = found["holds"] or {}
    ordered = _in_order(found["tasks"] or [])
    items = [
        _task(task, types[task["plan_version"], task["task_type"]], holds.get(task["task_id"], []), found, now)
        for task in ordered[after : after + limit]
    ]
    reached = after + limit
    return Page(items, (str(reached),) if reached < len(ordered) else None)


def _in_order(tasks: list[Row]) -> list[Row]:
    """By plan version, then by how many tasks must come before, then by step: the same in every answer."""
    depth = find_depths({task["task_id"]: task["depends_on"] for task in tasks})
    return sorted(tasks, key=lambda task: (task["plan_version"], depth[task["task_id"]], task["step"], task["task_id"]))


def _task(task: Row, task_type: TaskType, holders: list[str], found: Row, now: datetime) -> dict[str, Json]:
    content = found["content"]
    return {
        "taskId": task["task_id"],
        "itemIds": task["item_ids"],
        "step": task["step"],
        "type": task["task_type"],
        "state": task["state"],
        "planVersion": task["plan_version"],
        "dependsOn": task["depends_on"],
        "held": bool(holders),
        "heldBy": holders,
        "system": task_type.system,
        "reversibility": task_type.reversibility,
        "externalEffectLevel": task_type.external_effect_level,
        **_said(
            compensation=task_type.compensation,
            effectId=task["effect_id"],
            supersededBy=task["superseded_by"],
            startedAt=_time(task["started_at"]),
            endedAt=_time(task["ended_at"]),
            pointOfNoReturn=_point_of_no_return(task_type, task["state"], content, now),
        ),
    }


def _point_of_no_return(
    task_type: TaskType, state: str, content: Mapping[str, Json], now: datetime
) -> dict[str, Json] | None:
    """By state and by date: from when on undoing costs, from when on it is not possible, and whether that is now."""
    hard, soft = task_type.hard_point_of_no_return, task_type.soft_point_of_no_return
    hard_at = moment_of(hard, content) if hard else None
    soft_at = moment_of(soft, content) if soft else None
    said = _said(
        irreversibleAfterState=task_type.irreversible_after_state,
        softAt=format_time(soft_at) if soft_at else None,
        hardAt=format_time(hard_at) if hard_at else None,
    )
    if not said and task_type.reversibility != "NONE":
        return None
    return {**said, "passed": is_past_return(task_type, state, content, now) is not None}


# -- ledger --------------------------------------------------------------------------------------------------


async def list_effects(pool: Pool, tenant_id: TenantId, order_id: OrderId, *, limit: int, after: Place | None) -> Page:
    """The ledger, in the order in which the effects were meant."""
    rows = await _one(pool, tenant_id, "list_effects", order_id=order_id, limit=limit + 1, **_after(after))
    if rows is None:
        raise OrderNotFound
    return _page(rows, limit, map(_effect, rows), "intended_at", "effect_id")


def _effect(row: Row) -> dict[str, Json]:
    return {
        "effectId": row["effect_id"],
        "system": row["system"],
        "operation": row["operation"],
        "taskType": row["task_type"],
        "externalEffectLevel": row["level"],
        "state": row["state"],
        "basis": row["basis"],
        "taskId": row["task_id"],
        **_said(
            reverses=row["reverses"],
            withdraws=row["withdraws"],
            reversedBy=row["reversed_by"],
            externalReference=row["external_reference"],
            output=row["output"],
            reason=row["reason"],
            calledAt=_time(row["called_at"]),
            acceptedAt=_time(row["accepted_at"]),
            settledAt=_time(row["settled_at"]),
        ),
        "intendedAt": _time(row["intended_at"]),
        "attempts": [_attempt(attempt) for attempt in row["attempts"] or ()],
    }


def _attempt(row: Row) -> dict[str, Json]:
    return {**row, "startedAt": _time(row["startedAt"]), "finishedAt": _time(row["finishedAt"])}


async def find_effect(pool: Pool, effect_id: EffectId) -> EffectAddress | None:
    """Where a callback belongs: asked across tenants, because it names none."""
    query = _SQL["find_effect"]
    async with pool.acquire() as connection:
        row = await fetch_row(connection, query, effect_id=effect_id)
    return None if row is None else EffectAddress(row["tenant_id"], row["order_id"], row["system"])


# -- cancellation --------------------------------------------------------------------------------------------


async def list_requests(pool: Pool, tenant_id: TenantId, order_id: OrderId, *, limit: int, after: Place | None) -> Page:
    rows = await _one(pool, tenant_id, "list_requests", order_id=order_id, limit=limit + 1, **_after(after))
    if rows is None:
        raise OrderNotFound
    return _page(rows, limit, map(_request, rows), "requested_at", "request_id")


async def read_request(pool: Pool, tenant_id: TenantId, order_id: OrderId, request_id: RequestId) -> Seen:
    found = await _one(pool, tenant_id, "read_request", order_id=order_id, request_id=request_id)
    if found is None:
        await check_order(pool, tenant_id, order_id)
        raise RequestNotFound
    row = found["request"]
    return Seen({**_request(row), "currentOrderState": found["order_state"]}, request_etag(row["version"]))


async def find_requester(pool: Pool, tenant_id: TenantId, order_id: OrderId, request_id: RequestId) -> str:
    """Who asked for a cancellation; raises OrderNotFound or RequestNotFound."""
    return await _find_asker(pool, tenant_id, "find_request", order_id, request_id)


async def find_amender(pool: Pool, tenant_id: TenantId, order_id: OrderId, request_id: RequestId) -> str:
    """Who asked for an amendment; raises OrderNotFound or RequestNotFound."""
    return await _find_asker(pool, tenant_id, "find_amendment", order_id, request_id)


async def _find_asker(pool: Pool, tenant_id: TenantId, query: str, order_id: OrderId, request_id: RequestId) -> str:
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL[query], tenant_id=tenant_id, order_id=order_id, request_id=request_id)
        if row is not None:
            return str(row["requested_by"])
        order = await fetch_row(connection, _SQL["find_order"], tenant_id=tenant_id, order_id=order_id)
    raise OrderNotFound if order is None else RequestNotFound


def _request(row: Row) -> dict[str, Json]:
    order = f"{_BASE}/orders/{row['order_id']}"
    link = f"{order}/cancellation-requests/{row['request_id']}"
    plan_link = f"{order}/compensation-plans/{row['plan_id']}" if row["plan_id"] else None
    return {
        "cancellationRequestId": row["request_id"],
        "orderId": row["order_id"],
        "status": row["status"],
        "scope": {"type": row["scope"], "orderItemIds": row["item_ids"]},
        **_said(items=[{"itemId": item_id, "quantity": count} for item_id, count in row["quantities"].items()] or None),
        "reasonCode": row["reason_code"],
        "reasonText": row["reason_text"],
        "requestedBy": row["requested_by"],
        **_said(onBehalfOf=row["on_behalf_of"], claimedAt=_time(row["claimed_at"])),
        "requestedAt": _time(row["requested_at"]),
        "forceManualReview": row["force_manual_review"],
        "assessment": row["assessment"],
        **_said(
            charge=row["charge"],
            compensationPlanId=row["plan_id"],
            outcome=row["outcome"],
            graceUntil=_time(row["grace_until"]),
            slaAt=_time(row["sla_at"]),
            committedAt=_time(row["committed_at"]),
            endedAt=_time(row["ended_at"]),
        ),
        "dispositions": [
            {"taskId": task_id, "disposition": disposition} for task_id, disposition in row["dispositions"].items()
        ],
        "proposals": row["proposals"],
        "decisions": row["decisions"],
        "jeopardy": row["jeopardy"],
        "version": row["version"],
        "links": _said(self=link, order=order, compensationPlan=plan_link),
    }


# -- amendment -----------------------------------------------------------------------------------------------


async def list_amendments(
    pool: Pool, tenant_id: TenantId, order_id: OrderId, *, limit: int, after: Place | None
) -> Page:
    rows = await _one(pool, tenant_id, "list_amendments", order_id=order_id, limit=limit + 1, **_after(after))
    if rows is None:
        raise OrderNotFound
    return _page(rows, limit, map(_amendment, rows), "requested_at", "request_id")


async def read_amendment(pool: Pool, tenant_id: TenantId, order_id: OrderId, request_id: RequestId) -> Seen:
    found = await _one(pool, tenant_id, "read_amendment", order_id=order_id, request_id=request_id)
    if found is None:
        await check_order(pool, tenant_id, order_id)
        raise RequestNotFound
    row = found["request"]
    return Seen({**_amendment(row), "currentOrderState": found["order_state"]}, request_etag(row["version"]))


def _amendment(row: Row) -> dict[str, Json]:
    order = f"{_BASE}/orders/{row['order_id']}"
    plan_link = f"{order}/compensation-plans/{row['plan_id']}" if row["plan_id"] else None
    return {
        "amendmentRequestId": row["request_id"],
        "orderId": row["order_id"],
        "status": row["status"],
        "reasonCode": row["reason_code"],
        "requestedBy": row["requested_by"],
        **_said(onBehalfOf=row["on_behalf_of"], claimedAt=_time(row["claimed_at"])),
        "requestedAt": _time(row["requested_at"]),
        "changes": row["changes"],
        "allowPartial": row["allow_partial"],
        "autoApply": row["auto_apply"],
        "assessment": row["assessment"],
        **_said(
            charge=row["charge"],
            repairsCaseId=row["repairs_case"],
            compensationPlanId=row["plan_id"],
            newPlanVersion=row["new_plan_version"],
            outcome=row["outcome"],
            graceUntil=_time(row["grace_until"]),
            slaAt=_time(row["sla_at"]),
            appliedAt=_time(row["applied_at"]),
            endedAt=_time(row["ended_at"]),
        ),
        "decisions": row["decisions"],
        "jeopardy": row["jeopardy"],
        "version": row["version"],
        "links": _said(self=f"{order}/amendment-requests/{row['request_id']}", order=order, compensationPlan=plan_link),
    }


async def list_compensation_plans(
    pool: Pool, tenant_id: TenantId, order_id: OrderId, *, limit: int, after: Place | None
) -> Page:
    """Whole plans, oldest first."""
    plans = await _compensation_plans(pool, tenant_id, order_id, plan_id=None, limit=limit + 1, **_after(after))
    return _page(plans, limit, (_show_plan(row, order_id) for row in plans), "created_at", "plan_id")


async def read_compensation_plan(
    pool: Pool, tenant_id: TenantId, order_id: OrderId, plan_id: PlanId
) -> dict[str, Json]:
    plans = await _compensation_plans(pool, tenant_id, order_id, plan_id=plan_id, limit=1, **_after(None))
    if not plans:
        raise PlanNotFound
    return _show_plan(plans[0], order_id)


async def _compensation_plans(pool: Pool, tenant_id: TenantId, order_id: OrderId, **asked: Any) -> list[Row]:
    """The rows of plans, each with its tasks, and each of these with its predecessors and attempts."""
    found = await _one(pool, tenant_id, "list_compensation_plans", order_id=order_id, **asked)
    if found is None:
        raise OrderNotFound
    before, attempts = _gather(found["edges"]), _gather(found["attempts"])
    tasks = _gather(
        [
            task["plan_id"],
            task
            | {
                "depends_on": before.get(task["task_id"], []),
                "attempts": attempts.get(task["task_id"], []),
            },
        ]
        for task in found["tasks"] or ()
    )
    return [plan | {"tasks": tasks.get(plan["plan_id"], [])} for plan in found["plans"] or ()]


def _gather(pairs: Iterable[Any] | None) -> dict[str, list[Any]]:
    gathered: dict[str, list[Any]] = {}
    for key, value in pairs or ():
        gathered.setdefault(key, []).append(value)
    return gathered


def _show_plan(row: Row, order_id: OrderId) -> dict[str, Json]:
    order = f"{_BASE}/orders/{order_id}"
    depth = find_depths({task["task_id"]: task["depends_on"] for task in row["tasks"]})
    tasks = sorted(row["tasks"], key=lambda task: (depth[task["task_id"]], task["step"], task["task_id"]))
    return {
        "compensationPlanId": row["plan_id"],
        "orderId": str(order_id),
        **_said(cancellationRequestId=row["request_id"], amendmentRequestId=row["amendment_id"]),
        "state": row["state"],
        "createdAt": _time(row["created_at"]),
        **_said(committedAt=_time(row["committed_at"]), completedAt=_time(row["completed_at"])),
        "tasks": [
            {
                "taskId": task["task_id"],
                "type": task["task_type"],
                "step": task["step"],
                "itemIds": task["item_ids"],
                "state": task["state"],
                "purpose": task["purpose"],
                "dependsOn": task["depends_on"],
                **_said(
                    originalTaskId=task["original_task"],
                    reverses=task["reverses"],
                    effectId=task["effect_id"],
                    startedAt=_time(task["started_at"]),
                    endedAt=_time(task["ended_at"]),
                ),
                "attempts": [_attempt(attempt) for attempt in task["attempts"]],
            }
            for task in tasks
        ],
        # From what is done first to what waits for it.
        "edges": [{"source": other, "target": task["task_id"]} for task in tasks for other in task["depends_on"]],
        "links": {
            "self": f"{order}/compensation-plans/{row['plan_id']}",
            "order": order,
            "request": f"{order}/cancellation-requests/{row['request_id']}"
            if row["request_id"]
            else f"{order}/amendment-requests/{row['amendment_id']}",
        },
    }


# -- progress ------------------------------------------------------------------------------------------------


async def read_progress(pool: Pool, tenant_id: TenantId, order_id: OrderId) -> dict[str, Json]:
    """How far the running change is, what stands in its way, and one sentence about it for the customer."""
    found = await _one(pool, tenant_id, "read_progress", order_id=order_id)
    if found is None:
        raise OrderNotFound
    return {"orderId": str(order_id), **describe_progress(found | {"edges": _gather(found["edges"])})}


# -- cases ---------------------------------------------------------------------------------------------------


async def list_cases(
    pool: Pool,
    tenant_id: TenantId,
    *,
    limit: int,
    after: Place | None,
    status: str | None = None,
    category: str | None = None,
    context: str | None = None,
    order_id: UUID | None = None,
) -> Page:
    """Newest first."""
    rows = await _many(
        pool,
        tenant_id,
        "list_cases",
        limit=limit + 1,
        **_after(after),
        status=status,
        category=category,
        context=context,
        order_id=order_id,
    )
    return _page(rows, limit, map(_case, rows), "opened_at", "case_id")


async def read_case(pool: Pool, tenant_id: TenantId, case_id: CaseId) -> Seen:
    row = await _one(pool, tenant_id, "read_case", case_id=case_id)
    if row is None:
        raise CaseNotFound
    return Seen(_case(row), case_etag(row["version"]))


async def find_case_order(pool: Pool, tenant_id: TenantId, case_id: CaseId) -> OrderId:
    """The order that a case belongs to; it never changes. Raises CaseNotFound."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        row = await fetch_row(connection, _SQL["find_case"], tenant_id=tenant_id, case_id=case_id)
    if row is None:
        raise CaseNotFound
    return OrderId(row["order_id"])


def _case(row: Row) -> dict[str, Json]:
    order = f"{_BASE}/orders/{row['order_id']}"
    return {
        "caseId": row["case_id"],
        "orderId": row["order_id"],
        "status": row["status"],
        "context": row["context"],
        "category": row["category"],
        "blocking": row["blocking"],
        "title": row["title"],
        "openedAt": _time(row["opened_at"]),
        "slaAt": _time(row["sla_at"]),
        "jeopardy": row["jeopardy"],
        **_said(
            taskId=row["task_id"],
            effectId=row["effect_id"],
            requestId=row["request_id"],
            assignee=row["owner"],
            incidentKey=row["incident_key"],
            resolution=row["resolution"],
            closedAt=_time(row["closed_at"]),
        ),
        "repairs": row["repairs"],
        "version": row["version"],
        "links": {"self": f"{_BASE}/fallout-cases/{row['case_id']}", "order": order},
    }


# -- registry ------------------------------------------------------------------------------------------------


async def list_assets(
    pool: Pool, tenant_id: TenantId, *, limit: int, after: UUID | None, customer_id: str | None = None
) -> Page:
    rows = await _many(pool, tenant_id, "list_assets", limit=limit + 1, after_id=after, customer_id=customer_id)
    return _page(rows, limit, map(show_asset, rows), "asset_id")


async def read_asset(pool: Pool, tenant_id: TenantId, asset_id: UUID) -> Seen:
    """The asset with its history: by which items of which orders it came to be as it is, and what it was before each;
    what admins took in or put right beside them; and the live order that holds it."""
    row = await _one(pool, tenant_id, "read_asset", asset_id=asset_id)
    if row is None:
        raise AssetNotFound
    history = [
        {
            **_said(**{name: value for name, value in entry.items() if name not in {"before", "orderedAt", "endedAt"}}),
            **_said(before=entry["before"] and {name: entry["before"].get(name) for name in _KEPT}),
            "orderedAt": _time(entry["orderedAt"]),
            **_said(endedAt=_time(entry["endedAt"])),
            "links": {"order": f"{_BASE}/orders/{entry['orderId']}"},
        }
        for entry in row["history"] or ()
    ]
    asset = row["asset"]
    corrections = [{**_said(**entry), "at": _time(entry["at"])} for entry in row["corrections"] or ()]
    held = _said(lockedByOrderId=row["holder"])
    body = {**show_asset(asset), **held, "history": history, "corrections": corrections}
    return Seen(body, asset_etag(asset["version"]))


def keep_asset(shown: Mapping[str, Json]) -> dict[str, Json]:
    """What is kept of an asset beside a correction of it: what an admin can say."""
    return {name: shown[name] for name in (*_KEPT, "customerId", "reliesOn", "references")}


def show_asset(row: Row) -> dict[str, Json]:
    return {
        "assetId": row["asset_id"],
        "customerId": row["customer_id"],
        "productOfferingId": row["offering"],
        "configuration": row["configuration"],
        "state": row["state"],
        "quantity": row["quantity"],
        "reliesOn": row["relies_on"],
        "references": row["system_references"],
        **_said(installedByOrderId=row["installed_by"]),
        "version": row["version"],
        "links": {"self": f"{_BASE}/assets/{row['asset_id']}"},
    }


async def list_policies(pool: Pool, tenant_id: TenantId, *, limit: int, after: int | None) -> Page:
    """Newest first; `inForce` marks the one that decides now."""
    rows = await _many(pool, tenant_id, "list_policies", limit=limit + 1, before_version=after)
    shown = ({**_policy(row), "inForce": bool(row["in_force"])} for row in rows)
    return _page(rows, limit, shown, "version")


async def read_policy(pool: Pool, tenant_id: TenantId, version: int) -> dict[str, Json]:
    row = await _one(pool, tenant_id, "read_policy", version=version)
    if row is None:
        raise PolicyNotFound
    return {**_policy(row), "document": row["document"]}


def _policy(row: Row) -> dict[str, Json]:
    return {
        "version": row["version"],
        "name": row["name"],
        "effectiveFrom": _time(row["effective_from"]),
        "loadedAt": _time(row["loaded_at"]),
        "loadedBy": row["loaded_by"],
        "shared": row["shared"],
        "links": {"self": f"{_BASE}/policies/{row['version']}"},
    }


async def read_staff(pool: Pool, tenant_id: TenantId, subject: str) -> dict[str, Json] | None:
    """What a person may decide in Tasklist; None where nothing was ever said of them."""
    row = await _one(pool, tenant_id, "read_staff", subject=subject)
    return None if row is None else show_staff(row)


async def list_staff(pool: Pool, tenant_id: TenantId) -> list[dict[str, Json]]:
    """Everybody of whom something was said."""
    return [show_staff(row) for row in await _many(pool, tenant_id, "list_staff")]


def show_staff(row: Row) -> dict[str, Json]:
    return {
        "subject": row["subject"],
        "roles": row["roles"],
        "changedBy": row["changed_by"],
        "changedAt": _time(row["changed_at"]),
    }


# -- operations ----------------------------------------------------------------------------------------------


async def read_dashboard(pool: Pool, tenant_id: TenantId) -> dict[str, Json]:
    """Counts of what is live, and the age of the oldest of each kind in seconds."""
    found = await _one(pool, tenant_id, "read_dashboard")
    now = parse_time(found["now"])

    def age(moment: str | None) -> float | None:
        return None if moment is None else max((now - datetime.fromisoformat(moment)).total_seconds(), 0.0)

    def table(rows: list[Row] | None, key: str) -> list[dict[str, Json]]:
        return [
            {
                key: row[key],
                "count": row["count"],
                "oldest": _time(row["oldest"]),
                "oldestAgeSeconds": age(row["oldest"]),
            }
            for row in rows or ()
        ]

    return {
        "at": format_time(now),
        "orders": table(found["orders"], "state"),
        "openRequests": table(found["requests"], "status"),
        "cases": table(found["cases"], "category"),
        "outboxAgeSeconds": age(found["outbox"]) or 0.0,
        "engineOutboxAgeSeconds": age(found["engine_outbox"]) or 0.0,
        "jeopardy": found["jeopardy"],
        "unknownOutcomes": found["unknown"],
        "inJeopardy": [
            {
                "kind": row["kind"],
                "id": row["id"],
                "orderId": row["order_id"],
                "status": row["status"],
                "since": _time(row["since"]),
                "due": _time(row["due"]),
            }
            for row in found["in_jeopardy"] or ()
        ],
        "casesByContext": table(found["contexts"], "context"),
        "findings": [
            {**row, "explanation": EXPLANATIONS[row["class"]], "remedy": REMEDIES[row["class"]]}
            for row in table(found["findings"], "class")
        ],
    }


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether chains of hashes hold; `last` is where to go on with the next orders."""

    body: dict[str, Json]
    last: tuple[str, ...] | None = None


async def verify_audit(
    pool: Pool, tenant_id: TenantId, *, order_id: OrderId | None, limit: int, after: Place | None
) -> Verified:
    """Recompute the chains of one order, or of the next `limit` orders, oldest first. Raises OrderNotFound."""
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        orders = await fetch_all(
            connection,
            _SQL["list_chains"],
            tenant_id=tenant_id,
            order_id=order_id,
            limit=limit + 1,
            **_after(after),
        )
        if order_id is not None and not orders:
            raise OrderNotFound
        checked = 0
        for order in orders[:limit]:
            rows = await fetch_all(connection, _SQL["read_chain"], tenant_id=tenant_id, order_id=order["order_id"])
            entries = [_audit_entry(dict(row)) for row in rows]
            checked += len(entries)
            broken = find_break(entries, (order["sequence"], order["chain"]))
            if broken is not None:
                body = {"valid": False, "entries": checked, "orderId": str(order["order_id"]), "firstBroken": broken}
                return Verified(body)
    last = orders[limit - 1] if len(orders) > limit else None
    return Verified(
        {"valid": True, "entries": checked},
        (last["created_at"].isoformat(), str(last["order_id"])) if last else None,
    )


def _audit_entry(row: Row) -> AuditEntry:
    return AuditEntry(**{**row, "data": orjson.loads(row["data"])})


async def ping(pool: Pool) -> None:
    """Raises what the database's absence raises."""
    async with pool.acquire() as connection:
        await _ask(connection)


async def _ask(connection: Connection) -> None:
    await fetch_row(connection, _SQL["ping"])
