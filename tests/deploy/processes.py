"""Starts a process of ours as an orchestrator would, to see whether it has all it needs to be told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from workers.local.home import free_port

ROOT = Path(__file__).parents[2]

# How long a process may take to come as far as to need the others.
_SECONDS = 100.0


@dataclass(frozen=True, slots=True)
class Start:
    """A command line of ours and the environment that it is given, nothing else."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


def find_complaints(starts: Sequence[Start], folder: Path) -> dict[str, str]:
    """Name → what a process said when it ended because of its settings or its command line. All start at once, and are
    stopped when they are well, or miss the others, which are not there."""
    running = [_Running(start, folder) for start in starts]
    deadline = time.monotonic() + _SECONDS
    try:
        # One client: each reads all certificates of the machine, which takes longer than the question.
        with httpx.Client(timeout=2, trust_env=False) as client:
            while waiting := [one for one in running if not one.has_come_through(client)]:
                assert time.monotonic() < deadline, [one.start.name for one in waiting]
                time.sleep(0.1)
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()
    return {one.start.name: one.said() for one in running if one.complained()}


class _Running:
    def __init__(self, start: Start, folder: Path) -> None:
        self.start = start
        self._log = folder / f"{start.name}.txt"
        self._ports = {
            variable: free_port()
            for variable in ("RECOURSE_HEALTH_PORT", "RECOURSE_API_PORT", "RECOURSE_SIMULATOR_PORT")
        }
        # In containers each has its own network; here they share one machine.
        ports = {variable: str(port) for variable, port in self._ports.items()}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", *start.arguments],
                env={"PATH": os.defpath, "RECOURSE_HOME": str(folder), **start.environment, **ports},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def complained(self) -> bool:
        return self.process.returncode == 2 or "is not set" in self.said() or "Traceback" in self.said()

    def has_come_through(self, client: httpx.Client) -> bool:
        """It has ended, serves, or tells in its log that the others do not answer."""
        if self.process.poll() is not None or "retried" in self.said():
            return True
        return any(_answers(client, port) for port in self._ports.values())


def _answers(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/healthz").is_success
    except httpx.TransportError:
        return False
