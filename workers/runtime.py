"""What our processes share at start and stop: loop, signals, the project's files; never any business."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from workers.logs import configure_logs
from workers.settings import Settings
from workers.spans import start_spans, stop_spans

T = TypeVar("T")
Main = Callable[[Settings], Coroutine[Any, Any, None]]


def project_file(name: str) -> Path:
    """The path of `bpmn`, `migrations` or a file below them, in a checkout as in an installed wheel.

    Raises FileNotFoundError when neither has it.
    """
    package = Path(__file__).resolve().parent
    for base in (package.parent, package / "_project"):
        if (base / name).exists():
            return base / name
    raise FileNotFoundError(f"the project's {name} is neither beside the packages nor installed with them")


def run_process(name: str, main: Main, settings: Settings) -> None:
    """Run one process of ours; SIGTERM and SIGINT cancel `main`, whose `finally` blocks drain and close."""
    configure_logs(settings, name)
    start_spans(settings, name)
    try:
        run_fast(_cancelled_by_signals(main(settings)))
    finally:
        stop_spans()


def run_fast(work: Coroutine[Any, Any, T]) -> T:
    """Carry it out on the loop, and with the collector of garbage set, as in all our processes."""
    # An order is a tree of rows that live as long as its command: nothing in it refers back. The collector's default,
    # a look at everything after a few thousand new rows, finds nothing and costs a third of a large plan's time.
    gc.set_threshold(50_000, 20, 20)
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _cancelled_by_signals(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def crash_point(settings: Settings, name: str) -> None:
    """Die here, by SIGKILL and at once, when RECOURSE_CRASH_AT names this point; fault experiments use it."""
    if settings.crash_at == name:
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
