"""A running stack as its users meet it: the command line, HTTP, the simulator's script and book, process ids."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID, uuid4, uuid5

import asyncpg
import httpx
from pyzeebe import ZeebeClient, create_insecure_channel
from pyzeebe.errors import ProcessInstanceNotFoundError, ZeebeBackPressureError
from pyzeebe.proto.gateway_pb2 import ModifyProcessInstanceRequest, SetVariablesRequest
from pyzeebe.proto.gateway_pb2_grpc import GatewayStub

from domain.policy import read_policy_text
from tests.tally import TALLY
from tests.workers.outboxes import assert_in_order, read_topic
from workers.api.calls import COMMANDS
from workers.api.routes.effects import sign_callback
from workers.gateways.dialects import SeenIncident
from workers.gateways.engine import Engine, open_channel
from workers.local.home import Home, read_json, write_json
from workers.local.issuer import mint_token
from workers.local.status import read_status
from workers.runtime import project_file
from workers.settings import Settings

T = TypeVar("T")
PATIENCE = 60.0
BROKEN_MODEL = """<?xml version="1.0" encoding="UTF-8"?>
<bpmn:definitions xmlns:bpmn="http://www.omg.org/spec/BPMN/20100524/MODEL" id="d" targetNamespace="http://test"
    xmlns:zeebe="http://camunda.org/schema/zeebe/1.0">
  <bpmn:process id="{name}" isExecutable="true">
    <bpmn:startEvent id="start"><bpmn:outgoing>to-work</bpmn:outgoing></bpmn:startEvent>
    <bpmn:sequenceFlow id="to-work" sourceRef="start" targetRef="work"/>
    <bpmn:serviceTask id="work">
      <bpmn:extensionElements><zeebe:taskDefinition type="=nobody + 1" retries="1"/></bpmn:extensionElements>
      <bpmn:incoming>to-work</bpmn:incoming>
    </bpmn:serviceTask>
  </bpmn:process>
