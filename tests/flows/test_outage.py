"""Every outside system falls silent under load, for longer than the policy is patient, and comes back: what could wait
has waited, the rest is repaired by one command, and no order ends wrong or by hand."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from domain.policy import read_policy_text
from tests.flows.running import RunningStack, Tenant, eventually
from workers.runtime import project_file

pytestmark = pytest.mark.timeout(600)

MANY = 10
ENDED = {"COMPLETED", "CANCELLED", "PARTIALLY_COMPLETED", "FAILED", "REJECTED"}


def make_impatient(tenant: Tenant) -> None:
    """The shipped policy with minutes turned into seconds."""
    document: Any = read_policy_text(project_file("domain/telecom.policy.yaml").read_bytes())
    for task_type in document["task_types"].values():
        task_type |= {
            "timeout": "PT1S",
            "attempts": 3,
            "backoff": "PT0.2S",
            "verify": {"every": "PT1S", "give_up_after": "PT4S"},
        }
    posted = tenant.post("/api/v1/policies", document, by=tenant.person("root", "admin"))
    assert posted.status_code == httpx.codes.CREATED, posted.text


def states(tenant: Tenant, orders: list[str]) -> list[str]:
    return [tenant.order(order_id)["state"] for order_id in orders]


def open_cases(tenant: Tenant) -> list[Any]:
    return list(tenant.get("/api/v1/fallout-cases?status=OPEN&limit=200", tenant.operator)["items"])


def test_a_silent_world_under_load_costs_time_and_no_order(stack: RunningStack, tenant: Tenant) -> None:
    make_impatient(tenant)
    tenant.fault(taskType="ship-device", fault="accept-silent", times=MANY)
    leaving = [tenant.submit("router") for _ in range(MANY)]
    for order_id in leaving:
        tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)

    with stack.stopped("simulator"):  # nobody answers, to calls and to questions alike
        coming = [tenant.submit("fiber-100") for _ in range(MANY)]
        for order_id in leaving:
            tenant.cancel(order_id)
        eventually(
            lambda: {case["orderId"] for case in open_cases(tenant)},
            lambda stuck: len(stuck & set(coming)) >= MANY // 2,
            "cases of what was asked after in vain",
            120,
        )
    # What nobody knows is asked again and never guessed; one command for all that was given up.
    eventually(lambda: repair_all(tenant, [*leaving, *coming]), bool, "the end of every order", 240)
    assert states(tenant, leaving) == ["CANCELLED"] * MANY
    assert states(tenant, coming) == ["COMPLETED"] * MANY
    assert open_cases(tenant) == []
    for order_id in (*leaving, *coming):
        done = tenant.done(order_id)
        assert set(done.values()) == {1}, done
        assert all(row["basis"] == "SYSTEM" for row in tenant.effects(order_id)), "nothing by hand"


def repair_all(tenant: Tenant, orders: list[str]) -> bool:
    """Whether all have ended; where cases are open, one bulk repair of them all, as the night shift would ask."""
    if open_cases(tenant):
        wish = {"filter": {"status": "OPEN"}, "action": "RETRY", "reasonCode": "SYSTEM_RECOVERED"}
        answer = tenant.post("/api/v1/bulk-repairs", {**wish, "ratePerMinute": 60_000}, by=tenant.operator)
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        job = answer.json()["links"]["self"]
        eventually(
            lambda: tenant.get(job, tenant.operator)["status"], lambda status: status == "DONE", "the bulk repair"
        )
    return set(states(tenant, orders)) <= ENDED
