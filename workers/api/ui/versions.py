"""Two versions of a plan as one picture, each task beside what became of it. It must never need colour to be read: what
becomes of a task stands between the two, in words, and each kind of it has a border of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from domain.exhibit import STRATEGY
from workers.api.graph import cut
from workers.api.ui.wording import words

Row = Mapping[str, Any]

BOX_WIDTH: Final = 216
BOX_HEIGHT: Final = 46
GAP: Final = 18
MIDDLE: Final = 180
GUTTER: Final = 78
HEAD: Final = 66
LEGEND: Final = 34
MARGIN: Final = 14
MOST: Final = 60  # tasks; of a larger plan only what the amendment touches, and what stands next to that, is drawn

REMOVED: Final = frozenset({"REMOVE", "UNDO", "MANUAL_UNDO"})
REPLACED: Final = frozenset({"REPLACE", "REDO", "UNDO_THEN_DO", "DO_THEN_UNDO", "MANUAL", "WITHDRAW"})

_INK, _QUIET, _LINE = "#18181b", "#52525b", "#71717a"


@dataclass(frozen=True, slots=True)
class _Look:
    words: str
    fill: str
    line: str
    dashes: str


# Kinds of fate, each told apart by its border as well as by its colour.
_LOOKS: Final[Mapping[str, _Look]] = {
    "stays": _Look("stays", "#f4f4f5", "#71717a", ""),
    "new": _Look("begins with the new terms", "#dbeafe", "#2563eb", "7 3"),
    "again": _Look("done again or undone first", "#fef3c7", "#b45309", "2 3"),
    "out": _Look("taken out", "#fee2e2", "#b91c1c", "10 3 2 3"),
    "person": _Look("a person decides, or it is awaited", "#f3e8ff", "#7e22ce", "1 4"),
}
_LOOK_OF: Final[Mapping[str, str]] = {
    "KEEP": "stays",
    **dict.fromkeys(("NEW_VALUE", "REPLACE", "ADDED"), "new"),
    **dict.fromkeys(("REDO", "UNDO_THEN_DO", "DO_THEN_UNDO", "WITHDRAW"), "again"),
    **dict.fromkeys(("REMOVE", "UNDO"), "out"),
    **dict.fromkeys(("MANUAL", "MANUAL_UNDO", "AWAIT"), "person"),
}


@dataclass(frozen=True, slots=True)
class _Pair:
    """One line of the picture: a task before, its counterpart after, and what becomes of it."""

    before: Row | None
    after: Row | None
    strategy: str


def draw_versions(tasks: Sequence[Row], amendments: Iterable[Row], amendment: Row) -> str | None:
    """The plan before and after one amendment, from the tasks of all versions as `list_tasks` shows them; as it would
    become while the amendment is not in the order. None where there is no plan that it could change."""
    found = amendment.get("assessment")
    if not found or not found.get("strategy"):
        return None
    version = amendment.get("newPlanVersion")
    old = version - 1 if version else found["planVersion"]
    left = _find_leaving(tasks, amendments)
    before = [task for task in tasks if _is_in(task, old, left)]
    if not before:
        return None
    fates = {fate["taskId"]: fate for fate in found["strategy"]}
    after = [task for task in tasks if _is_in(task, version, left)] if version else _foresee(before, fates)
    pairs = _pair(before, after, fates)
    earlier = {task["supersededBy"]: task["taskId"] for task in tasks if task.get("supersededBy")}
    edges = (_edges(before, earlier), _edges(after, {old: new for new, old in earlier.items()} if version else {}))
    shown = _choose(pairs, fates, edges)
    heads = (f"Plan {old}", f"Plan {version}" if version else f"Plan {old + 1}, if it is agreed")
    return _draw(shown, edges, heads, len(pairs) - len(shown))


def _find_leaving(tasks: Sequence[Row], amendments: Iterable[Row]) -> dict[str, int]:
    """The version in which a task was no longer there."""
    created = {task["taskId"]: task["planVersion"] for task in tasks}
    left = {
        task["taskId"]: created[task["supersededBy"]]
        for task in tasks
        if task.get("supersededBy") and task["supersededBy"] in created
    }
    for amendment in amendments:
        if version := amendment.get("newPlanVersion"):
            for fate in amendment["assessment"]["strategy"]:
                if fate["strategy"] in REMOVED:
                    left.setdefault(fate["taskId"], version)
    return left


def _is_in(task: Row, version: int, left: Mapping[str, int]) -> bool:
    return bool(task["planVersion"] <= version < left.get(task["taskId"], version + 1))


def _foresee(before: Sequence[Row], fates: Mapping[str, Row]) -> list[Row]:
    return [
        {**task, "state": "PENDING"} if fate in REPLACED else task
        for task in before
        if (fate := fates.get(task["taskId"], {}).get("strategy")) not in REMOVED
    ]


def _pair(before: Sequence[Row], after: Sequence[Row], fates: Mapping[str, Row]) -> list[_Pair]:
    """Every task of both versions once, in the order of the old plan; what is new stands behind what comes before it
    in the new one."""
    later = {task["taskId"]: task for task in after}
    pairs = [
        _Pair(
            {**task, "state": fates[task["taskId"]]["state"]} if task["taskId"] in fates else task,
            later.get(task["taskId"]) or later.get(task.get("supersededBy") or ""),
            fates.get(task["taskId"], {}).get("strategy", "KEEP"),
        )
        for task in before
    ]
    kept = {pair.after["taskId"] for pair in pairs if pair.after}
    for task in after:
        if task["taskId"] not in kept:
            first = {*task["dependsOn"]}
            places = [at + 1 for at, pair in enumerate(pairs) if pair.after and pair.after["taskId"] in first]
            pairs.insert(max(places, default=0), _Pair(None, task, "ADDED"))
    return pairs


def _edges(tasks: Sequence[Row], instead: Mapping[str, str]) -> list[tuple[str, str]]:
    """What comes first and what waits for it, within one version: a task that stays names only its newest
    predecessors, one that left only its oldest."""
    here = {task["taskId"] for task in tasks}
    found = []
    for task in tasks:
        for other in task["dependsOn"]:
            while other not in here and other in instead:
                other = instead[other]
            if other in here:
                found.append((other, task["taskId"]))
    return list(dict.fromkeys(found))


def _choose(
    pairs: Sequence[_Pair], fates: Mapping[str, Row], edges: tuple[Sequence[tuple[str, str]], ...]
) -> list[_Pair]:
    if len(pairs) <= MOST:
        return list(pairs)

    def ids(pair: _Pair) -> set[str]:
        return {task["taskId"] for task in (pair.before, pair.after) if task}

    touched = {one for pair in pairs if ids(pair) & fates.keys() or pair.before is None for one in ids(pair)}
    near = {one for side in edges for edge in side if touched & set(edge) for one in edge}
    return [pair for pair in pairs if ids(pair) & (touched | near)]


def _draw(
    pairs: Sequence[_Pair], edges: tuple[Sequence[tuple[str, str]], ...], heads: tuple[str, str], omitted: int
) -> str:
    left = MARGIN + GUTTER
    right = left + BOX_WIDTH + MIDDLE
    width = right + BOX_WIDTH + GUTTER + MARGIN
    looks = list(dict.fromkeys(_LOOK_OF.get(pair.strategy, "person") for pair in pairs))
    legend = HEAD + len(pairs) * (BOX_HEIGHT + GAP) + 8
    height = legend + LEGEND * ((len(looks) + 1) // 2) + MARGIN
    title = f"{heads[0]} beside {heads[1]}"
    rows: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for at, pair in enumerate(pairs):
        for side, task in enumerate((pair.before, pair.after)):
            if task:
                rows[side][task["taskId"]] = at
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="down" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{_LINE}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *(
            f'<text x="{x}" y="{HEAD - 36}" font-size="16" font-weight="600" fill="{_INK}">{escape(head)}</text>'
            for x, head in zip((left, right), heads, strict=True)
        ),
        *([_note(left, HEAD - 16, f"{omitted} tasks that nothing touches are not drawn")] if omitted else ()),
    ]
    for side, (x, outward) in enumerate(((left, -1), (right, 1))):
        parts += [_arrow(rows[side], edge, x, outward) for edge in edges[side] if set(edge) <= rows[side].keys()]
    for at, pair in enumerate(pairs):
        y = HEAD + at * (BOX_HEIGHT + GAP)
        look = _LOOKS[_LOOK_OF.get(pair.strategy, "person")]
        said = STRATEGY.get(pair.strategy, words(pair.strategy))
        parts.append(_between(left + BOX_WIDTH, y, said, to_right=pair.after is not None))
        parts += [_box(task, x, y, look) for task, x in ((pair.before, left), (pair.after, right)) if task]
    for at, name in enumerate(looks):
        x = left + (at % 2) * (BOX_WIDTH + MIDDLE)
        parts.append(_sample(x, legend + (at // 2) * LEGEND, _LOOKS[name]))
    return "".join([*parts, "</svg>"])


def _box(task: Row, x: int, y: int, look: _Look) -> str:
    work, below = words(task["type"]), f"{task['step']} · {words(task['state'])}"
    return (
        f"<g><title>{escape(f'{work}, {below}')}</title>{_frame(x, y, look)}"
        f'<text x="{x + 12}" y="{y + 19}" font-weight="600" fill="{_INK}">{escape(cut(work, 26))}</text>'
        f'<text x="{x + 12}" y="{y + 36}" font-size="12" fill="{_QUIET}">{escape(cut(below, 32))}</text></g>'
    )


def _frame(x: int, y: int, look: _Look, width: int = BOX_WIDTH, height: int = BOX_HEIGHT) -> str:
    dashes = f' stroke-dasharray="{look.dashes}"' if look.dashes else ""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{look.fill}" '
        f'stroke="{look.line}" stroke-width="1.8"{dashes}/>'
    )


def _between(x: int, y: int, said: str, *, to_right: bool) -> str:
    middle, line = x + MIDDLE / 2, y + BOX_HEIGHT / 2 + 6
    arrow = (
        f'<path d="M{x + 6} {line:g} H{x + MIDDLE - 6}" fill="none" stroke="{_LINE}" stroke-width="1.2" '
        'marker-end="url(#down)"/>'
        if to_right
        else ""
    )
    return (
        f'<text x="{middle:g}" y="{line - 7:g}" font-size="12" text-anchor="middle" fill="{_INK}">{escape(said)}</text>'
        f"{arrow}"
    )


def _arrow(rows: Mapping[str, int], edge: tuple[str, str], x: int, outward: int) -> str:
    """Straight down to the next line; past others in a bow on the outer side, the wider the farther."""
    first, then = rows[edge[0]], rows[edge[1]]
    pitch = BOX_HEIGHT + GAP
    if then == first + 1:
        below = HEAD + first * pitch + BOX_HEIGHT
        path = f"M{x + BOX_WIDTH / 2:g} {below} V{below + GAP - 1}"
    else:
        side = x if outward < 0 else x + BOX_WIDTH
        bow = side + outward * min(26 + 14 * abs(then - first), GUTTER + 8)
        top, bottom = HEAD + first * pitch + BOX_HEIGHT * 0.66, HEAD + then * pitch + BOX_HEIGHT * 0.34
        path = f"M{side} {top:g} C{bow} {top:g} {bow} {bottom:g} {side + outward} {bottom:g}"
    return f'<path d="{path}" fill="none" stroke="{_LINE}" stroke-width="1.3" marker-end="url(#down)"/>'


def _sample(x: int, y: int, look: _Look) -> str:
    return f"{_frame(x, y, look, 34, 20)}{_note(x + 44, y + 15, look.words)}"


def _note(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="12" fill="{_QUIET}">{escape(text)}</text>'
