"""The edge table of errors: what each failure says over HTTP; it must never tell more than the asker may know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import orjson
from starlette.responses import Response

from domain import errors
from domain.errors import Breach, FieldError
from domain.policy import PolicyInvalid

MEDIA_TYPE: Final = "application/problem+json"
MAX_ERRORS: Final = 100

# One row per class: a new breach without a row fails a test, never a customer.
STATUS_OF: Final[Mapping[type[Breach], int]] = MappingProxyType(
    {
        errors.Breach: 422,
        errors.RoleRequired: 403,
        errors.FourEyes: 403,
        errors.OnBehalfNotAllowed: 403,
        errors.NotFound: 404,
        errors.OrderNotFound: 404,
        errors.RequestNotFound: 404,
        errors.PlanNotFound: 404,
        errors.TaskNotFound: 404,
        errors.EffectNotFound: 404,
        errors.CaseNotFound: 404,
        errors.RepairNotFound: 404,
        errors.JobNotFound: 404,
        errors.AssetNotFound: 404,
        errors.PolicyNotFound: 404,
        errors.PreviewNotFound: 404,
        errors.ProposalNotFound: 404,
        errors.ListenerNotFound: 404,
        errors.Malformed: 400,
        errors.IdempotencyKeyRequired: 400,
        errors.IdempotencyKeyReused: 422,
        errors.IdempotencyInFlight: 409,
        errors.PreconditionRequired: 428,
        errors.VersionStale: 412,
        errors.PreviewStale: 412,
        errors.RateLimited: 429,
        errors.OrderTerminal: 409,
        errors.ChangeActive: 409,
        errors.AssetBusy: 409,
        errors.ExternalIdTaken: 409,
        errors.ProposalTaken: 409,
        errors.RequestClosed: 409,
        errors.ChargeNotOpen: 409,
        errors.OldValueMismatch: 409,
        errors.CompensationStarted: 409,
        errors.CaseClosed: 409,
        errors.Unprocessable: 422,
        errors.ReasonUnknown: 422,
        errors.OfferingUnknown: 422,
        errors.ItemUnknown: 422,
        errors.ScopeInvalid: 422,
        errors.ReasonNotRefusable: 422,
        errors.DispositionRequired: 422,
        errors.FieldNotAmendable: 422,
        errors.UseCancellation: 422,
        errors.AssetNotModifiable: 422,
        errors.DependentAsset: 422,
        errors.EvidenceRequired: 422,
        errors.RepairNotPossible: 422,
        errors.UseAmendment: 422,
        errors.RelationCycle: 422,
        errors.RelationTargetUnknown: 422,
        PolicyInvalid: 422,
    }
)

# What the edge itself refuses, before any command: code -> (status, message).
REFUSALS: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "UNAUTHENTICATED": (401, "Send a valid token: Authorization: Bearer <JWT>."),
        "SIGNATURE_INVALID": (
            401,
            "The callback is not signed, not signed with the system's secret, or older than five minutes.",
        ),
        "FORM_FOREIGN": (
            403,
            "The form was not made by a page of this session; open the page again and send it from there.",
        ),
        "ROUTE_NOT_FOUND": (404, "There is nothing at this address."),
        "METHOD_NOT_ALLOWED": (405, "This address does not take this method; the Allow header says which it takes."),
        "BODY_TOO_LARGE": (413, "The body is larger than 1 MiB."),
        "INTERNAL": (500, "Something is broken on our side; name the traceId when you report it."),
        "UNAVAILABLE": (503, "The service cannot answer right now; try again after Retry-After seconds."),
    }
)

_RETRY_AFTER: Final[Mapping[str, str]] = MappingProxyType(
    {"UNAVAILABLE": "1", "RATE_LIMITED": "1", "IDEMPOTENCY_IN_FLIGHT": "1"}
)


class Refusal(Exception):
    """The edge says no; `code` is a key of REFUSALS."""

    def __init__(self, code: str, detail: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.code = code
        self.status, message = REFUSALS[code]
        self.detail = detail or message
        self.headers = dict(headers or {})
        super().__init__(self.detail)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem (RFC 9457) before it knows its trace and its documentation's address."""

    status: int
    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    blocked_by: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def problem_of_breach(breach: Breach) -> Problem:
    return Problem(STATUS_OF[type(breach)], breach.code, breach.detail, breach.errors, breach.blocked_by)


def problem_of_refusal(refusal: Refusal) -> Problem:
    return Problem(refusal.status, refusal.code, refusal.detail, headers=refusal.headers)


def problem_response(
    problem: Problem, *, base_url: str, trace_id: str, more: Mapping[str, Any] = MappingProxyType({})
) -> Response:
    """The answer: `type` is a page of ours that explains the code; `errors` are cut at MAX_ERRORS.

    more: members beside ours, for who expects an error in other words
    """
    body: dict[str, Any] = {
        "type": f"{base_url}/docs/problems/{problem.code}",
        "title": title_of(problem.code),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "traceId": trace_id,
        **more,
    }
    if problem.errors:
        body["errors"] = [error.to_json() for error in problem.errors[:MAX_ERRORS]]
    if problem.blocked_by:
        body["blockedBy"] = problem.blocked_by
    return Response(_write(body), problem.status, headers_of(problem), MEDIA_TYPE)


def headers_of(problem: Problem) -> dict[str, str]:
    """What stands above the answer, whether it is read by a program or shown as a page."""
    retry_after = {"Retry-After": _RETRY_AFTER[problem.code]} if problem.code in _RETRY_AFTER else {}
    return {**problem.headers, **retry_after}


def _write(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # a message that quotes half of a surrogate pair
        return json.dumps(body).encode()


def title_of(code: str) -> str:
    return code.replace("_", " ").capitalize()


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """What is said of a code on its documentation page."""

    code: str
    status: int
    message: str


def list_problems() -> list[ProblemKind]:
    """Every code that the API can answer with, by status and code."""
    kinds = {code: ProblemKind(code, status, message) for code, (status, message) in REFUSALS.items()}
    for breach in _walk(Breach):
        message = " ".join((breach.__doc__ or "").split())
        kinds.setdefault(breach.code, ProblemKind(breach.code, STATUS_OF[breach], message))
    del kinds[Breach.code]
    return sorted(kinds.values(), key=lambda kind: (kind.status, kind.code))


def _walk(root: type[Breach]) -> Iterator[type[Breach]]:
    yield root
    for child in root.__subclasses__():
        yield from _walk(child)
