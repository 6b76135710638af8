"""Where benches run: databases, a broker and processes of their own in a throwaway folder, with the product's settings.
It must never touch the data of a stack that people use."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from domain.store.measuring import read_server
from domain.store.pool import open_pool
from workers.bench.seeds import TENANT
from workers.local.artifacts import fetch_artifacts, read_lock
from workers.local.engine import Engine, EnginePorts
from workers.local.home import free_port
from workers.local.kafka import Broker
from workers.local.parts import Part, answers_http
from workers.local.postgres import Server, find_binaries
from workers.local.processes import Command, last_lines, run_command, start_child
from workers.migrate import ROLE_SETTINGS, migrate_database, read_migrations
from workers.policies import load_policy
from workers.runtime import project_file
from workers.settings import Settings, variable_name
from workers.verification import verify

T = TypeVar("T")

_FOLDERS = Path("/var/tmp")  # noqa: S108 - not a shared name in it: mkdtemp; /tmp may be memory, where fsync is nothing
_PATIENCE = 180.0
_MUST_BE_ON = ("fsync", "synchronous_commit", "full_page_writes")


class UnfitError(Exception):
    """Nothing can be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Database:
    """One migrated database with the telecom policy in force, and the URLs of its roles."""

    name: str
    owner_url: str
    app_url: str
    relay_url: str
    auditor_url: str


@dataclass(frozen=True, slots=True)
class Running:
    """What runs already and is used: the owner's URL of a server, the passwords of its roles, the addresses of a
    broker, of an engine and of the engine's own metrics; the folder of a whole stack. What is not given is started."""

    owner_url: str = ""
    passwords: Mapping[str, str] = field(default_factory=dict)
    kafka: str = ""
    engine: str = ""
    engine_metrics: str = ""
    home: Path | None = None


NOTHING = Running()


