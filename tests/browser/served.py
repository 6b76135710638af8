"""The API on a real port, for a browser: the real application and database, tokens of the test issuer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import uvicorn

from tests.workers.api_world import ApiWorld, open_world
from workers.local.home import free_port

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Served:
    """Where it answers, and a way to play the flows by hand on its own loop."""

    url: str
    world: ApiWorld
    loop: asyncio.AbstractEventLoop

    def play(self, work: Callable[[ApiWorld], Awaitable[T]], seconds: float = 30) -> T:
        async def played() -> T:
            return await work(self.world)

        return asyncio.run_coroutine_threadsafe(played(), self.loop).result(seconds)


@contextmanager
def serve_api(app_url: str) -> Iterator[Served]:
    """One API on a free port for as long as the block runs."""
    port = free_port()
    started = threading.Event()
    opened: list[tuple[ApiWorld, asyncio.AbstractEventLoop, uvicorn.Server]] = []

    async def live() -> None:
        async with open_world(app_url) as world:
            config = uvicorn.Config(world.app, port=port, log_config=None, access_log=False, lifespan="off")
            server = uvicorn.Server(config)
            opened.append((world, asyncio.get_running_loop(), server))
            serving = asyncio.create_task(server.serve())
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            started.set()
            await serving

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="served api", daemon=True)
    thread.start()
    try:
        assert started.wait(30), "the API does not start"
        world, loop, _ = opened[0]
        yield Served(f"http://127.0.0.1:{port}", world, loop)
    finally:
        for _, _, server in opened:
            server.should_exit = True
        thread.join(30)
