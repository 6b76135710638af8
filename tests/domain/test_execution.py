"""Claim, outcome, verification: what a job is told, and what it may never do."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from domain import commands as ask
from domain.values import EffectId, Run
from tests.builders import AGENT, World, accepted, an_item, an_order, only

UNKNOWN = {"state": "UNKNOWN", "reason": "timed out"}


def called() -> tuple[World, dict[str, Any], Mapping[str, Any]]:
    """An order whose reservation has just been claimed."""
    world = World().accept().decompose()
    handed = next(h for h in world.release() if world.task_by_id(h["task_id"]).task_type == "reserve-inventory")
    return world, handed, world.claim(handed)


def verify(world: World, handed: Mapping[str, Any], finding: Any) -> Mapping[str, Any]:
    """One round of verification: ask the core, play the system's answer, tell the core."""
    task = world.task_by_id(handed["task_id"])
    told = world.do(ask.ClaimVerification(world.order_id, task.task_id, handed["release"], Run(task.task_id))).body
    if told["verdict"] != "ask":
        return told
    return world.do(
        ask.RecordOutcome(world.order_id, EffectId(_uuid(told["effect_id"])), finding, "VERIFICATION", told["attempt"])
    ).body


def _uuid(text: str) -> uuid.UUID:

    return uuid.UUID(text)


def test_nobody_is_called_without_an_intent_and_the_input_is_the_tasks_own() -> None:
    world, _, call = called()
    effect = world.effect("reserve-inventory")
    assert (effect.state, str(effect.effect_id), effect.attempt) == ("INTENDED", call["effect_id"], 1)
    assert call["body"]["input"]["order"] == {
        "items": [{"itemId": "1", "configuration": {"deviceModel": "R7"}, "quantity": 1}]
    }
    assert call["body"]["reverses"] is None


def test_a_second_holder_inside_the_lease_calls_nobody() -> None:
    world, handed, _ = called()
    told = world.claim(handed)
    assert told["verdict"] == "busy"
    assert told["wait"] == pytest.approx(15)


def test_after_the_lease_the_call_is_made_again_under_the_same_id() -> None:
    """EC11: the caller died around the call; the system tells the second call from a second wish by the id."""
    world, handed, call = called()
    world.wait(timedelta(seconds=16))
    again = world.claim(handed)
    assert (again["effect_id"], again["attempt"]) == (call["effect_id"], 2)
    world.report(again, {"state": "CONFIRMED", "external_reference": "r"})
    assert world.report(call, {"state": "CONFIRMED", "external_reference": "r"}) == {"verdict": "confirmed"}
    assert len([e for e in world.the_order.effects.values() if e.task_type == "reserve-inventory"]) == 1


def test_after_the_lease_of_a_held_task_the_outcome_is_asked_for_not_made() -> None:
    world, handed, _ = called()
    world.cancel()
    world.wait(timedelta(seconds=16))
    assert world.claim(handed)["verdict"] == "unknown"
    assert world.effect("reserve-inventory").state == "UNKNOWN"
    assert world.task("reserve-inventory").state == "OUTCOME_UNKNOWN"


def test_a_redelivered_job_hears_the_recorded_outcome() -> None:
    """EC12: the outcome is kept; completing the job failed, and the job comes again."""
    world, handed, call = called()
    world.report(call, {"state": "CONFIRMED", "external_reference": "r"})
    assert world.claim(handed) == {"verdict": "confirmed"}
    assert world.called("reserve-inventory") == 1


def test_the_technical_retry_comes_after_a_question_and_keeps_the_id() -> None:
    world, handed, call = called()
    told = world.report(call, UNKNOWN)
    assert told["verdict"] == "unknown"
    assert verify(world, handed, "MISSING") == {"verdict": "retry"}
    again = world.claim(handed)
    assert (again["verdict"], again["effect_id"], again["attempt"]) == ("call", call["effect_id"], 2)


def test_a_system_that_is_down_burns_no_attempts() -> None:
    world, handed, call = called()
    world.report(call, UNKNOWN)
    for _ in range(20):
        world.wait(timedelta(minutes=1))
        assert verify(world, handed, "UNREACHABLE")["verdict"] == "unknown"
    assert world.effect("reserve-inventory").attempt == 1
    assert verify(world, handed, "MISSING") == {"verdict": "retry"}


def test_the_last_attempt_takes_two_late_misses_to_count_as_nothing() -> None:
    """§3: a 404 counts only once the call cannot be on its way any more, and only twice."""
    world, handed, call = called()
    for _ in range(2):
        world.report(call, UNKNOWN)
        assert verify(world, handed, "MISSING") == {"verdict": "retry"}
        call = world.claim(handed)
    world.report(call, UNKNOWN)
    early = verify(world, handed, "MISSING")
    assert (early["verdict"], early["wait"]) == ("unknown", "PT10S")
    world.wait(timedelta(seconds=11))
    assert verify(world, handed, "MISSING")["verdict"] == "unknown"
    assert world.effect("reserve-inventory").state == "UNKNOWN"
    told = verify(world, handed, "MISSING")
    assert told["verdict"] == "exhausted"
    assert world.effect("reserve-inventory").state == "NO_EFFECT"
    case = world.open_case()
    assert (case.category, str(case.case_id), world.state) == ("TECHNICAL", told["case_id"], "FALLOUT")


