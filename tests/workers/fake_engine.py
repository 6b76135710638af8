"""The engine's gateway over a real channel: hands out jobs, takes completions and messages, and fails as it is told."""

# ruff: noqa: N802 - the protocol names its methods

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from pyzeebe.proto import gateway_pb2 as messages
from pyzeebe.proto.gateway_pb2_grpc import GatewayServicer, add_GatewayServicer_to_server

Code = grpc.StatusCode
# Its stubs call the methods that we leave out abstract; the class does not.
_Servicer: Any = GatewayServicer
_FIRST_KEY = 2251799813685249


@dataclass
class FakeJob:
    """A job as the engine keeps it: who has it until when, and how it ended."""

    key: int
    type: str
    variables: dict[str, Any]
    retries: int = 3
    free_at: float = 0.0
    deliveries: int = 0
    done: dict[str, Any] | None = None
    errors: list[tuple[int, str, int]] = field(default_factory=list)  # retries, text, back-off in ms

    @property
    def is_open(self) -> bool:
        return self.done is None and self.retries > 0


class FakeEngine(_Servicer):  # type: ignore[misc]
    """Plays the part of the protocol that we use. `fail` puts an error before the next answers of a method."""

    def __init__(self) -> None:
        self.jobs: dict[int, FakeJob] = {}
        self.published: dict[str, Any] = {}
        self.instances: set[int] = set()
        self.has_models = True
        self.calls: list[tuple[str, Any]] = []
        self.tokens: list[str] = []
        self.polls: dict[str, list[float]] = defaultdict(list)
        self.fetched: dict[str, tuple[str, ...]] = {}
        self.open_polls = 0
        self.most_at_once = 0
        self.address = ""
        self.refuse_message: Callable[[Any], tuple[grpc.StatusCode, str] | None] = lambda _: None
        self.is_silent: Callable[[Any], bool] = lambda _: False  # a message that is neither taken nor refused
        self._failures: dict[str, deque[tuple[grpc.StatusCode, str]]] = defaultdict(deque)
        self._changed = asyncio.Condition()
        self._keys = itertools.count(_FIRST_KEY)

    # -- the test's side ---------------------------------------------------------------------------------------

    def fail(self, method: str, code: grpc.StatusCode, details: str = "", times: int = 1) -> None:
        self._failures[method].extend([(code, details)] * times)

    @property
    def failures_left(self) -> int:
        return sum(len(left) for left in self._failures.values())

    async def add_job(self, job_type: str, **variables: Any) -> FakeJob:
        job = FakeJob(next(self._keys), job_type, variables)
        async with self._changed:
            self.jobs[job.key] = job
            self._changed.notify_all()
        return job

    def lose_data(self) -> None:
        """Everything is gone, and keys begin anew."""
        self.jobs.clear()
        self.published.clear()
        self.instances.clear()
        self._keys = itertools.count(_FIRST_KEY)

    async def until(self, is_so: Callable[[], bool], seconds: float = 10) -> None:
        """Return when it is so, looked at after everything that happens here."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(is_so)

    # -- the protocol ---------------------------------------------------------------------------------------------

    async def _begin(self, method: str, request: Any, context: grpc.aio.ServicerContext) -> None:
        async with self._changed:
            self.calls.append((method, request))
            self.tokens.extend(value for name, value in context.invocation_metadata() or () if name == "authorization")
            self._changed.notify_all()
        if self._failures[method]:
            code, details = self._failures[method].popleft()
            await context.abort(code, details)

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def ActivateJobs(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        self.polls[request.type].append(time.monotonic())
        self.fetched[request.type] = tuple(request.fetchVariable)
        await self._begin("ActivateJobs", request, context)
        ends = time.monotonic() + request.requestTimeout / 1000
        self.open_polls += 1
        try:
            while not (found := self._free(request)) and (left := ends - time.monotonic()) > 0:
                # Woken by what happens, and by a back-off that runs out. In this very task: one of its own would take
                # the lock along when the call is cut off while it takes it.
                with suppress(TimeoutError):
                    async with self._changed, asyncio.timeout(min(left, 0.05)):
                        await self._changed.wait()
            if found:
                yield messages.ActivateJobsResponse(jobs=[self._activate(job, request) for job in found])
        finally:
            self.open_polls -= 1
            await self._note()

    def _free(self, request: Any) -> list[FakeJob]:
        now = time.monotonic()
        free = [j for j in self.jobs.values() if j.type == request.type and j.is_open and j.free_at <= now]
        return free[: request.maxJobsToActivate]

    def _activate(self, job: FakeJob, request: Any) -> Any:
        job.free_at = time.monotonic() + request.timeout / 1000
        job.deliveries += 1
        fetched = {name: job.variables[name] for name in request.fetchVariable if name in job.variables}
        return messages.ActivatedJob(
            key=job.key,
            type=job.type,
            processInstanceKey=job.key + 1,
            elementInstanceKey=job.key + 2,
            bpmnProcessId="process",
            elementId=job.type,
            customHeaders="{}",
            worker=request.worker,
            retries=job.retries,
            deadline=int(time.time() * 1000) + request.timeout,
            variables=json.dumps(fetched if request.fetchVariable else job.variables),
        )

    async def CompleteJob(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._begin("CompleteJob", request, context)
        job = self.jobs.get(request.jobKey)
        if job is None or not job.is_open:
            await context.abort(Code.NOT_FOUND, "no such job")
        assert job is not None
        job.done = json.loads(request.variables)
        await self._note()
        return messages.CompleteJobResponse()

    async def FailJob(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._begin("FailJob", request, context)
        job = self.jobs.get(request.jobKey)
        if job is None or not job.is_open:
            await context.abort(Code.NOT_FOUND, "no such job")
        assert job is not None
        job.retries = request.retries
        job.free_at = time.monotonic() + request.retryBackOff / 1000
        job.errors.append((request.retries, request.errorMessage, request.retryBackOff))
        await self._note()
        return messages.FailJobResponse()

    async def PublishMessage(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._begin("PublishMessage", request, context)
        if self.is_silent(request):
            await asyncio.Event().wait()
        if refusal := self.refuse_message(request):
            await context.abort(*refusal)
        if request.messageId in self.published:
            await context.abort(Code.ALREADY_EXISTS, "published before")
        self.published[request.messageId] = request
        await self._note()
        return messages.PublishMessageResponse(key=next(self._keys))

    async def CreateProcessInstance(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Only the question whether there is a process: no instance of ours is begun but by message."""
        await self._begin("CreateProcessInstance", request, context)
        assert [start.elementId for start in request.startInstructions] == ["nowhere"]
        await context.abort(Code.INVALID_ARGUMENT if self.has_models else Code.NOT_FOUND, request.bpmnProcessId)

    async def Topology(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._begin("Topology", request, context)
        partition = messages.Partition(partitionId=1, role=messages.Partition.LEADER, health=messages.Partition.HEALTHY)
        return messages.TopologyResponse(
            brokers=[messages.BrokerInfo(partitions=[partition])], clusterSize=1, partitionsCount=1
        )

    async def SetVariables(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._begin("SetVariables", request, context)
        if request.elementInstanceKey not in self.instances:
            await context.abort(Code.NOT_FOUND, "no such element")
        return messages.SetVariablesResponse(key=next(self._keys))

    async def CancelProcessInstance(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._begin("CancelProcessInstance", request, context)
        if request.processInstanceKey not in self.instances:
            await context.abort(Code.NOT_FOUND, "no such process")
        self.instances.discard(request.processInstanceKey)
        return messages.CancelProcessInstanceResponse()

    async def UpdateJobRetries(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._begin("UpdateJobRetries", request, context)
        return messages.UpdateJobRetriesResponse()

    async def ResolveIncident(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._begin("ResolveIncident", request, context)
        return messages.ResolveIncidentResponse()


@asynccontextmanager
async def open_engine(
    address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[FakeEngine]:
    """A fake engine behind a real port, over TLS where it has credentials; `address` of one that ended starts it again
    in the same place."""
    engine = FakeEngine()
    server = grpc.aio.server()
    add_GatewayServicer_to_server(engine, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    engine.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield engine
    finally:
        await server.stop(None)
