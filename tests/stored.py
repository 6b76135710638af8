"""The world of `builders`, kept in a real database: the same stories, through the one door, with a clock of tests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import asyncpg
import orjson

from domain import commands as ask
from domain.decide import case_etag, order_etag, request_etag
from domain.errors import Breach
from domain.handle import Answer, Door
from domain.order import Asset, Draft, Order, Reported, Surroundings
from domain.policy import parse_policy, read_policy_text
from domain.settle import settle
from domain.store.orders import load_order
from domain.store.pool import Pool, open_pool, tenant_transaction
from domain.values import Actor, OrderId, TenantId, system_actor
from tests.builders import NOW, ROOT, TENANT
from tests.postgres import Database
from tests.stories import Stage

T = TypeVar("T")
EVERYONE = TenantId(uuid.UUID(int=0))

# The application's session finds this clock before PostgreSQL's own; it ticks by a microsecond a look.
_CLOCK = """
create schema testing;
create sequence testing.tick;
create table testing.clock (base timestamptz not null);
insert into testing.clock values ('{now}');
create function testing.clock_timestamp() returns timestamptz language sql volatile as $$
    select base + nextval('testing.tick') * interval '1 microsecond' from testing.clock $$;
grant usage on schema testing to recourse_app;
grant select on testing.clock to recourse_app;
grant usage on testing.tick to recourse_app;
"""


class Store:
    """One database with the telecom policy in force, for synchronous tests: `run` carries a coroutine out."""

    pool: Pool
    door: Door

    def __init__(self, database: Database, runner: asyncio.Runner) -> None:
        self.database = database
        self.base: datetime | None = None  # what the clock was set to last
        self._runner = runner

    def start(self) -> None:
        """Set the clock to `builders.NOW`, unless this is a copy of a store, and open the door."""
        if not self.as_owner("select 1 from pg_namespace where nspname = 'testing'"):
            self.as_owner(_CLOCK.format(now=NOW.isoformat()))
            self.publish()
        # Settings of a database are not copied with it.
        self.as_owner(
            f"alter role recourse_app in database {self.database.name} set search_path = testing, public, pg_catalog"
        )
        self.pool = self.run(open_pool(self.database.app_url, size=4))
        self.door = Door(self.pool)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def as_owner(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run SQL past every guard, as nobody but a database's administrator could."""

        async def execute() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.database.owner_url)
            try:
                if arguments or sql.lstrip().startswith(("select", "with")):
                    return list(await connection.fetch(sql, *arguments))
                await connection.execute(sql)
                return []
            finally:
                await connection.close()

        return self.run(execute())

    def publish(self, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Put the telecom policy in force for everybody, with one thing changed."""
        document = dict(read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text()))
        if change:
            change(document)
        effective_from = parse_policy(document).effective_from

        async def store() -> None:
            connection = await asyncpg.connect(self.database.owner_url)
            try:
                await connection.execute(f"set recourse.tenant = '{EVERYONE}'")
                # Not `add_policy`: a document that comes back must count as the newest.
                await connection.execute(
                    "insert into policy (tenant_id, name, effective_from, document, loaded_by)"
                    " values ($1, $2, $3, $4, 'test')",
                    EVERYONE,
                    document["policy"],
                    effective_from,
                    orjson.dumps(document).decode(),
                )
            finally:
                await connection.close()

        self.run(store())

    def world(self, tenant: TenantId = TENANT) -> StoredWorld:
        return StoredWorld(self, tenant)


@contextmanager
def open_store(database: Database) -> Iterator[Store]:
    with asyncio.Runner() as runner:
        store = Store(database, runner)
        store.start()
        try:
            yield store
        finally:
            store.run(store.pool.close())


class StoredWorld(Stage):
    """As its base, but every command is one transaction of the real door, and the order is what can be loaded again."""

    def __init__(self, store: Store, tenant: TenantId = TENANT) -> None:
        super().__init__()
        self.store = store
        self.tenant = tenant
        self._set_clock()

    def do(
        self,
        command: ask.Command,
        actor: Actor | None = None,
        around: Surroundings | None = None,
        command_id: uuid.UUID | None = None,
        on_behalf_of: str | None = None,
    ) -> Any:
        """The door's answer; what surrounds a new order is looked up, not given."""
        for asset in (around.assets if around else {}).values():
            self.install(asset)
        self._set_clock()
        handled = self._handle(command, actor or system_actor("test"), command_id or uuid.uuid4(), on_behalf_of)
        try:
            answer = self.store.run(handled)
        except Breach:
            if self.order is not None:  # that somebody tried a repair is kept (EC62)
                self.order = self.reload()
            raise
        self.order = self.store.run(self._load(command.order_id))
        if isinstance(command, ask.ClaimTask | ask.RecordOutcome):
            self._expect_nothing_left()
        return answer

    def _expect_nothing_left(self) -> None:
        """A claim or an outcome is decided on a slice of the order: it must leave nothing that the whole would have
        settled, for nobody might ask again for a long time."""
        draft = Draft(
            self.the_order,
            actor=system_actor("test"),
            on_behalf_of=None,
            now=self.now,
            command_id=uuid.uuid4(),
            policy=self.policy,
            policy_version=self.policy_version,
        )
        settle(draft, Reported())
        assert not draft.events, [(event.entity, event.kind, event.before, event.after) for event in draft.events]

    async def _handle(
        self, command: ask.Command, actor: Actor, command_id: uuid.UUID, on_behalf_of: str | None
    ) -> Answer:
        envelope = ask.Envelope(
            self.tenant, command_id, actor, fingerprint="f", on_behalf_of=on_behalf_of, keep=not actor.is_system
        )
        return await self.store.door.handle(replace(envelope, if_match=self.etag(command)), command)

    def reload(self) -> Order:
        """The order as it stands in the database now."""
        order = self.store.run(self._load(self.order_id))
        assert order is not None
        return order

    async def _load(self, order_id: OrderId) -> Order | None:
        async with tenant_transaction(self.store.pool, self.tenant) as connection:
            order, _, _ = await load_order(connection, self.tenant, order_id)
        return order

    def etag(self, command: ask.Command) -> str | None:
        """What somebody who has just looked would send."""
        match command:
            case ask.RequestCancellation() | ask.RequestAmendment() | ask.HoldOrder() | ask.ReleaseOrder():
                return order_etag(self.the_order.head.version)
            case ask.ApproveCancellation() | ask.RejectCancellation() | ask.WithdrawCancellation() | ask.AnswerCharge():
                return request_etag(self.request(command.request_id).version)
            case (
                ask.ApproveAmendment()
                | ask.RejectAmendment()
                | ask.ApplyAmendment()
                | ask.WithdrawAmendment()
                | ask.AnswerAmendmentCharge()
            ):
                return request_etag(self.amendment(command.request_id).version)
            case ask.AssignCase() | ask.RepairCase() | ask.DecideRepair():
                return case_etag(self.the_order.cases[command.case_id].version)
        return None

    def wait(self, span: Any) -> StoredWorld:
        super().wait(span)
        self._set_clock()
        return self

    def change_policy(self, change: Callable[[dict[str, Any]], None]) -> None:
        self.store.publish(change)

    def _set_clock(self) -> None:
        """The database has one clock for all worlds: it shows the time of whoever acts."""
        if self.store.base != self.now:
            self.store.base = self.now
            self.store.as_owner(f"update testing.clock set base = '{self.now.isoformat()}'")

    def install(self, asset: Asset) -> None:
        self.store.as_owner(
            "insert into asset (tenant_id, asset_id, customer_id, offering, configuration, state, version,"
            " system_references, quantity) values ($1, $2, $3, $4, '{}', $5, $6, '{}', 1) on conflict do nothing"
            " returning asset_id",
            self.tenant,
            asset.asset_id,
            asset.customer_id,
            asset.offering,
            asset.state,
            asset.version,
        )
