"""The benches about whole cancellations on the real engine: asked over HTTP, carried by the flows, undone outside;
against the same models with workers that do nothing. The empty side must never run through fewer elements of them."""

from __future__ import annotations

import asyncio
import itertools
import re
import statistics
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

import grpc
import httpx
import orjson
from pyzeebe.grpc_internals.zeebe_adapter import ZeebeAdapter
from pyzeebe.proto.gateway_pb2 import PublishMessageRequest
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from domain.handle import Door
from domain.store.flows import note_flow
from domain.store.measuring import count_unsent, read_ends
from domain.store.outbox import EngineMessage, open_session, take_lead
from domain.store.pool import Pool, open_pool
from domain.store.staff import read_roles
from domain.values import OrderId, TenantId
from domain.values import Run as FlowRun
from workers.bench.bed import Bed, Database, UnfitError
from workers.bench.commands import BODY, Api, open_api
from workers.bench.harness import Case, Run, Scale, interleave, run_clients
from workers.bench.http import connections
from workers.bench.seeds import FIRST, TENANT, Seeds, cancel, etag, order_id, policy
from workers.gateways.engine import Engine, open_channel
from workers.gateways.systems import Systems
from workers.jobs.effects import PREFIX
from workers.jobs.fleet import Fleet
from workers.jobs.job import Context, JobSpec, Means, NoteFlow
from workers.jobs.outcome import Done, Reply
from workers.jobs.registry import handlers
from workers.local.home import free_port
from workers.models import deploy, model_files
from workers.settings import System

# What such an order has had done outside when it is cancelled: three effects, one of whose undoings waits for another.
DONE: Final = frozenset({"reserve-inventory", "assign-resource", "create-appointment"})
# Undoings that follow each other; the third goes beside them.
IN_A_ROW: Final = 2

_CLIENTS: Final = 8
_WARM: Final = 16
_PAUSE: Final = 1.0
_LOOK: Final = 0.05
_PATIENCE: Final = 300.0
# Where the numbers of a stage's orders begin.
_FIRSTS: Final = itertools.count(0, 1_000_000)
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ELEMENTS: Final = re.compile(r'zeebe_element_instance_events_total\{action="completed",type="(\w+)",.*\} ([\d.E]+)')
_ENDS: Final = re.compile(r'zeebe_executed_instances_total\{.*"ROOT_PROCESS_INSTANCE",action="completed".*\} ([\d.E]+)')


async def measure_flow(bed: Bed, scale: Scale) -> list[Case]:
    """Whole cancellations per second, eight clients asking ÷ the same models with workers that do nothing.

    Either side has ended when the engine has completed every instance.
    """
    async with _open_stage(bed) as stage:

        async def ours(_: int) -> Run:
            async with stage.product() as api:
                await stage.cancel(api, (scale.quick and 2) or _WARM)
                return await stage.cancel(api, scale.amount)

        async def bare(_: int) -> Run:
            async with stage.nothing() as nothing:
                await stage.replay(nothing, (scale.quick and 2) or _WARM)
                return await stage.replay(nothing, scale.amount)

        pairs = await interleave(scale.repetitions, ours, bare)
    return [Case(f"{_CLIENTS} clients", pairs, "rate", stage.notes)]


async def measure_latency(bed: Bed, scale: Scale) -> list[Case]:
    """How long one whole cancellation takes at one per second, without what the outside world took of it ÷ the same
    with workers that do nothing.

    From the request to the last undoing's outcome.
    """
    pause = 0.1 if scale.quick else _PAUSE
    async with _open_stage(bed) as stage:
        outside: list[float] = []

        async def ours(_: int) -> Run:
            async with stage.product() as api:
                await stage.cancel(api, (scale.quick and 2) or _WARM)
                outside.append(IN_A_ROW * await stage.ask_outside())
                run = await stage.cancel(api, scale.amount, pause=pause)
                return replace(run, times=tuple(taken - outside[-1] for taken in run.times))

        async def bare(_: int) -> Run:
            async with stage.nothing() as nothing:
                await stage.replay(nothing, (scale.quick and 2) or _WARM)
                return await stage.replay(nothing, scale.amount, pause=pause)

        pairs = await interleave(scale.repetitions, ours, bare)
    notes = stage.notes | {"outsidems": [round(seconds * 1000, 2) for seconds in outside]}
    return [Case(f"one in {_PAUSE:g} s", pairs, "median time", notes)]


# -- the stage: what both sides stand on --------------------------------------------------------------------------


