"""Every line of kubectl in the runbooks, as it stands there, on a real API server.

Lines that read the server's own objects are run to their end. Those that look into a pod (`logs`, `exec`) are run as
far as a control plane goes, whose pods run nothing: until it asks the pod's node for the right container. `top` wants a
metrics server, which is not here: it is run until it says so. What such lines show is not seen here.
"""

from __future__ import annotations

import re
import shlex

import pytest

from tests.cluster.control_plane import Cluster, KubectlError
from tests.cluster.releases import COMPONENT, SPACE, live_pods
from tests.docs.documents import ROOT, code_of

pytestmark = pytest.mark.cluster

LINES = sorted(
    {
        line
        for page in ROOT.glob("docs/runbooks/*.md")
        for line in code_of(page)
        if line.startswith("kubectl ") and "…" not in line
    }
)
# What each may ask of whom; a line that asks something else wants a row here, and somebody who thinks about it.
VERBS = {"get", "logs", "exec", "top"}


def split(line: str) -> tuple[str, list[str]]:
    """The verb and what follows it, of what stands before a pipe."""
    words = shlex.split(line.split(" | ")[0])
    assert words[:2] == ["kubectl", "-n=recourse"], line
    return words[2], words[3:]


def test_each_line_is_of_a_kind_that_is_run_here() -> None:
    assert len(LINES) >= 15
    assert {split(line)[0] for line in LINES} == VERBS


def test_what_reads_objects_finds_them(cluster: Cluster, production: None) -> None:
    for line in LINES:
        if split(line)[0] == "get":
            told = cluster.shell(line)
            assert re.search(r"^(\w+\.keda\.sh/|(pod|deployment)\.apps/|)recourse-", told, re.MULTILINE), (line, told)


def test_what_looks_into_a_pod_asks_the_node_for_the_right_one(cluster: Cluster, production: None) -> None:
    """A Deployment that is not there, or a container that has to be named, would be said before."""
    asked = 0
    for line in LINES:
        verb, (target, *_) = split(line)
        if verb not in {"logs", "exec"}:
            continue
        asked += 1
        component = target.removeprefix("deploy/recourse-")
        pods = {pod["metadata"]["name"]: pod["spec"]["containers"] for pod in live_pods(cluster, component)}
        assert pods, line
        with pytest.raises(KubectlError) as refused:
            cluster.shell(line.split(" | ")[0])
        said = str(refused.value).replace(line, "")
        kind = "containerLogs" if verb == "logs" else "exec"
        found = re.search(rf"/{kind}/{SPACE}/([^/]+)/([^/?\" ]+)", said)
        assert found, (line, said)
        assert found[1] in pods, (line, said)
        assert found[2] in {container["name"] for container in pods[found[1]]}, (line, said)
    assert asked >= 10


def test_what_wants_a_metrics_server_says_that_there_is_none(cluster: Cluster, production: None) -> None:
    for line in LINES:
        verb, rest = split(line)
        if verb == "top":
            with pytest.raises(KubectlError, match="Metrics API not available"):
                cluster.shell(line)
            (selector,) = (word for word in rest if word.startswith(COMPONENT))
            assert live_pods(cluster, selector.partition("=")[2])
