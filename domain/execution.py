"""An effect in three beats, seen from the core: claim, outcome, verification. It must never call anybody, and never
build on an outcome that nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from domain.commands import ClaimTask, ClaimVerification, RecordOutcome
from domain.compensation import compensation_input, confirm_effect, step_in
from domain.impact import quote_input
from domain.ledger import LEASE_MARGIN, Attempt, Effect, back_off
from domain.order import IN_FLIGHT, REFUSED, RUNNING, Draft, Failure, Reported, Task
from domain.policy import TaskType, format_duration
from domain.values import EffectId, Json

# What a job is told: its flow branches on these words and knows nothing else.
CONFIRMED: Final = "confirmed"
ACCEPTED: Final = "accepted"
UNKNOWN: Final = "unknown"
RETRY: Final = "retry"
CASE: Final = "case"
EXHAUSTED: Final = "exhausted"
BUSY: Final = "busy"
CALL: Final = "call"
ASK: Final = "ask"
STAND_DOWN: Final = "stand_down"

_STAND_DOWN: Final[Mapping[str, Json]] = {"verdict": STAND_DOWN}
_HAPPENED: Final = frozenset({"CONFIRMED", "REVERSED", "WAIVED"})


def claim_task(draft: Draft, command: ClaimTask) -> Mapping[str, Json]:
    """The gate before every outside call. Whoever does not get {"verdict": "call"} calls nobody."""
    task = draft.tasks.get(command.task_id)
    if task is None or _is_stale(task, command.release):
        return _STAND_DOWN
    task_type = draft.task_type(task)
    effect = draft.effect_of(task)
    if task.state == RUNNING[task.kind] and effect is not None:
        return _reclaim(draft, task, task_type, effect)
    if task.state != "READY":
        return _verdict(draft, task)
    if draft.is_held(task):
        # Whoever holds it decides; it goes out again, under a new release, when nobody does.
        draft.change_task(task.task_id, handed=False, release=task.release + 1)
        return _STAND_DOWN
    if effect is None or effect.state != "UNKNOWN":
        effect = _intend(draft, task, task_type)
    draft.move_task(
        task.task_id, RUNNING[task.kind], effect_id=effect.effect_id, started_at=task.started_at or draft.now
    )
    return _call(draft, draft.tasks[task.task_id], task_type, effect)


def _is_stale(task: Task, release: int) -> bool:
    # An ended task has been taken back from its walker, but its own flow may still be told how it ended.
    return task.release != release or not (task.handed or task.has_ended)


def _intend(draft: Draft, task: Task, task_type: TaskType) -> Effect:
    effect = Effect(
        effect_id=EffectId(draft.new_id("effect")),
        task_id=task.task_id,
        task_type=task.task_type,
        system=task_type.system,
        operation=task_type.operation,
        level=task_type.external_effect_level,
        state="INTENDED",
        input=effect_input(draft, task),
        intended_at=draft.now,
        reverses=task.reverses if task.kind == "COMPENSATION" and task.purpose == "COMPENSATE" else None,
        withdraws=task.reverses if task.purpose == "WITHDRAW" else None,
    )
    draft.add_effect(effect)
    return effect


def _call(draft: Draft, task: Task, task_type: TaskType, effect: Effect) -> Mapping[str, Json]:
    """Take the lease and say what to send. The attempt's row is written before anybody is called."""
    effect = draft.change_effect(
        effect.effect_id,
        attempt=effect.attempt + 1,
        called_at=draft.now,
        missed_at=None,
        lease_until=draft.now + task_type.timeout + LEASE_MARGIN,
    )
    draft.attempts[effect.effect_id, effect.attempt] = Attempt(effect.effect_id, effect.attempt, draft.now)
    original = draft.effects.get(effect.reverses or effect.withdraws or effect.effect_id)
    undoes = effect.reverses or effect.withdraws
    return {
        "verdict": CALL,
        "effect_id": str(effect.effect_id),
        "attempt": effect.attempt,
        "system": effect.system,
        "timeout": task_type.timeout.total_seconds(),
        "body": {
            "taskType": task.task_type,
            "operation": task_type.operation,
            "system": task_type.system,
            "tenantId": str(draft.head.tenant_id),
            "orderId": str(draft.head.order_id),
            "taskId": str(task.task_id),
            "itemIds": list(task.item_ids),
            "input": effect.input,
            "reverses": {
                "effectId": str(undoes),
                "externalReference": original.external_reference if original else None,
            }
            if undoes
            else None,
            "attempt": effect.attempt,
        },
    }


