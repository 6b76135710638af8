"""Two at once, at a real barrier: all wait inside their transactions for a lock that a third lets go."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from domain import commands as ask
from domain.decide import order_etag
from domain.errors import (
    AssetBusy,
    ChangeActive,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    RelationCycle,
    RelationTargetUnknown,
    VersionStale,
)
from domain.handle import Answer, Door
from domain.order import Asset
from domain.store.orders import lock_order
from domain.store.pool import open_pool, tenant_transaction
from domain.values import AssetId, OrderId, RequestId
from tests.builders import AGENT, OPERATOR, TENANT, an_item, an_order
from tests.stored import Store, StoredWorld


@asynccontextmanager
async def watch(store: Store) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(store.database.owner_url)
    try:
        yield connection
    finally:
        await connection.close()


async def until_waiting(watcher: asyncpg.Connection, number: int) -> None:
    """Until so many sessions of this database wait for a lock."""
    async with asyncio.timeout(10):
        while (
            await watcher.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
            < number
        ):
            await asyncio.sleep(0.005)


def cancellation(world: StoredWorld, **envelope: Any) -> tuple[ask.Envelope, ask.Command]:
    """A cancellation by somebody who has just looked at the order, under a key of its own."""
    fields: dict[str, Any] = {"command_id": uuid.uuid4(), "fingerprint": "f"} | envelope
    request_id = RequestId(uuid.uuid5(fields["command_id"], "request"))
    command = ask.RequestCancellation(world.order_id, request_id, "ORDER", (), "CUSTOMER_CHANGED_MIND")
    return ask.Envelope(TENANT, actor=AGENT, if_match=order_etag(world.the_order.head.version), **fields), command


async def settle(work: Awaitable[Answer]) -> Answer | Exception:
    try:
        return await work
    except (
        AssetBusy,
        ChangeActive,
        IdempotencyInFlight,
        RelationCycle,
        RelationTargetUnknown,
        VersionStale,
    ) as breach:
        return breach


# -- the snapshot rule ----------------------------------------------------------------------------------------

WRITE_EFFECT = """
    insert into effect (tenant_id, effect_id, order_id, task_id, task_type, system, operation, level, state, basis,
        input, attempt, failures, intended_at)
    select tenant_id, gen_random_uuid(), order_id, task_id, task_type, 'inventory', 'reserve', 'RESERVATION_ONLY',
        'INTENDED', 'SYSTEM', '{}', 0, 0, now()
    from fulfillment_task where task_id = $1 returning effect_id"""
START_TASK = "update fulfillment_task set state = 'IN_PROGRESS', effect_id = $2 where task_id = $1"


def test_a_command_that_waited_for_the_lock_sees_what_was_written_meanwhile(store: Store) -> None:
    """The order is loaded by a statement that begins when the lock is ours. An older snapshot would miss the call that
    has just begun, and tell the cancellation that nothing is under way."""
    world = store.world()
    world.accept().decompose()
    request = world.cancel()
    task_id = world.task("reserve-inventory").task_id
    begin = ask.BeginAssessment(world.order_id, request.request_id, request.run)

    async def race() -> Answer:
        async with watch(store) as watcher:
            async with tenant_transaction(store.pool, TENANT) as first:
                await lock_order(first, TENANT, world.order_id)
                second = asyncio.ensure_future(
                    store.door.handle(ask.Envelope(TENANT, uuid.uuid4(), AGENT, keep=False), begin)
                )
                await until_waiting(watcher, 1)
                effect_id = await first.fetchval(WRITE_EFFECT, task_id)
                await first.execute(START_TASK, task_id, effect_id)
            return await second

    assert store.run(race()).body["verdict"] == "wait"


def test_children_read_by_the_statement_that_locks_are_older_than_the_lock(store: Store) -> None:
    """Why the rule is there: the new row of the order, and beneath it the old children."""
    world = store.world()
    world.accept().decompose()
    task_id = world.task("reserve-inventory").task_id
    naive = (
        "select version, (select count(*) from effect e where e.order_id = o.order_id) as effects"
        " from customer_order o where order_id = $1 for update"
    )

    async def look(order_id: OrderId) -> asyncpg.Record | None:
        async with tenant_transaction(store.pool, TENANT) as second:
            return await second.fetchrow(naive, order_id)

    async def race() -> asyncpg.Record | None:
        async with watch(store) as watcher:
            async with tenant_transaction(store.pool, TENANT) as first:
                await lock_order(first, TENANT, world.order_id)
                second = asyncio.ensure_future(look(world.order_id))
                await until_waiting(watcher, 1)
                await first.fetchval(WRITE_EFFECT, task_id)
                await first.execute("update customer_order set version = 99 where order_id = $1", world.order_id)
            return await second

    seen = store.run(race())
    assert seen is not None
    assert (seen["version"], seen["effects"]) == (99, 0)


def test_a_telling_that_comes_while_another_is_heard_stays_owed(store: Store) -> None:
    """The order looks, the cancellation ends, the order writes: what it looked at is over, so it must look again."""
    store.publish(lambda document: document["cancellation"]["closure"].update(dependent_order="HOLD"))
    world = store.world()
    source = world.accept().order_id
    named = {"type": "SUPPLEMENTS", "targetOrderId": str(source), "reasonCode": None}
    dependent = store.world().accept(replace(an_order(), relations=(named,))).order_id
    request = world.cancel()
    follow = ask.FollowCancellation(dependent, source, request.request_id)

    async def hear() -> Answer:
        return await store.door.handle(ask.Envelope(TENANT, uuid.uuid4(), AGENT, keep=False), follow)

    async def race() -> Answer:
        async with watch(store) as watcher:
            async with tenant_transaction(store.pool, TENANT) as ending:
                await ending.execute("update dependence set run = gen_random_uuid() where order_id = $1", dependent)
                heard = asyncio.ensure_future(hear())
                await until_waiting(watcher, 1)
            return await heard

    owed = "select count(*) from dependence where order_id = $1"
    assert store.as_owner(owed, dependent)[0][0] == 1
    assert store.run(race()).body["verdict"] == "hold"
    assert store.as_owner(owed, dependent)[0][0] == 1
    assert store.run(hear()).body["verdict"] == "hold"
    assert store.as_owner(owed, dependent)[0][0] == 0


def related(order: ask.AcceptOrder, other: OrderId) -> ask.AcceptOrder:
    return replace(order, relations=({"type": "AMENDS", "targetOrderId": str(other), "reasonCode": None},))


def test_two_halves_of_a_circle_said_at_once_are_one_relation(store: Store) -> None:
    """EC52: each half alone could be in order; which one is, the orders' ages say, and not who comes first."""
    older, newer = (store.world().accept().order_id for _ in range(2))

    async def say(source: OrderId, target: OrderId) -> Answer | Exception:
        envelope = ask.Envelope(TENANT, uuid.uuid4(), OPERATOR, "f", if_match=order_etag(1))
        return await settle(store.door.handle(envelope, ask.AddRelation(source, "AMENDS", target)))

    async def race() -> list[Answer | Exception]:
        async with watch(store) as watcher:
            async with tenant_transaction(store.pool, TENANT) as barrier:
                for order_id in sorted((older, newer)):
                    await lock_order(barrier, TENANT, order_id)
                going = [asyncio.ensure_future(say(*ends)) for ends in ((older, newer), (newer, older))]
                await until_waiting(watcher, 2)
            return list(await asyncio.gather(*going))

    assert [type(heard) for heard in store.run(race())] == [RelationCycle, Answer]
    edges = store.as_owner("select source_order_id, target_order_id from order_relation")
    assert [tuple(edge) for edge in edges] == [(newer, older)]


