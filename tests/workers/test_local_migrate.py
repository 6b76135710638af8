"""The migration runner on a real PostgreSQL: once, again, at once, edited, ahead, broken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.postgres import Database, PostgresServer
from workers.migrate import MigrationError, migrate_database, read_migrations, role_passwords
from workers.settings import Settings, SettingsError

FIRST = "create table thing (id integer primary key);"
SECOND = "alter table thing add column name text;"


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[Database]:
    postgres_server.execute("create database empty_one")
    yield postgres_server.database("empty_one")
    postgres_server.execute("drop database empty_one with (force)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text(FIRST)
    (tmp_path / "0002_second.sql").write_text(SECOND)
    return tmp_path


async def fetch_names(database: Database) -> list[str]:
    connection = await asyncpg.connect(database.owner_url)
    try:
        return [row["name"] for row in await connection.fetch("select name from schema_migration order by version")]
    finally:
        await connection.close()


async def test_applies_in_order_and_only_once(empty_database: Database, folder: Path) -> None:
    first = await migrate_database(empty_database.owner_url, read_migrations(folder), {})
    again = await migrate_database(empty_database.owner_url, read_migrations(folder), {})
    assert first.applied == ("0001_first.sql", "0002_second.sql")
    assert (again.applied, again.version, again.ahead) == ((), 2, ())
    assert await fetch_names(empty_database) == ["0001_first.sql", "0002_second.sql"]


async def test_several_at_once_apply_each_file_once(empty_database: Database, folder: Path) -> None:
    outcomes = await asyncio.gather(
        *(migrate_database(empty_database.owner_url, read_migrations(folder), {}) for _ in range(5))
    )
    assert sorted(name for outcome in outcomes for name in outcome.applied) == ["0001_first.sql", "0002_second.sql"]


async def test_an_applied_file_that_was_edited_is_refused(empty_database: Database, folder: Path) -> None:
    await migrate_database(empty_database.owner_url, read_migrations(folder), {})
    (folder / "0001_first.sql").write_text(FIRST + " -- better")
    with pytest.raises(MigrationError, match=r"0001_first\.sql was edited after it was applied"):
        await migrate_database(empty_database.owner_url, read_migrations(folder), {})


async def test_a_broken_file_leaves_those_before_it_and_nothing_of_itself(
    empty_database: Database, folder: Path
) -> None:
    (folder / "0003_third.sql").write_text("create table other (id integer); select 1 / 0;")
    with pytest.raises(MigrationError, match=r"0003_third\.sql: division by zero"):
        await migrate_database(empty_database.owner_url, read_migrations(folder), {})
    assert await fetch_names(empty_database) == ["0001_first.sql", "0002_second.sql"]
    (folder / "0003_third.sql").write_text("create table other (id integer);")
    assert (await migrate_database(empty_database.owner_url, read_migrations(folder), {})).version == 3


async def test_a_file_gives_way_to_a_writer_and_comes_again(empty_database: Database, folder: Path) -> None:
    """Each waits for what the other has: the writer must not be the one to be ended, nor the release fail."""
    (folder / "0003_other.sql").write_text("create table other (id integer primary key);")
    await migrate_database(empty_database.owner_url, read_migrations(folder), {})
    (folder / "0004_both.sql").write_text("alter table thing add column a int; alter table other add column b int;")
    writer, watcher = [await asyncpg.connect(empty_database.owner_url) for _ in range(2)]
    try:
        async with asyncio.TaskGroup() as group, writer.transaction():
            await writer.execute("insert into other (id) values (1)")
            release = group.create_task(migrate_database(empty_database.owner_url, read_migrations(folder), {}))
            while not await watcher.fetchval("select exists (select from pg_locks where not granted)"):
                await asyncio.sleep(0.01)
            await writer.execute("insert into thing (id) values (1)")
        assert (await release).applied == ("0004_both.sql",)
        assert await watcher.fetchval("select count(*) from thing join other using (id)") == 1
    finally:
        await writer.close()
        await watcher.close()


async def test_an_older_release_starts_beside_a_newer_schema(empty_database: Database, folder: Path) -> None:
    await migrate_database(empty_database.owner_url, read_migrations(folder), {})
    (folder / "0002_second.sql").unlink()
    outcome = await migrate_database(empty_database.owner_url, read_migrations(folder), {})
    assert (outcome.applied, outcome.version, outcome.ahead) == ((), 2, (2,))


async def test_two_lines_of_releases_do_not_mix(empty_database: Database, folder: Path) -> None:
    await migrate_database(empty_database.owner_url, read_migrations(folder), {})
    (folder / "0002_second.sql").rename(folder / "0003_second.sql")
    with pytest.raises(MigrationError, match="two lines of releases"):
        await migrate_database(empty_database.owner_url, read_migrations(folder), {})


async def test_roles_log_in_with_the_passwords_of_the_settings(database: Database) -> None:
    for url, role in ((database.app_url, "recourse_app"), (database.relay_url, "recourse_relay")):
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("select current_user") == role
        await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database.app_url.replace("of-the-tests", "guessed"))


async def test_no_database_is_told_in_a_sentence(folder: Path) -> None:
    with pytest.raises(MigrationError, match="does not let us in"):
        await migrate_database("postgresql://a:b@127.0.0.1:1/x", read_migrations(folder), {})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_a.sql", "0001_b.sql"], "0001_b.sql and 0001_a.sql share the number 1"),
        (["1_a.sql"], "1_a.sql: a migration is named"),
        (["0001-a.sql"], "0001-a.sql: a migration is named"),
    ],
)
def test_names_are_numbers_that_nobody_shares(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1;")
    with pytest.raises(MigrationError, match=message):
        read_migrations(tmp_path)


def test_a_url_of_another_user_is_refused_by_the_name_of_its_setting() -> None:
    settings = Settings(database_url="postgresql://somebody:x@db/recourse")
    with pytest.raises(SettingsError, match="RECOURSE_DATABASE_URL: wants the user recourse_app"):
        role_passwords(settings)
    settings = Settings(database_url="postgresql://recourse_app:p%40ss@db/recourse")
    assert role_passwords(settings) == {"recourse_app": "p@ss"}
