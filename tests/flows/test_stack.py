"""The embedded stack for real: what it says of itself, how it heals, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.policy import read_policy_text
from tests.docs.documents import ROOT, block
from tests.flows.running import RunningStack, eventually
from workers.local.home import PREFERRED_PORTS, SERVANT, free_port
from workers.local.postgres import find_binaries
from workers.local.processes import Child, find_child
from workers.local.supervisor import SUPERVISOR, find_children
from workers.settings import Settings

PARTS = {"api", "workers", "relay", "reconciler", "simulator", "postgres", "kafka", "engine"}
ADDRESSES = {"api", "database", "kafka", "engineGrpc", "engineRest", "operate", "tasklist"}
EXAMPLE = ROOT / "docs/examples/warehouse.py"
HANDBOOK = ROOT / "docs/operations.md"
POLICY = Path(__file__).parents[1] / "policies" / "energy.policy.yaml"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def mortal() -> Iterator[RunningStack]:
    """A stack of this module's own: its supervisor is killed here, and other stories must not notice."""
    with RunningStack.start("--light", ports={name: free_port() for name in PREFERRED_PORTS}) as stack:
        yield stack


def kill_supervisor(stack: RunningStack) -> None:
    supervisor = find_child(stack.home.pid_file(SUPERVISOR))
    assert supervisor is not None
    stack.kill(supervisor.pid)
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
    mortal.kill(pid)
    killed = time.monotonic()

    def find_next() -> Child | None:
        child = find_child(mortal.home.pid_file(part))
        return child if child is not None and child.pid != pid else None

    eventually(find_next, lambda child: child is not None, f"another {part}", 10)
    assert time.monotonic() - killed < 10
    eventually(mortal.status, lambda status: bool(status["ready"]), "readiness")
    assert f"{part:<11} !! was killed by SIGKILL" in mortal.home.log_file(SUPERVISOR).read_text()


def lose_engine_data(stack: RunningStack) -> None:
    """The engine dies and its disk with it; the stack starts it anew, empty, and its models are deployed again."""
    supervisor = find_child(stack.home.pid_file(SUPERVISOR))
    engine = find_child(stack.home.pid_file("engine"))
    assert supervisor is not None
    assert engine is not None
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        stack.kill(engine.pid)
        shutil.rmtree(stack.home.data("engine"))
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)

    def find_next() -> Child | None:
        child = find_child(stack.home.pid_file("engine"))
        return child if child is not None and child.pid != engine.pid else None

    eventually(find_next, lambda child: child is not None, "another engine")
    eventually(stack.status, lambda status: bool(status["ready"]), "readiness", 120)
    eventually(lambda: stack.cli("models", "deploy").returncode, lambda code: code == 0, "the models")


def test_a_telling_that_the_engine_lost_with_its_data_is_heard_all_the_same(mortal: RunningStack) -> None:
    """EC51, EC61: what depends on an order is held, though nobody but a row knows that it was to be told."""
    tenant = mortal.tenant()
    document: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    document["cancellation"]["closure"]["dependent_order"] = "HOLD"
    tenant.post("/api/v1/policies", document, by=tenant.person("root", "admin")).raise_for_status()
    tenant.fault(taskType="ship-device", fault="accept-silent")
    source = tenant.submit("router")
    tenant.wait_effect(source, "ship", "shipping", acceptedAt=...)
    named = [{"type": "SUPPLEMENTS", "targetOrderId": source, "reasonCode": "ADD_ON"}]
    dependent = tenant.submit("router", relations=named)
    tenant.wait_effect(dependent, "ship", "shipping", acceptedAt=...)

    sent = "select count(*) from engine_outbox where name = 'dependence-changed' and published_at is not null"
    with mortal.stopped("workers"):
        request = tenant.cancel(source, forceManualReview=True)
        eventually(lambda: mortal.as_owner(sent)[0][0], lambda count: count == 1, "the message to be with the engine")
        lose_engine_data(mortal)
        # No worker runs: whoever has the order follow, it is no flow.
        tenant.wait_state(dependent, "ON_HOLD", seconds=120)
    assert tenant.order(dependent)["heldBy"] == [f"order:{source}/{request.rpartition('/')[2]}"]
    found = tenant.get("/api/v1/reconciliation/findings?class=DEPENDENCE_NOT_FOLLOWED", tenant.operator)["items"]
    assert [(one["orderId"], one["repair"]) for one in found] == [(dependent, "FOLLOW")]
    # What the new engine is told is heard by message, as ever.
    eventually(lambda: tenant.get(request)["status"], lambda status: status == "REQUIRES_APPROVAL", "a review", 120)
    etag = str(tenant.agent.get(request).headers["etag"])
    tenant.post(f"{request}/withdraw", {"reason": "they stay"}, etag=etag).raise_for_status()
    tenant.wait_state(dependent, "IN_PROGRESS")
    eventually(lambda: mortal.as_owner("select count(*) from dependence")[0][0], lambda rows: rows == 0, "nothing owed")


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


@pytest.fixture
def connected(mortal: RunningStack, tmp_path: Path) -> Iterator[Path]:
    """The stack's next life, with the documents' own example behind two of its systems; the example's book."""
    book, port = tmp_path / "warehouse.db", free_port()
    warehouse = {"url": f"http://127.0.0.1:{port}", "secret": "a-secret"}
    systems = json.dumps({"inventory": warehouse, "shipping": warehouse})
    mortal.cli("down")
    assert mortal.cli("up", "--detach", "--light", "--systems", systems, seconds=420).returncode == 0
    command = [sys.executable, str(EXAMPLE), str(port), str(book), mortal.status()["api"], "a-secret"]
    example = subprocess.Popen(command)
    try:
        yield book
    finally:
        example.terminate()
        example.wait(10)
    assert mortal.cli("down").returncode == 0


