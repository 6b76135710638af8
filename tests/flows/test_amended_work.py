"""Amendments on the real engine where work has been done already, fails midway, or meets another change; and under the
policies of two other businesses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.policy import read_policy_text
from tests.flows.running import ADDRESS, Tenant, eventually
from tests.flows.test_amendments import LATER, MOVED, SLOT, amend, replace, wait_status
from tests.flows.test_repairs import repair

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "domain/telecom.policy.yaml"
ENERGY = ROOT / "tests/policies/energy.policy.yaml"
PHONE = replace("/contact/phone", "+49 30 1234567", "+49 30 7654321")


def publish(tenant: Tenant, source: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> int:
    """A policy of the tenant's own; its version."""
    document: Any = read_policy_text(source.read_text())
    change(document)
    answer = tenant.post("/api/v1/policies", document, by=tenant.person("adam", "admin"))
    assert answer.status_code in {200, 201, 202}, answer.text
    return int(answer.json()["version"])


def ask_for(tenant: Tenant, order_id: str, *changes: dict[str, Any], **more: Any) -> httpx.Response:
    """The same as `amend`, for what is refused."""
    body = {"reasonCode": "CUSTOMER_REQUEST", "changes": list(changes)} | more
    path = f"/api/v1/orders/{order_id}/amendment-requests"
    return eventually(
        lambda: tenant.post(path, body, etag=tenant.etag(order_id)),
        lambda told: told.status_code != httpx.codes.PRECONDITION_FAILED,
        "an order that stands still",
    )


def say(tenant: Tenant, link: str, word: str, by: httpx.Client | None = None, **body: Any) -> httpx.Response:
    etag = tenant.agent.get(link).headers["etag"]
    return tenant.post(f"{link}/{word}", body, by=by or tenant.approver, etag=etag)


def inputs_of(tenant: Tenant, order_id: str, task_type: str) -> list[Any]:
    """What a system was sent, call by call, by its own book."""
    lines = httpx.get(f"{tenant.simulator}/book", params={"orderId": order_id}, timeout=10).json()["lines"]
    return [line["input"] for line in lines if line["event"] == "CALLED" and line["taskType"] == task_type]


def traced(seen: Any) -> dict[str, Any]:
    return {rule["ruleId"]: rule for rule in seen["assessment"]["trace"]}


def an_item(item_id: str, offering: str, **more: Any) -> dict[str, Any]:
    return {
        "itemId": item_id,
        "action": "ADD",
        "productOfferingId": offering,
        "quantity": 1,
        "configuration": {"bandwidth": "500M", "deviceModel": "R7"},
        "price": {"amountMinor": 3999, "currency": "EUR"},
    } | more


