"""The story that the README tells is run as it stands there, against the running stack."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.documents import ROOT, block
from tests.flows.running import RunningStack


def test_the_story_of_the_readme_can_be_copied(stack: RunningStack, tmp_path: Path) -> None:
    story = block(ROOT / "README.md", "story")
    simulator = json.loads(stack.told()["RECOURSE_SYSTEMS"])["*"]["url"]
    assert "API=http://127.0.0.1:8080\nSIMULATOR=http://127.0.0.1:8090\n" in story
    story = story.replace("http://127.0.0.1:8080", stack.status()["api"]).replace("http://127.0.0.1:8090", simulator)
    told = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", story],
        cwd=tmp_path,
        env={**stack.environment, "PATH": f"{Path(sys.executable).parent}:{stack.environment['PATH']}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    assert '"feasibility": "FULLY_CANCELLABLE"' in told.stdout
    assert '"valid":true' in told.stdout
    assert _boxes(tmp_path / "plan.svg") == _boxes(ROOT / "docs/pictures/compensation-plan.svg")


def _boxes(picture: Path) -> list[str]:
    """What a picture shows, whatever ids its graph was laid out by."""
    return sorted(re.findall(r"<title>(.*?)</title>", picture.read_text(encoding="utf-8")))
