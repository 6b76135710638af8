"""The golden scenario against the running stack, told step by step: an order is cancelled on its way, and everything
that had happened outside is undone once. It must never look at anything that an operator could not look at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from workers.local.issuer import mint_token
from workers.relay.reading import read_events
from workers.settings import Settings, System

_PATIENCE: Final = 60.0
_ADDRESS: Final = {"street": "Invalidenstr. 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}

Json = Any
Say = Callable[[str], None]


class NotAsPromisedError(Exception):
    """The stack answered, but not what the golden scenario says."""


@dataclass(slots=True)
class Demo:
    """One play of the scenario, in a tenant of its own so that nothing else is touched."""

    settings: Settings
    say: Say
    picture: Path
    tenant: UUID = field(default_factory=uuid4)
    checks: list[str] = field(default_factory=list)

    async def play(self) -> dict[str, Json]:
        """Raises NotAsPromisedError at the first thing that is not as the scenario says."""
        started = time.monotonic()
        async with httpx.AsyncClient(base_url=self.settings.base_url, timeout=10, trust_env=False) as api:
            api.headers["Authorization"] = f"Bearer {self._token('demo-agent', 'agent', 'auditor')}"
            async with httpx.AsyncClient(base_url=self._simulator().url, timeout=10, trust_env=False) as outside:
                return await self._play(api, outside, started)

    async def _play(self, api: httpx.AsyncClient, outside: httpx.AsyncClient, started: float) -> dict[str, Json]:
        await outside.post(
            "/faults", json={"tenantId": str(self.tenant), "taskType": "assign-resource", "fault": "accept-silent"}
        )
        self.say("Outside systems: inventory answers at once; resource.assign is accepted, its outcome comes later.")
        order = await self._submit(api)
        base = f"/api/v1/orders/{order['orderId']}"
        self.say(f"Order {order['orderId']} submitted: {order['state']}")

        effects = await self._until(
            lambda: self._effects(api, base),
            lambda rows: rows.get("reserve", {}).get("state") == "CONFIRMED" and "acceptedAt" in rows.get("assign", {}),
            "the reservation to be confirmed and the port's assignment to be accepted",
        )
        self.say("Fulfillment: the inventory is reserved; the port is promised; provisioning has not started")
        await self._expect_not_started(api, base)

        asked = time.monotonic()
        change = await self._cancel(api, base)
        link = change["links"]["self"]
        self.say(f"Cancellation requested: {change['status']}, the order is {change['currentOrderState']}")
        self._check(change["currentOrderState"] == "CANCELLATION_REQUESTED", "the order says CANCELLATION_REQUESTED")
        # Only now does the other system say what became of its promise.
        await outside.post(f"/effects/{effects['assign']['effectId']}/callback", json={"state": "CONFIRMED"})
        self.say("The resource system calls back: the port has been assigned after all")

        request = await self._until(
            lambda: self._get(api, link),
            lambda row: row["status"] in {"COMPLETED", "PARTIALLY_COMPLETED", "REJECTED"},
            "the cancellation to end",
        )
        took = time.monotonic() - asked
        ended = await self._get(api, base)
        self.say(f"The order is {ended['state']} ({took:.1f} s after the request)")
        self._check(ended["state"] == "CANCELLED", "the order ends CANCELLED")
        self._check(request["assessment"]["feasibility"] == "FULLY_CANCELLABLE", "it was found FULLY_CANCELLABLE")

        plan = await self._check_plan(api, f"{base}/compensation-plans/{request['compensationPlanId']}")
        await self._check_audit(api, base)
        await self._show_ledger(api, base)
        await self._check_book(outside, order["orderId"])
        events = await self._check_events(UUID(order["orderId"]))
        self.say(f"All of it true. {time.monotonic() - started:.1f} s in all.")
        return {
            "orderId": order["orderId"],
            "state": ended["state"],
            "cancellationSeconds": round(took, 2),
            "compensation": sorted(task["type"] for task in plan["tasks"]),
            "events": len(events),
            "picture": str(self.picture),
            "checks": self.checks,
        }

    # -- acting -------------------------------------------------------------------------------------------

    async def _submit(self, api: httpx.AsyncClient) -> Json:
        document = {
            "externalId": f"DEMO-{self.tenant.hex[:8]}",
            "orderType": "STANDARD",
            "customer": {"id": "c-9", "name": "Ada Lovelace"},
            "contact": {"name": "Ada", "phone": "+49 30 1234567"},
            "deliveryAddress": _ADDRESS,
            "installationAddress": _ADDRESS,
            "priceAccepted": True,
            "items": [
                {
                    "itemId": "1",
                    "action": "ADD",
                    "productOfferingId": "fiber-500",
                    "quantity": 1,
                    "configuration": {"bandwidth": "500M", "deviceModel": "R7"},
                    "price": {"amountMinor": 3999, "currency": "EUR"},
                }
            ],
        }
        return await self._post(api, "/api/v1/orders", document)

    async def _cancel(self, api: httpx.AsyncClient, base: str) -> Json:
        tag = (await api.get(base)).headers["etag"]
        body = {
            "reasonCode": "CUSTOMER_CHANGED_MIND",
            "reasonText": "Customer requested cancellation before installation",
            "scope": {"type": "ORDER", "orderItemIds": []},
            "forceManualReview": False,
        }
        return await self._post(api, f"{base}/cancellation-requests", body, {"If-Match": tag})

    # -- checking ---------------------------------------------------------------------------------------------

    async def _expect_not_started(self, api: httpx.AsyncClient, base: str) -> None:
        tasks = await self._pages(api, f"{base}/plan")
        states = {task["type"]: task["state"] for task in tasks}
        self._check(states["activate-service"] in {"PENDING", "READY"}, "provisioning has not started")

    async def _check_plan(self, api: httpx.AsyncClient, link: str) -> Json:
        plan = await self._get(api, link)
        tasks = {task["type"]: task["state"] for task in plan["tasks"]}
        for name, state in sorted(tasks.items()):
            self.say(f"  compensation  {name:<20} {state}")
        self._check(
            tasks == {"release-inventory": "COMPLETED", "release-resource": "COMPLETED"},
            "the plan held release-inventory and release-resource, both COMPLETED",
        )
        answer = await api.get(link, headers={"Accept": "image/svg+xml"})
        self._check(answer.status_code == httpx.codes.OK and answer.text.lstrip().startswith("<"), "it has a picture")
        self.picture.parent.mkdir(parents=True, exist_ok=True)
        self.picture.write_text(answer.text, encoding="utf-8")
        self.say(f"  picture       {self.picture}")
        return plan

    async def _check_audit(self, api: httpx.AsyncClient, base: str) -> None:
        entries = await self._pages(api, f"{base}/timeline")
        for entry in entries:
            if entry["entity"] in {"ORDER", "REQUEST", "PLAN"}:
                move = f"{entry.get('from') or ''} → {entry['to']}" if entry.get("to") else ""
                self.say(f"  audit {entry['sequence']:>4}    {entry['kind']:<32} {move}")
        kinds = [entry["kind"] for entry in entries]
        for kind in ("CANCELLATION_REQUESTED", "CANCELLATION_ASSESSED", "COMPENSATION_STARTED", "ORDER_CANCELLED"):
            self._check(kind in kinds, f"the audit holds {kind}")
        states = [entry["to"] for entry in entries if entry["entity"] == "ORDER" and entry.get("to")]
        path = ["CANCELLATION_REQUESTED", "CANCELLING", "CANCELLED"]
        self._check([state for state in states if state in path] == path, "the order went " + " → ".join(path))
        verdict = await self._get(api, f"/api/v1/audit/verification?orderId={base.rsplit('/', 1)[1]}")
        self._check(verdict["valid"], f"the chain of {verdict['entries']} audit entries is unbroken")

    async def _show_ledger(self, api: httpx.AsyncClient, base: str) -> None:
        rows = await self._pages(api, f"{base}/effects")
        for row in rows:
            undoes = f" reverses {row['reverses']}" if row.get("reverses") else ""
            self.say(f"  ledger        {row['system']}.{row['operation']:<9} {row['state']:<10}{undoes}")
        states = sorted((row["operation"], row["state"]) for row in rows)
        wanted = [("assign", "REVERSED"), ("release", "CONFIRMED"), ("release", "CONFIRMED"), ("reserve", "REVERSED")]
        self._check(states == wanted, "each effect is reversed by one confirmed effect")

    async def _check_book(self, outside: httpx.AsyncClient, order_id: str) -> None:
        lines = (await outside.get("/book", params={"orderId": order_id})).json()["lines"]
        done: dict[str, int] = {}
        for line in lines:
            self.say(f"  outside book  {line['system']:<10} {line['taskType']:<20} {line['event']}")
            if line["event"] == "DONE":
                done[line["taskType"]] = done.get(line["taskType"], 0) + 1
        wanted = dict.fromkeys(["reserve-inventory", "assign-resource", "release-inventory", "release-resource"], 1)
        self._check(done == wanted, "the outside book shows each thing done exactly once")

    async def _check_events(self, order_id: UUID) -> list[Json]:
        settings = self.settings
        events = await read_events(
            settings.kafka_bootstrap, settings.kafka_topic, order_id, until="recourse.OrderCancelled.v1", seconds=20
        )
        for event in events:
            if event["value"]["entity"] in {"ORDER", "REQUEST", "PLAN"}:
                self.say(f"  kafka {event['headers']['ce_orderversion']:>4}    {event['headers']['ce_type']}")
        versions = [int(event["headers"]["ce_orderversion"]) for event in events]
        self._check(versions == sorted(set(versions)) and bool(versions), "Kafka has the events in version order")
        types = {event["headers"]["ce_type"] for event in events}
        for name in (
            "OrderCancellationRequested",
            "OrderCancellationAssessed",
            "OrderCompensationStarted",
            "OrderCompensationCompleted",
            "OrderCancelled",
        ):
            self._check(f"recourse.{name}.v1" in types, f"Kafka has {name}")
        return events

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise NotAsPromisedError(f"not true: {what}")
        self.checks.append(what)

    # -- asking -----------------------------------------------------------------------------------------------

    async def _get(self, api: httpx.AsyncClient, path: str) -> Json:
        answer = await api.get(path)
        if answer.is_error:
            raise NotAsPromisedError(f"GET {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()

    async def _pages(self, api: httpx.AsyncClient, path: str) -> list[Json]:
        page = await self._get(api, f"{path}?limit=200")
        rows = list(page["items"])
        while page["next"]:
            page = await self._get(api, f"{path}?limit=200&cursor={page['next']}")
            rows += page["items"]
        return rows

    async def _post(
        self, api: httpx.AsyncClient, path: str, body: Json, headers: Mapping[str, str] | None = None
    ) -> Json:
        answer = await api.post(path, json=body, headers={"Idempotency-Key": uuid4().hex, **(headers or {})})
        if answer.status_code != httpx.codes.ACCEPTED:
            raise NotAsPromisedError(f"POST {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()

    async def _effects(self, api: httpx.AsyncClient, base: str) -> dict[str, Json]:
        rows: Iterable[Json] = (await self._get(api, f"{base}/effects"))["items"]
        return {row["operation"]: row for row in rows}

    async def _until(self, ask: Callable[[], Awaitable[Json]], enough: Callable[[Json], bool], what: str) -> Json:
        deadline = time.monotonic() + _PATIENCE
        while True:
            told = await ask()
            if enough(told):
                return told
            if time.monotonic() > deadline:
                raise NotAsPromisedError(f"waited {_PATIENCE:.0f} s for {what}; last seen: {str(told)[:400]}")
            await asyncio.sleep(0.1)

    def _simulator(self) -> System:
        systems = self.settings.systems
        if systems.get("*") is None:
            raise NotAsPromisedError("the demo scripts the simulator, but every system here is one of your own")
        return systems["*"]

    def _token(self, subject: str, *roles: str) -> str:
        settings = self.settings
        assert settings.issuer_key_file is not None
        return mint_token(
            settings.issuer_key_file,
            subject=subject,
            roles=roles,
            tenant=self.tenant,
            issuer=settings.issuer,
            audience=settings.audience,
            ttl=600,
        )
