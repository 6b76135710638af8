"""Orders that follow up another: asked for, proposed by a cancellation, made of a case; and how orders relate. It must
never change what the followed order says of itself."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from domain.arbitration import arbitrate_supplemental
from domain.commands import AcceptOrder, AddRelation, CreateProposal, OrderItem, SupplementOrder
from domain.errors import (
    FieldError,
    OrderTerminal,
    ProposalNotFound,
    ProposalTaken,
    RelationCycle,
    RelationTargetUnknown,
    RequestNotFound,
    Unprocessable,
)
from domain.ledger import Effect
from domain.order import Draft, Request, Surroundings
from domain.values import Json, OrderId

# What the source says where the new order's asker says nothing.
COPIED: Final = ("customer", "contact", "deliveryAddress", "installationAddress")

# 1-domain §7: how an order relates to the one that it follows up, by its type; a proposed DISCONNECT cancels it.
RELATION_OF: Final[Mapping[str, str]] = {
    "RETURN": "ROLLS_BACK",
    "BILLING_ADJUSTMENT": "COMPENSATES",
    "REPAIR": "REPAIRS",
}


def name_relation(order_type: str, *, proposed: bool) -> str:
    if order_type == "DISCONNECT" and proposed:
        return "CANCELS"
    return RELATION_OF.get(order_type, "SUPPLEMENTS")


def supplement_order(draft: Draft, command: SupplementOrder) -> None:
    """Ask for a new order beside this one. An order of which nothing was delivered has nothing to be followed up; one
    that is being changed must come to rest first (§8)."""
    if draft.head.state in {"CANCELLED", "FAILED", "REJECTED"}:
        raise OrderTerminal(
            f"The order has ended as {draft.head.state}; there is nothing that a new order could change."
        )
    arbitrate_supplemental(draft)
    _follow_up(draft, replace(command.new, content=_complete(draft, command.new.content)))


def _complete(draft: Draft, content: Mapping[str, Json]) -> dict[str, Json]:
    inherited = {name: draft.head.content[name] for name in COPIED if draft.head.content.get(name) is not None}
    return {**inherited, **{name: value for name, value in content.items() if value is not None}}


def _follow_up(draft: Draft, new: AcceptOrder) -> None:
    relation = name_relation(new.order_type, proposed=new.proposed)
    named = {"type": relation, "targetOrderId": str(draft.head.order_id), "reasonCode": new.reason_code}
    draft.follow_up = replace(new, source=OrderId(draft.head.order_id), relations=(named,))
    draft.record(
        "SUPPLEMENTAL_LINKED",
        "ORDER",
        draft.head.order_id,
        newOrderId=str(new.order_id),
        orderType=new.order_type,
        type=relation,
    )


def create_proposal(draft: Draft, command: CreateProposal) -> None:
    """Make what a cancellation proposed, once; it may be made whatever else is under way on its source (§7)."""
    request = draft.requests.get(command.request_id)
    if request is None:
        raise RequestNotFound
    proposal = next((one for one in request.proposals if one["n"] == command.number), None)
    if proposal is None:
        raise ProposalNotFound
    if proposal.get("createdOrderId"):
        raise ProposalTaken(blocked_by=f"/api/v1/orders/{proposal['createdOrderId']}")
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    _follow_up(draft, make_proposed(draft, proposal, command.new_order_id, request.reason_code))
    draft.change_request(
        request.request_id,
        proposals=tuple(
            {**one, "createdOrderId": str(command.new_order_id)} if one is proposal else one
            for one in request.proposals
        ),
    )


def make_proposed(draft: Draft, proposal: Mapping[str, Json], order_id: OrderId, reason_code: str) -> AcceptOrder:
    """The order that a proposal describes, filled with what its source says of customer, contact and addresses."""
    return AcceptOrder(
        order_id=order_id,
        external_id=None,
        order_type=str(proposal["orderType"]),
        content=_complete(draft, {}),
        items=tuple(_read_item(item) for item in proposal["items"]),
        reason_code=proposal["reasonCode"] or reason_code,
        proposed=True,
    )


def follow_effect(draft: Draft, effect: Effect, request: Request | None, reason_code: str) -> dict[str, Json] | None:
    """The proposal that an effect's own type names for what stays of it; None where it names none, or where the thing
    that the new order would be about is no asset yet."""
    task = draft.tasks[effect.task_id]
    follow_up = draft.fulfillment_types[task.task_type].follow_up
    if follow_up is None:
        return None
    given_up = request.quantities if request else {}
    items: list[Json] = []
    for item_id in task.item_ids:
        item = draft.items[item_id]
        asset = item.asset or item.target_asset
        if asset is None and follow_up.action in {"MODIFY", "DISCONNECT"}:
            return None
        items.append(
            {
                "itemId": item_id,
                "action": follow_up.action,
                "productOfferingId": item.offering,
                "quantity": given_up.get(item_id, item.quantity),
                "configuration": item.content.get("configuration") or {},
                "targetAssetId": str(asset) if asset and follow_up.action != "ADD" else None,
            }
        )
    return {"orderType": follow_up.order_type, "reasonCode": reason_code, "items": items}


_ORDER_TYPES: Final = ("SUPPLEMENTAL", "DISCONNECT", "RETURN", "REPAIR", "BILLING_ADJUSTMENT")
_ITEM_ACTIONS: Final = ("ADD", "MODIFY", "DISCONNECT", "RETURN")
_ITEM_PARTS: Final = frozenset(
    {"itemId", "action", "productOfferingId", "quantity", "configuration", "price", "targetAssetId"}
)


def read_wish(wish: Mapping[str, Json], reason_code: str) -> dict[str, Json]:
    """The order that a repair's `input` describes, in the shape of a proposal. Raises Unprocessable, naming each part
    that cannot be read; whether such an order can be had, its own acceptance says."""
    faults: list[FieldError] = []
    if wish.get("orderType") not in _ORDER_TYPES:
        faults.append(FieldError("/input/orderType", f"one of {', '.join(_ORDER_TYPES)}"))
    faults += [FieldError(f"/input/{name}", "not known here") for name in sorted(wish.keys() - {"orderType", "items"})]
    given = wish.get("items")
    if not isinstance(given, list) or not 0 < len(given) <= 1000:
        faults.append(FieldError("/input/items", "a list of 1 to 1000 items"))
        given = []
    items: list[Json] = []
    for index, item in enumerate(given):
        found = _find_faults(item)
        faults += [FieldError(f"/input/items/{index}{where}", what) for where, what in found]
        if not found:
            items.append({"quantity": 1, "configuration": {}, "targetAssetId": None, **item})
    if faults:
        raise Unprocessable(errors=tuple(faults))
    return {"orderType": wish["orderType"], "reasonCode": reason_code, "items": items}


def _find_faults(item: Json) -> list[tuple[str, str]]:
    """(pointer, what is wanted there) of what cannot be read as an item."""
    if not isinstance(item, dict):
        return [("", "an item")]
    faults = [(f"/{name}", "not known here") for name in sorted(item.keys() - _ITEM_PARTS)]
    faults += [
        (f"/{name}", "a word")
        for name in ("itemId", "productOfferingId")
        if not isinstance(item.get(name), str) or not 0 < len(item[name]) <= 100
    ]
    if item.get("action") not in _ITEM_ACTIONS:
        faults.append(("/action", f"one of {', '.join(_ITEM_ACTIONS)}"))
    quantity = item.get("quantity", 1)
    if type(quantity) is not int or not 0 < quantity <= 1_000_000:
        faults.append(("/quantity", "a whole number from 1"))
    if not isinstance(item.get("configuration", {}), dict):
        faults.append(("/configuration", "an object"))
    price = item.get("price")
    if price is not None and not _is_money(price):
        faults.append(("/price", "an amount in minor units and a currency"))
    target = item.get("targetAssetId")
    if target is not None:
        try:
            uuid.UUID(target)
        except (AttributeError, TypeError, ValueError):
            faults.append(("/targetAssetId", "the id of an asset"))
    return faults


def _is_money(value: Json) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"amountMinor", "currency"}
        and type(value["amountMinor"]) is int
        and isinstance(value["currency"], str)
        and len(value["currency"]) == 3  # ISO 4217
    )


def convert(draft: Draft, proposal: Mapping[str, Json], reason_code: str) -> OrderId:
    """Ask for the order that does what a case cannot; a repair's order is exempt from what keeps others away (§7)."""
    order_id = OrderId(draft.new_id("order"))
    _follow_up(draft, make_proposed(draft, proposal, order_id, reason_code))
    return order_id


