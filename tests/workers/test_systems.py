"""The client of outside systems against a real server that behaves in every way a system can."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from workers.gateways.systems import VERIFICATIONS, Outcome, Systems
from workers.settings import System

EFFECT = "6f1c1c1e-0000-4000-8000-000000000001"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes, bytes], Awaitable[None]]


@asynccontextmanager
async def a_system(serve: Serve) -> AsyncIterator[Systems]:
    """A system that answers each request as the test says; `serve` gets head and body of the request."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-len")),
                    0,
                )
                await serve(reader, writer, head, await reader.readexactly(length))
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    systems = Systems({"*": System(url=f"http://127.0.0.1:{port}")})
    try:
        yield systems
    finally:
        await systems.close()
        server.close()


def answering(status: int, body: Any) -> Serve:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def serve(_r: asyncio.StreamReader, writer: asyncio.StreamWriter, _h: bytes, _b: bytes) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

    return serve


def a_claim(**more: Any) -> dict[str, Any]:
    body = {"taskType": "reserve-inventory", "orderId": "o-1", "attempt": 1}
    return {"system": "inventory", "effect_id": EFFECT, "timeout": 2.0, "body": body} | more


CONFIRMED = {"state": "CONFIRMED", "externalReference": "INV-1", "output": {"captured": 3999}}

PUTS: list[tuple[int, Any, Outcome]] = [
    (200, CONFIRMED, Outcome("CONFIRMED", "INV-1", {"captured": 3999})),
    (200, {"state": "CONFIRMED"}, Outcome("CONFIRMED")),
    (202, {"state": "ACCEPTED"}, Outcome("ACCEPTED")),
    (409, {"state": "NO_EFFECT", "reason": "sold out"}, Outcome("NO_EFFECT", reason="sold out")),
    (422, {"state": "NO_EFFECT", "reason": "no such device"}, Outcome("NO_EFFECT", reason="no such device")),
    (422, {"state": "NO_EFFECT", "reason": "x" * 900}, Outcome("NO_EFFECT", reason="x" * 300)),
]


@pytest.mark.parametrize(("status", "body", "expected"), PUTS)
async def test_an_answer_of_the_contract_is_taken_at_its_word(status: int, body: Any, expected: Outcome) -> None:
    async with a_system(answering(status, body)) as systems:
        assert await systems.put_effect(a_claim()) == expected


NO_ANSWERS: list[tuple[int, Any]] = [
    (200, {"state": "ACCEPTED"}),
    (200, {"state": "NO_EFFECT"}),
    (200, {"state": "confirmed"}),
    (200, {}),
    (200, []),
    (200, b"{not json"),
    (200, b""),
    (200, b'{"state": "CONFIRMED", "output": NaN}'),
    (200, {"state": "CONFIRMED", "externalReference": 17}),
    (200, {"state": "CONFIRMED", "externalReference": "x" * 257}),
    (201, CONFIRMED),
    (202, CONFIRMED),
    (301, CONFIRMED),
    (400, {"state": "NO_EFFECT"}),
    (401, {"state": "NO_EFFECT"}),
    (404, {"state": "NO_EFFECT"}),
    (409, {"state": "CONFIRMED"}),
    (409, {"error": "conflict"}),
    (429, {"state": "NO_EFFECT"}),
    (500, CONFIRMED),
    (503, {"state": "NO_EFFECT"}),
    (200, b"[" * 100_000),
    (200, {"state": "CONFIRMED", "output": "x" * 2**20}),
]


@pytest.mark.parametrize(("status", "body"), NO_ANSWERS)
async def test_anything_else_leaves_the_outcome_unknown(status: int, body: Any) -> None:
    async with a_system(answering(status, body)) as systems:
        outcome = await systems.put_effect(a_claim())
    assert outcome.state == "UNKNOWN"
    assert outcome.reason
    assert "xxx" not in outcome.reason


async def hang(_r: asyncio.StreamReader, _w: asyncio.StreamWriter, _h: bytes, _b: bytes) -> None:
    await asyncio.sleep(3600)


async def drip(_r: asyncio.StreamReader, writer: asyncio.StreamWriter, _h: bytes, _b: bytes) -> None:
    """Never silent long enough for a timeout between bytes."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def break_off(_r: asyncio.StreamReader, writer: asyncio.StreamWriter, _h: bytes, _b: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    writer.close()


async def slam(_r: asyncio.StreamReader, writer: asyncio.StreamWriter, _h: bytes, _b: bytes) -> None:
    writer.transport.abort()


async def babble(_r: asyncio.StreamReader, writer: asyncio.StreamWriter, _h: bytes, _b: bytes) -> None:
    writer.write(b"what is HTTP\r\n\r\n")


async def pour(_r: asyncio.StreamReader, writer: asyncio.StreamWriter, _h: bytes, _b: bytes) -> None:
    """An answer without end."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    while True:
        writer.write(chunk)
        await writer.drain()


