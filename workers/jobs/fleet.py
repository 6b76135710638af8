"""The fleet: one poller per job type on pyzeebe's wire, in a profile that loses nothing. It must never stop polling
because the engine is ill, and never leave a job's end to chance.

pyzeebe's own worker sleeps five seconds after every failed poll, never repeats a completion and loses the jobs of a
poll that is open when it stops; its adapter, which speaks the protocol, is what runs below.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final

import structlog
from prometheus_client import Counter, Gauge, Histogram
from pyzeebe import Job
from pyzeebe.errors import (
    JobAlreadyDeactivatedError,
    JobNotFoundError,
    PyZeebeError,
    ZeebeBackPressureError,
)
from pyzeebe.grpc_internals.zeebe_adapter import ZeebeAdapter

from domain.handle import Door
from domain.policy import PolicyInvalid, parse_policy
from domain.store.flows import note_flow
from domain.store.outages import OUTAGES
from domain.store.policies import list_documents
from domain.store.pool import Pool, open_pool
from domain.store.staff import read_roles
from domain.values import Json, OrderId, Run
from workers.gateways.engine import Engine, Pressure, open_channel
from workers.gateways.systems import Systems
from workers.jobs.job import Context, JobSpec, Means
from workers.jobs.outcome import Again, Done, Later, OutageClock, Reply, Stuck, VariableError, describe, judge
from workers.jobs.registry import ALL, EFFECTS, handlers
from workers.notifications import Notifier
from workers.settings import Settings, SettingsError, variable_name
from workers.spans import Span, are_recorded, open_span
from workers.telemetry import serve_health

log = structlog.get_logger(__name__)

# Commands on the wire to the engine at once; fewer while it pushes back.
COMMANDS: Final = 24
# A poll that finds nothing stays open this long. Stopping waits for it: the engine may be handing jobs to it.
LONG_POLL: Final = timedelta(seconds=5)
DRAIN: Final = timedelta(seconds=25)
POLICY_REFRESH: Final = timedelta(seconds=3)

_COMMAND_SECONDS: Final = 5.0
_POLL_RETRY: Final = 0.05
_POLL_RETRY_LONGEST: Final = 2.0
_BUSY_LONGEST: Final = 0.4
_GATHER_SECONDS: Final = 0.05
# How long it may take until jobs that were asked for are there; how fast what a type usually takes is learned.
_AHEAD_SECONDS: Final = 0.1
_LATEST_SHARE: Final = 0.1
_STALE_SECONDS: Final = 5.0
_POOL_SIZE: Final = 16
# The flows that nobody called: those that an engineer opens in Operate, and that the reconciler asks for. A plan
# is one where it was started by message, which then says so.
_ROOTS: Final = frozenset({"fulfillment", "cancellation", "amendment"})
_NOTED_MOST: Final = 4096
_NOT_NOTED: Final[tuple[type[Exception], ...]] = (VariableError, *OUTAGES)
# Versions are numbered before they are committed: look back a little, so that one that commits late is not missed.
_LATE_VERSIONS: Final = 3

_FINISHED = Counter("recourse_jobs_finished", "Jobs by what became of them", ["job_type", "reply"])
_LOST = Counter("recourse_jobs_lost", "Jobs that the engine had given to another worker when we finished", ["job_type"])
_AT_WORK = Gauge("recourse_jobs_at_work", "Jobs at work", ["job_type"])
_PLACES = Gauge("recourse_jobs_places", "Jobs that this process has at work at most", ["job_type"])
_POLLED = Gauge("recourse_jobs_polled_at", "When a poll last came back well, in seconds since 1970", ["job_type"])
_SECONDS = Histogram("recourse_job_seconds", "From a job's arrival to the end of its handler", ["job_type"])


class Fleet:
    """All pollers of one process. `serve` until cancelled; then it drains."""

    def __init__(self, wire: ZeebeAdapter, means: Means) -> None:
        self._wire = wire
        self._means = means
        self._pressure = Pressure(COMMANDS)
        self._clock = OutageClock()
        self._pollers: dict[str, _Poller] = {}
        self._stopping = asyncio.Event()
        self._noted: dict[tuple[int, str], None] = {}
        self._name = f"{socket.gethostname()}-{os.getpid()}"

    @property
    def at_work(self) -> int:
        return sum(poller.at_work for poller in self._pollers.values())

    @property
    def job_types(self) -> frozenset[str]:
        return frozenset(self._pollers)

    def employ(self, specs: Mapping[str, JobSpec]) -> None:
        """Start a poller for every job type that has none; none is ever taken away, old plans may need it."""
        for spec in specs.values():
            poller = self._pollers.get(spec.job_type)
            if poller is None:
                for reply in (Done, Later, Again, Stuck):  # the first of a kind shall be seen as a rise from none
                    _FINISHED.labels(spec.job_type, _kind(reply))
                self._pollers[spec.job_type] = _Poller(
                    self._wire, spec, self._name, self._finish_within, self._room, self._stopping
                )
            else:
                poller.spec = spec  # a newer policy may allow longer calls
            _PLACES.labels(spec.job_type).set(min(spec.limit, self._means.settings.jobs_at_once))

    def troubles(self) -> dict[str, str]:
        """Job type → why it is not served. A poll that came back lately is the only sign of life that counts."""
        patience = 3 * LONG_POLL.total_seconds()
        now = time.monotonic()
        return {
            poller.spec.job_type: f"no good poll for {now - poller.last_good:.0f} s"
            for poller in self._pollers.values()
            if now - poller.last_good > patience and not poller.is_full
        }

    async def drain(self) -> None:
        """Stop polling, wait for the polls that are open, finish what runs. Gives up after DRAIN."""
        self._stopping.set()
        try:
            async with asyncio.timeout(DRAIN.total_seconds()):
                await asyncio.gather(*(poller.drained() for poller in self._pollers.values()))
        except TimeoutError:
            log.warning("stopped with jobs at work; the engine will hand them out again", jobs=self.at_work)

    def _room(self) -> int:
        """Places that one more poll may fill. Beyond `jobs_at_once` over all types a type still gets one at a time, so
        that a crowd elsewhere stops nobody."""
        in_hand = sum(poller.in_hand for poller in self._pollers.values())
        return max(self._means.settings.jobs_at_once - in_hand, 1)

    async def _finish_within(self, poller: _Poller, job: Job) -> None:
        spec = poller.spec
        started = time.monotonic()
        ends = started + spec.timeout.total_seconds()
        context = Context(self._means, job, gives_up_at=ends)
        order_id = job.variables.get("order_id")
        with structlog.contextvars.bound_contextvars(job_type=job.type, job_key=job.key, order_id=order_id):
            async with poller.place(), self._recorded(context) as span:
                if time.monotonic() - started > _STALE_SECONDS:
                    return  # too little of the lease is left to begin; it comes again
                reply = await self._carry_out(spec, context)
                span.note(reply=_kind(type(reply)))
                if isinstance(reply, Again | Stuck):
                    span.fail(reply.code)
            _SECONDS.labels(job.type).observe(time.monotonic() - started)
            _FINISHED.labels(job.type, _kind(type(reply))).inc()
            context.crash("before-complete")
            await self._send(job, reply, ends)
            context.crash("after-complete")

    @contextlib.asynccontextmanager
    async def _recorded(self, context: Context) -> AsyncIterator[Span]:
        """A span around the handler, caused by whoever set its flow going."""
        job, parent, since = context.job, None, None
        if are_recorded():
            try:
                order_id, run = OrderId(context.uuid("order_id")), Run(context.uuid("run"))
                cause = await self._means.door.find_cause(context.tenant_id, order_id, run)
            except _NOT_NOTED:
                cause = None
            parent, since = cause or (None, None)
        told = {name: job.variables.get(name) for name in ("order_id", "tenant_id")}
        with open_span("job", job.type, parent=parent, since=since, job_type=job.type, job_key=job.key, **told) as span:
            yield span

    async def _carry_out(self, spec: JobSpec, context: Context) -> Reply:
        if context.job.bpmn_process_id in _ROOTS or "root" in context.job.variables:
            await self._note_flow(context)
        try:
            reply = await spec.handler(context)
        # The edge: whatever a handler raises ends its job by the table, and nothing ends the poller.
        except Exception as error:  # noqa: BLE001
            reply = judge(error, self._clock)
            log.warning("job not done", code=reply.code, **describe(error))  # type: ignore[union-attr]
            return reply
        self._clock.note_health()
        if isinstance(reply, Stuck):
            log.warning("job stuck", code=reply.code, subject=reply.subject)
        return reply

    async def _note_flow(self, context: Context) -> None:
        """Once per instance; on an engine that lost its data keys come again, and only with its run is one an identity.
        Without it a link is missing; no job waits for that or fails with it."""
        key = context.job.process_instance_key
        try:
            order_id, run = OrderId(context.uuid("order_id")), Run(context.uuid("run"))
            if (key, str(run)) in self._noted:
                return
            process = context.job.bpmn_process_id
            await self._means.note_flow(context.tenant_id, order_id, run, key, process)
        except _NOT_NOTED as error:
            log.warning("flow not noted", **describe(error))
            return
        self._noted[key, str(run)] = None
        if len(self._noted) > _NOTED_MOST:
            del self._noted[next(iter(self._noted))]

    async def _send(self, job: Job, reply: Reply, ends: float) -> None:
        """Tell the engine, again and again until the lease ends. What was committed stays; a lost completion comes
        back as the same job and gets the same answer."""
        attempt = 0
        while True:
            try:
                async with self._pressure.turn(), asyncio.timeout(_COMMAND_SECONDS):
                    await self._tell(job, reply)
                    return self._pressure.ease()
            except (JobNotFoundError, JobAlreadyDeactivatedError):
                _LOST.labels(job.type).inc()
                log.warning("the engine no longer waits for this job")
                return None
            except (PyZeebeError, TimeoutError) as error:
                if isinstance(error, ZeebeBackPressureError):
                    self._pressure.push_back()
                if isinstance(reply, Done) and _is_too_large(error):
                    log.warning("the engine does not take the variables", **describe(error))
                    reply = Stuck("VARIABLES_REFUSED")
                attempt += 1
                pause = min(0.05 * 2**attempt, 2.0) * random.uniform(0.5, 1.5)
                if time.monotonic() + pause > ends:
                    log.warning("the engine was not told before the lease ended", **describe(error))
                    return None
                await asyncio.sleep(pause)

    async def _tell(self, job: Job, reply: Reply) -> None:
        match reply:
            case Done(variables):
                await self._wire.complete_job(job.key, dict(variables))
            case Later(seconds, code):
                await self._fail(job, job.retries, seconds, code, None)
            case Again(seconds, code):
                await self._fail(job, job.retries - 1, seconds, code, None)
            case Stuck(code, subject):
                await self._fail(job, 0, 0.0, code, subject)

    async def _fail(self, job: Job, retries: int, seconds: float, code: str, subject: str | None) -> None:
        text = f"{code} {subject}" if subject else f"{code} {_correlation(self._means, job)}"
        await self._wire.fail_job(
            job_key=job.key,
            retries=max(retries, 0),
            message=text,
            retry_back_off_ms=math.ceil(seconds * 1000),
            variables={},
        )


def _kind(reply: type[Reply]) -> str:
    return reply.__name__.lower()


def _correlation(means: Means, job: Job) -> str:
    """The id under which log and receipt know this job; its key where the job lacks even the ids."""
    try:
        return str(Context(means, job, 0.0).correlation_id)
    except VariableError:
        return str(job.key)


def _is_too_large(error: Exception) -> bool:
    return "exceeds maximum size" in str(error.__cause__ or error) or "INVALID_ARGUMENT" in str(error.__cause__ or "")


def jobs_ahead(limit: int, seconds: float) -> int:
    """How many jobs wait for a place so that none is free until more have come, where `limit` of them take so many
    seconds each. Where they are slow these are few: what waits here, nobody else can do."""
    return max(round(limit * _AHEAD_SECONDS / max(seconds, _AHEAD_SECONDS)), 1)


class _Poller:
    """One job type: a long poll at a time, its jobs as tasks, a limit of its own."""

    def __init__(
        self,
        wire: ZeebeAdapter,
        spec: JobSpec,
        name: str,
        finish: Callable[[_Poller, Job], Coroutine[Any, Any, None]],
        room: Callable[[], int],
        stopping: asyncio.Event,
    ) -> None:
        self.spec = spec
        self.last_good = time.monotonic()
        self._wire = wire
        self._name = name
        self._finish = finish
        self._room = room
        self._stopping = stopping
        self._places = asyncio.Semaphore(spec.limit)
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[Any] | None] = set()
        self._seconds = 2 * _AHEAD_SECONDS  # that a handler takes; a guess, until some have been seen
        self._freed = asyncio.Event()
        self._loop = asyncio.create_task(self._poll(), name=f"poll {spec.job_type}")

    @property
    def at_work(self) -> int:
        """Jobs that are not over: they wait for a place, have one, or the engine is being told."""
        return len(self._tasks)

    @property
    def in_hand(self) -> int:
        """Those of which the engine is not being told yet."""
        return len(self._tasks) - len(self._telling)

    @property
    def most(self) -> int:
        """Jobs in hand: as many as may be at work, and some that wait for a place."""
        return self.spec.limit + jobs_ahead(self.spec.limit, self._seconds)

    @property
    def is_full(self) -> bool:
        return not self._free

    @property
    def _free(self) -> int:
        """Jobs that may be asked for. An engine that is slow to be told is not asked for ever more."""
        return min(self.most - self.in_hand, 2 * self.most - self.at_work)

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the places for work; who leaves it has yet to tell the engine, and needs none for that."""
        async with self._places:
            began = time.monotonic()
            try:
                yield
            finally:
                self._seconds += (time.monotonic() - began - self._seconds) * _LATEST_SHARE
        self._telling.add(asyncio.current_task())
        self._freed.set()

    async def drained(self) -> None:
        """Return when the open poll has come back and its jobs, and all others, have ended."""
        await self._loop
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _poll(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            room = await self._gather_room()
            if not room:
                continue
            try:
                async for job in self._wire.activate_jobs(
                    task_type=self.spec.job_type,
                    worker=self._name,
                    timeout=math.ceil(self.spec.timeout.total_seconds() * 1000),
                    max_jobs_to_activate=room,
                    variables_to_fetch=self.spec.fetch,
                    request_timeout=math.ceil(LONG_POLL.total_seconds() * 1000),
                ):
                    self._start(job)
            except PyZeebeError as error:
                failures += 1
                log.log(
                    logging.WARNING if failures == 1 else logging.DEBUG,
                    "poll failed",
                    job_type=self.spec.job_type,
                    **describe(error),
                )
                # An engine that is busy needs a moment; one that is away need not be asked so often.
                longest = _BUSY_LONGEST if isinstance(error, ZeebeBackPressureError) else _POLL_RETRY_LONGEST
                pause = min(_POLL_RETRY * 2 ** min(failures - 1, 10), longest)
                await self._wait(self._stopping, pause * random.uniform(0.7, 1.3))
            else:
                failures = 0
                self.last_good = time.monotonic()
                _POLLED.labels(self.spec.job_type).set_to_current_time()

    async def _gather_room(self) -> int:
        """How many jobs to ask for: a handful at once is cheaper for the engine than one and one and one; 0 when
        there is no place (ask again)."""
        ends = time.monotonic() + _GATHER_SECONDS
        while not self._stopping.is_set():
            free = max(self._free, 0)
            left = ends - time.monotonic()
            if free and (2 * free >= self.spec.limit or left <= 0):
                return min(free, self._room())
            self._freed.clear()
            await self._wait(self._freed, left if free else _GATHER_SECONDS * 10)
        return 0

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.001)):
                await event.wait()

    def _start(self, job: Job) -> None:
        task = asyncio.create_task(self._finish(self, job), name=f"{job.type} {job.key}")
        self._tasks.add(task)
        _AT_WORK.labels(job.type).set(self.at_work)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._telling.discard(task)
        _AT_WORK.labels(self.spec.job_type).set(self.at_work)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job was left to its lease", job_type=self.spec.job_type, **describe(error))


