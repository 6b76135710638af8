"""Orders in TM Forum's words (TMF622, version 4) and back. Pure; it must never decide, nor know an offering."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from domain.decide import order_etag
from domain.errors import FieldError, Unprocessable
from domain.values import Json, Money, format_time

BASE: Final = "/tmf-api/productOrderingManagement/v4"

# Our states in theirs; several of ours may be one of theirs.
ORDER_STATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ACKNOWLEDGED": "acknowledged",
        "VALIDATED": "acknowledged",
        "IN_PROGRESS": "inProgress",
        "AMENDING": "inProgress",
        "FALLOUT": "held",
        "ON_HOLD": "held",
        "CANCELLATION_REQUESTED": "assessingCancellation",
        "CANCELLATION_ASSESSING": "assessingCancellation",
        "CANCELLING": "pendingCancellation",
        "COMPLETED": "completed",
        "PARTIALLY_COMPLETED": "partial",
        "CANCELLED": "cancelled",
        "FAILED": "failed",
        "REJECTED": "rejected",
    }
)
# An item can be replaced by another one; to who asked for it, it will not come.
ITEM_STATES: Final[Mapping[str, str]] = MappingProxyType({**ORDER_STATES, "SUPERSEDED": "cancelled"})
TASK_STATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ACCEPTED_FOR_ASSESSMENT": "acknowledged",
        "ASSESSING": "inProgress",
        "REQUIRES_APPROVAL": "inProgress",
        "AWAITING_CHARGE_DECISION": "inProgress",
        "APPROVED": "inProgress",
        "COMPENSATING": "inProgress",
        "COMPLETED": "done",
        "PARTIALLY_COMPLETED": "done",
        "REJECTED": "terminatedWithError",
        "WITHDRAWN": "terminatedWithError",
        "SUPERSEDED": "terminatedWithError",
    }
)
_ACTIONS: Final = MappingProxyType({"add": "ADD", "modify": "MODIFY", "delete": "DISCONNECT", "noChange": "NO_CHANGE"})
_ACTIONS_BACK: Final = MappingProxyType({ours: theirs for theirs, ours in _ACTIONS.items()} | {"RETURN": "delete"})

# What they say of an order and we only keep, to give it back.
_KEPT: Final = (
    "agreement", "billingAccount", "category", "channel", "description", "note", "notificationContact",
    "orderTotalPrice", "payment", "priority", "productOfferingQualification", "quote", "requestedCompletionDate",
)  # fmt: skip
_KEPT_OF_ITEM: Final = (
    "appointment", "billingAccount", "itemTerm", "itemTotalPrice", "payment", "productOfferingQualificationItem",
    "qualification", "quoteItem",
)  # fmt: skip
# What is read of an item; the rest of its offering and of its product is kept, its state is ours to tell.
_READ_OF_ITEM: Final = (
    "id", "action", "quantity", "state", "itemPrice", "product", "productOffering", "productOrderItemRelationship",
)  # fmt: skip
_NAMED_OF_ITEM: Final = frozenset({*_READ_OF_ITEM, *_KEPT_OF_ITEM})
_READ_OF_PRODUCT: Final = ("id", "place", "productCharacteristic")
# Members of our own that an order may carry beside theirs, as their rules for extending a resource allow.
_OURS: Final = ("appointment", "contact", "deliveryAddress", "deliveryNote", "installationAddress")
_PLACES: Final = (("deliver", "deliveryAddress"), ("install", "installationAddress"))
_READ_ONLY: Final = ("id", "href", "state", "orderDate", "completionDate", "expectedCompletionDate")
_POINTERS: Final = (("/items", "/productOrderItem"), ("/customer", "/relatedParty"))


def read_product_order(given: Json) -> Json:
    """Their body as ours; what cannot be told apart stays as it is, for the check of ours to name."""
    if not isinstance(given, dict):
        return given
    lines = given.get("productOrderItem")
    ours: dict[str, Json] = {name: given[name] for name in _OURS if name in given}
    for name in ("externalId", "requestedStartDate"):
        if name in given:
            ours[name] = given[name]
    if (customer := _read_customer(given.get("relatedParty"))) is not None:
        ours["customer"] = customer
    if isinstance(lines, list):
        read = [_read_item(line) for line in lines]
        ours["items"] = read
        actions = {line.get("action") for line in read if isinstance(line, dict)}
        if actions == {"DISCONNECT"}:
            ours["orderType"] = "DISCONNECT"
        for line in lines:
            for name, address in _read_places(line).items():
                ours.setdefault(name, address)
    elif lines is not None:
        ours["items"] = lines
    known = {*_KEPT, *_OURS, *_READ_ONLY, "externalId", "relatedParty", "requestedStartDate", "productOrderItem"}
    for name in given:
        if name not in known and not name.startswith("@"):
            ours[name] = given[name]  # not theirs and not ours: refused by name, never lost in silence
    return ours


def read_kept(given: Json) -> dict[str, Json]:
    """What we keep of their order as it was told; `items`: the same of each item that said anything, by its id."""
    if not isinstance(given, dict):
        return {}
    kept = {name: given[name] for name in (*_KEPT, "relatedParty") if name in given}
    lines = given.get("productOrderItem")
    told = [line for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
    if items := {str(line.get("id")): found for line in told if (found := _read_kept_of_item(line))}:
        kept["items"] = items
    return kept


def _read_kept_of_item(line: Mapping[str, Json]) -> dict[str, Json]:
    kept = {name: line[name] for name in _KEPT_OF_ITEM if name in line}
    product, offering = line.get("product"), line.get("productOffering")
    if isinstance(product, dict):
        rest = {name: value for name, value in product.items() if name not in _READ_OF_PRODUCT}
        places = product.get("place")
        if isinstance(places, list) and (others := [place for place in places if not _names_address(place)]):
            rest["place"] = others
        if rest:
            kept["product"] = rest
    if isinstance(offering, dict) and set(offering) > {"id"}:
        kept["productOffering"] = offering
    return kept


def name_faults(faults: tuple[FieldError, ...]) -> tuple[FieldError, ...]:
    """The same faults where they stand in the body that was sent."""
    told = []
    for fault in faults:
        where = fault.path
        for ours, theirs in _POINTERS:
            if where == ours or where.startswith(f"{ours}/"):
                where = theirs + where.removeprefix(ours)
        told.append(FieldError(where, fault.message))
    return tuple(told)


def _read_customer(parties: Json) -> Json:
    if not isinstance(parties, list):
        return parties
    named = [party for party in parties if isinstance(party, dict)]
    customers = [party for party in named if str(party.get("role", "")).lower() == "customer"]
    chosen = customers[0] if customers else named[0] if len(named) == 1 else None
    return chosen and {name: chosen[name] for name in ("id", "name") if name in chosen}


def _read_item(line: Json) -> Json:
    if not isinstance(line, dict):
        return line
    product = line.get("product")
    product = product if isinstance(product, dict) else {}
    offering = line.get("productOffering")
    ours: dict[str, Json] = {
        "itemId": line.get("id"),
        "action": _ACTIONS.get(action, action) if isinstance(action := line.get("action"), str) else action,
        "productOfferingId": offering.get("id") if isinstance(offering, dict) else offering,
    }
    if "quantity" in line:
        ours["quantity"] = line["quantity"]
    if product.get("id") is not None:
        ours["targetAssetId"] = product["id"]
    traits = product.get("productCharacteristic")
    if isinstance(traits, list):
        ours["configuration"] = {str(one.get("name")): one.get("value") for one in traits if isinstance(one, dict)}
    related = line.get("productOrderItemRelationship")
    for one in related if isinstance(related, list) else []:
        kind = str(one.get("relationshipType")) if isinstance(one, dict) else ""
        if kind == "reliesOn":
            ours.setdefault("reliesOn", []).append(one.get("id"))
        elif kind == "isChildOf":
            ours["parentItemId"] = one.get("id")
    if (price := _read_price(line.get("itemPrice"))) is not None:
        ours["price"] = price
    for name in line:
        if name not in _NAMED_OF_ITEM and not name.startswith("@"):
            ours[name] = line[name]  # refused by name, as of an order
    return ours


def _read_price(prices: Json) -> Json:
    """The first price, whose amount is {unit, value} in whole units of the currency."""
    try:
        price = prices[0]["price"]
        amount = price.get("dutyFreeAmount") or price["taxIncludedAmount"]
        return Money.from_units(amount["value"], amount["unit"]).to_json()
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError):
        return None


def _names_address(place: Json) -> bool:
    """Whether it is read as an address of ours."""
    role = str(place.get("role", "")).lower() if isinstance(place, dict) else ""
    return any(word in role for word, _ in _PLACES)


def _read_places(line: Json) -> dict[str, Json]:
    product = line.get("product") if isinstance(line, dict) else None
    places = product.get("place") if isinstance(product, dict) else None
    found: dict[str, Json] = {}
    for place in places if isinstance(places, list) else []:
        role = str(place.get("role", "")).lower() if isinstance(place, dict) else ""
        for word, name in _PLACES:
            if word in role:
                street = " ".join(str(place[part]) for part in ("streetName", "streetNr") if place.get(part))
                found[name] = {
                    "street": street,
                    "city": place.get("city"),
                    "postalCode": place.get("postcode"),
                    "country": place.get("country"),
                }
    return found


# -- changes of a live order ----------------------------------------------------------------------------------


def read_patch(given: Json, row: Mapping[str, Json]) -> dict[str, Json]:
    """Their merge patch as the body of an amendment of a row {head, items}; what is said as it stands is no change.

    Raises Unprocessable for what is no change of terms; whether a term may be changed, the policy says."""
    if not isinstance(given, dict):
        raise Unprocessable(errors=(FieldError("", "wants an object"),))
    content, lines = row["head"]["content"], given.get("productOrderItem")
    read = read_product_order({"productOrderItem": [], **given})
    faults = [FieldError(f"/{name}", "is not changed by a patch") for name in _unpatchable(given, row)]
    changes: list[dict[str, Json]] = []
    for name in (*_OURS, "externalId", "requestedStartDate", "customer"):
        if name in read:
            _note_change(changes, f"/{name}", content.get(name), read[name])
    items = {item["item_id"]: item for item in row["items"] or ()}
    for at, line in enumerate(lines if isinstance(lines, list) else []):
        item = items.get(line.get("id")) if isinstance(line, dict) and isinstance(line.get("id"), str) else None
        if item is not None:
            kept = content.get("tmf", {}).get("items", {}).get(item["item_id"], {})
            faults += [
                FieldError(f"/productOrderItem/{at}/{name}", "is not changed by a patch") for name in _lost(line, kept)
            ]
            _note_item(changes, item, line)
        elif isinstance(line, dict) and line.get("action") == "add":
            faults += [
                FieldError(f"/productOrderItem/{at}/{name}", "is not kept of an item that a patch brings")
                for name in _lost(line, {})
            ]
            changes.append({"path": "/items/-", "operation": "ADD", "newValue": _read_item(line)})
        else:
            faults.append(FieldError(f"/productOrderItem/{at}", "wants the id of an item, or the action add"))
    if lines is not None and not isinstance(lines, list):
        faults.append(FieldError("/productOrderItem", "wants a list"))
    if faults:
        raise Unprocessable(errors=tuple(faults))
    reason = given.get("amendmentReason")
    return {"reasonCode": reason_code(reason) if isinstance(reason, str) else reason, "changes": changes}


def _lost(line: Mapping[str, Json], kept: Mapping[str, Json]) -> list[str]:
    """Members of an item that a patch says otherwise than they are kept, or that nobody knows. What it says of the
    offering beside its id is not looked at: it describes it."""
    told = {name: value for name, value in _read_kept_of_item(line).items() if name != "productOffering"}
    told |= {name: line[name] for name in line if not (name in _NAMED_OF_ITEM or name.startswith("@"))}
    return [name for name, value in told.items() if not _leaves(value, kept.get(name))]


def _leaves(value: Json, stands: Json) -> bool:
    """Whether a merge patch that says this changes nothing."""
    if isinstance(value, dict) and isinstance(stands, dict):
        return all(_leaves(part, stands.get(name)) for name, part in value.items())
    return bool(value == stands)


def _unpatchable(given: Mapping[str, Json], row: Mapping[str, Json]) -> list[str]:
    """Members that a patch names and does not leave as they are, and that are no terms of the order."""
    shown = show_product_order(row, "")
    terms = {*_OURS, "externalId", "requestedStartDate", "relatedParty", "productOrderItem", "amendmentReason", "href"}
    return [name for name in given if name not in terms and not name.startswith("@") and given[name] != shown.get(name)]


def _note_change(changes: list[dict[str, Json]], path: str, before: Json, after: Json) -> None:
    if isinstance(before, dict) and isinstance(after, dict):  # a merge patch: what is not said stays
        for name, value in after.items():
            _note_change(changes, f"{path}/{name.replace('~', '~0').replace('/', '~1')}", before.get(name), value)
    elif after is None and before is not None:
        changes.append({"path": path, "operation": "REMOVE", "oldValue": before})
    elif after != before:
        changes.append({"path": path, "oldValue": before, "newValue": after})


def _note_item(changes: list[dict[str, Json]], item: Mapping[str, Json], line: Mapping[str, Json]) -> None:
    told, path = _read_item(line), f"/items/{item['item_id']}"
    if line.get("action") == "delete" and item["action"] != "DISCONNECT":
        changes.append({"path": path, "operation": "REMOVE"})
        return
    if "action" in line:
        _note_change(changes, f"{path}/action", item["action"], told["action"])
    if "productOffering" in line:
        _note_change(changes, f"{path}/productOfferingId", item["offering"], told["productOfferingId"])
    if "quantity" in line:
        _note_change(changes, f"{path}/quantity", item["quantity"], told["quantity"])
    stands = item["content"].get("configuration") or {}
    if "configuration" in told:
        _note_change(changes, f"{path}/configuration", stands, told["configuration"])
    if "price" in told:
        _note_change(changes, f"{path}/price", item["content"].get("price"), told["price"])


# -- and back --------------------------------------------------------------------------------------------------


def show_product_order(row: Mapping[str, Json], base_url: str) -> dict[str, Json]:
    """A row {head, items} as their resource."""
    head, content = row["head"], row["head"]["content"]
    kept = content.get("tmf", {})
    customer = content.get("customer") or {}
    party = {**customer, "role": "customer", "@referredType": "Customer"}
    shown = {
        "id": head["order_id"],
        "href": f"{base_url}{BASE}/productOrder/{head['order_id']}",
        "@type": "ProductOrder",
        "externalId": head["external_id"],
        "state": ORDER_STATES[head["state"]],
        "orderDate": _time(head["created_at"]),
        "completionDate": _time(head["ended_at"]) if head["state"] in _FULFILLED else None,
        "cancellationDate": _time(head["ended_at"]) if head["state"] == "CANCELLED" else None,
        "requestedStartDate": content.get("requestedStartDate"),
        **{name: content.get(name) for name in _OURS},
        **{name: kept.get(name) for name in _KEPT},
        "relatedParty": kept.get("relatedParty") or [party],
        "productOrderItem": [_show_item(item, kept) for item in row["items"] or ()],
    }
    return {name: value for name, value in shown.items() if value is not None}


_FULFILLED: Final = frozenset({"COMPLETED", "PARTIALLY_COMPLETED"})


def _show_item(item: Mapping[str, Json], kept_of_order: Mapping[str, Json]) -> dict[str, Json]:
    """kept_of_order: as `read_kept` gave it"""
    content = item["content"]
    kept = kept_of_order.get("items", {}).get(item["item_id"], {})
    # What was told of an offering is told of no other one.
    offering = kept.get("productOffering", {})
    offering = offering if offering.get("id") == item["offering"] else {"@referredType": "ProductOffering"}
    traits = [{"name": name, "value": value} for name, value in (content.get("configuration") or {}).items()]
    asset = item["asset"] or item["target_asset"]
    related = [{"id": other, "relationshipType": "reliesOn"} for other in item["relies_on"]]
    if item["parent"]:
        related.append({"id": item["parent"], "relationshipType": "isChildOf"})
    price = content.get("price")
    amount = price and {"unit": price["currency"], "value": Money.from_json(price).units}
    product = {**kept.get("product", {}), "id": asset, "productCharacteristic": traits or None}
    shown = {
        **{name: kept.get(name) for name in _KEPT_OF_ITEM},
        "id": item["item_id"],
        "@type": "ProductOrderItem",
        "action": _ACTIONS_BACK[item["action"]],
        "quantity": item["quantity"],
        "state": ITEM_STATES[item["state"]],
        "productOffering": {**offering, "id": item["offering"]},
        "product": {name: value for name, value in product.items() if value is not None} or None,
        "itemPrice": [{"price": {"dutyFreeAmount": amount}}] if amount else None,
        "productOrderItemRelationship": related or None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def show_task(row: Mapping[str, Json], base_url: str) -> dict[str, Json]:
    """A request to cancel a whole order as their task."""
    order_id = row["order_id"]
    done = TASK_STATES[row["status"]] == "done"
    shown = {
        "id": row["request_id"],
        "href": f"{base_url}{BASE}/cancelProductOrder/{row['request_id']}",
        "@type": "CancelProductOrder",
        "cancellationReason": row["reason_text"] or row["reason_code"],
        "requestedCancellationDate": _time(row["claimed_at"]) or _time(row["requested_at"]),
        "effectiveCancellationDate": _time(row["ended_at"]) if done else None,
        "productOrder": {
            "id": order_id,
            "href": f"{base_url}{BASE}/productOrder/{order_id}",
            "@referredType": "ProductOrder",
        },
        "state": TASK_STATES[row["status"]],
    }
    return {name: value for name, value in shown.items() if value is not None}


def word_error(code: str, title: str, detail: str) -> dict[str, Json]:
    """The members of their errors, which stand beside those of a problem."""
    return {"@type": "Error", "code": code, "reason": title, "message": detail}


# -- notifications ---------------------------------------------------------------------------------------------

# Their notifications, and the events of ours that come to one. Which one, and whether it is any news to them, the
# states say that it moved between: several of ours may be one of theirs.
NOTIFICATIONS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "ProductOrderCreateEvent": frozenset({"OrderAccepted"}),
        "ProductOrderStateChangeEvent": frozenset(
            {
                "OrderStateChanged",
                "OrderRejected",
                "OrderCompleted",
                "OrderPartiallyCompleted",
                "OrderCancelled",
                "OrderFailed",
            }
        ),
        "ProductOrderAttributeValueChangeEvent": frozenset({"OrderAmendmentApplied"}),
        "CancelProductOrderCreateEvent": frozenset({"OrderCancellationRequested"}),
        "CancelProductOrderStateChangeEvent": frozenset(
            {
                "OrderCancellationAssessmentStarted",
                "OrderCancellationRejected",
                "OrderCancellationWithdrawn",
                "OrderCancellationSuperseded",
                "OrderCancellationCompleted",
            }
        ),
        "CancelProductOrderInformationRequiredEvent": frozenset({"OrderCancellationAwaitsCharge"}),
    }
)
_NOTIFICATION_OF: Final = {f"recourse.{ours}.v1": theirs for theirs, each in NOTIFICATIONS.items() for ours in each}


def read_listening(query: str | None) -> frozenset[str]:
    """The types of our events that a listener's query comes to: `eventType=A,B`, all without one.

    Raises ValueError, with what is known."""
    wanted = set(NOTIFICATIONS)
    if query:
        parts = [part.partition("=") for part in query.split("&")]
        wanted = {value.strip() for _, _, values in parts for value in values.split(",")}
        if {name.strip() for name, _, _ in parts} != {"eventType"} or not wanted <= set(NOTIFICATIONS):
            raise ValueError(f"wants eventType= and one or more of {', '.join(sorted(NOTIFICATIONS))}")
    return frozenset(type_ for type_, theirs in _NOTIFICATION_OF.items() if theirs in wanted)


def name_notification(type_: str, payload: Mapping[str, Json]) -> str | None:
    """What an event of ours is called by them; None: it is no news to them."""
    theirs = _NOTIFICATION_OF.get(type_)
    if theirs is None or not theirs.endswith("StateChangeEvent"):
        return theirs
    states = ORDER_STATES if theirs.startswith("Product") else TASK_STATES
    return theirs if states.get(payload["from"]) != states.get(payload["to"]) else None


def show_notification(
    name: str, event_id: object, at: datetime, payload: Mapping[str, Json], resource: dict[str, Json]
) -> dict[str, Json]:
    """A notification about a resource of theirs, which stands as it is now; its state is that of the event."""
    kind = "productOrder" if name.startswith("Product") else "cancelProductOrder"
    states = ORDER_STATES if kind == "productOrder" else TASK_STATES
    if payload["to"] in states:
        resource = {**resource, "state": states[payload["to"]]}
    return {
        "@type": name,
        "eventId": str(event_id),
        "eventTime": format_time(at),
        "eventType": name,
        "correlationId": str(payload["orderId"]),
        "domain": "productOrdering",
        "event": {kind: resource},
    }


def show_listener(row: Mapping[str, Json]) -> dict[str, Json]:
    """A listener as their resource, with ours beside it: what waits for it, and what it did not take."""
    shown = {
        "id": row["listener_id"],
        "callback": row["callback"],
        "query": row["query"],
        "waiting": row["waiting"],
        "givenUp": row["given_up"],
        "toldAt": _time(row["told_at"]),
        "trouble": row["trouble"],
    }
    return {name: value for name, value in shown.items() if value is not None}


def choose_fields(shown: Mapping[str, Json], fields: str | None) -> dict[str, Json]:
    """The members that were asked for; who it is, is always told."""
    if fields is None:
        return dict(shown)
    wanted = {"id", "href", "@type", *(name.strip() for name in fields.split(","))}
    return {name: value for name, value in shown.items() if name in wanted}


def reason_code(given: str) -> str:
    """Prose as a code of the policy's kind: `Customer changed mind` is CUSTOMER_CHANGED_MIND."""
    return re.sub(r"[^A-Za-z0-9]+", "_", given).strip("_").upper()[:80]


def etag_of(row: Mapping[str, Json]) -> str:
    return order_etag(row["head"]["version"])


def _time(text: str | None) -> str | None:
    return None if text is None else format_time(datetime.fromisoformat(text))
