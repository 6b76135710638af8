"""Finds what has fallen silent and starts its flow anew, and carries bulk jobs on, through the one door; it must never
change an order's row itself, nor act on what it cannot see."""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import httpx
import structlog
from prometheus_client import Counter, Enum, Gauge

from domain.commands import Command, Envelope, NoteGoneFlow, NoteIncident, ParkCase, ResumeCase
from domain.errors import Breach
from domain.handle import Door
from domain.reconciliation import (
    EXPLANATIONS,
    PAGED_CLASSES,
    SEARCHED_CLASSES,
    SHARED,
    Canonical,
    Finding,
    Flow,
    Incident,
    Observed,
    Owner,
    Repair,
    command_of,
    compare,
)
from domain.store.outages import OUTAGES
from domain.store.pool import Connection, LockTimeout, Pool, StatementTimeout, open_pool
from domain.store.reconcile import (
    find_flows,
    find_flows_of_orders,
    find_late_loss,
    find_live_flows,
    find_newest_flows,
    find_orders,
    find_page_end,
    find_tenants_with_findings,
    keep_findings,
    measure_waiting,
    read_canonical,
    take_watch,
)
from domain.values import CaseId, OrderId, Run, TenantId, system_actor
from workers.bulk import work
from workers.gateways.dialects import Cursor, SeenIncident
from workers.gateways.engine import Engine, EngineRefusedError, NoSearchError, is_older, open_channel
from workers.settings import Settings
from workers.telemetry import serve_health

