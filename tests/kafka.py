"""A real Kafka broker for tests: one for the whole session, a topic of its own for every test."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.certificates import Certificates
from workers.local.artifacts import fetch_artifacts, read_lock
from workers.local.home import free_port
from workers.local.kafka import Broker
from workers.local.parts import answers_kafka
from workers.local.processes import last_lines, start_child
from workers.settings import Settings


@dataclass(frozen=True, slots=True)
class _Secured(Broker):
    """With a second listener, over TLS, for whoever knows the password of `relay`."""

    secured_port: int = 0
    certificates: Certificates | None = None

    def _properties(self) -> str:
        assert self.certificates is not None
        login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_relay="hush";'
        own = f"PLAINTEXT://{self.address},SASL_SSL://127.0.0.1:{self.secured_port}"
        more = {
            "listeners": f"{own},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": own,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": login,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates.both,
        }
        # What stands later in the file holds.
        return "\n".join([Broker._properties(self), *(f"{name}={value}" for name, value in more.items())])


@contextmanager
def serve_kafka(certificates: Certificates | None = None) -> Iterator[str]:
    """The address of RECOURSE_TEST_KAFKA, else of an embedded broker for as long as the block runs; with certificates
    an embedded one's address over TLS."""
    if certificates is None and (given := os.environ.get("RECOURSE_TEST_KAFKA")):
        yield given
        return
    cache = Settings().cache
    fetch_artifacts(read_lock("kafka"), cache, lambda _done, _all: None)
    folder = Path(tempfile.mkdtemp(prefix="recourse-test-kafka-", dir="/var/tmp"))
    where = (folder / "data", free_port(), free_port(), cache)
    broker = _Secured(*where, free_port(), certificates) if certificates else Broker(*where)
    log = folder / "kafka.log"
    child = start_child(asyncio.run(broker.prepare()), folder / "kafka.pid", log)
    try:
        deadline = time.monotonic() + 60
        while not asyncio.run(answers_kafka("127.0.0.1", broker.port)):
            assert child.is_alive(), "\n".join(last_lines(log))
            assert time.monotonic() < deadline, "Kafka is not ready after 60 s"
            time.sleep(0.1)
        yield f"127.0.0.1:{broker.secured_port}" if isinstance(broker, _Secured) else broker.address
    finally:
        asyncio.run(child.stop(signal.SIGTERM, 10))
        shutil.rmtree(folder, ignore_errors=True)
