"""What store tests stand on: a database of their own, and one in which everything has happened once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from domain.values import OrderId
from tests.postgres import Database, PostgresServer
from tests.stored import Store, open_store
from tests.stories import STORIES, UNFINISHED


@dataclass(frozen=True, slots=True)
class Lived:
    """A database that all stories were played in; tests leave it as they find it. `orders`: one per story's name."""

    store: Store
    orders: dict[str, OrderId]

    @property
    def database(self) -> Database:
        return self.store.database


@pytest.fixture(scope="session")
def lived(postgres_server: PostgresServer) -> Iterator[Lived]:
    with postgres_server.clone() as database, open_store(database) as store:
        orders: dict[str, OrderId] = {}
        for story in (*STORIES, *UNFINISHED):
            world = store.world()
            story(world)
            orders[story.__name__] = world.order_id
        yield Lived(store, orders)


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A store of this test's own."""
    with open_store(database) as opened:
        yield opened
