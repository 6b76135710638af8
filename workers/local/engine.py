"""One Camunda 8 broker with its gateway on loopback, every port explicit; no login, so never beyond this machine."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from workers.local.artifacts import read_lock, unpack_artifact
from workers.local.java import java_command
from workers.local.parts import Part, answers_http
from workers.local.processes import Command

_LOCALHOST = "127.0.0.1"

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
class Engine:
    """One embedded engine: its folder, ports, and the cache that holds the distribution."""

    data: Path
    grpc_port: int
    command_port: int
    internal_port: int
    rest_port: int
    management_port: int
    cache: Path

    @property
    def grpc_address(self) -> str:
        return f"{_LOCALHOST}:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        return f"http://{_LOCALHOST}:{self.rest_port}"

    def part(self) -> Part:
        return Part(
            name="engine",
            needs=frozenset({"download"}),
            prepare=self.prepare,
            probe=lambda: answers_http(_LOCALHOST, self.management_port, "/actuator/health/readiness"),
            address=self.grpc_address,
            patience=180,
        )

    async def prepare(self) -> Command:
        """Unpack the distribution once, write the configuration; the command that serves it."""
        (distribution,) = read_lock("engine")
        home = await asyncio.to_thread(unpack_artifact, distribution, self.cache)
        self.data.mkdir(parents=True, exist_ok=True)
        configuration = self.data / "engine.yaml"
        # JSON is YAML, and the engine reads only the latter.
        configuration.write_text(json.dumps(self._configuration(), indent=2), encoding="utf-8")
        logging = self.data / "log4j2.xml"
        logging.write_text(_LOGGING, encoding="utf-8")
        flags = [
            "-Xms256m",
            "-Xmx512m",
            f"-Dapp.home={self.data}",
            f"-Dbasedir={self.data}",
            "-Dspring.profiles.active=broker",
            f"-Dspring.config.additional-location=file:{configuration}",
            f"-Dlogging.config={logging}",
            f"-Dlog4j2.configurationFile={logging}",
        ]
        jars = sorted((home / "lib").glob("*.jar"))
        main = "io.camunda.application.StandaloneCamunda"
        return java_command(main, [home / "config", *jars], flags, [], self.data)

    def _configuration(self) -> dict[str, object]:
        return {
            "server": {"address": _LOCALHOST, "port": self.rest_port},
            "management": {"server": {"address": _LOCALHOST, "port": self.management_port}},
            "zeebe": {
                "broker": {
                    "gateway": {"enable": True, "network": {"host": _LOCALHOST, "port": self.grpc_port}},
                    "network": {
                        "host": _LOCALHOST,
                        "commandApi": {"port": self.command_port},
                        "internalApi": {"port": self.internal_port},
                    },
                    "data": {
                        "directory": str(self.data / "data"),
                        "logSegmentSize": "16MB",
                        "disk": {"freeSpace": {"processing": "512MB", "replication": "256MB"}},
                    },
                    "threads": {"cpuThreadCount": 1, "ioThreadCount": 1},
                    "experimental": {"rocksdb": {"memoryLimit": "128MB"}},
                }
            },
        }
