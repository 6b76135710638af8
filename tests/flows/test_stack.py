"""The embedded stack for real: what it says of itself, how it heals, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.flows.running import RunningStack, eventually
from workers.local.home import PREFERRED_PORTS, free_port, write_json
from workers.local.processes import Child, find_child
from workers.local.supervisor import SUPERVISOR, find_children

PARTS = {"api", "workers", "relay", "reconciler", "simulator", "postgres", "kafka", "engine"}
ADDRESSES = {"api", "database", "kafka", "engineGrpc", "engineRest", "operate", "tasklist"}
POLICY = Path(__file__).parents[1] / "policies" / "energy.policy.yaml"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def mortal() -> Iterator[RunningStack]:
    """A stack of this module's own: its supervisor is killed here, and other stories must not notice."""
    folder = Path(tempfile.mkdtemp(prefix="recourse-mortal-", dir="/var/tmp"))
    folder.chmod(0o711)
    write_json(folder / "ports.json", {name: free_port() for name in PREFERRED_PORTS})
    stack = RunningStack(folder, {**os.environ, "RECOURSE_HOME": str(folder)})
    try:
        yield RunningStack.start(folder, "--light")
    finally:
        stack.stop()
        shutil.rmtree(folder)


def kill_supervisor(stack: RunningStack) -> None:
    supervisor = find_child(stack.home.pid_file(SUPERVISOR))
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    eventually(supervisor.is_alive, lambda alive: not alive, "the supervisor's death", 10)


def test_status_names_addresses_and_processes_and_is_true(mortal: RunningStack) -> None:
    done = mortal.cli("status", "--json")
    status = json.loads(done.stdout)
    assert done.returncode == 0
    assert set(status) == {*ADDRESSES, "ready", "consolesReady", "processes"}
    assert status["ready"] is True
    assert status["processes"].keys() >= PARTS
    assert all(Path(f"/proc/{pid}").exists() for pid in status["processes"].values())
    assert status["database"].startswith("postgresql://recourse_app:")
    assert httpx.get(f"{status['api']}/readyz", trust_env=False).status_code == 200
    assert httpx.get(f"{status['engineRest']}/v2/topology", trust_env=False).status_code == 200


def test_up_on_a_running_stack_changes_nothing(mortal: RunningStack) -> None:
    before = mortal.status()
    again = mortal.cli("up", "--detach", "--light", seconds=30)
    assert again.returncode == 0
    assert before["api"] in again.stdout
    assert mortal.status() == before


def test_doctor_finds_a_running_stack_healthy(mortal: RunningStack) -> None:
    done = mortal.cli("doctor", "--json")
    findings = json.loads(done.stdout)
    assert {finding["subject"] for finding in findings} >= {f"part {name}" for name in PARTS}
    assert [finding for finding in findings if not finding["healthy"]] == []
    assert done.returncode == 0


@pytest.mark.parametrize("part", ["postgres", "kafka", "workers"])
def test_a_part_that_dies_is_back_within_ten_seconds(mortal: RunningStack, part: str) -> None:
    eventually(mortal.status, lambda status: bool(status["ready"]), "readiness")
    pid = mortal.pid(part)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()

    def find_next() -> Child | None:
        child = find_child(mortal.home.pid_file(part))
        return child if child is not None and child.pid != pid else None

    eventually(find_next, lambda child: child is not None, f"another {part}", 10)
    assert time.monotonic() - killed < 10
    eventually(mortal.status, lambda status: bool(status["ready"]), "readiness")
    assert f"{part:<11} !! was killed by SIGKILL" in mortal.home.log_file(SUPERVISOR).read_text()


def test_a_stack_whose_supervisor_was_killed_is_told_taken_over_and_ended_whole(mortal: RunningStack) -> None:
    tenant = "6f1c0000-0000-4000-8000-000000000001"
    load = ("policy", "load", str(POLICY), "--tenant", tenant, "--json")
    version = json.loads(mortal.cli(*load).stdout)["version"]
    before = mortal.status()

    kill_supervisor(mortal)
    assert find_children(mortal.home).keys() >= PARTS
    assert mortal.cli("status").returncode == 1
    assert mortal.cli("doctor").returncode == 1

    # Taken over: new processes, the same addresses and data.
    assert mortal.cli("up", "--detach", "--light", seconds=420).returncode == 0
    after = mortal.status()
    assert after["ready"] is True
    assert {name: after[name] for name in ADDRESSES} == {name: before[name] for name in ADDRESSES}
    assert not set(after["processes"].values()) & set(before["processes"].values())
    assert json.loads(mortal.cli(*load).stdout)["version"] == version

    # Ended whole: `down` finds what a killed supervisor left.
    children = find_children(mortal.home)
    kill_supervisor(mortal)
    assert mortal.cli("down").returncode == 0
    assert [name for name, child in children.items() if child.is_alive()] == []
    assert "nothing was running" in mortal.cli("down").stdout
    assert mortal.cli("status").returncode == 1
