"""Brings the stack up, keeps its parts alive and takes it down; it must never leave behind what it started."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from workers.local.home import Home, HomeError, is_port_free, write_json
from workers.local.parts import Part, PartError, Step
from workers.local.processes import (
    Child,
    CommandError,
    find_child,
    last_lines,
    start_child,
    trim_log,
    write_own_pid_file,
)
from workers.local.stack import Say, Stack

SUPERVISOR = "supervisor"

# Stopped in this order: first whoever uses the rest, then these, each group at once.
_LAST = (frozenset({"kafka", "engine"}), frozenset({"postgres", "opensearch"}))

_PROBE_SECONDS = 0.1
_STOP_SECONDS = 30.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
# A part that has lived this long starts again without a pause.
_SETTLED_SECONDS = 60.0
_TRIM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stack could not be brought up."""

    part: str
    reason: str
    log: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        said = "".join(f"\n  | {line}" for line in self.lines)
        return f"{self.part} did not start: {self.reason}{said}" + (f"\n  its log: {self.log}" if said else "")


class StartError(Exception):
    """The stack cannot be brought up; everything that was started has been stopped again."""

    def __init__(self, failures: tuple[Failure, ...]) -> None:
        self.failures = failures
        super().__init__("; ".join(f"{failure.part}: {failure.reason}" for failure in failures))


