"""Structured logs, one JSON object a line on standard error; secrets and personal data must never pass."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from workers.settings import Settings

HIDDEN = "[hidden]"

# Compared without case, dashes and underscores: deliveryAddress and delivery_address are one name.
_PRIVATE_KEYS = frozenset(
    """
    password passwd secret token accesstoken authorization cookie setcookie signature xrecoursesignature
    privatekey apikey databaseurl relaydatabaseurl auditordatabaseurl ownerdatabaseurl dsn
    customer customername contact name displayname email phone address deliveryaddress installationaddress
    street city postalcode deliverynote comment reasontext note body payload input output variables
    """.split()  # noqa: SIM905
)
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]+:)[^\s@]+@", re.IGNORECASE)
_BEARER = re.compile(r"(?i)bearer\s+[a-z0-9._~+/=-]+")
_MAX_DEPTH = 6


def redact(value: Any, depth: int = 0) -> Any:
    """The value with URL passwords, bearer tokens and all under a private key hidden; the shape is kept."""
    if isinstance(value, str):
        if "://" in value:
            value = _URL_PASSWORD.sub(rf"\g<head>{HIDDEN}@", value)
        return _BEARER.sub(f"Bearer {HIDDEN}", value) if "bearer" in value.lower() else value
    if depth >= _MAX_DEPTH:
        return HIDDEN
    if isinstance(value, Mapping):
        return {key: HIDDEN if _is_private(key) else redact(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth + 1) for item in value]
    return value


@lru_cache(maxsize=1024)
def _is_private(key: object) -> bool:
    return re.sub(r"[-_\s]", "", str(key)).lower() in _PRIVATE_KEYS


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: HIDDEN if _is_private(key) else redact(item) for key, item in event.items()}


def _to_json(event: EventDict, default: Callable[[Any], Any], **_: Any) -> str:
    try:
        return orjson.dumps(event, default, orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # half of a surrogate pair, a number of many digits: rare, and no reason to lose a line
        return json.dumps(event, default=default)


def configure_logs(settings: Settings, process: str) -> None:
    """Send this process's logs, and those of the libraries under it, to standard error.

    Ids bound with `structlog.contextvars.bound_contextvars(tenant_id=…, order_id=…)` appear on every line.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    render: Processor = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    # Ours are written at once; by way of the standard library, as those of others come, a line costs twice as much.
    structlog.configure(
        processors=[*shared, render],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # One line per request of a library drowns ours; ours carry the ids.
    for noisy in ("httpx", "httpcore", "aiokafka", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for library in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(library).handlers[:] = []
        logging.getLogger(library).propagate = True
    structlog.contextvars.bind_contextvars(process=process)
