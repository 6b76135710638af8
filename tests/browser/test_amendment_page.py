"""Changes of an order on its page: what they say, what they mean for the work, and who may decide."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.chromium import Browser, Page
from tests.browser.served import Served
from tests.browser.test_order_page import ATTACK, STARTED, sign_in
from tests.workers.api_world import ApiWorld
from tests.workers.test_api_amendments import MOVED, PHONE, ask_for, drive, replace


def an_amendment(served: Served, *changes: dict[str, Any], **more: Any) -> tuple[str, str]:
    """(orderId, amendmentRequestId) of an order on its way, and a change that is judged."""

    async def make(world: ApiWorld) -> tuple[str, str]:
        order_id = await world.create(deliveryNote="ring twice")
        await world.fulfil(order_id, only=STARTED)
        answer = await ask_for(world, order_id, *(changes or (MOVED, PHONE)), **more)
        assert answer.status_code == 202, answer.text
        request_id = str(answer.json()["amendmentRequestId"])
        if answer.json()["status"] == "REQUESTED":
            await drive(world, order_id, request_id)
        return order_id, request_id

    return served.play(make)


def _read(served: Served, order_id: str) -> list[dict[str, Any]]:
    async def ask(world: ApiWorld) -> list[dict[str, Any]]:
        return list((await world.get(f"/orders/{order_id}/amendment-requests")).json()["items"])

    return served.play(ask)


def _rows(page: Page, section: str) -> list[str]:
    """The rows of the first table there, their cells apart."""
    script = f"""[...document.querySelector("{section}").querySelector("table").tBodies[0].rows]
        .map((row) => [...row.cells].map((cell) => cell.innerText).join(" | "))"""
    return list(page.evaluate(script))


def _said_between(page: Page) -> list[str]:
    script = "[...document.querySelectorAll('.picture svg text[text-anchor=middle]')].map((text) => text.textContent)"
    return list(page.evaluate(script))


def test_a_change_is_seen_agreed_to_applied_and_its_two_plans_compared(
    served: Served, page: Page, browser: Browser
) -> None:
    order_id, request_id = an_amendment(served, autoApply=False)
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{order_id}")
    page.wait_for("Change of the order: waits for a person's approval")
    assert _rows(page, "#requests") == [
        "installation address, postal code | 12930 | 12940 | only if a person agrees",
        "contact, phone | +49 30 1234567 | +49 30 7654321 | yes",
    ]
    assert sorted(_rows(page, f"#assessment-{request_id}")) == [
        "assign resource | completed | done anew, the old undone",
        "create appointment | completed | undone, then done anew",
        "perform visit | pending | planned anew",
    ]
    assert page.has("Plan 1 beside Plan 2, if it is agreed", "img")
    becomes = [
        "done anew, the old undone",
        "stays",
        "stays",
        "undone, then done anew",
        "planned anew",
        "stays",
        "stays",
    ]
    assert _said_between(page) == becomes
    page.wait_for("You asked for this; another person must decide.")
    assert [page.has(button) for button in ("Approve", "Reject", "Apply the change")] == [False, False, False]

    with browser.tab() as other:
        sign_in(served, other, "bob", "approver", at=f"/ui/orders/{order_id}")
        assert not other.has("Withdraw the change")
        other.run(lambda tab: tab.get_by_label("Comment").fill("the port is free"))
        other.click("Approve")
        other.wait_for("Change of the order: approved, not in the order yet")
        assert other.console == []
    page.wait_for("“the port is free”")  # without a reload
    page.click("Apply the change")
    page.wait_for("Change of the order: approved")
    served.play(lambda world: drive(world, order_id, request_id))
    page.wait_for("Change of the order: is in the order; its work is being done")
    assert page.has("Plan 1 beside Plan 2", "img")
    assert _said_between(page) == becomes
    assert page.console == []
    (request,) = _read(served, order_id)
    assert ([row["by"] for row in request["decisions"]], request["newPlanVersion"]) == (["bob"], 2)


def test_no_two_kinds_of_fate_have_the_same_border(served: Served, page: Page) -> None:
    order_id, _ = an_amendment(served)
    sign_in(served, page, "bob", "approver", at=f"/ui/orders/{order_id}")
    boxes = page.evaluate(
        """[...document.querySelectorAll(".picture svg rect[rx]")]
            .map((box) => [box.getAttribute("fill"), box.getAttribute("stroke-dasharray") || "none"].join(" "))"""
    )
    looks = {look.partition(" ")[::2] for look in boxes}
    assert len(looks) == len({fill for fill, _ in looks}) == len({dashes for _, dashes in looks}) == 3


def test_an_approver_refuses_a_change_and_says_why(served: Served, page: Page) -> None:
    order_id, _ = an_amendment(served)
    sign_in(served, page, "bob", "approver", at=f"/ui/orders/{order_id}")
    page.run(lambda tab: tab.get_by_label("Why not").fill("no port in that street"))
    page.click("Reject")
    page.wait_for("Change of the order: refused")
    page.wait_for("“no port in that street”")
    assert not page.has("Approve")


def test_the_asker_takes_a_change_back(served: Served, page: Page) -> None:
    order_id, _ = an_amendment(served)
    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{order_id}")
    page.click("Withdraw the change")
    page.wait_for("Change of the order: taken back")
    assert [request["status"] for request in _read(served, order_id)] == ["CANCELLED"]


@pytest.mark.parametrize(
    ("subject", "role", "said"), [("alice", "approver", "Four eyes"), ("audrey", "auditor", "Role required")]
)
def test_who_may_not_decide_is_refused_by_hand_too(
    served: Served, page: Page, subject: str, role: str, said: str
) -> None:
    order_id, request_id = an_amendment(served)
    sign_in(served, page, subject, role, at=f"/ui/orders/{order_id}")
    assert page.count("#requests form") == 0
    path = f"/ui/orders/{order_id}/amendments/{request_id}/approve"
    version = _read(served, order_id)[0]["version"]
    page.evaluate(
        f"""() => {{
            const form = document.createElement("form");
            form.method = "post";
            form.action = "{path}";
            const mark = document.querySelector("input[name=mark]").value;
            for (const [name, value] of [["mark", mark], ["key", "k1"], ["etag", '"request-version-{version}"']]) {{
                const field = document.createElement("input");
                [field.name, field.value] = [name, value];
                form.append(field);
            }}
            document.body.append(form);
            form.submit();
        }}"""
    )
    page.wait_for(said)
    assert page.refused[-1] == f"403 POST {served.url}{path}"
    assert [request["status"] for request in _read(served, order_id)] == ["REQUIRES_APPROVAL"]


def test_what_came_too_late_says_why(served: Served, page: Page) -> None:
    moved = {"street": "Weg 2", "city": "Berlin", "postalCode": "12940", "country": "DE"}

    async def make(world: ApiWorld) -> str:
        order_id = await world.create()
        await world.fulfil(order_id, only=STARTED | {"ship-device", "perform-visit"})
        old = (await world.get(f"/orders/{order_id}")).json()["installationAddress"]
        told = (await ask_for(world, order_id, replace("/installationAddress", old, moved))).json()
        await drive(world, order_id, told["amendmentRequestId"])
        return order_id

    sign_in(served, page, "alice", "agent", at=f"/ui/orders/{served.play(make)}")
    page.wait_for("Change of the order: refused")
    assert _rows(page, "#requests") == [
        "installation address, street | Weg 1 | Weg 2 | no: the technician has been there",
        "installation address, postal code | 12930 | 12940 | no: the technician has been there",
    ]


def test_what_a_change_says_stays_text(served: Served, page: Page) -> None:
    order_id, _ = an_amendment(served, replace("/deliveryNote", "ring twice", ATTACK))
    sign_in(served, page, "bob", "approver", at=f"/ui/orders/{order_id}")
    page.wait_for("Change of the order: made")
    assert _rows(page, "#requests") == [f"delivery note | ring twice | {ATTACK} | yes"]
    assert page.evaluate("window.hurt") is None
    assert page.console == []


def test_on_a_phone_the_first_screen_says_what_is_in_the_way_who_must_act_and_by_when(
    served: Served, browser: Browser
) -> None:
    order_id, _ = an_amendment(served)
    with browser.tab(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True) as phone:
        sign_in(served, phone, "bob", "approver", at=f"/ui/orders/{order_id}")
        seen = phone.evaluate(
            """[...document.querySelectorAll("#head .glance, #head .warn, #head .sentence")]
                .filter((part) => part.getBoundingClientRect().bottom <= innerHeight)
                .map((part) => part.innerText).join(" ")"""
        )
        assert "being carried out" in seen
        time_of_people = r"\d{1,2} [A-Z][a-z]{2} \d{4}, \d\d:\d\d UTC"
        assert re.search(rf"The change waits for approval\. Now an approver must act by {time_of_people}", seen)
        assert "To tell the customer: Your change of the order is being looked at" in seen
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        for path in (f"/ui/orders/{order_id}", "/ui", "/ui/cases", "/ui/dashboard"):
            phone.open(f"{served.url}{path}")
            assert phone.evaluate(wide) is False, path
        assert phone.console == []
