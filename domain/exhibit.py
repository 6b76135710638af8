"""What a form shows to whoever must decide: short lines in words, which Tasklist sets as a list. It must never carry
personal data, and nothing of it is read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from domain.values import Json, Money

MOST: Final = 2000  # bytes: variables of the engine stay small
_MANY: Final = 6  # kinds of work that one line names
_CUT: Final = "- and more; all of it is on our page"

FEASIBILITY: Final[Mapping[str, str]] = {
    "FULLY_CANCELLABLE": "It can be cancelled as a whole.",
    "PARTIALLY_CANCELLABLE": "It can be cancelled in part; something stays.",
    "REQUIRES_MANUAL_REVIEW": "A person must judge whether and how it can be cancelled.",
    "NOT_CANCELLABLE": "It cannot be cancelled.",
    "APPLICABLE": "It can be changed as asked.",
    "PARTIALLY_APPLICABLE": "It can be changed in part.",
    "REQUIRES_APPROVAL": "It can be changed if a person agrees.",
    "NOT_APPLICABLE": "It cannot be changed as asked.",
}
CONSEQUENCE: Final[Mapping[str, str]] = {
    "NOT_STARTED_WILL_NOT_START": "has not started and will not",
    "NOTHING_TO_UNDO": "leaves nothing to undo",
    "COMPENSATE": "will be undone",
    "AWAIT_OUTCOME": "is under way; its outcome is awaited first",
    "VERIFY_OUTCOME": "has an unknown outcome; it is asked for first",
    "RETAIN": "cannot be undone and stays",
    "WITHDRAW": "will be called off before it happens",
    "MANUAL": "a person must say what becomes of it",
}
# What becomes of a task, short enough to stand between two boxes of a picture.
STRATEGY: Final[Mapping[str, str]] = {
    "KEEP": "stays",
    "NEW_VALUE": "gets the new value",
    "REPLACE": "planned anew",
    "ADDED": "is new",
    "REMOVE": "is no longer needed",
    "REDO": "done once more",
    "UNDO_THEN_DO": "undone, then done anew",
    "DO_THEN_UNDO": "done anew, the old undone",
    "UNDO": "undone",
    "WITHDRAW": "called off, done anew",
    "MANUAL": "a person undoes it",
    "MANUAL_UNDO": "a person undoes it",
    "AWAIT": "awaited first",
    "FOLLOW": "stays, unless what it builds on comes out differently",
}
SAFETY: Final[Mapping[str, str]] = {
    "ALLOWED": "yes",
    "ALLOWED_WITH_REVALIDATION": "yes, once the price has been asked for again",
    "REDECOMPOSE": "yes; the work is planned anew",
    "MANUAL": "only if a person agrees",
    "BLOCKED": "no",
}

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])[A-Z]")


def draw_up(lines: Iterable[str]) -> str:
    """The lines as a list, whole ones only; of too many the last are left out, and that is said."""
    drawn, left = "", MOST - len(_CUT.encode())
    for line in lines:
        row = f"- {' '.join(line.split())}\n"
        left -= len(row.encode())
        if left < 0:
            return drawn + _CUT
        drawn += row
    return drawn.rstrip()


def tell_costs(found: Mapping[str, Json]) -> str:
    return f"Cost: {Money.from_json(found['estimatedCost'])}"


def tell_works(works: Iterable[tuple[str, str]], words: Mapping[str, str]) -> list[str]:
    """What becomes of the work, a line for each: "reserve inventory, ship device (2): will be undone".

    works: per task its type and the code of what becomes of it, for which `words` has words
    """
    counts: dict[str, dict[str, int]] = {}
    for task_type, code in works:
        kinds = counts.setdefault(words.get(code) or say(code), {})
        kinds[task_type] = kinds.get(task_type, 0) + 1
    lines: list[str] = []
    for become, kinds in counts.items():
        named = [f"{say(kind)} ({count})" if count > 1 else say(kind) for kind, count in kinds.items()]
        more = [f"{len(named) - _MANY} more kinds"] if len(named) > _MANY else []
        lines.append(f"{', '.join([*named[:_MANY], *more])}: {become}")
    return lines


def tell_reasons(found: Mapping[str, Json]) -> list[str]:
    """What stands in the way, and every other rule that was applied, in its own words."""
    return [
        *(f"In the way: {blocker['message']}" for blocker in found.get("blockers", ())),
        *(f"Why: {rule['sentence']}" for rule in found.get("trace", ()) if rule["severity"] != "BLOCKER"),
    ]


def say(code: str) -> str:
    return code.replace("_", " ").replace("-", " ").lower()


def place(pointer: str) -> str:
    """A JSON pointer into an order as words: `/items/1/configuration/deviceModel` is "item 1, configuration, device
    model"."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    if parts[:1] == ["items"] and len(parts) > 1:
        parts = ["a new item" if parts[1] == "-" else f"item {parts[1]}", *parts[2:]]
    return ", ".join(_CAMEL.sub(lambda found: f" {found[0].lower()}", part) for part in parts)
