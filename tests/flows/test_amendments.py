"""Amendments on the real engine: what an agent and an approver see of them, and what was really done outside."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flows.running import ADDRESS, Tenant, eventually

pytestmark = pytest.mark.timeout(300)

MOVED = {**ADDRESS, "postalCode": "12940"}
SLOT = {"start": "2030-12-01T09:00:00+01:00", "end": "2030-12-01T12:00:00+01:00", "timeZone": "Europe/Berlin"}
LATER = {**SLOT, "start": "2030-12-02T09:00:00+01:00", "end": "2030-12-02T12:00:00+01:00"}


def amend(tenant: Tenant, order_id: str, *changes: dict[str, Any], **more: Any) -> str:
    """Ask for changes of the order as it stands; the link of the request."""
    body = {"reasonCode": "CUSTOMER_REQUEST", "changes": list(changes)} | more
    path = f"/api/v1/orders/{order_id}/amendment-requests"
    answer = eventually(
        lambda: tenant.post(path, body, etag=tenant.etag(order_id)),
        lambda told: told.status_code != 412,
        "an order that stands still",
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["links"]["self"])


def replace(path: str, old: Any, new: Any) -> dict[str, Any]:
    return {"path": path, "operation": "REPLACE", "oldValue": old, "newValue": new}


def wait_status(tenant: Tenant, link: str, *wanted: str) -> Any:
    return eventually(lambda: tenant.get(link), lambda seen: seen["status"] in wanted, f"{link} in {wanted}")


def test_a_contact_changes_while_work_is_under_way(tenant: Tenant) -> None:
    """Lesson §27 test 6: at once, without a plan, without anybody called."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router")
    shipment = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    link = amend(tenant, order_id, replace("/contact/phone", "+49 30 1234567", "+49 30 7654321"))
    seen = tenant.get(link)
    assert (seen["status"], seen["changes"][0]["command"]) == ("APPLIED", "ChangeContactPerson")
    assert tenant.order(order_id)["contact"]["phone"] == "+49 30 7654321"
    tenant.call_back(shipment["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}


def test_an_address_after_decomposition(tenant: Tenant) -> None:
    """Lesson §27 test 7, EC25: what had not started is replaced, what runs goes on, nothing is done twice."""
    tenant.fault(taskType="reserve-inventory", fault="accept-silent")
    order_id = tenant.submit("router")
    reservation = tenant.wait_effect(order_id, "reserve", "inventory", acceptedAt=...)
    link = amend(tenant, order_id, replace("/deliveryAddress/postalCode", ADDRESS["postalCode"], "12940"))
    seen = wait_status(tenant, link, "APPLIED")
    assert (seen["newPlanVersion"], seen["assessment"]["requiresRedecomposition"]) == (2, True)
    plan = tenant.items(f"/api/v1/orders/{order_id}/plan")
    states = {(task["type"], task["planVersion"]): task["state"] for task in plan}
    assert states["ship-device", 1] == "SUPERSEDED"
    assert states["ship-device", 2] == "PENDING"
    assert states["reserve-inventory", 1] == "WAITING_EXTERNAL"
    tenant.call_back(reservation["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}


def test_an_appointment_that_was_booked_is_moved(tenant: Tenant) -> None:
    """The old booking is undone, the new one made, then the rest goes on; the engine walks both plans."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit(appointment=SLOT)
    shipment = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
    link = amend(tenant, order_id, replace("/appointment", SLOT, LATER))
    wait_status(tenant, link, "APPLIED")
    tenant.call_back(shipment["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    done = tenant.done(order_id)
    assert (done["create-appointment"], done["cancel-appointment"], done["ship-device"]) == (2, 1, 1)


def test_another_product_is_quoted_and_agreed_to(tenant: Tenant) -> None:
    """Lesson §27 test 8: after decomposition a person must agree, once the price is known."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router", requestedStartDate="2030-01-01T00:00:00+01:00", startOnRequestedDate=True)
    tenant.wait_state(order_id, "VALIDATED")
    link = amend(tenant, order_id, replace("/items/1/productOfferingId", "router", "mobile-sim"))
    wait_status(tenant, link, "APPLIED")
    assert tenant.done(order_id) == {"revalidate-quote": 1}
    assert tenant.order(order_id)["items"][0]["productOfferingId"] == "mobile-sim"
    start = amend(tenant, order_id, replace("/requestedStartDate", "2030-01-01T00:00:00+01:00", "2026-01-01T00:00:00Z"))
    assert tenant.get(start)["status"] == "APPLIED"
    shipment = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    late = amend(tenant, order_id, replace("/items/1/productOfferingId", "mobile-sim", "router"))
    seen = wait_status(tenant, late, "REJECTED")
    assert (seen["outcome"], seen["changes"][0]["safetyResult"]) == ("NOT_APPLICABLE", "BLOCKED")
    tenant.call_back(shipment["effectId"])
    tenant.wait_state(order_id, "COMPLETED")


def test_an_agreed_change_and_a_cancellation_over_it(tenant: Tenant) -> None:
    """EC35: the cancellation comes while the amendment undoes; nothing is undone twice, nothing stays."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    tenant.fault(taskType="cancel-appointment", fault="accept-silent")
    order_id = tenant.submit(appointment=SLOT)
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
    link = amend(tenant, order_id, replace("/installationAddress", ADDRESS, MOVED))
    wait_status(tenant, link, "REQUIRES_APPROVAL")
    etag = tenant.agent.get(link).headers["etag"]
    assert tenant.post(f"{link}/approve", {"comment": "fine"}, by=tenant.approver, etag=etag).status_code == 202
    wait_status(tenant, link, "APPLYING")
    undoing = tenant.wait_effect(order_id, "cancel", "appointment", acceptedAt=...)
    tenant.cancel(order_id)
    assert tenant.order(order_id)["state"] == "CANCELLATION_REQUESTED"
    tenant.call_back(undoing["effectId"])
    tenant.wait_state(order_id, "CANCELLED", "PARTIALLY_COMPLETED")
    assert tenant.get(link)["status"] in {"APPLIED", "FAILED"}
    done = tenant.done(order_id)
    assert done["cancel-appointment"] == done["create-appointment"]
    assert done["release-resource"] == done["assign-resource"]
