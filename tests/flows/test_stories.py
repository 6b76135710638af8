"""Stories on the real engine, with real PostgreSQL and Kafka: what an agent, an approver and an operator would see."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.policy import read_policy_text
from tests.builders import ROOT
from tests.flows.running import RunningStack, Tenant, eventually
from tests.flows.test_amendments import wait_status

pytestmark = pytest.mark.timeout(300)


def test_the_golden_scenario(stack: RunningStack) -> None:
    """Lesson §27: the demo looks at order, plan, audit, ledger, outside book and Kafka; its exit code says so."""
    told = stack.cli("demo", "--json", "--picture", str(stack.folder / "golden.svg"))
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["state"] == "CANCELLED"
    assert document["compensation"] == ["release-inventory", "release-resource"]
    assert (stack.folder / "golden.svg").read_text().startswith("<svg")


def test_an_order_runs_to_its_end_and_leaves_an_asset(tenant: Tenant) -> None:
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}
    [asset] = tenant.get("/api/v1/assets?customerId=c-9")["items"]
    assert (asset["state"], asset["installedByOrderId"]) == ("ACTIVE", order_id)


def test_cancelled_before_fulfillment_starts(tenant: Tenant) -> None:
    """Lesson §27 test 1: nobody outside ever hears of it."""
    order_id = tenant.submit(requestedStartDate="2030-01-01T00:00:00+01:00", startOnRequestedDate=True)
    tenant.wait_state(order_id, "VALIDATED")
    tenant.cancel(order_id)
    tenant.wait_state(order_id, "CANCELLED")
    assert tenant.done(order_id) == {}
    assert tenant.items(f"/api/v1/orders/{order_id}/effects") == []


def test_cancelled_after_the_reservation(tenant: Tenant) -> None:
    """Lesson §27 test 2, with a shipment under way that can still be stopped."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.cancel(order_id)
    tenant.wait_state(order_id, "CANCELLED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "stop-shipment": 1, "release-inventory": 1}


def test_cancelled_after_the_activation_leaves_what_cannot_be_undone(tenant: Tenant) -> None:
    """Lesson §27 test 3: partial, approved by another person, with proposals for the rest."""
    tenant.fault(taskType="start-billing", fault="refuse")
    order_id = tenant.submit()
    tenant.wait_state(order_id, "FALLOUT")
    link = tenant.cancel(order_id)
    eventually(lambda: tenant.get(link)["status"], lambda s: s == "REQUIRES_APPROVAL", "the review")
    etag = tenant.agent.get(link).headers["etag"]
    assert tenant.post(f"{link}/approve", {"comment": "fine"}, by=tenant.agent, etag=etag).status_code == 403
    answer = tenant.post(f"{link}/approve", {"comment": "fine"}, by=tenant.approver, etag=etag)
    assert answer.status_code == 202, answer.text
    tenant.wait_state(order_id, "PARTIALLY_COMPLETED")
    request = tenant.get(link)
    assert request["status"] == "PARTIALLY_COMPLETED"
    assert {proposal["orderType"] for proposal in request["proposals"]} >= {"DISCONNECT", "RETURN"}
    assert "release-resource" not in tenant.done(order_id)


def test_the_same_request_twice_is_one_and_another_body_is_refused(tenant: Tenant) -> None:
    """Lesson §27 tests 4 and 5, EC37 and EC38, at the same time from many."""
    order_id = tenant.submit(requestedStartDate="2030-01-01T00:00:00+01:00", startOnRequestedDate=True)
    tenant.wait_state(order_id, "VALIDATED")
    etag = tenant.etag(order_id)
    path = f"/api/v1/orders/{order_id}/cancellation-requests"
    body = {"reasonCode": "CUSTOMER_CHANGED_MIND", "scope": {"type": "ORDER", "orderItemIds": []}}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: tenant.post(path, body, key="same", etag=etag), range(50)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(202) == 1
    assert set(codes) <= {202, 200, 409}
    bodies = {answer.text for answer in answers if answer.status_code in {200, 202}}
    assert len(bodies) == 1
    other = tenant.post(path, body | {"reasonCode": "DUPLICATE_ORDER"}, key="same", etag=etag)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert len(tenant.items(path)) == 1


def test_two_cancellations_at_once_are_one(tenant: Tenant) -> None:
    """EC36: different keys, the same version; one wins, the other is told cleanly."""
    order_id = tenant.submit(requestedStartDate="2030-01-01T00:00:00+01:00", startOnRequestedDate=True)
    tenant.wait_state(order_id, "VALIDATED")
    etag = tenant.etag(order_id)
    path = f"/api/v1/orders/{order_id}/cancellation-requests"
    body = {"reasonCode": "CUSTOMER_CHANGED_MIND", "scope": {"type": "ORDER", "orderItemIds": []}}
    with ThreadPoolExecutor(8) as pool:
        codes = sorted(a.status_code for a in pool.map(lambda _: tenant.post(path, body, etag=etag), range(8)))
    assert codes[0] == 202
    assert set(codes[1:]) <= {409, 412}
    assert len(tenant.items(path)) == 1


@pytest.mark.parametrize("fault", ["lose-answer", "error-after", "error-before", "answer-twice"])
def test_whatever_becomes_of_an_answer_it_happens_once(tenant: Tenant, fault: str) -> None:
    """EC3 on the wire: unknown outcomes are verified, retried under the same id, never doubled."""
    tenant.fault(taskType="reserve-inventory", fault=fault, times=1)
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}
    assert len([e for e in tenant.effects(order_id) if e["operation"] == "reserve"]) == 1


