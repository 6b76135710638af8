"""The pages in a real browser: who sees what, what a form does, and what stays inert."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from domain.commands import Envelope, RaiseJeopardy
from domain.reconciliation import EXPLANATIONS, REMEDIES, Finding
from domain.store.reconcile import keep_findings
from domain.values import OrderId, system_actor
from tests.browser.chromium import Browser, Page
from tests.browser.served import Served
from tests.workers.api_world import ApiWorld, a_line
from tests.workers.test_api_cancellations import soon
from tests.workers.test_api_cases import a_case

STARTED = {"reserve-inventory", "assign-resource", "create-appointment"}
ATTACK = """"><img src=x onerror="window.hurt=1"><script>window.hurt=1</script>{{ 7*7 }}'"""


def sign_in(served: Served, page: Page, subject: str, *roles: str, at: str = "/ui") -> None:
    page.open(f"{served.url}{at}")
    page.fill("Token", served.world.token(subject, *roles))
    page.click("Sign in")
    page.wait_for(subject)


def an_order(served: Served, *items: dict[str, Any], **overrides: Any) -> str:
    """An order whose reservations are made and whose visit is not yet done."""

    async def make(world: ApiWorld) -> str:
        order_id = await world.create(*items, **overrides)
        await world.fulfil(order_id, only=STARTED)
        return order_id

    return served.play(make)


def test_a_person_signs_in_with_a_token_that_no_script_can_read(served: Served, page: Page) -> None:
    order_id = an_order(served)
    page.open(f"{served.url}/ui/orders/{order_id}")
    assert page.url == f"{served.url}/ui/login?next=%2Fui%2Forders%2F{order_id}"
    page.fill("Token", "not a token")
    page.click("Sign in")
    page.wait_for("The token is not accepted")
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{order_id}")
    assert page.url == f"{served.url}/ui/orders/{order_id}"
    page.wait_for("Your order is being carried out: 3 of 7 steps are done")
    (cookie,) = page.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
    assert page.evaluate("document.cookie") == ""
    page.click("Sign out")
    page.wait_for("Sign in")
    assert page.cookies() == []
    assert page.console == ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"]


def test_an_agent_looks_ahead_cancels_and_another_person_approves(served: Served, page: Page, browser: Browser) -> None:
    order_id = an_order(served)
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{order_id}")
    page.fill("In words", "moved away")
    page.run(lambda tab: tab.get_by_label("have a person look at it").check())
    page.click("Show what would happen")
    page.wait_for("It can be cancelled as a whole.")
    page.wait_for("perform visit")
    page.wait_for("install (perform-visit) has not started and will not start.")
    assert page.count(".picture svg") == 1
    assert served.play(lambda world: world.rows("cancellation_request")) == 0
    page.click("Cancel the order")
    page.wait_for("waits to be judged")
    (request_id,) = [str(row["cancellationRequestId"]) for row in _requests(served, order_id)]

    served.play(lambda world: world.judge(order_id, request_id))
    page.wait_for("You asked for this; another person must decide.")
    assert not page.has("Approve")
    with browser.tab() as other:
        sign_in(served, other, "bob", "approver", at=f"/ui/orders/{order_id}")
        assert "“moved away”" in other.text()
        assert not other.has("Withdraw the cancellation")
        other.run(lambda tab: tab.get_by_label("Comment").fill("agreed by phone"))
        other.click("Approve")
        other.wait_for("Cancellation of the order: approved")
        assert other.console == []
    page.wait_for("Cancellation of the order: approved")  # without a reload
    page.wait_for("agreed by phone")
    (request,) = _requests(served, order_id)
    assert [decision["by"] for decision in request["decisions"]] == ["bob"]
    assert page.console == []


def _requests(served: Served, order_id: str) -> list[Any]:
    async def ask(world: ApiWorld) -> list[Any]:
        return list((await world.get(f"/orders/{order_id}/cancellation-requests")).json()["items"])

    return served.play(ask)


def test_the_page_says_when_the_order_has_changed_since_the_preview(served: Served, page: Page) -> None:
    order_id = an_order(served)
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{order_id}")
    page.click("Show what would happen")
    page.wait_for("It can be cancelled as a whole.")
    served.play(lambda world: world.cancel(order_id))
    page.click("Cancel the order")
    page.wait_for("Version stale")
    page.click("Back to the order", "link")
    page.wait_for("Cancellation of the order: waits to be judged")
    page.click("Withdraw the cancellation")
    page.wait_for("Cancellation of the order: taken back")
    assert [request["status"] for request in _requests(served, order_id)] == ["WITHDRAWN"]


