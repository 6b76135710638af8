"""Makes the pictures of pages that the documents show: `.venv/bin/python -m tests.browser.pictures`; those of Operate
and Tasklist where RECOURSE_HOME names the folder of a running stack with both."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from domain.values import OrderId
from tests.browser.chromium import Browser, Page, run_chromium
from tests.browser.consoles import Consoles
from tests.browser.served import Served, serve_api
from tests.flows.running import ADDRESS, RunningStack
from tests.flows.test_amendments import SLOT, amend, replace
from tests.postgres import serve_postgres
from tests.workers.api_world import ApiWorld, confirmed, load_shared_policy
from tests.workers.test_api_amendments import MOVED, PHONE, ask_for, drive

PICTURES: Final = Path(__file__).parents[2] / "docs/pictures"
DONE: Final = {"reserve-inventory", "assign-resource", "create-appointment", "ship-device"}


def answer(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """The delivery is accepted and not yet done; everything else is done at once."""
    return {"state": "ACCEPTED"} if call["body"]["taskType"] == "ship-device" else confirmed(call)


async def tell_story(world: ApiWorld) -> str:
    """An order whose delivery is under way when the customer changes their mind; its undoing has begun."""
    order_id = await world.create(externalId="CRM-4711", deliveryNote="ring twice")
    await world.fulfil(order_id, answer, only=DONE)
    request_id = await world.cancel(order_id, reasonText="bought elsewhere")
    planned = await world.judge(order_id, request_id)
    await world.walk(
        OrderId(UUID(order_id)), planned["plan_id"], planned["plan_run"], only={"stop-shipment", "cancel-appointment"}
    )
    return order_id


async def tell_of_change(world: ApiWorld) -> str:
    """An order whose customer moves to the next street when the technician is booked already; an approver must agree.
    Another order was made for it later."""
    order_id = await world.create(externalId="CRM-4712")
    await world.fulfil(order_id, only=DONE - {"ship-device"})
    told = await ask_for(world, order_id, MOVED, PHONE)
    await drive(world, order_id, told.json()["amendmentRequestId"])
    for kind in ("SUPPLEMENTS", "REPAIRS"):
        await world.create(relations=[{"type": kind, "targetOrderId": order_id, "reasonCode": "CUSTOMER_REQUEST"}])
    return order_id


def open_order(served: Served, page: Page, order_id: str, subject: str, role: str) -> None:
    page.open(f"{served.url}/ui/orders/{order_id}")
    page.fill("Token", served.world.token(subject, role))
    page.click("Sign in")
    page.wait_for(subject)


def draw_pages(browser: Browser) -> None:
    with serve_postgres() as server, server.clone() as database:
        asyncio.run(load_shared_policy(database.owner_url))
        with serve_api(database.app_url) as served:
            cancelled, changed = served.play(tell_story), served.play(tell_of_change)
            with browser.tab(viewport={"width": 1000, "height": 860}) as page:
                open_order(served, page, cancelled, "alice", "agent")
                page.screenshot(PICTURES / "order-page.png")
            with browser.tab(viewport={"width": 1000, "height": 860}) as page:
                open_order(served, page, changed, "bob", "approver")
                page.run(lambda tab: tab.locator("#requests").screenshot(path=PICTURES / "amendment.png"))
                page.run(lambda tab: tab.locator("#related").screenshot(path=PICTURES / "related-orders.png"))
            with browser.tab(viewport={"width": 360, "height": 640}, is_mobile=True) as page:
                open_order(served, page, changed, "bob", "approver")
                page.screenshot(PICTURES / "order-phone.png")


def draw_consoles(browser: Browser, home: str) -> None:
    """A change that a person must agree to, as Tasklist and Operate show it."""
    stack = RunningStack(Path(home), {**os.environ})
    consoles, tenant = Consoles.of(stack), stack.tenant()
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit(appointment=SLOT)
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
    amend(tenant, order_id, replace("/installationAddress/postalCode", ADDRESS["postalCode"], "12940"))
    key = consoles.find_task(order_id)
    with browser.tab(viewport={"width": 1200, "height": 900}) as page:
        consoles.log_in(page, consoles.tasklist, "bob")
        page.wait_for("Review change")
        page.open(f"{consoles.tasklist}/{key}")
        page.wait_for("May installation address, postal code change?")  # its variables come after the form
        page.screenshot(PICTURES / "tasklist.png")
    with browser.tab(viewport={"width": 1200, "height": 800}) as page:
        consoles.log_in(page, consoles.operate, "demo")
        page.wait_for("Dashboard")
        key = max(tenant.order(order_id)["links"]["operate"].rpartition("ids=")[2].split(","), key=int)
        page.open(f"{consoles.operate}/processes/{key}")
        page.wait_for_selector("[data-element-id=review-amendment]")
        page.run(lambda tab: tab.wait_for_load_state("networkidle"))
        page.screenshot(PICTURES / "operate.png")
    consoles.close()


def main() -> None:
    with run_chromium() as browser:
        draw_pages(browser)
        if home := os.environ.get("RECOURSE_HOME"):
            draw_consoles(browser, home)


if __name__ == "__main__":
    main()
