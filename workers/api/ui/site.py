"""Puts the pages on their paths: sign in and out, the pages behind it, two static files; what goes wrong is a page,
too, with the status that the API would give. It must never answer a stranger with more than how to sign in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from importlib.resources import files
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response

from domain.errors import Breach
from domain.store.outages import OUTAGES
from workers.api.problems import Problem, Refusal, headers_of, problem_of_breach, problem_of_refusal, title_of
from workers.api.routing import Route
from workers.api.service import Service
from workers.api.ui.desk import Desk
from workers.api.ui.pages import PAGES, Page
from workers.api.ui.shapes import render
from workers.api.ui.visits import (
    MAX_COOKIE,
    ROOT,
    ask_for_token,
    check_origin,
    forget_token,
    go_to,
    keep_token,
    open_visit,
    own_page,
    read_form,
)

log = structlog.get_logger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

STATIC: Final = {"recourse.css": "text/css; charset=utf-8", "recourse.js": "text/javascript; charset=utf-8"}


def make_site(service: Service, routes: Iterable[Route]) -> Iterator[tuple[str, str, Endpoint]]:
    """Every page as (method, path, endpoint)."""
    desk = Desk(service, routes)
    for method, path, page in PAGES:
        yield method, ROOT + path, _make_endpoint(service, desk, page)
    yield "GET", f"{ROOT}/login", _show_login
    yield "POST", f"{ROOT}/login", _make_login(service)
    yield "POST", f"{ROOT}/logout", _make_endpoint(service, desk, _leave)
    for name, kind in STATIC.items():
        yield "GET", f"{ROOT}/static/{name}", _make_static(name, kind)


def _make_endpoint(service: Service, desk: Desk, page: Page) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            return await page(await open_visit(request, service, desk))
        except Refusal as refusal:
            if refusal.code == "UNAUTHENTICATED":
                return ask_for_token(request)
            return _problem_page(request, problem_of_refusal(refusal))
        except Breach as breach:
            return _problem_page(request, problem_of_breach(breach))
        except OUTAGES as outage:
            log.warning("a page could not be made", error=type(outage).__name__)
            return _problem_page(request, problem_of_refusal(Refusal("UNAVAILABLE", headers={"Retry-After": "1"})))

    return endpoint


def _problem_page(request: Request, problem: Problem) -> Response:
    page = render(
        None,
        "problem.html",
        problem.status,
        problem=problem,
        title=title_of(problem.code),
        trace_id=request.state.trace.trace_id,
        order_id=request.path_params.get("orderId") if problem.status != 404 else None,
    )
    page.headers.update(headers_of(problem))
    return page


async def _show_login(request: Request) -> Response:
    return render(None, "login.html", next=own_page(request.query_params.get("next", ROOT)), trouble=None)


def _make_login(service: Service) -> Endpoint:
    async def login(request: Request) -> Response:
        wanted = ROOT
        try:
            check_origin(request)
            form = await read_form(request)
            wanted = own_page(form.text("next") or ROOT)
            token = form.text("token")
            await service.doorkeeper.admit(f"Bearer {token}")
        except (Refusal, Breach) as trouble:
            said = problem_of_refusal(trouble) if isinstance(trouble, Refusal) else problem_of_breach(trouble)
            return render(None, "login.html", said.status, next=wanted, trouble=said.detail)
        if len(token) > MAX_COOKIE:
            return render(None, "login.html", 422, next=wanted, trouble="The token is too long to be kept in a cookie.")
        return keep_token(go_to(wanted), token, secure=service.base_url.startswith("https://"))

    return login


async def _leave(_: object) -> Response:
    return forget_token(go_to(f"{ROOT}/login"))


def _make_static(name: str, kind: str) -> Endpoint:
    content = (files("workers.api.ui") / "static" / name).read_bytes()

    async def static(_: Request) -> Response:
        return Response(content, headers={"Cache-Control": "public, max-age=300"}, media_type=kind)

    return static
