"""Orders in and out of PostgreSQL: rows to frozen dataclasses and back. It must never decide what a row means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson

from domain.audit import GENESIS, AuditEntry
from domain.events import EVENT_TYPES
from domain.ledger import Effect
from domain.order import (
    Amendment,
    Asset,
    Beyond,
    Case,
    Cause,
    CompensationPlan,
    Draft,
    Head,
    Item,
    Order,
    Plan,
    Request,
    Surroundings,
    Task,
)
from domain.policy import TaskType
from domain.store.pool import Connection, fetch_row, run
from domain.store.queries import load_queries
from domain.values import AssetId, CaseId, EffectId, Json, OrderId, RequestId, TaskId, TenantId, alter, derive_id

_SQL = load_queries("orders")
Row = dict[str, Any]


# -- receipts ---------------------------------------------------------------------------------------------


async def claim_receipt(connection: Connection, tenant_id: TenantId, command_id: UUID, fingerprint: str) -> bool:
    """True for the one that carries the command out; False where an answer is there already."""
    row = await fetch_row(
        connection, _SQL["claim_receipt"], tenant_id=tenant_id, command_id=command_id, fingerprint=fingerprint
    )
    return row is not None


async def read_receipt(connection: Connection, tenant_id: TenantId, command_id: UUID) -> tuple[str, Json] | None:
    """(fingerprint, answer) of a command that has been carried out."""
    row = await fetch_row(connection, _SQL["read_receipt"], tenant_id=tenant_id, command_id=command_id)
    return (row["fingerprint"], orjson.loads(row["answer"])) if row else None


# -- reading ------------------------------------------------------------------------------------------------


async def lock_order(connection: Connection, tenant_id: TenantId, order_id: OrderId) -> bool:
    """Take the order's row; everything under it is guarded by that one lock. False where there is no such order."""
    return await fetch_row(connection, _SQL["lock_order"], tenant_id=tenant_id, order_id=order_id) is not None


async def load_order(
    connection: Connection, tenant_id: TenantId, order_id: OrderId
) -> tuple[Order | None, datetime, int | None]:
    """The whole order, the database's time, and the version of the policy in force (None: there is none)."""
    row = await fetch_row(connection, _SQL["load_order"], tenant_id=tenant_id, order_id=order_id)
    assert row is not None
    document = orjson.loads(row["document"])
    now = datetime.fromisoformat(document["now"])
    return (read_order(document) if document["head"] else None), now, document["policy"]


async def load_neighbourhood(
    connection: Connection,
    tenant_id: TenantId,
    order_id: OrderId,
    *,
    task_id: TaskId | None = None,
    effect_id: EffectId | None = None,
) -> tuple[Order, datetime, int | None] | None:
    """One task (or the task of one effect) and what touches it; None where the whole order must be looked at."""
    row = await fetch_row(
        connection,
        _SQL["load_neighbourhood"],
        tenant_id=tenant_id,
        order_id=order_id,
        task_id=task_id,
        effect_id=effect_id,
    )
    if row is None:
        return None
    document = orjson.loads(row["document"])
    order = replace(read_order(document), beyond=Beyond(document["at_work"], document["waiting"]))
    return order, datetime.fromisoformat(document["now"]), document["policy"]


