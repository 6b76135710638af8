"""The bench about planning: a compensation over ten times the effects costs about ten times as much, whatever the shape
of the plan. Pure core; it must never need a database."""

from __future__ import annotations

import gc
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from domain import commands as ask
from domain.decide import decide
from domain.ledger import Effect
from domain.order import Order, Surroundings, Task
from domain.values import Actor, EffectId, RequestId, Run, TaskId, system_actor
from workers.bench.bed import Bed
from workers.bench.harness import Case, Scale, interleave
from workers.bench.harness import Run as Measured
from workers.bench.seeds import AGENT, decided_order, make_draft

SMALL: Final = 1_000
TIMES: Final = 10
_TYPE: Final = "reserve-inventory"
_SEED: Final = 20261125

# The predecessors of task number n.
Shape = Callable[[int, random.Random], Sequence[int]]


def _chain(number: int, _: random.Random) -> Sequence[int]:
    return (number - 1,) if number else ()


def _fan(number: int, _: random.Random) -> Sequence[int]:
    return (0,) if number else ()


def _random(number: int, dice: random.Random) -> Sequence[int]:
    return sorted({dice.randrange(number) for _ in range(min(number, 3))})


SHAPES: Final[Mapping[str, Shape]] = {"chain": _chain, "fan": _fan, "random graph": _random}


async def measure_plan(_: Bed | None, scale: Scale) -> list[Case]:
    """Planning a compensation over 10 000 effects ÷ over 1 000, on a chain, a fan and a random graph.

    scale.amount: effects of the smaller one
    """
    cases = []
    for name, shape in SHAPES.items():
        orders = {size: assessed_order(shape, size) for size in (scale.amount, scale.amount * TIMES)}

        async def measure_large(_: int, orders: Mapping[int, Order] = orders) -> Measured:
            return _plan(orders[scale.amount * TIMES])

        async def measure_small(_: int, orders: Mapping[int, Order] = orders) -> Measured:
            # As long as the other side, so that both meet the same disturbances.
            runs = [_plan(orders[scale.amount]) for _ in range(TIMES)]
            return Measured(TIMES, sum(run.seconds for run in runs), tuple(run.seconds for run in runs))

        pairs = await interleave(scale.repetitions, measure_large, measure_small)
        cases.append(Case(name, pairs, "median time", {"small": scale.amount, "large": scale.amount * TIMES}))
    return cases


def _plan(order: Order) -> Measured:
    (request,) = order.requests.values()
    draft = make_draft(order, system_actor("bench"), uuid.uuid5(order.head.order_id, "plan"), datetime.now(UTC))
    # What earlier runs left for the collector is not this one's work.
    gc.collect()
    # The processor's time: nothing is waited for, and what else the machine does is not this one's work either.
    began = time.process_time()
    decide(draft, ask.PlanCompensation(order.head.order_id, request.request_id, request.run), Surroundings())
    taken = time.process_time() - began
    planned = sum(task.kind == "COMPENSATION" for task in draft.tasks.values())
    errors = {} if planned == len(order.effects) else {f"{planned} of {len(order.effects)} planned": 1}
    return Measured(1, taken, (taken,), errors)


def assessed_order(shape: Shape, size: int) -> Order:
    """An order all of whose `size` tasks have had their effect, its cancellation found fit to be planned."""
    order = _fulfilled(shape, size)
    order_id = order.head.order_id
    request_id = RequestId(uuid.uuid5(order_id, "request"))
    order = _do(
        order, ask.RequestCancellation(order_id, request_id, "ORDER", (), "CUSTOMER_CHANGED_MIND"), AGENT, "ask"
    )
    for step, name in ((ask.BeginAssessment, "begin"), (ask.AssessCancellation, "assess")):
        run: Run = order.requests[request_id].run
        order = _do(order, step(order_id, request_id, run), system_actor("bench"), name)
    return order


def _fulfilled(shape: Shape, size: int) -> Order:
    order = decided_order(0)
    dice = random.Random(_SEED)
    assert order.plan is not None
    name = order.head.order_id
    ids = [TaskId(uuid.uuid5(name, f"task {number}")) for number in range(size)]
    effects = [EffectId(uuid.uuid5(name, f"effect {number}")) for number in range(size)]
    model = next(task for task in order.tasks.values() if task.task_type == _TYPE)
    kind = order.plan.types[_TYPE]
    now = datetime.now(UTC)
    tasks: dict[TaskId, Task] = {}
    ledger: dict[EffectId, Effect] = {}
    for number in range(size):
        before = tuple(ids[other] for other in shape(number, dice))
        tasks[ids[number]] = replace(
            model,
            task_id=ids[number],
            state="COMPLETED",
            depends_on=before,
            unmet=0,
            effect_id=effects[number],
            started_at=now,
            ended_at=now,
        )
        ledger[effects[number]] = Effect(
            effect_id=effects[number],
            task_id=ids[number],
            task_type=_TYPE,
            system=kind.system,
            operation=kind.operation,
            level=kind.external_effect_level,
            state="CONFIRMED",
            input={},
            intended_at=now,
            settled_at=now,
            attempt=1,
        )
    return replace(order, tasks=tasks, effects=ledger)


def _do(order: Order, command: ask.Command, actor: Actor, name: str) -> Order:
    draft = make_draft(order, actor, uuid.uuid5(order.head.order_id, name), datetime.now(UTC))
    decide(draft, command, Surroundings())
    return draft.result()