def test_an_order_relates_to_none_that_comes_in_while_it_does(store: Store) -> None:
    """Whoever knows the id beforehand can name an order that is newer: it is there when the older one is written, but
    not when that one looked and got its time. A relation to it would be half a circle."""
    asset = Asset(AssetId(uuid.uuid4()), "c-9", "fiber-500", {}, "ACTIVE")
    store.world().install(asset)
    holder = store.world().accept().order_id
    newer = an_order()
    older = related(an_order(an_item(action="MODIFY", target_asset=asset.asset_id)), newer.order_id)

    async def accept(order: ask.AcceptOrder) -> Answer | Exception:
        return await settle(store.door.handle(ask.Envelope(TENANT, uuid.uuid4(), AGENT, "f"), order))

    async def race() -> tuple[Answer | Exception, Answer | Exception]:
        async with watch(store) as watcher:
            async with tenant_transaction(store.pool, TENANT) as barrier:
                lock = "insert into asset_change_lock (tenant_id, asset_id, order_id) values ($1, $2, $3)"
                await barrier.execute(lock, TENANT, asset.asset_id, holder)
                looked = asyncio.ensure_future(accept(older))
                held = asyncio.ensure_future(until_waiting(watcher, 1))
                await asyncio.wait({looked, held}, return_when=asyncio.FIRST_COMPLETED)
                came = await accept(newer)
                await barrier.execute("delete from asset_change_lock where order_id = $1", holder)
                held.cancel()
            return await looked, came

    heard, came = store.run(race())
    assert isinstance(came, Answer)
    assert isinstance(heard, RelationTargetUnknown)
    assert store.as_owner("select count(*) from order_relation")[0][0] == 0


