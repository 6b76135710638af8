"""Every operation of the OpenAPI under drawn requests, sound and unsound, by somebody with every role, at objects of
their own tenant and of another: no answer that the document does not describe, and not a byte of the other moves."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from domain.values import ROLES, TenantId
from tests.browser.served import Served, serve_api
from tests.postgres import Database, PostgresServer
from tests.workers.api_world import ApiWorld, load_shared_policy
from workers import tmf
from workers.api.app import SERVED
from workers.api.openapi import make_openapi

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
MINE, THEIRS = TenantId(uuid.uuid4()), TenantId(uuid.uuid4())
SCHEMA = schemathesis.openapi.from_dict(make_openapi(SERVED, base_url="http://recourse.test"))
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)}
# Whose id it is in TM Forum's paths, which name none.
THEIR_IDS = {"productOrder": "orderId", "cancelProductOrder": "requestId", "hub": "listenerId"}


@dataclass(frozen=True)
class Two:
    """One API, two tenants with an order that is being cancelled, a case and an asset each."""

    served: Served
    database: Database
    ids: Mapping[TenantId, Mapping[str, str]]
    token: str

    def rows_of(self, tenant: TenantId) -> list[tuple[Any, ...]]:
        """A fingerprint of everything that is a tenant's, table by table."""

        async def read() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.database.owner_url)
            try:
                tables = await connection.fetch(
                    "select table_name from information_schema.columns"
                    " where column_name = 'tenant_id' and table_schema = 'public' order by 1"
                )
                each = " union all ".join(
                    f"select '{name}', count(*), md5(string_agg(t::text, '' order by t::text)) from {name} t"
                    f" where tenant_id = '{tenant}'"
                    for (name,) in tables
                )
                return [tuple(row) for row in await connection.fetch(each)]
            finally:
                await connection.close()

        return asyncio.run(read())


async def make_objects(world: ApiWorld) -> Mapping[str, str]:
    order_id = await world.create()
    await world.fulfil(order_id, lambda _: {"state": "NO_EFFECT", "reason": "no"}, only={"reserve-inventory"})
    asset = {"customerId": "c-9", "productOfferingId": "router"}
    hub = await world.send("POST", f"{tmf.BASE}/hub", body={"callback": "http://127.0.0.1:9/"})
    return {
        "listenerId": hub.json()["id"],
        "orderId": order_id,
        "requestId": await world.cancel(order_id),
        "caseId": (await world.get(f"/fallout-cases?orderId={order_id}")).json()["items"][0]["caseId"],
        "assetId": (await world.post("/assets", asset, as_=("ada", "admin"))).json()["assetId"],
    }


@pytest.fixture(scope="module")
def two(postgres_server: PostgresServer) -> Iterator[Two]:
    with postgres_server.clone() as database:
        asyncio.run(load_shared_policy(database.owner_url))
        with serve_api(database.app_url) as served:
            ids = {}
            for tenant in (MINE, THEIRS):
                served.world.tenant = tenant
                ids[tenant] = served.play(make_objects)
            yield Two(served, database, ids, served.world.token("mallory", *ROLES, tenant=MINE))


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_operation_does_what_its_document_says(two: Two, label: str) -> None:
    """Without row-level security or the tenant in a query, one of the foreign ids is answered with 2xx or the other's
    rows move; without the edge's own checks an unsound value ends in a 500."""
    operation = OPERATIONS[label]
    before = two.rows_of(THEIRS)
    cases = operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @settings(
        max_examples=settings().max_examples // 10,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=cases, owner=st.sampled_from([None, MINE, MINE, THEIRS]))
    def send(case: Any, owner: TenantId | None) -> None:
        known = two.ids[owner] if owner else {}
        named = {name: value for name, value in known.items() if f"{{{name}}}" in operation.path}
        if known and "{id}" in operation.path:
            named = {"id": known[THEIR_IDS[operation.path.split("/")[-2]]]}
        case.path_parameters = {**(case.path_parameters or {}), **named}
        answer = case.call(base_url=two.served.url, headers={"Authorization": f"Bearer {two.token}"})
        case.validate_response(answer, checks=CHECKS)
        assert not (owner == THEIRS and named and answer.status_code < 300), "another tenant's object was found"

    send()
    assert two.rows_of(THEIRS) == before
