"""What tests of the edges may ask for."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import pytest_asyncio

from domain.values import TenantId
from tests.postgres import Database, PostgresServer
from tests.workers.api_world import ApiWorld, load_shared_policy, open_world


@pytest.fixture(scope="session")
def api_database(postgres_server: PostgresServer) -> Iterator[Database]:
    """One database for all API tests, with the policy that ships: every test is a tenant of its own."""
    with postgres_server.clone() as fresh:
        asyncio.run(load_shared_policy(fresh.owner_url))
        yield fresh


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api(api_database: Database) -> AsyncIterator[ApiWorld]:
    """The API, running for all tests of it."""
    async with open_world(api_database.app_url) as opened:
        yield opened


@pytest.fixture
def world(api: ApiWorld) -> ApiWorld:
    """The running API, and a tenant that nobody else has."""
    return replace(api, tenant=TenantId(uuid.uuid4()), calls=[])
