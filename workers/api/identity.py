"""Who asks: tokens in, a principal out; and which roles may use which route. It must never trust what a body says."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeGuard

import httpx
import orjson
import structlog
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from domain.errors import RoleRequired
from domain.values import ROLES, Actor, Json, TenantId
from workers.api.problems import Refusal
from workers.api.schemas import parse_uuid

log = structlog.get_logger(__name__)

ALGORITHMS: Final = ("RS256", "ES256")
MAX_TOKEN: Final = 8192  # characters
MIN_RSA_BITS: Final = 2048
KEYS_FRESH: Final = 300.0  # seconds that fetched keys are used without a question
KEYS_PAUSE: Final = 5.0  # seconds from one fetch to the next, however many unknown key ids arrive
KEYS_TIMEOUT: Final = 5.0  # seconds that one fetch may take as a whole
KEYS_PATIENCE: Final = 1.0  # seconds that a token of a known key waits for keys that may say otherwise
REMEMBERED: Final = 4096  # tokens whose signature is known to hold
REMEMBER_FOR: Final = 60.0  # seconds; then the signature is checked again, so that a withdrawn key ends soon

_EVERYONE: Final = frozenset(ROLES)
_ASKING: Final = frozenset({"agent", "operator", "admin"})
_APPROVING: Final = frozenset({"approver"})
_OPERATING: Final = frozenset({"operator"})
_ADMIN: Final = frozenset({"admin"})

# Every route that takes a token, and the roles of which the caller needs one.
ROLES_OF: Final[Mapping[tuple[str, str], frozenset[str]]] = MappingProxyType(
    {
        ("POST", "/orders"): _ASKING,
        ("GET", "/orders"): _EVERYONE,
        ("GET", "/orders/{orderId}"): _EVERYONE,
        ("GET", "/orders/{orderId}/plan"): _EVERYONE,
        ("GET", "/orders/{orderId}/effects"): _EVERYONE,
        ("GET", "/orders/{orderId}/timeline"): _EVERYONE,
        ("GET", "/orders/{orderId}/progress"): _EVERYONE,
        ("GET", "/orders/{orderId}/related-orders"): _EVERYONE,
        ("POST", "/orders/{orderId}/supplemental-orders"): _ASKING,
        ("POST", "/orders/{orderId}/relations"): _OPERATING,
        ("POST", "/orders/{orderId}/hold"): _OPERATING,
        ("POST", "/orders/{orderId}/release"): _OPERATING,
        ("POST", "/orders/{orderId}/previews"): _ASKING,
        ("POST", "/orders/{orderId}/cancellation-requests"): _ASKING,
        ("GET", "/orders/{orderId}/cancellation-requests"): _EVERYONE,
        ("GET", "/orders/{orderId}/cancellation-requests/{requestId}"): _EVERYONE,
        ("POST", "/orders/{orderId}/cancellation-requests/{requestId}/approve"): _APPROVING,
        ("POST", "/orders/{orderId}/cancellation-requests/{requestId}/reject"): _APPROVING,
        # An agent withdraws only what they asked for themselves; `cancellations` looks.
        ("POST", "/orders/{orderId}/cancellation-requests/{requestId}/withdraw"): _ASKING,
        ("POST", "/orders/{orderId}/cancellation-requests/{requestId}/accept-charge"): _ASKING,
        ("POST", "/orders/{orderId}/cancellation-requests/{requestId}/decline-charge"): _ASKING,
        ("POST", "/orders/{orderId}/amendment-requests"): _ASKING,
        ("GET", "/orders/{orderId}/amendment-requests"): _EVERYONE,
        ("GET", "/orders/{orderId}/amendment-requests/{requestId}"): _EVERYONE,
        ("POST", "/orders/{orderId}/amendment-requests/{requestId}/approve"): _APPROVING,
        ("POST", "/orders/{orderId}/amendment-requests/{requestId}/reject"): _APPROVING,
        ("POST", "/orders/{orderId}/amendment-requests/{requestId}/apply"): _ASKING,
        ("POST", "/orders/{orderId}/amendment-requests/{requestId}/withdraw"): _ASKING,
        ("POST", "/orders/{orderId}/amendment-requests/{requestId}/accept-charge"): _ASKING,
        ("POST", "/orders/{orderId}/amendment-requests/{requestId}/decline-charge"): _ASKING,
        ("POST", "/orders/{orderId}/cancellation-requests/{requestId}/proposals/{number}/create"): _ASKING,
        ("GET", "/orders/{orderId}/compensation-plans"): _EVERYONE,
        ("GET", "/orders/{orderId}/compensation-plans/{planId}"): _EVERYONE,
        ("GET", "/fallout-cases"): _EVERYONE,
        ("GET", "/fallout-cases/{caseId}"): _EVERYONE,
        ("POST", "/fallout-cases/{caseId}/assign"): _OPERATING,
        ("POST", "/fallout-cases/{caseId}/repairs"): _OPERATING,
        ("POST", "/fallout-cases/{caseId}/repairs/{number}/approve"): _APPROVING,
        ("POST", "/fallout-cases/{caseId}/repairs/{number}/reject"): _APPROVING,
        ("POST", "/bulk-cancellations"): _OPERATING,
        ("GET", "/bulk-cancellations/{jobId}"): _EVERYONE,
        ("GET", "/bulk-cancellations/{jobId}/results"): _EVERYONE,
        ("POST", "/bulk-cancellations/{jobId}/pause"): _OPERATING,
        ("POST", "/bulk-cancellations/{jobId}/resume"): _OPERATING,
        ("POST", "/bulk-repairs"): _OPERATING,
        ("GET", "/bulk-repairs/{jobId}"): _EVERYONE,
        ("GET", "/bulk-repairs/{jobId}/results"): _EVERYONE,
        ("POST", "/bulk-repairs/{jobId}/pause"): _OPERATING,
        ("POST", "/bulk-repairs/{jobId}/resume"): _OPERATING,
        ("GET", "/reconciliation/findings"): _EVERYONE,
        ("POST", "/reconciliation/runs"): _OPERATING,
        ("GET", "/assets"): _EVERYONE,
        ("GET", "/assets/{assetId}"): _EVERYONE,
        ("POST", "/assets"): _ADMIN,
        ("GET", "/policies"): _EVERYONE,
        ("GET", "/policies/{version}"): _EVERYONE,
        ("POST", "/policies"): _ADMIN,
        ("POST", "/policies/{version}/replay"): frozenset({"admin", "auditor", "operator"}),
        ("GET", "/staff/{subject}"): frozenset({"admin", "auditor"}),
        ("PUT", "/staff/{subject}"): _ADMIN,
        ("GET", "/audit/verification"): frozenset({"auditor"}),
        ("GET", "/dashboard"): _EVERYONE,
    }
)

# The same for TM Forum's front door, whose paths are its own.
TMF_ROLES_OF: Final[Mapping[tuple[str, str], frozenset[str]]] = MappingProxyType(
    {
        ("POST", "/productOrder"): _ASKING,
        ("GET", "/productOrder"): _EVERYONE,
        ("GET", "/productOrder/{id}"): _EVERYONE,
        ("PATCH", "/productOrder/{id}"): _ASKING,
        ("POST", "/cancelProductOrder"): _ASKING,
        ("GET", "/cancelProductOrder"): _EVERYONE,
        ("GET", "/cancelProductOrder/{id}"): _EVERYONE,
        ("POST", "/hub"): _ASKING,
        ("GET", "/hub"): _EVERYONE,
        ("GET", "/hub/{id}"): _EVERYONE,
        ("DELETE", "/hub/{id}"): _ASKING,
    }
)


@dataclass(frozen=True, slots=True)
class Principal:
    """The person of a verified token, in one tenant."""

    subject: str
    tenant: TenantId
    roles: frozenset[str]

    @property
    def actor(self) -> Actor:
        return Actor(self.subject, self.roles)

    def require(self, roles: frozenset[str]) -> None:
        """Raises RoleRequired unless the caller has one of the roles."""
        if self.roles.isdisjoint(roles):
            raise RoleRequired(f"This needs the role {' or '.join(sorted(roles))}.")


# -- keys ---------------------------------------------------------------------------------------------------

Fetch = Callable[[], Awaitable[Json]]


def fetch_over_http(url: str, client: httpx.AsyncClient) -> Fetch:
    """The issuer's JWKS document from its address; raises httpx.HTTPError or ValueError."""

    async def fetch() -> Json:
        answer = await client.get(url, headers={"Accept": "application/json"})
        answer.raise_for_status()
        return orjson.loads(answer.content[: 1024 * 1024])

    return fetch


