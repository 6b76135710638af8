"""What people decided in Tasklist, recorded; who decided is read back from the engine, never from a variable."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace

from domain.commands import OfferCase, RecordRepair, RecordReview
from domain.errors import Breach
from domain.values import Actor, CaseId, Json, Money, OrderId, RequestId, Run
from workers.gateways.engine import NoSearchError, NotYetVisibleError
from workers.jobs.job import Context, job, tell
from workers.jobs.outcome import Later, Reply

_LAG_SECONDS = 1.0
_AMOUNT = re.compile(r"(\d{1,15}) ?([A-Z]{3})", re.ASCII)


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


@job("offer-case", fetch=("order_id", "case_id", "run"))
async def offer_case(context: Context) -> Reply:
    return tell(await context.command(OfferCase(OrderId(context.uuid("order_id")), CaseId(context.uuid("case_id")))))


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
        "amount",
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
        amount=_read_amount(context),
    )
    return tell(await _record(context, command, person))


async def _record(context: Context, command: RecordRepair, person: Actor | None) -> Mapping[str, Json]:
    """What other orders stand in the way of (an asset that is taken) is found out only when all is written: that
    leaves nothing behind, and is then told like any other refusal."""
    try:
        return await context.command(command, actor=person)
    except Breach as breach:
        if command.action != "CONVERT_TO_ORDER":
            raise
        refused = uuid.uuid5(context.correlation_id, "refused")
        return await context.command(replace(command, refusal=breach.code), command_id=refused, actor=person)


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


def _read_amount(context: Context) -> Money | None:
    """As on the command line; what is no amount counts as none."""
    found = _AMOUNT.fullmatch((context.optional_text("amount") or "").strip().upper())
    return Money(int(found[1]), found[2]) if found else None


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
