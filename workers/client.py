"""The API as a person at the command line uses it: an address, a token, problems in plain words. It must never know
what a route means."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID, uuid4

import httpx

from workers.local.issuer import DEFAULT_TENANT, mint_token
from workers.settings import Settings

Json = Any

# A token of one's identity provider; without it the local issuer makes one, where there is one.
TOKEN_VARIABLE: Final = "RECOURSE_TOKEN"  # noqa: S105
_TTL: Final = 600
_PAGE: Final = 200


class RefusedError(Exception):
    """The API said no; the message is its code and what it said, with what stands in the way."""


class NoTokenError(Exception):
    """Nobody can say who is asking."""

    def __init__(self) -> None:
        super().__init__(f"set {TOKEN_VARIABLE} to a token of your identity provider; there is no local issuer here")


class Client:
    """One person's calls. Raises RefusedError where the API says no, httpx's errors where it does not answer."""

    def __init__(self, settings: Settings, *, subject: str, roles: Sequence[str], tenant: UUID | None = None) -> None:
        token = os.environ.get(TOKEN_VARIABLE) or _mint(settings, subject, roles, tenant)
        self._http = httpx.Client(
            base_url=settings.base_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: str) -> Json:
        return _read(self._http.get(f"/api/v1{path}", params=query)).json()

    def get_all(self, path: str, **query: str) -> Iterator[Json]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.get(path, limit=str(_PAGE), **query, **({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def get_picture(self, path: str) -> str:
        return _read(self._http.get(f"/api/v1{path}", headers={"Accept": "image/svg+xml"})).text

    def change(self, path: str, body: Mapping[str, Json], *, seen: str | None = None) -> Json:
        """POST a command; `seen` is the path of what it changes, whose ETag is read first."""
        headers = {"Idempotency-Key": str(uuid4())}
        if seen is not None:
            headers["If-Match"] = _read(self._http.get(f"/api/v1{seen}")).headers["ETag"]
        return _read(self._http.post(f"/api/v1{path}", json=dict(body), headers=headers)).json()


def _mint(settings: Settings, subject: str, roles: Sequence[str], tenant: UUID | None) -> str:
    key = settings.issuer_key_file
    if key is None or not key.exists():
        raise NoTokenError
    return mint_token(
        key,
        subject=subject,
        roles=roles,
        tenant=tenant or DEFAULT_TENANT,
        issuer=settings.issuer,
        audience=settings.audience,
        ttl=_TTL,
    )


def _read(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
    except ValueError:
        raise RefusedError(f"{answer.status_code} from {answer.request.url}") from None
    lines = [f"{problem.get('code', answer.status_code)}: {problem.get('detail') or problem.get('title', '')}"]
    lines += [f"  {error.get('path', '')}: {error.get('message', '')}" for error in problem.get("errors", ())]
    if problem.get("blockedBy"):
        lines.append(f"  in the way: {problem['blockedBy']}")
    raise RefusedError("\n".join(lines))
