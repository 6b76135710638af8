"""Claims and outcomes are decided on a slice of the order; what that cannot settle needs the whole."""

from __future__ import annotations

from datetime import timedelta

from tests.stored import Store
from tests.stories import ACCEPTED, hear, verify


def test_accepted_for_too_long_opens_a_case_that_the_order_shows(store: Store) -> None:
    """It says ACCEPTED to every question and never calls back: the case blocks, so the order is in FALLOUT."""
    world = store.world()
    world.accept().decompose()
    handed = next(h for h in world.release() if world.task_by_id(h["task_id"]).task_type == "reserve-inventory")
    world.report(world.claim(handed), ACCEPTED)
    world.wait(timedelta(hours=1))
    assert verify(world, handed, "ACCEPTED")["verdict"] == "accepted"
    world.wait(timedelta(hours=1))
    assert verify(world, handed, "ACCEPTED")["verdict"] == "case"
    assert world.open_case().category == "UNKNOWN_OUTCOME"
    assert world.state == "FALLOUT"
    hear(world, "reserve-inventory", {"state": "CONFIRMED", "external_reference": "at last"})
    assert not any(case.is_open for case in world.the_order.cases.values())
    assert world.state == "IN_PROGRESS"
