"""A job type and its handler, side by side: `@job` makes the row that the registry lists. It must never register by
being imported."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

import structlog
from pyzeebe import Job

from domain.commands import Command, Envelope
from domain.handle import Answer, Door
from domain.store.outages import OUTAGES
from domain.values import Actor, Json, OrderId, Run, TenantId, system_actor
from workers.gateways.engine import Engine
from workers.gateways.systems import Systems
from workers.jobs.outcome import Done, Reply, VariableError, describe
from workers.runtime import crash_point
from workers.settings import Settings
from workers.spans import current_parent

log = structlog.get_logger(__name__)

# A job that a worker died with comes back after so long. Commands last five seconds at most.
FLOW_TIMEOUT: Final = timedelta(seconds=30)

_RETRY_SECONDS: Final = 0.2
_WRITE_RESERVE: Final = 2.0


class FindRoles(Protocol):
    """The roles that a person holds for deciding in Tasklist."""

    def __call__(self, tenant_id: TenantId, subject: str) -> Awaitable[frozenset[str]]: ...


class NoteFlow(Protocol):
    """Remember which instance of the engine carries an order, for people who look at it in Operate."""

    def __call__(
        self, tenant_id: TenantId, order_id: OrderId, flow_run: Run, instance_key: int, process: str
    ) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Means:
    """What handlers work with; one for the whole fleet."""

    settings: Settings
    door: Door
    systems: Systems
    engine: Engine
    find_roles: FindRoles
    note_flow: NoteFlow


@dataclass(frozen=True, slots=True)
class Context:
    """One delivery of one job. `gives_up_at`: the loop's time by which its lease ends."""

    means: Means
    job: Job
    gives_up_at: float

    @property
    def tenant_id(self) -> TenantId:
        return TenantId(self.uuid("tenant_id"))

    def uuid(self, name: str) -> UUID:
        """A variable that is an id. Raises VariableError."""
        try:
            return UUID(str(self.job.variables[name]))
        except (KeyError, ValueError) as error:
            raise VariableError(name) from error

    def number(self, name: str) -> int:
        value = self.job.variables.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise VariableError(name)
        return value

    def text(self, name: str) -> str:
        value = self.job.variables.get(name)
        if not isinstance(value, str) or not value:
            raise VariableError(name)
        return value

    def optional_text(self, name: str) -> str | None:
        """A variable that a person may have left empty; anything but text counts as empty."""
        value = self.job.variables.get(name)
        return value if isinstance(value, str) and value else None

    @property
    def correlation_id(self) -> UUID:
        """(run, job key), or (subject, job key) where no run is told: names this job over all engines that ever were,
        whose keys alone come again."""
        flow = self.uuid("run" if "run" in self.job.variables else "subject_id")
        return uuid.uuid5(flow, str(self.job.key))

    def crash(self, point: str, subject: str | None = None) -> None:
        """A named point at which a fault experiment may kill this process: `<point>:<job type or task type>`."""
        crash_point(self.means.settings, f"{point}:{self.job.type}")
        if subject is not None:
            crash_point(self.means.settings, f"{point}:{subject}")

    async def command(
        self, command: Command, *, command_id: UUID | None = None, actor: Actor | None = None, keep: bool = True
    ) -> Mapping[str, Json]:
        """Pass a command through the door; the same job delivered twice gives the same command and gets its answer."""
        answer = await self._handle(command, command_id or self.correlation_id, actor, keep)
        return answer.body

    async def insist(self, command: Command, *, command_id: UUID) -> Mapping[str, Json]:
        """The same, again and again through an outage while the lease lasts: for what is known only here and now."""
        while True:
            try:
                return (await self._handle(command, command_id, None, keep=True)).body
            except OUTAGES as outage:
                if time.monotonic() + _WRITE_RESERVE > self.gives_up_at:
                    raise
                log.warning("outcome not written yet", **describe(outage))
                await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))

    async def _handle(self, command: Command, command_id: UUID, actor: Actor | None, keep: bool) -> Answer:
        envelope = Envelope(
            tenant_id=self.tenant_id,
            command_id=command_id,
            actor=actor or system_actor(self.job.type),
            keep=keep,
            trace_parent=current_parent(),
        )
        return await self.means.door.handle(envelope, command)


Handler = Callable[[Context], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job type: which variables its handler takes, how long the engine leaves it to one worker, who does it.

    limit: how many of it may be at work in one process
    """

    job_type: str
    fetch: tuple[str, ...]
    timeout: timedelta
    handler: Handler
    limit: int


def job(
    job_type: str, *, fetch: tuple[str, ...], timeout: timedelta = FLOW_TIMEOUT, limit: int = 16
) -> Callable[[Handler], JobSpec]:
    """Make the row of a job type out of its handler. `fetch` is never empty: an empty list means *everything*."""
    if not fetch:
        raise ValueError(f"{job_type}: name the variables to fetch")

    def make(handler: Handler) -> JobSpec:
        return JobSpec(job_type, ("tenant_id", *fetch), timeout, handler, limit)

    return make


# What a flow may be told; an answer's other parts stay with the worker.
_TOLD: Final = (
    "verdict",
    "wait",
    "wait_key",
    "case_id",
    "sla",
    "exhibit",
    "start_at",
    "plan_id",
    "plan_run",
    "tasks",
    "closed",
)


def tell(answer: Mapping[str, Json]) -> Done:
    """Complete the job with what its flow branches on."""
    return Done({name: answer[name] for name in _TOLD if name in answer})
