"""Orders over HTTP: taken in, refused, shown, held; each row of a table is one sentence of the contract."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import pytest

from domain.store import views
from domain.store.flows import note_flow
from domain.values import OrderId, Run
from tests.workers.api_world import ApiWorld, a_line, an_order_body

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_order_is_taken_in_and_shown_as_it_was_given(world: ApiWorld) -> None:
    body = an_order_body(externalId="CRM-4711", deliveryNote="ring twice", quoteId="q-1", priceAccepted=True)
    answer = await world.post("/orders", body)
    assert answer.status_code == 202
    told = answer.json()
    assert told["state"] == "ACKNOWLEDGED"
    assert told["externalId"] == "CRM-4711"
    assert answer.headers["etag"] == f'"order-version-{told["version"]}"'
    assert answer.headers["location"] == told["links"]["self"] == f"/api/v1/orders/{told['orderId']}"

    shown = await world.get(f"/orders/{told['orderId']}")
    assert shown.status_code == 200
    assert shown.headers["etag"] == answer.headers["etag"]
    seen = shown.json()
    for name in body.keys() - {"items"}:
        assert seen[name] == body[name], name
    for name, value in body["items"][0].items():
        assert seen["items"][0][name] == value, name
    assert seen["items"][0]["state"] == "ACKNOWLEDGED"
    assert seen["relations"] == []


async def test_decomposed_order_shows_plan_effects_timeline_and_progress(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, only={"reserve-inventory", "assign-resource"})
    plan = (await world.get(f"/orders/{order_id}/plan")).json()
    assert plan["next"] is None
    assert [task["type"] for task in plan["items"]][:2] == ["assign-resource", "reserve-inventory"]
    ship = next(task for task in plan["items"] if task["type"] == "ship-device")
    assert ship["pointOfNoReturn"] == {"irreversibleAfterState": "COMPLETED", "passed": False}
    assert len(ship["dependsOn"]) == 2
    effects = (await world.get(f"/orders/{order_id}/effects")).json()["items"]
    assert {effect["state"] for effect in effects if effect["taskType"] == "reserve-inventory"} == {"CONFIRMED"}
    assert effects[0]["attempts"][0]["outcome"] == "CONFIRMED"
    entries = (await world.get(f"/orders/{order_id}/timeline?limit=200")).json()["items"]
    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))
    assert all(one["previousHash"] == before["hash"] for before, one in itertools.pairwise(entries))
    progress = (await world.get(f"/orders/{order_id}/progress")).json()
    assert (progress["done"], progress["total"]) == (2, 7)
    assert progress["sentence"].startswith("Your order is being carried out: 2 of 7")
    graph = (await world.get(f"/orders/{order_id}/related-orders")).json()
    assert [node["orderId"] for node in graph["nodes"]] == [order_id]
    assert graph["edges"] == []


WINDOW = {"start": "2026-12-01T09:00:00+01:00", "end": "2026-12-01T12:00:00+01:00"}

REFUSED: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("no items", {"items": []}, 422, "INVALID_BODY", "/items"),
    ("no customer", {"customer": None}, 422, "INVALID_BODY", "/customer"),
    ("unknown member", {"colour": "red"}, 422, "INVALID_BODY", "/colour"),
    ("tenant in the body", {"tenantId": "x"}, 422, "INVALID_BODY", "/tenantId"),
    ("state in the body", {"state": "COMPLETED"}, 422, "INVALID_BODY", "/state"),
    ("unknown member of an item", {"items": [a_line(state="COMPLETED")]}, 422, "INVALID_BODY", "/items/0/state"),
    ("quantity as text", {"items": [a_line(quantity="1")]}, 422, "INVALID_BODY", "/items/0/quantity"),
    ("quantity zero", {"items": [a_line(quantity=0)]}, 422, "INVALID_BODY", "/items/0/quantity"),
    ("quantity as fraction", {"items": [a_line(quantity=1.0)]}, 422, "INVALID_BODY", "/items/0/quantity"),
    ("quantity true", {"items": [a_line(quantity=True)]}, 422, "INVALID_BODY", "/items/0/quantity"),
    ("quantity too large", {"items": [a_line(quantity=1_000_001)]}, 422, "INVALID_BODY", "/items/0/quantity"),
    ("item id with blank", {"items": [a_line("a b")]}, 422, "INVALID_BODY", "/items/0/itemId"),
    ("item id too long", {"items": [a_line("a" * 65)]}, 422, "INVALID_BODY", "/items/0/itemId"),
    (
        "price as fraction",
        {"items": [a_line(price={"amountMinor": 1.5, "currency": "EUR"})]},
        422,
        "INVALID_BODY",
        "/items/0/price/amountMinor",
    ),
    (
        "currency",
        {"items": [a_line(price={"amountMinor": 1, "currency": "euro"})]},
        422,
        "INVALID_BODY",
        "/items/0/price/currency",
    ),
    ("asset no uuid", {"items": [a_line(targetAssetId="a-1")]}, 422, "INVALID_BODY", "/items/0/targetAssetId"),
    (
        "unknown offering",
        {"items": [a_line(productOfferingId="x")]},
        422,
        "OFFERING_UNKNOWN",
        "/items/0/productOfferingId",
    ),
    ("unknown reference", {"items": [a_line(reliesOn=["9"])]}, 422, "ITEM_UNKNOWN", "/items/0/reliesOn"),
    ("time without offset", {"requestedStartDate": "2026-12-01T00:00:00"}, 422, "INVALID_BODY", "/requestedStartDate"),
    (
        "a window that ends before it begins",
        {"appointment": {"start": "2026-12-01T12:00:00+01:00", "end": "2026-12-01T11:00:00Z"}},
        422,
        "INVALID_BODY",
        "/appointment",
    ),
    (
        "a zone that is none",
        {"appointment": {**WINDOW, "timeZone": "Europe/Atlantis"}},
        422,
        "INVALID_BODY",
        "/appointment/timeZone",
    ),
    ("a week as time", {"requestedStartDate": "2026-W01-1"}, 422, "INVALID_BODY", "/requestedStartDate"),
    ("order type of a change", {"orderType": "CANCELLATION"}, 422, "INVALID_BODY", "/orderType"),
    ("address half", {"deliveryAddress": {"street": "Weg 1"}}, 422, "INVALID_BODY", "/deliveryAddress/city"),
]


@pytest.mark.parametrize(
    ("overrides", "status", "code", "path"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
async def test_an_order_is_refused_at_the_door(
    world: ApiWorld, overrides: dict[str, Any], status: int, code: str, path: str
) -> None:
    answer = await world.post("/orders", an_order_body(**overrides))
    told = answer.json()
    assert (answer.status_code, told["code"]) == (status, code), told
    assert path in [error["path"] for error in told["errors"]]
    assert answer.headers["content-type"] == "application/problem+json"
    assert await world.rows("customer_order") == 0
    assert await world.rows("receipt") == 0


async def test_the_same_external_id_is_taken_while_its_order_lives(world: ApiWorld) -> None:
    first = await world.create(externalId="CRM-1")
    answer = await world.post("/orders", an_order_body(externalId="CRM-1"))
    assert answer.status_code == 409
    assert answer.json()["blockedBy"] == f"/api/v1/orders/{first}"


async def test_orders_are_listed_newest_first_in_pages(world: ApiWorld) -> None:
    made = [await world.create(externalId=f"E-{number}") for number in range(5)]
    seen: list[str] = []
    path = "/orders?limit=2"
    while True:
        page = (await world.get(path)).json()
        seen += [order["orderId"] for order in page["items"]]
        if page["next"] is None:
            break
        path = f"/orders?limit=2&cursor={page['next']}"
    assert seen == made[::-1]
    found = (await world.get("/orders?externalId=E-3")).json()["items"]
    assert [order["orderId"] for order in found] == [made[3]]
    assert (await world.get("/orders?state=COMPLETED")).json()["items"] == []
    later = (await world.get("/orders?updatedSince=2999-01-01T00:00:00+01:00")).json()
    assert later["items"] == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "limit=-1", "cursor=x", "cursor=W10", "cursor=bnVsbA", "state=x",
     "updatedSince=yesterday", "cursor=WyInOyBkcm9wIHRhYmxlIG9yZGVyOy0tIiwgIngiXQ"],
)  # fmt: skip
async def test_a_question_that_cannot_be_read(world: ApiWorld, query: str) -> None:
    answer = await world.get(f"/orders?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED")


async def test_hold_and_release(world: ApiWorld) -> None:
    order_id = await world.create()
    path = f"/orders/{order_id}"
    etag = await world.etag(path)
    held = await world.post(f"{path}/hold", {"reason": "fraud check"}, as_=("olga", "operator"), if_match=etag)
    assert (held.status_code, held.json()["state"]) == (202, "ON_HOLD")
    assert held.headers["etag"] != etag
    again = await world.post(f"{path}/hold", {}, as_=("olga", "operator"), if_match=held.headers["etag"])
    assert (again.status_code, again.json()["code"]) == (409, "CHANGE_ACTIVE")
    freed = await world.post(f"{path}/release", {}, as_=("olga", "operator"), if_match=held.headers["etag"])
    assert (freed.status_code, freed.json()["state"]) == (202, "ACKNOWLEDGED")


async def test_another_tenants_order_is_as_absent_as_none(world: ApiWorld) -> None:
    order_id = await world.create()
    other = uuid.uuid4()
    for path in ("", "/plan", "/effects", "/timeline", "/progress", "/related-orders", "/cancellation-requests"):
        theirs = await world.get(f"/orders/{order_id}{path}", tenant=other)
        absent = await world.get(f"/orders/{uuid.uuid4()}{path}", tenant=other)
        assert theirs.status_code == absent.status_code == 404
        assert {**theirs.json(), "traceId": ""} == {**absent.json(), "traceId": ""}


async def test_relations_given_with_an_order_are_kept_and_must_lead_somewhere(world: ApiWorld) -> None:
    first = await world.create()
    relation = {"type": "SUPPLEMENTS", "targetOrderId": first, "reasonCode": "ADD_ON"}
    second = await world.create(relations=[relation])
    graph = (await world.get(f"/orders/{first}/related-orders")).json()
    [edge] = graph["edges"]
    assert (edge["source"], edge["target"], edge["type"]) == (second, first, "SUPPLEMENTS")
    lost = {**relation, "targetOrderId": str(uuid.uuid4())}
    unknown = await world.post("/orders", an_order_body(relations=[lost]))
    assert (unknown.status_code, unknown.json()["code"]) == (422, "RELATION_TARGET_UNKNOWN")
    assert (await world.post("/orders", an_order_body(relations=[relation, relation]))).status_code == 422


async def test_the_reason_of_a_hold_is_on_record_and_not_told_to_the_world(world: ApiWorld) -> None:
    order_id = await world.create()
    etag = await world.etag(f"/orders/{order_id}")
    held = await world.post(
        f"/orders/{order_id}/hold", {"reason": "Ada asked us to wait"}, if_match=etag, as_=("olga", "operator")
    )
    assert held.status_code == 202, held.text
    entries = (await world.get(f"/orders/{order_id}/timeline?limit=200")).json()["items"]
    assert [e["data"] for e in entries if e["kind"] == "ORDER_HELD"] == [{"note": "Ada asked us to wait"}]
    assert await world.value("select count(*) from outbox where payload::text like '%Ada asked%'") == 0


async def test_an_order_leads_to_its_flows_in_operate_where_there_is_one(world: ApiWorld) -> None:
    told = await world.create()
    order_id, run = OrderId(uuid.UUID(str(told))), Run(uuid.uuid4())
    operate = "http://operate.test/operate"

    async def link(url: str = operate) -> Any:
        shown = await views.read_order(world.pool, world.tenant, order_id, operate_url=url)
        return shown.body["links"].get("operate")

    assert await link() is None
    for process, key in (("fulfillment", 2251), ("fulfillment", 2251)):
        await note_flow(world.pool, world.tenant, order_id, run, key, process)
    assert await link() == f"{operate}/processes/2251"
    await note_flow(world.pool, world.tenant, order_id, run, 2260, "cancellation")
    every = "active=true&incidents=true&completed=true&canceled=true"
    assert await link() == f"{operate}/processes?{every}&ids=2251,2260"
    assert await link("") is None