@dataclass
class _Stage:
    """A database, an engine with the models, a simulator, and what one real cancellation did (`script`)."""

    bed: Bed
    database: Database
    seeds: Seeds
    app: Pool
    auditor: Pool
    relay: Pool
    settings: Mapping[str, object]
    system: str
    systems: Systems
    channel: grpc.aio.Channel
    _replayed: int
    script: _Script = field(init=False)

    @property
    def notes(self) -> dict[str, Any]:
        return {
            "undoings": self.script.undoings,
            "jobs": len(self.script.steps),
            "elements": dict(sorted(self.script.elements.items())),
        }

    def means(self, note: NoteFlow) -> Means:
        engine = Engine(self.channel, self.bed.settings)
        return Means(self.bed.settings, Door(self.app), self.systems, engine, partial(read_roles, self.app), note)

    @asynccontextmanager
    async def product(self) -> AsyncIterator[Api]:
        """API, workers and relay, as `recourse up` runs them."""
        async with AsyncExitStack() as stack:
            for name, arguments in (("workers", ("worker", "all")), ("relay", ("relay",))):
                port = free_port()
                part = self.bed.our_part(name, arguments, port, {**self.settings, "health_port": port})
                await stack.enter_async_context(self.bed.running(part))
            yield await stack.enter_async_context(open_api(self.bed, self.database))

    @asynccontextmanager
    async def nothing(self) -> AsyncIterator[_Nothing]:
        """The fleet with handlers that do nothing but repeat what the real ones have answered."""
        nothing = _Nothing(self.script, self.channel)
        fleet = Fleet(ZeebeAdapter(self.channel, max_connection_retries=-1), self.means(_note_nothing))
        fleet.employ(nothing.specs())
        try:
            yield nothing
        finally:
            await fleet.drain()

    async def cancel(self, api: Api, amount: int, pause: float = 0.0) -> Run:
        """So many orders cancelled: by clients that wait for an answer only, or one after each pause."""
        first = await self.seeds.add(amount)
        await _until(lambda: self._is_carried())
        fixed = {**api.headers, "If-Match": etag(DONE)}
        began: dict[uuid.UUID, float] = {}
        async with connections(api.url, _CLIENTS) as opened:

            async def ask(piece: int) -> str | None:
                name = order_id(first + piece)
                headers = fixed | {"Idempotency-Key": f"cancel-{first + piece}"}
                began[name] = time.time()
                path = f"/api/v1/orders/{name}/cancellation-requests"
                status, _ = await opened[piece % _CLIENTS].ask("POST", path, headers, BODY)
                return None if status == 202 else str(status)

            ends: dict[uuid.UUID, float | None] = {}

            async def have_ended() -> bool:
                ends.update(await read_ends(self.auditor, TENANT))
                return all(ends.get(name) for name in began)

            run = await self._measure(amount, ask, pause, have_ended)
        times = tuple(ended - at for name, at in began.items() if (ended := ends.get(name)))
        return replace(run, done=len(times), times=times)

    async def replay(self, nothing: _Nothing, amount: int, pause: float = 0.0) -> Run:
        """The same with workers that do nothing."""
        first = self._replayed
        self._replayed += amount
        nothing.ended.clear()
        began: dict[int, float] = {}

        async def ask(piece: int) -> str | None:
            began[first + piece] = time.time()
            await nothing.start(first + piece)
            return None

        async def have_ended() -> bool:
            return len(nothing.ended) >= amount

        run = await self._measure(amount, ask, pause, have_ended)
        return replace(run, times=tuple(nothing.ended[number] - at for number, at in began.items()))

    async def _measure(
        self,
        amount: int,
        ask: Callable[[int], Awaitable[str | None]],
        pause: float,
        have_ended: Callable[[], Awaitable[bool]],
    ) -> Run:
        """From the first asking until the engine has completed every instance; which elements they went through must
        be those of the script."""
        before = await self.look()
        started = time.perf_counter()
        if pause:
            errors: Counter[str] = Counter()
            for piece in range(amount):
                await asyncio.sleep(max(started + piece * pause - time.perf_counter(), 0))
                errors.update(filter(None, [await ask(piece)]))
        else:
            errors = Counter((await run_clients(_CLIENTS, amount, ask)).errors)
        after = before

        async def is_over() -> bool:
            nonlocal after
            if not await have_ended():
                return False
            after = await self.look()
            return after.instances - before.instances >= amount

        await _until(is_over)
        seconds = time.perf_counter() - started
        found = after.elements - before.elements
        wanted = Counter({name: count * amount for name, count in self.script.elements.items()})
        for name in found.keys() | wanted.keys():
            if found[name] != wanted[name]:
                errors[f"{name}: {found[name]} elements, not {wanted[name]}"] += 1
        return Run(amount, seconds, errors=dict(errors))

    async def look(self) -> _Look:
        return await read_engine(self.bed.engine_metrics)

    async def _is_carried(self) -> bool:
        return not await count_unsent(self.relay)

    async def ask_outside(self) -> float:
        """How long the simulator takes for one effect, asked by itself: the median, in seconds."""
        times: list[float] = []
        body = orjson.dumps({"tenantId": str(TENANT), "system": "bench", "taskType": "bench", "input": {}})
        async with connections(self.system, 1) as (connection,):
            for _ in range(50):
                effect_id = str(uuid.uuid4())
                headers = {"Idempotency-Key": effect_id, "Content-Type": "application/json"}
                began = time.perf_counter()
                status, _ = await connection.ask("PUT", f"/effects/{effect_id}", headers, body)
                times.append(time.perf_counter() - began)
                if status != 200:
                    raise UnfitError(f"the simulator answers {status}")
        return statistics.median(times)


