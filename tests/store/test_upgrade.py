"""From the first schema to the newest with rows in it, while workers of older releases write: they stay understood.

What an older worker says of a table is made from the schema that it was written for: it inserts, reads and updates
every column that there was, and names none that came later.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from graphlib import TopologicalSorter

import asyncpg
import pytest

from tests.builders import TENANT
from tests.postgres import PASSWORDS, Database, PostgresServer
from workers.migrate import Migration, migrate_database, read_migrations
from workers.runtime import project_file

# The one file that takes something away, and what older workers cannot say any more: they are stopped for it.
CONTRACTS = {5: {"customer_order"}}

_VALUES = {
    "uuid": "md5($2::uuid::text || '{name}')::uuid",
    "text": "'of ' || $2::uuid::text",
    "jsonb": "'{{}}'",
    "timestamp with time zone": "clock_timestamp()",
    "ARRAY": "'{{}}'",
    "boolean": "false",
    "bytea": "''",
    "integer": "1",
    "bigint": "1",
}
_OTHER_ORDER = "(select order_id from customer_order where order_id <> $2::uuid order by created_at limit 1)"
_NAMED = {
    "tenant_id": "$1::uuid",
    "order_id": "$2::uuid",
    "source_order_id": "$2::uuid",
    "source_id": "$2::uuid",
    "target_order_id": _OTHER_ORDER,
}

Speech = dict[str, tuple[str, ...]]
"""Per table, those that others refer to first: statements about one order; $1 is the tenant, $2 the order."""


async def learn_speech(owner: asyncpg.Connection) -> Speech:
    """What a worker that was written for the schema as it is now says."""
    checks = await owner.fetch(
        "select conrelid::regclass::text as name, pg_get_constraintdef(oid) as says from pg_constraint"
        " where contype = 'c' and connamespace = 'public'::regnamespace"
    )
    words = {
        (row["name"], found[1]): found[2]
        for row in checks
        if (found := re.match(r"CHECK \(\((\w+) = ANY \(ARRAY\[('\w+'::text)", row["says"]))
    }
    references = await owner.fetch(
        "select conrelid::regclass::text as name, confrelid::regclass::text as other from pg_constraint"
        " where contype = 'f' and connamespace = 'public'::regnamespace"
    )
    tables = await owner.fetch(
        "select relname, has_table_privilege('recourse_app', oid, 'UPDATE') as updates from pg_class"
        " where relkind = 'r' and relnamespace = 'public'::regnamespace"
        " and has_table_privilege('recourse_app', oid, 'INSERT')"
    )
    updates = {table["relname"]: table["updates"] for table in tables}
    sorter = TopologicalSorter[str](dict.fromkeys(updates, ()))
    for reference in references:
        sorter.add(reference["name"], reference["other"])

    speech: Speech = {}
    for table in sorter.static_order():
        columns = await owner.fetch(
            "select column_name, data_type, is_nullable = 'YES' as empty from information_schema.columns"
            " where table_schema = 'public' and table_name = $1 and is_identity = 'NO' and is_generated = 'NEVER'",
            table,
        )
        row = {
            name: "null"
            if empty and name not in {"request_id", "order_id"}
            else words.get((table, name)) or _NAMED.get(name) or _VALUES[data_type].format(name=name)
            for name, data_type, empty in columns
        }
        key = await owner.fetch(
            "select a.attname from pg_index i"
            " join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)"
            " where i.indisprimary and i.indrelid = $1::regclass",
            table,
        )
        both = "$1::uuid is not null and $2::uuid is not null"
        its_own = " and ".join([both, *(f"{name} = {row[name]}" for (name,) in key if name in row)])
        names = ", ".join(row)
        speech[table] = (
            f"insert into {table} ({names}) select {', '.join(row.values())} where {both}",
            f"select {names} from {table} where {its_own}",
            *([f"update {table} set {', '.join(f'{name} = {name}' for name in row)} where {its_own}"] * updates[table]),
        )
    return speech


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def transaction(app: asyncpg.Connection) -> AsyncIterator[None]:
    async with app.transaction():
        await app.execute("select set_config('recourse.tenant', $1, true)", str(TENANT))
        yield


async def say(app: asyncpg.Connection, statements: Sequence[str], order_id: uuid.UUID) -> None:
    for statement in statements:
        await app.fetch(statement, TENANT, order_id)


class Writers:
    """Workers that write one order after the other, all that they know of each; each table in a transaction of its own
    that locks the order first."""

    def __init__(self, database: Database, speech: Speech) -> None:
        self.database = database
        self.speech = speech
        self.written: list[uuid.UUID] = []
        self.stopping = False
        self._wrote = asyncio.Event()

    async def write(self) -> None:
        async with connected(self.database.app_url) as app:
            # As the door's own sessions.
            await app.execute("set lock_timeout = '2s'; set statement_timeout = '5s'")
            while not self.stopping:
                order_id = uuid.uuid4()
                for statements in (self.speech["customer_order"], *self.speech.values()):
                    async with transaction(app):
                        locked = await app.fetch("select from customer_order where order_id = $1 for update", order_id)
                        if not locked or statements is not self.speech["customer_order"]:
                            await say(app, statements, order_id)
                self.written.append(order_id)
                self._wrote.set()

    async def wait(self, more: int = 2) -> None:
        """Until so many more orders are written."""
        wanted = len(self.written) + more
        while len(self.written) < wanted:
            self._wrote.clear()
            await self._wrote.wait()


@asynccontextmanager
async def writing(writers: Writers) -> AsyncIterator[None]:
    """Two of them, for as long as the block runs; what either is refused ends the block with it."""
    writers.stopping = False
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(writers.write())
        yield
        writers.stopping = True


async def apply(database: Database, migrations: Sequence[Migration]) -> None:
    await migrate_database(database.owner_url, tuple(migrations), PASSWORDS)


async def misunderstood(database: Database, speech: Speech, newest: Speech) -> set[str]:
    """The tables of which a worker of that time is refused what it says."""
    refused: set[str] = set()
    order_id = uuid.uuid4()
    async with connected(database.app_url) as app, transaction(app):
        for table, statements in speech.items():
            try:
                async with app.transaction():
                    await say(app, statements, order_id)
            except asyncpg.PostgresError:
                refused.add(table)
                await say(app, newest[table], order_id)
    return refused


@pytest.mark.timeout(300)
async def test_every_older_worker_goes_on_writing_while_the_schema_becomes_the_newest(
    postgres_server: PostgresServer,
) -> None:
    name = f"upgrade_{uuid.uuid4().hex[:12]}"
    postgres_server.execute(f"create database {name}")
    database = postgres_server.database(name)
    migrations = read_migrations(project_file("migrations"))
    try:
        await apply(database, migrations[:1])
        async with connected(database.owner_url) as owner, connected(database.app_url) as app:
            first = await learn_speech(owner)
            speeches = {1: first}
            eldest = uuid.uuid4()
            async with transaction(app):
                await say(app, first["customer_order"], eldest)

            (contract,) = CONTRACTS
            steps = [number for number, migration in enumerate(migrations, 1) if number > 1]
            last_of_first = [n for n in steps if migrations[n - 1].version < contract]
            writers = Writers(database, first)
            async with writing(writers):
                await writers.wait()
                for number in last_of_first:
                    await apply(database, migrations[:number])
                    speeches[migrations[number - 1].version] = await learn_speech(owner)
                    await writers.wait()

            # For this one nobody writes; those that come after it say of orders what it makes of them.
            at = last_of_first[-1] + 1
            await apply(database, migrations[:at])
            speeches[contract] = await learn_speech(owner)
            writers.speech = first | {table: speeches[contract][table] for table in CONTRACTS[contract]}
            heads = await owner.fetch("select order_id from audit_head")
            assert {row["order_id"] for row in heads} == {eldest, *writers.written}

            async with writing(writers):
                await writers.wait()
                for number in range(at + 1, len(migrations) + 1):
                    await apply(database, migrations[:number])
                    speeches[migrations[number - 1].version] = await learn_speech(owner)
                    await writers.wait()

            newest = speeches[migrations[-1].version]
            refused = {version: await misunderstood(database, said, newest) for version, said in speeches.items()}
            taken = {version: CONTRACTS[contract] if version < contract else set() for version in speeches}
            assert refused == taken
            for table in first:
                if re.search(r"\border_id\b", first[table][0].partition(" select ")[0]):
                    kept = await owner.fetch(f"select distinct order_id from {table}")
                    assert {row["order_id"] for row in kept} >= set(writers.written), table
    finally:
        postgres_server.execute(f"drop database {name} with (force)")
