"""The health port of a process: alive, ready or why not, and its metrics."""

from __future__ import annotations

import httpx

from workers.local.home import free_port
from workers.settings import Settings
from workers.telemetry import serve_health


async def test_readiness_tells_the_troubles_of_the_moment() -> None:
    port = free_port()
    troubles: dict[str, str] = {"engine": "no poll yet"}
    async with (
        serve_health(Settings(health_port=port), lambda: troubles),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        alive = await client.get("/healthz")
        before = await client.get("/readyz")
        troubles.clear()
        after = await client.get("/readyz?verbose")
        metrics = await client.get("/metrics")
        absent = await client.get("/elsewhere")
    assert alive.status_code == 200
    assert (before.status_code, before.json()) == (503, {"status": "DOWN", "troubles": {"engine": "no poll yet"}})
    assert (after.status_code, after.json()) == (200, {"status": "UP", "troubles": {}})
    assert metrics.status_code == 200
    assert "python_info" in metrics.text
    assert absent.status_code == 404


async def test_without_a_port_nothing_listens() -> None:
    async with serve_health(Settings(), dict):
        pass
