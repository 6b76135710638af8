"""Around every request: trace, metrics, one line in the log, security headers, and the last word when all else failed.
It must never read a body."""

from __future__ import annotations

import time
import traceback
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from workers.api.calls import Trace, read_trace
from workers.api.problems import Problem, problem_response
from workers.spans import are_recorded, open_span

log = structlog.get_logger(__name__)

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)
# Asked every few seconds by machines.
_UNRECORDED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_CLOSED: Final = "default-src 'none'; frame-ancestors 'none'"


def _trail(error: Exception) -> list[str]:
    """Where it happened, innermost last; never the message, which may quote what a customer wrote."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-8:]]


def _name_method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "OTHER"


class Meters:
    """The API's metrics; every label has a closed set of values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "recourse_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "recourse_http_request_seconds",
            "Time from request to answer.",
            ["method", "route"],
            registry=registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        )


class Edge:
    """ASGI middleware; what passes it unanswered is a defect of ours and is answered as one."""

    def __init__(self, app: ASGIApp, *, base_url: str, meters: Meters) -> None:
        self._app = app
        self._base_url = base_url
        self._meters = meters
        self._strict_transport = base_url.startswith("https://")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header = Headers(scope=scope).get("traceparent")
        trace = read_trace(header)
        if not are_recorded() or scope["path"] in _UNRECORDED:
            await self._answer(scope, receive, send, trace)
            return
        method = _name_method(scope)
        with open_span("request", method, parent=header and trace.parent, method=method) as span:
            recorded = read_trace(span.parent)
            status = await self._answer(scope, receive, send, recorded)
            route, caller = scope["state"].get("route", "none"), scope["state"].get("caller")
            span.rename(f"{method} {route}")
            span.note(route=route, status=status, tenant_id=caller.tenant if caller else None)
            if status >= 500:
                span.fail(str(status))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, trace: Trace) -> int:
        """The status that was answered; 499 where nobody waited for one."""
        began = time.perf_counter()
        scope.setdefault("state", {})["trace"] = trace
        status = 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(MutableHeaders(scope=message), trace.trace_id)
            await send(message)

        tokens = bind_contextvars(request_id=trace.trace_id)
        try:
            try:
                await self._app(scope, receive, finish)
            except Exception as error:
                if status:
                    raise
                log.error("request failed", error=type(error).__name__, where=_trail(error))  # noqa: TRY400
                problem = Problem(500, "INTERNAL", "Something is broken on our side; name the traceId.")
                response = problem_response(problem, base_url=self._base_url, trace_id=trace.trace_id)
                await response(scope, receive, finish)
        finally:
            self._count(scope, status, time.perf_counter() - began)
            reset_contextvars(**tokens)
        return status or 499

    def _dress(self, headers: MutableHeaders, trace_id: str) -> None:
        headers["X-Request-Id"] = trace_id
        for name, value in _HEADERS:
            headers[name] = value
        headers.setdefault("Cache-Control", "no-store")
        headers.setdefault("Content-Security-Policy", _CLOSED)
        if self._strict_transport:
            headers["Strict-Transport-Security"] = "max-age=31536000"

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = _name_method(scope)
        route = scope["state"].get("route", "none")
        self._meters.requests.labels(method, route, str(status or 499)).inc()
        self._meters.seconds.labels(method, route).observe(seconds)
        caller = scope["state"].get("caller")
        (log.debug if method in {"GET", "HEAD"} and status < 500 else log.info)(
            "request",
            method=method,
            route=route,
            status=status or 499,
            milliseconds=round(seconds * 1000, 2),
            tenant_id=str(caller.tenant) if caller else None,
        )
