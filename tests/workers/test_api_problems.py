"""The edge table of errors is whole, and the document that describes the API is what the API does."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from domain.errors import Breach
from domain.store.outages import OUTAGES
from tests.workers.api_world import ApiWorld
from workers.api.app import SERVED
from workers.api.openapi import make_openapi
from workers.api.pages import problem_page
from workers.api.problems import REFUSALS, STATUS_OF, Problem, list_problems, problem_response

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Typed from the contract, not from the product.
STATUS_OF_CODE = {
    "IDEMPOTENCY_KEY_REQUIRED": 400,
    "ROLE_REQUIRED": 403,
    "FOUR_EYES": 403,
    "ORDER_NOT_FOUND": 404,
    "REQUEST_NOT_FOUND": 404,
    "CASE_NOT_FOUND": 404,
    "ASSET_NOT_FOUND": 404,
    "ORDER_TERMINAL": 409,
    "CHANGE_ACTIVE": 409,
    "ASSET_BUSY": 409,
    "REQUEST_CLOSED": 409,
    "CASE_CLOSED": 409,
    "COMPENSATION_STARTED": 409,
    "IDEMPOTENCY_IN_FLIGHT": 409,
    "VERSION_STALE": 412,
    "PREVIEW_STALE": 412,
    "PRECONDITION_REQUIRED": 428,
    "RATE_LIMITED": 429,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "REASON_UNKNOWN": 422,
    "REASON_NOT_REFUSABLE": 422,
    "DISPOSITION_REQUIRED": 422,
    "ASSET_NOT_MODIFIABLE": 422,
    "DEPENDENT_ASSET": 422,
    "ITEM_UNKNOWN": 422,
    "RELATION_CYCLE": 422,
    "EVIDENCE_REQUIRED": 422,
}


def every_breach(root: type[Breach] = Breach) -> Iterator[type[Breach]]:
    yield root
    for child in root.__subclasses__():
        yield from every_breach(child)


async def test_every_breach_has_a_row_and_a_page() -> None:
    rows = set(STATUS_OF)
    assert set(every_breach()) == rows
    by_code = {kind.code: kind.status for kind in list_problems()}
    assert by_code.items() >= STATUS_OF_CODE.items()
    for code in by_code:
        page = problem_page(code)
        assert page is not None
        assert code.encode() in page.body


async def test_the_breaches_of_one_code_have_one_status() -> None:
    by_code: dict[str, set[int]] = {}
    for breach, status in STATUS_OF.items():
        by_code.setdefault(breach.code, set()).add(status)
    assert [code for code, statuses in by_code.items() if len(statuses) > 1] == []
    assert not set(REFUSALS) & set(by_code)


@pytest.mark.parametrize(
    ("code", "status"), [("UNAVAILABLE", 503), ("RATE_LIMITED", 429), ("IDEMPOTENCY_IN_FLIGHT", 409)]
)
async def test_who_may_try_again_is_told_when(code: str, status: int) -> None:
    answer = problem_response(Problem(status, code, "busy"), base_url="http://x", trace_id="t")
    assert answer.headers["retry-after"] == "1"


async def test_a_problem_may_quote_what_cannot_be_written() -> None:
    answer = problem_response(Problem(422, "INVALID_BODY", "half a pair: \ud800"), base_url="http://x", trace_id="t")
    assert b"half a pair" in answer.body


async def test_the_document_has_every_route_and_no_other(world: ApiWorld) -> None:
    document = (await world.get("/openapi.json", as_=None)).json()
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    served = {(route.method, route.address) for route in SERVED}
    assert described == served | {("POST", "/api/v1/effects/{effectId}/outcome")}
    assert document == make_openapi(SERVED, base_url="http://recourse.test")
    known = set(document["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", str(document))) <= known
    for (method, path), operation in (
        ((method, path), operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ):
        named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path)), (method, path)
        assert operation["summary"]


async def test_outages_are_no_breaches() -> None:
    assert not [outage for outage in OUTAGES if issubclass(outage, Breach)]