def _reclaim(draft: Draft, task: Task, task_type: TaskType, effect: Effect) -> Mapping[str, Json]:
    """A claimed task is asked for again: its holder is still within the lease, or died somewhere around the call."""
    if effect.lease_until and draft.now < effect.lease_until:
        return {"verdict": BUSY, "wait": (effect.lease_until - draft.now).total_seconds()}
    if draft.is_held(task):
        # It may have happened or not; while somebody holds the task, that is found out by asking, not by doing.
        return _become_unknown(draft, task, effect, "the caller died; the outcome is not known")
    return _call(draft, task, task_type, effect)


def effect_input(draft: Draft, task: Task) -> dict[str, Json]:
    """What the system is sent (1-domain §3): the order's values that the type names, upstream results, the asset."""
    if task.purpose == "QUOTE":
        return quote_input(draft, draft.amendments[draft.plans[task.plan_id].owner_id])
    if task.kind == "COMPENSATION":
        return replace_parts(compensation_input(draft, task), task.replaced_input)
    task_type = draft.task_type(task)
    upstream: dict[str, Json] = {}
    for predecessor_id in task.depends_on:
        predecessor = draft.tasks.get(predecessor_id)
        effect = draft.effect_of(predecessor) if predecessor else None
        if predecessor and effect and effect.state == "CONFIRMED":
            upstream[predecessor.step] = {
                "externalReference": effect.external_reference,
                "output": effect.output,
            }
    snapshot = next((draft.items[i].snapshot for i in task.item_ids if draft.items[i].snapshot), None)
    body = {"order": select_inputs(draft, task, task_type.inputs), "upstream": upstream, "asset": snapshot}
    return replace_parts(body, task.replaced_input)


def replace_parts(body: Mapping[str, Json], parts: Mapping[str, Json] | None) -> dict[str, Json]:
    """The input with what a repair put in its place; objects member by member, everything else as a whole."""
    merged = dict(body)
    for name, part in (parts or {}).items():
        old = merged.get(name)
        merged[name] = replace_parts(old, part) if isinstance(old, Mapping) and isinstance(part, Mapping) else part
    return merged


def select_inputs(draft: Draft, task: Task, pointers: tuple[str, ...]) -> dict[str, Json]:
    """The sub-document of the order at these pointers, in the order's own shape; `*` stands for the task's items. What
    the order does not say is absent, without an empty place where it would be."""
    document = draft.document_of(task)
    selected: dict[str, Json] = {}
    items: dict[str, dict[str, Json]] = {}
    for pointer in pointers:
        parts = pointer.strip("/").split("/")
        if parts[0] == "items" and len(parts) > 1:
            wanted = task.item_ids if parts[1] == "*" else tuple(i for i in task.item_ids if i == parts[1])
            for item_id in wanted:
                target = items.setdefault(item_id, {"itemId": item_id})
                _copy(draft.items[item_id].document(), parts[2:], target)
        else:
            _copy(document, parts, selected)
    if items:
        selected["items"] = list(items.values())
    return selected


def _copy(source: Json, parts: list[str], target: dict[str, Json]) -> None:
    for part in parts:
        source = source.get(part) if isinstance(source, Mapping) else None
    if source is not None and parts:
        for part in parts[:-1]:
            target = target.setdefault(part, {})
        target[parts[-1]] = source


# -- outcome ----------------------------------------------------------------------------------------------


def record_outcome(draft: Draft, command: RecordOutcome, reported: Reported) -> Mapping[str, Json]:
    """Write down what is known about an effect; compare-and-set on its being open. Says what the job should do next."""
    effect = draft.effects[command.effect_id]
    task = draft.tasks[effect.task_id]
    task_type = draft.task_type(task)
    if command.attempt is not None and command.source == "CALL":
        draft.attempts[effect.effect_id, command.attempt] = Attempt(
            effect.effect_id,
            command.attempt,
            effect.called_at or draft.now,
            draft.now,
            command.state,
            command.reason,
        )
    if not effect.is_open:
        _hear_late(draft, task, effect, command, reported)
        return _verdict(draft, draft.tasks[task.task_id])
    match command.state:
        case "CONFIRMED":
            _confirm(draft, effect, command)
        case "NO_EFFECT":
            _refuse(draft, task, effect, command, reported)
        case "ACCEPTED":
            _accept(draft, task, effect)
        case "UNKNOWN":
            if command.attempt == effect.attempt and not effect.accepted_at:
                return _become_unknown(draft, task, effect, command.reason)
        case "MISSING":
            return _missing(draft, task, task_type, effect, reported)
        case "UNREACHABLE":
            return _ask_again(draft, task, task_type, draft.change_effect(effect.effect_id), reported)
    if command.source == "VERIFICATION" and command.state == "ACCEPTED":
        return _ask_again(draft, draft.tasks[task.task_id], task_type, draft.effects[effect.effect_id], reported)
    return _verdict(draft, draft.tasks[task.task_id])


