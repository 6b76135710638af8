"""TM Forum's front door, by their published names (TMF622, version 4): the same orders, the same rules."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from domain import machines
from domain.values import OrderId
from tests.workers.api_world import ADDRESS, ApiWorld
from workers.api import tmf

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


async def test_faults_are_named_where_they_stand_in_their_body(world: ApiWorld) -> None:
    body = a_product_order(relatedParty=None, surprise=1)
    body["productOrderItem"][0]["action"] = "replace"
    answer = await world.send("POST", ORDERS, body=body)
    assert answer.status_code == 422
    paths = {fault["path"] for fault in answer.json()["errors"]}
    assert paths == {"/relatedParty", "/surprise", "/productOrderItem/0/action"}


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
    (found,) = (await world.get(f"{ORDERS}?externalId=list-4")).json()
    assert found["id"] == made[4]["id"]
    assert (await world.get(f"{ORDERS}?state=acknowledged,held")).headers["x-total-count"] == "5"
    assert (await world.get(f"{ORDERS}?state=completed")).json() == []
    assert (await world.get(f"{ORDERS}?relatedParty.id=c-9")).headers["x-total-count"] == "5"
    assert (await world.get(f"{ORDERS}?relatedParty.id=c-8")).headers["x-total-count"] == "0"
    later = made[2]["orderDate"]
    assert (await world.get(f"{ORDERS}?orderDate.lt={later}")).headers["x-total-count"] == "2"
    assert (await world.get(f"{ORDERS}?orderDate.gt={later}")).headers["x-total-count"] == "3"
    for wrong in ("state=done", "offset=-1", "limit=0", "colour=red", "orderDate.gt=today"):
        assert (await world.get(f"{ORDERS}?{wrong}")).status_code == 400, wrong


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
