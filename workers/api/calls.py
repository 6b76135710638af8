"""From a request to a typed call: caller, ids, body, key; and back to an answer. It must never know a command's
meaning."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response
from structlog.contextvars import bound_contextvars

from domain.commands import Command, Envelope
from domain.errors import FieldError, IdempotencyKeyRequired, Malformed, NotFound, OnBehalfNotAllowed
from domain.handle import Answer
from domain.store.pool import Pool
from domain.store.registry import Filed
from domain.store.views import Page, Place, Seen
from domain.values import Json, TenantId
from workers.api.identity import Principal
from workers.api.problems import Refusal
from workers.api.schemas import Body, check_body, find_hostile, parse_uuid, read_time
from workers.api.service import Service

MAX_BODY: Final = 1024 * 1024
DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200
SPEAKING_FOR_OTHERS: Final = frozenset({"agent", "operator", "admin"})

_KEY: Final = re.compile(r"[!-~]{1,255}", re.ASCII)
_TRACE_PARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,18}", re.ASCII)

# Commands of one tenant, person, route and key are one command.
COMMANDS: Final = UUID("6f0e9a52-5f8c-5c55-9a58-2f4f6a2f9f31")

B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Trace:
    """The W3C trace that a request belongs to; its id is what a problem shows."""

    trace_id: str
    parent: str


def read_trace(header: str | None) -> Trace:
    match = _TRACE_PARENT.fullmatch(header or "")
    if match and int(match[1], 16) and int(match[2], 16):
        return Trace(match[1], match[0])
    trace_id = secrets.token_hex(16)
    return Trace(trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-00")


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a known caller."""

    request: Request
    service: Service
    caller: Principal

    @property
    def pool(self) -> Pool:
        return self.service.pool

    @property
    def tenant(self) -> TenantId:
        return self.caller.tenant

    def id(self, name: str, kind: Any, missing: type[NotFound]) -> Any:
        """An id of the path as its NewType; what is no UUID cannot exist."""
        found = parse_uuid(self.request.path_params[name])
        if found is None:
            raise missing
        return kind(found)

    def text(self, name: str) -> str | None:
        """A query parameter, None where it is absent."""
        found = self.request.query_params.get(name)
        if found is None:
            return None
        if len(found) > 500 or not found.isprintable():
            raise Malformed(f"The query parameter {name} cannot be read.")
        return found

    def choice(self, name: str, options: frozenset[str]) -> str | None:
        found = self.text(name)
        if found is not None and found not in options:
            raise Malformed(f"The query parameter {name} is one of {', '.join(sorted(options))}.")
        return found

    def time(self, name: str) -> datetime | None:
        found = self.text(name)
        if found is None:
            return None
        try:
            return read_time(found.replace(" ", "+"))  # a plus that was not escaped arrives as a space
        except ValueError as error:
            raise Malformed(f"The query parameter {name}: {error}.") from None

    def uuid(self, name: str) -> UUID | None:
        found = self.text(name)
        if found is None:
            return None
        parsed = parse_uuid(found)
        if parsed is None:
            raise Malformed(f"The query parameter {name} is a UUID.")
        return parsed

    # -- pages ------------------------------------------------------------------------------------------

    def limit(self) -> int:
        found = self.request.query_params.get("limit")
        if found is None:
            return DEFAULT_LIMIT
        if not _NUMBER.fullmatch(found) or not 1 <= int(found) <= MAX_LIMIT:
            raise Malformed(f"The query parameter limit is a whole number from 1 to {MAX_LIMIT}.")
        return int(found)

    def cursor(self, parts: int) -> list[str] | None:
        """The place that a `next` of this list named; None for its beginning."""
        found = self.request.query_params.get("cursor")
        if not found:
            return None
        try:
            place = orjson.loads(urlsafe_b64decode(found.encode("ascii") + b"=="))
        except ValueError:
            raise _bad_cursor() from None
        if not isinstance(place, list) or len(place) != parts or not all(isinstance(part, str) for part in place):
            raise _bad_cursor()
        return place

    def place(self) -> Place | None:
        found = self.cursor(2)
        if found is None:
            return None
        at, row_id = found
        parsed = parse_uuid(row_id)
        try:
            moment = read_time(at)
        except ValueError:
            raise _bad_cursor() from None
        if parsed is None:
            raise _bad_cursor()
        return Place(moment, parsed)

    def number(self) -> int | None:
        """A cursor that is a number: of an entry, a version, or of what has been read."""
        found = self.cursor(1)
        if found is None:
            return None
        if not _NUMBER.fullmatch(found[0]):
            raise _bad_cursor()
        return int(found[0])


def _bad_cursor() -> Malformed:
    return Malformed("The cursor is not one that this list gave; begin without one.")


# -- bodies -------------------------------------------------------------------------------------------------


