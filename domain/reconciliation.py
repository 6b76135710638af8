"""What should be against what is: findings, each with its evidence and the command that would mend it. It must never
act, nor take silence of what it cannot see for a sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from domain.commands import FollowCancellation, NoteSilentFlow, RaiseJeopardy, RestartFlow
from domain.values import CaseId, OrderId, PlanId, RequestId, Run, TenantId, derive_id, format_time

# Automatic restarts of one flow; then a person has the case.
RESTARTS: Final = 3
# So many flows that nobody ended, all gone and none of their age left, are not single accidents any more.
_LOST: Final = 2
# People whose pace is not known yet are expected to need this share of the time that they have.
_PEOPLE_SHARE: Final = 5

# class -> what it means
EXPLANATIONS: Final = {
    "READY_NOT_STARTED": "Work is free to start and no flow has asked for it.",
    "READY_NOT_CLAIMED": "Work was handed to the engine and no worker has taken it.",
    "INTENT_WITHOUT_OUTCOME": "A call was meant to be made; nobody has said what became of it.",
    "CALLBACK_OVERDUE": "A system promised an answer, its time has passed, and nobody has asked.",
    "UNKNOWN_TOO_LONG": "An outcome has been unknown for longer than the policy allows, and no person has the case.",
    "MESSAGE_NOT_RECEIVED": "A flow was started by message and nothing of it has been heard.",
    "DEPENDENCE_NOT_FOLLOWED": "An order was to hear that another one, which it depends on, is being cancelled or was.",
    "OUTCOME_CONTRADICTION": "A system has said two things about one effect; the first one stands.",
    "LATE_EFFECT": "Something took effect after it had been given up; its case says what is to be done.",
    "OUTBOX_STUCK": "What was decided is not carried on: the relay, or who takes from it, is ill.",
    "JEOPARDY_PREDICTED": "At the pace of the past this will be done after its deadline.",
    "INCIDENT_WITHOUT_CASE": "The engine shows an incident of work that no case is about.",
    "INSTANCE_GONE": "Somebody cancelled a flow in the engine while what it carried was unfinished.",
    "INSTANCE_UNKNOWN": "The engine does not know the instance that carried a flow, and nobody has cancelled it.",
    "ENGINE_LOST_DATA": "The engine knows none of the flows of that time: it has lost its data.",
    "ORDER_ENDED_FLOW_RUNNING": "The order has ended; its flow runs on and has not heard of it.",
    "INCIDENT_OF_CLOSED_CASE": "The engine still shows the incident of a case that has been repaired.",
    "CASE_WITHOUT_INCIDENT": "The incident of an open case has been resolved in the engine.",
}

# class -> where a person looks whose flow is silent though it was started anew
ADVICE: Final = {
    "READY_NOT_STARTED": "See in Operate where the order's flow stands, and mend that.",
    "READY_NOT_CLAIMED": "See whether the system is served: `recourse worker effects`, `recourse doctor`.",
    "INTENT_WITHOUT_OUTCOME": "See whether the system is served: `recourse worker effects`, `recourse doctor`.",
    "CALLBACK_OVERDUE": "Ask who runs the system; its callback counts whenever it comes.",
    "UNKNOWN_TOO_LONG": "Ask who runs the system what became of it; see that it is served: `recourse worker effects`.",
    "MESSAGE_NOT_RECEIVED": "See whether the models are there: `recourse models deploy`.",
}

# class -> what mends it: what is done by itself, and the command or the place of the person who must do more
_ANEW: Final = f"Started anew by itself, {RESTARTS} times at most; then"
_GONE: Final = f"{_ANEW} its case stays open: `recourse case repair` with RETRY."
REMEDIES: Final = {klass: f"{_ANEW} a case opens. {advice}" for klass, advice in ADVICE.items()} | {
    "DEPENDENCE_NOT_FOLLOWED": "The order is made to follow by itself; where it stands on, its cases say why.",
    "OUTCOME_CONTRADICTION": "The first word stands. Ask who runs the system which of the two is true.",
    "LATE_EFFECT": "Its case: `recourse case repair` with FORCE_COMPLETE (undone), WAIVE (it stays), CONVERT_TO_ORDER.",
    "OUTBOX_STUCK": "`recourse outbox parked` says why; `recourse outbox release` once the reason is gone.",
    "JEOPARDY_PREDICTED": "Told once by itself. Take up what waits for a person, hurry what waits for a system.",
    "INCIDENT_WITHOUT_CASE": "An order's becomes a case by itself. Nobody's: resolve or end it in Operate.",
    "INSTANCE_GONE": _GONE,
    "INSTANCE_UNKNOWN": _GONE,
    "ENGINE_LOST_DATA": _GONE,
    "ORDER_ENDED_FLOW_RUNNING": "The instance is cancelled by itself.",
    "INCIDENT_OF_CLOSED_CASE": "Retries are given back and the incident is resolved by itself.",
    "CASE_WITHOUT_INCIDENT": "The case closes by itself, with the incident as its evidence.",
}

# Whose a finding is that is nobody's: all tenants' operators read it.
SHARED: Final = TenantId(UUID(int=0))

# What only the engine can show: whoever has not asked it neither finds these nor holds them to be over.
SEARCHED_CLASSES: Final = frozenset(
    {"INCIDENT_WITHOUT_CASE", "INCIDENT_OF_CLOSED_CASE", "CASE_WITHOUT_INCIDENT", "ORDER_ENDED_FLOW_RUNNING"}
)
# What one sweep looks for on one page of the open effects only: over when a round over all pages has not shown it.
PAGED_CLASSES: Final = frozenset({"INTENT_WITHOUT_OUTCOME", "CALLBACK_OVERDUE", "UNKNOWN_TOO_LONG"})
ENGINE_CLASSES: Final = SEARCHED_CLASSES | {"INSTANCE_GONE", "INSTANCE_UNKNOWN", "ENGINE_LOST_DATA"}


@dataclass(frozen=True, slots=True)
class SilentTask:
    """A task that something should have happened to by now.

    klass: the finding's class · silent_since: last sign of life, or when it was due · restarts, restarted_at: how often
    its plan's flow has been started anew, and when last (None: not known or never)
    """

    klass: str
    tenant_id: TenantId
    order_id: OrderId
    plan_id: PlanId
    task_id: UUID
    silent_since: datetime
    restarts: int
    restarted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SilentFlow:
    """A flow without a plan of which nothing has been heard: of an order before its plan, or of a request before it
    undoes anything. request_id None: the order's own."""

    tenant_id: TenantId
    order_id: OrderId
    request_id: RequestId | None
    status: str
    silent_since: datetime
    restarts: int


