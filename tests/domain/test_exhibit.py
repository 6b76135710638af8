"""What Tasklist's forms show."""

from __future__ import annotations

from domain.exhibit import MOST, draw_up, tell_counts, tell_reasons


def test_lines_become_a_list_of_single_lines() -> None:
    assert draw_up(["Cost: 25.00 EUR", "Why: two\nlines"]) == "- Cost: 25.00 EUR\n- Why: two lines"


def test_what_does_not_fit_is_left_out_as_a_whole_and_that_is_said() -> None:
    shown = draw_up("ä" * 300 for _ in range(10))
    assert len(shown.encode()) <= MOST
    assert shown.splitlines() == ["- " + "ä" * 300] * 3 + ["- and more; all of it is on our page"]


def test_tasks_are_counted_by_what_becomes_of_them() -> None:
    assert tell_counts(["RETAIN", "COMPENSATE", "RETAIN"]) == ["1 × compensate", "2 × retain"]


def test_every_rule_is_told_once() -> None:
    rules = [{"severity": "BLOCKER", "sentence": "no"}, {"severity": "INFO", "sentence": "yes."}]
    found = {"blockers": [{"message": "too late"}], "trace": rules}
    assert tell_reasons(found) == ["In the way: too late", "Why: yes."]
