"""An engine that is newer than the one of the embedded stack, in memory, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.flows.running import eventually
from workers.local.artifacts import fetch_artifacts, read_lock
from workers.local.home import free_port
from workers.local.java import java_command
from workers.local.processes import run_command, start_child
from workers.settings import load_settings

LOCK = Path(__file__).with_name("engine.lock")
SOURCE = Path(__file__).with_name("Engine.java")
# A cold start compiles nothing and loads thousands of classes; a busy machine takes its time.
_PATIENCE = 240.0


@contextmanager
def serve_engine(folder: Path) -> Iterator[str]:
    """Its gRPC address; its log and its arguments are files of the folder."""
    cache = load_settings().cache
    fetch_artifacts(read_lock(lock=LOCK), cache, lambda _done, _wanted: None)
    jars = [cache / artifact.path for artifact in read_lock("engine", LOCK)]
    port, log = free_port(), folder / "engine.log"
    command = java_command("Engine", [_compile(cache, jars), *jars], ["-Xmx384m"], [str(port)], folder)
    child = start_child(command, folder / "engine.pid", log)
    try:
        told = eventually(
            lambda: log.read_text() if child.is_alive() else f"serving no more: {log.read_text()}",
            lambda text: "serving" in text,
            "the newer engine",
            _PATIENCE,
        )
        assert child.is_alive(), told
        yield f"127.0.0.1:{port}"
    finally:
        asyncio.run(child.stop(signal.SIGTERM, 10))


def _compile(cache: Path, jars: list[Path]) -> Path:
    """The folder of the class, made once for this source and this lock: the wheel's Java has no compiler."""
    state = hashlib.sha256(SOURCE.read_bytes() + LOCK.read_bytes()).hexdigest()[:16]
    made = cache / f"newer-engine-{state}"
    if not made.exists():
        (compiler,) = read_lock("compiler", LOCK)
        scratch = Path(tempfile.mkdtemp(prefix="compile-", dir=cache))
        try:
            classpath = os.pathsep.join(str(jar) for jar in jars)
            options = ["-21", "-cp", classpath, "-d", str(scratch / "classes"), str(SOURCE)]
            main = "org.eclipse.jdt.internal.compiler.batch.Main"
            asyncio.run(run_command(java_command(main, [cache / compiler.path], [], options, scratch)))
            (scratch / "classes").replace(made)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return made