# -- two people -------------------------------------------------------------------------------------------------


def test_of_two_cancellations_at_once_one_is_taken_and_the_other_hears_why(store: Store) -> None:
    """EC36, in both orders of commit."""
    winners: list[str] = []
    for order in ("first", "second"), ("second", "first"):
        world = store.world()
        world.accept().decompose()
        asked = {name: cancellation(world) for name in order}

        async def race(
            world: StoredWorld = world,
            order: tuple[str, str] = order,
            asked: dict[str, tuple[ask.Envelope, ask.Command]] = asked,
        ) -> dict[str, Answer | Exception]:
            async with watch(store) as watcher:
                going: dict[str, asyncio.Future[Answer | Exception]] = {}
                async with tenant_transaction(store.pool, TENANT) as barrier:
                    await lock_order(barrier, TENANT, world.order_id)
                    for number, name in enumerate(order, 1):
                        going[name] = asyncio.ensure_future(settle(store.door.handle(*asked[name])))
                        await until_waiting(watcher, number)
                return {name: await answer for name, answer in going.items()}

        answers = store.run(race())
        taken = [name for name, answer in answers.items() if isinstance(answer, Answer)]
        assert len(taken) == 1
        assert {type(answer) for answer in answers.values()} <= {Answer, VersionStale, ChangeActive}
        winners += taken
        found = store.as_owner("select count(*) from cancellation_request where order_id = $1", world.order_id)
        assert found[0][0] == 1
    assert set(winners) == {"first", "second"}


def test_fifty_with_the_same_key_are_one_execution(store: Store) -> None:
    """EC37: the others are given its answer again, or told that it is under way."""
    world = store.world()
    world.accept().decompose()
    envelope, command = cancellation(world)

    async def race() -> list[Answer | Exception]:
        pool = await open_pool(store.database.app_url, size=50)
        door = Door(pool)
        try:
            async with watch(store) as watcher, tenant_transaction(store.pool, TENANT) as barrier:
                await lock_order(barrier, TENANT, world.order_id)
                going = [asyncio.ensure_future(settle(door.handle(envelope, command))) for _ in range(50)]
                await until_waiting(watcher, 10)
            return list(await asyncio.gather(*going))
        finally:
            await pool.close()

    answers = store.run(race())
    told = Counter(
        ("replayed" if answer.replayed else "done") if isinstance(answer, Answer) else type(answer).__name__
        for answer in answers
    )
    assert told["done"] == 1
    assert told.keys() <= {"done", "replayed", "IdempotencyInFlight"}
    bodies = [answer.body for answer in answers if isinstance(answer, Answer)]
    assert all(body == bodies[0] for body in bodies)
    assert store.as_owner("select count(*) from cancellation_request")[0][0] == 1
    assert store.as_owner("select count(*) from receipt where command_id = $1", envelope.command_id)[0][0] == 1


