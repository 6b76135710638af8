"""Who decided is what the engine says, with the roles that the tenant gave; never what a variable says."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from domain import commands as ask
from domain.decide import case_etag, order_etag
from domain.values import Actor, CaseId, EffectId, RequestId, Run
from tests.postgres import Database
from tests.workers.fake_engine import FakeJob
from tests.workers.flow_world import FlowWorld, open_flow_world
from tests.workers.test_simulator import serve
from tests.workers.topology import topology_of


@dataclass
class Search:
    """The engine's search for user tasks, as a test sets it; `status` other than 200: there is none."""

    tasks: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def routes(self) -> list[Route]:
        return [topology_of("8.6.0"), Route("/v2/user-tasks/search", self.answer, methods=["POST"])]

    async def answer(self, request: Request) -> Response:
        self.asked.append(json.loads(await request.body()))
        return JSONResponse({"items": self.tasks}, self.status)


@asynccontextmanager
async def open_review(database: Database, folder: Path, search: Search) -> AsyncIterator[tuple[FlowWorld, RequestId]]:
    """An order whose cancellation waits for a review, asked for by alice."""
    server, task, url = await serve(Starlette(routes=search.routes))
    try:
        async with open_flow_world(database, folder) as world:
            world.settings = world.settings.model_copy(update={"engine_rest": url})
            yield world, await _request_review(world)
    finally:
        server.should_exit = True
        await task


async def _request_review(world: FlowWorld) -> RequestId:
    request_id = RequestId(uuid.uuid4())
    version = await world.owner.fetchval("select version from customer_order")
    asked = ask.RequestCancellation(
        world.order_id, request_id, "ORDER", (), "CUSTOMER_CHANGED_MIND", force_manual_review=True
    )
    alice = Actor("alice", frozenset({"agent"}))
    await world.door.handle(ask.Envelope(world.tenant_id, uuid.uuid4(), alice, if_match=order_etag(version)), asked)
    world.run = Run(await world.owner.fetchval("select run from cancellation_request"))
    given = world.ids | {"request_id": str(request_id)}
    async with world.fleet():
        await world.verdict(await world.engine.add_job("begin-assessment", **given))
        told = await world.verdict(await world.engine.add_job("assess-cancellation", **given))
    assert told["verdict"] == "review", told
    world.task = {"wait_key": told["wait_key"]}
    return request_id


async def add_decision(world: FlowWorld, request_id: RequestId, **entered: str) -> FakeJob:
    return await world.engine.add_job(
        "record-decision",
        **world.ids,
        request_id=str(request_id),
        wait_key=world.task["wait_key"],
        **({"decision": "", "comment": ""} | entered),
    )


async def staff(world: FlowWorld, subject: str, *roles: str) -> None:
    await world.owner.execute(
        "insert into staff (tenant_id, subject, roles, changed_by) values ($1, $2, $3, 'admin')",
        world.tenant_id,
        subject,
        list(roles),
    )


def completed_by(assignee: str | None, element: int = 1, state: str = "COMPLETED") -> dict[str, Any]:
    return {"userTaskKey": element, "elementInstanceKey": element, "state": state, "assignee": assignee}


async def test_a_decision_counts_for_the_person_whom_the_engine_names(database: Database, tmp_path: Path) -> None:
    search = Search([completed_by("alice", 1), completed_by("bob", 2)])
    async with open_review(database, tmp_path, search) as (world, request_id):
        await staff(world, "bob", "approver")
        async with world.fleet():
            job = await add_decision(world, request_id, decision="approve", comment="fine")
            assert await world.verdict(job) == {"verdict": "decided"}
        decisions = json.loads(await world.owner.fetchval("select decisions::text from cancellation_request"))
        assert [(d["decision"], d["by"]) for d in decisions] == [("APPROVED", "bob")]
        assert search.asked == [{"filter": {"processInstanceKey": job.key + 1}}]


async def test_a_decision_that_is_not_visible_yet_is_waited_for(database: Database, tmp_path: Path) -> None:
    search = Search([completed_by(None, 1, "CREATED")])
    async with open_review(database, tmp_path, search) as (world, request_id):
        await staff(world, "bob", "approver")
        async with world.fleet():
            job = await add_decision(world, request_id, decision="approve")
            await world.engine.until(lambda: bool(job.errors))
            assert (job.errors[0][0], job.errors[0][1].split(" ")[0]) == (3, "DECISION_NOT_VISIBLE")
            search.tasks = [completed_by("bob", 1)]
            assert await world.verdict(job) == {"verdict": "decided"}


