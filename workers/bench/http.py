"""A client that costs little: one connection, one request after another, as bytes. It must never follow, retry or parse
more than a status and a version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_ETAG = b"\r\netag:"


class Connection:
    """Keeps one connection open; its requests go one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, bytes]:
        """Status and body. Raises OSError or asyncio.IncompleteReadError where the connection ends."""
        status, _, answered = await self._exchange(method, path, headers, body)
        return status, answered

    async def read(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Status, ETag and body of a GET."""
        return await self._exchange("GET", path, headers, b"")

    async def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(_HEAD_END)
        length = int(_header(answer, _LENGTH))
        return int(answer[9:12]), _header(answer, _ETAG), await self._reader.readexactly(length) if length else b""


def _header(answer: bytes, name: bytes) -> str:
    """Empty where there is none."""
    place = answer.lower().find(name)
    if place < 0:
        return ""
    start = place + len(name)
    return answer[start : answer.index(b"\r\n", start)].decode().strip()


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Connection]]:
    """So many open connections to one server."""
    parts = urlsplit(url)
    async with AsyncExitStack() as stack:
        opened: list[Connection] = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            stack.callback(writer.close)
            opened.append(Connection(reader, writer, parts.netloc))
        yield opened
