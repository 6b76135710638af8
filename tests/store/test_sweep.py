"""The reconciler asks indexes of what is unfinished: a thousand healthy orders more cost nothing more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from domain.store.queries import load_queries
from tests.postgres import PostgresServer
from tests.stored import Store, open_store
from tests.stories import cancelled_on_the_way, refused_and_repaired, reviewed_and_kept_in_part

COPIES = 400
PAGE = 40
TABLES = (
    "customer_order", "order_item", "fulfillment_plan", "fulfillment_task", "effect", "external_call_attempt",
    "cancellation_request", "compensation_plan", "compensation_task", "compensation_task_dependency", "fallout_case",
    "audit_entry", "audit_head", "flow",
)  # fmt: skip
GIVEN: dict[str, Any] = {
    "settle": timedelta(minutes=15),
    "limit": 500,
    "after": None,
    "until": None,
    "before": None,
    "case_ids": [],
    "incident_keys": ["1", "2"],
    "keys": [1, 2, 3],
    "tenant_ids": [],
    "order_ids": [],
    "types": ["release-inventory"],
}
# Each touches what is unfinished and no more.
ASKED = (
    "find_idle_tasks", "find_stuck_outboxes", "find_silent_flows", "find_oddities", "find_cases_in_engine",
    "find_newest_flows", "find_flows", "find_persons_waits", "find_paces", "find_running_plans", "find_medians",
    "find_tenants_with_findings", "find_untold", "find_live_flows",
)  # fmt: skip
# A sample of the past: bounded, whatever there is.
SAMPLES = {"find_paces": 2200, "find_medians": 1100, "find_newest_flows": 1100, "find_live_flows": 3000}


async def multiply(owner: asyncpg.Connection) -> None:
    """Every row once more for each of many other tenants."""
    await owner.execute("set session_replication_role = replica")
    await owner.execute(f"create temp table copies as select gen_random_uuid() as id from generate_series(1, {COPIES})")
    for table in TABLES:
        rows = await owner.fetch(
            "select column_name from information_schema.columns"
            " where table_name = $1 and is_generated = 'NEVER' and identity_generation is null",
            table,
        )
        names = [row["column_name"] for row in rows]
        values = ", ".join("c.id" if name == "tenant_id" else f"t.{name}" for name in names)
        await owner.execute(f"insert into {table} ({', '.join(names)}) select {values} from {table} t, copies c")
    await owner.execute("set session_replication_role = origin")
    await owner.execute("update outbox set published_at = now()")
    await owner.execute("update engine_outbox set published_at = now()")
    await owner.execute("analyze")


@pytest.fixture(scope="module")
def healthy(postgres_server: PostgresServer) -> Iterator[Store]:
    """Orders that have ended after what happens to orders, and orders under way whose outcomes are not due yet."""
    with postgres_server.clone() as database, open_store(database) as store:
        for story in (cancelled_on_the_way, refused_and_repaired, reviewed_and_kept_in_part):
            story(store.world())
        world = store.world().accept().decompose()
        for handed in world.release():
            world.claim(handed)
        world.wait(timedelta())
        yield store


async def test_a_sweep_touches_what_is_unfinished_and_nothing_else(healthy: Store) -> None:
    owner = await asyncpg.connect(healthy.database.owner_url)
    auditor = await asyncpg.connect(healthy.database.auditor_url)
    try:
        await multiply(owner)
        orders = await owner.fetchval("select count(*) from customer_order")
        assert orders > 4 * COPIES
        for name in ASKED:
            touched, plan = await count_rows(auditor, name)
            assert touched < SAMPLES.get(name, 60), f"{name} touches {touched} rows of {orders} healthy orders\n{plan}"
        # Of one page of open effects, all of them in time here: each, its own task, and that one's plan.
        begins = await owner.fetchval("select clock_timestamp()")
        await owner.execute(
            "update effect set intended_at = clock_timestamp(), lease_until = clock_timestamp() + interval '1 hour'"
            " where (tenant_id, effect_id) in (select tenant_id, effect_id from effect"
            "  where state in ('INTENDED', 'UNKNOWN') order by tenant_id limit $1)",
            PAGE,
        )
        await owner.execute("analyze effect")
        touched, plan = await count_rows(auditor, "find_overdue_effects", after=begins)
        assert touched <= 3 * PAGE, f"{touched} rows for {PAGE} effects\n{plan}"
    finally:
        await auditor.close()
        await owner.close()


async def count_rows(auditor: asyncpg.Connection, name: str, **given: Any) -> tuple[float, str]:
    """How many rows a question touches, and the plan by which it does."""
    query = load_queries("reconcile")[name]
    plan: str = await auditor.fetchval(f"explain (analyze, format json) {query.text}", *query.arguments(GIVEN | given))
    (told,) = json.loads(plan)
    return sum(rows_of(told["Plan"])), plan


def rows_of(node: dict[str, Any]) -> Iterator[float]:
    """What each reading of a table or an index found, and threw away."""
    if "Relation Name" in node or "Index Name" in node:
        thrown = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck", "Join Filter"))
        yield (node["Actual Rows"] + thrown) * node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from rows_of(child)
