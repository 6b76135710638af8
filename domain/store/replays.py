"""Past assessments out of PostgreSQL, for another policy to judge; it must never write."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from domain.order import Order
from domain.replay import Past, Rejudged, rejudge
from domain.store.orders import load_order, read_item
from domain.store.policies import PolicyBook, read_document
from domain.store.pool import Connection, Pool, fetch_all, fetch_row, tenant_transaction
from domain.store.queries import load_queries
from domain.store.views import Page, Place
from domain.values import Json, OrderId, RequestId, TenantId, format_time

_SQL = load_queries("replays")


async def replay_policy(
    pool: Pool, book: PolicyBook, tenant_id: TenantId, version: int, *, limit: int, after: Place | None
) -> tuple[dict[str, Json], Page]:
    """Judge a page of the tenant's stored cancellation assessments, newest first, under a policy of its own or a
    shared one: (policyVersion, totals and notJudged of this page; those that would differ). Raises PolicyNotFound."""
    different: list[dict[str, Json]] = []
    not_judged: list[dict[str, Json]] = []
    judged = 0
    async with tenant_transaction(pool, tenant_id, read_only=True) as connection:
        await read_document(connection, version)  # whether this tenant may see it; the book serves all of them
        other = version, await book.read(connection, version)
        rows = await fetch_all(
            connection,
            _SQL["list_assessments"],
            tenant_id=tenant_id,
            before_at=after.at if after else None,
            before_id=after.id if after else None,
            limit=limit + 1,
        )
        for row in rows[:limit]:
            order, _, _ = await load_order(connection, tenant_id, OrderId(row["order_id"]))
            assert order is not None
            request = order.requests[RequestId(row["request_id"])]
            assert request.assessment is not None
            assert request.policy_version is not None
            then = request.policy_version, await book.read(connection, request.policy_version)
            past = await _load_past(connection, tenant_id, order, request.assessment["ledgerVersion"])
            found = rejudge(order, request.request_id, past, then, other)
            told = _name(order.head.order_id, request.request_id)
            if found.why_not is not None:
                not_judged.append({**told, "reason": found.why_not, "detail": found.sentence})
                continue
            judged += 1
            if found.differs:
                different.append({**told, **_compare(found)})
    last = rows[limit - 1] if len(rows) > limit else None
    return {
        "policyVersion": version,
        "totals": {"judged": judged, "different": len(different), "notJudged": len(not_judged)},
        "notJudged": not_judged,
    }, Page(different, (last["assessed_at"].isoformat(), str(last["request_id"])) if last else None)


def _name(order_id: UUID, request_id: UUID) -> dict[str, Json]:
    link = f"/api/v1/orders/{order_id}/cancellation-requests/{request_id}"
    return {"orderId": str(order_id), "cancellationRequestId": str(request_id), "links": {"request": link}}


def _compare(found: Rejudged) -> dict[str, Json]:
    at = found.request.assessed_at
    return {
        "assessedAt": format_time(at) if at else None,
        "policyVersion": found.request.policy_version,
        "before": dict(found.before),
        "after": dict(found.after or {}),
    }


async def _load_past(connection: Connection, tenant_id: TenantId, order: Order, sequence: int) -> Past:
    row = await fetch_row(
        connection, _SQL["load_past"], tenant_id=tenant_id, order_id=order.head.order_id, sequence=sequence
    )
    assert row is not None
    document: dict[str, Any] = orjson.loads(row["document"])
    return Past(
        document["content"] or {},
        {item["item_id"]: read_item(item) for item in document["items"] or ()},
        {(entity, entity_id): after for entity, entity_id, after in document["states"] or ()},
    )
