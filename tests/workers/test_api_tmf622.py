"""TM Forum's front door, by their published names (TMF622, version 4): the same orders, the same rules."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from domain import machines
from domain.values import OrderId
from tests.workers.api_world import ADDRESS, ApiWorld
from workers import tmf
from workers.api.app import SERVED
from workers.api.openapi import make_openapi

pytestmark = pytest.mark.asyncio(loop_scope="session")

ORDERS = f"{tmf.BASE}/productOrder"
TASKS = f"{tmf.BASE}/cancelProductOrder"

# What the specification names for each resource; members of ours beside them are listed apart.
ORDER_FIELDS = {
    "id", "href", "cancellationDate", "cancellationReason", "category", "completionDate", "description",
    "expectedCompletionDate", "externalId", "notificationContact", "orderDate", "priority", "requestedCompletionDate",
    "requestedStartDate", "agreement", "billingAccount", "channel", "note", "orderTotalPrice", "payment",
    "productOfferingQualification", "productOrderItem", "quote", "relatedParty", "state", "@baseType",
    "@schemaLocation", "@type",
}  # fmt: skip
ITEM_FIELDS = {
    "id", "quantity", "action", "appointment", "billingAccount", "itemPrice", "itemTerm", "itemTotalPrice", "payment",
    "product", "productOffering", "productOfferingQualificationItem", "productOrderItem",
    "productOrderItemRelationship", "qualification", "quoteItem", "state", "@baseType", "@schemaLocation", "@type",
}  # fmt: skip
TASK_FIELDS = {
    "id", "href", "cancellationReason", "effectiveCancellationDate", "requestedCancellationDate", "productOrder",
    "state", "@baseType", "@schemaLocation", "@type",
}  # fmt: skip
OURS = {"appointment", "contact", "deliveryAddress", "deliveryNote", "installationAddress"}

# 1-domain's table, typed from its text.
STATES = {
    "acknowledged": {"ACKNOWLEDGED", "VALIDATED"},
    "inProgress": {"IN_PROGRESS", "AMENDING"},
    "held": {"FALLOUT", "ON_HOLD"},
    "assessingCancellation": {"CANCELLATION_REQUESTED", "CANCELLATION_ASSESSING"},
    "pendingCancellation": {"CANCELLING"},
    "partial": {"PARTIALLY_COMPLETED"},
    "completed": {"COMPLETED"},
    "cancelled": {"CANCELLED"},
    "failed": {"FAILED"},
    "rejected": {"REJECTED"},
}


def a_product_order(**overrides: Any) -> dict[str, Any]:
    place = {"streetName": "Weg", "streetNr": "1", "city": "Berlin", "postcode": "12930", "country": "DE"}
    body = {
        "@type": "ProductOrder",
        "externalId": f"po-{uuid.uuid4().hex[:8]}",
        "category": "B2C product order",
        "description": "Fibre for the new flat",
        "priority": "1",
        "note": [{"id": "1", "author": "Jean", "text": "second floor"}],
        "relatedParty": [
            {"id": "s-1", "name": "Jean", "role": "Seller", "@referredType": "Individual"},
            {"id": "c-9", "name": "Ada", "role": "Customer", "@referredType": "Individual"},
        ],
        "appointment": {
            "start": "2030-12-01T09:00:00+01:00", "end": "2030-12-01T12:00:00+01:00", "timeZone": "Europe/Berlin",
        },
        "productOrderItem": [
            {
                "id": "100",
                "action": "add",
                "quantity": 1,
                "productOffering": {"id": "fiber-500", "name": "Fiber 500", "@referredType": "ProductOffering"},
                "itemPrice": [{"price": {"taxIncludedAmount": {"unit": "EUR", "value": 39.99}}}],
                "product": {
                    "productCharacteristic": [
                        {"name": "bandwidth", "value": "500M"}, {"name": "deviceModel", "value": "R7"},
                    ],
                    "place": [{"role": "installation address", **place}, {"role": "delivery address", **place}],
                },
            }
        ],
    } | overrides  # fmt: skip
    return {name: value for name, value in body.items() if value is not None}


async def create(world: ApiWorld, **overrides: Any) -> dict[str, Any]:
    answer = await world.send("POST", ORDERS, body=a_product_order(**overrides), key=None)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_every_state_is_told_by_the_table() -> None:
    assert {ours: theirs for theirs, every in STATES.items() for ours in every} == dict(tmf.ORDER_STATES)
    assert set(tmf.ORDER_STATES) == set(machines.ORDER)
    assert set(tmf.ITEM_STATES) >= set(machines.ITEM)
    assert set(tmf.TASK_STATES) == set(machines.CANCELLATION_REQUEST)
    assert set(tmf.TASK_STATES.values()) == {"acknowledged", "inProgress", "done", "terminatedWithError"}


async def test_an_order_is_taken_in_and_given_back_in_their_words(world: ApiWorld) -> None:
    created = await create(world)
    assert created["href"] == f"http://recourse.test{ORDERS}/{created['id']}"
    assert set(created) <= ORDER_FIELDS | OURS
    answer = await world.get(f"{ORDERS}/{created['id']}")
    assert (answer.status_code, answer.json()) == (200, created)
    sent = a_product_order()
    for name in ("category", "description", "priority", "note", "relatedParty", "appointment"):
        assert created[name] == sent[name], name
    assert created["state"] == "acknowledged"
    (item,) = created["productOrderItem"]
    assert set(item) <= ITEM_FIELDS
    assert (item["id"], item["action"], item["state"]) == ("100", "add", "acknowledged")
    assert item["productOffering"]["id"] == "fiber-500"
    assert item["itemPrice"][0]["price"]["dutyFreeAmount"] == {"unit": "EUR", "value": 39.99}
    assert {one["name"]: one["value"] for one in item["product"]["productCharacteristic"]} == {
        "bandwidth": "500M", "deviceModel": "R7",
    }  # fmt: skip
    # The same order through the other door.
    ours = (await world.get(f"/orders/{created['id']}")).json()
    assert (ours["customer"], ours["installationAddress"]) == ({"id": "c-9", "name": "Ada"}, ADDRESS)
    assert ours["items"][0]["price"] == {"amountMinor": 3999, "currency": "EUR"}


async def test_what_is_only_told_of_an_order_is_given_back(world: ApiWorld) -> None:
    """Whatever the specification names is kept, of the order and of its items; nothing is lost in silence."""
    told = {
        "agreement": [{"id": "a-1", "name": "frame"}],
        "billingAccount": {"id": "b-1"},
        "orderTotalPrice": [
            {"priceType": "recurring", "price": {"taxIncludedAmount": {"unit": "EUR", "value": 39.99}}}
        ],
        "productOfferingQualification": [{"id": "q-1"}],
        "quote": [{"id": "quote-1"}],
        "requestedCompletionDate": "2030-12-24T00:00:00Z",
    }
    of_item = {
        "appointment": {"id": "ap-1"},
        "billingAccount": {"id": "b-2"},
        "itemTerm": [{"name": "12 months", "duration": {"amount": 12, "units": "month"}}],
        "payment": [{"id": "p-1"}],
        "quoteItem": {"id": "1", "quoteId": "quote-1"},
    }
    sent = a_product_order(**told)
    (line,) = sent["productOrderItem"]
    line |= of_item
    line["product"] |= {"name": "my fibre", "productSpecification": {"id": "ps-1"}}
    line["product"]["place"].append({"role": "point of sale", "id": "shop-3"})
    answer = await world.send("POST", ORDERS, body=sent, key=None)
    assert answer.status_code == 201, answer.text
    shown = (await world.get(f"{ORDERS}/{answer.json()['id']}")).json()
    assert shown == answer.json()
    (item,) = shown["productOrderItem"]
    assert {name: shown[name] for name in told} == told
    assert {name: item[name] for name in of_item} == of_item
    assert item["productOffering"] == line["productOffering"]
    assert (item["product"]["name"], item["product"]["productSpecification"]) == ("my fibre", {"id": "ps-1"})
    assert item["product"]["place"] == [{"role": "point of sale", "id": "shop-3"}]
    # A patch that says it again changes nothing; one that says something else of it is refused by name.
    path, again = f"{ORDERS}/{shown['id']}", {"productOrderItem": [item]}
    assert (await world.send("PATCH", path, body=again)).status_code == 200
    again["productOrderItem"] = [{**item, "itemTerm": [], "colour": 1}, {**item, "id": "101", "action": "add"}]
    refused = await world.send("PATCH", path, body=again)
    assert refused.status_code == 422
    assert {fault["path"] for fault in refused.json()["errors"]} == {
        "/productOrderItem/0/itemTerm", "/productOrderItem/0/colour",
        *(f"/productOrderItem/1/{name}" for name in (*of_item, "product")),
    }  # fmt: skip


async def test_faults_are_named_where_they_stand_in_their_body(world: ApiWorld) -> None:
    body = a_product_order(relatedParty=None, surprise=1)
    body["productOrderItem"][0] |= {"action": "replace", "productOrderItem": [{"id": "100.1"}]}
    answer = await world.send("POST", ORDERS, body=body)
    assert answer.status_code == 422
    paths = {fault["path"] for fault in answer.json()["errors"]}
    assert paths == {"/relatedParty", "/surprise", "/productOrderItem/0/action", "/productOrderItem/0/productOrderItem"}


@pytest.mark.parametrize(
    "body", [[], "x", {"productOrderItem": {}}, {"productOrderItem": [1, None]}, {"relatedParty": 3}]
)
async def test_what_is_no_order_is_refused(world: ApiWorld, body: Any) -> None:
    assert (await world.send("POST", ORDERS, body=body)).status_code == 422


async def test_a_key_makes_it_one_order_and_without_one_each_is_its_own(world: ApiWorld) -> None:
    body = a_product_order(externalId=None)
    first, again = [await world.send("POST", ORDERS, body=body, key="k-1") for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = await world.send("POST", ORDERS, body=body, key=None)
    assert other.json()["id"] != first.json()["id"]


async def test_lists_have_numbers_totals_filters_and_chosen_fields(world: ApiWorld) -> None:
    made = [await create(world, externalId=f"list-{number}") for number in range(5)]
    page = await world.get(f"{ORDERS}?offset=1&limit=2&fields=state,externalId")
    assert (page.headers["x-total-count"], page.headers["x-result-count"]) == ("5", "2")
    assert [set(row) for row in page.json()] == [{"id", "href", "@type", "state", "externalId"}] * 2
    assert [row["externalId"] for row in page.json()] == ["list-3", "list-2"]
    one = (await world.get(f"{ORDERS}/{made[0]['id']}?fields=state")).json()
    assert set(one) == {"id", "href", "@type", "state"}
    described = make_openapi(SERVED, base_url="http://recourse.test")["components"]["schemas"]["ProductOrderView"]
    assert set(described["required"]) <= set(one)
    (found,) = (await world.get(f"{ORDERS}?externalId=list-4")).json()
    assert found["id"] == made[4]["id"]
    assert (await world.get(f"{ORDERS}?state=acknowledged,held")).headers["x-total-count"] == "5"
    assert (await world.get(f"{ORDERS}?state=completed")).json() == []
    assert (await world.get(f"{ORDERS}?relatedParty.id=c-9")).headers["x-total-count"] == "5"
    assert (await world.get(f"{ORDERS}?relatedParty.id=c-8")).headers["x-total-count"] == "0"
    assert (await world.get(f"{ORDERS}?priority=1&category=B2C%20product%20order")).headers["x-total-count"] == "5"
    assert (await world.get(f"{ORDERS}?priority=2")).headers["x-total-count"] == "0"
    assert [row["id"] for row in (await world.get(f"{ORDERS}?id={made[3]['id']}")).json()] == [made[3]["id"]]
    for wrong in ("state=done", "offset=-1", "limit=0", "colour=red", "orderDate.gt=today", "id=3"):
        assert (await world.get(f"{ORDERS}?{wrong}")).status_code == 400, wrong


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ("orderDate={at}", "2"),
        ("orderDate.gt={at}", "34"),
        ("orderDate.gte={at}", "234"),
        ("orderDate.lt={at}", "01"),
        ("orderDate.lte={at}", "012"),
        ("orderDate.gte={at}&orderDate.lt={at}", ""),
        ("orderDate.gt=9999-12-31T23:59:59.999Z", ""),
        ("orderDate.lte=9999-12-31T23:59:59.999Z", "01234"),
    ],
)
async def test_a_date_bounds_a_list_as_its_operator_says(world: ApiWorld, filters: str, found: str) -> None:
    """To the millisecond, as dates are shown: one that was shown finds its order."""
    made: list[dict[str, Any]] = []
    while len(made) < 5:
        order = await create(world)
        # Two of one millisecond cannot be told apart by their dates.
        if not made or order["orderDate"] != made[-1]["orderDate"]:
            made.append(order)
    numbers = {order["id"]: str(number) for number, order in enumerate(made)}
    rows = (await world.get(f"{ORDERS}?limit=200&{filters.format(at=made[2]['orderDate'])}")).json()
    assert "".join(sorted(numbers[row["id"]] for row in rows if row["id"] in numbers)) == found


async def test_a_cancel_task_really_cancels(world: ApiWorld) -> None:
    order = await create(world)
    await world.fulfil(order["id"], only={"reserve-inventory"})
    body = {"cancellationReason": "Customer changed mind", "productOrder": {"id": order["id"], "@referredType": "x"}}
    answer = await world.send("POST", TASKS, body=body, key=None)
    assert answer.status_code == 201, answer.text
    task = answer.json()
    assert set(task) <= TASK_FIELDS
    assert (task["state"], task["productOrder"]["id"]) == ("acknowledged", order["id"])
    assert answer.headers["location"] == f"http://recourse.test{TASKS}/{task['id']}"
    assert (await world.get(f"{ORDERS}/{order['id']}")).json()["state"] == "assessingCancellation"
    planned = await world.judge(order["id"], task["id"])
    assert (await world.get(f"{TASKS}/{task['id']}")).json()["state"] == "inProgress"
    assert (await world.get(f"{ORDERS}/{order['id']}")).json()["state"] == "pendingCancellation"
    await world.walk(OrderId(uuid.UUID(order["id"])), planned["plan_id"], planned["plan_run"])
    ended, done = (await world.get(f"{ORDERS}/{order['id']}")).json(), (await world.get(f"{TASKS}/{task['id']}")).json()
    assert (ended["state"], done["state"]) == ("cancelled", "done")
    assert ended["cancellationDate"] == done["effectiveCancellationDate"]
    listed = await world.get(f"{TASKS}?productOrder.id={order['id']}")
    assert (listed.headers["x-total-count"], listed.json()) == ("1", [done])
    for filters, count in (
        (f"id={task['id']}&state=done,inProgress", "1"),
        (f"id={task['id']}&state=acknowledged", "0"),
    ):
        assert (await world.get(f"{TASKS}?{filters}")).headers["x-total-count"] == count, filters
    assert (await world.get(f"{TASKS}?state=completed")).status_code == 400
    # The audit says who asked, as by the other door.
    timeline = (await world.get(f"/orders/{order['id']}/timeline?limit=200")).json()["items"]
    assert {"alice"} <= {entry["actor"] for entry in timeline}


async def test_the_door_refuses_what_it_always_refuses(world: ApiWorld) -> None:
    order = await create(world)
    ref = {"productOrder": {"id": order["id"]}}
    for body, status in (
        ({**ref, "cancellationReason": "bored"}, 422),
        (ref, 422),
        ({"cancellationReason": "Customer changed mind", "productOrder": {"id": str(uuid.uuid4())}}, 404),
    ):
        assert (await world.send("POST", TASKS, body=body)).status_code == status, body
    sound = {**ref, "cancellationReason": "CUSTOMER_CHANGED_MIND"}
    assert (await world.send("POST", TASKS, body=sound)).status_code == 201
    second = await world.send("POST", TASKS, body=sound)
    assert second.status_code == 409


@pytest.mark.parametrize(("method", "path"), [("POST", ORDERS), ("GET", ORDERS), ("POST", TASKS), ("GET", TASKS)])
async def test_nobody_passes_without_token_role_and_tenant(world: ApiWorld, method: str, path: str) -> None:
    assert (await world.send(method, path, as_=None, body={})).status_code == 401
    if method == "POST":
        assert (await world.send(method, path, as_=("eve", "auditor"), body={})).status_code == 403
    order = await create(world)
    elsewhere = await world.get(f"{ORDERS}/{order['id']}", tenant=uuid.uuid4())
    assert elsewhere.status_code == 404
    assert (await world.get(ORDERS, tenant=uuid.uuid4())).json() == []


async def test_a_patch_is_an_amendment(world: ApiWorld) -> None:
    """What the policy allows at once stands in the answer; what must be judged first is asked for."""
    order = await create(world, contact={"name": "Ada", "phone": "+49 30 1234567"})
    path = f"{ORDERS}/{order['id']}"
    contact = {"name": "Ada", "phone": "+49 30 7654321"}
    body = {"contact": contact, "description": order["description"], "amendmentReason": "Customer request"}
    answer = await world.send("PATCH", path, body=body)
    assert (answer.status_code, answer.json()["contact"]) == (200, contact)
    assert answer.json() == (await world.get(path)).json()
    (amendment,) = (await world.get(f"/orders/{order['id']}/amendment-requests")).json()["items"]
    assert (amendment["status"], amendment["reasonCode"]) == ("APPLIED", "CUSTOMER_REQUEST")
    assert answer.headers["location"].endswith(amendment["amendmentRequestId"])
    # The same again changes nothing, and asks for nothing.
    same = await world.send("PATCH", path, body=body)
    assert (same.status_code, same.json()) == (200, answer.json())
    assert "location" not in same.headers

    await world.fulfil(order["id"], only=set())
    line = {"id": "100", "product": {"productCharacteristic": [{"name": "deviceModel", "value": "R9"}]}}
    asked = await world.send("PATCH", path, body={"productOrderItem": [line], "amendmentReason": "CUSTOMER_REQUEST"})
    assert asked.status_code == 202, asked.text
    traits = asked.json()["productOrderItem"][0]["product"]["productCharacteristic"]
    assert {"name": "deviceModel", "value": "R7"} in traits
    listed = (await world.get(f"/orders/{order['id']}/amendment-requests")).json()["items"]
    assert [change["path"] for change in listed[-1]["changes"]] == ["/items/100/configuration/deviceModel"]


@pytest.mark.parametrize(
    ("body", "status", "code", "path"),
    [
        ({"state": "cancelled"}, 422, "INVALID_BODY", "/state"),
        ({"priority": "4", "amendmentReason": "x"}, 422, "INVALID_BODY", "/priority"),
        ({"productOrderItem": [{"id": "7"}], "amendmentReason": "x"}, 422, "INVALID_BODY", "/productOrderItem/0"),
        ({"contact": {"name": "B", "phone": "+49 1"}}, 422, None, "/amendmentReason"),
        ({"externalId": "b", "amendmentReason": "customer request"}, 422, "FIELD_NOT_AMENDABLE", "/externalId"),
        ([], 422, "INVALID_BODY", None),
    ],
)  # fmt: skip
async def test_a_patch_of_what_is_no_term_is_refused_in_both_words(
    world: ApiWorld, body: Any, status: int, code: str | None, path: str | None
) -> None:
    order = await create(world)
    answer = await world.send("PATCH", f"{ORDERS}/{order['id']}", body=body)
    told = answer.json()
    assert answer.status_code == status, told
    assert code is None or told["code"] == code
    assert path is None or path in {fault["path"] for fault in told["errors"]}
    assert (told["@type"], told["reason"], told["message"]) == ("Error", told["title"], told["detail"])
    assert (await world.get(f"{ORDERS}/{order['id']}")).json() == order


async def test_a_patch_is_checked_against_the_version_where_one_is_named(world: ApiWorld) -> None:
    order = await create(world)
    body = {"deliveryNote": "ring twice", "amendmentReason": "customer request"}
    path = f"{ORDERS}/{order['id']}"
    assert (await world.send("PATCH", path, body=body, if_match='"order-version-99"')).status_code == 412
    assert (await world.send("PATCH", path, body=body, tenant=uuid.uuid4())).status_code == 404
    assert (await world.send("PATCH", path, body=body, as_=("eve", "auditor"))).status_code == 403
    etag = (await world.get(path)).headers["etag"]
    assert (await world.send("PATCH", path, body=body, if_match=etag)).json()["deliveryNote"] == "ring twice"
