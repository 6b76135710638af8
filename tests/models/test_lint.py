"""The models pass the Camunda 8 linter, and the pictures in the documentation are those of the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers import models
from workers.runtime import project_file

PICTURES = Path(__file__).parents[2] / "docs" / "models"

# the first run on a machine installs the linter
pytestmark = pytest.mark.timeout(400)


def test_the_linter_finds_nothing() -> None:
    assert [str(problem) for problem in models.lint_models()] == []


@pytest.mark.parametrize(
    ("says", "broken", "rule"),
    [
        ('sourceRef="attempt"', 'sourceRef="nowhere"', "xml"),
        ('<zeebe:taskDefinition type="verify-effect" retries="3" />', "", "camunda-compat/implementation"),
        (' name="Verify effect"', "", "label-required"),
        ("=duration(wait)", "=duration(wait", "camunda-compat/feel"),
    ],
)
def test_the_linter_would_find_a_broken_model(tmp_path: Path, says: str, broken: str, rule: str) -> None:
    whole = (project_file("bpmn") / "task.bpmn").read_text()
    assert says in whole
    path = tmp_path / "task.bpmn"
    path.write_text(whole.replace(says, broken))
    assert rule in {problem.rule for problem in models.lint([path])}


def test_the_pictures_are_those_of_the_models() -> None:
    drawn = models.draw_models()
    stale = {name for name, svg in drawn.items() if (PICTURES / f"{name}.svg").read_text() != svg}
    assert not stale, "draw them again: workers.models.save_drawings, into docs/models"
    assert {path.stem for path in PICTURES.glob("*.svg")} == set(drawn)
