"""Puts policy documents in force from the command line; a document with a fault must never get in."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from domain.policy import parse_policy, read_policy_text
from domain.store.policies import add_policy, find_latest_same
from domain.store.pool import open_pool, tenant_transaction
from domain.values import TenantId
from workers.settings import Settings

# The tenant under which the policy for all tenants is kept.
EVERYONE = UUID(int=0)


async def load_policy(settings: Settings, text: bytes, tenant: UUID | None) -> dict[str, Any]:
    """Check and store a document; answers {policy, version, loadedAt}. Raises PolicyInvalid, or as `open_pool`.

    Every start of a stack loads its policy: the one that was loaded last is not loaded anew.
    """
    document = read_policy_text(text)
    policy = parse_policy(document)
    pool = await open_pool(settings.database_url, size=1, name="policy")
    tenant_id = TenantId(tenant or EVERYONE)
    try:
        async with tenant_transaction(pool, tenant_id) as connection:
            stored = await find_latest_same(connection, tenant_id, dict(document)) or await add_policy(
                connection, tenant_id, dict(document), effective_from=policy.effective_from, loaded_by="cli"
            )
    finally:
        await pool.close()
    return {"policy": policy.name, **stored}