@dataclass
class Bed:
    """Opened by `open_bed`. owner_url: the server's, as its owner · verified: what was said of each database's data"""

    folder: Path
    settings: Settings
    owner_url: str
    passwords: Mapping[str, str]
    server: dict[str, str] = field(default_factory=dict)
    verified: list[bool] = field(default_factory=list)
    engine_metrics: str = ""
    home: Path | None = None
    _kafka: str = ""
    _engine: str = ""
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @asynccontextmanager
    async def database(self, *, verifies: bool = True) -> AsyncIterator[Database]:
        """A fresh database; afterwards every invariant is looked at in what the benches' tenant has in it.

        verifies: False for one that a denominator writes nonsense into. Raises UnfitError where the server would not
        keep what it has promised.
        """
        name = f"bench_{secrets.token_hex(6)}"
        await self._psql(f"create database {name}")
        database = self._urls(name)
        try:
            await migrate_database(database.owner_url, read_migrations(project_file("migrations")), self.passwords)
            settings = self.settings.model_copy(update={"database_url": database.app_url})
            await load_policy(settings, project_file("domain/telecom.policy.yaml").read_bytes(), None)
            await self._check_server(database)
            yield database
            if verifies:
                self.verified.append((await verify(database.auditor_url, tenant_id=TENANT)).valid)
        finally:
            await self._psql(f"drop database {name} with (force)")

    async def _check_server(self, database: Database) -> None:
        pool = await open_pool(database.app_url, size=1, name="bench")
        try:
            self.server = await read_server(pool)
        finally:
            await pool.close()
        for setting in _MUST_BE_ON:
            if self.server[setting] != "on":
                raise UnfitError(
                    f"PostgreSQL runs with {setting}={self.server[setting]}: its numbers would mean nothing"
                )

    def _urls(self, name: str) -> Database:
        owner = urlsplit(self.owner_url)

        def url(role: str) -> str:
            return f"postgresql://{role}:{self.passwords[role]}@{owner.hostname}:{owner.port or 5432}/{name}"

        return Database(
            name,
            owner._replace(path=f"/{name}").geturl(),
            url("recourse_app"),
            url("recourse_relay"),
            url("recourse_auditor"),
        )

    async def know_sizes(self, *databases: Database) -> None:
        """Tell the planner how large the tables have grown, as the server does by itself a minute later. A connection
        keeps the plans that it made while they were all but empty: those read every order of a tenant to find one."""
        for database in databases:
            await self._psql("vacuum analyze", database.owner_url)

    async def _psql(self, sql: str, url: str = "") -> None:
        binaries = await asyncio.to_thread(find_binaries, self.settings.cache)
        psql = [str(binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]
        command = Command(psql, postgres_environment(url or self.owner_url))
        await elsewhere(lambda: run_command(command))

    async def kafka(self) -> str:
        """The address of a broker of this bed."""
        if not self._kafka:
            await asyncio.to_thread(fetch_artifacts, read_lock("kafka"), self.settings.cache, lambda _done, _all: None)
            broker = Broker(self.folder / "kafka", free_port(), free_port(), self.settings.cache)
            await self.stack.enter_async_context(self.running(broker.part()))
            self._kafka = broker.address
        return self._kafka

    async def engine(self) -> str:
        """The gRPC address of an engine of this bed."""
        if not self._engine:
            await asyncio.to_thread(fetch_artifacts, read_lock("engine"), self.settings.cache, lambda _done, _all: None)
            ports = EnginePorts(*(free_port() for _ in range(5)))
            engine = Engine(self.folder / "engine", ports, self.settings.cache)
            await self.stack.enter_async_context(self.running(engine.part()))
            self._engine, self.engine_metrics = engine.grpc_address, engine.metrics_url
        return self._engine

    @asynccontextmanager
    async def running(self, part: Part) -> AsyncIterator[int]:
        """A part as a process for as long as the block runs; its process id."""
        log = self.folder / f"{part.name}.log"
        command = await elsewhere(part.prepare)
        child = start_child(command, self.folder / f"{part.name}.pid", log)
        try:
            deadline = time.monotonic() + _PATIENCE
            while not await part.probe():
                if not child.is_alive() or time.monotonic() > deadline:
                    raise UnfitError(f"{part.name} does not start:\n" + "\n".join(last_lines(log)))
                await asyncio.sleep(0.05)
            yield child.pid
        finally:
            await child.stop(signal.SIGINT if part.name == "postgres" else signal.SIGTERM, 20)

    def our_part(
        self,
        name: str,
        arguments: tuple[str, ...],
        port: int,
        settings: Mapping[str, object],
        module: str = "workers.cli",
    ) -> Part:
        """One process of ours with these settings and no others; `port` is where it says that it is ready."""
        told = {variable_name(setting): str(value) for setting, value in settings.items()}
        ours = {key: value for key, value in os.environ.items() if not key.startswith("RECOURSE_")}
        cache = {variable_name("cache"): str(self.settings.cache)}

        async def prepare() -> Command:
            return Command([sys.executable, "-m", module, *arguments], {**ours, **cache, **told})

        return Part(
            name=name,
            needs=frozenset(),
            prepare=prepare,
            probe=lambda: answers_http("127.0.0.1", port, "/readyz"),
            address=f"http://127.0.0.1:{port}",
            ports=(port,),
        )


async def elsewhere(work: Callable[[], Awaitable[T]]) -> T:
    """Carry something out on a loop of its own: the fast one, on which benches run, cannot start a program as somebody
    else."""

    async def carry_out() -> T:
        return await work()

    return await asyncio.to_thread(lambda: asyncio.run(carry_out()))


def postgres_environment(url: str) -> dict[str, str]:
    """A URL as libpq's programs take it: passwords do not belong on command lines."""
    parts = urlsplit(url)
    return {
        "PATH": os.defpath,
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
        "PGDATABASE": parts.path.lstrip("/"),
    }


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="recourse-bench-", dir=_FOLDERS))
    folder.chmod(0o711)  # PostgreSQL, which does not run as root, must get in
    return folder


@asynccontextmanager
async def open_bed(settings: Settings, running: Running = NOTHING) -> AsyncIterator[Bed]:
    """A bed for as long as the block runs. Raises UnfitError, or what the parts raise that do not start."""
    folder = _make_folder()
    passwords = running.passwords or {role: secrets.token_hex(12) for role in ROLE_SETTINGS}
    bed = Bed(
        folder,
        settings,
        running.owner_url,
        passwords,
        engine_metrics=running.engine_metrics,
        home=running.home,
        _kafka=running.kafka,
        _engine=running.engine,
    )
    try:
        async with bed.stack:
            if not bed.owner_url:
                server = Server(folder / "postgres", free_port(), secrets.token_hex(12), settings.cache)
                await bed.stack.enter_async_context(bed.running(server.part()))
                bed.owner_url = server.url("recourse_owner", server.password, "postgres")
            yield bed
    finally:
        shutil.rmtree(folder, ignore_errors=True)
