"""What the engine's search tells, in the words of either version of its API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.workers.test_simulator import serve
from tests.workers.topology import topology_of
from workers.gateways.dialects import SeenIncident, SeenInstance
from workers.gateways.engine import Engine, NoSearchError, is_older, open_channel
from workers.settings import Settings

MORNING, NOON = "2026-11-25T08:00:00.000+0000", "2026-11-25T12:00:00.000+0000"

# As an 8.6 engine answered.
OLD: dict[str, Any] = {
    "key": 2251799813694987, "processDefinitionKey": 2251799813694979, "processDefinitionId": "task",
    "processInstanceKey": 2251799813694980, "errorType": "JOB_NO_RETRIES", "errorMessage": "EFFECT_EXHAUSTED 4f",
    "flowNodeId": "effect", "flowNodeInstanceKey": 2251799813694984, "creationTime": NOON, "state": "ACTIVE",
    "jobKey": 2251799813694985, "treePath": "PI_1/FN_effect/FNI_2", "tenantId": "<default>",
}  # fmt: skip
# As its successors write the same.
NEW: dict[str, Any] = {
    "incidentKey": "2251799813694987", "processDefinitionId": "task", "processInstanceKey": "2251799813694980",
    "errorMessage": "EFFECT_EXHAUSTED 4f", "elementId": "effect", "creationTime": "2026-11-25T12:00:00Z",
    "state": "ACTIVE", "jobKey": "2251799813694985", "errorType": "JOB_NO_RETRIES", "rootProcessInstanceKey": "1",
}  # fmt: skip
SEEN = SeenIncident(
    key="2251799813694987", state="ACTIVE", created_at=datetime(2026, 11, 25, 12, tzinfo=UTC), process="task",
    instance_key="2251799813694980", element="effect", job_key="2251799813694985", message="EFFECT_EXHAUSTED 4f",
    kind="JOB_NO_RETRIES", root=1,
)  # fmt: skip


@asynccontextmanager
async def searchable(*rows: dict[str, Any], status: int = 200, version: str = "8.6.0") -> AsyncIterator[Engine]:
    """An engine whose search knows these, and filters by state alone."""

    async def search(request: Request) -> Response:
        wanted = json.loads(await request.body())["filter"]["state"]
        return JSONResponse({"items": [row for row in rows if row["state"] == wanted]}, status)

    routes = [topology_of(version), Route("/v2/incidents/search", search, methods=["POST"])]
    server, task, url = await serve(Starlette(routes=routes))
    settings = Settings(engine_grpc="127.0.0.1:1", engine_rest=url)
    channel = open_channel(settings)
    engine = Engine(channel, settings)
    try:
        yield engine
    finally:
        await engine.close()
        await channel.close()
        server.should_exit = True
        await task


@pytest.mark.parametrize(
    ("version", "row"), [("8.6.0", OLD), ("8.7.2", OLD), ("8.8.21", NEW), ("8.10.0-alpha1", NEW), ("9.0.0", NEW)]
)
async def test_an_incident_reads_the_same_in_every_version(version: str, row: dict[str, Any]) -> None:
    async with searchable(row, version=version) as engine:
        assert await engine.find_incidents(datetime(2026, 11, 25, 13, tzinfo=UTC)) == [SEEN]


async def test_what_stands_is_told_whenever_it_began_and_what_was_resolved_only_lately() -> None:
    rows = [
        OLD | {"key": 1, "state": "PENDING", "creationTime": MORNING, "jobKey": None},
        OLD | {"key": 2, "state": "RESOLVED", "creationTime": MORNING},
        OLD | {"key": 3, "state": "RESOLVED", "creationTime": NOON},
    ]
    async with searchable(*rows) as engine:
        found = await engine.find_incidents(datetime(2026, 11, 25, 11, tzinfo=UTC))
    assert [(row.key, row.state, row.job_key) for row in found] == [
        ("3", "RESOLVED", "2251799813694985"),
        ("1", "PENDING", None),
    ]


@pytest.mark.parametrize("status", [403, 404, 405, 501])
async def test_an_engine_without_a_search_says_so(status: int) -> None:
    async with searchable(status=status) as engine:
        with pytest.raises(NoSearchError):
            await engine.find_incidents(datetime.now(UTC))


# Instances, as an 8.6 engine answered and as its successors write the same.
OLD_INSTANCE: dict[str, Any] = {
    "key": 2251799813687984, "processDefinitionName": "Plan", "processDefinitionVersion": 1, "bpmnProcessId": "plan",
    "parentKey": 2251799813687936, "startDate": MORNING, "endDate": NOON, "state": "CANCELED", "incident": False,
}  # fmt: skip
NEW_INSTANCE: dict[str, Any] = {
    "processInstanceKey": "2251799813687984", "processDefinitionId": "plan", "state": "TERMINATED",
    "parentProcessInstanceKey": "2251799813687936", "startDate": "2026-11-25T08:00:00Z",
    "endDate": "2026-11-25T12:00:00Z", "hasIncident": False,
}  # fmt: skip
INSTANCE = SeenInstance(
    2251799813687984,
    "plan",
    datetime(2026, 11, 25, 8, tzinfo=UTC),
    datetime(2026, 11, 25, 12, tzinfo=UTC),
    is_root=False,
)


@asynccontextmanager
async def with_instances(
    rows: list[dict[str, Any]], *, old: bool, ill: list[str] | None = None, versions: list[str] | None = None
) -> AsyncIterator[tuple[Engine, list[Any]]]:
    """An engine of either version that pages through these, and what it was asked; `ill` while that is not empty.

    versions: what it says of itself, the last one for good
    """
    asked: list[Any] = []

    async def search(request: Request) -> Response:
        body = json.loads(await request.body())
        asked.append(body)
        if ill or (told[-1].startswith("8.8") and set(body["filter"]) - {"state"}):
            return JSONResponse({"title": "Bad Request"}, 400)
        page = body["page"]
        begin = int(page["searchAfter"][0]) if "searchAfter" in page else int(page.get("after", 0))
        end = begin + page["limit"]
        follow = {"lastSortValues": [str(end)]} if old else {"endCursor": str(end)}
        understood = not old or {"running", "finished"} & set(body["filter"])  # 8.6 shows nothing unless it is told
        return JSONResponse({"items": rows[begin:end] if understood else [], "page": follow})

    told = versions or ["8.6.0" if old else "8.8.21"]
    path = "/v2/process-instances/search"
    routes = [topology_of(*told), Route(path, search, methods=["POST"])]
    server, task, url = await serve(Starlette(routes=routes))
    settings = Settings(engine_grpc="127.0.0.1:1", engine_rest=url)
    channel = open_channel(settings)
    engine = Engine(channel, settings)
    try:
        yield engine, asked
    finally:
        await engine.close()
        await channel.close()
        server.should_exit = True
        await task


@pytest.mark.parametrize(("row", "old"), [(OLD_INSTANCE, True), (NEW_INSTANCE, False)])
async def test_an_instance_reads_the_same_in_both_versions(row: dict[str, Any], old: bool) -> None:
    async with with_instances([row], old=old) as (engine, asked):
        assert await engine.find_cancelled() == [INSTANCE]
        assert await engine.find_newest() == INSTANCE
    assert asked[0]["filter"] == ({"finished": True, "canceled": True} if old else {"state": "TERMINATED"})


@pytest.mark.parametrize("old", [True, False])
async def test_running_instances_are_read_page_by_page(old: bool) -> None:
    row = OLD_INSTANCE if old else NEW_INSTANCE
    name = "key" if old else "processInstanceKey"
    rows = [row | {name: key} for key in range(1, 251)]
    async with with_instances(rows, old=old) as (engine, _):
        first, cursor = await engine.find_running(None)
        rest, end = await engine.find_running(cursor)
    assert [instance.key for instance in (*first, *rest)] == list(range(1, 251))
    assert (len(first), end) == (200, None)


async def test_a_search_that_is_not_ready_is_not_taken_for_a_newer_one() -> None:
    """Nor asked in words that 8.6 answers with nothing."""
    ill = ["no index yet"]
    async with with_instances([OLD_INSTANCE], old=True, ill=ill) as (engine, _):
        with pytest.raises(httpx.HTTPStatusError):
            await engine.find_newest()
        ill.clear()
        assert await engine.find_cancelled() == [INSTANCE]


async def test_an_engine_that_was_upgraded_beneath_us_is_asked_in_its_new_words() -> None:
    """It refuses the old ones once, and says then of which version it is."""
    versions = ["8.6.0", "8.8.21"]
    async with with_instances([NEW_INSTANCE], old=False, versions=versions) as (engine, asked):
        with pytest.raises(httpx.HTTPStatusError):
            await engine.find_cancelled()
        assert await engine.find_cancelled() == [INSTANCE]
    assert [set(question["filter"]) for question in asked] == [{"finished", "canceled"}, {"state"}]


def test_keys_say_which_instance_is_older_within_a_partition() -> None:
    assert is_older(INSTANCE, INSTANCE.key + 1)
    assert not is_older(INSTANCE, INSTANCE.key)
    assert not is_older(INSTANCE, INSTANCE.key + 2**51)


async def test_an_engine_that_does_not_tell_variables_is_asked_through_operate() -> None:
    """8.6: only to who has logged in, and again when the session is over; other values than texts stay there."""
    sessions: list[str] = []

    async def log_in(request: Request) -> Response:
        form = (await request.body()).decode()
        if form != "username=ada&password=pass%3Aword":
            return Response(status_code=401)
        sessions.append(f"session-{len(sessions)}")
        answer = Response(status_code=204)
        answer.set_cookie("OPERATE-SESSION", sessions[-1])
        return answer

    async def search(request: Request) -> Response:
        if not sessions or request.cookies.get("OPERATE-SESSION") != sessions[-1]:
            return Response(status_code=401)
        assert json.loads(await request.body())["filter"] == {"processInstanceKey": 7}
        return JSONResponse({"items": [{"name": "run", "value": '"r"'}, {"name": "n", "value": "7"}]})

    routes = [
        topology_of("8.6.0"),
        Route("/api/login", log_in, methods=["POST"]),
        Route("/v1/variables/search", search, methods=["POST"]),
    ]
    server, task, url = await serve(Starlette(routes=routes))
    settings = Settings(
        engine_grpc="127.0.0.1:1", engine_rest=url, operate_url=f"{url}/operate", operate_login="ada:pass:word"
    )
    channel = open_channel(settings)
    engine = Engine(channel, settings)
    try:
        assert await engine.find_texts(7) == {"run": "r"}
        sessions.append("another one")
        assert await engine.find_texts(7) == {"run": "r"}
        assert len(sessions) == 3
    finally:
        await engine.close()
        await channel.close()
        server.should_exit = True
        await task
