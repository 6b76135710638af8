"""How much one tenant may ask of one API process; it must never keep more than a fixed number of tenants in mind."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from domain.errors import RateLimited
from domain.values import TenantId

BURST: Final = 2.0  # seconds' worth of requests that a tenant may send at once after a pause
REMEMBERED: Final = 10_000  # tenants; one forgotten begins with a full allowance


class RateLimiter:
    """A bucket of tokens per tenant, filled at `rate` (1 or more) requests a second up to BURST seconds' worth.

    An untouched bucket is full again after BURST seconds, so that forgetting the tenant seen longest ago gives away
    nothing unless more than REMEMBERED tenants ask within that time.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._most = rate * BURST
        self._clock = clock
        # Tenant -> (tokens left, when that was so), the tenant seen longest ago first.
        self._buckets: OrderedDict[TenantId, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def admit(self, tenant: TenantId) -> None:
        """Count one request. Raises RateLimited; a second later one passes. A refused request costs nothing, or a
        client that keeps asking would never get in again."""
        now = self._clock()
        left, since = self._buckets.pop(tenant, (self._most, now))
        left = min(self._most, left + (now - since) * self._rate)
        passes = left >= 1
        self._buckets[tenant] = (left - 1 if passes else left, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        if not passes:
            raise RateLimited
