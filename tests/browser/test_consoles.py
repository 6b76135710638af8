"""Operate and Tasklist of the real stack in a real browser: what an engineer looks at, and what a reviewer does."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
from pyzeebe import ZeebeClient
from pyzeebe.grpc_internals.zeebe_adapter import ZeebeAdapter

from tests.browser.chromium import Page
from tests.browser.consoles import Consoles, give_say
from tests.flows.running import ADDRESS, PATIENCE, RunningStack, Tenant, eventually
from tests.flows.test_amendments import SLOT, amend, replace
from workers.gateways.dialects import SeenIncident
from workers.gateways.engine import Engine, open_channel
from workers.settings import Settings

MODEL = f"incident-{uuid4().hex[:8]}"
INCIDENT_MODEL = f"""<?xml version="1.0" encoding="UTF-8"?>
<bpmn:definitions xmlns:bpmn="http://www.omg.org/spec/BPMN/20100524/MODEL" id="d" targetNamespace="http://test"
    xmlns:zeebe="http://camunda.org/schema/zeebe/1.0">
  <bpmn:process id="{MODEL}" isExecutable="true">
    <bpmn:startEvent id="start"><bpmn:outgoing>to-work</bpmn:outgoing></bpmn:startEvent>
    <bpmn:sequenceFlow id="to-work" sourceRef="start" targetRef="work"/>
    <bpmn:serviceTask id="work">
      <bpmn:extensionElements><zeebe:taskDefinition type="{MODEL}" retries="1"/></bpmn:extensionElements>
      <bpmn:incoming>to-work</bpmn:incoming>
    </bpmn:serviceTask>
  </bpmn:process>
</bpmn:definitions>"""

WORDS = ("APPROVED", "REJECTED")

pytestmark = pytest.mark.timeout(600)


def ask_for_review(tenant: Tenant) -> tuple[str, str]:
    """An order on its way, and the link of a request to cancel it that a person must decide."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit()
    tenant.wait_effect(order_id, "reserve", "inventory", state="CONFIRMED")
    link = tenant.cancel(order_id, forceManualReview=True)
    wait_status(tenant, link, "REQUIRES_APPROVAL")
    return order_id, link


def wait_status(tenant: Tenant, link: str, *statuses: str) -> Any:
    return eventually(lambda: tenant.get(link), lambda row: row["status"] in statuses, f"{link} in {statuses}")


def decisions(tenant: Tenant, order_id: str) -> list[tuple[str, str]]:
    entries = tenant.items(f"/api/v1/orders/{order_id}/timeline")
    kinds = {"DECISION_REFUSED"} | {f"{kind}_{word}" for kind in ("CANCELLATION", "AMENDMENT") for word in WORDS}
    return [(entry["kind"], entry["actor"]) for entry in entries if entry["kind"] in kinds]


def test_an_approver_reviews_and_approves_in_tasklist(consoles: Consoles, tenant: Tenant, page: Page) -> None:
    give_say(tenant, "bob", "approver")
    order_id, link = ask_for_review(tenant)
    key = consoles.find_task(order_id)

    consoles.log_in(page, consoles.tasklist, "bob")
    page.wait_for("Review change")
    page.open(f"{consoles.tasklist}/{key}")
    page.wait_for("It can be cancelled as a whole.")
    consoles.decide(page, key, "Approve", "agreed by phone")

    request = wait_status(tenant, link, "APPROVED", "IN_PROGRESS", "COMPLETED")
    assert [(row["decision"], row["by"]) for row in request["decisions"]] == [("APPROVED", "bob")]
    tenant.wait_state(order_id, "CANCELLED")
    assert decisions(tenant, order_id) == [("CANCELLATION_APPROVED", "bob")]


def test_the_requester_is_refused_and_the_task_comes_back(consoles: Consoles, tenant: Tenant, page: Page) -> None:
    # The person counts, not the role: alice may approve what others ask for.
    give_say(tenant, "alice", "agent", "approver")
    give_say(tenant, "carol", "approver")
    order_id, link = ask_for_review(tenant)
    key = consoles.find_task(order_id)

    consoles.log_in(page, consoles.tasklist, "alice")
    page.wait_for("Review change")
    consoles.decide(page, key, "Approve", "my own wish")

    again = consoles.find_task(order_id, after=key)
    assert tenant.get(link)["status"] == "REQUIRES_APPROVAL"
    assert decisions(tenant, order_id) == [("DECISION_REFUSED", "alice")]

    with page.browser.tab() as other:
        consoles.log_in(other, consoles.tasklist, "carol")
        other.wait_for("Review change")
        consoles.decide(other, again, "Reject", "the device is on its way")
    wait_status(tenant, link, "REJECTED")
    assert decisions(tenant, order_id) == [("DECISION_REFUSED", "alice"), ("CANCELLATION_REJECTED", "carol")]


