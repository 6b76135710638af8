"""Tells listeners of TM Forum's front door what happened to their orders, at least once each, in the order of each
order's versions. It must never call an address that the settings do not allow, nor let one listener wait for
another."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

import httpx
import orjson
import structlog
from prometheus_client import Counter

from domain.store.listeners import (
    Delivery,
    ListenerId,
    claim_deliveries,
    end_delivery,
    find_due_listeners,
    put_off,
)
from domain.store.outages import OUTAGES
from domain.store.pool import Pool
from domain.store.product_orders import read_cancel_task, read_product_order
from domain.values import Json, RequestId, TenantId
from workers import tmf
from workers.gateways.access import open_context
from workers.settings import Settings

log = structlog.get_logger(__name__)

# A call that takes longer was not taken; the lease is longer, so that nobody tells the same meanwhile.
CALL_SECONDS: Final = 10.0
LEASE: Final = timedelta(seconds=30)
# 1, 2, 4 … seconds up to an hour: the last try is made about two days after the first.
LONGEST_PAUSE: Final = timedelta(hours=1)
ATTEMPTS: Final = 60

_LOOK_SECONDS: Final = 0.5
_AT_ONCE: Final = 20  # of one listener
_LISTENERS: Final = 50  # that are told something at a time

_TOLD: Final = Counter("recourse_notifications", "Notifications by what became of them", ["outcome"])


class _NotTakenError(Exception):
    """The listener did not take it; the message says why, without its answer."""


def is_allowed(callback: str, origins: str) -> bool:
    """Whether an address belongs to one of the origins that the settings name (scheme://host[:port], port * is any)."""
    try:
        url = httpx.URL(callback)
    except httpx.InvalidURL:
        return False
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.fragment:
        return False
    return any(_is_of(url, origin) for origin in origins.split(",") if origin)


def _is_of(url: httpx.URL, origin: str) -> bool:
    any_port = origin.endswith(":*")
    named = httpx.URL(origin.removesuffix(":*"))
    same = (url.scheme, url.host) == (named.scheme, named.host)
    return same and (any_port or _port(url) == _port(named))


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


class Notifier:
    """The calls of one process. `work` until cancelled; whatever was under way then is told again by another."""

    def __init__(self, pool: Pool, auditor: Pool, settings: Settings) -> None:
        self._pool = pool
        self._auditor = auditor
        self._settings = settings
        self._under_way: set[ListenerId] = set()
        self._client = httpx.AsyncClient(
            timeout=None,  # noqa: S113 - the whole exchange has one deadline of its own
            trust_env=False,
            follow_redirects=False,  # an address that is allowed must not lead to one that is not
            verify=open_context(settings.ca_file),
            headers={"User-Agent": "recourse", "Content-Type": "application/json"},
        )

    async def work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._look(group)
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await self._client.aclose()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        try:
            async with self._auditor.acquire() as connection:
                due = await find_due_listeners(connection, 2 * _LISTENERS)
        except OUTAGES as outage:
            log.warning("notifications wait", error=type(outage).__name__)
            return
        for tenant_id, listener_id in due:
            if listener_id not in self._under_way and len(self._under_way) < _LISTENERS:
                self._under_way.add(listener_id)
                group.create_task(self._tell_all(tenant_id, listener_id))

    async def _tell_all(self, tenant_id: TenantId, listener_id: ListenerId) -> None:
        """Everything that one listener may be told now."""
        try:
            while deliveries := await claim_deliveries(self._pool, tenant_id, listener_id, size=_AT_ONCE, lease=LEASE):
                await asyncio.gather(*(self._tell(tenant_id, listener_id, each) for each in deliveries))
        except OUTAGES as outage:
            # What was claimed comes back when its lease is over.
            log.warning("notifications wait", listener_id=str(listener_id), error=type(outage).__name__)
        finally:
            self._under_way.discard(listener_id)

    async def _tell(self, tenant_id: TenantId, listener_id: ListenerId, delivery: Delivery) -> None:
        try:
            body = await self._write(tenant_id, delivery) if delivery.callback else None
            if body is not None and delivery.callback is not None:
                await self._call(delivery.callback, orjson.dumps(body))
        except OUTAGES:
            raise
        except _NotTakenError as why:
            await self._put_off(tenant_id, listener_id, delivery, str(why))
        except Exception as defect:
            # One event that cannot be told must not keep the others from being told.
            log.exception("notification failed", event_id=str(delivery.event_id))
            await self._put_off(tenant_id, listener_id, delivery, type(defect).__name__)
        else:
            await end_delivery(self._pool, tenant_id, listener_id, delivery, told=body is not None)
            _TOLD.labels("told" if body is not None else "no-news").inc()

    async def _put_off(self, tenant_id: TenantId, listener_id: ListenerId, delivery: Delivery, why: str) -> None:
        about = {"listener_id": str(listener_id), "event_id": str(delivery.event_id), "reason": why}
        if delivery.attempts >= ATTEMPTS:
            log.error("notification given up", **about, attempts=delivery.attempts)
            await end_delivery(self._pool, tenant_id, listener_id, delivery, given_up=why)
            _TOLD.labels("given-up").inc()
            return
        log.info("notification not taken", **about, attempts=delivery.attempts)
        await put_off(self._pool, tenant_id, listener_id, delivery, next_pause(delivery.attempts), why)
        _TOLD.labels("put-off").inc()

    async def _write(self, tenant_id: TenantId, delivery: Delivery) -> dict[str, Json] | None:
        """The notification; None where the event is no news in their words."""
        name = tmf.name_notification(delivery.type, delivery.payload)
        if name is None:
            return None
        base_url = self._settings.base_url
        if name.startswith("Product"):
            row = await read_product_order(self._pool, tenant_id, delivery.order_id)
            shown = row and tmf.show_product_order(row, base_url)
        else:
            request_id = RequestId(UUID(str(delivery.payload["requestId"])))
            row = await read_cancel_task(self._pool, tenant_id, request_id)  # of a whole order only, as they know it
            shown = row and tmf.show_task(row, base_url)
        return shown and tmf.show_notification(name, delivery.event_id, delivery.at, delivery.payload, shown)

    async def _call(self, callback: str, body: bytes) -> None:
        """Raises _NotTakenError unless the listener answers with 2xx in time."""
        if not is_allowed(callback, self._settings.listeners):
            raise _NotTakenError("the address is not one that may be called any more")
        try:
            async with (
                asyncio.timeout(CALL_SECONDS),
                self._client.stream("POST", callback, content=body, headers=self._sign(body)) as answer,
            ):
                if not answer.is_success:
                    raise _NotTakenError(f"HTTP {answer.status_code}")
        except TimeoutError as error:
            raise _NotTakenError(f"no answer within {CALL_SECONDS:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise _NotTakenError(f"the call broke off: {type(error).__name__}") from error

    def _sign(self, body: bytes) -> Mapping[str, str]:
        """As callbacks to us are signed, where there is a secret to do it with."""
        secret = self._settings.listener_secret
        if not secret:
            return {}
        moment = str(int(time.time()))
        digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        return {"X-Recourse-Timestamp": moment, "X-Recourse-Signature": f"sha256={digest}"}


def next_pause(attempts: int) -> timedelta:
    """How long a listener that did not take the n-th try is left alone: doubling from a second, with jitter."""
    longest = min(timedelta(seconds=2 ** min(attempts - 1, 20)), LONGEST_PAUSE)
    return longest * random.uniform(0.75, 1.25)