def test_a_refused_effect_becomes_a_case_and_retry_mends_it(tenant: Tenant) -> None:
    tenant.fault(taskType="reserve-inventory", fault="refuse", times=1)
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "FALLOUT")
    [case] = tenant.cases(order_id)
    assert (case["status"], case["category"], case["blocking"]) == ("OPEN", "BUSINESS", True)
    path = f"/api/v1/fallout-cases/{case['caseId']}"
    etag = tenant.operator.get(path).headers["etag"]
    repair = {"action": "RETRY", "reasonCode": "SYSTEM_RECOVERED", "reasonText": "stock is back"}
    assert tenant.post(f"{path}/repairs", repair, by=tenant.agent, etag=etag).status_code == 403
    answer = tenant.post(f"{path}/repairs", repair, by=tenant.operator, etag=etag)
    assert answer.status_code == 202, answer.text
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}


def test_a_failed_compensation_becomes_fallout_and_resumes(tenant: Tenant) -> None:
    """Lesson §27 tests 11 and 12: FALLOUT, then back to CANCELLING by itself."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    tenant.fault(taskType="release-inventory", fault="refuse", times=1)
    order_id = tenant.submit("router")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.cancel(order_id)
    tenant.wait_state(order_id, "FALLOUT")
    assert tenant.order(order_id)["resumeState"] == "CANCELLING"
    [case] = [c for c in tenant.cases(order_id) if c["status"] == "OPEN"]
    assert case["context"] == "COMPENSATION"
    path = f"/api/v1/fallout-cases/{case['caseId']}"
    etag = tenant.operator.get(path).headers["etag"]
    repair = {"action": "RETRY", "reasonCode": "SYSTEM_RECOVERED", "reasonText": "again"}
    assert tenant.post(f"{path}/repairs", repair, by=tenant.operator, etag=etag).status_code == 202
    tenant.wait_state(order_id, "CANCELLED")
    assert tenant.done(order_id)["release-inventory"] == 1


def test_a_withdrawn_request_lets_the_order_finish(tenant: Tenant) -> None:
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router")
    shipment = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    link = tenant.cancel(order_id, forceManualReview=True)
    eventually(lambda: tenant.get(link)["status"], lambda s: s == "REQUIRES_APPROVAL", "the review")
    etag = tenant.agent.get(link).headers["etag"]
    assert tenant.post(f"{link}/withdraw", {"reason": "changed my mind"}, etag=etag).status_code == 202
    tenant.wait_state(order_id, "IN_PROGRESS")
    tenant.call_back(shipment["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}


def test_a_completed_order_is_evidence_and_stays_as_it_is(tenant: Tenant) -> None:
    """EC46: stored, refused, proposed; the order's answer does not change by one byte."""
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "COMPLETED")
    before = tenant.agent.get(f"/api/v1/orders/{order_id}")
    link = tenant.cancel(order_id)
    request = tenant.get(link)
    assert (request["status"], request["outcome"]) == ("REJECTED", "NEW_ORDER_REQUIRED")
    assert [p["orderType"] for p in request["proposals"]] == ["RETURN"]
    after = tenant.agent.get(f"/api/v1/orders/{order_id}")
    assert (after.headers["etag"], after.content) == (before.headers["etag"], before.content)