</bpmn:definitions>"""
ADDRESS = {"street": "Weg 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}


def eventually(ask: Callable[[], T], enough: Callable[[T], bool], what: str, seconds: float = PATIENCE) -> T:
    """Ask until it is so; fail with what was seen last. A condition, never a sleep."""
    deadline = time.monotonic() + seconds
    while True:
        seen = ask()
        if enough(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}; last seen: {str(seen)[:1500]}")
        time.sleep(0.05)


@dataclass
class RunningStack:
    """One `recourse up`; its own folder, its own ports."""

    folder: Path
    environment: Mapping[str, str]
    tenants: list[Tenant] = field(default_factory=list)

    @classmethod
    @contextmanager
    def start(cls, *options: str, ports: Mapping[str, int] | None = None, **settings: str) -> Iterator[RunningStack]:
        """One with a folder of its own, which is stopped and forgotten at the end, also where it did not come up."""
        # Not pytest's own temporary folder: root's is closed to the user that PostgreSQL runs as.
        folder = Path(tempfile.mkdtemp(prefix="recourse-flows-", dir="/var/tmp"))
        folder.chmod(0o711)
        if ports:
            write_json(folder / "ports.json", ports)
        # A short heartbeat, so that a flow that lost its wake-up is found within seconds and not within minutes.
        stack = cls(folder, {"RECOURSE_HEARTBEAT": "PT20S", **os.environ, **settings, "RECOURSE_HOME": str(folder)})
        try:
            told = stack.cli("up", "--detach", *options, seconds=420)
            assert told.returncode == 0, told.stdout + told.stderr
            yield stack
        finally:
            for tenant in stack.tenants:
                tenant.close()
            stack.cli("down", seconds=120)
            shutil.rmtree(folder, ignore_errors=True)

    def cli(self, *arguments: str, seconds: float = 420, check: bool = False) -> subprocess.CompletedProcess[str]:
        """The command line, as a person would call it."""
        return subprocess.run(
            [sys.executable, "-m", "workers.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=check,
        )

    @property
    def home(self) -> Home:
        return Home(self.folder)

    def status(self) -> dict[str, Any]:
        with ThreadPoolExecutor(1) as beside:  # who asks may have a loop running
            return dict(beside.submit(lambda: asyncio.run(read_status(self.home))).result().as_json())

    def told(self) -> Mapping[str, str]:
        """The settings of our processes in this stack."""
        return {name: str(value) for name, value in read_json(self.home.environment_file).items()}

    def pid(self, process: str) -> int:
        return int(self.status()["processes"][process])

    def kill(self, pid: int) -> None:
        """kill -9, and counted."""
        os.kill(pid, signal.SIGKILL)
        TALLY["killed"] += 1

    @contextmanager
    def stopped(self, process: str) -> Iterator[int]:
        """Keep a process from running for as long as the block lasts, without ending it; the block may."""
        pid = self.pid(process)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def another(self, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """One more process of ours beside the supervised ones, with settings of its own."""
        log = (self.folder / "log" / f"test-{uuid4().hex[:6]}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", *arguments],
            env={**self.environment, **self.told(), **settings},
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            TALLY["killed"] += process.poll() == -signal.SIGKILL
            if process.poll() is None:
                process.terminate()
                process.wait(30)
            log.close()

    def publish(self, name: str, key: str, tenant: Tenant, **variables: str) -> None:
        """Tell the engine something once more, as a relay would that died before it could mark it."""

        async def send() -> None:
            channel = create_insecure_channel(grpc_address=str(self.status()["engineGrpc"]))
            told = {"tenant_id": str(tenant.tenant_id), **variables}
            client, told_at = ZeebeClient(channel), time.monotonic()
            while time.monotonic() - told_at < PATIENCE:
                with suppress(ZeebeBackPressureError):  # a busy engine says so, and is asked again
                    await client.publish_message(
                        name=name, correlation_key=key, variables=told, time_to_live_in_milliseconds=60_000
                    )
                    break
                await asyncio.sleep(0.1)
            await channel.close()

        asyncio.run(send())

    def as_owner(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database past every guard, as its administrator could."""

        async def ask() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.told()["RECOURSE_OWNER_DATABASE_URL"])
            try:
                return list(await connection.fetch(sql, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())

    @contextmanager
    def locked(self, table: str, order_id: str) -> Iterator[Callable[[], bool]]:
        """Keep an order's row in a table from being written; answers whether somebody waits for it."""
        loop = asyncio.new_event_loop()
        holder = loop.run_until_complete(asyncpg.connect(self.told()["RECOURSE_OWNER_DATABASE_URL"]))
        pid = holder.get_server_pid()
        waiting = "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid))"
        try:
            loop.run_until_complete(holder.execute("begin"))
            loop.run_until_complete(holder.fetch(f"select from {table} where order_id = $1::uuid for update", order_id))
            yield lambda: bool(self.as_owner(waiting, pid)[0][0])
        finally:
            loop.run_until_complete(holder.close())
            loop.close()

    def flows_of(self, order_id: str) -> list[int]:
        """The engine's instances that have worked for an order."""
        rows = self.as_owner("select instance_key from flow where order_id = $1::uuid", order_id)
        return [int(row["instance_key"]) for row in rows]

    def cancel_instances(self, keys: list[int]) -> int:
        """As somebody would in Operate; how many were still there."""

        async def cancel() -> int:
            channel = create_insecure_channel(grpc_address=str(self.status()["engineGrpc"]))
            client, cancelled = ZeebeClient(channel), 0
            for key in keys:
                with suppress(ProcessInstanceNotFoundError):
                    await client.cancel_process_instance(key)
                    cancelled += 1
            await channel.close()
            return cancelled

        return asyncio.run(cancel())

    def set_variables(self, key: int, **variables: str) -> None:
        """As somebody would who edits an instance's variables in Operate."""

        async def send() -> None:
            channel = create_insecure_channel(grpc_address=str(self.status()["engineGrpc"]))
            request = SetVariablesRequest(elementInstanceKey=key, variables=json.dumps(variables), local=True)
            await GatewayStub(channel).SetVariables(request)
            await channel.close()

        asyncio.run(send())

    def modify(self, key: int, *, enter: str, leave: int | None = None) -> None:
        """As somebody would who modifies an instance in Operate: a token at this element, and one less at that
        instance of another."""
        request = ModifyProcessInstanceRequest(
            processInstanceKey=key,
            activateInstructions=[ModifyProcessInstanceRequest.ActivateInstruction(elementId=enter)],
            terminateInstructions=(
                [ModifyProcessInstanceRequest.TerminateInstruction(elementInstanceKey=leave)] if leave else []
            ),
        )

        async def send() -> None:
            channel = create_insecure_channel(grpc_address=str(self.status()["engineGrpc"]))
            await GatewayStub(channel).ModifyProcessInstance(request)
            await channel.close()

        asyncio.run(send())

    def incident_of(self, case_id: str) -> SeenIncident:
        """The incident of the engine that a case is about, once the search shows it."""
        return eventually(
            lambda: [seen for seen in self._with_engine(_find_incidents) if case_id in seen.message],
            bool,
            f"the incident of case {case_id}",
            120,
        )[0]

    def resolve_incident(self, seen: SeenIncident) -> None:
        """As somebody would who retries it in Operate."""
        job = int(seen.job_key) if seen.job_key else None
        self._with_engine(lambda engine: engine.resolve_incident(int(seen.key), job))

    def _with_engine(self, ask: Callable[[Engine], Awaitable[T]]) -> T:
        async def do() -> T:
            status = self.status()
            settings = Settings(engine_grpc=status["engineGrpc"], engine_rest=status["engineRest"])
            channel = open_channel(settings)
            engine = Engine(channel, settings)
            try:
                return await ask(engine)
            finally:
                await engine.close()
                await channel.close()

        return asyncio.run(do())

    def deploy_broken(self) -> str:
        """A process of somebody else's, whose every instance is an incident at once; its id."""
        name = f"strange-{uuid4().hex[:8]}"

        async def deploy() -> None:
            channel = create_insecure_channel(grpc_address=str(self.status()["engineGrpc"]))
            with TemporaryDirectory() as folder:
                file = Path(folder) / f"{name}.bpmn"
                file.write_text(BROKEN_MODEL.format(name=name))
                await ZeebeClient(channel).deploy_resource(file)
            await channel.close()

        asyncio.run(deploy())
        return name

    def run_process(self, name: str, **variables: str) -> int:
        """An instance of a process, started by its id and not by a message; its key."""

        async def start() -> int:
            channel = create_insecure_channel(grpc_address=str(self.status()["engineGrpc"]))
            told = await ZeebeClient(channel).run_process(name, variables)
            await channel.close()
            return int(told.process_instance_key)

        return asyncio.run(start())

    def tenant(self) -> Tenant:
        told = self.told()
        systems = json.loads(told["RECOURSE_SYSTEMS"])
        fresh = Tenant(self, str(self.status()["api"]), systems["*"]["url"], uuid4())
        self.tenants.append(fresh)
        return fresh


async def _find_incidents(engine: Engine) -> list[SeenIncident]:
    return list(await engine.find_incidents(datetime.now(UTC) - timedelta(hours=1)))


@dataclass
class Tenant:
    """A customer of the stack, with people of its own; nothing of it is seen by others."""

    stack: RunningStack
    api: str
    simulator: str
    tenant_id: UUID
    clients: dict[str, httpx.Client] = field(default_factory=dict)
    acknowledged: set[UUID] = field(default_factory=set)

    def person(self, subject: str, *roles: str) -> httpx.Client:
        """An HTTP client with this person's token."""
        if subject not in self.clients:
            told = self.stack.told()
            token = mint_token(
                Path(told["RECOURSE_ISSUER_KEY_FILE"]),
                subject=subject,
                roles=roles,
                tenant=self.tenant_id,
                issuer=told["RECOURSE_ISSUER"],
                audience=Settings().audience,
                ttl=7200,
            )
            self.clients[subject] = httpx.Client(
                base_url=self.api,
                timeout=20,
                trust_env=False,
                headers={"Authorization": f"Bearer {token}"},
            )
        return self.clients[subject]

    @property
    def agent(self) -> httpx.Client:
        return self.person("alice", "agent", "auditor")

    @property
    def approver(self) -> httpx.Client:
        return self.person("bob", "approver")

    @property
    def operator(self) -> httpx.Client:
        return self.person("olga", "operator")

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    # -- asking ------------------------------------------------------------------------------------------

    def post(
        self, path: str, body: Any, *, by: httpx.Client | None = None, key: str | None = None, etag: str | None = None
    ) -> httpx.Response:
        client, key = by or self.agent, key or uuid4().hex
        answer = client.post(path, json=body, headers={"Idempotency-Key": key, **({"If-Match": etag} if etag else {})})
        if answer.status_code == httpx.codes.ACCEPTED:
            [subject] = (name for name, known in self.clients.items() if known is client)
            scope = (str(self.tenant_id), subject, "POST", answer.request.url.path.lower(), key)
            self.acknowledged.add(uuid5(COMMANDS, "\n".join(scope)))
        return answer

    def get(self, path: str, by: httpx.Client | None = None) -> Any:
        answer = (by or self.agent).get(path)
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()

    def items(self, path: str) -> list[Any]:
        page = self.get(f"{path}?limit=200")
        rows = list(page["items"])
        while page["next"]:
            page = self.get(f"{path}?limit=200&cursor={page['next']}")
            rows += page["items"]
        return rows

    def submit(self, offering: str = "fiber-500", **more: Any) -> str:
        document = {
            "customer": {"id": "c-9", "name": "Ada"},
            "contact": {"name": "Ada", "phone": "+49 30 1234567"},
            "deliveryAddress": ADDRESS,
            "installationAddress": ADDRESS,
            "items": [
                {
                    "itemId": "1",
                    "action": "ADD",
                    "productOfferingId": offering,
                    "quantity": 1,
                    "configuration": {"bandwidth": "500M", "deviceModel": "R7"},
                    "price": {"amountMinor": 3999, "currency": "EUR"},
                }
            ],
        } | more
        answer = self.post("/api/v1/orders", document)
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        return str(answer.json()["orderId"])

    def etag(self, order_id: str) -> str:
        return str(self.agent.get(f"/api/v1/orders/{order_id}").headers["etag"])

    def cancel(self, order_id: str, **more: Any) -> str:
        """Ask for a cancellation of the whole order as it stands; the link of the request."""
        body = {"reasonCode": "CUSTOMER_CHANGED_MIND", "scope": {"type": "ORDER", "orderItemIds": []}} | more
        path = f"/api/v1/orders/{order_id}/cancellation-requests"
        answer = eventually(  # its version may move between reading and asking: read again
            lambda: self.post(path, body, etag=self.etag(order_id)),
            lambda told: told.status_code != httpx.codes.PRECONDITION_FAILED,
            "an order that stands still",
        )
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        return str(answer.json()["links"]["self"])

    # -- looking ------------------------------------------------------------------------------------------

    def order(self, order_id: str) -> Any:
        return self.get(f"/api/v1/orders/{order_id}")

    def wait_state(self, order_id: str, *states: str, seconds: float = PATIENCE) -> str:
        seen = eventually(
            lambda: self.order(order_id)["state"], lambda state: state in states, f"order in {states}", seconds
        )
        return str(seen)

    def effects(self, order_id: str) -> list[Any]:
        return self.items(f"/api/v1/orders/{order_id}/effects")

    def wait_effect(self, order_id: str, operation: str, system: str, **wanted: Any) -> Any:
        """The effect of one operation, once it looks as wanted ('…' for any value)."""

        def fits(rows: list[Any]) -> bool:
            return any(
                row["system"] == system
                and row["operation"] == operation
                and all(key in row and value in (..., row[key]) for key, value in wanted.items())
                for row in rows
            )

        rows = eventually(lambda: self.effects(order_id), fits, f"{system}.{operation} {wanted}")
        return next(row for row in rows if fits([row]))

    def make_impatient(self, *task_types: str) -> None:
        """The shipped policy, with systems of these types of work given up after one call and a second."""
        document: Any = read_policy_text(project_file("domain/telecom.policy.yaml").read_bytes())
        for task_type in task_types:
            verify = {"every": "PT1S", "give_up_after": "PT1H"}
            document["task_types"][task_type] |= {"timeout": "PT1S", "attempts": 1, "verify": verify}
        posted = self.post("/api/v1/policies", document, by=self.person("root", "admin"))
        assert posted.status_code == httpx.codes.CREATED, posted.text

    def cases(self, order_id: str) -> list[Any]:
        return list(self.get(f"/api/v1/fallout-cases?orderId={order_id}", self.operator)["items"])

    def assert_all_told(self, orders: Collection[str]) -> None:
        """Every event of these orders comes to be in Kafka, in the order of versions."""
        versions = {UUID(order_id): len(self.items(f"/api/v1/orders/{order_id}/timeline")) for order_id in orders}
        settings = Settings(kafka_bootstrap=self.stack.status()["kafka"])
        arrived = eventually(
            lambda: [record for record in asyncio.run(read_topic(settings)) if record.key in orders],
            lambda records: {UUID(record.key): record.version for record in records} == versions,
            "the last event of every order in Kafka",
        )
        assert_in_order(arrived, versions)

    # -- the outside world --------------------------------------------------------------------------------

    def fault(self, **script: Any) -> None:
        """Script what goes wrong for this tenant only."""
        answer = httpx.post(f"{self.simulator}/faults", json={"tenantId": str(self.tenant_id), **script}, timeout=10)
        assert answer.status_code == httpx.codes.OK, answer.text

    def call_back(self, effect_id: str, state: str = "CONFIRMED") -> None:
        answer = httpx.post(f"{self.simulator}/effects/{effect_id}/callback", json={"state": state}, timeout=10)
        assert answer.json() == {"status": 200}, answer.text

    def say_after_all(self, effect_id: str, state: str) -> None:
        """Report what the system's own book does not say: its people found out, and signed by hand."""
        [system] = {one["secret"] for one in json.loads(self.stack.told()["RECOURSE_SYSTEMS"]).values()}
        body, stamp = json.dumps({"state": state}).encode(), str(int(time.time()))
        headers = {"X-Recourse-Timestamp": stamp, "X-Recourse-Signature": sign_callback(system, stamp, body)}
        path = f"{self.api}/api/v1/effects/{effect_id}/outcome"
        httpx.post(path, content=body, headers=headers, timeout=20, trust_env=False).raise_for_status()

    def done(self, order_id: str) -> dict[str, int]:
        """How often each thing was really done outside, by the outside world's own book."""
        lines = httpx.get(f"{self.simulator}/book", params={"orderId": order_id}, timeout=10).json()["lines"]
        counts: dict[str, int] = {}
        for line in lines:
            if line["event"] == "DONE":
                counts[line["taskType"]] = counts.get(line["taskType"], 0) + 1
        return counts

    def settle(self) -> None:
        """What was acknowledged is there; what was done outside was done once, and the ledger has it."""
        kept = self.stack.as_owner("select command_id from receipt where tenant_id = $1", self.tenant_id)
        lost = self.acknowledged - {row[0] for row in kept}
        known = self.stack.as_owner("select effect_id::text from effect where tenant_id = $1", self.tenant_id)
        book = (self.stack.folder / "simulator" / "book.jsonl").read_bytes().splitlines()
        lines = [json.loads(line) for line in book if str(self.tenant_id).encode() in line]
        done = Counter(str(line["effectId"]) for line in lines if line["event"] == "DONE")
        twice = {effect for effect, times in done.items() if times > 1} | (done.keys() - {row[0] for row in known})
        TALLY.update(acknowledged=len(self.acknowledged), lost=len(lost), done=done.total(), twice=len(twice))
        assert (lost, twice) == (set(), set())

    def calls(self, order_id: str, task_type: str) -> int:
        lines = httpx.get(f"{self.simulator}/book", params={"orderId": order_id}, timeout=10).json()["lines"]
        return sum(line["event"] == "CALLED" and line["taskType"] == task_type for line in lines)
