"""What tests of pages may ask for."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from domain.values import TenantId
from tests.browser.served import Served, serve_api
from tests.postgres import PostgresServer
from tests.workers.api_world import load_shared_policy


@pytest.fixture(scope="session")
def served_api(postgres_server: PostgresServer) -> Iterator[Served]:
    """One API for all tests of pages."""
    with postgres_server.clone() as fresh:
        asyncio.run(load_shared_policy(fresh.owner_url))
        with serve_api(fresh.app_url) as served:
            yield served


@pytest.fixture
def served(served_api: Served) -> Served:
    """The API, and a tenant that nobody else has."""
    return replace(served_api, world=replace(served_api.world, tenant=TenantId(uuid.uuid4()), calls=[]))
