"""The socket: requests one after the other on one connection, and no memory for what never ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from workers.api.wire import MAX_HEAD, Wire

HEAD = b"POST /here HTTP/1.1\r\nHost: a\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def count_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of bytes that came."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@asynccontextmanager
async def connected() -> AsyncIterator[Streams]:
    config = uvicorn.Config(count_body, http=Wire, port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        await server.shutdown()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def is_cut_off(streams: Streams, endless: bytes) -> bool:
    """Whether the other side ends the connection instead of taking the same part again and again."""
    reader, writer = streams
    try:
        for _ in range(64 * MAX_HEAD // len(endless)):
            writer.write(endless)
            await writer.drain()
            if reader.at_eof():
                return True
    except OSError:
        return True
    return False


async def test_bodies_of_any_size_and_requests_one_after_the_other() -> None:
    async with connected() as (reader, writer):
        for size in (0, 1, 3 * MAX_HEAD):
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
            assert await answer(reader) == (200, str(size).encode())
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * MAX_HEAD + b"0\r\n\r\n")
        assert await answer(reader) == (200, str(MAX_HEAD).encode())
        for _ in range(20):  # small ones add up to more than one head may have
            writer.write(HEAD + b"X-Long: %s\r\nContent-Length: 0\r\n\r\n" % (b"x" * (MAX_HEAD // 10)))
            assert await answer(reader) == (200, b"0")


@pytest.mark.parametrize(
    ("begin", "endless"),
    [
        (HEAD + b"X-Long: ", b"x" * 1000),
        (HEAD, b"X-Many: " + b"x" * 90 + b"\r\n"),
        (b"POST /", b"x" * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X-Trailer: " + b"x" * 90 + b"\r\n"),
    ],
    ids=["one header", "many headers", "an address", "trailers"],
)
async def test_what_never_ends_is_cut_off(begin: bytes, endless: bytes) -> None:
    async with connected() as streams:
        streams[1].write(begin)
        assert await is_cut_off(streams, endless)


async def test_a_head_that_is_too_large_is_told_so() -> None:
    async with connected() as (reader, writer):
        writer.write(HEAD)
        await writer.drain()
        writer.write(b"X-Long: " + b"x" * MAX_HEAD)
        assert await answer(reader) == (400, b"The head of the request is too large.")
        assert await reader.read() == b""