def fetch_from_file(path: Path, read: Callable[[Path], Json]) -> Fetch:
    """The keys of the embedded issuer, from the file that it signs with."""

    async def fetch() -> Json:
        return await asyncio.to_thread(read, path)

    return fetch


class KeyRing:
    """The issuer's public keys: kept, and asked for again when they grow old or an unknown key id turns up.

    Without any keys an outage of the issuer is an outage of ours; with some, the old ones serve on, and whoever has
    signed with one of them hardly waits for an issuer that does not answer.
    """

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str | None, list[RSAKey | ECKey]] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._answers = True  # whether the last fetch brought keys
        self._fetching: asyncio.Task[None] | None = None

    @property
    def is_filled(self) -> bool:
        return bool(self._keys)

    async def find(self, kid: str | None, algorithm: str) -> RSAKey | ECKey | None:
        """The one key that may have signed with this algorithm; None where there is none, or more than one fits."""
        key = self._choose(kid, algorithm)
        if self._clock() - self._fetched_at <= KEYS_FRESH and (key is not None or kid is None):
            return key
        await self.refresh(KEYS_TIMEOUT if key is None else KEYS_PATIENCE if self._answers else 0)
        return self._choose(kid, algorithm)

    async def refresh(self, patience: float = KEYS_TIMEOUT) -> None:
        """Fetch the keys, one fetch for all who ask and none within KEYS_PAUSE of its end; wait so long for it.

        Raises Refusal UNAVAILABLE where that leaves us without any.
        """
        if self._fetching is None and self._clock() - self._tried_at >= KEYS_PAUSE:
            self._fetching = asyncio.create_task(self._try_fetch())
        if self._fetching is not None:
            await asyncio.wait({self._fetching}, timeout=patience)
        if not self._keys:
            raise Refusal("UNAVAILABLE", "The issuer's keys cannot be read right now.")

    async def _try_fetch(self) -> None:
        self._answers = False
        try:
            async with asyncio.timeout(KEYS_TIMEOUT):
                self._keys = read_keys(await self._fetch())
            self._fetched_at = self._clock()
            self._answers = True
        except (httpx.HTTPError, OSError, ValueError) as failure:
            log.warning("keys of the issuer not fetched", error=type(failure).__name__)
        finally:
            # From its end: behind one that hangs, whoever waited would else begin the next.
            self._tried_at = self._clock()
            self._fetching = None

    async def close(self) -> None:
        """Give up a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    def _choose(self, kid: str | None, algorithm: str) -> RSAKey | ECKey | None:
        named = self._keys.get(kid, []) if kid is not None else [key for keys in self._keys.values() for key in keys]
        fitting = [key for key in named if _fits(key, algorithm)]
        return fitting[0] if len(fitting) == 1 else None


def _fits(key: RSAKey | ECKey, algorithm: str) -> bool:
    return isinstance(key, RSAKey) if algorithm == "RS256" else isinstance(key, ECKey)


def read_keys(document: Json) -> dict[str | None, list[RSAKey | ECKey]]:
    """The usable keys of a JWKS document by id: for signatures, strong enough, public. Others are passed over."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no JWKS document")  # noqa: TRY004 — a value from outside, not a wrong call
    found: dict[str | None, list[RSAKey | ECKey]] = {}
    for entry in listed[:100]:
        key = _read_key(entry)
        if key is not None:
            found.setdefault(entry.get("kid"), []).append(key)
    return found


