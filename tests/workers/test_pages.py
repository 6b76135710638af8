"""The pages over plain HTTP: what a browser is told, and what is refused whatever a browser would do."""

from __future__ import annotations

import html
import re

import httpx
import pytest

from tests.workers.api_world import ApiWorld
from workers.api.ui.visits import own_page
from workers.api.ui.wording import age, money, when, words

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def sign_in(world: ApiWorld, subject: str = "alice", *roles: str) -> dict[str, str]:
    """The headers of somebody who is signed in."""
    told = await world.client.post("/ui/login", data={"token": world.token(subject, *roles), "next": "/ui/cases"})
    world.client.cookies.clear()
    assert (told.status_code, told.headers["location"]) == (303, "/ui/cases")
    kept = told.headers["set-cookie"]
    assert re.fullmatch(r"recourse_token=[\w.-]+; HttpOnly; Path=/ui; SameSite=strict", kept), kept
    return {"Cookie": kept.partition(";")[0]}


def fields_of(page: httpx.Response, action: str) -> dict[str, str]:
    """What the page's form with that action would send, untouched."""
    form = re.search(rf'<form[^>]*action="{re.escape(action)}".*?</form>', page.text, re.DOTALL)
    assert form, page.text
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form[0])
    return {name: html.unescape(value) for name, value in found}


async def test_a_page_allows_nothing_but_its_own_files(world: ApiWorld) -> None:
    page = await world.client.get("/ui", headers=await sign_in(world))
    assert page.status_code == 200, page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-frame-options"] == "DENY"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
    assert "unsafe" not in policy
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", page.text)
    for name in re.findall(r'(?:href|src)="(/ui/static/[^"]+)"', page.text):
        assert (await world.client.get(name)).status_code == 200


async def test_a_form_that_is_sent_twice_asks_once(world: ApiWorld) -> None:
    order_id = await world.create()
    signed = await sign_in(world)
    at = f"/ui/orders/{order_id}"
    page = await world.client.get(at, headers=signed)
    wish = {"reasonCode": "CUSTOMER_CHANGED_MIND"}
    shown = await world.client.post(f"{at}/preview", data=fields_of(page, f"{at}/preview") | wish, headers=signed)
    assert shown.status_code == 200, shown.text
    sent = fields_of(shown, f"{at}/cancel")
    for _ in range(2):
        told = await world.client.post(f"{at}/cancel", data=sent, headers=signed)
        assert (told.status_code, told.headers["location"]) == (303, at)
    assert await world.rows("cancellation_request") == 1


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_site_signs_nobody_in_and_sends_no_form(world: ApiWorld, site: str) -> None:
    strange = {"Sec-Fetch-Site": site}
    told = await world.client.post("/ui/login", data={"token": world.token()}, headers=strange)
    assert (told.status_code, "set-cookie" in told.headers) == (403, False)
    order_id = await world.create()
    signed = await sign_in(world, "olga", "operator")
    page = await world.client.get(f"/ui/orders/{order_id}", headers=signed)
    sent = fields_of(page, f"/ui/orders/{order_id}/hold")
    told = await world.client.post(f"/ui/orders/{order_id}/hold", data=sent, headers=signed | strange)
    assert told.status_code == 403
    assert (await world.client.post(f"/ui/orders/{order_id}/hold", data=sent, headers=signed)).status_code == 303


async def test_the_cookie_opens_no_route_of_the_api(world: ApiWorld) -> None:
    signed = await sign_in(world)
    assert (await world.client.get("/api/v1/orders", headers=signed)).status_code == 401


async def test_who_has_no_valid_token_is_asked_for_one(world: ApiWorld) -> None:
    expired = {"Cookie": f"recourse_token={world.token(exp=1)}"}
    for headers in ({}, expired):
        told = await world.client.get("/ui/orders/x?a=b", headers=headers)
        assert (told.status_code, told.headers["location"]) == (303, "/ui/login?next=%2Fui%2Forders%2Fx%3Fa%3Db")
    told = await world.client.post("/ui/orders/x/cancel", data={"key": "k"})
    assert (told.status_code, told.headers["location"]) == (303, "/ui/login")


async def test_nobody_is_sent_to_a_page_of_others(world: ApiWorld) -> None:
    for wanted in ("https://evil.test", "//evil.test", "/ui//evil.test", "/ui/\\evil", "/uix", "/ui/a\r\nb", "", "/"):
        assert own_page(wanted) == "/ui"
    for wanted in ("/ui", "/ui/cases", "/ui?state=CANCELLED", "/ui/orders/1"):
        assert own_page(wanted) == wanted


async def test_what_the_api_refuses_is_a_page_with_the_same_status(world: ApiWorld) -> None:
    signed = await sign_in(world)
    assert (await world.client.get("/ui?state=NONSENSE", headers=signed)).status_code == 400
    assert (await world.client.get("/ui?cursor=nonsense", headers=signed)).status_code == 400
    assert (await world.client.get("/ui/orders/nonsense", headers=signed)).status_code == 404
    order_id = await world.create()
    at = f"/ui/orders/{order_id}"
    page = await world.client.get(at, headers=signed)
    sent = fields_of(page, f"{at}/preview")
    told = await world.client.post(f"{at}/cancel", data=sent | {"reasonCode": "NONSENSE"}, headers=signed)
    assert told.status_code == 428  # this form carries no version of the order: nobody has looked ahead
    told = await world.client.post(f"{at}/preview", data=sent | {"reasonCode": "NONSENSE"}, headers=signed)
    assert (told.status_code, "REASON_UNKNOWN" in told.text) == (422, True)


async def test_codes_amounts_and_times_are_told_as_people_say_them() -> None:
    assert money({"amountMinor": 2505, "currency": "EUR"}) == "25.05 EUR"
    assert money({"amountMinor": -5, "currency": "EUR"}) == "-0.05 EUR"
    assert money({"amountMinor": 2500, "currency": "JPY"}) == "2500 JPY"
    assert money({"amountMinor": 2500, "currency": "KWD"}) == "2.500 KWD"
    assert when("2026-12-01T09:00:00+01:00") == "1 Dec 2026, 08:00:00 UTC"
    assert [age(seconds) for seconds in (None, 0.4, 119, 600, 7200, 400_000)] == [
        "", "0 s", "119 s", "10 min", "2 h", "5 days",
    ]  # fmt: skip
    assert words("RETAIN", "consequence") == "cannot be undone and stays"
    assert words("NEVER_HEARD_OF", "consequence") == "never heard of"
