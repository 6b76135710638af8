"""What holds for every command: order of checks, keys, preconditions, bodies; a row is a sentence of the contract."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import httpx
import pytest
import structlog

from domain.store.policies import PolicyBook
from domain.store.pool import tenant_transaction
from tests.postgres import Database, PostgresServer
from tests.workers.api_world import (
    BASE,
    ApiWorld,
    a_cancellation_body,
    an_order_body,
    make_doorkeeper,
    make_settings,
    open_world,
)
from workers.api.app import make_app
from workers.api.calls import COMMANDS, read_document
from workers.api.limits import RateLimiter
from workers.api.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPERATOR = ("olga", "operator")


# -- the order of checks: 401 · 403 · 404 · 400 · replay · 428 · 412 · 409 · 422 -----------------------------


async def test_each_check_comes_before_all_later_ones(world: ApiWorld) -> None:
    order_id = await world.create()
    path = f"/orders/{order_id}/hold"
    nowhere = f"/orders/{uuid.uuid4()}/hold"
    etag = await world.etag(f"/orders/{order_id}")
    bad: dict[str, Any] = {"unknown": True}

    async def ask(at: str = path, **more: Any) -> tuple[int, str]:
        answer = await world.send("POST", at, **more)
        return answer.status_code, answer.json().get("code", "")

    # Everything is wrong at first; each line puts right what the line before was told.
    assert await ask(nowhere, as_=None, key=None, raw=b"{", if_match=None) == (401, "UNAUTHENTICATED")
    assert await ask(nowhere, as_=("ann", "auditor"), key=None, raw=b"{") == (403, "ROLE_REQUIRED")
    assert await ask(nowhere, as_=OPERATOR, key=None, raw=b"{") == (404, "ORDER_NOT_FOUND")
    assert await ask(as_=OPERATOR, key=None, raw=b"{") == (400, "MALFORMED")
    assert await ask(as_=OPERATOR, key=None, body=bad) == (400, "IDEMPOTENCY_KEY_REQUIRED")
    assert await ask(as_=OPERATOR, body=bad) == (428, "PRECONDITION_REQUIRED")
    assert await ask(as_=OPERATOR, body=bad, if_match='"order-version-99"') == (412, "VERSION_STALE")
    assert (await ask(as_=OPERATOR, body={}, key="hold-it", if_match=etag))[0] == 202
    held = await world.etag(f"/orders/{order_id}")
    assert await ask(f"/orders/{order_id}/release", as_=OPERATOR, body=bad, if_match=held) == (422, "INVALID_BODY")
    await world.cancel(order_id)
    now = await world.etag(f"/orders/{order_id}")
    again = f"/orders/{order_id}/cancellation-requests"
    assert await ask(again, as_=("alice", "agent"), body=bad, if_match=now) == (409, "CHANGE_ACTIVE")
    # A replay comes before the precondition, whatever it says by now.
    assert await ask(as_=OPERATOR, body={}, key="hold-it", if_match=None) == (200, "")
    assert await ask(as_=OPERATOR, body=bad, key="hold-it", if_match=None) == (422, "IDEMPOTENCY_KEY_REUSED")


IF_MATCH = [
    ("missing", None, 428, "PRECONDITION_REQUIRED"),
    ("stale", '"order-version-0"', 412, "VERSION_STALE"),
    ("ahead", '"order-version-99"', 412, "VERSION_STALE"),
    ("weak", "W/{etag}", 412, "VERSION_STALE"),
    ("any", "*", 412, "VERSION_STALE"),
    ("unquoted", "order-version-1", 400, "MALFORMED"),
    ("half quoted", '"order-version-1', 400, "MALFORMED"),
    ("empty", "", 400, "MALFORMED"),
    ("of a request", '"request-version-1"', 412, "VERSION_STALE"),
    ("one of several", '"x", {etag}', 202, ""),
    ("as it was given", "{etag}", 202, ""),
]


@pytest.mark.parametrize(("given", "status", "code"), [row[1:] for row in IF_MATCH], ids=[row[0] for row in IF_MATCH])
async def test_if_match(world: ApiWorld, given: str | None, status: int, code: str) -> None:
    """EC40."""
    order_id = await world.create()
    etag = await world.etag(f"/orders/{order_id}")
    header = None if given is None else given.replace("{etag}", etag)
    answer = await world.post(f"/orders/{order_id}/cancellation-requests", a_cancellation_body(), if_match=header)
    assert (answer.status_code, answer.json().get("code", "")) == (status, code)


# -- keys -------------------------------------------------------------------------------------------------------


async def test_the_same_wish_is_carried_out_once_and_answered_alike(world: ApiWorld) -> None:
    body = an_order_body()
    first = await world.post("/orders", body, key="9d2a")
    again = await world.post("/orders", dict(reversed(body.items())), key="9d2a")
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert again.content == first.content
    assert (again.headers["etag"], again.headers["location"]) == (first.headers["etag"], first.headers["location"])
    assert await world.rows("customer_order") == 1
    other = await world.post("/orders", an_order_body(externalId="other"), key="9d2a")
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (await world.post("/orders", body, key="9d2a")).content == first.content


async def test_a_key_counts_per_tenant_person_and_address(world: ApiWorld) -> None:
    body = an_order_body()
    made = {
        (await world.post("/orders", body, key="k")).json()["orderId"],
        (await world.post("/orders", body, key="k", as_=("bob", "agent"))).json()["orderId"],
        (await world.post("/orders", body, key="k", tenant=uuid.uuid4())).json()["orderId"],
    }
    assert len(made) == 3
    first, second = [await world.create(), await world.create()]
    for order_id in (first, second):
        etag = await world.etag(f"/orders/{order_id}")
        answer = await world.post(f"/orders/{order_id}/hold", {}, as_=OPERATOR, key="h", if_match=etag)
        assert answer.status_code == 202


async def test_if_match_is_no_part_of_the_wish(world: ApiWorld) -> None:
    order_id = await world.create()
    path = f"/orders/{order_id}/cancellation-requests"
    etag = await world.etag(f"/orders/{order_id}")
    first = await world.post(path, a_cancellation_body(), key="c", if_match=etag)
    again = await world.post(path, a_cancellation_body(), key="c", if_match='"order-version-99"')
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.content == first.content


async def test_fifty_at_once_are_one(world: ApiWorld) -> None:
    body = an_order_body()
    answers = await asyncio.gather(*(world.post("/orders", body, key="same") for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [202]
    assert len({answer.content for answer in answers}) == 1
    assert await world.rows("customer_order") == 1


async def test_two_cancellations_at_once_are_one(world: ApiWorld) -> None:
    order_id = await world.create()
    etag = await world.etag(f"/orders/{order_id}")
    path = f"/orders/{order_id}/cancellation-requests"
    answers = await asyncio.gather(*(world.post(path, a_cancellation_body(), if_match=etag) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [412] * 7
    assert await world.rows("cancellation_request") == 1


@pytest.mark.parametrize("key", [None, "a b", "x" * 256, "\t", "k\x7f"])
async def test_a_key_that_is_none(world: ApiWorld, key: str | None) -> None:
    answer = await world.post("/orders", an_order_body(), key=key)
    assert (answer.status_code, answer.json()["code"]) == (400, "IDEMPOTENCY_KEY_REQUIRED")


async def test_what_is_locked_is_busy_and_never_waited_for_long(world: ApiWorld) -> None:
    order_id = await world.create()
    etag = await world.etag(f"/orders/{order_id}")
    path = f"/orders/{order_id}/hold"
    order = "select 1 from customer_order where order_id = $1 for update"
    receipt = "insert into receipt (tenant_id, command_id, fingerprint) values ($1, $2, '')"
    scope = (str(world.tenant), "olga", "POST", BASE + path, "claimed")
    claimed = uuid.uuid5(COMMANDS, "\n".join(scope))
    async with tenant_transaction(world.pool, world.tenant) as other:
        await other.fetch(order, uuid.UUID(order_id))
        await other.execute(receipt, world.tenant, claimed)
        locked, in_flight = await asyncio.gather(
            world.post(path, {}, as_=OPERATOR, if_match=etag),
            world.post(path, {}, as_=OPERATOR, if_match=etag, key="claimed"),
        )
        await other.execute("delete from receipt where command_id = $1", claimed)
    assert (locked.status_code, locked.json()["code"]) == (503, "UNAVAILABLE")
    assert (in_flight.status_code, in_flight.json()["code"]) == (409, "IDEMPOTENCY_IN_FLIGHT")
    assert locked.headers["retry-after"] == in_flight.headers["retry-after"] == "1"
    assert (await world.post(path, {}, as_=OPERATOR, if_match=etag, key="claimed")).status_code == 202


async def test_without_a_database_the_answer_is_later(api_database: Database) -> None:
    async with open_world(api_database.app_url) as alone:
        await alone.pool.close()
        for answer in (await alone.get("/orders"), await alone.post("/orders", an_order_body())):
            assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
            assert answer.headers["retry-after"] == "1"
        ready = await alone.get("/readyz", as_=None)
        assert (ready.status_code, list(ready.json()["troubles"])) == (503, ["database"])
        assert (await alone.get("/healthz", as_=None)).status_code == 200


async def test_connections_that_died_unnoticed_cost_nobody_an_answer(
    world: ApiWorld, api_database: Database, postgres_server: PostgresServer
) -> None:
    """A restart of the server leaves a pool of dead connections; a process that was too busy to see them end meets them
    with its next statement. Without the further tries of `_begin` both answers here are 503."""
    order_id = await world.create()
    end_all = f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{api_database.name}'"
    postgres_server.execute(end_all)  # blocking on purpose: the loop that would see the connections end stands still
    assert (await world.get(f"/orders/{order_id}")).status_code == 200
    postgres_server.execute(end_all)
    assert (await world.post("/orders", an_order_body())).status_code == 202


async def test_a_defect_of_ours_says_nothing_of_the_customer(world: ApiWorld) -> None:
    class Broken:
        async def handle(self, *_: object) -> object:
            raise LookupError("Ada Lovelace")

    settings = make_settings("")
    door: Any = Broken()
    service = Service(settings, world.pool, door, PolicyBook(), make_doorkeeper(), RateLimiter(2000))
    transport = httpx.ASGITransport(make_app(service))
    headers = {"Authorization": f"Bearer {world.token()}", "Idempotency-Key": "k"}
    with structlog.testing.capture_logs() as lines:
        async with httpx.AsyncClient(transport=transport, base_url="http://recourse.test") as client:
            answer = await client.post(f"{BASE}/orders", json=an_order_body(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert "Ada" not in answer.text + str(lines)
    assert [line["error"] for line in lines if line["event"] == "request failed"] == ["LookupError"]


# -- bodies ---------------------------------------------------------------------------------------------------------

HOSTILE: list[tuple[str, bytes, int, str]] = [
    ("no JSON", b"{", 400, "MALFORMED"),
    ("two values", b"{} {}", 400, "MALFORMED"),
    ("no UTF-8", b'{"a": "\xff"}', 400, "MALFORMED"),
    ("UTF-16", '{"customer": {}}'.encode("utf-16"), 400, "MALFORMED"),
    ("NaN", b'{"customer": NaN}', 400, "MALFORMED"),
    ("Infinity", b'{"customer": -Infinity}', 400, "MALFORMED"),
    ("a number without end", b'{"customer": 1e999}', 422, "INVALID_BODY"),
    ("a thousand brackets", b"[" * 2000 + b"]" * 2000, 400, "MALFORMED"),
    ("a hundred thousand brackets", b"[" * 100_000, 400, "MALFORMED"),
    ("a list", b"[]", 422, "INVALID_BODY"),
    ("null", b"null", 422, "INVALID_BODY"),
    ("a text", b'"x"', 422, "INVALID_BODY"),
    ("nothing", b"", 422, "INVALID_BODY"),
    ("forty brackets", b'{"items": ' + b"[" * 40 + b"]" * 40 + b"}", 422, "INVALID_BODY"),
    ("NUL", b'{"customer": {"id": "a\\u0000b"}, "items": []}', 422, "INVALID_BODY"),
    ("NUL in a name", b'{"\\u0000": 1}', 422, "INVALID_BODY"),
    ("half a pair", b'{"customer": {"id": "\\ud800"}, "items": []}', 422, "INVALID_BODY"),
    ("half a pair in a name", b'{"\\udfff": 1}', 422, "INVALID_BODY"),
    ("a huge number", b'{"customer": {"id": 1' + b"0" * 400 + b"}}", 422, "INVALID_BODY"),
    ("a large number", b'{"items": [{"quantity": 9007199254740993}]}', 422, "INVALID_BODY"),
    ("a large power", b'{"items": [{"configuration": {"a": 1e300}}]}', 422, "INVALID_BODY"),
    ("a member twice", b'{"orderType": "STANDARD", "orderType": "RETURN"}', 400, "MALFORMED"),
    ("a member twice, deep inside", b'{"items": [{"itemId": "1"}, {"price": {"a": 1, "a": 1}}]}', 400, "MALFORMED"),
    ("a member twice, far from its colon", b'{"a": 1, "b": {}, "a" \n:2}', 400, "MALFORMED"),
    ("a member twice, once as an escape", b'{"a": 1, "\\u0061": 2}', 400, "MALFORMED"),
    ("a member twice, behind escapes", b'{"a\\\\": 1, "b\\"": 3, "a\\\\": 2}', 400, "MALFORMED"),
    ("a member twice, behind what looks like one", b'{"a": ":", "a": " :", "b": ":"}', 400, "MALFORMED"),
    ("prototype", b'{"__proto__": {"admin": true}}', 422, "INVALID_BODY"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "status", "code"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
async def test_a_hostile_body_is_refused_in_words(world: ApiWorld, raw: bytes, status: int, code: str) -> None:
    answer = await world.send("POST", "/orders", raw=raw)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert "traceId" in answer.json()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}',
        b'{"a": ":", "b": " :", ":": "a", "": "\\":"}',
        b'{"a\\\\": ":", "a": "\\":", "\\"": 1}',
        '{"ä": "😀:", "\\u00e4b": 1}'.encode(),
    ],
    ids=range(4),
)
async def test_no_member_is_taken_for_another(raw: bytes) -> None:
    assert read_document(raw).value == json.loads(raw)


async def test_free_form_is_bounded_and_kept(world: ApiWorld) -> None:
    order = an_order_body()
    wide = {str(number): number for number in range(600)}
    order["items"][0]["configuration"] = wide
    assert (await world.post("/orders", order)).status_code == 422
    kept = {
        "text": "'; drop table customer_order; --",
        "deep": [[{"a": [1.5, None, True]}]],
        "emoji": "🛠",
        "n": 2**53 - 1,
    }
    order["items"][0]["configuration"] = kept
    made = (await world.post("/orders", order)).json()["orderId"]
    assert (await world.get(f"/orders/{made}")).json()["items"][0]["configuration"] == kept


async def test_a_body_has_a_limit(world: ApiWorld) -> None:
    for size in (2**20, 10 * 2**20):
        large = json.dumps({"deliveryNote": "x" * size}).encode()
        answer = await world.send("POST", "/orders", raw=large)
        assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")

    async def in_parts() -> Any:
        for _ in range(3):
            yield b"x" * 400_000

    headers = {"Authorization": f"Bearer {world.token()}", "Idempotency-Key": "k"}
    streamed = await world.client.post(f"{BASE}/orders", content=in_parts(), headers=headers)
    assert (streamed.status_code, streamed.json()["code"]) == (413, "BODY_TOO_LARGE")


# -- addresses and problems -------------------------------------------------------------------------------------------


async def test_what_is_not_there_and_what_is_not_taken(world: ApiWorld) -> None:
    nowhere = await world.get("/nothing")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "ROUTE_NOT_FOUND")
    wrong = await world.send("DELETE", "/orders")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert wrong.headers["allow"] == "GET, HEAD, POST"
    for strange in ("x", "1", "00000000-0000-0000-0000-00000000000g", "%00", "..%2f..", "{orderId}", "a" * 3000):
        answer = await world.get(f"/orders/{strange}")
        assert answer.status_code == 404, strange
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_problem_says_what_where_and_under_which_trace(world: ApiWorld) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = await world.get(f"/orders/{uuid.uuid4()}", headers=headers)
    told = answer.json()
    assert told == {
        "type": "http://recourse.test/docs/problems/ORDER_NOT_FOUND",
        "title": "Order not found",
        "status": 404,
        "code": "ORDER_NOT_FOUND",
        "detail": "There is no such order.",
        "traceId": trace,
    }
    page = await world.client.get(told["type"])
    assert page.status_code == 200
    assert "ORDER_NOT_FOUND" in page.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


async def test_on_behalf_of_is_a_claim(world: ApiWorld) -> None:
    """EC44 and EC65: whoever is named is only named, and so is the time."""
    order_id = await world.create()
    claim = {"actorType": "USER", "actorId": "u-123"}
    request_id = await world.cancel(order_id, requestedBy=claim, requestedAt="1970-01-01T00:00:00-11:00")
    seen = (await world.get(f"/orders/{order_id}/cancellation-requests/{request_id}")).json()
    assert (seen["requestedBy"], seen["onBehalfOf"]) == ("alice", "u-123")
    assert seen["claimedAt"] == "1970-01-01T11:00:00Z"
    assert seen["requestedAt"] > "2020"
    own = await world.create()
    own_id = await world.cancel(own, requestedBy={"actorType": "USER", "actorId": "alice"})
    assert "onBehalfOf" not in (await world.get(f"/orders/{own}/cancellation-requests/{own_id}")).json()


CLAIMED = [
    ("2026-07-02T10:15:00Z", 202),
    ("2026-07-02T10:15:00.123456789+05:30", 202),
    ("2016-12-31T23:59:60Z", 202),
    ("2026-07-02t10:15:00z", 202),
    ("9999-01-01T00:00:00Z", 202),
    ("2026-07-02T10:15:00", 422),
    ("2026-07-02", 422),
    ("2026-13-02T10:15:00Z", 422),
    ("0000-01-01T00:00:00Z", 422),
    ("0001-01-01T00:00:00+14:00", 422),
    ("20260702T101500Z", 422),
    ("2026-07-02T10:15:00+25:00", 422),
    (1783000000, 422),
]


async def test_the_claimed_time_is_any_time_with_an_offset(world: ApiWorld) -> None:
    found = []
    for text, _ in CLAIMED:
        order_id = await world.create()
        etag = await world.etag(f"/orders/{order_id}")
        body = a_cancellation_body(requestedAt=text)
        answer = await world.post(f"/orders/{order_id}/cancellation-requests", body, if_match=etag)
        found.append((text, answer.status_code))
    assert found == CLAIMED