async def load_surroundings(
    connection: Connection, tenant_id: TenantId, asset_ids: Iterable[UUID], target_ids: Collection[OrderId] = ()
) -> tuple[Surroundings, datetime, int | None]:
    """What the acceptance of a new order looks at, the database's time, and the policy in force."""
    row = await fetch_row(
        connection,
        _SQL["load_surroundings"],
        tenant_id=tenant_id,
        asset_ids=list(asset_ids),
        target_ids=list(target_ids),
    )
    assert row is not None
    document = orjson.loads(row["document"])
    assets = [_read_asset(r) for r in document["assets"] or ()]
    relying = [_read_asset(r) for r in document["relying"] or ()]
    now = datetime.fromisoformat(document["now"])
    older = {OrderId(_id(order)) for order, created_at in document["older"] or () if _time(created_at) < now}
    around = Surroundings(
        {asset.asset_id: asset for asset in assets},
        {a.asset_id: tuple(r for r in relying if str(a.asset_id) in r.relies_on) for a in assets},
        {AssetId(_id(asset)): OrderId(_id(holder)) for asset, holder in document["holders"] or ()},
        frozenset(AssetId(_id(asset)) for asset in document["doubtful"] or ()),
        not_older=frozenset(target_ids) - older,
    )
    return around, now, document["policy"]


async def load_target(
    connection: Connection, tenant_id: TenantId, order_id: OrderId, target: OrderId | None, kind: str
) -> Surroundings:
    """The order that a new relation of this one would point to."""
    row = await fetch_row(
        connection, _SQL["load_target"], tenant_id=tenant_id, order_id=order_id, target=target, kind=kind
    )
    return (
        Surroundings(target=(row["created_at"], OrderId(row["order_id"])), related=row["related"])
        if row
        else Surroundings()
    )


async def load_cause(
    connection: Connection, tenant_id: TenantId, order_id: OrderId, source_id: OrderId, request_id: RequestId
) -> Surroundings:
    """The cancellation of another order, as it is committed now."""
    row = await fetch_row(
        connection,
        _SQL["load_cause"],
        tenant_id=tenant_id,
        order_id=order_id,
        source_id=source_id,
        request_id=request_id,
    )
    return Surroundings(cause=Cause(row["status"], tuple(row["grounds"]), row["owed"]) if row else None)


def read_order(document: Mapping[str, Any]) -> Order:
    """One JSON document, as `load_order` builds it, to the aggregate."""
    edges: dict[str, list[TaskId]] = {}
    for task_id, depends_on in document["edges"] or ():
        edges.setdefault(task_id, []).append(TaskId(_id(depends_on)))
    tasks = [_read_task(row) for row in document["tasks"] or ()]
    tasks += [_read_undoing(row, edges.get(row["task_id"], ())) for row in document["undoings"] or ()]
    holds: dict[TaskId, frozenset[str]] = {}
    for row in document["holds"] or ():
        task_id = TaskId(_id(row["task_id"]))
        holds[task_id] = holds.get(task_id, frozenset()) | {row["holder"]}
    return Order(
        head=_read_head({**document["head"], **document["audit"]}),
        items={row["item_id"]: read_item(row) for row in document["items"] or ()},
        plan=_read_plan(document["plan"]) if document["plan"] else None,
        tasks={task.task_id: task for task in tasks},
        effects={effect.effect_id: effect for effect in map(_read_effect, document["effects"] or ())},
        holds=holds,
        requests={request.request_id: request for request in map(_read_request, document["requests"] or ())},
        amendments={found.request_id: found for found in map(_read_amendment, document["amendments"] or ())},
        plans={plan.plan_id: plan for plan in map(_read_compensation_plan, document["plans"] or ())},
        cases={case.case_id: case for case in map(_read_case, document["cases"] or ())},
        assets={asset.asset_id: asset for asset in map(_read_asset, document["assets"] or ())},
        order_holds=frozenset(document["head"]["order_holds"]),
        busy_assets={AssetId(_id(asset)): OrderId(_id(holder)) for asset, holder in document["busy"] or ()},
        relying=_read_relying(document["relying"] or ()),
        dependents={OrderId(_id(dependent)): kind for dependent, kind in document["dependents"] or ()},
    )


def _read_relying(rows: Iterable[Sequence[str]]) -> dict[AssetId, dict[AssetId, str]]:
    relying: dict[AssetId, dict[AssetId, str]] = {}
    for base, asset_id, offering in rows:
        relying.setdefault(AssetId(_id(base)), {})[AssetId(_id(asset_id))] = offering
    return relying