@asynccontextmanager
async def _open_stage(bed: Bed) -> AsyncIterator[_Stage]:
    engine, kafka = await bed.engine(), await bed.kafka()
    reached = bed.settings.model_copy(update={"engine_grpc": engine})
    await deploy(reached, model_files())
    async with bed.database() as database, AsyncExitStack() as stack:
        port = free_port()
        system = f"http://127.0.0.1:{port}"
        systems = {"systems": orjson.dumps({"*": {"url": system}}).decode()}
        told = {"simulator_port": port, "state_dir": bed.folder, **systems}
        await stack.enter_async_context(bed.running(bed.our_part("simulator", ("simulate",), port, told)))
        pools = []
        for url, size in ((database.app_url, 4), (database.auditor_url, 1), (database.relay_url, 1)):
            pools.append(await open_pool(url, size=size, name="bench"))
            stack.push_async_callback(pools[-1].close)
        channel = open_channel(reached)
        stack.push_async_callback(channel.close)
        settings = {
            "database_url": database.app_url,
            "auditor_database_url": database.auditor_url,
            "relay_database_url": database.relay_url,
            "engine_grpc": engine,
            "kafka_bootstrap": kafka,
            "kafka_topic": f"bench-{database.name}",
            **systems,
        }
        app, auditor, relay = pools
        outside = Systems({"*": System(url=system)})
        stack.push_async_callback(outside.close)
        first = next(_FIRSTS)
        seeds = Seeds(app, DONE, first)
        stage = _Stage(bed, database, seeds, app, auditor, relay, settings, system, outside, channel, first)
        stage.script = await _record(stage)
        yield stage


async def _until(so: Callable[[], Awaitable[bool]]) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(_PATIENCE):
        while not await so():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_LOOK)


@dataclass(frozen=True, slots=True)
class _Look:
    """What the engine says that it has done. elements: completed, by type · instances: those that nobody called"""

    elements: Counter[str]
    instances: int


