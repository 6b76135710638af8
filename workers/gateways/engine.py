"""Asks and mends the engine where the job library cannot: readiness, who completed a user task, incidents. It must
never be asked for an order's state."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
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
    ResolveIncidentRequest,
    SetVariablesRequest,
    TopologyRequest,
    UpdateJobRetriesRequest,
)
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from workers.gateways.access import BearerAuth, NoTokenError, Tokens, open_context, read_roots
from workers.settings import Settings

_PUSHED_BACK = Counter("recourse_engine_pushed_back", "Commands that the engine was too busy for")

_SECONDS: Final = 5.0
_DONE: Final = "COMPLETED"
_STANDING: Final = ("PENDING", "ACTIVE")
_RESOLVED: Final = "RESOLVED"
_MOST: Final = 1000
# Instances per question, newest or oldest first; the rest is asked for next time.
_PAGE: Final = 200
_PROBES: Final = 8
_PARTITION: Final = 51
_ROOT: Final = re.compile(r"PI_(\d+)")
# 8.6 shows no instance unless it is told which states; its successors take one state, and refuse these words.
_RUNNING: Final = ({"running": True, "active": True, "incidents": True}, {"state": "ACTIVE"})
_CANCELLED: Final = ({"finished": True, "canceled": True}, {"state": "TERMINATED"})
_ANY: Final[tuple[Mapping[str, Any], ...]] = ({**_RUNNING[0], **_CANCELLED[0], "completed": True}, {})
# How an engine without the consoles' storage says that it cannot search: 8.6 knows no such route, later ones forbid it.
_NO_SEARCH: Final = frozenset({403, 404, 405, 501})


@dataclass(frozen=True, slots=True)
class Completion:
    """Who completed a user task. `assignee` None: nobody was assigned, so nobody has decided."""

    assignee: str | None


@dataclass(frozen=True, slots=True)
class SeenIncident:
    """An incident as the search shows it. Keys as text: bare ones come again on another engine.

    state: PENDING (new, not yet linked to its place), ACTIVE or RESOLVED; one that was resolved may be shown as ACTIVE
    for some seconds · message: what the job failed with · job_key: None where no job is behind it · kind: the engine's
    word for the failure · root: the instance that no other one called, where the search knows it
    """

    key: str
    state: str
    created_at: datetime
    process: str
    instance_key: str
    element: str
    job_key: str | None
    message: str
    kind: str = ""
    root: int = 0


@dataclass(frozen=True, slots=True)
class SeenInstance:
    """An instance as the search shows it. is_root: no other one called it"""

    key: int
    process: str
    started_at: datetime
    ended_at: datetime | None
    is_root: bool


def is_older(seen: SeenInstance, key: int) -> bool:
    """Whether an instance began before another one of the same partition, whose number leads its keys."""
    return seen.key >> _PARTITION == key >> _PARTITION and seen.key < key


# Where the next page of a search begins, in the words of the engine that gave it.
Cursor = Mapping[str, Any]


class NotYetVisibleError(Exception):
    """The engine's search lags behind; ask again in a moment."""


class EngineRefusedError(Exception):
    """The engine did not do it; the message is its code."""


class NoSearchError(Exception):
    """This engine cannot be searched: it runs without the consoles."""


# The one safe profile: it reconnects for ever, within two seconds.
_CHANNEL: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
)


