"""One OpenSearch node on loopback, where the engine's records become searchable; it holds nothing that counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from workers.local.artifacts import read_lock
from workers.local.engine import CLUSTER
from workers.local.java import java_command
from workers.local.parts import Part, answers_http
from workers.local.processes import Command, behind_the_rest

_LOCALHOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Search:
    """One embedded node: its folder, ports, and the cache that holds its jars.

    port: 9201 to 9299; the runner takes no other.
    """

    data: Path
    port: int
    transport_port: int
    cache: Path

    @property
    def url(self) -> str:
        return f"http://{_LOCALHOST}:{self.port}"

    def part(self) -> Part:
        return Part(
            name="opensearch",
            # Two cores are few: first everything that the stack is ready with.
            needs=frozenset({"download", "api", "workers", "relay", "reconciler"}),
            prepare=self.prepare,
            # Yellow: every index can be read and written; one node has no second copies.
            probe=lambda: answers_http(_LOCALHOST, self.port, "/_cluster/health?wait_for_status=yellow&timeout=500ms"),
            address=self.url,
            ports=(self.port, self.transport_port),
            patience=300,
        )

    async def prepare(self) -> Command:
        """Write the configuration; the command that serves it."""
        configuration = self.data / "node_1" / "config"
        configuration.mkdir(parents=True, exist_ok=True)
        settings = {
            "network.host": _LOCALHOST,
            "transport.port": self.transport_port,
            "discovery.type": "single-node",
            # The records of the engine; the consoles set their own.
            "cluster.default.index.refresh_interval": "200ms",
            "cluster.routing.allocation.disk.threshold_enabled": False,
        }
        (configuration / "opensearch.yml").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        jars = [self.cache / artifact.path for artifact in read_lock("search")]
        # The runner counts its nodes' ports from the one after the base.
        options = {"basePath": self.data, "numOfNode": 1, "clusterName": CLUSTER, "baseHttpPort": self.port - 1}
        arguments = [word for name, value in options.items() for word in (f"-{name}", str(value))]
        # Its analysers want to break Thai words, for which the wheel's Java knows no rules: a library's serve.
        flags = ["-Xms512m", "-Xmx512m", "-Djava.locale.providers=CLDR,SPI"]
        main = "org.codelibs.opensearch.runner.OpenSearchRunner"
        command = java_command(main, jars, flags, arguments, self.data)
        return behind_the_rest(command)
