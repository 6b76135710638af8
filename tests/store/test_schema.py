"""The schema says what the tables in code say: states, keys, tenants, who may do what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from domain.events import ENTITIES
from domain.machines import MACHINES, ORDER_BASE
from domain.values import ITEM_ACTIONS, ORDER_TYPES, RELATION_TYPES
from tests.builders import TENANT
from tests.store.conftest import Lived

OTHER = "11111111-1111-4111-8111-111111111111"

# What a CHECK lists, and the table in code that it must equal.
WORDS: Mapping[tuple[str, str], frozenset[str]] = {
    ("customer_order", "state"): frozenset(MACHINES["ORDER"]),
    ("customer_order", "base"): frozenset(ORDER_BASE),
    ("customer_order", "order_type"): frozenset(ORDER_TYPES),
    ("order_item", "state"): frozenset(MACHINES["ITEM"]),
    ("order_item", "action"): frozenset(ITEM_ACTIONS),
    ("order_relation", "relation_type"): frozenset(RELATION_TYPES),
    ("fulfillment_task", "state"): frozenset(MACHINES["TASK"]),
    ("compensation_task", "state"): frozenset(MACHINES["COMPENSATION_TASK"]),
    ("compensation_plan", "state"): frozenset(MACHINES["PLAN"]),
    ("effect", "state"): frozenset(MACHINES["EFFECT"]),
    ("cancellation_request", "status"): frozenset(MACHINES["REQUEST"]),
    ("fallout_case", "status"): frozenset(MACHINES["CASE"]),
    ("audit_entry", "entity"): frozenset(ENTITIES),
}

# Keys that do not begin with the tenant, and why they may.
OTHER_KEYS: Mapping[str, str] = {
    "policy_pkey": "the version is counted over all tenants; rows are read through row-level security",
    "outbox_pkey": "the relay reads oldest first, over all tenants; nothing refers to it",
    "engine_outbox_pkey": "as outbox_pkey",
}

APPEND_ONLY = ("audit_entry", "outbox", "engine_outbox", "policy", "asset_correction")


def rows(lived: Lived, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    return lived.store.as_owner(sql, *arguments)


def tenant_tables(lived: Lived) -> list[str]:
    found = rows(
        lived,
        """
        select table_name
        from information_schema.columns join information_schema.tables using (table_schema, table_name)
        where table_schema = 'public' and column_name = 'tenant_id' and table_type = 'BASE TABLE'
        order by table_name
        """.strip(),
    )
    return [row["table_name"] for row in found]


def listed_words(lived: Lived) -> dict[tuple[str, str], frozenset[str]]:
    """Per column that a CHECK gives a list of words: the words."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for row in rows(
        lived,
        "select conrelid::regclass::text as name, pg_get_constraintdef(oid) as says from pg_constraint"
        " where contype = 'c' and connamespace = 'public'::regnamespace",
    ):
        match = re.match(r"CHECK \(\((\w+) = ANY \(ARRAY\[(.*)\]\)\)\)", row["says"])
        if match:
            found[row["name"], match[1]] = frozenset(re.findall(r"'([^']*)'::text", match[2]))
    return found


# -- words ------------------------------------------------------------------------------------------------


def test_states_in_the_database_are_the_states_of_the_machines(lived: Lived) -> None:
    listed = listed_words(lived)
    for column, words in WORDS.items():
        assert listed[column] == words, column


def test_no_column_of_states_goes_without_a_check(lived: Lived) -> None:
    found = rows(
        lived,
        "select table_name, column_name from information_schema.columns"
        " where table_schema = 'public' and column_name in ('state', 'status') and data_type = 'text'",
    )
    assert {tuple(row.values()) for row in found} <= listed_words(lived).keys()


# -- keys -------------------------------------------------------------------------------------------------


def test_every_key_begins_with_the_tenant(lived: Lived) -> None:
    """Foreign and unique keys look past row-level security: without the tenant in front they join strangers."""
    found = rows(
        lived,
        """
        select c.conname as name, a.attname as first, f.attname as referenced
        from pg_constraint c
        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        left join pg_attribute f on f.attrelid = c.confrelid and f.attnum = c.confkey[1]
        where c.contype in ('p', 'u', 'f') and c.conrelid::regclass::text = any($1)
        union
        select i.indexrelid::regclass::text, a.attname, null
        from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where i.indisunique and i.indrelid::regclass::text = any($1)
        """,
        tenant_tables(lived),
    )
    wrong = {
        row["name"] for row in found if row["first"] != "tenant_id" or row["referenced"] not in {None, "tenant_id"}
    }
    assert wrong == OTHER_KEYS.keys()


# -- tenants ----------------------------------------------------------------------------------------------


def test_row_level_security_is_forced_wherever_there_is_a_tenant(lived: Lived) -> None:
    found = rows(
        lived,
        "select relname from pg_class where relname = any($1) and relkind = 'r'"
        " and not (relrowsecurity and relforcerowsecurity)",
        tenant_tables(lived),
    )
    assert found == []


def test_the_applications_role_owns_nothing_and_bypasses_nothing(lived: Lived) -> None:
    roles = rows(
        lived,
        "select rolname, rolsuper, rolbypassrls from pg_roles"
        " where rolname like 'recourse\\_%' and rolname <> 'recourse_owner'",
    )
    assert {row["rolname"] for row in roles} >= {"recourse_app", "recourse_relay", "recourse_auditor"}
    assert not any(row["rolsuper"] or row["rolbypassrls"] for row in roles)
    owned = rows(
        lived,
        "select relname from pg_class where relowner in (select oid from pg_roles where rolname = any($1))",
        [row["rolname"] for row in roles],
    )
    assert owned == []


