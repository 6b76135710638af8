"""What becomes of an order while another one, which it depends on, is being cancelled, and after (EC51)."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from domain import commands as ask
from domain.dependence import name_cause, weigh_cause
from domain.errors import ChangeActive, RepairNotPossible
from domain.order import Cause, Surroundings, Telling
from domain.values import OrderId, RequestId, Run
from tests.builders import AGENT, OPERATOR, World, changed_telecom, confirmed
from tests.properties.invariants import audit_tells_the_states, check_order

SOURCE, OTHER = OrderId(uuid.UUID(int=0x50)), OrderId(uuid.UUID(int=0x51))
REQUEST, SECOND = RequestId(uuid.UUID(int=0x52)), RequestId(uuid.UUID(int=0x53))


def follow(world: World, cause: Cause | None, request_id: RequestId = REQUEST) -> str:
    before = world.the_order
    command = ask.FollowCancellation(world.order_id, SOURCE, request_id)
    told = world.do(command, around=Surroundings(cause=cause)).body["verdict"]
    check_order(world.the_order, before)
    audit_tells_the_states(world.the_order, world.events)
    return str(told)


def told_of_holds(world: World) -> list[tuple[str, Any]]:
    return [(e.kind, e.data.get("holder")) for e in world.events if e.kind in {"ORDER_HELD", "ORDER_RELEASED"}]


@pytest.mark.parametrize(
    ("status", "grounds", "verdict"),
    [
        ("ACCEPTED_FOR_ASSESSMENT", (), "hold"),
        ("ASSESSING", ("ACTIVE",), "hold"),
        ("REQUIRES_APPROVAL", (), "hold"),
        ("AWAITING_CHARGE_DECISION", (), "hold"),
        ("APPROVED", (), "hold"),
        ("COMPENSATING", ("ACTIVE",), "hold"),
        ("REJECTED", (), "release"),
        ("WITHDRAWN", (), "release"),
        ("SUPERSEDED", ("ACTIVE",), "release"),  # the larger one has told by itself
        ("COMPLETED", (), "lost"),  # the order that it supplements is gone as a whole
        ("COMPLETED", ("TERMINATED",), "lost"),
        ("COMPLETED", ("ACTIVE", "TERMINATED"), "lost"),
        ("PARTIALLY_COMPLETED", (), "lost"),  # whether what stays is enough, a person says
        ("PARTIALLY_COMPLETED", ("ACTIVE",), "release"),  # what it is about is what stays
        (None, (), "release"),
    ],
)
def test_how_a_cancellation_stands_says_what_becomes_of_who_depends_on_it(
    status: str | None, grounds: tuple[str, ...], verdict: str
) -> None:
    assert weigh_cause(Cause(status, grounds) if status else None) == verdict


def begun() -> World:
    return World().accept().decompose().run_to("reserve-inventory")


def test_held_work_does_not_start_and_goes_on_once_when_the_cancellation_came_to_nothing() -> None:
    world = begun()
    for _ in range(2):  # told twice
        assert follow(world, Cause("ASSESSING")) == "hold"
    assert (world.state, world.the_order.head.resume_state) == ("ON_HOLD", "IN_PROGRESS")
    assert world.run_flow().called("assign-resource") == 0
    for _ in range(2):
        assert follow(world, Cause("WITHDRAWN")) == "release"
    assert world.state == "IN_PROGRESS"
    assert world.run_flow().state == "COMPLETED"
    assert world.called("assign-resource") == 1
    holder = name_cause(SOURCE, REQUEST)
    assert told_of_holds(world) == [("ORDER_HELD", holder), ("ORDER_RELEASED", holder)]


def test_what_is_planned_while_the_hold_stands_is_held_too() -> None:
    world = World().accept()
    follow(world, Cause("ASSESSING"))
    world.decompose()
    holder = name_cause(SOURCE, REQUEST)
    assert {frozenset({holder})} == set(world.the_order.holds.values())
    assert world.the_order.holds.keys() == world.the_order.tasks.keys()


def test_only_the_holder_takes_its_hold_away() -> None:
    world = begun()
    follow(world, Cause("ASSESSING"))
    follow(world, Cause("ASSESSING"), SECOND)
    with pytest.raises(ChangeActive):
        world.do(ask.ReleaseOrder(world.order_id), OPERATOR)
    follow(world, Cause("REJECTED"))
    assert world.state == "ON_HOLD"
    world.do(ask.HoldOrder(world.order_id), OPERATOR)
    follow(world, Cause("REJECTED"), SECOND)
    assert world.state == "ON_HOLD"
    world.do(ask.ReleaseOrder(world.order_id), OPERATOR)
    assert world.state == "IN_PROGRESS"


@pytest.mark.parametrize("heard", [("ASSESSING", "COMPLETED"), ("COMPLETED",), ("COMPLETED", "COMPLETED")])
def test_what_has_lost_its_ground_waits_for_a_persons_word(heard: tuple[str, ...]) -> None:
    """Also where the first message came only when all was over."""
    world = begun()
    for status in heard:
        follow(world, Cause(status))
    assert (world.state, world.the_order.head.resume_state) == ("FALLOUT", "IN_PROGRESS")
    [case] = world.the_order.cases.values()
    assert (case.category, case.blocking, case.context) == ("BUSINESS", True, "FULFILLMENT")
    assert str(SOURCE) in case.title
    assert world.run_flow().called("assign-resource") == 0
    world.retry()
    assert world.state == "IN_PROGRESS"
    follow(world, Cause("COMPLETED"))  # told once more, after the answer
    assert world.run_flow().state == "COMPLETED"
    assert len(world.the_order.cases) == 1
    assert told_of_holds(world)[-2:] == [("ORDER_HELD", str(case.case_id)), ("ORDER_RELEASED", str(case.case_id))]


def test_before_its_plan_it_is_let_go_and_planned() -> None:
    world = World().accept()
    follow(world, Cause("COMPLETED"))
    assert world.state == "FALLOUT"
    world.decompose()
    assert set(world.the_order.holds) == set(world.the_order.tasks)
    world.retry()
    assert world.run_flow().state == "COMPLETED"


def test_what_has_lost_its_ground_can_be_cancelled() -> None:
    world = begun()
    follow(world, Cause("COMPLETED"))
    world.judge(world.cancel())
    world.run_flow()
    assert world.state == "CANCELLED"
    [case] = world.the_order.cases.values()
    assert (case.status, case.resolution) == ("CANCELLED", "CAUSE_VANISHED")


def test_an_order_that_is_being_cancelled_itself_is_not_asked_about() -> None:
    """The case is a fact for its own cancellation, and in the way again if that comes to nothing."""
    world = begun()
    request = world.cancel()
    follow(world, Cause("COMPLETED"))
    assert world.state == "CANCELLATION_REQUESTED"
    with pytest.raises((ChangeActive, RepairNotPossible)):
        world.retry()
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    assert world.state == "FALLOUT"
    world.retry()
    assert world.run_flow().state == "COMPLETED"


def test_an_order_that_has_ended_stays_as_it_is() -> None:
    world = World().accept().decompose().run_flow()
    before = world.the_order
    assert follow(world, Cause("COMPLETED")) == "stand_down"
    assert world.the_order == before


# -- the order that is being cancelled ---------------------------------------------------------------------------


def a_source(rule: str = "HOLD") -> World:
    world = World(changed_telecom(lambda doc: doc["cancellation"]["closure"].update(dependent_order=rule))).accept()
    world.order = replace(world.the_order, dependents={OTHER: "SUPPLEMENTS"})
    return world


def told(world: World) -> list[Any]:
    return [message.variables["order_id"] for message in world.sent("dependence-changed")]


def test_a_cancellation_tells_its_dependents_when_it_begins_and_when_it_ends() -> None:
    world = a_source()
    request = world.cancel()
    assert told(world) == [str(OTHER)]
    world.begin(request)
    assert told(world) == [str(OTHER)]  # known already
    world.judge(request)
    assert world.state == "CANCELLED"
    assert told(world) == [str(OTHER)] * 2
    assert [event.data["orders"] for event in world.events if event.kind == "DEPENDENTS_HELD"] == [[str(OTHER)]]
    [shown] = (world.request(request.request_id).assessment or {})["dependentOrders"]
    assert shown["proposal"] == "HOLD"


def test_each_is_owed_its_telling_under_an_id_of_its_own() -> None:
    """What the message says, a row says too: it is owed for as long as the order has not followed."""
    world = a_source()
    drafts = [world.do(ask.RequestCancellation(world.order_id, REQUEST, "ORDER", (), "CUSTOMER_CHANGED_MIND"), AGENT)]
    drafts.append(world.do(ask.WithdrawCancellation(world.order_id, REQUEST), AGENT))
    tellings = [telling for decision in drafts for telling in decision.draft.tellings]
    assert [(one.order_id, one.source_id, one.request_id) for one in tellings] == [(OTHER, world.order_id, REQUEST)] * 2
    assert [str(one.run) for one in tellings] == [
        message.variables["run"] for message in world.sent("dependence-changed")
    ]
    assert tellings[0].run != tellings[1].run


@pytest.mark.parametrize("status", ["ASSESSING", "COMPLETED", "WITHDRAWN"])
def test_what_was_heard_is_owed_no_more(status: str) -> None:
    """Whatever follows from it, also where the order has ended: nobody says it again."""
    for world in (begun(), World().accept().decompose().run_flow()):
        owed = Run(uuid.uuid4())
        for left in (owed, None):
            around = Surroundings(cause=Cause(status, (), left))
            draft = world.do(ask.FollowCancellation(world.order_id, SOURCE, REQUEST), around=around).draft
            assert draft.heard == ([Telling(world.order_id, SOURCE, REQUEST, left)] if left else [])


def test_who_comes_to_depend_on_it_in_the_last_moment_is_told_of_the_end() -> None:
    world = a_source().decompose().run_to("reserve-inventory")
    world.order = replace(world.the_order, dependents={})
    request = world.judge(world.cancel())
    assert request.status == "COMPENSATING"
    [handed] = world.release(request.plan_id)
    call = world.claim(handed)
    world.order = replace(world.the_order, dependents={OTHER: "SUPPLEMENTS"})
    world.report(call, confirmed(call))
    assert (world.state, told(world)) == ("CANCELLED", [str(OTHER)])


def test_who_comes_to_depend_on_it_later_is_told_then() -> None:
    world = a_source()
    request = world.cancel()
    late = OrderId(uuid.UUID(int=0x54))
    world.order = replace(world.the_order, dependents={OTHER: "SUPPLEMENTS", late: "AMENDS"})
    world.begin(request)
    assert told(world) == [str(OTHER), str(late)]
    world.do(ask.WithdrawCancellation(world.order_id, request.request_id), AGENT)
    assert told(world)[2:] == [str(OTHER), str(late)]


@pytest.mark.parametrize("rule", ["PROPOSE", "BLOCK"])
def test_other_policies_tell_nobody(rule: str) -> None:
    world = a_source(rule)
    world.judge(world.cancel())
    assert told(world) == []


def test_a_part_that_nobody_depends_on_tells_nobody() -> None:
    world = a_source()
    world.judge(world.cancel(scope="ITEMS", item_ids=("1",)))
    assert told(world) == []
