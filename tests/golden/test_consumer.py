"""The example reader gives the same view whatever comes twice, late, out of order or all over again (EC55–EC57)."""

from __future__ import annotations

import importlib.util
import json
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.golden.telling import records, tell_stories
from workers.contracts import FOLDER


@pytest.fixture(scope="module")
def consumer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("consumer", FOLDER / "consumer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Take = Callable[..., sqlite3.Connection]


@pytest.fixture
def take(consumer: ModuleType) -> Iterator[Take]:
    """Read records into a view, a new one unless told `into`; it is closed with the test."""
    views: list[sqlite3.Connection] = []

    def read(told: Iterable[dict[str, Any]], into: sqlite3.Connection | None = None) -> sqlite3.Connection:
        view = into
        if view is None:
            view = consumer.open_view(":memory:")
            views.append(view)
        for record in told:
            consumer.take(view, record["headers"], json.dumps(record["value"]).encode())
        return view

    yield read
    for view in views:
        view.close()


def dump(view: sqlite3.Connection) -> dict[str, list[Any]]:
    return {table: sorted(view.execute(f"select * from {table}").fetchall()) for table in ("orders", "things", "facts")}


def test_the_view_is_what_the_orders_are(take: Take) -> None:
    view = dump(take(list(records())))
    orders = {order_id: state for _, order_id, state, _, _ in view["orders"]}
    things = {(order_id, entity, entity_id): state for _, order_id, entity, entity_id, state, _ in view["things"]}
    for world in tell_stories():
        order = world.the_order
        order_id = str(order.head.order_id)
        assert orders[order_id] == order.head.state == things[order_id, "ORDER", order_id]
        for item in order.items.values():
            assert things[order_id, "ITEM", item.item_id] == item.state
        for task in order.tasks.values():
            assert things[order_id, "TASK", str(task.task_id)] == task.state
        for effect in order.effects.values():
            assert things[order_id, "EFFECT", str(effect.effect_id)] == effect.state
        for request in order.requests.values():
            assert things[order_id, "REQUEST", str(request.request_id)] == request.status
        for case in order.cases.values():
            assert things[order_id, "CASE", str(case.case_id)] == case.status


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_and_any_order_give_the_same_view(take: Take, seed: int) -> None:
    told = list(records())
    expected = dump(take(told))
    dice = random.Random(seed)
    mixed = told + dice.choices(told, k=len(told))
    dice.shuffle(mixed)
    assert dump(take(mixed)) == expected


def test_replaying_the_whole_log_over_a_view_changes_nothing(take: Take) -> None:
    told = list(records())
    view = take(told)
    before = dump(view)
    assert dump(take(told, into=view)) == before
    assert dump(take(told)) == before


def test_a_reader_that_dies_anywhere_and_begins_again_ends_with_the_same_view(take: Take) -> None:
    """Its offset is older than its view: what it had taken since comes once more."""
    told = list(records())
    expected = dump(take(told))
    for died_at, committed in ((1, 0), (700, 650), (len(told), 1)):
        view = take(told[:died_at])
        assert dump(take(told[committed:], into=view)) == expected


def test_types_of_a_later_release_are_let_pass(take: Take) -> None:
    later = {**records()[0], "value": {"what": "nobody here knows"}}
    later["headers"] = {**later["headers"], "ce_type": "recourse.OrderForeseen.v2"}
    assert dump(take([later])) == {"orders": [], "things": [], "facts": []}
