"""Draws the tables of legal moves as charts, the same bytes on every machine; it must never leave a move out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import Final

from domain.machines import ENDED, INITIAL, MACHINES, Machine

COLUMN: Final = 236
ROW: Final = 96
HEIGHT: Final = 36
MARGIN: Final = 56
TITLE: Final = 48
PADDING: Final = 24  # of a group around its states
CHARACTER: Final = 8.3  # width of one, bold, at 12 px; drawn wide enough for every common font

_INK, _LINE, _SOFT = "#18181b", "#52525b", "#94a3b8"
# fill and border: begins here · on the way · has ended
_BEGINS, _LIVES, _ENDED = ("#dbeafe", "#2563eb"), ("#f4f4f5", "#a1a1aa"), ("#dcfce7", "#16a34a")

_LEGEND = "blue: begins · green: has ended · light arrow: there and back · at a dashed frame: for every state in it"

Point = tuple[float, float]
Place = tuple[float, float]  # column, row


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the states of a machine stand, and which stand together: a move that all of a group share is one arrow."""

    title: str
    places: Mapping[str, Place]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _rows(*rows: str) -> dict[str, Place]:
    """Places from lines of text, one a row of the chart; a dash leaves a place free."""
    return {
        state: (column, row)
        for row, line in enumerate(rows)
        for column, state in enumerate(line.split())
        if state != "-"
    }


LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {
        "ORDER": Layout(
            "Order",
            {
                "CANCELLATION_REQUESTED": (0, 0),
                "CANCELLATION_ASSESSING": (1.5, 0),
                "CANCELLING": (3, 0),
                "AMENDING": (0.75, 1.3),
                "FALLOUT": (2.05, 1.3),
                "ON_HOLD": (3.3, 1.3),
                "ACKNOWLEDGED": (0, 3.1),
                "VALIDATED": (1, 3.1),
                "IN_PROGRESS": (2, 3.1),
                "REJECTED": (-0.3, 4.9),
                "CANCELLED": (0.6, 4.9),
                "COMPLETED": (1.5, 4.9),
                "PARTIALLY_COMPLETED": (2.45, 4.9),
                "FAILED": (3.4, 4.9),
            },
            {
                "shown while something else is going on": (
                    "CANCELLATION_REQUESTED",
                    "CANCELLATION_ASSESSING",
                    "CANCELLING",
                    "AMENDING",
                    "FALLOUT",
                    "ON_HOLD",
                ),
                "how far fulfillment is": ("ACKNOWLEDGED", "VALIDATED", "IN_PROGRESS"),
                "ended": ("REJECTED", "CANCELLED", "COMPLETED", "PARTIALLY_COMPLETED", "FAILED"),
            },
        ),
        "ITEM": Layout(
            "Item",
            {
                "ACKNOWLEDGED": (0, 1),
                "IN_PROGRESS": (1, 1),
                "COMPLETED": (2.6, 0.2),
                "FALLOUT": (2.1, 1.2),
                "FAILED": (3.3, 1.3),
                "SUPERSEDED": (4.2, 1.3),
                "CANCELLATION_REQUESTED": (0, 2.7),
                "CANCELLATION_ASSESSING": (1.2, 2.7),
                "CANCELLING": (2.4, 2.7),
                "PARTIALLY_COMPLETED": (2.6, 3.8),
                "CANCELLED": (0.6, 3.8),
            },
            {"on its way": ("ACKNOWLEDGED", "IN_PROGRESS"), "ends otherwise": ("FAILED", "SUPERSEDED")},
        ),
        "TASK": Layout(
            "Fulfillment task",
            {
                "PENDING": (0, 0),
                "READY": (1, 0),
                "IN_PROGRESS": (2, 0),
                "COMPLETED": (3.2, 0),
                "COMPENSATING": (4.2, 0),
                "COMPENSATED": (5.1, 0),
                "WAITING_EXTERNAL": (2.6, 1.2),
                "OUTCOME_UNKNOWN": (1.6, 2.2),
                "FAILED": (3.2, 2.4),
                "CANCELLED": (1.0, 3.5),
                "SUPERSEDED": (4.3, 1.7),
            },
        ),
        "COMPENSATION_TASK": Layout(
            "Compensation task",
            {
                "PLANNED": (0, 0),
                "AWAITING_ORIGINAL": (0.6, 1.3),
                "READY": (1.6, 0),
                "DISPATCHED": (2.8, 0),
                "COMPLETED": (4.6, 0),
                "WAITING_EXTERNAL": (3.5, 1.1),
                "OUTCOME_UNKNOWN": (2.6, 2.2),
                "FAILED": (4.6, 2.2),
                "IN_FALLOUT": (3.6, 3.4),
                "WAIVED": (4.9, 3.4),
                "RETAINED": (-0.3, 2.5),
                "NOT_REQUIRED": (1.4, 3.4),
                "SUPERSEDED": (0.2, 3.6),
            },
        ),
        "PLAN": Layout("Compensation plan", _rows("PLANNED IN_PROGRESS COMPLETED", "- BLOCKED SUPERSEDED")),
        "EFFECT": Layout(
            "Effect: what the ledger says of one thing done outside",
            _rows("INTENDED CONFIRMED REVERSED", "UNKNOWN NO_EFFECT WAIVED"),
        ),
        "REQUEST": Layout(
            "Cancellation request",
            {
                "ACCEPTED_FOR_ASSESSMENT": (0, 0),
                "ASSESSING": (1.2, 0),
                "REQUIRES_APPROVAL": (1.2, 1.3),
                "AWAITING_CHARGE_DECISION": (2.4, 1.3),
                "APPROVED": (2.4, 0),
                "COMPENSATING": (3.4, 0),
                "COMPLETED": (4.5, -0.3),
                "PARTIALLY_COMPLETED": (4.5, 0.6),
                "REJECTED": (1.0, 2.9),
                "WITHDRAWN": (2.1, 2.9),
                "SUPERSEDED": (2.9, 2.9),
            },
            {
                "before the commit point": (
                    "ASSESSING",
                    "REQUIRES_APPROVAL",
                    "AWAITING_CHARGE_DECISION",
                    "APPROVED",
                    "COMPENSATING",
                ),
                "nothing is undone": ("WITHDRAWN", "SUPERSEDED"),
            },
        ),
        "AMENDMENT": Layout(
            "Amendment request",
            {
                "REQUESTED": (0, 0),
                "QUEUED": (0.6, 1.3),
                "ASSESSING": (1.4, 0),
                "REQUIRES_APPROVAL": (1.9, 1.3),
                "AWAITING_CHARGE_DECISION": (3.2, 1.3),
                "APPROVED": (2.8, 0),
                "APPLYING": (3.9, 0),
                "APPLIED": (5.0, 0),
                "FAILED": (5.0, 1.0),
                "REJECTED": (1.0, 2.9),
                "CANCELLED": (2.1, 2.9),
                "SUPERSEDED": (3.2, 2.9),
            },
            {
                "not in the order yet": ("ASSESSING", "REQUIRES_APPROVAL", "AWAITING_CHARGE_DECISION", "APPROVED"),
                "nothing is changed": ("REJECTED", "CANCELLED", "SUPERSEDED"),
            },
        ),
        "CASE": Layout("Case", _rows("OPEN ASSIGNED REPAIR_SUBMITTED", "CANCELLED - RESOLVED")),
    }
)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle by its middle."""

    x: float
    y: float
    width: float
    height: float

    def edge_towards(self, x: float, y: float) -> Point:
        """Where a line from the middle to (x, y) leaves the rectangle."""
        dx, dy = x - self.x, y - self.y
        scale = max(abs(dx) / (self.width / 2), abs(dy) / (self.height / 2), 1e-9)
        return self.x + dx / scale, self.y + dy / scale

    def holds(self, x: float, y: float, margin: float) -> bool:
        return abs(x - self.x) < self.width / 2 + margin and abs(y - self.y) < self.height / 2 + margin

    def surrounds(self, other: Box) -> bool:
        return self.height > other.height and self.holds(other.x, other.y, 0)


@dataclass(frozen=True, slots=True)
class Arrow:
    """Moves drawn as one line; `both`: they go both ways. Its ends are states or groups."""

    start: str
    end: str
    both: bool


def draw_chart(entity: str) -> str:
    """The chart of one machine of `domain.machines`, as SVG text."""
    machine, layout = MACHINES[entity], LAYOUTS[entity]
    boxes, groups = _place(layout)
    shapes = [*boxes.values(), *groups.values()]
    left, top = min(b.x - b.width / 2 for b in shapes) - MARGIN, min(b.y - b.height / 2 for b in shapes) - MARGIN
    right, bottom = max(b.x + b.width / 2 for b in shapes) + MARGIN, max(b.y + b.height / 2 for b in shapes) + MARGIN
    top -= TITLE
    width, height = round(right - left), round(bottom - top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="{_number(left)} {_number(top)} {width} {height}" font-family="system-ui, sans-serif" '
        'font-size="12" role="img">',
        f"<title>{escape(layout.title)}</title>",
        "<defs>",
        _marker("end", _LINE),
        _marker("soft", _SOFT),
        "</defs>",
        f'<rect x="{_number(left)}" y="{_number(top)}" width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_number(left + 24)}" y="{_number(top + 34)}" font-size="17" font-weight="600" fill="{_INK}">'
        f"{escape(layout.title)}</text>",
        f'<text x="{_number(left + 24)}" y="{_number(top + 54)}" fill="{_LINE}">{escape(_LEGEND)}</text>',
        *(_draw_group(name, box) for name, box in groups.items()),
        *(_draw_arrow(arrow, boxes, groups) for arrow in find_arrows(machine, layout.groups)),
        *(_draw_state(entity, state, boxes[state]) for state in machine),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def draw_all() -> str:
    """The charts of all machines below each other, as one SVG."""
    charts = [draw_chart(entity) for entity in MACHINES]
    sizes = [tuple(int(number) for number in re.findall(r'(?:width|height)="(\d+)"', chart)[:2]) for chart in charts]
    width = max(size[0] for size in sizes)
    height = sum(size[1] for size in sizes)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">']
    parts += ["<title>All state machines</title>", f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    top = 0
    for chart, size in zip(charts, sizes, strict=True):
        parts.append(chart.replace("<svg ", f'<svg y="{top}" ', 1).rstrip())
        top += size[1]
    return "\n".join([*parts, "</svg>"]) + "\n"


def find_arrows(machine: Machine, groups: Mapping[str, Sequence[str]]) -> list[Arrow]:
    """Every move of a machine exactly once: what all of a group share as one arrow, there and back as one line."""
    left = {
        (state, successor) for state, successors in machine.items() for successor in successors if state != successor
    }
    order = {name: at for at, name in enumerate([*groups, *machine])}
    units = {**{name: tuple(members) for name, members in groups.items()}, **{state: (state,) for state in machine}}
    pairs = sorted(
        ((start, end) for start in units for end in units if not set(units[start]) & set(units[end])),
        key=lambda pair: (-len(units[pair[0]]) * len(units[pair[1]]), order[pair[0]], order[pair[1]]),
    )
    found: list[tuple[str, str]] = []
    for start, end in pairs:
        moves = {(one, other) for one in units[start] for other in units[end]}
        if moves <= left:
            found.append((start, end))
            left -= moves
    there = set(found)
    return [
        Arrow(start, end, (end, start) in there)
        for start, end in found
        if (end, start) not in there or order[start] < order[end]
    ]


def _place(layout: Layout) -> tuple[dict[str, Box], dict[str, Box]]:
    boxes = {
        state: Box(column * COLUMN, row * ROW, len(state) * CHARACTER + 24, HEIGHT)
        for state, (column, row) in layout.places.items()
    }
    groups = {}
    for name, members in layout.groups.items():
        inside = [boxes[state] for state in members]
        left, right = min(b.x - b.width / 2 for b in inside), max(b.x + b.width / 2 for b in inside)
        top, bottom = min(b.y - b.height / 2 for b in inside), max(b.y + b.height / 2 for b in inside)
        groups[name] = Box(
            (left + right) / 2, (top + bottom) / 2, right - left + 2 * PADDING, bottom - top + 2 * PADDING
        )
    return boxes, groups


def _draw_state(entity: str, state: str, box: Box) -> str:
    fill, line = _ENDED if state in ENDED[entity] else _BEGINS if state in INITIAL[entity] else _LIVES
    return (
        f'<rect x="{_number(box.x - box.width / 2)}" y="{_number(box.y - box.height / 2)}" '
        f'width="{_number(box.width)}" height="{HEIGHT}" rx="9" fill="{fill}" stroke="{line}"/>'
        f'<text x="{_number(box.x)}" y="{_number(box.y + 4)}" text-anchor="middle" font-weight="600" '
        f'fill="{_INK}">{state}</text>'
    )


def _draw_group(name: str, box: Box) -> str:
    x, y = box.x - box.width / 2, box.y - box.height / 2
    return (
        f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(box.width)}" height="{_number(box.height)}" '
        f'rx="14" fill="#fafafa" stroke="{_SOFT}" stroke-dasharray="5 4"/>'
        f'<text x="{_number(x + 12)}" y="{_number(y - 6)}" font-style="italic" fill="{_LINE}">{escape(name)}</text>'
    )


def _draw_arrow(arrow: Arrow, boxes: Mapping[str, Box], groups: Mapping[str, Box]) -> str:
    shapes = {**groups, **boxes}
    start, end = shapes[arrow.start], shapes[arrow.end]
    # Not in the way: the ends themselves, what lies inside them, and the frame that an end stands in.
    in_the_way = [
        shape
        for shape in shapes.values()
        if not any(shape == one or one.surrounds(shape) or shape.surrounds(one) for one in (start, end))
    ]
    path = _find_way(start, end, in_the_way)
    colour, marker = (_SOFT, "soft") if arrow.both else (_LINE, "end")
    back = f' marker-start="url(#{marker})"' if arrow.both else ""
    title = f"{arrow.start} {'↔' if arrow.both else '→'} {arrow.end}"
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4" marker-end="url(#{marker})"{back}>'
        f"<title>{escape(title)}</title></path>"
    )


def _find_way(start: Box, end: Box, obstacles: Sequence[Box]) -> str:
    """The straightest curve between two boxes that passes by all others; straight where nothing helps."""
    first = last = ""
    for bend in _bends():
        middle = _bow(start, end, bend)
        a, b = start.edge_towards(*middle), end.edge_towards(*middle)
        last = f"M{_point(a)} Q{_point(middle)} {_point(b)}"
        first = first or last
        if not any(box.holds(*point, 8) for point in _along(a, middle, b) for box in obstacles):
            return last
    return first


def _bends() -> Iterator[float]:
    yield 0
    for size in range(1, 16):
        yield 22 * size
        yield -22 * size


def _bow(start: Box, end: Box, bend: float) -> Point:
    """The curve's control point: beside the middle of the line, twice as far as the curve itself will bow."""
    dx, dy = end.x - start.x, end.y - start.y
    length = math.hypot(dx, dy) or 1
    return (start.x + end.x) / 2 - 2 * bend * dy / length, (start.y + end.y) / 2 + 2 * bend * dx / length


def _along(a: Point, middle: Point, b: Point) -> Iterator[Point]:
    for step in range(1, 40):
        t = step / 40
        rest = 1 - t
        yield (
            rest * rest * a[0] + 2 * rest * t * middle[0] + t * t * b[0],
            rest * rest * a[1] + 2 * rest * t * middle[1] + t * t * b[1],
        )


def _marker(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto-start-reverse"><path d="M0 0.6 L8 4 L0 7.4 z" fill="{colour}"/></marker>'
    )


def _point(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _number(value: float) -> str:
    return f"{round(value, 1):g}"
