"""The example reader as its own process on the real topic: killed while it reads, started again, it ends with the view
that the API has; and a new one that reads everything from the start ends with the same (EC55, EC57)."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.flows.running import RunningStack, Tenant, eventually
from workers.contracts import FOLDER

pytestmark = pytest.mark.timeout(300)


@contextmanager
def reader(stack: RunningStack, view: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(FOLDER / "consumer.py"), stack.status()["kafka"], str(view)]
    process = subprocess.Popen(command)
    try:
        yield process
        assert process.poll() is None, "it has ended by itself"
        stack.kill(process.pid)
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def endless(view: Path, order_id: str) -> Iterator[Callable[[], bool]]:
    """A view that never comes to an end with what it takes in of one order; answers whether it has begun with it."""
    journal = view.with_name(f"{view.name}-journal")
    with closing(sqlite3.connect(view)) as database:
        database.executescript(f"""
            create view numbers as with recursive n(i) as (select 1 union all select i + 1 from n) select i from n;
            create trigger endless before insert on things when new.order_id = '{order_id}'
            begin select max(i) from numbers; end;
        """)
    yield lambda: journal.exists() and journal.stat().st_size > 0
    with closing(sqlite3.connect(view)) as database:
        database.executescript("drop trigger endless; drop view numbers")


def seen(view: Path, tenant: Tenant) -> dict[str, str]:
    """State by order, of one tenant."""
    if not view.exists():
        return {}
    with closing(sqlite3.connect(view, timeout=20)) as database:
        try:
            rows = database.execute("select order_id, state from orders where tenant = ?", (str(tenant.tenant_id),))
            return dict(rows.fetchall())
        except sqlite3.OperationalError:  # it has made no table yet
            return {}


def test_a_reader_killed_and_a_new_one_have_the_view_of_the_api(
    stack: RunningStack, tenant: Tenant, tmp_path: Path
) -> None:
    """It dies with records in its hands that its view does not have yet. Where Kafka is told before the view is written
    (`commit` above `with view`), they never come again, and an order of the API's is missing for ever.
    """
    tenant.fault(taskType="ship-device", fault="accept-silent")
    view, other = tmp_path / "view.db", tmp_path / "new.db"
    first = tenant.submit("router")
    with reader(stack, view):
        eventually(lambda: seen(view, tenant), lambda rows: first in rows, "the first order in the view")
    quiet = tenant.submit("router")  # nothing more is said of it than what the reader finds in the topic now
    tenant.wait_effect(quiet, "ship", "shipping", acceptedAt=...)
    tenant.assert_all_told([quiet])
    with endless(view, quiet) as has_begun, reader(stack, view):
        eventually(has_begun, bool, "the reader in the midst of its writing")
    assert quiet not in seen(view, tenant)
    orders = [first, tenant.submit("router"), quiet]
    for order_id in orders[:2]:
        tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
        tenant.cancel(order_id)
        tenant.wait_state(order_id, "CANCELLED")
    wanted = {order_id: tenant.order(order_id)["state"] for order_id in orders}
    assert sorted(wanted.values()) == ["CANCELLED", "CANCELLED", "IN_PROGRESS"]
    for database in (view, other):
        with reader(stack, database):
            eventually(partial(seen, database, tenant), lambda rows: rows == wanted, "the same view")
