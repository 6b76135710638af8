"""What waits for itself, in whatever waits for something: steps, undoings, items, offerings."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

N = TypeVar("N", bound=Hashable)


def find_circle(graph: Mapping[N, Iterable[N]]) -> list[N]:
    """One circle, its first node again at its end, or nothing. Edges lead to what is waited for."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[N] = error.args[1]
        return found[::-1]
    return []
