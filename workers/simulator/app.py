"""Plays every outside system by the contract: idempotent by effect id, with signed callbacks and scripted faults. It
must never answer before its book says what it did."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

import httpx
import orjson
import structlog
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from workers.settings import Settings, System
from workers.simulator.book import Book, Entry, State
from workers.simulator.faults import Fault, Script

log = structlog.get_logger(__name__)

_CALLBACK_TRIES: Final = 8
_CALLBACK_PAUSE: Final = 0.2
_CALLBACK_SECONDS: Final = 10.0


class _Broken(Response):
    """An answer that breaks off: the caller learns nothing."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


class Simulator:
    """The systems' behaviour, without HTTP."""

    def __init__(self, settings: Settings, book: Book) -> None:
        self.book = book
        self.script = Script()
        self._systems = settings.systems
        self._api = settings.base_url
        self._http = httpx.AsyncClient(timeout=_CALLBACK_SECONDS, trust_env=False)
        self._callbacks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._callbacks:
            task.cancel()
        await asyncio.gather(*self._callbacks, return_exceptions=True)
        await self._http.aclose()
        self.book.close()

    async def put(self, effect_id: str, body: dict[str, Any], caller_gone: Callable[[], Awaitable[None]]) -> Response:
        """One call for one effect: the script's fault, if there is one, else what the system does with it."""
        about = tuple(str(body.get(key)) for key in ("tenantId", "orderId", "taskType", "system"))
        self.book.note_call(body, effect_id)
        fault = self.script.next(*about)
        words = fault and fault.words
        match fault.fault if fault else None:
            case "error-before":
                return _answer(500, {"error": words or "nothing was done"})
            case "hang":
                await caller_gone()
                return _Broken()
            case "delay":
                await asyncio.sleep(fault.delay_ms / 1000 if fault else 0)
        entry = self.book.find(effect_id) or self._do(effect_id, body, fault)
        match fault.fault if fault else None:
            case "lose-answer":
                return _Broken()
            case "error-after":
                return _answer(500, {"error": words or "it may have been done"})
            case "answer-twice":
                self.call_back(entry, after=0.0, times=2)
            case "accept" if fault and entry.state == "ACCEPTED":
                self.call_back(entry, after=fault.callback_after_ms / 1000)
        status = {"CONFIRMED": 200, "ACCEPTED": 202, "NO_EFFECT": 409}[entry.state]
        return _answer(status, entry.answer())

    def get(self, effect_id: str) -> Response:
        entry = self.book.find(effect_id)
        if entry is None:
            return _answer(404, {"error": "unknown here"})
        return _answer(200, entry.answer())

    def call_back(self, entry: Entry, *, after: float, times: int = 1, state: State = "CONFIRMED") -> None:
        """Report an effect to the API, later: a promise is kept (or broken) first."""
        task = asyncio.create_task(self._call_back(entry.effect_id, after, times, state))
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)

    async def report(self, effect_id: str, state: State) -> int:
        """Settle a promise and report it now; the API's status, 0 where it does not answer."""
        entry = self.book.settle(effect_id, state, reason=None if state == "CONFIRMED" else "not possible after all")
        body = orjson.dumps(entry.answer())
        stamp = str(int(time.time()))
        secret = (self._systems.get(entry.system) or self._systems.get("*") or System(url="")).secret
        digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        try:
            answer = await self._http.post(
                f"{self._api}/api/v1/effects/{effect_id}/outcome",
                content=body,
                headers={
                    "Content-Type": "application/json",
                    "X-Recourse-Timestamp": stamp,
                    "X-Recourse-Signature": f"sha256={digest}",
                },
            )
        except httpx.HTTPError as error:
            log.warning("callback not delivered", effect_id=effect_id, error=type(error).__name__)
            return 0
        return answer.status_code

    def _do(self, effect_id: str, body: dict[str, Any], fault: Fault | None) -> Entry:
        """What a system does with an effect that it hears of for the first time; entered before it is told."""
        state: State = "CONFIRMED"
        reason = None
        if fault and fault.fault in {"accept", "accept-silent"}:
            state = "ACCEPTED"
        elif fault and fault.fault == "refuse":
            state, reason = "NO_EFFECT", fault.words or "refused by the script"
        elif self._comes_too_late(body):
            state, reason = "NO_EFFECT", "too late: it has been done"
        entry = Entry(
            effect_id=effect_id,
            system=str(body.get("system")),
            task_type=str(body.get("taskType")),
            order_id=str(body.get("orderId")),
            tenant_id=str(body.get("tenantId")),
            state=state,
            external_reference=None if state == "NO_EFFECT" else _reference(body, effect_id),
            output=((fault and fault.output) or _output(body)) if state != "NO_EFFECT" else None,
            reason=reason,
        )
        if state == "CONFIRMED" and (original := self._original(body)) and original.state == "ACCEPTED":
            self.book.settle(original.effect_id, "NO_EFFECT", reason="called off")
        return self.book.write(entry)

    def _original(self, body: dict[str, Any]) -> Entry | None:
        reverses = body.get("reverses")
        return self.book.find(str(reverses["effectId"])) if isinstance(reverses, dict) else None

    def _comes_too_late(self, body: dict[str, Any]) -> bool:
        """Calling off what is done already: the caller knew no reference of it, for it had only been promised."""
        original = self._original(body)
        return original is not None and original.state == "CONFIRMED" and not body["reverses"].get("externalReference")

    async def _call_back(self, effect_id: str, after: float, times: int, state: State) -> None:
        await asyncio.sleep(after)
        for _ in range(times):
            for attempt in range(_CALLBACK_TRIES):
                status = await self.report(effect_id, state)
                if 0 < status < 500 and status != 404:  # it may be ahead of the caller's own commit
                    break
                await asyncio.sleep(_CALLBACK_PAUSE * 2**attempt)


