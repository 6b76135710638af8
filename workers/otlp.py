"""Records spans and sends them to a receiver by OTLP over HTTP, in a thread of its own; a receiver that is slow or away
costs spans, never work. The only place that knows OpenTelemetry; `workers.spans` is what everybody else calls."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from workers.settings import Settings
from workers.spans import ATTRIBUTES, LONG, SpanName

_KINDS: Final[Mapping[SpanName, SpanKind]] = {
    "request": SpanKind.SERVER,
    "message": SpanKind.PRODUCER,
    "job": SpanKind.CONSUMER,
    "call": SpanKind.CLIENT,
    "event": SpanKind.PRODUCER,
}
_PARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)

_QUEUE: Final = 8_192
_DELAY_MILLISECONDS: Final = 1_000
_SECONDS: Final = 5.0


class OtlpSpan:
    """See `workers.spans.Span`."""

    def __init__(self, name: SpanName, span: trace.Span) -> None:
        self._name = name
        self._span = span

    @property
    def parent(self) -> str:
        return _write_parent(self._span.get_span_context())

    def rename(self, label: str) -> None:
        self._span.update_name(f"{self._name} {label}")

    def note(self, **attributes: object) -> None:
        self._span.set_attributes(_told(attributes))

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))


class OtlpRecorder:
    """See `workers.spans.Recorder`; `close` when done."""

    def __init__(self, settings: Settings, process: str) -> None:
        session = requests.Session()
        session.trust_env = False
        exporter = OTLPSpanExporter(
            endpoint=f"{settings.otlp_endpoint}/v1/traces",
            certificate_file=str(settings.ca_file) if settings.ca_file else None,
            headers=dict(pair.split("=", 1) for pair in settings.otlp_headers.split(",") if pair),
            timeout=_SECONDS,
            session=session,
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)),
            resource=Resource(
                {
                    "service.namespace": "recourse",
                    "service.name": f"recourse-{process}",
                    "service.version": version("recourse"),
                    "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
                }
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=_QUEUE,
                schedule_delay_millis=_DELAY_MILLISECONDS,
                export_timeout_millis=_SECONDS * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("recourse")

    @contextmanager
    def open_span(
        self, name: SpanName, label: str, parent: str | None, since: datetime | None, attributes: Mapping[str, object]
    ) -> Iterator[OtlpSpan]:
        cause = _read_parent(parent)
        is_old = since is not None and datetime.now(UTC) - since > LONG
        context = None if parent is None else Context()
        if cause is not None and not is_old:
            context = trace.set_span_in_context(NonRecordingSpan(cause), Context())
        with self._tracer.start_as_current_span(
            f"{name} {label}",
            context,
            kind=_KINDS[name],
            attributes=_told(attributes),
            links=[Link(cause)] if cause is not None and is_old else None,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            told = OtlpSpan(name, span)
            try:
                yield told
            except BaseException as error:
                told.fail(type(error).__name__)
                raise

    def current(self) -> str | None:
        found = trace.get_current_span().get_span_context()
        return _write_parent(found) if found.is_valid else None

    def close(self) -> None:
        self._provider.shutdown()


def _told(attributes: Mapping[str, object]) -> dict[str, str | int]:
    """Raises KeyError for what no attribute is kept for."""
    return {
        ATTRIBUTES[word][0]: value if isinstance(value, int) else str(value)
        for word, value in attributes.items()
        if value is not None
    }


def _read_parent(text: str | None) -> SpanContext | None:
    told = _PARENT.fullmatch(text or "")
    if told is None:
        return None
    found = SpanContext(int(told[1], 16), int(told[2], 16), is_remote=True, trace_flags=TraceFlags(int(told[3], 16)))
    return found if found.is_valid else None


def _write_parent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"
