"""How far an order is, in numbers and in one sentence: what is in the way, who must act, by when. It must never decide
anything, and never name what only the inside of the product knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from domain.machines import has_ended
from domain.policy import parse_duration
from domain.values import Json, Money, format_time

Row = Mapping[str, Any]

_ENDED: Final[Mapping[str, str]] = {
    "COMPLETED": "Your order is complete.",
    "PARTIALLY_COMPLETED": "Your order has ended; a part of it was delivered.",
    "CANCELLED": "Your order is cancelled; everything that had been done for it is undone.",
    "FAILED": "Your order could not be carried out.",
    "REJECTED": "Your order could not be accepted.",
}

# Undoings that wait: for what they would undo, or for their own answer.
_WAITING: Final = frozenset({"AWAITING_ORIGINAL", "WAITING_EXTERNAL", "OUTCOME_UNKNOWN"})

# What is being waited for while a change wants quiet.
_RUNNING: Final = frozenset({"IN_PROGRESS", "WAITING_EXTERNAL", "OUTCOME_UNKNOWN"})


def describe_progress(found: Row) -> dict[str, Json]:
    """The body of 2-api's /progress without the order's id, from what the database knows (views.sql, read_progress)."""
    change = _change_of(found)
    undoing = _is_undoing(found)
    tasks = _tasks_of_change(found, undoing=undoing)
    done = sum(has_ended("TASK" if "kind" in task else "COMPENSATION_TASK", task["state"]) for task in tasks)
    blockers = find_blockers(found, undoing=undoing)
    depth = find_depths({task["task_id"]: task["depends_on"] for task in tasks})
    return {
        "state": found["state"],
        "change": _tell_change(found, change),
        "done": done,
        "total": len(tasks),
        "tasks": [
            {"taskId": task["task_id"], "step": task["step"], "type": task["task_type"], "state": task["state"]}
            for task in sorted(tasks, key=lambda task: (depth[task["task_id"]], task["step"], task["task_id"]))
        ],
        "blockers": blockers,
        "sentence": _sentence(found, done, len(tasks), blockers, undoing=undoing),
    }


def _change_of(found: Row) -> Row | None:
    """The change that is told of: a cancellation comes before an amendment, as on the order itself."""
    change: Row | None = found["request"] or found["amendment"]
    return change


def _is_undoing(found: Row) -> bool:
    """Whether the change is past deciding, and its plan undoes what it must."""
    change = _change_of(found)
    if change is None or change["plan_id"] is None:
        return False
    return found["request"] is not None or change["status"] == "APPLYING"


def _tell_change(found: Row, change: Row | None) -> dict[str, Json]:
    if change is None:
        return {"kind": "FULFILLMENT"}
    if found["request"] is None:
        return {"kind": "AMENDMENT", "amendmentRequestId": change["request_id"], "status": change["status"]}
    return {
        "kind": "CANCELLATION",
        "cancellationRequestId": change["request_id"],
        "status": change["status"],
        "scope": change["scope"],
    }


def _tasks_of_change(found: Row, *, undoing: bool) -> list[dict[str, Json]]:
    """What a cancellation undoes; what an amendment undoes with all that the order then needs; else the order's own."""
    own = list(found["tasks"] or ())
    if not undoing:
        return own
    change = _change_of(found)
    assert change is not None
    undoings = [
        {**task, "depends_on": found["edges"].get(task["task_id"], [])}
        for task in found["undoings"] or ()
        if task["plan_id"] == change["plan_id"]
    ]
    return undoings if found["request"] is not None else [*undoings, *own]


def find_blockers(found: Row, *, undoing: bool) -> list[dict[str, Json]]:
    """What the change waits for, what people must do first; each with who must act and, where it is known, by when."""
    blockers: list[dict[str, Json]] = []
    change = _change_of(found)
    if change is not None:
        blockers += _find_decision(change, "change" if found["request"] is None else "cancellation")
    if found["request"] is not None and change is not None and change["status"] == "ACCEPTED_FOR_ASSESSMENT":
        blockers += _find_larger(found)
    if found["operator_hold"]:
        blockers.append(_blocker("HOLD", "The order is on hold", "an operator", None))
    blockers += [
        _blocker(
            "DEPENDENCE", "The order depends on another one, which is being cancelled", "nobody", None, _source_of(h)
        )
        for h in found["cause_holds"] or ()
    ]
    for case in found["cases"] or ():
        actor = case["owner"] or "an operator"
        blocker = _blocker("CASE", case["title"], actor, case["sla_at"], case["case_id"])
        blockers.append({**blocker, **({"taskId": case["task_id"]} if case["task_id"] else {})})
    if change is not None and (undoing or change["status"] == "ASSESSING"):
        blockers += _find_waits(found, change, undoing=undoing)
    if found["request"] is None and found["starts_at"] and not found["tasks"]:
        blockers.append(_blocker("DATE", "The order waits for its start date", "nobody", found["starts_at"]))
    return blockers


def _source_of(holder: str) -> str:
    """The order whose cancellation holds this one (`domain/dependence`)."""
    return holder.removeprefix("order:").partition("/")[0]


def _find_decision(change: Row, noun: str) -> list[dict[str, Json]]:
    """What somebody must decide before the change goes on; at most one thing."""
    about = change["request_id"]
    match change["status"]:
        case "REQUIRES_APPROVAL":
            message = f"The {noun} waits for approval"
            return [_blocker("APPROVAL", message, "an approver", change["sla_at"], about)]
        case "AWAITING_CHARGE_DECISION":
            charge = change["charge"] or {}
            message = f"A charge of {Money.from_json(charge['amount'])} for the {noun} waits for an answer"
            return [_blocker("CHARGE", message, "the customer", charge.get("respondBy"), about)]
        case "APPROVED" if noun == "change" and not change["auto_apply"]:
            return [
                _blocker(
                    "APPLY", f"The {noun} is approved and waits to be applied", "whoever asked for it", None, about
                )
            ]
        case "QUEUED":
            return [_blocker("QUEUE", f"The {noun} waits until another one is over", "nobody", None, about)]
    return []