def _reference(body: dict[str, Any], effect_id: str) -> str:
    """Names the thing in the system, the same however often it is asked for."""
    number = uuid5(NAMESPACE_OID, effect_id).int % 10**8
    return f"{str(body.get('system'))[:3].upper()}-{number:08d}"


def _output(body: dict[str, Any]) -> dict[str, Any] | None:
    """What such a system would tell: prices asked for, money taken or given back."""
    sent = body.get("input") if isinstance(body.get("input"), dict) else {}
    assert isinstance(sent, dict)
    if isinstance(sent.get("refund"), dict):
        return {"refunded": sent["refund"]}
    order = sent.get("order")
    items = order.get("items", []) if isinstance(order, dict) else []
    priced = [item for item in items if isinstance(item, dict) and isinstance(item.get("price"), dict)]
    if not priced:
        return None
    return {
        "captured": {
            "amountMinor": sum(item["price"]["amountMinor"] * item.get("quantity", 1) for item in priced),
            "currency": priced[0]["price"]["currency"],
        },
        "prices": [{"itemId": item.get("itemId"), "price": item["price"]} for item in priced],
    }


# -- HTTP ----------------------------------------------------------------------------------------------------------


def _answer(status: int, body: Any) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


async def _json(request: Request) -> Any:
    try:
        return orjson.loads(await request.body() or b"{}")
    except orjson.JSONDecodeError:
        return None


def make_app(simulator: Simulator) -> Starlette:
    """The systems at `/effects/{id}` and `/{system}/effects/{id}`; the script at `/faults`, the book at `/book`."""

    async def put_effect(request: Request) -> Response:
        body = await _json(request)
        if not isinstance(body, dict):
            return _answer(400, {"error": "a JSON object is wanted"})

        async def caller_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return await simulator.put(request.path_params["effect_id"], body, caller_gone)

    async def get_effect(request: Request) -> Response:
        return simulator.get(request.path_params["effect_id"])

    async def post_callback(request: Request) -> Response:
        """Report an accepted effect now: {state?: CONFIRMED | NO_EFFECT} → {status: of the API's answer}."""
        body = await _json(request)
        state = body.get("state", "CONFIRMED") if isinstance(body, dict) else None
        if state not in {"CONFIRMED", "NO_EFFECT"}:
            return _answer(422, {"error": "state wants CONFIRMED or NO_EFFECT"})
        if simulator.book.find(request.path_params["effect_id"]) is None:
            return _answer(404, {"error": "unknown here"})
        return _answer(200, {"status": await simulator.report(request.path_params["effect_id"], state)})

    async def faults(request: Request) -> Response:
        if request.method == "POST":
            try:
                simulator.script.add(Fault.model_validate(await _json(request)))
            except ValidationError as error:
                return _answer(422, {"errors": error.errors(include_url=False, include_input=False)})
        elif request.method == "DELETE":
            simulator.script.clear()
        return _answer(200, {"faults": simulator.script.show()})

    async def get_book(request: Request) -> Response:
        return _answer(200, {"lines": simulator.book.lines(request.query_params.get("orderId"))})

    async def get_health(_request: Request) -> Response:
        return _answer(200, {"status": "UP"})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await simulator.close()

    routes = [
        Route(f"{prefix}/effects/{{effect_id}}", handler, methods=[method])
        for prefix in ("", "/{system}")
        for method, handler in (("PUT", put_effect), ("GET", get_effect))
    ]
    routes += [
        Route("/effects/{effect_id}/callback", post_callback, methods=["POST"]),
        Route("/faults", faults, methods=["GET", "POST", "DELETE"]),
        Route("/book", get_book),
        Route("/healthz", get_health),
        Route("/readyz", get_health),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def run(settings: Settings) -> None:
    """`recourse simulate`: serve until cancelled. The book is `simulator/book.jsonl` in the state folder."""
    book = Book(settings.state_dir / "simulator" / "book.jsonl")
    config = uvicorn.Config(
        make_app(Simulator(settings, book)),
        host=settings.simulator_host,
        port=settings.simulator_port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
    )
    with contextlib.suppress(asyncio.CancelledError):
        await uvicorn.Server(config).serve()
