"""What the benches are tried on: the session's database server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.postgres import PASSWORDS, PostgresServer
from workers.bench.bed import Bed, Running, open_bed
from workers.settings import Settings


@pytest_asyncio.fixture
async def bed(postgres_server: PostgresServer) -> AsyncIterator[Bed]:
    async with open_bed(Settings(), Running(postgres_server.owner_url, PASSWORDS)) as opened:
        yield opened
