"""Flows that are stuck or gone in the engine: each a case of what it carries, mended from where the order stands."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.errors import RepairNotPossible
from domain.order import Case
from domain.values import PlanId, RequestId, Run
from tests.builders import World
from tests.domain.test_fallout import agreed, possible, repair
from tests.stories import REFUSED, answers

SILENT = "The flow is silent after 3 restarts. Work was handed to the engine and no worker has taken it."
PLACE = "assess-cancellation of cancellation (JOB_NO_RETRIES)"


def stuck(world: World, run: Run | None, key: str = "77", *, noted: bool = True) -> dict[str, Any]:
    """The engine shows an incident of the flow with this run."""
    return dict(world.do(ask.NoteIncident(world.order_id, key, PLACE, run, noted)).body)


def gone(world: World, run: Run, *, restart: bool = True, key: str = "4503") -> dict[str, Any]:
    return dict(
        world.do(
            ask.NoteGoneFlow(world.order_id, run, key, "INSTANCE_GONE", f"instance {key} was cancelled", restart)
        ).body
    )


def silent(world: World, *, plan_id: PlanId | None = None, request_id: RequestId | None = None) -> dict[str, Any]:
    """What carries this has been started anew as often as it is by itself, in vain."""
    return dict(world.do(ask.NoteSilentFlow(world.order_id, plan_id, request_id, SILENT)).body)


def case_of(world: World) -> Case:
    (case,) = world.the_order.cases.values()
    return case


def shown(world: World) -> tuple[str, str | None]:
    return world.state, world.the_order.head.resume_state


def test_a_stuck_assessment_shows_fallout_and_decides_nothing() -> None:
    """EC70: nothing is dispatched, approved or refused by it; when the case is over the order is where it was."""
    world = World().accept().decompose().run_to("reserve-inventory")
    request = world.cancel()
    world.begin(request)
    held = dict(world.the_order.holds)
    stuck(world, request.run)
    assert shown(world) == ("FALLOUT", "CANCELLATION_ASSESSING")
    assert (case_of(world).context, case_of(world).request_id) == ("COMPENSATION", request.request_id)
    assert (world.request(request.request_id).status, world.release()) == ("ASSESSING", [])
    assert world.the_order.holds == held
    repair(world, "RETRY")
    assert shown(world) == ("CANCELLATION_ASSESSING", "IN_PROGRESS")
    started = world.sent("cancellation-requested")[-1]
    assert started.variables["run"] == str(world.request(request.request_id).run) != str(request.run)


def test_a_stuck_walker_of_the_order_shows_fallout_and_goes_on_from_the_plan() -> None:
    world = World().accept().decompose().run_to("reserve-inventory")
    assert world.the_order.plan
    stuck(world, world.the_order.head.run)
    assert (shown(world), case_of(world).context) == (("FALLOUT", "IN_PROGRESS"), "FULFILLMENT")
    repair(world, "RETRY")
    assert world.sent("plan-restarted")
    world.run_flow()
    assert (world.state, world.called("reserve-inventory")) == ("COMPLETED", 1)


def test_an_incident_key_opens_a_case_once_ever() -> None:
    world = World().accept().decompose()
    assert stuck(world, world.the_order.head.run)["verdict"] == "told"
    assert stuck(world, world.the_order.head.run)["verdict"] == "known"
    repair(world, "RETRY")
    assert stuck(world, world.the_order.head.run)["verdict"] == "known"
    assert len(world.the_order.cases) == 1


def test_an_incident_of_a_replaced_flow_stops_nobody() -> None:
    world = World().accept().decompose()
    assert world.the_order.plan
    old = world.the_order.plan.run
    gone(world, old)
    assert stuck(world, old)["verdict"] == "stand_down"
    assert world.state == "IN_PROGRESS"


def test_an_incident_of_no_known_flow_is_told_and_blocks_nothing() -> None:
    """EC60."""
    world = World().accept().decompose()
    stuck(world, None, noted=False)
    assert (case_of(world).context, case_of(world).blocking, world.state) == ("RECONCILIATION", False, "IN_PROGRESS")
    world.run_flow()
    assert (world.state, case_of(world).status) == ("COMPLETED", "OPEN")
    world.do(ask.ResumeCase(world.order_id, case_of(world).case_id, "77"))
    assert (case_of(world).status, case_of(world).resolution) == ("RESOLVED", "RESOLVED_IN_ENGINE")


def test_a_flow_that_only_its_variables_name_is_as_stuck_as_any() -> None:
    world = World().accept()
    stuck(world, world.the_order.head.run, noted=False)
    assert (case_of(world).context, shown(world)) == ("FULFILLMENT", ("FALLOUT", "ACKNOWLEDGED"))
    repair(world, "RETRY")
    assert (world.state, len(world.sent("order-accepted"))) == ("ACKNOWLEDGED", 2)


def test_an_order_whose_flow_is_stuck_ends_without_it() -> None:
    """The domain never waits for the engine: the last outcome arrives, and the case has no cause any more."""
    world = World().accept().decompose().run_to("reserve-inventory")
    stuck(world, world.the_order.head.run)
    assert world.state == "FALLOUT"
    world.run_flow()  # what others had handed out
    assert (world.state, case_of(world).status, case_of(world).resolution) == (
        "COMPLETED",
        "CANCELLED",
        "CAUSE_VANISHED",
    )


def test_an_incident_resolved_in_the_engine_gives_the_order_back() -> None:
    world = World().accept().decompose()
    stuck(world, world.the_order.head.run)
    before = len(world.sent("plan-restarted"))
    world.do(ask.ResumeCase(world.order_id, case_of(world).case_id, "77"))
    case = case_of(world)
    assert (case.status, case.resolution, world.state) == ("RESOLVED", "RESOLVED_IN_ENGINE", "IN_PROGRESS")
    assert case.repairs[-1]["evidence"] == {"kind": "INCIDENT", "reference": "77"}
    assert len(world.sent("plan-restarted")) == before  # the flow is there, and goes on by itself


def test_what_may_be_done_about_a_stuck_flow() -> None:
    world = World().accept().decompose()
    stuck(world, world.the_order.head.run)
    assert set(possible(world)) == {"RETRY", "FORCE_COMPLETE"}
    for action in ("WAIVE", "CONVERT_TO_ORDER", "FAIL_ITEM", "VERIFY_OUTCOME", "REPLACE_INPUT"):
        with pytest.raises(RepairNotPossible):
            repair(world, action)
    assert agreed(world, "FORCE_COMPLETE").resolution == "FORCE_COMPLETE"
    assert world.state == "IN_PROGRESS"


def test_an_instance_cancelled_while_undoing_is_told_and_the_plan_goes_on() -> None:
    """EC14: what has been undone is not undone again."""
    world = World().accept().decompose().run_to("reserve-inventory", "assign-resource")
    request = world.judge(world.cancel())
    world.plan(request)
    world.run_flow(only={"release-resource"})
    done = dict(world.undoings())
    gone(world, request.run)
    case = case_of(world)
    assert (case.context, case.status, case.resolution) == ("RECONCILIATION", "RESOLVED", "FLOW_RESTARTED")
    assert case.repairs[-1]["evidence"] == {"kind": "INSTANCE", "reference": "4503"}
    assert (world.state, world.undoings()) == ("CANCELLING", done)
    assert world.sent("plan-restarted")[-1].variables["plan_id"] == str(world.compensation().plan_id)
    world.run_flow()
    assert world.state == "CANCELLED"
    assert all(world.called(task_type) == 1 for task_type in ("release-inventory", "release-resource"))


@pytest.mark.parametrize("part", ["order", "cancellation", "amendment"])
def test_a_flow_that_is_gone_before_its_plan_starts_where_its_part_stands(part: str) -> None:
    world, message = World().accept(), "order-accepted"
    run = world.the_order.head.run
    if part == "cancellation":
        request = world.decompose().cancel()
        run, message = request.run, "cancellation-requested"
    if part == "amendment":
        amendment = world.decompose().amend(ask.AskedChange("/deliveryAddress/postalCode", "SET", "12930", "12940"))
        run, message = amendment.run, "amendment-requested"
    before = len(world.sent(message))
    assert gone(world, run)["verdict"] == "restarted"
    assert len(world.sent(message)) == before + 1
    assert gone(world, run)["verdict"] == "stand_down"  # it is another one's now


def test_past_the_cap_the_case_is_a_persons() -> None:
    world = World().accept().decompose()
    assert world.the_order.plan
    run = world.the_order.plan.run
    assert gone(world, run, restart=False)["verdict"] == "told"
    assert (case_of(world).status, case_of(world).blocking, world.sent("plan-restarted")) == ("OPEN", False, [])
    repair(world, "RETRY")
    assert case_of(world).resolution == "RETRY"
    assert world.sent("plan-restarted")


def test_a_plan_that_stays_silent_is_a_persons_once_and_starts_anew_with_the_repair() -> None:
    world = World().accept().decompose()
    assert world.the_order.plan
    plan_id = world.the_order.plan.plan_id
    assert silent(world, plan_id=plan_id)["verdict"] == "told"
    case = case_of(world)
    assert (case.status, case.context, case.title) == ("OPEN", "RECONCILIATION", SILENT)
    assert (case.sla_at > case.opened_at, case.blocking, world.state) == (True, False, "IN_PROGRESS")
    assert world.sent("case-opened")[-1].variables["case_id"] == str(case.case_id)  # Tasklist shows it
    assert silent(world, plan_id=plan_id)["verdict"] == "known"
    assert set(possible(world)) == {"RETRY", "FORCE_COMPLETE"}
    repair(world, "RETRY")
    assert (case_of(world).resolution, len(world.sent("plan-restarted"))) == ("RETRY", 1)
    assert silent(world, plan_id=plan_id)["verdict"] == "told"  # it has not helped


@pytest.mark.parametrize("part", ["order", "cancellation", "undoing"])
def test_whatever_a_flow_carries_is_told_where_it_stays_silent(part: str) -> None:
    world = World().accept()
    plan_id: PlanId | None = None
    request_id: RequestId | None = None
    if part != "order":
        request = world.decompose().run_to("reserve-inventory", "assign-resource").cancel()
        request_id = request.request_id
        if part == "undoing":
            world.plan(world.judge(request))
            world.run_flow(only={"release-resource"})  # past the commit point
            plan_id, request_id = world.compensation().plan_id, None
    assert silent(world, plan_id=plan_id, request_id=request_id)["verdict"] == "told"
    message = {"order": "order-accepted", "cancellation": "cancellation-requested", "undoing": "plan-restarted"}[part]
    before = len(world.sent(message))
    repair(world, "RETRY")
    assert len(world.sent(message)) == before + 1


def test_nothing_is_told_of_a_flow_whose_stage_is_over() -> None:
    world = World().accept().decompose()
    assert world.the_order.plan
    assert silent(world)["verdict"] == "stand_down"  # the order has its plan, which has a silence of its own
    assert silent(world, plan_id=PlanId(uuid.uuid4()))["verdict"] == "stand_down"
    world.run_flow()
    assert silent(world, plan_id=world.the_order.plan.plan_id)["verdict"] == "stand_down"
    assert not world.the_order.cases


def test_a_silence_that_ends_by_itself_ends_its_case() -> None:
    """Not with the first sign: what was silent must be worked on, too."""
    world = World().accept().decompose()
    assert world.the_order.plan
    plan_id = world.the_order.plan.plan_id
    handed = world.release()
    assert len(handed) > 1
    silent(world, plan_id=plan_id)
    world.wait(timedelta(minutes=1))
    for one in handed[:-1]:
        world.claim(one)
    assert case_of(world).status == "OPEN"
    world.claim(handed[-1])
    assert (case_of(world).status, case_of(world).resolution) == ("CANCELLED", "CAUSE_VANISHED")


def test_a_promise_that_stays_unkept_keeps_its_case() -> None:
    world = World().accept().decompose()
    assert world.the_order.plan
    first, *others = world.release()
    world.claim(first)
    world.wait(timedelta(minutes=1))
    silent(world, plan_id=world.the_order.plan.plan_id)
    world.wait(timedelta(minutes=1))
    for one in others:
        world.claim(one)
    assert case_of(world).status == "OPEN"


def test_nothing_is_told_of_a_flow_with_nothing_left_to_do() -> None:
    world = World().accept().decompose().run_flow()
    assert world.state == "COMPLETED"
    assert gone(world, world.the_order.head.run)["verdict"] == "stand_down"
    assert stuck(world, world.the_order.head.run)["verdict"] == "stand_down"
    assert not world.the_order.cases


def test_nested_detours_end_in_any_order_and_leave_the_order_where_it_was() -> None:
    """A failed task, then a cancellation whose assessment is stuck: fallout over assessing over fallout."""
    world = World().accept().decompose().run_flow(answers(assign_resource=REFUSED))
    assert shown(world) == ("FALLOUT", "IN_PROGRESS")
    failed = case_of(world)
    request = world.cancel()
    assert shown(world)[0] in {"CANCELLATION_REQUESTED", "CANCELLATION_ASSESSING"}
    world.begin(request)
    stuck(world, request.run)
    assert shown(world) == ("FALLOUT", "CANCELLATION_ASSESSING")
    open_cases = [case for case in world.the_order.cases.values() if case.is_open]
    assert len(open_cases) == 2
    (about_flow,) = (case for case in open_cases if case.is_about_flow)
    world.do(ask.ResumeCase(world.order_id, about_flow.case_id, "77"))
    assert shown(world) == ("CANCELLATION_ASSESSING", "FALLOUT")
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id))
    assert shown(world) == ("FALLOUT", "IN_PROGRESS")
    assert world.the_order.cases[failed.case_id].is_open
    repair(world, "RETRY")
    assert shown(world) == ("IN_PROGRESS", None)


def test_a_case_of_an_items_undoing_is_the_items_fallout_and_not_the_orders() -> None:
    world = World().accept().decompose().run_to("reserve-inventory")
    request = world.cancel(scope="ITEMS", item_ids=("1",))
    world.begin(request)
    stuck(world, request.run)
    assert world.state == "IN_PROGRESS"
    assert world.the_order.items["1"].state == "FALLOUT"
    repair(world, "RETRY")
    assert world.the_order.items["1"].state == "CANCELLATION_ASSESSING"
