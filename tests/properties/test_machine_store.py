"""The same machine over PostgreSQL: every command is one transaction of the real door, loaded anew before the next;
and any command of a person may be delivered again, long after."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from domain import commands as ask
from domain.values import Actor, TenantId
from tests.builders import World
from tests.postgres import Database
from tests.properties.test_machine_pure import OrderMachine
from tests.stored import Store, StoredWorld, open_store
from workers.verification import verify

# What fails is made small before it is told.
pytestmark = pytest.mark.timeout(900)

Delivered = tuple[ask.Command, Actor | None, uuid.UUID, Any]


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    with open_store(database) as opened:
        yield opened


def test_an_order_in_postgresql_lives_through_every_interleaving(store: Store) -> None:
    """Hundreds of steps; afterwards `verify` finds nothing, over all the orders that were drawn."""

    class Stored(OrderMachine):
        def make_world(self) -> World:
            self.delivered: list[Delivered] = []
            return Watched(store, TenantId(uuid.uuid4()), self.delivered)

        def check_audit(self) -> None:
            """The audit is in the database; `verify` recomputes it for all orders at the end."""

        @precondition(lambda self: self.delivered)
        @rule(number=st.integers(0, 99))
        def deliver_again(self, number: int) -> None:
            """A client that did not hear the answer sends the same once more: nothing moves, the answer is the same."""
            command, actor, command_id, answer = self.delivered[number % len(self.delivered)]
            before = self.world.the_order
            told: Any = self.world.do(command, actor, command_id=command_id)
            assert (told.replayed, told.body, told.etag) == (True, answer.body, answer.etag)
            assert self.world.the_order == before

    run_state_machine_as_test(
        Stored,
        settings=settings(
            max_examples=settings().max_examples // 5, stateful_step_count=25, suppress_health_check=list(HealthCheck)
        ),
    )
    report = store.run(verify(store.database.auditor_url, tenant_id=None, limit=20, at_rest=False))
    assert report.valid, report.to_text()


class Watched(StoredWorld):
    """A stored world that remembers what people asked for and what they were told."""

    def __init__(self, store: Store, tenant: TenantId, delivered: list[Delivered]) -> None:
        super().__init__(store, tenant)
        self._delivered = delivered

    def do(
        self,
        command: ask.Command,
        actor: Actor | None = None,
        around: Any = None,
        command_id: uuid.UUID | None = None,
        on_behalf_of: str | None = None,
    ) -> Any:
        command_id = command_id or uuid.uuid4()
        answer = super().do(command, actor, around, command_id, on_behalf_of)
        if actor is not None and not actor.is_system and not answer.replayed:
            self._delivered.append((command, actor, command_id, answer))
        return answer
