"""What every test may ask for."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Database, PostgresServer, serve_postgres


def pytest_configure() -> None:
    """A test run that is told to end ends like one that is interrupted: what it started is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