def booked(tenant: Tenant, **more: Any) -> tuple[str, str]:
    """(order, effect of its shipment): the visit is booked, the device is on its way and will not arrive by itself."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit(appointment=SLOT, **more)
    shipment = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
    return order_id, str(shipment["effectId"])


def test_before_the_plan_what_is_wrong_is_refused_and_what_is_right_stands(tenant: Tenant) -> None:
    """EC23, EC24, EC28, EC31, EC34, and an item that is taken out."""
    order_id = tenant.submit(
        items=[an_item("1", "fiber-500"), an_item("2", "mobile-sim")],
        appointment=SLOT,
        priceAccepted=True,
        requestedStartDate="2030-01-01T00:00:00+01:00",
        startOnRequestedDate=True,
    )
    tenant.wait_state(order_id, "VALIDATED")
    requests = f"/api/v1/orders/{order_id}/amendment-requests"

    refused = ask_for(tenant, order_id, PHONE, replace("/contact/name", "Eve", "Ada L"), allowPartial=True)
    assert (refused.status_code, refused.json()["code"]) == (409, "OLD_VALUE_MISMATCH")
    assert [error["path"] for error in refused.json()["errors"]] == ["/changes/1/oldValue"]
    assert tenant.items(requests) == []

    price = replace("/items/1/price", {"amountMinor": 3999, "currency": "EUR"}, {"amountMinor": 1, "currency": "EUR"})
    seen = wait_status(tenant, amend(tenant, order_id, price, PHONE), "REJECTED")
    assert seen["outcome"] == "NOT_APPLICABLE"
    assert [change["safetyResult"] for change in seen["changes"]] == ["BLOCKED", "ALLOWED"]
    assert seen["changes"][0]["blockerReason"] == "the price has been accepted"
    assert tenant.order(order_id)["contact"]["phone"] == "+49 30 1234567"
    seen = wait_status(tenant, amend(tenant, order_id, price, PHONE, allowPartial=True), "APPLIED")
    assert (seen["outcome"], tenant.order(order_id)["contact"]["phone"]) == ("PARTIALLY_APPLIED", "+49 30 7654321")

    again = replace("/contact/phone", "+49 30 7654321", "+49 30 7654321")
    assert tenant.get(amend(tenant, order_id, again))["outcome"] == "NO_CHANGE"

    summer = {**SLOT, "start": "2030-03-31T09:00:00+02:00", "end": "2030-03-31T12:00:00+02:00"}  # clocks change at 2
    assert tenant.get(amend(tenant, order_id, replace("/appointment", SLOT, summer)))["status"] == "APPLIED"

    gone = amend(tenant, order_id, {"path": "/items/2", "operation": "REMOVE", "oldValue": {"itemId": "2"}})
    wait_status(tenant, gone, "APPLIED")
    tenant.fault(taskType="ship-device", fault="accept-silent")
    amend(tenant, order_id, replace("/requestedStartDate", "2030-01-01T00:00:00+01:00", "2026-01-01T00:00:00Z"))
    shipment = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
    [sent] = inputs_of(tenant, order_id, "create-appointment")
    assert sent["order"]["appointment"] == summer
    plan = tenant.items(f"/api/v1/orders/{order_id}/plan")
    [cut_off] = [task["pointOfNoReturn"] for task in plan if task["type"] == "create-appointment"]
    # A day of twenty-four hours before nine o'clock in summer time.
    assert datetime.fromisoformat(cut_off["softAt"]) == datetime(2030, 3, 30, 7, tzinfo=UTC)
    tenant.call_back(shipment["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    assert {item["itemId"]: item["state"] for item in tenant.order(order_id)["items"]} == {
        "1": "COMPLETED",
        "2": "SUPERSEDED",
    }
    done = tenant.done(order_id)
    assert (done.get("assign-number"), done["revalidate-quote"], done["ship-device"]) == (None, 1, 1)


def test_an_item_goes_out_of_a_plan_that_is_being_carried_out(tenant: Tenant) -> None:
    """Nothing has been done for it alone: its work is never asked for, everything else keeps its place."""
    tenant.fault(taskType="reserve-inventory", fault="accept-silent")
    tenant.fault(taskType="assign-number", fault="refuse", times=1)
    order_id = tenant.submit(items=[an_item("1", "router"), an_item("2", "mobile-sim")])
    reservation = tenant.wait_effect(order_id, "reserve", "inventory", acceptedAt=...)
    tenant.wait_state(order_id, "FALLOUT")  # the number was refused: nothing has happened, a person is asked
    before = {task["taskId"]: task["state"] for task in tenant.items(f"/api/v1/orders/{order_id}/plan")}
    seen = wait_status(tenant, amend(tenant, order_id, {"path": "/items/2", "operation": "REMOVE"}), "APPLIED")
    assert seen["newPlanVersion"] == 2
    assert [case["status"] for case in tenant.cases(order_id)] == ["CANCELLED"]
    plan = tenant.items(f"/api/v1/orders/{order_id}/plan")
    assert {task["taskId"] for task in plan} == before.keys()
    assert {task["state"] for task in plan if task["itemIds"] == ["2"]} == {"SUPERSEDED"}
    tenant.call_back(reservation["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"revalidate-quote": 1, "reserve-inventory": 1, "ship-device": 1}


def test_an_undoing_fails_and_is_tried_again_or_left_to_a_new_order(tenant: Tenant) -> None:
    """EC26 and EC27: the order is not stuck in AMENDING, and what failed is tried again. What cannot be undone at all
    becomes an order of its own."""
    order_id, shipment = booked(tenant)
    tenant.fault(taskType="cancel-appointment", fault="refuse", times=1)
    link = amend(tenant, order_id, replace("/appointment", SLOT, LATER))
    tenant.wait_state(order_id, "FALLOUT")
    seen = tenant.get(link)
    assert (seen["status"], seen["newPlanVersion"]) == ("APPLYING", 2)
    [strategy] = [row for row in seen["assessment"]["strategy"] if row["type"] == "create-appointment"]
    assert strategy["strategy"] == "UNDO_THEN_DO"
    [case] = tenant.cases(order_id)
    assert (case["context"], tenant.order(order_id)["resumeState"]) == ("AMENDMENT", "AMENDING")
    repair(tenant, order_id, "RETRY")
    wait_status(tenant, link, "APPLIED")
    # Applied is what is planned; the new visit is booked after it, and before that there is nothing to undo.
    eventually(lambda: tenant.done(order_id).get("create-appointment"), lambda times: times == 2, "the new visit")

    tenant.fault(taskType="cancel-appointment", fault="refuse", times=1)
    back = amend(tenant, order_id, replace("/appointment", LATER, SLOT))
    eventually(
        lambda: [case for case in tenant.cases(order_id) if case["status"] == "OPEN"], bool, "the case of the second"
    )
    wish = {"orderType": "SUPPLEMENTAL", "items": [an_item("1", "router")]}
    path = repair(tenant, order_id, "CONVERT_TO_ORDER", input=wish)
    wait_status(tenant, back, "APPLIED")
    made = tenant.get(path, tenant.operator)["repairs"][-1]["createdOrderId"]
    graph = tenant.get(f"/api/v1/orders/{order_id}/related-orders")
    assert {(edge["source"], edge["target"]) for edge in graph["edges"]} == {(made, order_id)}
    tenant.call_back(shipment)
    tenant.wait_state(order_id, "COMPLETED")
    done = tenant.done(order_id)
    assert (done["create-appointment"], done["cancel-appointment"], done["ship-device"]) == (3, 1, 1)
    standing = [e for e in tenant.effects(order_id) if e["operation"] == "book" and e["state"] == "CONFIRMED"]
    assert len(standing) == 2  # the one that could not be undone is the new order's to deal with


def test_what_was_agreed_to_meets_another_policy_and_a_newer_wish(tenant: Tenant) -> None:
    """EC32 and EC33: what was approved is judged again by the policy that is in force when it is to be applied; what a
    newer amendment has superseded is nobody's to decide any more."""
    order_id, shipment = booked(tenant)
    first = amend(tenant, order_id, replace("/installationAddress", ADDRESS, MOVED), autoApply=False)
    wait_status(tenant, first, "REQUIRES_APPROVAL")
    assert say(tenant, first, "approve", comment="fine").status_code == 202
    wait_status(tenant, first, "APPROVED")

    def fix_the_place(document: dict[str, Any]) -> None:
        row = next(row for row in document["amendable_fields"] if row["field"] == "installationAddress")
        row["safety"]["TASK_COMPLETED"] = "BLOCKED"

    version = publish(tenant, SHIPPED, fix_the_place)
    assert say(tenant, first, "apply", tenant.agent).status_code == 202
    seen = wait_status(tenant, first, "REJECTED")
    assert (seen["outcome"], seen["assessment"]["policyVersion"]) == ("NOT_APPLICABLE", version)
    assert traced(seen)["freshness.policy"]["inputs"]["now"] == version
    assert tenant.order(order_id)["installationAddress"] == ADDRESS

    publish(tenant, SHIPPED)
    older = amend(tenant, order_id, replace("/installationAddress", ADDRESS, MOVED))
    wait_status(tenant, older, "REQUIRES_APPROVAL")
    newest = {**ADDRESS, "postalCode": "12950"}
    newer = amend(tenant, order_id, replace("/installationAddress", ADDRESS, newest))
    assert tenant.get(older)["status"] == "SUPERSEDED"
    late = say(tenant, older, "approve", comment="yes")
    assert (late.status_code, late.json()["code"]) == (409, "REQUEST_CLOSED")
    wait_status(tenant, newer, "REQUIRES_APPROVAL")
    assert say(tenant, newer, "approve", comment="yes").status_code == 202
    wait_status(tenant, newer, "APPLIED")
    tenant.call_back(shipment)
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.order(order_id)["installationAddress"] == newest
    assert [sent["order"]["installationAddress"] for sent in inputs_of(tenant, order_id, "assign-resource")] == [
        ADDRESS,
        newest,
    ]


