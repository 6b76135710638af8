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
    """With two more listeners over TLS: for who knows the password of `relay`, and for who has a certificate."""

    secured_port: int = 0
    mutual_port: int = 0
    certificates: Certificates | None = None

    def _properties(self) -> str:
        assert self.certificates is not None
        login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_relay="hush";'
        secured = f"SASL_SSL://127.0.0.1:{self.secured_port},SSL://127.0.0.1:{self.mutual_port}"
        own = f"PLAINTEXT://{self.address},{secured}"
        more = {
            "listeners": f"{own},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": own,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": login,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates.both,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.certificates.authority,
            "listener.name.ssl.ssl.client.auth": "required",
        }
        # What stands later in the file holds.
        return "\n".join([Broker._properties(self), *(f"{name}={value}" for name, value in more.items())])


@contextmanager
def serve_kafka() -> Iterator[str]:
    """The address of RECOURSE_TEST_KAFKA, else of an embedded broker for as long as the block runs."""
    if given := os.environ.get("RECOURSE_TEST_KAFKA"):
        yield given
        return
    with _folder() as folder:
        broker = Broker(folder / "data", free_port(), free_port(), Settings().cache)
        with _running(broker, folder):
            yield broker.address


@contextmanager
def serve_secured_kafka(certificates: Certificates) -> Iterator[tuple[str, str]]:
    """Two addresses of an embedded broker over TLS: for a name and a password, and for a certificate of the same
    authority."""
    with _folder() as folder:
        where = (folder / "data", free_port(), free_port(), Settings().cache)
        broker = _Secured(*where, free_port(), free_port(), certificates)
        with _running(broker, folder):
            yield f"127.0.0.1:{broker.secured_port}", f"127.0.0.1:{broker.mutual_port}"


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="recourse-test-kafka-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(broker: Broker, folder: Path) -> Iterator[None]:
    fetch_artifacts(read_lock("kafka"), broker.cache, lambda _done, _all: None)
    log = folder / "kafka.log"
    child = start_child(asyncio.run(broker.prepare()), folder / "kafka.pid", log)
    try:
        deadline = time.monotonic() + 60
        while not asyncio.run(answers_kafka("127.0.0.1", broker.port)):
            assert child.is_alive(), "\n".join(last_lines(log))
            assert time.monotonic() < deadline, "Kafka is not ready after 60 s"
            time.sleep(0.1)
        yield
    finally:
        asyncio.run(child.stop(signal.SIGTERM, 10))