# -- the process -------------------------------------------------------------------------------------------------


async def run(settings: Settings, families: Collection[str] = ALL) -> None:
    """`recourse worker NAME`: the job types of one family or of all, until cancelled; then drain."""
    missing = {variable_name(name): "is not set" for name in needed_by(families) if not getattr(settings, name)}
    if missing:
        raise SettingsError(missing)
    troubles: dict[str, str] = {"database": "not reached yet"}
    fleet: Fleet | None = None

    def tell_troubles() -> Mapping[str, str]:
        return troubles | (fleet.troubles() if fleet else {})

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve_health(settings, tell_troubles))
        pool = await _reach(settings.database_url, _POOL_SIZE)
        stack.push_async_callback(_close_pool, pool)
        channel = open_channel(settings)
        stack.push_async_callback(channel.close)
        engine = Engine(channel, settings)
        stack.push_async_callback(engine.close)
        systems = Systems(settings.systems, settings.ca_file)
        stack.push_async_callback(systems.close)
        find_roles, note = functools.partial(read_roles, pool), functools.partial(note_flow, pool)
        means = Means(settings, Door(pool), systems, engine, find_roles, note)
        fleet = Fleet(ZeebeAdapter(channel, max_connection_retries=-1), means)
        stack.push_async_callback(fleet.drain)
        troubles.clear()
        fleet.employ(handlers(families=families))
        if EFFECTS not in families:
            await asyncio.Event().wait()
        auditor = await _reach(settings.auditor_database_url, 1)
        stack.push_async_callback(_close_pool, auditor)
        # Who calls outside systems may also call those outside who listen; no other process is let out.
        async with asyncio.TaskGroup() as group:
            group.create_task(Notifier(pool, auditor, settings).work())
            await _follow_policies(auditor, fleet, families)


