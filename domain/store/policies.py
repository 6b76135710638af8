"""Policy documents in and out of PostgreSQL, and the parsed ones kept in memory; a version never changes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from domain.errors import PolicyNotFound
from domain.policy import Policy, parse_policy
from domain.store.pool import Connection, fetch_all, fetch_row
from domain.store.queries import load_queries
from domain.values import Json, TenantId

_SQL = load_queries("policies")


class PolicyBook:
    """The policies by version, each parsed once per process."""

    def __init__(self) -> None:
        self._parsed: dict[int, Policy] = {}

    async def read(self, connection: Connection, version: int | None) -> Policy:
        """Raises PolicyNotFound where no policy is in force."""
        if version is None:
            raise PolicyNotFound("No policy is in force; load one.")
        policy = self._parsed.get(version)
        if policy is None:
            row = await fetch_row(connection, _SQL["read_policy"], version=version)
            if row is None:
                raise PolicyNotFound
            policy = self._parsed[version] = parse_policy(orjson.loads(row["document"]))
        return policy


async def add_policy(
    connection: Connection, tenant_id: TenantId, document: Json, *, effective_from: datetime, loaded_by: str
) -> dict[str, Any]:
    """Store a checked document as its tenant's newest version, whatever the ones before say."""
    row = await fetch_row(
        connection,
        _SQL["add_policy"],
        tenant_id=tenant_id,
        name=str(document["policy"]),
        effective_from=effective_from,
        document=orjson.dumps(document).decode(),
        loaded_by=loaded_by,
    )
    assert row is not None
    return {"version": row["version"], "loadedAt": row["loaded_at"]}


async def find_latest_same(connection: Connection, tenant_id: TenantId, document: Json) -> dict[str, Any] | None:
    """The tenant's newest version, where it is this very document: whoever loads it again has nothing to do."""
    text = orjson.dumps(document).decode()
    row = await fetch_row(connection, _SQL["find_latest_same"], tenant_id=tenant_id, document=text)
    return None if row is None else {"version": row["version"], "loadedAt": row["loaded_at"]}


async def read_document(connection: Connection, version: int) -> Json:
    row = await fetch_row(connection, _SQL["read_policy"], version=version)
    if row is None:
        raise PolicyNotFound
    return orjson.loads(row["document"])


async def list_policies(connection: Connection, limit: int) -> list[dict[str, Any]]:
    return [dict(row) for row in await fetch_all(connection, _SQL["list_policies"], limit=limit)]


async def list_documents(connection: Connection, after: int) -> list[tuple[int, Json]]:
    """Every policy of every tenant that is newer than `after`; needs a role that reads all tenants."""
    rows = await fetch_all(connection, _SQL["list_documents"], after=after)
    return [(row["version"], orjson.loads(row["document"])) for row in rows]