def open_channel(settings: Settings) -> grpc.aio.Channel:
    """A channel to the engine's gateway; over TLS, and with a token of its own for each call, where that is set."""
    if not settings.engine_tls:
        return create_insecure_channel(settings.engine_grpc, channel_options=_CHANNEL)
    credentials = grpc.ssl_channel_credentials(root_certificates=read_roots(settings.ca_file))
    if settings.engine_client_id:
        token = grpc.metadata_call_credentials(_Token(Tokens(settings)))
        credentials = grpc.composite_channel_credentials(credentials, token)
    return create_secure_channel(settings.engine_grpc, channel_options=_CHANNEL, channel_credentials=credentials)


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
        self._dialect = 0

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

    async def find_completion(self, process_instance_key: int, before: int) -> Completion:
        """Who completed the newest user task of this instance that began before the element instance `before`.

        Raises NotYetVisibleError while the search does not show it as completed, NoSearchError where there is no
        search, httpx.HTTPError where nobody answers, or not well.
        """
        question = {"filter": {"processInstanceKey": process_instance_key}}
        shown = await self._search("/v2/user-tasks/search", question)
        tasks = [task for task in shown if _key(task, "elementInstanceKey") < before]
        # A person sees the task in the same index that answers here: the newest one shown is the one they completed.
        newest = max(tasks, key=lambda task: _key(task, "elementInstanceKey"), default=None)
        if newest is None or newest.get("state") != _DONE:
            raise NotYetVisibleError
        return Completion(newest.get("assignee") or None)

    async def find_incidents(self, since: datetime) -> list[SeenIncident]:
        """Every incident that stands, and those resolved that began since then; newest first, at most 1000 of each.

        Raises NoSearchError where there is no search, httpx.HTTPError where nobody answers, or not well.
        """
        # 8.6 filters by one exact value: no list of states, no range of times.
        found = {row.key: row for state in _STANDING for row in await self._search_incidents({"state": state})}
        # Last: what was resolved between the questions is told as resolved.
        resolved = await self._search_incidents({"state": _RESOLVED})
        found |= {row.key: row for row in resolved if row.created_at >= since}
        return sorted(found.values(), key=lambda row: row.created_at, reverse=True)

    async def _search_incidents(self, wanted: dict[str, Any]) -> list[SeenIncident]:
        question = {
            "filter": wanted,
            "sort": [{"field": "creationTime", "order": "desc"}],
            "page": {"limit": _MOST},
        }
        return [_read_incident(row) for row in await self._search("/v2/incidents/search", question)]

    async def find_cancelled(self) -> list[SeenInstance]:
        """The instances that were cancelled last. Raises as `find_incidents`."""
        found, _ = await self._search_instances(_CANCELLED, {"field": "endDate", "order": "desc"}, _PAGE)
        return found

    async def find_running(self, cursor: Cursor | None) -> tuple[list[SeenInstance], Cursor | None]:
        """One page of the running instances, oldest first, and where the next begins; None after the last."""
        return await self._search_instances(_RUNNING, {"field": "startDate", "order": "asc"}, _PAGE, cursor)

    async def find_newest(self) -> SeenInstance | None:
        """The instance that was started last, of those that the search shows."""
        found, _ = await self._search_instances(_ANY, {"field": "startDate", "order": "desc"}, 1)
        return found[0] if found else None

    async def _search_instances(
        self, wanted: Sequence[Mapping[str, Any]], sort: Mapping[str, str], limit: int, cursor: Cursor | None = None
    ) -> tuple[list[SeenInstance], Cursor | None]:
        def ask(dialect: int) -> Awaitable[httpx.Response]:
            question = {"filter": wanted[dialect], "sort": [sort], "page": {"limit": limit, **(cursor or {})}}
            return self._ask("/v2/process-instances/search", question)

        answer = await ask(self._dialect)
        if answer.status_code == httpx.codes.BAD_REQUEST and self._dialect == 0:
            # 8.6 answers so as well, as long as its consoles have not made their indexes: then it does to either.
            answer = await ask(1)
            if answer.is_success:
                self._dialect = 1
        answer.raise_for_status()
        told = answer.json()
        rows, page = told["items"], told.get("page") or {}
        following = None
        if len(rows) == limit:
            after = page.get("endCursor")
            following = {"after": after} if after else {"searchAfter": page.get("lastSortValues")}
        return [_read_instance(row) for row in rows], following

    async def find_texts(self, instance: int) -> dict[str, str]:
        """The variables of an instance that are texts, as ids are; raises as `find_incidents`."""
        question = {"filter": {"processInstanceKey": str(instance)}, "page": {"limit": _PAGE}}
        try:
            rows = await self._search("/v2/variables/search", question)
        except NoSearchError:
            rows = await self._search_operate("/v1/variables/search", {"processInstanceKey": instance})
        found = {str(row["name"]): json.loads(row["value"]) for row in rows if str(row["value"]).startswith('"')}
        return {name: value for name, value in found.items() if isinstance(value, str)}

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

    async def _search(self, path: str, question: dict[str, Any]) -> list[dict[str, Any]]:
        answer = await self._ask(path, question)
        answer.raise_for_status()
        return list(answer.json()["items"])

    async def _ask(self, path: str, question: dict[str, Any]) -> httpx.Response:
        if self._rest is None:
            raise NoSearchError
        answer = await self._rest.post(path, json=question)
        if answer.status_code in _NO_SEARCH:
            raise NoSearchError
        return answer

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


def _read_incident(row: dict[str, Any]) -> SeenIncident:
    """The same in the words of either version."""
    job_key = _key(row, "jobKey")
    return SeenIncident(
        key=str(_key(row, "key") or _key(row, "incidentKey")),
        state=str(row["state"]),
        created_at=datetime.fromisoformat(str(row["creationTime"])),
        process=str(row["processDefinitionId"]),
        instance_key=str(_key(row, "processInstanceKey")),
        element=str(row.get("flowNodeId") or row.get("elementId") or ""),
        job_key=str(job_key) if job_key else None,
        message=str(row.get("errorMessage") or ""),
        kind=str(row.get("errorType") or ""),
        root=_find_root(row),
    )


def _find_root(row: dict[str, Any]) -> int:
    """Newer engines say it; 8.6 shows the way down from it; one that does neither shows the instance itself."""
    way = _ROOT.match(str(row.get("treePath") or ""))
    return _key(row, "rootProcessInstanceKey") or (int(way[1]) if way else _key(row, "processInstanceKey"))


def _read_instance(row: dict[str, Any]) -> SeenInstance:
    ended = row.get("endDate")
    return SeenInstance(
        key=_key(row, "key") or _key(row, "processInstanceKey"),
        process=str(row.get("bpmnProcessId") or row.get("processDefinitionId") or ""),
        started_at=datetime.fromisoformat(str(row["startDate"])),
        ended_at=datetime.fromisoformat(str(ended)) if ended else None,
        is_root=not (_key(row, "parentKey") or _key(row, "parentProcessInstanceKey")),
    )


def _key(task: dict[str, Any], name: str) -> int:
    """Keys are numbers in one version of the engine's API and text in the next."""
    return int(task.get(name) or 0)
