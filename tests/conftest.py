"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import Database, PostgresServer, serve_postgres


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
