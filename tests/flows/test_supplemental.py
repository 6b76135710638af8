"""What a customer has grows and shrinks by orders of its own: on the real engine, with what stands in the way said."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from domain.policy import read_policy_text
from tests.builders import ROOT
from tests.flows.running import Tenant, eventually

pytestmark = pytest.mark.timeout(300)


def follow(tenant: Tenant, order_id: str, order_type: str, reason: str, *items: dict[str, Any]) -> httpx.Response:
    body = {"orderType": order_type, "reasonCode": reason, "items": list(items)}
    return tenant.post(f"/api/v1/orders/{order_id}/supplemental-orders", body)


def line(item_id: str, action: str, offering: str, asset_id: str) -> dict[str, Any]:
    return {
        "itemId": item_id,
        "action": action,
        "productOfferingId": offering,
        "quantity": 1,
        "targetAssetId": asset_id,
    }


def asset_of(tenant: Tenant, offering: str) -> dict[str, Any]:
    rows = tenant.get("/api/v1/assets?customerId=c-9")["items"]
    return dict(next(row for row in rows if row["productOfferingId"] == offering))


def test_a_line_gets_a_static_address_and_both_end_together(tenant: Tenant) -> None:
    """Fiber completed → static IP added → the fiber cannot end while the address needs it → both end in one order,
    which is cancelled on its way: the customer has everything again. EC46, EC48; lesson §27 tests 9 and 10."""
    first = tenant.submit()
    tenant.wait_state(first, "COMPLETED")
    fiber = asset_of(tenant, "fiber-500")["assetId"]

    added = follow(tenant, first, "SUPPLEMENTAL", "ADD_ON", line("1", "ADD", "static-ip", fiber))
    assert added.status_code == httpx.codes.ACCEPTED, added.text
    busy = follow(tenant, first, "SUPPLEMENTAL", "UPGRADE", line("1", "MODIFY", "fiber-1000", fiber))
    if busy.status_code != httpx.codes.ACCEPTED:  # the first may have been quicker than the second
        assert (busy.status_code, busy.json()["code"]) == (httpx.codes.CONFLICT, "ASSET_BUSY")
        assert added.json()["orderId"] in busy.json()["blockedBy"]
    else:
        tenant.wait_state(busy.json()["orderId"], "COMPLETED")
    tenant.wait_state(added.json()["orderId"], "COMPLETED")
    address = asset_of(tenant, "static-ip")["assetId"]
    offering = next(
        row["productOfferingId"]
        for row in tenant.get("/api/v1/assets?customerId=c-9")["items"]
        if row["assetId"] == fiber
    )

    refused = follow(tenant, first, "DISCONNECT", "DISCONNECT_REQUEST", line("1", "DISCONNECT", offering, fiber))
    assert (refused.status_code, refused.json()["code"]) == (httpx.codes.UNPROCESSABLE_ENTITY, "DEPENDENT_ASSET")

    tenant.fault(taskType="disconnect-service", fault="accept-silent")
    lines = (line("1", "DISCONNECT", offering, fiber), line("2", "DISCONNECT", "static-ip", address))
    ending = follow(tenant, first, "DISCONNECT", "DISCONNECT_REQUEST", *lines)
    assert ending.status_code == httpx.codes.ACCEPTED, ending.text
    ending_id = ending.json()["orderId"]

    def accepted() -> list[str]:
        rows = [row for row in tenant.effects(ending_id) if row["operation"] == "disconnect" and row.get("acceptedAt")]
        return [row["effectId"] for row in rows]

    promised = eventually(accepted, lambda rows: len(rows) == len(lines), "both disconnections to be promised")
    tenant.cancel(ending_id)
    for effect_id in promised:
        tenant.call_back(effect_id)
    tenant.wait_state(ending_id, "CANCELLED")
    done = tenant.done(ending_id)
    assert (done["reconnect-service"], done["resume-billing"]) == (2, 2)
    states = {row["assetId"]: row["state"] for row in tenant.get("/api/v1/assets?customerId=c-9")["items"]}
    assert (states[fiber], states[address]) == ("ACTIVE", "ACTIVE")

    graph = tenant.get(f"/api/v1/orders/{first}/related-orders")
    assert {first, added.json()["orderId"], ending_id} <= {node["orderId"] for node in graph["nodes"]}
    assert all(edge["target"] == first for edge in graph["edges"])


def propose(tenant: Tenant, order_id: str, order_type: str) -> tuple[str, dict[str, Any]]:
    """Cancel a completed order: (link that makes the proposed order of this type, what is proposed)."""
    link = tenant.cancel(order_id)
    asked = eventually(lambda: tenant.get(link), lambda seen: seen["status"] == "REJECTED", "a verdict")
    assert asked["outcome"] == "NEW_ORDER_REQUIRED"
    [proposal] = [one for one in asked["proposals"] if one["orderType"] == order_type]
    return f"{link}/proposals/{proposal['n']}/create", proposal


def told_of(tenant: Tenant, order_id: str) -> tuple[dict[str, Any], str]:
    """All that an order says of itself; that others relate to it, they say."""
    return {name: value for name, value in tenant.order(order_id).items() if name != "relations"}, tenant.etag(order_id)


def test_what_a_customer_has_tells_how_it_came_to_be_so(tenant: Tenant) -> None:
    """EC46: cancelled after their completion, a line and the address on it end by what was proposed, in the order in
    which they can; the orders themselves stay as they were, and the asset tells the whole of it."""
    first = tenant.submit()
    tenant.wait_state(first, "COMPLETED")
    fiber = str(tenant.order(first)["items"][0]["assetId"])
    added = str(follow(tenant, first, "SUPPLEMENTAL", "ADD_ON", line("1", "ADD", "static-ip", fiber)).json()["orderId"])
    tenant.wait_state(added, "COMPLETED")
    address = str(tenant.order(added)["items"][0]["assetId"])
    before = [told_of(tenant, order_id) for order_id in (first, added)]

    ends_fiber, proposal = propose(tenant, first, "DISCONNECT")
    assert [item["targetAssetId"] for item in proposal["items"]] == [fiber]
    refused = tenant.post(ends_fiber, None)
    assert (refused.status_code, refused.json()["code"]) == (httpx.codes.UNPROCESSABLE_ENTITY, "DEPENDENT_ASSET")
    assert refused.json()["blockedBy"].endswith(address)

    ends_address, _ = propose(tenant, added, "DISCONNECT")
    endings = []
    for create, ended in ((ends_address, address), (ends_fiber, fiber)):
        made = tenant.post(create, None)
        assert made.status_code == httpx.codes.ACCEPTED, made.text
        endings.append(str(made.json()["orderId"]))
        tenant.wait_state(endings[-1], "COMPLETED")
        assert tenant.get(f"/api/v1/assets/{ended}")["state"] == "TERMINATED"

    assert [told_of(tenant, order_id) for order_id in (first, added)] == before
    told = tenant.get(f"/api/v1/assets/{fiber}")["history"]
    assert [(one["orderId"], one["action"], one["installed"]) for one in told] == [
        (first, "ADD", True),
        (added, "ADD", False),
        (endings[1], "DISCONNECT", False),
    ]
    graph = tenant.get(f"/api/v1/orders/{added}/related-orders")
    assert {(edge["source"], edge["target"], edge["type"]) for edge in graph["edges"]} == {
        (added, first, "SUPPLEMENTS"),
        (endings[0], added, "CANCELS"),
        (endings[1], first, "CANCELS"),
    }


def test_changes_of_an_asset_are_amended_and_undone_with_their_orders(tenant: Tenant) -> None:
    """MODIFY and RETURN, cancelled on their way, one of them after an amendment; REPAIR and BILLING_ADJUSTMENT beside
    them: each asset is afterwards what its orders have left of it."""
    document: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    bandwidth = next(row for row in document["amendable_fields"] if row["field"] == "bandwidth")
    bandwidth["safety"]["TASK_COMPLETED"] = "REDECOMPOSE"
    posted = tenant.post("/api/v1/policies", document, by=tenant.person("root", "admin"))
    assert posted.status_code == httpx.codes.CREATED, posted.text
    sources = [tenant.submit() for _ in range(3)]
    for source in sources:
        tenant.wait_state(source, "COMPLETED")
    assets = [str(tenant.order(source)["items"][0]["assetId"]) for source in sources]

    def change(number: int, order_type: str, action: str, offering: str, **configuration: Any) -> str:
        item = line("1", action, offering, assets[number]) | ({"configuration": configuration} if configuration else {})
        answer = follow(tenant, sources[number], order_type, "UPGRADE", item)
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        return str(answer.json()["orderId"])

    repair = change(0, "REPAIR", "MODIFY", "fiber-500", bandwidth="400M")
    bill = change(1, "BILLING_ADJUSTMENT", "MODIFY", "fiber-500", bandwidth="1M")
    for order_id, done in ((repair, {"modify-service": 1, "change-billing": 1}), (bill, {"change-billing": 1})):
        tenant.wait_state(order_id, "COMPLETED")
        assert tenant.done(order_id) == done
    before = [tenant.get(f"/api/v1/assets/{asset}") for asset in assets]
    assert [(asset["version"], asset["configuration"]["bandwidth"]) for asset in before] == [
        (2, "400M"),
        (1, "500M"),
        (1, "500M"),
    ]

    tenant.fault(taskType="change-billing", fault="accept-silent")
    tenant.fault(taskType="collect-device", fault="accept-silent")
    undone, amended, kept = (change(n, "SUPPLEMENTAL", "MODIFY", "fiber-1000", bandwidth="1G") for n in range(3))
    back = change(0, "RETURN", "RETURN", "fiber-500")
    bills = {
        order_id: str(tenant.wait_effect(order_id, "change", "billing", acceptedAt=...)["effectId"])
        for order_id in (undone, amended, kept)
    }
    wish = {"path": "/items/1/configuration/bandwidth", "operation": "REPLACE", "oldValue": "1G", "newValue": "2G"}
    for order_id in (amended, kept):
        link = f"/api/v1/orders/{order_id}/amendment-requests"
        asked = tenant.post(link, {"reasonCode": "CUSTOMER_REQUEST", "changes": [wish]}, etag=tenant.etag(order_id))
        assert asked.status_code == httpx.codes.ACCEPTED, asked.text
        request = str(asked.json()["links"]["self"])
        eventually(lambda link=request: tenant.get(link)["status"], lambda status: status == "APPLIED", request)  # type: ignore[misc]
        eventually(lambda o=order_id: tenant.done(o).get("modify-service"), lambda times: times == 2, "the redoing")  # type: ignore[misc]

    tenant.wait_effect(back, "collect", "shipping", acceptedAt=...)
    for order_id in (undone, amended, back):
        tenant.cancel(order_id)
    for effect_id in bills.values():
        tenant.call_back(effect_id)
    for order_id, state in ((undone, "CANCELLED"), (amended, "CANCELLED"), (back, "CANCELLED"), (kept, "COMPLETED")):
        tenant.wait_state(order_id, state)
    assert tenant.done(undone) == {"modify-service": 1, "change-billing": 1, "restore-billing": 1, "restore-service": 1}
    assert tenant.done(amended)["restore-service"] == tenant.done(amended)["restore-billing"] == 1
    assert tenant.done(back) == {"stop-collection": 1}
    after = [tenant.get(f"/api/v1/assets/{asset}") for asset in assets]
    for now, then in zip(after[:2], before[:2], strict=True):
        for name in ("state", "productOfferingId", "configuration", "references", "quantity"):
            assert now[name] == then[name], name
    assert (after[2]["productOfferingId"], after[2]["configuration"]["bandwidth"]) == ("fiber-1000", "2G")
    assert not any("lockedByOrderId" in asset for asset in after)
    told = {edge["source"]: edge["type"] for n in range(2) for edge in tenant.get(
        f"/api/v1/orders/{sources[n]}/related-orders")["edges"]}  # fmt: skip
    assert (told[repair], told[bill], told[back], told[undone]) == (
        "REPAIRS",
        "COMPENSATES",
        "ROLLS_BACK",
        "SUPPLEMENTS",
    )


def test_what_depends_on_an_order_waits_while_that_one_is_cancelled(tenant: Tenant) -> None:
    """EC51 under HOLD: held, let go when the cancellation is withdrawn, held again, and shown to a person when the
    order that it supplements is gone; its work is done once."""
    document: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    document["cancellation"]["closure"]["dependent_order"] = "HOLD"
    posted = tenant.post("/api/v1/policies", document, by=tenant.person("root", "admin"))
    assert posted.status_code == httpx.codes.CREATED, posted.text
    tenant.fault(taskType="assign-resource", fault="accept-silent")
    source = tenant.submit()
    new = {"itemId": "1", "action": "ADD", "productOfferingId": "fiber-500", "quantity": 1}
    dependent = str(follow(tenant, source, "SUPPLEMENTAL", "ADD_ON", new).json()["orderId"])
    ports = [
        tenant.wait_effect(order_id, "assign", "resource", acceptedAt=...)["effectId"]
        for order_id in (source, dependent)
    ]

    request = tenant.cancel(source)
    tenant.wait_state(dependent, "ON_HOLD")
    assert tenant.order(dependent)["heldBy"] == [f"order:{source}/{request.rpartition('/')[2]}"]
    etag = str(tenant.agent.get(request).headers["etag"])
    tenant.post(f"{request}/withdraw", {"reason": "they stay"}, etag=etag).raise_for_status()
    tenant.wait_state(dependent, "IN_PROGRESS")

    tenant.cancel(source)
    tenant.wait_state(dependent, "ON_HOLD")
    tenant.call_back(ports[1])
    tenant.call_back(ports[0])
    tenant.wait_state(source, "CANCELLED")
    tenant.wait_state(dependent, "FALLOUT")
    assert "ship-device" not in tenant.done(dependent)
    [case] = tenant.cases(dependent)
    path = f"/api/v1/fallout-cases/{case['caseId']}"
    repaired = tenant.post(
        f"{path}/repairs",
        {"action": "RETRY", "reasonCode": "CUSTOMER_AGREED", "reasonText": "wanted all the same"},
        by=tenant.operator,
        etag=str(tenant.operator.get(path).headers["etag"]),
    )
    assert repaired.status_code == httpx.codes.ACCEPTED, repaired.text
    tenant.wait_state(dependent, "COMPLETED")
    assert set(tenant.done(dependent).values()) == {1}
