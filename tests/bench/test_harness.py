"""The arithmetic of a measurement: ratios, bounds, and that nothing failed or broken counts as good."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from workers.bench.harness import Case, Outcome, Run, Scale, Target, interleave, percentile, run_clients
from workers.bench.report import draw_picture, draw_table, merge_records

MORE = Target("ours ÷ theirs", 0.35, 0.5)
LESS = Target("large ÷ small", 13, 10.5, "less")


def a_case(*rates: tuple[float, float], name: str = "8 clients") -> Case:
    return Case(name, tuple((Run(int(ours), 1.0), Run(int(other), 1.0)) for ours, other in rates), "rate")


def an_outcome(*cases: Case, target: Target = MORE, verified: bool | None = True) -> Outcome:
    return Outcome("command", target, cases, Scale(3, 100), {"version": "18"}, verified, 1.0)


def test_the_ratio_is_the_median_of_the_ratios_and_not_the_ratio_of_medians() -> None:
    case = a_case((100, 200), (300, 400), (90, 100))
    assert case.ratios == (0.5, 0.75, 0.9)
    assert case.ratio == 0.75


def test_a_time_is_compared_by_its_median_where_there_are_many() -> None:
    pairs = ((Run(1, 9.0, (3.0,)), Run(3, 9.0, (0.1, 0.2, 8.7))),)
    assert Case("chain", pairs, "median time").ratio == pytest.approx(15)
    assert Case("chain", pairs, "time").ratio == 1


@pytest.mark.parametrize(
    ("target", "ratio", "verdict"),
    [
        (MORE, 0.5, "goal"),
        (MORE, 0.49, "must"),
        (MORE, 0.35, "must"),
        (MORE, 0.34, "missed"),
        (LESS, 10.5, "goal"),
        (LESS, 13.0, "must"),
        (LESS, 13.1, "missed"),
    ],
)
def test_a_ratio_is_judged_by_both_bounds(target: Target, ratio: float, verdict: str) -> None:
    assert target.judge(ratio) == verdict


def test_a_bench_is_as_good_as_its_worst_case() -> None:
    good, bad = a_case((60, 100)), a_case((20, 100), name="32 clients")
    assert an_outcome(good, bad).verdict == "missed"
    assert an_outcome(bad, good).worst is bad
    assert an_outcome(a_case((11, 1)), a_case((14, 1)), target=LESS).verdict == "missed"


def test_one_error_or_a_broken_invariant_makes_any_speed_worthless() -> None:
    case = a_case((90, 100))
    assert an_outcome(case).verdict == "goal"
    assert an_outcome(case, verified=False).verdict == "broken"
    ours, other = case.pairs[0]
    failed = replace(case, pairs=((replace(ours, errors={"500": 1}), other),))
    assert an_outcome(failed).verdict == "broken"
    assert an_outcome(failed).to_json()["cases"][0]["numerator"]["errors"] == {"500": 1}


def test_a_full_run_has_at_least_three_repetitions() -> None:
    with pytest.raises(ValueError, match="three"):
        Scale(2, 100)
    Scale(1, 1, quick=True)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (50, 99, 7)


async def test_the_two_sides_take_turns_and_change_who_goes_first() -> None:
    order: list[str] = []

    def side(name: str, rate: int):  # type: ignore[no-untyped-def]
        async def run(number: int) -> Run:
            order.append(f"{name}{number}")
            return Run(rate, 1.0)

        return run

    pairs = await interleave(3, side("a", 1), side("b", 2))
    assert order == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert [(ours.done, other.done) for ours, other in pairs] == [(1, 2)] * 3


async def test_clients_work_side_by_side_and_what_fails_is_counted_and_no_work() -> None:
    seen: list[int] = []
    together = asyncio.Barrier(4)

    async def do(piece: int) -> str | None:
        seen.append(piece)
        await together.wait()
        return "409" if piece == 5 else None

    run = await run_clients(4, 12, do)
    assert sorted(seen) == list(range(12))
    assert (run.done, len(run.times), run.errors) == (11, 11, {"409": 1})


def test_the_page_says_what_the_records_say_also_where_it_is_bad() -> None:
    record = an_outcome(a_case((20, 100), (30, 100), (25, 100))).to_json()
    table = draw_table([record])
    assert "| 0.25 (0.20 to 0.30) | ≥ 0.35 · 0.5 | **missed** |" in table
    assert "0.25" in draw_picture([record])
    newer = an_outcome(a_case((60, 100))).to_json()
    assert merge_records([record], [newer]) == [newer]