def test_a_phone_number_reaches_what_undoes_the_order_and_a_product_does_not(tenant: Tenant) -> None:
    """EC30."""
    order_id, _ = booked(tenant)
    tenant.fault(taskType="stop-shipment", fault="accept-silent")
    tenant.cancel(order_id)
    tenant.wait_state(order_id, "CANCELLING")
    stopping = tenant.wait_effect(order_id, "stop", "shipping", acceptedAt=...)
    product = ask_for(tenant, order_id, replace("/items/1/productOfferingId", "fiber-500", "fiber-1000"))
    assert (product.status_code, product.json()["code"]) == (409, "CHANGE_ACTIVE")
    assert tenant.get(amend(tenant, order_id, PHONE))["status"] == "APPLIED"
    tenant.call_back(stopping["effectId"])
    tenant.wait_state(order_id, "CANCELLED")
    [sent] = inputs_of(tenant, order_id, "cancel-appointment")
    assert sent["contact"]["phone"] == "+49 30 7654321"


def test_another_product_after_decomposition_is_priced_and_agreed_to(tenant: Tenant) -> None:
    """EC31, second half, and lesson §27 test 8: nothing has begun, so that a person may agree to another product, once
    its price is known; the price before it is kept. When work for the item has begun it is too late."""
    later = "2030-01-01T00:00:00+01:00"
    order_id = tenant.submit("router", requestedStartDate=later, startOnRequestedDate=True)
    tenant.wait_state(order_id, "VALIDATED")
    path = f"/api/v1/orders/{order_id}"
    held = tenant.post(f"{path}/hold", {}, by=tenant.operator, etag=tenant.etag(order_id))
    assert held.status_code in {200, 202}, held.text
    amend(tenant, order_id, replace("/requestedStartDate", later, "2026-01-01T00:00:00Z"))
    eventually(lambda: tenant.items(f"{path}/plan"), bool, "a plan that nobody may start")

    dearer = {"amountMinor": 4999, "currency": "EUR"}
    output = {"prices": [{"itemId": "1", "price": dearer}]}
    tenant.fault(taskType="revalidate-quote", fault="answer", output=output)
    link = amend(tenant, order_id, replace("/items/1/productOfferingId", "router", "mobile-sim"))
    seen = wait_status(tenant, link, "REQUIRES_APPROVAL")
    agreed = {"amountMinor": 3999, "currency": "EUR"}
    assert seen["assessment"]["prices"] == [{"itemId": "1", "before": agreed, "after": dearer}]
    assert (seen["changes"][0]["safetyResult"], traced(seen)["price_increase"]["result"]) == ("MANUAL", "APPROVAL")
    mine = say(tenant, link, "approve", tenant.person("alice", "agent", "auditor"))
    assert mine.status_code == 403, mine.text
    assert say(tenant, link, "approve", comment="they know the price").status_code == 202
    seen = wait_status(tenant, link, "APPLIED")
    [item] = tenant.order(order_id)["items"]
    assert (item["productOfferingId"], item["price"], item["formerPrices"]) == ("mobile-sim", dearer, [agreed])
    assert seen["newPlanVersion"] == 2
    plan = tenant.items(f"{path}/plan")
    assert {task["type"] for task in plan if task["state"] == "SUPERSEDED"} == {"reserve-inventory"}
    live = {task["type"] for task in plan if task["state"] != "SUPERSEDED"}
    assert live == {"assign-number", "ship-device", "activate-service", "start-billing"}
    assert all(task["held"] for task in plan if task["type"] in live)

    tenant.fault(taskType="ship-device", fault="accept-silent")
    tenant.post(f"{path}/release", {}, by=tenant.operator, etag=tenant.etag(order_id))
    shipment = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    late = wait_status(
        tenant, amend(tenant, order_id, replace("/items/1/productOfferingId", "mobile-sim", "router")), "REJECTED"
    )
    assert (late["outcome"], late["changes"][0]["safetyResult"]) == ("NOT_APPLICABLE", "BLOCKED")
    tenant.call_back(shipment["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    done = tenant.done(order_id)
    assert (done.get("reserve-inventory"), done["assign-number"], done["ship-device"]) == (None, 1, 1)


def follow(document: dict[str, Any]) -> None:
    """A visit is booked with what the reservation says; both can be done anew, and a reservation is by number."""
    types = document["task_types"]
    types["reserve-inventory"] |= {"on_input_change": "REDO", "inputs": ["/items/*/price", "/items/*/quantity"]}
    types["create-appointment"] |= {"on_input_change": "UNDO_THEN_DO", "inputs": ["/appointment", "/contact"]}
    types["ship-device"]["inputs"] = ["/deliveryAddress"]
    document["offerings"]["kit"] = {
        "plans": {
            "ADD": [
                {"step": "reserve", "type": "reserve-inventory"},
                {"step": "visit", "type": "create-appointment", "after": ["reserve"]},
                {"step": "ship", "type": "ship-device", "after": ["visit"]},
            ],
            "RETURN": [{"step": "collect", "type": "collect-device"}],
        }
    }
    field = next(row for row in document["amendable_fields"] if row["field"] == "quantity")
    field["safety"] = dict.fromkeys(field["safety"], "REDECOMPOSE")


def test_work_that_is_done_follows_another_result_and_a_cancellation_waits_for_it(tenant: Tenant) -> None:
    """The amendment's own flow is over when the booking must be undone: that plan is walked by a flow of its own."""
    publish(tenant, SHIPPED, follow)
    tenant.fault(taskType="ship-device", fault="accept-silent")
    orders = [tenant.submit("kit", appointment=SLOT) for _ in range(2)]
    shipments = [tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)["effectId"] for order_id in orders]
    tenant.fault(taskType="cancel-appointment", fault="accept-silent", orderId=orders[1])
    for order_id in orders:
        link = amend(tenant, order_id, replace("/items/1/quantity", 1, 2))
        seen = wait_status(tenant, link, "APPLIED")
        strategies = {row["type"]: row["strategy"] for row in seen["assessment"]["strategy"]}
        assert strategies == {"reserve-inventory": "REDO", "create-appointment": "FOLLOW"}

    undoing = tenant.wait_effect(orders[1], "cancel", "appointment", acceptedAt=...)
    tenant.cancel(orders[1])
    assert tenant.order(orders[1])["state"] == "CANCELLATION_REQUESTED"
    tenant.wait_effect(orders[0], "cancel", "appointment", state="CONFIRMED")
    tenant.call_back(shipments[0])
    tenant.wait_state(orders[0], "COMPLETED")
    assert tenant.done(orders[0]) == {
        "revalidate-quote": 1,
        "reserve-inventory": 2,
        "create-appointment": 2,
        "cancel-appointment": 1,
        "ship-device": 1,
    }
    assert tenant.order(orders[1])["state"] == "CANCELLATION_REQUESTED"
    tenant.call_back(undoing["effectId"])
    tenant.wait_state(orders[1], "CANCELLED")
    done = tenant.done(orders[1])
    assert (done["create-appointment"], done["cancel-appointment"], done["release-inventory"]) == (1, 1, 1)


def test_another_business_with_other_fields(tenant: Tenant) -> None:
    """A supplier of power: its fields, systems and rules are known to its policy only, and a person agrees to what
    another business would do by itself."""
    publish(tenant, ENERGY)
    tenant.fault(taskType="mount-meter", fault="accept-silent")
    meter = {"meterPoint": "CH" + "1" * 31, "ampere": 25, "meterModel": "M1", "termMonths": 12}
    order_id = tenant.submit(
        items=[an_item("1", "power-green", configuration=meter, price={"amountMinor": 900, "currency": "CHF"})],
        appointment=SLOT,
        requestedStartDate="2030-12-01T00:00:00+01:00",
    )
    mounting = tenant.wait_effect(order_id, "mount", "field-force", acceptedAt=...)

    fuses = amend(tenant, order_id, replace("/items/1/configuration/ampere", 25, 40))
    seen = wait_status(tenant, fuses, "REQUIRES_APPROVAL")
    change = seen["changes"][0]
    assert (change["command"], change["safetyResult"]) == ("ChangeFuses", "REDECOMPOSE")
    assert [row["strategy"] for row in seen["assessment"]["strategy"]] == ["REPLACE"]
    assert say(tenant, fuses, "approve", comment="fine").status_code == 202
    wait_status(tenant, fuses, "APPLIED")
    wrong = ask_for(tenant, order_id, replace("/items/1/configuration/ampere", 40, 41))
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "/changes/0/newValue")
    other = ask_for(tenant, order_id, {"path": "/deliveryNote", "operation": "ADD", "newValue": "ring"})
    assert (other.status_code, other.json()["code"]) == (422, "FIELD_NOT_AMENDABLE")

    phone = wait_status(tenant, amend(tenant, order_id, PHONE), "REQUIRES_APPROVAL")  # the fitter has been told it
    assert phone["changes"][0]["safetyResult"] == "MANUAL"
    link = phone["links"]["self"]
    assert say(tenant, link, "approve", comment="fine").status_code == 202
    wait_status(tenant, link, "APPLIED")
    tenant.call_back(mounting["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    [sent] = inputs_of(tenant, order_id, "switch-supply-on")
    assert sent["order"]["items"] == [{"itemId": "1", "configuration": {"ampere": 40}}]
    done = tenant.done(order_id)
    assert (done["book-fitter"], done["cancel-fitter"], done["mount-meter"]) == (2, 1, 1)
