"""Repairs: each of them once as it should go, and every way in which it must not."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from domain import commands as ask
from domain.errors import (
    Breach,
    CaseClosed,
    ChangeActive,
    EvidenceRequired,
    FourEyes,
    ReasonUnknown,
    RepairNotFound,
    RepairNotPossible,
    RequestClosed,
    Unprocessable,
    UseAmendment,
)
from domain.fallout import foresee_repairs
from domain.order import Case, Draft
from domain.values import Actor, EffectId, Money, Run, system_actor
from tests.builders import OPERATOR, TENANT, World, accepted, an_item, an_order, only, refused, silent
from tests.domain.test_execution import called
from tests.stories import CONFIRMED, REFUSED, answers, approve, hear

CHIEF = Actor("carla", frozenset({"approver", "operator"}))
PROOF = {"kind": "TICKET", "reference": "INC-7", "note": "seen in the system"}
REASON = "CONFIRMED_WITH_SYSTEM_OWNER"

LINE = {"itemId": "1", "action": "ADD", "productOfferingId": "fiber-100"}
PRICE = {"amountMinor": 3999, "currency": "EUR"}
WISH = {"orderType": "SUPPLEMENTAL", "items": [LINE]}


def repair(world: World, action: str, actor: Actor = OPERATOR, **more: Any) -> Case:
    case_id = world.open_case().case_id
    world.do(ask.RepairCase(world.order_id, case_id, action, REASON, "because", **more), actor)
    return world.the_order.cases[case_id]


def decide(world: World, case: Case, *, approved: bool = True, actor: Actor = CHIEF) -> Case:
    number = world.the_order.cases[case.case_id].repairs[-1]["n"]
    world.do(ask.DecideRepair(world.order_id, case.case_id, number, approved, "agreed"), actor)
    return world.the_order.cases[case.case_id]


def agreed(world: World, action: str, **more: Any) -> Case:
    case = repair(world, action, evidence=PROOF, **more)
    assert (case.status, world.state) == ("REPAIR_SUBMITTED", "FALLOUT")
    return decide(world, case)


def last(case: Case) -> Mapping[str, Any]:
    return case.repairs[-1]


def possible(world: World) -> dict[str, str]:
    draft = Draft(
        world.the_order,
        actor=system_actor("test"),
        on_behalf_of=None,
        now=world.now,
        command_id=TENANT,
        policy=world.policy,
        policy_version=1,
    )
    return {found["action"]: found["sentence"] for found in foresee_repairs(draft, world.open_case())}


# -- cases to repair --------------------------------------------------------------------------------------------


def a_refusal(task_type: str = "assign-resource") -> World:
    """The second task of the order is refused by its system: a business case."""
    return World().accept().decompose().run_flow(only({task_type: refused}))


def an_unknown(task_type: str = "assign-resource") -> World:
    """Nobody can say what became of a task, until asking is given up."""
    world = World().accept().decompose().run_flow(only({task_type: silent}))
    world.verify(task_type, "UNREACHABLE")
    world.wait(world.policy.task_types[task_type].verify.give_up_after)
    assert world.verify(task_type, "UNREACHABLE")["verdict"] == "case"
    return world


def an_unanswered(task_type: str = "assign-resource") -> World:
    """Accepted, and then never heard of again."""
    world = World().accept().decompose().run_flow(only({task_type: accepted}))
    world.verify(task_type, "ACCEPTED")
    world.wait(world.policy.task_types[task_type].verify.give_up_after)
    assert world.verify(task_type, "ACCEPTED")["verdict"] == "case"
    return world


def a_refused_undoing() -> World:
    world = World().accept().decompose().run_to("reserve-inventory")
    world.judge(world.cancel())
    return world.run_flow(answers(release_inventory=REFUSED))


def an_undoing_by_hand() -> World:
    world = World().accept(an_order(an_item(offering="legacy-contract"))).decompose().run_to("legacy-contract-note")
    request = world.judge(world.cancel())
    approve(world, request, **{str(world.task("legacy-contract-note").task_id): "MANUAL"})
    world.plan(request)
    return world


def a_late_effect() -> World:
    """Forced by a person, and then it happened after all."""
    world = an_unknown()
    agreed(world, "FORCE_COMPLETE")
    hear(world, "assign-resource", CONFIRMED, nth=0)
    return world


# -- as they should go --------------------------------------------------------------------------------------------


def test_retry_is_a_new_effect_after_a_refusal() -> None:
    world = a_refusal()
    assert (world.state, world.the_order.head.resume_state) == ("FALLOUT", "IN_PROGRESS")
    case = repair(world, "RETRY")
    assert (case.status, case.resolution, last(case)["status"]) == ("RESOLVED", "RETRY", "DONE")
    world.run_flow()
    assert (world.state, world.called("assign-resource")) == ("COMPLETED", 2)
    assert len({call["effect_id"] for call in world.calls_of("assign-resource")}) == 2


def test_asking_again_does_nothing_twice() -> None:
    world = an_unknown()
    assert repair(world, "VERIFY_OUTCOME").resolution == "VERIFY_OUTCOME"
    assert world.state == "IN_PROGRESS"
    world.release()  # the walker hands the task out again; its job asks
    assert world.verify("assign-resource", "CONFIRMED")["verdict"] == "confirmed"
    world.run_flow()
    assert (world.state, world.called("assign-resource")) == ("COMPLETED", 1)


@pytest.mark.parametrize("begin", [an_unknown, an_unanswered])
def test_what_took_effect_is_marked_and_the_order_goes_on(begin: Any) -> None:
    world = begin()
    case = agreed(world, "MARK_TOOK_EFFECT", input={"externalReference": "port-9", "output": {"port": 9}})
    effect = world.effect("assign-resource")
    assert (effect.state, effect.basis, effect.reason) == ("CONFIRMED", "MANUAL", "TICKET: INC-7")
    assert (effect.external_reference, effect.output) == ("port-9", {"port": 9})
    assert (last(case)["by"], last(case)["decidedBy"], case.resolution) == ("olga", "carla", "MARK_TOOK_EFFECT")
    world.run_flow()
    assert (world.state, world.called("assign-resource")) == ("COMPLETED", 1)


@pytest.mark.parametrize("begin", [an_unknown, an_unanswered])
def test_what_took_no_effect_is_done_anew_under_a_new_id(begin: Any) -> None:
    world = begin()
    agreed(world, "MARK_NO_EFFECT")
    assert (world.effect("assign-resource").state, world.effect("assign-resource").basis) == ("NO_EFFECT", "MANUAL")
    world.run_flow()
    assert (world.state, world.called("assign-resource")) == ("COMPLETED", 2)
    assert len({call["effect_id"] for call in world.calls_of("assign-resource")}) == 2


@pytest.mark.parametrize("begin", [a_refusal, an_unknown, an_unanswered])
def test_forced_work_has_a_row_of_its_own(begin: Any) -> None:
    world = begin()
    agreed(world, "FORCE_COMPLETE")
    own, by_hand = (e for e in world.the_order.effects.values() if e.task_type == "assign-resource")
    assert (own.state, by_hand.state, by_hand.basis, by_hand.attempt) == ("NO_EFFECT", "CONFIRMED", "MANUAL", 0)
    world.run_flow()
    assert (world.state, world.called("assign-resource")) == ("COMPLETED", 1)


def test_a_forced_undoing_counts_as_the_one_reversal() -> None:
    world = a_refused_undoing()
    agreed(world, "FORCE_COMPLETE")
    original, by_hand = world.effect("reserve-inventory"), world.effect("release-inventory")
    assert (by_hand.basis, by_hand.reverses, original.state) == ("MANUAL", original.effect_id, "REVERSED")
    assert original.reversed_by == by_hand.effect_id
    world.run_flow()
    assert (world.state, world.called("release-inventory")) == ("CANCELLED", 1)


def test_a_waived_undoing_leaves_what_stands_with_its_amount() -> None:
    world = a_refused_undoing()
    case = agreed(world, "WAIVE", amount=Money(1250, "EUR"))
    assert (world.effect("reserve-inventory").state, world.task("release-inventory").state) == ("WAIVED", "WAIVED")
    assert last(case)["amount"] == {"amountMinor": 1250, "currency": "EUR"}
    world.run_flow()
    assert (world.state, world.task("reserve-inventory").state) == ("CANCELLED", "COMPLETED")


@pytest.mark.parametrize(("action", "stands"), [("FORCE_COMPLETE", "REVERSED"), ("WAIVE", "WAIVED")])
def test_what_a_person_undoes_is_ended_by_that_person(action: str, stands: str) -> None:
    world = an_undoing_by_hand()
    agreed(world, action)
    states = {e.state for e in world.the_order.effects.values() if e.is_original}
    assert (world.state, states) == ("CANCELLED", {stands})


def test_a_replaced_input_is_sent_with_the_next_effect() -> None:
    world = a_refusal("activate-service")
    repair(world, "REPLACE_INPUT", input={"upstream": {"port": {"externalReference": "port-77"}}, "site": "B"})
    world.run_flow()
    first, second = (call["body"]["input"] for call in world.calls_of("activate-service"))
    assert (second["site"], second["upstream"]["port"]) == ("B", {"externalReference": "port-77"})
    assert first["order"] == second["order"]
    assert ("site" in first, world.state) == (False, "COMPLETED")


def test_a_given_up_item_is_undone_and_ends_failed() -> None:
    world = a_refusal("assign-resource")
    case = repair(world, "FAIL_ITEM")
    assert (case.status, last(case)["status"]) == ("REPAIR_SUBMITTED", "RUNNING")
    request = next(iter(world.the_order.requests.values()))
    assert (request.scope, request.item_ids, request.requested_by) == ("ITEMS", ("1",), "olga")
    world.judge(request)
    world.run_flow()
    assert world.effect("reserve-inventory").state == "REVERSED"
    assert (world.the_order.items["1"].state, world.state) == ("FAILED", "FAILED")
    case = world.the_order.cases[case.case_id]
    assert (case.status, case.resolution, last(case)["status"]) == ("RESOLVED", "FAIL_ITEM", "DONE")


def test_beside_a_given_up_item_the_others_are_delivered() -> None:
    world = World().accept(an_order(an_item("1"), an_item("2", "mobile-sim"))).decompose()
    world.run_flow(lambda call: refused(call) if call["body"]["taskType"] == "assign-number" else answers()(call))
    repair(world, "FAIL_ITEM")
    world.judge(next(iter(world.the_order.requests.values())))
    world.run_flow()
    states = {item_id: item.state for item_id, item in world.the_order.items.items()}
    assert (states, world.state) == ({"1": "COMPLETED", "2": "FAILED"}, "PARTIALLY_COMPLETED")


def test_an_item_that_may_not_be_given_up_is_a_case_again() -> None:
    world = World().accept(an_order(an_item("b", "home-bundle"), an_item("1", parent="b"))).decompose()
    world.run_flow(only({"assign-resource": refused}))
    case = repair(world, "FAIL_ITEM")
    request = world.judge(next(iter(world.the_order.requests.values())))
    assert request.status == "REJECTED"
    case = world.the_order.cases[case.case_id]
    assert (case.status, case.blocking, last(case)["status"], world.state) == ("OPEN", True, "REJECTED", "FALLOUT")
    repair(world, "RETRY")
    assert world.run_flow().state == "COMPLETED"


# -- the second person ------------------------------------------------------------------------------------------


def test_a_refused_repair_gives_the_case_back() -> None:
    world = an_unknown()
    case = repair(world, "MARK_TOOK_EFFECT", evidence=PROOF)
    with pytest.raises(ChangeActive):
        repair(world, "RETRY")
    case = decide(world, case, approved=False)
    assert (case.status, last(case)["status"], world.state) == ("OPEN", "REJECTED", "FALLOUT")
    with pytest.raises(RequestClosed):
        decide(world, case)
    assert repair(world, "RETRY").resolution == "RETRY"


@pytest.mark.parametrize(
    ("asker", "for_whom", "second"),
    [(CHIEF, None, CHIEF), (OPERATOR, "carla", CHIEF)],
    ids=["who asked", "for whom it was asked"],
)
def test_the_second_person_is_another_one(asker: Actor, for_whom: str | None, second: Actor) -> None:
    world = an_unknown()
    command = ask.RepairCase(
        world.order_id, world.open_case().case_id, "FORCE_COMPLETE", REASON, "because", evidence=PROOF
    )
    world.do(command, asker, on_behalf_of=for_whom)
    case = world.open_case()
    with pytest.raises(FourEyes):
        decide(world, case, actor=second)
    assert decide(world, case, actor=Actor("dora", frozenset({"approver"}))).resolution == "FORCE_COMPLETE"


def test_a_repair_is_void_once_the_outcome_has_arrived() -> None:
    world = an_unknown()
    case = repair(world, "FORCE_COMPLETE", evidence=PROOF)
    hear(world, "assign-resource", CONFIRMED)
    case = world.the_order.cases[case.case_id]
    assert (case.status, case.resolution, last(case)["status"]) == ("RESOLVED", "OUTCOME_ARRIVED", "VOID")
    with pytest.raises(CaseClosed):
        decide(world, case)
    assert world.run_flow().state == "COMPLETED"
    assert [e.basis for e in world.the_order.effects.values() if e.task_type == "assign-resource"] == ["SYSTEM"]


def test_a_repair_that_does_not_fit_any_more_is_not_carried_out() -> None:
    world = an_unknown()
    case = repair(world, "MARK_TOOK_EFFECT", evidence=PROOF)
    hear(world, "assign-resource", REFUSED)  # known now, and not as was asked for
    assert (world.open_case().category, world.open_case().status) == ("BUSINESS", "REPAIR_SUBMITTED")
    with pytest.raises(RepairNotPossible):
        decide(world, case)
    assert decide(world, case, approved=False).status == "OPEN"


def test_an_unknown_repair_is_not_there() -> None:
    world = an_unknown()
    with pytest.raises(RepairNotFound):
        world.do(ask.DecideRepair(world.order_id, world.open_case().case_id, 7, approved=True), CHIEF)


# -- late outcomes (1-domain §5) ----------------------------------------------------------------------------------


def test_forced_work_that_happened_after_all_is_an_obligation() -> None:
    world = a_late_effect()
    case = world.open_case()
    assert (case.context, case.blocking, world.state) == ("LATE_EFFECT", False, "IN_PROGRESS")
    assert world.effect("assign-resource").basis == "MANUAL"
    assert possible(world).keys() == {"FORCE_COMPLETE", "WAIVE", "CONVERT_TO_ORDER"}


@pytest.mark.parametrize(("action", "stands"), [("FORCE_COMPLETE", "REVERSED"), ("WAIVE", "WAIVED")])
def test_an_obligation_is_met_by_a_person(action: str, stands: str) -> None:
    world = a_late_effect()
    case = decide(world, repair(world, action, evidence=PROOF))
    late = next(e for e in world.the_order.effects.values() if e.task_type == "assign-resource")
    assert (late.state, case.status, case.resolution) == (stands, "RESOLVED", action)
    assert world.run_flow().state == "COMPLETED"
    assert world.task("assign-resource").state == "COMPLETED"  # the work that counts is untouched


def test_a_forced_undoing_that_happened_after_all_is_reversed_twice_and_nobody_is_called() -> None:
    world = World().accept().decompose().run_to("reserve-inventory")
    world.judge(world.cancel())
    world.run_flow(answers(release_inventory={"state": "ACCEPTED"}))
    world.verify("release-inventory", "ACCEPTED")
    world.wait(world.policy.task_types["release-inventory"].verify.give_up_after)
    world.verify("release-inventory", "ACCEPTED")
    agreed(world, "FORCE_COMPLETE")
    world.run_flow()
    assert world.state == "CANCELLED"
    calls = len(world.calls)
    hear(world, "release-inventory", CONFIRMED, nth=0)
    world.run_flow()
    assert (world.open_case().title, len(world.calls)) == ("Reversed twice: release-inventory", calls)
    case = decide(world, repair(world, "WAIVE", evidence=PROOF))
    assert (case.status, world.effect("reserve-inventory").state) == ("RESOLVED", "REVERSED")


@pytest.mark.parametrize("begin", [a_refused_undoing, an_undoing_by_hand])
def test_what_could_not_be_undone_becomes_an_order_and_the_cancellation_ends_in_part(begin: Any) -> None:
    world = begin()
    calls = len(world.calls)
    case = repair(world, "CONVERT_TO_ORDER", input={**WISH, "items": [{**LINE, "price": PRICE}]})
    [new] = world.followed
    made = new.draft.head
    assert (case.status, case.resolution, last(case)["status"]) == ("RESOLVED", "CONVERT_TO_ORDER", "DONE")
    assert last(case)["createdOrderId"] == str(made.order_id) != str(world.order_id)
    assert (made.order_type, [item.action for item in new.draft.items.values()]) == ("SUPPLEMENTAL", ["ADD"])
    assert made.content["customer"] == world.the_order.head.content["customer"]
    [relation] = new.draft.relations
    assert (relation["type"], relation["targetOrderId"]) == ("SUPPLEMENTS", str(world.order_id))
    world.run_flow()
    original = next(e for e in world.the_order.effects.values() if str(e.effect_id) == last(case)["because"])
    undoing = next(t for t in world.the_order.tasks.values() if t.reverses == original.effect_id)
    assert (original.state, undoing.state) == ("CONFIRMED", "WAIVED")
    assert world.the_order.tasks[original.task_id].state == "COMPLETED"
    [request] = world.the_order.requests.values()
    assert (world.state, request.status) == ("PARTIALLY_COMPLETED", "PARTIALLY_COMPLETED")
    assert len(world.calls) == calls


def test_a_late_effect_is_followed_by_the_order_of_its_type() -> None:
    world = an_unknown("ship-device")
    agreed(world, "FORCE_COMPLETE")
    world.run_flow()
    hear(world, "ship-device", CONFIRMED, nth=0)
    head = world.the_order.head
    assert possible(world)["CONVERT_TO_ORDER"] == (
        "Makes a RETURN order (RETURN) that follows this one up; what stands stays, nothing is called."
    )
    case = repair(world, "CONVERT_TO_ORDER")
    [new] = world.followed
    assert (new.draft.head.order_type, new.draft.relations[0]["type"]) == ("RETURN", "ROLLS_BACK")
    assert (case.status, last(case)["createdOrderId"]) == ("RESOLVED", str(new.draft.head.order_id))
    late = world.the_order.effects[EffectId(uuid.UUID(last(case)["because"]))]
    assert (late.task_type, late.state) == ("ship-device", "CONFIRMED")
    assert replace(world.the_order.head, sequence=0, chain=b"") == replace(head, sequence=0, chain=b"")


# -- as they must not go --------------------------------------------------------------------------------------------

REFUSALS: list[tuple[Any, str, dict[str, Any], type[Breach]]] = [
    (an_unknown, "FORCE_COMPLETE", {}, EvidenceRequired),
    (an_unknown, "MARK_TOOK_EFFECT", {}, EvidenceRequired),
    (an_unknown, "MARK_NO_EFFECT", {}, EvidenceRequired),
    (a_refused_undoing, "WAIVE", {}, EvidenceRequired),
    (a_refusal, "MARK_TOOK_EFFECT", {"evidence": PROOF}, RepairNotPossible),
    (a_refusal, "MARK_NO_EFFECT", {"evidence": PROOF}, RepairNotPossible),
    (a_refusal, "VERIFY_OUTCOME", {}, RepairNotPossible),
    (a_refusal, "WAIVE", {"evidence": PROOF}, RepairNotPossible),
    (a_refusal, "CONVERT_TO_ORDER", {}, RepairNotPossible),
    (an_unknown, "CONVERT_TO_ORDER", {"input": WISH}, RepairNotPossible),
    (a_refused_undoing, "CONVERT_TO_ORDER", {}, Unprocessable),
    (a_refused_undoing, "CONVERT_TO_ORDER", {"input": {"orderType": "REPAIR", "items": []}}, Unprocessable),
    (a_refused_undoing, "CONVERT_TO_ORDER", {"input": {**WISH, "orderType": "STANDARD"}}, Unprocessable),
    (a_refused_undoing, "CONVERT_TO_ORDER", {"input": {**WISH, "customer": {"id": "other"}}}, Unprocessable),
    (a_refused_undoing, "CONVERT_TO_ORDER", {"input": {**WISH, "items": [{**LINE, "quantity": 0}]}}, Unprocessable),
    (a_refused_undoing, "CONVERT_TO_ORDER", {"input": {**WISH, "items": [{**LINE, "quantity": True}]}}, Unprocessable),
    (a_refused_undoing, "CONVERT_TO_ORDER", {"input": {**WISH, "items": [{**LINE, "price": 39.99}]}}, Unprocessable),
    (
        a_refused_undoing,
        "CONVERT_TO_ORDER",
        {"input": {**WISH, "items": [{**LINE, "targetAssetId": 7}]}},
        Unprocessable,
    ),
    (a_refusal, "REPLACE_INPUT", {}, Unprocessable),
    (a_refusal, "REPLACE_INPUT", {"input": {"installationAddress": {"city": "Bonn"}}}, UseAmendment),
    (a_refusal, "REPLACE_INPUT", {"input": {"order": {}}}, UseAmendment),
    (a_refusal, "REPLACE_INPUT", {"input": {"bandwidth": "1G"}}, UseAmendment),
    (a_refusal, "SHRUG", {}, Unprocessable),
    (an_unknown, "REPLACE_INPUT", {"input": {"site": "B"}}, RepairNotPossible),
    (an_undoing_by_hand, "RETRY", {}, RepairNotPossible),
    (a_refused_undoing, "FAIL_ITEM", {}, RepairNotPossible),
    (a_refused_undoing, "WAIVE", {"evidence": PROOF, "amount": Money(1, "USD")}, Unprocessable),
    (a_late_effect, "RETRY", {}, RepairNotPossible),
    (a_late_effect, "FAIL_ITEM", {}, RepairNotPossible),
]


@pytest.mark.parametrize(
    ("begin", "action", "more", "breach"), REFUSALS, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    begin: Any, action: str, more: dict[str, Any], breach: type[Breach]
) -> None:
    world = begin()
    before = world.the_order
    with pytest.raises(breach) as caught:
        repair(world, action, **more)
    assert (type(caught.value), world.the_order) == (breach, before)


def test_a_reason_is_one_of_the_policy() -> None:
    world = a_refusal()
    with pytest.raises(ReasonUnknown):
        world.do(ask.RepairCase(world.order_id, world.open_case().case_id, "RETRY", "BORED"), OPERATOR)


def test_held_work_is_not_tried_again() -> None:
    world = a_refusal()
    world.cancel()
    for action in ("RETRY", "REPLACE_INPUT"):
        with pytest.raises(ChangeActive):
            repair(world, action, input={"site": "B"})
    with pytest.raises(ChangeActive):  # another change of the same item is under way
        repair(world, "FAIL_ITEM")


def test_a_refused_attempt_is_told() -> None:
    world = a_refusal()
    case = world.open_case()
    world.do(ask.NoteRefusal(world.order_id, case.case_id, "EVIDENCE_REQUIRED", "WAIVE"), OPERATOR)
    told = world.events[-1]
    assert (told.kind, told.entity_id) == ("REPAIR_REFUSED", str(case.case_id))
    assert told.data == {"action": "WAIVE", "code": "EVIDENCE_REQUIRED"}
    assert world.open_case() == case


# -- what is said beforehand ----------------------------------------------------------------------------------------

FORESEEN: list[tuple[Any, set[str]]] = [
    (a_refusal, {"RETRY", "FORCE_COMPLETE", "REPLACE_INPUT", "FAIL_ITEM"}),
    (
        an_unknown,
        {"RETRY", "VERIFY_OUTCOME", "MARK_TOOK_EFFECT", "MARK_NO_EFFECT", "FORCE_COMPLETE", "FAIL_ITEM"},
    ),
    (a_refused_undoing, {"RETRY", "FORCE_COMPLETE", "WAIVE", "REPLACE_INPUT", "CONVERT_TO_ORDER"}),
    (an_undoing_by_hand, {"FORCE_COMPLETE", "WAIVE", "CONVERT_TO_ORDER"}),
    (a_late_effect, {"FORCE_COMPLETE", "WAIVE", "CONVERT_TO_ORDER"}),
]


@pytest.mark.parametrize(("begin", "actions"), FORESEEN, ids=lambda value: getattr(value, "__name__", ""))
def test_each_case_says_what_may_be_done_and_what_that_will_do(begin: Any, actions: set[str]) -> None:
    world = begin()
    found = possible(world)
    assert found.keys() == actions
    assert all(sentence.endswith(".") and "{" not in sentence for sentence in found.values())


def test_what_is_said_is_what_happens() -> None:
    assert possible(an_unknown())["RETRY"] == "Calls resource again for assign-resource, under the same effect id."
    assert possible(a_refusal())["FAIL_ITEM"].startswith("Gives up item 1:")


# -- the repair task of Tasklist ------------------------------------------------------------------------------------


def enter(world: World, action: str, person: Actor, **more: Any) -> Mapping[str, Any]:
    case = list(world.the_order.cases.values())[-1]
    command = ask.RecordRepair(
        world.order_id, case.case_id, world.the_order.head.run, case.wait_key, person.subject, action, "typed", **more
    )
    return world.do(command, person).body


def test_what_is_entered_in_tasklist_counts_by_the_same_rules() -> None:
    world = an_unknown()
    assert enter(world, "FORCE_COMPLETE", OPERATOR)["verdict"] == "again"  # without evidence
    assert world.events[-1].data == {"action": "FORCE_COMPLETE", "code": "EVIDENCE_REQUIRED"}
    assert enter(world, "FORCE_COMPLETE", OPERATOR, evidence=PROOF)["verdict"] == "again"
    assert world.open_case().status == "REPAIR_SUBMITTED"
    assert enter(world, "APPROVE", OPERATOR)["verdict"] == "again"  # no approver, and the one who asked
    assert world.events[-1].data == {"action": None, "code": "ROLE_REQUIRED"}
    assert enter(world, "APPROVE", CHIEF)["verdict"] == "decided"
    assert world.run_flow().state == "COMPLETED"


def test_a_word_that_is_no_action_is_not_told_on() -> None:
    world = a_refusal()
    assert enter(world, "drop table", OPERATOR)["verdict"] == "again"
    assert world.events[-1].data == {"action": None, "code": "NO_DECISION"}


def test_a_repair_that_waits_is_shown_to_its_second_person() -> None:
    world = an_unknown()
    told = enter(world, "MARK_TOOK_EFFECT", OPERATOR, evidence=PROOF)
    assert (told["verdict"], told["wait_key"]) == ("again", world.open_case().wait_key)
    assert "Waits for a second person: mark took effect" in told["exhibit"]
    assert "Waits for a second person" not in enter(world, "REJECT", CHIEF)["exhibit"]


def test_an_order_is_made_in_tasklist_too_and_what_stands_in_its_way_is_told() -> None:
    world = a_refused_undoing()
    told = enter(world, "CONVERT_TO_ORDER", OPERATOR, input=WISH, refusal="ASSET_BUSY")
    assert (told["verdict"], world.followed) == ("again", [])
    assert world.events[-1].data == {"action": "CONVERT_TO_ORDER", "code": "ASSET_BUSY"}
    assert enter(world, "CONVERT_TO_ORDER", OPERATOR, input=WISH)["verdict"] == "decided"
    [new] = world.followed
    assert last(list(world.the_order.cases.values())[-1])["createdOrderId"] == str(new.draft.head.order_id)


# -- cases that no flow shows --------------------------------------------------------------------------------------


def an_exhausted() -> World:
    """Called in vain as often as the policy wants; the flow stands at an incident."""
    world, handed, call = called()
    for _ in range(world.policy.task_types["reserve-inventory"].attempts - 1):
        world.report(call, {"state": "UNKNOWN"})
        assert world.verify("reserve-inventory", "MISSING")["verdict"] == "retry"
        call = world.claim(handed)
    world.report(call, {"state": "UNKNOWN"})
    world.wait(world.policy.task_types["reserve-inventory"].timeout)
    told = [world.verify("reserve-inventory", "MISSING")["verdict"] for _ in range(2)]
    assert told == ["unknown", "exhausted"]
    return world


def offers(world: World) -> list[str]:
    return [message.key for message in world.sent("case-opened")]


def offer(world: World, case: Case) -> Mapping[str, Any]:
    return world.do(ask.OfferCase(world.order_id, case.case_id)).body


@pytest.mark.parametrize("begin", [an_exhausted, an_undoing_by_hand, a_late_effect])
def test_what_no_flow_shows_is_offered_once_while_it_is_open(begin: Any) -> None:
    world = begin()
    case = world.open_case()
    assert offers(world) == [str(case.case_id)]
    [message] = world.sent("case-opened")
    assert message.variables == {
        "order_id": str(world.order_id),
        "case_id": str(case.case_id),
        "run": str(case.case_id),  # it is no flow of the order: nothing of that is restarted when it ends
    }
    shown = offer(world, case)
    assert (shown["verdict"], shown["wait_key"]) == ("open", case.wait_key)
    assert case.title in shown["exhibit"]
    if "RETRY" in possible(world):
        repair(world, "RETRY")
    else:
        decide(world, repair(world, "FORCE_COMPLETE", evidence=PROOF))
    assert (offer(world, case)["verdict"], len(offers(world))) == ("stand_down", 1)


@pytest.mark.parametrize("begin", [a_refusal, an_unknown, an_unanswered, a_refused_undoing])
def test_what_its_own_flow_shows_is_not_shown_twice(begin: Any) -> None:
    assert offers(begin()) == []


def test_a_flow_that_is_stuck_is_offered_and_an_incident_of_an_unknown_one_is_not() -> None:
    world = World().accept().decompose()
    world.do(ask.NoteIncident(world.order_id, "78", "offer-case of repair (JOB_NO_RETRIES)", Run(TENANT), False))
    assert offers(world) == []  # it may be the flow that shows cases, which would show its own for ever
    world.do(ask.NoteIncident(world.order_id, "77", "release-tasks of plan", world.the_order.head.run, True))
    assert len(offers(world)) == 1


def test_when_a_flow_is_started_anew_its_orders_cases_are_offered_again() -> None:
    world = an_exhausted()
    assert world.the_order.plan
    world.do(ask.RestartFlow(world.order_id, world.the_order.plan.plan_id, "ENGINE_LOST_DATA"))
    assert offers(world) == [str(world.open_case().case_id)] * 2