@pytest.mark.parametrize("serve", [hang, drip, break_off, slam, babble, pour], ids=lambda serve: serve.__name__)
async def test_a_system_that_does_not_answer_leaves_the_outcome_unknown(serve: Serve) -> None:
    async with a_system(serve) as systems:
        started = asyncio.get_running_loop().time()
        outcome = await systems.put_effect(a_claim(timeout=0.4))
        again = await systems.get_effect(a_claim(timeout=0.4))
        assert asyncio.get_running_loop().time() - started < 2
    assert (outcome.state, again.state) == ("UNKNOWN", "UNREACHABLE")


async def test_a_system_that_is_not_there_leaves_the_outcome_unknown() -> None:
    systems = Systems({"inventory": System(url="http://127.0.0.1:1")})
    assert (await systems.put_effect(a_claim())).state == "UNKNOWN"
    assert (await systems.get_effect(a_claim())).state == "UNREACHABLE"
    await systems.close()


async def test_a_system_without_an_address_is_told_by_name() -> None:
    systems = Systems({})
    outcome = await systems.put_effect(a_claim())
    assert (outcome.state, outcome.reason) == ("UNKNOWN", "no address is set for the system inventory")
    assert (await systems.get_effect(a_claim())).state == "UNREACHABLE"


GETS: list[tuple[int, Any, str]] = [
    (200, CONFIRMED, "CONFIRMED"),
    (200, {"state": "NO_EFFECT", "reason": "expired"}, "NO_EFFECT"),
    (200, {"state": "ACCEPTED"}, "ACCEPTED"),
    (404, {"error": "unknown"}, "MISSING"),
    (404, b"<html>", "MISSING"),
    (200, {"state": "PENDING"}, "UNREACHABLE"),
    (202, {"state": "ACCEPTED"}, "UNREACHABLE"),
    (410, {}, "UNREACHABLE"),
    (500, CONFIRMED, "UNREACHABLE"),
]


@pytest.mark.parametrize(("status", "body", "state"), GETS)
async def test_verification_believes_only_clear_answers(status: int, body: Any, state: str) -> None:
    async with a_system(answering(status, body)) as systems:
        assert (await systems.get_effect(a_claim())).state == state


async def test_the_call_says_what_the_contract_says() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> None:
        seen.append((head, body))
        await answering(200, CONFIRMED)(reader, writer, head, body)

    async with a_system(serve) as systems:
        await systems.put_effect(a_claim())
        await systems.get_effect(a_claim())
    (put, body), (get, nothing) = seen
    assert put.startswith(f"PUT /effects/{EFFECT} HTTP/1.1\r\n".encode())
    assert f"Idempotency-Key: {EFFECT}\r\n".encode() in put
    assert json.loads(body) == a_claim()["body"]
    assert get.startswith(f"GET /effects/{EFFECT} HTTP/1.1\r\n".encode())
    assert nothing == b""


async def test_a_nul_in_an_answer_does_not_make_it_unstorable() -> None:
    body = {"state": "CONFIRMED", "externalReference": "IN\x00V", "output": {"a\x00": ["b\x00", 1, None]}}
    async with a_system(answering(200, body)) as systems:
        assert await systems.put_effect(a_claim()) == Outcome("CONFIRMED", "INV", {"a": ["b", 1, None]})


async def test_a_system_that_hangs_does_not_hold_up_another() -> None:
    async with a_system(hang) as slow, a_system(answering(200, CONFIRMED)) as quick:
        systems = Systems({"billing": slow._systems["*"], "inventory": quick._systems["*"]})
        stuck = [asyncio.create_task(systems.put_effect(a_claim(system="billing", timeout=1.0))) for _ in range(60)]
        await asyncio.sleep(0)
        async with asyncio.timeout(0.8):
            assert (await systems.put_effect(a_claim())).state == "CONFIRMED"
        assert {outcome.state for outcome in await asyncio.gather(*stuck)} == {"UNKNOWN"}
        await systems.close()


async def test_only_so_many_verifications_sit_in_one_system() -> None:
    async with a_system(hang) as systems:
        asking = [asyncio.create_task(systems.get_effect(a_claim(timeout=0.3))) for _ in range(VERIFICATIONS)]
        await asyncio.sleep(0)
        assert systems.is_crowded("inventory")
        assert not systems.is_crowded("billing")
        await asyncio.gather(*asking)
        assert not systems.is_crowded("inventory")
