"""What no worker reports, on the real engine with its search: broken expressions, missing processes, jobs that are no
effects, instances that somebody cancelled. Each is a case, and is mended from here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.flows.running import RunningStack, Tenant, eventually
from tests.flows.test_repairs import repair
from workers.models import deploy, model_files
from workers.settings import Settings

if TYPE_CHECKING:
    from tests.browser.consoles import Consoles

pytestmark = pytest.mark.timeout(600)

# The search shows an incident some seconds after it happened, and it is judged when it is older than its lag.
SECONDS = 120.0


@contextmanager
def broken_models(stack: RunningStack, name: str, good: str, bad: str) -> Iterator[None]:
    """Flows that start inside the block run a version of the models with one thing wrong."""
    settings = Settings(engine_grpc=str(stack.status()["engineGrpc"]))
    with TemporaryDirectory() as folder:
        files = []
        for file in model_files():
            text = file.read_text(encoding="utf-8")
            if file.name == name:
                assert good in text
                text = text.replace(good, bad)
            files.append(Path(folder) / file.name)
            files[-1].write_text(text, encoding="utf-8")
        asyncio.run(deploy(settings, files))
    try:
        yield
    finally:
        asyncio.run(deploy(settings, model_files()))


def findings(tenant: Tenant, klass: str, order_id: str) -> list[Any]:
    page = tenant.get(f"/api/v1/reconciliation/findings?class={klass}&limit=200", tenant.operator)
    return [row for row in page["items"] if row["orderId"] == order_id]


@pytest.mark.usefixtures("consoles")
@pytest.mark.parametrize(
    ("name", "good", "bad", "failure"),
    [
        ("task.bpmn", 'type="=job_type"', 'type="=job_type + 1"', "EXTRACT_VALUE_ERROR"),
        ("plan.bpmn", 'processId="task"', 'processId="=nobody"', "EXTRACT_VALUE_ERROR"),
        (
            "plan.bpmn",
            'processId="task" propagateAllChildVariables="false" propagateAllParentVariables="false" '
            'bindingType="deployment"',
            'processId="absent" propagateAllChildVariables="false" propagateAllParentVariables="false"',
            "CALLED_ELEMENT_ERROR",
        ),
    ],
    ids=["a bad expression", "a bad name of a process", "a missing process"],
)
def test_a_broken_model_is_a_case_and_its_repair_goes_on_under_the_mended_one(
    stack: RunningStack, tenant: Tenant, name: str, good: str, bad: str, failure: str
) -> None:
    with broken_models(stack, name, good, bad):
        order_id = tenant.submit("router")
        tenant.wait_state(order_id, "FALLOUT", seconds=SECONDS)
    (case,) = tenant.cases(order_id)
    assert (case["blocking"], case["category"], case["context"]) == (True, "TECHNICAL", "FULFILLMENT")
    assert failure in case["title"]
    assert tenant.done(order_id) == {}
    repair(tenant, order_id, "RETRY")
    tenant.wait_state(order_id, "COMPLETED", seconds=SECONDS)
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}
    assert len(tenant.cases(order_id)) == 1, "the broken flow's own end opens no other case"


@pytest.mark.usefixtures("consoles")
def test_a_stuck_assessment_freezes_the_order_and_decides_nothing(stack: RunningStack, tenant: Tenant) -> None:
    """EC70: somebody spoils the assessment's own variables in the engine."""
    tenant.fault(taskType="reserve-inventory", fault="accept-silent")
    order_id = tenant.submit("router")
    reserving = tenant.wait_effect(order_id, "reserve", "inventory", acceptedAt=...)
    before = stack.flows_of(order_id)
    link = tenant.cancel(order_id)
    keys = eventually(lambda: stack.flows_of(order_id), lambda now: len(now) > len(before), "the cancellation's flow")
    stack.set_variables(max(keys), request_id="nobody's")
    tenant.call_back(reserving["effectId"])
    shown = eventually(lambda: tenant.order(order_id), lambda order: order["state"] == "FALLOUT", "the case", SECONDS)
    assert shown["resumeState"] == "CANCELLATION_ASSESSING"
    assert tenant.get(link)["status"] == "ASSESSING"
    assert "ship-device" not in tenant.done(order_id)
    repair(tenant, order_id, "RETRY")
    tenant.wait_state(order_id, "CANCELLED", seconds=SECONDS)
    assert tenant.done(order_id) == {"reserve-inventory": 1, "release-inventory": 1}


