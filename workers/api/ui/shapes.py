"""Templates to answers: everything escaped, nothing inline that the page's policy would have to allow. It must never
take text for markup."""

from __future__ import annotations

from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from workers.api.ui import wording
from workers.api.ui.visits import ROOT, Visit, new_key

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)

_templates: Final = Environment(
    loader=PackageLoader("workers.api.ui"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals.update(root=ROOT, new_key=new_key)
_templates.filters.update(
    words=wording.words,
    tone=wording.tone,
    money=wording.money,
    when=wording.when,
    until=wording.until,
    spoken=wording.spoken,
    differences=wording.differences,
    value=wording.value,
    age=wording.age,
    short=wording.short,
    picture=Markup,  # what our own `graph` drew, which escapes every text that it is given
)


def render(visit: Visit | None, template: str, status: int = 200, *, live: bool = False, **shown: Any) -> Response:
    """One page; `visit` is None where nobody is known yet, `live` where it keeps itself fresh."""
    text = _templates.get_template(template).render(
        caller=visit.caller if visit else None, mark=visit.mark if visit else "", live=live, **shown
    )
    return HTMLResponse(text, status, {"Content-Security-Policy": POLICY})
