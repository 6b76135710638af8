"""HTTP off the socket, by a parser in C; it must never keep what a client sends without end."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 64 * 1024  # bytes of a request line with headers, or of trailers; a token alone may have 8192


class Wire(HttpToolsProtocol):
    """Parses with httptools: several times as fast as in Python, but without any limit. Bytes that complete no head and
    give no piece of a body are counted here; bodies, by who reads them."""

    _pending = 0

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        self._pending = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        super().on_message_complete()
