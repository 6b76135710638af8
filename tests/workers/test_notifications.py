"""Listeners of TM Forum's front door: a real server is told what happened, at least once, in order, and nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from domain.store.listeners import MOST, ListenerId, claim_deliveries
from domain.store.pool import Pool, open_pool, tenant_transaction
from domain.values import OrderId
from tests.postgres import Database
from tests.workers.api_world import ApiWorld, make_settings
from tests.workers.test_api_tmf622 import ORDERS, TASKS, create
from workers import tmf
from workers.api.routes.effects import sign_callback
from workers.notifications import ATTEMPTS, LONGEST_PAUSE, Notifier, is_allowed, next_pause
from workers.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="session")

HUB = f"{tmf.BASE}/hub"


@dataclass
class Ear:
    """A listener's server: what it was told, and what it answers the n-th time."""

    answer: Callable[[int], bytes] = lambda _: b"HTTP/1.1 204 No Content\r\n\r\n"
    url: str = ""
    told: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = [line.partition(": ") for line in head.decode().splitlines()[1:] if line]
                names = {name.lower(): value for name, _, value in lines}
                body = await reader.readexactly(int(names["content-length"]))
                async with self._more:
                    self.told.append(json.loads(body))
                    self.heads.append(names)
                    self.raw.append(body)
                    self._more.notify_all()
                writer.write(self.answer(len(self.told)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def hears(self, count: int) -> None:
        async with asyncio.timeout(60), self._more:
            await self._more.wait_for(lambda: len(self.told) >= count)

    def types(self) -> list[str]:
        return [one["eventType"] for one in self.told]


@asynccontextmanager
async def an_ear(answer: Callable[[int], bytes] | None = None) -> AsyncIterator[Ear]:
    ear = Ear(answer) if answer else Ear()
    server = await asyncio.start_server(ear.serve, "127.0.0.1", 0)
    ear.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/told"
    try:
        yield ear
    finally:
        server.close()


@pytest_asyncio.fixture(loop_scope="session")
async def auditor(api_database: Database) -> AsyncIterator[Pool]:
    pool = await open_pool(api_database.auditor_url, size=1)
    yield pool
    await pool.close()


@asynccontextmanager
async def telling(world: ApiWorld, auditor: Pool, **told: Any) -> AsyncIterator[None]:
    """The notifier at work."""
    settings = make_settings("postgresql://nobody@127.0.0.1/none").model_copy(update=told)
    work = asyncio.create_task(Notifier(world.pool, auditor, settings).work())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()


async def register(world: ApiWorld, callback: str, query: str | None = None) -> str:
    answer = await world.send("POST", HUB, body={"callback": callback, "query": query}, key=None)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"].endswith(f"{HUB}/{answer.json()['id']}")
    return str(answer.json()["id"])


async def waiting(world: ApiWorld, listener: str) -> dict[str, Any]:
    return dict((await world.get(f"{HUB}/{listener}")).json())


async def until_told(world: ApiWorld, listener: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (shown := await waiting(world, listener))["waiting"]:
            await asyncio.sleep(0.05)
    return shown


async def test_an_orders_life_is_told_in_their_words_and_in_order(world: ApiWorld, auditor: Pool) -> None:
    async with an_ear() as ear, an_ear() as stranger, telling(world, auditor):
        listener = await register(world, ear.url)
        answer = await world.send("POST", HUB, body={"callback": stranger.url}, tenant=uuid.uuid4())
        assert answer.status_code == 201
        order = await create(world)
        await world.fulfil(order["id"], only={"reserve-inventory"})
        body = {"cancellationReason": "Customer changed mind", "productOrder": {"id": order["id"]}}
        task = (await world.send("POST", TASKS, body=body, key=None)).json()
        planned = await world.judge(order["id"], task["id"])
        await world.walk(OrderId(uuid.UUID(order["id"])), planned["plan_id"], planned["plan_run"])
        shown = await until_told(world, listener)
    assert (shown["givenUp"], "trouble" in shown, stranger.told) == (0, False, [])
    orders = [one for one in ear.told if "productOrder" in one["event"]]
    tasks = [one for one in ear.told if "cancelProductOrder" in one["event"]]
    assert [(one["eventType"], one["event"]["productOrder"]["state"]) for one in orders] == [
        ("ProductOrderCreateEvent", "acknowledged"),
        ("ProductOrderStateChangeEvent", "inProgress"),
        ("ProductOrderStateChangeEvent", "assessingCancellation"),
        ("ProductOrderStateChangeEvent", "pendingCancellation"),
        ("ProductOrderStateChangeEvent", "cancelled"),
    ]
    assert [(one["eventType"], one["event"]["cancelProductOrder"]["state"]) for one in tasks] == [
        ("CancelProductOrderCreateEvent", "acknowledged"),
        ("CancelProductOrderStateChangeEvent", "inProgress"),
        ("CancelProductOrderStateChangeEvent", "done"),
    ]
    # Each is one of our events, under its own id.
    async with tenant_transaction(world.pool, world.tenant, read_only=True) as connection:
        ours = [str(row["event_id"]) for row in await connection.fetch("select event_id from outbox order by sequence")]
    ids = [one["eventId"] for one in ear.told]
    assert len(set(ids)) == len(ids)
    assert [one for one in ours if one in ids] == ids
    assert ear.told[0]["event"]["productOrder"]["href"] == f"http://recourse.test{ORDERS}/{order['id']}"


async def test_who_fails_is_told_again_and_nothing_later_comes_before(world: ApiWorld, auditor: Pool) -> None:
    """A redirect is a failure, too: it could lead to an address that nobody allowed."""
    elsewhere: list[Ear] = []

    def answer(time: int) -> bytes:
        moved = f"307 Moved\r\nLocation: {elsewhere[0].url}".encode()
        status = b"500 Ill" if time == 1 else moved if time == 2 else b"200 OK"
        return b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"

    async with an_ear(answer) as ear, an_ear() as other, telling(world, auditor):
        elsewhere.append(other)
        listener = await register(world, ear.url)
        order = await create(world)
        await world.fulfil(order["id"], only=set())
        shown = await until_told(world, listener)
    assert ear.types() == ["ProductOrderCreateEvent"] * 3 + ["ProductOrderStateChangeEvent"]
    assert len({one["eventId"] for one in ear.told[:3]}) == 1
    assert other.told == []
    assert "toldAt" in shown
    assert "trouble" not in shown


async def test_what_was_claimed_by_one_that_died_is_told_by_another(world: ApiWorld, auditor: Pool) -> None:
    async with an_ear() as ear:
        listener = ListenerId(uuid.UUID(await register(world, ear.url, "eventType=ProductOrderCreateEvent")))
        await create(world)
        (lost,) = await claim_deliveries(world.pool, world.tenant, listener, size=5, lease=timedelta(milliseconds=300))
        assert await claim_deliveries(world.pool, world.tenant, listener, size=5, lease=timedelta(seconds=5)) == []
        async with telling(world, auditor):
            await until_told(world, str(listener))
    assert [one["eventId"] for one in ear.told] == [str(lost.event_id)]


async def test_two_that_tell_at_once_tell_each_event_once(world: ApiWorld, auditor: Pool) -> None:
    async with an_ear() as ear:
        listener = await register(world, ear.url, "eventType=ProductOrderCreateEvent")
        for _ in range(12):
            await create(world, externalId=None)
        async with telling(world, auditor), telling(world, auditor):
            await until_told(world, listener)
    assert len(ear.told) == len({one["eventId"] for one in ear.told}) == 12


async def test_who_never_takes_it_is_given_up_at_last_and_it_shows(world: ApiWorld, auditor: Pool) -> None:
    async with an_ear(lambda _: b"HTTP/1.1 503 Ill\r\nContent-Length: 0\r\n\r\n") as ear:
        listener = await register(world, ear.url, "eventType=ProductOrderCreateEvent")
        await create(world)
        async with tenant_transaction(world.pool, world.tenant) as connection:
            await connection.execute("update delivery set attempts = $1", ATTEMPTS - 1)
        async with telling(world, auditor):
            shown = await until_told(world, listener)
    assert (len(ear.told), shown["givenUp"], shown["trouble"]) == (1, 1, "HTTP 503")


async def test_only_what_was_asked_for_is_told_and_a_listener_can_leave(world: ApiWorld, auditor: Pool) -> None:
    async with an_ear() as ear, an_ear() as other, telling(world, auditor):
        listener = await register(world, ear.url, "eventType=ProductOrderCreateEvent")
        gone = await register(world, other.url)
        listed = await world.get(HUB)
        assert ([one["id"] for one in listed.json()], listed.headers["x-total-count"]) == ([gone, listener], "2")
        assert (await world.send("DELETE", f"{HUB}/{gone}", tenant=uuid.uuid4())).status_code == 404
        answer = await world.send("DELETE", f"{HUB}/{gone}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await world.send("DELETE", f"{HUB}/{gone}")).json()["code"] == "LISTENER_NOT_FOUND"
        await world.fulfil((await create(world))["id"], only=set())
        await until_told(world, listener)
    assert (ear.types(), other.told) == (["ProductOrderCreateEvent"], [])


async def test_notifications_are_signed_where_there_is_a_secret(world: ApiWorld, auditor: Pool) -> None:
    async with an_ear() as ear, telling(world, auditor, listener_secret="s3cret"):
        listener = await register(world, ear.url, "eventType=ProductOrderCreateEvent")
        await create(world)
        await until_told(world, listener)
    head, raw = ear.heads[0], ear.raw[0]
    moment = head["x-recourse-timestamp"]
    assert head["x-recourse-signature"] == sign_callback("s3cret", moment, raw)
    digest = hmac.new(b"s3cret", f"{moment}.".encode() + raw, hashlib.sha256).hexdigest()
    assert head["x-recourse-signature"] == f"sha256={digest}"


async def test_an_amendment_is_a_changed_attribute(world: ApiWorld, auditor: Pool) -> None:
    async with an_ear() as ear, telling(world, auditor):
        listener = await register(world, ear.url, "eventType=ProductOrderAttributeValueChangeEvent")
        order = await create(world, contact={"name": "Ada", "phone": "+49 30 1234567"})
        patch = {"contact": {"name": "Ada", "phone": "+49 30 7654321"}, "amendmentReason": "customer request"}
        answer = await world.send("PATCH", f"{ORDERS}/{order['id']}", body=patch)
        assert answer.status_code == 200, answer.text
        await until_told(world, listener)
    (told,) = ear.told
    assert told["event"]["productOrder"]["contact"] == patch["contact"]


async def test_an_address_that_is_allowed_no_more_is_not_called(world: ApiWorld, auditor: Pool) -> None:
    async with an_ear() as ear, telling(world, auditor, listeners="https://crm.example.com"):
        listener = await register(world, ear.url)
        await create(world)
        async with asyncio.timeout(60):
            while "trouble" not in (shown := await waiting(world, listener)):
                await asyncio.sleep(0.05)
    assert (ear.told, shown["waiting"]) == ([], 1)
    assert shown["trouble"] == "the address is not one that may be called any more"


@pytest.mark.parametrize(
    ("callback", "allowed"),
    [
        ("https://crm.example.com/told", True),
        ("https://crm.example.com:443/told?a=b", True),
        ("https://CRM.example.com/told", True),
        ("http://127.0.0.1:8123/x", True),
        ("http://crm.example.com/told", False),
        ("https://crm.example.com:8443/told", False),
        ("https://crm.example.com.evil.example.com/", False),
        ("https://crm.example.com@evil.example.com/", False),
        ("https://user:pw@crm.example.com/", False),
        ("https://crm.example.com\\@evil.example.com/", False),
        ("http://127.0.0.2/x", False),
        ("http://2130706433/x", False),
        ("http://[::1]/x", False),
        ("file:///x", False),
        ("crm.example.com", False),
        ("https://", False),
    ],
)
async def test_only_named_origins_may_be_called(callback: str, allowed: bool) -> None:
    assert is_allowed(callback, "https://crm.example.com,http://127.0.0.1:*") == allowed
    assert not is_allowed(callback, "")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "/callback"),
        ({"callback": "https://elsewhere.example.com/"}, "/callback"),
        ({"callback": "http://127.0.0.1/", "query": "state=held"}, "/query"),
        ({"callback": "http://127.0.0.1/", "query": "eventType=OrderAccepted"}, "/query"),
    ],
)
async def test_what_is_no_listener_is_refused_in_both_words(world: ApiWorld, body: Any, path: str) -> None:
    answer = await world.send("POST", HUB, body=body)
    told = answer.json()
    assert (answer.status_code, told["errors"][0]["path"]) == (422, path)
    assert (told["@type"], told["reason"], told["message"]) == ("Error", told["title"], told["detail"])


async def test_a_key_makes_it_one_listener_and_a_tenant_has_only_so_many(world: ApiWorld) -> None:
    body = {"callback": "http://127.0.0.1:9/"}
    first, again = [await world.send("POST", HUB, body=body, key="k-hub") for _ in range(2)]
    assert first.json() == again.json()
    other = await world.send("POST", HUB, body={"callback": "http://127.0.0.1:8/"}, key="k-hub")
    assert other.json()["code"] == "IDEMPOTENCY_KEY_REUSED"
    for _ in range(MOST - 1):
        assert (await world.send("POST", HUB, body=body, key=None)).status_code == 201
    assert (await world.send("POST", HUB, body=body, key=None)).status_code == 422


async def test_of_many_listeners_at_once_no_more_are_taken(world: ApiWorld) -> None:
    """Safeguard taken out: counting alone (`count_alone`); seen with 22 of 20."""
    bodies = [{"callback": f"http://127.0.0.1:9/{n}"} for n in range(2 * MOST)]
    answers = await asyncio.gather(*(world.send("POST", HUB, body=body, key=None) for body in bodies))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(422)) == (MOST, MOST)


async def test_pauses_grow_to_an_hour_and_all_tries_take_about_two_days() -> None:
    assert all(next_pause(1) < timedelta(seconds=2) for _ in range(20))
    assert all(next_pause(n) <= LONGEST_PAUSE * 1.25 for n in range(1, 400))
    whole = sum((next_pause(n) for n in range(1, ATTEMPTS)), timedelta())
    assert timedelta(days=1.5) < whole < timedelta(days=3)


@pytest.mark.parametrize(
    "wrong", ["crm.example.com", "https://a/path", "ftp://a", "https://a:port", "https://a, https://b"]
)
async def test_origins_of_listeners_are_checked_at_the_start(wrong: str) -> None:
    with pytest.raises(ValueError, match="host"):
        Settings.model_validate({"listeners": wrong})
