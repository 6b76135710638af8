"""Spans: the journey of a request through our processes, as a receiver of OpenTelemetry sees it. What there is of them
stands in two tables. While no receiver is set nothing is recorded, nothing that could record is imported, and every
function here returns at once. They must never carry what a person is called, wrote or is reached by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol

from workers.settings import Settings

SpanName = Literal["request", "message", "job", "call", "event"]

# Span → what it covers. Their kinds, in OpenTelemetry's words, are beside the code that makes them.
SPANS: Final[Mapping[SpanName, str]] = {
    "request": "one HTTP request, from its first byte to the last of its answer",
    "message": "one start or wake-up, from the relay to the engine",
    "job": "one delivery of one job, from its arrival to its completion",
    "call": "one call of an outside system",
    "event": "one event, from the relay to Kafka's acknowledgement",
}

# Our word → (the attribute's name, what it says). Nothing else is ever told; each is an id or one of a closed set.
ATTRIBUTES: Final[Mapping[str, tuple[str, str]]] = {
    "method": ("http.request.method", "of a request or a call"),
    "route": ("http.route", "the address with its variables' names, as in the API's description"),
    "status": ("http.response.status_code", "of a request's answer"),
    "message": ("recourse.message", "its name"),
    "event": ("recourse.event", "its type"),
    "job_type": ("recourse.job.type", "as the models and the policy name it"),
    "job_key": ("recourse.job.key", "the engine's number of it"),
    "reply": ("recourse.job.reply", "what became of it"),
    "system": ("recourse.system", "the outside system, as the policy names it"),
    "state": ("recourse.outcome", "what the system made of it"),
    "effect_id": ("recourse.effect.id", "our id of what was asked for"),
    "order_id": ("recourse.order.id", ""),
    "tenant_id": ("recourse.tenant.id", ""),
}

# What was caused longer ago is another story: it begins a trace of its own, with a link to the one that caused it.
LONG: Final = timedelta(minutes=1)


class Span(Protocol):
    """One span under way. `parent` is its W3C traceparent, for whoever goes on from here; None where there is none."""

    @property
    def parent(self) -> str | None: ...

    def rename(self, label: str) -> None:
        """Once its label is known."""

    def note(self, **attributes: object) -> None:
        """Say more of it, in the words of ATTRIBUTES."""

    def fail(self, kind: str) -> None:
        """It did not do what it was for; `kind` is a code or the name of an error, never a message."""


class Recorder(Protocol):
    """Whoever makes spans of what it is told."""

    def open_span(
        self, name: SpanName, label: str, parent: str | None, since: datetime | None, attributes: Mapping[str, object]
    ) -> AbstractContextManager[Span]: ...

    def current(self) -> str | None: ...

    def close(self) -> None: ...


class _Nothing:
    parent: Final = None

    def rename(self, label: str) -> None:
        pass

    def note(self, **attributes: object) -> None:
        pass

    def fail(self, kind: str) -> None:
        pass


NOTHING: Final[Span] = _Nothing()
_recorder: Recorder | None = None


def start_spans(settings: Settings, process: str) -> None:
    """Record from now on what this process does, where a receiver is set."""
    global _recorder
    if settings.otlp_endpoint:
        from workers.otlp import OtlpRecorder  # only who has a receiver pays for it

        _recorder = OtlpRecorder(settings, process)


def stop_spans() -> None:
    """Send what is left, within seconds; nothing is recorded any more."""
    global _recorder
    if _recorder is not None:
        _recorder.close()
        _recorder = None


def are_recorded() -> bool:
    return _recorder is not None


def current_parent() -> str | None:
    """The traceparent of the span that is under way here."""
    return None if _recorder is None else _recorder.current()


@contextmanager
def open_span(
    name: SpanName, label: str, *, parent: str | None = None, since: datetime | None = None, **attributes: object
) -> Iterator[Span]:
    """Cover what is done in the block; an error that leaves it is noted by the name of its class.

    label: what follows the span's name, one of a closed set · parent: the traceparent of what caused it, left out: the
    span under way here · since: when that was; long ago it is linked, not its parent · attributes: see ATTRIBUTES
    """
    if _recorder is None:
        yield NOTHING
        return
    with _recorder.open_span(name, label, parent, since, attributes) as span:
        yield span