@dataclass(frozen=True, slots=True)
class Untold:
    """An order that has not followed the cancellation of another one. run: which telling of it was not heard"""

    tenant_id: TenantId
    order_id: OrderId
    source_id: OrderId
    request_id: RequestId
    run: Run
    told_at: datetime


@dataclass(frozen=True, slots=True)
class StuckOutbox:
    tenant_id: TenantId
    outbox: str
    rows: int
    parked: int
    silent_since: datetime


@dataclass(frozen=True, slots=True)
class Oddity:
    """What the books themselves show: OUTCOME_CONTRADICTION or LATE_EFFECT, about one effect."""

    klass: str
    tenant_id: TenantId
    order_id: OrderId
    effect_id: str
    at: datetime
    evidence: str


@dataclass(frozen=True, slots=True)
class CaseInEngine:
    """A case that an incident of the engine is about, as our books have it. incident_key None: not seen there yet."""

    tenant_id: TenantId
    order_id: OrderId
    case_id: CaseId
    is_open: bool
    incident_key: str | None


@dataclass(frozen=True, slots=True)
class Flow:
    """One instance of the engine, as our books have it.

    part, restarts: the id of the plan, request or order that it carries now, and how often that was started anew; None:
    it was replaced, or has nothing left to carry · idle_since: when its order ended with nothing left that any flow
    could still carry
    """

    tenant_id: TenantId
    order_id: OrderId
    run: Run
    key: int
    process: str
    noted_at: datetime
    part: UUID | None = None
    restarts: int = 0
    idle_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an instance is by its own variables, where our jobs have not met it."""

    tenant_id: TenantId
    order_id: OrderId
    run: Run | None


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident as the engine shows it. case_id: of which case our job said that it fails for it · root: the
    instance that no other one called · place: where it is, in the model's words"""

    key: str
    state: str
    created_at: datetime
    case_id: CaseId | None
    job_key: str | None = None
    process: str = ""
    root: int = 0
    place: str = ""
    instance: int = 0


