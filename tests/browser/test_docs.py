"""The pages that need no token, as a browser shows them."""

from __future__ import annotations

from pathlib import Path

from tests.browser.chromium import Page
from tests.browser.served import Served


def test_the_documentation_is_readable_styled_and_without_an_error(served: Served, page: Page, tmp_path: Path) -> None:
    assert page.open(f"{served.url}/docs") == 200
    page.wait_for("Ask for the cancellation of an order")
    assert page.evaluate("getComputedStyle(document.body).maxWidth") == "992px"  # the policy lets the style through
    page.screenshot(tmp_path / "docs.png")
    assert (tmp_path / "docs.png").read_bytes().startswith(b"\x89PNG")
    assert page.console == []
    assert page.refused == []


def test_a_problem_leads_to_its_explanation(served: Served, page: Page) -> None:
    page.open(f"{served.url}/docs/problems")
    page.click("ORDER_TERMINAL", "link")
    page.wait_for("What an ended order delivered is changed by a new order")
    assert page.url == f"{served.url}/docs/problems/ORDER_TERMINAL"
    assert page.open(f"{served.url}/docs/problems/NEVER_HEARD_OF") == 404
    assert page.refused == [f"404 GET {served.url}/docs/problems/NEVER_HEARD_OF"]
