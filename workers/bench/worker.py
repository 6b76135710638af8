"""The bench about the fleet: a backlog of slow handlers against the arithmetic of its own limit, or against the engine
where that is slower. It must never use another profile than the fleet of `recourse worker`."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from pyzeebe import ZeebeClient
from pyzeebe.errors import ZeebeBackPressureError
from pyzeebe.grpc_internals.zeebe_adapter import ZeebeAdapter

from domain.handle import Door
from domain.store.flows import note_flow
from domain.store.pool import open_pool
from domain.store.staff import read_roles
from workers.bench.bed import Bed
from workers.bench.harness import Case, Run, Scale, interleave
from workers.gateways.engine import Engine, open_channel
from workers.gateways.systems import Systems
from workers.jobs.effects import LIMIT
from workers.jobs.fleet import Fleet
from workers.jobs.job import Context, JobSpec, Means
from workers.jobs.outcome import Done, Reply
from workers.models import deploy

HANDLER_SECONDS: Final = 0.05
_PATIENCE: Final = 600.0
_AT_ONCE: Final = 16
_TELLING: Final = 32
_BUSY_SECONDS: Final = 0.05

_MODEL: Final = """<?xml version="1.0" encoding="UTF-8"?>
<bpmn:definitions xmlns:bpmn="http://www.omg.org/spec/BPMN/20100524/MODEL"
    xmlns:zeebe="http://camunda.org/schema/zeebe/1.0" id="bench-model" targetNamespace="http://bpmn.io/schema/bpmn">
  <bpmn:process id="bench" isExecutable="true">
    <bpmn:startEvent id="begin"/>
    <bpmn:sequenceFlow id="to-work" sourceRef="begin" targetRef="work"/>
    <bpmn:serviceTask id="work">
      <bpmn:extensionElements><zeebe:taskDefinition type="=job_type" retries="3"/></bpmn:extensionElements>
    </bpmn:serviceTask>
    <bpmn:sequenceFlow id="to-end" sourceRef="work" targetRef="end"/>
    <bpmn:endEvent id="end"/>
  </bpmn:process>
</bpmn:definitions>
"""


async def measure_worker(bed: Bed, scale: Scale) -> list[Case]:
    """A backlog of 50 ms handlers ÷ ideal: limit ÷ handler time, or what the engine gives to a loop that does nothing
    with its jobs, where that is slower; at the limit of one outside system, and at half of it, which the engine of a
    small machine can keep up with.

    scale.amount: jobs in the backlog
    """
    settings = bed.settings.model_copy(update={"engine_grpc": await bed.engine(), "engine_rest": ""})
    model = bed.folder / "bench.bpmn"
    await asyncio.to_thread(_write_model, model)
    await deploy(settings, [model])
    async with bed.database() as database, AsyncExitStack() as stack:
        pool = await open_pool(database.app_url, size=1, name="bench")
        stack.push_async_callback(pool.close)
        channel = open_channel(settings)
        stack.push_async_callback(channel.close)
        systems, engine = Systems({}), Engine(channel, settings)
        stack.push_async_callback(systems.close)
        stack.push_async_callback(engine.close)
        means = Means(bed.settings, Door(pool), systems, engine, partial(read_roles, pool), partial(note_flow, pool))
        if not scale.quick:  # an engine that has just started is slow
            await _empty(channel, scale.amount)
        return [await _compare(channel, means, scale, limit) for limit in (LIMIT // 2, LIMIT)]


async def _compare(channel: Any, means: Means, scale: Scale, limit: int) -> Case:
    arithmetic = scale.amount * HANDLER_SECONDS / limit
    engine: list[float] = []

    async def ours(_: int) -> Run:
        return await _drain(channel, means, scale.amount, limit)

    async def ideal(_: int) -> Run:
        alone = await _empty(channel, scale.amount)
        engine.append(alone.rate)
        return Run(scale.amount, max(arithmetic, alone.seconds))

    pairs = await interleave(scale.repetitions, ours, ideal)
    notes = {
        "handlerSeconds": HANDLER_SECONDS,
        "backlog": scale.amount,
        "limitPerSecond": round(scale.amount / arithmetic, 1),
        "enginePerSecond": [round(rate, 1) for rate in engine],
        "ofLimit": [round(run.rate * arithmetic / scale.amount, 3) for run, _ in pairs],
    }
    return Case(f"limit {limit}", pairs, "rate", notes)


def _write_model(path: Path) -> None:
    path.write_text(_MODEL, encoding="utf-8")


async def _drain(channel: Any, means: Means, amount: int, limit: int) -> Run:
    """Create the backlog, then let a fleet of its own take it: from its first poll to the last job's end."""
    job_type = f"bench-{secrets.token_hex(4)}"
    await _create(channel, job_type, amount)
    times: list[float] = []
    finished = asyncio.Event()

    async def work(_: Context) -> Reply:
        began = time.perf_counter()
        await asyncio.sleep(HANDLER_SECONDS)
        times.append(time.perf_counter() - began)
        if len(times) >= amount:
            finished.set()
        return Done({})

    spec = JobSpec(job_type, ("job_type",), timedelta(seconds=60), work, limit)
    fleet = Fleet(ZeebeAdapter(channel, max_connection_retries=-1), means)
    started = time.perf_counter()
    fleet.employ({job_type: spec})
    try:
        async with asyncio.timeout(_PATIENCE):
            await finished.wait()
            while fleet.at_work:  # noqa: ASYNC110 - the last ones are still telling the engine
                await asyncio.sleep(0.002)
        seconds = time.perf_counter() - started
    finally:
        await fleet.drain()
    errors = {"done twice": len(times) - amount} if len(times) > amount else {}
    return Run(amount, seconds, tuple(times), errors)


async def _empty(channel: Any, amount: int) -> Run:
    """Such a backlog, taken from the engine by a loop that completes whatever it gets: as fast as the engine is."""
    job_type = f"bench-{secrets.token_hex(4)}"
    await _create(channel, job_type, amount)
    wire = ZeebeAdapter(channel, max_connection_retries=-1)
    left = amount
    telling: set[asyncio.Task[Any]] = set()
    enough = asyncio.Semaphore(_TELLING)

    async def complete(key: int) -> None:
        async with enough:
            while True:
                try:
                    await wire.complete_job(key, {})
                    break
                except ZeebeBackPressureError:
                    await asyncio.sleep(_BUSY_SECONDS)

    started = time.perf_counter()
    async with asyncio.timeout(_PATIENCE):
        while left:
            try:
                async for job in wire.activate_jobs(job_type, "bench", 60_000, _TELLING, ["job_type"], 5_000):
                    left -= 1
                    telling.add(asyncio.create_task(complete(job.key)))
            except ZeebeBackPressureError:
                await asyncio.sleep(_BUSY_SECONDS)
            telling = {task for task in telling if not task.done()}
            if len(telling) > _TELLING:
                _, telling = await asyncio.wait(telling, return_when=asyncio.FIRST_COMPLETED)
        if telling:
            await asyncio.wait(telling)
    return Run(amount, time.perf_counter() - started)


async def _create(channel: Any, job_type: str, amount: int) -> None:
    client = ZeebeClient(channel)
    left = iter(range(amount))

    async def create() -> None:
        for _ in left:
            while True:
                try:
                    await client.run_process("bench", variables={"job_type": job_type})
                    break
                except ZeebeBackPressureError:
                    await asyncio.sleep(_BUSY_SECONDS)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(create())