def test_an_amendment_is_read_refused_to_its_asker_and_approved_in_tasklist(
    consoles: Consoles, tenant: Tenant, page: Page
) -> None:
    give_say(tenant, "alice", "agent", "approver")
    give_say(tenant, "bob", "approver")
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit(appointment=SLOT)
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    tenant.wait_effect(order_id, "book", "appointment", state="CONFIRMED")
    link = amend(tenant, order_id, replace("/installationAddress/postalCode", ADDRESS["postalCode"], "12940"))
    wait_status(tenant, link, "REQUIRES_APPROVAL")
    key = consoles.find_task(order_id)

    consoles.log_in(page, consoles.tasklist, "alice")
    page.wait_for("Review change")
    page.open(f"{consoles.tasklist}/{key}")
    page.wait_for("May installation address, postal code change? only if a person agrees")
    shown = page.text()
    assert "It can be changed if a person agrees." in shown
    assert "Cost: 0.00 EUR" in shown
    assert "create appointment: undone, then done anew" in shown
    assert "Why: visit (create-appointment): is undone, then done with the new value." in shown
    assert f"/ui/orders/{order_id}" in shown
    assert "12940" not in shown  # what a customer said is looked up where it is kept
    consoles.decide(page, key, "Approve", "my own wish")
    again = consoles.find_task(order_id, after=key)
    assert tenant.get(link)["status"] == "REQUIRES_APPROVAL"
    assert decisions(tenant, order_id) == [("DECISION_REFUSED", "alice")]

    with page.browser.tab() as other:
        consoles.log_in(other, consoles.tasklist, "bob")
        other.wait_for("Review change")
        consoles.decide(other, again, "Approve", "the port is free")
    wait_status(tenant, link, "APPLYING", "APPLIED")
    assert decisions(tenant, order_id) == [("DECISION_REFUSED", "alice"), ("AMENDMENT_APPROVED", "bob")]


def retry_in_tasklist(consoles: Consoles, page: Page, key: str, cause: str) -> None:
    """As the night shift does it, beside what is open in Operate: read what failed, and ask for another call."""
    with page.browser.tab() as desk:
        consoles.log_in(desk, consoles.tasklist, "olga")
        desk.wait_for("Repair case")
        desk.open(f"{consoles.tasklist}/{key}")
        desk.wait_for(cause)
        desk.wait_for("retry: Calls inventory again for reserve-inventory, as a new effect.")
        consoles.decide(desk, key, "Try the effect again", "it is up again", field="Reason*")


def test_what_failed_is_seen_in_operate_mended_in_tasklist_and_goes_on(
    consoles: Consoles, tenant: Tenant, page: Page
) -> None:
    """Refused work waits for a person: the flow stands at the repair, the person says what to do, the order goes on."""
    give_say(tenant, "olga", "operator")
    tenant.fault(taskType="reserve-inventory", fault="refuse", times=1)
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "FALLOUT")
    key = consoles.find_task(order_id)

    consoles.log_in(page, tenant.order(order_id)["links"]["operate"], "demo")
    page.wait_for("Fulfillment")
    consoles.show_flow(page, key)
    page.wait_for_selector("[data-element-id=repair-case]")  # there the flow stands
    page.wait_for("Repair case")
    retry_in_tasklist(consoles, page, key, "inventory refused reserve-inventory (business failure)")
    tenant.wait_state(order_id, "COMPLETED")
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}
    (case,) = tenant.cases(order_id)
    assert (case["status"], [(one["action"], one["by"]) for one in case["repairs"]]) == (
        "RESOLVED",
        [("RETRY", "olga")],
    )


