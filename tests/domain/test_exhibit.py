"""What Tasklist's forms show."""

from __future__ import annotations

from domain.assessment import STOPPABLE
from domain.exhibit import CONSEQUENCE, FEASIBILITY, MOST, SAFETY, STRATEGY, draw_up, tell_reasons, tell_works
from domain.impact import AGREED, REPLACING, UNDOING
from tests.builders import telecom


def test_lines_become_a_list_of_single_lines() -> None:
    assert draw_up(["Cost: 25.00 EUR", "Why: two\nlines"]) == "- Cost: 25.00 EUR\n- Why: two lines"


def test_what_does_not_fit_is_left_out_as_a_whole_and_that_is_said() -> None:
    shown = draw_up("ä" * 300 for _ in range(10))
    assert len(shown.encode()) <= MOST
    assert shown.splitlines() == ["- " + "ä" * 300] * 3 + ["- and more; all of it is on our page"]


def test_work_is_named_by_what_becomes_of_it_in_words() -> None:
    works = [("ship-device", "RETAIN"), ("take-back", "COMPENSATE"), ("ship-device", "RETAIN"), ("port", "RETAIN")]
    assert tell_works(works, CONSEQUENCE) == [
        "ship device (2), port: cannot be undone and stays",
        "take back: will be undone",
    ]


def test_of_many_kinds_of_work_some_are_named() -> None:
    [line] = tell_works(((f"kind-{number}", "MANUAL") for number in range(200)), CONSEQUENCE)
    assert line.endswith("kind 5, 194 more kinds: a person must say what becomes of it")


def test_every_code_that_a_form_can_show_has_words() -> None:
    consequences = set(STOPPABLE) | {"NOTHING_TO_UNDO", "RETAIN", "MANUAL"}
    assert consequences == CONSEQUENCE.keys()
    policy = telecom()
    assert policy.cancellation.approval.keys() | {"REQUIRES_APPROVAL"} <= FEASIBILITY.keys()
    assert policy.amendment.approval.keys() == SAFETY.keys()
    assert {"KEEP", "NEW_VALUE", "REMOVE", *REPLACING, *UNDOING, *AGREED} <= STRATEGY.keys()


def test_every_rule_is_told_once() -> None:
    rules = [{"severity": "BLOCKER", "sentence": "no"}, {"severity": "INFO", "sentence": "yes."}]
    found = {"blockers": [{"message": "too late"}], "trace": rules}
    assert tell_reasons(found) == ["In the way: too late", "Why: yes."]
