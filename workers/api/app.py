"""Puts the HTTP edge together and runs it; it must never start without its settings, nor decide anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import httpx
import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from domain.errors import Breach
from domain.handle import Door
from domain.store import views
from domain.store.outages import OUTAGES
from domain.store.policies import PolicyBook
from domain.store.pool import open_pool
from workers import tmf
from workers.api import pages
from workers.api.calls import answer_json
from workers.api.edge import Edge, Meters
from workers.api.identity import KEYS_PATIENCE, Doorkeeper, KeyRing, fetch_from_file, fetch_over_http
from workers.api.limits import RateLimiter
from workers.api.openapi import docs_page, make_openapi
from workers.api.problems import (
    Problem,
    Refusal,
    problem_of_breach,
    problem_of_refusal,
    problem_response,
    title_of,
)
from workers.api.routes import (
    amendments,
    bulk,
    cancellations,
    cases,
    effects,
    operations,
    orders,
    plans,
    reconciliation,
    registry,
    tmf622,
)
from workers.api.routing import PREFIX, Endpoint, Route, make_endpoint
from workers.api.service import Service
from workers.api.ui.site import make_site
from workers.api.wire import Wire
from workers.gateways.access import open_context
from workers.local.issuer import public_jwks
from workers.settings import Settings, SettingsError, variable_name

log = structlog.get_logger(__name__)

POOL_SIZE: Final = 16
DRAIN: Final = 10  # seconds that requests under way may take when the process is told to stop

ROUTES: Final[tuple[Route, ...]] = (
    *orders.routes.rows,
    *cancellations.routes.rows,
    *amendments.routes.rows,
    *plans.routes.rows,
    *cases.routes.rows,
    *bulk.routes.rows,
    *reconciliation.routes.rows,
    *registry.routes.rows,
    *operations.routes.rows,
)
# All that takes a token: ours, and TM Forum's front door.
SERVED: Final[tuple[Route, ...]] = (*ROUTES, *tmf622.routes.rows)


async def run(settings: Settings) -> None:
    """Serve until cancelled; requests under way are finished first."""
    _check_settings(settings)
    async with open_service(settings) as service:
        config = uvicorn.Config(
            make_app(service),
            http=Wire,
            host=settings.api_host,
            port=settings.api_port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN,
            timeout_keep_alive=30,
            lifespan="off",
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise


class _Server(uvicorn.Server):
    """Our own process minds the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _check_settings(settings: Settings) -> None:
    needed = ("database_url", "issuer")
    missing = {variable_name(name): "is not set" for name in needed if not getattr(settings, name)}
    if missing:
        raise SettingsError(missing)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Connections and keys of one API, closed at the end."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings.database_url, size=POOL_SIZE, name="recourse-api")
        stack.push_async_callback(pool.close)
        if settings.issuer_key_file:
            fetch = fetch_from_file(settings.issuer_key_file, public_jwks)
        else:
            trusted = open_context(settings.ca_file)
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=5, verify=trusted))
            fetch = fetch_over_http(settings.keys_url, client)
        ring = KeyRing(fetch)
        stack.push_async_callback(ring.close)
        doorkeeper = Doorkeeper(ring, issuer=settings.issuer, audience=settings.audience)
        yield Service(settings, pool, Door(pool), PolicyBook(), doorkeeper, RateLimiter(settings.rate_limit))


