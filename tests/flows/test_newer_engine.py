"""The same stories on an engine two versions on: our models, the real job workers, PostgreSQL and Kafka. It has no
search, as an engine without a store beside it has none. What our processes do there is recorded as spans."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pyzeebe import ZeebeClient
from pyzeebe.grpc_internals.zeebe_adapter import ZeebeAdapter
from pyzeebe.proto.gateway_pb2 import TopologyRequest
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from tests.flows.newer.engine import serve_engine
from tests.flows.running import PATIENCE, RunningStack, Tenant, eventually
from tests.flows.test_amendments import test_an_appointment_that_was_booked_is_moved  # noqa: F401 - told here as well
from tests.flows.test_stories import (  # noqa: F401
    test_a_failed_compensation_becomes_fallout_and_resumes,
    test_cancelled_after_the_activation_leaves_what_cannot_be_undone,
    test_the_golden_scenario,
)
from tests.otlp import Received, Receiver, receive_spans
from workers.gateways.engine import Engine, open_channel
from workers.local.home import free_port
from workers.settings import Settings

pytestmark = pytest.mark.timeout(400)

VERSION = "8.8."

LONELY = b"""<?xml version="1.0" encoding="UTF-8"?>
<bpmn:definitions xmlns:bpmn="http://www.omg.org/spec/BPMN/20100524/MODEL"
    xmlns:zeebe="http://camunda.org/schema/zeebe/1.0" targetNamespace="t">
  <bpmn:process id="lonely" isExecutable="true">
    <bpmn:startEvent id="start"><bpmn:outgoing>a</bpmn:outgoing></bpmn:startEvent>
    <bpmn:serviceTask id="work"><bpmn:extensionElements><zeebe:taskDefinition type="lonely" retries="1"/>
      </bpmn:extensionElements><bpmn:incoming>a</bpmn:incoming></bpmn:serviceTask>
    <bpmn:sequenceFlow id="a" sourceRef="start" targetRef="work"/>
  </bpmn:process>
</bpmn:definitions>"""


@pytest.fixture(scope="module")
def engine_address() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="recourse-newer-"))
    try:
        with serve_engine(folder) as address:
            yield address
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receive_spans() as running:
        yield running


@pytest.fixture(scope="module")
def stack(engine_address: str, receiver: Receiver) -> Iterator[RunningStack]:
    """A stack of its own: what a flow writes is as new as the engine."""
    nobody = f"http://127.0.0.1:{free_port()}"
    with RunningStack.start(
        RECOURSE_ENGINE_GRPC=engine_address, RECOURSE_ENGINE_REST=nobody, RECOURSE_OTLP_ENDPOINT=receiver.url
    ) as running:
        yield running


def test_one_trace_leads_from_a_cancellation_to_everything_that_follows_from_it(
    tenant: Tenant, receiver: Receiver
) -> None:
    """Request, message to the engine, jobs, calls outside, events: each is the child of what caused it."""
    tenant.fault(taskType="ship-device", fault="accept-silent")
    order_id = tenant.submit("router")
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    body = {"reasonCode": "CUSTOMER_CHANGED_MIND", "scope": {"type": "ORDER", "orderItemIds": []}}
    path = f"/api/v1/orders/{order_id}/cancellation-requests"
    answer = eventually(
        lambda: tenant.post(path, body, etag=tenant.etag(order_id)),
        lambda told: told.status_code != httpx.codes.PRECONDITION_FAILED,
        "an order that stands still",
    )
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    tenant.wait_state(order_id, "CANCELLED")
    wanted = {
        "request POST /api/v1/orders/{orderId}/cancellation-requests",
        "message cancellation-requested",
        "job assess-cancellation",
        "job effect-shipping",
        "call PUT shipping",
        "job effect-inventory",
        "call PUT inventory",
        "event recourse.OrderCancelled.v1",
    }

    def is_whole(spans: list[Received]) -> bool:
        ids = {span.span_id for span in spans}
        return wanted <= {span.name for span in spans} and all(span.parent in ids for span in spans if span.parent)

    trace_id = answer.headers["x-request-id"]
    spans = eventually(lambda: receiver.trace(trace_id), is_whole, "the whole trace")
    assert [span.name for span in spans if not span.parent] == [
        "request POST /api/v1/orders/{orderId}/cancellation-requests"
    ]
    by_id = {span.span_id: span for span in spans}
    assert {by_id[span.parent].name for span in spans if span.name == "call PUT shipping"} == {"job effect-shipping"}
    assert {span.process.removeprefix("recourse-") for span in spans} == {"api", "workers", "relay"}
    assert {span.attributes.get("recourse.order.id", order_id) for span in spans} == {order_id}
    told = str([span.attributes for span in receiver.spans])
    assert not [word for word in ("Ada", "Weg 1", "+49", "alice") if word in told]


async def test_what_we_ask_and_mend_over_grpc_is_answered_alike(engine_address: str, tmp_path: Path) -> None:
    """Ready, alive or not, retries, resolve, cancel: none of it goes by the shape of the REST API."""
    settings = Settings(engine_grpc=engine_address)
    async with open_channel(settings) as channel:
        engine, client, wire = Engine(channel, settings), ZeebeClient(channel), ZeebeAdapter(channel)
        topology = await GatewayStub(channel).Topology(TopologyRequest())
        assert topology.gatewayVersion.startswith(VERSION)
        assert await engine.is_ready()
        model = tmp_path / "lonely.bpmn"
        model.write_bytes(LONELY)
        await client.deploy_resource(model)
        key = (await client.run_process("lonely")).process_instance_key
        assert await engine.find_alive([key, 1]) == {key: True, 1: False}

        async def next_job() -> int:
            """Asked again while there is none: this engine does not hold a poll open."""
            async with asyncio.timeout(PATIENCE):
                while True:
                    jobs = wire.activate_jobs("lonely", "test", 60_000, 1, ["nothing"], 10_000)
                    if given := [job.key async for job in jobs]:
                        return int(given[0])
                    await asyncio.sleep(0.05)

        job = await next_job()
        await wire.fail_job(job, 0, "no", 0, {})
        # Nothing here tells an incident's key but that it lies between the job's and that of what came later.
        later = (await client.publish_message("nobody-waits", str(key), time_to_live_in_milliseconds=0)).key
        for incident in range(job + 1, later):
            await engine.resolve_incident(incident, job)
        assert await next_job() == job

        await engine.cancel_instance(key)
        await engine.cancel_instance(key)  # what is gone stays so
        assert await engine.find_alive([key]) == {key: False}
        await engine.close()