@pytest.mark.parametrize(
    ("tasks", "roles"),
    [
        ([completed_by(None)], {"bob": ("approver",)}),  # nobody was assigned
        ([completed_by("mallory")], {}),  # unknown to the tenant
        ([completed_by("bob")], {"bob": ("agent",)}),  # may not decide
        ([completed_by("alice")], {"alice": ("approver",)}),  # asked for it herself
        ([completed_by("system:walker")], {"system:walker": ("approver",)}),
    ],
)
async def test_a_decision_that_may_not_count_is_refused_recorded_and_offered_again(
    database: Database, tmp_path: Path, tasks: list[dict[str, Any]], roles: dict[str, tuple[str, ...]]
) -> None:
    async with open_review(database, tmp_path, Search(tasks)) as (world, request_id):
        for subject, held in roles.items():
            await staff(world, subject, *held)
        async with world.fleet():
            job = await add_decision(world, request_id, decision="approve")
            assert await world.verdict(job) == {"verdict": "again"}
        assert await world.owner.fetchval("select status from cancellation_request") == "REQUIRES_APPROVAL"
        refused = await world.owner.fetchval("select count(*) from audit_entry where kind = 'DECISION_REFUSED'")
        assert refused == 1


async def test_without_a_search_nobody_has_decided(database: Database, tmp_path: Path) -> None:
    async with open_review(database, tmp_path, Search(status=405)) as (world, request_id), world.fleet():
        job = await add_decision(world, request_id, decision="approve")
        assert await world.verdict(job) == {"verdict": "again"}


async def test_a_search_that_is_ill_is_asked_again(database: Database, tmp_path: Path) -> None:
    search = Search([completed_by("bob")], status=500)
    async with open_review(database, tmp_path, search) as (world, request_id):
        await staff(world, "bob", "approver")
        async with world.fleet():
            job = await add_decision(world, request_id, decision="reject", comment="no")
            await world.engine.until(lambda: bool(job.errors))
            assert (job.errors[0][0], job.errors[0][1].split(" ")[0]) == (3, "OUTAGE")
            search.status = 200
            assert await world.verdict(job) == {"verdict": "decided"}


async def test_a_decision_through_the_api_needs_no_search(database: Database, tmp_path: Path) -> None:
    search = Search(status=405)
    async with open_review(database, tmp_path, search) as (world, request_id):
        version = await world.owner.fetchval("select version from cancellation_request")
        bob = Actor("bob", frozenset({"approver"}))
        envelope = ask.Envelope(world.tenant_id, uuid.uuid4(), bob, if_match=f'"request-version-{version}"')
        await world.door.handle(envelope, ask.ApproveCancellation(world.order_id, request_id))
        async with world.fleet():
            assert await world.verdict(await add_decision(world, request_id)) == {"verdict": "decided"}
        assert search.asked == []


async def test_a_repair_entered_in_tasklist_is_asked_by_one_and_agreed_to_by_another(
    database: Database, tmp_path: Path
) -> None:
    search = Search([completed_by("olga", 1)])
    server, task, url = await serve(Starlette(routes=search.routes))
    try:
        async with open_flow_world(database, tmp_path) as world:
            world.settings = world.settings.model_copy(update={"engine_rest": url})
            await staff(world, "olga", "operator", "approver")
            await staff(world, "carla", "approver")
            async with world.fleet():
                await world.script(fault="refuse", times=1)
                told = await world.verdict(await world.add_effect())
                assert told["verdict"] == "case", told

                async def enter(**entered: str) -> str:
                    words = ("reason_code", "evidence_kind", "evidence_reference", "input", "amount")
                    blank = dict.fromkeys(("action", "comment", *words), "")
                    given = {"case_id": told["case_id"], "wait_key": told["wait_key"]} | blank | entered
                    job = await world.engine.add_job("record-repair", **world.ids, **given)
                    return str((await world.verdict(job))["verdict"])

                proof = {"evidence_kind": "TICKET", "evidence_reference": "INC-7"}
                assert await enter(action="FORCE_COMPLETE", comment="done") == "again"  # without evidence
                assert await enter(action="FORCE_COMPLETE", comment="done", input="{", **proof) == "again"
                assert await world.owner.fetchval("select status from fallout_case") == "REPAIR_SUBMITTED"
                assert await enter(action="APPROVE", comment="mine") == "again"  # her own
                search.tasks = [completed_by("carla", 1)]
                assert await enter(action="APPROVE", comment="agreed") == "decided"
            assert await world.owner.fetchval("select status from fallout_case") == "RESOLVED"
            refused = await world.owner.fetch(
                "select data->>'code' as code from audit_entry where kind = 'REPAIR_REFUSED'"
            )
            assert [row["code"] for row in refused] == ["EVIDENCE_REQUIRED", "FOUR_EYES"]
    finally:
        server.should_exit = True
        await task


