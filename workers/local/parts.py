"""What the supervisor runs: parts that stay and steps that end, and how to ask a part whether it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from workers.local.processes import Command

Probe = Callable[[], Awaitable[bool]]


class PartError(Exception):
    """A part or step cannot be brought up; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to be done once, after what it needs is ready; `run` answers what there is to tell."""

    name: str
    needs: frozenset[str]
    run: Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Part:
    """A process that stays: prepared and started after what it needs, ready when its probe says so.

    `ports` are those it opens: somebody else's server there would answer the probe in its place.
    """

    name: str
    needs: frozenset[str]
    prepare: Callable[[], Awaitable[Command]]
    probe: Probe
    address: str
    ports: tuple[int, ...]
    patience: float = 60.0


async def answers_http(host: str, port: int, path: str) -> bool:
    """Whether a GET is answered with 200 within a second."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
    status = await _exchange(host, port, request, lambda reader: reader.readline())
    return status.split(b" ")[1:2] == [b"200"]


async def answers_kafka(host: str, port: int) -> bool:
    """Whether a broker answers the question which versions of the protocol it speaks."""
    question = b"\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff"
    return len(await _exchange(host, port, question, lambda reader: reader.readexactly(8))) == 8


async def answers_postgres(host: str, port: int) -> bool:
    """Whether the server asks for a password (it does so only when it accepts connections)."""
    fields = b"user\x00recourse_probe\x00database\x00postgres\x00\x00"
    hello = (len(fields) + 8).to_bytes(4, "big") + (196_608).to_bytes(4, "big") + fields
    return (await _exchange(host, port, hello, lambda reader: reader.readexactly(1))) == b"R"


async def _exchange(
    host: str, port: int, question: bytes, read: Callable[[asyncio.StreamReader], Awaitable[bytes]]
) -> bytes:
    """The answer's beginning; empty when there is none within a second."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(question)
                await writer.drain()
                return await read(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return b""
