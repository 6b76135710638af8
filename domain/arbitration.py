"""The meetings of two changes on one order, one cell each (1-domain §8). It must never carry out what it allows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from domain.assessment import closure_items, whole_items
from domain.errors import ChangeActive
from domain.order import Amendment, Draft, Request
from domain.values import TaskId

ACCEPT: Final = "ACCEPT"
REFUSE: Final = "REFUSE"
DISJOINT: Final = "DISJOINT"  # accept where the two touch different items
IF_ALLOWED: Final = "IF_ALLOWED"  # accept what the policy allows while cancelling
WAIT: Final = "WAIT"  # accept; the new one begins when the active one is over
PARK_ACTIVE: Final = "PARK_ACTIVE"  # accept; the active one is queued
COMPARE: Final = "COMPARE"  # same fields: the newer supersedes; overlap: it is queued; disjoint: accept

# (what is active, what arrives) -> what happens. Rows and columns are those of the table in 1-domain §8.
_COLUMNS: Final = ("ORDER_CANCELLATION", "ITEM_CANCELLATION", "AMENDMENT", "ADMINISTRATIVE_AMENDMENT", "SUPPLEMENTAL")
_ROWS: Final[Mapping[str, tuple[str, ...]]] = {
    "NONE": (ACCEPT, ACCEPT, ACCEPT, ACCEPT, ACCEPT),
    "AMENDMENT": (PARK_ACTIVE, PARK_ACTIVE, COMPARE, ACCEPT, REFUSE),
    "APPLYING": (WAIT, WAIT, WAIT, ACCEPT, REFUSE),
    "ITEM_CANCELLATION": (ACCEPT, DISJOINT, DISJOINT, ACCEPT, REFUSE),
    "ORDER_CANCELLATION": (REFUSE, REFUSE, REFUSE, IF_ALLOWED, REFUSE),
    "CANCELLING": (REFUSE, REFUSE, REFUSE, IF_ALLOWED, REFUSE),
}
CELLS: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {(row, column): cell for row, cells in _ROWS.items() for column, cell in zip(_COLUMNS, cells, strict=True)}
)


def active_kind(change: Request | Amendment) -> str:
    """The row of the table that a change under way stands in."""
    if isinstance(change, Amendment):  # one that has ended is met only while something is still undone for it
        return "APPLYING" if change.status == "APPLYING" or change.has_ended else "AMENDMENT"
    if change.scope != "ORDER":
        return "ITEM_CANCELLATION"
    return "CANCELLING" if change.committed_at else "ORDER_CANCELLATION"


def link_to(draft: Draft, change: Request | Amendment) -> str:
    kind = "amendment" if isinstance(change, Amendment) else "cancellation"
    return f"/api/v1/orders/{draft.head.order_id}/{kind}-requests/{change.request_id}"


def _items_of(draft: Draft, scope: str, items: Collection[str], parts: Mapping[str, int]) -> set[str]:
    """The items that a cancellation is about. One of which only a part goes takes nothing else with it."""
    return closure_items(draft, scope, whole_items(items, parts))[0].union(items)


def arbitrate_cancellation(
    draft: Draft, scope: str, items: frozenset[str], parts: Mapping[str, int] = MappingProxyType({})
) -> None:
    """Raise ChangeActive, naming what stands in the way, unless every change under way lets this one in.

    parts: of which of the items only so many are to go
    """
    arriving = "ORDER_CANCELLATION" if scope == "ORDER" else "ITEM_CANCELLATION"
    for request in draft.requests.values():
        if request.has_ended:
            continue
        cell = CELLS[active_kind(request), arriving]
        if cell == ACCEPT or (
            cell == DISJOINT
            and not _items_of(draft, scope, items, parts)
            & _items_of(draft, request.scope, request.item_ids, request.quantities)
        ):
            continue
        raise ChangeActive(
            f"A cancellation of this order is under way ({request.status}).", blocked_by=link_to(draft, request)
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """What an amendment is about: its fields (name, item), the items that it names, the tasks that it touches."""

    fields: frozenset[tuple[str, str | None]]
    items: frozenset[str]
    tasks: frozenset[TaskId]
    administrative: bool = False
    allowed_while_cancelling: bool = False

    def overlaps(self, other: Reach) -> bool:
        return bool(self.fields & other.fields or self.tasks & other.tasks)


def arbitrate_amendment(
    draft: Draft, arriving: Reach, others: list[tuple[Amendment, Reach]]
) -> tuple[list[Amendment], Amendment | None]:
    """What a new amendment means for those under way: (superseded by it, the one that it must wait for). Raises
    ChangeActive where a cancellation stands in its way."""
    column = "ADMINISTRATIVE_AMENDMENT" if arriving.administrative else "AMENDMENT"
    for request in draft.requests.values():
        if request.has_ended:
            continue
        cell = CELLS[active_kind(request), column]
        if (
            cell == ACCEPT
            or (cell == IF_ALLOWED and arriving.allowed_while_cancelling)
            or (
                cell == DISJOINT
                and arriving.items.isdisjoint(_items_of(draft, request.scope, request.item_ids, request.quantities))
            )
        ):
            continue
        raise ChangeActive(
            f"A cancellation of this order is under way ({request.status}).", blocked_by=link_to(draft, request)
        )
    superseded: list[Amendment] = []
    first: Amendment | None = None
    for amendment, reach in others:
        cell = CELLS[active_kind(amendment), column]
        if cell == WAIT:
            first = first or amendment
        elif cell == COMPARE:
            if reach.fields <= arriving.fields:
                superseded.append(amendment)
            elif reach.overlaps(arriving):
                first = first or amendment
    return superseded, first


def arbitrate_supplemental(draft: Draft) -> None:
    """Raise ChangeActive, naming it, where a change under way keeps new orders from following this one up."""
    requests = [request for request in draft.requests.values() if not request.has_ended]
    changes: list[Request | Amendment] = [*requests, *draft.changes_of_terms()]
    for change in changes:
        if CELLS[active_kind(change), "SUPPLEMENTAL"] == REFUSE:
            raise ChangeActive(
                f"A change of this order is under way ({change.status}).", blocked_by=link_to(draft, change)
            )