async def test_a_case_of_no_flow_is_offered_and_becomes_an_order_in_tasklist(
    database: Database, tmp_path: Path
) -> None:
    """Refused, done by hand, and then it took effect after all: the order that deals with it may be refused itself."""
    search = Search([completed_by("olga", 1)])
    server, task, url = await serve(Starlette(routes=search.routes))
    try:
        async with open_flow_world(database, tmp_path) as world:
            world.settings = world.settings.model_copy(update={"engine_rest": url})
            await staff(world, "olga", "operator")
            async with world.fleet():
                await world.script(fault="refuse", times=1)
                await world.verdict(await world.add_effect())
                case_id = await repair_by_hand(world)
                offered = await world.owner.fetchval(
                    "select variables::text from engine_outbox where name = 'case-opened'"
                )
                given = json.loads(offered)
                assert given["case_id"] == str(case_id)
                told = await world.verdict(await world.engine.add_job("offer-case", **given))
                assert (told["verdict"], "convert to order: " in told["exhibit"]) == ("open", True)

                async def enter(item: dict[str, Any]) -> str:
                    wish = {"orderType": "SUPPLEMENTAL", "items": [{"itemId": "1", "quantity": 1, **item}]}
                    words = dict.fromkeys(("reason_code", "evidence_kind", "evidence_reference", "amount"), "")
                    job = await world.engine.add_job(
                        "record-repair",
                        **given,
                        **words,
                        wait_key=told["wait_key"],
                        action="CONVERT_TO_ORDER",
                        comment="a new order",
                        input=json.dumps(wish),
                    )
                    return str((await world.verdict(job))["verdict"])

                nobodys = {"action": "MODIFY", "productOfferingId": "router", "targetAssetId": str(uuid.uuid4())}
                assert await enter(nobodys) == "again"
                assert await enter({"action": "ADD", "productOfferingId": "router"}) == "decided"
                assert (await world.verdict(await world.engine.add_job("offer-case", **given)))["verdict"] == (
                    "stand_down"
                )
            codes = await world.owner.fetch(
                "select data->>'code' as code from audit_entry where kind = 'REPAIR_REFUSED'"
            )
            assert [row["code"] for row in codes] == ["ASSET_NOT_MODIFIABLE"]
            assert await world.owner.fetchval("select count(*) from customer_order") == 2
    finally:
        server.should_exit = True
        await task


async def repair_by_hand(world: FlowWorld) -> uuid.UUID:
    """Two people say that it was done; then the system says the same of its own call. The case of that."""
    case = await world.owner.fetchrow("select case_id, version from fallout_case")
    assert case is not None
    olga, carla = Actor("olga", frozenset({"operator"})), Actor("carla", frozenset({"approver"}))
    refused = await world.owner.fetchval("select effect_id from effect")
    repair = ask.RepairCase(
        world.order_id,
        CaseId(case["case_id"]),
        "FORCE_COMPLETE",
        "MANUAL_WORK_DONE",
        evidence={"kind": "TICKET", "reference": "INC-7"},
    )
    seen = case_etag(case["version"])
    await world.door.handle(ask.Envelope(world.tenant_id, uuid.uuid4(), olga, if_match=seen), repair)
    seen = case_etag(await world.owner.fetchval("select version from fallout_case"))
    agreed = ask.DecideRepair(world.order_id, CaseId(case["case_id"]), 1, approved=True)
    await world.door.handle(ask.Envelope(world.tenant_id, uuid.uuid4(), carla, if_match=seen), agreed)
    late = ask.RecordOutcome(world.order_id, EffectId(refused), "CONFIRMED", "CALLBACK")
    await world.door.handle(ask.Envelope(world.tenant_id, uuid.uuid4(), carla), late)
    found = await world.owner.fetchval("select case_id from fallout_case where context = 'LATE_EFFECT'")
    assert isinstance(found, uuid.UUID)
    return found