def _confirm(draft: Draft, effect: Effect, command: RecordOutcome) -> None:
    confirm_effect(
        draft,
        effect.effect_id,
        external_reference=command.external_reference,
        output=command.output,
        reason=None,
    )
    called_off = draft.effects[effect.withdraws] if effect.withdraws else None
    if called_off is not None and called_off.state in _HAPPENED:  # it is said to have been stopped, and has happened
        _contradict(draft, called_off, "NO_EFFECT", command.source)


def _contradict(draft: Draft, effect: Effect, reported: str, source: str) -> None:
    """Somebody says the opposite of what is known of an effect: a finding; what was known stands."""
    draft.record(
        "OUTCOME_CONTRADICTED",
        "EFFECT",
        effect.effect_id,
        recorded=effect.state,
        reported=reported,
        source=source,
    )


def _refuse(draft: Draft, task: Task, effect: Effect, command: RecordOutcome, reported: Reported) -> None:
    """The system says that nothing happened, and will not happen by asking again."""
    draft.move_effect(effect.effect_id, "NO_EFFECT", reason=command.reason)
    if task.has_ended:
        return
    if effect.withdraws or task.purpose == "QUOTE":
        step_in(draft, task, "COMPLETED")  # too late to stop it, or no such offer: an answer, not a failure
        return
    step_in(draft, task, REFUSED[task.kind])
    reported.failures.append(
        Failure(draft.tasks[task.task_id], "BUSINESS", f"{effect.system} refused {task.task_type}")
    )


def _accept(draft: Draft, task: Task, effect: Effect) -> None:
    if effect.accepted_at is None:
        draft.change_effect(effect.effect_id, accepted_at=draft.now, lease_until=None)
        draft.record("EFFECT_ACCEPTED", "EFFECT", effect.effect_id, taskId=str(task.task_id))
    if task.state in {RUNNING[task.kind], "OUTCOME_UNKNOWN"}:
        draft.move_task(task.task_id, "WAITING_EXTERNAL")


def _become_unknown(draft: Draft, task: Task, effect: Effect, reason: str | None) -> Mapping[str, Json]:
    changes: dict[str, Json] = {
        "failures": effect.failures + 1,
        "lease_until": None,
        "reason": reason,
        "unknown_since": effect.unknown_since or draft.now,
    }
    if effect.state == "INTENDED":
        draft.move_effect(effect.effect_id, "UNKNOWN", **changes)
    else:
        draft.change_effect(effect.effect_id, **changes)
    if task.state == RUNNING[task.kind]:
        draft.move_task(task.task_id, "OUTCOME_UNKNOWN")
    return _verdict(draft, draft.tasks[task.task_id])


def _missing(draft: Draft, task: Task, task_type: TaskType, effect: Effect, reported: Reported) -> Mapping[str, Json]:
    """The system does not know the effect. Doing it again under the same id is safe; believing that it never
    happened takes two such answers, late enough."""
    may_go_on = task.kind == "COMPENSATION" or not draft.is_held(task)
    if effect.failures < task_type.attempts and may_go_on and task.state == "OUTCOME_UNKNOWN":
        draft.move_task(task.task_id, "READY")
        return {"verdict": RETRY}
    if effect.called_at is not None and draft.now < effect.called_at + task_type.timeout:
        rest = effect.called_at + task_type.timeout - draft.now
        return {"verdict": UNKNOWN, "wait": format_duration(rest), "case_id": None}
    if effect.missed_at is None:
        draft.change_effect(effect.effect_id, missed_at=draft.now)
        return {"verdict": UNKNOWN, "wait": "PT1S", "case_id": None}
    draft.move_effect(effect.effect_id, "NO_EFFECT", reason="the system does not know it")
    if task.has_ended:
        return _STAND_DOWN
    if not may_go_on and effect.failures < task_type.attempts:
        draft.move_task(task.task_id, "READY", handed=False, release=task.release + 1)
        return _STAND_DOWN
    if effect.withdraws:
        step_in(draft, task, "COMPLETED")  # it could not be stopped: the original is awaited, nobody is at fault
        return _verdict(draft, draft.tasks[task.task_id])
    step_in(draft, task, "FAILED")
    if task.kind == "COMPENSATION":
        draft.move_task(task.task_id, "IN_FALLOUT")
    reported.failures.append(
        Failure(
            draft.tasks[task.task_id],
            "TECHNICAL",
            f"{effect.system} did not do {task.task_type} in {effect.attempt} attempts",
        )
    )
    return {"verdict": EXHAUSTED}


