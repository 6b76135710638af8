"""The engine's REST API as its maker publishes it: the description in their Python client's source package, fetched by
the package's own client and kept in the cache. Its terms are the maker's; nothing of it is in our repository."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from workers.settings import load_settings

# Client 9.x describes Camunda 8.9, and says of every operation since which version it is there.
PACKAGE = "camunda_orchestration_sdk-9.0.1"
_PACKAGE_SHA256 = "d860a34e9fb6a5ca852537ee23869f768a95dbdf5ab8ea9483a6ce8e3f6ca463"
_SHA256 = "6a1c2ad74eb356477f5ddbd7c296c8e1cbed190f93f068561ce534f40b2bdd71"


@cache
def read_description() -> dict[str, Any]:
    """The description, whole; AssertionError where the cache holds another one."""
    kept = load_settings().cache / f"{PACKAGE}.yaml"
    if not kept.exists():
        _fetch(kept)
    text = kept.read_bytes()
    assert hashlib.sha256(text).hexdigest() == _SHA256, f"{kept} is not what was published; remove it"
    found: dict[str, Any] = yaml.load(text, yaml.CSafeLoader)
    return found


def _fetch(kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        wanted = Path(scratch, "wanted.txt")
        name, _, version = PACKAGE.rpartition("-")
        wanted.write_text(f"{name}=={version} --hash=sha256:{_PACKAGE_SHA256}\n")
        options = ["--no-deps", "--no-binary", ":all:", "--require-hashes", "-q", "-r", str(wanted), "-d", scratch]
        subprocess.run([sys.executable, "-m", "pip", "download", *options], check=True, timeout=300)
        with tarfile.open(Path(scratch, f"{PACKAGE}.tar.gz")) as package:
            member = package.extractfile(f"{PACKAGE}/generated/bundled_spec.yaml")
            assert member is not None
            made = Path(scratch, "description.yaml")
            made.write_bytes(member.read())
        made.replace(kept)


def plain_schema(node: Any, schemas: dict[str, Any]) -> Any:
    """A schema of OpenAPI 3.0 as one of JSON Schema, without references; what recurs is cut off at its second time."""
    return _plain(node, schemas, ())


def _plain(node: Any, schemas: dict[str, Any], within: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_plain(item, schemas, within) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return {} if name in within else _plain(schemas[name], schemas, (*within, name))
    told = {key: _plain(value, schemas, within) for key, value in node.items() if key not in {"example", "nullable"}}
    if "oneOf" in told:  # its kinds of pages overlap: a bare limit is one of two
        told["anyOf"] = told.pop("oneOf")
    return {"anyOf": [told, {"type": "null"}]} if node.get("nullable") else told


def an_answer(schema: Any, *, absent: bool) -> Any:
    """A value of a plain schema: every field that it has, those that may be null being null where `absent`."""
    if "anyOf" in schema and schema["anyOf"][-1] == {"type": "null"}:
        return None if absent else an_answer(schema["anyOf"][0], absent=absent)
    if "anyOf" in schema:
        return an_answer(schema["anyOf"][0], absent=absent)
    if "allOf" in schema:
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        made: Any = an_answer(rest, absent=absent) if "properties" in rest else {}
        for part in schema["allOf"]:
            value = an_answer(part, absent=absent)
            made = {**made, **value} if isinstance(value, dict) else value
        return made
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type", "object"):
        case "object":
            return {name: an_answer(value, absent=absent) for name, value in (schema.get("properties") or {}).items()}
        case "array":
            return [an_answer(schema["items"], absent=absent)]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
    if schema.get("format") == "date-time":
        return "2026-11-25T12:00:00.000Z"
    return "2251799813685249" if "[0-9]+" in schema.get("pattern", "") else "Zm9v"
