"""How much a tenant may ask: so much at once, so much a second, whatever the others do, in bounded memory."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

import httpx
import pytest

from domain.errors import RateLimited
from domain.handle import Door
from domain.store.policies import PolicyBook
from domain.values import TenantId
from tests.workers.api_world import ApiWorld, make_doorkeeper, make_settings
from workers.api.app import make_app
from workers.api.limits import REMEMBERED, RateLimiter
from workers.api.service import Service


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def passed(limiter: RateLimiter, tenant: TenantId, asked: int) -> int:
    """How many of so many requests get in."""
    count = 0
    for _ in range(asked):
        try:
            limiter.admit(tenant)
        except RateLimited:
            continue
        count += 1
    return count


def a_tenant() -> TenantId:
    return TenantId(uuid.uuid4())


def test_two_seconds_worth_at_once_then_the_rate() -> None:
    clock, tenant = Clock(), a_tenant()
    limiter = RateLimiter(10, clock)
    assert passed(limiter, tenant, 50) == 20
    clock.now += 1
    assert passed(limiter, tenant, 50) == 10
    clock.now += 0.5
    assert passed(limiter, tenant, 50) == 5
    clock.now += 3600
    assert passed(limiter, tenant, 50) == 20


def test_who_keeps_asking_gets_in_as_soon_as_who_waits() -> None:
    clock, tenant = Clock(), a_tenant()
    limiter = RateLimiter(1, clock)
    assert passed(limiter, tenant, 2) == 2
    for _ in range(8):
        clock.now += 0.125
        assert passed(limiter, tenant, 5) == (1 if clock.now == 1001.0 else 0)


def test_one_tenant_does_not_use_up_what_another_has() -> None:
    limiter = RateLimiter(5, Clock())
    assert passed(limiter, a_tenant(), 100) == 10
    assert passed(limiter, a_tenant(), 100) == 10


def test_any_number_of_tenants_is_kept_in_bounded_memory() -> None:
    clock, busy = Clock(), a_tenant()
    limiter = RateLimiter(1, clock)
    assert passed(limiter, busy, 3) == 2
    for _ in range(REMEMBERED + 500):
        limiter.admit(a_tenant())
        if len(limiter) % 1000 == 0:
            assert passed(limiter, busy, 1) == 0  # seen lately: not the one that is forgotten
    assert len(limiter) == REMEMBERED


@pytest.mark.asyncio(loop_scope="session")
async def test_a_tenant_over_its_rate_is_told_when_to_come_again(world: ApiWorld) -> None:
    clock = Clock()
    settings = make_settings("")
    service = Service(settings, world.pool, Door(world.pool), PolicyBook(), make_doorkeeper(), RateLimiter(1, clock))
    transport = httpx.ASGITransport(make_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://recourse.test") as client:
        limited = replace(world, client=client)
        seen = [(await limited.get("/orders")).status_code for _ in range(4)]
        assert seen == [200, 200, 429, 429]
        refused = await limited.get("/orders")
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["content-type"] == "application/problem+json"
        told = refused.json()
        assert (told["status"], told["code"]) == (429, "RATE_LIMITED")
        assert told["type"].endswith("/docs/problems/RATE_LIMITED")
        page = await client.get("/ui", headers={"Cookie": f"recourse_token={world.token()}"})
        assert (page.status_code, page.headers["retry-after"]) == (429, "1")
        # Neither another tenant, nor the probes, nor who is nobody is affected; nobody is still told 401.
        assert (await limited.get("/orders", tenant=uuid.uuid4())).status_code == 200
        assert (await limited.get("/healthz", as_=None)).status_code == 200
        assert (await limited.get("/orders", as_=None)).status_code == 401
        # A command that was refused is taken a second later; one over the rate is not even asked for its role.
        first = await limited.send("PUT", "/staff/carol", as_=("root", "admin"), body={"roles": ["approver"]})
        assert first.status_code == 429
        clock.now += 1
        again = await limited.send("PUT", "/staff/carol", as_=("root", "admin"), body={"roles": ["approver"]})
        assert again.status_code == 200
        assert (await limited.get("/audit/verification")).status_code == 429
