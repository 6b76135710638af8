"""Models and workers of different releases beside each other, on the real engine.

The older release's models are today's without the box that watches a deadline, which today's workers know; the newer
one's are today's with a box in the walker, at which it looks twice before it begins tasks, and which nobody of today
serves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyzeebe import create_insecure_channel
from pyzeebe.proto.gateway_pb2 import ActivatedJob, ActivateJobsRequest, CompleteJobRequest
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from tests.flows.running import RunningStack, Tenant, eventually
from workers.models import deploy, model_files
from workers.settings import Settings

pytestmark = pytest.mark.timeout(400)

NEW_BOX = "look-twice"


def _cut(text: str, *pieces: str) -> str:
    for piece in pieces:
        begins, _, ends = piece.partition("…")
        start = text.index(begins)
        text = text[:start] + text[text.index(ends, start) + len(ends) :]
    return text


def _swap(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def older(name: str, text: str) -> str:
    if name != "compensation.bpmn":
        return text
    gone = ("sla-passed", "raise-jeopardy", "jeopardy-raised")
    shapes = (f'<bpmndi:BPMNShape id="{one}-shape"…</bpmndi:BPMNShape>' for one in gone)
    flows = ("sla-passed-to-raise-jeopardy", "raise-jeopardy-to-jeopardy-raised")
    return _cut(
        text,
        '<bpmn:boundaryEvent id="sla-passed"…</bpmn:boundaryEvent>',
        '<bpmn:serviceTask id="raise-jeopardy"…</bpmn:serviceTask>',
        '<bpmn:endEvent id="jeopardy-raised"…</bpmn:endEvent>',
        *(f'<bpmn:sequenceFlow id="{flow}"…/>' for flow in flows),
        *shapes,
        *(f'<bpmndi:BPMNEdge id="{flow}-edge"…</bpmndi:BPMNEdge>' for flow in flows),
    )


def newer(name: str, text: str) -> str:
    if name != "plan.bpmn":
        return text
    way = '<bpmn:sequenceFlow id="plan-awake-to-release-tasks" sourceRef="plan-awake" targetRef="release-tasks" />'
    box = f"""
    <bpmn:serviceTask id="{NEW_BOX}">
      <bpmn:extensionElements><zeebe:taskDefinition type="{NEW_BOX}" retries="3" /></bpmn:extensionElements>
      <bpmn:incoming>plan-awake-to-release-tasks</bpmn:incoming>
      <bpmn:outgoing>{NEW_BOX}-to-release-tasks</bpmn:outgoing>
    </bpmn:serviceTask>
    <bpmn:sequenceFlow id="{NEW_BOX}-to-release-tasks" sourceRef="{NEW_BOX}" targetRef="release-tasks" />
    {way.replace('targetRef="release-tasks"', f'targetRef="{NEW_BOX}"')}"""
    text = _swap(text, way, box)
    taken = "<bpmn:incoming>plan-awake-to-release-tasks</bpmn:incoming>\n      <bpmn:outgoing>release-tasks-to"
    return _swap(text, taken, taken.replace("plan-awake-to-release-tasks", f"{NEW_BOX}-to-release-tasks"))


@pytest.fixture
def release(stack: RunningStack, tmp_path: Path) -> Iterator[Any]:
    """Deploys the models of a release, all in one call; afterwards today's are in force again."""
    settings = Settings(engine_grpc=stack.status()["engineGrpc"])

    def put_in_force(change: Any) -> Mapping[str, int]:
        folder = tmp_path / change.__name__
        folder.mkdir()
        files = []
        for file in model_files():
            files.append(folder / file.name)
            files[-1].write_text(change(file.name, file.read_text()))
        return {str(row["id"]): int(row["version"]) for row in asyncio.run(deploy(settings, files))}

    yield put_in_force
    assert stack.cli("models", "deploy", seconds=60).returncode == 0