def test_only_the_marked_items_are_cancelled(served: Served, page: Page) -> None:
    order_id = an_order(served, a_line("1"), a_line("2"))
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{order_id}")
    page.run(lambda tab: tab.get_by_label("2: fiber-500").check())
    page.click("Show what would happen")
    page.wait_for("What the cancellation of items 2 would do")
    page.click("Cancel these items")
    page.wait_for("Cancellation of items 2: waits to be judged")
    assert [request["scope"] for request in _requests(served, order_id)] == [{"type": "ITEMS", "orderItemIds": ["2"]}]


def test_who_has_no_role_for_it_sees_no_button_and_is_refused_by_hand(served: Served, page: Page) -> None:
    order_id = an_order(served)
    sign_in(served, page, "audrey", "auditor", at=f"/ui/orders/{order_id}")
    page.wait_for("Steps of the plan")
    assert page.count("main form") == 0
    page.evaluate(_by_hand(f"/ui/orders/{order_id}/cancel", "reasonCode=CUSTOMER_CHANGED_MIND&key=k1"))
    page.wait_for("Role required")
    assert page.refused[-1] == f"403 POST {served.url}/ui/orders/{order_id}/cancel"
    assert served.play(lambda world: world.rows("cancellation_request")) == 0


def test_a_form_that_no_page_of_the_session_made_is_refused(served: Served, page: Page) -> None:
    order_id = an_order(served)
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{order_id}")
    page.evaluate(_by_hand(f"/ui/orders/{order_id}/cancel", "reasonCode=CUSTOMER_CHANGED_MIND&key=k1", mark="forged"))
    page.wait_for("The form was not made by a page of this session")
    assert page.refused[-1] == f"403 POST {served.url}/ui/orders/{order_id}/cancel"
    assert served.play(lambda world: world.rows("cancellation_request")) == 0


def _by_hand(path: str, fields: str, *, mark: str = "") -> str:
    """A script that sends a form which the page does not offer."""
    return f"""() => {{
        const form = document.createElement("form");
        form.method = "post";
        form.action = "{path}";
        const known = document.querySelector("input[name=mark]").value;
        const fields = new URLSearchParams("{fields}");
        fields.set("mark", "{mark}" || known);
        for (const [name, value] of fields) {{
            const field = document.createElement("input");
            field.name = name;
            field.value = value;
            form.append(field);
        }}
        document.body.append(form);
        form.submit();
    }}"""


def test_another_tenants_order_is_as_absent_as_one_that_never_was(served: Served, page: Page) -> None:
    order_id = an_order(served)
    page.open(f"{served.url}/ui")
    page.fill("Token", served.world.token("mallory", "admin", "operator", tenant=uuid4()))
    page.click("Sign in")
    page.wait_for("No order is like that.")
    said = []
    for unknown in (order_id, str(uuid4()), "no-id"):
        assert page.open(f"{served.url}/ui/orders/{unknown}") == 404
        said.append(re.sub(r"request [0-9a-f]{32}", "", page.text()))
    assert len(set(said)) == 1
    assert "Order not found" in said[0]


def test_what_a_customer_writes_stays_text(served: Served, page: Page) -> None:
    order_id = an_order(
        served,
        a_line("<b>1</b>"),
        customer={"id": "c-9", "name": ATTACK},
        deliveryNote=ATTACK,
        externalId=f"<i>{uuid4().hex}</i>",
    )

    async def cancel(world: ApiWorld) -> None:
        request_id = await world.cancel(order_id, reasonText=ATTACK, forceManualReview=True)
        await world.judge(order_id, request_id)

    served.play(cancel)
    sign_in(served, page, "<u>bob</u>", "approver", "operator", at=f"/ui/orders/{order_id}")
    page.wait_for(f"“{ATTACK}”")
    assert page.text().count(ATTACK) == 3
    page.open(f"{served.url}/ui")
    page.wait_for(ATTACK)
    assert page.count("main img") + page.count("main script") + page.count("main b") + page.count("main i") == 0
    assert page.evaluate("window.hurt") is None
    assert page.console == []


def test_the_pages_work_without_scripts(served: Served, browser: Browser) -> None:
    order_id = an_order(served)
    with browser.tab(java_script_enabled=False) as plain:
        sign_in(served, plain, "alice", "agent", at=f"/ui/orders/{order_id}")
        plain.click("Show what would happen")
        plain.wait_for("It can be cancelled as a whole.")
        plain.click("Cancel the order")
        plain.wait_for("Cancellation of the order: waits to be judged")


