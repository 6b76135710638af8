"""Many at once: counted beforehand, each once whatever dies, the bad ones told and passed by."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from domain.store.bulk import claim_rows
from domain.store.pool import Pool, open_pool
from domain.values import TenantId
from tests.postgres import Database
from tests.workers.api_world import ApiWorld
from tests.workers.test_api_cases import a_case
from workers.bulk import advance
from workers.local.home import free_port
from workers.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPERATOR = ("olga", "operator")
REASON = {"reasonCode": "CUSTOMER_CHANGED_MIND", "ratePerMinute": 60_000}


@pytest_asyncio.fixture(loop_scope="session")
async def auditor(api_database: Database) -> AsyncIterator[Pool]:
    pool = await open_pool(api_database.auditor_url, size=1)
    yield pool
    await pool.close()


async def expire_claims(database: Database, world: ApiWorld) -> None:
    """As if half a minute had passed since a process died."""
    owner = await asyncpg.connect(database.owner_url)
    await owner.execute("update bulk_row set claimed_until = now() - interval '1 s' where tenant_id = $1", world.tenant)
    await owner.close()


async def drive(world: ApiWorld, auditor: Pool, path: str) -> dict[str, Any]:
    """Let the job run to its end."""
    for _ in range(1000):
        await advance(world.pool, world.door, auditor, Settings())
        job = (await world.get(path, as_=OPERATOR)).json()
        if job["status"] == "DONE":
            return dict(job)
    raise AssertionError("the job does not end")


async def results(world: ApiWorld, path: str) -> list[dict[str, Any]]:
    return list((await world.get(f"{path}/results?limit=200", as_=OPERATOR)).json()["items"])


async def start(world: ApiWorld, noun: str, body: dict[str, Any], **more: Any) -> str:
    answer = await world.post(f"/{noun}", body, as_=OPERATOR, **more)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == answer.json()["links"]["self"]
    return str(answer.json()["links"]["self"])


async def test_a_dry_run_counts_and_does_nothing(world: ApiWorld) -> None:
    for _ in range(2):
        await world.create()
    await world.create(customer={"id": "c-1", "name": "Bo"})
    answer = await world.post(
        "/bulk-cancellations?dryRun=true", {**REASON, "filter": {"customerId": "c-9"}}, as_=OPERATOR
    )
    assert (answer.status_code, answer.json()) == (200, {"dryRun": True, "total": 2, "byState": {"ACKNOWLEDGED": 2}})
    assert (await world.rows("bulk_job"), await world.rows("cancellation_request")) == (0, 0)


async def test_every_order_is_cancelled_once_and_bad_ones_stop_nobody(world: ApiWorld, auditor: Pool) -> None:
    good = [await world.create() for _ in range(3)]
    busy = await world.create()
    await world.cancel(busy)
    others = replace(world, tenant=TenantId(uuid.uuid4()), calls=[])
    strange = await others.create()  # EC64: it is as absent as one that never was
    path = await start(
        world, "bulk-cancellations", {**REASON, "orderIds": [good[0], strange, busy, *good[1:], good[0]]}
    )
    job = await drive(world, auditor, path)
    assert (job["total"], job["done"], job["refused"], job["pending"], job["failed"]) == (5, 3, 2, 0, 0)
    told = {row["orderId"]: row for row in await results(world, path)}
    assert [told[order]["status"] for order in good] == ["DONE"] * 3
    assert (told[strange]["status"], told[strange]["code"]) == ("REFUSED", "ORDER_NOT_FOUND")
    assert (told[busy]["status"], told[busy]["code"]) == ("REFUSED", "CHANGE_ACTIVE")
    request = (await world.get(f"/orders/{good[0]}/cancellation-requests")).json()["items"][0]
    assert request["cancellationRequestId"] == told[good[0]]["cancellationRequestId"]
    assert request["requestedBy"] == "olga"
    assert (await others.get(f"/orders/{strange}")).json()["state"] == "ACKNOWLEDGED"


async def test_a_process_that_dies_in_the_middle_leaves_nobody_out_and_nobody_twice(
    world: ApiWorld, auditor: Pool, api_database: Database
) -> None:
    for _ in range(30):
        await world.create()
    path = await start(world, "bulk-cancellations", {**REASON, "filter": {"state": ["ACKNOWLEDGED"]}})
    job_id = uuid.UUID(path.rsplit("/", 1)[1])
    await advance(world.pool, world.door, auditor, Settings())
    assert (await world.get(path, as_=OPERATOR)).json()["done"] == 20
    # One process claims the rest and dies after carrying some of them out, before it could say so.
    lost = await claim_rows(world.pool, world.tenant, job_id, 20)
    assert len(lost) == 10
    await expire_claims(api_database, world)
    owner = await asyncpg.connect(api_database.owner_url)
    await owner.execute(
        "update bulk_row set status = 'CLAIMED', claimed_until = now() - interval '1 s', code = null"
        " where tenant_id = $1 and position <= 5",
        world.tenant,
    )
    await owner.close()
    job = await drive(world, auditor, path)
    assert (job["done"], job["total"]) == (30, 30)
    assert await world.rows("cancellation_request") == 30


async def test_whoever_carries_it_out_may_die_at_any_point(world: ApiWorld, api_database: Database) -> None:
    """EC66, with `recourse reconcile` itself: killed with rows claimed, with a command done and not marked, and with it
    marked; whoever comes next goes on. One poisoned order stops nobody."""
    orders = [await world.create() for _ in range(45)]
    await world.cancel(orders[30])
    path = await start(world, "bulk-cancellations", {**REASON, "filter": {"orderType": "STANDARD"}})
    for point in ("after-claim", "before-mark", "after-mark"):
        async with reconciling(api_database, f"{point}:bulk") as process:
            async with asyncio.timeout(100):
                assert await process.wait() == -signal.SIGKILL
        await expire_claims(api_database, world)
    assert (await world.get(path, as_=OPERATOR)).json()["status"] == "RUNNING"
    async with reconciling(api_database), asyncio.timeout(100):
        while (job := (await world.get(path, as_=OPERATOR)).json())["status"] != "DONE":
            await asyncio.sleep(0.05)
    assert (job["total"], job["done"], job["refused"], job["failed"]) == (45, 44, 1, 0)
    told = {row["orderId"]: (row["status"], row.get("code")) for row in await results(world, path)}
    assert told.pop(orders[30]) == ("REFUSED", "CHANGE_ACTIVE")
    assert set(told) == set(orders) - {orders[30]}
    assert await world.rows("cancellation_request") == 45
    for order_id in orders:
        kinds = [entry["kind"] for entry in (await world.get(f"/orders/{order_id}/timeline")).json()["items"]]
        assert kinds.count("CANCELLATION_REQUESTED") == 1


@asynccontextmanager
async def reconciling(database: Database, crash_at: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that carries jobs out, and has no engine to look at."""
    nowhere = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "workers.cli",
        "reconcile",
        env={
            **os.environ,
            "RECOURSE_DATABASE_URL": database.app_url,
            "RECOURSE_AUDITOR_DATABASE_URL": database.auditor_url,
            "RECOURSE_ENGINE_GRPC": nowhere,
            "RECOURSE_ENGINE_REST": f"http://{nowhere}",
            "RECOURSE_CRASH_AT": crash_at,
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def test_a_paused_job_rests_and_goes_on_where_it_was(world: ApiWorld, auditor: Pool) -> None:
    for _ in range(3):
        await world.create()
    path = await start(world, "bulk-cancellations", {**REASON, "filter": {}})
    paused = await world.post(f"{path}/pause", as_=OPERATOR)
    assert (paused.status_code, paused.json()["status"]) == (202, "PAUSED")
    assert await advance(world.pool, world.door, auditor, Settings()) == 0
    assert (await world.get(path, as_=OPERATOR)).json()["pending"] == 3
    await world.post(f"{path}/resume", as_=OPERATOR)
    assert (await drive(world, auditor, path))["done"] == 3
    over = await world.post(f"{path}/pause", as_=OPERATOR)
    assert (over.status_code, over.json()["code"]) == (409, "REQUEST_CLOSED")


async def test_a_rate_is_kept(world: ApiWorld, auditor: Pool) -> None:
    for _ in range(3):
        await world.create()
    await start(world, "bulk-cancellations", {**REASON, "filter": {}, "ratePerMinute": 1})
    dealt = [await advance(world.pool, world.door, auditor, Settings()) for _ in range(5)]
    assert sum(dealt) == 1  # the next one is due in a minute


async def test_cases_of_one_kind_are_repaired_together(world: ApiWorld, auditor: Pool) -> None:
    stuck = [await a_case(world) for _ in range(2)]
    other = await a_case(world, "reserve-inventory")
    body = {"action": "RETRY", "reasonCode": "SYSTEM_RECOVERED", "ratePerMinute": 60_000}
    chosen = {"filter": {"system": "resource"}}
    dry = await world.post("/bulk-repairs?dryRun=true", {**body, **chosen}, as_=OPERATOR)
    assert dry.json() == {"dryRun": True, "total": 2, "byCategory": {"BUSINESS": 2}}
    path = await start(world, "bulk-repairs", {**body, **chosen})
    assert (await drive(world, auditor, path))["done"] == 2
    assert {row["caseId"]: row["code"] for row in await results(world, path)} == {case: "RESOLVED" for _, case in stuck}
    for order_id, _ in stuck:
        assert (await world.get(f"/orders/{order_id}")).json()["state"] == "IN_PROGRESS"
    assert (await world.get(f"/orders/{other[0]}")).json()["state"] == "FALLOUT"


async def test_the_same_command_is_one_job(world: ApiWorld) -> None:
    await world.create()
    body = {**REASON, "filter": {}}
    first = await start(world, "bulk-cancellations", body, key="k-1")
    again = await world.post("/bulk-cancellations", body, as_=OPERATOR, key="k-1")
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()["links"]["self"]) == (
        200,
        "true",
        first,
    )
    assert await world.rows("bulk_job") == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"reasonCode": "CUSTOMER_CHANGED_MIND"}, "INVALID_BODY"),
        ({"reasonCode": "CUSTOMER_CHANGED_MIND", "filter": {}, "orderIds": [str(uuid.uuid4())]}, "INVALID_BODY"),
        ({"reasonCode": "CUSTOMER_CHANGED_MIND", "filter": {"colour": "red"}}, "INVALID_BODY"),
        ({"reasonCode": "CUSTOMER_CHANGED_MIND", "filter": {}, "ratePerMinute": 0}, "INVALID_BODY"),
        ({"reasonCode": "BORED", "filter": {}}, "REASON_UNKNOWN"),
    ],
)
async def test_what_cannot_be_meant_is_refused(world: ApiWorld, body: dict[str, Any], code: str) -> None:
    answer = await world.post("/bulk-cancellations", body, as_=OPERATOR)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_a_job_is_its_tenants_and_its_nouns(world: ApiWorld) -> None:
    await world.create()
    path = await start(world, "bulk-cancellations", {**REASON, "filter": {}})
    for elsewhere, tenant in ((path, uuid.uuid4()), (path.replace("cancellations", "repairs"), None)):
        answer = await world.get(elsewhere, as_=OPERATOR, tenant=TenantId(tenant) if tenant else None)
        assert (answer.status_code, answer.json()["code"]) == (404, "JOB_NOT_FOUND")
    agent = await world.post("/bulk-cancellations", {**REASON, "filter": {}}, as_=("alice", "agent"))
    assert agent.status_code == 403
