"""Which flows count as silent: nobody is asked to look after one that only waits for its turn."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from domain import commands as ask
from domain.store.queries import load_queries
from tests.builders import AGENT, accepted, an_item, an_order, change, only
from tests.stored import Store, StoredWorld


def find_rows(store: Store, name: str, column: str) -> list[UUID]:
    query = load_queries("reconcile")[name]
    rows = store.as_owner(query.text, *query.arguments({"settle": timedelta(minutes=15), "limit": 500}))
    return [row[column] for row in rows if row[column]]


def find_silent(store: Store) -> list[UUID]:
    return find_rows(store, "find_silent_flows", "request_id")


def find_idle(store: Store) -> list[UUID]:
    return find_rows(store, "find_idle_tasks", "task_id")


def book(store: Store) -> StoredWorld:
    world = store.world()
    world.accept().decompose().run_to("reserve-inventory", "assign-resource", "create-appointment")
    return world


def move_the_appointment(world: StoredWorld) -> None:
    """Another appointment is in the order, and the old one is being cancelled by its system."""
    stands = world.the_order.head.content["appointment"]
    later = {**stands, "start": "2026-12-02T09:00:00+01:00", "end": "2026-12-02T12:00:00+01:00"}
    assert world.drive(world.amend(change("/appointment", stands, later))).is_stored
    world.run_flow(only({"cancel-appointment": accepted}), only={"cancel-appointment"})
    assert world.undoings() == {"cancel-appointment": "WAITING_EXTERNAL"}


def hear(world: StoredWorld) -> None:
    world.report(
        world.calls_of("cancel-appointment")[0], {"state": "CONFIRMED", "external_reference": "c-1"}, "CALLBACK"
    )


@pytest.mark.parametrize("scope", ["ORDER", "ITEMS"])
def test_a_cancellation_that_waits_for_an_amendment_is_not_silent(store: Store, scope: str) -> None:
    """What an amendment undoes may take a system days. Without a look at it the cancellation behind it was started anew
    three times, and was then a person's case."""
    world = book(store)
    move_the_appointment(world)
    request = world.cancel(scope=scope, item_ids=("1",) if scope == "ITEMS" else ())
    assert world.begin(request)["verdict"] == "parked"
    assert find_silent(store) == []
    hear(world)
    assert world.request(request.request_id).status == "ACCEPTED_FOR_ASSESSMENT"
    assert find_silent(store) == [request.request_id]  # its turn has come, and it does not


def test_an_undoing_that_a_larger_cancellation_holds_is_not_idle(store: Store) -> None:
    """The whole order is with a reviewer for days. Without a look at it the plan of the item's cancellation was started
    anew three times, and was then a person's case."""
    world = store.world()
    world.accept(an_order(an_item(), an_item("2", "fiber-1000"))).decompose().run_to("reserve-inventory")
    part = world.judge(world.cancel(scope="ITEMS", item_ids=("1",)))
    whole = world.judge(world.cancel(force_manual_review=True))
    assert (part.status, whole.status) == ("COMPENSATING", "REQUIRES_APPROVAL")
    undoing = world.task("release-inventory")
    assert undoing.state == "READY"
    assert find_idle(store) == []
    world.do(ask.WithdrawCancellation(world.order_id, whole.request_id), AGENT)
    assert undoing.task_id in find_idle(store)
