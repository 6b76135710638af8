"""The benches that ask the same of the API under two conditions: all clients at one order, observed, among very many
orders. It must never give one side less to do than the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import httpx

from domain.store.measuring import HISTORY, STATE, clone_orders
from workers.bench.bed import Bed, Database, UnfitError
from workers.bench.commands import CLIENTS, WARM, Api, app_pool, open_api
from workers.bench.harness import Case, Run, Scale, interleave, run_clients
from workers.bench.http import connections
from workers.bench.seeds import ALL, Seeds, order_id
from workers.local.home import free_port

CROWD: Final = 50
SMALL: Final = 2_000
_ANSWERS: Final = frozenset({202, 409, 412})
TRACED: Final = 0.1  # of all requests
_SCRAPE_SECONDS: Final = 1.0


async def measure_hot_order(bed: Bed, scale: Scale) -> list[Case]:
    """Fifty clients that hold and release one order ÷ the same with an order for each of them.

    Each reads the order and asks with the version that it has seen; a clean 409 or 412 is an answer, too.
    """
    async with bed.database() as database, app_pool(database) as pool:
        seeds = Seeds(pool)
        statuses: dict[str, Counter[int]] = {"one order": Counter(), "an order each": Counter()}
        async with open_api(bed, database) as api:

            async def hot(_: int) -> Run:
                first = await seeds.add(1)
                return await _hold(api, scale.amount, lambda _: first, statuses["one order"])

            async def spread(_: int) -> Run:
                first = await seeds.add(CROWD)
                return await _hold(api, scale.amount, lambda client: first + client, statuses["an order each"])

            await spread(0)
            pairs = await interleave(scale.repetitions, hot, spread)
    told = {side: {str(status): count for status, count in sorted(met.items())} for side, met in statuses.items()}
    return [Case(f"{CROWD} clients", pairs, "rate", {"answers": told})]


async def _hold(api: Api, amount: int, order_of: Any, met: Counter[int]) -> Run:
    async with connections(api.url, CROWD) as opened:

        async def do(piece: int) -> str | None:
            client, turn = piece % CROWD, piece // CROWD
            path = f"/api/v1/orders/{order_id(order_of(client))}"
            status, etag, _ = await opened[client].read(path, api.headers)
            if status == 200:
                headers = {**api.headers, "If-Match": etag, "Idempotency-Key": f"hold-{id(met)}-{met.total()}-{piece}"}
                verb = "release" if turn % 2 else "hold"
                status, _ = await opened[client].ask("POST", f"{path}/{verb}", headers, b"{}")
            met[status] += 1
            return None if status in _ANSWERS else str(status)

        return await run_clients(CROWD, amount, do)


async def measure_observability(bed: Bed, scale: Scale) -> list[Case]:
    """Cancellations per second with metrics that are fetched every second, a JSON line for each request and one request
    in ten recorded and sent to a receiver ÷ with none of it.

    Raises UnfitError where no span has arrived: then nothing was recorded.
    """
    clients = CLIENTS[0]
    async with bed.database() as database, app_pool(database) as pool, _receiving(bed) as receiver:
        seeds = Seeds(pool)
        traced: dict[str, Any] = {"otlp_endpoint": receiver, "trace_ratio": TRACED}
        async with (
            open_api(bed, database, log_level="info", log_format="json", **traced) as seen,
            open_api(bed, database, module="workers.bench.unobserved", log_level="error") as dark,
        ):

            async def observed(_: int) -> Run:
                first = await seeds.add(scale.amount)
                async with _scraped(seen):
                    return await seen.cancel(clients, scale.amount, first)

            async def unobserved(_: int) -> Run:
                return await dark.cancel(clients, scale.amount, await seeds.add(scale.amount))

            for api in (seen, dark):
                await api.cancel(clients, WARM, await seeds.add(WARM))
            pairs = await interleave(scale.repetitions, observed, unobserved)
            lines = (bed.folder / "api.log").read_text().count('"event":"request"')
        # Only now: what a process still holds it sends at its end.
        spans = await _count_spans(receiver)
    requests = WARM + sum(ours.done for ours, _ in pairs)
    if not spans:
        raise UnfitError(f"No span of {requests} requests has reached the receiver")
    return [Case(f"{clients} clients", pairs, "rate", {"lines": lines, "requests": requests, "spans": spans})]


@asynccontextmanager
async def _receiving(bed: Bed) -> AsyncIterator[str]:
    """The address of a process that takes spans."""
    port = free_port()
    receiver = bed.our_part("receiver", (str(port),), port, {}, "workers.bench.receiver")
    async with bed.running(receiver):
        yield receiver.address


async def _count_spans(receiver: str) -> int:
    async with httpx.AsyncClient(base_url=receiver, trust_env=False) as client:
        return int((await client.get("/")).raise_for_status().text)


@asynccontextmanager
async def _scraped(api: Api) -> AsyncIterator[None]:
    """Somebody fetches the metrics, again and again."""

    async def scrape() -> None:
        async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
            while True:
                (await client.get("/metrics")).raise_for_status()
                await asyncio.sleep(_SCRAPE_SECONDS)

    scraping = asyncio.create_task(scrape())
    try:
        yield
    finally:
        scraping.cancel()
        with suppress(asyncio.CancelledError):
            await scraping


async def measure_growth(bed: Bed, scale: Scale) -> list[Case]:
    """Cancellations per second in a database with `scale.size` orders and their history ÷ in one with 2 000."""
    clients = CLIENTS[0]
    small = min(SMALL, scale.size)
    async with AsyncExitStack() as stack:
        sides = []
        for size in (scale.size, small):
            database = await stack.enter_async_context(bed.database())
            seeds = Seeds(await stack.enter_async_context(app_pool(database)))
            await fill(database, size)
            sides.append((seeds, await stack.enter_async_context(open_api(bed, database))))

        async def run(side: int, amount: int) -> Run:
            seeds, api = sides[side]
            return await api.cancel(clients, amount, await seeds.add(amount))

        for side in (0, 1):
            await run(side, min(WARM, scale.amount))
        pairs = await interleave(scale.repetitions, lambda _: run(0, scale.amount), lambda _: run(1, scale.amount))
    return [Case(f"{scale.size} orders", pairs, "rate", {"large": scale.size, "small": small})]


async def fill(database: Database, size: int, *, history: bool = True) -> None:
    """So many more orders that have been completed, copies of one; of another tenant, whose books nobody verifies."""
    async with app_pool(database) as pool:
        first = await Seeds(pool, ALL).add(1)
    await clone_orders(database.owner_url, order_id(first), size, (*STATE, *HISTORY) if history else STATE)
