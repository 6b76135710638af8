"""Callbacks of outside systems: whose signature counts, for how long, and that the same word counts once."""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid
from typing import Any

import httpx
import orjson
import pytest

from tests.workers.api_world import BASE, SECRETS, ApiWorld

pytestmark = pytest.mark.asyncio(loop_scope="session")

YES = {"state": "CONFIRMED", "externalReference": "INV-7", "output": {"place": "B4"}}
NO = {"state": "NO_EFFECT", "externalReference": None, "reason": "none left"}


async def accepted(world: ApiWorld, task_type: str = "reserve-inventory") -> tuple[str, str]:
    """An order with one effect that its system has accepted: order id, effect id."""
    order_id = await world.create()
    await world.fulfil(order_id, lambda _: {"state": "ACCEPTED"}, only={task_type})
    effects = (await world.get(f"/orders/{order_id}/effects")).json()["items"]
    assert effects[0]["acceptedAt"]
    return order_id, effects[0]["effectId"]


async def call_back(
    world: ApiWorld,
    effect_id: str,
    body: Any = None,
    *,
    secret: str = SECRETS["inventory"],
    at: float | str | None = None,
    signature: str | None = None,
    raw: bytes | None = None,
    signed: bytes | None = None,
) -> httpx.Response:
    content = raw if raw is not None else orjson.dumps(YES if body is None else body)
    stamp = at if isinstance(at, str) else str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), stamp.encode() + b"." + (signed or content), hashlib.sha256).hexdigest()
    headers = {
        "X-Recourse-Timestamp": stamp,
        "X-Recourse-Signature": f"sha256={digest}" if signature is None else signature,
    }
    return await world.client.post(f"{BASE}/effects/{effect_id}/outcome", content=content, headers=headers)


async def state_of(world: ApiWorld, order_id: str) -> tuple[str, Any]:
    effect = (await world.get(f"/orders/{order_id}/effects")).json()["items"][0]
    return effect["state"], effect.get("externalReference")


async def test_a_signed_callback_settles_the_effect_once(world: ApiWorld) -> None:
    order_id, effect_id = await accepted(world)
    assert (await call_back(world, effect_id)).status_code == 200
    assert await state_of(world, order_id) == ("CONFIRMED", "INV-7")
    before = await world.rows("audit_entry")
    for _ in range(20):
        assert (await call_back(world, effect_id)).status_code == 200
    assert await world.rows("audit_entry") == before
    # The opposite changes nothing, and is a finding.
    assert (await call_back(world, effect_id, NO)).status_code == 200
    assert await state_of(world, order_id) == ("CONFIRMED", "INV-7")
    timeline = (await world.get(f"/orders/{order_id}/timeline?limit=200")).json()["items"]
    assert [entry["kind"] for entry in timeline].count("OUTCOME_CONTRADICTED") == 1
    assert [entry["actor"] for entry in timeline if entry["kind"] == "OUTCOME_CONTRADICTED"] == ["system:inventory"]


async def test_a_system_without_a_name_of_its_own_signs_with_the_default_secret(world: ApiWorld) -> None:
    order_id, effect_id = await accepted(world, "assign-resource")
    assert (await call_back(world, effect_id, secret=SECRETS["inventory"])).status_code == 401
    assert (await call_back(world, effect_id, secret=SECRETS["*"])).status_code == 200
    assert (await state_of(world, order_id))[0] == "CONFIRMED"


FORGED: dict[str, dict[str, Any]] = {
    "unsigned": {"signature": ""},
    "another secret": {"secret": "guess"},
    "the default secret for a system with its own": {"secret": SECRETS["*"]},
    "no secret": {"secret": ""},
    "another body": {"signed": b"{}"},
    "six minutes old": {"at": time.time() - 360},
    "from the future": {"at": time.time() + 3600},
    "no time": {"at": ""},
    "a time that is none": {"at": "1e9"},
    "upper case": {"signature": "sha256=" + "A" * 64},
    "another hash": {"signature": "sha1=" + "a" * 40},
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_callback_is_nobodys(world: ApiWorld, name: str) -> None:
    order_id, effect_id = await accepted(world)
    answer = await call_back(world, effect_id, **FORGED[name])
    assert (answer.status_code, answer.json()["code"]) == (401, "SIGNATURE_INVALID")
    assert (await state_of(world, order_id))[0] == "INTENDED"


async def test_an_effect_that_we_do_not_know(world: ApiWorld) -> None:
    for strange in (str(uuid.uuid4()), "x"):
        known = await call_back(world, strange, secret=SECRETS["*"])
        assert (known.status_code, known.json()["code"]) == (404, "EFFECT_NOT_FOUND")
        forged = await call_back(world, strange, secret="guess")
        assert (forged.status_code, forged.json()["code"]) == (401, "SIGNATURE_INVALID")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b'{"state": "ACCEPTED"}', 422),
        (b'{"state": "CONFIRMED", "colour": 1}', 422),
        (b'{"state": "CONFIRMED", "externalReference": "\\u0000"}', 422),
        (b'{"state": "CONFIRMED", "output": ' + b"[" * 40 + b"]" * 40 + b"}", 422),
    ],
)
async def test_a_callback_that_cannot_be_read(world: ApiWorld, raw: bytes, status: int) -> None:
    order_id, effect_id = await accepted(world)
    assert (await call_back(world, effect_id, raw=raw)).status_code == status
    assert (await state_of(world, order_id))[0] == "INTENDED"


async def test_a_token_is_no_signature(world: ApiWorld) -> None:
    _, effect_id = await accepted(world)
    answer = await world.post(f"/effects/{effect_id}/outcome", YES, as_=("eve", "admin"))
    assert answer.status_code == 401
