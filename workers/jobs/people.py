"""What people decided in Tasklist, recorded; who decided is read back from the engine, never from a variable."""

import json

from domain.commands import RecordRepair, RecordReview
from domain.values import Actor, CaseId, Json, OrderId, RequestId, Run
from workers.gateways.engine import NoSearchError, NotYetVisibleError
from workers.jobs.job import Context, job, tell
from workers.jobs.outcome import Later, Reply

_LAG_SECONDS = 1.0


@job("record-decision", fetch=("order_id", "request_id", "run", "wait_key", "decision", "comment", "disposition"))
async def record_decision(context: Context) -> Reply:
    decision = context.optional_text("decision")
    try:
        person = await _find_person(context) if decision else None
    except NotYetVisibleError:
        return Later(_LAG_SECONDS, "DECISION_NOT_VISIBLE")
    command = RecordReview(
        order_id=OrderId(context.uuid("order_id")),
        request_id=RequestId(context.uuid("request_id")),
        run=Run(context.uuid("run")),
        wait_key=context.text("wait_key"),
        reviewer=person.subject if person else None,
        decision=decision,
        comment=context.optional_text("comment"),
        disposition=context.optional_text("disposition"),
    )
    return tell(await context.command(command, actor=person))


@job(
    "record-repair",
    fetch=(
        "order_id",
        "case_id",
        "run",
        "wait_key",
        "action",
        "comment",
        "reason_code",
        "evidence_kind",
        "evidence_reference",
        "input",
    ),
)
async def record_repair(context: Context) -> Reply:
    action = context.optional_text("action")
    try:
        person = await _find_person(context) if action else None
    except NotYetVisibleError:
        return Later(_LAG_SECONDS, "DECISION_NOT_VISIBLE")
    command = RecordRepair(
        order_id=OrderId(context.uuid("order_id")),
        case_id=CaseId(context.uuid("case_id")),
        run=Run(context.uuid("run")),
        wait_key=context.text("wait_key"),
        repairer=person.subject if person else None,
        action=action,
        comment=context.optional_text("comment"),
        reason_code=context.optional_text("reason_code"),
        evidence=_read_evidence(context),
        input=_read_input(context),
    )
    return tell(await context.command(command, actor=person))


def _read_evidence(context: Context) -> dict[str, Json] | None:
    kind, reference = context.optional_text("evidence_kind"), context.optional_text("evidence_reference")
    return {"kind": kind, "reference": reference} if kind and reference else None


def _read_input(context: Context) -> dict[str, Json] | None:
    """What was typed as JSON; anything but an object counts as nothing, which the repair that needs it will miss."""
    try:
        found = json.loads(context.optional_text("input") or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


async def _find_person(context: Context) -> Actor | None:
    """Whoever completed the user task before this job, with the roles that their tenant gave them. None where nobody
    was assigned, or where this engine cannot say: then it counts as not decided, and is offered again."""
    try:
        found = await context.means.engine.find_completion(
            context.job.process_instance_key, before=context.job.element_instance_key
        )
    except NoSearchError:
        return None
    if found.assignee is None or found.assignee.startswith("system:"):
        return None
    return Actor(found.assignee, await context.means.find_roles(context.tenant_id, found.assignee))
