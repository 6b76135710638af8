"""Each bench works, in its quick form: all of its work is done without an error, and the invariants hold. No number is
judged here."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from domain.handle import Door
from domain.store.pool import open_pool
from tests.kafka import serve_kafka
from tests.postgres import PASSWORDS, PostgresServer
from workers.bench.bed import Bed, Database, Running, UnfitError
from workers.bench.conditions import measure_observability
from workers.bench.harness import Scale, write_record
from workers.bench.pgbench import capture_command, open_script
from workers.bench.run import BENCHES, run_benches
from workers.bench.seeds import Seeds, cancel
from workers.settings import Settings

ON_POSTGRES = ("command", "store", "replay", "plan", "hot-order", "observability", "growth", "reconcile")
TABLES = """
    select table_name from information_schema.tables
    where table_schema = 'public' and table_type = 'BASE TABLE' order by 1"""


@pytest.mark.parametrize("name", ON_POSTGRES)
async def test_a_bench_does_all_of_its_work_without_an_error(
    name: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    said: list[str] = []
    outcomes = await run_benches(
        Settings(), [name], quick=True, say=said.append, running=Running(postgres_server.owner_url, PASSWORDS)
    )
    (outcome,) = outcomes
    assert outcome.verdict != "broken", said
    assert outcome.verified is (None if name == "plan" else True)
    write_record(tmp_path / "record.json", outcomes)
    (record,) = json.loads((tmp_path / "record.json").read_text())
    assert record["bench"] == name
    for case in record["cases"]:
        assert case["numerator"]["done"] > 0
        assert case["denominator"]["done"] > 0
        assert case["numerator"]["p50ms"] <= case["numerator"]["p99ms"] <= case["numerator"]["maxms"]
    if name != "plan":
        assert record["database"]["fsync"] == "on"


async def test_what_is_observed_leaves_the_process(bed: Bed) -> None:
    """A line for each request and, of some hundred, about as many spans as were asked for."""
    (case,) = await measure_observability(bed, Scale(1, 240, quick=True))
    assert case.errors == {}
    assert case.notes["lines"] >= case.notes["requests"] == 304
    assert 5 <= case.notes["spans"] <= 60, "a tenth, give or take five deviations"


async def test_a_bench_of_spans_that_do_not_arrive_is_none(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.bench.conditions.TRACED", 0.0)
    with pytest.raises(UnfitError, match="No span of 72 requests"):
        await measure_observability(bed, Scale(1, 8, quick=True))


def test_the_relay_carries_all_of_it_in_order(postgres_server: PostgresServer) -> None:
    with serve_kafka() as kafka:
        told = run_benches(
            Settings(),
            ["relay"],
            quick=True,
            say=lambda _: None,
            running=Running(postgres_server.owner_url, PASSWORDS, kafka=kafka),
        )
        (outcome,) = asyncio.run(told)
    assert outcome.verdict != "broken"
    assert outcome.verified is True
    (case,) = outcome.cases
    assert [(ours.done, other.done) for ours, other in case.pairs] == [(count, count) for count in case.notes["events"]]


def test_the_benches_promise_what_was_agreed() -> None:
    assert {name: (bench.target.must, bench.target.goal, bench.target.better) for name, bench in BENCHES.items()} == {
        "command": (0.35, 0.5, "more"),
        "store": (0.65, 1.0, "more"),
        "replay": (1.0, 2.0, "more"),
        "relay": (0.35, 0.45, "more"),
        "worker": (0.7, 0.8, "more"),
        "flow": (0.5, 0.7, "more"),
        "latency": (2.0, 1.5, "less"),
        "lag": (5.0, 2.5, "less"),
        "reconcile": (2.0, 1.1, "less"),
        "hot-order": (0.2, 0.25, "more"),
        "observability": (0.8, 0.9, "more"),
        "growth": (0.8, 0.95, "more"),
        "start": (90.0, 45.0, "less"),
        "plan": (13.0, 10.5, "less"),
    }
    assert all(bench.scale.repetitions >= 3 for bench in BENCHES.values())


# -- the denominator ---------------------------------------------------------------------------------------------


async def count_rows(database: Database) -> Counter[str]:
    """Rows per table, of all tenants: the server's owner is bound by no policy."""
    connection = await asyncpg.connect(database.owner_url)
    try:
        tables = [row["table_name"] for row in await connection.fetch(TABLES)]
        counts = {table: await connection.fetchval(f"select count(*) from {table}") for table in tables}
        return Counter(counts)
    finally:
        await connection.close()


async def test_pgbench_sends_what_one_real_command_sends_and_writes_as_much(bed: Bed) -> None:
    async with bed.database() as ours, bed.database(verifies=False) as bare:
        pool = await open_pool(ours.app_url, size=1)
        first = await Seeds(pool).add(3)
        sample = await capture_command(ours, first)
        before = await count_rows(ours)
        await Door(pool).handle(*cancel(first + 2))
        await pool.close()
        command = await count_rows(ours) - before

        async with open_script(bed, bare, sample) as script:
            empty = await count_rows(bare)
            await script.templates.add(5)
            seeds = await count_rows(bare) - empty
            before = await count_rows(bare)
            run = await script.run(1, 4)  # and one more, which prepares
            text = script.path.read_text()
            bench = await count_rows(bare) - before - seeds

    assert run.errors == {}
    assert run.done == 4
    assert command["cancellation_request"] == 1
    assert bench == Counter({table: 5 * rows for table, rows in command.items()})
    # Word for word, and nothing left out.
    texts = [statement.text for statement in sample.statements]
    assert texts[0].startswith("begin; set local recourse.tenant = ")
    assert texts[-1] == "commit"
    assert all(one in text for one in texts[1:-1])
    assert text.count("execute s") == len(texts) - 2


async def test_a_server_that_does_not_keep_its_promises_is_not_measured(
    bed: Bed, postgres_server: PostgresServer
) -> None:
    postgres_server.execute("alter role recourse_app set synchronous_commit = off")
    try:
        with pytest.raises(UnfitError, match="synchronous_commit=off"):
            async with bed.database():
                pass
    finally:
        postgres_server.execute("alter role recourse_app reset synchronous_commit")


async def test_a_bench_that_is_told_to_end_stops_its_servers() -> None:
    """Without `recourse bench` hearing SIGTERM its PostgreSQL runs on, and its folder stays."""
    before = set(Path("/var/tmp").glob("recourse-bench-*"))

    def servers() -> list[Path]:
        found = set(Path("/var/tmp").glob("recourse-bench-*")) - before
        return [folder for folder in found if (folder / "postgres/postmaster.pid").exists()]

    command = [sys.executable, "-m", "workers.cli", "bench", "store"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        try:
            async with asyncio.timeout(60):
                while not servers():
                    assert bench.poll() is None
                    await asyncio.sleep(0.05)
            (folder,) = servers()
            server = int((folder / "postgres/postmaster.pid").read_text(encoding="utf-8").split()[0])
            bench.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(bench.wait, 30) != 0
        finally:
            bench.kill()
    assert not folder.exists()
    assert not Path(f"/proc/{server}").exists()
