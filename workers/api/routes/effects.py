"""Callbacks of outside systems: believed by their signature alone, heard once. It must never take a token for one."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from structlog.contextvars import bound_contextvars

from domain.commands import Envelope, RecordOutcome
from domain.errors import EffectNotFound, Unprocessable
from domain.store import views
from domain.values import EffectId, system_actor
from workers.api.calls import answer_json, read_body, read_document
from workers.api.problems import Refusal
from workers.api.schemas import OutcomeBody, parse_uuid
from workers.api.service import Service
from workers.settings import System

PATH: Final = "/effects/{effectId}/outcome"
FRESH: Final = 300  # seconds that a callback's clock may be off, either way

_TIMESTAMP: Final = re.compile(r"\d{1,12}", re.ASCII)
_SIGNATURE: Final = re.compile(r"sha256=([0-9a-f]{64})", re.ASCII)
_CALLBACKS: Final = UUID("0b1c9a43-9d36-5b3f-8f0e-7d3c2f0b6a77")


def sign_callback(secret: str, timestamp: str, raw: bytes) -> str:
    """The value of X-Recourse-Signature."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + raw, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


async def record_outcome(service: Service, request: Request) -> Response:
    """Hear what an outside system says of an effect: 200 as often as it says so, and it counts once."""
    raw = await read_body(request)
    timestamp, signature = _read_signature(request)
    effect_id = parse_uuid(request.path_params["effectId"])
    address = await views.find_effect(service.pool, EffectId(effect_id)) if effect_id else None
    if address is None:
        # Whoever holds a secret of ours may learn that we do not know the effect; nobody else learns anything.
        _check(service.settings.systems.values(), timestamp, signature, raw)
        raise EffectNotFound
    systems = service.settings.systems
    system = systems.get(address.system) or systems.get("*")
    _check([system] if system else [], timestamp, signature, raw)

    document = read_document(raw)
    body, invalid = document.check(OutcomeBody)
    if body is None:
        raise Unprocessable(errors=invalid)
    effect = EffectId(effect_id) if effect_id else None
    assert effect is not None
    envelope = Envelope(
        tenant_id=address.tenant_id,
        # What the system says is the command: said again, it is the same command.
        command_id=uuid.uuid5(_CALLBACKS, f"{effect}\n{document.fingerprint}"),
        actor=system_actor(address.system),
        fingerprint=document.fingerprint,
        trace_parent=request.state.trace.parent,
    )
    command = RecordOutcome(
        order_id=address.order_id,
        effect_id=effect,
        state=body.state,
        source="CALLBACK",
        external_reference=body.external_reference,
        output=body.output,
        reason=body.reason,
    )
    with bound_contextvars(tenant_id=str(address.tenant_id), order_id=str(address.order_id), effect_id=str(effect)):
        await service.door.handle(envelope, command)
    return answer_json({"effectId": str(effect), "state": body.state})


def _read_signature(request: Request) -> tuple[str, str]:
    timestamp = request.headers.get("x-recourse-timestamp", "")
    signature = request.headers.get("x-recourse-signature", "")
    if not _TIMESTAMP.fullmatch(timestamp) or not _SIGNATURE.fullmatch(signature):
        raise Refusal("SIGNATURE_INVALID")
    if abs(time.time() - int(timestamp)) > FRESH:
        raise Refusal("SIGNATURE_INVALID")
    return timestamp, signature


def _check(systems: Iterable[System], timestamp: str, signature: str, raw: bytes) -> None:
    """Whether one of the systems signed it; one without a secret cannot have."""
    expected = [sign_callback(system.secret, timestamp, raw) for system in systems if system.secret]
    if not any([hmac.compare_digest(signature, one) for one in expected]):  # noqa: C419 — all of them, in one time
        raise Refusal("SIGNATURE_INVALID")
