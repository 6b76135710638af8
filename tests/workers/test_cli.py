"""The command line says in a line what is wrong, and its exit code is the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import Database

POLICIES = Path(__file__).parents[1] / "policies"


def recourse(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECOURSE_")}
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        env={**inherited, "RECOURSE_HOME": str(folder), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "said"),
    [
        (["api"], {}, 2, "RECOURSE_DATABASE_URL: is not set"),
        (["worker", "all"], {"RECOURSE_ENGINE_GRPC": "http://x"}, 2, "RECOURSE_ENGINE_GRPC: wants host:port"),
        (["worker", "none"], {}, 2, "there is no family none: say `all`, changes, effects, orders, people"),
        (["up"], {"RECOURSE_ENGINE_GRPC": "engine:1"}, 2, "RECOURSE_ENGINE_REST: is needed beside"),
        (["up"], {"RECOURSE_API_PORT": "no"}, 2, "RECOURSE_API_PORT: should be a valid integer"),
        (["up", "--systems", "{"], {}, 2, "--systems: wants JSON"),
        (["token", "--subject", "a", "--role", "agent"], {}, 2, "`recourse up` sets what an embedded stack needs"),
        (["migrate"], {"RECOURSE_OWNER_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/x"}, 1, "does not let us in"),
        (["policy", "load"], {"RECOURSE_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/x"}, 1, "no connection"),
        (["status"], {}, 1, ""),
    ],
)  # fmt: skip
def test_what_may_go_wrong_is_told_without_a_traceback(
    open_folder: Path, arguments: list[str], settings: dict[str, str], code: int, said: str
) -> None:
    done = recourse(open_folder, *arguments, **settings)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("orders", set()),
        ("changes", set()),
        ("people", set()),
        ("effects", {"RECOURSE_AUDITOR_DATABASE_URL", "RECOURSE_SYSTEMS"}),
        ("all", {"RECOURSE_AUDITOR_DATABASE_URL", "RECOURSE_SYSTEMS"}),
    ],
)
def test_a_family_asks_only_for_what_its_jobs_need(open_folder: Path, family: str, more: set[str]) -> None:
    """Where outside systems are, and their secrets, is known only to those who call them."""
    done = recourse(open_folder, "worker", family)
    asked = {line.partition(":")[0] for line in done.stderr.splitlines() if line.endswith("is not set")}
    assert (done.returncode, asked) == (2, {"RECOURSE_DATABASE_URL", "RECOURSE_ENGINE_GRPC", *more})


def test_a_stack_that_does_not_run_has_a_status_too(open_folder: Path) -> None:
    done = recourse(open_folder, "status", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "api": None, "database": None, "kafka": None, "engineGrpc": None, "engineRest": None,
        "operate": None, "tasklist": None, "ready": False, "consolesReady": False, "processes": {},
    }  # fmt: skip
    assert recourse(open_folder, "down").stdout == "nothing was running\n"


def test_doctor_is_red_when_a_setting_is(open_folder: Path) -> None:
    good = recourse(open_folder, "doctor", "--json")
    bad = recourse(open_folder, "doctor", RECOURSE_WINDOW="none")
    subjects = {finding["subject"].split()[0] for finding in json.loads(good.stdout)}
    assert subjects >= {"python", "system", "memory", "settings", "state", "disk", "download", "port", "stack"}
    assert (good.returncode, bad.returncode) == (0, 1)
    assert "BAD  setting RECOURSE_WINDOW" in bad.stdout


def test_policies_are_checked_and_loaded(open_folder: Path, database: Database) -> None:
    file = str(POLICIES / "energy.policy.yaml")
    broken = open_folder / "broken.yaml"
    broken.write_text("policy: x\n")
    refused = recourse(open_folder, "policy", "check", "--json", str(broken))
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["valid"] is False
    assert recourse(open_folder, "policy", "check", file).returncode == 0
    told = [
        json.loads(
            recourse(open_folder, "policy", "load", "--json", *more, RECOURSE_DATABASE_URL=database.app_url).stdout
        )
        for more in ([file], [file], [], [file])
    ]
    assert told[0] == told[1]
    assert told[0]["version"] < told[2]["version"] < told[3]["version"]  # back to what was: that is a version too
