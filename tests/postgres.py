"""A real PostgreSQL for tests: one server a session, one migrated template, a clone for every test that asks."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from workers.local.home import free_port
from workers.local.parts import answers_postgres
from workers.local.postgres import Server, find_binaries
from workers.local.processes import find_child, last_lines, start_child, write_own_pid_file
from workers.migrate import ROLE_SETTINGS, migrate_database, read_migrations
from workers.runtime import project_file
from workers.settings import Settings

_FOLDERS = Path("/var/tmp")
_PREFIX = "recourse-postgres-"
PASSWORDS = {role: f"{role}-of-the-tests" for role in ROLE_SETTINGS}


@dataclass(frozen=True, slots=True)
class Database:
    """One database and the URL by which each role reaches it."""

    name: str
    owner_url: str
    app_url: str
    relay_url: str
    auditor_url: str


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server, reached as its owner; `template` is migrated."""

    owner_url: str
    template: str

    def execute(self, sql: str) -> str:
        """Run one statement outside of any transaction; what it answers, one line a row."""
        return _psql(self.owner_url, sql)

    @contextmanager
    def clone(self) -> Iterator[Database]:
        """A fresh, migrated database for as long as the block runs."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"create database {name} template {self.template}")
        try:
            yield self.database(name)
        finally:
            self.execute(f"drop database {name} with (force)")

    def database(self, name: str) -> Database:
        owner = urlsplit(self.owner_url)

        def url(role: str) -> str:
            return f"postgresql://{role}:{PASSWORDS[role]}@{owner.hostname}:{owner.port or 5432}/{name}"

        return Database(
            name=name,
            owner_url=owner._replace(path=f"/{name}").geturl(),
            app_url=url("recourse_app"),
            relay_url=url("recourse_relay"),
            auditor_url=url("recourse_auditor"),
        )


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """The server named by RECOURSE_TEST_DATABASE_URL, else an embedded one for as long as the block runs."""
    if given := os.environ.get("RECOURSE_TEST_DATABASE_URL"):
        with _with_template(given) as server:
            yield server
        return
    with embedded_server() as url, _with_template(url) as server:
        yield server


@contextmanager
def embedded_server() -> Iterator[str]:
    """The owner's URL of a server of its own in a throwaway folder."""
    _sweep_abandoned()
    # Not pytest's own temporary folder: root's is closed to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_FOLDERS))
    folder.chmod(0o711)
    write_own_pid_file(folder / "owner.pid")
    server = Server(folder / "data", free_port(), secrets.token_hex(12), Settings().cache)
    log = folder / "postgres.log"
    child = start_child(asyncio.run(server.prepare()), folder / "postgres.pid", log)
    try:
        deadline = time.monotonic() + 30
        while not asyncio.run(answers_postgres("127.0.0.1", server.port)):
            assert child.is_alive(), "\n".join(last_lines(log))
            assert time.monotonic() < deadline, "PostgreSQL is not ready after 30 s"
            time.sleep(0.05)
        yield server.url("recourse_owner", server.password, "postgres")
    finally:
        asyncio.run(child.stop(signal.SIGINT, 20))
        shutil.rmtree(folder)


def _sweep_abandoned() -> None:
    """Stop the servers of test runs that were killed, and remove their folders."""
    for owner in _FOLDERS.glob(f"{_PREFIX}*/owner.pid"):
        if find_child(owner) is None:
            if server := find_child(owner.with_name("postgres.pid")):
                asyncio.run(server.stop(signal.SIGINT, 20))
            shutil.rmtree(owner.parent, ignore_errors=True)


@contextmanager
def _with_template(owner_url: str) -> Iterator[PostgresServer]:
    server = PostgresServer(owner_url, f"template_{secrets.token_hex(6)}")
    server.execute(f"create database {server.template}")
    try:
        owner = server.database(server.template).owner_url
        asyncio.run(migrate_database(owner, read_migrations(project_file("migrations")), PASSWORDS))
        yield server
    finally:
        server.execute(f"drop database {server.template} with (force)")


def _psql(url: str, sql: str) -> str:
    parts = urlsplit(url)
    environment = {
        "PATH": os.defpath,
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
        "PGDATABASE": parts.path.lstrip("/"),
    }
    command = [str(find_binaries(Settings().cache) / "psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
