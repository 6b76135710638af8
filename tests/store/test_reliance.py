"""What relies on an asset is found by that asset, however many a tenant has; who keeps that is the table itself."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

from domain.store.pool import tenant_transaction
from domain.store.queries import load_queries
from domain.values import TenantId
from tests.builders import ROOT
from tests.stored import Store

MIGRATION = ROOT / "migrations/0025_expand_asset_reliance.sql"
TABLES = {"asset", "asset_reliance"}
FILL = """
insert into asset (tenant_id, asset_id, customer_id, offering, configuration, state, version, system_references,
    relies_on, quantity)
select $1, id, 'c', 'static-ip', '{}', 'ACTIVE', 1, '{}', array_remove(array[lag(id) over (order by id)::text], null), 1
from (select gen_random_uuid() id from generate_series(1, $2)) ids
returning asset_id, relies_on"""


def reliance(store: Store, tenant: UUID) -> set[tuple[str, UUID]]:
    rows = store.as_owner("select base, asset_id from asset_reliance where tenant_id = $1", tenant)
    return {(row["base"], row["asset_id"]) for row in rows}


def install(store: Store, tenant: UUID, count: int) -> list[UUID]:
    """Assets of which each relies on the one before it, in that order."""
    rows = store.as_owner(FILL, tenant, count)
    return sorted(row["asset_id"] for row in rows)


def chain(assets: list[UUID]) -> set[tuple[str, UUID]]:
    return {(str(base), asset) for base, asset in itertools.pairwise(assets)}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def test_who_aims_at_an_asset_does_not_look_at_all_of_them(store: Store) -> None:
    tenant = TenantId(uuid4())
    assets = install(store, tenant, 5_000)
    store.as_owner("analyze asset, asset_reliance")
    query = load_queries("orders")["load_surroundings"]
    given = query.arguments({"tenant_id": tenant, "asset_ids": [assets[7]], "target_ids": []})

    async def ask() -> tuple[str, str]:
        async with tenant_transaction(store.pool, tenant) as connection:
            told = await connection.fetchval(query.text, *given)
            return told, await connection.fetchval(f"explain (analyze, format json) {query.text}", *given)

    told, plan = store.run(ask())
    assert [row["asset_id"] for row in json.loads(told)["relying"]] == [str(assets[8])]
    scans = [node for node in nodes(json.loads(plan)[0]["Plan"]) if node.get("Relation Name") in TABLES]
    assert {node["Relation Name"] for node in scans} == TABLES
    assert [node for node in scans if node["Node Type"] == "Seq Scan"] == []


def test_the_table_keeps_it_whoever_writes(store: Store) -> None:
    tenant = TenantId(uuid4())
    first, second, third = install(store, tenant, 3)
    assert reliance(store, tenant) == chain([first, second, third])
    store.as_owner("update asset set relies_on = $2 where asset_id = $1", third, [str(first), str(first), "gone"])
    assert reliance(store, tenant) == {(str(first), second), (str(first), third), ("gone", third)}


def test_an_upgrade_finds_what_is_there_under_an_owner_who_is_no_superuser(store: Store) -> None:
    """Without lifting the force of row-level security for it, such an owner would find no row, and say nothing."""
    tenant = TenantId(uuid4())
    assets = install(store, tenant, 4)
    owner = f"plain_{uuid4().hex[:8]}"
    store.as_owner(
        "drop trigger asset_keeps_reliance on asset; drop function keep_asset_reliance; drop table asset_reliance;"
        f" create index asset_relies_on on asset using gin (relies_on); create role {owner};"
        f" grant create, usage on schema public to {owner}; alter table asset owner to {owner}"
    )
    store.as_owner(f"set role {owner}; {MIGRATION.read_text()}")
    assert reliance(store, tenant) == chain(assets)
