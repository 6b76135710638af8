"""What we ask a newer engine over REST, held against what its maker publishes of it: a server that refuses whatever the
description does not allow, and answers with whatever it may answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.workers.published import an_answer, plain_schema, read_description
from tests.workers.test_simulator import serve
from workers.gateways.dialects import NEW, OLD, Dialect
from workers.gateways.engine import Completion, Engine, open_channel
from workers.settings import Settings

pytestmark = pytest.mark.timeout(300)  # the first run fetches the description

KEY, NOON = 2251799813685249, datetime(2026, 11, 25, 12, tzinfo=UTC)
SEARCHES = ("/incidents/search", "/user-tasks/search", "/process-instances/search", "/variables/search")


@cache
def schemas_of(path: str, method: str) -> tuple[Any, Any]:
    """Of an operation's body and of its answer; every operation that we use is there since 8.8 at the latest."""
    description = read_description()
    schemas, operation = description["components"]["schemas"], description["paths"][path][method]
    assert tuple(map(int, operation["x-added-in-version"].split("."))) <= (8, 8)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    told = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return body and plain_schema(body, schemas), plain_schema(told, schemas)


@asynccontextmanager
async def described(version: str, *, absent: bool = False) -> AsyncIterator[tuple[Engine, list[str]]]:
    """An engine that keeps to the description, and what it refused."""
    refused: list[str] = []

    def route(path: str, method: str) -> Route:
        wanted, told = schemas_of(path, method)

        async def answer(request: Request) -> Response:
            if wanted:
                try:
                    jsonschema.validate(json.loads(await request.body()), wanted)
                except jsonschema.ValidationError as error:
                    refused.append(f"{path}: {error.message}")
                    return JSONResponse({"title": "Bad Request"}, 400)
            made = an_answer(told, absent=absent)
            if path == "/user-tasks/search":
                made["items"][0]["state"] = "COMPLETED"
            jsonschema.validate(made, told)
            return JSONResponse(made | ({"gatewayVersion": version} if method == "get" else {}))

        return Route(f"/v2{path}", answer, methods=[method.upper()])

    routes = [route("/topology", "get"), *(route(path, "post") for path in SEARCHES)]
    server, task, url = await serve(Starlette(routes=routes))
    settings = Settings(engine_grpc="127.0.0.1:1", engine_rest=url)
    async with open_channel(settings) as channel:
        engine = Engine(channel, settings)
        try:
            yield engine, refused
        finally:
            await engine.close()
            server.should_exit = True
            await task


async def ask_everything(engine: Engine) -> dict[str, Any]:
    return {
        "incidents": await engine.find_incidents(datetime(2026, 1, 1, tzinfo=UTC)),
        "cancelled": await engine.find_cancelled(),
        "running": (await engine.find_running(None))[0],
        "later": (await engine.find_running({"after": "Zm9v"}))[0],
        "newest": await engine.find_newest(),
        "texts": await engine.find_texts(KEY),
    }


@pytest.mark.parametrize("version", ["8.8.21", "8.9.0"])
@pytest.mark.parametrize("absent", [False, True])
async def test_what_we_ask_is_allowed_and_what_may_be_answered_is_read(version: str, absent: bool) -> None:
    async with described(version, absent=absent) as (engine, refused):
        told = await ask_everything(engine)
        completed = await engine.find_completion(KEY, KEY + 1)
    assert refused == []
    assert completed == Completion(None if absent else "Zm9v")
    [incident] = told["incidents"]
    assert (incident.key, incident.instance_key, incident.created_at) == (str(KEY), str(KEY), NOON)
    assert incident.job_key == (None if absent else str(KEY))
    assert incident.element
    for instance in (*told["cancelled"], *told["running"], *told["later"], told["newest"]):
        assert (instance.key, instance.started_at, instance.is_root) == (KEY, NOON, absent)
        assert instance.process
        assert instance.ended_at == (None if absent else NOON)


async def test_a_newer_engine_would_refuse_the_older_words() -> None:
    async with described("8.6.0") as (engine, refused):
        with pytest.raises(httpx.HTTPStatusError):
            await engine.find_completion(KEY, KEY + 1)
    assert [line.partition(":")[0] for line in refused] == ["/user-tasks/search"]


@pytest.mark.parametrize(("dialect", "key"), [(OLD, KEY), (NEW, str(KEY))])
def test_a_key_is_written_as_the_version_wants_it(dialect: Dialect, key: int | str) -> None:
    assert dialect.ask_user_tasks(KEY).body == {"filter": {"processInstanceKey": key}}
