"""Repairs on the real engine: a failure, a case, what a person does about it, and the order that ends as it should."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flows.running import Tenant, eventually

pytestmark = pytest.mark.timeout(300)

PROOF = {"kind": "TICKET", "reference": "INC-7"}


def repair(tenant: Tenant, order_id: str, action: str, *, agreed: bool = False, **more: Any) -> str:
    """Repair the one open case of an order; answers its path."""
    [case] = [case for case in tenant.cases(order_id) if case["status"] == "OPEN"]
    path = f"/api/v1/fallout-cases/{case['caseId']}"
    body = {"action": action, "reasonCode": "MANUAL_WORK_DONE", "reasonText": "seen to"} | more
    etag = tenant.operator.get(path).headers["etag"]
    answer = tenant.post(f"{path}/repairs", body, by=tenant.operator, etag=etag)
    assert answer.status_code == 202, answer.text
    if agreed:
        etag = tenant.operator.get(path).headers["etag"]
        told = tenant.post(f"{path}/repairs/{answer.json()['n']}/approve", {}, by=tenant.approver, etag=etag)
        assert told.status_code == 202, told.text
    return path


def test_refused_work_is_forced_by_two_and_the_order_goes_on(tenant: Tenant) -> None:
    tenant.fault(taskType="reserve-inventory", fault="refuse")
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "FALLOUT")
    repair(tenant, order_id, "FORCE_COMPLETE", agreed=True, evidence=PROOF)
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"ship-device": 1}
    assert sorted((e["basis"], e["state"]) for e in tenant.effects(order_id) if e["operation"] == "reserve") == [
        ("MANUAL", "CONFIRMED"),
        ("SYSTEM", "NO_EFFECT"),
    ]


def test_an_input_is_replaced_and_sent(tenant: Tenant) -> None:
    tenant.fault(taskType="reserve-inventory", fault="refuse", times=1)
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "FALLOUT")
    repair(tenant, order_id, "REPLACE_INPUT", input={"warehouse": "north"})
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}


def test_an_item_that_cannot_be_delivered_is_given_up_and_undone(tenant: Tenant) -> None:
    tenant.fault(taskType="ship-device", fault="refuse")
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "FALLOUT")
    path = repair(tenant, order_id, "FAIL_ITEM")
    tenant.wait_state(order_id, "FAILED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "release-inventory": 1}
    assert tenant.order(order_id)["items"][0]["state"] == "FAILED"
    assert tenant.get(path)["resolution"] == "FAIL_ITEM"


def test_an_undoing_that_is_refused_is_waived_with_its_amount(tenant: Tenant) -> None:
    tenant.fault(taskType="ship-device", fault="refuse")
    tenant.fault(taskType="release-inventory", fault="refuse")
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "FALLOUT")
    tenant.cancel(order_id)
    eventually(
        lambda: [case for case in tenant.cases(order_id) if case["context"] == "COMPENSATION"],
        lambda cases: any(case["status"] == "OPEN" and case["blocking"] for case in cases),
        "the case of the undoing",
    )
    amount = {"amountMinor": 500, "currency": "EUR"}
    repair(tenant, order_id, "WAIVE", agreed=True, evidence=PROOF, amount=amount)
    tenant.wait_state(order_id, "CANCELLED")
    assert [e["state"] for e in tenant.effects(order_id) if e["operation"] == "reserve"] == ["WAIVED"]
