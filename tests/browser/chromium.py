"""A real Chromium for tests, as a person's hands and eyes: found or, where that is allowed, installed. It must
never make a test be skipped.

Synchronous on purpose: the browser lives on a loop of its own in a thread, so that plain tests may use it beside async
ones without either loop seeing the other.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from playwright.async_api import Browser as Engine
from playwright.async_api import ConsoleMessage, Locator, Response, async_playwright
from playwright.async_api import Page as Tab

from tests.exclusive import installing

T = TypeVar("T")

SETTING: Final = "RECOURSE_TEST_BROWSER"
PATIENCE: Final = 30.0  # seconds that a page may take to show what is waited for
KNOWN: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES: Final = ("chromium-headless-shell", "fonts-dejavu-core")
ARGUMENTS: Final = (
    "--no-sandbox",  # root in a container has no sandbox to enter
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)

Role = Literal["button", "link", "heading", "textbox", "row", "img", "checkbox", "combobox", "status", "alert", "table"]


def find_chromium() -> Path:
    """A browser's program: the one that RECOURSE_TEST_BROWSER names, one on the PATH, or Debian's, installed now.

    Raises RuntimeError that says what to do where none of these is to be had.
    """
    if given := os.environ.get(SETTING):
        return Path(given)
    if found := _look_around():
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"No Chromium: install one of {', '.join(KNOWN)}, or name its program with {SETTING}.")
    with installing():
        if not _look_around():
            _apt("update")
            _apt("install", "--yes", "--no-install-recommends", *PACKAGES)
    found = _look_around()
    assert found is not None, f"{PACKAGES[0]} was installed, yet none of {', '.join(KNOWN)} is on the PATH"
    return found


def _look_around() -> Path | None:
    return next((Path(found) for name in KNOWN if (found := shutil.which(name))), None)


def _apt(*arguments: str) -> None:
    told = subprocess.run(
        ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if told.returncode:
        raise RuntimeError(f"apt-get {arguments[0]} failed; name a browser with {SETTING}.\n{told.stderr[-2000:]}")


@dataclass
class Page:
    """One tab in a profile of its own. Elements are named as a person would: by label, button text, visible text.

    console: errors that the page logged or threw · refused: answers of 400 and above, `"403 POST http://…"`
    """

    browser: Browser
    tab: Tab
    console: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def open(self, url: str) -> int:
        """Go there; the status of the answer."""
        answer = self.run(lambda tab: tab.goto(url, wait_until="load"))
        return answer.status if answer is not None else 0

    @property
    def url(self) -> str:
        return self.tab.url

    def fill(self, label: str, text: str) -> None:
        self.run(lambda tab: tab.get_by_label(label, exact=True).fill(text))

    def choose(self, label: str, option: str) -> None:
        """Pick an option of a plain select by its text."""
        self.run(lambda tab: tab.get_by_label(label, exact=True).select_option(label=option))

    def click(self, name: str, role: Role = "button") -> None:
        """Click the one element of that role and accessible name; waits until it is there and can be clicked."""
        self.run(lambda tab: tab.get_by_role(role, name=name, exact=True).click())

    def click_on(self, selector: str) -> None:
        """Click the first element of a CSS selector, for what has no name of its own."""
        self.run(lambda tab: tab.locator(selector).first.click())

    def has(self, name: str, role: Role = "button") -> bool:
        """Whether such an element is visible now; waits for nothing."""

        async def look(tab: Tab) -> bool:
            found: Locator = tab.get_by_role(role, name=name, exact=True)
            return await found.count() > 0 and await found.first.is_visible()

        return self.run(look)

    def wait_for(self, text: str | re.Pattern[str], seconds: float = PATIENCE) -> None:
        """Until the text is visible somewhere on the page; fails with what the page shows instead."""
        try:
            self.run(lambda tab: tab.get_by_text(text).first.wait_for(timeout=seconds * 1000), seconds + 5)
        except Exception as error:
            raise AssertionError(
                f"waited {seconds:.0f} s for {text!r} on {self.url}; seen: {self.text()[:3000]}"
            ) from error

    def wait_for_selector(self, selector: str, seconds: float = PATIENCE) -> None:
        self.run(lambda tab: tab.locator(selector).first.wait_for(timeout=seconds * 1000), seconds + 5)

    def text(self, selector: str = "body") -> str:
        """What a person can read there."""
        return self.run(lambda tab: tab.locator(selector).first.inner_text())

    def count(self, selector: str) -> int:
        return self.run(lambda tab: tab.locator(selector).count())

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        return self.run(lambda tab: tab.evaluate(script))

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        self.run(lambda tab: tab.screenshot(path=path, full_page=whole))

    def cookies(self) -> list[Any]:
        return self.run(lambda tab: tab.context.cookies())

    def run(self, work: Callable[[Tab], Awaitable[T]], seconds: float = PATIENCE + 5) -> T:
        """Anything else that Playwright can do with the tab."""

        async def waited() -> T:
            return await work(self.tab)

        return self.browser.run(waited(), seconds)


class Browser:
    """One running Chromium and the loop that it lives on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._engine: Engine | None = None

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    @contextmanager
    def tab(self, **options: Any) -> Iterator[Page]:
        """A page that shares nothing with any other; `options` as Playwright's new_context takes them."""
        page = self.run(self._open(options))
        try:
            yield page
        finally:
            self.run(page.tab.context.close())

    async def _open(self, options: dict[str, Any]) -> Page:
        assert self._engine is not None
        context = await self._engine.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE * 1000)
        page = Page(self, await context.new_page())
        page.tab.on("console", partial(_hear, page))
        page.tab.on("pageerror", lambda error: page.console.append(str(error)))
        page.tab.on("response", partial(_note, page))
        return page

    async def live(self, program: Path, ready: threading.Event, over: asyncio.Event) -> None:
        async with async_playwright() as playwright:
            self._engine = await playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
            ready.set()
            await over.wait()
            await self._engine.close()


def _hear(page: Page, message: ConsoleMessage) -> None:
    if message.type == "error":
        page.console.append(message.text)


def _note(page: Page, answer: Response) -> None:
    if answer.status >= 400:
        page.refused.append(f"{answer.status} {answer.request.method} {answer.url}")


@contextmanager
def run_chromium() -> Iterator[Browser]:
    """A browser for as long as the block runs."""
    program = find_chromium()
    loop = asyncio.new_event_loop()
    browser = Browser(loop)
    ready, over = threading.Event(), asyncio.Event()
    troubles: list[BaseException] = []

    def live() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(browser.live(program, ready, over))
        except BaseException as trouble:  # noqa: BLE001 — told to the test that waits
            troubles.append(trouble)
        finally:
            ready.set()
            loop.run_until_complete(loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            loop.close()

    thread = threading.Thread(target=live, name="browser", daemon=True)
    thread.start()
    try:
        assert ready.wait(60), f"{program} does not start"
        if troubles:
            raise RuntimeError(f"{program} does not start") from troubles[0]
        yield browser
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(over.set)
        thread.join(30)
