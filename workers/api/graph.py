"""A graph of work as a picture: layers from left to right, one box per node; it must never need a font or a browser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from starlette.requests import Request

SVG: Final = "image/svg+xml"
BOX_WIDTH: Final = 232
BOX_HEIGHT: Final = 58
GAP_X: Final = 70
GAP_Y: Final = 26
MARGIN: Final = 24
TITLE: Final = 40
SWEEPS: Final = 4  # passes that bring each node near its neighbours

# What a state says, whatever its word: quiet, waiting, at work, done, stays, needs a person.
_COLOURS: Final[Mapping[str, tuple[str, str]]] = {
    "quiet": ("#f4f4f5", "#a1a1aa"),
    "work": ("#dbeafe", "#2563eb"),
    "done": ("#dcfce7", "#16a34a"),
    "stay": ("#fef3c7", "#d97706"),
    "stuck": ("#fee2e2", "#dc2626"),
}
_TONE_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("DISPATCHED", "IN_PROGRESS", "WAITING_EXTERNAL", "READY", "COMPENSATING", "CANCELLING", "AMENDING"), "work"
    ),
    **dict.fromkeys(("COMPLETED", "COMPENSATED", "CONFIRMED"), "done"),
    **dict.fromkeys(("RETAINED", "WAIVED", "AWAITING_ORIGINAL", "PARTIALLY_COMPLETED", "ON_HOLD"), "stay"),
    **dict.fromkeys(("FAILED", "FALLOUT", "IN_FALLOUT", "OUTCOME_UNKNOWN", "BLOCKED"), "stuck"),
}


@dataclass(frozen=True, slots=True)
class Node:
    """One box: its heading, a quieter line below, and a state that gives it its colour.

    said: the state in words, where its own are not enough · code: what the heading is called by machines
    """

    id: str
    title: str
    subtitle: str
    state: str
    said: str = ""
    code: str = ""


def draw_svg(title: str, nodes: Sequence[Node], edges: Iterable[tuple[str, str]]) -> str:
    """The picture as SVG text. `edges` go from what comes first to what waits for it; they must form no circle."""
    known = {node.id for node in nodes}
    edges = [(before, after) for before, after in edges if before in known and after in known]
    layers = _arrange(nodes, edges)
    tallest = max((len(layer) for layer in layers), default=0)
    width = 2 * MARGIN + max(len(layers) * (BOX_WIDTH + GAP_X) - GAP_X, 320)
    height = TITLE + 2 * MARGIN + max(tallest * (BOX_HEIGHT + GAP_Y) - GAP_Y, BOX_HEIGHT)
    corner: dict[str, tuple[float, float]] = {}
    for column, layer in enumerate(layers):
        offset = (tallest - len(layer)) * (BOX_HEIGHT + GAP_Y) / 2
        for row, node_id in enumerate(layer):
            x = MARGIN + column * (BOX_WIDTH + GAP_X)
            corner[node_id] = (x, TITLE + MARGIN + offset + row * (BOX_HEIGHT + GAP_Y))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#71717a"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="{TITLE - 8}" font-size="17" font-weight="600" fill="#18181b">{escape(title)}</text>',
        *(_edge(corner[before], corner[after]) for before, after in edges),
        *(_box(node, *corner[node.id]) for node in nodes),
        "</svg>",
    ]
    return "".join(parts)


def _arrange(nodes: Sequence[Node], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Nodes by layer (length of the longest way to them), each layer ordered by where its neighbours stand."""
    before: dict[str, list[str]] = {node.id: [] for node in nodes}
    after: dict[str, list[str]] = {node.id: [] for node in nodes}
    for earlier, later in edges:
        before[later].append(earlier)
        after[earlier].append(later)
    depth = dict.fromkeys(before, 0)
    waiting = {node: len(others) for node, others in before.items()}
    ready = [node for node, count in waiting.items() if not count]
    for node in ready:  # grows while it is walked
        for follower in after[node]:
            depth[follower] = max(depth[follower], depth[node] + 1)
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for one in nodes:
        layers[depth[one.id]].append(one.id)
    for sweep in range(SWEEPS):
        neighbours = before if sweep % 2 == 0 else after
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            place = {node: at / max(len(row), 1) for row in layers for at, node in enumerate(row)}
            layer.sort(key=lambda node: _middle([place[other] for other in neighbours[node]], place[node]))
    return layers


def _middle(places: list[float], otherwise: float) -> float:
    return sum(places) / len(places) if places else otherwise


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0], end[1] + BOX_HEIGHT / 2
    bend = max((x2 - x1) / 2, GAP_X / 2)
    path = f"M{x1:g} {y1:g} C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2 - 2:g} {y2:g}"
    return f'<path d="{path}" fill="none" stroke="#71717a" stroke-width="1.4" marker-end="url(#arrow)"/>'


def _box(node: Node, x: float, y: float) -> str:
    fill, line = _COLOURS[_TONE_OF.get(node.state, "quiet")]
    state = node.said or node.state.replace("_", " ").lower()
    return (
        f"<g><title>{escape(f'{node.code or node.title}: {state}')}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="{fill}" stroke="{line}"/>'
        f'<text x="{x + 12:g}" y="{y + 23:g}" font-weight="600" fill="#18181b">{escape(cut(node.title, 29))}</text>'
        f'<text x="{x + 12:g}" y="{y + 43:g}" font-size="12" fill="#3f3f46">'
        f"{escape(cut(' · '.join(filter(None, (state, node.subtitle))), 35))}</text></g>"
    )


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


# -- who wants the picture ------------------------------------------------------------------------------------


def prefers_svg(request: Request) -> bool:
    """Whether the caller likes a picture better than JSON; JSON where both are as good."""
    accepted = _read_accept(request.headers.get("accept", "*/*"))
    return accepted(SVG) > accepted("application/json")


def _read_accept(header: str) -> _Liking:
    liked: dict[str, float] = {}
    for part in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        liked[kind] = quality
    return _Liking(liked)


class _Liking:
    def __init__(self, liked: Mapping[str, float]) -> None:
        self._liked = liked

    def __call__(self, kind: str) -> float:
        family = f"{kind.partition('/')[0]}/*"
        return next((self._liked[one] for one in (kind, family, "*/*") if one in self._liked), 0.0)
