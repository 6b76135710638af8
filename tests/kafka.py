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
from pathlib import Path

from workers.local.artifacts import fetch_artifacts, read_lock
from workers.local.home import free_port
from workers.local.kafka import Broker
from workers.local.parts import answers_kafka
from workers.local.processes import last_lines, start_child
from workers.settings import Settings


@contextmanager
def serve_kafka() -> Iterator[str]:
    """The address of RECOURSE_TEST_KAFKA, else of an embedded broker for as long as the block runs."""
    if given := os.environ.get("RECOURSE_TEST_KAFKA"):
        yield given
        return
    cache = Settings().cache
    fetch_artifacts(read_lock("kafka"), cache, lambda _done, _all: None)
    folder = Path(tempfile.mkdtemp(prefix="recourse-test-kafka-", dir="/var/tmp"))
    broker = Broker(folder / "data", free_port(), free_port(), cache)
    log = folder / "kafka.log"
    child = start_child(asyncio.run(broker.prepare()), folder / "kafka.pid", log)
    try:
        deadline = time.monotonic() + 60
        while not asyncio.run(answers_kafka("127.0.0.1", broker.port)):
            assert child.is_alive(), "\n".join(last_lines(log))
            assert time.monotonic() < deadline, "Kafka is not ready after 60 s"
            time.sleep(0.1)
        yield broker.address
    finally:
        asyncio.run(child.stop(signal.SIGTERM, 10))
        shutil.rmtree(folder, ignore_errors=True)
