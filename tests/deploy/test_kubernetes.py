"""The manifests fit the API's schemas, agree with each other and with the product. No cluster is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from domain.policy import parse_policy, read_policy_text
from tests.deploy.custom import SCHEMAS
from tests.deploy.processes import ROOT, Start, find_complaints
from tests.deploy.tools import KUBERNETES, render
from workers.jobs.fleet import DRAIN, LONG_POLL
from workers.jobs.registry import ALL
from workers.settings import Settings, variable_name

FOLDER = KUBERNETES / "base"
OVERLAYS = sorted(folder.name for folder in KUBERNETES.glob("overlays/*"))
VERSIONS = ("1.31", "1.34")
SECRETS = "/run/secrets/recourse/"
COMPONENT = "app.kubernetes.io/component"
NAME = "app.kubernetes.io/name"

RENDERED = {"base": render(FOLDER), **{name: render(KUBERNETES / "overlays" / name) for name in OVERLAYS}}
OBJECTS = RENDERED["base"]
EVERY = [(name, found) for name, objects in RENDERED.items() for found in objects]
WORKLOADS = [found for found in OBJECTS if found["kind"] in {"Deployment", "Job"}]
DEPLOYMENTS = [found for found in WORKLOADS if found["kind"] == "Deployment"]


def example() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "secret.example.yaml").read_text(encoding="utf-8")))


def title(found: dict[str, Any]) -> str:
    return f"{found['kind']}/{found['metadata']['name']}"


def pod(found: dict[str, Any]) -> dict[str, Any]:
    return dict(found["spec"]["template"]["spec"])


def container(found: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(found)["containers"]
    return dict(only)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RENDERED)
def test_it_fits_the_schema_of_the_api(name: str, version: str) -> None:
    for found in [*RENDERED[name], example()]:
        if found["kind"] not in SCHEMAS:
            kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("found", [found for _, found in EVERY if found["kind"] in SCHEMAS], ids=title)
def test_a_custom_resource_fits_its_published_schema(found: dict[str, Any]) -> None:
    jsonschema.validate(found, SCHEMAS[found["kind"]], cls=jsonschema.Draft202012Validator)


def test_every_file_is_built_into_something() -> None:
    """A manifest that no kustomization names would be kept, and believed, and never applied."""
    for folder in {file.parent for file in KUBERNETES.rglob("*.yaml")}:
        told = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        files = {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
        assert files == {name for name in told["resources"] if name.endswith(".yaml")}, folder
    assert {"worker-" + folder.name for folder in KUBERNETES.glob("workers/*")} == {
        found["metadata"]["labels"][COMPONENT] for found in DEPLOYMENTS if container(found)["args"][0] == "worker"
    }


@pytest.mark.parametrize("name", RENDERED)
def test_nothing_is_forgotten_and_nothing_is_there_twice(name: str) -> None:
    objects = RENDERED[name]
    assert len({title(found) for found in objects}) == len(objects)
    commands = {" ".join(container(found)["args"]) for found in objects if found["kind"] in {"Deployment", "Job"}}
    workers = {f"worker {family}" for family in ALL}
    assert commands == {"api", "relay", "reconcile", "migrate", "policy load", "models deploy", *workers}


def test_selectors_find_their_pods() -> None:
    labels = [found["spec"]["template"]["metadata"]["labels"] for found in DEPLOYMENTS]
    assert len({label[COMPONENT] for label in labels}) == len(labels)
    for found in OBJECTS:
        match found["kind"]:
            case "Deployment":
                wanted = found["spec"]["selector"]["matchLabels"]
                assert wanted == found["spec"]["template"]["metadata"]["labels"], title(found)
                spread = pod(found)["topologySpreadConstraints"]
                assert [one["topologyKey"].partition("/")[2] for one in spread] == ["hostname", "zone"]
                assert all(one["labelSelector"]["matchLabels"] == wanted for one in spread), title(found)
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
    (account,) = [other for other in OBJECTS if other["kind"] == "ServiceAccount"]
    assert spec["serviceAccountName"] == account["metadata"]["name"]
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
        longest = max(
            one.timeout
            for one in parse_policy(
                read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
            ).task_types.values()
        )
        assert LONG_POLL + longest < DRAIN, "a worker that drains would give up calls under way"
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
    assert set(mounted) <= set(example()["stringData"])


def test_each_process_is_told_all_it_needs(tmp_path: Path) -> None:
    for key, value in example()["stringData"].items():
        (tmp_path / key).write_text(value.replace("…", "x"), encoding="utf-8")
    starts = []
    for found in WORKLOADS:
        told = {key: value.replace(SECRETS, f"{tmp_path}/") for key, value in _settings(found).items()}
        starts.append(Start(found["metadata"]["name"], container(found)["args"], told))
    assert find_complaints(starts, tmp_path) == {}


def test_the_fleet_asks_no_more_of_the_engine_than_it_takes() -> None:
    """At most 64 jobs at once per partition: the base is for one, production's upper end for three."""

    def most(objects: list[dict[str, Any]]) -> int:
        limits = {
            found["spec"]["scaleTargetRef"]["name"]: found["spec"]["maxReplicaCount"]
            for found in objects
            if found["kind"] == "ScaledObject"
        }
        return sum(
            int(entry["value"]) * limits.get(found["metadata"]["name"], found["spec"].get("replicas", 0))
            for found in objects
            if found["kind"] == "Deployment"
            for entry in container(found)["env"]
            if entry["name"] == "RECOURSE_JOBS_AT_ONCE"
        )

    assert 48 <= most(OBJECTS) <= 64
    assert 128 <= most(RENDERED["production"]) <= 3 * 64


