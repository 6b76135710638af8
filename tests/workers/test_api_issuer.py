"""An issuer as there is one outside: over HTTP, with keys that change, and with bad days."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
import pytest
import uvicorn
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.certificates import Certificates, make_certificates
from tests.postgres import Database
from tests.workers.api_world import ISSUER, RSA, claims_of, make_settings, sign
from workers.api.app import make_app, open_service
from workers.api.identity import (
    KEYS_FRESH,
    KEYS_PATIENCE,
    KEYS_PAUSE,
    KEYS_TIMEOUT,
    Doorkeeper,
    KeyRing,
    Principal,
    fetch_over_http,
)
from workers.api.problems import Refusal

NEXT = RSAKey.generate_key(2048, {"kid": "rsa-2", "use": "sig", "alg": "RS256"}, private=True)
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa-3", "use": "sig", "alg": "RS256"}, private=True)
CROWD = 300

Mood = Literal["well", "hangs", "trickles", "fails", "is a web page", "is elsewhere"]


@dataclass
class Issuer:
    """Publishes its keys, as its mood lets it; `asked` is how often it was asked for them."""

    url: str = ""
    keys: list[RSAKey | ECKey] = field(default_factory=lambda: [RSA])
    mood: Mood = "well"
    asked: int = 0
    closes: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, _: Request) -> Response:
        self.asked += 1
        match self.mood:
            case "hangs":
                await self.closes.wait()
            case "trickles":
                return StreamingResponse(self._trickle(), media_type="application/json")
            case "fails":
                return JSONResponse({"error": "server_error"}, 500)
            case "is a web page":
                return Response("<h1>We are moving</h1>", media_type="text/html")
            case "is elsewhere":
                return RedirectResponse(f"{self.url}/elsewhere")
        return JSONResponse({"keys": [key.as_dict(private=False) for key in self.keys]})

    async def _trickle(self) -> AsyncIterator[bytes]:
        """Never so long without a byte that a reader would give up for that."""
        while not self.closes.is_set():
            yield b" "
            await asyncio.sleep(0.2)

    async def elsewhere(self, _: Request) -> Response:
        return JSONResponse({"keys": [STRANGER.as_dict(private=False)]})


@asynccontextmanager
async def open_issuer(certificates: Certificates | None = None) -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = Starlette(routes=[Route("/.well-known/jwks.json", issuer.answer), Route("/elsewhere", issuer.elsewhere)])
    config = uvicorn.Config(
        app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=2,
        ssl_certfile=str(certificates.certificate) if certificates else None,
        ssl_keyfile=str(certificates.key) if certificates else None,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    issuer.url = f"http{'s' if certificates else ''}://127.0.0.1:{port}"
    try:
        yield issuer
    finally:
        issuer.closes.set()
        server.should_exit = True
        await serving


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with open_issuer() as opened:
        yield opened


@dataclass
class Entrance:
    """A doorkeeper who knows the issuer by its address, and whose clock a test may put forward."""

    ring: KeyRing
    keeper: Doorkeeper
    ahead: list[float]

    def later(self, seconds: float) -> None:
        self.ahead[0] += seconds

    async def admit(self, key: RSAKey, person: str = "alice", **header: str) -> Principal:
        return await self.keeper.admit(f"Bearer {sign(claims_of(person, ('agent',), uuid.uuid4()), key, **header)}")

    async def refusals(self, key: RSAKey, count: int) -> set[str]:
        """What so many at once are told, each of whose tokens names another key."""
        told = await asyncio.gather(
            *(self.admit(key, kid=f"unheard-{uuid.uuid4()}") for _ in range(count)), return_exceptions=True
        )
        return {refusal.code if isinstance(refusal, Refusal) else repr(refusal) for refusal in told}


@pytest.fixture
async def entrance(issuer: Issuer) -> AsyncIterator[Entrance]:
    ahead = [0.0]
    async with httpx.AsyncClient(timeout=KEYS_TIMEOUT, trust_env=False) as client:
        fetch = fetch_over_http(f"{issuer.url}/.well-known/jwks.json", client)
        ring = KeyRing(fetch, clock=lambda: time.monotonic() + ahead[0])
        keeper = Doorkeeper(ring, issuer=ISSUER, audience="recourse", clock=lambda: time.time() + ahead[0])
        yield Entrance(ring, keeper, ahead)
        await ring.close()


async def test_keys_are_rotated_without_a_restart(issuer: Issuer, entrance: Entrance) -> None:
    await entrance.admit(RSA)
    issuer.keys = [RSA, NEXT]
    entrance.later(KEYS_PAUSE)
    await entrance.admit(NEXT)
    await entrance.admit(RSA)
    assert issuer.asked == 2
    issuer.keys = [NEXT]
    entrance.later(KEYS_FRESH)
    with pytest.raises(Refusal, match="unknown key"):
        await entrance.admit(RSA)
    await entrance.admit(NEXT)
    assert issuer.asked == 3


async def test_a_flood_of_unknown_keys_is_one_question(issuer: Issuer, entrance: Entrance) -> None:
    """Without the pause, or without one fetch for all, the issuer is asked three hundred times."""
    await entrance.admit(RSA)
    for asked in (1, 2, 3):
        assert await entrance.refusals(STRANGER, CROWD) == {"UNAUTHENTICATED"}
        assert issuer.asked == asked
        entrance.later(KEYS_PAUSE)
    await entrance.admit(RSA)


@pytest.mark.parametrize("mood", ["hangs", "trickles", "fails", "is a web page", "is elsewhere"])
async def test_an_issuer_on_a_bad_day_keeps_nobody_out_whose_key_is_known(
    issuer: Issuer, entrance: Entrance, mood: Mood
) -> None:
    """Where each asks for himself, or the pause counts from the beginning of a fetch, the crowd waits in one line
    behind fetches of five seconds each."""
    await entrance.admit(RSA)
    issuer.mood = mood
    entrance.later(KEYS_FRESH + 1)
    began = time.monotonic()
    await asyncio.gather(*(entrance.admit(RSA, f"person-{number}") for number in range(CROWD)))
    first = time.monotonic()
    await asyncio.gather(*(entrance.admit(RSA, f"other-{number}") for number in range(CROWD)))
    second = time.monotonic()
    # What lies between is the work of the crowd itself, which both waves have.
    assert (first - began) - (second - first) < KEYS_PATIENCE + 1
    assert issuer.asked == 2
    assert await entrance.refusals(STRANGER, CROWD) == {"UNAUTHENTICATED"}
    assert time.monotonic() - second < KEYS_TIMEOUT + 3
    assert issuer.asked == 2
    issuer.mood, issuer.keys = "well", [NEXT]
    entrance.later(KEYS_PAUSE)
    await entrance.admit(NEXT)


@pytest.mark.parametrize("mood", ["hangs", "fails"])
async def test_an_api_that_starts_without_its_issuer_says_so_and_needs_no_restart(
    issuer: Issuer, api_database: Database, mood: Mood
) -> None:
    """And once it has keys, it stays ready whatever becomes of the issuer: else all replicas would be taken out of the
    service at once, with everything that they need in hand."""
    issuer.mood = mood
    async with open_api(api_database, issuer) as (api, ring):
        ready = await api.get("/readyz")
        assert (ready.status_code, ready.json()["troubles"]) == (503, {"keys": "not read yet"})
        answer = await api.get("/api/v1/orders")
        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        assert answer.headers["retry-after"]
        issuer.mood = "well"
        issuer.closes.set()
        put_forward(ring, KEYS_PAUSE)
        assert (await api.get("/readyz")).status_code == 200
        assert (await api.get("/api/v1/orders")).status_code == 200
        issuer.closes.clear()
        issuer.mood = mood
        put_forward(ring, KEYS_FRESH * 2)
        began = time.monotonic()
        assert (await api.get("/readyz")).status_code == 200
        assert time.monotonic() - began < KEYS_PATIENCE


async def test_only_an_issuer_that_our_authority_vouches_for_is_believed(
    api_database: Database, tmp_path: Path
) -> None:
    ours, foreign = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "foreign")
    async with open_issuer(ours) as issuer:
        async with open_api(api_database, issuer, foreign.authority) as (api, _):
            assert (await api.get("/api/v1/orders")).status_code == 503
        assert issuer.asked == 0
        async with open_api(api_database, issuer, ours.authority) as (api, _):
            assert (await api.get("/api/v1/orders")).status_code == 200
        assert issuer.asked == 1


@asynccontextmanager
async def open_api(
    database: Database, issuer: Issuer, authority: Path | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, KeyRing]]:
    """The API as its settings make it, asked by a person whom this issuer knows."""
    told = {"jwks_url": f"{issuer.url}/.well-known/jwks.json", "ca_file": authority}
    settings = make_settings(database.app_url).model_copy(update=told)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(settings))
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(make_app(service)),
            base_url="http://recourse.test",
            headers={"Authorization": f"Bearer {sign(claims_of('alice', ('agent',), uuid.uuid4()))}"},
        )
        yield await stack.enter_async_context(client), service.doorkeeper.ring


def put_forward(ring: KeyRing, seconds: float) -> None:
    clock = ring._clock
    ring._clock = lambda: clock() + seconds
