"""Orders to be cancelled: decided by the pure core as the flows would have asked it, written by the hundred. It must
never decide anything itself."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import orjson

from domain import commands as ask
from domain.decide import decide, order_etag
from domain.fulfillment import blank_order
from domain.order import Draft, Order, Surroundings
from domain.policy import Policy, parse_policy, read_policy_text
from domain.store.measuring import merge_rows, write_many
from domain.store.orders import draft_rows, dump_rows
from domain.store.pool import Pool
from domain.values import Actor, EffectId, Json, OrderId, RequestId, TaskId, TenantId, system_actor
from workers.runtime import project_file

TENANT: Final = TenantId(uuid.UUID("00000000-0000-4000-8000-0000000000be"))
AGENT: Final = Actor("alice", frozenset({"agent"}))
NONE: Final[frozenset[str]] = frozenset()
# Every task of the order: it has been completed.
ALL: Final = frozenset(
    {
        "reserve-inventory",
        "assign-resource",
        "create-appointment",
        "ship-device",
        "perform-visit",
        "activate-service",
        "start-billing",
    }
)
_SYSTEM: Final = system_actor("bench")

# What an id carries in its last twelve digits, so that a script can count orders; the digits never change in number.
FIRST: Final = 100_000_000_000
_AT_ONCE: Final = 100
_COMPLETED: Final = 10**9  # where the numbers of completed orders begin, in the same database
_POLICY_VERSION: Final = 1
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_ADDRESS: Final = {"street": "Weg 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}
_CONTENT: Final = {
    "customer": {"id": "c-9", "name": "Ada"},
    "contact": {"name": "Ada", "phone": "+49 30 1234567"},
    "deliveryAddress": _ADDRESS,
    "installationAddress": _ADDRESS,
    "appointment": {
        "start": "2030-12-01T09:00:00+01:00",
        "end": "2030-12-01T12:00:00+01:00",
        "timeZone": "Europe/Berlin",
    },
}
_ITEM: Final = ask.OrderItem(
    item_id="1",
    action="ADD",
    offering="fiber-500",
    quantity=1,
    content={
        "configuration": {"bandwidth": "500M", "deviceModel": "R7"},
        "price": {"amountMinor": 3999, "currency": "EUR"},
    },
)


def order_id(number: int) -> OrderId:
    return OrderId(uuid.UUID(f"0bec0000-0000-4000-8000-{FIRST + number:012d}"))


def accept(number: int) -> ask.AcceptOrder:
    """An order for one fiber line: a plan of several tasks, with appointment and device."""
    return ask.AcceptOrder(order_id(number), None, "STANDARD", _CONTENT, (_ITEM,))


def cancel(number: int) -> tuple[ask.Envelope, ask.RequestCancellation]:
    """The cancellation of a seeded order, as the API would ask the door for it; a key of its own."""
    envelope = ask.Envelope(
        TENANT,
        uuid.uuid5(TENANT, f"cancel {number}"),
        AGENT,
        fingerprint="f" * 64,
        if_match=etag(),
        trace_parent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
    )
    request_id = RequestId(uuid.uuid5(TENANT, f"request {number}"))
    command = ask.RequestCancellation(
        order_id(number),
        request_id,
        reason_code="CUSTOMER_CHANGED_MIND",
        reason_text="Customer requested cancellation before installation",
        scope="ORDER",
        item_ids=(),
    )
    return envelope, command


@cache
def etag(done: frozenset[str] = NONE) -> str:
    """That of every order seeded so: all of them have come the same way."""
    return order_etag(decided_order(0, done).head.version)


class Seeds:
    """Seeded orders: accepted, validated and decomposed.

    done: types of the tasks that have had their effect. None: the plan has not begun. Where it has, no flow of the
    order is started any more: it is there, one says, and waits. first: the number of the first; an engine takes no
    message twice, so orders of two databases that share one must not share numbers
    """

    def __init__(self, pool: Pool, done: frozenset[str] = NONE, first: int = 0) -> None:
        self._done = done
        self._pool = pool
        self._next = _COMPLETED if done == ALL else first

    async def add(self, count: int) -> int:
        """The number of the first of `count` more orders, with their history as it would have been written."""
        first = self._next
        self._next += count
        for start in range(first, first + count, _AT_ONCE):
            decided = [_decide(number, self._done)[0] for number in range(start, min(start + _AT_ONCE, first + count))]
            for rows in zip(*decided, strict=True):
                merged = merge_rows(rows)
                await write_many(self._pool, TENANT, merged | {"engine_outbox": []} if self._done else merged)
        return first


class Templates:
    """The same orders for a script that only counts: every id of one real order and of the statements about it becomes
    one that carries the order's number. Their hashes are those of that order; nobody verifies them."""

    def __init__(self, pool: Pool, number: int, arguments: Sequence[Any]) -> None:
        self._pool = pool
        self._next = 0
        self._names: dict[str, str] = {}
        self._rows = [self.rename(dump_rows(rows)) for rows in _decide(number)[0]]
        self.arguments = tuple(self._argument(value) for value in arguments)

    def rename(self, text: str) -> str:
        """The text with every id in its numbered form, that of order FIRST."""

        def numbered(found: re.Match[str]) -> str:
            known = found[0]
            if known == str(TENANT):
                return known
            return self._names.setdefault(known, f"{len(self._names):08x}-0000-4000-8000-{FIRST:012d}")

        return _UUID.sub(numbered, text)

    def _argument(self, value: Any) -> Any:
        return self.rename(str(value)) if isinstance(value, str | uuid.UUID) else value

    async def add(self, count: int) -> int:
        first = self._next
        self._next += count
        for start in range(first, first + count, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, first + count))
            for text in self._rows:
                rows = [orjson.loads(text.replace(str(FIRST), str(FIRST + number))) for number in numbers]
                await write_many(self._pool, TENANT, merge_rows(rows))
        return first