def _ask_again(draft: Draft, task: Task, task_type: TaskType, effect: Effect, reported: Reported) -> Mapping[str, Json]:
    """No answer that settles it: wait and ask again, until the policy says that a person must find out."""
    since = effect.unknown_since or draft.now
    if effect.unknown_since is None:
        draft.change_effect(effect.effect_id, unknown_since=draft.now)
    if draft.now - since >= task_type.verify.give_up_after:
        reported.failures.append(
            Failure(
                draft.tasks[task.task_id],
                "UNKNOWN_OUTCOME",
                f"{effect.system} does not say what became of {task.task_type}",
            )
        )
        return {"verdict": CASE}
    if effect.accepted_at is not None:
        return {
            "verdict": ACCEPTED,
            "wait_key": wait_key(effect),
            "wait": format_duration(task_type.verify.every),
            "case_id": None,
        }
    elapsed = int((draft.now - since).total_seconds() // max(task_type.backoff.total_seconds(), 0.001))
    pause = back_off(task_type, effect.failures + elapsed.bit_length(), effect.effect_id)
    return {"verdict": UNKNOWN, "wait": format_duration(pause), "case_id": None}


def _hear_late(draft: Draft, task: Task, effect: Effect, command: RecordOutcome, reported: Reported) -> None:
    """A report about an effect that had been settled. The same again changes nothing; the opposite is a finding, and
    one that says "it happened after all" is a fact: it mends the failed task, or must be undone."""
    if command.state == "CONFIRMED" and effect.state == "NO_EFFECT":
        draft.record("LATE_EFFECT", "EFFECT", effect.effect_id, taskId=str(task.task_id), source=command.source)
        for other in draft.effects.values():
            if other.withdraws == effect.effect_id and other.state == "CONFIRMED":
                _contradict(draft, other, "NO_EFFECT", command.source)  # so it was not called off
        if task.effect_id == effect.effect_id and task.state in {"FAILED", "IN_FALLOUT", "READY"}:
            _confirm(draft, effect, command)
        elif task.purpose == "QUOTE":
            return  # a price that nobody waits for any more
        elif not effect.is_original:  # undone (or called off) twice: a person must look, nothing is called (I4)
            reported.twice.append(effect.effect_id)
        else:
            draft.move_effect(
                effect.effect_id,
                "CONFIRMED",
                external_reference=command.external_reference,
                output=command.output,
            )
            reported.late.append(effect.effect_id)
        return
    if command.state == "NO_EFFECT" and effect.state in _HAPPENED:
        _contradict(draft, effect, command.state, command.source)


# -- what a job is told ---------------------------------------------------------------------------------------


def wait_key(effect: Effect) -> str:
    """Names one wait for one outcome: a late wake-up of an earlier attempt cannot end a later wait."""
    return f"{effect.effect_id}:{effect.attempt}"


def _verdict(draft: Draft, task: Task) -> Mapping[str, Json]:
    effect = draft.effect_of(task)
    if task.state in {"COMPLETED", "COMPENSATING", "COMPENSATED", "WAIVED"}:
        return {"verdict": CONFIRMED}
    if task.state in {"FAILED", "IN_FALLOUT"}:
        return {"verdict": CASE}
    if task.state not in IN_FLIGHT or effect is None:
        return _STAND_DOWN
    task_type = draft.task_type(task)
    if task.state == "WAITING_EXTERNAL":
        if effect.accepted_at is None or draft.now - effect.accepted_at >= task_type.callback_timeout:
            wait = task_type.verify.every
        else:
            wait = effect.accepted_at + task_type.callback_timeout - draft.now
        return {
            "verdict": ACCEPTED,
            "wait_key": wait_key(effect),
            "wait": format_duration(wait),
            "case_id": None,
        }
    if task.state == "OUTCOME_UNKNOWN":
        pause = back_off(task_type, effect.failures, effect.effect_id)
        return {"verdict": UNKNOWN, "wait": format_duration(pause), "case_id": None}
    lease = effect.lease_until or draft.now
    return {"verdict": BUSY, "wait": max((lease - draft.now).total_seconds(), 0.0)}


def claim_verification(draft: Draft, command: ClaimVerification) -> Mapping[str, Json]:
    """Whether the system should be asked; an answer that has come meanwhile is told without asking."""
    task = draft.tasks.get(command.task_id)
    if task is None or _is_stale(task, command.release):
        return _STAND_DOWN
    effect = draft.effect_of(task)
    if task.state not in {"OUTCOME_UNKNOWN", "WAITING_EXTERNAL"} or effect is None:
        return _verdict(draft, task) if task.state != "READY" else {"verdict": RETRY}
    return {
        "verdict": ASK,
        "effect_id": str(effect.effect_id),
        "attempt": effect.attempt,
        "system": effect.system,
        "timeout": draft.task_type(task).timeout.total_seconds(),
    }
