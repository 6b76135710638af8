"""An example reader of the topic: it keeps a view of every order, whatever comes twice, late or out of order.

    python consumer.py 127.0.0.1:9092 orders.db

It rests on three promises: an event sent again has the same `ce_id`; `ce_orderversion` counts the events of an order;
an event says what *one* thing became. So a thing is what the newest event about it says, and an older event changes
nothing. Reading the whole topic into an empty database gives the same view as having listened all the time.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Mapping
from itertools import chain

TABLES = """
create table if not exists orders (
    tenant text, order_id text, state text, version integer, at text, primary key (tenant, order_id));
create table if not exists things (
    tenant text, order_id text, entity text, entity_id text, state text, version integer,
    primary key (tenant, order_id, entity, entity_id));
create table if not exists facts (
    event_id text primary key, tenant text, order_id text, version integer, type text, data text);
create table if not exists reader (name text);
insert into reader select 'order-view-' || lower(hex(randomblob(8))) where not exists (select 1 from reader);
"""

NEWEST_STATE_OF_THE_ORDER = """
insert into orders values (:tenant, :orderId, :orderState, :version, :at)
on conflict do update set state = excluded.state, version = excluded.version, at = excluded.at
where excluded.version > orders.version
"""

NEWEST_STATE_OF_A_THING = """
insert into things values (:tenant, :orderId, :entity, :entityId, :to, :version)
on conflict do update set state = excluded.state, version = excluded.version
where excluded.version > things.version
"""

# A fact moves nothing; that it happened is kept once.
EVERY_FACT_ONCE = """
insert into facts values (:event_id, :tenant, :orderId, :version, :type, :data) on conflict do nothing
"""


def open_view(path: str) -> sqlite3.Connection:
    view = sqlite3.connect(path)
    view.executescript(TABLES)
    return view


def take(view: sqlite3.Connection, headers: Mapping[str, str], value: bytes) -> None:
    """Put one record into the view, in the caller's transaction. Taking it again changes nothing."""
    kind = headers["ce_type"]
    if not (kind.startswith("recourse.") and kind.endswith(".v1")):
        return  # of a later release; what it means is not known here
    event = json.loads(value)
    row = {
        **event,
        "tenant": headers["ce_tenant"],
        "version": int(headers["ce_orderversion"]),
        "event_id": headers["ce_id"],
        "type": kind,
        "data": json.dumps(event["data"], sort_keys=True),
    }
    view.execute(NEWEST_STATE_OF_THE_ORDER, row)
    view.execute(EVERY_FACT_ONCE if event["to"] is None else NEWEST_STATE_OF_A_THING, row)


async def listen(bootstrap: str, view: sqlite3.Connection) -> None:
    from aiokafka import AIOKafkaConsumer  # only listening needs it

    consumer = AIOKafkaConsumer(
        "order-changes",
        bootstrap_servers=bootstrap,
        group_id=view.execute("select name from reader").fetchone()[0],  # a new view begins at the beginning
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        while True:
            batch = await consumer.getmany(timeout_ms=1000)
            with view:  # one transaction for all of them: a disk that is waited for once
                for record in chain.from_iterable(batch.values()):
                    take(view, {name: text.decode() for name, text in record.headers}, record.value)
            # After the view has it: dying in between means reading some again, which does no harm.
            await consumer.commit()
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(listen(sys.argv[1], open_view(sys.argv[2])))
