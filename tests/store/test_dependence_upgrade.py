"""What was told before tellings were kept as rows is owed from the upgrade on, wherever it may not have been heard."""

from __future__ import annotations

import uuid
from dataclasses import replace

from domain import commands as ask
from domain.values import OrderId, RequestId
from tests.builders import AGENT, ROOT, an_order
from tests.stored import Store, StoredWorld

MIGRATION = ROOT / "migrations/0020_expand_dependence.sql"


def cancelled_beneath_another(store: Store) -> tuple[StoredWorld, OrderId, RequestId]:
    """(an order that is being cancelled, who depends on it, the request)."""
    world = store.world()
    source = world.accept().order_id
    named = {"type": "SUPPLEMENTS", "targetOrderId": str(source), "reasonCode": None}
    dependent = store.world().accept(replace(an_order(), relations=(named,))).order_id
    return world, dependent, world.cancel().request_id


def test_the_upgrade_owes_what_may_not_have_been_heard(store: Store) -> None:
    store.publish(lambda document: document["cancellation"]["closure"].update(dependent_order="HOLD"))
    _, waiting, open_request = cancelled_beneath_another(store)
    world, held, over = cancelled_beneath_another(store)
    follow = ask.FollowCancellation(held, world.order_id, over)
    store.world().do(follow)
    world.do(ask.WithdrawCancellation(world.order_id, over), AGENT)
    heard_world, heard, done = cancelled_beneath_another(store)
    heard_world.do(ask.WithdrawCancellation(heard_world.order_id, done), AGENT)
    store.world().do(ask.FollowCancellation(heard, heard_world.order_id, done))

    store.as_owner("drop table dependence, asset_correction")
    store.as_owner(MIGRATION.read_text())
    rows = store.as_owner("select order_id, request_id from dependence order by told_at")
    assert {(row["order_id"], row["request_id"]) for row in rows} == {(waiting, open_request), (held, over)}
    # And the application's role can settle it.
    assert store.world().do(follow).body["verdict"] == "release"
    owed = store.as_owner("select count(*) from dependence where order_id = $1", uuid.UUID(str(held)))
    assert owed[0][0] == 0
