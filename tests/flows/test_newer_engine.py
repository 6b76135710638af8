"""The same stories on an engine two versions on: our models, the real job workers, PostgreSQL and Kafka. It has no
search, as an engine without a store beside it has none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyzeebe import ZeebeClient
from pyzeebe.grpc_internals.zeebe_adapter import ZeebeAdapter
from pyzeebe.proto.gateway_pb2 import TopologyRequest
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from tests.flows.newer.engine import serve_engine
from tests.flows.running import RunningStack
from tests.flows.test_amendments import test_an_appointment_that_was_booked_is_moved  # noqa: F401 - told here as well
from tests.flows.test_stories import (  # noqa: F401
    test_a_failed_compensation_becomes_fallout_and_resumes,
    test_cancelled_after_the_activation_leaves_what_cannot_be_undone,
    test_the_golden_scenario,
)
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
def stack(engine_address: str) -> Iterator[RunningStack]:
    """A stack of its own: what a flow writes is as new as the engine."""
    folder = Path(tempfile.mkdtemp(prefix="recourse-flows-", dir="/var/tmp"))
    folder.chmod(0o711)
    nobody = f"http://127.0.0.1:{free_port()}"
    running = RunningStack.start(folder, RECOURSE_ENGINE_GRPC=engine_address, RECOURSE_ENGINE_REST=nobody)
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


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
            jobs = wire.activate_jobs("lonely", "test", 60_000, 1, ["nothing"], 10_000)
            [given] = [job.key async for job in jobs]
            return int(given)

        job = await next_job()
        await wire.fail_job(job, 0, "no", 0, {})
        # Nothing here tells an incident's key but that it is among the next ones.
        for incident in range(job + 1, job + 20):
            await engine.resolve_incident(incident, job)
        assert await next_job() == job

        await engine.cancel_instance(key)
        await engine.cancel_instance(key)  # what is gone stays so
        assert await engine.find_alive([key]) == {key: False}
        await engine.close()
