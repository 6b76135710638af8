"""Asks a route of the API from inside, for a page: the same gates, checks and commands as from outside. It must never
be a way around one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from domain.values import Json
from workers.api.identity import Principal
from workers.api.routing import PREFIX, Route, make_endpoint
from workers.api.service import Service

LIMIT: Final = "200"


@dataclass(frozen=True, slots=True)
class Told:
    """What a route answered."""

    body: Any
    etag: str | None


class Desk:
    """The routes that pages may ask; one for all visits."""

    def __init__(self, service: Service, routes: Iterable[Route]) -> None:
        rows = list(routes)
        self._endpoints = {(row.method, row.path): make_endpoint(service, row) for row in rows}
        self._roles = {(row.method, row.path): row.roles for row in rows}

    def allows(self, caller: Principal, method: str, path: str) -> bool:
        """Whether the caller's roles open this route; what it then says of the object is another matter."""
        return not caller.roles.isdisjoint(self._roles[method, path])

    async def read(self, request: Request, token: str, path: str, ids: Mapping[str, str], **query: str) -> Told:
        return await self._ask(request, token, "GET", path, ids, query, b"", {})

    async def read_all(
        self, request: Request, token: str, path: str, ids: Mapping[str, str], *, pages: int = 5
    ) -> list[dict[str, Any]]:
        """A list from its beginning, at most so many pages of it."""
        items: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        for _ in range(pages):
            page = (await self.read(request, token, path, ids, limit=LIMIT, **cursor)).body
            items += page["items"]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        return items

    async def command(
        self,
        request: Request,
        token: str,
        path: str,
        ids: Mapping[str, str],
        body: Mapping[str, Json],
        *,
        key: str | None,
        etag: str | None,
    ) -> Told:
        """A command with the page's key and the ETag of what the page showed. Raises what the route raises."""
        named = {"idempotency-key": key, "if-match": etag}
        headers = {name: value for name, value in named.items() if value}
        return await self._ask(request, token, "POST", path, ids, {}, orjson.dumps(body), headers)

    async def _ask(
        self,
        request: Request,
        token: str,
        method: str,
        path: str,
        ids: Mapping[str, str],
        query: Mapping[str, str],
        body: bytes,
        headers: Mapping[str, str],
    ) -> Told:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json", **headers}
        scope = {
            **request.scope,
            "method": method,
            "path": PREFIX + path.format_map(ids),
            "query_string": urlencode(query).encode(),
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
            "path_params": dict(ids),
        }
        scope.pop("raw_path", None)

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        answer: Response = await self._endpoints[method, path](Request(scope, receive))
        return Told(orjson.loads(bytes(answer.body)), answer.headers.get("etag"))
