"""What a tenant keeps beside its orders: policies, the installed base, staff; each change once, with a receipt. It must
never touch an order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from domain.commands import Envelope
from domain.errors import (
    FieldError,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    OfferingUnknown,
    PreconditionRequired,
    Unprocessable,
)
from domain.order import Asset
from domain.policy import Policy, PolicyInvalid
from domain.store.orders import claim_receipt, read_receipt
from domain.store.policies import PolicyBook, add_policy
from domain.store.pool import Connection, LockTimeout, Pool, fetch_all, fetch_row, run, tenant_transaction
from domain.store.queries import load_queries
from domain.store.views import asset_etag, keep_asset, show_asset, show_staff
from domain.values import Json, TenantId

_SQL = load_queries("registry")

ReadPolicy = Callable[[], Awaitable[tuple[Json, Policy]]]
CheckVersion = Callable[[str | None], None]


@dataclass(frozen=True, slots=True)
class Filed:
    """The answer to a change of the registry; replayed: it had been made before."""

    status: int
    body: Json
    etag: str | None = None
    location: str | None = None
    replayed: bool = False


async def find_answer(connection: Connection, envelope: Envelope) -> Filed | None:
    """The stored answer of a command that was carried out before; None for the one that is to do it now, and file its
    answer in the same transaction."""
    try:
        if await claim_receipt(connection, envelope.tenant_id, envelope.command_id, envelope.fingerprint):
            return None
    except LockTimeout as busy:
        raise IdempotencyInFlight from busy
    return await read_answer(connection, envelope)


async def read_answer(connection: Connection, envelope: Envelope) -> Filed | None:
    """The same for one that keeps no receipt while it is at work, because it does nothing that another one of its name
    could do twice."""
    found = await read_receipt(connection, envelope.tenant_id, envelope.command_id)
    if found is None:
        return None
    fingerprint, answer = found
    if fingerprint != envelope.fingerprint:
        raise IdempotencyKeyReused
    return Filed(200, answer["body"], answer["etag"], answer["location"], replayed=True)


async def store_answer(connection: Connection, envelope: Envelope, filed: Filed) -> Filed:
    stored = {"body": filed.body, "etag": filed.etag, "location": filed.location}
    await run(
        connection,
        _SQL["store_answer"],
        tenant_id=envelope.tenant_id,
        command_id=envelope.command_id,
        answer=orjson.dumps(stored).decode(),
    )
    return filed


async def publish_policy(pool: Pool, envelope: Envelope, read: ReadPolicy) -> Filed:
    """Store a policy as the tenant's newest version. `read` raises PolicyInvalid, after what may come before it."""
    async with tenant_transaction(pool, envelope.tenant_id) as connection:
        before = await find_answer(connection, envelope)
        if before is not None:
            return before
        document, policy = await read()
        rows = await fetch_all(connection, _SQL["list_live_systems"], tenant_id=envelope.tenant_id)
        missing = sorted({str(row["system"]) for row in rows} - set(policy.systems))
        if missing:
            raise PolicyInvalid((FieldError("/systems", f"live tasks still need {', '.join(missing)}"),))
        kept = await add_policy(
            connection,
            envelope.tenant_id,
            document,
            effective_from=policy.effective_from,
            loaded_by=envelope.actor.subject,
        )
        link = f"/api/v1/policies/{kept['version']}"
        body = {"version": kept["version"], "name": policy.name, "links": {"self": link}}
        return await store_answer(connection, envelope, Filed(201, body, location=link))


async def import_asset(pool: Pool, book: PolicyBook, envelope: Envelope, asset: Asset, check: CheckVersion) -> Filed:
    """Take an asset of the installed base in, or put it right, and keep who said so and what it was before. `check` is
    given the ETag that stands, None for a new asset, and raises what a wrong precondition raises."""
    async with tenant_transaction(pool, envelope.tenant_id) as connection:
        before = await find_answer(connection, envelope)
        if before is not None:
            return before
        tenant_id = envelope.tenant_id
        known = await fetch_row(connection, _SQL["lock_asset"], tenant_id=tenant_id, asset_id=asset.asset_id)
        check(asset_etag(known["version"]) if known else None)
        if str(asset.asset_id) in asset.relies_on:
            raise Unprocessable(errors=(FieldError("/reliesOn", "an asset does not rely on itself"),))
        await _check_offering(connection, book, tenant_id, asset.offering)
        row = await fetch_row(
            connection,
            _SQL["correct_asset" if known else "add_asset"],
            tenant_id=tenant_id,
            asset_id=asset.asset_id,
            customer_id=asset.customer_id,
            offering=asset.offering,
            configuration=orjson.dumps(asset.configuration).decode(),
            state=asset.state,
            system_references=orjson.dumps(asset.references).decode(),
            relies_on=list(asset.relies_on),
            quantity=asset.quantity,
        )
        if row is None:  # somebody took it in between our two looks: known by now, it is changed by its ETag only
            raise PreconditionRequired("This asset has just been taken in; name its ETag in If-Match to change it.")
        body = show_asset(orjson.loads(row["document"]))
        await run(
            connection,
            _SQL["note_correction"],
            tenant_id=tenant_id,
            asset_id=asset.asset_id,
            version=body["version"],
            actor=envelope.actor.subject,
            on_behalf_of=envelope.on_behalf_of,
            before=orjson.dumps(keep_asset(show_asset(orjson.loads(known["document"])))).decode() if known else None,
            after=orjson.dumps(keep_asset(body)).decode(),
        )
        filed = Filed(200 if known else 201, body, asset_etag(body["version"]), body["links"]["self"])
        return await store_answer(connection, envelope, filed)


async def read_policy_in_force(connection: Connection, book: PolicyBook, tenant_id: TenantId) -> Policy:
    """The policy that decides now for this tenant. Raises PolicyNotFound."""
    row = await fetch_row(connection, _SQL["find_policy_in_force"], tenant_id=tenant_id)
    return await book.read(connection, row["version"] if row else None)


async def _check_offering(connection: Connection, book: PolicyBook, tenant_id: TenantId, offering: str) -> None:
    policy = await read_policy_in_force(connection, book, tenant_id)
    if offering not in policy.offerings:
        raise OfferingUnknown(
            f"The policy has no offering {offering!r}.",
            errors=(FieldError("/productOfferingId", "unknown offering"),),
        )


async def set_staff(
    pool: Pool, tenant_id: TenantId, subject: str, roles: frozenset[str], changed_by: str
) -> dict[str, Json]:
    """Say what a person may decide in Tasklist; saying the same again changes nothing but the time."""
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await fetch_row(
            connection,
            _SQL["write_staff"],
            tenant_id=tenant_id,
            subject=subject,
            roles=sorted(roles),
            changed_by=changed_by,
        )
    assert row is not None
    return show_staff(orjson.loads(row["document"]))


async def introduce_staff(
    pool: Pool, tenant_id: TenantId, subject: str, roles: frozenset[str], changed_by: str
) -> None:
    """The same for a person of whom nothing has been said yet; what was said once stands."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await run(
            connection,
            _SQL["introduce_staff"],
            tenant_id=tenant_id,
            subject=subject,
            roles=sorted(roles),
            changed_by=changed_by,
        )
