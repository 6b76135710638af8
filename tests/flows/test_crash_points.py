"""The matrix of crash points on the running system: our own processes die by SIGKILL at each named place, on the way
forward and on the way back; afterwards the outside world's own book shows each thing once, and `verify` finds nothing.

docs/crash-points.md says what has happened by each point."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from subprocess import Popen

import httpx
import pytest

from tests.flows.running import RunningStack, Tenant, eventually
from tests.flows.test_amended_work import an_item
from tests.flows.test_amendments import LATER, SLOT, amend, replace, wait_status

pytestmark = pytest.mark.timeout(600)

FORWARD = (
    "before-claim:effect-inventory",
    "after-claim:reserve-inventory",
    "after-call:reserve-inventory",
    "before-outcome:reserve-inventory",
    "after-outcome:reserve-inventory",
    "before-complete:effect-inventory",
    "after-complete:effect-inventory",
)
BACKWARD = (
    "before-claim:effect-inventory",
    "after-claim:release-inventory",
    "after-call:release-inventory",
    "before-outcome:release-inventory",
    "after-outcome:release-inventory",
    "before-complete:effect-inventory",
    "after-complete:effect-inventory",
)
# A booked visit is moved: the old booking is undone, the new one made.
AMENDED = (
    "before-complete:assess-amendment",
    "before-complete:apply-amendment",
    "after-complete:apply-amendment",
    "after-claim:cancel-appointment",
    "after-call:cancel-appointment",
    "after-outcome:cancel-appointment",
)
RELAY = ("before-send", "after-send", "before-mark", "after-mark")
UNDONE = {"reserve-inventory": 1, "stop-shipment": 1, "release-inventory": 1}

Doomed = Mapping[str, Popen[bytes]]


@contextmanager
def doomed(stack: RunningStack, *command: str, points: tuple[str, ...]) -> Iterator[Doomed]:
    """One process for each point, told to die there."""
    with ExitStack() as running:
        yield {point: running.enter_context(stack.another(*command, RECOURSE_CRASH_AT=point)) for point in points}


def kill_all(processes: Doomed, act: Callable[[], object]) -> None:
    """Act until all have died: one at a time, whoever takes the work dies of it, and the next is still there."""

    def dead() -> int:
        return sum(process.poll() is not None for process in processes.values())

    while (before := dead()) < len(processes):
        act()
        eventually(dead, lambda now, before=before: now > before, f"the death of one more than {before}", 120)  # type: ignore[misc]
    died = {point: process.returncode for point, process in processes.items()}
    assert died == dict.fromkeys(processes, -signal.SIGKILL)


@pytest.fixture
def shipped_later(tenant: Tenant) -> Tenant:
    """Routers are reserved at once and promised for later, so that a cancellation can still undo everything."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    return tenant


def under_way(tenant: Tenant) -> str:
    """A router order whose device is on its way."""
    order_id = tenant.submit("router")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    return order_id


def test_workers_die_around_a_call_on_the_way_forward(stack: RunningStack, shipped_later: Tenant) -> None:
    """The supervised worker stands still; seven others, each told to die at another point, take its reservations.

    Without the claim's own id as idempotency key at the outside system, the two that die with an answer in their hands
    leave a second reservation in the book; without the lease a dead worker's claim is never taken over.
    """
    tenant, orders = shipped_later, list[str]()
    with stack.stopped("workers"), doomed(stack, "worker", "all", points=FORWARD) as processes:
        kill_all(processes, lambda: orders.append(tenant.submit("router")))
    for order_id in orders:
        tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
        assert tenant.done(order_id) == {"reserve-inventory": 1}
    assert sum(tenant.calls(order_id, "reserve-inventory") for order_id in orders) > len(orders)


def test_workers_die_around_a_call_on_the_way_back(stack: RunningStack, shipped_later: Tenant) -> None:
    """EC11 and EC12: the same around the release that undoes the reservation, while the order is being cancelled.

    Without the ledger's answer to a job that comes again (`RecordOutcome` and `ClaimTask` decide on the effect's state)
    those that die after the outcome release a second time.
    """
    tenant = shipped_later
    orders = [under_way(tenant) for _ in BACKWARD]
    waiting = list(orders)
    with stack.stopped("workers"), doomed(stack, "worker", "all", points=BACKWARD) as processes:
        kill_all(processes, lambda: tenant.cancel(waiting.pop()))
    for order_id in waiting:
        tenant.cancel(order_id)
    for order_id in orders:
        tenant.wait_state(order_id, "CANCELLED", seconds=120)
        assert tenant.done(order_id) == UNDONE
    calls = [tenant.calls(order_id, "release-inventory") for order_id in orders]
    assert sum(calls) > len(orders), "the call whose answer died with its caller is made again, under the same id"


