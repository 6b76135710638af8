"""Makes the pictures of pages that the documents show: `.venv/bin/python -m tests.browser.pictures`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from domain.values import OrderId
from tests.browser.chromium import run_chromium
from tests.browser.served import serve_api
from tests.postgres import serve_postgres
from tests.workers.api_world import ApiWorld, confirmed, load_shared_policy

ORDER_PAGE: Final = Path(__file__).parents[2] / "docs/pictures/order-page.png"
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


def main() -> None:
    with serve_postgres() as server, server.clone() as database:
        asyncio.run(load_shared_policy(database.owner_url))
        with serve_api(database.app_url) as served, run_chromium() as browser:
            order_id = served.play(tell_story)
            with browser.tab(viewport={"width": 1000, "height": 860}) as page:
                page.open(f"{served.url}/ui/orders/{order_id}")
                page.fill("Token", served.world.token("alice", "agent"))
                page.click("Sign in")
                page.wait_for("CRM-4711")
                page.screenshot(ORDER_PAGE)


if __name__ == "__main__":
    main()