def test_an_incident_is_seen_in_operate_mended_in_tasklist_and_goes_on(
    consoles: Consoles, stack: RunningStack, tenant: Tenant, page: Page
) -> None:
    """Technical exhaustion stands as an incident, on a job; the repair is shown beside it, by a flow of its own."""
    give_say(tenant, "olga", "operator")
    tenant.make_impatient("reserve-inventory")
    tenant.fault(taskType="reserve-inventory", fault="error-before", times=1)
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "FALLOUT")
    (case,) = tenant.cases(order_id)
    seen = stack.incident_of(case["caseId"])
    key = consoles.find_task(order_id)

    consoles.log_in(page, f"{consoles.operate}/processes/{seen.instance_key}", "demo")
    page.wait_for_selector("[data-element-id=effect]")
    page.wait_for(re.compile("1 incident", re.IGNORECASE))
    retry_in_tasklist(consoles, page, key, "inventory did not do reserve-inventory in 1 attempts (technical failure)")
    tenant.wait_state(order_id, "COMPLETED", seconds=120)
    assert tenant.done(order_id) == {"reserve-inventory": 1, "ship-device": 1}
    (case,) = tenant.cases(order_id)
    told = [(one["action"], one["by"]) for one in case["repairs"]]
    assert (case["status"], told) == ("RESOLVED", [("RETRY", "olga")])

    def still_shown() -> bool:
        page.open(f"{consoles.operate}/processes/{seen.instance_key}")
        page.wait_for_selector("[data-element-id=effect]")
        return re.search("1 incident", page.text(), re.IGNORECASE) is not None

    eventually(still_shown, lambda shown: not shown, "the incident's end in Operate", 120)


def test_an_order_leads_to_its_flow_in_operate(consoles: Consoles, tenant: Tenant, page: Page) -> None:
    order_id, _ = ask_for_review(tenant)
    consoles.find_task(order_id)
    link = tenant.order(order_id)["links"]["operate"]
    assert link.startswith(f"{consoles.operate}/processes?")

    consoles.log_in(page, link, "demo")
    page.wait_for("2 results")  # fulfillment and cancellation
    key = str(max(int(key) for key in link.rpartition("ids=")[2].split(",")))
    page.run(lambda tab: tab.get_by_role("link", name=re.compile(key)).click())
    page.wait_for_selector("[data-element-id=review-cancellation]")  # where the cancellation is now
    page.wait_for("Review")
    assert page.url.startswith(f"{consoles.operate}/processes/{key}")


async def test_the_search_tells_of_an_incident_until_it_is_resolved(consoles: Consoles, stack: RunningStack) -> None:
    started, status = datetime.now(UTC) - timedelta(minutes=1), stack.status()
    settings = Settings(engine_grpc=status["engineGrpc"], engine_rest=status["engineRest"])
    channel = open_channel(settings)
    engine = Engine(channel, settings)
    try:
        instance = await fail_a_job(channel)

        async def read() -> SeenIncident | None:
            found = await engine.find_incidents(started)
            return next((incident for incident in found if incident.instance_key == instance), None)

        async def wait(*states: str) -> SeenIncident:
            async with asyncio.timeout(PATIENCE):
                while (seen := await read()) is None or seen.state not in states:
                    await asyncio.sleep(0.2)
            return seen

        seen = await wait("PENDING", "ACTIVE")
        assert (seen.process, seen.element, seen.message) == (MODEL, "work", "NEVER 1")
        assert seen.job_key is not None
        await engine.resolve_incident(int(seen.key), int(seen.job_key))
        await wait("RESOLVED")
    finally:
        await engine.close()
        await channel.close()


async def fail_a_job(channel: grpc.aio.Channel) -> str:
    """An instance of a model of this test's own, whose only job has failed for good."""
    client, wire = ZeebeClient(channel), ZeebeAdapter(channel)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.bpmn"
        file.write_text(INCIDENT_MODEL)
        await client.deploy_resource(file)
    instance = (await client.run_process(MODEL)).process_instance_key
    async with asyncio.timeout(PATIENCE):
        while True:
            async for job in wire.activate_jobs(
                task_type=MODEL, worker="test", timeout=60_000, max_jobs_to_activate=1,
                variables_to_fetch=["none"], request_timeout=5_000, tenant_ids=None,
            ):  # fmt: skip
                await wire.fail_job(job.key, 0, "NEVER 1", 0, {})
                return str(instance)


def test_a_task_that_is_completed_on_the_very_second_stops_no_other(consoles: Consoles, stack: RunningStack) -> None:
    """Tasklist writes that time without a fraction; what its index refused, it tried again for ever."""
    assert consoles.tasklist
    port = json.loads((stack.folder / "ports.json").read_text())["opensearch"]
    place = f"http://127.0.0.1:{port}/tasklist-list-view-8.6.0_/_doc/{uuid4()}"
    with httpx.Client(timeout=30, trust_env=False) as search:
        told = search.put(place, json={"completionTime": "2026-11-30T14:25:39Z", "join": {"name": "task", "parent": 1}},
                          params={"routing": "1"})  # fmt: skip
        assert told.status_code == httpx.codes.CREATED, told.text
        search.delete(place, params={"routing": "1"}).raise_for_status()
