"""The pages that problems point to, and the documentation: plain HTML made here, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Final

from starlette.responses import HTMLResponse

from workers.api.problems import ProblemKind, list_problems, title_of

_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:16px/1.55 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;line-height:1.2}h2{margin-top:2.4rem;border-bottom:1px solid var(--line)}
code,pre{font:.9em ui-monospace,monospace}pre{background:var(--soft);padding:.8rem;overflow:auto;border-radius:.4rem}
table{border-collapse:collapse;width:100%}.method{font-weight:700}.quiet{opacity:.72}
td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
summary{cursor:pointer;padding:.3rem 0}
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'"

# What helps, where the message alone does not say it.
_ADVICE: Final = {
    "UNAUTHENTICATED": "Ask your identity provider for a token with the claims iss, aud, exp, sub, tenant and roles.",
    "ROLE_REQUIRED": "Roles come with the token; whoever grants them in your identity provider can help.",
    "FOUR_EYES": "Somebody who neither asked nor is asked for must decide: the person counts, not the role.",
    "IDEMPOTENCY_KEY_REQUIRED": "Make a new key for every new wish, and send the same key when you repeat one.",
    "IDEMPOTENCY_IN_FLIGHT": "The first request with this key is still running; its answer is given to the repetition.",
    "PRECONDITION_REQUIRED": 'Read the object, take its ETag, and send it as it is: If-Match: "order-version-17".',
    "VERSION_STALE": "Read the object again; if your wish still stands, send it with the new ETag and a new key.",
    "ORDER_TERMINAL": "What an ended order delivered is changed by a new order; its history stays as it is.",
    "CHANGE_ACTIVE": "blockedBy names what stands in the way; it must end first.",
    "ASSET_BUSY": "blockedBy names the order that holds the asset until it ends.",
    "UNAVAILABLE": "Repeat with the same Idempotency-Key: it is then done once, whatever became of the first try.",
    "INTERNAL": "Repeating with the same Idempotency-Key is safe.",
}


def html_page(title: str, body: str) -> HTMLResponse:
    """One page of ours; `body` is HTML, `title` is text."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    text = f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>'
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "public, max-age=300"}
    return HTMLResponse(text, headers=headers)


def problem_index() -> HTMLResponse:
    rows = "".join(
        f'<tr><td>{kind.status}</td><td><a href="/docs/problems/{kind.code}"><code>{kind.code}</code></a></td>'
        f"<td>{escape(kind.message)}</td></tr>"
        for kind in list_problems()
    )
    table = f"<table><tr><th>Status</th><th>Code</th><th>Meaning</th></tr>{rows}</table>"
    return html_page("Problems", f'<p><a href="/docs">API</a></p><h1>Problems</h1>{table}')


def problem_page(code: str) -> HTMLResponse | None:
    """The page of one code; None for a code that we never answer with."""
    kind = next((kind for kind in list_problems() if kind.code == code), None)
    return None if kind is None else html_page(title_of(code), _describe(kind))


def _describe(kind: ProblemKind) -> str:
    advice = _ADVICE.get(kind.code)
    return (
        f'<p><a href="/docs/problems">All problems</a></p><h1>{escape(title_of(kind.code))}</h1>'
        f"<p><code>{kind.code}</code> · HTTP {kind.status}</p><p>{escape(kind.message)}</p>"
        + (f"<p>{escape(advice)}</p>" if advice else "")
        + "<p class=quiet>The answer's <code>detail</code> says what it was this time, <code>errors</code> which "
        "fields, <code>traceId</code> which request.</p>"
    )
