"""A flow that has fallen silent is started anew, through the door, a few times and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from domain import commands as ask
from domain.decide import case_etag
from domain.reconciliation import ADVICE, EXPLANATIONS, RESTARTS
from domain.store import reconcile
from domain.store.reconcile import list_findings
from domain.store.views import read_dashboard
from domain.values import Actor, CaseId, EffectId, RequestId, Run, TaskId, TenantId, system_actor
from tests.builders import an_order
from tests.postgres import Database
from tests.workers.flow_world import FlowWorld, open_flow_world, start_order
from tests.workers.test_simulator import serve
from tests.workers.topology import topology_of
from workers import reconciler
from workers.reconciler import run
from workers.settings import Settings

SETTLE = timedelta(minutes=15)


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[FlowWorld]:
    async with open_flow_world(database, tmp_path) as opened:
        yield opened


async def age(world: FlowWorld, minutes: int) -> None:
    """Let time pass: everything that has been written is older now. The audit is append-only for the product."""
    back = timedelta(minutes=minutes)
    await world.owner.execute("update audit_entry set at = at - $1::interval", back)
    await world.owner.execute(
        "update engine_outbox set published_at = now(), created_at = created_at - $1::interval", back
    )
    await world.owner.execute("update outbox set published_at = now()")
    await world.owner.execute(
        "update effect set intended_at = intended_at - $1::interval, lease_until = lease_until - $1::interval,"
        " called_at = called_at - $1::interval, accepted_at = accepted_at - $1::interval,"
        " unknown_since = unknown_since - $1::interval",
        back,
    )


async def until_restarted(world: FlowWorld) -> None:
    async with asyncio.timeout(20):
        while not await restarts(world):
            await asyncio.sleep(0.02)


async def restarts(world: FlowWorld) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await world.owner.fetch(
        "select correlation_key, variables::jsonb ->> 'plan_id' as plan_id from engine_outbox"
        " where name = 'plan-restarted' order by id"
    )
    return rows


async def test_a_plan_that_nobody_asks_for_is_started_anew_once(world: FlowWorld) -> None:
    await run(world.settings, once=True, settle=SETTLE)
    assert await restarts(world) == []
    await age(world, 20)
    await run(world.settings, once=True, settle=SETTLE)
    ((run_key, plan_id),) = await restarts(world)
    assert plan_id == str(world.plan_id)
    assert uuid.UUID(run_key) == await world.owner.fetchval("select run from fulfillment_plan") != world.run
    await run(world.settings, once=True, settle=SETTLE)
    assert len(await restarts(world)) == 1
    # What the old flow still asks for is refused; the new walker gets the task under a new release.
    async with world.fleet():
        old = await world.verdict(await world.add_effect())
        assert old == {"verdict": "stand_down"}


async def test_after_a_few_restarts_a_person_has_the_case(world: FlowWorld) -> None:
    """Once per silence, with a deadline and what to look at; a RETRY starts the flow anew, and a silence after it is
    told again."""
    cases = (
        "select status, resolution, context, blocking, title, sla_at > opened_at as due from fallout_case"
        " order by opened_at"
    )
    for _ in range(RESTARTS):
        await age(world, 500)
        await run(world.settings, once=True, settle=SETTLE)
    assert await world.owner.fetch(cases) == []
    for _ in range(3):
        await age(world, 500)
        await run(world.settings, once=True, settle=SETTLE)
    assert len(await restarts(world)) == RESTARTS
    title = f"The flow is silent after 3 restarts. {EXPLANATIONS['READY_NOT_STARTED']} {ADVICE['READY_NOT_STARTED']}"
    assert [tuple(row) for row in await world.owner.fetch(cases)] == [
        ("OPEN", None, "RECONCILIATION", False, title, True)
    ]
    found = await world.owner.fetchrow(
        "select class, repair from finding where resolved_at is null and class like 'READY%'"
    )
    assert found is not None
    assert tuple(found) == ("READY_NOT_STARTED", "TELL")

    ((case_id, version),) = await world.owner.fetch("select case_id, version from fallout_case")
    olga = ask.Envelope(
        world.tenant_id, uuid.uuid4(), Actor("olga", frozenset({"operator"})), if_match=case_etag(version)
    )
    await world.door.handle(olga, ask.RepairCase(world.order_id, case_id, "RETRY", "SYSTEM_RECOVERED"))
    assert len(await restarts(world)) == RESTARTS + 1
    await age(world, 500)
    await run(world.settings, once=True, settle=SETTLE)
    assert [(row["status"], row["resolution"]) for row in await world.owner.fetch(cases)] == [
        ("RESOLVED", "RETRY"),
        ("OPEN", None),
    ]
    assert len(await restarts(world)) == RESTARTS + 1


async def test_a_flow_that_never_came_is_a_persons_in_the_end(world: FlowWorld) -> None:
    """Of an order before its plan; while its case is open the silence is that person's, and no finding."""
    lost = replace(an_order(), external_id=None)
    await world.door.handle(ask.Envelope(world.tenant_id, uuid.uuid4(), Actor("alice", frozenset({"agent"}))), lost)
    silent = "select count(*) from finding where class = 'MESSAGE_NOT_RECEIVED' and resolved_at is null"
    for _ in range(RESTARTS + 1):
        await age(world, 500)
        await run(world.settings, once=True, settle=SETTLE)
    row = await world.owner.fetchrow("select status, title from fallout_case where order_id = $1", lost.order_id)
    assert row is not None
    assert row["status"] == "OPEN"
    assert "`recourse models deploy`" in row["title"]
    assert await world.owner.fetchval(silent) == 1
    await age(world, 500)
    await run(world.settings, once=True, settle=SETTLE)
    assert await world.owner.fetchval(silent) == 0
    started = "select count(*) from engine_outbox where name = 'order-accepted' and variables::jsonb->>'order_id' = $1"
    assert await world.owner.fetchval(started, str(lost.order_id)) == 1 + RESTARTS