def _find_larger(found: Row) -> list[dict[str, Json]]:
    """A cancellation is not judged while a change is being made to the order, or still undoes something: that one, and
    what it waits for."""
    amendment = found["amendment"]
    at_work = dict.fromkeys(task["plan_id"] for task in found["undoings"] or () if task["state"] in _WAITING)
    applying = amendment is not None and amendment["status"] == "APPLYING"
    if not applying and not at_work:
        return []
    message = "The cancellation waits until a change that is being made to the order is over"
    about = amendment["request_id"] if applying else None
    waits = [wait for plan_id in at_work for wait in _find_waits(found, {"plan_id": plan_id}, undoing=True)]
    return [_blocker("QUEUE", message, "nobody", None, about), *waits]


def _find_waits(found: Row, change: Row, *, undoing: bool) -> list[dict[str, Json]]:
    """Work of outside systems whose outcome must be known before the change can go on."""
    own = {task["task_id"]: task for task in (*(found["tasks"] or ()), *(found["undoings"] or ()))}
    # While an amendment is looked at, the plan that asks for prices is the one that is waited for.
    plan_id = change["plan_id"] if undoing else change.get("quote_plan")
    about = {
        t["original_task"] if t["state"] == "AWAITING_ORIGINAL" else t["task_id"]
        for t in found["undoings"] or ()
        if t["plan_id"] == plan_id and t["state"] in _WAITING
    }
    quiet = set()
    if not undoing:
        quiet = {t["task_id"] for t in found["tasks"] or () if t["held"] and t["state"] in _RUNNING}
    blockers: list[dict[str, Json]] = []
    for effect in found["open_effects"] or ():
        task = own.get(effect["task_id"])
        if task is None or effect["task_id"] not in about | quiet:
            continue
        by = change["grace_until"] if effect["task_id"] in quiet else None
        if by is None and effect["accepted_at"]:
            accepted = datetime.fromisoformat(effect["accepted_at"])
            by = (accepted + parse_duration(effect["callback_timeout"])).isoformat()
        blocker = _blocker("OUTCOME", f"{task['task_type']} has no outcome yet", effect["system"], by)
        blockers.append({**blocker, "taskId": effect["task_id"]})
    return blockers


def _blocker(kind: str, message: str, actor: str, by: str | None, about: str | None = None) -> dict[str, Json]:
    when = format_time(datetime.fromisoformat(by)) if by else None
    return {
        "kind": kind,
        **({"id": about} if about else {}),
        "message": message,
        "actor": actor,
        **({"by": when} if when else {}),
    }


def _sentence(found: Row, done: int, total: int, blockers: list[dict[str, Json]], *, undoing: bool) -> str:
    """Names what blocks, who must act and by when."""
    if found["state"] in _ENDED:
        return _ENDED[found["state"]]
    request = found["request"]
    whole = request is not None and request["scope"] == "ORDER"
    if request is None and found["amendment"]:
        said = (
            f"Your order is being changed: {done} of {total} steps are done"
            if found["amendment"]["status"] == "APPLYING"
            else "Your change of the order is being looked at; what it does not touch goes on"
        )
    elif undoing:
        said = (
            f"{'Your order' if whole else 'A part of your order'} is being cancelled: {done} of {total} steps are done"
        )
    elif whole:
        said = "Your cancellation is being looked at; nothing new is started meanwhile"
    elif request is not None:
        said = "Your cancellation of a part of the order is being looked at; the rest goes on"
    elif not total:
        said = "Your order has been received and is being prepared"
    else:
        said = f"Your order is being carried out: {done} of {total} steps are done"
    return " ".join([f"{said}.", *(_say(blocker, found) for blocker in blockers[:3])])


def _in_words(message: str, found: Row) -> str:
    """The policy's names of work as a customer reads them: release-inventory is "release inventory"."""
    names = {task["task_type"] for task in (*(found["tasks"] or ()), *(found["undoings"] or ()))}
    for name in sorted(names, key=len, reverse=True):
        message = message.replace(name, name.replace("-", " ").replace("_", " "))
    return message[:1].upper() + message[1:]


def _say(blocker: Mapping[str, Json], found: Row) -> str:
    message = _in_words(str(blocker["message"]).rstrip("."), found)
    by = f" by {blocker['by']}" if "by" in blocker else ""
    match blocker["kind"]:
        case "DATE":
            return f"{message}, {blocker['by']}."
        case "QUEUE" | "DEPENDENCE":
            return f"{message}."
        case "OUTCOME":
            return f"{message}; {blocker['actor']} must finish it{by}."
        case _:
            return f"{message}; {blocker['actor']} must act{by}."


def find_depths(depends_on: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Per node of an acyclic graph the length of the longest way to it; edges to unknown nodes do not count."""
    known = {node: [other for other in others if other in depends_on] for node, others in depends_on.items()}
    waiting = {node: len(others) for node, others in known.items()}
    followers: dict[str, list[str]] = {}
    for node, others in known.items():
        for other in others:
            followers.setdefault(other, []).append(node)
    depth = dict.fromkeys(known, 0)
    ready = [node for node, count in waiting.items() if not count]
    for node in ready:  # grows while it is walked
        for follower in followers.get(node, ()):
            depth[follower] = max(depth[follower], depth[node] + 1)
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    return depth
