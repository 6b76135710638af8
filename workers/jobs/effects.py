"""An effect in its beats: claim, call, outcome; or, where nobody knows, ask. It must never call without a claim."""

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal
from uuid import UUID, uuid4

from domain.commands import ClaimTask, ClaimVerification, RecordOutcome
from domain.execution import ASK, BUSY, CALL, EXHAUSTED
from domain.ledger import LEASE_MARGIN
from domain.values import EffectId, Json, OrderId, Run, TaskId
from workers.gateways.systems import Outcome
from workers.jobs.job import Context, JobSpec, job, tell
from workers.jobs.outcome import Later, Reply, Stuck

PREFIX = "effect-"
# Calls to one system at once, per process: what may be asked of it, and a bulkhead for all others.
LIMIT = 16
_FETCH = ("order_id", "task_id", "release", "run")

# The engine's lease outlives the ledger's, so that a call's outcome can still be written and the job completed.
_SLACK = timedelta(seconds=15)
_CROWDED_SECONDS = 1.0
# A lease ends by the database's clock; coming back a little later is cheaper than coming back twice.
_LEASE_SECONDS = 0.3


def effect_job(system: str, longest_call: timedelta) -> JobSpec:
    """The job type of one system: pollers, limit and lease of its own, so that it can fall ill alone."""
    timeout = longest_call + LEASE_MARGIN + _SLACK
    return job(f"{PREFIX}{system}", fetch=_FETCH, timeout=timeout, limit=LIMIT)(carry_out_effect)


def verify_job(longest_call: timedelta) -> JobSpec:
    """`verify-effect` serves all systems; its lease covers the slowest."""
    return job("verify-effect", fetch=_FETCH, timeout=longest_call + _SLACK, limit=32)(verify_effect)


async def carry_out_effect(context: Context) -> Reply:
    """Claim, call, write the outcome. The attempt's row is committed before anybody is called (I3)."""
    context.crash("before-claim")
    # A claim is a question about now: its repetition must be a new one, so it has an id of its own and no receipt.
    claim = await context.command(ClaimTask(*_task(context)), command_id=uuid4(), keep=False)
    if claim["verdict"] != CALL:
        return _answer(claim)
    task_type = str(claim["body"]["taskType"])
    context.crash("after-claim", task_type)
    outcome = await context.means.systems.put_effect(claim)
    context.crash("after-call", task_type)
    context.crash("before-outcome", task_type)
    # The id of this attempt's outcome: written at most once, however often it is tried.
    command_id = uuid.uuid5(UUID(str(claim["effect_id"])), f"{claim['attempt']}/outcome")
    told = await context.insist(_report(context, claim, outcome, "CALL"), command_id=command_id)
    context.crash("after-outcome", task_type)
    return _answer(told)


async def verify_effect(context: Context) -> Reply:
    """Ask the system what became of an effect, unless the answer has come meanwhile."""
    claim = await context.command(ClaimVerification(*_task(context)), command_id=uuid4(), keep=False)
    if claim["verdict"] != ASK:
        return _answer(claim)
    if context.means.systems.is_crowded(str(claim["system"])):
        return Later(_CROWDED_SECONDS, "SYSTEM_CROWDED")
    outcome = await context.means.systems.get_effect(claim)
    context.crash("before-outcome")
    # One answer counts once: believing that nothing happened takes two of them.
    return _answer(await context.insist(_report(context, claim, outcome, "VERIFICATION"), command_id=uuid4()))


def _task(context: Context) -> tuple[OrderId, TaskId, int, Run]:
    return (
        OrderId(context.uuid("order_id")),
        TaskId(context.uuid("task_id")),
        context.number("release"),
        Run(context.uuid("run")),
    )


def _report(
    context: Context, claim: Mapping[str, Json], outcome: Outcome, source: Literal["CALL", "VERIFICATION"]
) -> RecordOutcome:
    return RecordOutcome(
        order_id=OrderId(context.uuid("order_id")),
        effect_id=EffectId(UUID(str(claim["effect_id"]))),
        state=outcome.state,
        source=source,
        attempt=int(claim["attempt"]),
        external_reference=outcome.external_reference,
        output=outcome.output,
        reason=outcome.reason,
    )


def _answer(told: Mapping[str, Json]) -> Reply:
    """What the job does with a verdict: its flow branches on all but two."""
    if told["verdict"] == BUSY:
        return Later(float(told["wait"]) + _LEASE_SECONDS, "EFFECT_BUSY")
    if told["verdict"] == EXHAUSTED:
        return Stuck("EFFECT_EXHAUSTED", str(told["case_id"]))
    return tell(told)