@pytest.mark.parametrize("role", ["recourse_relay", "recourse_auditor"])
def test_the_other_roles_reach_no_further_than_their_work(lived: Lived, role: str) -> None:
    """The relay sees outboxes only; the auditor reads everything and writes nothing."""
    for table in tenant_tables(lived):
        may = {
            right
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
            if rows(lived, "select has_table_privilege($1, $2, $3) as may", role, table, right)[0]["may"]
        }
        if role == "recourse_auditor":
            assert may == {"SELECT"}, table
        else:
            assert may == ({"SELECT", "UPDATE", "DELETE"} if table.endswith("outbox") else set()), table


async def write_row(
    connection: asyncpg.Connection, table: str, tenant: str, words: Mapping[tuple[str, str], frozenset[str]]
) -> str:
    """The insert of some row that the table's columns allow, whatever it may mean."""
    values = {
        "uuid": "gen_random_uuid()",
        "jsonb": "'{}'",
        "timestamp with time zone": "now()",
        "ARRAY": "'{}'",
        "boolean": "false",
        "bytea": "''",
    }
    columns = await connection.fetch(
        "select column_name, data_type from information_schema.columns"
        " where table_schema = 'public' and table_name = $1 and is_nullable = 'NO' and column_default is null"
        " and is_identity = 'NO' and is_generated = 'NEVER'",
        table,
    )
    row: dict[str, str] = {}
    for name, data_type in columns:
        some = min(words.get((table, name), {"some"}))
        row[name] = values.get(data_type, f"'{some}'" if data_type == "text" else "1")
    row["tenant_id"] = f"'{tenant}'"
    return f"insert into {table} ({', '.join(row)}) values ({', '.join(row.values())})"


async def count(connection: asyncpg.Connection, table: str, where: str = "true") -> int:
    return int(await connection.fetchval(f"select count(*) from {table} where {where}"))


async def refused(connection: asyncpg.Connection, sql: str) -> asyncpg.PostgresError | None:
    """What the database says to it; None if it was done."""
    try:
        async with connection.transaction():
            await connection.execute(sql)
    except asyncpg.PostgresError as error:
        return error
    return None


async def look_at_tenants(
    url: str, tables: list[str], words: Mapping[tuple[str, str], frozenset[str]], spoil: str = ""
) -> list[str]:
    """Every way in which the application's role sees or does too much, over all tables; nothing is kept.

    spoil: what an administrator does to the schema before
    """
    problems: list[str] = []
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        if spoil:
            await connection.execute(spoil)
        # For tables that no story has touched.
        await connection.execute("set local session_replication_role = replica")
        for table in tables:
            if not await count(connection, table, f"tenant_id = '{TENANT}'"):
                await connection.execute(await write_row(connection, table, str(TENANT), words))
        await connection.execute("set local session_replication_role = origin")
        elsewhere = {table: await write_row(connection, table, OTHER, words) for table in tables}
        there = {table: await count(connection, table, f"tenant_id = '{TENANT}'") for table in tables}
        await connection.execute("set local role recourse_app")
        problems += [
            f"{table} is read without a tenant"
            for table in tables
            if await refused(connection, f"select * from {table}") is None
        ]
        await connection.execute(f"set local recourse.tenant = '{OTHER}'")
        problems += [
            f"{table} shows another tenant's rows"
            for table in tables
            if await count(connection, table, f"tenant_id = '{TENANT}'")
        ]
        await connection.execute(f"set local recourse.tenant = '{TENANT}'")
        for table in tables:
            if await count(connection, table, f"tenant_id = '{TENANT}'") != there[table] > 0:
                problems.append(f"{table} hides its tenant's rows")
            problems += [
                f"{table} lets a row go to another tenant: {change}"
                for change in (f"update {table} set tenant_id = '{OTHER}'", elsewhere[table])
                if not isinstance(await refused(connection, change), asyncpg.InsufficientPrivilegeError)
            ]
    finally:
        await transaction.rollback()
        await connection.close()
    return problems


def test_no_table_shows_or_takes_another_tenants_rows(lived: Lived) -> None:
    """Without a tenant the application sees an error, never all rows; under one, that tenant's rows and all of them."""
    tables = tenant_tables(lived)
    assert len(tables) > 20
    assert lived.store.run(look_at_tenants(lived.database.owner_url, tables, listed_words(lived))) == []


@pytest.mark.parametrize(
    ("spoil", "problems"),
    [
        (
            "alter table effect disable row level security",
            {"is read without a tenant", "shows another tenant's rows", "lets a row go to another tenant"},
        ),
        (
            "drop policy own_tenant on effect",
            {"is read without a tenant", "hides its tenant's rows", "lets a row go to another tenant"},
        ),
        (
            "drop policy own_tenant on effect; create policy own_tenant on effect to recourse_app"
            " using (tenant_id = current_setting('recourse.tenant', true)::uuid)",
            {"is read without a tenant"},
        ),
    ],
)
def test_a_table_that_lost_its_guard_is_found(lived: Lived, spoil: str, problems: set[str]) -> None:
    tables = tenant_tables(lived)
    found = lived.store.run(look_at_tenants(lived.database.owner_url, tables, listed_words(lived), spoil))
    assert {problem.removeprefix("effect ").partition(":")[0] for problem in found} == problems


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("change", ["update {} set tenant_id = tenant_id", "delete from {}", "truncate {}"])
def test_history_is_append_only_for_the_application(lived: Lived, table: str, change: str) -> None:
    async def attempt() -> asyncpg.PostgresError | None:
        connection = await asyncpg.connect(lived.database.app_url)
        try:
            await connection.execute(f"set recourse.tenant = '{TENANT}'")
            return await refused(connection, change.format(table))
        finally:
            await connection.close()

    assert isinstance(lived.store.run(attempt()), asyncpg.InsufficientPrivilegeError)
