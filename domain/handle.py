"""The one door: a command goes in, one transaction happens or does not, an answer comes out. It must never call an
outside system, and never decide; what it knows is how to lock, load, keep and answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from domain import commands as ask
from domain.amendment import check_preview as check_amendment_preview
from domain.amendment import preview_amendment
from domain.cancellation import check_preview, preview_cancellation
from domain.decide import case_etag, decide, order_etag, request_etag
from domain.errors import (
    AssetBusy,
    Breach,
    CaseClosed,
    CaseNotFound,
    ChangeActive,
    ExternalIdTaken,
    FourEyes,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    Malformed,
    OrderNotFound,
    PreconditionRequired,
    RequestClosed,
    RequestNotFound,
    RoleRequired,
    Unprocessable,
    VersionStale,
)
from domain.fallout import foresee_repairs
from domain.fulfillment import blank_order
from domain.order import Decision, Draft, Order, Surroundings
from domain.policy import Policy
from domain.store.flows import find_cause
from domain.store.orders import (
    claim_receipt,
    find_asset_holder,
    find_external_id_holder,
    load_cause,
    load_neighbourhood,
    load_order,
    load_surroundings,
    load_target,
    lock_order,
    read_receipt,
    write_draft,
)
from domain.store.policies import PolicyBook
from domain.store.pool import Connection, LockTimeout, Pool, UniqueViolation, tenant_transaction
from domain.store.previews import add_preview, find_preview
from domain.values import CaseId, Json, OrderId, Run, TenantId, derive_id, system_actor

# Refusals of a repair that are about the repair itself; a stale or unread case is none.
_TOLD: Final = (AssetBusy, FourEyes, RoleRequired, CaseClosed, ChangeActive, RequestClosed, Unprocessable)

_ETAG: Final = re.compile(r'(W/)?"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Answer:
    """What the asker gets. status: HTTP's, for whoever speaks HTTP · replayed: the command had been done before."""

    status: int
    body: Mapping[str, Json]
    etag: str | None = None
    location: str | None = None
    replayed: bool = False