@dataclass(frozen=True, slots=True)
class RunningTask:
    """An undoing that has not ended. allowance: the time that its type may take where nothing is known of the past ·
    after: what it waits for"""

    task_id: UUID
    task_type: str
    started_at: datetime | None
    allowance: timedelta
    after: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningPlan:
    """What a request still has to undo, and by when; told: its jeopardy has been raised."""

    tenant_id: TenantId
    order_id: OrderId
    request_id: RequestId
    started_at: datetime
    due: datetime
    told: bool
    tasks: Sequence[RunningTask]


@dataclass(frozen=True, slots=True)
class PersonsWait:
    """A review or a case that a person has until `due` for. kind: REVIEW, or the category of a case"""

    tenant_id: TenantId
    order_id: OrderId
    subject_id: UUID
    kind: str
    since: datetime
    due: datetime
    told: bool


@dataclass(frozen=True, slots=True)
class Canonical:
    """What our tables say is due. medians: how long tasks of a type, and people with one kind of work, took in the past
    · known: what our books say of the instances that were asked about, by key · displaced: flows that had something to
    carry, and whose key the engine has given to another one since"""

    tasks: Sequence[SilentTask] = ()
    flows: Sequence[SilentFlow] = ()
    untold: Sequence[Untold] = ()
    outboxes: Sequence[StuckOutbox] = ()
    oddities: Sequence[Oddity] = ()
    cases: Sequence[CaseInEngine] = ()
    plans: Sequence[RunningPlan] = ()
    medians: Mapping[str, timedelta] = field(default_factory=dict)
    waits: Sequence[PersonsWait] = ()
    known: Mapping[int, Flow] = field(default_factory=dict)
    displaced: Sequence[Flow] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """What the engine shows.

    incidents None: it cannot be searched, or its search is behind, and nothing follows from its silence · running:
    instances that the search shows as running · cancelled: those that it shows as cancelled, and when · alive: what the
    engine itself, which is never behind, says of those that it was asked for; None: it was not asked · owners: by an
    incident's key, whose it is where our books do not know its root
    """

    incidents: Sequence[Incident] | None = None
    running: Sequence[int] = ()
    cancelled: Mapping[int, datetime] = field(default_factory=dict)
    alive: Mapping[int, bool] | None = None
    owners: Mapping[str, Owner] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repair:
    """One command that mends a finding. kind: RESTART (of a plan, a request or an order), REPLACE (start what a gone
    instance carried anew; `restart` False: only tell it), OPEN (a case of an incident), PARK (say that the engine holds
    the case's job), RESOLVE (give the job back in the engine), CLOSE (the incident was resolved there), CANCEL (the
    instance), FOLLOW (the cancellation `request_id` of `source_id`), TELL (open the case of a flow that stays silent),
    JEOPARDY. command_id: the same for whoever finds
    the same."""

    kind: str
    tenant_id: TenantId
    order_id: OrderId
    command_id: UUID
    reason: str
    plan_id: PlanId | None = None
    request_id: RequestId | None = None
    subject_id: UUID | None = None
    source_id: OrderId | None = None
    case_id: CaseId | None = None
    incident_key: str | None = None
    job_key: str | None = None
    run: Run | None = None
    instance_key: int | None = None
    evidence: str = ""
    restart: bool = True
    noted: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. subject: what it is about · evidence: in words, without personal data · tenant_id None: nobody's
    in particular · repair None: a person's work."""

    klass: str
    subject: str
    evidence: str
    silent_since: datetime
    repair: Repair | None = None
    tenant_id: TenantId | None = None
    order_id: OrderId | None = None


