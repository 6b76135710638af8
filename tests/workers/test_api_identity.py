"""Who may ask: tokens and their forgeries, keys and their rotation, roles on every route."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import ECKey, RSAKey

from domain.values import ROLES
from tests.workers.api_world import (
    BASE,
    EC,
    ISSUER,
    RSA,
    ApiWorld,
    a_cancellation_body,
    claims_of,
    read_test_keys,
    sign,
)
from workers.api.app import ROUTES
from workers.api.identity import KEYS_FRESH, KEYS_PAUSE, ROLES_OF, Doorkeeper, KeyRing, read_keys
from workers.api.problems import Refusal

pytestmark = pytest.mark.asyncio(loop_scope="session")

TENANT = uuid.UUID("7c1b5764-a42e-4c73-a8fc-f1a8ef5ffcc8")


def good(**more: Any) -> dict[str, Any]:
    return claims_of("alice", ("agent",), TENANT) | more


def encode(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    text = f"{encode(header)}.{encode(claims)}"
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret is not None else b""
    return f"{text}.{encode(signature)}"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in good().items() if key != name}


def flipped(token: str) -> str:
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{head}.{encode(claims | {'roles': ['admin']})}.{signature}"


STRANGER = RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig"}, private=True)
NEWCOMER = RSAKey.generate_key(2048, {"kid": "rsa-9", "use": "sig"}, private=True)
PUBLIC = RSA.as_pem(private=False)

REFUSED: dict[str, str] = {
    "unsigned": forge({"alg": "none"}, good(), None),
    "unsigned, with the key's name": forge({"alg": "none", "kid": "rsa-1"}, good(), None),
    "signed with the public key as secret": forge({"alg": "HS256", "kid": "rsa-1"}, good(), PUBLIC),
    "an algorithm that is not accepted": forge({"alg": "RS512", "kid": "rsa-1"}, good(), PUBLIC),
    "the other algorithm's key": sign(good(), RSA, kid="ec-1"),
    "a stranger under a known name": sign(good(), STRANGER),
    "an unknown key": sign(good(), NEWCOMER),
    "a key of its own in the header": sign(good(), STRANGER, jwk=STRANGER.as_dict(private=False)),
    "keys of its own at an address": sign(good(), STRANGER, jku="https://evil.test/jwks.json"),
    "a certificate of its own at an address": sign(good(), STRANGER, x5u="https://evil.test/cert.pem"),
    "a certificate of its own": sign(good(), STRANGER, x5c=["AAAA"]),
    "a key's name that is a path": sign(good(), STRANGER, kid="../../../../dev/null"),
    "a key's name that is SQL": sign(good(), STRANGER, kid="rsa-1' or '1'='1"),
    "a key's name that is a command": sign(good(), STRANGER, kid="rsa-1;true"),
    "a key's name that is a list": forge({"alg": "RS256", "kid": ["rsa-1"]}, good(), b""),
    "signed with nothing, named by an empty file": forge({"alg": "HS256", "kid": "/dev/null"}, good(), b""),
    "other claims under the signature": flipped(sign(good())),
    "expired": sign(good(exp=int(time.time()))),
    "not valid yet": sign(good(nbf=int(time.time()) + 7200)),
    "without an end": sign(without("exp")),
    "an end that is text": sign(good(exp="2999")),
    "an end that is true": sign(good(exp=True)),
    "another issuer": sign(good(iss="https://other.test")),
    "no issuer": sign(without("iss")),
    "another audience": sign(good(aud="billing")),
    "a part of the audience": sign(good(aud="recours")),
    "no audience": sign(without("aud")),
    "no person": sign(without("sub")),
    "an empty person": sign(good(sub="")),
    "a part of the product": sign(good(sub="system:walker")),
    "a person with NUL": sign(good(sub="a\x00b")),
    "a person that is a number": sign(good(sub=7)),
    "no tenant": sign(without("tenant")),
    "a tenant that is no uuid": sign(good(tenant="x'; drop table policy")),
    "everybody's tenant": sign(good(tenant="00000000-0000-0000-0000-000000000000")),
    "roles that are no list": sign(good(roles="admin")),
    "claims that are a list": f"{encode({'alg': 'RS256', 'kid': 'rsa-1'})}.{encode([1])}.AAAA",
    "a critical extension": sign(good(), RSA) and forge({"alg": "RS256", "kid": "rsa-1", "crit": ["x"]}, good(), b""),
    "no token": "x",
    "two dots": "..",
    "very long": "a" * 20_000,
    "strange letters": "ü.ü.ü",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_forged_token_opens_nothing(world: ApiWorld, name: str) -> None:
    header = f"Bearer {REFUSED[name]}".encode()
    answer = await world.client.get(f"{BASE}/orders", headers={b"Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), name
    assert answer.headers["www-authenticate"].startswith('Bearer realm="recourse", error="invalid_token"')


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "token"])
async def test_without_a_token(world: ApiWorld, header: str | None) -> None:
    answer = await world.client.get(f"{BASE}/orders", headers={} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="recourse"'


ACCEPTED: dict[str, str] = {
    "RS256": sign(good()),
    "ES256": sign(good(), EC),
    "one audience of several": sign(good(aud=["billing", "recourse"])),
    "without nbf": sign(without("nbf")),
    "a fraction of a second": sign(good(exp=time.time() + 7200.5)),
    "a name": sign(good(name="Alice")),
    "roles of other products too": sign(good(roles=["agent", "billing-clerk", 7])),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_a_sound_token_is_taken(world: ApiWorld, name: str) -> None:
    answer = await world.client.get(f"{BASE}/orders", headers={"Authorization": f"bearer {ACCEPTED[name]}"})
    assert answer.status_code == 200, answer.text


async def test_a_remembered_token_still_ends() -> None:
    now = 1_000_000.0
    keeper = Doorkeeper(KeyRing(read_test_keys), issuer=ISSUER, audience="recourse", clock=lambda: now)
    header = f"Bearer {sign(good(nbf=now - 10, exp=now + 10))}"
    assert (await keeper.admit(header)).subject == "alice"
    now += 9
    assert (await keeper.admit(header)).subject == "alice"
    now += 1
    with pytest.raises(Refusal, match="expired"):
        await keeper.admit(header)


class Issuer:
    """An issuer whose keys and health a test may change."""

    def __init__(self, *keys: RSAKey | ECKey) -> None:
        self.keys = list(keys)
        self.fails = False
        self.asked = 0

    async def fetch(self) -> Any:
        self.asked += 1
        if self.fails:
            raise httpx.ConnectError("down")
        return {"keys": [key.as_dict(private=False) for key in self.keys]}


async def test_a_new_key_is_found_and_an_unknown_one_asked_for_sparingly() -> None:
    now = 0.0
    issuer = Issuer(RSA)
    ring = KeyRing(issuer.fetch, clock=lambda: now)
    assert await ring.find("rsa-1", "RS256") is not None
    assert await ring.find("rsa-9", "RS256") is None
    assert issuer.asked == 1  # just fetched: not again so soon
    issuer.keys.append(NEWCOMER)
    now += KEYS_PAUSE
    assert await ring.find("rsa-9", "RS256") is not None
    for _ in range(100):
        assert await ring.find("no-such", "RS256") is None
    assert issuer.asked == 2
    assert await ring.find(None, "RS256") is None  # two could have signed: the token must say which
    assert await ring.find("rsa-1", "ES256") is None


async def test_an_issuer_that_is_down_costs_nothing_while_keys_are_known() -> None:
    now = 0.0
    issuer = Issuer(RSA)
    ring = KeyRing(issuer.fetch, clock=lambda: now)
    assert await ring.find("rsa-1", "RS256") is not None
    issuer.fails = True
    now += KEYS_FRESH + 1
    assert await ring.find("rsa-1", "RS256") is not None
    fresh = KeyRing(issuer.fetch, clock=lambda: now)
    with pytest.raises(Refusal) as refused:
        await fresh.find("rsa-1", "RS256")
    assert refused.value.code == "UNAVAILABLE"


async def test_a_withdrawn_key_ends() -> None:
    now = 0.0
    issuer = Issuer(RSA, NEWCOMER)
    ring = KeyRing(issuer.fetch, clock=lambda: now)
    assert await ring.find("rsa-9", "RS256") is not None
    issuer.keys.remove(NEWCOMER)
    now += KEYS_FRESH + 1
    assert await ring.find("rsa-9", "RS256") is None


def _entry(key: RSAKey | ECKey, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **more}


def _weak_key() -> dict[str, Any]:
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    modulus = numbers.n.to_bytes(128, "big")
    return {"kty": "RSA", "kid": "weak", "n": encode(modulus), "e": encode(b"\x01\x00\x01")}


@pytest.mark.parametrize(
    ("entry", "usable"),
    [
        (_entry(RSA), True),
        (_entry(EC), True),
        (_entry(RSA, use="enc"), False),
        (_entry(RSA, alg="RS512"), False),
        (_weak_key(), False),
        (_entry(ECKey.generate_key("P-384", {"kid": "other"})), False),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}, False),
        ({"kty": "RSA", "kid": "broken"}, False),
        ("text", False),
        (None, False),
    ],
)
async def test_only_strong_public_signature_keys_are_used(entry: Any, usable: bool) -> None:
    assert bool(read_keys({"keys": [entry]})) is usable


# -- roles × routes, typed from the contract ---------------------------------------------------------------------

_ALL = "agent approver operator auditor admin"
MAY: dict[str, str] = {
    "POST /orders": "agent operator admin",
    "GET /orders": _ALL,
    "GET /orders/{orderId}": _ALL,
    "GET /orders/{orderId}/plan": _ALL,
    "GET /orders/{orderId}/effects": _ALL,
    "GET /orders/{orderId}/timeline": _ALL,
    "GET /orders/{orderId}/progress": _ALL,
    "GET /orders/{orderId}/related-orders": _ALL,
    "POST /orders/{orderId}/supplemental-orders": "agent operator admin",
    "POST /orders/{orderId}/relations": "operator",
    "POST /orders/{orderId}/hold": "operator",
    "POST /orders/{orderId}/release": "operator",
    "POST /orders/{orderId}/previews": "agent operator admin",
    "POST /orders/{orderId}/cancellation-requests": "agent operator admin",
    "GET /orders/{orderId}/cancellation-requests": _ALL,
    "GET /orders/{orderId}/cancellation-requests/{requestId}": _ALL,
    "POST /orders/{orderId}/cancellation-requests/{requestId}/approve": "approver",
    "POST /orders/{orderId}/cancellation-requests/{requestId}/reject": "approver",
    "POST /orders/{orderId}/cancellation-requests/{requestId}/withdraw": "agent operator admin",
    "POST /orders/{orderId}/cancellation-requests/{requestId}/accept-charge": "agent operator admin",
    "POST /orders/{orderId}/cancellation-requests/{requestId}/decline-charge": "agent operator admin",
    "POST /orders/{orderId}/amendment-requests": "agent operator admin",
    "GET /orders/{orderId}/amendment-requests": _ALL,
    "GET /orders/{orderId}/amendment-requests/{requestId}": _ALL,
    "POST /orders/{orderId}/amendment-requests/{requestId}/approve": "approver",
    "POST /orders/{orderId}/amendment-requests/{requestId}/reject": "approver",
    "POST /orders/{orderId}/amendment-requests/{requestId}/apply": "agent operator admin",
    "POST /orders/{orderId}/amendment-requests/{requestId}/withdraw": "agent operator admin",
    "POST /orders/{orderId}/amendment-requests/{requestId}/accept-charge": "agent operator admin",
    "POST /orders/{orderId}/amendment-requests/{requestId}/decline-charge": "agent operator admin",
    "POST /orders/{orderId}/cancellation-requests/{requestId}/proposals/{number}/create": "agent operator admin",
    "GET /orders/{orderId}/compensation-plans": _ALL,
    "GET /orders/{orderId}/compensation-plans/{planId}": _ALL,
    "GET /fallout-cases": _ALL,
    "GET /fallout-cases/{caseId}": _ALL,
    "POST /fallout-cases/{caseId}/assign": "operator",
    "POST /fallout-cases/{caseId}/repairs": "operator",
    "POST /fallout-cases/{caseId}/repairs/{number}/approve": "approver",
    "POST /fallout-cases/{caseId}/repairs/{number}/reject": "approver",
    "POST /bulk-cancellations": "operator",
    "GET /bulk-cancellations/{jobId}": _ALL,
    "GET /bulk-cancellations/{jobId}/results": _ALL,
    "POST /bulk-cancellations/{jobId}/pause": "operator",
    "POST /bulk-cancellations/{jobId}/resume": "operator",
    "POST /bulk-repairs": "operator",
    "GET /bulk-repairs/{jobId}": _ALL,
    "GET /bulk-repairs/{jobId}/results": _ALL,
    "POST /bulk-repairs/{jobId}/pause": "operator",
    "POST /bulk-repairs/{jobId}/resume": "operator",
    "GET /reconciliation/findings": _ALL,
    "POST /reconciliation/runs": "operator",
    "GET /assets": _ALL,
    "GET /assets/{assetId}": _ALL,
    "POST /assets": "admin",
    "GET /policies": _ALL,
    "GET /policies/{version}": _ALL,
    "POST /policies": "admin",
    "POST /policies/{version}/replay": "admin auditor operator",
    "GET /staff/{subject}": "admin auditor",
    "PUT /staff/{subject}": "admin",
    "GET /audit/verification": "auditor",
    "GET /dashboard": _ALL,
}


async def test_every_route_is_in_the_table_and_every_row_is_a_route() -> None:
    served = {(route.method, route.path) for route in ROUTES}
    assert served == set(ROLES_OF)
    assert {f"{method} {path}" for method, path in served} == set(MAY)


@pytest.mark.parametrize("line", MAY)
async def test_roles_on_every_route(world: ApiWorld, line: str) -> None:
    method, template = line.split(" ")
    order_id = await world.create()
    path = template.replace("{orderId}", order_id).replace("{version}", "1").replace("{subject}", "olga")
    path = path.replace("{requestId}", str(uuid.uuid4())).replace("{planId}", str(uuid.uuid4()))
    path = path.replace("{caseId}", str(uuid.uuid4())).replace("{assetId}", str(uuid.uuid4()))
    for role in (*ROLES, "nobody"):
        answer = await world.send(method, path, as_=("olga", role), body={} if method != "GET" else None)
        allowed = role in MAY[line].split()
        assert (answer.status_code != 403) == allowed, (role, answer.text)
        if not allowed:
            assert answer.json()["code"] == "ROLE_REQUIRED"
        assert answer.status_code < 500
    both = await world.send(method, path, as_=("olga", *ROLES), body={} if method != "GET" else None)
    assert both.status_code != 403
    assert (await world.send(method, path, as_=None, body={} if method != "GET" else None)).status_code == 401


async def test_no_route_shows_one_tenants_objects_to_another(world: ApiWorld) -> None:
    order_id = await world.create()
    await world.fulfil(order_id, lambda _: {"state": "NO_EFFECT", "reason": "no"}, only={"reserve-inventory"})
    request_id = await world.cancel(order_id)
    case_id = (await world.get(f"/fallout-cases?orderId={order_id}")).json()["items"][0]["caseId"]
    asset = {"customerId": "c-9", "productOfferingId": "router"}
    asset_id = (await world.post("/assets", asset, as_=("ada", "admin"))).json()["assetId"]
    ids = {"orderId": order_id, "requestId": request_id, "caseId": case_id, "assetId": asset_id}
    stranger = uuid.uuid4()
    for route in ROUTES:
        named = [name for name in ids if f"{{{name}}}" in route.path]
        if not named or "{planId}" in route.path:
            continue
        theirs = nobodys = route.path
        for name in named:
            theirs = theirs.replace(f"{{{name}}}", ids[name])
            nobodys = nobodys.replace(f"{{{name}}}", str(uuid.uuid4()))
        more: dict[str, Any] = {"as_": ("eve", *ROLES), "tenant": stranger, "if_match": '"x"'}
        body = a_cancellation_body() if route.method == "POST" else None
        one = await world.send(route.method, theirs, body=body, **more)
        other = await world.send(route.method, nobodys, body=body, **more)
        assert one.status_code == other.status_code == 404, route.path
        assert {**one.json(), "traceId": ""} == {**other.json(), "traceId": ""}
    for path in ("/orders", "/fallout-cases", "/assets"):
        assert (await world.get(path, as_=("eve", *ROLES), tenant=stranger)).json() == {"items": [], "next": None}
