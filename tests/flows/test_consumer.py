"""The example reader as its own process on the real topic: killed while it reads, started again, it ends with the view
that the API has; and a new one that reads everything from the start ends with the same (EC55, EC57)."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
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
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait(10)


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
    tenant.fault(taskType="ship-device", fault="accept-silent")
    view, other = tmp_path / "view.db", tmp_path / "new.db"
    first = tenant.submit("router")
    with reader(stack, view):
        eventually(lambda: seen(view, tenant), lambda rows: first in rows, "the first order in the view")
    orders = [first, tenant.submit("router"), tenant.submit("router")]
    for order_id in orders[:2]:
        tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
        tenant.cancel(order_id)
        tenant.wait_state(order_id, "CANCELLED")
    tenant.wait_state(orders[2], "IN_PROGRESS")
    wanted = {order_id: tenant.order(order_id)["state"] for order_id in orders}
    assert sorted(wanted.values()) == ["CANCELLED", "CANCELLED", "IN_PROGRESS"]
    for database in (view, other):
        with reader(stack, database):
            eventually(partial(seen, database, tenant), lambda rows: rows == wanted, "the same view")