def command_of(repair: Repair) -> RestartFlow | RaiseJeopardy | FollowCancellation | NoteSilentFlow:
    """What mends it where only our own books are concerned: RESTART, TELL, FOLLOW, JEOPARDY."""
    match repair.kind:
        case "TELL":
            return NoteSilentFlow(repair.order_id, repair.plan_id, repair.request_id, repair.evidence)
        case "JEOPARDY":
            assert repair.subject_id is not None
            return RaiseJeopardy(repair.order_id, repair.subject_id, "PREDICTED")
        case "FOLLOW":
            assert repair.source_id is not None
            assert repair.request_id is not None
            return FollowCancellation(repair.order_id, repair.source_id, repair.request_id)
        case _:
            return RestartFlow(repair.order_id, repair.plan_id, repair.reason, repair.request_id)


def compare(
    canonical: Canonical, observed: Observed, settle: timedelta, now: datetime, incident_settle: timedelta
) -> list[Finding]:
    """Both sides in, findings out, one per subject. What was restarted waits twice as long each time, and after
    RESTARTS times and one more silence it is a person's case; what the engine shows counts only once it is older than
    `incident_settle`. Whose flow is gone is not silent beside that."""
    findings = _find_gone(canonical, observed, incident_settle, now)
    gone = {UUID(finding.subject) for finding in findings}
    by_plan: dict[PlanId, list[SilentTask]] = {}
    for task in canonical.tasks:
        by_plan.setdefault(task.plan_id, []).append(task)
    findings += [_judge_plan(found, settle, now) for plan_id, found in by_plan.items() if plan_id not in gone]
    findings += [
        _judge_flow(flow, settle, now) for flow in canonical.flows if (flow.request_id or flow.order_id) not in gone
    ]
    findings += [_judge_untold(untold) for untold in canonical.untold]
    findings += [
        Finding(
            "OUTBOX_STUCK",
            stuck.outbox,
            f"{stuck.rows} rows wait, {stuck.parked} of them held back",
            stuck.silent_since,
            tenant_id=stuck.tenant_id,
        )
        for stuck in canonical.outboxes
    ]
    findings += [
        Finding(odd.klass, odd.effect_id, odd.evidence, odd.at, None, odd.tenant_id, odd.order_id)
        for odd in canonical.oddities
    ]
    for plan in canonical.plans:
        end = predict_end(plan, canonical.medians, now)
        if end > plan.due:
            findings.append(_judge_late(plan, end))
    findings += [late for wait in canonical.waits if (late := _judge_wait(wait, canonical.medians, now))]
    findings += _find_running_on(canonical, observed, settle, now)
    return findings + _compare_incidents(canonical, observed, incident_settle, now)


def predict_end(plan: RunningPlan, medians: Mapping[str, timedelta], now: datetime) -> datetime:
    """When the longest way through what is left would be done: per type the median of the past, else its allowance;
    what is running has some of it behind it. Linear in tasks and edges."""
    known = {task.task_id: task for task in plan.tasks}
    waiting = {task.task_id: sum(earlier in known for earlier in task.after) for task in plan.tasks}
    followers: dict[UUID, list[UUID]] = {}
    for task in plan.tasks:
        for earlier in task.after:
            if earlier in known:
                followers.setdefault(earlier, []).append(task.task_id)
    begins = {task_id: timedelta() for task_id in known}
    ready = [task_id for task_id, count in waiting.items() if not count]
    longest = timedelta()
    while ready:
        task = known[ready.pop()]
        length = medians.get(task.task_type, task.allowance)
        if task.started_at is not None:
            length = max(length - (now - task.started_at), timedelta())
        end = begins[task.task_id] + length
        longest = max(longest, end)
        for follower in followers.get(task.task_id, ()):
            begins[follower] = max(begins[follower], end)
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    return now + longest


