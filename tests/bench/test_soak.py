"""What a soak says of memory, as a table of lives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workers.bench.soak import Row, Soak, SoakError, Verdict, judge_growth, judge_memory
from workers.settings import Settings

MIB = 2**20


def live(seconds: int, size: Callable[[int], float]) -> list[tuple[float, int]]:
    """A process that is `size(age)` MiB big, looked at every second; it began at second 100 of the load."""
    return [(100.0 + age, int(size(age) * MIB)) for age in range(seconds)]


@pytest.mark.parametrize(
    ("samples", "good"),
    [
        (live(300, lambda _: 80), True),
        (live(300, lambda age: 5 if age < 10 else 80), True),  # it was starting
        (live(300, lambda age: 500 if age % 50 == 0 else 80), True),  # a peak is no leak
        (live(300, lambda age: 80 if age < 150 else 110), True),  # within 20 % and 16 MiB
        (live(300, lambda age: 80 if age < 150 else 113), False),
        (live(300, lambda age: 80 + age), False),
        (live(12, lambda _: 80), False),  # not long enough to say anything
        ([], False),
    ],
)
def test_memory_is_flat_or_not(samples: list[tuple[float, int]], good: bool) -> None:
    assert judge_memory("api", samples).good is good


@pytest.mark.parametrize(
    ("orders", "early", "late", "good"),
    [
        (10, 400, 400, True),
        (10, 400, 500, True),  # within 20 % and two rows
        (10, 400, 501, False),
        (10, 400, 100, True),
        (0, 0, 0, False),  # too few to say anything
    ],
)
def test_tables_grow_by_the_order_or_by_more(orders: int, early: int, late: int, good: bool) -> None:
    assert judge_growth(orders, {"outbox": early}, {"outbox": late}, "1 MiB more in all").good is good


def test_a_verdict_is_as_good_as_its_worst_row() -> None:
    fine, bad = Row("orders", "all", "all", good=True), Row("locks", "3", "0", good=False)
    assert Verdict((fine,), 60).good
    told = Verdict((fine, bad), 60)
    assert not told.good
    assert [line.split()[:2] for line in told.to_text().splitlines()[1:3]] == [["ok", "orders"], ["BAD", "locks"]]
    assert told.to_text().endswith("NOT GOOD after 60 s")


async def test_without_a_stack_it_says_how_to_start_one(open_folder: Path) -> None:
    soak = Soak(Settings(state_dir=open_folder), seconds=30, rate=1, say=lambda _: None)
    with pytest.raises(SoakError, match=r"no stack is ready in .* `recourse up --detach --light` starts one"):
        await soak.run()
