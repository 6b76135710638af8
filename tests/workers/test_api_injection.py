"""What people write stays what they wrote, whatever language it is in, and a place in a list is a place and no key.

The engine's side of it, where an expression could be computed, is in `tests/flows/test_canary.py`.
"""

from __future__ import annotations

import base64
import itertools
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.workers.api_world import BASE, ApiWorld

pytestmark = pytest.mark.asyncio(loop_scope="session")

AUDITOR = ("eve", "agent", "operator", "auditor", "admin")
LISTS = (
    "/orders",
    "/orders/{orderId}/plan",
    "/orders/{orderId}/effects",
    "/orders/{orderId}/timeline",
    "/orders/{orderId}/cancellation-requests",
    "/orders/{orderId}/amendment-requests",
    "/orders/{orderId}/compensation-plans",
    "/fallout-cases",
    "/reconciliation/findings",
    "/assets",
    "/policies",
    "/audit/verification",
)


def cursor(place: Any) -> str:
    raw = place if isinstance(place, bytes) else json.dumps(place).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


NOW = datetime.now(UTC).isoformat()
FORGED: dict[str, str] = {
    "no base64": "%%%",
    "not even ASCII": "\u00fc",
    "no JSON": cursor(b"\xff\xfe"),
    "an object": cursor({"at": NOW}),
    "numbers": cursor([1, 2]),
    "SQL for a time": cursor(["' or '1'='1", str(uuid.UUID(int=1))]),
    "SQL for an id": cursor([NOW, "' or '1'='1"]),
    "SQL alone": cursor(["1; drop table customer_order"]),
    "a time beyond all": cursor(["99999-01-01T00:00:00Z", str(uuid.UUID(int=1))]),
    "infinity": cursor(["infinity", str(uuid.UUID(int=1))]),
    "NUL": cursor([NOW, "\x00"]),
    "NUL alone": cursor(["\x00"]),
    "a negative number": cursor(["-1"]),
    "a number that no column holds": cursor(["9" * 18]),
    "a number beyond that": cursor(["9" * 40]),
    "a number in other digits": cursor(["\u0661"]),
    "too many parts": cursor(["1"] * 50),
    "deep": cursor(b"[" * 5_000 + b"]" * 5_000),
    "long": cursor(["1" * 6_000]),
}


async def test_a_forged_place_is_none_of_the_list(world: ApiWorld) -> None:
    """400, or where it happens to be a place, an empty page: never an error of ours, and never another's row.

    Without the check of a place's parts (`Call.place`, `Call.number`) the first text is an error of PostgreSQL's: 500.
    """
    order_id = await world.create()
    for name, template in itertools.product(FORGED, LISTS):
        path = template.replace("{orderId}", order_id)
        answer = await world.client.get(
            f"{BASE}{path}",
            params={"cursor": FORGED[name]},
            headers={"Authorization": f"Bearer {world.token(*AUDITOR)}"},
        )
        told = answer.json()
        if answer.status_code == 200:
            assert name == "a number that no column holds", (name, path, told)
        else:
            assert (answer.status_code, told["code"]) == (400, "MALFORMED"), (name, path, told)


async def test_a_place_in_another_tenants_list_shows_ones_own(world: ApiWorld) -> None:
    """A place says where to go on; whose rows are read is said by the token alone."""
    theirs, stranger = await world.create(), uuid.uuid4()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for place in (cursor([later, theirs]), cursor([later, str(uuid.UUID(int=2**128 - 1))])):
        shown = await world.get(f"/orders?cursor={place}", as_=("eve", "agent"), tenant=stranger)
        assert (shown.status_code, shown.json()["items"]) == (200, [])
        own = await world.get(f"/orders?cursor={place}")
        assert [order["orderId"] for order in own.json()["items"]] == [theirs]


HOSTILE = (
    "= 1 + 1",
    '=string join(["a", "b"])',
    "${7*7}",
    "{{7*7}}",
    "#{order_id}",
    "%(tenant_id)s %s {0} {tenant_id}",
    "'; drop table customer_order; --",
    "\\'; select pg_sleep(10); --",
    '","tenant_id":"00000000-0000-0000-0000-000000000000',
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\u202egnihton",
    "line\r\nSet-Cookie: x=1",
    "a\u2028b",
)


async def test_a_text_is_kept_as_it_was_written_and_told_to_nobody(world: ApiWorld) -> None:
    """In an order and as a reason; and in no message to the engine, whose language begins with an equals sign."""
    for text in HOSTILE:
        customer = {"id": "c-9", "name": text}
        order_id = await world.create(deliveryNote=text, externalId=text, customer=customer)
        request_id = await world.cancel(order_id, reasonText=text)
        shown = (await world.get(f"/orders/{order_id}")).json()
        assert (shown["deliveryNote"], shown["externalId"], shown["customer"]) == (text, text, customer)
        request = (await world.get(f"/orders/{order_id}/cancellation-requests/{request_id}")).json()
        assert request["reasonText"] == text
    told = json.loads(await world.value("select json_agg(variables)::text from engine_outbox"))
    values = [value for variables in told for value in variables.values()]
    assert len(told) >= 2 * len(HOSTILE)
    assert all(str(uuid.UUID(value)) == value for value in values)
