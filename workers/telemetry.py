"""Health and metrics of a process that serves no API of its own; it must never claim more than it was told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Gauge, generate_latest

from workers.settings import Settings

# What is not ready → why; empty when all is well.
Troubles = Callable[[], Mapping[str, str]]

_JSON = "application/json"

_READY = Gauge("recourse_ready", "Whether the process says that it is ready (1 or 0)")


@asynccontextmanager
async def serve_health(settings: Settings, troubles: Troubles) -> AsyncIterator[None]:
    """Answer /healthz (the loop turns), /readyz (503 and the troubles while there are any) and /metrics.

    Listens on `health_host:health_port` while the block runs; without a port it listens nowhere.
    """
    if settings.health_port is None:
        yield
        return

    _READY.set_function(lambda: not troubles())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                request = await reader.readline()
                status, kind, body = _respond(request.decode("latin-1").split(" "), troubles)
                head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (TimeoutError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, settings.health_host, settings.health_port)
    async with server:
        yield


def _respond(request: list[str], troubles: Troubles) -> tuple[str, str, bytes]:
    path = request[1].partition("?")[0] if len(request) > 1 else ""
    match path:
        case "/healthz":
            return "200 OK", _JSON, b'{"status": "UP"}'
        case "/readyz":
            found = dict(troubles())
            body = json.dumps({"status": "DOWN" if found else "UP", "troubles": found}).encode()
            return ("503 Service Unavailable" if found else "200 OK"), _JSON, body
        case "/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest(REGISTRY)
        case _:
            return "404 Not Found", _JSON, b'{"status": "NOT_FOUND"}'