def test_an_operator_holds_and_releases_an_order(served: Served, page: Page) -> None:
    order_id = an_order(served)
    sign_in(served, page, "olga", "operator", at=f"/ui/orders/{order_id}")
    page.fill("Why", "waits for the customer")
    page.click("Hold the order")
    page.wait_for("Now an operator must act.")
    page.click("Release the order")
    page.wait_for("Hold the order")

    async def state(world: ApiWorld) -> str:
        return str(await world.value("select state from customer_order where order_id = $1", UUID(order_id)))

    assert served.play(state) == "IN_PROGRESS"


def test_a_charge_is_shown_and_declined(served: Served, page: Page) -> None:
    async def make(world: ApiWorld) -> str:
        order_id = await world.create(appointment={"start": await soon(world), "end": "2999-01-01T00:00:00Z"})
        await world.fulfil(order_id, only=STARTED)
        await world.judge(order_id, await world.cancel(order_id))
        return order_id

    order_id = served.play(make)
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{order_id}")
    page.wait_for("25.00 EUR")
    assert page.has("Accept the charge")
    page.click("Decline the charge")
    page.wait_for("Cancellation of the order: refused")
    page.wait_for("charge declined")
    assert not page.has("Accept the charge")


def test_a_failure_is_on_the_order_in_the_list_and_on_the_dashboard(served: Served, page: Page) -> None:
    order_id, _ = served.play(a_case)
    sign_in(served, page, "olga", "operator", at=f"/ui/orders/{order_id}")
    page.wait_for("stopped by a failure that a person must mend")
    title = str(served.play(lambda world: world.value("select title from fallout_case")))
    assert page.run(lambda tab: tab.get_by_role("cell", name=title, exact=True).count()) == 1
    page.click("Dashboard", "link")
    page.wait_for("Open cases")
    page.click("Open cases", "link")
    page.wait_for(title)
    assert page.url.endswith("/ui/cases?status=OPEN")
    page.click(order_id[:8], "link")
    page.wait_for("nobody yet")


def test_the_dashboard_and_the_lists_lead_to_what_needs_a_person(served: Served, page: Page) -> None:
    order_id = an_order(served)

    served.play(lambda world: world.cancel(order_id))
    sign_in(served, page, "olga", "operator", at="/ui/dashboard")
    page.wait_for("What is under way")
    page.click("a cancellation was asked for", "link")
    page.wait_for("Orders")
    assert page.url.endswith("/ui?state=CANCELLATION_REQUESTED")
    page.click(order_id[:8], "link")
    page.wait_for("Cancellation of the order")
    page.click("Cases", "link")
    page.wait_for("No case is like that.")
    assert page.console == []


def test_the_dashboard_says_what_is_late_and_what_does_not_fit(served: Served, page: Page) -> None:
    order_id, case_id = served.play(a_case)

    async def trouble(world: ApiWorld) -> None:
        """A case past its deadline, and one finding of each class."""
        late = RaiseJeopardy(OrderId(UUID(order_id)), UUID(case_id), "CASE_SLA")
        await world.door.handle(Envelope(world.tenant, uuid4(), system_actor("test")), late)
        found = [Finding(klass, f"{klass}-1", "seen", datetime.now(UTC)) for klass in EXPLANATIONS]
        await keep_findings(world.pool, world.tenant, found, EXPLANATIONS, {})

    served.play(trouble)
    sign_in(served, page, "olga", "operator", at="/ui/dashboard")
    page.wait_for("What does not fit together")
    shown = page.text("#board")
    told = [words.replace("`", "") for words in (*EXPLANATIONS.values(), *REMEDIES.values())]
    assert [words for words in told if words not in shown] == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.click("case", "link")
    page.wait_for("What can be done, and what it would do")
    assert page.url.endswith(f"/ui/cases/{case_id}")
    assert page.console == []


def test_related_orders_are_a_picture_and_links(served: Served, page: Page) -> None:
    async def make(world: ApiWorld) -> tuple[str, str]:
        first = await world.create()
        relations = [{"type": "SUPPLEMENTS", "targetOrderId": first, "reasonCode": "CUSTOMER_REQUEST"}]
        return first, await world.create(relations=relations)

    first, second = served.play(make)
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{first}")
    page.wait_for("Related orders")
    assert page.has(f"Orders around {first[:8]}", "img")
    assert f"Standard order {second[:8]}" in str(page.evaluate("document.querySelector('#related svg').textContent"))
    assert re.sub(r"\s+", " ", page.text("#related li")) == f"{second[:8]} supplements {first[:8]}"
    page.click(second[:8], "link")
    page.wait_for(f"Order {second}")
    assert page.url == f"{served.url}/ui/orders/{second}"