def _judge_late(plan: RunningPlan, end: datetime) -> Finding:
    evidence = f"would be done at {format_time(end)}, due at {format_time(plan.due)}"
    repair = None
    if not plan.told:
        repair = Repair(
            "JEOPARDY",
            plan.tenant_id,
            plan.order_id,
            derive_id(plan.request_id, "jeopardy"),
            "JEOPARDY_PREDICTED",
            subject_id=plan.request_id,
        )
    subject = str(plan.request_id)
    return Finding("JEOPARDY_PREDICTED", subject, evidence, plan.started_at, repair, plan.tenant_id, plan.order_id)


def _judge_wait(wait: PersonsWait, medians: Mapping[str, timedelta], now: datetime) -> Finding | None:
    """A person's work that would be late if somebody took it up now and needed as long as such work takes."""
    end = now + medians.get(wait.kind, (wait.due - wait.since) / _PEOPLE_SHARE)
    if end <= wait.due:
        return None
    evidence = f"would be done at {format_time(end)} if it were begun now, due at {format_time(wait.due)}"
    repair = None
    if not wait.told:
        repair = Repair(
            "JEOPARDY",
            wait.tenant_id,
            wait.order_id,
            derive_id(wait.subject_id, "jeopardy", format_time(wait.due)),
            "JEOPARDY_PREDICTED",
            subject_id=wait.subject_id,
        )
    subject = str(wait.subject_id)
    return Finding("JEOPARDY_PREDICTED", subject, evidence, wait.since, repair, wait.tenant_id, wait.order_id)


def _judge_plan(tasks: Sequence[SilentTask], settle: timedelta, now: datetime) -> Finding:
    first = min(tasks, key=lambda task: task.silent_since)
    evidence = f"{len(tasks)} tasks silent, restarted {first.restarts} times"
    last = max((task.restarted_at for task in tasks if task.restarted_at), default=first.silent_since)
    repair = _take_up(first, settle, now - last, klass=first.klass, plan_id=first.plan_id)
    return Finding(
        first.klass, str(first.plan_id), evidence, first.silent_since, repair, first.tenant_id, first.order_id
    )


def _judge_flow(flow: SilentFlow, settle: timedelta, now: datetime) -> Finding:
    klass = "MESSAGE_NOT_RECEIVED"
    subject = flow.request_id or flow.order_id
    repair = _take_up(flow, settle, now - flow.silent_since, klass=klass, request_id=flow.request_id)
    evidence = f"{'request' if flow.request_id else 'order'} is {flow.status}, restarted {flow.restarts} times"
    return Finding(klass, str(subject), evidence, flow.silent_since, repair, flow.tenant_id, flow.order_id)


def _take_up(
    silent: SilentTask | SilentFlow,
    settle: timedelta,
    silence: timedelta,
    *,
    klass: str,
    plan_id: PlanId | None = None,
    request_id: RequestId | None = None,
) -> Repair | None:
    """Start a silent flow anew once it is due, as often as that may be; then tell a person, once per silence."""
    subject = plan_id or request_id or silent.order_id
    due = settle * 2**silent.restarts if silent.restarts < RESTARTS else settle
    if silence < due:
        return None
    if silent.restarts < RESTARTS:
        kind, command_id, title = "RESTART", derive_id(subject, "restart", silent.restarts), ""
    else:
        kind = "TELL"
        command_id = derive_id(subject, "silent", silent.restarts, format_time(silent.silent_since))
        title = f"The flow is silent after {silent.restarts} restarts. {EXPLANATIONS[klass]} {ADVICE[klass]}"
    return Repair(
        kind,
        silent.tenant_id,
        silent.order_id,
        command_id,
        klass,
        plan_id=plan_id,
        request_id=request_id,
        evidence=title,
    )


