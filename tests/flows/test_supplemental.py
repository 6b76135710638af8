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