def test_an_outcome_that_nobody_can_tell_becomes_a_case_in_the_end() -> None:
    world, handed, call = called()
    world.report(call, UNKNOWN)
    world.wait(timedelta(hours=1, seconds=1))
    told = verify(world, handed, "UNREACHABLE")
    assert (told["verdict"], world.open_case().category) == ("case", "UNKNOWN_OUTCOME")
    # The answer comes after all: the case ends by itself, and nothing is done twice.
    world.report(call, {"state": "CONFIRMED", "external_reference": "r"}, source="CALLBACK")
    assert not [case for case in world.the_order.cases.values() if case.is_open]
    assert world.state == "IN_PROGRESS"


def test_a_callback_before_the_answer_that_announces_it_is_kept() -> None:
    world, _, call = called()
    world.report(call, {"state": "CONFIRMED", "external_reference": "early"}, source="CALLBACK")
    assert world.report(call, {"state": "ACCEPTED"}) == {"verdict": "confirmed"}
    assert world.effect("reserve-inventory").external_reference == "early"
    assert world.task("reserve-inventory").state == "COMPLETED"


def test_a_hundred_callbacks_are_one_outcome() -> None:
    world, _, call = called()
    world.report(call, {"state": "ACCEPTED"})
    told = {"state": "CONFIRMED", "external_reference": "r"}
    for _ in range(100):
        world.report(call, told, source="CALLBACK")
    assert len([e for e in world.events if e.kind == "EFFECT_STATE_CHANGED" and e.after == "CONFIRMED"]) == 1
    assert len(world.sent("effect-outcome")) == 1


def test_a_contradiction_changes_nothing_and_is_on_record() -> None:
    world, _, call = called()
    world.report(call, {"state": "CONFIRMED", "external_reference": "r"})
    before = world.effect("reserve-inventory")
    world.report(call, {"state": "NO_EFFECT", "reason": "no"}, source="CALLBACK")
    assert world.effect("reserve-inventory") == before
    assert world.events[-1].kind == "OUTCOME_CONTRADICTED"


@pytest.mark.parametrize("first", ["ship-device", "stop-shipment"])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_parcel_that_arrived_and_was_stopped_is_a_contradiction(first: str, wanted: bool) -> None:
    """Whichever its system says first: what happened was not called off, and nobody must believe both. wanted: the
    cancellation has been taken back meanwhile, and the parcel may arrive"""
    world = World().accept(an_order(an_item(offering="router"))).decompose()
    world.run_flow(only({"ship-device": accepted}))
    request = world.judge(world.cancel())
    [stop] = [world.claim(handed) for handed in world.release(world.compensation().plan_id)]
    if wanted:
        world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    arrived = {"effect_id": str(world.effect("ship-device").effect_id)}
    told = [(arrived, "CALLBACK"), (stop, "CALL")]
    for call, source in told if first == "ship-device" else reversed(told):
        world.report(call, {"state": "CONFIRMED", "external_reference": "r"}, source=source)
    assert {world.effect(name).state for name in ("ship-device", "stop-shipment")} == {"CONFIRMED"}
    [found] = [e for e in world.events if e.kind == "OUTCOME_CONTRADICTED"]
    assert found.entity_id == str(world.effect(first).effect_id)
    source = "CALL" if first == "ship-device" else "CALLBACK"
    assert found.data == {"recorded": "CONFIRMED", "reported": "NO_EFFECT", "source": source}


def test_what_is_accepted_is_waited_for_and_then_asked_about() -> None:
    world, handed, call = called()
    told = world.report(call, {"state": "ACCEPTED"})
    assert (told["verdict"], told["wait"]) == ("accepted", "PT1H")
    assert world.effect("reserve-inventory").state == "INTENDED"
    world.wait(timedelta(hours=1))
    again = verify(world, handed, "ACCEPTED")
    assert (again["verdict"], again["wait"]) == ("accepted", "PT1M")
    world.wait(timedelta(hours=1))
    assert verify(world, handed, "ACCEPTED")["verdict"] == "case"


def test_an_older_release_stands_down() -> None:
    """EC13: a job of a flow that is gone comes back."""
    world, handed, _ = called()
    assert world.claim({**handed, "release": 0})["verdict"] == "stand_down"
    assert verify(world, {**handed, "release": 0}, "MISSING")["verdict"] == "stand_down"