@lru_cache(maxsize=16_384)
def _id(value: str) -> Any:
    """The same ids stand in many rows of an order, and its commands come one after the other."""
    return UUID(value)


def _uuid(value: str | None) -> Any:
    return _id(value) if value else None


def _time(value: str | None) -> Any:
    return datetime.fromisoformat(value) if value else None


def _read_head(row: Row) -> Head:
    return Head(
        tenant_id=_uuid(row["tenant_id"]),
        order_id=_uuid(row["order_id"]),
        external_id=row["external_id"],
        order_type=row["order_type"],
        state=row["state"],
        base=row["base"],
        resume_state=row["resume_state"],
        version=row["version"],
        sequence=row["sequence"],
        chain=bytes.fromhex(row["chain"][2:]),
        content=row["content"],
        policy_version=row["policy_version"],
        plan_version=row["plan_version"],
        run=_uuid(row["run"]),
        created_at=_time(row["created_at"]),
        updated_at=_time(row["updated_at"]),
        ended_at=_time(row["ended_at"]),
        start_key=row["start_key"],
    )


def read_item(row: Row) -> Item:
    return Item(
        item_id=row["item_id"],
        action=row["action"],
        offering=row["offering"],
        state=row["state"],
        base=row["base"],
        quantity=row["quantity"],
        ordered_quantity=row["ordered_quantity"],
        content=row["content"],
        parent=row["parent"],
        relies_on=tuple(row["relies_on"]),
        target_asset=_uuid(row["target_asset"]),
        asset=_uuid(row["asset"]),
        snapshot=row["snapshot"],
    )


def _read_types(rows: Mapping[str, Json]) -> dict[str, TaskType]:
    return {name: _read_type(orjson.dumps(row)) for name, row in rows.items()}


@lru_cache(maxsize=4096)
def _read_type(row: bytes) -> TaskType:
    """Plans carry the types of their day, nearly all the same ones: each is made once, never changes, and is shared."""
    return TaskType.from_json(orjson.loads(row))


def _read_plan(row: Row) -> Plan:
    return Plan(
        plan_id=_uuid(row["plan_id"]),
        version=row["version"],
        run=_uuid(row["run"]),
        types=_read_types(row["types"]),
        policy_version=row["policy_version"],
        closed=row["closed"],
        woken=row["woken"],
    )


def _read_compensation_plan(row: Row) -> CompensationPlan:
    return CompensationPlan(
        plan_id=_uuid(row["plan_id"]),
        request_id=_uuid(row["request_id"]),
        state=row["state"],
        run=_uuid(row["run"]),
        types=_read_types(row["types"]),
        created_at=_time(row["created_at"]),
        closed=row["closed"],
        woken=row["woken"],
        committed_at=_time(row["committed_at"]),
        completed_at=_time(row["completed_at"]),
        amendment_id=_uuid(row["amendment_id"]),
        purpose=row["purpose"],
    )


def _read_task(row: Row) -> Task:
    return Task(
        task_id=_uuid(row["task_id"]),
        kind="FULFILLMENT",
        plan_id=_uuid(row["plan_id"]),
        step=row["step"],
        task_type=row["task_type"],
        item_ids=tuple(row["item_ids"]),
        state=row["state"],
        depends_on=tuple(TaskId(_id(value)) for value in row["depends_on"]),
        unmet=row["unmet"],
        release=row["release"],
        handed=row["handed"],
        effect_id=_uuid(row["effect_id"]),
        plan_version=row["plan_version"],
        superseded_by=_uuid(row["superseded_by"]),
        started_at=_time(row["started_at"]),
        ended_at=_time(row["ended_at"]),
        replaced_input=row["replaced_input"],
    )


