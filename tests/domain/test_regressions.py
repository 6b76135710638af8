"""Corners of the core: two changes that meet, outcomes that come late or twice, work that items share."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.assessment import moment_of
from domain.errors import ChangeActive, ItemUnknown, RepairNotPossible, ScopeInvalid
from domain.order import Asset, Request, Surroundings
from domain.policy import Policy
from domain.store.orders import draft_rows
from domain.values import AssetId, OrderId, RequestId, format_time
from tests.builders import (
    AGENT,
    World,
    accepted,
    an_item,
    an_order,
    changed_telecom,
    energy,
    only,
    refused,
    silent,
    telecom,
)

YES = {"state": "CONFIRMED", "external_reference": "late"}
NO = {"state": "NO_EFFECT", "reason": "no"}
VISIT = datetime.fromisoformat("2026-12-01T09:00:00+01:00")
MODIFICATION = ("modify-service",)
FIRST = ("reserve-inventory", "assign-resource")
UP_TO_SHIPMENT = (*FIRST, "create-appointment", "ship-device")


def reversible(document: dict[str, Any], reversibility: str = "AUTOMATIC") -> None:
    """Activation that can be undone at any time."""
    row = document["task_types"]["activate-service"]
    row["reversibility"] = reversibility
    del row["irreversible_after_state"]


def two_items(second: str = "router") -> World:
    return World().accept(an_order(an_item(), an_item("2", second))).decompose()


def cancel_item(world: World, *item_ids: str, **more: Any) -> Request:
    return world.judge(world.cancel(scope="ITEMS", item_ids=item_ids, **more))


def past_grace(world: World, **scope: Any) -> Request:
    """A cancellation that has waited as long as it may for what is under way."""
    request = world.cancel(**scope)
    world.begin(request)
    world.wait(timedelta(minutes=2))
    return world.judge(request)


def states(world: World) -> dict[str, str]:
    return {item.item_id: item.state for item in world.the_order.items.values()}


# -- an item's cancellation under one of the whole order ------------------------------------------------------


def test_the_order_waits_for_an_items_undoing_that_is_past_its_commit_point_and_undoes_nothing_twice() -> None:
    world = World().accept(an_order(an_item("2", "router"))).decompose().run_to("reserve-inventory")
    cancel_item(world, "2")
    world.run_flow(only({"release-inventory": accepted}))
    [call] = world.calls_of("release-inventory")
    request = world.judge(world.cancel())
    assert (request.status, world.state) == ("COMPENSATING", "CANCELLING")
    world.report(call, YES, source="CALLBACK")
    world.run_flow()
    assert (world.state, world.called("release-inventory")) == ("CANCELLED", 1)


def test_an_items_plan_short_of_its_commit_point_gives_way_to_the_orders() -> None:
    world = two_items().run_to("reserve-inventory")
    smaller = cancel_item(world, "2")
    world.judge(world.cancel())
    world.run_flow()
    assert world.state == "CANCELLED"
    assert world.request(smaller.request_id).status == "SUPERSEDED"
    assert world.called("release-inventory") == 2


def test_a_parked_items_undoing_is_not_claimed() -> None:
    world = two_items().run_to("reserve-inventory")
    request = cancel_item(world, "2")
    [handed] = world.release(world.compensation().plan_id)
    world.cancel()
    assert world.claim(handed)["verdict"] == "stand_down"
    assert world.request(request.request_id).committed_at is None


def test_a_parked_items_cancellation_is_not_approved() -> None:
    world = two_items().run_to("reserve-inventory")
    request = cancel_item(world, "2", force_manual_review=True)
    world.cancel()
    with pytest.raises(ChangeActive):
        world.approve(request)


def test_two_item_cancellations_overlap_by_what_they_touch_and_not_by_what_they_name() -> None:
    world = World().accept(
        an_order(an_item(offering="home-bundle"), an_item("2", parent="1"), an_item("3", "router", parent="1"))
    )
    world.decompose()
    world.cancel(scope="ITEMS", item_ids=("1",))
    with pytest.raises(ChangeActive):
        world.cancel(scope="ITEMS", item_ids=("3",))


# -- work that items share ------------------------------------------------------------------------------------


def test_a_shared_task_is_the_others_once_one_item_is_gone_and_the_last_one_takes_it_along() -> None:
    """EC21, first half."""
    world = two_items("fiber-500").run_to(*FIRST, "create-appointment")
    first = cancel_item(world, "1")
    world.run_flow(only={"release-inventory", "release-resource"})
    first = world.request(first.request_id)
    assert (first.status, first.proposals) == ("COMPLETED", ())
    assert (world.task("create-appointment").item_ids, world.called("cancel-appointment")) == (("2",), 0)
    cancel_item(world, "2")
    world.run_flow()
    assert (world.state, states(world)) == ("CANCELLED", {"1": "CANCELLED", "2": "CANCELLED"})
    assert world.called("cancel-appointment") == 1


def test_one_item_delivered_and_the_rest_cancelled_is_a_partial_order() -> None:
    """EC21, second half."""
    world = two_items("mobile-sim")
    cancel_item(world, "1")
    world.run_flow()
    assert (world.state, states(world)) == ("PARTIALLY_COMPLETED", {"1": "CANCELLED", "2": "COMPLETED"})


def test_a_closure_that_has_grown_is_held_too() -> None:
    world = two_items("fiber-500").run_to(*FIRST)
    first = cancel_item(world, "1", force_manual_review=True)
    second = cancel_item(world, "2", force_manual_review=True)
    shared = world.task("create-appointment").task_id
    assert shared not in world.the_order.holds
    world.approve(first)
    world.approve(second)  # now nobody else needs the appointment
    assert str(second.request_id) in world.the_order.holds[shared]
    assert all(world.task_by_id(handed["task_id"]).task_id != shared for handed in world.release())


def test_a_share_counts_as_given_up_by_the_closure_and_not_by_the_ids_named() -> None:
    world = World().accept(an_order(an_item(offering="home-bundle"), an_item("2", parent="1"), an_item("3")))
    world.decompose().run_to(*FIRST, "create-appointment")
    world.plan(world.approve(cancel_item(world, "1", force_manual_review=True)))
    cancel_item(world, "3")
    world.run_flow()
    assert (world.state, world.called("cancel-appointment")) == ("CANCELLED", 1)


@pytest.mark.parametrize(
    ("left", "end"), [(("router",), "CANCELLED"), (("router", "fiber-500"), "PARTIALLY_COMPLETED")]
)
def test_a_bundle_without_work_of_its_own_ends_as_its_children_do(left: tuple[str, ...], end: str) -> None:
    def loosen(document: dict[str, Any]) -> None:
        document["offerings"]["home-bundle"]["children"] = {"optional": ["fiber-500", "router"]}

    children = [an_item(str(n), offering, parent="1") for n, offering in enumerate(left, 2)]
    world = World(changed_telecom(loosen))
    world.accept(an_order(an_item(offering="home-bundle"), *children, an_item("9", "mobile-sim"))).decompose()
    cancel_item(world, "2")
    world.run_flow()
    assert states(world)["1"] == end


# -- around the commit point ----------------------------------------------------------------------------------


@pytest.mark.parametrize("found", ["callback", "verification"])
def test_a_straggler_without_effect_past_the_commit_point_is_cancelled_and_never_runs(found: str) -> None:
    world = two_items("mobile-sim")
    slow = accepted if found == "callback" else silent
    world.run_flow(only({"assign-resource": slow}), only=set(FIRST))
    past_grace(world, scope="ITEMS", item_ids=("1",))
    world.run_flow(only={"release-inventory"})
    if found == "callback":
        world.report(world.calls_of("assign-resource")[0], NO, source="CALLBACK")
    else:
        world.wait(timedelta(minutes=1))
        world.verify("assign-resource", "MISSING")
        world.verify("assign-resource", "MISSING")
    assert world.task("assign-resource").state == "CANCELLED"
    world.run_flow()
    assert (world.called("assign-resource"), states(world)["1"]) == (1, "CANCELLED")
    assert not [case for case in world.the_order.cases.values() if case.is_open]


def test_a_straggler_that_comes_true_after_all_is_undone_once() -> None:
    world = World().accept().decompose().run_flow(only({"assign-resource": accepted}), only=set(FIRST))
    past_grace(world)
    world.run_flow()
    [call] = world.calls_of("assign-resource")
    world.report(call, NO, source="CALLBACK")
    assert world.state == "CANCELLED"
    world.report(call, YES, source="CALLBACK")
    world.run_flow()
    assert (world.called("release-resource"), world.effect("assign-resource").state) == (1, "REVERSED")


def test_a_failed_call_on_its_way_to_a_second_try_is_asked_for_while_it_is_held() -> None:
    world = World().accept().decompose().run_flow(only({"reserve-inventory": silent}), only=set(FIRST))
    assert world.verify("reserve-inventory", "MISSING")["verdict"] == "retry"
    request = world.judge(world.cancel())
    assert (request.status, world.task("reserve-inventory").state) == ("ASSESSING", "OUTCOME_UNKNOWN")
    world.verify("reserve-inventory", "CONFIRMED")
    world.judge(request)
    world.run_flow()
    assert (world.state, world.called("release-inventory")) == ("CANCELLED", 1)


def test_a_case_about_work_becomes_one_about_its_undoing_at_the_commit_point() -> None:
    world = World().accept().decompose().run_flow(only({"assign-resource": silent}), only=set(FIRST))
    world.wait(timedelta(hours=1, seconds=1))
    assert world.verify("assign-resource", "UNREACHABLE")["verdict"] == "case"
    request = past_grace(world)
    world.run_flow(only={"release-inventory"})
    case = world.open_case()
    assert (case.context, case.blocking, case.request_id) == ("COMPENSATION", True, request.request_id)
    assert (world.state, world.the_order.head.resume_state) == ("FALLOUT", "CANCELLING")


def test_a_case_that_was_a_fact_for_the_assessment_blocks_again_once_the_wish_is_withdrawn() -> None:
    world = World().accept().decompose()
    call = world.claim(world.release()[0])
    request = world.cancel()
    world.report(call, NO)
    assert world.open_case().blocking is False
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    assert (world.state, world.open_case().blocking, world.open_case().request_id) == ("FALLOUT", True, None)


def test_an_item_whose_undoing_failed_ends_cancelled_when_the_undoing_turns_out_done() -> None:
    world = two_items().run_to("reserve-inventory")
    cancel_item(world, "2")
    world.run_flow(only({"release-inventory": refused}), only={"release-inventory"})
    assert states(world)["2"] == "FALLOUT"
    world.report(world.calls_of("release-inventory")[0], YES, source="CALLBACK")
    assert states(world)["2"] == "CANCELLED"


# -- withdrawals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_already", [False, True])
def test_an_original_that_comes_true_before_its_withdrawal_sends_the_request_back_to_be_assessed(
    asked_already: bool,
) -> None:
    def plain_contract(document: dict[str, Any]) -> None:
        document["task_types"]["sign-contract"]["reversibility"] = "AUTOMATIC"

    world = World(energy(plain_contract))
    world.accept(an_order(an_item(offering="power-green"), requestedStartDate="2027-03-01T00:00:00+01:00")).decompose()
    world.run_flow(only({"register-supply": accepted}), only={"check-credit", "sign-contract", "register-supply"})
    request = world.judge(world.cancel("CUSTOMER_WITHDREW"))
    recall = world.claim(world.release(world.compensation().plan_id)[0]) if asked_already else None
    world.report(world.calls_of("register-supply")[0], YES, source="CALLBACK")
    if recall:
        world.report(recall, NO)
    assert world.request(request.request_id).status == "ASSESSING"
    world.judge(request)
    world.run_flow()
    assert (world.state, world.called("deregister-supply")) == ("CANCELLED", 1)
    assert world.called("recall-registration") == int(asked_already)


def test_a_withdrawal_that_cannot_be_carried_out_is_nobodys_failure() -> None:
    world = World().accept().decompose()
    world.run_flow(only({"ship-device": accepted}), only=set(UP_TO_SHIPMENT))
    request = world.judge(world.cancel())
    [handed] = world.release(world.compensation().plan_id)
    call = world.claim(handed)
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    for _ in range(2):
        world.report(call, {"state": "UNKNOWN", "reason": "timed out"})
        assert world.verify("stop-shipment", "MISSING")["verdict"] == "retry"
        call = world.claim({**handed, "release": world.task("stop-shipment").release})
    world.report(call, {"state": "UNKNOWN", "reason": "timed out"})
    world.wait(timedelta(seconds=20))
    world.verify("stop-shipment", "MISSING")
    world.verify("stop-shipment", "MISSING")
    assert world.task("stop-shipment").state == "COMPLETED"
    assert (world.the_order.cases, world.compensation().closed) == ({}, True)
    world.report(world.calls_of("ship-device")[0], YES, source="CALLBACK")
    world.run_flow()
    assert world.state == "COMPLETED"


# -- outcomes that come late, twice, or with strange words ----------------------------------------------------


def test_what_was_reversed_twice_is_a_case_and_nobody_is_called() -> None:
    world = World().accept().decompose().run_to(*FIRST)
    world.judge(world.cancel())
    world.run_flow(only({"release-inventory": refused}))
    first = world.calls_of("release-inventory")[0]
    world.retry()
    world.run_flow()
    calls = len(world.calls)
    world.report(first, YES, source="CALLBACK")
    world.run_flow()
    assert (world.state, len(world.calls)) == ("CANCELLED", calls)
    assert (world.open_case().context, world.open_case().title) == (
        "LATE_EFFECT",
        "Reversed twice: release-inventory",
    )


def test_an_obligation_belongs_to_the_plan_that_was_carried_out_for_its_item() -> None:
    world = World().accept(an_order(an_item(), an_item("2", "router"), an_item("3", "mobile-sim"))).decompose()
    world.run_flow(only({"assign-resource": accepted}), only=set(FIRST))
    [call] = world.calls_of("assign-resource")
    first = past_grace(world, scope="ITEMS", item_ids=("1",))
    world.report(call, NO, source="CALLBACK")
    world.run_flow(only={"release-inventory"})
    other = cancel_item(world, "2")
    world.report(call, YES, source="CALLBACK")
    [owed] = [t for t in world.the_order.tasks.values() if t.task_type == "release-resource" and not t.has_ended]
    assert owed.plan_id == world.request(first.request_id).plan_id != world.request(other.request_id).plan_id
    world.do(ask.WithdrawCancellation(world.order_id, other.request_id), AGENT)
    world.run_flow()
    assert world.effect("assign-resource").state == "REVERSED"


@pytest.mark.parametrize("words", ["withdrawn", "no", "the system does not know it"])
def test_what_the_outside_system_says_as_a_reason_steers_nothing(words: str) -> None:
    world = World().accept().decompose().run_flow(only({"assign-resource": accepted}), only=set(FIRST))
    [call] = world.calls_of("assign-resource")
    world.report(call, {"state": "NO_EFFECT", "reason": words}, source="CALLBACK")
    assert world.task("assign-resource").state == "FAILED"
    world.report(call, YES, source="CALLBACK")
    assert (world.task("assign-resource").state, world.state) == ("COMPLETED", "IN_PROGRESS")


def test_a_late_yes_between_a_retry_and_its_call_makes_the_call_needless() -> None:
    world = World().accept().decompose().run_flow(only({"reserve-inventory": refused}), only={"reserve-inventory"})
    world.retry()
    world.report(world.calls_of("reserve-inventory")[0], YES, source="CALLBACK")
    world.run_to("reserve-inventory")
    assert (world.task("reserve-inventory").state, world.called("reserve-inventory")) == ("COMPLETED", 1)


def happened_twice() -> World:
    """A reservation that was refused, made again, and then turns out to have been made the first time too."""
    world = World().accept().decompose().run_flow(only({"reserve-inventory": refused}), only={"reserve-inventory"})
    world.retry()
    return world.run_to("reserve-inventory")


def confirm_the_first(world: World) -> None:
    world.report(world.calls_of("reserve-inventory")[0], YES, source="CALLBACK")


@pytest.mark.parametrize("heard", ["before", "while assessed", "while planned", "after"])
def test_what_happened_once_more_than_was_wanted_is_undone_with_the_rest(heard: str) -> None:
    """The ledger is undone, not the task: every effect that stands has an undoing of its own."""
    world = happened_twice()
    if heard == "before":
        confirm_the_first(world)
        assert (world.open_case().context, world.state) == ("LATE_EFFECT", "IN_PROGRESS")
    request = world.judge(world.cancel(force_manual_review=heard == "while assessed"))
    if heard == "while assessed":
        confirm_the_first(world)
        world.plan(world.approve(request))
    if heard == "while planned":
        confirm_the_first(world)
    world.run_flow()
    if heard == "after":
        confirm_the_first(world)
        world.run_flow()
    assert world.state == "CANCELLED"
    assert {e.state for e in world.the_order.effects.values() if e.task_type == "reserve-inventory"} == {"REVERSED"}
    assert (world.called("release-inventory"), world.task("reserve-inventory").state) == (2, "COMPENSATED")
    assert not [case for case in world.the_order.cases.values() if case.is_open]


def given_up_and_gone(world: World, task_type: str, *before: str) -> World:
    """A cancelled order one of whose effects had been accepted, and then was said not to have happened."""
    world.decompose().run_flow(only({task_type: accepted}), only={task_type, *before})
    past_grace(world)
    world.run_flow()
    world.report(world.calls_of(task_type)[0], NO, source="CALLBACK")
    assert world.state == "CANCELLED"
    return world


def test_a_late_effect_that_nothing_undoes_names_the_order_that_would() -> None:
    world = World().accept().decompose()
    world.run_flow(only({"ship-device": accepted}), only=set(UP_TO_SHIPMENT))
    world.judge(world.cancel())
    world.run_flow()
    assert world.state == "CANCELLED"
    calls = len(world.calls)
    world.report(world.calls_of("ship-device")[0], YES, source="CALLBACK")
    world.run_flow()
    assert (world.effect("ship-device").state, len(world.calls)) == ("CONFIRMED", calls)
    assert (world.open_case().context, "RETURN order (RETURN)" in world.open_case().title) == ("LATE_EFFECT", True)


def test_a_late_effect_on_an_asset_that_another_order_is_changing_is_left_to_a_person() -> None:
    world = given_up_and_gone(on_asset(World(), "MODIFY"), *MODIFICATION)
    other = OrderId(uuid.uuid4())
    world.order = replace(world.the_order, busy_assets={an_asset().asset_id: other})
    calls = len(world.calls)
    world.report(world.calls_of(MODIFICATION[0])[0], YES, source="CALLBACK")
    world.run_flow()
    assert (len(world.calls), world.state) == (calls, "CANCELLED")
    assert str(other) in world.open_case().title


def test_a_withdrawal_that_is_under_way_is_not_asked_for_again() -> None:
    world = World().accept().decompose()
    world.run_flow(only({"ship-device": accepted}), only=set(UP_TO_SHIPMENT))
    first = world.judge(world.cancel())
    call = world.claim(world.release(world.compensation().plan_id)[0])
    world.report(call, {"state": "ACCEPTED"})
    world.do(ask.WithdrawCancellation(world.order_id, first.request_id), AGENT)
    world.judge(world.cancel())
    assert world.called("stop-shipment") == 1
    world.run_flow()
    world.report(call, YES, source="CALLBACK")
    world.run_flow()
    assert (world.state, world.called("stop-shipment"), world.effect("ship-device").state) == (
        "CANCELLED",
        1,
        "NO_EFFECT",
    )


# -- what stays -----------------------------------------------------------------------------------------------


def test_a_confirmed_effect_that_could_only_have_been_withdrawn_stays() -> None:
    def stoppable(document: dict[str, Any]) -> None:
        row = document["task_types"]["ship-device"]
        row["reversibility"] = "AUTOMATIC"
        del row["irreversible_after_state"]

    world = World(changed_telecom(stoppable)).accept(an_order(an_item(offering="router"), an_item("2", "mobile-sim")))
    world.decompose().run_to("reserve-inventory", "ship-device")
    request = world.judge(world.cancel())
    assert (request.status, (request.assessment or {})["feasibility"]) == ("REQUIRES_APPROVAL", "PARTIALLY_CANCELLABLE")
    world.plan(world.approve(request))
    assert "stop-shipment" not in world.undoings()


def test_what_a_person_decided_to_keep_keeps_what_it_needs() -> None:
    world = World(changed_telecom(lambda document: reversible(document, "MANUAL"))).accept().decompose()
    world.run_to(*UP_TO_SHIPMENT, "perform-visit", "activate-service")
    request = world.judge(world.cancel())
    world.plan(world.approve(request, {str(world.task("activate-service").task_id): "RETAIN"}))
    world.run_flow()
    assert (world.effect("assign-resource").state, world.state) == ("CONFIRMED", "PARTIALLY_COMPLETED")


def by_hand(*types: str) -> Policy:
    def rows(document: dict[str, Any]) -> None:
        for name in types:
            document["task_types"][name]["reversibility"] = "MANUAL"

    return changed_telecom(rows)


def test_what_a_delivery_keeps_is_no_question_for_a_person() -> None:
    """The device is with the customer: its reservation stays by the policy, whoever would have to judge it else."""
    world = World(by_hand("reserve-inventory")).accept().decompose().run_to(*UP_TO_SHIPMENT)
    request = world.judge(world.cancel())
    seen = {impact["type"]: impact["consequence"] for impact in (request.assessment or {})["taskImpacts"]}
    assert (seen["ship-device"], seen["reserve-inventory"]) == ("RETAIN", "RETAIN")
    assert (request.assessment or {})["feasibility"] == "PARTIALLY_CANCELLABLE"


@pytest.mark.parametrize("resource", ["COMPENSATE", "MANUAL"])
def test_an_undoing_whose_partner_a_person_keeps_stays_whatever_was_said_of_it(resource: str) -> None:
    """release-resource comes after deactivate-service: without it, it never comes."""

    def rows(document: dict[str, Any]) -> None:
        reversible(document, "MANUAL")
        del document["task_types"]["activate-service"]["keeps"]
        document["task_types"]["assign-resource"]["reversibility"] = "MANUAL"

    world = World(changed_telecom(rows)).accept().decompose()
    world.run_to(*UP_TO_SHIPMENT, "perform-visit", "activate-service")
    request = world.judge(world.cancel())
    said = {str(world.task("activate-service").task_id): "RETAIN"}
    world.plan(world.approve(request, said | {str(world.task("assign-resource").task_id): resource}))
    world.run_flow()
    assert (world.effect("assign-resource").state, world.state) == ("CONFIRMED", "PARTIALLY_COMPLETED")


def test_what_a_person_undoes_by_hand_comes_after_what_the_policy_puts_before_it() -> None:
    """The stock is given up once the customer has the money back; nothing else in the plan says so."""

    def rows(document: dict[str, Any]) -> None:
        document["task_types"]["reserve-inventory"]["reversibility"] = "MANUAL"
        document["task_types"]["release-inventory"]["undo_after"] = ["cancel-appointment"]

    world = World(changed_telecom(rows)).accept().decompose().run_to(*UP_TO_SHIPMENT[:3])
    request = world.judge(world.cancel())
    world.plan(world.approve(request, {str(world.task("reserve-inventory").task_id): "MANUAL"}))
    assert world.undoings()["release-inventory"] == "PLANNED"
    assert [case for case in world.the_order.cases.values() if case.blocking] == []
    world.run_to("cancel-appointment")
    assert world.open_case().context == "COMPENSATION"


def test_whoever_undoes_by_hand_has_no_call_to_repeat() -> None:
    world = World().accept(an_order(an_item(offering="legacy-contract"))).decompose().run_to("legacy-contract-note")
    request = world.judge(world.cancel())
    world.plan(world.approve(request, {str(world.task("legacy-contract-note").task_id): "MANUAL"}))
    with pytest.raises(RepairNotPossible):
        world.retry()


def test_asking_for_a_review_does_not_open_what_the_policy_blocks() -> None:
    world = World().accept(an_order(an_item(offering="mobile-port-in"))).decompose()
    world.run_to("ship-device", "port-number")
    request = world.judge(world.cancel(force_manual_review=True))
    assert (request.status, request.outcome) == ("REJECTED", "NOT_CANCELLABLE")


def test_an_asset_whose_service_was_undone_ends_although_its_device_stays() -> None:
    world = World(changed_telecom(reversible)).accept(an_order(an_item(offering="mobile-sim"), an_item("2", "router")))
    world.decompose().run_to("assign-number", "ship-device", "activate-service", "start-billing")
    world.plan(world.approve(world.judge(world.cancel())))
    world.run_flow()
    assert (world.state, [asset.state for asset in world.the_order.assets.values()]) == (
        "PARTIALLY_COMPLETED",
        ["TERMINATED"],
    )


# -- proposals ------------------------------------------------------------------------------------------------


def test_each_item_has_its_own_proposal_even_where_there_is_no_asset_to_tell_them_apart() -> None:
    world = World().accept(an_order(an_item(offering="mobile-sim"), an_item("2", "mobile-sim"))).decompose()
    world.run_to("assign-number", "ship-device")
    request = world.judge(world.cancel())
    world.plan(world.approve(request))
    world.run_flow()
    proposed = world.request(request.request_id).proposals
    assert [(p["orderType"], p["items"][0]["itemId"]) for p in proposed] == [("RETURN", "1"), ("RETURN", "2")]


def an_asset(**changed: Any) -> Asset:
    asset = Asset(AssetId(uuid.UUID(int=7)), "c-9", "fiber-500", {"bandwidth": "100M"}, "ACTIVE")
    return replace(asset, **changed)


def on_asset(world: World, action: str, **changed: Any) -> World:
    """An order about an asset that is there at the door, and as `changed` from then on."""
    asset = an_asset()
    command = an_order(an_item(action=action, target_asset=asset.asset_id))
    world.do(command, AGENT, Surroundings({asset.asset_id: asset}))
    world.order = replace(world.the_order, assets={asset.asset_id: an_asset(**changed)})
    return world


# -- what changed since the door ------------------------------------------------------------------------------


def without_plan(world: World) -> None:
    """A newer policy, which sells the offering but adds it no more."""
    offering = world.policy.offerings["fiber-500"]
    left = replace(offering, plans={name: plan for name, plan in offering.plans.items() if name != "ADD"})
    world.policy = replace(world.policy, offerings={**world.policy.offerings, "fiber-500": left})


def without_offering(world: World) -> None:
    left = {name: row for name, row in world.policy.offerings.items() if name != "fiber-500"}
    world.policy = replace(world.policy, offerings=left)


def lose_asset(world: World) -> None:
    world.order = replace(world.the_order, assets={key: replace(a, state="SUSPENDED") for key, a in assets_of(world)})


def assets_of(world: World) -> list[tuple[AssetId, Asset]]:
    return list(world.the_order.assets.items())


@pytest.mark.parametrize("change", [without_plan, without_offering])
def test_what_is_no_longer_sold_when_the_order_is_validated_is_rejected(change: Callable[[World], None]) -> None:
    """T02."""
    world = World().accept()
    change(world)
    assert world.do(ask.ValidateOrder(world.order_id, world.the_order.head.run)).body["verdict"] == "rejected"
    assert (world.state, world.calls) == ("REJECTED", [])


def test_an_order_is_not_rejected_under_the_hands_of_its_cancellation() -> None:
    world = World().accept()
    request = world.cancel()
    without_plan(world)
    world.decompose()
    assert world.the_order.plan is None
    world.judge(request)
    assert (world.state, [case.status for case in world.the_order.cases.values()]) == ("CANCELLED", ["CANCELLED"])


@pytest.mark.parametrize("change", [without_plan, without_offering, lose_asset])
def test_what_cannot_be_carried_out_any_more_is_a_case_and_never_an_order_without_work(
    change: Callable[[World], None],
) -> None:
    """T03: blocking, about the order as a whole; once mended, a new run of the flow decides anew."""
    world = on_asset(World(), "ADD") if change is not lose_asset else on_asset(World(), "MODIFY")
    policy, assets = world.policy, world.the_order.assets
    world.do(ask.ValidateOrder(world.order_id, world.the_order.head.run))
    change(world)
    old = world.the_order.head.run
    for _ in range(2):  # a job delivered twice makes no second case
        assert world.do(ask.DecomposeOrder(world.order_id, old)).body["verdict"] == "stand_down"
    case = world.open_case()
    assert (case.context, case.category, case.blocking, case.task_id) == ("FULFILLMENT", "DATA", True, None)
    assert (world.state, world.the_order.head.resume_state) == ("FALLOUT", "VALIDATED")
    world.policy = policy
    world.order = replace(world.the_order, assets=assets)
    world.retry()
    [_, start] = world.sent("order-accepted")
    run = world.the_order.head.run
    assert (start.ttl, start.variables["run"], run != old) == (3600, str(run), True)
    assert world.do(ask.DecomposeOrder(world.order_id, old)).body["verdict"] == "stand_down"
    world.decompose().run_flow()
    assert world.state == "COMPLETED"


def test_an_order_that_could_not_start_can_still_be_cancelled() -> None:
    world = World().accept()
    world.do(ask.ValidateOrder(world.order_id, world.the_order.head.run))
    without_plan(world)
    world.do(ask.DecomposeOrder(world.order_id, world.the_order.head.run))
    request = world.cancel()
    with pytest.raises(ChangeActive):
        world.retry()
    world.judge(request)
    assert (world.state, world.the_order.cases[next(iter(world.the_order.cases))].resolution) == (
        "CANCELLED",
        "CAUSE_VANISHED",
    )


def test_bringing_back_what_was_disconnected_aims_at_no_asset() -> None:
    world = on_asset(World(), "DISCONNECT").decompose().run_flow()
    [proposal] = world.cancel().proposals
    [item] = proposal["items"]
    assert (item["action"], item["targetAssetId"], item["configuration"]) == ("ADD", None, {"bandwidth": "100M"})


def test_where_no_order_can_be_proposed_a_person_looks_and_the_ended_order_stays_as_it_is() -> None:
    world = World().accept(an_order(an_item(offering="mobile-sim", action="RETURN"))).decompose().run_flow()
    head = world.the_order.head
    request = world.cancel()
    assert (request.outcome, request.proposals, world.the_order.head) == ("NEW_ORDER_REQUIRED", (), head)
    case = world.open_case()
    assert (case.context, case.blocking, case.request_id) == ("COMPENSATION", False, request.request_id)
    world.cancel()
    assert len(world.the_order.cases) == 1


# -- charges --------------------------------------------------------------------------------------------------


def test_what_an_item_has_paid_for_the_order_does_not_pay_again() -> None:
    world = two_items("mobile-sim").run_to(*FIRST, "create-appointment").wait(timedelta(days=10, hours=9))
    smaller = cancel_item(world, "1")
    world.do(ask.AnswerCharge(world.order_id, smaller.request_id, True), AGENT)
    world.plan(smaller)
    world.run_flow(only({"cancel-appointment": accepted}), only={"cancel-appointment"})
    request = world.judge(world.cancel())
    assert (request.status, request.charge) == ("COMPENSATING", None)


def test_a_charge_for_what_turned_out_not_to_have_happened_is_dropped() -> None:
    world = World().accept().decompose().run_to(*FIRST).wait(timedelta(days=10, hours=9))
    world.run_flow(only({"create-appointment": accepted}), only={"create-appointment"})
    request = past_grace(world)
    assert request.status == "AWAITING_CHARGE_DECISION"
    world.report(world.calls_of("create-appointment")[0], NO, source="CALLBACK")
    world.do(ask.AnswerCharge(world.order_id, request.request_id, True), AGENT)
    request = world.request(request.request_id)
    assert (request.status, request.charge, (request.assessment or {})["estimatedCost"]["amountMinor"]) == (
        "APPROVED",
        None,
        0,
    )


def test_the_time_to_accept_a_charge_runs_from_its_offer_and_ends_with_the_point_of_no_return() -> None:
    """What is charged was fixed when the cancellation was asked for, however long the review took."""

    def early(document: dict[str, Any]) -> None:
        document["task_types"]["create-appointment"]["soft_point_of_no_return"]["by"] = "P7D"

    world = World(changed_telecom(early)).accept().decompose().run_to(*FIRST, "create-appointment")
    world.wait(timedelta(days=5))
    request = world.judge(world.cancel(force_manual_review=True))
    world.wait(timedelta(days=3))
    request = world.approve(request)
    assert (request.status, (request.charge or {})["respondBy"]) == (
        "AWAITING_CHARGE_DECISION",
        format_time(world.now + timedelta(days=2)),
    )
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    world.wait(timedelta(days=2))  # a day before the visit: two days to answer would be too long
    request = world.judge(world.cancel())
    hard = world.the_order.plan.types["create-appointment"].hard_point_of_no_return  # type: ignore[union-attr]
    assert hard is not None
    assert (request.charge or {})["respondBy"] == format_time(VISIT - hard.by)


# -- points of no return -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "feasibility"), [(0, "FULLY_CANCELLABLE"), (2, "PARTIALLY_CANCELLABLE")])
def test_a_dated_point_on_items_is_reached_with_the_earliest_of_the_tasks_own(days: int, feasibility: str) -> None:
    def dated(document: dict[str, Any]) -> None:
        row = document["task_types"]["create-appointment"]
        row["hard_point_of_no_return"] = {"field": "/items/*/configuration/deliverBy", "by": "P1D"}
        del row["soft_point_of_no_return"]

    def by(item_id: str, day: str) -> ask.OrderItem:
        return an_item(item_id, content={"configuration": {"deliverBy": f"2026-{day}T00:00:00Z"}})

    world = World(changed_telecom(dated)).accept(an_order(by("1", "12-24"), by("2", "11-23"))).decompose()
    request = world.run_to(*FIRST, "create-appointment").wait(timedelta(days=days)).judge(world.cancel())
    assert (request.assessment or {})["feasibility"] == feasibility


def test_a_cut_off_is_an_instant_whatever_the_clocks_on_the_wall_do_in_between() -> None:
    """EC34: the visit is at nine in summer time, the day before it still was winter: the day has its 24 hours."""
    visit = {"start": "2027-03-28T09:00:00+02:00", "end": "2027-03-28T12:00:00+02:00", "timeZone": "Europe/Berlin"}
    point = telecom().task_types["create-appointment"].soft_point_of_no_return
    assert point is not None
    moment = moment_of(point, {"appointment": visit})
    assert moment == datetime(2027, 3, 28, 7, 0, tzinfo=UTC) - point.by
    assert moment_of(point, {"appointment": {"start": "2027-03-28T09:00:00"}}) is None
    assert moment_of(point, {}) is None


def test_a_task_is_sent_what_the_order_says_and_no_empty_places() -> None:
    def asking(document: dict[str, Any]) -> None:
        document["task_types"]["reserve-inventory"]["inputs"] = [
            "/externalId",
            "/orderType",
            "/contact/nickname/short",
            "/items/*/configuration/deviceModel",
            "/items/*/configuration/deliverBy",
        ]

    order = replace(an_order(an_item(offering="router")), external_id="CRM-1")
    world = World(changed_telecom(asking)).accept(order).decompose()
    assert world.claim(world.release()[0])["body"]["input"]["order"] == {
        "externalId": "CRM-1",
        "orderType": "STANDARD",
        "items": [{"itemId": "1", "configuration": {"deviceModel": "R7"}}],
    }


# -- items that belong together -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "rule", "expected"),
    [
        ("1", "BLOCK", {"1", "2", "3"}),
        ("2", "PULL_PARENT", {"1", "2", "3"}),
        ("2", "BLOCK", None),
    ],
)
def test_a_parent_takes_its_children_and_a_mandatory_child_its_parent_or_nothing(
    chosen: str, rule: str, expected: set[str] | None
) -> None:
    """EC16; the preview is the same assessment and says so."""

    def ruled(document: dict[str, Any]) -> None:
        document["cancellation"]["closure"]["mandatory_child"] = rule

    children = (an_item("2", parent="1"), an_item("3", "router", parent="1"))
    world = World(changed_telecom(ruled)).accept(an_order(an_item(offering="home-bundle"), *children)).decompose()
    request = cancel_item(world, chosen)
    found = request.assessment or {}
    if expected is None:
        assert (request.outcome, [b["code"] for b in found["blockers"]]) == ("NOT_CANCELLABLE", ["MANDATORY_CHILD"])
    else:
        assert {item_id for item_id, state in states(world).items() if state == "CANCELLED"} == expected
        assert {rule["ruleId"] for rule in found["trace"]} & {"closure.children", "closure.mandatory_child"}


@pytest.mark.parametrize(
    ("rule", "delivered", "outcome"), [("INCLUDE", False, "CANCELLED"), ("BLOCK", False, None), ("INCLUDE", True, None)]
)
def test_nothing_is_left_behind_that_relies_on_what_is_cancelled(
    rule: str, delivered: bool, outcome: str | None
) -> None:
    """EC17: it goes too, or stands in the way; also where it has been delivered already."""

    def ruled(document: dict[str, Any]) -> None:
        document["cancellation"]["closure"]["relies_on"] = rule
        reversible(document)

    items = (an_item(), an_item("2", "static-ip", relies_on=("1",)), an_item("3", "mobile-sim"))
    world = World(changed_telecom(ruled)).accept(an_order(*items)).decompose()
    if delivered:
        world.run_to(*UP_TO_SHIPMENT, "perform-visit", "activate-service", "assign-number")
        billing = [h for h in world.handed if world.task_by_id(h["task_id"]).task_type == "start-billing"]
        [own] = [h for h in billing if world.task_by_id(h["task_id"]).item_ids == ("2",)]
        world.report(world.claim(own), YES)
        assert states(world)["2"] == "COMPLETED"
    request = cancel_item(world, "1")
    if outcome:
        world.run_flow()
        assert states(world) == {"1": outcome, "2": outcome, "3": "COMPLETED"}
    else:
        assert "RELIED_ON" in {blocker["code"] for blocker in (request.assessment or {})["blockers"]}


@pytest.mark.parametrize(
    ("wish", "breach"),
    [
        ({"scope": "ITEMS", "item_ids": ("77",)}, ItemUnknown),
        ({"scope": "ITEMS", "item_ids": ("1", "77")}, ItemUnknown),
        ({"scope": "ITEMS", "item_ids": ("1", "1")}, ScopeInvalid),
        ({"scope": "ORDER", "item_ids": ("1",)}, ScopeInvalid),
    ],
)
def test_items_that_are_not_the_orders_or_named_twice_are_refused(
    wish: dict[str, Any], breach: Callable[..., Exception]
) -> None:
    """EC22."""
    world = two_items()
    before = world.the_order
    with pytest.raises(breach):  # type: ignore[call-overload]
        world.cancel(**wish)
    assert world.the_order is before


def test_an_undo_after_that_these_items_together_contradict_gives_way_and_nothing_is_left_out() -> None:
    """Each plan agrees with `undo_after`; two items that share a step do not. The undoings waited for each other, were
    left out of the plan, and what was to be cancelled fully ended with everything standing. Takes `_untangle` out to
    see it fail."""

    def business(document: dict[str, Any]) -> None:
        types, offerings = document["task_types"], document["offerings"]
        types["free-number"] = types["release-number"] | {"undo_after": ["release-inventory"]}
        types["light-up"] = types["assign-number"] | {"compensation": "free-number", "inputs": []}
        book = {"step": "book", "type": "create-appointment", "per": "ORDER"}
        for name in ("mobile-sim", "mobile-port-in", "static-ip"):
            for action in ("ADD", "DISCONNECT"):
                offerings[name]["plans"][action] = []
        offerings["mobile-sim"]["plans"] = {"ADD": [book, {"step": "light", "type": "light-up", "after": ["book"]}]}
        stock = {"step": "stock", "type": "reserve-inventory"}
        offerings["mobile-port-in"]["plans"] = {"ADD": [stock, book | {"after": ["stock"]}]}

    items = (an_item("1", "mobile-sim"), an_item("2", "mobile-port-in", relies_on=("1",)))
    world = World(changed_telecom(business)).accept(an_order(*items)).decompose()
    world.run_to("reserve-inventory", "create-appointment").run_flow(accepted)
    request = past_grace(world)
    world.report({"effect_id": str(world.effect("light-up").effect_id)}, YES, source="CALLBACK")
    world.run_flow()
    assert (world.request(request.request_id).status, world.state) == ("COMPLETED", "CANCELLED")
    undone = [call["body"]["taskType"] for call in world.calls][-3:]
    assert undone == ["free-number", "cancel-appointment", "release-inventory"]  # the plan's reverse


def test_an_approval_says_nothing_of_work_that_has_come_to_it_since() -> None:
    """Two items share what a person must judge; the second cancellation takes it over once the first one is approved.
    It stood, retained by nobody's word. Takes the dispositions out of `_is_agreed` to see it fail."""

    def by_hand(document: dict[str, Any]) -> None:
        types, plans = document["task_types"], document["offerings"]["mobile-sim"]["plans"]
        types["assign-number"]["reversibility"] = types["create-appointment"]["reversibility"] = "MANUAL"
        book = {"step": "book", "type": "create-appointment", "per": "ORDER"}
        number = {"step": "number", "type": "assign-number", "after": ["book"]}
        plans["ADD"] = [book, number, {"step": "ship", "type": "ship-device", "after": ["number"]}]

    items = [an_item(item_id, "mobile-sim") for item_id in ("1", "2")]
    world = World(changed_telecom(by_hand)).accept(an_order(*items, an_item("3", "router"))).decompose()
    world.run_to("create-appointment", "assign-number")
    own = {t.item_ids: str(t.task_id) for t in world.the_order.tasks.values() if t.task_type == "assign-number"}
    first, second = cancel_item(world, "1"), cancel_item(world, "2")
    world.approve(first, {own["1",]: "COMPENSATE"})
    request = world.approve(second, {own["2",]: "COMPENSATE"})
    assert request.status == "REQUIRES_APPROVAL"
    shared = str(world.task("create-appointment").task_id)
    impacts = (request.assessment or {})["taskImpacts"]
    assert {impact["taskId"] for impact in impacts if impact["consequence"] == "MANUAL"} == {shared, own["2",]}
    world.approve(request, {own["2",]: "COMPENSATE", shared: "COMPENSATE"})
    for one in (first, second) * 2:  # each finds that the other one has moved, and looks again
        world.judge(one)
    world.run_flow()
    assert (states(world)["1"], states(world)["2"]) == ("CANCELLED", "CANCELLED")


def test_a_wish_after_the_end_is_kept_beside_the_orders_row_and_not_in_it() -> None:
    """T10, EC46: the row is not even written; its audit goes on in a row of its own."""
    world = World().accept().decompose().run_flow()
    late = ask.RequestCancellation(world.order_id, RequestId(uuid.uuid4()), "ORDER", (), "CUSTOMER_CHANGED_MIND")
    rows = draft_rows(world.do(late, AGENT).draft, None)
    assert "customer_order" not in rows
    assert [len(rows[table]) for table in ("audit_head", "cancellation_request", "asset")] == [1, 1, 0]