@cache
def policy() -> Policy:
    """The policy that ships, parsed once."""
    return parse_policy(read_policy_text(project_file("domain/telecom.policy.yaml").read_bytes()))


def decided_order(number: int, done: frozenset[str] = NONE) -> Order:
    """A seeded order as the core left it."""
    return _decide(number, done)[1]


def _decide(number: int, done: frozenset[str] = NONE) -> tuple[list[dict[str, Any]], Order]:
    """The rows of each decision that leads one order to where it is to stand, and the order as it stands then."""
    command = accept(number)
    now = datetime.now(UTC)
    order = blank_order(TENANT, command, _POLICY_VERSION, now)
    rows: list[dict[str, Any]] = []

    def do(asked: ask.Command, actor: Actor = _SYSTEM) -> Mapping[str, Json]:
        nonlocal order
        draft = make_draft(order, actor, uuid.uuid5(TENANT, f"seed {number} {len(rows)}"), now)
        decision = decide(draft, asked, Surroundings())
        rows.append(draft_rows(draft, None))
        order = draft.result()
        return decision.body

    do(command, AGENT)
    order_id = order.head.order_id
    for step in (ask.ValidateOrder, ask.CheckStartDate, ask.DecomposeOrder):
        do(step(order_id, order.head.run))
    plan = order.plan
    assert plan is not None
    left = set(done)
    while left:
        for handed in do(ask.ReleaseTasks(order_id, plan.plan_id, plan.run))["tasks"]:
            task = order.tasks[TaskId(uuid.UUID(str(handed["task_id"])))]
            if task.task_type in left:
                left.remove(task.task_type)
                claim = do(ask.ClaimTask(order_id, task.task_id, int(handed["release"]), plan.run))
                effect_id = EffectId(uuid.UUID(str(claim["effect_id"])))
                do(ask.RecordOutcome(order_id, effect_id, "CONFIRMED", "CALL", int(claim["attempt"]), "seeded"))
    return rows, order


def make_draft(order: Order, actor: Actor, command_id: uuid.UUID, now: datetime) -> Draft:
    return Draft(
        order,
        actor=actor,
        on_behalf_of=None,
        now=now,
        command_id=command_id,
        policy=policy(),
        policy_version=_POLICY_VERSION,
    )
