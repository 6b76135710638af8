"""An order that waits for its start date, in a real database: nothing happens to it, and its next wait is stored."""

from __future__ import annotations

from domain import commands as ask
from tests.builders import an_order, change
from tests.stored import Store


def test_a_wait_for_the_start_date_is_stored_and_a_new_date_wakes_it(store: Store) -> None:
    world = store.world()
    wished = {"startOnRequestedDate": True, "requestedStartDate": "2027-12-05T00:00:00+01:00"}
    world.accept(an_order(**wished))
    order_id, run = world.order_id, world.the_order.head.run
    world.do(ask.ValidateOrder(order_id, run))
    told = [world.do(ask.CheckStartDate(order_id, run)).body for _ in range(2)]  # its timer may be lost, and asks again
    assert [(t["verdict"], t["wait_key"]) for t in told] == [("wait", f"{order_id}:1"), ("wait", f"{order_id}:2")]
    assert world.state == "VALIDATED"
    world.amend(change("/requestedStartDate", wished["requestedStartDate"], world.now.isoformat()))
    keys = store.as_owner("select correlation_key from engine_outbox where name = 'start-date-changed'")
    assert [row["correlation_key"] for row in keys] == [f"{order_id}:2"]
    assert world.do(ask.CheckStartDate(order_id, run)).body == {"verdict": "go"}
