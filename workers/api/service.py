"""What every route of one running API shares; it must never hold anything about one request."""

from __future__ import annotations

from dataclasses import dataclass

from domain.handle import Door
from domain.store.policies import PolicyBook
from domain.store.pool import Pool
from workers.api.identity import Doorkeeper
from workers.api.limits import RateLimiter
from workers.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """pool: the application's role · base_url: where clients reach this API, for links to pages"""

    settings: Settings
    pool: Pool
    door: Door
    policies: PolicyBook
    doorkeeper: Doorkeeper
    limiter: RateLimiter

    @property
    def base_url(self) -> str:
        return self.settings.base_url
