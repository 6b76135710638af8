"""Orders: taken in, shown, held and released. It must never judge an order; the door does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from starlette.responses import Response

from domain import machines
from domain.commands import AcceptOrder, AddRelation, HoldOrder, OrderItem, ReleaseOrder, SupplementOrder
from domain.errors import OrderNotFound
from domain.store import views
from domain.values import Json, OrderId, derive_id
from workers.api.calls import Asked, Call, answer_json, answer_page, answer_seen, ask, carry_out
from workers.api.graph import SVG, Node, draw_svg, prefers_svg
from workers.api.routing import Parameter, Routes
from workers.api.schemas import (
    OrderBody,
    OrderItemBody,
    ReasonBody,
    RelationBody,
    SupplementalBody,
    parse_uuid,
    read_part,
)
from workers.api.ui.wording import words

routes = Routes()

STATES: Final = frozenset(machines.ORDER)

# Members of the body that have columns of their own; the rest is the customer's document.
_COLUMNS: Final = frozenset({"externalId", "orderType", "items", "relations", "reasonCode"})
_ITEM_COLUMNS: Final = frozenset({"itemId", "action", "productOfferingId", "quantity"})


def order_of(call: Call) -> OrderId:
    return call.id("orderId", OrderId, OrderNotFound)  # type: ignore[no-any-return]


@routes.post("/orders", "OrderAnswer", body=OrderBody)
async def create_order(call: Call) -> Response:
    """Take an order in."""
    asked = await ask(call, OrderBody)
    return await carry_out(asked, call, make_order(asked))


def make_order(asked: Asked[OrderBody] | Asked[SupplementalBody]) -> AcceptOrder:
    """The new order; of a faulty body what may still collide with other orders: its external id and its assets."""
    body, document = asked.body, asked.document
    items = document.part("items")
    sound = [
        (item, given)
        for given in (items if isinstance(items, list) else [])[:1000]
        if (item := read_part(OrderItemBody, given)) is not None
    ]
    external_id = document.part("externalId")
    return AcceptOrder(
        order_id=OrderId(derive_id(asked.envelope.command_id, "order")),
        external_id=external_id if isinstance(external_id, str) else None,
        order_type=body.order_type if body else "STANDARD",
        content={name: value for name, value in document.value.items() if name not in _COLUMNS} if body else {},
        items=tuple(make_item(item, given) for item, given in sound),
        relations=tuple(relation.model_dump(by_alias=True) for relation in body.relations)
        if isinstance(body, OrderBody)
        else (),
        reason_code=body.reason_code if isinstance(body, SupplementalBody) else None,
        invalid=asked.invalid,
    )


@routes.post("/orders/{orderId}/supplemental-orders", "OrderAnswer", body=SupplementalBody)
async def create_supplemental(call: Call) -> Response:
    """Take in a new order that changes, ends, fetches back, repairs or settles what this one is about."""
    order_id = order_of(call)
    asked = await ask(call, SupplementalBody, partial(views.check_order, call.pool, call.tenant, order_id))
    return await carry_out(asked, call, SupplementOrder(order_id, make_order(asked)))


@routes.post("/orders/{orderId}/relations", "OrderAnswer", body=RelationBody, if_match="order")
async def add_relation(call: Call) -> Response:
    """Say how this order relates to an older one."""
    order_id = order_of(call)
    asked = await ask(call, RelationBody, partial(views.check_order, call.pool, call.tenant, order_id))
    body = asked.body
    target = parse_uuid(body.target_order_id) if body else None
    command = AddRelation(
        order_id,
        body.type if body else "",
        OrderId(target) if target else None,
        body.reason_code if body else None,
        asked.invalid,
    )
    return await carry_out(asked, call, command)


def make_item(item: OrderItemBody, given: Mapping[str, Json]) -> OrderItem:
    return OrderItem(
        item_id=item.item_id,
        action=item.action,
        offering=item.product_offering_id,
        quantity=item.quantity,
        content={name: value for name, value in given.items() if name not in _ITEM_COLUMNS},
        parent=item.parent_item_id,
        relies_on=tuple(item.relies_on),
        target_asset=parse_uuid(item.target_asset_id) if item.target_asset_id else None,
    )


@routes.get(
    "/orders",
    "OrderPage",
    query=(
        Parameter("state", {"type": "string", "enum": sorted(STATES)}),
        Parameter("customerId", {"type": "string"}),
        Parameter("externalId", {"type": "string"}),
        Parameter("updatedSince", {"type": "string", "format": "date-time"}),
    ),
)
async def list_orders(call: Call) -> Response:
    """Orders, newest first."""
    return answer_page(
        await views.list_orders(
            call.pool,
            call.tenant,
            limit=call.limit(),
            after=call.place(),
            state=call.choice("state", STATES),
            customer_id=call.text("customerId"),
            external_id=call.text("externalId"),
            updated_since=call.time("updatedSince"),
        )
    )


@routes.get("/orders/{orderId}", "Order", query=(Parameter("asOf", {"type": "string", "format": "date-time"}),))
async def show_order(call: Call) -> Response:
    """One order as it stands, or as it stood at a time."""
    operate = call.service.settings.operate_url
    return answer_seen(await views.read_order(call.pool, call.tenant, order_of(call), call.time("asOf"), operate))


@routes.get("/orders/{orderId}/plan", "TaskPage")
async def list_plan(call: Call) -> Response:
    """The tasks of every plan version, predecessors first."""
    page = await views.list_tasks(call.pool, call.tenant, order_of(call), limit=call.limit(), after=call.number() or 0)
    return answer_page(page)


@routes.get("/orders/{orderId}/effects", "EffectPage")
async def list_effects(call: Call) -> Response:
    """The ledger: what was meant, and what really happened outside."""
    page = await views.list_effects(call.pool, call.tenant, order_of(call), limit=call.limit(), after=call.place())
    return answer_page(page)


@routes.get("/orders/{orderId}/timeline", "AuditPage")
async def list_timeline(call: Call) -> Response:
    """The audit of the order, a chain of hashes, oldest entry first."""
    page = await views.list_audit(call.pool, call.tenant, order_of(call), limit=call.limit(), after=call.number() or 0)
    return answer_page(page)


@routes.get("/orders/{orderId}/progress", "Progress")
async def show_progress(call: Call) -> Response:
    """How far the running change is, what blocks it, and a sentence for the customer."""
    return answer_json(await views.read_progress(call.pool, call.tenant, order_of(call)))


@routes.get("/orders/{orderId}/related-orders", "OrderGraph", media=("application/json", SVG))
async def show_relations(call: Call) -> Response:
    """The graph of orders that this one belongs to; asked for as image/svg+xml, a picture of it, older ones first."""
    order_id = order_of(call)
    graph = await views.read_relations(call.pool, call.tenant, order_id)
    if prefers_svg(call.request):
        return Response(draw_orders(str(order_id), graph), media_type=SVG, headers={"Vary": "Accept"})
    return answer_json(graph, headers={"Vary": "Accept"})


def draw_orders(order_id: str, graph: Mapping[str, Json]) -> str:
    """The picture of a graph of orders as `read_relations` shows it; a box says how its order relates to older ones."""
    said: dict[str, list[str]] = {}
    for edge in graph["edges"]:
        said.setdefault(edge["source"], []).append(words(edge["type"]))
    nodes = [
        Node(
            node["orderId"],
            f"{words(node['orderType']).capitalize()} order {node['orderId'][:8]}",
            ", ".join(dict.fromkeys(said.get(node["orderId"], ()))),
            node["state"],
        )
        for node in graph["nodes"]
    ]
    pairs = dict.fromkeys((edge["target"], edge["source"]) for edge in graph["edges"])
    return draw_svg(f"Orders around {order_id[:8]}", nodes, pairs)


@routes.post("/orders/{orderId}/hold", "OrderAnswer", body=ReasonBody, if_match="order")
async def hold_order(call: Call) -> Response:
    """Hold every task of the order that has not started."""
    order_id = order_of(call)
    asked = await ask(call, ReasonBody, partial(views.check_order, call.pool, call.tenant, order_id))
    reason = asked.body.reason if asked.body else None
    return await carry_out(asked, call, HoldOrder(order_id, reason, asked.invalid))


@routes.post("/orders/{orderId}/release", "OrderAnswer", body=ReasonBody, if_match="order")
async def release_order(call: Call) -> Response:
    """Let a held order go on."""
    order_id = order_of(call)
    asked = await ask(call, ReasonBody, partial(views.check_order, call.pool, call.tenant, order_id))
    reason = asked.body.reason if asked.body else None
    return await carry_out(asked, call, ReleaseOrder(order_id, reason, asked.invalid))
