"""The manifests fit the API's schemas, agree with each other and with the product. No cluster is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.deploy.processes import ROOT, Start, find_complaints
from workers.jobs.fleet import DRAIN
from workers.settings import Settings, variable_name

FOLDER = ROOT / "deploy/kubernetes/base"
VERSIONS = ("1.31", "1.34")
SECRETS = "/run/secrets/recourse/"
COMPONENT = "app.kubernetes.io/component"


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


KUSTOMIZATION = read("kustomization.yaml")[0]
OBJECTS = [found for file in KUSTOMIZATION["resources"] for found in read(file)]
WORKLOADS = [found for found in OBJECTS if found["kind"] in {"Deployment", "Job"}]
DEPLOYMENTS = [found for found in WORKLOADS if found["kind"] == "Deployment"]


def title(found: dict[str, Any]) -> str:
    return f"{found['kind']}/{found['metadata']['name']}"


def pod(found: dict[str, Any]) -> dict[str, Any]:
    return dict(found["spec"]["template"]["spec"])


def container(found: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(found)["containers"]
    return dict(only)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("found", [*OBJECTS, *read("secret.example.yaml")], ids=title)
def test_it_fits_the_schema_of_the_api(found: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(found, version, strict=True)


def test_nothing_is_forgotten_and_nothing_is_there_twice() -> None:
    files = {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert files == set(KUSTOMIZATION["resources"])
    assert len({title(found) for found in OBJECTS}) == len(OBJECTS)
    assert {container(found)["args"][0] for found in WORKLOADS} == {
        "api", "worker", "relay", "reconcile", "migrate", "policy", "models",
    }  # fmt: skip


def test_selectors_find_their_pods() -> None:
    labels = [found["spec"]["template"]["metadata"]["labels"] for found in DEPLOYMENTS]
    assert len({label[COMPONENT] for label in labels}) == len(labels)
    for found in OBJECTS:
        match found["kind"]:
            case "Deployment":
                wanted = found["spec"]["selector"]["matchLabels"]
                assert wanted == found["spec"]["template"]["metadata"]["labels"], title(found)
            case "PodDisruptionBudget":
                assert found["spec"]["selector"]["matchLabels"] in labels, title(found)
            case "Service":
                assert found["spec"]["selector"] in labels, title(found)


@pytest.mark.parametrize("found", WORKLOADS, ids=title)
def test_a_pod_may_do_little(found: dict[str, Any]) -> None:
    spec, only = pod(found), container(found)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"USER {spec['securityContext']['runAsUser']}:" in (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in only["resources"]["limits"]
    assert {mount["name"] for mount in only["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("found", WORKLOADS, ids=title)
def test_no_service_writes_into_our_settings(found: dict[str, Any]) -> None:
    """Kubernetes would set RECOURSE_API_PORT=tcp://… in every pod beside a Service called recourse-api."""
    injected = {
        f"{service['metadata']['name'].upper().replace('-', '_')}_PORT"
        for service in OBJECTS
        if service["kind"] == "Service"
    }
    assert injected & {variable_name(field) for field in Settings.model_fields}
    assert pod(found)["enableServiceLinks"] is False


@pytest.mark.parametrize("found", DEPLOYMENTS, ids=title)
def test_a_process_is_asked_how_it_is_and_given_time_to_end(found: dict[str, Any]) -> None:
    only = container(found)
    assert only["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert only["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert only["readinessProbe"]["httpGet"]["path"] == "/readyz"
    (port,) = only["ports"]
    assert port == {"name": "http", "containerPort": 8080 if only["args"] == ["api"] else 8081}
    if only["args"][0] == "worker":
        assert pod(found)["terminationGracePeriodSeconds"] > DRAIN.total_seconds() + 10
    assert found["spec"]["replicas"] == 2


def _settings(found: dict[str, Any]) -> dict[str, str]:
    (config,) = [other for other in OBJECTS if other["kind"] == "ConfigMap"]
    assert container(found)["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    return {**config["data"], **{entry["name"]: entry["value"] for entry in container(found).get("env", [])}}


@pytest.mark.parametrize("found", WORKLOADS, ids=title)
def test_every_setting_is_one_of_ours_and_every_secret_is_mounted(found: dict[str, Any]) -> None:
    known = {variable_name(field) for field in Settings.model_fields}
    told = _settings(found)
    assert {variable.removesuffix("_FILE") for variable in told} <= known
    named = {value.removeprefix(SECRETS) for variable, value in told.items() if variable.endswith("_FILE")}
    mounted = {
        item["key"]: item["path"]
        for volume in pod(found)["volumes"]
        if "secret" in volume
        for item in volume["secret"]["items"]
    }
    assert {key for key, path in mounted.items() if path in named} == set(mounted)
    assert len(mounted) == len(named)
    (example,) = read("secret.example.yaml")
    assert set(mounted) <= set(example["stringData"])


def test_each_process_is_told_all_it_needs(tmp_path: Path) -> None:
    (example,) = read("secret.example.yaml")
    for key, value in example["stringData"].items():
        (tmp_path / key).write_text(value.replace("…", "x"), encoding="utf-8")
    starts = []
    for found in WORKLOADS:
        told = {key: value.replace(SECRETS, f"{tmp_path}/") for key, value in _settings(found).items()}
        starts.append(Start(found["metadata"]["name"], container(found)["args"], told))
    assert find_complaints(starts, tmp_path) == {}
