"""What the reconciler found, for people to look at; and one look now, of the caller's own tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from starlette.responses import Response

from domain.commands import Envelope
from domain.errors import Breach, Unprocessable
from domain.reconciliation import ENGINE_CLASSES, EXPLANATIONS, Finding, Observed, command_of, compare
from domain.store import reconcile, registry
from domain.store.pool import tenant_transaction
from domain.values import Json, derive_id, format_time
from workers.api.calls import Call, answer_command, answer_page, ask
from workers.api.routing import Parameter, Routes
from workers.api.schemas import RunBody

routes = Routes()

CLASSES: Final = frozenset(EXPLANATIONS)
_STANDING: Final = {"true": True, "false": False}
# The flows' own heartbeat comes first; whoever is still silent after one and a half of them has no flow.
_SETTLE_HEARTBEATS: Final = 1.5
_NO_SETTLE: Final = timedelta()


@routes.get(
    "/reconciliation/findings",
    "FindingPage",
    query=(
        Parameter("class", {"type": "string", "enum": sorted(CLASSES)}),
        Parameter("standing", {"type": "boolean"}, "Only those that stand, or only those that do not any more."),
    ),
)
async def list_findings(call: Call) -> Response:
    """Differences between what should be and what is, newest first; each with evidence and what would mend it."""
    standing = call.choice("standing", frozenset(_STANDING))
    page = await reconcile.list_findings(
        call.pool,
        call.tenant,
        limit=call.limit(),
        after=call.place(),
        klass=call.choice("class", CLASSES),
        standing=_STANDING[standing] if standing else None,
    )
    return answer_page(page)


@routes.post("/reconciliation/runs", "ReconciliationRun", body=RunBody)
async def run_once(call: Call) -> Response:
    """Compare now, what our own tables can show; `reportOnly` mends nothing. The engine's side is the reconciler's."""
    asked = await ask(call, RunBody)
    if asked.body is None:
        raise Unprocessable(errors=asked.invalid)
    settle = call.service.settings.heartbeat * _SETTLE_HEARTBEATS
    async with tenant_transaction(call.pool, call.tenant) as connection:
        before = await registry.read_answer(connection, asked.envelope)
        if before is not None:
            return answer_command(before)
        canonical, now = await reconcile.read_canonical(connection, settle)
    # No connection is held while others are asked for: as many callers as there are connections would wait for ever.
    told = await _run(call, asked.envelope, asked.body, compare(canonical, Observed(), settle, now, _NO_SETTLE), now)
    async with tenant_transaction(call.pool, call.tenant) as connection:
        before = await registry.find_answer(connection, asked.envelope)
        filed = registry.Filed(202, told)
        return answer_command(before or await registry.store_answer(connection, asked.envelope, filed))


async def _run(
    call: Call, envelope: Envelope, body: RunBody, findings: Sequence[Finding], now: datetime
) -> dict[str, Json]:
    repaired = {}
    for finding in findings if not body.report_only else ():
        if finding.repair is None:
            continue
        repair = finding.repair
        own = Envelope(call.tenant, repair.command_id, call.caller.actor)
        try:
            if not (await call.service.door.handle(own, command_of(repair))).replayed:
                repaired[finding.klass, finding.subject] = now
        except Breach:
            continue  # it has moved on meanwhile: nothing to mend
    await reconcile.keep_findings(call.pool, call.tenant, findings, CLASSES - ENGINE_CLASSES, repaired)
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.klass] = counts.get(finding.klass, 0) + 1
    return {
        "runId": str(derive_id(envelope.command_id, "run")),
        "reportOnly": body.report_only,
        "at": format_time(now),
        "findings": len(findings),
        "repaired": len(repaired),
        "byClass": counts,
        "engineView": "NOT_ASKED",
        "links": {"findings": "/api/v1/reconciliation/findings"},
    }