def _read_undoing(row: Row, depends_on: Iterable[TaskId]) -> Task:
    return Task(
        task_id=_uuid(row["task_id"]),
        kind="COMPENSATION",
        plan_id=_uuid(row["plan_id"]),
        step=row["step"],
        task_type=row["task_type"],
        item_ids=tuple(row["item_ids"]),
        state=row["state"],
        depends_on=tuple(depends_on),
        unmet=row["unmet"],
        release=row["release"],
        handed=row["handed"],
        effect_id=_uuid(row["effect_id"]),
        original_task=_uuid(row["original_task"]),
        reverses=_uuid(row["reverses"]),
        purpose=row["purpose"],
        started_at=_time(row["started_at"]),
        ended_at=_time(row["ended_at"]),
        replaced_input=row["replaced_input"],
    )


def _read_effect(row: Row) -> Effect:
    return Effect(
        effect_id=_uuid(row["effect_id"]),
        task_id=_uuid(row["task_id"]),
        task_type=row["task_type"],
        system=row["system"],
        operation=row["operation"],
        level=row["level"],
        state=row["state"],
        input=row["input"],
        intended_at=_time(row["intended_at"]),
        attempt=row["attempt"],
        failures=row["failures"],
        lease_until=_time(row["lease_until"]),
        called_at=_time(row["called_at"]),
        accepted_at=_time(row["accepted_at"]),
        unknown_since=_time(row["unknown_since"]),
        missed_at=_time(row["missed_at"]),
        settled_at=_time(row["settled_at"]),
        basis=row["basis"],
        reverses=_uuid(row["reverses"]),
        withdraws=_uuid(row["withdraws"]),
        reversed_by=_uuid(row["reversed_by"]),
        external_reference=row["external_reference"],
        output=row["output"],
        reason=row["reason"],
    )


def _read_request(row: Row) -> Request:
    return Request(
        request_id=_uuid(row["request_id"]),
        status=row["status"],
        scope=row["scope"],
        item_ids=tuple(row["item_ids"]),
        reason_code=row["reason_code"],
        reason_text=row["reason_text"],
        requested_by=row["requested_by"],
        on_behalf_of=row["on_behalf_of"],
        claimed_at=_time(row["claimed_at"]),
        requested_at=_time(row["requested_at"]),
        run=_uuid(row["run"]),
        quantities=row["quantities"],
        version=row["version"],
        force_manual_review=row["force_manual_review"],
        round=row["round"],
        waiting=row["waiting"],
        grace_until=_time(row["grace_until"]),
        sla_at=_time(row["sla_at"]),
        assessed_at=_time(row["assessed_at"]),
        assessment=row["assessment"],
        fingerprint=row["fingerprint"],
        policy_version=row["policy_version"],
        charge=row["charge"],
        approval=row["approval"],
        dispositions=row["dispositions"],
        decisions=tuple(row["decisions"]),
        proposals=tuple(row["proposals"]),
        refused_withdrawals=tuple(EffectId(_id(value)) for value in row["refused_withdrawals"]),
        plan_id=_uuid(row["plan_id"]),
        outcome=row["outcome"],
        jeopardy=row["jeopardy"],
        committed_at=_time(row["committed_at"]),
        ended_at=_time(row["ended_at"]),
        repairs_case=_uuid(row["repairs_case"]),
        dependents=tuple(OrderId(UUID(value)) for value in row["dependents"]),
    )