class Door:
    """Carries commands out, one transaction each. One instance per process, for all tenants."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._policies = PolicyBook()

    async def handle(self, envelope: ask.Envelope, command: ask.Command) -> Answer:
        """Do it once, whoever asks how often. Raises a Breach where the asker is wrong; asyncpg's errors where the
        database is ill."""
        wanted: list[UUID] = []
        try:
            async with tenant_transaction(self._pool, envelope.tenant_id) as connection:
                return await self._transact(connection, envelope, command, wanted)
        except _TOLD as breach:
            if isinstance(command, ask.RepairCase | ask.DecideRepair):
                await self.note_refusal(envelope, command, breach.code)
            raise
        except UniqueViolation as violation:
            refusal = await self._translate(envelope, command, violation, wanted)
            if isinstance(command, ask.RepairCase):  # the order that it would have made found its asset taken
                await self.note_refusal(envelope, command, refusal.code)
            raise refusal from violation

    async def preview(self, envelope: ask.Envelope, command: ask.RequestCancellation | ask.RequestAmendment) -> Answer:
        """What the command would find and do, as the order stands now. Locks nothing; keeps the preview and no more."""
        async with tenant_transaction(self._pool, envelope.tenant_id) as connection:
            order, now, version = await load_order(connection, envelope.tenant_id, command.order_id)
            if order is None:
                raise OrderNotFound
            policy = await self._policies.read(connection, version)
            draft = _draft(order, envelope, now, policy, version)
            if isinstance(command, ask.RequestAmendment):
                kind, (body, shown) = "AMENDMENT", preview_amendment(draft, command)
            else:
                kind, (body, shown) = "CANCELLATION", preview_cancellation(draft, command)
            preview_id = derive_id(envelope.command_id, "preview")
            await add_preview(connection, envelope.tenant_id, command.order_id, preview_id, kind, shown)
        return Answer(200, {"previewId": str(preview_id), "kind": kind, **body, "validUntilChanged": True})

    async def note_refusal(self, envelope: ask.Envelope, command: ask.RepairCase | ask.DecideRepair, code: str) -> None:
        """A repair that was refused left nothing behind; that somebody tried is kept all the same (EC62)."""
        action = command.action if isinstance(command, ask.RepairCase) else None
        note = ask.NoteRefusal(command.order_id, command.case_id, code, action)
        await self.handle(replace(envelope, keep=False, if_match=None), note)

    async def foresee_repairs(self, tenant_id: TenantId, order_id: OrderId, case_id: CaseId) -> list[dict[str, Json]]:
        """What may be done about a case as it stands now, each with what it will do. Locks nothing, keeps nothing."""
        async with tenant_transaction(self._pool, tenant_id, read_only=True) as connection:
            order, now, version = await load_order(connection, tenant_id, order_id)
            if order is None or case_id not in order.cases:
                raise CaseNotFound
            policy = await self._policies.read(connection, version)
        envelope = ask.Envelope(tenant_id, case_id, system_actor("view"))
        draft = _draft(order, envelope, now, policy, version)
        return foresee_repairs(draft, order.cases[case_id])

    async def find_cause(self, tenant_id: TenantId, order_id: OrderId, flow_run: Run) -> tuple[str, datetime] | None:
        """Whose trace a flow's jobs belong to, and since when; nothing is decided by it."""
        return await find_cause(self._pool, tenant_id, order_id, flow_run)

    async def _transact(
        self, connection: Connection, envelope: ask.Envelope, command: ask.Command, wanted: list[UUID]
    ) -> Answer:
        """`wanted` is told the assets that are about to be locked, for whoever must say why that failed."""
        if envelope.keep:
            try:
                first = await claim_receipt(connection, envelope.tenant_id, envelope.command_id, envelope.fingerprint)
            except LockTimeout as busy:
                raise IdempotencyInFlight from busy
            if not first:
                return await self._replay(connection, envelope)
        draft, around = await self._load(connection, envelope, command)
        check_precondition(draft.before, envelope, command)
        if isinstance(command, ask.RequestCancellation | ask.RequestAmendment) and command.preview_id:
            kind = "AMENDMENT" if isinstance(command, ask.RequestAmendment) else "CANCELLATION"
            shown = await find_preview(connection, envelope.tenant_id, command.order_id, command.preview_id, kind)
            if isinstance(command, ask.RequestAmendment):
                check_amendment_preview(draft, command, shown)
            else:
                check_preview(draft, command, shown)
        decision = decide(draft, command, around)
        drafts = [draft]
        if draft.follow_up:
            follow_up = await self._take_in(connection, envelope, draft)
            drafts.append(follow_up.draft)
            if isinstance(command, ask.SupplementOrder | ask.CreateProposal):
                decision = follow_up
        wanted += (asset_id for changed in drafts for asset_id in changed.locks_taken)
        for changed in drafts:
            if has_changed(changed) or envelope.keep:
                await write_draft(
                    connection,
                    changed,
                    command_id=envelope.command_id,
                    answer=_stored(decision),
                    trace_parent=envelope.trace_parent,
                )
        return Answer(decision.status, decision.body, decision.etag, decision.location)

    async def _take_in(self, connection: Connection, envelope: ask.Envelope, source: Draft) -> Decision:
        """The order that another one's command asks for, under an id of its own, while its source's row is ours."""
        assert source.follow_up is not None
        command = source.follow_up
        draft, around = await self._open(connection, envelope, command)
        draft.command_id = command.order_id
        return decide(draft, command, replace(around, source_state=source.before.head.state))

    async def _open(
        self, connection: Connection, envelope: ask.Envelope, command: ask.AcceptOrder
    ) -> tuple[Draft, Surroundings]:
        """A new order before its first event, and what it looks at."""
        wanted = {item.target_asset for item in command.items if item.target_asset}
        named = {OrderId(UUID(str(relation["targetOrderId"]))) for relation in command.relations}
        around, now, version = await load_surroundings(connection, envelope.tenant_id, wanted, named)
        policy = await self._policies.read(connection, version)
        order = blank_order(envelope.tenant_id, command, version or 0, now)
        return _draft(order, envelope, now, policy, version), around

    async def _load(
        self, connection: Connection, envelope: ask.Envelope, command: ask.Command
    ) -> tuple[Draft, Surroundings]:
        if isinstance(command, ask.AcceptOrder):
            return await self._open(connection, envelope, command)
        if not await lock_order(connection, envelope.tenant_id, command.order_id):
            raise OrderNotFound
        # A statement of its own, begun after the lock is ours: an older snapshot would miss what was written
        # while we waited.
        order, now, version = await _load_slice(connection, envelope, command)
        policy = await self._policies.read(connection, version)
        around = Surroundings()
        if isinstance(command, ask.AddRelation):
            around = await load_target(connection, envelope.tenant_id, command.order_id, command.target, command.type)
        elif isinstance(command, ask.DecomposeOrder):
            wanted = {item.target_asset for item in order.items.values() if item.target_asset}
            if wanted and order.plan is None:
                around, _, _ = await load_surroundings(connection, envelope.tenant_id, wanted)
        elif isinstance(command, ask.FollowCancellation):
            around = await load_cause(
                connection, envelope.tenant_id, command.order_id, command.source_id, command.request_id
            )
        return _draft(order, envelope, now, policy, version), around

    async def _replay(self, connection: Connection, envelope: ask.Envelope) -> Answer:
        found = await read_receipt(connection, envelope.tenant_id, envelope.command_id)
        assert found is not None
        fingerprint, answer = found
        if fingerprint != envelope.fingerprint:
            raise IdempotencyKeyReused
        return Answer(200, answer["body"], answer.get("etag"), answer.get("location"), replayed=True)

    async def _translate(
        self, envelope: ask.Envelope, command: ask.Command, violation: UniqueViolation, wanted: list[UUID]
    ) -> Breach:
        """A broken constraint says by its name who stands in the way."""
        order_id = command.order_id
        async with tenant_transaction(self._pool, envelope.tenant_id, read_only=True) as connection:
            match violation.constraint_name:
                case "asset_change_lock_one_holder":
                    holder = await find_asset_holder(connection, envelope.tenant_id, wanted)
                    return AssetBusy(blocked_by=_order_link(holder))
                case "customer_order_live_external_id":
                    new = command.new if isinstance(command, ask.SupplementOrder) else command
                    assert isinstance(new, ask.AcceptOrder)
                    taken = await find_external_id_holder(connection, envelope.tenant_id, new.external_id or "")
                    return ExternalIdTaken(blocked_by=_order_link(taken))
                case "cancellation_request_one_active":
                    return ChangeActive(blocked_by=_order_link(order_id))
        raise violation