def _read_key(entry: Json) -> RSAKey | ECKey | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    public = {name: entry[name] for name in ("kty", "n", "e", "crv", "x", "y", "kid") if name in entry}
    try:
        match entry.get("kty"), entry.get("alg"):
            case "RSA", "RS256" | None if len(entry["n"]) * 6 >= MIN_RSA_BITS:
                return RSAKey.import_key(public)
            case "EC", "ES256" | None if entry["crv"] == "P-256":
                return ECKey.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return None


# -- tokens ------------------------------------------------------------------------------------------------------


class Doorkeeper:
    """Turns the Authorization header into a principal. Raises Refusal UNAUTHENTICATED, or UNAVAILABLE without keys."""

    def __init__(self, ring: KeyRing, *, issuer: str, audience: str, clock: Callable[[], float] = time.time) -> None:
        self.ring = ring
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        # Digest of a token -> (principal, nbf, exp, when it is checked anew).
        self._known: OrderedDict[bytes, tuple[Principal, float, float, float]] = OrderedDict()

    async def admit(self, header: str | None) -> Principal:
        if header is None:
            raise _refuse(None)
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _refuse(None)
        if len(token) > MAX_TOKEN or not token.isascii():
            raise _refuse("the token cannot be read")
        digest = hashlib.sha256(token.encode()).digest()
        now = self._clock()
        known = self._known.get(digest)
        if known is None or now >= known[3]:
            principal, not_before, expires = await self._verify(token)
            known = principal, not_before, expires, now + REMEMBER_FOR
            self._known[digest] = known
            self._known.move_to_end(digest)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        principal, not_before, expires, _ = known
        if now >= expires:
            raise _refuse("the token has expired")
        if now < not_before:
            raise _refuse("the token is not valid yet")
        return principal

    async def _verify(self, token: str) -> tuple[Principal, float, float]:
        header = _read_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise _refuse("the token is signed with an algorithm that is not accepted")
        if kid is not None and not isinstance(kid, str):
            raise _refuse("the token cannot be read")
        key = await self.ring.find(kid, algorithm)
        if key is None:
            raise _refuse("the token is signed with an unknown key")
        try:
            verified = jws.deserialize_compact(token, key, algorithms=[algorithm])
            claims = orjson.loads(verified.payload)
        except (JoseError, ValueError, TypeError):
            raise _refuse("the signature does not hold") from None
        if not isinstance(claims, dict):
            raise _refuse("the token has no claims")
        return self._check_claims(claims)

    def _check_claims(self, claims: Mapping[str, Json]) -> tuple[Principal, float, float]:
        if claims.get("iss") != self._issuer:
            raise _refuse("the token is from another issuer")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise _refuse("the token is for another audience")
        expires, not_before = _read_moment(claims.get("exp")), _read_moment(claims.get("nbf", 0))
        if expires is None or not_before is None:
            raise _refuse("the token does not say how long it is valid")
        subject, tenant, roles = claims.get("sub"), claims.get("tenant"), claims.get("roles", [])
        if not _is_subject(subject):
            raise _refuse("the token names no person")
        tenant_id = parse_uuid(tenant) if isinstance(tenant, str) else None
        if tenant_id is None or not tenant_id.int:
            raise _refuse("the token names no tenant")
        if not isinstance(roles, list):
            raise _refuse("the token's roles are no list")
        known = frozenset(role for role in roles if isinstance(role, str) and role in _EVERYONE)
        return Principal(subject, TenantId(tenant_id), known), not_before, expires


def _read_header(token: str) -> Mapping[str, Json]:
    try:
        header = jws.extract_compact(token.encode()).protected
    except (JoseError, ValueError, TypeError, RecursionError):
        raise _refuse("the token cannot be read") from None
    if "crit" in header:
        raise _refuse("the token cannot be read")
    return header


def _read_moment(value: Json) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e12:
        return None
    return float(value)


def _is_subject(value: Json) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= 255
        and value.isprintable()
        and bool(value.strip())
        and not value.startswith("system:")
    )


def _refuse(reason: str | None) -> Refusal:
    if reason is None:
        return Refusal("UNAUTHENTICATED", headers={"WWW-Authenticate": 'Bearer realm="recourse"'})
    challenge = f'Bearer realm="recourse", error="invalid_token", error_description="{reason}"'
    return Refusal("UNAUTHENTICATED", f"The token is not accepted: {reason}.", {"WWW-Authenticate": challenge})
