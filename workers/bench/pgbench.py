"""The bare database as a denominator: PostgreSQL's own pgbench runs the statements that one real command sent, word for
word, on an order of its own each time. It must never send less than the command did."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from domain.handle import Door
from domain.store.measuring import Statement, recorded_statements
from domain.store.pool import open_pool
from workers.bench.bed import Bed, Database, UnfitError, elsewhere, postgres_environment
from workers.bench.harness import Run
from workers.bench.seeds import FIRST, Templates, cancel
from workers.local.postgres import find_binaries
from workers.local.processes import Command, run_command

_WARM: Final = 1  # the first transaction of a client prepares its statements, as ours have been prepared before


@dataclass(frozen=True, slots=True)
class Sample:
    """What the cancellation of the seeded order `number` has sent."""

    number: int
    statements: tuple[Statement, ...]


async def capture_command(database: Database, first: int) -> Sample:
    """The statements of the second of two cancellations: by then all that is kept in memory has been read."""
    pool = await open_pool(database.app_url, size=1, name="bench")
    try:
        door = Door(pool)
        await door.handle(*cancel(first))
        async with recorded_statements(pool) as sent:
            await door.handle(*cancel(first + 1))
    finally:
        await pool.close()
    return Sample(first + 1, tuple(sent))


@dataclass
class Script:
    """The statements of one command for pgbench, and the orders it works on."""

    bed: Bed
    database: Database
    path: Path
    templates: Templates

    async def run(self, clients: int, amount: int) -> Run:
        """Carry the transaction out so often; a client's first, which prepares, is left out of the numbers."""
        each = math.ceil(amount / clients)
        first = await self.templates.add(clients * (each + _WARM))
        log = self.path.with_suffix("")
        for old in log.parent.glob(f"{log.name}.log.*"):
            old.unlink()
        binaries = await asyncio.to_thread(find_binaries, self.bed.settings.cache)
        arguments = [
            str(binaries / "pgbench"), "--no-vacuum", "--protocol=simple", "--log", f"--log-prefix={log}.log",
            f"--file={self.path}", f"--client={clients}", f"--jobs={min(clients, 2)}", f"--transactions={each + _WARM}",
            f"--define=first={FIRST + first}", f"--define=each={each + _WARM}", "--define=fresh=1",
        ]  # fmt: skip
        command = Command(arguments, postgres_environment(self.database.app_url), folder=self.path.parent)
        await elsewhere(lambda: run_command(command))
        return _read_log(
            [line for file in log.parent.glob(f"{log.name}.log.*") for line in _lines(file)], clients * each
        )


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def _read_log(lines: Iterable[str], expected: int) -> Run:
    """client, transaction, microseconds, script, seconds and microseconds of its end, one line each."""
    times: list[float] = []
    ends: list[float] = []
    warm: list[float] = []
    errors: Counter[str] = Counter()
    for line in lines:
        _, transaction, taken, _, seconds, micros, *_ = line.split()
        ended = int(seconds) + int(micros) / 1e6
        if int(transaction) <= _WARM:
            warm.append(ended)
        elif not taken.isdigit():
            errors[taken] += 1
        else:
            times.append(int(taken) / 1e6)
            ends.append(ended)
    if len(times) + sum(errors.values()) != expected:
        raise UnfitError(f"pgbench told of {len(times)} transactions, not {expected}")
    # From the moment at which the last client was warm; what others had done by then does not count.
    begins = max(warm)
    done = sum(ended > begins for ended in ends)
    return Run(done, max(ends) - begins, tuple(times), dict(errors))


@asynccontextmanager
async def open_script(bed: Bed, database: Database, sample: Sample) -> AsyncIterator[Script]:
    """A script of what a command has sent; `database` is its own, for it writes the same hashes again and again."""
    arguments = [value for statement in sample.statements for value in statement.arguments]
    pool = await open_pool(database.app_url, size=1, name="bench")
    try:
        templates = Templates(pool, sample.number, arguments)
        path = bed.folder / f"{database.name}.sql"
        path.write_text(write_script(sample.statements, templates.arguments))
        yield Script(bed, database, path, templates)
    finally:
        await pool.close()


def write_script(sent: Sequence[Statement], values: Sequence[Any]) -> str:
    """Statements with arguments are prepared once per client under the text they were sent with, then executed."""
    arguments = iter(values)
    prepared: list[str] = []
    body: list[str] = []
    for place, statement in enumerate(sent):
        if statement.arguments:
            prepared.append(f"prepare s{place} as\n{statement.text};")
            given = ", ".join(_literal(next(arguments)) for _ in statement.arguments)
            body.append(f"execute s{place} ({given});")
        else:
            # Sent as one message, as ours are.
            body.append(statement.text.replace("; ", " \\; ") + ";")
    text = "\n".join(
        [
            "\\if :fresh",
            *prepared,
            "\\set fresh 0",
            "\\set turn 0",
            "\\endif",
            "\\set recourse_order :first + :client_id * :each + :turn",
            "\\set turn :turn + 1",
            *body,
        ]
    )
    return text.replace(str(FIRST), ":recourse_order") + "\n"


def _literal(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool() | int():
            return str(value)
        case str() | UUID():
            return "'" + str(value).replace("'", "''") + "'"
        case list() | tuple():
            return "'{" + ",".join(str(part) for part in value) + "}'"
    raise TypeError(f"no literal for {type(value).__name__}")
