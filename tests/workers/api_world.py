"""What API tests stand on: the real application and database, tokens of a test issuer, and hands for the flows."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import orjson
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from domain import commands as ask
from domain.handle import Door
from domain.policy import parse_policy, read_policy_text
from domain.store.policies import PolicyBook, add_policy
from domain.store.pool import Pool, open_pool, tenant_transaction
from domain.values import EffectId, OrderId, PlanId, RequestId, Run, TaskId, TenantId, system_actor
from tests.builders import ROOT
from workers.api.app import make_app
from workers.api.identity import Doorkeeper, KeyRing
from workers.api.limits import RateLimiter
from workers.api.service import Service
from workers.settings import Settings

ISSUER = "https://issuer.test"
BASE = "/api/v1"
RSA = RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig", "alg": "RS256"}, private=True)
EC = ECKey.generate_key("P-256", {"kid": "ec-1", "use": "sig", "alg": "ES256"}, private=True)
ALL_ROLES = ("agent", "approver", "operator", "auditor", "admin")
SECRETS = {"inventory": "inventory-secret", "*": "any-secret"}

ADDRESS = {"street": "Weg 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}

Outside = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


def a_line(item_id: str = "1", **overrides: Any) -> dict[str, Any]:
    return {
        "itemId": item_id,
        "action": "ADD",
        "productOfferingId": "fiber-500",
        "quantity": 1,
        "configuration": {"bandwidth": "500M", "deviceModel": "R7"},
        "price": {"amountMinor": 3999, "currency": "EUR"},
    } | overrides


def an_order_body(*items: dict[str, Any], **overrides: Any) -> dict[str, Any]:
    body = {
        "orderType": "STANDARD",
        "customer": {"id": "c-9", "name": "Ada"},
        "contact": {"name": "Ada", "phone": "+49 30 1234567"},
        "deliveryAddress": ADDRESS,
        "installationAddress": ADDRESS,
        "appointment": {
            "start": "2030-12-01T09:00:00+01:00",
            "end": "2030-12-01T12:00:00+01:00",
            "timeZone": "Europe/Berlin",
        },
        "items": list(items) or [a_line()],
    } | overrides
    return {name: value for name, value in body.items() if value is not None}


def a_cancellation_body(**overrides: Any) -> dict[str, Any]:
    return {
        "reasonCode": "CUSTOMER_CHANGED_MIND",
        "reasonText": "Customer requested cancellation before installation",
        "requestedAt": "2026-07-02T10:15:00Z",
        "scope": {"type": "ORDER", "orderItemIds": []},
        "forceManualReview": False,
    } | overrides


def confirmed(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"state": "CONFIRMED", "external_reference": f"ref-{call['body']['taskType']}", "output": {"captured": 3999}}


def sign(claims: Mapping[str, Any], key: RSAKey | ECKey = RSA, **header: Any) -> str:
    algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
    return jwt.encode({"alg": algorithm, "kid": key.kid} | header, dict(claims), key)


def claims_of(subject: str, roles: tuple[str, ...], tenant: uuid.UUID, **more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": ISSUER,
        "aud": "recourse",
        "sub": subject,
        "tenant": str(tenant),
        "roles": list(roles),
        "nbf": now - 1,
        "exp": now + 86_400,  # tables of tests are made when they are collected; a run lasts
    } | more


@dataclass
class ApiWorld:
    """One running API, one tenant; `as_` names who asks."""

    app: FastAPI
    client: httpx.AsyncClient
    pool: Pool
    door: Door
    tenant: TenantId = field(default_factory=lambda: TenantId(uuid.uuid4()))
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    keys: Any = field(default_factory=lambda: itertools.count(1))

    def token(self, subject: str = "alice", *roles: str, tenant: uuid.UUID | None = None, **more: Any) -> str:
        return sign(claims_of(subject, roles or ("agent",), tenant or self.tenant, **more))

    async def send(
        self,
        method: str,
        path: str,
        *,
        as_: str | tuple[str, ...] | None = ("alice", "agent"),
        tenant: uuid.UUID | None = None,
        body: Any = None,
        raw: bytes | None = None,
        key: str | None = "",
        if_match: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """`as_`: (subject, role, …), a whole token, or None for nobody · key: "" makes a new one, None sends none."""
        sent = dict(headers or {})
        if as_ is not None:
            sent["Authorization"] = f"Bearer {as_ if isinstance(as_, str) else self.token(*as_, tenant=tenant)}"
        if key is not None and method == "POST":
            sent["Idempotency-Key"] = key or f"key-{next(self.keys)}"
        if if_match is not None:
            sent["If-Match"] = if_match
        content = raw if raw is not None else None if body is None else orjson.dumps(body)
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        url = (
            path
            if path.startswith(("/api", "/tmf-api", "/docs", "/healthz", "/readyz", "/metrics", "/openapi"))
            else BASE + path
        )
        return await self.client.request(method, url, content=content, headers=sent)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.send("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return await self.send("POST", path, body={} if body is None and "raw" not in more else body, **more)

    # -- stories ----------------------------------------------------------------------------------------

    async def create(self, *items: dict[str, Any], **overrides: Any) -> str:
        answer = await self.post("/orders", an_order_body(*items, **overrides))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["orderId"])

    async def etag(self, path: str) -> str:
        answer = await self.get(path, as_=("eve", *ALL_ROLES))
        assert answer.status_code == 200, answer.text
        return answer.headers["etag"]

    async def cancel(self, order_id: str, **overrides: Any) -> str:
        path = f"/orders/{order_id}"
        answer = await self.post(
            f"{path}/cancellation-requests", a_cancellation_body(**overrides), if_match=await self.etag(path)
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["cancellationRequestId"])

    # -- the flows, by hand ---------------------------------------------------------------------------------

    async def tell(self, command: ask.Command) -> Mapping[str, Any]:
        envelope = ask.Envelope(self.tenant, uuid.uuid4(), system_actor("test"), keep=False)
        return (await self.door.handle(envelope, command)).body

    async def fulfil(self, order_id: str, outside: Outside = confirmed, *, only: set[str] | None = None) -> None:
        """Validate, decompose and run the order's plans as far as `outside` answers and `only` lets it."""
        order = OrderId(uuid.UUID(order_id))
        run = await self.run_of(order)
        await self.tell(ask.ValidateOrder(order, run))
        await self.tell(ask.CheckStartDate(order, run))
        planned = await self.tell(ask.DecomposeOrder(order, run))
        await self.walk(order, planned["plan_id"], planned["plan_run"], outside, only=only)

    async def walk(
        self, order: OrderId, plan_id: str, run: str, outside: Outside = confirmed, *, only: set[str] | None = None
    ) -> None:
        moved = True
        while moved:
            moved = False
            command = ask.ReleaseTasks(order, PlanId(uuid.UUID(plan_id)), Run(uuid.UUID(run)))
            for handed in (await self.tell(command))["tasks"]:
                if only is not None and await self.type_of(handed["task_id"]) not in only:
                    continue
                claim = ask.ClaimTask(order, TaskId(uuid.UUID(handed["task_id"])), handed["release"], Run(uuid.uuid4()))
                told = await self.tell(claim)
                if told["verdict"] == "call":
                    self.calls.append(told)
                    answer = outside(told)
                    if answer is not None:
                        await self.report(order, told, answer)
                        moved = True

    async def report(self, order: OrderId, told: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        effect = EffectId(uuid.UUID(told["effect_id"]))
        await self.tell(ask.RecordOutcome(order, effect, source="CALL", attempt=told["attempt"], **answer))

    async def judge(self, order_id: str, request_id: str) -> Mapping[str, Any]:
        """Assess a request, and plan its compensation where no person is needed."""
        order, request = OrderId(uuid.UUID(order_id)), RequestId(uuid.UUID(request_id))
        run = Run(await self.value("select run from cancellation_request where request_id = $1", request))
        await self.tell(ask.BeginAssessment(order, request, run))
        told = await self.tell(ask.AssessCancellation(order, request, run))
        return await self.tell(ask.PlanCompensation(order, request, run)) if told["verdict"] == "automatic" else told

    async def run_of(self, order: OrderId) -> Run:
        return Run(await self.value("select run from customer_order where order_id = $1", order))

    async def type_of(self, task_id: str) -> str:
        return str(
            await self.value(
                "select task_type from fulfillment_task where task_id = $1 union all "
                "select task_type from compensation_task where task_id = $1",
                uuid.UUID(task_id),
            )
        )

    async def value(self, sql: str, *arguments: Any) -> Any:
        async with tenant_transaction(self.pool, self.tenant, read_only=True) as connection:
            return await connection.fetchval(sql, *arguments)

    async def rows(self, table: str) -> int:
        return int(await self.value(f"select count(*) from {table}"))


@dataclass(slots=True)
class Looks:
    """What an order was seen to be, moment by moment, to be asked for again with `?asOf=`."""

    world: ApiWorld
    path: str
    seen: list[tuple[str, Any, str]] = field(default_factory=list)

    async def look(self) -> Any:
        answer = await self.world.get(self.path)
        moment = await self.world.value("select clock_timestamp()")
        self.seen.append((moment.isoformat(), answer.json(), answer.headers["etag"]))
        return answer.json()

    async def look_back(self) -> None:
        """Every look was another one, and each is told again as it was."""
        assert len({json.dumps(order) for _, order, _ in self.seen}) == len(self.seen)
        for moment, order, etag in self.seen:
            then = await self.world.get(f"{self.path}?asOf={quote(moment)}")
            assert (then.json(), then.headers["etag"]) == (order, etag)


async def read_test_keys() -> Any:
    return KeySet([RSA, EC]).as_dict(private=False)


def make_settings(app_url: str) -> Settings:
    systems = {name: {"url": "http://systems.test", "secret": secret} for name, secret in SECRETS.items()}
    return Settings.model_validate(
        {
            "database_url": app_url,
            "issuer": ISSUER,
            "public_url": "http://recourse.test",
            "systems": systems,
            "listeners": "http://127.0.0.1:*",
        }
    )


def make_doorkeeper() -> Doorkeeper:
    return Doorkeeper(KeyRing(read_test_keys), issuer=ISSUER, audience="recourse")


@asynccontextmanager
async def open_world(app_url: str) -> AsyncIterator[ApiWorld]:
    async with AsyncExitStack() as stack:
        pool = await open_pool(app_url, size=8)
        stack.push_async_callback(pool.close)
        service = Service(make_settings(app_url), pool, Door(pool), PolicyBook(), make_doorkeeper(), RateLimiter(2000))
        app = make_app(service)
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://recourse.test")
        await stack.enter_async_context(client)
        yield ApiWorld(app, client, pool, service.door)


async def load_shared_policy(owner_url: str) -> None:
    """As `recourse policy load` does it: by the owner, for every tenant without a policy of its own."""
    document = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    policy = parse_policy(document)
    nobody = TenantId(uuid.UUID(int=0))
    pool = await open_pool(owner_url, size=1)
    async with tenant_transaction(pool, nobody) as connection:
        await add_policy(connection, nobody, document, effective_from=policy.effective_from, loaded_by="test")
    await pool.close()