def _needs(found: dict[str, Any]) -> set[int]:
    """The ports that a pod must reach, by the addresses it is told and the process it runs."""
    config, command = _settings(found), container(found)["args"][0]
    secrets = example()["stringData"]
    ports: set[int] = set()
    for variable, value in config.items():
        if variable.endswith("_DATABASE_URL_FILE"):
            ports.add(urlsplit(secrets[value.removeprefix(SECRETS)]).port or 5432)
        if variable == "RECOURSE_SYSTEMS_FILE":
            ports |= {urlsplit(one["url"]).port or 443 for one in json.loads(secrets["systems"]).values()}
    if command in {"worker", "relay", "reconcile", "models"}:
        ports |= {
            int(config["RECOURSE_ENGINE_GRPC"].rpartition(":")[2]),
            urlsplit(config["RECOURSE_ENGINE_REST"]).port or 80,
        }
    if command == "relay":
        ports.add(int(config["RECOURSE_KAFKA_BOOTSTRAP"].rpartition(":")[2]))
    if command == "api":
        ports.add(urlsplit(config["RECOURSE_ISSUER"]).port or 443)
    return ports


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        (labels.get(one["key"]) in one["values"]) == (one["operator"] == "In")
        for one in selector.get("matchExpressions", [])
    )


def test_nothing_goes_in_or_out_that_is_not_listed() -> None:
    policies = [found["spec"] for found in OBJECTS if found["kind"] == "NetworkPolicy"]
    assert {"podSelector": {"matchLabels": {NAME: "recourse"}}, "policyTypes": ["Ingress", "Egress"]} in policies
    for found in WORKLOADS:
        labels = found["spec"]["template"]["metadata"]["labels"]
        own = [policy for policy in policies if _matches(policy["podSelector"], labels)]
        out = {port["port"] for policy in own for rule in policy.get("egress", []) for port in rule["ports"]}
        assert out == _needs(found) | {53}, title(found)
        into = {port["port"] for policy in own for rule in policy.get("ingress", []) for port in rule["ports"]}
        assert into == ({8080, 8081} if labels[COMPONENT] == "api" else {8081}), title(found)
        assert all(rule.get("from") for policy in own for rule in policy.get("ingress", []))


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_lives_in_a_namespace_where_pods_are_restricted(name: str) -> None:
    (space,) = [found for found in RENDERED[name] if found["kind"] == "Namespace"]
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for found in RENDERED[name]:
        assert found["metadata"].get("namespace", space["metadata"]["name"]) == space["metadata"]["name"]


def test_who_is_scaled_exists_and_has_no_number_of_its_own() -> None:
    objects = RENDERED["production"]
    deployments = {found["metadata"]["name"]: found for found in objects if found["kind"] == "Deployment"}
    scaled = {found["spec"]["scaleTargetRef"]["name"] for found in objects if found["kind"] == "ScaledObject"}
    assert scaled <= set(deployments)
    assert {name for name, found in deployments.items() if "replicas" not in found["spec"]} == scaled
    assert set(deployments) - scaled == {"recourse-relay", "recourse-reconciler"}


def test_what_is_scraped_answers() -> None:
    (monitor,) = [found["spec"] for found in RENDERED["production"] if found["kind"] == "PodMonitor"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for found in WORKLOADS:
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert _matches(monitor["selector"], labels) == (found["kind"] == "Deployment"), title(found)
        if found["kind"] == "Deployment":
            assert endpoint["port"] in {port["name"] for port in container(found)["ports"]}
