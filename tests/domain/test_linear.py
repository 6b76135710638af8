"""What a cancellation costs grows with what it undoes and no faster, whatever the shape of the order.

Work is counted in calls, not in time: ten times the effects may take little more than ten times the calls.
"""

from __future__ import annotations

import cProfile
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pstats import Stats

import pytest

from domain.ledger import Effect
from domain.values import EffectId, TaskId
from tests.builders import World, an_item, an_order

Shape = Callable[[int], World]


def graph(predecessors: Callable[[int], tuple[int, ...]], work: str = "assign-resource") -> Shape:
    """One item whose plan has this much work of one kind, in the order that `predecessors` gives."""

    def build(count: int) -> World:
        world = World().accept(an_order(an_item())).decompose()
        pattern, last = world.task(work), world.task("start-billing")
        ids = [TaskId(uuid.UUID(int=number + 1)) for number in range(count)]
        tasks = {
            task_id: replace(
                pattern,
                task_id=task_id,
                step=f"port-{number}",
                depends_on=tuple(ids[other] for other in predecessors(number)),
            )
            for number, task_id in enumerate(ids)
        }
        open_end = replace(last, depends_on=(ids[-1],), unmet=1)
        world.order = replace(world.the_order, tasks={**tasks, last.task_id: open_end})
        return world

    return build


def many_items(count: int) -> World:
    """Routers that have been shipped: every shipment stays, and keeps its own reservation."""
    return World().accept(an_order(*(an_item(str(number), "router") for number in range(count // 2)))).decompose()


def many_that_rely(count: int) -> World:
    """Addresses on one line: each has a number that stays with its service."""
    addresses = (an_item(str(number), "static-ip", relies_on=("0",)) for number in range(1, count // 3))
    return World().accept(an_order(an_item("0"), *addresses)).decompose()


def drawn(number: int) -> tuple[int, ...]:
    dice = random.Random(number)
    return tuple({dice.randrange(number) for _ in range(3)}) if number else ()


SHAPES: Mapping[str, Shape] = {
    "chain": graph(lambda number: (number - 1,) if number else ()),
    "fan": graph(lambda number: (0,) if number else ()),
    "random": graph(drawn),
    "refunds": graph(lambda _: (), "start-billing"),
    "items": many_items,
    "reliance": many_that_rely,
}


def do_everything(world: World) -> None:
    """The world after every task but the last has worked, without the calls that would have made it so."""
    order = world.the_order
    effects: dict[EffectId, Effect] = {}
    tasks = dict(order.tasks)
    for task in list(tasks.values())[:-1]:
        row = world.policy.task_types[task.task_type]
        effect_id = EffectId(uuid.uuid5(task.task_id, "effect"))
        effects[effect_id] = Effect(
            effect_id,
            task.task_id,
            row.name,
            row.system,
            row.operation,
            row.external_effect_level,
            "CONFIRMED",
            {},
            world.now,
        )
        tasks[task.task_id] = replace(task, state="COMPLETED", effect_id=effect_id, unmet=0)
    world.order = replace(order, tasks=tasks, effects=effects)


def calls_to_plan(shape: Shape, count: int) -> int:
    world = shape(count)
    do_everything(world)
    with cProfile.Profile() as profile:
        request = world.cancel()
        world.begin(request)
        if world.assess(request)["verdict"] == "review":
            request = world.approve(request)
        world.plan(request)
    assert world.request(request.request_id).status in {"COMPENSATING", "PARTIALLY_COMPLETED"}
    return int(Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_times_the_effects_take_ten_times_the_work(shape: str) -> None:
    small, large = (calls_to_plan(SHAPES[shape], count) for count in (120, 1200))
    assert large / small < 11.5
