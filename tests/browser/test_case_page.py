"""A case on its page: what failed, what each repair would do, who may do it."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.browser.chromium import Browser, Page
from tests.browser.served import Served
from tests.browser.test_order_page import sign_in
from tests.workers.api_world import ApiWorld
from tests.workers.test_api_cases import a_case


def _status(served: Served, case_id: str) -> str:
    async def ask(world: ApiWorld) -> str:
        return str(await world.value("select status from fallout_case where case_id = $1", UUID(case_id)))

    return served.play(ask)


def _choose(page: Page, repair: str) -> None:
    page.run(lambda tab: tab.get_by_role("radio", name=repair).check())


def test_an_operator_reads_what_a_repair_would_do_and_tries_again(served: Served, page: Page) -> None:
    order_id, case_id = served.play(a_case)
    sign_in(served, page, "olga", "operator", at=f"/ui/orders/{order_id}")
    page.click("To the case", "link")
    page.wait_for("Now an operator must act by")
    page.wait_for("the order stands still until it is mended")
    page.wait_for("Calls resource again for assign-resource, as a new effect.")
    page.click("Assign")
    page.wait_for("somebody is at it")
    _choose(page, "try it again")
    page.fill("In words", "it is up again")
    page.click("Repair")
    page.wait_for("Mended: try it again")
    page.wait_for("“it is up again”")
    assert _status(served, case_id) == "RESOLVED"
    assert page.count("#acts form") == 0
    page.click(order_id, "link")
    page.wait_for("being carried out")
    assert page.console == []


def test_what_a_person_vouches_for_takes_a_second_one(served: Served, page: Page, browser: Browser) -> None:
    _, case_id = served.play(a_case)
    at = f"/ui/cases/{case_id}"
    sign_in(served, page, "olga", "operator", "approver", at=at)
    _choose(page, "a person has done it")
    page.click("Repair")
    page.wait_for("Evidence required")
    page.open(f"{served.url}{at}")
    _choose(page, "a person has done it")
    page.click_on("#more summary")
    page.fill("Kind of evidence", "TICKET")
    page.fill("Where it can be seen", "INC-7")
    page.click("Repair")
    page.wait_for("a repair waits for a second person")
    page.wait_for("You asked for this; another person must decide.")
    assert not page.has("Agree to the repair")
    with browser.tab() as other:
        sign_in(served, other, "carla", "approver", at=at)
        other.wait_for("Evidence: TICKET INC-7.")
        other.fill("Comment", "seen it")
        other.click("Agree to the repair")
        other.wait_for("Mended: a person has done it")
        assert other.console == []
    assert _status(served, case_id) == "RESOLVED"


def test_without_the_role_there_is_reading_and_no_button(served: Served, page: Page) -> None:
    _, case_id = served.play(a_case)
    sign_in(served, page, "audrey", "auditor", at=f"/ui/cases/{case_id}")
    page.wait_for("Calls resource again for assign-resource, as a new effect.")
    assert page.count("main form") == 0


@pytest.mark.parametrize("kind", ["foreign", "unknown", "no id"])
def test_a_case_of_others_is_as_absent_as_one_that_never_was(served: Served, page: Page, kind: str) -> None:
    _, case_id = served.play(a_case)
    page.open(f"{served.url}/ui")
    page.fill("Token", served.world.token("mallory", "admin", "operator", tenant=uuid4()))
    page.click("Sign in")
    page.wait_for("No order is like that.")
    asked = {"foreign": case_id, "unknown": str(uuid4()), "no id": "no-id"}[kind]
    assert page.open(f"{served.url}/ui/cases/{asked}") == 404
    page.wait_for("Case not found")


def test_a_session_that_ends_leads_back_to_where_it_was(served: Served, page: Page) -> None:
    """Also of a page that is open and keeps itself fresh."""
    order_id, case_id = served.play(a_case)
    sign_in(served, page, "olga", "operator", at=f"/ui/orders/{order_id}")
    page.wait_for("Timeline")

    async def end(tab: Any) -> None:
        (cookie,) = await tab.context.cookies()
        await tab.context.add_cookies([{**cookie, "value": "over.and.out"}])

    page.run(end)
    page.wait_for("The token of your identity provider")
    assert page.url == f"{served.url}/ui/login?next=%2Fui%2Forders%2F{order_id}"
    page.open(f"{served.url}/ui/cases/{case_id}")
    page.fill("Token", served.world.token("olga", "operator"))
    page.click("Sign in")
    page.wait_for("What can be done, and what it would do")
    assert page.url == f"{served.url}/ui/cases/{case_id}"
