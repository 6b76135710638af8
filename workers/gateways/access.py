"""How we prove who we are, and whom we believe: certificates, and tokens for the engine. It must never log a token."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final

import httpx

from workers.settings import Settings

_SECONDS: Final = 10.0
# A token is renewed so long before its end: what was sent with it may still be on its way.
_LEEWAY: Final = 30.0
# What a token that does not say how long it lasts is believed for.
_UNSAID: Final = 60.0


def open_context(ca_file: Path | None) -> ssl.SSLContext:
    """Certificates of the public authorities, and of our own house where it has one."""
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def read_roots(ca_file: Path | None) -> bytes:
    """The same for those who take them as PEM."""
    trusted = open_context(ca_file).get_ca_certs(binary_form=True)
    return "".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in trusted).encode()


class NoTokenError(Exception):
    """The authorization server gives no token; the message says why, without its answer."""


class Tokens:
    """Tokens by client credentials (RFC 6749, 4.4), one kept until it nears its end; for threads as for tasks."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._ends = float("-inf")

    def get(self) -> str:
        """A token that holds for some time yet. Raises NoTokenError. Blocks while one is fetched."""
        with self._lock:
            if self._clock() >= self._ends:
                self._token, seconds = self._fetch()
                self._ends = self._clock() + max(seconds - _LEEWAY, 1.0)
            return self._token

    def _fetch(self) -> tuple[str, float]:
        asked = {
            "grant_type": "client_credentials",
            "client_id": self._settings.engine_client_id,
            "client_secret": self._settings.engine_client_secret,
            "audience": self._settings.engine_audience,
            "scope": self._settings.engine_scope,
        }
        told = {name: value for name, value in asked.items() if value}
        context = open_context(self._settings.ca_file)
        try:
            with httpx.Client(timeout=_SECONDS, trust_env=False, verify=context) as client:
                answer = client.post(self._settings.engine_token_url, data=told, headers={"Accept": "application/json"})
            document = answer.raise_for_status().json()
            token, seconds = document["access_token"], document.get("expires_in", _UNSAID)
        except httpx.HTTPStatusError as error:
            raise NoTokenError(f"HTTP {error.response.status_code}") from None
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NoTokenError(type(error).__name__) from None
        if not isinstance(token, str) or not token.isprintable() or not isinstance(seconds, int | float):
            raise NoTokenError("no token in the answer")
        return token, float(seconds)


class BearerAuth(httpx.Auth):
    """The engine's token on every request of an httpx client."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        try:
            token = await asyncio.to_thread(self._tokens.get)
        except NoTokenError as error:
            raise httpx.ConnectError(f"no token: {error}", request=request) from error
        request.headers["Authorization"] = f"Bearer {token}"
        yield request
