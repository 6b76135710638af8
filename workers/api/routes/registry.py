"""What a tenant keeps beside its orders: assets, policies, staff; shown to all, changed by the admin."""

from __future__ import annotations

import asyncio
import hashlib
from uuid import UUID

from starlette.responses import Response

from domain.errors import AssetNotFound, Malformed, PolicyNotFound, PreconditionRequired, Unprocessable, VersionStale
from domain.handle import check_match
from domain.order import Asset
from domain.policy import Policy, parse_policy, read_policy_text
from domain.store import registry, replays, views
from domain.values import AssetId, Json, derive_id
from workers.api.calls import (
    Call,
    answer_command,
    answer_json,
    answer_page,
    answer_seen,
    ask,
    encode_cursor,
    make_envelope,
    read_body,
    read_document,
    read_if_match,
    read_key,
)
from workers.api.problems import Refusal
from workers.api.routing import Parameter, Routes
from workers.api.schemas import AssetBody, StaffBody, parse_uuid

routes = Routes()


# -- assets -------------------------------------------------------------------------------------------------


@routes.get("/assets", "AssetPage", query=(Parameter("customerId", {"type": "string"}),))
async def list_assets(call: Call) -> Response:
    """The installed base, of one customer where that is asked for."""
    place = call.cursor(1)
    after = parse_uuid(place[0]) if place else None
    if place and after is None:
        raise Malformed("The cursor is not one that this list gave; begin without one.")
    page = await views.list_assets(
        call.pool, call.tenant, limit=call.limit(), after=after, customer_id=call.text("customerId")
    )
    return answer_page(page)


@routes.get("/assets/{assetId}", "Asset")
async def show_asset(call: Call) -> Response:
    """One asset as it stands."""
    return answer_seen(await views.read_asset(call.pool, call.tenant, call.id("assetId", AssetId, AssetNotFound)))


@routes.post("/assets", "Asset", body=AssetBody, status=201)
async def import_asset(call: Call) -> Response:
    """Take an asset of the installed base in; a known id with its ETag puts that asset right, also while an order
    holds it."""
    asked = await ask(call, AssetBody)
    body = asked.body
    given_id = asked.document.part("assetId")
    known_id = parse_uuid(given_id) if isinstance(given_id, str) else None
    asset_id = known_id or derive_id(asked.envelope.command_id, "asset")

    def check(standing: str | None) -> None:
        check_if_match(read_if_match(call.request), standing)
        if asked.invalid:
            raise Unprocessable(errors=asked.invalid)

    filed = await registry.import_asset(
        call.pool, call.service.policies, asked.envelope, _make_asset(asset_id, body), check
    )
    return answer_command(filed)


def _make_asset(asset_id: UUID, body: AssetBody | None) -> Asset:
    return Asset(
        asset_id=AssetId(asset_id),
        customer_id=body.customer_id if body else "",
        offering=body.product_offering_id if body else "",
        configuration=body.configuration if body else {},
        state=body.state if body else "ACTIVE",
        references=body.references if body else {},
        relies_on=tuple(text.lower() for text in body.relies_on) if body else (),
        quantity=body.quantity if body else 1,
    )


def check_if_match(given: str | None, standing: str | None) -> None:
    """428 · 412 of an object that may not be there yet: nothing is expected of a new one, its ETag of a known one."""
    if standing is None:
        if given is not None:
            raise VersionStale("There is no such asset yet; leave If-Match out to take it in.")
        return
    if given is None:
        raise PreconditionRequired("This asset is known; name its ETag in If-Match to change it.")
    check_match(given, standing)


# -- policies -----------------------------------------------------------------------------------------------


@routes.get("/policies", "PolicyPage")
async def list_policies(call: Call) -> Response:
    """The policies that concern the tenant, newest first; one of them is in force."""
    page = await views.list_policies(call.pool, call.tenant, limit=call.limit(), after=call.number())
    return answer_page(page)


@routes.get("/policies/{version}", "Policy")
async def show_policy(call: Call) -> Response:
    """One policy with its document."""
    return answer_json(await views.read_policy(call.pool, call.tenant, version_of(call)))


def version_of(call: Call) -> int:
    given = call.request.path_params["version"]
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise PolicyNotFound
    return int(given)


@routes.post("/policies/{version}/replay", "ReplayPage", status=200, key=False, media=())
async def replay_policy(call: Call) -> Response:
    """Judge the stored assessments of cancellations again under this policy, newest first, a page at a time, and list
    what would differ; nothing is written, so no key is needed."""
    told, page = await replays.replay_policy(
        call.pool, call.service.policies, call.tenant, version_of(call), limit=call.limit(), after=call.place()
    )
    return answer_json({**told, "items": page.items, "next": encode_cursor(page.last)})


@routes.post("/policies", "PolicyAnswer", status=201, media=("application/json", "application/yaml"))
async def publish_policy(call: Call) -> Response:
    """Check a policy document (YAML or JSON) as a whole, and keep it as the tenant's newest version."""
    raw = await read_body(call.request)
    envelope = make_envelope(call, read_key(call.request), hashlib.sha256(raw).hexdigest())

    async def read() -> tuple[Json, Policy]:
        # Off the loop: a large document takes longer to check than other callers should wait.
        return await asyncio.to_thread(_read_policy, raw)

    return answer_command(await registry.publish_policy(call.pool, envelope, read))


def _read_policy(raw: bytes) -> tuple[Json, Policy]:
    document = read_policy_text(raw)
    return document, parse_policy(document)


# -- staff ---------------------------------------------------------------------------------------------------


def subject_of(call: Call) -> str:
    subject = call.request.path_params["subject"]
    if not subject.isprintable() or not subject.strip() or len(subject) > 255 or subject.startswith("system:"):
        raise Refusal("ROUTE_NOT_FOUND")
    return str(subject)


@routes.get("/staff/{subject}", "Staff")
async def show_staff(call: Call) -> Response:
    """What a person may decide in Tasklist."""
    subject = subject_of(call)
    found = await views.read_staff(call.pool, call.tenant, subject)
    return answer_json(found or {"subject": subject, "roles": [], "changedBy": None, "changedAt": None})


@routes.put("/staff/{subject}", "Staff", body=StaffBody)
async def set_staff(call: Call) -> Response:
    """Say what a person may decide in Tasklist."""
    subject = subject_of(call)
    document = read_document(await read_body(call.request))
    body, invalid = document.check(StaffBody)
    if body is None:
        raise Unprocessable(errors=invalid)
    roles = frozenset[str](body.roles)
    return answer_json(await registry.set_staff(call.pool, call.tenant, subject, roles, call.caller.subject))
