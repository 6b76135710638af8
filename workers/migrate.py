"""Brings a database to the newest schema, forward only; it must never pass over a file edited later."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg

from workers.runtime import project_file
from workers.settings import Settings, SettingsError, variable_name

# A file that waits for a lock makes everybody wait who comes after it: it gives way, sooner than PostgreSQL looks for
# deadlocks (1 s), so that none of the writers is the one to be ended; then the whole file is tried again.
_LOCK_TIMEOUT = "500ms"
_TRIES = 60
_PAUSE = 0.5

# Any number will do as long as nobody else takes it: one migration at a time per database.
_LOCK = 0x5245434F

_FILE = re.compile(r"(?P<version>\d{4})_[a-z0-9_]+\.sql")

_LEDGER = """
create table if not exists schema_migration (
    version     integer     primary key,
    name        text        not null,
    checksum    text        not null,
    applied_at  timestamptz not null default now()
)
"""

# Utility statements take no parameters; the server quotes for us.
_ALTER_ROLE = "select format('alter role %I login password %L', $1::text, $2::text)"

# The roles that the SQL creates, and the setting whose URL carries the password of each.
ROLE_SETTINGS: Mapping[str, str] = {
    "recourse_app": "database_url",
    "recourse_relay": "relay_database_url",
    "recourse_auditor": "auditor_database_url",
}


class MigrationError(Exception):
    """The database cannot be brought to this release's schema; the message says why, nothing is half done."""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did: file names applied now, and versions the database knows that this release does not."""

    applied: tuple[str, ...]
    version: int
    ahead: tuple[int, ...]


def read_migrations(directory: Path) -> tuple[Migration, ...]:
    """The numbered files of a directory in order; MigrationError for a shared number or a wrong name."""
    found: dict[int, Migration] = {}
    for path in sorted(directory.glob("[0-9]*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is named 0001_what_it_does.sql")
        version = int(match["version"])
        if version in found:
            raise MigrationError(f"{path.name} and {found[version].name} share the number {version}")
        found[version] = Migration(version, path.name, path.read_text(encoding="utf-8"))
    return tuple(found.values())


async def migrate_database(owner_url: str, migrations: tuple[Migration, ...], passwords: Mapping[str, str]) -> Outcome:
    """Apply what is missing, each file in a transaction of its own, and set the passwords of the roles.

    Safe to run from several places at once and again and again, and while others write: a file that does not get its
    locks is tried again for about a minute. A database that is ahead of this release is
    left alone: an older release must be able to start beside a newer one. Raises MigrationError.
    """
    async with _connected(owner_url) as connection:
        await connection.execute("select pg_advisory_lock($1)", _LOCK)
        await connection.execute(_LEDGER)
        known = {
            row["version"]: row
            for row in await connection.fetch("select version, name, checksum from schema_migration")
        }
        for migration in migrations:
            row = known.get(migration.version)
            if row is not None and row["checksum"] != migration.checksum:
                raise MigrationError(
                    f"{migration.name} was edited after it was applied as {row['name']}: "
                    "write a new migration instead of changing this one"
                )
        missing = [migration for migration in migrations if migration.version not in known]
        ahead = sorted(set(known) - {migration.version for migration in migrations})
        if missing and ahead:
            raise MigrationError(
                f"the database has migration {ahead[0]:04d} that this release lacks, "
                f"and lacks {missing[0].name}: two lines of releases have met here"
            )
        for migration in missing:
            await _apply(connection, migration)
        await _set_passwords(connection, passwords)
        return Outcome(
            applied=tuple(migration.name for migration in missing),
            version=max([*known, *(migration.version for migration in migrations)], default=0),
            ahead=tuple(ahead),
        )


async def run_migrations(settings: Settings) -> Outcome:
    """Bring the database of the settings to this release's schema; needs `owner_database_url`."""
    migrations = read_migrations(project_file("migrations"))
    return await migrate_database(settings.owner_database_url, migrations, role_passwords(settings))


def role_passwords(settings: Settings) -> dict[str, str]:
    """Role → password out of the settings' URLs; SettingsError when a URL names another user."""
    passwords: dict[str, str] = {}
    for role, field in ROLE_SETTINGS.items():
        url = urlsplit(getattr(settings, field))
        if not url.hostname:
            continue
        if url.username != role:
            raise SettingsError({variable_name(field): f"wants the user {role}, not {url.username}"})
        if url.password:
            passwords[role] = unquote(url.password)
    return passwords


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    try:
        connection = await asyncpg.connect(url, timeout=10, server_settings={"application_name": "migrate"})
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise MigrationError(f"the database does not let us in: {error}") from error
    try:
        yield connection
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    tries = 1
    while not await _try(connection, migration, last=tries == _TRIES):
        tries += 1
        await asyncio.sleep(_PAUSE)


async def _try(connection: asyncpg.Connection, migration: Migration, last: bool) -> bool:
    """Whether it is done; a writer was in its way if not."""
    try:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into schema_migration (version, name, checksum) values ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresError as error:
        if not last and isinstance(error, asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError):
            return False
        raise MigrationError(f"{migration.name}: {error}") from error
    return True


async def _set_passwords(connection: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    for role, password in passwords.items():
        if not await connection.fetchval("select exists (select from pg_roles where rolname = $1)", role):
            continue
        statement = await connection.fetchval(_ALTER_ROLE, role, password)
        await connection.execute(statement)
