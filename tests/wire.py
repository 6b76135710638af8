"""A wire between a client and a server that a test can damage: cut, reset, stall, leave half open, slow down.

It is a TCP proxy on loopback with a loop of its own, so that plain tests and asynchronous ones use it alike."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Damage = Literal["reset", "cut", "stall", "half-open", "slow", "late"]
# Not `late`, which is met by who connects anew, and by nobody else.
DAMAGES: tuple[Damage, ...] = ("reset", "cut", "stall", "half-open", "slow")

_CHUNK = 65_536
_SLOW = 0.05  # seconds that every chunk takes
_LATE = 2.5  # seconds until a server that has just begun says its first word


@dataclass(eq=False)
class _Link:
    """One connection through the wire. deaf: nothing that is said on it arrives any more, and nobody is told."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    deaf: bool = False

    def reset(self) -> None:
        """Both ends hear a reset, as from a machine that has forgotten the connection."""
        for writer in filter(None, (self.client, self.server)):
            sock: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass
class Wire:
    """The wire to one server; clients are told `address`.

    named: a server that tells its clients its own address (Kafka) is made to tell this one · met: how often anybody has
    run into the damage since it was done
    """

    host: str
    target: int
    named: bool
    _loop: asyncio.AbstractEventLoop
    port: int = 0
    met: int = 0
    _links: set[_Link] = field(default_factory=set)
    _damage: Damage | None = None
    _passes: asyncio.Event = field(default_factory=asyncio.Event)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def damage(self, how: Damage) -> None:
        """reset: every connection, once · cut: the same, and no new one until mended · stall: what is said arrives when
        it is mended · half-open: what is said never arrives, and the connections of this time stay as dead · slow ·
        late: every connection is reset, and whoever connects anew waits for the server's first word."""
        self._call(lambda: self._do(how))

    def mend(self) -> None:
        """New connections pass, and what was stalled arrives."""
        self._call(lambda: self._do(None))

    def _do(self, how: Damage | None) -> None:
        self.met = 0 if how else self.met
        self._damage = how
        (self._passes.clear if how == "stall" else self._passes.set)()
        for link in list(self._links):
            if how in {"reset", "cut", "late"}:
                self.met += 1
                link.reset()
            link.deaf = link.deaf or how == "half-open"

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._accept(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer, deaf=self._damage == "half-open")
        if self._damage == "cut":
            self.met += 1
            link.reset()
            return
        try:
            from_server, link.server = await asyncio.open_connection(self.host, self.target)
        except OSError:
            link.reset()
            return
        self._links.add(link)
        try:
            await asyncio.gather(
                self._carry(link, reader, link.server, rewrite=False),
                self._carry(link, from_server, writer, rewrite=self.named),
            )
        finally:
            self._links.discard(link)
            link.client.close()
            link.server.close()

    async def _carry(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, rewrite: bool
    ) -> None:
        if self._damage == "late" and sink is link.client:
            await asyncio.sleep(_LATE)
        own, told = (self.host.encode() + port.to_bytes(4, "big") for port in (self.target, self.port))
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                self.met += self._damage is not None or link.deaf
                await self._passes.wait()
                if link.deaf:
                    continue
                if self._damage == "slow":
                    await asyncio.sleep(_SLOW)
                sink.write(data.replace(own, told) if rewrite else data)
                await sink.drain()
        if sink is link.server or not link.deaf:  # on a half-open wire the client does not hear that the server hung up
            sink.close()

    def _call(self, act: Callable[[], None]) -> None:
        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def open(self) -> None:
        self._passes.set()
        self._server = await asyncio.start_server(self._welcome, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        self._passes.set()
        for link in list(self._links):
            link.reset()
        await asyncio.gather(*self._serving)


@contextmanager
def open_wires(*targets: tuple[int, bool]) -> Iterator[list[Wire]]:
    """A wire to each (port, named) on loopback, for as long as the block runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    wires = [Wire("127.0.0.1", port, named, loop) for port, named in targets]
    try:
        for wire in wires:
            asyncio.run_coroutine_threadsafe(wire.open(), loop).result(10)
        yield wires
    finally:
        for wire in wires:
            asyncio.run_coroutine_threadsafe(wire.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