def _judge_untold(untold: Untold) -> Finding:
    """Whatever became of the message: the order looks at how that cancellation stands now, and that settles it."""
    repair = Repair(
        "FOLLOW",
        untold.tenant_id,
        untold.order_id,
        derive_id(untold.run, "follow"),
        "DEPENDENCE_NOT_FOLLOWED",
        request_id=untold.request_id,
        source_id=untold.source_id,
    )
    evidence = f"has not followed request {untold.request_id} of order {untold.source_id}"
    subject = f"{untold.order_id}/{untold.request_id}"
    return Finding(
        "DEPENDENCE_NOT_FOLLOWED", subject, evidence, untold.told_at, repair, untold.tenant_id, untold.order_id
    )


def _find_gone(canonical: Canonical, observed: Observed, settle: timedelta, now: datetime) -> list[Finding]:
    """Instances that carried something unfinished and are not in the engine any more. Only the engine's own word
    counts, or that it gave a key out twice; its search says, where it can, that somebody cancelled one."""
    alive = observed.alive or {}
    asked = [
        flow for key, flow in canonical.known.items() if key in alive and flow.part and now - flow.noted_at >= settle
    ]
    gone = [flow for flow in asked if not alive[flow.key]]
    oldest = min((flow.noted_at for flow in asked if alive[flow.key]), default=now)
    lost = [flow for flow in gone if flow.noted_at < oldest and flow.key not in observed.cancelled]
    found = [_judge_gone(flow, observed.cancelled.get(flow.key), lost=len(lost) >= _LOST) for flow in gone]
    # What is asked about under a key is the newest flow that has it; the older ones no question can reach.
    found += [
        _judge_gone(flow, None, lost=True, displaced=True)
        for flow in canonical.displaced
        if now - flow.noted_at >= settle
    ]
    return list({finding.subject: finding for finding in found}.values())


def _judge_gone(flow: Flow, cancelled_at: datetime | None, *, lost: bool, displaced: bool = False) -> Finding:
    if displaced:
        klass = "ENGINE_LOST_DATA"
        evidence = f"the engine has given the key of instance {flow.key} of {flow.process} to another one"
    elif cancelled_at is not None:
        klass = "INSTANCE_GONE"
        evidence = f"instance {flow.key} of {flow.process} was cancelled in the engine at {format_time(cancelled_at)}"
    else:
        klass = "ENGINE_LOST_DATA" if lost else "INSTANCE_UNKNOWN"
        evidence = f"the engine does not know instance {flow.key} of {flow.process}"
    restart = flow.restarts < RESTARTS
    repair = Repair(
        "REPLACE",
        flow.tenant_id,
        flow.order_id,
        derive_id(flow.run, "gone", flow.key),
        klass,
        run=flow.run,
        instance_key=flow.key,
        evidence=evidence,
        restart=restart,
    )
    if not restart:
        evidence = f"{evidence}, restarted {flow.restarts} times"
    return Finding(klass, str(flow.part), evidence, flow.noted_at, repair, flow.tenant_id, flow.order_id)


def _find_running_on(canonical: Canonical, observed: Observed, settle: timedelta, now: datetime) -> list[Finding]:
    """Instances of orders that ended so long ago that their last wake-up and their own heartbeat are both past."""
    return [
        Finding(
            "ORDER_ENDED_FLOW_RUNNING",
            str(flow.key),
            f"instance {flow.key} of {flow.process} runs, the order ended at {format_time(flow.idle_since)}",
            flow.idle_since,
            Repair(
                "CANCEL",
                flow.tenant_id,
                flow.order_id,
                derive_id(flow.run, "cancel", flow.key),
                "ORDER_ENDED_FLOW_RUNNING",
                instance_key=flow.key,
            ),
            flow.tenant_id,
            flow.order_id,
        )
        for key in observed.running
        if (flow := canonical.known.get(key)) and flow.idle_since and now - flow.idle_since >= settle
    ]