@pytest.mark.usefixtures("consoles")
def test_a_flow_cancelled_in_the_engine_is_told_and_goes_on_from_the_plan(stack: RunningStack, tenant: Tenant) -> None:
    """EC14, long before anybody could call the flow silent."""
    tenant.fault(taskType="stop-shipment", fault="accept-silent")
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit()
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.cancel(order_id)
    stopping = tenant.wait_effect(order_id, "stop", "shipping", acceptedAt=...)
    keys = stack.flows_of(order_id)
    assert stack.cancel_instances(keys) > 0
    told = eventually(
        lambda: [case for case in tenant.cases(order_id) if case["context"] == "RECONCILIATION"],
        lambda cases: any(case["resolution"] == "FLOW_RESTARTED" for case in cases),
        "the deed as a case",
        SECONDS,
    )
    assert told[0]["status"] == "RESOLVED"
    assert any(str(key) in told[0]["title"] for key in keys)
    eventually(lambda: findings(tenant, "INSTANCE_GONE", order_id), bool, "the finding", SECONDS)
    tenant.call_back(stopping["effectId"])
    tenant.wait_state(order_id, "CANCELLED", seconds=SECONDS)
    done = tenant.done(order_id)
    undoings = ("stop-shipment", "cancel-appointment", "release-inventory", "release-resource")
    assert {name: done[name] for name in undoings} == dict.fromkeys(undoings, 1)
    # A second restart would have left a flow without an order; whatever runs on is ended, and nothing is done again.
    assert not [case for case in tenant.cases(order_id) if case["status"] == "OPEN"]


@pytest.mark.usefixtures("consoles")
def test_an_incident_of_an_undoing_that_is_resolved_in_the_engine_closes_its_case(
    stack: RunningStack, tenant: Tenant
) -> None:
    """EC58: its job has failed for good; somebody retries it there, and the order goes on where it was."""
    tenant.make_impatient("release-inventory")
    tenant.fault(taskType="ship-device", fault="accept-silent")
    tenant.fault(taskType="release-inventory", fault="error-before", times=1)
    order_id = tenant.submit("router")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.cancel(order_id)
    tenant.wait_state(order_id, "FALLOUT", seconds=SECONDS)
    assert tenant.order(order_id)["resumeState"] == "CANCELLING"
    (case,) = tenant.cases(order_id)
    assert (case["status"], case["category"], case["context"]) == ("OPEN", "TECHNICAL", "COMPENSATION")
    seen = stack.incident_of(case["caseId"])
    eventually(lambda: tenant.cases(order_id)[0].get("incidentKey"), lambda key: key == seen.key, "the key", SECONDS)
    stack.resolve_incident(seen)
    tenant.wait_state(order_id, "CANCELLED", seconds=SECONDS)
    (case,) = tenant.cases(order_id)
    assert (case["status"], case["resolution"]) == ("RESOLVED", "RESOLVED_IN_ENGINE")
    assert case["repairs"][0]["evidence"] == {"kind": "INCIDENT", "reference": seen.key}
    assert tenant.done(order_id) == {"reserve-inventory": 1, "stop-shipment": 1, "release-inventory": 1}


def test_a_token_that_is_moved_in_the_engine_does_nothing_twice_and_leaves_nothing_out(
    stack: RunningStack, tenant: Tenant, consoles: Consoles
) -> None:
    """Somebody lets one order be decomposed once more, and moves the walker of another past all of its work."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    twice, past = tenant.submit(), tenant.submit()
    shipping = [tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...) for order_id in (twice, past)]
    stack.modify(stack.flows_of(twice)[0], enter="decompose-order")
    (root,) = stack.flows_of(past)
    walker = consoles.find_element(root, "walk-plan")
    stack.modify(root, enter="plan-walked", leave=walker)
    for effect in shipping:
        tenant.call_back(effect["effectId"])
    for order_id in (twice, past):
        tenant.wait_state(order_id, "COMPLETED", seconds=2 * SECONDS)
        assert set(tenant.done(order_id).values()) == {1}
        assert len(tenant.get(f"/api/v1/orders/{order_id}/plan")["items"]) == 7
        assert not [case for case in tenant.cases(order_id) if case["status"] == "OPEN"]


@pytest.mark.usefixtures("consoles")
def test_an_incident_of_somebody_elses_process_is_a_finding_and_one_that_names_an_order_its_case(
    stack: RunningStack, tenant: Tenant
) -> None:
    """EC60: an instance that none of our jobs has met, and whose variables name an order or nobody."""
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "COMPLETED")
    process = stack.deploy_broken()
    nobodys = stack.run_process(process, note="nobody's")
    named = stack.run_process(process, tenant_id=str(tenant.tenant_id), order_id=order_id, run=str(uuid4()))
    found = eventually(
        lambda: [row for row in shared_findings(tenant) if process in row["evidence"]], bool, "the finding", SECONDS
    )
    assert [row["orderId"] for row in found] == [None]
    assert "Operate" in found[0]["remedy"]
    told = eventually(lambda: tenant.cases(order_id), bool, "the case", SECONDS)
    assert [(case["context"], case["blocking"], case["status"]) for case in told] == [("RECONCILIATION", False, "OPEN")]
    assert tenant.order(order_id)["state"] == "COMPLETED"
    stack.cancel_instances([nobodys, named])
    eventually(
        lambda: [row for row in shared_findings(tenant) if process in row["evidence"]],
        lambda rows: not rows,
        "its end",
        SECONDS,
    )


def shared_findings(tenant: Tenant) -> list[Any]:
    path = "/api/v1/reconciliation/findings?class=INCIDENT_WITHOUT_CASE&standing=true&limit=200"
    return [row for row in tenant.get(path, tenant.operator)["items"] if row["orderId"] is None]
