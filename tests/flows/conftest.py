"""One real stack for all flow tests of a session, started by the command that users start it with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.running import RunningStack, Tenant


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """The stack of RECOURSE_TEST_HOME where one runs already, else one of this session's own."""
    if given := os.environ.get("RECOURSE_TEST_HOME"):
        yield RunningStack(Path(given), {**os.environ, "RECOURSE_HOME": given})
        return
    # Not pytest's own temporary folder: root's is closed to the user that PostgreSQL runs as.
    folder = Path(tempfile.mkdtemp(prefix="recourse-flows-", dir="/var/tmp"))
    folder.chmod(0o711)
    stack = RunningStack(folder, {**os.environ, "RECOURSE_HOME": str(folder)})
    try:
        stack = RunningStack.start(folder)
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def tenant(stack: RunningStack) -> Iterator[Tenant]:
    """A tenant of the test's own; when the test is over, every invariant must hold in its data."""
    fresh = stack.tenant()
    yield fresh
    for client in fresh.clients.values():
        client.close()
    told = stack.cli("verify", "--tenant", str(fresh.tenant_id))
    assert told.returncode == 0, told.stdout + told.stderr