def test_workers_die_around_an_amendment(stack: RunningStack, shipped_later: Tenant) -> None:
    """The assessment, the application and the undoing of what is to be done anew: each comes again, and counts once:
    by the job's own command id, and where that was taken out (`correlation_id`), by how the order stands.
    """
    tenant = shipped_later
    orders = [tenant.submit(appointment=SLOT) for _ in AMENDED]
    shipments = {one: tenant.wait_effect(one, "ship", "shipping", acceptedAt=...)["effectId"] for one in orders}
    for order_id in orders:
        tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
    links, change = list[str](), replace("/appointment", SLOT, LATER)
    with stack.stopped("workers"):
        for point, order_id in zip(AMENDED, orders, strict=True):
            # One at a time: of several, whoever takes the job may be told to die at another one.
            with doomed(stack, "worker", "all", points=(point,)) as processes:
                kill_all(processes, lambda order_id=order_id: links.append(amend(tenant, order_id, change)))  # type: ignore[misc]
    for link in links:
        wait_status(tenant, link, "APPLIED")
    for order_id, shipment in shipments.items():
        tenant.call_back(shipment)
        tenant.wait_state(order_id, "COMPLETED", seconds=120)
        assert tenant.order(order_id)["planVersion"] == 2
        done = tenant.done(order_id)
        assert (done["create-appointment"], done["cancel-appointment"], done["ship-device"]) == (2, 1, 1)


def test_a_worker_dies_in_the_midst_of_applying(stack: RunningStack, shipped_later: Tenant) -> None:
    """EC27: its transaction waits for a row in the middle of what it writes when it is killed. Nothing of the new plan
    is there and the old one goes on; then the job comes again, and the amendment is applied.

    Without the one transaction (the plan's rows committed before the rest) the order has parts of both.
    """
    tenant = shipped_later
    order_id = tenant.submit(items=[an_item("1", "fiber-500"), an_item("2", "router")], appointment=SLOT)
    path = f"/api/v1/orders/{order_id}/plan"

    def shipments() -> dict[str, str]:
        """Item → the effect that the system has promised."""
        tasks = {task["taskId"]: task["itemIds"] for task in tenant.items(path) if task["type"] == "ship-device"}
        return {
            tasks[row["taskId"]][0]: row["effectId"]
            for row in tenant.effects(order_id)
            if row["taskId"] in tasks and row.get("acceptedAt")
        }

    promised = eventually(shipments, lambda found: len(found) == 2, "both devices to be on their way")
    tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
    link = amend(tenant, order_id, replace("/appointment", SLOT, LATER), autoApply=False)
    wait_status(tenant, link, "APPROVED")
    plan = tenant.items(path)
    with stack.stopped("workers") as workers:
        asked = tenant.post(f"{link}/apply", {}, etag=str(tenant.agent.get(link).headers["etag"]))
        assert asked.status_code == httpx.codes.ACCEPTED, asked.text
        with stack.locked("audit_head", order_id) as is_waited_for:
            os.kill(workers, signal.SIGCONT)
            eventually(is_waited_for, bool, "a worker in the midst of its writing", 120)
            stack.kill(workers)
    assert tenant.items(path) == plan
    assert (tenant.order(order_id)["planVersion"], tenant.get(link)["status"]) == (1, "APPROVED")
    tenant.call_back(promised["2"])
    items = {item["itemId"]: item["state"] for item in tenant.order(order_id)["items"]}
    assert items == {"1": "IN_PROGRESS", "2": "COMPLETED"}

    wait_status(tenant, link, "APPLIED")
    assert tenant.order(order_id)["planVersion"] == 2
    tenant.call_back(promised["1"])
    tenant.wait_state(order_id, "COMPLETED", seconds=120)
    done = tenant.done(order_id)
    assert (done["create-appointment"], done["cancel-appointment"], done["ship-device"]) == (2, 1, 2)


@pytest.mark.parametrize("sink", ["kafka", "engine"])
def test_relays_die_around_sending(stack: RunningStack, shipped_later: Tenant, sink: str) -> None:
    """The leading relay stands still and loses its lead; four that stood by, each told to die at another point, lead
    after each other until none is left, and the first one comes back to a pipe that others have used.

    Without marking only what was acknowledged, events of the batch that died `before-send` never reach Kafka; without
    the message's id a flow is started twice, which the book would show.
    """
    tenant, orders = shipped_later, list[str]()
    points = tuple(f"{point}:{sink}" for point in RELAY)
    with stack.stopped("relay"), doomed(stack, "relay", points=points) as processes:
        stack.as_owner(
            "select pg_terminate_backend(pid) from pg_locks join pg_stat_activity using (pid)"
            " where locktype = 'advisory' and granted and usename = 'recourse_relay'"
        )
        kill_all(processes, lambda: orders.append(tenant.submit("router")))
    for order_id in orders:
        tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
        tenant.cancel(order_id)
    for order_id in orders:
        tenant.wait_state(order_id, "CANCELLED", seconds=120)
        assert tenant.done(order_id) == UNDONE
    tenant.assert_all_told(orders)
