"""A receiver of spans that counts them and forgets them, a process of its own that is told its port. It must never do
more than a collector would have to: it takes time from the same cores."""

from __future__ import annotations

import gzip
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    spans = 0  # of all requests, which one thread takes at a time: one process sends, one batch after another

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        told = ExportTraceServiceRequest.FromString(body)
        _Handler.spans += sum(len(scope.spans) for resource in told.resource_spans for scope in resource.scope_spans)
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(str(_Handler.spans).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