def test_the_example_of_a_system_works_behind_the_real_stack(mortal: RunningStack, connected: Path) -> None:
    """It reserves, promises, calls back; the same effect again is done once; what it does not do it refuses."""
    tenant = mortal.tenant()
    order = tenant.submit()
    tenant.wait_state(order, "COMPLETED", seconds=180)
    rows = {row["effectId"]: row for row in tenant.effects(order)}
    with sqlite3.connect(connected) as book:
        kept = book.execute("select id, task_type, answer, told from effect order by task_type").fetchall()
    assert [(task_type, told) for _, task_type, _, told in kept] == [("reserve-inventory", 0), ("ship-device", 1)]
    for effect_id, _, answer, _ in kept:
        assert rows[effect_id]["externalReference"] == json.loads(answer)["externalReference"]
    url = f"{json.loads(mortal.told()['RECOURSE_SYSTEMS'])['inventory']['url']}/effects"
    again = httpx.put(f"{url}/{kept[0][0]}", json={"taskType": "reserve-inventory"}, trust_env=False)
    assert (again.status_code, again.json()) == (200, json.loads(kept[0][2]))
    refused = httpx.put(f"{url}/other", json={"taskType": "start-billing"}, trust_env=False)
    assert (refused.status_code, refused.json()["state"]) == (422, "NO_EFFECT")
    assert httpx.get(f"{url}/nobody", trust_env=False).status_code == 404
    told = mortal.cli("verify")
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_backup_under_load_comes_back_and_flows_go_on_in_a_new_engine(mortal: RunningStack) -> None:
    """The commands of the handbook, while orders run; then everything but the archive and the outside world is lost.

    Without the reconciler's `mend` no flow is started again, and the orders stand still. Their silence alone leads to
    them, too: it held without asking for what a lost engine knew (`lost_before`), and with a relay that tells an engine
    without models (`_ask_for_models`).
    """
    assert mortal.cli("up", "--detach", "--light", "--systems", "{}", seconds=420).returncode == 0
    tenant, folder = mortal.tenant(), mortal.folder
    tenant.make_impatient("assign-number")
    tenant.fault(taskType="ship-device", fault="accept-silent", times=4)
    waiting = [tenant.submit() for _ in range(4)]
    for order in waiting:
        tenant.wait_effect(order, "ship", "shipping", acceptedAt=...)
    reviewed = [tenant.cancel(order, forceManualReview=True) for order in waiting[2:]]
    for request in reviewed:
        eventually(partial(tenant.get, request), lambda seen: seen["status"] == "REQUIRES_APPROVAL", "a review")

    stop = threading.Event()
    running: list[str] = []

    def load() -> None:
        while not stop.wait(0.2):
            running.append(tenant.submit("fiber-100"))

    backup = folder / "backup"
    (backup / "archive").mkdir(parents=True)
    owner = mortal.told()["RECOURSE_OWNER_DATABASE_URL"]
    binaries = find_binaries(Settings().cache)
    paths = {**os.environ, "PG": owner, "BACKUP": str(backup), "PATH": f"{binaries}:{os.environ['PATH']}"}
    crowd = threading.Thread(target=load)
    crowd.start()
    try:
        eventually(lambda: len(running), lambda count: count >= 3, "load")
        archived = block(HANDBOOK, "archive").replace(" &\n", " > /dev/null 2>&1 &\n")
        done = subprocess.run(["bash", "-euc", archived], env=paths, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        count = len(running)
        eventually(lambda: len(running), lambda more: more >= count + 3, "load after the back-up")
    finally:
        stop.set()
        crowd.join()

    # The machine fails while calls have no answer. Gone are the truth, the events, the flows; what is outside stays.
    workers = mortal.pid("workers")
    with mortal.stopped("simulator"):
        doubtful = [tenant.submit("mobile-sim") for _ in range(2)]
        for order in doubtful:
            tenant.wait_effect(order, "assign", "numbering", state="UNKNOWN")
        kill_supervisor(mortal)
        mortal.kill(workers)
    assert mortal.cli("down").returncode == 0
    for part in ("postgres", "kafka", "engine"):
        shutil.rmtree(mortal.home.data(part))
    data = mortal.home.data("postgres")
    data.mkdir(mode=0o700)
    back = {**paths, "DATA": str(data)}
    subprocess.run(["bash", "-euc", block(HANDBOOK, "restore")], env=back, check=True)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", SERVANT, str(data)], check=True)
    up = mortal.cli("up", "--detach", "--light", "--systems", "{}", seconds=420)
    assert up.returncode == 0, up.stdout + up.stderr

    for order in waiting[:2]:
        effect = tenant.wait_effect(order, "ship", "shipping", acceptedAt=...)
        tenant.call_back(effect["effectId"])
    for request in reviewed:
        etag = str(tenant.approver.get(request).headers["etag"])
        tenant.post(f"{request}/approve", {"comment": "yes"}, by=tenant.approver, etag=etag).raise_for_status()
    for order in (*waiting[:2], *doubtful, *running):
        tenant.wait_state(order, "COMPLETED", seconds=240)
    for order in waiting[2:]:
        tenant.wait_state(order, "CANCELLED", seconds=240)
    for order in (*waiting, *doubtful):
        kinds = {entry["kind"] for entry in tenant.items(f"/api/v1/orders/{order}/timeline")}
        assert "FLOW_RESTARTED" in kinds, order
    for order in (*waiting, *doubtful, *running):
        done_outside = tenant.done(order)
        assert set(done_outside.values()) == {1}, done_outside
    tenant.settle()
    for check in (("verify",), ("audit", "verify")):
        told = mortal.cli(*check)
        assert told.returncode == 0, told.stdout + told.stderr
