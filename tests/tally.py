"""What the experiments of a test run did, summed over its reports: measured by the run, and published by it. What was
lost or happened twice has failed its own test as well."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"

# Counted where it happens, until the report of the test that did it takes it along.
TALLY: Counter[str] = Counter()

_ROWS = {
    "killed": "processes killed by SIGKILL",
    "acknowledged": "commands acknowledged to a client",
    "lost": "of these lost",
    "done": "effects done outside, by the outside world's own book",
    "twice": "of these done twice, or without a row in the ledger",
}
_BLOCK = re.compile(r"(<!-- tally: [^\n]*-->\n).*?(<!-- /tally -->)", re.DOTALL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--publish-tally", action="store_true", help="write what the run did into docs/reliability.md")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.when == "teardown" and TALLY:
        item.user_properties.append(("tally", dict(TALLY)))
        TALLY.clear()
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    counts = [
        Counter(count)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, count in report.user_properties
        if name == "tally"
    ]
    if not counts:
        return
    told = sum(counts, Counter[str]())
    rows = {f"tests on running stacks, on {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}": len(counts)}
    rows |= {says: told[name] for name, says in _ROWS.items()}
    terminalreporter.section("tally")
    for says, count in rows.items():
        terminalreporter.write_line(f"{count:6} {says}")
    # A process of xdist's has its own part of the tests only.
    if config.getoption("publish_tally") and not hasattr(config, "workerinput") and exitstatus == pytest.ExitCode.OK:
        table = "\n".join(["| what | found |", "|---|---|", *(f"| {says} | {n} |" for says, n in rows.items())])
        PAGE.write_text(_BLOCK.sub(rf"\g<1>\n{table}\n\n\g<2>", PAGE.read_text(encoding="utf-8")), encoding="utf-8")