async def read_body(request: Request) -> bytes:
    """The raw body. Raises Refusal BODY_TOO_LARGE as soon as that is known."""
    announced = request.headers.get("content-length", "0")
    if _NUMBER.fullmatch(announced) and int(announced) > MAX_BODY:
        raise Refusal("BODY_TOO_LARGE")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Refusal("BODY_TOO_LARGE")
        parts.append(part)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON body: its value, what makes it unusable whatever it means, and the hash of its canonical form."""

    value: Json
    hostile: tuple[FieldError, ...]
    fingerprint: str

    def check(self, model: type[B]) -> tuple[B | None, tuple[FieldError, ...]]:
        """The typed body, or everything that is wrong with it; a faulty body is no reason to stop yet: what else
        stands against the command is said first."""
        return (None, self.hostile) if self.hostile else check_body(model, self.value)

    def part(self, name: str) -> Json:
        """A member that may be read although another one is faulty."""
        return self.value.get(name) if isinstance(self.value, dict) and not self.hostile else None


def read_document(raw: bytes) -> Document:
    """Parse a JSON body; an empty one counts as {}. Raises Malformed."""
    if not raw.strip():
        return Document({}, (), _hash(b"{}"))
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        value = _read_odd(raw)
    # Only an escape can hide a NUL or half a pair, only many brackets are deep, only long digits are large.
    plain = b"\\u" not in raw and raw.count(b"[") + raw.count(b"{") < 32 and not _LONG_DIGITS.search(raw)
    hostile = () if plain else find_hostile(value)
    if hostile:
        return Document(value, hostile, _hash(json.dumps(value, sort_keys=True).encode()))
    canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    # Every member that has a twin is missing from what was read. Only escapes could hide one from being counted so.
    if b"\\" in raw or len(_MEMBER.findall(raw)) != len(_MEMBER.findall(canonical)):
        _refuse_twins(raw)
    return Document(value, (), _hash(canonical))


_MEMBER: Final = re.compile(rb'"[ \t\r\n]*:')


def _refuse_twins(raw: bytes) -> None:
    """One reader takes the first of two members of a name and another the last: nobody knows what was meant."""

    def check(pairs: list[tuple[str, Json]]) -> None:
        if len({name for name, _ in pairs}) < len(pairs):
            raise Malformed("The body says a member of one object twice; keep one of them.")

    json.loads(raw, object_pairs_hook=check)


_LONG_DIGITS: Final = re.compile(rb"\d{16}|[eE][+-]?\d{2}")


def _hash(canonical: bytes) -> str:
    return hashlib.sha256(canonical).hexdigest()


def _read_odd(raw: bytes) -> Json:
    """JSON that the fast parser refuses although the grammar allows it, such as half a surrogate pair."""

    def refuse(_: str) -> Json:
        raise ValueError

    try:
        # Decoded here: the parser itself would guess at other encodings than the contract's.
        return json.loads(raw.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Malformed("The body is not JSON.") from None


# -- commands -----------------------------------------------------------------------------------------------


def read_key(request: Request) -> str:
    key = request.headers.get("idempotency-key")
    if key is None or not _KEY.fullmatch(key):
        raise IdempotencyKeyRequired
    return key


def read_if_match(request: Request) -> str | None:
    found = request.headers.getlist("if-match")
    return ", ".join(found) if found else None


def make_envelope(call: Call, key: str, fingerprint: str, *, on_behalf_of: str | None = None) -> Envelope:
    """The same tenant, person, method, address and key are the same command, whatever If-Match says."""
    request = call.request
    scope = (str(call.tenant), call.caller.subject, request.method, request.scope["path"].lower(), key)
    return Envelope(
        tenant_id=call.tenant,
        command_id=uuid.uuid5(COMMANDS, "\n".join(scope)),
        actor=call.caller.actor,
        fingerprint=fingerprint,
        if_match=read_if_match(request),
        on_behalf_of=on_behalf_of,
        trace_parent=request.state.trace.parent,
    )


Find = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Asked(Generic[B]):
    """What a command is made from: its body where it is sound, and what is wrong with it where it is not."""

    body: B | None
    invalid: tuple[FieldError, ...]
    document: Document
    envelope: Envelope


async def ask(call: Call, model: type[B], find: Find | None = None, *, key: str | None = None) -> Asked[B]:
    """Read key (unless it is given) and body of a command. `find` raises what is said of an object that is not there:
    it goes first where the request cannot be read; everything later is for the door to say."""
    try:
        document = read_document(await read_body(call.request))
        key = key or read_key(call.request)
    except Malformed:
        if find is not None:
            await find()
        raise
    body, invalid = document.check(model)
    envelope = make_envelope(call, key, document.fingerprint, on_behalf_of=_read_claimant(call, body))
    return Asked(body, invalid, document, envelope)


def recheck(call: Call, asked: Asked[Any], model: type[B]) -> Asked[B]:
    """The same request, read as a body of another kind than the first that was tried."""
    body, invalid = asked.document.check(model)
    envelope = replace(asked.envelope, on_behalf_of=_read_claimant(call, body))
    return Asked(body, invalid, asked.document, envelope)


def _read_claimant(call: Call, body: Body | None) -> str | None:
    claimant = body.claimant if body else None
    if claimant is None or claimant == call.caller.subject:
        return None
    if call.caller.roles.isdisjoint(SPEAKING_FOR_OTHERS):
        raise OnBehalfNotAllowed
    return claimant


async def carry_out(asked: Asked[Any], call: Call, command: Command) -> Response:
    with bound_contextvars(order_id=str(command.order_id)):
        return answer_command(await call.service.door.handle(asked.envelope, command))


# -- answers ------------------------------------------------------------------------------------------------


def answer_json(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, dict(headers or {}), "application/json")


def answer_command(answer: Answer | Filed) -> Response:
    """Members are sorted, so that a stored answer comes back byte for byte."""
    headers: dict[str, str] = {}
    if answer.etag:
        headers["ETag"] = answer.etag
    if answer.location:
        headers["Location"] = answer.location
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    content = orjson.dumps(answer.body, option=orjson.OPT_SORT_KEYS)
    return Response(content, 200 if answer.replayed else answer.status, headers, "application/json")


def answer_seen(seen: Seen) -> Response:
    return answer_json(seen.body, headers={"ETag": seen.etag} if seen.etag else None)


def answer_page(page: Page) -> Response:
    return answer_json({"items": page.items, "next": encode_cursor(page.last)})


def encode_cursor(last: tuple[str, ...] | None) -> str | None:
    return urlsafe_b64encode(orjson.dumps(last)).rstrip(b"=").decode() if last else None
