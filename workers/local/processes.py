"""Starts and stops child processes that outlive their starter; it must never signal a process it did not start."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

# The shell writes its own identity before it becomes the program: a starter killed between
# the start and a note of its own would leave a child that nobody can find.
_LAUNCH = 'cat /proc/$$/stat /proc/sys/kernel/random/boot_id >&0 && exec "$@" </dev/null'

_LOG_LIMIT = 64 * 2**20


class CommandError(Exception):
    """A program that was to end well did not; the message holds what it printed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for certain: its number, and the clock tick and boot it was started in (numbers come again)."""

    pid: int
    started: int
    boot: str

    def is_alive(self) -> bool:
        stat = _read_stat(self.pid)
        return stat is not None and stat == (self.started, False) and self.boot == _boot_id()


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, as whom (None: as we are), where, and with which environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    user: str | None = None
    folder: Path = Path("/")


class Child:
    """One started process, known by its pid file; also one that an earlier run started."""

    def __init__(self, identity: Identity, pid_file: Path, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.identity = identity
        self._pid_file = pid_file
        self._popen = popen

    @property
    def pid(self) -> int:
        return self.identity.pid

    def is_alive(self) -> bool:
        if self._popen is not None and self._popen.poll() is not None:
            return False
        return self.identity.is_alive()

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        code = None if self._popen is None else self._popen.poll()
        if code is None:
            return "ended"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    async def wait(self) -> None:
        """Return when it has ended."""
        loop = asyncio.get_running_loop()
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        ended = asyncio.Event()
        loop.add_reader(handle, ended.set)
        try:
            if self.is_alive():
                await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        if self._popen is not None:
            self._popen.wait()

    async def stop(self, number: signal.Signals, patience: float) -> None:
        """Ask it to end; after `patience` seconds end it and its whole session. The pid file goes with it."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            try:
                await asyncio.wait_for(self.wait(), patience)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                await self.wait()
        self._pid_file.unlink(missing_ok=True)


def start_child(command: Command, pid_file: Path, log_file: Path) -> Child:
    """Start a process in a session of its own, its output appended to a log; OSError when it cannot be started."""
    trim_log(log_file)
    user = None if command.user is None else pwd.getpwnam(command.user)
    with pid_file.open("w+b") as identity, log_file.open("ab") as log:
        popen = subprocess.Popen(
            ["/bin/sh", "-c", _LAUNCH, "sh", *command.arguments],
            stdin=identity,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(command.environment),
            cwd=command.folder,
            start_new_session=True,
            user=user and user.pw_uid,
            group=user and user.pw_gid,
            extra_groups=user and [],
        )
    return Child(_identify(popen.pid), pid_file, popen)


def behind_the_rest(command: Command) -> Command:
    """The same for a process that others come before: whoever waits for an order before whoever looks at it."""
    return replace(command, arguments=["nice", "-n", "5", *command.arguments])


async def run_command(command: Command, on_line: Callable[[str], None] | None = None) -> str:
    """Run a program to its end and return what it printed, line by line to `on_line` meanwhile.

    Ended by force when the caller is cancelled. Raises CommandError when it fails.
    """
    user = None if command.user is None else pwd.getpwnam(command.user)
    process = await asyncio.create_subprocess_exec(
        *command.arguments,
        env=dict(command.environment),
        cwd=command.folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=user and [],
    )
    lines = []
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            lines.append(line.decode(errors="replace").rstrip())
            if on_line is not None:
                on_line(lines[-1])
    finally:
        if process.returncode is None and not process.stdout.at_eof():
            process.kill()
        await process.wait()
    text = "\n".join(lines).strip()
    if process.returncode != 0:
        raise CommandError(f"{Path(command.arguments[0]).name} failed with exit code {process.returncode}: {text}")
    return text


def find_child(pid_file: Path) -> Child | None:
    """The living process that a pid file names; None when it is gone, or its number is another's now."""
    try:
        stat, _, boot = pid_file.read_text().strip().rpartition("\n")
        pid = int(stat.split(maxsplit=1)[0])
        started = _started(stat)
    except (FileNotFoundError, ValueError, IndexError):
        return None
    child = Child(Identity(pid, started, boot), pid_file)
    return child if child.is_alive() else None


def write_own_pid_file(pid_file: Path) -> None:
    """Note this very process the way the children are noted, in one step: half a note names nobody."""
    stat = Path("/proc/self/stat").read_text()
    new = pid_file.with_name(f".{pid_file.name}.{os.getpid()}")
    new.write_text(f"{stat.strip()}\n{_boot_id()}\n")
    new.replace(pid_file)


def trim_log(log_file: Path) -> None:
    """Keep one older piece of a log that has grown large; writers append, so emptying it in place is safe."""
    with suppress(FileNotFoundError):
        if log_file.stat().st_size > _LOG_LIMIT:
            log_file.with_suffix(".log.1").write_bytes(log_file.read_bytes())
            os.truncate(log_file, 0)


def last_lines(log_file: Path, count: int = 12) -> list[str]:
    """The end of a log, for a person to read."""
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - 16_384))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def _identify(pid: int) -> Identity:
    stat = _read_stat(pid)
    return Identity(pid, stat[0] if stat else 0, _boot_id())


def _read_stat(pid: int) -> tuple[int, bool] | None:
    """(start tick, is it a zombie), or None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _started(stat), stat.rpartition(")")[2].split()[0] == "Z"


def _started(stat: str) -> int:
    # The name in parentheses may hold anything, so count from behind it: field 22 is the start in ticks.
    return int(stat.rpartition(")")[2].split()[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
