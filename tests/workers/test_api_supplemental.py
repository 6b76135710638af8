"""Orders that follow up others, what they may do to the installed base, and how orders relate, over HTTP."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
import pytest

from domain import commands as ask
from domain.policy import read_policy_text
from domain.store.pool import tenant_transaction
from domain.values import OrderId, RequestId
from tests.builders import ROOT
from tests.workers.api_world import ADDRESS, ApiWorld, a_line, an_order_body, confirmed

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPERATOR = ("olga", "operator")
FIBER_WORK = {
    "reserve-inventory", "assign-resource", "create-appointment", "perform-visit", "activate-service", "start-billing",
    "ship-device",
}  # fmt: skip


async def a_completed(world: ApiWorld, *items: dict[str, Any], **overrides: Any) -> tuple[str, str]:
    """A fiber order that has ended, and the asset that it installed: (order id, asset id)."""
    order_id = await world.create(*items, **overrides)
    await world.fulfil(order_id)
    shown = (await world.get(f"/orders/{order_id}")).json()
    assert shown["state"] == "COMPLETED"
    return order_id, shown["items"][0]["assetId"]


def a_supplement(*items: dict[str, Any], **overrides: Any) -> dict[str, Any]:
    return {"orderType": "SUPPLEMENTAL", "reasonCode": "UPGRADE", "items": list(items)} | overrides


def an_upgrade(asset_id: str) -> dict[str, Any]:
    return a_line(action="MODIFY", productOfferingId="fiber-1000", targetAssetId=asset_id)


def a_disconnect(asset_id: str, item_id: str = "1", offering: str = "fiber-500") -> dict[str, Any]:
    line = a_line(item_id, action="DISCONNECT", productOfferingId=offering, targetAssetId=asset_id)
    return {name: value for name, value in line.items() if name not in {"price", "configuration"}}


def a_static_ip(asset_id: str) -> dict[str, Any]:
    return a_line(productOfferingId="static-ip", configuration={}, targetAssetId=asset_id)


async def row_of(world: ApiWorld, order_id: str) -> str:
    row = await world.value("select o::text from customer_order o where order_id = $1", uuid.UUID(order_id))
    return str(row)


# -- asked for ----------------------------------------------------------------------------------------------


async def test_a_new_order_follows_a_completed_one_up_with_a_life_of_its_own(world: ApiWorld) -> None:
    source, asset = await a_completed(world, deliveryNote="ring twice")
    before = await row_of(world, source)
    answer = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(an_upgrade(asset)), key="k")
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert (told["state"], answer.headers["etag"]) == ("ACKNOWLEDGED", '"order-version-1"')
    assert answer.headers["location"] == f"/api/v1/orders/{told['orderId']}"
    again = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(an_upgrade(asset)), key="k")
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (200, told, "true")

    shown = (await world.get(f"/orders/{told['orderId']}")).json()
    assert shown["orderType"] == "SUPPLEMENTAL"
    assert shown["customer"] == {"id": "c-9", "name": "Ada"}
    assert shown["contact"] == {"name": "Ada", "phone": "+49 30 1234567"}
    assert shown["deliveryAddress"] == shown["installationAddress"] == ADDRESS
    assert not shown.keys() & {"deliveryNote", "appointment", "reasonCode"}
    [relation] = shown["relations"]
    assert (relation["type"], relation["sourceOrderId"], relation["targetOrderId"], relation["reasonCode"]) == (
        "SUPPLEMENTS",
        told["orderId"],
        source,
        "UPGRADE",
    )
    assert await row_of(world, source) == before
    kinds = [entry["kind"] for entry in (await world.get(f"/orders/{source}/timeline?limit=200")).json()["items"]]
    assert kinds[-1] == "SUPPLEMENTAL_LINKED"
    events = await world.value(
        "select array_agg(type order by id) from outbox where type like '%Supplemental%' or type like '%Asset%'"
    )
    assert events == [
        "recourse.SupplementalOrderLinked.v1",
        "recourse.AssetModificationOrderStarted.v1",
        "recourse.SupplementalOrderCreated.v1",
    ]
    await world.fulfil(told["orderId"])
    assert (await world.get(f"/orders/{told['orderId']}")).json()["state"] == "COMPLETED"
    changed = (await world.get(f"/assets/{asset}")).json()
    assert (changed["productOfferingId"], changed["version"]) == ("fiber-1000", 2)
    assert await world.value("select count(*) from outbox where type like '%AssetModificationOrderCompleted%'") == 1


async def test_what_the_body_says_comes_before_what_the_source_says(world: ApiWorld) -> None:
    source, asset = await a_completed(world)
    elsewhere = ADDRESS | {"city": "Potsdam"}
    body = a_supplement(an_upgrade(asset), deliveryAddress=elsewhere, externalId="CRM-7")
    new = (await world.post(f"/orders/{source}/supplemental-orders", body)).json()
    shown = (await world.get(f"/orders/{new['orderId']}")).json()
    assert (shown["deliveryAddress"], shown["installationAddress"]) == (elsewhere, ADDRESS)
    assert shown["externalId"] == "CRM-7"


@pytest.mark.parametrize(
    ("order_type", "action", "relation", "locks"),
    [
        ("SUPPLEMENTAL", "MODIFY", "SUPPLEMENTS", 1),
        ("DISCONNECT", "DISCONNECT", "SUPPLEMENTS", 1),
        ("RETURN", "RETURN", "ROLLS_BACK", 0),
        ("REPAIR", "MODIFY", "REPAIRS", 1),
        ("BILLING_ADJUSTMENT", "MODIFY", "COMPENSATES", 0),
    ],
)
async def test_the_type_of_the_order_says_how_it_relates_and_what_it_locks(
    world: ApiWorld, order_type: str, action: str, relation: str, locks: int
) -> None:
    source, asset = await a_completed(world)
    line = a_line(action=action, targetAssetId=asset)
    answer = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(line, orderType=order_type))
    assert answer.status_code == 202, answer.text
    graph = (await world.get(f"/orders/{source}/related-orders")).json()
    assert [(edge["source"], edge["target"], edge["type"]) for edge in graph["edges"]] == [
        (answer.json()["orderId"], source, relation)
    ]
    assert await world.rows("asset_change_lock") == locks


async def test_a_bill_is_put_right_without_touching_the_asset(world: ApiWorld) -> None:
    source, asset = await a_completed(world)
    holder = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(an_upgrade(asset)))
    assert holder.status_code == 202
    line = a_line(action="MODIFY", targetAssetId=asset, configuration={"bandwidth": "1M"})
    bill = a_supplement(line, orderType="BILLING_ADJUSTMENT", reasonCode="BILLING_CORRECTION")
    answer = await world.post(f"/orders/{source}/supplemental-orders", bill)
    assert answer.status_code == 202, answer.text
    await world.fulfil(answer.json()["orderId"])
    assert (await world.get(f"/orders/{answer.json()['orderId']}")).json()["state"] == "COMPLETED"
    assert (await world.get(f"/assets/{asset}")).json()["version"] == 1


# -- refused ------------------------------------------------------------------------------------------------


async def test_a_second_order_on_the_asset_hears_of_the_first_also_while_that_one_is_cancelled(world: ApiWorld) -> None:
    source, asset = await a_completed(world)
    path = f"/orders/{source}/supplemental-orders"
    first = (await world.post(path, a_supplement(an_upgrade(asset)))).json()["orderId"]
    faulty = a_supplement(an_upgrade(asset), reasonCode="WHO_KNOWS")
    for body in (a_supplement(an_upgrade(asset)), a_supplement(a_static_ip(asset)), faulty):
        refused = await world.post(path, body)
        assert (refused.status_code, refused.json()["code"]) == (409, "ASSET_BUSY")
        assert refused.json()["blockedBy"] == f"/api/v1/orders/{first}"
    await world.fulfil(first, only={"modify-service"})
    await world.judge(first, await world.cancel(first))
    assert (await world.get(f"/orders/{first}")).json()["state"] == "CANCELLING"
    refused = await world.post(path, a_supplement(an_upgrade(asset)))
    assert (refused.status_code, refused.json()["blockedBy"]) == (409, f"/api/v1/orders/{first}")


async def test_a_change_under_way_on_the_source_stands_in_the_way(world: ApiWorld) -> None:
    source = await world.create()
    request = await world.cancel(source)
    answer = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(a_line()))
    assert (answer.status_code, answer.json()["code"]) == (409, "CHANGE_ACTIVE")
    assert answer.json()["blockedBy"] == f"/api/v1/orders/{source}/cancellation-requests/{request}"
    await world.judge(source, request)
    answer = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(a_line()))
    assert (answer.status_code, answer.json()["code"]) == (409, "ORDER_TERMINAL")


async def test_an_asset_that_cannot_be_changed_so_is_refused_with_the_finding(world: ApiWorld) -> None:
    source, asset = await a_completed(world)
    path = f"/orders/{source}/supplemental-orders"
    refused: list[tuple[dict[str, Any], str, str]] = [
        (a_supplement(an_upgrade(str(uuid.uuid4()))), "ASSET_NOT_MODIFIABLE", "no such asset"),
        (a_supplement(an_upgrade(asset), customer={"id": "c-1"}), "ASSET_NOT_MODIFIABLE", "another customer"),
        (a_supplement(an_upgrade(asset) | {"productOfferingId": "mobile-sim"}), "ASSET_NOT_MODIFIABLE", "cannot be"),
        (a_supplement(an_upgrade(asset), reasonCode="FRAUD_SUSPECTED"), "REASON_UNKNOWN", "ADD_ON"),
        (a_supplement(an_upgrade(asset), orderType="STANDARD"), "INVALID_BODY", ""),
        (a_supplement(), "INVALID_BODY", ""),
    ]
    for body, code, word in refused:
        answer = await world.post(path, body)
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
        assert word in answer.json()["detail"]
    assert await world.rows("customer_order") == 1
    missing = await world.post(f"/orders/{uuid.uuid4()}/supplemental-orders", a_supplement(an_upgrade(asset)))
    assert (missing.status_code, missing.json()["code"]) == (404, "ORDER_NOT_FOUND")


async def test_what_another_asset_relies_on_ends_only_together_with_it(world: ApiWorld) -> None:
    source, fiber = await a_completed(world)
    path = f"/orders/{source}/supplemental-orders"
    added = (await world.post(path, a_supplement(a_static_ip(fiber), reasonCode="ADD_ON"))).json()["orderId"]
    await world.fulfil(added)
    address = (await world.get(f"/orders/{added}")).json()["items"][0]["assetId"]
    assert (await world.get(f"/assets/{address}")).json()["reliesOn"] == [fiber]
    alone = a_supplement(a_disconnect(fiber), orderType="DISCONNECT", reasonCode="DISCONNECT_REQUEST")
    refused = await world.post(path, alone)
    assert (refused.status_code, refused.json()["code"]) == (422, "DEPENDENT_ASSET")
    assert refused.json()["blockedBy"] == f"/api/v1/assets/{address}"
    both = a_supplement(
        a_disconnect(fiber),
        a_disconnect(address, "2", "static-ip"),
        orderType="DISCONNECT",
        reasonCode="DISCONNECT_REQUEST",
    )
    ended = await world.post(path, both)
    assert ended.status_code == 202, ended.text
    await world.fulfil(ended.json()["orderId"])
    for asset in (fiber, address):
        assert (await world.get(f"/assets/{asset}")).json()["state"] == "TERMINATED"


# -- proposed -----------------------------------------------------------------------------------------------


async def test_a_proposal_becomes_an_order_once_and_shows_it(world: ApiWorld) -> None:
    """EC46."""
    source, asset = await a_completed(world)
    before = await row_of(world, source)
    request = await world.cancel(source)
    path = f"/orders/{source}/cancellation-requests/{request}"
    found = (await world.get(path)).json()
    assert (found["status"], found["outcome"]) == ("REJECTED", "NEW_ORDER_REQUIRED")
    [disconnect] = [one for one in found["proposals"] if one["orderType"] == "DISCONNECT"]
    assert disconnect["items"][0]["targetAssetId"] == asset
    create = f"{path}/proposals/{disconnect['n']}/create"
    made = await world.post(create, key="k")
    assert made.status_code == 202, made.text
    new = made.json()["orderId"]
    assert (await world.post(create, key="k")).json() == made.json()
    twice = await world.post(create)
    assert (twice.status_code, twice.json()["blockedBy"]) == (409, f"/api/v1/orders/{new}")
    shown = (await world.get(f"/orders/{new}")).json()
    assert (shown["orderType"], shown["customer"]["id"], shown["installationAddress"]) == ("DISCONNECT", "c-9", ADDRESS)
    [relation] = shown["relations"]
    assert (relation["type"], relation["targetOrderId"]) == ("CANCELS", source)
    [linked] = [one for one in (await world.get(path)).json()["proposals"] if "createdOrderId" in one]
    assert (linked["n"], linked["createdOrderId"]) == (disconnect["n"], new)
    assert await row_of(world, source) == before
    for other in (9, 0, "x"):
        missing = await world.post(f"{path}/proposals/{other}/create")
        assert (missing.status_code, missing.json()["code"]) == (404, "PROPOSAL_NOT_FOUND")
    await world.fulfil(new)
    assert (await world.get(f"/assets/{asset}")).json()["state"] == "TERMINATED"


async def test_a_returned_device_rolls_back(world: ApiWorld) -> None:
    source, _ = await a_completed(world)
    path = f"/orders/{source}/cancellation-requests/{await world.cancel(source)}"
    [back] = [one for one in (await world.get(path)).json()["proposals"] if one["orderType"] == "RETURN"]
    new = (await world.post(f"{path}/proposals/{back['n']}/create")).json()["orderId"]
    assert (await world.get(f"/orders/{new}")).json()["relations"][0]["type"] == "ROLLS_BACK"
    await world.fulfil(new, only={"collect-device"})
    assert world.calls[-1]["body"]["taskType"] == "collect-device"


# -- relations ----------------------------------------------------------------------------------------------


async def test_an_operator_relates_a_newer_order_to_an_older_one(world: ApiWorld) -> None:
    """EC52."""
    older, newer = await world.create(), await world.create()
    path = f"/orders/{newer}/relations"
    body = {"type": "REPLACES", "targetOrderId": older, "reasonCode": "DUPLICATE"}
    etag = await world.etag(f"/orders/{newer}")
    assert (await world.post(path, body, as_=OPERATOR)).status_code == 428
    assert (await world.post(path, body, as_=OPERATOR, if_match='"order-version-9"')).status_code == 412
    assert (await world.post(path, body, if_match=etag)).status_code == 403
    answer = await world.post(path, body, as_=OPERATOR, if_match=etag)
    assert (answer.status_code, answer.json()["orderId"]) == (202, newer)
    graph = (await world.get(f"/orders/{older}/related-orders")).json()
    [edge] = graph["edges"]
    assert (edge["source"], edge["target"], edge["type"], edge["reasonCode"]) == (newer, older, "REPLACES", "DUPLICATE")
    etag = await world.etag(f"/orders/{older}")
    for target, code in ((newer, "RELATION_CYCLE"), (older, "RELATION_CYCLE"), (str(uuid.uuid4()), None)):
        body = {"type": "REPLACES", "targetOrderId": target}
        refused = await world.post(f"/orders/{older}/relations", body, as_=OPERATOR, if_match=etag)
        assert (refused.status_code, refused.json()["code"]) == (422, code or "RELATION_TARGET_UNKNOWN")


async def test_another_tenants_order_is_no_target(world: ApiWorld) -> None:
    stranger = uuid.uuid4()
    answer = await world.post("/orders", an_order_body(), tenant=stranger)
    theirs = answer.json()["orderId"]
    mine = await world.create()
    body = {"type": "AMENDS", "targetOrderId": theirs}
    etag = await world.etag(f"/orders/{mine}")
    refused = await world.post(f"/orders/{mine}/relations", body, as_=OPERATOR, if_match=etag)
    assert (refused.status_code, refused.json()["code"]) == (422, "RELATION_TARGET_UNKNOWN")


async def test_the_graph_of_orders_is_also_a_picture(world: ApiWorld) -> None:
    source, asset = await a_completed(world)
    new = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(an_upgrade(asset)))
    assert new.status_code == 202
    answer = await world.get(f"/orders/{source}/related-orders", headers={"Accept": "image/svg+xml"})
    assert answer.headers["content-type"].startswith("image/svg+xml")
    for word in ("· supplements<", source[:8], new.json()["orderId"][:8]):
        assert word in answer.text


# -- an unfinished source -----------------------------------------------------------------------------------


async def a_partly_delivered(world: ApiWorld) -> tuple[str, str]:
    """An order of two items, one delivered and one cancelled: (order id, asset id of the first)."""
    source = await world.create(a_line(), a_line("2", productOfferingId="router", configuration={}))
    request = await world.cancel(source, scope={"type": "ITEMS", "orderItemIds": ["2"]})
    await world.judge(source, request)
    await world.fulfil(source, confirmed)
    shown = (await world.get(f"/orders/{source}")).json()
    assert shown["state"] == "PARTIALLY_COMPLETED"
    return source, shown["items"][0]["assetId"]


async def test_a_partly_delivered_source_is_a_matter_of_the_policy(world: ApiWorld) -> None:
    """EC50."""
    source, asset = await a_partly_delivered(world)
    answer = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(an_upgrade(asset)))
    assert answer.status_code == 202, answer.text


# -- the history of an asset --------------------------------------------------------------------------------


async def test_an_asset_tells_how_it_came_to_be_as_it_is(world: ApiWorld) -> None:
    source, asset = await a_completed(world)
    path = f"/orders/{source}/supplemental-orders"
    upgraded = (await world.post(path, a_supplement(an_upgrade(asset)))).json()["orderId"]
    assert (await world.get(f"/assets/{asset}")).json()["lockedByOrderId"] == upgraded
    await world.fulfil(upgraded)
    ended = a_supplement(a_disconnect(asset, offering="fiber-1000"), orderType="DISCONNECT")
    last = (await world.post(path, ended)).json()["orderId"]
    await world.fulfil(last)
    told = (await world.get(f"/assets/{asset}")).json()
    assert (told["state"], "lockedByOrderId" in told) == ("TERMINATED", False)
    assert [(one["orderId"], one["action"], one["itemState"]) for one in told["history"]] == [
        (source, "ADD", "COMPLETED"),
        (upgraded, "MODIFY", "COMPLETED"),
        (last, "DISCONNECT", "COMPLETED"),
    ]
    assert [one["installed"] for one in told["history"]] == [True, False, False]
    assert [one.get("before", {}).get("productOfferingId") for one in told["history"]] == [
        None,
        "fiber-500",
        "fiber-1000",
    ]


async def test_an_undone_change_leaves_the_asset_as_the_snapshot_says(world: ApiWorld) -> None:
    """MODIFY restores, DISCONNECT brings back: the asset follows the end of its item."""
    source, asset = await a_completed(world)
    before = (await world.get(f"/assets/{asset}")).json()
    changes = [
        (a_supplement(an_upgrade(asset)), {"modify-service"}, "restore-service"),
        (
            a_supplement(a_disconnect(asset), orderType="DISCONNECT"),
            {"cease-billing", "disconnect-service"},
            "reconnect-service",
        ),
    ]
    for body, done, undone in changes:
        new = (await world.post(f"/orders/{source}/supplemental-orders", body)).json()["orderId"]
        await world.fulfil(new, only=done)
        told = await world.judge(new, await world.cancel(new))
        await world.walk(OrderId(uuid.UUID(new)), told["plan_id"], told["plan_run"])
        assert (await world.get(f"/orders/{new}")).json()["state"] == "CANCELLED"
        assert undone in {call["body"]["taskType"] for call in world.calls}
        after = (await world.get(f"/assets/{asset}")).json()
        for name in ("state", "productOfferingId", "configuration", "quantity", "references"):
            assert after[name] == before[name], name
        assert await world.rows("asset_change_lock") == 0


async def test_what_has_come_to_rely_on_an_asset_keeps_it_from_being_disconnected(world: ApiWorld) -> None:
    """T03: brought into the books while the order was on its way; a case says so, and goes on once it has ended."""
    source, asset = await a_completed(world)
    body = {"orderType": "DISCONNECT", "reasonCode": "DISCONNECT_REQUEST", "items": [a_disconnect(asset)]}
    order_id = (await world.post(f"/orders/{source}/supplemental-orders", body)).json()["orderId"]
    address = {"assetId": str(uuid.uuid4()), "customerId": "c-9", "productOfferingId": "static-ip", "state": "ACTIVE"}
    imported = await world.post("/assets", address | {"configuration": {}, "reliesOn": [asset]}, as_=("ada", "admin"))
    assert imported.status_code in {200, 201}, imported.text
    order, run = OrderId(uuid.UUID(order_id)), await world.run_of(OrderId(uuid.UUID(order_id)))
    await world.tell(ask.ValidateOrder(order, run))
    assert (await world.tell(ask.DecomposeOrder(order, run)))["verdict"] == "stand_down"
    [case] = (await world.get(f"/fallout-cases?orderId={order_id}", as_=OPERATOR)).json()["items"]
    assert (case["category"], case["blocking"]) == ("DATA", True)
    assert address["assetId"] in case["title"]


# -- what depends on a cancelled order ----------------------------------------------------------------------


async def test_orders_that_depend_on_a_cancelled_one_are_shown_with_it(world: ApiWorld) -> None:
    """EC51: by relation for the whole order; here the source lives, and so does what supplements it."""
    source = await world.create()
    dependent = await world.post(f"/orders/{source}/supplemental-orders", a_supplement(a_line()))
    assert dependent.status_code == 202, dependent.text
    request = await world.cancel(source)
    await world.judge(source, request)
    found = (await world.get(f"/orders/{source}/cancellation-requests/{request}")).json()["assessment"]
    [shown] = found["dependentOrders"]
    assert (shown["orderId"], shown["proposal"]) == (dependent.json()["orderId"], "CANCEL")
    [rule] = [rule for rule in found["trace"] if rule["ruleId"] == "closure.dependent_order"]
    assert (rule["result"], rule["severity"]) == ("PROPOSE", "WARNING")
    assert found["feasibility"] == "FULLY_CANCELLABLE"


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize(("rule", "feasibility"), [("PROPOSE", "PARTIALLY_CANCELLABLE"), ("BLOCK", "NOT_CANCELLABLE")])
async def test_what_has_been_built_on_a_part_of_it_is_shown_though_no_order_is_about_it(
    world: ApiWorld, rule: str, feasibility: str, imported: bool
) -> None:
    """The order of the address has ended, or was never ours; that of the line lives, and would leave it on nothing."""
    await set_dependent_rule(world, rule)
    source = await world.create(a_line(), a_line("2", productOfferingId="mobile-sim"))
    await world.fulfil(source, only=FIBER_WORK)
    shown = (await world.get(f"/orders/{source}")).json()
    assert (shown["state"], shown["items"][0]["state"]) == ("IN_PROGRESS", "COMPLETED")
    fiber = shown["items"][0]["assetId"]
    if imported:
        body = {"customerId": "c-9", "productOfferingId": "static-ip", "configuration": {}, "reliesOn": [fiber]}
        address = (await world.post("/assets", body, as_=("ada", "admin"))).json()["assetId"]
    else:
        supplement = a_supplement(a_static_ip(fiber), reasonCode="ADD_ON")
        added = (await world.post(f"/orders/{source}/supplemental-orders", supplement)).json()["orderId"]
        await world.fulfil(added)
        address = (await world.get(f"/orders/{added}")).json()["items"][0]["assetId"]
    request = await world.cancel(source)
    await world.judge(source, request)
    found = (await world.get(f"/orders/{source}/cancellation-requests/{request}")).json()["assessment"]
    [told] = [rule for rule in found["trace"] if rule["ruleId"] == "closure.dependent_asset"]
    assert told["severity"] == ("BLOCKER" if rule == "BLOCK" else "WARNING")
    assert address in told["sentence"]
    assert fiber in told["sentence"]
    assert found["feasibility"] == feasibility


async def set_dependent_rule(world: ApiWorld, rule: str) -> None:
    policy: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    policy["cancellation"]["closure"]["dependent_order"] = rule
    loaded = await world.post("/policies", policy, as_=("eve", "admin"))
    assert loaded.status_code == 201, loaded.text


async def hold_dependents(world: ApiWorld) -> None:
    await set_dependent_rule(world, "HOLD")


async def deliver(world: ApiWorld) -> list[str]:
    """What the engine would make of the messages: a command each, on the order that it names; the verdicts."""
    async with tenant_transaction(world.pool, world.tenant, read_only=True) as connection:
        rows = await connection.fetch(
            "select variables from engine_outbox where name = 'dependence-changed' order by id"
        )
    told = []
    for row in rows:
        said = {name: uuid.UUID(value) for name, value in orjson.loads(row["variables"]).items()}
        command = ask.FollowCancellation(
            OrderId(said["order_id"]), OrderId(said["source_id"]), RequestId(said["request_id"])
        )
        told.append((await world.tell(command))["verdict"])
    return told


async def test_what_depends_on_an_order_waits_for_its_cancellation(world: ApiWorld) -> None:
    """EC51 under HOLD: held with reason and cause, told in timeline and progress, let go when it came to nothing."""
    await hold_dependents(world)
    source = await world.create()
    dependent = (await world.post(f"/orders/{source}/supplemental-orders", a_supplement(a_line()))).json()["orderId"]
    await world.fulfil(dependent, only={"reserve-inventory"})
    request = await world.cancel(source)
    assert await deliver(world) == ["hold"]
    seen = (await world.get(f"/orders/{dependent}")).json()
    cause = f"order:{source}/{request}"
    assert (seen["state"], seen["held"], seen["heldBy"]) == ("ON_HOLD", True, [cause])
    tasks = (await world.get(f"/orders/{dependent}/plan")).json()["items"]
    assert {tuple(task["heldBy"]) for task in tasks if task["state"] == "PENDING"} == {(cause,)}
    [blocker] = (await world.get(f"/orders/{dependent}/progress")).json()["blockers"]
    assert (blocker["kind"], blocker["id"]) == ("DEPENDENCE", source)
    withdrawn = await world.post(
        f"/orders/{source}/cancellation-requests/{request}/withdraw",
        {"reason": "stays"},
        if_match=await world.etag(f"/orders/{source}/cancellation-requests/{request}"),
    )
    assert withdrawn.status_code == 202, withdrawn.text
    assert await deliver(world) == ["release", "release"]
    seen = (await world.get(f"/orders/{dependent}")).json()
    assert (seen["state"], seen["held"], seen["heldBy"]) == ("IN_PROGRESS", False, [])
    entries = (await world.get(f"/orders/{dependent}/timeline?limit=200")).json()["items"]
    told = [(e["kind"], e["data"]["holder"]) for e in entries if "holder" in e["data"]]
    assert told == [("ORDER_HELD", cause), ("ORDER_RELEASED", cause)]


async def test_what_has_lost_its_ground_is_shown_to_people(world: ApiWorld) -> None:
    """The order that it supplements is gone as a whole: a case holds it until somebody says that it may go on."""
    await hold_dependents(world)
    source = await world.create()
    dependent = (await world.post(f"/orders/{source}/supplemental-orders", a_supplement(a_line()))).json()["orderId"]
    await world.judge(source, await world.cancel(source))
    assert (await world.get(f"/orders/{source}")).json()["state"] == "CANCELLED"
    assert await deliver(world) == ["lost", "lost"]
    assert (await world.get(f"/orders/{dependent}")).json()["state"] == "FALLOUT"
    [case] = (await world.get(f"/fallout-cases?orderId={dependent}", as_=OPERATOR)).json()["items"]
    assert source in case["title"]
    path = f"/fallout-cases/{case['caseId']}"
    seen = (await world.get(path, as_=OPERATOR)).json()
    assert "RETRY" in {repair["action"] for repair in seen["possibleRepairs"]}
    going = await world.post(
        f"{path}/repairs",
        {"action": "RETRY", "reasonCode": "BUSINESS_DECISION", "reasonText": "the customer wants it all the same"},
        as_=OPERATOR,
        if_match=await world.etag(path),
    )
    assert going.status_code == 202, going.text
    assert await deliver(world) == ["lost", "lost"]  # again and late: answered already
    assert (await world.get(f"/orders/{dependent}")).json()["state"] == "ACKNOWLEDGED"
    await world.fulfil(dependent)
    assert (await world.get(f"/orders/{dependent}")).json()["state"] == "COMPLETED"


async def test_what_the_cancelled_order_keeps_is_ground_enough(world: ApiWorld) -> None:
    """By the asset: what the cancelled order had installed stays, and so the change of it goes on."""
    await hold_dependents(world)
    source = await world.create(a_line(), a_line("2", productOfferingId="mobile-sim"))
    await world.fulfil(source, only={"assign-number", "ship-device", "activate-service", "start-billing"})
    asset = str(await world.value("select asset from order_item where item_id = '2'"))
    change = a_line(action="MODIFY", productOfferingId="mobile-sim", targetAssetId=asset)
    dependent = await world.create(change)
    request = await world.cancel(source, reasonCode="CUSTOMER_CHANGED_MIND")
    assert await deliver(world) == ["hold"]
    assert (await world.get(f"/orders/{dependent}")).json()["state"] == "ON_HOLD"
    # The active line is kept, so the change of it can go on.
    await world.judge(source, request)
    path = f"/orders/{source}/cancellation-requests/{request}"
    approved = await world.post(f"{path}/approve", {}, as_=("bob", "approver"), if_match=await world.etag(path))
    assert approved.status_code == 202, approved.text
    planned = await world.judge(source, request)
    await world.walk(OrderId(uuid.UUID(source)), planned["plan_id"], planned["plan_run"])
    assert (await world.get(f"/orders/{source}")).json()["state"] == "PARTIALLY_COMPLETED"
    assert await deliver(world) == ["release", "release"]
    assert (await world.get(f"/orders/{dependent}")).json()["state"] == "ACKNOWLEDGED"