def _read_amendment(row: Row) -> Amendment:
    return Amendment(
        request_id=_uuid(row["request_id"]),
        status=row["status"],
        reason_code=row["reason_code"],
        requested_by=row["requested_by"],
        on_behalf_of=row["on_behalf_of"],
        claimed_at=_time(row["claimed_at"]),
        requested_at=_time(row["requested_at"]),
        run=_uuid(row["run"]),
        changes=tuple(row["changes"]),
        version=row["version"],
        allow_partial=row["allow_partial"],
        auto_apply=row["auto_apply"],
        repairs_case=_uuid(row["repairs_case"]),
        round=row["round"],
        waiting=row["waiting"],
        grace_until=_time(row["grace_until"]),
        sla_at=_time(row["sla_at"]),
        assessed_at=_time(row["assessed_at"]),
        assessment=row["assessment"],
        fingerprint=row["fingerprint"],
        policy_version=row["policy_version"],
        quote=row["quote"],
        quote_plan=_uuid(row["quote_plan"]),
        charge=row["charge"],
        approval=row["approval"],
        decisions=tuple(row["decisions"]),
        plan_id=_uuid(row["plan_id"]),
        new_plan_version=row["new_plan_version"],
        outcome=row["outcome"],
        jeopardy=row["jeopardy"],
        applied_at=_time(row["applied_at"]),
        ended_at=_time(row["ended_at"]),
    )


def _read_case(row: Row) -> Case:
    return Case(
        case_id=CaseId(_uuid(row["case_id"])),
        status=row["status"],
        context=row["context"],
        category=row["category"],
        blocking=row["blocking"],
        title=row["title"],
        opened_at=_time(row["opened_at"]),
        sla_at=_time(row["sla_at"]),
        task_id=_uuid(row["task_id"]),
        effect_id=_uuid(row["effect_id"]),
        request_id=_uuid(row["request_id"]),
        owner=row["owner"],
        incident_key=row["incident_key"],
        version=row["version"],
        repairs=tuple(row["repairs"]),
        resolution=row["resolution"],
        jeopardy=row["jeopardy"],
        closed_at=_time(row["closed_at"]),
    )


def _read_asset(row: Row) -> Asset:
    return Asset(
        asset_id=AssetId(_uuid(row["asset_id"])),
        customer_id=row["customer_id"],
        offering=row["offering"],
        configuration=row["configuration"],
        state=row["state"],
        version=row["version"],
        references=row["system_references"],
        relies_on=tuple(row["relies_on"]),
        installed_by=_uuid(row["installed_by"]),
        quantity=row["quantity"],
    )


# -- writing ----------------------------------------------------------------------------------------------------


async def write_draft(
    connection: Connection, draft: Draft, *, command_id: UUID, answer: Json, trace_parent: str | None
) -> None:
    """Everything that the draft touched, its audit and its messages, and the answer into the receipt: one statement.

    Raises asyncpg.UniqueViolationError where another order holds an asset or an external id.
    """
    rows = draft_rows(draft, trace_parent)
    rows["answer"] = answer
    await write_rows(connection, rows, tenant_id=draft.head.tenant_id, command_id=command_id)


async def write_rows(connection: Connection, rows: dict[str, Any], *, tenant_id: TenantId, command_id: UUID) -> None:
    """Rows per table as `draft_rows` makes them, in one statement."""
    await run(connection, _SQL["write_order"], rows=dump_rows(rows), tenant_id=tenant_id, command_id=command_id)


def dump_rows(rows: dict[str, Any]) -> str:
    """The rows as the JSON document that the statement takes."""
    return orjson.dumps(rows, default=_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS).decode()


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, UUID):
        return str(value)  # of asyncpg's own kind, which orjson does not know
    if isinstance(value, frozenset | set):
        return sorted(str(item) for item in value)
    if isinstance(value, TaskType):
        return value.to_json()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def _row(value: Any, **more: Any) -> Row:
    return {**vars(value), **more}


# The flags of a W3C traceparent whose trace is recorded.
_RECORDED: Final = "-01"


