"""The benches that need everything as people start it, with `recourse up`: how long that takes, and how soon an
incident of the engine is told on its case. It must never use a stack that somebody else has started."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

import httpx
import yaml

from domain.store.measuring import read_parked
from domain.store.pool import open_pool
from workers.bench.bed import Bed, UnfitError, elsewhere
from workers.bench.harness import Case, Run, Scale, percentile
from workers.bench.seeds import TENANT
from workers.gateways.engine import Engine, open_channel
from workers.local.home import Home, read_json
from workers.local.issuer import mint_token
from workers.local.processes import Command, run_command
from workers.local.status import read_status
from workers.policies import load_policy
from workers.reconciler import SWEEP_SECONDS
from workers.runtime import project_file
from workers.settings import variable_name
from workers.verification import verify

T = TypeVar("T")

_LOOK: Final = 0.2
_PATIENCE: Final = 600.0
_BETWEEN: Final = 0.7  # not in step with the sweeps
_ADDRESS: Final = {"street": "Weg 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}
_ORDER: Final = {
    "customer": {"id": "c-9", "name": "Ada"},
    "contact": {"name": "Ada", "phone": "+49 30 1234567"},
    "deliveryAddress": _ADDRESS,
    "installationAddress": _ADDRESS,
    "items": [
        {
            "itemId": "1",
            "action": "ADD",
            "productOfferingId": "router",
            "quantity": 1,
            "configuration": {"deviceModel": "R7"},
            "price": {"amountMinor": 3999, "currency": "EUR"},
        }
    ],
}
_CANCELLATION: Final = {"reasonCode": "CUSTOMER_CHANGED_MIND", "scope": {"type": "ORDER", "orderItemIds": []}}


async def measure_start(bed: Bed, scale: Scale) -> list[Case]:
    """`recourse up`, everything downloaded already and a home that is new, until the first cancellation has ended.

    In seconds: there is nothing to compare with but the clock.
    """
    pairs = []
    for number in range(scale.repetitions):
        began = time.perf_counter()
        async with open_stack(bed, f"start-{number}", light=scale.quick) as stack:
            await stack.script(fault="accept-silent", taskType="ship-device")
            order = await stack.submit()
            await stack.until(partial(stack.effects, order), lambda types: "ship-device" in types)
            await stack.cancel(order)
            await stack.until(partial(stack.state, order), lambda state: state == "CANCELLED")
            taken = time.perf_counter() - began
            bed.verified.append(await stack.verify())
        pairs.append((Run(1, taken, (taken,)), Run(1, 1.0)))
    return [Case("without consoles" if scale.quick else "seconds", tuple(pairs), "time")]


async def measure_incidents(bed: Bed, scale: Scale) -> list[Case]:
    """From the moment at which the engine's search shows an incident until its case says so, p99 ÷ the sweeps'
    interval.

    scale.amount: incidents per repetition
    """
    pairs = []
    async with open_stack(bed, "incidents") as stack, AsyncExitStack() as closing:
        told = ("database_url", "engine_grpc", "engine_rest")
        settings = bed.settings.model_copy(update={name: stack.told(name) for name in told})
        await load_policy(settings, _impatient(), TENANT)
        await stack.until(stack.has_consoles, bool)
        channel = open_channel(settings)
        closing.push_async_callback(channel.close)
        engine = Engine(channel, settings)
        closing.push_async_callback(engine.close)
        auditor = await open_pool(stack.told("auditor_database_url"), size=1, name="bench")
        closing.push_async_callback(auditor.close)
        await stack.script(fault="error-before", taskType="reserve-inventory")
        for _ in range(scale.repetitions):
            since = datetime.now(UTC)
            shown: dict[str, float] = {}
            parked: dict[str, float] = {}

            async def look(
                shown: dict[str, float] = shown, parked: dict[str, float] = parked, since: datetime = since
            ) -> int:
                for incident in await engine.find_incidents(since):
                    if incident.created_at >= since:
                        shown.setdefault(incident.key, time.monotonic())
                for key in await read_parked(auditor, TENANT):
                    parked.setdefault(key, time.monotonic())
                return sum(key in parked for key in shown)

            for _ in range(scale.amount):
                await stack.submit()
                await asyncio.sleep(_BETWEEN)
            await stack.until(look, lambda told: told >= scale.amount)
            times = tuple(parked[key] - at for key, at in shown.items())
            pairs.append((Run(len(times), percentile(times, 99), times), Run(1, SWEEP_SECONDS)))
        bed.verified.append(await stack.verify())
    return [Case("incident to case", tuple(pairs), "time", {"sweepSeconds": SWEEP_SECONDS})]


def _impatient() -> bytes:
    """The policy that ships, with one system that is given up at once."""
    document = yaml.safe_load(project_file("domain/telecom.policy.yaml").read_bytes())
    document["task_types"]["reserve-inventory"] |= {
        "attempts": 1,
        "verify": {"every": "PT1S", "give_up_after": "PT2S"},
    }
    return yaml.safe_dump(document, encoding="utf-8")


@dataclass
class Stack:
    """A whole stack of its own, and an agent who uses it."""

    home: Home
    client: httpx.AsyncClient
    outside: httpx.AsyncClient

    def told(self, setting: str) -> str:
        return str(read_json(self.home.environment_file)[variable_name(setting)])

    async def has_consoles(self) -> bool:
        return (await read_status(self.home)).consolesReady

    async def verify(self) -> bool:
        return (await verify(self.told("auditor_database_url"), tenant_id=TENANT)).valid

    async def script(self, **fault: Any) -> None:
        (await self.outside.post("/faults", json={"tenantId": str(TENANT), **fault})).raise_for_status()

    async def submit(self) -> str:
        answer = await self._post("/api/v1/orders", _ORDER)
        return str(answer.json()["orderId"])

    async def cancel(self, order: str) -> None:
        path = f"/api/v1/orders/{order}"

        async def ask() -> int:
            etag = (await self.client.get(path)).headers["etag"]
            return (await self._post(f"{path}/cancellation-requests", _CANCELLATION, etag)).status_code

        await self.until(ask, lambda status: status != httpx.codes.PRECONDITION_FAILED)

    async def state(self, order: str) -> str:
        return str((await self.client.get(f"/api/v1/orders/{order}")).raise_for_status().json()["state"])

    async def effects(self, order: str) -> set[str]:
        answer = await self.client.get(f"/api/v1/orders/{order}/effects")
        return {str(effect["taskType"]) for effect in answer.raise_for_status().json()["items"]}

    async def _post(self, path: str, body: Any, etag: str = "") -> httpx.Response:
        headers = {"Idempotency-Key": uuid.uuid4().hex} | ({"If-Match": etag} if etag else {})
        answer = await self.client.post(path, json=body, headers=headers)
        if not answer.is_success and answer.status_code != httpx.codes.PRECONDITION_FAILED:
            raise UnfitError(f"{path}: {answer.status_code} {answer.text[:300]}")
        return answer

    async def until(self, ask: Callable[[], Awaitable[T]], enough: Callable[[T], bool]) -> T:
        """Raises UnfitError where it never is."""
        deadline = time.monotonic() + _PATIENCE
        while not enough(seen := await ask()):
            if time.monotonic() > deadline:
                raise UnfitError(f"nothing more happens; the last that was seen is {seen}")
            await asyncio.sleep(_LOOK)
        return seen


@asynccontextmanager
async def open_stack(bed: Bed, name: str, *, light: bool = False) -> AsyncIterator[Stack]:
    """`recourse up` in a folder of the bed, for as long as the block runs; or the stack that is given."""
    folder = bed.home or bed.folder / name
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RECOURSE_")} | {
        variable_name("state_dir"): str(folder),
        variable_name("cache"): str(bed.settings.cache),
    }

    async def call(*arguments: str) -> None:
        command = Command([sys.executable, "-m", "workers.cli", *arguments], environment)
        await elsewhere(lambda: run_command(command))

    try:
        await call("up", "--detach", *(["--light"] if light else []))
        home = Home(folder)
        told: Mapping[str, Any] = read_json(home.environment_file)
        api = str(told[variable_name("public_url")])
        token = mint_token(
            home.issuer_key_file,
            subject="alice",
            roles=["agent", "auditor"],
            tenant=TENANT,
            issuer=str(told[variable_name("issuer")]),
            audience="recourse",
            ttl=36_000,
        )
        simulator = f"http://127.0.0.1:{told[variable_name('simulator_port')]}"
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx.AsyncClient(base_url=api, headers=headers, timeout=30, trust_env=False) as client,
            httpx.AsyncClient(base_url=simulator, timeout=30, trust_env=False) as outside,
        ):
            yield Stack(home, client, outside)
    finally:
        if bed.home is None:
            await call("down")
