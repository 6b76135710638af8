"""Deploying sends everything at once, is patient with an engine that is not ready and not with one that refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from pyzeebe.proto.gateway_pb2 import (
    Deployment,
    DeployResourceRequest,
    DeployResourceResponse,
    FormMetadata,
    ProcessMetadata,
)

from workers import models
from workers.settings import Settings

Refusal = tuple[grpc.StatusCode, str]


class Engine:
    """Answers deployments over a real channel, after these refusals."""

    def __init__(self, *refusals: Refusal) -> None:
        self.refusals = list(refusals)
        self.requests: list[list[str]] = []

    async def deploy(self, request: DeployResourceRequest, context: Any) -> DeployResourceResponse:
        self.requests.append([resource.name for resource in request.resources])
        if self.refusals:
            await context.abort(*self.refusals.pop(0))
        return DeployResourceResponse(
            deployments=[
                Deployment(process=ProcessMetadata(bpmnProcessId="plan", version=2, processDefinitionKey=7)),
                Deployment(form=FormMetadata(formId="repair", version=3, formKey=8)),
            ]
        )


@asynccontextmanager
async def served(engine: Engine) -> AsyncIterator[str]:
    server = grpc.aio.server()
    deploy = grpc.unary_unary_rpc_method_handler(
        engine.deploy, DeployResourceRequest.FromString, DeployResourceResponse.SerializeToString
    )
    methods = grpc.method_handlers_generic_handler("gateway_protocol.Gateway", {"DeployResource": deploy})
    server.add_generic_rpc_handlers((methods,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FIRST_PAUSE", 0.01)


async def test_every_model_and_form_travels_in_one_call() -> None:
    engine = Engine()
    async with served(engine) as address:
        deployed = await models.deploy_models(Settings(engine_grpc=address))
    assert engine.requests == [[path.name for path in models.model_files()]]
    assert deployed == [
        {"kind": "process", "id": "plan", "version": 2, "key": 7},
        {"kind": "form", "id": "repair", "version": 3, "key": 8},
    ]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_an_engine_that_is_starting_or_busy_is_asked_again(code: grpc.StatusCode) -> None:
    engine = Engine((code, "not now"), (code, "not now"))
    async with served(engine) as address:
        assert await models.deploy_models(Settings(engine_grpc=address))
    assert len(engine.requests) == 3


@pytest.mark.parametrize(
    "refusal",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "'plan.bpmn': must have a condition"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "request size exceeds maximum size of 4 MB"),
    ],
)
async def test_a_refusal_is_told_at_once_in_the_words_of_the_engine(refusal: Refusal) -> None:
    engine = Engine(refusal)
    async with served(engine) as address:
        with pytest.raises(models.ModelsRefusedError, match=refusal[1]):
            await models.deploy_models(Settings(engine_grpc=address))
    assert len(engine.requests) == 1


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BUDGET", 0.1)
    engine = Engine(*[(grpc.StatusCode.UNAVAILABLE, "not now")] * 100)
    async with served(engine) as address:
        with pytest.raises(grpc.aio.AioRpcError):
            await models.deploy_models(Settings(engine_grpc=address))
    assert 1 < len(engine.requests) < 100
