"""The tables of legal moves are sound: no dead ends, no way back from an end, and the draft obeys them."""

from __future__ import annotations

import pytest

from domain.machines import ENDED, INITIAL, MACHINES, IllegalMove, check_move
from tests.builders import World

# A confirmed effect may yet be reversed or waived, a completed task compensated, a completed plan reopened (T11):
# these are ends of their own chapter, not of the row.
REOPENABLE = {
    ("EFFECT", "CONFIRMED"),
    ("EFFECT", "NO_EFFECT"),
    ("TASK", "COMPLETED"),
    ("PLAN", "COMPLETED"),
    ("ITEM", "COMPLETED"),
}


@pytest.mark.parametrize("entity", MACHINES)
def test_every_state_is_named_once_and_reachable_and_can_end(entity: str) -> None:
    machine = MACHINES[entity]
    assert {state for successors in machine.values() for state in successors} <= machine.keys()
    reached = set(INITIAL[entity])
    frontier = list(reached)
    while frontier:
        for successor in machine[frontier.pop()]:
            if successor not in reached:
                reached.add(successor)
                frontier.append(successor)
    assert reached == set(machine)
    for state in machine:
        seen, frontier = {state}, [state]
        while frontier:
            for successor in machine[frontier.pop()] - seen:
                seen.add(successor)
                frontier.append(successor)
        assert seen & ENDED[entity], f"{entity} {state} can never end"


@pytest.mark.parametrize("entity", MACHINES)
def test_an_end_has_no_way_out(entity: str) -> None:
    for state in ENDED[entity]:
        if (entity, state) not in REOPENABLE:
            assert MACHINES[entity][state] == frozenset(), f"{entity} {state}"


def test_a_move_that_is_not_in_the_table_is_refused_and_leaves_no_trace() -> None:
    world = World().accept().decompose()
    task = world.task("start-billing")
    with pytest.raises(IllegalMove):
        check_move("TASK", task.state, "COMPENSATED")
    with pytest.raises(IllegalMove):
        check_move("TASK", None, "COMPLETED")
