"""Calls outside systems by the one contract they share; it must never guess an outcome, and never log a body."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx
import orjson

from domain.values import Json
from workers.gateways.access import open_context
from workers.settings import System
from workers.spans import open_span

State = Literal["CONFIRMED", "NO_EFFECT", "ACCEPTED", "UNKNOWN", "MISSING", "UNREACHABLE"]

# One slow system may hold this many connections of its own and nobody else's.
CONNECTIONS: Final = 24
# Verifications share one job type over all systems: so many of them may sit in one system at a time.
VERIFICATIONS: Final = 8

_ANY: Final = "*"
_MAX_ANSWER: Final = 2**20
_MAX_REASON: Final = 300
_MAX_REFERENCE: Final = 256
# Shorter than the five seconds after which common servers close an idle connection: a call must not meet a closed one.
_IDLE_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a system said. `reason` is its own words for NO_EFFECT, ours for everything that is not an answer."""

    state: State
    external_reference: str | None = None
    output: Json = None
    reason: str | None = None


class _NotAnAnswerError(Exception):
    """The system's answer is none of those that the contract knows; the message says why, without the body."""


class Systems:
    """The outside systems of the settings, one bulkhead each; `close` when done."""

    def __init__(self, systems: Mapping[str, System], ca_file: Path | None = None) -> None:
        self._systems = systems
        self._trusted = open_context(ca_file)
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._asking: dict[str, int] = {}

    async def put_effect(self, claim: Mapping[str, Json]) -> Outcome:
        """Ask for the effect of a claim {system, effect_id, timeout (seconds), body}. Never raises for a system's ill
        behaviour: whatever is not a clear answer is UNKNOWN."""
        system, effect_id = str(claim["system"]), str(claim["effect_id"])
        with open_span("call", f"PUT {system}", method="PUT", system=system, effect_id=effect_id) as span:
            outcome = await self._put(system, effect_id, claim, span.parent)
            span.note(state=outcome.state)
            return outcome

    async def _put(self, system: str, effect_id: str, claim: Mapping[str, Json], trace_parent: str | None) -> Outcome:
        headers = {"Idempotency-Key": effect_id, "Content-Type": "application/json", **_traced(trace_parent)}
        try:
            status, answer = await self._exchange(
                system, "PUT", effect_id, float(claim["timeout"]), headers, orjson.dumps(claim["body"])
            )
            return _read(status, answer, {200: {"CONFIRMED"}, 202: {"ACCEPTED"}, 409: _REFUSED, 422: _REFUSED})
        except _NotAnAnswerError as why:
            return Outcome("UNKNOWN", reason=str(why))

    async def get_effect(self, claim: Mapping[str, Json]) -> Outcome:
        """Ask what became of an effect {system, effect_id, timeout}: MISSING where the system does not know it,
        UNREACHABLE where it gives no clear answer."""
        system, effect_id = str(claim["system"]), str(claim["effect_id"])
        with open_span("call", f"GET {system}", method="GET", system=system, effect_id=effect_id) as span:
            outcome = await self._get(system, effect_id, claim, span.parent)
            span.note(state=outcome.state)
            return outcome

    async def _get(self, system: str, effect_id: str, claim: Mapping[str, Json], trace_parent: str | None) -> Outcome:
        self._asking[system] = self._asking.get(system, 0) + 1
        try:
            status, answer = await self._exchange(
                system, "GET", effect_id, float(claim["timeout"]), _traced(trace_parent)
            )
            if status == 404:
                return Outcome("MISSING", reason="the system does not know the effect")
            return _read(status, answer, {200: {"CONFIRMED", "NO_EFFECT", "ACCEPTED"}})
        except _NotAnAnswerError as why:
            return Outcome("UNREACHABLE", reason=str(why))
        finally:
            self._asking[system] -= 1

    def is_crowded(self, system: str) -> bool:
        """Whether as many verifications as one system may hold are under way there."""
        return self._asking.get(system, 0) >= VERIFICATIONS

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def _exchange(
        self,
        system: str,
        method: str,
        effect_id: str,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> tuple[int, bytes]:
        where = self._systems.get(system) or self._systems.get(_ANY)
        if where is None:
            raise _NotAnAnswerError(f"no address is set for the system {system}")
        client = self._client(system)
        try:
            async with (
                asyncio.timeout(seconds),
                client.stream(method, f"{where.url}/effects/{effect_id}", headers=headers, content=content) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MAX_ANSWER:
                        raise _NotAnAnswerError("the answer is larger than 1 MiB")
                return response.status_code, bytes(body)
        except TimeoutError as error:
            raise _NotAnAnswerError(f"no answer within {seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise _NotAnAnswerError(f"the call broke off: {type(error).__name__}") from error

    def _client(self, system: str) -> httpx.AsyncClient:
        client = self._clients.get(system)
        if client is None:
            client = self._clients[system] = httpx.AsyncClient(
                timeout=None,  # noqa: S113 - the whole exchange has one deadline of its own
                trust_env=False,
                verify=self._trusted,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "recourse"},
                limits=httpx.Limits(
                    max_connections=CONNECTIONS,
                    max_keepalive_connections=CONNECTIONS,
                    keepalive_expiry=_IDLE_SECONDS,
                ),
            )
        return client


def _traced(trace_parent: str | None) -> dict[str, str]:
    return {"traceparent": trace_parent} if trace_parent else {}


_REFUSED: Final = frozenset({"NO_EFFECT"})


def _read(status: int, body: bytes, allowed: Mapping[int, frozenset[str] | set[str]]) -> Outcome:
    if status not in allowed:
        raise _NotAnAnswerError(f"HTTP {status}")
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _NotAnAnswerError(f"HTTP {status} without JSON") from error
    if not isinstance(answer, dict) or answer.get("state") not in allowed[status]:
        raise _NotAnAnswerError(f"HTTP {status} with another state than {' or '.join(sorted(allowed[status]))}")
    reference = answer.get("externalReference")
    if reference is not None and not (isinstance(reference, str) and len(reference) <= _MAX_REFERENCE):
        raise _NotAnAnswerError(f"HTTP {status} with an externalReference that is no text of at most 256 characters")
    reason = answer.get("reason")
    return Outcome(
        state=answer["state"],
        external_reference=_without_nul(reference),
        output=_without_nul(answer.get("output")),
        reason=_without_nul(reason[:_MAX_REASON]) if isinstance(reason, str) else None,
    )


def _without_nul(value: Json) -> Json:
    """PostgreSQL stores no NUL in text: an answer that carries one is kept without it, not lost."""
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    return value