def test_a_late_cancellation_waits_for_the_customers_word_and_no_longer_than_its_time(tenant: Tenant) -> None:
    """EC54: accepted, declined, and by the clock; whoever does not pay keeps the order, with nothing undone."""
    document: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    document["task_types"]["create-appointment"]["soft_point_of_no_return"]["charge"]["respond_within"] = "PT20S"
    posted = tenant.post("/api/v1/policies", document, by=tenant.person("root", "admin"))
    assert posted.status_code == 201, posted.text
    start = datetime.now(UTC) + timedelta(hours=12)
    visit = {"start": start.isoformat(), "end": (start + timedelta(hours=3)).isoformat()}
    tenant.fault(taskType="ship-device", fault="accept-silent")
    answers = ("accept-charge", "decline-charge", None)
    orders = [tenant.submit(appointment=visit) for _ in answers]
    links = {}
    for order_id in orders:
        tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
        tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    for order_id, answer in zip(orders, answers, strict=True):
        links[order_id] = tenant.cancel(order_id)
        asked = wait_status(tenant, links[order_id], "AWAITING_CHARGE_DECISION")
        assert (asked["charge"]["status"], asked["charge"]["amount"]["amountMinor"]) == ("OFFERED", 2500)
        assert tenant.done(order_id).keys().isdisjoint({"stop-shipment", "cancel-appointment"})
        if answer:
            etag = tenant.agent.get(links[order_id]).headers["etag"]
            assert tenant.post(f"{links[order_id]}/{answer}", {}, etag=etag).status_code == 202
    paid, *kept = orders
    tenant.wait_state(paid, "CANCELLED")
    assert tenant.get(links[paid])["charge"]["status"] == "ACCEPTED"
    for order_id, status in zip(kept, ("DECLINED", "EXPIRED"), strict=True):
        refused = wait_status(tenant, links[order_id], "REJECTED")
        assert (refused["charge"]["status"], refused["outcome"]) == (status, f"CHARGE_{status}")
        tenant.wait_state(order_id, "IN_PROGRESS")
        tenant.call_back(tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)["effectId"])
        tenant.wait_state(order_id, "COMPLETED")
        assert set(tenant.done(order_id).values()) == {1}
        assert not {"stop-shipment", "cancel-appointment", "release-inventory"} & tenant.done(order_id).keys()


