"""What is generated is fresh, whole and readable."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

from domain.machines import MACHINES
from tests.docs.documents import ROOT
from workers import handbook
from workers.charts import LAYOUTS, _place, draw_chart, find_arrows
from workers.settings import Settings


@pytest.mark.parametrize(("path", "text"), handbook.draw_pages().items(), ids=lambda value: value[:60])
def test_what_is_generated_is_fresh(path: str, text: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == text, "run `python -m workers.handbook`"


def test_every_setting_has_a_meaning_and_no_meaning_is_left_over() -> None:
    assert set(handbook._MEANING) == set(Settings.model_fields)


def test_every_machine_has_a_chart_with_a_place_for_every_state() -> None:
    assert set(LAYOUTS) == set(MACHINES)
    for entity, machine in MACHINES.items():
        assert set(LAYOUTS[entity].places) == set(machine), entity


@pytest.mark.parametrize("entity", MACHINES)
def test_a_chart_shows_every_move_once_and_no_other(entity: str) -> None:
    groups = LAYOUTS[entity].groups
    shown: list[tuple[str, str]] = []
    for arrow in find_arrows(MACHINES[entity], groups):
        starts, ends = groups.get(arrow.start, (arrow.start,)), groups.get(arrow.end, (arrow.end,))
        shown += [(start, end) for start in starts for end in ends]
        shown += [(end, start) for start in starts for end in ends if arrow.both]
    legal = {(state, other) for state, others in MACHINES[entity].items() for other in others if other != state}
    assert sorted(shown) == sorted(legal)


@pytest.mark.parametrize("entity", MACHINES)
def test_a_chart_is_a_picture_in_which_no_state_hides_another(entity: str) -> None:
    assert ElementTree.fromstring(draw_chart(entity)).tag.endswith("svg")
    boxes, _ = _place(LAYOUTS[entity])
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        apart = abs(a.x - b.x) >= (a.width + b.width) / 2 + 8 or abs(a.y - b.y) >= (a.height + b.height) / 2 + 8
        assert apart, (one, other)
