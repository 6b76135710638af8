"""Logs: one JSON object a line, ids on each, no secret and nobody's data."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest
import structlog

from domain.values import Money, OrderId
from workers.logs import HIDDEN, configure_logs, redact
from workers.settings import Settings


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    written = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", written)
        configure_logs(Settings(), "tests")
    yield written
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_line_is_json_with_the_bound_ids(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(order_id="o-1"):
        structlog.get_logger("a").info("order accepted", version=3)
        logging.getLogger("library").warning("slow: %s", "very")
    ours, theirs = lines(stream)
    assert ours["event"] == "order accepted"
    assert (ours["version"], ours["order_id"], ours["process"], ours["level"]) == (3, "o-1", "tests", "info")
    assert (theirs["event"], theirs["order_id"], theirs["level"]) == ("slow: very", "o-1", "warning")


def test_an_exception_is_one_line_without_the_password_in_its_url(stream: io.StringIO) -> None:
    def refuse() -> None:
        raise ConnectionError("postgresql://recourse_app:hush@db/x refuses")

    try:
        refuse()
    except ConnectionError:
        structlog.get_logger("a").exception("no database")
    (line,) = lines(stream)
    assert "ConnectionError" in str(line["exception"])
    assert "hush" not in stream.getvalue()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"password": "x", "order_id": "o"}, {"password": HIDDEN, "order_id": "o"}),
        ({"customer": {"id": 1}, "deliveryAddress": "here"}, {"customer": HIDDEN, "deliveryAddress": HIDDEN}),
        ({"delivery_note": "x", "Idempotency-Key": "k"}, {"delivery_note": HIDDEN, "Idempotency-Key": "k"}),
        ({"rows": [{"phone": "1", "state": "DONE"}]}, {"rows": [{"phone": HIDDEN, "state": "DONE"}]}),
        ("Authorization: Bearer abc.def-ghi", f"Authorization: Bearer {HIDDEN}"),
        ("to postgresql://a:b@c/d", f"to postgresql://a:{HIDDEN}@c/d"),
        ({"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}, {"a": {"b": {"c": {"d": {"e": {"f": HIDDEN}}}}}}),
        (42, 42),
    ],
)
def test_what_is_private_is_hidden_and_the_shape_is_kept(value: object, shown: object) -> None:
    assert redact(value) == shown


def test_no_value_keeps_a_line_from_being_written(stream: io.StringIO) -> None:
    structlog.get_logger("a").info(
        "odd", half="\ud83d", long=2**70, order_id=OrderId(UUID(int=1)), when=Money(1, "EUR")
    )
    structlog.get_logger("a").info("even", to="BEARER abc.def", at={1: {"a set"}})
    odd, even = lines(stream)
    assert (odd["half"], odd["long"], odd["event"]) == ("\ud83d", 2**70, "odd")
    assert "abc.def" not in str(even)
    assert even["event"] == "even"
