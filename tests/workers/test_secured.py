"""TLS and tokens to every part: whom we believe, who we are to them, and that nothing goes out in the clear."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import grpc
import pytest
import uvicorn
from pyzeebe.proto.gateway_pb2 import TopologyRequest
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from domain.store.pool import open_pool
from tests.certificates import Certificates, make_certificates
from tests.kafka import serve_secured_kafka
from tests.otlp import receive_spans
from tests.postgres import Database
from tests.workers.fake_engine import FakeEngine, open_engine
from tests.workers.outboxes import open_outboxes, relaying
from workers.gateways.access import NoTokenError, Tokens
from workers.gateways.engine import Engine, NoSearchError, open_channel
from workers.gateways.systems import Systems
from workers.relay.kafka import KafkaSink
from workers.settings import Settings, System
from workers.spans import open_span, start_spans, stop_spans


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("foreign"))


@dataclass
class Desk:
    """An authorization server, an engine's REST side and an outside system, over TLS; it notes what it was asked."""

    url: str = ""
    seconds: int = 3600
    given: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)
    heard: list[str | None] = field(default_factory=list)
    answer: dict[str, Any] | None = None


@asynccontextmanager
async def open_desk(certificates: Certificates) -> AsyncIterator[Desk]:
    desk = Desk()

    async def give_token(request: Request) -> JSONResponse:
        desk.asked.append(dict(parse_qsl((await request.body()).decode())))
        desk.given += 1
        told = {"access_token": f"token-{desk.given}", "expires_in": desk.seconds, "token_type": "Bearer"}
        return JSONResponse(told if desk.answer is None else desk.answer, 200 if desk.answer is None else 401)

    async def search(request: Request) -> JSONResponse:
        desk.heard.append(request.headers.get("authorization"))
        return JSONResponse({"items": []}, 404)

    async def confirm(_: Request) -> JSONResponse:
        return JSONResponse({"state": "CONFIRMED"})

    app = Starlette(
        routes=[
            Route("/token", give_token, methods=["POST"]),
            Route("/v2/topology", search),
            Route("/effects/{id}", confirm, methods=["GET"]),
        ]
    )
    config = uvicorn.Config(
        app, port=0, log_config=None, lifespan="off",
        ssl_certfile=str(certificates.certificate), ssl_keyfile=str(certificates.key),
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    desk.url = f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield desk
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def desk(ours: Certificates) -> AsyncIterator[Desk]:
    async with open_desk(ours) as opened:
        yield opened


@pytest.fixture
async def engine(ours: Certificates) -> AsyncIterator[FakeEngine]:
    chain = (ours.key.read_bytes(), ours.certificate.read_bytes())
    async with open_engine(credentials=grpc.ssl_server_credentials([chain])) as opened:
        yield opened


def settings_for(engine: FakeEngine, desk: Desk, authority: Path, **more: Any) -> Settings:
    return Settings(
        engine_grpc=engine.address, engine_tls=True, engine_rest=desk.url, ca_file=authority,
        engine_token_url=f"{desk.url}/token", engine_client_id="recourse", engine_client_secret="hush",
        engine_audience="zeebe", **more,
    )  # fmt: skip


async def ask_topology(settings: Settings) -> grpc.StatusCode:
    """What becomes of a call."""
    channel = open_channel(settings)
    try:
        await GatewayStub(channel).Topology(TopologyRequest(), timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await channel.close()
    return grpc.StatusCode.OK


async def test_the_engine_is_called_over_tls_with_a_token_that_is_fetched_once(
    engine: FakeEngine, desk: Desk, ours: Certificates
) -> None:
    settings = settings_for(engine, desk, ours.authority)
    channel = open_channel(settings)
    client = Engine(channel, settings)
    assert await client.is_ready()
    assert await client.is_ready()
    assert engine.tokens == ["Bearer token-1", "Bearer token-1"]
    with pytest.raises(NoSearchError):
        await client.find_incidents(datetime(2026, 1, 1, tzinfo=UTC))
    assert desk.heard == ["Bearer token-2"]  # REST has a token of its own
    assert desk.asked[0] == {
        "grant_type": "client_credentials", "client_id": "recourse", "client_secret": "hush", "audience": "zeebe",
    }  # fmt: skip
    await client.close()
    await channel.close()


async def test_an_engine_whose_certificate_nobody_vouches_for_is_not_spoken_to(
    engine: FakeEngine, desk: Desk, foreign: Certificates
) -> None:
    assert await ask_topology(settings_for(engine, desk, foreign.authority)) is grpc.StatusCode.UNAVAILABLE
    assert engine.calls == []
    assert desk.given == 0, "no secret is sent to whoever cannot prove who they are"


async def test_without_a_token_the_engine_is_not_asked(engine: FakeEngine, desk: Desk, ours: Certificates) -> None:
    desk.answer = {"error": "invalid_client"}
    assert await ask_topology(settings_for(engine, desk, ours.authority)) is grpc.StatusCode.UNAVAILABLE
    assert engine.calls == []


async def test_a_token_is_renewed_before_it_ends(desk: Desk, ours: Certificates) -> None:
    now = 1000.0
    settings = Settings(ca_file=ours.authority, engine_token_url=f"{desk.url}/token", engine_client_id="recourse")
    tokens = Tokens(settings, clock=lambda: now)
    desk.seconds = 300
    assert await asyncio.to_thread(tokens.get) == "token-1"
    now += 260
    assert await asyncio.to_thread(tokens.get) == "token-1"
    now += 11
    assert await asyncio.to_thread(tokens.get) == "token-2"
    desk.answer, now = {"access_token": 7}, now + 1000
    with pytest.raises(NoTokenError, match="HTTP 401"):
        await asyncio.to_thread(tokens.get)


async def test_an_outside_system_is_believed_by_our_own_authority_only(
    desk: Desk, ours: Certificates, foreign: Certificates
) -> None:
    claim = {"system": "billing", "effect_id": "e-1", "timeout": 5}
    for certificates, state in ((ours, "CONFIRMED"), (foreign, "UNREACHABLE")):
        systems = Systems({"*": System(url=desk.url)}, certificates.authority)
        assert (await systems.get_effect(claim)).state == state
        await systems.close()


def test_spans_go_to_no_receiver_that_our_authority_does_not_vouch_for(
    ours: Certificates, foreign: Certificates
) -> None:
    for authority, arrived in ((foreign.authority, 0), (ours.authority, 1)):
        with receive_spans(ours) as receiver:
            start_spans(Settings(otlp_endpoint=receiver.url, ca_file=authority), "tests")
            try:
                with open_span("job", "x"):
                    pass
            finally:
                stop_spans()
            assert len(receiver.spans) == arrived


# -- PostgreSQL --------------------------------------------------------------------------------------------------

_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


@asynccontextmanager
async def behind_tls(url: str, certificates: Certificates) -> AsyncIterator[str]:
    """The server of a URL as one that speaks TLS: takes PostgreSQL's request for it, shakes hands, and passes on what
    comes. (The embedded binaries are built without it.)"""
    parts = urlsplit(url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.readexactly(8) != _SSL_REQUEST:
                return  # in the clear: not here
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            inner, outer = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(pipe(reader, outer), pipe(inner, writer))
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()


async def test_postgresql_is_spoken_to_over_tls_where_its_address_says_so(
    database: Database, ours: Certificates, foreign: Certificates
) -> None:
    async with behind_tls(database.app_url, ours) as url:
        pool = await open_pool(f"{url}?sslmode=verify-full&sslrootcert={ours.authority}", size=1)
        assert await pool.fetchval("select 1") == 1
        await pool.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await open_pool(f"{url}?sslmode=verify-full&sslrootcert={foreign.authority}", size=1)
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await open_pool(f"{url}?sslmode=disable", size=1)


# -- Kafka -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured_kafka(ours: Certificates) -> Iterator[tuple[str, str]]:
    with serve_secured_kafka(ours) as addresses:
        yield addresses


async def test_kafka_takes_events_over_tls_from_who_knows_the_password(
    database: Database, secured_kafka: tuple[str, str], ours: Certificates
) -> None:
    async with open_outboxes(database) as outboxes:
        told = {
            "kafka_bootstrap": secured_kafka[0], "kafka_security": "SASL_SSL", "kafka_mechanism": "PLAIN",
            "kafka_username": "relay", "ca_file": ours.authority,
        }  # fmt: skip
        await outboxes.add_event(uuid.uuid4())
        refused = outboxes.settings(**told, kafka_password="guessed")
        async with relaying(refused, KafkaSink) as loop, asyncio.timeout(30):
            while "KafkaConnectionError" not in loop.trouble:
                await asyncio.sleep(0.02)
        known = outboxes.settings(**told, kafka_password="hush")
        async with relaying(known, KafkaSink):
            await outboxes.until_sent("outbox")


async def test_kafka_takes_events_from_who_has_a_certificate_that_it_believes(
    database: Database, secured_kafka: tuple[str, str], ours: Certificates, foreign: Certificates
) -> None:
    async with open_outboxes(database) as outboxes:
        told = {"kafka_bootstrap": secured_kafka[1], "kafka_security": "SSL", "ca_file": ours.authority}
        await outboxes.add_event(uuid.uuid4())
        theirs = {"kafka_cert_file": foreign.certificate, "kafka_key_file": foreign.key}
        for unknown in ({}, theirs):
            async with relaying(outboxes.settings(**told, **unknown), KafkaSink) as loop, asyncio.timeout(30):
                while "KafkaConnectionError" not in loop.trouble:
                    await asyncio.sleep(0.02)
        own = {"kafka_cert_file": ours.certificate, "kafka_key_file": ours.key}
        async with relaying(outboxes.settings(**told, **own), KafkaSink):
            await outboxes.until_sent("outbox")
