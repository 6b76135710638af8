"""How far an order is, in numbers and in one sentence: what is in the way, who must act, by when. It must never decide
anything, and never name what only the inside of the product knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from domain.machines import has_ended
from domain.policy import parse_duration
from domain.values import Json, format_time

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

# What is being waited for while a cancellation wants quiet.
_RUNNING: Final = frozenset({"IN_PROGRESS", "WAITING_EXTERNAL", "OUTCOME_UNKNOWN"})


def describe_progress(found: Row) -> dict[str, Json]:
    """The body of 2-api's /progress without the order's id, from what the database knows (views.sql, read_progress)."""
    request = found["request"]
    undoing = request is not None and request["plan_id"] is not None
    tasks = _tasks_of_change(found, undoing=undoing)
    machine = "COMPENSATION_TASK" if undoing else "TASK"
    done = sum(has_ended(machine, task["state"]) for task in tasks)
    change: dict[str, Json] = {"kind": "FULFILLMENT"}
    if request is not None:
        change = {
            "kind": "CANCELLATION",
            "cancellationRequestId": request["request_id"],
            "status": request["status"],
            "scope": request["scope"],
        }
    blockers = find_blockers(found, undoing=undoing)
    depth = find_depths({task["task_id"]: task["depends_on"] for task in tasks})
    return {
        "state": found["state"],
        "change": change,
        "done": done,
        "total": len(tasks),
        "tasks": [
            {"taskId": task["task_id"], "step": task["step"], "type": task["task_type"], "state": task["state"]}
            for task in sorted(tasks, key=lambda task: (depth[task["task_id"]], task["step"], task["task_id"]))
        ],
        "blockers": blockers,
        "sentence": _sentence(found, done, len(tasks), blockers, undoing=undoing),
    }


def _tasks_of_change(found: Row, *, undoing: bool) -> list[dict[str, Json]]:
    if not undoing:
        return list(found["tasks"] or ())
    return [
        {**task, "depends_on": found["edges"].get(task["task_id"], [])}
        for task in found["undoings"] or ()
        if task["plan_id"] == found["request"]["plan_id"]
    ]


def find_blockers(found: Row, *, undoing: bool) -> list[dict[str, Json]]:
    """What the change waits for, what people must do first; each with who must act and, where it is known, by when."""
    blockers: list[dict[str, Json]] = []
    request = found["request"]
    status = request["status"] if request else None
    if status == "REQUIRES_APPROVAL":
        blockers.append(
            _blocker(
                "APPROVAL",
                "The cancellation waits for approval",
                "an approver",
                request["sla_at"],
                request["request_id"],
            )
        )
    if status == "AWAITING_CHARGE_DECISION":
        charge = request["charge"] or {}
        amount = charge.get("amount", {})
        price = f"{amount.get('amountMinor', 0) / 100:.2f} {amount.get('currency', '')}".strip()
        message = f"A charge of {price} for the cancellation waits for an answer"
        blockers.append(_blocker("CHARGE", message, "the customer", charge.get("respondBy"), request["request_id"]))
    if found["operator_hold"]:
        blockers.append(_blocker("HOLD", "The order is on hold", "an operator", None))
    for case in found["cases"] or ():
        actor = case["owner"] or "an operator"
        blocker = _blocker("CASE", case["title"], actor, case["sla_at"], case["case_id"])
        blockers.append({**blocker, **({"taskId": case["task_id"]} if case["task_id"] else {})})
    if undoing or status == "ASSESSING":
        blockers += _find_waits(found, undoing=undoing)
    if request is None and found["starts_at"] and not found["tasks"]:
        blockers.append(_blocker("DATE", "The order waits for its start date", "nobody", found["starts_at"]))
    return blockers


def _find_waits(found: Row, *, undoing: bool) -> list[dict[str, Json]]:
    """Work of outside systems whose outcome must be known before the cancellation can go on."""
    own = {task["task_id"]: task for task in (*(found["tasks"] or ()), *(found["undoings"] or ()))}
    if undoing:
        plan_id = found["request"]["plan_id"]
        waiting = [t for t in found["undoings"] or () if t["plan_id"] == plan_id and t["state"] in _WAITING]
        about = dict.fromkeys(
            t["original_task"] if t["state"] == "AWAITING_ORIGINAL" else t["task_id"] for t in waiting
        )
    else:
        about = dict.fromkeys(t["task_id"] for t in found["tasks"] or () if t["held"] and t["state"] in _RUNNING)
    blockers: list[dict[str, Json]] = []
    for effect in found["open_effects"] or ():
        task = own.get(effect["task_id"])
        if task is None or effect["task_id"] not in about:
            continue
        by = None if undoing else found["request"]["grace_until"]
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
    if undoing:
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
    return " ".join([f"{said}.", *(_say(blocker) for blocker in blockers[:3])])


def _say(blocker: Mapping[str, Json]) -> str:
    message = str(blocker["message"]).rstrip(".")
    by = f" by {blocker['by']}" if "by" in blocker else ""
    match blocker["kind"]:
        case "DATE":
            return f"{message}, {blocker['by']}."
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
