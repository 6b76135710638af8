"""What README and tour tell, the line for Camunda's own tool, and what the runbooks command are run as they stand
there, against the running stack."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import PAGES, ROOT, block, fenced_lines
from tests.flows.running import RunningStack
from workers.models import install_tools

pytestmark = pytest.mark.timeout(400)  # whichever comes first starts the stack, or installs the tool on a new machine


def run_story(stack: RunningStack, story: str, folder: Path, seconds: float) -> str:
    """What a shell says that is given the story, with this stack's addresses in place of the preferred ones."""
    simulator = json.loads(stack.told()["RECOURSE_SYSTEMS"])["*"]["url"]
    assert "API=http://127.0.0.1:8080\nSIMULATOR=http://127.0.0.1:8090\n" in story
    story = story.replace("http://127.0.0.1:8080", stack.status()["api"]).replace("http://127.0.0.1:8090", simulator)
    told = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", story],
        cwd=folder,
        env={**stack.environment, "PATH": f"{Path(sys.executable).parent}:{stack.environment['PATH']}"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    return told.stdout


def test_the_story_of_the_readme_can_be_copied(stack: RunningStack, tmp_path: Path) -> None:
    told = run_story(stack, block(ROOT / "README.md", "story"), tmp_path, 110)
    assert '"feasibility": "FULLY_CANCELLABLE"' in told
    assert '"valid":true' in told
    assert _boxes(tmp_path / "plan.svg") == _boxes(ROOT / "docs/pictures/compensation-plan.svg")


def test_the_tour_can_be_copied(stack: RunningStack, tmp_path: Path) -> None:
    """Each step says what the text around it says that it does, in that order."""
    told = run_story(stack, block(ROOT / "docs/tour.md", "tour"), tmp_path, 280).splitlines()
    steps = iter(line.strip() for line in told)
    for step in (
        "FULLY_CANCELLABLE",
        "CANCELLATION_ASSESSING",
        "FOUR_EYES",
        "REJECTED",
        "APPLIED",
        "/deliveryNote: the shipment has been dispatched",
        "NEW_ORDER_REQUIRED",
        "RESOLVED",
        "True",
    ):
        assert step in steps, (step, told[-60:])


def test_camundas_own_tool_deploys_all_models_by_the_line_of_the_readme(stack: RunningStack) -> None:
    (line,) = re.findall(r"^zbctl .+$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    tool = install_tools() / "node_modules" / "zbctl" / "bin" / "zbctl-cli.linux"
    line = line.replace("127.0.0.1:26500", stack.status()["engineGrpc"]).replace("zbctl ", f"{tool} ", 1)
    told = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    found = json.loads(told.stdout)["deployments"]
    deployed = {one["process"]["bpmnProcessId"] for one in found if "process" in one}
    deployed |= {one["form"]["formId"] for one in found if "form" in one}
    files = [*(ROOT / "bpmn").glob("*.bpmn"), *(ROOT / "bpmn/forms").glob("*.form")]
    assert deployed == {file.stem if file.suffix == ".bpmn" else json.loads(file.read_text())["id"] for file in files}


def test_the_commands_of_the_runbooks_run_on_a_running_stack(stack: RunningStack) -> None:
    """Whoever is woken at night must not find that the first line does not work. Lines of kubectl are
    run by `tests/cluster`."""
    lines = {line for page in PAGES if page.parent.name == "runbooks" for line in fenced_lines(page)}
    commands = sorted(line for line in lines if line.startswith("recourse "))
    assert len(commands) >= 5, commands
    for command in commands:
        told = stack.cli(*command.split()[1:], seconds=120)
        assert told.returncode == 0, (command, told.stdout[-500:], told.stderr[-500:])


def _boxes(picture: Path) -> list[str]:
    """What a picture shows, whatever ids its graph was laid out by."""
    return sorted(re.findall(r"<title>(.*?)</title>", picture.read_text(encoding="utf-8")))
