"""The benches about one command, a cancellation requested: through the door (`store`), over HTTP (`command`), and again
with the same key (`replay`). They must never leave out what a real request goes through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import orjson

from domain.errors import Breach
from domain.handle import Door
from domain.store.outages import OUTAGES
from domain.store.pool import Pool, open_pool
from workers.api.app import POOL_SIZE
from workers.bench.bed import Bed, Database
from workers.bench.harness import Case, Run, Scale, interleave, run_clients
from workers.bench.http import connections
from workers.bench.pgbench import capture_command, open_script
from workers.bench.seeds import TENANT, Seeds, cancel, order_id
from workers.bench.seeds import etag as seeded_etag
from workers.local.home import free_port
from workers.local.issuer import ensure_key, mint_token

CLIENTS: Final = (8, 32)
BODY: Final = orjson.dumps(
    {
        "reasonCode": "CUSTOMER_CHANGED_MIND",
        "reasonText": "Customer requested cancellation before installation",
        "scope": {"type": "ORDER", "orderItemIds": []},
    }
)
WARM: Final = 64


async def measure_store(bed: Bed, scale: Scale) -> list[Case]:
    """The door's transaction without HTTP ÷ pgbench running the same SQL."""
    async with bed.database() as ours, bed.database(verifies=False) as bare, app_pool(ours) as pool:
        seeds = Seeds(pool)
        sample = await capture_command(ours, await seeds.add(2))
        door = Door(pool)

        async def run(clients: int, amount: int) -> Run:
            first = await seeds.add(amount)

            async def do(piece: int) -> str | None:
                try:
                    await door.handle(*cancel(first + piece))
                except Breach as breach:
                    return breach.code
                except OUTAGES as outage:
                    return type(outage).__name__
                return None

            return await run_clients(clients, amount, do)

        async with open_script(bed, bare, sample) as script:
            return await _compare(scale, run, script.run, lambda: bed.know_sizes(ours, bare))


async def measure_command(bed: Bed, scale: Scale) -> list[Case]:
    """Requests per second over HTTP, one process of the API with everything on ÷ pgbench running the same SQL."""
    async with bed.database() as ours, bed.database(verifies=False) as bare, app_pool(ours) as pool:
        seeds = Seeds(pool)
        sample = await capture_command(ours, await seeds.add(2))
        async with open_api(bed, ours) as api, open_script(bed, bare, sample) as script:

            async def run(clients: int, amount: int) -> Run:
                return await api.cancel(clients, amount, await seeds.add(amount))

            return await _compare(scale, run, script.run, lambda: bed.know_sizes(ours, bare))


async def measure_replay(bed: Bed, scale: Scale) -> list[Case]:
    """The same requests with the same keys again ÷ their first execution."""
    async with bed.database() as ours, app_pool(ours) as pool:
        seeds = Seeds(pool)
        async with open_api(bed, ours) as api:
            await api.cancel(CLIENTS[0], WARM, await seeds.add(WARM))
            first: dict[int, int] = {}

            async def execute(number: int) -> Run:
                return await api.cancel(CLIENTS[0], scale.amount, first[number])

            async def replay(number: int) -> Run:
                return await api.cancel(CLIENTS[0], scale.amount, first[number], 200)

            pairs = []
            for number in range(scale.repetitions):
                first[number] = await seeds.add(scale.amount)
                executed = await execute(number)  # nothing can be replayed before it was executed
                pairs.append((await replay(number), executed))
            return [Case(f"{CLIENTS[0]} clients", tuple(pairs), "rate")]


Measure = Callable[[int, int], Awaitable[Run]]


async def _compare(scale: Scale, ours: Measure, bare: Measure, know_sizes: Callable[[], Awaitable[None]]) -> list[Case]:
    """Both sides in turn, each warm: connected, its statements planned for tables that are not empty."""
    for side in (ours, bare):
        await side(CLIENTS[0], max(scale.amount, WARM))
    await know_sizes()
    cases = []
    for clients in CLIENTS:
        for side in (ours, bare):
            await side(clients, WARM)

        async def measure_ours(_: int, clients: int = clients) -> Run:
            return await ours(clients, scale.amount)

        async def measure_bare(_: int, clients: int = clients) -> Run:
            return await bare(clients, scale.amount)

        pairs = await interleave(scale.repetitions, measure_ours, measure_bare)
        cases.append(Case(f"{clients} clients", pairs, "rate"))
    return cases


@asynccontextmanager
async def app_pool(database: Database) -> AsyncIterator[Pool]:
    """As the API has one."""
    pool = await open_pool(database.app_url, size=POOL_SIZE, name="bench")
    try:
        yield pool
    finally:
        await pool.close()


@dataclass(frozen=True, slots=True)
class Api:
    """One process of the API. headers: a token, the type of the body"""

    url: str
    headers: Mapping[str, str]

    async def cancel(self, clients: int, amount: int, first: int, wanted: int = 202, *, etag: str | None = None) -> Run:
        """Cancellations of the seeded orders from `first` on, each with a key of its own."""
        fixed = {**self.headers, "If-Match": etag or seeded_etag()}
        async with connections(self.url, clients) as opened:

            async def do(piece: int) -> str | None:
                number = first + piece
                headers = fixed | {"Idempotency-Key": f"cancel-{number}"}
                path = f"/api/v1/orders/{order_id(number)}/cancellation-requests"
                status, _ = await opened[piece % clients].ask("POST", path, headers, BODY)
                return None if status == wanted else str(status)

            return await run_clients(clients, amount, do)


@asynccontextmanager
async def open_api(bed: Bed, database: Database, module: str = "workers.cli", **told: object) -> AsyncIterator[Api]:
    """The API over a database for as long as the block runs. module: whose command `api` it is · told: more settings"""
    port, key = free_port(), bed.folder / "issuer.pem"
    ensure_key(key)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "database_url": database.app_url,
        "api_port": port,
        "public_url": url,
        "issuer": f"{url}/issuer",
        "issuer_key_file": key,
        **told,
    }
    token = mint_token(
        key,
        subject="alice",
        roles=["agent", "operator"],
        tenant=TENANT,
        issuer=f"{url}/issuer",
        audience="recourse",
        ttl=36_000,
    )
    async with bed.running(bed.our_part("api", ("api",), port, settings, module)):
        yield Api(url, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
