"""The list of what can be asked: one row per route, its roles from the one table, its words for the documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from domain.errors import RoleRequired
from workers.api.calls import Call
from workers.api.identity import ROLES_OF
from workers.api.schemas import Body
from workers.api.service import Service

PREFIX: Final = "/api/v1"

Table = Mapping[tuple[str, str], frozenset[str]]
Handler = Callable[[Call], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter, as the documentation shows it."""

    name: str
    schema: dict[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path below a prefix.

    answer: name of the schema that the documentation gives for the answer, none: there is no content · if_match: kind
    of the ETag that is needed · sent: name of the schema of a body that no class reads · keyless: the key may be left
    out · also: what else it may answer with
    refused: what is kept of a caller who lacks the role
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: str
    status: int = 200
    body: type[Body] | None = None
    sent: str = ""
    key: bool = False
    keyless: bool = False
    also: tuple[str, ...] = ()
    if_match: str | None = None
    query: tuple[Parameter, ...] = ()
    media: tuple[str, ...] = ("application/json",)
    refused: Callable[[Call], Awaitable[None]] | None = None
    table: Table = field(default_factory=lambda: ROLES_OF)
    prefix: str = PREFIX

    @property
    def address(self) -> str:
        return self.prefix + self.path

    @property
    def roles(self) -> frozenset[str]:
        return self.table[self.method, self.path]


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes of one noun; a module fills one by decorating its handlers."""

    rows: list[Route] = field(default_factory=list)
    table: Table = field(default_factory=lambda: ROLES_OF)
    prefix: str = PREFIX

    def get(self, path: str, answer: str, **more: Any) -> Callable[[Handler], Handler]:
        return self._row("GET", path, answer, more)

    def post(self, path: str, answer: str, **more: Any) -> Callable[[Handler], Handler]:
        """A command: it needs a key; where it changes what exists, also a precondition."""
        return self._row("POST", path, answer, {"status": 202, "key": True, **more})

    def put(self, path: str, answer: str, **more: Any) -> Callable[[Handler], Handler]:
        return self._row("PUT", path, answer, more)

    def patch(self, path: str, answer: str, **more: Any) -> Callable[[Handler], Handler]:
        return self._row("PATCH", path, answer, {"status": 202, "key": True, **more})

    def delete(self, path: str, **more: Any) -> Callable[[Handler], Handler]:
        return self._row("DELETE", path, "", {"status": 204, **more})

    def _row(self, method: str, path: str, answer: str, more: dict[str, Any]) -> Callable[[Handler], Handler]:
        def keep(handler: Handler) -> Handler:
            summary = " ".join((handler.__doc__ or "").split())
            self.rows.append(
                Route(method, path, handler, summary, answer, **more, table=self.table, prefix=self.prefix)
            )
            return handler

        return keep


def make_endpoint(service: Service, route: Route) -> Endpoint:
    """The route behind its gates: a caller that is known, of a tenant within its rate, and one that may."""
    roles = route.roles
    admit = service.doorkeeper.admit
    count = service.limiter.admit
    handler = route.handler

    async def endpoint(request: Request) -> Response:
        caller = await admit(request.headers.get("authorization"))
        request.state.caller = caller
        count(caller.tenant)
        call = Call(request, service, caller)
        try:
            caller.require(roles)
        except RoleRequired:
            if route.refused is not None:
                await route.refused(call)
            raise
        return await handler(call)

    return endpoint