def make_app(service: Service) -> FastAPI:
    """The application over one service."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Edge, base_url=service.base_url, meters=Meters(registry))
    _add_problems(app, service)
    # Plain routes: ids, bodies and headers are read by `calls`, in the contract's order of checks, which the
    # framework's own reading of arguments cannot keep; passing by it also saves a fifth of the edge's time.
    for route in SERVED:
        _serve(app, route.method, route.address, make_endpoint(service, route))
    _serve(app, "POST", PREFIX + effects.PATH, partial(effects.record_outcome, service))
    for method, path, endpoint in make_site(service, ROUTES):
        _serve(app, method, path, endpoint)
    _add_operations(app, service, registry)
    return app


def _serve(app: FastAPI, method: str, path: str, endpoint: Endpoint) -> None:
    async def answer(request: Request) -> Response:
        request.state.route = path  # metrics and logs name the template, never the address
        return await endpoint(request)

    app.add_route(path, answer, [method])


def _add_problems(app: FastAPI, service: Service) -> None:
    def respond(request: Request, problem: Problem) -> Response:
        trace_id = request.state.trace.trace_id
        theirs = request.url.path.startswith(tmf.BASE)
        more = tmf.word_error(problem.code, title_of(problem.code), problem.detail) if theirs else {}
        return problem_response(problem, base_url=service.base_url, trace_id=trace_id, more=more)

    async def on_breach(request: Request, breach: Exception) -> Response:
        assert isinstance(breach, Breach)
        return respond(request, problem_of_breach(breach))

    async def on_refusal(request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)
        return respond(request, problem_of_refusal(refusal))

    async def on_unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = _methods_at(app, request.url.path)
            return respond(request, problem_of_refusal(Refusal("METHOD_NOT_ALLOWED", headers={"Allow": allowed})))
        return respond(request, problem_of_refusal(Refusal("ROUTE_NOT_FOUND")))

    async def on_outage(request: Request, outage: Exception) -> Response:
        log.warning("outage", error=type(outage).__name__)
        return respond(request, problem_of_refusal(Refusal("UNAVAILABLE")))

    app.add_exception_handler(Breach, on_breach)
    app.add_exception_handler(Refusal, on_refusal)
    app.add_exception_handler(HTTPException, on_unrouted)
    for outage in OUTAGES:
        app.add_exception_handler(outage, on_outage)


def _methods_at(app: FastAPI, path: str) -> str:
    methods: set[str] = set()
    for route in app.routes:
        match = getattr(route, "path_regex", None)
        if match is not None and match.match(path):
            methods |= getattr(route, "methods", None) or set()
    return ", ".join(sorted(methods))


def _add_operations(app: FastAPI, service: Service, registry: CollectorRegistry) -> None:
    async def healthz(_: Request) -> Response:
        return answer_json({"status": "UP"})

    async def readyz(_: Request) -> Response:
        troubles: dict[str, str] = {}
        try:
            await views.ping(service.pool)
        except OUTAGES as outage:
            troubles["database"] = type(outage).__name__
        if not service.doorkeeper.ring.is_filled:  # the ones in hand serve on, whatever has become of the issuer
            try:
                await service.doorkeeper.ring.refresh(KEYS_PATIENCE)
            except Refusal:
                troubles["keys"] = "not read yet"
        status = "DOWN" if troubles else "UP"
        return answer_json({"status": status, "troubles": troubles}, 503 if troubles else 200)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    document = make_openapi(SERVED, base_url=service.base_url)

    async def openapi(_: Request) -> Response:
        return answer_json(document)

    async def docs(_: Request) -> Response:
        return docs_page(document)

    async def problem_index(_: Request) -> Response:
        return pages.problem_index()

    async def problem(request: Request) -> Response:
        page = pages.problem_page(request.path_params["code"])
        if page is None:
            raise Refusal("ROUTE_NOT_FOUND")
        return page

    async def jwks(_: Request) -> Response:
        assert service.settings.issuer_key_file
        return answer_json(public_jwks(service.settings.issuer_key_file))

    for path, endpoint in (
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", metrics),
        ("/openapi.json", openapi),
        ("/docs", docs),
        ("/docs/problems", problem_index),
        ("/docs/problems/{code}", problem),
    ):
        _serve(app, "GET", path, endpoint)
    if service.settings.issuer_key_file:
        _serve(app, "GET", "/issuer/.well-known/jwks.json", jwks)