@contextmanager
def newer_worker(stack: RunningStack) -> Iterator[Any]:
    """Takes what stands at the new box; whoever asks decides when it is done."""
    loop = asyncio.new_event_loop()

    async def open_stub() -> tuple[Any, GatewayStub]:
        channel = create_insecure_channel(grpc_address=stack.status()["engineGrpc"])
        return channel, GatewayStub(channel)

    channel, stub = loop.run_until_complete(open_stub())

    class Worker:
        def take(self) -> list[ActivatedJob]:
            async def ask() -> list[ActivatedJob]:
                request = ActivateJobsRequest(
                    type=NEW_BOX, worker="newer", timeout=60_000, maxJobsToActivate=10, requestTimeout=500
                )
                return [job async for told in stub.ActivateJobs(request) for job in told.jobs]

            return loop.run_until_complete(ask())

        def complete(self, job: ActivatedJob) -> None:
            async def tell() -> None:
                await stub.CompleteJob(CompleteJobRequest(jobKey=job.key, variables="{}"))

            loop.run_until_complete(tell())

    try:
        yield Worker()
    finally:
        loop.run_until_complete(channel.close())
        loop.close()


def order_of(job: ActivatedJob) -> str:
    return str(json.loads(job.variables)["order_id"])


def undoings(tenant: Tenant, order_id: str) -> list[Any]:
    """What the plan that was walked says, without ids and times."""
    (plan,) = tenant.items(f"/api/v1/orders/{order_id}/compensation-plans")
    names = {task["taskId"]: task["type"] for task in plan["tasks"]}
    return sorted(
        (task["type"], task["state"], sorted(names[before] for before in task["dependsOn"])) for task in plan["tasks"]
    )


def test_models_that_are_upgraded_in_the_middle_leave_what_runs_as_it_is(
    stack: RunningStack, tenant: Tenant, release: Any
) -> None:
    """EC68: what runs keeps its version, also where it calls a model only after the upgrade; what begins afterwards has
    the new one; both walk the same plan, for the plan is data.

    Today's workers carry the older models to their end. At a box of newer models that they do not know their flow
    waits, nothing is lost and nothing done, until somebody serves it. With `bindingType="latest"` at the calls
    the one that was under review stands at the new box as well.
    """
    before = release(older)
    under_way, reviewed, later = (_shipping(tenant) for _ in range(3))
    tenant.fault(taskType="stop-shipment", fault="accept-silent", times=1)
    tenant.cancel(under_way)
    effect = tenant.wait_effect(under_way, "stop", "shipping", acceptedAt=...)
    link = tenant.cancel(reviewed, forceManualReview=True)
    eventually(lambda: tenant.get(link)["status"], lambda status: status == "REQUIRES_APPROVAL", "the review")

    after = release(newer)
    assert after["plan"] > before["plan"]
    with newer_worker(stack) as worker:
        tenant.call_back(effect["effectId"])
        etag = tenant.agent.get(link).headers["etag"]
        assert tenant.post(f"{link}/approve", {"comment": "fine"}, by=tenant.approver, etag=etag).status_code == 202
        tenant.wait_state(under_way, "CANCELLED")
        tenant.wait_state(reviewed, "CANCELLED")
        assert worker.take() == []

        tenant.cancel(later)
        (job,) = eventually(worker.take, bool, "a flow at the new box")
        assert order_of(job) == later
        assert (job.bpmnProcessId, job.processDefinitionVersion) == ("plan", after["plan"])
        assert tenant.order(later)["state"] == "CANCELLING"
        assert tenant.done(later) == {"reserve-inventory": 1}
        worker.complete(job)

        def serve() -> str:
            for job in worker.take():
                worker.complete(job)
            return str(tenant.order(later)["state"])

        eventually(serve, lambda state: state == "CANCELLED", "the cancellation under the newer models")
    done = {"reserve-inventory": 1, "stop-shipment": 1, "release-inventory": 1}
    assert [tenant.done(order) for order in (under_way, reviewed, later)] == [done] * 3
    assert undoings(tenant, under_way) == undoings(tenant, reviewed) == undoings(tenant, later)


def _shipping(tenant: Tenant) -> str:
    """An order whose shipment is under way and can still be stopped."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    return order_id
