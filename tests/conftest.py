"""What every test may ask for."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import Database, PostgresServer, serve_postgres

if TYPE_CHECKING:  # imported where they are used: the pure core's tests start without a browser or an engine's client
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from tests.browser.chromium import Browser, Page
    from tests.browser.consoles import Consoles
    from tests.flows.running import RunningStack, Tenant

pytest_plugins = ["tests.tally"]

# How long an example took tells how busy the machine was, and nothing here asserts that. What lets a change in draws
# the same every time; `--hypothesis-profile=long` draws many more of them, and others each time.
settings.register_profile(
    "short", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("short"), max_examples=5000, derandomize=False)
settings.load_profile("short")

# Modules among the flows that start another stack, or only parts of one.
_STACKS_OF_THEIR_OWN = {"test_newer_engine", "test_stack"}


def pytest_configure() -> None:
    """A test run that is told to end ends like one that is interrupted: what it started is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """`make test` runs two processes beside each other. One has the stack, and every test that uses it, in their order;
    of the others each module stays whole, for what it has set up."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPart(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            shares = module.startswith("tests/flows/") and Path(module).stem not in _STACKS_OF_THEIR_OWN
            return "stack" if shares or module == "tests/browser/test_consoles.py" else module

    return ByPart(config, log)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL with a migrated template, one for the whole session."""
    with serve_postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A migrated database of this test's own."""
    with postgres_server.clone() as fresh:
        yield fresh


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter, as a state folder must be; pytest's own is closed where root runs it."""
    folder = Path(tempfile.mkdtemp(prefix="recourse-test-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real headless Chromium, one for the whole session."""
    from tests.browser.chromium import run_chromium

    with run_chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of this test's own: no cookies, nothing cached."""
    with browser.tab() as fresh:
        yield fresh


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[RunningStack]:
    """The stack of RECOURSE_TEST_HOME where one runs already, else one of this session's own; with Operate and Tasklist
    where a test of this session looks at them."""
    from tests.flows.running import RunningStack

    if given := os.environ.get("RECOURSE_TEST_HOME"):
        yield RunningStack(Path(given), {**os.environ, "RECOURSE_HOME": given})
        return
    looked_at = any("consoles" in getattr(item, "fixturenames", ()) for item in request.session.items)
    with RunningStack.start(*(() if looked_at else ("--light",))) as running:
        yield running


@pytest.fixture(scope="session")
def consoles(stack: RunningStack) -> Iterator[Consoles]:
    """Operate and Tasklist of the running stack, ready."""
    from tests.browser.consoles import Consoles

    found = Consoles.of(stack)
    yield found
    found.close()


@pytest.fixture
def tenant(stack: RunningStack) -> Iterator[Tenant]:
    """A tenant of the test's own; when the test is over, every invariant must hold in its data."""
    from workers.verification import verify

    fresh = stack.tenant()
    yield fresh
    fresh.close()
    report = asyncio.run(verify(stack.told()["RECOURSE_AUDITOR_DATABASE_URL"], tenant_id=fresh.tenant_id))
    assert report.valid, report.to_text()
    fresh.settle()
