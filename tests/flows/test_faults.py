"""Deaths and silences on the real parts: a process is killed or stopped at a bad moment; the truth stands."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from uuid import uuid4

import httpx
import pytest

from tests.flows.running import RunningStack, Tenant, eventually

pytestmark = pytest.mark.timeout(600)

# Twice the heartbeat of the stack under test.
AWAY = timedelta(seconds=float(os.environ.get("RECOURSE_TEST_AWAY", "40")))


def held_shipment(tenant: Tenant) -> tuple[str, str]:
    """A router order whose device is under way: (order, effect of the shipment)."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router")
    effect = tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    return order_id, str(effect["effectId"])


def test_with_the_engine_stopped_the_callback_alone_ends_the_order(stack: RunningStack, tenant: Tenant) -> None:
    """The domain never waits for the engine: the last outcome's own transaction ends plan, request and order."""
    tenant.fault(taskType="release-inventory", fault="accept-silent")
    order_id, _ = held_shipment(tenant)
    tenant.cancel(order_id)
    release = tenant.wait_effect(order_id, "release", "inventory", acceptedAt=...)
    with stack.stopped("engine"):
        tenant.call_back(release["effectId"])
        assert tenant.order(order_id)["state"] == "CANCELLED"
    # The flow, back again, finds nothing left to do and changes nothing.
    before = tenant.items(f"/api/v1/orders/{order_id}/timeline")
    assert tenant.order(order_id)["state"] == "CANCELLED"
    assert tenant.items(f"/api/v1/orders/{order_id}/timeline")[: len(before)] == before


@pytest.mark.parametrize("part", ["workers", "relay", "api", "postgres", "kafka", "engine"])
def test_a_killed_part_loses_nothing(stack: RunningStack, tenant: Tenant, part: str) -> None:
    """kill -9 in the midst of ten running cancellations, with a call under way outside and directly after an answer:
    each ends, the book shows each thing once, and Kafka every event in its order. The relay dies with events on their
    way to a Kafka that stands still; the engine, which is away for half a minute, goes on from its own log.

    Seen to fail, each by its own part: without the effect's id as the key of a second call (workers), without marking
    only what Kafka has acknowledged (relay), where the answer comes before the commit (API) or `synchronous_commit` is
    off (PostgreSQL). Two need two taken out: Kafka is back before the relay's patience ends (`_SECONDS`, and the
    marking); what the engine never got is marked only when it has it, and else the reconciler starts it again.
    """
    tenant.fault(taskType="release-inventory", fault="delay", delayMs=3000)
    orders = [held_shipment(tenant)[0] for _ in range(10)]
    calls = partial(tenant.calls, task_type="release-inventory")
    accepted: list[str] = []
    killed = stack.pid(part)
    with ExitStack() as meanwhile:
        for number, order_id in enumerate(orders):
            if number == 5:
                eventually(lambda: [*map(calls, orders[:5])], any, "a call under way")
            if number == 5 and part == "relay":
                meanwhile.enter_context(stack.stopped("kafka"))
            asked = partial(try_cancel, tenant, order_id, uuid4().hex)
            accepted.append(eventually(asked, bool, "the API to accept", 60))
            if number == 6:
                stack.kill(killed)
    for order_id, link in zip(orders, accepted, strict=True):
        tenant.wait_state(order_id, "CANCELLED", seconds=240)
        assert tenant.get(link)["status"] == "COMPLETED"
        assert tenant.done(order_id) == {"reserve-inventory": 1, "stop-shipment": 1, "release-inventory": 1}
    eventually(partial(stack.status), lambda status: status["ready"], f"the stack to have its {part} again", 120)
    assert stack.pid(part) != killed
    tenant.assert_all_told(orders)