def draft_rows(draft: Draft, trace_parent: str | None) -> dict[str, Any]:
    """The rows per table, each as a plain dict whose keys are its columns."""
    before = draft.before
    own = {"tenant_id": draft.head.tenant_id, "order_id": draft.head.order_id}
    entries = chain_events(draft)
    if entries:
        draft.change_head(sequence=entries[-1].sequence, chain=entries[-1].hash)
    rows: dict[str, Any] = {
        "order_item": [
            _row(item, position=position, **own)
            for position, item in enumerate(draft.items.values())
            if item is not before.items.get(item.item_id)
        ],
        "fulfillment_plan": [
            _row(plan, **own)
            for plan in (*draft.former_plans, *([draft.plan] if draft.plan and draft.plan is not before.plan else []))
        ],
        "effect": _touched(draft.effects, before.effects, own),
        "external_call_attempt": [_row(attempt, **own) for attempt in draft.attempts.values()],
        "cancellation_request": _touched(draft.requests, before.requests, own),
        "amendment_request": _touched(draft.amendments, before.amendments, own),
        "compensation_plan": _touched(draft.plans, before.plans, own),
        "fallout_case": _touched(draft.cases, before.cases, own),
        "asset": [
            _row(asset, system_references=asset.references, **own)
            for asset in draft.assets.values()
            if asset is not before.assets.get(asset.asset_id)
        ],
        "lock": [own | {"asset_id": asset_id} for asset_id in sorted(draft.locks_taken)],
        "unlock": [own] if draft.locks_released else [],
    }
    tasks = [task for task in draft.tasks.values() if task is not before.tasks.get(task.task_id)]
    rows["fulfillment_task"] = [_row(task, **own) for task in tasks if task.kind == "FULFILLMENT"]
    rows["compensation_task"] = [_row(task, **own) for task in tasks if task.kind == "COMPENSATION"]
    rows["edge"] = [
        own | {"task_id": task.task_id, "depends_on": other}
        for task in tasks
        if task.kind == "COMPENSATION"
        for other in task.depends_on
        if task.task_id not in before.tasks or other not in before.tasks[task.task_id].depends_on
    ]
    rows["task_hold"], rows["unhold"] = _hold_rows(draft, own)
    rows["audit_entry"] = [_row(entry, tenant_id=draft.head.tenant_id) for entry in entries]
    rows["outbox"] = [
        _outbox_row(draft, entry, event.data, trace_parent) for entry, event in zip(entries, draft.events, strict=True)
    ]
    rows["order_relation"] = [
        {
            "tenant_id": draft.head.tenant_id,
            "order_relation_id": derive_id(draft.command_id, "relation", number),
            "source_order_id": draft.head.order_id,
            "target_order_id": relation["targetOrderId"],
            "relation_type": relation["type"],
            "reason_code": relation.get("reasonCode"),
            "created_at": draft.now,
            "created_by": draft.actor.subject,
        }
        for number, relation in enumerate(draft.relations)
    ]
    rows["dependence"] = [
        {"tenant_id": draft.head.tenant_id, "told_at": draft.now, **asdict(telling)}
        for telling in sorted(draft.tellings, key=lambda telling: telling.order_id)
    ]
    rows["heard"] = [{"tenant_id": draft.head.tenant_id, **asdict(telling)} for telling in draft.heard]
    rows["engine_outbox"] = [
        own
        | {
            "message_id": derive_id(draft.command_id, "message", number),
            "name": message.name,
            "correlation_key": message.key,
            "variables": {**message.variables, "tenant_id": str(draft.head.tenant_id)},
            "ttl": message.ttl,
            # Only what somebody records: the flow's jobs look for it.
            "trace_parent": trace_parent if trace_parent and trace_parent.endswith(_RECORDED) else None,
        }
        for number, message in enumerate(draft.messages)
    ]
    if entries:
        rows["audit_head"] = [own | {"sequence": draft.head.sequence, "chain": draft.head.chain}]
    if _own_row(draft.head) != _own_row(before.head) or not before.head.version:
        rows["customer_order"] = [_row(draft.head, order_holds=sorted(draft.order_holds))]
    rows["order_history"] = _history_rows(draft, rows)
    return rows


