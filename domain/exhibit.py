"""What a form shows to whoever must decide: short lines that Tasklist sets as a list. It must never carry personal
data, and nothing of it is read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from domain.values import Json, Money

MOST: Final = 2000  # bytes: variables of the engine stay small
_CUT: Final = "- and more; all of it is on our page"


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


def tell_counts(codes: Iterable[str]) -> list[str]:
    """How many of each: "2 × will be undone" needs no list of tasks."""
    counts: dict[str, int] = {}
    for code in codes:
        counts[code] = counts.get(code, 0) + 1
    return [f"{count} × {say(code)}" for code, count in sorted(counts.items())]


def tell_reasons(found: Mapping[str, Json]) -> list[str]:
    """What stands in the way, and every other rule that was applied, in its own words."""
    return [
        *(f"In the way: {blocker['message']}" for blocker in found.get("blockers", ())),
        *(f"Why: {rule['sentence']}" for rule in found.get("trace", ()) if rule["severity"] != "BLOCKER"),
    ]


def say(code: str) -> str:
    return code.replace("_", " ").lower()
