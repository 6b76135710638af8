"""The embedded run's own issuer of tokens; a site with an identity provider must never have it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from workers.local.home import write_private

ALGORITHM = "RS256"

# One tenant for all who name none: whoever tries the product sees one world.
DEFAULT_TENANT = UUID("00000000-0000-4000-8000-000000000001")


def ensure_key(path: Path) -> None:
    """Make the signing key where there is none; readable by its owner only."""
    if not path.exists():
        key = RSAKey.generate_key(2048, {"use": "sig", "alg": ALGORITHM}, private=True)
        write_private(path, key.as_pem(private=True).decode())


def public_jwks(path: Path) -> dict[str, Any]:
    """The JWKS document of the key in a file: public halves only."""
    return dict(KeySet([_read_key(path)]).as_dict(private=False))


def mint_token(
    path: Path,
    *,
    subject: str,
    roles: Sequence[str],
    tenant: UUID,
    issuer: str,
    audience: str,
    ttl: int,
    name: str | None = None,
) -> str:
    """A signed token with the claims of 'Identity'; `ttl` in seconds, negative for one that has expired."""
    key = _read_key(path)
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "tenant": str(tenant),
        "roles": list(roles),
        "iat": now,
        "nbf": min(now, now + ttl),
        "exp": now + ttl,
    }
    if name is not None:
        claims["name"] = name
    return jwt.encode({"alg": ALGORITHM, "kid": key.kid}, claims, key)


def _read_key(path: Path) -> RSAKey:
    pem = path.read_text(encoding="utf-8")
    kid = RSAKey.import_key(pem).thumbprint()
    return RSAKey.import_key(pem, {"kid": kid, "use": "sig", "alg": ALGORITHM})
