"""A release into the cluster as docs/operations.md tells it, and what is there afterwards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import Cluster
from tests.deploy.processes import ROOT
from tests.deploy.tools import KUBERNETES

SPACE = "recourse"
COMPONENT = "app.kubernetes.io/component"
Manifest = dict[str, Any]


def overlay(name: str) -> Path:
    return KUBERNETES / "overlays" / name


def release_as_written(cluster: Cluster, name: str) -> None:
    """The three lines of docs/operations.md, with the overlay put in."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```\n(kubectl delete jobs.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = block.replace("deploy/kubernetes/overlays/production", str(overlay(name))).splitlines()
    assert len(lines) == 3
    for line in lines:
        cluster.shell(line)


def roll_out(cluster: Cluster) -> None:
    for found in cluster.get("deployments", namespace=SPACE):
        cluster.kubectl("-n", SPACE, "rollout", "status", f"deploy/{found['metadata']['name']}", "--timeout=120s")


def remove(cluster: Cluster) -> None:
    cluster.kubectl("delete", "namespace", SPACE, "--timeout=120s")


def live_pods(cluster: Cluster, component: str) -> list[Manifest]:
    found = cluster.get("pods", "-l", f"{COMPONENT}={component}", namespace=SPACE)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