def test_an_engine_that_is_away_for_long_costs_time_and_nothing_else(stack: RunningStack, tenant: Tenant) -> None:
    """Under load it stops to answer, and is killed before it does again: what is asked for meanwhile is accepted and
    waits, longer than a flow's heartbeat and than the reconciler lets things be silent; afterwards every order ends.
    RECOURSE_TEST_AWAY=120 makes it two minutes.

    Without `max_connection_retries=-1` the workers ask for no job any more after ten errors, though they live.
    """
    leaving = [held_shipment(tenant)[0] for _ in range(6)]
    coming = [tenant.submit("router") for _ in range(6)]
    stopped = stack.pid("engine")
    waits = (
        "select clock_timestamp() - min(created_at) > $2 from engine_outbox"
        " where published_at is null and tenant_id = $1"
    )
    with stack.stopped("engine"):
        for order_id in leaving[:3]:
            tenant.cancel(order_id)
        coming += [tenant.submit("router") for _ in range(6)]
        eventually(lambda: stack.as_owner(waits, tenant.tenant_id, AWAY)[0][0], bool, "a message to have waited", 200)
        leaving_last = [tenant.cancel(order_id) for order_id in leaving[3:]]
        assert {tenant.get(link)["status"] for link in leaving_last} == {"ACCEPTED_FOR_ASSESSMENT"}
        stack.kill(stopped)
    for order_id in leaving:
        tenant.wait_state(order_id, "CANCELLED", seconds=240)
        assert tenant.done(order_id) == {"reserve-inventory": 1, "stop-shipment": 1, "release-inventory": 1}
    for order_id in coming:
        tenant.call_back(tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)["effectId"])
    for order_id in coming:
        tenant.wait_state(order_id, "COMPLETED", seconds=120)
        assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}


def try_cancel(tenant: Tenant, order_id: str, key: str) -> str:
    """The link of an accepted cancellation; empty where there is no answer, and the same key is tried again."""
    try:
        path = f"/api/v1/orders/{order_id}/cancellation-requests"
        body = {"reasonCode": "CUSTOMER_CHANGED_MIND", "scope": {"type": "ORDER", "orderItemIds": []}}
        told = tenant.post(path, body, key=key, etag=tenant.etag(order_id)).raise_for_status()
    except (httpx.HTTPError, KeyError):
        return ""
    return str(told.json()["links"]["self"])


def test_a_second_start_of_the_same_flow_changes_nothing(stack: RunningStack, tenant: Tenant) -> None:
    """EC13: the engine is told twice; the second flow's first job ends it, and the audit says not a word more."""
    order_id, _ = held_shipment(tenant)
    link = tenant.cancel(order_id)
    tenant.wait_state(order_id, "CANCELLED")
    before = tenant.items(f"/api/v1/orders/{order_id}/timeline")
    request_id = link.rsplit("/", 1)[1]
    foreign = str(uuid4())
    stack.publish("cancellation-requested", request_id, tenant, order_id=order_id, request_id=request_id, run=foreign)
    stack.publish("order-accepted", order_id, tenant, order_id=order_id, run=foreign)
    # The engine works in order: an order that came later and has ended says that the second flows have been served.
    tenant.wait_state(tenant.submit("router"), "IN_PROGRESS")
    assert tenant.items(f"/api/v1/orders/{order_id}/timeline") == before


def test_instances_cancelled_in_the_engine_cost_time_and_no_undoing(stack: RunningStack, tenant: Tenant) -> None:
    """EC14: an operator cancels every flow of an order that is being cancelled; what is left of the plan is found lying
    and started again from the plan, and what had been undone is not undone again."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    tenant.fault(taskType="stop-shipment", fault="accept-silent")
    order_id = tenant.submit()
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.cancel(order_id)
    stopping = tenant.wait_effect(order_id, "stop", "shipping", acceptedAt=...)

    keys = stack.flows_of(order_id)
    assert keys, "no flow of the order is known: the test would cancel nothing"
    assert stack.cancel_instances(keys) > 0
    tenant.call_back(stopping["effectId"])
    tenant.wait_state(order_id, "CANCELLED", seconds=150)
    done = tenant.done(order_id)
    undoings = ("stop-shipment", "cancel-appointment", "release-inventory", "release-resource")
    assert {name: done[name] for name in undoings} == dict.fromkeys(undoings, 1)