def _draft(order: Order, envelope: ask.Envelope, now: datetime, policy: Policy, version: int | None) -> Draft:
    return Draft(
        order,
        actor=envelope.actor,
        on_behalf_of=envelope.on_behalf_of,
        now=now,
        command_id=envelope.command_id,
        policy=policy,
        policy_version=version or 0,
    )


async def _load_slice(
    connection: Connection, envelope: ask.Envelope, command: ask.Command
) -> tuple[Order, datetime, int | None]:
    """As little of the order as the command can be decided on: most claims and outcomes touch one task only."""
    near = None
    match command:
        case ask.ClaimTask(order_id=order_id, task_id=task_id):
            near = await load_neighbourhood(connection, envelope.tenant_id, order_id, task_id=task_id)
        # Said once too often to a verification, it opens a case, and a case is the whole order's.
        case ask.RecordOutcome(source="VERIFICATION", state="ACCEPTED"):
            pass
        case ask.RecordOutcome(order_id=order_id, effect_id=effect_id, state="CONFIRMED" | "ACCEPTED" | "UNKNOWN"):
            near = await load_neighbourhood(connection, envelope.tenant_id, order_id, effect_id=effect_id)
    if near is not None and not near[0].head.has_ended:
        return near
    order, now, version = await load_order(connection, envelope.tenant_id, command.order_id)
    assert order is not None
    return order, now, version


def _order_link(order_id: UUID | OrderId | None) -> str | None:
    return f"/api/v1/orders/{order_id}" if order_id else None


def _stored(decision: Decision) -> Json:
    return {"body": decision.body, "etag": decision.etag, "location": decision.location}


def has_changed(draft: Draft) -> bool:
    """Whether there is anything to write: most questions of the flows change nothing when asked again."""
    before = draft.before
    return bool(
        draft.events
        or draft.messages
        or draft.heard
        or draft.attempts
        or draft.head is not before.head
        or draft.plan is not before.plan
        or draft.tasks != before.tasks
        or draft.effects != before.effects
        or draft.requests != before.requests
        or draft.amendments != before.amendments
        or draft.plans != before.plans
        or draft.cases != before.cases
        or draft.holds != before.holds
        or draft.assets != before.assets
    )


def check_precondition(order: Order, envelope: ask.Envelope, command: ask.Command) -> None:
    """404 · 428 · 412 in that order: what a command changes must be what its asker has seen. Strong comparison only.

    The product's own parts need no precondition: they ask by ids that name one state of things.
    """
    match command:
        case (
            ask.RequestCancellation()
            | ask.RequestAmendment()
            | ask.HoldOrder()
            | ask.ReleaseOrder()
            | ask.AddRelation()
        ):
            expected = order_etag(order.head.version)
        case ask.ApproveCancellation() | ask.RejectCancellation() | ask.WithdrawCancellation() | ask.AnswerCharge():
            request = order.requests.get(command.request_id)
            if request is None:
                raise RequestNotFound
            expected = request_etag(request.version)
        case (
            ask.ApproveAmendment()
            | ask.RejectAmendment()
            | ask.ApplyAmendment()
            | ask.WithdrawAmendment()
            | ask.AnswerAmendmentCharge()
        ):
            amended = order.amendments.get(command.request_id)
            if amended is None:
                raise RequestNotFound
            expected = request_etag(amended.version)
        case ask.AssignCase() | ask.RepairCase() | ask.DecideRepair():
            case = order.cases.get(command.case_id)
            if case is None:
                raise CaseNotFound
            expected = case_etag(case.version)
        case _:
            return
    check_match(envelope.if_match, expected)


def check_match(given: str | None, expected: str) -> None:
    """428 · 400 · 412 of one If-Match against the ETag that stands."""
    if given is None:
        raise PreconditionRequired
    given = given.strip()
    if given == "*":
        raise VersionStale("Name the version that you have read; '*' names none.")
    tags = [tag.strip() for tag in given.split(",")]
    parsed = [_ETAG.fullmatch(tag) for tag in tags]
    if not all(parsed):
        raise Malformed('If-Match takes the ETag as it was given, in quotes: "order-version-17".')
    if not any(match and not match[1] and tag == expected for match, tag in zip(parsed, tags, strict=True)):
        raise VersionStale