def needed_by(families: Collection[str]) -> tuple[str, ...]:
    """The settings without which these families cannot work. Only who calls outside systems knows where they are, and
    reads every tenant's policy to know which there are."""
    return (
        "database_url",
        "engine_grpc",
        *(("auditor_database_url", "systems") if EFFECTS in families else ()),
    )


async def _reach(database_url: str, size: int) -> Pool:
    """A pool, as soon as the database lets us in; an outage at start is no reason to die."""
    clock = OutageClock(longest=5.0)
    while True:
        try:
            return await open_pool(database_url, size=size, name="workers")
        except OUTAGES as outage:
            log.warning("the database does not let us in yet", **describe(outage))
            await asyncio.sleep(clock.next_pause())


async def _close_pool(pool: Pool) -> None:
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _follow_policies(auditor: Pool, fleet: Fleet, families: Collection[str]) -> None:
    """Serve the systems of every policy that was ever in force: plans carry the types of their day with them."""
    calls: dict[str, timedelta] = {}
    known: set[int] = set()
    while True:
        try:
            async with auditor.acquire() as connection:
                documents = await list_documents(connection, max(known, default=0) - _LATE_VERSIONS)
        except OUTAGES as outage:
            log.warning("policies not read", **describe(outage))
            documents = []
        for version, document in documents:
            if version not in known:
                known.add(version)
                _note_calls(calls, version, document)
        fleet.employ(handlers(calls, families))
        await asyncio.sleep(POLICY_REFRESH.total_seconds())


def _note_calls(calls: dict[str, timedelta], version: int, document: Json) -> None:
    try:
        policy = parse_policy(document)
    except PolicyInvalid:
        # Written by another release and not understood by this one; its orders are served by workers that do.
        log.exception("policy not understood", version=version)
        return
    for task_type in policy.task_types.values():
        calls[task_type.system] = max(calls.get(task_type.system, timedelta()), task_type.timeout)
