"""Says on the command line who may decide in Tasklist; it must never grant what the API's own route would refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from domain.store import views
from domain.store.pool import Pool, open_pool
from domain.store.registry import set_staff
from domain.values import Json, TenantId
from workers.settings import Settings

_SAID_BY = "cli"


async def set_roles(settings: Settings, tenant_id: TenantId, subject: str, roles: Iterable[str]) -> dict[str, Json]:
    """Say what a person may decide; answers {subject, roles, changedBy, changedAt}. Raises as `open_pool`."""
    async with _open(settings) as pool:
        return await set_staff(pool, tenant_id, subject, frozenset(roles), _SAID_BY)


async def list_roles(settings: Settings, tenant_id: TenantId) -> list[dict[str, Json]]:
    """The same for everybody of whom something was said."""
    async with _open(settings) as pool:
        return await views.list_staff(pool, tenant_id)


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[Pool]:
    pool = await open_pool(settings.database_url, size=1, name="staff")
    try:
        yield pool
    finally:
        await pool.close()