def test_what_comes_true_after_the_end_is_undone_once_beside_the_order(stack: RunningStack, tenant: Tenant) -> None:
    """T11: the system had refused, the order was given up and has ended; then the system says, twice, that it did it.

    Without the obligation (`reported.late` in `_hear_late`) the reservation stays for ever.
    """
    tenant.fault(taskType="reserve-inventory", fault="refuse", times=1)
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "FALLOUT")
    refused = tenant.wait_effect(order_id, "reserve", "inventory", state="NO_EFFECT")
    link = tenant.cancel(order_id)
    tenant.wait_state(order_id, "CANCELLED")
    look = (
        "select o::text, i::text from customer_order o join order_item i using (tenant_id, order_id)"
        " where order_id = $1"
    )
    before = stack.as_owner(look, UUID(order_id))
    for _ in range(2):
        tenant.say_after_all(refused["effectId"], "CONFIRMED")
    tenant.wait_effect(order_id, "reserve", "inventory", state="REVERSED")
    [case] = eventually(
        lambda: [one for one in tenant.cases(order_id) if one["context"] == "LATE_EFFECT"],
        lambda cases: [one["status"] for one in cases] == ["RESOLVED"],
        "the end of the one obligation",
    )
    assert (case["resolution"], case["blocking"]) == ("OBLIGATION_MET", False)
    assert tenant.done(order_id) == {"release-inventory": 1}
    assert stack.as_owner(look, UUID(order_id)) == before
    assert tenant.get(link)["status"] == "COMPLETED"
    assert tenant.get(tenant.get(link)["links"]["compensationPlan"])["state"] == "COMPLETED"


def test_a_policy_with_a_new_kind_of_work_on_a_new_system_needs_no_restart(tenant: Tenant) -> None:
    """What the product has never heard of is posted while it runs, carried out, and undone."""
    before = tenant.stack.status()["processes"]
    document: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    document["systems"].append("diagnostics")
    document["task_types"]["measure-line"] = {
        "system": "diagnostics",
        "operation": "measure",
        "external_effect_level": "NETWORK_VISIBLE",
        "reversibility": "AUTOMATIC",
        "compensation": "clear-measurement",
    }
    document["task_types"]["clear-measurement"] = {
        "system": "diagnostics",
        "operation": "clear",
        "external_effect_level": "NETWORK_VISIBLE",
        "reversibility": "NONE",
    }
    document["offerings"]["line-check"] = {
        "plans": {
            "ADD": [
                {"step": "reserve", "type": "reserve-inventory"},
                {"step": "measure", "type": "measure-line", "after": ["reserve"]},
                {"step": "ship", "type": "ship-device", "after": ["measure"]},
            ],
            "RETURN": [{"step": "collect", "type": "collect-device"}],
        }
    }
    posted = tenant.post("/api/v1/policies", document, by=tenant.person("root", "admin"))
    assert posted.status_code == 201, posted.text

    order_id = tenant.submit("line-check")
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "measure-line": 1, "ship-device": 1}

    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("line-check")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.cancel(order_id)
    tenant.wait_state(order_id, "CANCELLED")
    undone = {"stop-shipment": 1, "clear-measurement": 1, "release-inventory": 1}
    assert tenant.done(order_id) == {"reserve-inventory": 1, "measure-line": 1, **undone}
    assert tenant.stack.status()["processes"] == before


def test_a_part_of_a_quantity_is_called_off_and_the_rest_is_sent(tenant: Tenant) -> None:
    tenant.fault(taskType="ship-device", fault="accept-silent")
    line = {"itemId": "1", "action": "ADD", "productOfferingId": "router", "quantity": 5}
    order_id = tenant.submit(items=[{**line, "configuration": {"deviceModel": "R7"}}])
    first = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    link = tenant.cancel(order_id, scope={"type": "ITEMS"}, items=[{"itemId": "1", "quantity": 2}])
    eventually(lambda: tenant.get(link)["status"], lambda status: status == "COMPLETED", "the end of the cancellation")

    def again() -> list[Any]:
        shipments = [row for row in tenant.effects(order_id) if row["operation"] == "ship"]
        return [row for row in shipments if row["effectId"] != first["effectId"] and "acceptedAt" in row]

    [second] = eventually(again, lambda rows: len(rows) == 1, "the second shipment")
    tenant.call_back(second["effectId"])
    tenant.wait_state(order_id, "COMPLETED")
    [item] = tenant.order(order_id)["items"]
    assert (item["quantity"], item["orderedQuantity"]) == (3, 5)
    done = tenant.done(order_id)
    assert (done["reserve-inventory"], done["release-inventory"], done["stop-shipment"]) == (2, 1, 1)
