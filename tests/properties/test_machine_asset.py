"""Orders that meet at one asset: one has it at a time, from its acceptance to its end, whatever else becomes of both.

The machine of one order, over the pure core and over PostgreSQL, with others that may be placed at any moment."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from domain import commands as ask
from domain.errors import AssetBusy, Breach
from domain.order import Asset, Decision, Draft, Order, Surroundings
from domain.store.pool import tenant_transaction
from domain.values import Actor, AssetId, OrderId, TenantId
from tests.builders import World, an_item, an_order
from tests.postgres import Database
from tests.properties.test_machine_pure import OUTCOMES, OrderMachine
from tests.stored import Store, StoredWorld, open_store
from workers.verification import verify

# What fails is made small before it is told.
pytestmark = pytest.mark.timeout(900)

Aim = Literal["MODIFY", "DISCONNECT", "RELY", "NEW"]
AIMS: tuple[Aim, ...] = ("MODIFY", "DISCONNECT", "RELY", "NEW")
MOST = 3  # orders that one run places


def aim(how: Aim, asset_id: AssetId) -> ask.AcceptOrder:
    """An order that changes the asset, ends it, puts something on it, or makes one of its own."""
    item = {
        "MODIFY": an_item(offering="fiber-1000", action="MODIFY", target_asset=asset_id),
        "DISCONNECT": an_item(action="DISCONNECT", target_asset=asset_id),
        "RELY": an_item(offering="static-ip", target_asset=asset_id),
        "NEW": an_item(),
    }[how]
    return an_order(item)


def targets(order: Order) -> set[AssetId]:
    return {item.target_asset for item in order.items.values() if item.target_asset}


@dataclass
class Installed:
    """What two orders in memory have in common: the installed base and its locks, as the store would keep them."""

    assets: dict[AssetId, Asset] = field(default_factory=dict)
    holders: dict[AssetId, OrderId] = field(default_factory=dict)
    orders: dict[OrderId, Order] = field(default_factory=dict)

    def around(self, wanted: set[AssetId]) -> Surroundings:
        found = {asset_id: self.assets[asset_id] for asset_id in wanted}
        relying = {
            asset_id: tuple(a for a in self.assets.values() if a.state == "ACTIVE" and str(asset_id) in a.relies_on)
            for asset_id in found
        }
        holders = {asset_id: self.holders[asset_id] for asset_id in wanted & self.holders.keys()}
        doubtful = {a.asset_id for a in found.values() if a.installed_by and self._is_doubtful(a.installed_by)}
        return Surroundings(found, relying, holders, frozenset(doubtful))

    def _is_doubtful(self, order_id: OrderId) -> bool:
        order = self.orders[order_id]
        owes = order.head.has_ended and any(p.state in {"IN_PROGRESS", "BLOCKED"} for p in order.plans.values())
        late = any(case.is_open and case.context == "LATE_EFFECT" for case in order.cases.values())
        return order.head.state == "PARTIALLY_COMPLETED" or owes or late

    def shown_to(self, order: Order) -> Order:
        """The order as it would be loaded now."""
        about = targets(order) | {item.asset for item in order.items.values() if item.asset}
        busy = {a: h for a in about & self.holders.keys() if (h := self.holders[a]) != order.head.order_id}
        return replace(order, assets={a: self.assets[a] for a in about & self.assets.keys()}, busy_assets=busy)

    def keep(self, draft: Draft) -> None:
        order_id = draft.head.order_id
        self.assets |= draft.assets
        for asset_id in draft.locks_taken:
            assert asset_id not in self.holders, "I9: locked twice"
            self.holders[asset_id] = order_id
        if draft.locks_released:
            self.holders = {asset_id: holder for asset_id, holder in self.holders.items() if holder != order_id}
        self.orders[order_id] = draft.result()


class SharingWorld(World):
    """A world whose order sees what another one has done to their assets."""

    def __init__(self, installed: Installed) -> None:
        super().__init__()
        self.installed = installed

    def do(
        self,
        command: ask.Command,
        actor: Actor | None = None,
        around: Surroundings | None = None,
        command_id: uuid.UUID | None = None,
        on_behalf_of: str | None = None,
    ) -> Decision:
        if isinstance(command, ask.AcceptOrder):
            around = self.installed.around({AssetId(i.target_asset) for i in command.items if i.target_asset})
        else:
            self.order = self.installed.shown_to(self.the_order)
            if isinstance(command, ask.DecomposeOrder):
                around = self.installed.around(targets(self.order))
        decision = super().do(command, actor, around, command_id, on_behalf_of)
        self.installed.keep(decision.draft)
        return decision


@dataclass
class Side:
    """One order and what is known of its flows."""

    world: World
    jobs: list[Mapping[str, Any]] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)


class AssetMachine(OrderMachine):
    """All that may become of one order, and at any moment another one that wants the same asset."""

    installed: Any

    def install(self, asset: Asset) -> None:
        self.installed = Installed({asset.asset_id: asset})

    def make_world(self) -> World:
        return SharingWorld(self.installed)

    def read_base(self) -> tuple[dict[AssetId, int], dict[AssetId, OrderId]]:
        """The version of every asset, and who holds it."""
        return {a.asset_id: a.version for a in self.installed.assets.values()}, dict(self.installed.holders)

    @initialize(how=st.sampled_from(AIMS), progress=st.integers(-1, 4))
    def begin(self, how: Aim, progress: int) -> None:
        self.asset_id = AssetId(uuid.uuid4())
        self.install(Asset(self.asset_id, "c-9", "fiber-500", {"bandwidth": "500M"}, "ACTIVE"))
        self.known = [self.asset_id]  # in the order in which they came: their ids are not drawn
        self.sides: list[Side] = []
        self.place(self.make_world(), aim(how, self.asset_id))
        if progress >= 0:
            self.world.decompose()
        for _ in range(progress):
            self.work(0, OUTCOMES[0], True)
        self.base = self.read_base()

    accept = None  # type: ignore[assignment]

    def place(self, world: World, command: ask.AcceptOrder) -> None:
        world.accept(command)
        self.sides.append(Side(world))
        self.stand_at(self.sides[-1])

    def stand_at(self, side: Side) -> None:
        if hasattr(self, "world"):
            side.world.now = max(side.world.now, self.world.now)
        self.world, self.jobs, self.calls = side.world, side.jobs, side.calls
        self.previous = None
        self.look_again()

    def look_again(self) -> None:
        """What the other order did is seen from here, too."""
        self.world.order = self.installed.shown_to(self.world.the_order)

    @precondition(lambda self: len(self.sides) > 1)
    @rule(number=st.integers(0, MOST - 1))
    def turn(self, number: int) -> None:
        self.stand_at(self.sides[number % len(self.sides)])

    @precondition(lambda self: len(self.sides) < MOST)
    @rule(how=st.sampled_from(AIMS), number=st.integers(0, 9))
    def place_another(self, how: Aim, number: int) -> None:
        """EC48, D1: refused, with the holder's name, exactly while somebody has it."""
        versions, holders = self.read_base()
        self.known += [asset_id for asset_id in versions if asset_id not in self.known]
        asset_id = self.known[number % len(self.known)]
        command = aim(how, asset_id)
        holder = holders.get(asset_id) if how != "NEW" else None
        world = self.make_world()
        world.now = self.world.now
        refusal: Breach | None = None
        try:
            self.place(world, command)
        except Breach as breach:
            refusal = breach
        if isinstance(refusal, AssetBusy):
            assert refusal.blocked_by == f"/api/v1/orders/{holder}"
        else:
            assert holder is None, f"I9: {refusal or 'taken in'} although another order has the asset"

    # -- what must hold --------------------------------------------------------------------------------------

    @invariant()
    def an_asset_is_one_orders(self) -> None:
        """I9, and: only who holds an asset writes it; who made it, until it belongs to nobody's order."""
        if not hasattr(self, "base"):
            return
        versions, holders = self.read_base()
        live = [side.world.the_order for side in self.sides if not side.world.the_order.head.has_ended]
        wanted = [(asset_id, order.head.order_id) for order in live for asset_id in targets(order)]
        assert sorted(holders.items()) == sorted(wanted), "I9: a live order without its lock, or a lock without one"
        before, held_before = self.base
        for asset_id, version in versions.items():
            if before.get(asset_id, version) != version:
                item_assets = {item.asset for item in self.world.the_order.items.values()}
                held = held_before.get(asset_id)
                assert held == self.world.order_id or (held is None and asset_id in item_assets), (
                    "written by a stranger"
                )
        self.base = versions, holders

    @invariant()
    def nothing_is_called_on_another_orders_asset(self) -> None:
        """T11: what comes true too late is no reason to undo it while somebody else has the asset."""
        if hasattr(self, "base") and self.previous is not None and self.previous.head.has_ended:
            order = self.world.the_order
            about = targets(order) | {item.asset for item in order.items.values() if item.asset}
            if any(self.base[1].get(asset_id, order.head.order_id) != order.head.order_id for asset_id in about):
                assert order.tasks.keys() == self.previous.tasks.keys(), "an undoing behind another order's back"

    def teardown(self) -> None:
        """Once faults stop each of them ends, and nobody has the asset any more."""
        if not hasattr(self, "base"):
            return
        for side in self.sides:
            self.stand_at(side)
            super().teardown()
        if all(side.world.the_order.head.has_ended for side in self.sides):
            assert self.read_base()[1] == {}, "I9: a lock is left"


