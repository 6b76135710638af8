"""The order page on the whole stack: a person cancels, and sees it become so."""

from __future__ import annotations

import pytest

from tests.browser.chromium import Page
from tests.flows.running import Tenant

pytestmark = pytest.mark.timeout(300)


def test_a_person_cancels_an_order_and_watches_it_become_cancelled(tenant: Tenant, page: Page) -> None:
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router", externalId="CRM-7")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    token = tenant.agent.headers["authorization"].removeprefix("Bearer ")

    page.open(f"{tenant.api}/ui")
    page.fill("Token", token)
    page.click("Sign in")
    page.wait_for("CRM-7")
    page.click(order_id[:8], "link")
    page.wait_for("Your order is being carried out")
    page.click("Show what would happen")
    page.wait_for("It can be cancelled as a whole.")
    page.wait_for("will be called off before it happens")
    page.click("Cancel the order")
    page.wait_for("Cancellation of the order")
    page.evaluate("window.stayed = true")
    page.wait_for("Your order is cancelled; everything that had been done for it is undone.", 90)
    assert page.evaluate("window.stayed") is True
    page.wait_for("Cancellation of the order: carried out")
    shown = "[...document.querySelectorAll('.picture svg text')].map((text) => text.textContent)"
    assert {"release inventory", "done · undoes reserve"} <= set(page.evaluate(shown))
    assert not page.has("Show what would happen")
    assert tenant.order(order_id)["state"] == "CANCELLED"
    assert tenant.done(order_id) == {"reserve-inventory": 1, "stop-shipment": 1, "release-inventory": 1}
    assert page.console == []
    assert page.refused == []
