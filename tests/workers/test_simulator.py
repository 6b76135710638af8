"""The outside world's stand-in: it keeps its book before it speaks, does an effect once, and fails as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from workers.settings import Settings, System
from workers.simulator.app import Simulator, make_app
from workers.simulator.book import Book

SECRET = "billing-secret"


class Running:
    """A simulator on a port of its own, the callbacks that it made, and its book on disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "book.jsonl"
        self.callbacks: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.called = asyncio.Event()
        self.http = httpx.AsyncClient(trust_env=False)

    async def receive(self, request: Request) -> Response:
        body = await request.body()
        self.callbacks.append((request.url.path, dict(request.headers), body))
        self.called.set()
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    async def put(self, effect_id: str, **more: Any) -> httpx.Response:
        body = {"taskType": "start-billing", "system": "billing", "orderId": "o-1", "tenantId": "t", "attempt": 1}
        return await self.http.put(f"{self.base}/effects/{effect_id}", json=body | more, timeout=5)

    async def script(self, **fault: Any) -> None:
        (await self.http.post(f"{self.base}/faults", json=fault)).raise_for_status()

    def book(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [line for line in lines if event in {None, line["event"]}]

    base: str


async def serve(app: Starlette) -> tuple[uvicorn.Server, asyncio.Task[None], str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    return server, task, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path)
    api, api_task, api_url = await serve(Starlette(routes=[Route("/{path:path}", running.receive, methods=["POST"])]))
    settings = Settings(public_url=api_url, systems={"billing": System(url="http://x", secret=SECRET)})
    server, task, running.base = await serve(make_app(Simulator(settings, Book(running.path))))
    try:
        yield running
    finally:
        await running.http.aclose()
        server.should_exit = api.should_exit = True
        await asyncio.gather(task, api_task)


def an_effect() -> str:
    return str(uuid.uuid4())


async def test_an_effect_is_confirmed_with_a_reference_and_happens_once(running: Running) -> None:
    effect_id = an_effect()
    first, again = await running.put(effect_id), await running.put(effect_id, attempt=2)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert first.json()["state"] == "CONFIRMED"
    assert first.json()["externalReference"].startswith("BIL-")
    assert len(running.book("DONE")) == 1
    assert [line["attempt"] for line in running.book("CALLED")] == [1, 2]


async def test_it_can_be_asked_afterwards_and_does_not_know_what_it_never_heard_of(running: Running) -> None:
    effect_id = an_effect()
    put = await running.put(effect_id)
    assert (await running.http.get(f"{running.base}/effects/{effect_id}")).json() == put.json()
    assert (await running.http.get(f"{running.base}/billing/effects/{effect_id}")).json() == put.json()
    assert (await running.http.get(f"{running.base}/effects/{an_effect()}")).status_code == 404


async def test_money_is_taken_and_given_back_in_the_amounts_that_were_asked_for(running: Running) -> None:
    price = {"amountMinor": 3999, "currency": "EUR"}
    items = [{"itemId": "1", "price": price, "quantity": 2}]
    taken = (await running.put(an_effect(), input={"order": {"items": items}})).json()["output"]
    assert taken == {
        "captured": {"amountMinor": 7998, "currency": "EUR"},
        "prices": [{"itemId": "1", "price": price}],
    }
    given = (await running.put(an_effect(), input={"original": {}, "refund": price})).json()["output"]
    assert given == {"refunded": price}


async def test_it_tells_what_the_script_lets_it_tell(running: Running) -> None:
    prices = {"prices": [{"itemId": "1", "price": {"amountMinor": 4999, "currency": "EUR"}}]}
    await running.script(fault="answer", taskType="revalidate-quote", output=prices)
    assert (await running.put(an_effect(), taskType="revalidate-quote")).json()["output"] == prices
    assert "prices" not in ((await running.put(an_effect())).json().get("output") or {})


async def test_refused_is_refused_however_often_it_is_asked(running: Running) -> None:
    effect_id = an_effect()
    await running.script(fault="refuse", times=1)
    for _ in range(2):
        answer = await running.put(effect_id)
        assert (answer.status_code, answer.json()["state"]) == (409, "NO_EFFECT")
    assert running.book("DONE") == []
    assert (await running.put(an_effect())).status_code == 200


@pytest.mark.parametrize(("fault", "happened"), [("lose-answer", 1), ("error-after", 1), ("error-before", 0)])
async def test_an_answer_that_is_lost_does_not_undo_what_was_done(running: Running, fault: str, happened: int) -> None:
    effect_id = an_effect()
    await running.script(fault=fault, times=1)
    if fault == "lose-answer":
        with pytest.raises(httpx.RemoteProtocolError):
            await running.put(effect_id)
    else:
        assert (await running.put(effect_id)).status_code == 500
    assert len(running.book("DONE")) == happened
    asked = await running.http.get(f"{running.base}/effects/{effect_id}")
    assert asked.status_code == (200 if happened else 404)


async def test_a_delay_is_only_a_delay_and_hanging_does_nothing(running: Running) -> None:
    await running.script(fault="delay", delayMs=150, times=1)
    started = asyncio.get_running_loop().time()
    assert (await running.put(an_effect())).status_code == 200
    assert asyncio.get_running_loop().time() - started >= 0.15
    await running.script(fault="hang", times=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await running.put(an_effect())
    assert len(running.book("DONE")) == 1


async def test_a_promise_is_kept_and_reported_with_a_signature(running: Running) -> None:
    effect_id = an_effect()
    await running.script(fault="accept", callbackAfterMs=20, times=1)
    answer = await running.put(effect_id)
    assert (answer.status_code, answer.json()["state"]) == (202, "ACCEPTED")
    await asyncio.wait_for(running.called.wait(), 5)
    ((path, headers, body),) = running.callbacks
    assert path == f"/api/v1/effects/{effect_id}/outcome"
    assert json.loads(body)["state"] == "CONFIRMED"
    signed = f"{headers['x-recourse-timestamp']}.".encode() + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["x-recourse-signature"] == f"sha256={digest}"
    assert [line["event"] for line in running.book()] == ["CALLED", "PROMISED", "DONE"]


async def test_a_promise_that_is_never_spoken_of_again_is_reported_when_the_test_says_so(running: Running) -> None:
    effect_id = an_effect()
    await running.script(fault="accept-silent", times=1)
    await running.put(effect_id)
    assert (await running.http.get(f"{running.base}/effects/{effect_id}")).json()["state"] == "ACCEPTED"
    sent = await running.http.post(f"{running.base}/effects/{effect_id}/callback", json={"state": "NO_EFFECT"})
    assert sent.json() == {"status": 200}
    assert json.loads(running.callbacks[0][2])["state"] == "NO_EFFECT"
    assert running.book("DONE") == []


async def test_a_callback_that_is_not_taken_comes_again(running: Running) -> None:
    running.answers += [404, 503]
    await running.script(fault="accept", callbackAfterMs=1, times=1)
    await running.put(an_effect())
    async with asyncio.timeout(5):
        while len(running.callbacks) < 3:
            await asyncio.sleep(0.01)


async def test_answering_twice_reports_what_was_answered(running: Running) -> None:
    await running.script(fault="answer-twice", times=1)
    assert (await running.put(an_effect())).status_code == 200
    async with asyncio.timeout(5):
        while len(running.callbacks) < 2:
            await asyncio.sleep(0.01)
    assert {json.loads(body)["state"] for _, _, body in running.callbacks} == {"CONFIRMED"}


async def test_calling_off_stops_a_promise_and_comes_too_late_for_a_deed(running: Running) -> None:
    promised, done = an_effect(), an_effect()
    await running.script(fault="accept-silent", times=1)
    await running.put(promised)
    await running.put(done)
    stop = {"taskType": "stop-shipment", "reverses": {"effectId": promised, "externalReference": None}}
    assert (await running.put(an_effect(), **stop)).json()["state"] == "CONFIRMED"
    assert (await running.http.get(f"{running.base}/effects/{promised}")).json()["state"] == "NO_EFFECT"
    stop["reverses"] = {"effectId": done, "externalReference": None}
    late = await running.put(an_effect(), **stop)
    assert (late.status_code, late.json()["state"]) == (409, "NO_EFFECT")


async def test_faults_hit_whom_they_name_as_often_as_they_say(running: Running) -> None:
    await running.script(fault="refuse", orderId="o-2", taskType="start-billing", system="billing", times=2)
    assert (await running.put(an_effect())).status_code == 200
    assert [(await running.put(an_effect(), orderId="o-2")).status_code for _ in range(3)] == [409, 409, 200]
    await running.script(fault="refuse")
    assert [(await running.put(an_effect())).status_code for _ in range(3)] == [409] * 3
    await running.http.delete(f"{running.base}/faults")
    assert (await running.put(an_effect())).status_code == 200
    assert (await running.http.post(f"{running.base}/faults", json={"fault": "explode"})).status_code == 422


async def test_the_book_can_be_read_by_order_and_survives_a_restart(running: Running) -> None:
    effect_id = an_effect()
    await running.put(effect_id)
    await running.put(an_effect(), orderId="o-2")
    lines = (await running.http.get(f"{running.base}/book", params={"orderId": "o-1"})).json()["lines"]
    assert [line["event"] for line in lines] == ["CALLED", "DONE"]
    assert len((await running.http.get(f"{running.base}/book")).json()["lines"]) == 4
    reopened = Book(running.path)
    entry = reopened.find(effect_id)
    reopened.close()
    assert entry is not None
    assert entry.state == "CONFIRMED"
