"""The invariants, asked of the live data by the auditor: who breaks them, and how. It must never change a row, and
never call data sound that it could not see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from domain.audit import AuditEntry, Break, Walk
from domain.events import EVENT_TYPES
from domain.machines import ENDED, INITIAL, MACHINES
from domain.settle import rank_states, shown_state
from domain.store.queries import load_queries

_SQL = load_queries("verify")
_BATCH: Final = 2_000
# Long statements over everything, and nothing that could be written by accident.
_SESSION: Final = {
    "application_name": "recourse verify",
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
    "jit": "off",
    "statement_timeout": "0",
    "timezone": "UTC",
    "work_mem": "64MB",
}


class NotAnAuditorError(Exception):
    """This role does not see every tenant's rows; give RECOURSE_AUDITOR_DATABASE_URL the auditor's."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be true. rule: its number in the list of invariants, or the kind of promise it is."""

    rule: str
    name: str
    says: str


@dataclass(frozen=True, slots=True)
class Offence:
    """What breaks a check. order_id: None for what belongs to no order."""

    tenant_id: UUID
    order_id: UUID | None
    entity: str
    entity_id: str
    problem: str


# One row per named block of verify.sql; those that are recomputed here come last.
CHECKS: Final = (
    Check("I1", "ended_orders_stay", "An ended order, its items and its tasks never move again"),
    Check("I1", "ends_are_dated", "What has ended says when, and nothing else does"),
    Check("I1", "what_ended_holds_nothing", "What has ended holds nothing and has nothing under way"),
    Check("I2", "one_change_at_a_time", "At most one order-scope change is active"),
    Check("I3", "calls_have_intents", "Every outside call has its intent, written before it"),
    Check("I4", "one_reversal_each", "A reversal names its original, and no effect is reversed twice"),
    Check("I5", "cancelled_is_undone", "Nothing stands outside after CANCELLED, but what is owed"),
    Check("I6", "held_tasks_rest", "No task is called while it is held"),
    Check("I6", "whoever_holds_holds_all", "A held order has no task that could start"),
    Check("I7", "every_change_is_told", "Every audit entry has one outbox row that says the same"),
    Check("I7", "audit_has_no_leaps", "Every move begins where the one before it ended"),
    Check("I7", "audit_moves_are_legal", "Every move is one that the machines have"),
    Check("I7", "audit_tells_the_states", "The audit, replayed, gives the stored states"),
    Check("I8", "four_eyes_decided", "Nobody decides what they asked for, and no review decides itself"),
    Check("I9", "assets_are_locked", "Assets are locked by the live orders about them, and by no others"),
    Check("I11", "versions_have_no_gaps", "Versions count from one without a gap"),
    Check("I11", "events_leave_in_order", "Events of an order leave in the order of its versions"),
    Check("I12", "tenants_agree", "Every link stays within its tenant and its order"),
    Check("counters", "counters_are_true", "Counters of unmet predecessors are what counting gives"),
    Check("receipts", "answers_are_kept", "Every receipt has its answer, about something that is there"),
    Check("audit", "commands_are_on_record", "Every order and request was taken in once, on record"),
    Check("history", "history_tells_the_order", "What an order looked like is kept, up to how it stands"),
    Check("money", "money_is_conserved", "No more is given back than was taken"),
    Check("privacy", "messages_carry_ids", "The engine is told ids and nothing else"),
)
STANDING: Final = Check("I13", "states_are_recomputed", "The stored state is the one that recomputing gives")
CHAINS: Final = Check("audit", "chains_hold", "Every hash chain holds, up to the entry that its order names")
AT_REST: Final = Check(
    "rest", "nothing_is_stuck", "Every order has ended or waits for somebody; every message has left"
)

# What rows alone cannot show, and who shows it; said with every report, so that silence is not taken for proof.
BEYOND: Final[Mapping[str, str]] = {
    "I1": "Contents of ended rows that were changed without an audit entry, beyond their time of writing.",
    "I6": "Holds that came and went without a request or an operator; hold rows carry no time of their own.",
    "I7": "Outbox rows of changes older than the relay keeps them; whether Kafka has what was sent.",
    "I10": "That no state comes from the engine: nothing of the engine is stored to compare with.",
    "receipts": "That an answer was never replaced by another one about the same thing.",
}


def _legal_moves() -> str:
    moves = [
        {"machine": machine, "before": before, "after": after}
        for machine, table in MACHINES.items()
        for before, successors in [("", INITIAL[machine]), *table.items()]
        for after in sorted(successors)
    ]
    return orjson.dumps(moves).decode()


_STATES: Final[Mapping[str, Any]] = {
    "ended_order": sorted(ENDED["ORDER"]),
    "ended_request": sorted(ENDED["REQUEST"]),
    "ended_amendment": sorted(ENDED["AMENDMENT"]),
    "ended_case": sorted(ENDED["CASE"]),
    "ended_plan": sorted(ENDED["PLAN"]),
    "ended_task": sorted(ENDED["TASK"]),
    "ended_undoing": sorted(ENDED["COMPENSATION_TASK"]),
    "satisfied_task": sorted(ENDED["TASK"] | {"COMPENSATING"}),
    "event_types": orjson.dumps(dict(EVENT_TYPES)).decode(),
    "moves": _legal_moves(),
}


