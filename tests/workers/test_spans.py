"""What a receiver of OpenTelemetry sees of us, and that it costs nothing where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.otlp import Received, Receiver, receive_spans
from workers.logs import _PRIVATE_KEYS
from workers.settings import Settings
from workers.spans import ATTRIBUTES, LONG, NOTHING, current_parent, open_span, start_spans, stop_spans

TRACE, CAUSE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CAUSE}-01"


@contextmanager
def recorded(ratio: float = 1.0) -> Iterator[Receiver]:
    with receive_spans() as receiver:
        settings = Settings(otlp_endpoint=receiver.url, otlp_headers="api-key=k1,x=y", trace_ratio=ratio)
        start_spans(settings, "tests")
        try:
            yield receiver
        finally:
            stop_spans()


def received(receiver: Receiver, name: str) -> Received:
    [span] = [span for span in receiver.spans if span.name == name]
    return span


def test_without_a_receiver_nothing_that_makes_or_sends_spans_is_even_imported() -> None:
    """OpenTelemetry's bare interface is: FastAPI looks whether somebody has set it up, and nobody has."""
    program = (
        "import sys, workers.api.app, workers.jobs.fleet, workers.relay.run, workers.reconciler\n"
        "from workers.settings import Settings\n"
        "from workers.spans import start_spans, open_span\n"
        "start_spans(Settings(), 'api')\n"
        "with open_span('job', 'x') as span: span.note(anything=1)\n"
        "makers = ('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.proto', 'workers.otlp')\n"
        "sys.exit(sorted(name for name in sys.modules if name.startswith(makers)) or 0)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_without_a_receiver_there_is_no_trace_to_go_on_with() -> None:
    with open_span("job", "assess-cancellation", parent=PARENT) as span:
        assert (span, span.parent, current_parent()) == (NOTHING, None, None)


def test_what_follows_soon_is_a_child_and_what_is_within_is_its_child() -> None:
    with recorded() as receiver:
        now = datetime.now(UTC)
        with open_span("job", "effect-billing", parent=PARENT, since=now, job_type="effect-billing", job_key=7) as job:
            assert current_parent() == job.parent
            with open_span("call", "PUT billing", method="PUT", system="billing") as call:
                call.note(state="CONFIRMED")
                assert call.parent != job.parent
        stop_spans()
        outer, inner = received(receiver, "job effect-billing"), received(receiver, "call PUT billing")
    assert (outer.trace_id, outer.parent, outer.links) == (TRACE, CAUSE, ())
    assert (inner.trace_id, inner.parent) == (TRACE, outer.span_id)
    assert job.parent == f"00-{TRACE}-{outer.span_id}-01"
    assert outer.attributes == {"recourse.job.type": "effect-billing", "recourse.job.key": 7}
    assert inner.attributes == {
        "http.request.method": "PUT",
        "recourse.system": "billing",
        "recourse.outcome": "CONFIRMED",
    }
    assert (outer.process, outer.failed) == ("recourse-tests", False)
    assert receiver.headers[0]["api-key"] == "k1"


def test_what_follows_long_after_begins_a_trace_of_its_own_and_is_linked() -> None:
    with recorded() as receiver:
        with open_span("job", "x", parent=PARENT, since=datetime.now(UTC) - LONG - timedelta(seconds=1)):
            pass
        stop_spans()
        late = received(receiver, "job x")
    assert late.trace_id != TRACE
    assert (late.parent, late.links) == ("", (CAUSE,))


def test_an_error_is_told_by_its_name_alone() -> None:
    with recorded() as receiver:
        with pytest.raises(ValueError, match="Ada"), open_span("job", "x", parent=PARENT):
            raise ValueError("Ada Lovelace, Weg 1")
        stop_spans()
        failed = received(receiver, "job x")
    assert failed.failed
    assert failed.attributes == {"error.type": "ValueError"}


def test_nothing_is_told_that_has_no_place_in_the_table() -> None:
    with recorded(), pytest.raises(KeyError, match="customer"), open_span("job", "x", customer="Ada"):
        pass


@pytest.mark.parametrize(
    ("ratio", "parent", "seen"),
    [(0.0, None, 0), (0.0, PARENT, 1), (1.0, PARENT[:-1] + "0", 0), (1.0, None, 1)],
)
def test_who_called_decides_whether_a_trace_is_recorded_and_else_the_ratio(
    ratio: float, parent: str | None, seen: int
) -> None:
    with recorded(ratio) as receiver:
        with open_span("request", "POST", parent=parent) as span:
            assert span.parent is not None
            assert span.parent.endswith(f"-0{seen}")
        stop_spans()
        assert len(receiver.spans) == seen


def test_no_attribute_is_a_field_of_a_person() -> None:
    words = {word.replace("_", "") for word in ATTRIBUTES}
    assert (words | {name.rpartition(".")[2] for name, _ in ATTRIBUTES.values()}) & _PRIVATE_KEYS == set()