async def test_who_was_not_told_of_a_cancellation_beneath_it_hears_of_it(world: FlowWorld) -> None:
    """No engine carries a message here, as if it had lost each: the rows say who is owed what, and are settled."""
    await world.owner.execute(
        "insert into policy (tenant_id, name, effective_from, document, loaded_by) select tenant_id, name,"
        " effective_from, jsonb_set(document, '{cancellation,closure,dependent_order}', '\"HOLD\"'), 'test' from policy"
    )
    named = {"type": "SUPPLEMENTS", "targetOrderId": str(world.order_id), "reasonCode": None}
    dependent = replace(an_order(), relations=(named,))
    request_id = RequestId(uuid.uuid4())
    alice = Actor("alice", frozenset({"agent"}))

    async def do(command: ask.Command, etag: str | None = None) -> None:
        await world.door.handle(ask.Envelope(world.tenant_id, uuid.uuid4(), alice, if_match=etag), command)

    async def holds() -> Any:
        return await world.owner.fetchval(
            "select order_holds from customer_order where order_id = $1", dependent.order_id
        )

    async def sweep_later() -> None:
        await run(world.settings, once=True, settle=SETTLE)  # too early
        assert await world.owner.fetchval("select count(*) from dependence") == 1
        await world.owner.execute("update dependence set told_at = told_at - interval '20 minutes'")
        await run(world.settings, once=True, settle=SETTLE)
        assert await world.owner.fetchval("select count(*) from dependence") == 0

    await do(dependent)
    version = await world.owner.fetchval("select version from customer_order where order_id = $1", world.order_id)
    wish = ask.RequestCancellation(world.order_id, request_id, "ORDER", (), "CUSTOMER_CHANGED_MIND")
    await do(wish, f'"order-version-{version}"')
    assert await holds() == []
    await sweep_later()
    assert await holds() == [f"order:{world.order_id}/{request_id}"]
    found = "select repair, repaired_at is not null from finding where class = 'DEPENDENCE_NOT_FOLLOWED'"
    assert [tuple(row) for row in await world.owner.fetch(found)] == [("FOLLOW", True)]
    version = await world.owner.fetchval("select version from cancellation_request")
    await do(ask.WithdrawCancellation(world.order_id, request_id), f'"request-version-{version}"')
    assert await holds() != []
    await sweep_later()
    assert await holds() == []


async def test_report_only_changes_nothing(world: FlowWorld) -> None:
    await age(world, 20)
    await run(world.settings, once=True, report_only=True, settle=SETTLE)
    assert await restarts(world) == []


async def test_nothing_is_restarted_while_the_engine_is_away(world: FlowWorld) -> None:
    await age(world, 20)
    away = world.settings.model_copy(update={"engine_grpc": "127.0.0.1:1"})
    await run(away, once=True, settle=SETTLE)
    assert await restarts(world) == []


async def test_nothing_is_restarted_in_an_engine_without_models(world: FlowWorld) -> None:
    """Each restart would be one of the few, and heard by nobody."""
    await age(world, 20)
    world.engine.has_models = False
    await run(world.settings, once=True, settle=SETTLE)
    assert await restarts(world) == []
    world.engine.has_models = True
    await run(world.settings, once=True, settle=SETTLE)
    assert len(await restarts(world)) == 1


@pytest.mark.parametrize("fault", ["hang", "accept-silent", "error-before"])
async def test_an_effect_whose_flow_is_gone_is_taken_up_again(world: FlowWorld, fault: str) -> None:
    """The caller died in the call; the promise was never kept; nobody asked what became of the call."""
    await world.script(fault=fault, times=1)
    async with world.fleet():
        given = await world.add_effect()
        await world.engine.until(lambda: given.deliveries == 1)
        async with asyncio.timeout(10):
            while not world.book_path.exists() or not world.book("CALLED"):
                await asyncio.sleep(0.01)
        if fault != "hang":
            await world.verdict(given)
        found = await world.owner.fetchval("select state from effect")
    await world.owner.execute("update fulfillment_task set state = 'PENDING' where state = 'READY'")
    await age(world, 60 + 14)
    await run(world.settings, once=True, settle=SETTLE)
    assert await restarts(world) == [] or fault == "hang"
    await age(world, 60 + 20)
    await run(world.settings, once=True, settle=SETTLE)
    assert len(await restarts(world)) == 1, found