async def read_engine(url: str) -> _Look:
    """The engine's own count of what it has completed, from its metrics."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        text = (await client.get(url)).raise_for_status().text
    elements: Counter[str] = Counter()
    for name, count in _ELEMENTS.findall(text):
        elements[name] += int(float(count))
    return _Look(elements, sum(int(float(count)) for count in _ENDS.findall(text)))


# -- one real cancellation, recorded, and played by workers that do nothing ----------------------------------------


@dataclass
class _Script:
    """What the handlers answered in one real cancellation and what was published then, with ids that carry the number
    of the instance. steps: (job type, how manieth of it) → JSON {variables, messages}"""

    start: str = ""
    steps: dict[tuple[str, int], str] = field(default_factory=dict)
    elements: Counter[str] = field(default_factory=Counter)
    _names: dict[str, str] = field(default_factory=dict)

    @property
    def undoings(self) -> int:
        """Jobs that undo something."""
        return sum(job_type.startswith(PREFIX) for job_type, _ in self.steps)

    def keep(self, value: Any) -> str:
        """As text, every id in its numbered form."""

        def number(found: re.Match[str]) -> str:
            known = found[0]
            if known == str(TENANT):
                return known
            return self._names.setdefault(known, f"{len(self._names):08x}-0000-4000-8000-{FIRST:012d}")

        return _UUID.sub(number, orjson.dumps(value).decode())


def _number(text: str, number: int) -> Any:
    return orjson.loads(text.replace(str(FIRST), str(FIRST + number)))


def _describe(message: EngineMessage) -> dict[str, Any]:
    return {
        "name": message.name,
        "key": message.correlation_key,
        "variables": orjson.loads(message.variables),
        "ttl": message.ttl,
    }


async def _record(stage: _Stage) -> _Script:
    """Cancel one order with the real handlers, one at a time, and note what each of them brings about."""
    script = _Script()
    publisher = _Publisher(stage.channel)
    first = await stage.seeds.add(1)
    before = await stage.look()
    counts: Counter[str] = Counter()
    alone = asyncio.Lock()
    async with open_session(stage.database.relay_url, "bench") as session:
        outbox = await take_lead(session, "engine")
        assert outbox is not None

        async def carry() -> list[dict[str, Any]]:
            waiting = await outbox.next_messages(100)
            await outbox.mark_messages(message.id for message in waiting)
            told = [_describe(message) for message in waiting]
            for message in told:
                await publisher.publish(message)
            return told

        def recorded(spec: JobSpec) -> JobSpec:
            async def work(context: Context) -> Reply:
                async with alone:
                    reply = await spec.handler(context)
                    if not isinstance(reply, Done):
                        raise UnfitError(f"{spec.job_type} ended as {reply}")
                    counts[spec.job_type] += 1
                    told = {"variables": dict(reply.variables), "messages": await carry()}
                    script.steps[spec.job_type, counts[spec.job_type]] = script.keep(told)
                    return reply

            return replace(spec, handler=work)

        means = stage.means(partial(note_flow, stage.app))
        fleet = Fleet(ZeebeAdapter(stage.channel, max_connection_retries=-1), means)
        fleet.employ({name: recorded(spec) for name, spec in _specs().items()})
        try:
            envelope, command = cancel(first)
            await means.door.handle(replace(envelope, if_match=etag(DONE)), command)
            (start,) = await carry()
            script.start = script.keep(start)

            async def is_over() -> bool:
                return (await stage.look()).instances > before.instances

            await _until(is_over)
        finally:
            await fleet.drain()
    script.elements = (await stage.look()).elements - before.elements
    return script


def _specs() -> dict[str, JobSpec]:
    calls: dict[str, timedelta] = {}
    for task_type in policy().task_types.values():
        calls[task_type.system] = max(calls.get(task_type.system, timedelta()), task_type.timeout)
    return handlers(calls)


async def _note_nothing(
    tenant_id: TenantId,  # noqa: ARG001
    order_id: OrderId,  # noqa: ARG001
    flow_run: FlowRun,  # noqa: ARG001
    instance_key: int,  # noqa: ARG001
    process: str,  # noqa: ARG001
) -> None:
    return None


class _Publisher:
    """Messages as the relay publishes them, without an outbox."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = GatewayStub(channel)

    async def publish(self, message: Mapping[str, Any]) -> None:
        """Again while the engine is too busy. Raises grpc.RpcError for everything else."""
        request = PublishMessageRequest(
            name=message["name"],
            correlationKey=message["key"],
            messageId=str(uuid.uuid4()),
            timeToLive=message["ttl"] * 1000,
            variables=orjson.dumps(message["variables"]).decode(),
        )
        while True:
            try:
                await self._stub.PublishMessage(request, timeout=_PATIENCE)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(_LOOK)
            else:
                return


class _Nothing:
    """Handlers that answer by the script. ended: number of an instance → when its last undoing was answered"""

    def __init__(self, script: _Script, channel: grpc.aio.Channel) -> None:
        self.ended: dict[int, float] = {}
        self._script = script
        self._publisher = _Publisher(channel)
        self._met: Counter[tuple[int, str]] = Counter()

    async def start(self, number: int) -> None:
        await self._publisher.publish(_number(self._script.start, number))

    def specs(self) -> dict[str, JobSpec]:
        """One for each job type that the script knows, with the profile of the real one."""
        known = {job_type for job_type, _ in self._script.steps}
        return {name: replace(spec, handler=self._answer) for name, spec in _specs().items() if name in known}

    async def _answer(self, context: Context) -> Reply:
        number = int(context.text("order_id")[-12:]) - FIRST
        met = (number, context.job.type)
        self._met[met] += 1
        told = _number(self._script.steps[context.job.type, self._met[met]], number)
        for message in told["messages"]:
            await self._publisher.publish(message)
        if context.job.type.startswith(PREFIX):
            self._met[number, PREFIX] += 1
            if self._met[number, PREFIX] == self._script.undoings:
                self.ended[number] = time.time()
        return Done(told["variables"])
