"""What effect tests stand on: an order in a real database, the stand-in of the outside world, an engine that hands out
jobs when the test says so."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import uvicorn
from pyzeebe.grpc_internals.zeebe_adapter import ZeebeAdapter

from domain import commands as ask
from domain.handle import Door
from domain.store.flows import note_flow
from domain.store.pool import Pool, open_pool
from domain.store.staff import read_roles
from domain.values import Actor, OrderId, PlanId, Run, TenantId, system_actor
from tests.builders import an_order
from tests.postgres import Database
from tests.workers.api_world import load_shared_policy
from tests.workers.fake_engine import FakeEngine, FakeJob, open_engine
from workers.gateways.engine import Engine, open_channel
from workers.gateways.systems import Systems
from workers.jobs import fleet as fleet_module
from workers.jobs.fleet import Fleet
from workers.jobs.job import Means
from workers.jobs.registry import handlers
from workers.settings import Settings, variable_name
from workers.simulator.app import Simulator, make_app
from workers.simulator.book import Book

CALLS = {"inventory": timedelta(seconds=10)}


@dataclass
class FlowWorld:
    """One order, decomposed, whose first task (`reserve-inventory`) is handed out; and everything around it."""

    settings: Settings
    engine: FakeEngine
    door: Door
    pool: Pool
    owner: asyncpg.Connection
    simulator: str
    book_path: Path
    tenant_id: TenantId
    order_id: OrderId
    plan_id: PlanId
    run: Run
    task: dict[str, Any]

    @property
    def ids(self) -> dict[str, str]:
        return {"tenant_id": str(self.tenant_id), "order_id": str(self.order_id), "run": str(self.run)}

    async def add_effect(self, **more: Any) -> FakeJob:
        """The effect job of the task, as the walker's instance would create it."""
        given = {"task_id": self.task["task_id"], "release": self.task["release"]} | more
        return await self.engine.add_job("effect-inventory", **self.ids, **given)

    async def add_verification(self) -> FakeJob:
        given = {"task_id": self.task["task_id"], "release": self.task["release"]}
        return await self.engine.add_job("verify-effect", **self.ids, **given)

    async def verdict(self, job: FakeJob, seconds: float = 15) -> dict[str, Any]:
        await self.engine.until(lambda: job.done is not None, seconds)
        assert job.done is not None
        return job.done

    async def script(self, **fault: Any) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            (await http.post(f"{self.simulator}/faults", json=fault)).raise_for_status()

    def book(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.book_path.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def effects(self) -> list[tuple[str, int]]:
        rows = await self.owner.fetch("select state, attempt from effect order by intended_at")
        return [(row["state"], row["attempt"]) for row in rows]

    async def let_leases_end(self) -> None:
        await self.owner.execute("update effect set lease_until = now() where lease_until is not null")

    @asynccontextmanager
    async def fleet(self) -> AsyncIterator[Fleet]:
        """A fleet in this process, with the product's own handlers."""
        channel = open_channel(self.settings)
        systems, engine = Systems(self.settings.systems), Engine(channel, self.settings)
        asked = (partial(read_roles, self.pool), partial(note_flow, self.pool))
        means = Means(self.settings, self.door, systems, engine, *asked)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fleet_module, "LONG_POLL", timedelta(seconds=0.5))  # stopping waits for an open poll
            fleet = Fleet(ZeebeAdapter(channel, max_connection_retries=-1), means)
            fleet.employ(handlers(CALLS))
            try:
                yield fleet
            finally:
                await fleet.drain()
            await systems.close()
            await engine.close()
            await channel.close()

    async def start_worker(self, crash_at: str = "") -> asyncio.subprocess.Process:
        """`recourse worker all` as a process of its own."""
        told = self.settings.model_dump(
            include={"database_url", "auditor_database_url", "engine_grpc", "systems", "state_dir"}
        )
        told["systems"] = orjson.dumps(told["systems"]).decode()
        environment = {variable_name(name): str(value) for name, value in told.items()}
        environment["RECOURSE_CRASH_AT"] = crash_at
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers.cli", "worker", "all", env={**os.environ, **environment}
        )


@asynccontextmanager
async def open_flow_world(database: Database, folder: Path) -> AsyncIterator[FlowWorld]:
    await load_shared_policy(database.owner_url)
    pool = await open_pool(database.app_url, size=4)
    owner = await asyncpg.connect(database.owner_url)
    book_path = folder / "book.jsonl"
    config = uvicorn.Config(
        make_app(Simulator(Settings(), Book(book_path))),
        port=0,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with open_engine() as engine:
            while not server.started:
                await asyncio.sleep(0.005)
            simulator = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            settings = Settings(
                database_url=database.app_url,
                auditor_database_url=database.auditor_url,
                engine_grpc=engine.address,
                systems={"*": {"url": simulator}},
                RECOURSE_HOME=folder,
            )
            yield await start_order(settings, engine, pool, owner, simulator, book_path)
    finally:
        server.should_exit = True
        await serving
        pool.terminate()  # tests cut its connections; closing would wait for them
        await owner.close()


async def start_order(
    settings: Settings,
    engine: FakeEngine,
    pool: Pool,
    owner: asyncpg.Connection,
    simulator: str,
    book_path: Path,
) -> FlowWorld:
    """One order more, of a tenant of its own."""
    tenant, door, order = TenantId(uuid.uuid4()), Door(pool), an_order()

    async def do(command: ask.Command, actor: Actor | None = None) -> dict[str, Any]:
        envelope = ask.Envelope(tenant, uuid.uuid4(), actor or system_actor("test"))
        return dict((await door.handle(envelope, command)).body)

    await do(order, Actor("alice", frozenset({"agent"})))
    run = Run(await owner.fetchval("select run from customer_order where order_id = $1", order.order_id))
    await do(ask.ValidateOrder(order.order_id, run))
    await do(ask.CheckStartDate(order.order_id, run))
    planned = await do(ask.DecomposeOrder(order.order_id, run))
    plan_id, plan_run = PlanId(uuid.UUID(planned["plan_id"])), Run(uuid.UUID(planned["plan_run"]))
    wave = (await do(ask.ReleaseTasks(order.order_id, plan_id, plan_run)))["tasks"]
    (task,) = [task for task in wave if task["job_type"] == "effect-inventory"]
    return FlowWorld(
        settings, engine, door, pool, owner, simulator, book_path, tenant, order.order_id, plan_id, plan_run, task
    )
