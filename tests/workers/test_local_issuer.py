"""The local issuer: its tokens are checked with nothing but the public document."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from uuid import UUID

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from workers.local.issuer import DEFAULT_TENANT, ensure_key, mint_token, public_jwks


@pytest.fixture
def key(tmp_path: Path) -> Path:
    ensure_key(tmp_path / "issuer.pem")
    return tmp_path / "issuer.pem"


def mint(key: Path, ttl: int = 60, name: str | None = None) -> str:
    return mint_token(
        key,
        subject="alice",
        roles=["agent", "approver"],
        tenant=DEFAULT_TENANT,
        issuer="http://here/issuer",
        audience="recourse",
        ttl=ttl,
        name=name,
    )


def read_public(key: Path) -> KeySet:
    return KeySet([RSAKey.import_key(public) for public in public_jwks(key)["keys"]])


def test_a_token_carries_the_claims_and_verifies_with_the_public_keys(key: Path) -> None:
    token = jwt.decode(mint(key, name="Alice"), read_public(key), algorithms=["RS256"])
    claims = token.claims
    assert (claims["iss"], claims["aud"], claims["sub"]) == ("http://here/issuer", "recourse", "alice")
    assert (UUID(claims["tenant"]), claims["roles"], claims["name"]) == (DEFAULT_TENANT, ["agent", "approver"], "Alice")
    assert claims["nbf"] <= time.time() < claims["exp"]


def test_a_negative_ttl_makes_one_that_has_expired(key: Path) -> None:
    claims = jwt.decode(mint(key, ttl=-60), read_public(key), algorithms=["RS256"]).claims
    assert claims["nbf"] <= claims["exp"] < time.time()


def test_the_public_document_has_no_private_half(key: Path) -> None:
    (public,) = public_jwks(key)["keys"]
    assert set(public) == {"kty", "n", "e", "kid", "use", "alg"}
    assert public_jwks(key)["keys"][0]["kid"] == public["kid"]


def test_the_key_is_made_once_for_its_owner(key: Path) -> None:
    before = key.read_bytes()
    ensure_key(key)
    assert key.read_bytes() == before
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
