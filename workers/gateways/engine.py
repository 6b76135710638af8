"""Asks and mends the engine where the job library cannot: readiness, who completed a user task, incidents. It must
never be asked for an order's state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import grpc
import httpx
from prometheus_client import Counter
from pyzeebe import create_insecure_channel, create_secure_channel
from pyzeebe.proto.gateway_pb2 import (
    CancelProcessInstanceRequest,
    CreateProcessInstanceRequest,
    ProcessInstanceCreationStartInstruction,
    ResolveIncidentRequest,
    SetVariablesRequest,
    TopologyRequest,
    UpdateJobRetriesRequest,
)
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from workers.gateways.access import BearerAuth, NoTokenError, Tokens, open_context, read_roots
from workers.gateways.dialects import (
    TOPOLOGY,
    Cursor,
    Dialect,
    Question,
    SeenIncident,
    SeenInstance,
    Which,
    choose_dialect,
    read_texts,
)
from workers.settings import Settings

_PUSHED_BACK = Counter("recourse_engine_pushed_back", "Commands that the engine was too busy for")

_SECONDS: Final = 5.0
_STANDING: Final = ("PENDING", "ACTIVE")
_RESOLVED: Final = "RESOLVED"
_MOST: Final = 1000
# Instances per question, newest or oldest first; the rest is asked for next time.
_PAGE: Final = 200
_PROBES: Final = 8
_PARTITION: Final = 51
# Deployed with all others, and started by every order.
_PROCESS: Final = "fulfillment"
# How an engine without the consoles' storage says that it cannot search: 8.6 knows no such route, later ones forbid it.
_NO_SEARCH: Final = frozenset({403, 404, 405, 501})


@dataclass(frozen=True, slots=True)
class Completion:
    """Who completed a user task. `assignee` None: nobody was assigned, so nobody has decided."""

    assignee: str | None


def is_older(seen: SeenInstance, key: int) -> bool:
    """Whether an instance began before another one of the same partition, whose number leads its keys."""
    return seen.key >> _PARTITION == key >> _PARTITION and seen.key < key


class NotYetVisibleError(Exception):
    """The engine's search lags behind; ask again in a moment."""


class EngineRefusedError(Exception):
    """The engine did not do it; the message is its code."""


class NoSearchError(Exception):
    """This engine cannot be searched: it runs without the consoles."""


# The one safe profile: it reconnects for ever, within two seconds of when the engine is there again. The least back-off
# is also how long the library waits for a new connection's first word: an engine that has just begun is late with it.
# A wire that died without a word is noticed after both of these and not before; the gateway allows a ping every 30 s.
KEEPALIVE: Final = (("grpc.keepalive_time_ms", 45_000), ("grpc.keepalive_timeout_ms", 10_000))
_CHANNEL: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
)


def open_channel(settings: Settings) -> grpc.aio.Channel:
    """A channel to the engine's gateway; over TLS, and with a token of its own for each call, where that is set."""
    if not settings.engine_tls:
        return create_insecure_channel(settings.engine_grpc, channel_options=(*_CHANNEL, *KEEPALIVE))
    credentials = grpc.ssl_channel_credentials(root_certificates=read_roots(settings.ca_file))
    if settings.engine_client_id:
        token = grpc.metadata_call_credentials(_Token(Tokens(settings)))
        credentials = grpc.composite_channel_credentials(credentials, token)
    return create_secure_channel(
        settings.engine_grpc, channel_options=(*_CHANNEL, *KEEPALIVE), channel_credentials=credentials
    )


async def ask_for_models(stub: Any) -> bool | None:
    """Whether the engine has our processes; one that lost its data has none until they are deployed again, and a start
    that it is told before is heard by nobody, not even then. None: it gives no clear answer."""
    # An instance that cannot begin: the engine looks for its process first, and for the element then.
    nowhere = ProcessInstanceCreationStartInstruction(elementId="nowhere")
    request = CreateProcessInstanceRequest(bpmnProcessId=_PROCESS, version=-1, startInstructions=[nowhere])
    try:
        await stub.CreateProcessInstance(request, timeout=_SECONDS)
    except grpc.aio.AioRpcError as error:
        return {grpc.StatusCode.NOT_FOUND: False, grpc.StatusCode.INVALID_ARGUMENT: True}.get(error.code())
    return None


