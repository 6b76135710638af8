"""Who looks at a page: a token kept in a cookie that scripts and other sites cannot reach, and forms that only our own
pages can send. It must never trust a form by its cookie alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from domain.errors import Malformed
from domain.values import Json
from workers.api.calls import read_body
from workers.api.identity import Principal
from workers.api.problems import Refusal
from workers.api.service import Service
from workers.api.ui.desk import Desk, Told

ROOT: Final = "/ui"
COOKIE: Final = "recourse_token"
MAX_COOKIE: Final = 3800  # characters; browsers drop a cookie of more than 4096
MAX_FIELDS: Final = 2500

# A form that another site made the browser send; a browser that says nothing of it is asked for the mark alone.
_STRANGERS: Final = frozenset({"cross-site", "same-site"})


@dataclass(frozen=True, slots=True)
class Form:
    """What a form sent: fields by name, each with all of its values."""

    fields: Mapping[str, list[str]]

    def text(self, name: str) -> str:
        """The field without space around it; empty where it is absent."""
        return self.fields.get(name, [""])[0].strip()

    def all(self, name: str) -> list[str]:
        return self.fields.get(name, [])

    def named(self, prefix: str) -> dict[str, str]:
        """The fields whose names begin so, by the rest of their names; empty ones left out."""
        return {
            name.removeprefix(prefix): values[0]
            for name, values in self.fields.items()
            if name.startswith(prefix) and values[0]
        }


async def read_form(request: Request) -> Form:
    """Raises Malformed, and Refusal BODY_TOO_LARGE."""
    raw = await read_body(request)
    try:
        found = parse_qs(raw.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Malformed("The form cannot be read.") from None
    return Form(found)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page by a person who is known."""

    request: Request
    service: Service
    desk: Desk
    caller: Principal
    token: str
    form: Form = field(default_factory=lambda: Form({}))

    @property
    def mark(self) -> str:
        """What the forms of this session carry."""
        return _mark(self.token)

    @property
    def ids(self) -> dict[str, str]:
        return dict(self.request.path_params)

    def may(self, method: str, path: str) -> bool:
        return self.desk.allows(self.caller, method, path)

    async def read(self, path: str, ids: Mapping[str, str] | None = None, **query: str) -> Told:
        return await self.desk.read(self.request, self.token, path, self.ids if ids is None else ids, **query)

    async def read_all(self, path: str, *, pages: int = 5) -> list[dict[str, Any]]:
        return await self.desk.read_all(self.request, self.token, path, self.ids, pages=pages)

    async def command(self, path: str, body: Mapping[str, Json]) -> Told:
        """The command of this form, once however often it is sent."""
        return await self.desk.command(
            self.request, self.token, path, self.ids, body, key=self.form.text("key"), etag=self.form.text("etag")
        )


async def open_visit(request: Request, service: Service, desk: Desk) -> Visit:
    """Raises Refusal UNAUTHENTICATED without a valid token, FORM_FOREIGN for a form that no page of ours made."""
    token = request.cookies.get(COOKIE)
    if not token:
        raise Refusal("UNAUTHENTICATED")
    caller = await service.doorkeeper.admit(f"Bearer {token}")
    request.state.caller = caller
    visit = Visit(request, service, desk, caller, token)
    if request.method != "POST":
        return visit
    check_origin(request)
    form = await read_form(request)
    if not hmac.compare_digest(form.text("mark").encode(), visit.mark.encode()):
        raise Refusal("FORM_FOREIGN")
    return Visit(request, service, desk, caller, token, form)


def check_origin(request: Request) -> None:
    if request.headers.get("sec-fetch-site") in _STRANGERS:
        raise Refusal("FORM_FOREIGN")


def _mark(token: str) -> str:
    """Whoever cannot read the cookie cannot make it."""
    return hmac.new(token.encode(), b"recourse form", hashlib.sha256).hexdigest()


def new_key() -> str:
    return f"page-{secrets.token_hex(16)}"


def keep_token(answer: Response, token: str, *, secure: bool) -> Response:
    answer.set_cookie(COOKIE, token, path=ROOT, httponly=True, samesite="strict", secure=secure)
    return answer


def forget_token(answer: Response) -> Response:
    answer.delete_cookie(COOKIE, path=ROOT, httponly=True, samesite="strict")
    return answer


def go_to(path: str) -> Response:
    """After a form: the page to see, fetched anew."""
    return RedirectResponse(path, 303)


def ask_for_token(request: Request) -> Response:
    """To the page where one signs in, and back from there to the page that was wanted."""
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return go_to(f"{ROOT}/login?{urlencode({'next': wanted})}" if request.method == "GET" else f"{ROOT}/login")


def own_page(path: str) -> str:
    """The path where it is a page of ours; else the first one: a link may send nobody elsewhere."""
    plain = path.isascii() and path.isprintable() and "\\" not in path and "//" not in path
    return path if plain and (path == ROOT or path.startswith((f"{ROOT}/", f"{ROOT}?"))) else ROOT