def _history_rows(draft: Draft, rows: Mapping[str, list[Row]]) -> list[Row]:
    """What this transaction writes of the order and its items, kept beside them for whoever asks how it stood then.

    What moved without an entry in the audit (which wait for its start date an order is in) was nobody's to see.
    """
    heads, items = rows.get("customer_order"), rows["order_item"]
    if not rows["audit_entry"] or not (heads or items):
        return []
    before = draft.before.head
    return [
        {
            "tenant_id": draft.head.tenant_id,
            "order_id": draft.head.order_id,
            "sequence": draft.head.sequence,
            "at": draft.now,
            "head": {name: heads[0][name] for name in heads[0].keys() - {"content", "chain"}} if heads else None,
            "content": draft.head.content if not before.version or draft.head.content != before.content else None,
            "items": items,
        }
    ]


def _own_row(head: Head) -> Row:
    """The order's row without the end of its audit: that goes on after the order has ended, in a row of its own."""
    return _row(head, sequence=0, chain=b"")


def _touched(now: Mapping[Any, Any], before: Mapping[Any, Any], own: Row) -> list[Row]:
    return [_row(value, **own) for key, value in now.items() if value is not before.get(key)]


def _hold_rows(draft: Draft, own: Row) -> tuple[list[Row], list[Row]]:
    placed: list[Row] = []
    taken: list[Row] = []
    for task_id, holders in draft.holds.items():
        old = draft.before.holds.get(task_id, frozenset())
        placed += [own | {"task_id": task_id, "holder": holder} for holder in holders - old]
        taken += [own | {"task_id": task_id, "holder": holder} for holder in old - holders]
    return placed, taken


def chain_events(draft: Draft) -> list[AuditEntry]:
    """The draft's events as links behind the order's last entry."""
    sequence, previous = draft.head.sequence, draft.head.chain or GENESIS
    entries: list[AuditEntry] = []
    for event in draft.events:
        sequence += 1
        open_entry = AuditEntry(
            order_id=draft.head.order_id,
            sequence=sequence,
            at=draft.now,
            actor=draft.actor.subject,
            on_behalf_of=draft.on_behalf_of,
            entity=event.entity,
            entity_id=event.entity_id,
            kind=event.kind,
            before=event.before,
            after=event.after,
            request_id=event.request_id,
            data={**event.data, "note": event.note} if event.note else event.data,
            previous_hash=previous,
        )
        previous = open_entry.expected_hash()
        entries.append(alter(open_entry, hash=previous))
    return entries


def _outbox_row(draft: Draft, entry: AuditEntry, told: Mapping[str, Json], trace_parent: str | None) -> Row:
    payload = {
        "orderId": entry.order_id,
        "orderState": draft.head.state,
        "sequence": entry.sequence,
        "kind": entry.kind,
        "entity": entry.entity,
        "entityId": entry.entity_id,
        "from": entry.before,
        "to": entry.after,
        "requestId": entry.request_id,
        "at": entry.at,
        "data": told,
    }
    return {
        "tenant_id": draft.head.tenant_id,
        "order_id": entry.order_id,
        "sequence": entry.sequence,
        "event_id": derive_id(entry.order_id, "event", entry.sequence),
        "type": f"recourse.{EVENT_TYPES[entry.kind]}.v1",
        "at": entry.at,
        "payload": payload,
        "trace_parent": trace_parent,
    }


# -- who stands in the way -------------------------------------------------------------------------------------


async def find_asset_holder(connection: Connection, tenant_id: TenantId, asset_ids: Iterable[UUID]) -> UUID | None:
    row = await fetch_row(connection, _SQL["find_asset_holder"], tenant_id=tenant_id, asset_ids=list(asset_ids))
    return row["order_id"] if row else None


async def find_external_id_holder(connection: Connection, tenant_id: TenantId, external_id: str) -> UUID | None:
    row = await fetch_row(connection, _SQL["find_external_id_holder"], tenant_id=tenant_id, external_id=external_id)
    return row["order_id"] if row else None