class _Token(grpc.AuthMetadataPlugin):  # type: ignore[misc]
    """Called by the wire in a thread of its own; without a token the call fails as UNAVAILABLE and is tried again."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        try:
            callback((("authorization", f"Bearer {self._tokens.get()}"),), None)
        except NoTokenError as error:
            callback((), error)


class Pressure:
    """How many commands may be on the wire at once: halved when the engine pushes back, one more after each round of
    successes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._allowed = float(most)
        self._busy = 0
        self._free = asyncio.Condition()

    @property
    def allowed(self) -> int:
        return int(self._allowed)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place on the wire and hold it."""
        async with self._free:
            await self._free.wait_for(lambda: self._busy < self.allowed)
            self._busy += 1
        try:
            yield
        finally:
            async with self._free:
                self._busy -= 1
                self._free.notify_all()

    def push_back(self) -> None:
        _PUSHED_BACK.inc()
        self._allowed = max(2.0, self._allowed / 2)

    def ease(self) -> None:
        self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)


class Engine:
    """The engine's gateway, over gRPC and (for searching) REST; `close` when done."""

    def __init__(self, channel: grpc.aio.Channel, settings: Settings) -> None:
        self._stub: Any = GatewayStub(channel)
        self._rest = _open_rest(settings) if settings.engine_rest else None
        self._operate: httpx.AsyncClient | None = None  # for the one question that 8.6 answers only there
        if settings.operate_url and settings.operate_login:
            base = settings.operate_url.removesuffix("/operate")
            self._operate = httpx.AsyncClient(
                base_url=base, timeout=_SECONDS, trust_env=False, verify=open_context(settings.ca_file)
            )
        self._login = settings.operate_login
        self._dialect: Dialect | None = None  # until the engine has said of which version it is

    async def is_ready(self) -> bool:
        """Whether every partition has a healthy leader; False, too, while nobody answers."""
        try:
            topology = await self._stub.Topology(TopologyRequest(), timeout=_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        led = {
            partition.partitionId
            for broker in topology.brokers
            for partition in broker.partitions
            if partition.role == partition.LEADER and partition.health == partition.HEALTHY
        }
        return bool(led) and len(led) == topology.partitionsCount

    async def lacks_models(self) -> bool:
        """Whether it says that it has none of our processes."""
        return await ask_for_models(self._stub) is False

    async def find_completion(self, process_instance_key: int, before: int) -> Completion:
        """Who completed the newest user task of this instance that began before the element instance `before`.

        Raises NotYetVisibleError while the search does not show it as completed, NoSearchError where there is no
        search, httpx.HTTPError where nobody answers, or not well.
        """
        dialect = await self._speak()
        shown = await self._search(dialect.ask_user_tasks(process_instance_key))
        tasks = [task for task in map(dialect.read_user_task, shown) if task.begun < before]
        # A person sees the task in the same index that answers here: the newest one shown is the one they completed.
        newest = max(tasks, key=lambda task: task.begun, default=None)
        if newest is None or not newest.is_completed:
            raise NotYetVisibleError
        return Completion(newest.assignee)

    async def find_incidents(self, since: datetime) -> list[SeenIncident]:
        """Every incident that stands, and those resolved that began since then; newest first, at most 1000 of each.

        Raises NoSearchError where there is no search, httpx.HTTPError where nobody answers, or not well.
        """
        found = {row.key: row for state in _STANDING for row in await self._search_incidents(state)}
        # Last: what was resolved between the questions is told as resolved.
        resolved = await self._search_incidents(_RESOLVED)
        found |= {row.key: row for row in resolved if row.created_at >= since}
        return sorted(found.values(), key=lambda row: row.created_at, reverse=True)

    async def _search_incidents(self, state: str) -> list[SeenIncident]:
        dialect = await self._speak()
        return [dialect.read_incident(row) for row in await self._search(dialect.ask_incidents(state, _MOST))]

    async def find_cancelled(self) -> list[SeenInstance]:
        """The instances that were cancelled last. Raises as `find_incidents`."""
        found, _ = await self._search_instances("CANCELLED", "endDate", _PAGE)
        return found

    async def find_running(self, cursor: Cursor | None) -> tuple[list[SeenInstance], Cursor | None]:
        """One page of the running instances, oldest first, and where the next begins; None after the last."""
        return await self._search_instances("RUNNING", "startDate", _PAGE, cursor, newest=False)

    async def find_newest(self) -> SeenInstance | None:
        """The instance that was started last, of those that the search shows."""
        found, _ = await self._search_instances("ANY", "startDate", 1)
        return found[0] if found else None

    async def _search_instances(
        self, which: Which, field: str, limit: int, cursor: Cursor | None = None, *, newest: bool = True
    ) -> tuple[list[SeenInstance], Cursor | None]:
        dialect = await self._speak()
        told = await self._ask(dialect.ask_instances(which, field, limit, cursor, newest=newest))
        rows = told["items"]
        following = dialect.read_cursor(told["page"]) if len(rows) == limit else None
        return [dialect.read_instance(row) for row in rows], following

    async def find_texts(self, instance: int) -> dict[str, str]:
        """The variables of an instance that are texts, as ids are; raises as `find_incidents`."""
        dialect = await self._speak()
        try:
            rows = await self._search(dialect.ask_variables(instance, _PAGE))
        except NoSearchError:
            rows = await self._search_operate("/v1/variables/search", {"processInstanceKey": instance})
        return read_texts(rows)

    async def _search_operate(self, path: str, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        if self._operate is None:
            raise NoSearchError
        question = {"filter": wanted, "size": _PAGE}
        answer = await self._operate.post(path, json=question)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            user, _, password = self._login.partition(":")
            let_in = await self._operate.post("/api/login", data={"username": user, "password": password})
            let_in.raise_for_status()
            answer = await self._operate.post(path, json=question)
        answer.raise_for_status()
        return list(answer.json()["items"])

    async def _search(self, question: Question) -> list[dict[str, Any]]:
        return list((await self._ask(question))["items"])

    async def _ask(self, question: Question) -> dict[str, Any]:
        if self._rest is None:
            raise NoSearchError
        answer = await self._rest.post(question.path, json=question.body)
        if answer.status_code in _NO_SEARCH:
            raise NoSearchError
        if answer.status_code == httpx.codes.BAD_REQUEST:
            # 8.6 says so until its consoles have made their indexes; an engine that was upgraded beneath us, as well.
            self._dialect = None
        answer.raise_for_status()
        return dict(answer.json())

    async def _speak(self) -> Dialect:
        """In the words of the engine's version, which is asked once."""
        if self._dialect is None:
            if self._rest is None:
                raise NoSearchError
            answer = await self._rest.get(TOPOLOGY)
            if answer.status_code in _NO_SEARCH:
                raise NoSearchError
            answer.raise_for_status()
            self._dialect = choose_dialect(str(answer.json()["gatewayVersion"]))
        return self._dialect

    async def find_alive(self, keys: Iterable[int]) -> dict[int, bool]:
        """Whether these instances are in the engine, by its own word, which is never behind as its search is. One of
        which it says nothing clear is not in the answer."""
        room = asyncio.Semaphore(_PROBES)

        async def probe(key: int) -> tuple[int, bool | None]:
            async with room:
                # The one question by key that every version answers: no variable is set, and none is read.
                request = SetVariablesRequest(elementInstanceKey=key, variables="{}", local=True)
                try:
                    await self._stub.SetVariables(request, timeout=_SECONDS)
                except grpc.aio.AioRpcError as error:
                    return key, False if error.code() is grpc.StatusCode.NOT_FOUND else None
                return key, True

        told = await asyncio.gather(*(probe(key) for key in keys))
        return {key: alive for key, alive in told if alive is not None}

    async def cancel_instance(self, key: int) -> None:
        """End an instance with all that it called; one that is gone stays so. Raises EngineRefusedError."""
        try:
            await self._stub.CancelProcessInstance(
                CancelProcessInstanceRequest(processInstanceKey=key), timeout=_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise EngineRefusedError(error.code().name) from error

    async def resolve_incident(self, incident_key: int, job_key: int | None, retries: int = 3) -> None:
        """Give the job its retries back and let the flow go on; what is resolved already stays so. Raises
        EngineRefusedError."""
        try:
            if job_key is not None:
                await self._stub.UpdateJobRetries(
                    UpdateJobRetriesRequest(jobKey=job_key, retries=retries), timeout=_SECONDS
                )
            await self._stub.ResolveIncident(ResolveIncidentRequest(incidentKey=incident_key), timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise EngineRefusedError(error.code().name) from error

    async def close(self) -> None:
        for client in (self._rest, self._operate):
            if client is not None:
                await client.aclose()


def _open_rest(settings: Settings) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=settings.engine_rest,
        timeout=_SECONDS,
        trust_env=False,
        verify=open_context(settings.ca_file),
        auth=BearerAuth(Tokens(settings)) if settings.engine_client_id else None,
    )