def _read_item(item: Mapping[str, Json]) -> OrderItem:
    named = {"itemId", "action", "productOfferingId", "quantity", "targetAssetId"}
    return OrderItem(
        item_id=str(item["itemId"]),
        action=str(item["action"]),
        offering=str(item["productOfferingId"]),
        quantity=int(item["quantity"]),
        content={name: value for name, value in item.items() if name not in named},
        target_asset=uuid.UUID(item["targetAssetId"]) if item["targetAssetId"] else None,
    )


def add_relation(draft: Draft, command: AddRelation, around: Surroundings) -> None:
    """A relation points from this order to an older one, by (created, id): no circle can come of it (D13)."""
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    where = (FieldError("/targetOrderId", "see detail"),)
    if command.target == draft.head.order_id:
        raise RelationCycle("An order does not relate to itself.", errors=where)
    if around.target is None:
        raise RelationTargetUnknown(errors=where)
    if around.target > (draft.head.created_at, draft.head.order_id):
        raise RelationCycle("A relation is said of the newer order and points to the older one.", errors=where)
    if around.related:
        raise Unprocessable("The orders are related in this way already.", errors=where)
    target = str(around.target[1])
    draft.record("RELATION_ADDED", "ORDER", draft.head.order_id, type=command.type, targetOrderId=target)
    draft.relations.append({"type": command.type, "targetOrderId": target, "reasonCode": command.reason_code})