class Supervisor:
    """One run of a stack, from the first process to the last."""

    def __init__(self, stack: Stack, say: Say) -> None:
        self._home = stack.home
        self._stack = stack
        self._say = say
        self._children: dict[str, Child] = {}
        self._ready: set[str] = set()
        self._up = False

    async def run(self) -> None:
        """Bring the stack up and keep it until SIGTERM or SIGINT; StartError when it cannot be brought up."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        write_own_pid_file(self._home.pid_file(SUPERVISOR))
        keeping = asyncio.create_task(self._bring_up_and_keep())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._up = False
            for task in (keeping, stopping):
                task.cancel()
            await asyncio.wait({keeping, stopping})
            self._write_status()
            await stop_children(self._children, self._say)
            self._home.status_file.unlink(missing_ok=True)
            self._home.pid_file(SUPERVISOR).unlink(missing_ok=True)
        if not keeping.cancelled() and (error := keeping.exception()):
            raise error

    async def _bring_up_and_keep(self) -> None:
        done = {piece.name: asyncio.Event() for piece in (*self._stack.pieces, *self._stack.consoles)}
        consoles = [asyncio.create_task(self._tend(piece, done)) for piece in self._stack.consoles]
        try:
            await self._bring_up_all(done)
            async with asyncio.TaskGroup() as group:
                for piece in self._stack.pieces:
                    if isinstance(piece, Part):
                        group.create_task(self._keep(piece))
                for chore in self._stack.chores:
                    group.create_task(self._do_chore(chore))
                group.create_task(self._trim_logs())
        finally:
            for task in consoles:
                task.cancel()
            await asyncio.gather(*consoles, return_exceptions=True)

    async def _bring_up_all(self, done: Mapping[str, asyncio.Event]) -> None:
        started = time.monotonic()
        failures: list[Failure] = []
        tasks = [asyncio.create_task(self._bring_up(piece, done, failures)) for piece in self._stack.pieces]
        try:
            await asyncio.gather(*tasks)
        except (PartError, CommandError, HomeError, OSError) as error:
            raise StartError(tuple(failures)) from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self._up = True
        self._write_status()
        self._say("", f"ready after {time.monotonic() - started:.1f} s")

    async def _bring_up(self, piece: Part | Step, done: Mapping[str, asyncio.Event], failures: list[Failure]) -> None:
        for need in piece.needs:
            await done[need].wait()
        started = time.monotonic()
        try:
            if isinstance(piece, Part):
                await self._start(piece)
                told = piece.address
            else:
                told = await piece.run()
        except (PartError, CommandError, HomeError, OSError) as error:
            log = self._home.log_file(piece.name)
            lines = tuple(last_lines(log)) if isinstance(piece, Part) else ()
            failures.append(Failure(piece.name, str(error), str(log), lines))
            raise
        took = f"{'ready' if isinstance(piece, Part) else 'done'} in {time.monotonic() - started:.1f} s"
        self._say(piece.name, f"{took} · {told}" if told else took)
        done[piece.name].set()

    async def _tend(self, piece: Part | Step, done: Mapping[str, asyncio.Event]) -> None:
        """Bring up something of the consoles, however often it takes, and keep it; nothing else may fail with it."""
        pause = _SHORTEST_PAUSE
        while True:
            failures: list[Failure] = []
            try:
                await self._bring_up(piece, done, failures)
            except (PartError, CommandError, HomeError, OSError):
                for failure in failures:
                    self._say(piece.name, f"!! {failure.reason}; trying again in {pause:.1f} s (log: {failure.log})")
                if child := self._children.get(piece.name):
                    await child.stop(signal.SIGKILL, _STOP_SECONDS)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                break
        if isinstance(piece, Part):
            await self._keep(piece)
        else:
            self._ready.add(piece.name)
            self._write_status()

    async def _do_chore(self, chore: Step) -> None:
        try:
            told = await chore.run()
        except (PartError, CommandError, OSError) as error:
            told = f"!! not done: {error}"
        self._say(chore.name, told)

    async def _start(self, part: Part) -> None:
        command = await part.prepare()
        if taken := [port for port in part.ports if not is_port_free(port)]:
            raise PartError(f"port {taken[0]} is taken by another program; `recourse up` again chooses another")
        child = start_child(command, self._home.pid_file(part.name), self._home.log_file(part.name))
        self._children[part.name] = child
        self._write_status()
        try:
            async with asyncio.timeout(part.patience):
                while not (await part.probe() and child.is_alive()):
                    if not child.is_alive():
                        raise PartError(f"it {child.ending} before it was ready")
                    await asyncio.sleep(_PROBE_SECONDS)
        except TimeoutError:
            raise PartError(f"it was not ready within {part.patience:.0f} s") from None
        self._ready.add(part.name)
        self._write_status()

    async def _keep(self, part: Part) -> None:
        pause = _SHORTEST_PAUSE
        while True:
            child = self._children[part.name]
            since = time.monotonic()
            await child.wait()
            self._ready.discard(part.name)
            self._write_status()
            if time.monotonic() - since > _SETTLED_SECONDS:
                pause = _SHORTEST_PAUSE
            self._say(part.name, f"!! {child.ending}; starting it again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            again = time.monotonic()
            try:
                await self._start(part)
            except (PartError, CommandError, OSError) as error:
                self._say(part.name, f"!! {error} (log: {self._home.log_file(part.name)})")
                await self._children[part.name].stop(signal.SIGKILL, _STOP_SECONDS)
            else:
                self._say(part.name, f"ready again in {time.monotonic() - again:.1f} s")

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(_TRIM_SECONDS)
            for name in (*self._children, SUPERVISOR):
                trim_log(self._home.log_file(name))

    def _write_status(self) -> None:
        parts = {piece.name for piece in self._stack.pieces if isinstance(piece, Part)}
        consoles = {piece.name for piece in self._stack.consoles}
        write_json(
            self._home.status_file,
            {
                **self._stack.addresses,
                "ready": self._up and parts <= self._ready,
                "consolesReady": bool(consoles) and consoles <= self._ready,
                "processes": {name: child.pid for name, child in self._children.items()},
            },
        )


async def stop_children(children: Mapping[str, Child], say: Say) -> None:
    """Stop processes group by group, users before what they use; each is ended by force when it does not listen."""
    last = frozenset().union(*_LAST)
    for names in (frozenset(children) - last, *_LAST):
        alive = [(name, children[name]) for name in names if name in children]
        await asyncio.gather(*(_stop_child(name, child, say) for name, child in alive))


async def _stop_child(name: str, child: Child, say: Say) -> None:
    started = time.monotonic()
    # To PostgreSQL SIGTERM means: wait for the sessions; SIGINT: end them, lose nothing.
    await child.stop(signal.SIGINT if name == "postgres" else signal.SIGTERM, _STOP_SECONDS)
    say(name, f"stopped in {time.monotonic() - started:.1f} s")


async def stop_stack(home: Home, say: Say) -> bool:
    """Stop whatever an `up` with this folder started, also one that was killed; False when nothing ran."""
    supervisor = find_child(home.pid_file(SUPERVISOR))
    if supervisor is not None:
        await supervisor.stop(signal.SIGTERM, 3 * _STOP_SECONDS)
    orphans = find_children(home)
    await stop_children(orphans, say)
    for file in (home.status_file, home.pid_file(SUPERVISOR)):
        file.unlink(missing_ok=True)
    return supervisor is not None or bool(orphans)


def find_children(home: Home) -> dict[str, Child]:
    """The living processes that this folder's pid files name, the supervisor aside."""
    names = sorted(path.stem for path in home.pid_file("any").parent.glob("*.pid"))
    found = {name: find_child(home.pid_file(name)) for name in names if name != SUPERVISOR}
    return {name: child for name, child in found.items() if child is not None}


@contextmanager
def only_supervisor(home: Home) -> Iterator[bool]:
    """True while no other supervisor has this folder; held until the block, or the process, ends."""
    handle = os.open(home.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
