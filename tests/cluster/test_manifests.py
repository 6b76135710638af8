"""The overlays on a real API server: what it admits, changes, schedules, protects and refuses.

Nothing runs inside the pods (`control_plane`), so what processes do is not seen here: that is what all other tests are
about. `make test-k8s` runs these.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.control_plane import Cluster, KubectlError
from tests.cluster.releases import COMPONENT, SPACE, Manifest, live_pods, overlay, release_as_written, remove, roll_out
from tests.deploy.tools import KUBERNETES, render
from tests.flows.running import eventually

pytestmark = pytest.mark.cluster

OVERLAYS = sorted(folder.name for folder in KUBERNETES.glob("overlays/*"))


@pytest.fixture(params=OVERLAYS)
def released(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """The name of an overlay that has been released into an empty cluster and is removed afterwards."""
    name = str(request.param)
    release_as_written(cluster, name)
    roll_out(cluster)
    yield name
    remove(cluster)


def test_a_release_rolls_out_and_its_jobs_end(cluster: Cluster, released: str) -> None:
    wanted = {found["metadata"]["name"]: found for found in render(overlay(released)) if found["kind"] == "Deployment"}
    running = {found["metadata"]["name"]: found for found in cluster.get("deployments", namespace=SPACE)}
    assert running.keys() == wanted.keys()
    for name, found in running.items():
        assert found["status"]["availableReplicas"] == wanted[name]["spec"].get("replicas", 1), name
    jobs = cluster.get("jobs", namespace=SPACE)
    assert {job["metadata"]["name"]: job["status"]["succeeded"] for job in jobs} == {
        "recourse-migrate": 1,
        "recourse-policy": 1,
        "recourse-models": 1,
    }


def test_the_same_release_again_changes_nothing(cluster: Cluster, released: str) -> None:
    """Server-side, twice: a field that the server writes otherwise than we do would be a change for ever."""
    apply = ("apply", "--server-side", "--force-conflicts", "-k", str(overlay(released)))
    kinds = ",".join(sorted({found["kind"] for found in render(overlay(released))} - {"Namespace"}))

    def generations() -> dict[str, Any]:
        return {
            f"{found['kind']}/{found['metadata']['name']}": found["metadata"].get("generation") or found.get("data")
            for found in cluster.get(kinds, namespace=SPACE)
        }

    cluster.kubectl(*apply)
    before = generations()
    cluster.kubectl(*apply)
    assert generations() == before
    assert cluster.kubectl("diff", "--server-side", "--force-conflicts", "-k", str(overlay(released))) == ""


def test_a_diff_is_seen_where_there_is_one(cluster: Cluster, production: None) -> None:
    cluster.kubectl("-n", SPACE, "patch", "service", "recourse-api", "-p", '{"spec": {"sessionAffinity": "ClientIP"}}')
    changed = copy.deepcopy(render(overlay("production")))
    for found in changed:
        if found["kind"] == "ConfigMap" and found["metadata"]["name"] == "recourse":
            found["data"]["RECOURSE_KAFKA_BOOTSTRAP"] = "elsewhere:9092"
    told = cluster.kubectl("diff", "--server-side", "--force-conflicts", "-f", "-", send=changed, code=1)
    assert "elsewhere:9092" in told


def test_a_new_release_wants_the_old_jobs_gone(cluster: Cluster, production: None) -> None:
    """Why docs/operations.md deletes them first: what a Job runs cannot be changed."""
    newer = copy.deepcopy(render(overlay("production")))
    for found in newer:
        if found["kind"] in {"Job", "Deployment"}:
            for container in found["spec"]["template"]["spec"]["containers"]:
                container["image"] = "recourse:0.1.1"
    with pytest.raises(KubectlError, match="field is immutable"):
        cluster.kubectl("apply", "-f", "-", send=newer)
    cluster.kubectl("-n", SPACE, "delete", "jobs", "--all")
    cluster.kubectl("apply", "-f", "-", send=newer)
    cluster.kubectl("-n", SPACE, "wait", "--for=condition=complete", "job", "--all", "--timeout=120s")
    roll_out(cluster)
    assert {
        container["image"]
        for found in cluster.get("deployments", namespace=SPACE)
        for container in found["spec"]["template"]["spec"]["containers"]
    } == {"recourse:0.1.1"}


def test_pods_of_a_kind_spread_over_zones(cluster: Cluster, production: None) -> None:
    """`ScheduleAnyway` is a wish; with room everywhere the scheduler grants it."""
    zones = {
        node["metadata"]["name"]: node["metadata"]["labels"]["topology.kubernetes.io/zone"]
        for node in cluster.get("nodes")
    }
    cluster.kubectl("-n", SPACE, "scale", "deploy", "--all", "--replicas=2")
    roll_out(cluster)
    for found in cluster.get("deployments", namespace=SPACE):
        pods = live_pods(cluster, found["spec"]["selector"]["matchLabels"][COMPONENT])
        assert {zones[pod["spec"]["nodeName"]] for pod in pods} == {"zone-a", "zone-b"}, found["metadata"]["name"]


def test_whoever_is_scaled_stays_scaled(cluster: Cluster, production: None) -> None:
    """KEDA owns the number of replicas: a release that set it would undo it under load."""
    scaled = {found["spec"]["scaleTargetRef"]["name"] for found in cluster.get("scaledobjects", namespace=SPACE)}
    assert scaled == {
        f"recourse-{name}" for name in ("api", *(f"worker-{one.name}" for one in KUBERNETES.glob("workers/*")))
    }
    for name in scaled:
        cluster.kubectl("-n", SPACE, "scale", f"deploy/{name}", "--replicas=3")
    cluster.kubectl("apply", "-k", str(overlay("production")))
    roll_out(cluster)
    for found in cluster.get("deployments", namespace=SPACE):
        assert found["spec"]["replicas"] == (3 if found["metadata"]["name"] in scaled else 2), found["metadata"]["name"]


def test_a_budget_spares_the_last_one(cluster: Cluster, production: None) -> None:
    """With no node to go to, the second of two pods may not be evicted until the first has been replaced."""
    cluster.kubectl("-n", SPACE, "scale", "deploy", "--all", "--replicas=2")
    roll_out(cluster)
    budgets = {found["metadata"]["name"] for found in cluster.get("pdb", namespace=SPACE)}
    deployments = cluster.get("deployments", namespace=SPACE)
    assert budgets == {found["metadata"]["name"] for found in deployments}

    def allowed(name: str) -> int:
        (budget,) = cluster.get("pdb", f"--field-selector=metadata.name={name}", namespace=SPACE)
        return int(budget["status"]["disruptionsAllowed"])

    for name in budgets:
        eventually(functools.partial(allowed, name), lambda spare: spare == 1, f"a pod that {name} can spare")
    cluster.kubectl("cordon", "--selector=topology.kubernetes.io/zone")
    try:
        for found in deployments:
            name = found["metadata"]["name"]
            first, second = live_pods(cluster, found["spec"]["selector"]["matchLabels"][COMPONENT])
            cluster.evict(first["metadata"]["name"], SPACE)
            with pytest.raises(KubectlError, match="disruption budget"):
                cluster.evict(second["metadata"]["name"], SPACE)
    finally:
        cluster.kubectl("uncordon", "--selector=topology.kubernetes.io/zone")
    roll_out(cluster)


def test_a_node_can_be_drained(cluster: Cluster, released: str) -> None:
    """Budgets that never yield would stop every upgrade of a cluster; in `trial`, with one of each, there are none."""
    try:
        cluster.kubectl("drain", "node-1", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=120s")
        assert all(
            pod["spec"]["nodeName"] != "node-1"
            for pod in cluster.get("pods", namespace=SPACE)
            if "nodeName" in pod["spec"]
        )
        roll_out(cluster)
    finally:
        cluster.kubectl("uncordon", "node-1")


def _root(spec: Manifest) -> None:
    spec["securityContext"].update(runAsNonRoot=False, runAsUser=0)


def _escalates(spec: Manifest) -> None:
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True


def _capable(spec: Manifest) -> None:
    del spec["containers"][0]["securityContext"]["capabilities"]


def _calls_anything(spec: Manifest) -> None:
    del spec["securityContext"]["seccompProfile"]


def _privileged(spec: Manifest) -> None:
    # Without the second the server calls it a contradiction, and nobody asks Pod Security.
    spec["containers"][0]["securityContext"].update(privileged=True, allowPrivilegeEscalation=True)


def _on_the_host(spec: Manifest) -> None:
    spec["hostNetwork"] = True


def _reads_the_host(spec: Manifest) -> None:
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


_LOOSENED: dict[Callable[[Manifest], None], str] = {
    _root: "runAsNonRoot != true",
    _escalates: "allowPrivilegeEscalation != false",
    _capable: "unrestricted capabilities",
    _calls_anything: "seccompProfile",
    _privileged: "privileged",
    _on_the_host: "host namespaces",
    _reads_the_host: 'uses restricted volume type "hostPath"',
}


@pytest.mark.parametrize("loosen", _LOOSENED, ids=lambda f: f.__name__[1:])
def test_a_pod_with_one_safeguard_less_is_refused(
    cluster: Cluster, production: None, loosen: Callable[[Manifest], None]
) -> None:
    """The namespace enforces *restricted*; our own pods are admitted, as they stand."""
    for found in render(overlay("production")):
        if found["kind"] not in {"Deployment", "Job"}:
            continue
        template = copy.deepcopy(found["spec"]["template"])
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "tried", "namespace": SPACE},
            "spec": template["spec"],
        }
        cluster.kubectl("create", "--dry-run=server", "-f", "-", send=[pod])
        loosen(pod["spec"])
        with pytest.raises(KubectlError, match=f'violates PodSecurity "restricted:.*{_LOOSENED[loosen]}'):
            cluster.kubectl("create", "--dry-run=server", "-f", "-", send=[pod])


_ATTEMPTS = (
    ("get", "secret", "recourse"),
    ("get", "configmap", "recourse"),
    ("get", "pods"),
    ("get", "pods", "--all-namespaces"),
    ("get", "nodes"),
    ("delete", "pod", "--all"),
    ("delete", "deploy", "recourse-api"),
    ("scale", "deploy", "recourse-api", "--replicas=0"),
    ("create", "token", "recourse"),
    ("create", "configmap", "mine", "--from-literal=a=b"),
    ("create", "rolebinding", "mine", "--clusterrole=cluster-admin", "--serviceaccount=recourse:recourse"),
    ("run", "mine", "--image=anything"),
)


@pytest.mark.parametrize("account", ["recourse", "default"])
def test_our_accounts_may_do_nothing(cluster: Cluster, production: None, account: str) -> None:
    """No process asks the Kubernetes API, so whoever takes one over learns and moves nothing with its account."""
    token = cluster.kubectl("-n", SPACE, "create", "token", account).strip()
    who = cluster.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", token=token)
    assert who == f"system:serviceaccount:{SPACE}:{account}"
    for attempt in _ATTEMPTS:
        with pytest.raises(KubectlError, match=r"Forbidden|forbidden"):
            cluster.kubectl("-n", SPACE, *attempt, token=token)
    may = cluster.kubectl("-n", SPACE, "auth", "can-i", "--list", "--no-headers", token=token)
    resources = {line.split()[0] for line in may.splitlines() if not line.startswith(" ")}
    # What every account may: ask what it may.
    assert resources == {
        "selfsubjectreviews.authentication.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
        "selfsubjectrulesreviews.authorization.k8s.io",
    }


def test_no_pod_holds_a_token(cluster: Cluster, production: None) -> None:
    pods = cluster.get("pods", namespace=SPACE)
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"recourse"}
    mounted = [volume for pod in pods for volume in pod["spec"]["volumes"] if "projected" in volume]
    assert not mounted
    # The admission that would have mounted one is at work.
    bare = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": "default"}}
    bare["spec"] = {"containers": [{"name": "bare", "image": "bare"}]}
    made = cluster.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", send=[bare])
    assert "serviceAccountToken" in made


@pytest.mark.parametrize("kind", ["scaledobjects", "podmonitors", "prometheusrules"])
def test_the_operators_definitions_are_in_force(cluster: Cluster, production: None, kind: str) -> None:
    """A field that the operators do not know is refused, so what was applied fits their own definitions."""
    (first, *_) = cluster.get(kind, namespace=SPACE)
    cluster.kubectl("replace", "--dry-run=server", "--validate=strict", "-f", "-", send=[first])
    first["spec"]["unheardOf"] = 1
    with pytest.raises(KubectlError, match="unheardOf"):
        cluster.kubectl("replace", "--dry-run=server", "--validate=strict", "-f", "-", send=[first])
