"""Operate and Tasklist, and the people who may log in to them; nothing of the product may wait for either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import httpx

from domain.store.pool import open_pool
from domain.store.registry import introduce_staff
from domain.values import TenantId
from workers.local.engine import CLUSTER, RECORDS, camunda_command, startup_flags
from workers.local.issuer import DEFAULT_TENANT
from workers.local.parts import Part, PartError, answers_http
from workers.local.processes import Command, behind_the_rest

# Parts that a stack is ready without.
CONSOLE_PARTS = frozenset({"opensearch", "consoles"})

# Operate's own user, for looking around; nobody has given them a say.
DEMO = "demo"
# Who decides in Tasklist until an admin says otherwise: the second approver is there for four eyes.
PEOPLE: Mapping[str, frozenset[str]] = {
    "alice": frozenset({"agent"}),
    "bob": frozenset({"approver"}),
    "carol": frozenset({"approver"}),
    "olga": frozenset({"operator"}),
}

_LOCALHOST = "127.0.0.1"
_USERS = "operate-user-1.2.0_"
_TASKS = "tasklist-list-view-8.6.0_"
_FORGIVING = "index.mapping.ignore_malformed"
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Consoles:
    """Both consoles in one process: its folder, ports, and where engine and records are."""

    data: Path
    port: int
    management_port: int
    cache: Path
    engine_grpc: str
    engine_rest: str
    search_url: str

    @property
    def operate_url(self) -> str:
        return f"http://{_LOCALHOST}:{self.port}/operate"

    @property
    def tasklist_url(self) -> str:
        return f"http://{_LOCALHOST}:{self.port}/tasklist"

    def part(self) -> Part:
        return Part(
            name="consoles",
            needs=frozenset({"opensearch", "engine"}),
            prepare=self.prepare,
            probe=lambda: are_consoles_ready(self.management_port),
            address=f"{self.operate_url} and {self.tasklist_url}",
            ports=(self.port, self.management_port),
            patience=600,
        )

    async def prepare(self) -> Command:
        """Write the configuration; the command that serves it."""
        flags = [*startup_flags(self.cache), "-Xms256m", "-Xmx768m"]
        profiles = "operate,tasklist,auth"
        return behind_the_rest(await camunda_command(self.data, profiles, self._configuration(), flags, self.cache))

    async def seat(self, passwords: Mapping[str, str], database_url: str) -> str:
        """Let the people in, and give each a say where the default tenant has not decided about them."""
        try:
            async with httpx.AsyncClient(base_url=self.search_url, timeout=_SECONDS, trust_env=False) as search:
                await self._forgive_dates(search)
                await self._write_users(search, passwords)
        except httpx.HTTPStatusError as error:
            raise PartError(f"the consoles cannot be set up: HTTP {error.response.status_code}") from error
        except httpx.HTTPError as error:
            raise PartError(f"the consoles cannot be set up: {type(error).__name__}") from error
        pool = await open_pool(database_url, size=1, name="people")
        tenant = TenantId(DEFAULT_TENANT)
        try:
            for person, roles in PEOPLE.items():
                await introduce_staff(pool, tenant, person, roles, "system:up")
        finally:
            pool.terminate()
        return ", ".join(f"{person} ({', '.join(sorted(roles))})" for person, roles in PEOPLE.items())

    async def _forgive_dates(self, search: httpx.AsyncClient) -> None:
        """A task that is completed on the very second, one in a thousand, has a time that Tasklist 8.6.0 writes without
        a fraction and its own index refuses; from then on it takes in no task. Such a time is kept and not indexed."""
        told = (await search.get(f"/{_TASKS}/_settings?flat_settings=true")).raise_for_status().json()
        if told[_TASKS]["settings"].get(_FORGIVING) == "true":
            return
        # Only a closed index takes this setting; what is written meanwhile Tasklist tries again.
        (await search.post(f"/{_TASKS}/_close")).raise_for_status()
        try:
            (await search.put(f"/{_TASKS}/_settings", json={_FORGIVING: True})).raise_for_status()
        finally:
            (await search.post(f"/{_TASKS}/_open")).raise_for_status()

    async def _write_users(self, search: httpx.AsyncClient, passwords: Mapping[str, str]) -> None:
        for person in PEOPLE:
            user = {
                "id": person,
                "userId": person,
                "displayName": person.title(),
                "password": "{bcrypt}" + bcrypt.hashpw(passwords[person].encode(), bcrypt.gensalt()).decode(),
                "roles": ["OWNER"],
            }
            (await search.put(f"/{_USERS}/_doc/{person}?refresh=true", json=user)).raise_for_status()

    def _configuration(self) -> dict[str, object]:
        records = {"url": self.search_url, "clusterName": CLUSTER, "prefix": RECORDS}
        own = {
            "url": self.search_url,
            "clusterName": CLUSTER,
            "numberOfShards": 1,
            "numberOfReplicas": 0,
            "refreshInterval": "200ms",
        }
        both: dict[str, object] = {
            "database": "opensearch",
            "csrfPreventionEnabled": False,
            "persistentSessionsEnabled": False,
            # It sets a policy for ageing indices, a plugin that this node is without.
            "archiverEnabled": False,
            "importer": {"readerBackoff": 200, "schedulerBackoff": 200},
        }
        # The two spell the same things differently.
        operate = {**both, "opensearch": own, "zeebeOpensearch": records}
        tasklist = {**both, "openSearch": own, "zeebeOpenSearch": records}
        zeebe = {"gatewayAddress": self.engine_grpc}
        return {
            "server": {"address": _LOCALHOST, "port": self.port},
            "management": {"server": {"address": _LOCALHOST, "port": self.management_port}},
            "camunda": {
                "operate": {**operate, "zeebe": zeebe},
                "tasklist": {**tasklist, "zeebe": {**zeebe, "restAddress": self.engine_rest}},
            },
            # Until the first record of a kind they complain five times a second that its index is not there.
            "logging": {
                "level": {
                    "io.camunda.tasklist.zeebeimport.os.RecordsReaderOpenSearch": "ERROR",
                    "io.camunda.operate.zeebeimport.opensearch.OpensearchRecordsReader": "ERROR",
                }
            },
        }


async def are_consoles_ready(management_port: int) -> bool:
    """Whether both say so."""
    return await answers_http(_LOCALHOST, management_port, "/actuator/health/readiness")
