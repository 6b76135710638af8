"""What was shown is what then happens, while it stands; when it no longer stands, whoever cites it is told."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.cancellation import check_preview, preview_cancellation
from domain.errors import ChangeActive, PreviewNotFound, PreviewStale, ReasonUnknown
from domain.order import Draft
from domain.values import RequestId
from tests.builders import AGENT, World

FIBER = ("reserve-inventory", "assign-resource", "create-appointment", "ship-device")


def draft_of(world: World) -> Draft:
    return Draft(
        world.the_order,
        actor=AGENT,
        on_behalf_of=None,
        now=world.now,
        command_id=uuid.uuid4(),
        policy=world.policy,
        policy_version=world.policy_version,
    )


def wish(world: World, reason: str = "CUSTOMER_CHANGED_MIND", **more: Any) -> ask.RequestCancellation:
    fields: dict[str, Any] = {"scope": "ORDER", "item_ids": ()} | more
    return ask.RequestCancellation(world.order_id, RequestId(uuid.uuid4()), reason_code=reason, **fields)


def without_place(assessment: Any) -> Any:
    """An assessment without what only says when and at which version it was made."""
    return {
        key: value for key, value in assessment.items() if key not in {"assessedAt", "orderVersion", "ledgerVersion"}
    }


@pytest.mark.parametrize("done", [FIBER[:n] for n in range(5)])
def test_the_request_finds_what_the_preview_showed_and_does_it(done: tuple[str, ...]) -> None:
    world = World().accept().decompose().run_to(*done)
    before = world.the_order
    shown, _ = preview_cancellation(draft_of(world), wish(world))
    assert world.the_order is before
    request = world.judge(world.cancel())
    assert without_place(request.assessment) == without_place(shown["assessment"])
    if request.status == "COMPENSATING":
        world.run_flow()
        assert world.state == "CANCELLED"
    undone = {str(e.effect_id) for e in world.the_order.effects.values() if e.state == "REVERSED"}
    if request.assessment and request.assessment["automatic"]:
        assert undone == {node["reverses"] for node in shown["compensationPlan"]["tasks"]}


def test_the_preview_shows_the_orders_that_a_partial_cancellation_leaves() -> None:
    world = World().accept().decompose().run_to(*FIBER)
    shown, _ = preview_cancellation(draft_of(world), wish(world))
    assert [order["orderType"] for order in shown["newOrders"]] == ["RETURN"]


def test_a_completed_order_is_shown_its_new_orders() -> None:
    world = World().accept().decompose().run_flow()
    shown, _ = preview_cancellation(draft_of(world), wish(world))
    assert (shown["outcome"], shown["assessment"]) == ("NEW_ORDER_REQUIRED", None)
    assert shown["newOrders"]


def test_it_stands_until_something_that_it_rests_on_moves() -> None:
    world = World().accept().decompose().run_to("reserve-inventory")
    command = wish(world)
    _, shown = preview_cancellation(draft_of(world), command)
    cited = wish(world, preview_id=uuid.uuid4())
    check_preview(draft_of(world), cited, shown)
    world.run_to("assign-resource")
    with pytest.raises(PreviewStale):
        check_preview(draft_of(world), cited, shown)
    with pytest.raises(PreviewNotFound):
        check_preview(draft_of(world), cited, None)


@pytest.mark.parametrize(("before", "late"), [(timedelta(days=2), "soft"), (timedelta(hours=1), "hard")])
def test_it_falls_with_a_date_that_has_passed_since(before: timedelta, late: str) -> None:
    """From the soft point on it costs, from the hard one on something stays: neither is what was shown."""
    world = World().accept().decompose().run_to(*FIBER[:3])
    start = datetime.fromisoformat("2026-12-01T09:00:00+01:00")
    world.now = start - before
    _, shown = preview_cancellation(draft_of(world), wish(world))
    cited = wish(world, preview_id=uuid.uuid4())
    world.now = start - (timedelta(hours=24, seconds=1) if late == "soft" else timedelta(seconds=1))
    check_preview(draft_of(world), cited, shown)
    world.wait(timedelta(seconds=1))
    with pytest.raises(PreviewStale):
        check_preview(draft_of(world), cited, shown)


def test_what_the_request_would_be_refused_for_the_preview_is_refused_for() -> None:
    world = World().accept().decompose()
    with pytest.raises(ReasonUnknown):
        preview_cancellation(draft_of(world), wish(world, "BECAUSE"))
    world.cancel()
    with pytest.raises(ChangeActive):
        preview_cancellation(draft_of(world), wish(world))