def test_the_same_key_with_another_body_changes_nothing(store: Store) -> None:
    """EC38."""
    world = store.world()
    world.accept().decompose()
    envelope, command = cancellation(world)
    store.run(store.door.handle(envelope, command))
    other, command = cancellation(world, command_id=envelope.command_id, fingerprint="another body")
    with pytest.raises(IdempotencyKeyReused):
        store.run(store.door.handle(other, command))
    assert store.as_owner("select fingerprint from receipt where command_id = $1", envelope.command_id)[0][0] == "f"


def test_of_two_orders_for_one_asset_at_once_the_second_hears_of_the_first(store: Store) -> None:
    """EC48: the lock is taken in the transaction of the POST, so there is no moment for both."""
    asset = Asset(AssetId(uuid.uuid4()), "c-9", "fiber-500", {}, "ACTIVE")
    store.world().install(asset)
    orders = [an_order(an_item(action="MODIFY", target_asset=asset.asset_id)) for _ in range(2)]

    async def race() -> list[Answer | Exception]:
        async with watch(store) as watcher:
            async with tenant_transaction(store.pool, TENANT) as barrier:
                # Both have passed the door's look at the asset when the first of them gets its lock.
                await barrier.execute("lock table asset_change_lock in share mode")
                going = [
                    asyncio.ensure_future(
                        settle(store.door.handle(ask.Envelope(TENANT, uuid.uuid4(), AGENT, "f"), order))
                    )
                    for order in orders
                ]
                await until_waiting(watcher, 2)
            return list(await asyncio.gather(*going))

    answers = store.run(race())
    [taken] = [answer for answer in answers if isinstance(answer, Answer)]
    [busy] = [answer for answer in answers if isinstance(answer, AssetBusy)]
    assert busy.blocked_by == f"/api/v1/orders/{taken.body['orderId']}"
    assert store.as_owner("select count(*) from customer_order")[0][0] == 1


def test_two_hundred_orders_on_ten_assets_leave_one_holder_each(store: Store) -> None:
    """D1, D2, EC48: half of them aim at two assets at once; who gets in holds all of its own, and nobody else any."""
    assets = [Asset(AssetId(uuid.uuid4()), "c-9", "fiber-500", {}, "ACTIVE") for _ in range(10)]
    for asset in assets:
        store.world().install(asset)

    def aim(number: int) -> ask.AcceptOrder:
        wanted = [assets[number % 10], assets[(number * 3 + 1) % 10]][: 1 + number // 10 % 2]
        chosen = {asset.asset_id: asset for asset in wanted}
        return an_order(*(an_item(str(n), action="MODIFY", target_asset=one) for n, one in enumerate(chosen)))

    orders = [aim(number) for number in range(200)]

    async def race() -> list[Answer | Exception]:
        pool = await open_pool(store.database.app_url, size=40)
        door = Door(pool)
        try:
            async with watch(store) as watcher, tenant_transaction(store.pool, TENANT) as barrier:
                # All that have a connection have passed the door's look at the assets before anybody gets a lock.
                await barrier.execute("lock table asset_change_lock in share mode")
                going = [
                    asyncio.ensure_future(settle(door.handle(ask.Envelope(TENANT, uuid.uuid4(), AGENT, "f"), order)))
                    for order in orders
                ]
                await until_waiting(watcher, 20)
            return list(await asyncio.gather(*going))
        finally:
            await pool.close()

    answers = store.run(race())
    taken = {answer.body["orderId"] for answer in answers if isinstance(answer, Answer)}
    busy = [answer for answer in answers if isinstance(answer, AssetBusy)]
    assert len(taken) + len(busy) == 200
    held = store.as_owner("select asset_id, order_id::text from asset_change_lock")
    wanted = store.as_owner("select target_asset, order_id::text from order_item")
    assert sorted(map(tuple, held)) == sorted(map(tuple, wanted))
    assert len({row[0] for row in held}) == len(held) == 10
    assert {row[1] for row in held} == taken
    assert all(answer.blocked_by and answer.blocked_by.rpartition("/")[2] in taken for answer in busy)
