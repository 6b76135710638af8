"""The meetings of two changes on one order, one cell each (1-domain §8). It must never carry out what it allows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from domain.assessment import closure_items
from domain.errors import ChangeActive
from domain.order import Draft, Request

ACCEPT: Final = "ACCEPT"
REFUSE: Final = "REFUSE"
DISJOINT: Final = "DISJOINT"  # accept where the two touch different items

# (what is active, what arrives) -> what happens. Rows and columns are those of the table in 1-domain §8.
CELLS: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("NONE", "ORDER_CANCELLATION"): ACCEPT,
        ("NONE", "ITEM_CANCELLATION"): ACCEPT,
        ("ITEM_CANCELLATION", "ORDER_CANCELLATION"): ACCEPT,
        ("ITEM_CANCELLATION", "ITEM_CANCELLATION"): DISJOINT,
        ("ORDER_CANCELLATION", "ORDER_CANCELLATION"): REFUSE,
        ("ORDER_CANCELLATION", "ITEM_CANCELLATION"): REFUSE,
        ("CANCELLING", "ORDER_CANCELLATION"): REFUSE,
        ("CANCELLING", "ITEM_CANCELLATION"): REFUSE,
    }
)


def active_kind(request: Request) -> str:
    if request.scope != "ORDER":
        return "ITEM_CANCELLATION"
    return "CANCELLING" if request.committed_at else "ORDER_CANCELLATION"


def arbitrate_cancellation(draft: Draft, scope: str, items: frozenset[str]) -> None:
    """Raise ChangeActive, naming what stands in the way, unless every change under way lets this one in."""
    arriving = "ORDER_CANCELLATION" if scope == "ORDER" else "ITEM_CANCELLATION"
    for request in draft.requests.values():
        if request.has_ended:
            continue
        cell = CELLS[active_kind(request), arriving]
        if cell == ACCEPT or (
            cell == DISJOINT
            and not closure_items(draft, scope, items)[0] & closure_items(draft, request.scope, request.item_ids)[0]
        ):
            continue
        raise ChangeActive(
            f"A cancellation of this order is under way ({request.status}).",
            blocked_by=f"/api/v1/orders/{draft.head.order_id}/cancellation-requests/{request.request_id}",
        )
