"""Stories under a policy that the running stack has never heard of, told from outside over HTTP alone: what a business
with other work, other money and other dates sees of its orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from domain.policy import read_policy_text
from tests.builders import ROOT
from tests.flows.running import Tenant, eventually
from tests.flows.test_amendments import amend, replace, wait_status

RIGHT_AWAY = {"reasonCode": "NOT_WANTED"}


@pytest.fixture
def dealer(tenant: Tenant) -> Tenant:
    """A tenant that lives by the leasing policy."""
    document: Any = read_policy_text((ROOT / "tests/policies/leasing.policy.yaml").read_text())
    posted = tenant.post("/api/v1/policies", document, by=tenant.person("root", "admin"))
    assert posted.status_code == httpx.codes.CREATED, posted.text
    return tenant


def soon(**span: float) -> str:
    return (datetime.now(UTC) + timedelta(**span)).isoformat()


def an_item(item_id: str, offering: str, **more: Any) -> dict[str, Any]:
    return {"itemId": item_id, "action": "ADD", "productOfferingId": offering} | more


def lease(dealer: Tenant, *items: dict[str, Any], **more: Any) -> str:
    car = an_item("1", "car", price={"amountMinor": 90000, "currency": "CHF"}, configuration={"model": "M3"})
    return dealer.submit(**{"items": list(items) or [car], "requestedStartDate": soon(days=9)} | more)


def on_the_forecourt(dealer: Tenant, **more: Any) -> str:
    """A car with everything done for it, waiting to be handed over."""
    dealer.fault(taskType="hand-over", fault="accept-silent")
    order_id = lease(dealer, **more)
    dealer.wait_effect(order_id, "hand-over", "dealer", acceptedAt=...)
    return order_id


def undone(dealer: Tenant, order_id: str) -> list[str]:
    """What was undone or called off, in the order in which it was."""
    lines = httpx.get(f"{dealer.simulator}/book", params={"orderId": order_id}, timeout=10).json()["lines"]
    forth = {"check-credit", "reserve-car", "deposit", "insure", "register", "track", "hand-over"}
    return [line["taskType"] for line in lines if line["event"] == "DONE" and line["taskType"] not in forth]


def test_all_of_it_goes_back_in_its_order_with_the_money(dealer: Tenant) -> None:
    order_id = on_the_forecourt(dealer)
    link = dealer.cancel(order_id, **RIGHT_AWAY)
    dealer.wait_state(order_id, "CANCELLED")
    seen = undone(dealer, order_id)
    assert seen[:3] == ["call-off", "untrack", "unregister"]
    assert sorted(seen[3:]) == ["pay-back", "uninsure", "unreserve-car"]
    assert seen.index("uninsure") < seen.index("unreserve-car")
    assert "charge" not in dealer.get(link)
    taken = dealer.wait_effect(order_id, "take", "ledger", state="REVERSED")
    back = dealer.wait_effect(order_id, "pay-back", "ledger", state="CONFIRMED")
    assert back["reverses"] == taken["effectId"]


def test_a_late_wish_is_charged_and_one_that_is_too_late_is_refused(dealer: Tenant) -> None:
    charged = on_the_forecourt(dealer, requestedStartDate=soon(hours=30))
    link = dealer.cancel(charged, **RIGHT_AWAY)
    dealer.wait_state(charged, "CANCELLED")
    charge = dealer.get(link)["charge"]
    assert (charge["status"], charge["amount"]) == ("RECORDED", {"amountMinor": 700, "currency": "CHF"})

    on_the_road = on_the_forecourt(dealer, requestedStartDate=soon(minutes=20))
    refused = wait_status(dealer, dealer.cancel(on_the_road, **RIGHT_AWAY), "REJECTED")
    assert refused["assessment"]["feasibility"] == "NOT_CANCELLABLE"
    assert [blocker["code"] for blocker in refused["assessment"]["blockers"]] == ["PAST_NO_RETURN"]
    assert (dealer.order(on_the_road)["state"], undone(dealer, on_the_road)) == ("IN_PROGRESS", [])
    dealer.call_back(dealer.wait_effect(on_the_road, "hand-over", "dealer", acceptedAt=...)["effectId"])
    dealer.wait_state(on_the_road, "COMPLETED")


def test_a_bundle_goes_with_the_part_that_it_cannot_do_without(dealer: Tenant) -> None:
    parts = (
        an_item("0", "fleet"),
        an_item("1", "car", parentItemId="0"),
        an_item("2", "tyres", parentItemId="0", reliesOn=["1"]),
    )
    dealer.fault(taskType="hand-over", fault="accept-silent")
    order_id = lease(dealer, *parts)
    dealer.wait_effect(order_id, "hand-over", "dealer", acceptedAt=...)
    dealer.cancel(order_id, scope={"type": "ITEMS", "orderItemIds": ["1"]}, **RIGHT_AWAY)
    dealer.wait_state(order_id, "CANCELLED")
    assert {item["itemId"]: item["state"] for item in dealer.order(order_id)["items"]} == dict.fromkeys(
        "012", "CANCELLED"
    )
    assert "pay-back" not in undone(dealer, order_id)  # nothing was taken, and that is not called


def test_an_order_waits_for_its_start_date_and_begins_when_that_is_moved(dealer: Tenant) -> None:
    dealer.fault(taskType="hand-over", fault="accept-silent")
    wished = soon(days=30)
    order_id = lease(dealer, requestedStartDate=wished, startOnRequestedDate=True)
    dealer.wait_state(order_id, "VALIDATED")
    progress = eventually(
        lambda: dealer.get(f"/api/v1/orders/{order_id}/progress"), lambda seen: seen["blockers"], "what it waits for"
    )
    assert [blocker["kind"] for blocker in progress["blockers"]] == ["DATE"]
    refused = dealer.post(
        f"/api/v1/orders/{order_id}/amendment-requests",
        {"reasonCode": "WISH", "changes": [replace("/requestedStartDate", wished, "soon")]},
        etag=dealer.etag(order_id),
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_BODY")
    amend(dealer, order_id, replace("/requestedStartDate", wished, soon(seconds=2)), reasonCode="WISH")
    dealer.wait_effect(order_id, "hand-over", "dealer", acceptedAt=...)


def test_a_system_that_only_ever_says_accepted_becomes_a_case_and_is_heard_in_the_end(dealer: Tenant) -> None:
    dealer.fault(taskType="reserve-car", fault="accept-silent")
    order_id = lease(dealer)
    dealer.wait_state(order_id, "FALLOUT")
    (case,) = dealer.cases(order_id)
    assert (case["category"], case["blocking"], case["status"]) == ("UNKNOWN_OUTCOME", True, "OPEN")
    dealer.call_back(dealer.wait_effect(order_id, "reserve", "dealer", acceptedAt=...)["effectId"])
    dealer.wait_state(order_id, "COMPLETED")
    (case,) = dealer.cases(order_id)
    assert case["status"] == "RESOLVED"


def test_a_new_phone_number_is_insured_once_more_and_nothing_else_is_done(dealer: Tenant) -> None:
    order_id = on_the_forecourt(dealer)
    link = amend(dealer, order_id, replace("/contact/phone", "+49 30 1234567", "+41 44 1"), reasonCode="WISH")
    wait_status(dealer, link, "APPLIED")
    eventually(
        lambda: sorted(e["state"] for e in dealer.effects(order_id) if e["operation"] == "insure"),
        lambda states: states == ["CONFIRMED", "REVERSED"],
        "a new insurance in the place of the old one",
    )
    assert dealer.done(order_id) == {
        "check-credit": 1,
        "reserve-car": 1,
        "deposit": 1,
        "insure": 2,
        "register": 1,
        "track": 1,
    }
    dealer.call_back(dealer.wait_effect(order_id, "hand-over", "dealer", acceptedAt=...)["effectId"])
    dealer.wait_state(order_id, "COMPLETED")
