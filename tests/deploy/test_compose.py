"""The Compose file is one, names only what exists, and tells each process all it needs. No Docker engine is asked."""

from __future__ import annotations

import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.processes import ROOT, Start, find_complaints
from workers.settings import Settings, variable_name

TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
IMAGE = "recourse:local"

_VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


def read_environment() -> dict[str, str]:
    lines = (ROOT / "deploy/compose.env").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def interpolate(value: Any, environment: dict[str, str]) -> Any:
    """${NAME}, ${NAME:?} and ${NAME:-default} in every text, as Compose does it."""

    def resolve(found: re.Match[str]) -> str:
        name, sign, rest = found.groups()
        given = environment.get(name, "")
        assert given or sign != "?", f"{name} is required"
        return given or (rest if sign == "-" else "")

    match value:
        case dict():
            return {key: interpolate(item, environment) for key, item in value.items()}
        case list():
            return [interpolate(item, environment) for item in value]
        case str():
            return _VARIABLE.sub(resolve, value)
    return value


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(interpolate(yaml.safe_load(TEXT), read_environment())["services"])


def ours(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if service["image"] == IMAGE}


def test_it_fits_the_compose_specification() -> None:
    folder = files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.validators.validator_for(schema)(schema).validate(yaml.safe_load(TEXT))


def test_every_variable_is_given_and_none_is_left_over() -> None:
    used = {name for name, _, _ in _VARIABLE.findall(TEXT)}
    given = set(read_environment())
    assert given <= used
    assert {name for name, sign, _ in _VARIABLE.findall(TEXT) if sign == "?"} <= given


def test_versions_are_written_once() -> None:
    environment = read_environment()
    for name, sign, default in _VARIABLE.findall(TEXT):
        if name.endswith("_VERSION"):
            assert (sign, default) == ("-", environment[name]), name
    assert "latest" not in TEXT


def test_every_setting_is_one_of_ours(services: dict[str, Any]) -> None:
    known = {variable_name(field) for field in Settings.model_fields}
    for name, service in ours(services).items():
        told = set(service.get("environment", {}))
        assert told <= known, name


def test_whom_a_service_waits_for_exists_and_can_become_so(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, wanted in service.get("depends_on", {}).items():
            condition = wanted["condition"]
            if condition == "service_completed_successfully":
                assert services[other]["restart"] == "no", (name, other)
            else:
                assert condition == "service_healthy"
                assert "test" in services[other]["healthcheck"], (name, other)
            assert not services[other].get("profiles"), "a service of every day may not wait for one of a profile"


def test_volumes_are_declared_and_used(services: dict[str, Any]) -> None:
    used = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert used == set(yaml.safe_load(TEXT)["volumes"])


def test_ports_are_open_on_this_machine_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_our_services_may_do_little(services: dict[str, Any]) -> None:
    for name, service in ours(services).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_each_process_is_told_all_it_needs(services: dict[str, Any], tmp_path: Path) -> None:
    starts = []
    for name, service in ours(services).items():
        if "entrypoint" in service:
            continue
        told = {key: str(value) for key, value in service.get("environment", {}).items()}
        starts.append(Start(name, service["command"], told))
    assert {start.name for start in starts} >= {
        "api",
        "workers",
        "relay",
        "reconciler",
        "migrate",
        "models",
        "simulator",
    }
    assert find_complaints(starts, tmp_path) == {}


def test_the_key_of_the_local_issuer_is_made_once(services: dict[str, Any], tmp_path: Path) -> None:
    """The script inside the file, run as it stands."""
    (script,) = services["keys"]["command"]
    file = tmp_path / "issuer.pem"
    before = dict(os.environ)
    try:
        os.environ["RECOURSE_ISSUER_KEY_FILE"] = str(file)
        exec(script, {})
        first = file.read_text()
        exec(script, {})
        os.environ["RECOURSE_ISSUER_KEY_FILE"] = ""
        exec(script, {})
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert first.startswith("-----BEGIN")
    assert file.read_text() == first


# -- Camunda 8.8 and newer ----------------------------------------------------------------------------------------


class _Overriding(yaml.SafeLoader):
    """YAML with Compose's !override: the value stands instead of the one below, and is not merged into it."""


class _Instead:
    def __init__(self, value: Any) -> None:
        self.value = value


def _override(loader: _Overriding, node: yaml.Node) -> _Instead:
    plain = loader.construct_mapping if isinstance(node, yaml.MappingNode) else loader.construct_sequence
    return _Instead(plain(node, deep=True))  # type: ignore[arg-type]


_Overriding.add_constructor("!override", _override)


def merge(below: Any, above: Any) -> Any:
    """Two Compose files as one: mappings by key, lists one after the other, everything else as the upper one says."""
    if isinstance(above, _Instead):
        return above.value
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: merge(below.get(key), value) for key, value in above.items()}
    return below + above if isinstance(below, list) and isinstance(above, list) else above


@pytest.fixture(scope="module")
def newer() -> dict[str, Any]:
    text = (ROOT / "deploy/compose.camunda-8.8.yaml").read_text(encoding="utf-8")
    return dict(merge(yaml.safe_load(TEXT), yaml.load(text, _Overriding)))


def test_a_newer_camunda_fits_the_compose_specification_with_the_rest(newer: dict[str, Any]) -> None:
    folder = files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.validators.validator_for(schema)(schema).validate(newer)


def test_a_newer_camunda_stands_alone(newer: dict[str, Any]) -> None:
    """One container and its own search store: nothing of 8.6 is started, waited for, or told to it."""
    services = interpolate(newer, read_environment())["services"]
    running = {name: service for name, service in services.items() if "profiles" not in service}
    assert {"engine", "elasticsearch"} < set(running)
    assert not {"operate", "tasklist", "opensearch"} & set(running)
    for name, service in running.items():
        assert set(service.get("depends_on", {})) <= set(running), name
    engine = running["engine"]
    assert re.fullmatch(r"camunda/camunda:8\.(8|9|\d\d)\.\d+", engine["image"])
    assert not [name for name in engine["environment"] if "OPENSEARCH" in name or name.startswith("ZEEBE_")]
    told = engine["environment"]["CAMUNDA_DATA_SECONDARYSTORAGE_ELASTICSEARCH_URL"]
    assert told == "http://elasticsearch:9200"
    ports = [port for service in running.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)
    used = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert used <= set(newer["volumes"])