def _compare_incidents(canonical: Canonical, observed: Observed, settle: timedelta, now: datetime) -> list[Finding]:
    """Incidents of the engine and cases of ours, both ways, the oldest first. An incident that is not shown proves
    nothing: a case closes only on a RESOLVED record of its own incident."""
    if observed.incidents is None:
        return []
    findings: list[Finding] = []
    named = {case.case_id: case for case in canonical.cases}
    by_key = {(case.order_id, case.incident_key): case for case in canonical.cases if case.incident_key}
    unowned = {case.incident_key: case for case in canonical.cases}
    for incident in sorted(observed.incidents, key=lambda incident: incident.created_at):
        # The search lags behind the engine, and our own commit behind both.
        settled = now - incident.created_at >= settle
        flow = canonical.known.get(incident.root)
        case = named.get(incident.case_id) if incident.case_id else None
        if case is None and incident.case_id is None:
            case = by_key.get((flow.order_id, incident.key)) if flow else unowned.get(incident.key)
        if case is not None:
            found = _judge_incident(incident, case)
            # A job names its case only once that is committed: under which incident it stands is told at once.
            told_at_once = incident.state == "ACTIVE" and case.is_open
            if found is not None and (settled or told_at_once):
                findings.append(found)
        elif settled and incident.state == "ACTIVE":
            findings.append(_judge_stranger(incident, flow, observed.owners.get(incident.key)))
    return findings


def _judge_stranger(incident: Incident, flow: Flow | None, owner: Owner | None) -> Finding:
    """An incident that no job of ours speaks of. Whose flow it is, its root tells, or else its own variables (EC60);
    what was replaced stops nobody, and what is no order's only the engine's people can explain."""
    evidence = f"incident {incident.key} at {incident.place or incident.process or 'an unknown place'}"
    whose = Owner(flow.tenant_id, flow.order_id, flow.run) if flow else owner
    if whose is None:
        return Finding("INCIDENT_WITHOUT_CASE", incident.key, f"{evidence}, of no order", incident.created_at)
    repair = None
    if flow is not None and flow.part is None:
        evidence = f"{evidence}, of a flow that was replaced or has nothing left to do"
    else:
        repair = Repair(
            "OPEN",
            whose.tenant_id,
            whose.order_id,
            derive_id(whose.order_id, "incident", whose.run, incident.key),
            "INCIDENT_WITHOUT_CASE",
            incident_key=incident.key,
            run=whose.run,
            evidence=incident.place,
            noted=flow is not None,
        )
    return Finding(
        "INCIDENT_WITHOUT_CASE", incident.key, evidence, incident.created_at, repair, whose.tenant_id, whose.order_id
    )


def _judge_incident(incident: Incident, case: CaseInEngine) -> Finding | None:
    def told(klass: str, kind: str, evidence: str) -> Finding:
        repair = Repair(
            kind,
            case.tenant_id,
            case.order_id,
            derive_id(case.case_id, kind, incident.key),
            klass,
            case_id=case.case_id,
            incident_key=incident.key,
            job_key=incident.job_key,
        )
        return Finding(klass, str(case.case_id), evidence, incident.created_at, repair, case.tenant_id, case.order_id)

    if incident.state == "ACTIVE" and not case.is_open:
        return told("INCIDENT_OF_CLOSED_CASE", "RESOLVE", f"incident {incident.key} outlives its case")
    if incident.state == "ACTIVE" and case.incident_key != incident.key:
        return told("INCIDENT_WITHOUT_CASE", "PARK", f"incident {incident.key} is not yet told on its case")
    if incident.state == "RESOLVED" and case.is_open and case.incident_key == incident.key:
        return told("CASE_WITHOUT_INCIDENT", "CLOSE", f"incident {incident.key} was resolved in the engine")
    return None