@pytest.mark.parametrize("trouble", ["locked", "unreadable"])
async def test_one_order_that_cannot_be_mended_does_not_keep_others_from_it(world: FlowWorld, trouble: str) -> None:
    """Seen to fail without the last branches of `mend`: the reconciler ended with it, and began again before it."""
    others = [
        await start_order(world.settings, world.engine, world.pool, world.owner, world.simulator, world.book_path)
        for _ in range(3)
    ]
    await age(world, 60)
    lock = world.owner.transaction()
    await lock.start()
    if trouble == "locked":
        await world.owner.execute("select from customer_order where order_id = $1 for update", others[1].order_id)
    else:
        await lock.rollback()
        await world.owner.execute(
            "update fulfillment_plan set types = '{\"ship-device\": {}}' where order_id = $1", others[1].order_id
        )
    await run(world.settings, once=True, settle=SETTLE)
    if trouble == "locked":
        await lock.rollback()
    assert {uuid.UUID(row["plan_id"]) for row in await restarts(world)} == {
        one.plan_id for one in (world, others[0], others[2])
    }


async def test_what_is_found_page_by_page_stands_until_a_whole_round_has_not_shown_it(
    world: FlowWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail without `round_began`: with more open effects than a page has, a finding was over as soon as the
    next page was looked at, and a new one when its own came again."""
    monkeypatch.setattr(reconcile, "_PAGE", 1)
    monkeypatch.setattr(reconciler, "SWEEP_SECONDS", 0.02)
    other = await start_order(world.settings, world.engine, world.pool, world.owner, world.simulator, world.book_path)
    effects: list[EffectId] = []
    for one in (world, other):
        claim = ask.ClaimTask(one.order_id, TaskId(uuid.UUID(one.task["task_id"])), one.task["release"], one.run)
        envelope = ask.Envelope(one.tenant_id, uuid.uuid4(), system_actor("test"), keep=False)
        told = (await one.door.handle(envelope, claim)).body
        effects.append(EffectId(uuid.UUID(str(told["effect_id"]))))
    await world.owner.execute("update fulfillment_task set state = 'PENDING' where state = 'READY'")
    await age(world, 60)
    found = (
        "select tenant_id, resolved_at is null as stands, first_seen_at, last_seen_at from finding"
        " where class = 'INTENT_WITHOUT_OUTCOME'"
    )
    watching = asyncio.create_task(run(world.settings, report_only=True, settle=SETTLE))
    try:
        async with asyncio.timeout(20):
            rows: list[asyncpg.Record] = []
            while len(rows) < 2 or min(row["last_seen_at"] for row in rows) <= max(r["first_seen_at"] for r in rows):
                await asyncio.sleep(0.02)
                rows = await world.owner.fetch(found)
            answered = ask.RecordOutcome(world.order_id, effects[0], "CONFIRMED", "CALLBACK")
            envelope = ask.Envelope(world.tenant_id, uuid.uuid4(), system_actor("test"), keep=False)
            await world.door.handle(envelope, answered)
            while all(row["stands"] for row in await world.owner.fetch(found)):
                await asyncio.sleep(0.02)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    told_once = {row["tenant_id"]: row["stands"] for row in await world.owner.fetch(found)}
    assert told_once == {world.tenant_id: False, other.tenant_id: True}
    assert len(await world.owner.fetch(found)) == 2


async def test_a_held_task_is_not_silent(world: FlowWorld) -> None:
    await world.owner.execute(
        "insert into task_hold (tenant_id, order_id, task_id, holder)"
        " select tenant_id, order_id, task_id, 'operator' from fulfillment_task"
    )
    await age(world, 20)
    await run(world.settings, once=True, settle=SETTLE)
    assert await restarts(world) == []


def seen(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


async def test_it_tells_how_much_waits_and_forgets_it_with_the_watch(world: FlowWorld) -> None:
    tasks = await world.owner.fetchval("select count(*) from fulfillment_task where state = 'READY'")
    await world.owner.execute("update outbox set at = at - interval '1 hour', parked_at = null, published_at = null")
    await world.owner.execute("update outbox set parked_at = now() where id = (select max(id) from outbox)")
    events = await world.owner.fetchval("select count(*) from outbox where parked_at is null")
    await run(world.settings, report_only=True, once=True)
    assert seen("recourse_waiting", kind="tasks") is None  # the watch has ended with the sweep
    assert seen("recourse_swept_at") == 0
    async with asyncio.timeout(20):
        watching = asyncio.create_task(run(world.settings, report_only=True))
        while not seen("recourse_swept_at"):
            await asyncio.sleep(0.02)
    assert (seen("recourse_waiting", kind="tasks"), seen("recourse_waiting_seconds", kind="tasks")) == (tasks, 0)
    assert seen("recourse_waiting", kind="events") == events
    assert 3600 <= (seen("recourse_waiting_seconds", kind="events") or 0) < 3700
    assert seen("recourse_waiting", kind="parked_events") == 1
    watching.cancel()
    await asyncio.wait([watching])
    assert seen("recourse_waiting", kind="events") is None


async def test_one_of_two_reconcilers_watches(world: FlowWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "_STANDBY_SECONDS", 0.05)
    monkeypatch.setattr(reconciler, "SWEEP_SECONDS", 0.05)
    tasks = [asyncio.create_task(run(world.settings, settle=SETTLE)) for _ in range(2)]
    # The watch alone: whoever stores findings holds another lock for a moment.
    locks = (
        "select count(*) from pg_locks where locktype = 'advisory' and granted"
        " and (classid::bigint << 32) | objid::bigint = hashtextextended('recourse.reconciler', 0)"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    try:
        async with asyncio.timeout(10):
            while await world.owner.fetchval(locks) != 1:
                await asyncio.sleep(0.02)
        await age(world, 20)
        async with asyncio.timeout(10):
            while not await restarts(world):
                await asyncio.sleep(0.02)
        assert await world.owner.fetchval(locks) == 1
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert len(await restarts(world)) == 1


async def test_one_look_is_had_beside_whoever_watches(world: FlowWorld) -> None:
    """`recourse reconcile --once` on a running stack, whose own reconciler holds the watch: look, mend, end."""
    watcher = await asyncpg.connect(world.settings.auditor_database_url)
    try:
        assert await watcher.fetchval("select pg_try_advisory_lock(hashtextextended('recourse.reconciler', 0))")
        await age(world, 20)
        async with asyncio.timeout(30):
            await asyncio.gather(*(run(world.settings, once=True, settle=SETTLE) for _ in range(3)))
    finally:
        await watcher.close()
    assert len(await restarts(world)) == 1


@dataclass
class Incidents:
    """The engine's search, as a test sets it; `status` other than 200: there is none."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)
    variables: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200

    async def answer(self, request: Request) -> Response:
        state = json.loads(await request.body())["filter"]["state"]
        return JSONResponse({"items": [row for row in self.rows if row["state"] == state]}, self.status)

    async def answer_variables(self, _: Request) -> Response:
        return JSONResponse({"items": self.variables}, self.status)

    async def answer_instances(self, request: Request) -> Response:
        wanted = json.loads(await request.body())
        states = {"ACTIVE"} if "active" in wanted["filter"] else set()
        states |= {"CANCELED"} if "canceled" in wanted["filter"] else set()
        rows = [row for row in self.instances if row["state"] in states]
        if wanted["sort"][0]["order"] == "desc":
            rows.reverse()
        return JSONResponse({"items": rows[: wanted["page"]["limit"]], "page": {}}, self.status)


def an_incident(case_id: uuid.UUID, state: str, key: int = 4503) -> dict[str, Any]:
    return {
        "key": key,
        "processDefinitionId": "task",
        "jobKey": "77",
        "state": state,
        "errorMessage": f"EFFECT_EXHAUSTED {case_id}",
        "creationTime": (datetime.now(UTC) - timedelta(days=5)).isoformat(),
    }


@asynccontextmanager
async def a_stuck_order(world: FlowWorld, incidents: Incidents) -> AsyncIterator[tuple[Settings, uuid.UUID]]:
    """An order with a case, in an engine that can be searched."""
    await world.script(fault="refuse", times=1)
    async with world.fleet():
        told = await world.verdict(await world.add_effect())
    async with searchable(world, incidents) as settings:
        yield settings, uuid.UUID(told["case_id"])


@asynccontextmanager
async def searchable(world: FlowWorld, incidents: Incidents) -> AsyncIterator[Settings]:
    routes = [
        topology_of("8.6.0"),
        Route("/v2/incidents/search", incidents.answer, methods=["POST"]),
        Route("/v2/process-instances/search", incidents.answer_instances, methods=["POST"]),
        Route("/v2/variables/search", incidents.answer_variables, methods=["POST"]),
    ]
    server, task, url = await serve(Starlette(routes=routes))
    try:
        yield world.settings.model_copy(update={"engine_rest": url})
    finally:
        server.should_exit = True
        await task


def calls_of(world: FlowWorld, method: str) -> list[Any]:
    return [request for called, request in world.engine.calls if called == method]


async def case_of(world: FlowWorld) -> tuple[Any, ...]:
    row = await world.owner.fetchrow("select status, resolution, incident_key from fallout_case")
    assert row is not None
    return tuple(row)


async def test_an_incident_is_told_on_its_case_and_resolved_in_the_engine_with_its_repair(world: FlowWorld) -> None:
    incidents = Incidents()
    async with a_stuck_order(world, incidents) as (settings, case_id):
        incidents.rows = [an_incident(case_id, "ACTIVE")]
        await run(settings, once=True, settle=SETTLE)
        assert await case_of(world) == ("OPEN", None, "4503")
        assert calls_of(world, "ResolveIncident") == []
        olga = Actor("olga", frozenset({"operator"}))
        version = await world.owner.fetchval("select version from fallout_case")
        envelope = ask.Envelope(world.tenant_id, uuid.uuid4(), olga, if_match=f'"case-version-{version}"')
        repair = ask.RepairCase(world.order_id, CaseId(case_id), "RETRY", "SYSTEM_RECOVERED")
        await world.door.handle(envelope, repair)
        await run(settings, once=True, settle=SETTLE)
        (retries,), (resolved,) = calls_of(world, "UpdateJobRetries"), calls_of(world, "ResolveIncident")
        assert (retries.jobKey, retries.retries, resolved.incidentKey) == (77, 3, 4503)


async def test_an_incident_resolved_in_operate_closes_its_case_with_evidence(world: FlowWorld) -> None:
    incidents = Incidents()
    async with a_stuck_order(world, incidents) as (settings, case_id):
        incidents.rows = [an_incident(case_id, "RESOLVED", 1)]  # not one that the case names
        await run(settings, once=True, settle=SETTLE)
        assert (await case_of(world))[0] == "OPEN"
        incidents.rows = [an_incident(case_id, "ACTIVE")]
        await run(settings, once=True, settle=SETTLE)
        incidents.rows = []  # that it is not shown proves nothing
        await run(settings, once=True, settle=SETTLE)
        assert (await case_of(world))[0] == "OPEN"
        incidents.rows = [an_incident(case_id, "RESOLVED")]
        await run(settings, once=True, settle=SETTLE)
        assert await case_of(world) == ("RESOLVED", "RESOLVED_IN_ENGINE", "4503")
        repairs = json.loads(await world.owner.fetchval("select repairs::text from fallout_case"))
        assert (repairs[0]["by"], repairs[0]["evidence"]) == (
            "system:reconciler",
            {"kind": "INCIDENT", "reference": "4503"},
        )
        assert await world.owner.fetchval("select state from customer_order") == "IN_PROGRESS"


@pytest.mark.parametrize("status", [404, 500])
async def test_an_engine_that_cannot_be_searched_proves_nothing(world: FlowWorld, status: int) -> None:
    incidents = Incidents(status=status)
    async with a_stuck_order(world, incidents) as (settings, case_id):
        incidents.rows = [an_incident(case_id, "ACTIVE")]
        await run(settings, once=True, settle=SETTLE)
        assert await case_of(world) == ("OPEN", None, None)


async def ask_for_review(world: FlowWorld) -> None:
    """A cancellation that waits for a person."""
    request_id = RequestId(uuid.uuid4())
    etag = f'"order-version-{await world.owner.fetchval("select version from customer_order")}"'
    alice = ask.Envelope(world.tenant_id, uuid.uuid4(), Actor("alice", frozenset({"agent"})), if_match=etag)
    wish = ask.RequestCancellation(
        world.order_id,
        request_id,
        reason_code="CUSTOMER_CHANGED_MIND",
        scope="ORDER",
        item_ids=(),
        force_manual_review=True,
    )
    await world.door.handle(alice, wish)
    flow = Run(await world.owner.fetchval("select run from cancellation_request"))
    for step in (ask.BeginAssessment, ask.AssessCancellation):
        await world.door.handle(
            ask.Envelope(world.tenant_id, uuid.uuid4(), system_actor("test")), step(world.order_id, request_id, flow)
        )


# -- flows that are stuck, gone or too many ----------------------------------------------------------------------


async def note(
    world: FlowWorld, key: int, *, minutes: float = 10, run: uuid.UUID | None = None, process: str = "fulfillment"
) -> None:
    """The order's flow, as its first job met it so long ago."""
    await world.owner.execute(
        "insert into flow (tenant_id, order_id, run, instance_key, process, noted_at)"
        " select tenant_id, order_id, coalesce($2, run), $1, $4, now() - $3::interval from customer_order",
        key,
        run,
        timedelta(minutes=minutes),
        process,
    )


def an_instance(key: int, state: str = "ACTIVE", process: str = "fulfillment") -> dict[str, Any]:
    then = datetime.now(UTC) - timedelta(minutes=10)
    ended = {"endDate": (then + timedelta(minutes=5)).isoformat()} if state == "CANCELED" else {}
    return {"key": key, "bpmnProcessId": process, "startDate": then.isoformat(), "state": state, **ended}


def a_strange_incident(root: int, key: int = 9001, state: str = "ACTIVE") -> dict[str, Any]:
    return an_incident(uuid.uuid4(), state, key) | {
        "errorMessage": "failed to evaluate expression 'ship-to Ada'",
        "errorType": "EXTRACT_VALUE_ERROR",
        "flowNodeId": "closed",
        "jobKey": None,
        "treePath": f"PI_{root}/FN_call/FNI_3/PI_4/FN_x/FNI_5",
    }


async def test_an_incident_that_no_job_speaks_of_is_a_case_mended_from_here(world: FlowWorld) -> None:
    incidents = Incidents([a_strange_incident(4000)], [an_instance(4000)])
    world.engine.instances.add(4000)
    await note(world, 4000)
    async with searchable(world, incidents) as settings:
        await run(settings, once=True, settle=SETTLE)
        await run(settings, once=True, settle=SETTLE)
        assert await case_of(world) == ("OPEN", None, "9001")
        title = await world.owner.fetchval("select title from fallout_case")
        assert title == "The flow is stuck at closed of task (EXTRACT_VALUE_ERROR)"  # and no value of the flow
        assert await world.owner.fetchval("select state from customer_order") == "FALLOUT"
        olga = Actor("olga", frozenset({"operator"}))
        row = await world.owner.fetchrow("select case_id, version from fallout_case")
        assert row is not None
        case_id, version = row
        envelope = ask.Envelope(world.tenant_id, uuid.uuid4(), olga, if_match=f'"case-version-{version}"')
        await world.door.handle(envelope, ask.RepairCase(world.order_id, case_id, "RETRY", "SYSTEM_RECOVERED"))
        await run(settings, once=True, settle=SETTLE)
        (resolved,) = calls_of(world, "ResolveIncident")
        assert (resolved.incidentKey, calls_of(world, "UpdateJobRetries")) == (9001, [])
        assert len(await restarts(world)) == 1
        assert await world.owner.fetchval("select state from customer_order") == "IN_PROGRESS"


async def test_an_incident_of_no_order_is_told_and_stops_nothing(world: FlowWorld) -> None:
    incidents = Incidents([a_strange_incident(1)], [an_instance(1, process="payroll")])
    async with searchable(world, incidents) as settings:
        await run(settings, once=True, settle=SETTLE)
    assert await world.owner.fetchval("select count(*) from fallout_case") == 0
    await assert_shared(world)


async def assert_shared(world: FlowWorld) -> None:
    """One finding that is no tenant's, and that every tenant's operators read with what they can do about it."""
    strangers = TenantId(uuid.uuid4())
    for tenant_id in (world.tenant_id, strangers):
        page = await list_findings(
            world.pool, tenant_id, limit=9, after=None, klass="INCIDENT_WITHOUT_CASE", standing=True
        )
        (found,) = page.items
        assert (found["subject"], found["orderId"], found["repair"]) == ("9001", None, None)
        assert "of no order" in str(found["evidence"])
        assert "in Operate" in str(found["remedy"])
        shown = await read_dashboard(world.pool, tenant_id)
        assert {row["class"]: row["count"] for row in shown["findings"]}["INCIDENT_WITHOUT_CASE"] == 1


async def test_an_incident_that_names_an_order_which_nobody_has_is_nobodys(world: FlowWorld) -> None:
    told = {"tenant_id": uuid.uuid4(), "order_id": uuid.uuid4(), "run": uuid.uuid4()}
    variables = [{"name": name, "value": json.dumps(str(value))} for name, value in told.items()]
    variables.append({"name": "letter", "value": '"Dear customer, cut off by the search'})
    incidents = Incidents([a_strange_incident(4000)], [an_instance(4000)], variables)
    async with searchable(world, incidents) as settings:
        for _ in range(2):
            await run(settings, once=True, settle=SETTLE)
        await assert_shared(world)
        incidents.rows = [a_strange_incident(4000, state="RESOLVED")]
        await run(settings, once=True, settle=SETTLE)
    assert await world.owner.fetchval("select count(*) from finding where resolved_at is null") == 0


@pytest.mark.parametrize("run_known", [True, False])
async def test_an_incident_of_a_flow_that_no_job_met_is_its_variables_orders(world: FlowWorld, run_known: bool) -> None:
    """EC60: with the current run it is a stuck flow like any other; with no run that is known it blocks nothing."""
    run_now = await world.owner.fetchval("select run from customer_order")
    told = {"tenant_id": world.tenant_id, "order_id": world.order_id, "run": run_now if run_known else uuid.uuid4()}
    variables = [{"name": name, "value": json.dumps(str(value))} for name, value in told.items()]
    incidents = Incidents([a_strange_incident(4000)], [an_instance(4000)], [*variables, {"name": "n", "value": "7"}])
    async with searchable(world, incidents) as settings:
        await run(settings, once=True, settle=SETTLE)
        assert await case_of(world) == ("OPEN", None, "9001")
        row = await world.owner.fetchrow("select context, blocking from fallout_case")
        assert row is not None
        assert tuple(row) == (("FULFILLMENT", True) if run_known else ("RECONCILIATION", False))
        incidents.rows = [a_strange_incident(4000, state="RESOLVED")]
        await run(settings, once=True, settle=SETTLE)
        assert await case_of(world) == ("RESOLVED", "RESOLVED_IN_ENGINE", "9001")


async def test_a_flow_cancelled_in_operate_starts_again_at_once_with_its_deed_as_a_case(world: FlowWorld) -> None:
    incidents = Incidents(instances=[an_instance(4000, "CANCELED")])
    await note(world, 4000)
    async with searchable(world, incidents) as settings:
        await run(settings, once=True, settle=SETTLE)
        assert await case_of(world) == ("RESOLVED", "FLOW_RESTARTED", None)
        assert len(await restarts(world)) == 1
        await run(settings, once=True, settle=SETTLE)
        assert len(await restarts(world)) == 1
    row = await world.owner.fetchrow("select class, resolved_at is not null, repaired_at is not null from finding")
    assert row is not None
    assert tuple(row) == ("INSTANCE_GONE", True, True)


async def test_a_search_that_shows_an_end_which_the_engine_denies_restarts_nobody(world: FlowWorld) -> None:
    incidents = Incidents(instances=[an_instance(4000, "CANCELED")])
    world.engine.instances.add(4000)
    await note(world, 4000)
    async with searchable(world, incidents) as settings:
        await run(settings, once=True, settle=SETTLE)
    assert await restarts(world) == []


async def test_a_search_that_is_behind_proves_nothing(world: FlowWorld) -> None:
    """It shows no instance that is as new as what our own jobs met a while ago."""
    incidents = Incidents([a_strange_incident(4000)], [an_instance(3000)])
    world.engine.instances.add(4000)
    await note(world, 4000)
    async with searchable(world, incidents) as settings:
        await run(settings, once=True, settle=SETTLE)
        assert await world.owner.fetchval("select count(*) from fallout_case") == 0
        incidents.instances = [an_instance(3000), an_instance(4000)]
        await run(settings, once=True, settle=SETTLE)
        assert (await case_of(world))[0] == "OPEN"


async def test_without_a_search_the_engines_own_word_says_that_a_flow_is_gone(world: FlowWorld) -> None:
    await note(world, 4000)
    await run(world.settings, once=True, report_only=True, settle=SETTLE)
    assert await world.owner.fetchval("select class from finding") == "INSTANCE_UNKNOWN"
    assert await restarts(world) == []
    await run(world.settings, once=True, settle=SETTLE)
    assert len(await restarts(world)) == 1


async def test_an_engine_that_lost_its_data_gets_every_flow_anew(world: FlowWorld) -> None:
    """None of what was noted is known there any more, however long ago it was noted; nobody waits for a silence."""
    await ask_for_review(world)
    await note(world, 4000, minutes=60)
    request_run = await world.owner.fetchval("select run from cancellation_request")
    await note(world, 4001, minutes=50, run=request_run, process="cancellation")
    started = "select count(*) from engine_outbox where name = 'cancellation-requested'"
    before = await world.owner.fetchval(started)
    await run(world.settings, once=True, settle=SETTLE)
    rows = await world.owner.fetch("select class, repaired_at is not null from finding where class <> 'OUTBOX_STUCK'")
    assert [tuple(row) for row in rows] == [("ENGINE_LOST_DATA", True)] * 2
    assert (len(await restarts(world)), await world.owner.fetchval(started)) == (1, before + 1)
    assert await world.owner.fetchval("select run from cancellation_request") != request_run


async def lose_two_flows(world: FlowWorld) -> uuid.UUID:
    """Of the order and of its cancellation, both noted long ago; the run of the second."""
    await ask_for_review(world)
    await note(world, 4000, minutes=60)
    request_run: uuid.UUID = await world.owner.fetchval("select run from cancellation_request")
    await note(world, 4001, minutes=50, run=request_run, process="cancellation")
    return request_run


LOST = "select count(*) from finding where class = 'ENGINE_LOST_DATA' and repaired_at is not null"


async def test_a_loss_is_seen_though_all_that_was_begun_lately_has_ended(world: FlowWorld) -> None:
    """What has nothing to carry any more is no canary, gone or not."""
    await lose_two_flows(world)
    for key in range(5000, 5040):
        await note(world, key, run=uuid.uuid4())
    await run(world.settings, once=True, settle=SETTLE)
    assert await world.owner.fetchval(LOST) == 2


async def test_a_flow_whose_key_the_new_engine_has_given_out_again_is_lost(world: FlowWorld) -> None:
    """To the engine the key is that of a flow that runs, and that one goes on."""
    await ask_for_review(world)
    await note(world, 4000, minutes=60)
    request_run = await world.owner.fetchval("select run from cancellation_request")
    await note(world, 4000, minutes=5, run=request_run, process="cancellation")
    world.engine.instances.add(4000)
    await run(world.settings, once=True, settle=SETTLE)
    assert (await world.owner.fetchval(LOST), len(await restarts(world))) == (1, 1)
    assert await world.owner.fetchval("select run from cancellation_request") == request_run


async def test_a_loss_is_not_forgotten_before_it_is_mended(world: FlowWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is not ready for restarts when it is first asked; when it is, flows that are younger run there."""
    monkeypatch.setattr(reconciler, "SWEEP_SECONDS", 0.05)
    request_run = await lose_two_flows(world)
    world.engine.has_models = False
    watching = asyncio.create_task(run(world.settings, settle=SETTLE))
    try:
        await world.engine.until(lambda: len(calls_of(world, "CreateProcessInstance")) >= 1)
        world.engine.instances.add(4002)
        await note(world, 4002, minutes=1, run=request_run, process="cancellation")
        await world.engine.until(lambda: len(calls_of(world, "CreateProcessInstance")) >= 3)
        assert await restarts(world) == []
        world.engine.has_models = True
        await until_restarted(world)
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_who_takes_the_watch_amid_a_loss_goes_on_with_it(
    world: FlowWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one died after a page; what it had started anew runs, and says nothing of the flows that are left."""
    monkeypatch.setattr(reconciler, "_LOST_PAGE", 1)
    monkeypatch.setattr(reconciler, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(reconciler, "_CANARIES", 1)
    await lose_two_flows(world)
    await note(world, 4002, minutes=40, run=uuid.uuid4())
    await run(world.settings, once=True, settle=SETTLE)
    assert await restarts(world) == []
    request_run = await world.owner.fetchval("select run from cancellation_request")
    world.engine.instances.add(5000)
    await note(world, 5000, minutes=1, run=request_run, process="cancellation")
    watching = asyncio.create_task(run(world.settings, settle=SETTLE))
    try:
        await until_restarted(world)
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_flow_is_noted_under_a_key_that_a_lost_engine_gave_to_another(world: FlowWorld) -> None:
    """The workers live on while the engine begins anew: who keeps in mind only keys takes the second flow for the
    first, and our books say for ever that the lost one runs."""
    runs = [world.run, uuid.uuid4()]
    async with world.fleet():
        for flow_run in runs:
            given = {**world.ids, "run": str(flow_run), "plan_id": str(world.plan_id), "root": str(world.plan_id)}
            await world.verdict(await world.engine.add_job("release-tasks", **given))
            world.engine.lose_data()
    rows = await world.owner.fetch("select run, instance_key from flow order by noted_at")
    assert [row["run"] for row in rows] == runs
    assert len({row["instance_key"] for row in rows}) == 1


async def test_the_flow_of_an_ended_order_is_cancelled_after_its_wake_up_and_its_heartbeat(world: FlowWorld) -> None:
    incidents = Incidents(instances=[an_instance(4000)])
    world.engine.instances.add(4000)
    await note(world, 4000, minutes=60)
    ended = "update customer_order set state = 'COMPLETED', ended_at = now() - $1::interval"
    async with searchable(world, incidents) as settings:
        await world.owner.execute(ended, timedelta(minutes=10))
        await run(settings, once=True, settle=SETTLE)
        assert calls_of(world, "CancelProcessInstance") == []
        await world.owner.execute(ended, timedelta(minutes=20))
        await run(settings, once=True, settle=SETTLE)
        (cancelled,) = calls_of(world, "CancelProcessInstance")
        assert cancelled.processInstanceKey == 4000


# -- people's deadlines -------------------------------------------------------------------------------------------


async def jeopardy(world: FlowWorld) -> tuple[bool, int]:
    """Whether the open case is marked, and how often the world was told."""
    marked = await world.owner.fetchval("select jeopardy from fallout_case where closed_at is null")
    return marked, await world.owner.fetchval("select count(*) from outbox where type like '%JeopardyRaised%'")


async def give_until(world: FlowWorld, since: int, due: int) -> None:
    await world.owner.execute(
        "update fallout_case set opened_at = now() - $1::interval, sla_at = now() + $2::interval"
        " where closed_at is null",
        timedelta(minutes=since),
        timedelta(minutes=due),
    )


async def test_a_case_is_in_jeopardy_before_its_time_is_over(world: FlowWorld) -> None:
    """Told once, with the lead that such work has needed: a fifth of its time, until the past says more."""
    async with a_stuck_order(world, Incidents(status=404)) as (settings, _):
        await give_until(world, 60, 60)  # a fifth of two hours is less than the hour that is left
        await run(settings, once=True, settle=SETTLE)
        assert await jeopardy(world) == (False, 0)
        # Five cases of the kind took three hours each: begun now, this one would be late.
        await world.owner.execute(
            "insert into fallout_case (tenant_id, case_id, order_id, status, context, category, blocking, title,"
            " opened_at, sla_at, version, repairs, jeopardy, closed_at)"
            " select tenant_id, gen_random_uuid(), order_id, 'RESOLVED', context, category, false, title,"
            " now() - interval '4 hours', now(), 1, '[]', false, now() - interval '1 hour'"
            " from fallout_case, generate_series(1, 5) where closed_at is null"
        )
        await run(settings, once=True, settle=SETTLE)
        assert await jeopardy(world) == (True, 1)
        await run(settings, once=True, settle=SETTLE)
        assert await jeopardy(world) == (True, 1)
        finding = await world.owner.fetchrow("select class, resolved_at from finding where class like 'JEOPARDY%'")
        assert finding is not None
        assert tuple(finding) == ("JEOPARDY_PREDICTED", None)


async def test_a_review_is_in_jeopardy_before_its_time_is_over(world: FlowWorld) -> None:
    await ask_for_review(world)
    assert await world.owner.fetchval("select status from cancellation_request") == "REQUIRES_APPROVAL"
    for minutes, told in ((30, False), (20, True)):
        await world.owner.execute(
            "update cancellation_request set assessed_at = now() - interval '100 minutes',"
            " sla_at = now() + $1::interval",
            timedelta(minutes=minutes),
        )
        await run(world.settings, once=True, settle=SETTLE)
        assert await world.owner.fetchval("select jeopardy from cancellation_request") is told
