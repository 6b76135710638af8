"""What the benches are tried on: the session's database server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.postgres import PostgresServer
from workers.bench.bed import Bed, open_bed
from workers.settings import Settings


@pytest_asyncio.fixture
async def bed(postgres_server: PostgresServer) -> AsyncIterator[Bed]:
    async with open_bed(Settings(), owner_url=postgres_server.owner_url) as opened:
        yield opened