log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 5.0
# The flows' own heartbeat comes first; whoever is still silent after one and a half of them has no flow.
SETTLE_HEARTBEATS: Final = 1.5
# The engine's search lags behind the engine; what is younger is not judged by it.
INCIDENT_SETTLE: Final = timedelta(seconds=10)
# An incident may stand for weeks before somebody resolves it; the search tells when it began, not when it ended.
_RESOLVED_SINCE: Final = timedelta(days=30)
_CASE: Final = re.compile(r"EFFECT_EXHAUSTED\W+([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

_STANDBY_SECONDS: Final = 2.0
# The search may be so far behind and still count; whatever our jobs met longer ago it must show.
_VIEW_LAG: Final = timedelta(minutes=1)
# Flows that are asked for as canaries, among so many that were noted last; a page of older ones, once these are gone.
_CANARIES: Final = 3
_NEWEST: Final = 30
_LOST_PAGE: Final = 300
# Who takes the watch so soon after flows were found lost asks about all of them again: how far the last one came, it
# has taken along.
_LATE_LOSS: Final = timedelta(minutes=10)
# Strange incidents whose variables one sweep reads.
_READ: Final = 20

_FINDINGS = Gauge("recourse_findings", "Differences that the last sweep found", ["klass"])
_WAITING = Gauge("recourse_waiting", "What waits for a process of ours or for a person, up to 10000", ["kind"])
_WAITED = Gauge("recourse_waiting_seconds", "How long the oldest of it has waited", ["kind"])
_SWEPT = Gauge("recourse_swept_at", "When the last sweep ended, in seconds since 1970; 0 while standing by")
_REPAIRS = Counter("recourse_restarts", "Flows that were started anew")
_CANCELLED = Counter("recourse_instances_cancelled", "Flows of ended orders that ran on, and were cancelled")
_VIEW = Enum("recourse_engine_view", "What the engine's search is good for", states=["good", "behind", "ill", "none"])
_INCIDENTS = Counter("recourse_incidents_mended", "Incidents of the engine that were told or resolved", ["kind"])


@dataclass(slots=True)
class Memory:
    """What one sweep leaves to the next. effects, running: where the next page of open effects and of running instances
    begins · round_began: when the first page of open effects was looked at · owners: whose an incident is, by its key,
    once its variables were read · lost_before: the engine has lost its data, so the flows noted before that time are
    asked about, page by page · lost_next: where the next page begins once what was found on this one is mended; until
    then it is asked about again"""

    effects: datetime | None = None
    round_began: datetime | None = None
    running: Cursor | None = None
    owners: dict[str, Owner | None] = field(default_factory=dict)
    lost_before: datetime | None = None
    lost_next: datetime | None = None


Probe = Callable[[Iterable[int]], Awaitable[Mapping[int, bool]]]
Read = Callable[[int], Awaitable[Mapping[str, str]]]


async def sweep(
    connection: Connection,
    settle: timedelta,
    observed: Observed,
    probe: Probe | None = None,
    memory: Memory | None = None,
    read: Read | None = None,
) -> list[Finding]:
    """Look once. `connection` is the auditor's. Without a `probe` the engine is asked for nobody: whose flow is gone is
    then found by its silence. read: the texts among an instance's variables, for incidents of flows that are not known
    otherwise"""
    memory = memory or Memory()
    incidents = observed.incidents or ()
    begins, memory.effects = memory.effects, await find_page_end(connection, memory.effects)
    canonical, now = await read_canonical(
        connection,
        settle,
        [incident.case_id for incident in incidents if incident.case_id],
        [incident.key for incident in incidents if not incident.case_id],
        (begins, memory.effects),
    )
    if begins is None:
        memory.round_began = now
    shown = {*observed.running, *observed.cancelled, *(incident.root for incident in incidents)}
    asked: dict[int, Flow] = {}
    displaced: dict[Run, Flow] = {}
    if probe is not None:
        asked, displaced, alive = await _ask_for_flows(connection, canonical, now, observed, probe, memory)
        observed = replace(observed, alive=alive)
    known = (await find_flows(connection, shown - asked.keys()))[0] | asked
    if read is not None:
        strange = [incident for incident in incidents if not incident.case_id and incident.root not in known]
        owners = await _find_owners(strange, read, memory)
        there = await find_orders(connection, [(owner.tenant_id, owner.order_id) for owner in owners.values()])
        owned = {key: owner for key, owner in owners.items() if (owner.tenant_id, owner.order_id) in there}
        observed = replace(observed, owners=owned)
    canonical = replace(canonical, known=known, displaced=list(displaced.values()))
    findings = compare(canonical, observed, settle, now, INCIDENT_SETTLE)
    _FINDINGS.clear()
    for finding in findings:
        _FINDINGS.labels(finding.klass).inc()
    for waiting in await measure_waiting(connection):
        _WAITING.labels(waiting.kind).set(waiting.rows)
        _WAITED.labels(waiting.kind).set((now - waiting.since).total_seconds() if waiting.since else 0)
    _SWEPT.set_to_current_time()
    return findings


def _forget() -> None:
    """Who stands by has seen nothing, and must not show for ever what was true when it lost the watch."""
    for gauge in (_FINDINGS, _WAITING, _WAITED):
        gauge.clear()
    _SWEPT.set(0)


async def _find_owners(strange: Sequence[Incident], read: Read, memory: Memory) -> dict[str, Owner]:
    """Each incident's variables are read once; whoever cannot be read now is read in a later sweep."""
    standing = [incident for incident in strange if incident.state == "ACTIVE"]
    memory.owners = {key: owner for key, owner in memory.owners.items() if any(i.key == key for i in standing)}
    for incident in [incident for incident in standing if incident.key not in memory.owners][:_READ]:
        try:
            memory.owners[incident.key] = _read_owner(await read(incident.instance))
        except NoSearchError:
            break
        except httpx.HTTPError as error:
            log.warning("whose an incident is cannot be asked", error=type(error).__name__)
            break
    return {key: owner for key, owner in memory.owners.items() if owner is not None}


def _read_owner(texts: Mapping[str, str]) -> Owner | None:
    try:
        tenant_id, order_id = TenantId(UUID(texts["tenant_id"])), OrderId(UUID(texts["order_id"]))
    except (KeyError, ValueError):
        return None
    try:
        return Owner(tenant_id, order_id, Run(UUID(texts["run"])))
    except (KeyError, ValueError):
        return Owner(tenant_id, order_id, None)


async def _ask_for_flows(
    connection: Connection, canonical: Canonical, now: datetime, observed: Observed, probe: Probe, memory: Memory
) -> tuple[dict[int, Flow], dict[Run, Flow], Mapping[int, bool]]:
    """Ask the engine for the flows of what is silent, for those that somebody is shown to have cancelled, and for a
    few canaries: the newest that have something to carry. When it knows none of these, or has given the key of one
    that had out again, for the older ones as well."""
    silent = [(task.tenant_id, task.order_id) for task in canonical.tasks]
    silent += [(flow.tenant_id, flow.order_id) for flow in canonical.flows]
    suspects = {*await find_flows_of_orders(connection, silent), *observed.cancelled}
    newest, _ = await find_newest_flows(connection, _NEWEST, settle=INCIDENT_SETTLE)
    flows, displaced = await find_flows(connection, [*suspects, *newest])
    canaries = [key for key in newest if key in flows and flows[key].part][:_CANARIES]
    if not canaries:
        # What began lately has ended: whatever is still under way will do.
        live = await find_live_flows(connection, _NEWEST, settle=INCIDENT_SETTLE)
        more, _ = await find_flows(connection, live)
        flows |= more
        canaries = [key for key in live if key in more and more[key].part][:_CANARIES]
    wanted = {key for key in suspects if key in flows and flows[key].part} | set(canaries)
    alive = dict(await probe(wanted))
    lost = bool(canaries) and not any(alive.get(key, True) for key in canaries)
    if memory.lost_before is None and (lost or displaced):
        memory.lost_before = now - INCIDENT_SETTLE
    memory.lost_next = None
    if memory.lost_before is not None:
        page, memory.lost_next = await find_newest_flows(
            connection, _LOST_PAGE, settle=INCIDENT_SETTLE, before=memory.lost_before
        )
        more, passed = await find_flows(connection, page)
        flows |= more
        displaced |= passed
        alive |= await probe([key for key, flow in more.items() if flow.part and key not in alive])
    return flows, displaced, alive


async def observe(engine: Engine, memory: Memory | None = None, noted: int | None = None) -> Observed:
    """What the engine shows; without a search, or with one that is ill or behind, nothing is concluded from it.

    noted: an instance that our own jobs have met, and that the search should show by now
    """
    memory = memory or Memory()
    try:
        seen = await engine.find_incidents(datetime.now(UTC) - _RESOLVED_SINCE)
        newest = await engine.find_newest()
        cancelled = await engine.find_cancelled()
        running, memory.running = await engine.find_running(memory.running)
    except NoSearchError:
        _VIEW.state("none")
        return Observed()
    except httpx.HTTPError as error:
        _VIEW.state("ill")
        log.warning("the engine's view is not there", error=type(error).__name__)
        return Observed()
    if noted is not None and (newest is None or is_older(newest, noted)):
        _VIEW.state("behind")
        log.warning("the engine's view is behind; nothing is concluded from it", instance=noted)
        return Observed()
    _VIEW.state("good")
    return Observed(
        [_read_incident(incident) for incident in seen],
        [instance.key for instance in running if instance.is_root],
        {instance.key: instance.ended_at for instance in cancelled if instance.is_root and instance.ended_at},
    )


def _read_incident(seen: SeenIncident) -> Incident:
    """Our jobs fail for good with their code and the case that they fail for; a new incident stands like an old one.
    The message of any other may quote values of the flow, and stays where it is."""
    named = _CASE.search(seen.message)
    return Incident(
        key=seen.key,
        state="RESOLVED" if seen.state == "RESOLVED" else "ACTIVE",
        created_at=seen.created_at,
        case_id=CaseId(UUID(named[1])) if named else None,
        job_key=seen.job_key,
        process=seen.process,
        root=seen.root,
        instance=int(seen.instance_key),
        place=f"{seen.element or 'an element'} of {seen.process} ({seen.kind or 'UNKNOWN'})",
    )


async def mend(door: Door, engine: Engine, findings: Sequence[Finding]) -> dict[tuple[str, str], datetime]:
    """Carry out the repairs; those that were, by (class, subject). The same finding seen twice is the same command."""
    done: dict[tuple[str, str], datetime] = {}
    for finding in findings:
        if finding.repair is None:
            continue
        try:
            if await _repair(door, engine, finding.repair):
                done[finding.klass, finding.subject] = datetime.now(UTC)
                log.info("mended", klass=finding.klass, subject=finding.subject, kind=finding.repair.kind)
        except Breach as breach:
            log.warning("not mended", klass=finding.klass, subject=finding.subject, code=breach.code)
        except EngineRefusedError as refusal:
            log.warning("not mended", klass=finding.klass, subject=finding.subject, code=str(refusal))
        except (LockTimeout, StatementTimeout) as busy:  # one order's own trouble
            log.warning("not mended", klass=finding.klass, subject=finding.subject, error=type(busy).__name__)
        except OUTAGES:
            raise
        except Exception:
            # One order that cannot be decided on must not keep the others from being mended.
            log.exception("not mended", klass=finding.klass, subject=finding.subject)
    return done


async def _repair(door: Door, engine: Engine, repair: Repair) -> bool:
    """Whether it was done now. What lies in the engine is mended there; everything else through the door."""
    if repair.kind == "RESOLVE":
        assert repair.incident_key is not None
        await engine.resolve_incident(int(repair.incident_key), int(repair.job_key) if repair.job_key else None)
        _INCIDENTS.labels("RESOLVE").inc()
        return True
    if repair.kind == "CANCEL":
        assert repair.instance_key is not None
        await engine.cancel_instance(repair.instance_key)
        _CANCELLED.inc()
        return True
    envelope = Envelope(repair.tenant_id, repair.command_id, system_actor("reconciler"))
    command: Command
    match repair.kind:
        case "OPEN":
            assert repair.incident_key is not None
            command = NoteIncident(
                repair.order_id, repair.incident_key, repair.evidence, repair.run, noted=repair.noted
            )
        case "REPLACE":
            assert repair.run is not None
            key = str(repair.instance_key)
            command = NoteGoneFlow(
                repair.order_id, repair.run, key, repair.reason, repair.evidence, restart=repair.restart
            )
        case "PARK":
            assert repair.case_id is not None
            assert repair.incident_key is not None
            command = ParkCase(repair.order_id, repair.case_id, repair.incident_key)
        case "CLOSE":
            assert repair.case_id is not None
            assert repair.incident_key is not None
            command = ResumeCase(repair.order_id, repair.case_id, repair.incident_key)
        case _:
            command = command_of(repair)
    answer = await door.handle(envelope, command)
    if answer.replayed:
        return False
    if repair.kind == "RESTART" or answer.body.get("verdict") == "restarted":
        _REPAIRS.inc()
    elif repair.kind in {"OPEN", "PARK", "CLOSE"}:
        _INCIDENTS.labels(repair.kind).inc()
    return repair.kind != "TELL" or answer.body.get("verdict") == "told"


async def keep(
    pool: Pool,
    connection: Connection,
    findings: Sequence[Finding],
    observed: Observed,
    done: dict[tuple[str, str], datetime],
    memory: Memory,
) -> None:
    """Store what stands, tenant by tenant; those where nothing stands any more are told so."""
    classes = set(EXPLANATIONS) - (SEARCHED_CLASSES if observed.incidents is None else frozenset())
    if memory.effects is not None:
        classes -= PAGED_CLASSES  # there are more pages to this round
    by_tenant: dict[TenantId, list[Finding]] = defaultdict(list)
    for tenant_id in await find_tenants_with_findings(connection):
        by_tenant[tenant_id] = []
    for finding in findings:
        by_tenant[finding.tenant_id or SHARED].append(finding)
    for tenant_id, own in by_tenant.items():
        try:
            await keep_findings(pool, tenant_id, own, classes, done, memory.round_began)
        except LockTimeout:  # somebody holds an order that one is about; the next sweep keeps it
            log.warning("findings not kept", tenant_id=str(tenant_id))


async def run(
    settings: Settings, *, report_only: bool = False, once: bool = False, settle: timedelta | None = None
) -> None:
    """`recourse reconcile`: sweep until cancelled, as the one of all replicas that holds the watch."""
    settle = settle or settings.heartbeat * SETTLE_HEARTBEATS
    troubles = {"database": "not reached yet"}
    memory = Memory()
    async with serve_health(settings, lambda: troubles):
        while True:
            try:
                await _watch(settings, troubles, memory, settle, report_only=report_only, once=once)
            except OUTAGES as outage:
                if once:
                    raise
                troubles["database"] = type(outage).__name__
                memory.effects = None  # what was found on the last page may not have been kept: the round begins anew
                log.warning("not reconciled", error=type(outage).__name__)
                await asyncio.sleep(_STANDBY_SECONDS * random.uniform(0.5, 1.5))
            else:
                return


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _watch(
    settings: Settings, troubles: dict[str, str], memory: Memory, settle: timedelta, *, report_only: bool, once: bool
) -> None:
    async with AsyncExitStack() as stack:
        auditor = await open_pool(settings.auditor_database_url, size=2, name="reconciler")
        stack.callback(auditor.terminate)
        pool = await open_pool(settings.database_url, size=2, name="reconciler")
        stack.callback(pool.terminate)
        stack.callback(_forget)
        channel = open_channel(settings)
        stack.push_async_callback(channel.close)
        engine, door = Engine(channel, settings), Door(pool)
        stack.push_async_callback(engine.close)
        connection = await stack.enter_async_context(auditor.acquire())
        troubles.clear()
        while True:
            # One look is safe beside whoever watches: what both find is the same command, and is done once.
            if once or await take_watch(connection):
                break
            await asyncio.sleep(_STANDBY_SECONDS)
        memory.lost_before = memory.lost_before or await find_late_loss(connection, _LATE_LOSS)
        if not (once or report_only):
            bulk = asyncio.create_task(work(pool, door, auditor, settings))
            stack.push_async_callback(_stop, bulk)
        while True:
            noted, _ = await find_newest_flows(connection, 1, settle=_VIEW_LAG)
            observed = await observe(engine, memory, *noted)
            findings = await sweep(connection, settle, observed, engine.find_alive, memory, engine.find_texts)
            done: dict[tuple[str, str], datetime] = {}
            if not report_only and any(finding.repair for finding in findings):
                # Without an engine a new flow would only be one more to wait; without models, too.
                if not await engine.is_ready():
                    log.warning("the engine is not there; nothing is restarted", findings=len(findings))
                elif await engine.lacks_models():
                    log.warning("the engine has no models; nothing is restarted", findings=len(findings))
                else:
                    done = await mend(door, engine, findings)
                    memory.lost_before = memory.lost_next
            else:
                memory.lost_before = memory.lost_next
            await keep(pool, connection, findings, observed, done, memory)
            if once:
                for finding in findings:
                    log.info("finding", klass=finding.klass, subject=finding.subject, evidence=finding.evidence)
                return
            await asyncio.sleep(SWEEP_SECONDS)