class Auditor:
    """One look at everything: all checks see the same instant, however long they take.

    limit: offences told per check; there may be more.
    """

    def __init__(self, connection: asyncpg.Connection, *, tenant_id: UUID | None, limit: int) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self.limit = limit

    async def export_instant(self) -> str:
        """The name of the snapshot, for others to look at the same instant."""
        return str(await self._connection.fetchval(_SQL["export_instant"].text))

    async def find_offences(self, check: Check, *, keep: timedelta) -> list[Offence]:
        """The first rows that break a check. keep: for how long the relay keeps what it has sent."""
        query = _SQL[check.name]
        values = {**_STATES, "tenant_id": self._tenant_id, "limit": self.limit, "keep": keep}
        return [Offence(**row) for row in await self._connection.fetch(query.text, *query.arguments(values))]

    async def find_misstated(self) -> list[Offence]:
        """I13: live orders whose stored state is not what `settle` would show."""
        query = _SQL["read_standing"]
        found: list[Offence] = []
        rows = self._connection.cursor(query.text, self._tenant_id, prefetch=_BATCH)
        async for row in rows:
            standing = rank_states(
                row["base"],
                request_status=row["request_status"],
                request_stuck=row["request_stuck"],
                amending=row["amending"],
                amendment_stuck=row["amendment_stuck"],
                on_hold=row["on_hold"],
                work_stuck=row["work_stuck"],
            )
            state, resume = shown_state(standing)
            if (row["state"], row["resume_state"]) != (state, resume):
                problem = f"is {row['state']} (then {row['resume_state']}), recomputed {state} (then {resume})"
                order_id = row["order_id"]
                found.append(Offence(row["tenant_id"], order_id, "ORDER", str(order_id), problem))
                if len(found) == self.limit:
                    break
        return found

    async def count_entries(self) -> int:
        """How many audit entries `walk_chains` will walk, as the orders' rows have it."""
        query = _SQL["count_entries"]
        return int(await self._connection.fetchval(query.text, self._tenant_id))

    async def read_chains(self, order_id: UUID | None = None) -> AsyncIterator[list[ChainLink]]:
        """Every entry of every order (or of one), order by order, in the order of their sequence; in batches."""
        query = _SQL["read_chains"]
        values = {"tenant_id": self._tenant_id, "order_id": order_id}
        cursor = await self._connection.cursor(query.text, *query.arguments(values))
        while rows := await cursor.fetch(_BATCH):
            yield [ChainLink(row["tenant_id"], _entry(row), row["last_sequence"], row["chain"]) for row in rows]

    async def walk_chains(self, walk: Walk, order_id: UUID | None = None) -> AsyncIterator[Break | None]:
        """Recompute every hash, of one order or of all; each break as it is met, and None now and then."""
        async for links in self.read_chains(order_id):
            for link in links:
                if left := walk.enter(link.tenant_id, link.entry.order_id, link.last_sequence, link.last_hash):
                    yield left
                if broken := walk.follow(link.entry):
                    yield broken
            yield None
        yield walk.finish()


@dataclass(frozen=True, slots=True)
class ChainLink:
    """One entry with its tenant, and the end of its chain as the order's row names it."""

    tenant_id: UUID
    entry: AuditEntry
    last_sequence: int
    last_hash: bytes


def _entry(row: asyncpg.Record) -> AuditEntry:
    return AuditEntry(
        row["order_id"],
        row["sequence"],
        row["at"],
        row["actor"],
        row["on_behalf_of"],
        row["entity"],
        row["entity_id"],
        row["kind"],
        row["before"],
        row["after"],
        row["request_id"],
        orjson.loads(row["data"]),
        row["previous_hash"],
        row["hash"],
    )


@asynccontextmanager
async def open_auditor(
    auditor_url: str, *, tenant_id: UUID | None = None, limit: int = 20, beside: Auditor | None = None
) -> AsyncIterator[Auditor]:
    """A session in one read-only snapshot. beside: one who looks at the same instant, for as long as this one looks

    Raises NotAnAuditorError for a role that would see only a part; OSError or asyncpg.PostgresError where no database
    answers."""
    instant = await beside.export_instant() if beside else None
    connection = await asyncpg.connect(auditor_url, timeout=10, server_settings=_SESSION)
    try:
        async with connection.transaction():
            if instant is not None:
                # Takes no parameter; the name is the server's own.
                await connection.execute(f"set transaction snapshot '{instant}'")
            if not await connection.fetchval(_SQL["can_read_all"].text):
                raise NotAnAuditorError(NotAnAuditorError.__doc__)
            yield Auditor(connection, tenant_id=tenant_id, limit=limit)
    finally:
        await connection.close()
