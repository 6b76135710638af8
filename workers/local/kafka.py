"""One Kafka node in KRaft mode on loopback, its log kept between runs; never a cluster."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path

from workers.local.artifacts import read_lock
from workers.local.java import java_command
from workers.local.parts import Part, answers_kafka
from workers.local.processes import Command, run_command


@dataclass(frozen=True, slots=True)
class Broker:
    """One embedded broker: its folder, ports, and the cache that holds its jars."""

    data: Path
    port: int
    controller_port: int
    cache: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def part(self) -> Part:
        return Part(
            name="kafka",
            needs=frozenset({"download"}),
            prepare=self.prepare,
            probe=lambda: answers_kafka("127.0.0.1", self.port),
            address=self.address,
            ports=(self.port, self.controller_port),
        )

    async def prepare(self) -> Command:
        """Write the configuration, format the log folder once; the command that serves it."""
        self.data.mkdir(parents=True, exist_ok=True)
        properties = self.data / "server.properties"
        properties.write_text(self._properties(), encoding="utf-8")
        if not (self._log_folder / "meta.properties").exists():
            cluster = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()
            # The tool's parser takes a leading dash for an option.
            format_it = ["format", f"--cluster-id={cluster}", f"--config={properties}"]
            await run_command(self._java("kafka.tools.StorageTool", ["-Xmx128m"], format_it))
        return self._java("kafka.Kafka", ["-Xms64m", "-Xmx256m"], [str(properties)])

    @property
    def _log_folder(self) -> Path:
        return self.data / "log"

    def _java(self, main: str, flags: list[str], arguments: list[str]) -> Command:
        jars = [self.cache / artifact.path for artifact in read_lock("kafka")]
        return java_command(main, jars, ["-XX:TieredStopAtLevel=1", *flags], arguments, self.data)

    def _properties(self) -> str:
        return "\n".join(
            f"{name}={value}"
            for name, value in {
                "process.roles": "broker,controller",
                "node.id": 1,
                "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
                "controller.listener.names": "CONTROLLER",
                "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{self.controller_port}",
                "advertised.listeners": f"PLAINTEXT://{self.address}",
                "log.dirs": self._log_folder,
                "num.partitions": 8,
                "auto.create.topics.enable": "true",
                "offsets.topic.num.partitions": 4,
                "offsets.topic.replication.factor": 1,
                "transaction.state.log.num.partitions": 4,
                "transaction.state.log.replication.factor": 1,
                "transaction.state.log.min.isr": 1,
                "share.coordinator.state.topic.replication.factor": 1,
                "share.coordinator.state.topic.min.isr": 1,
                "group.initial.rebalance.delay.ms": 0,
                "num.network.threads": 2,
                "num.io.threads": 4,
                "log.segment.bytes": 64 * 2**20,
                "log.retention.hours": 168,
                "log.cleaner.dedupe.buffer.size": 16 * 2**20,
                # After a kill the old registration must run out before the node is let in again.
                "broker.session.timeout.ms": 3000,
                "broker.heartbeat.interval.ms": 500,
            }.items()
        )