TestAsset = AssetMachine.TestCase
TestAsset.settings = settings(stateful_step_count=50, suppress_health_check=list(HealthCheck))


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    with open_store(database) as opened:
        yield opened


def test_orders_that_share_an_asset_in_postgresql(store: Store) -> None:
    """The same with real locks and rows: what one order does leaves every row of the other where it was."""

    class Stored(AssetMachine):
        def install(self, asset: Asset) -> None:
            self.tenant = TenantId(uuid.uuid4())
            store.world(self.tenant).install(asset)

        def make_world(self) -> World:
            return StoredWorld(store, self.tenant)

        def read_base(self) -> tuple[dict[AssetId, int], dict[AssetId, OrderId]]:
            rows = store.run(self.read_rows())
            held = {AssetId(row["asset_id"]): OrderId(row["order_id"]) for row in rows if row["order_id"]}
            return {AssetId(row["asset_id"]): row["version"] for row in rows}, held

        async def read_rows(self) -> list[Any]:
            async with tenant_transaction(store.pool, self.tenant, read_only=True) as connection:
                return list(
                    await connection.fetch(
                        "select a.asset_id, a.version, l.order_id from asset a"
                        " left join asset_change_lock l using (tenant_id, asset_id)"
                    )
                )

        def look_again(self) -> None:
            world = self.world
            assert isinstance(world, StoredWorld)
            now = world.reload()
            beside: dict[str, Any] = {"assets": {}, "busy_assets": {}}
            assert replace(now, **beside) == replace(world.the_order, **beside), "moved by a command on another order"
            world.order = now

        def check_audit(self) -> None:
            """`verify` recomputes it for all orders at the end."""

    run_state_machine_as_test(
        Stored,
        settings=settings(
            max_examples=settings().max_examples // 6, stateful_step_count=25, suppress_health_check=list(HealthCheck)
        ),
    )
    report = store.run(verify(store.database.auditor_url, tenant_id=None, limit=20, at_rest=False))
    assert report.valid, report.to_text()
