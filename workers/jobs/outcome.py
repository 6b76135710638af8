"""What becomes of a job, and the edge's tables: error → complete, fail, incident. It must never tell the engine more
than a code and an id."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import grpc
import httpx

from domain import errors
from domain.policy import PolicyInvalid
from domain.store.outages import OUTAGES
from domain.values import Json


@dataclass(frozen=True, slots=True)
class Done:
    """The job is complete; its variables are ids and verdicts."""

    variables: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Later:
    """Not now: the job comes back after so many seconds with the retries it had. It never burns to an incident."""

    seconds: float
    code: str


@dataclass(frozen=True, slots=True)
class Again:
    """Something unforeseen: one retry less, and an incident when none is left."""

    seconds: float
    code: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """No retry can help: an incident, for a person to look at. `subject` names what it is about."""

    code: str
    subject: str | None = None


Reply = Done | Later | Again | Stuck

# How a breach ends a job. No model catches error codes: a verdict is a variable, and what is left is an incident.
_INCIDENT: Final = "incident"
_LATER: Final = "later"

BREACHES: Final[Mapping[type[errors.Breach], str]] = MappingProxyType(
    {
        errors.RoleRequired: _INCIDENT,
        errors.FourEyes: _INCIDENT,
        errors.OnBehalfNotAllowed: _INCIDENT,
        errors.NotFound: _INCIDENT,
        errors.OrderNotFound: _INCIDENT,
        errors.RequestNotFound: _INCIDENT,
        errors.PlanNotFound: _INCIDENT,
        errors.TaskNotFound: _INCIDENT,
        errors.EffectNotFound: _INCIDENT,
        errors.CaseNotFound: _INCIDENT,
        errors.RepairNotFound: _INCIDENT,
        errors.JobNotFound: _INCIDENT,
        errors.AssetNotFound: _INCIDENT,
        errors.PolicyNotFound: _INCIDENT,
        errors.PreviewNotFound: _INCIDENT,
        errors.ProposalNotFound: _INCIDENT,
        errors.ListenerNotFound: _INCIDENT,
        errors.Malformed: _INCIDENT,
        errors.IdempotencyKeyRequired: _INCIDENT,
        errors.IdempotencyKeyReused: _INCIDENT,
        # The same job is being carried out by another worker right now.
        errors.IdempotencyInFlight: _LATER,
        errors.PreconditionRequired: _INCIDENT,
        errors.VersionStale: _INCIDENT,
        errors.PreviewStale: _INCIDENT,
        errors.RateLimited: _LATER,
        errors.OrderTerminal: _INCIDENT,
        errors.ChangeActive: _INCIDENT,
        errors.AssetBusy: _INCIDENT,
        errors.ExternalIdTaken: _INCIDENT,
        errors.ProposalTaken: _INCIDENT,
        errors.RequestClosed: _INCIDENT,
        errors.CompensationStarted: _INCIDENT,
        errors.CaseClosed: _INCIDENT,
        errors.Unprocessable: _INCIDENT,
        errors.ReasonUnknown: _INCIDENT,
        errors.OfferingUnknown: _INCIDENT,
        errors.ItemUnknown: _INCIDENT,
        errors.ScopeInvalid: _INCIDENT,
        errors.ReasonNotRefusable: _INCIDENT,
        errors.DispositionRequired: _INCIDENT,
        errors.AssetNotModifiable: _INCIDENT,
        errors.DependentAsset: _INCIDENT,
        errors.EvidenceRequired: _INCIDENT,
        errors.RepairNotPossible: _INCIDENT,
        errors.UseAmendment: _INCIDENT,
        errors.UseCancellation: _INCIDENT,
        errors.FieldNotAmendable: _INCIDENT,
        errors.OldValueMismatch: _INCIDENT,
        errors.RelationCycle: _INCIDENT,
        errors.RelationTargetUnknown: _INCIDENT,
        errors.ChargeNotOpen: _INCIDENT,
        # A policy of a newer release: a worker of that release understands it.
        PolicyInvalid: _LATER,
    }
)

# The database's, and those of the engine when it is asked a question.
_OUTAGES: Final = (*OUTAGES, httpx.HTTPError, grpc.RpcError)

_IN_FLIGHT_SECONDS: Final = 0.5
_UNEXPECTED_SECONDS: Final = 2.0


class VariableError(Exception):
    """A job without a variable that its handler needs, or with one that is no id: the model is wrong."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the job's variable {name} is missing or is not what the handler takes")
        self.name = name


@dataclass(slots=True)
class OutageClock:
    """How long the world has been ill. A job waits about as long as the illness has lasted: doubling, over all jobs,
    without a memory of any single one."""

    shortest: float = 0.25
    longest: float = 30.0
    _since: float | None = field(default=None)

    def note_health(self) -> None:
        self._since = None

    def next_pause(self) -> float:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        pause = min(max(now - self._since, self.shortest), self.longest)
        return pause * random.uniform(0.7, 1.3)


def judge(error: Exception, clock: OutageClock) -> Reply:
    """The edge's one table: what becomes of a job whose handler raised."""
    match error:
        case errors.Breach():
            if BREACHES.get(type(error)) == _LATER:
                return Later(_IN_FLIGHT_SECONDS * random.uniform(0.7, 1.3), error.code)
            return Stuck(error.code)
        case VariableError():
            return Stuck("VARIABLE_INVALID", error.name)
        case _ if isinstance(error, _OUTAGES):
            return Later(clock.next_pause(), "OUTAGE")
        case _:
            return Again(_UNEXPECTED_SECONDS * random.uniform(0.7, 1.3), "UNEXPECTED")


def describe(error: BaseException) -> dict[str, str]:
    """For a log line: the error's kind and where it arose. Its message may quote rows or bodies and stays out."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return {
        "error": type(error).__name__,
        "where": " < ".join(
            f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in reversed(frames)
        ),
    }
