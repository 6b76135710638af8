"""What the world may rely on in our events: a JSON Schema per type and the AsyncAPI document, made from one table. It
must never describe a field that no event has, nor leave one out.

`python -m workers.contracts` writes docs/events again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from domain.events import EVENT_TYPES
from domain.fallout import ACTIONS
from domain.machines import ENDED, MACHINES
from domain.values import ORDER_TYPES, RELATION_TYPES

Schema = dict[str, Any]

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "events"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _nullable(schema: Schema) -> Schema:
    kind = schema["type"]
    more = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [kind, "null"], **more}


ID: Final[Schema] = {"type": "string", "format": "uuid"}
TEXT: Final[Schema] = {"type": "string", "minLength": 1}
CODE: Final[Schema] = {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*([+][A-Z0-9_]+)*$"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
TRUTH: Final[Schema] = {"type": "boolean"}
MONEY: Final[Schema] = {
    "type": "object",
    "description": "An amount in integer minor units of one currency (ISO 4217).",
    "properties": {"amountMinor": {"type": "integer"}, "currency": {"type": "string", "pattern": "^[A-Z]{3}$"}},
    "required": ["amountMinor", "currency"],
}
SOURCE: Final = one_of("CALL", "CALLBACK", "VERIFICATION")
BASIS: Final = one_of("SYSTEM", "MANUAL")


@dataclass(frozen=True, slots=True)
class Contract:
    """One row per kind. to: whether the event moves a state · data: the members that are always there · sometimes:
    those that are there only where they have something to say"""

    entity: str
    says: str
    to: Literal["always", "sometimes", "never"]
    data: Mapping[str, Schema] = field(default_factory=dict)
    sometimes: Mapping[str, Schema] = field(default_factory=dict)


_CASE: Final[Mapping[str, Schema]] = {
    "context": one_of("FULFILLMENT", "COMPENSATION", "AMENDMENT", "RECONCILIATION", "LATE_EFFECT"),
    "category": one_of("TECHNICAL", "BUSINESS", "DATA", "CAPACITY", "UNKNOWN_OUTCOME"),
    "blocking": TRUTH,
    "title": TEXT,
    "taskId": _nullable(ID),
}

# Who holds, where it is not an operator: `order:{orderId}/{cancellationRequestId}`, or the id of a case.
_HOLDER: Final[Mapping[str, Schema]] = {"holder": TEXT}

CONTRACTS: Final[Mapping[str, Contract]] = {
    # -- the order
    "ORDER_ACCEPTED": Contract(
        "ORDER",
        "The order was taken in; it will be carried out.",
        "always",
        {"orderType": one_of(*ORDER_TYPES), "policyVersion": COUNT, "items": COUNT},
    ),
    "ORDER_VALIDATED": Contract("ORDER", "What may have changed since the order was taken in was checked.", "never"),
    "ORDER_REJECTED": Contract("ORDER", "The order can no longer be carried out.", "always", {"reason": TEXT}),
    "ORDER_DECOMPOSED": Contract(
        "ORDER",
        "A version of the fulfillment plan was stored as a whole.",
        "never",
        {"planVersion": COUNT, "tasks": COUNT, "policyVersion": COUNT},
    ),
    "ORDER_STATE_CHANGED": Contract("ORDER", "The shown state of a live order moved.", "always"),
    "ORDER_COMPLETED": Contract("ORDER", "The order has ended; all of it was delivered.", "always"),
    "ORDER_PARTIALLY_COMPLETED": Contract("ORDER", "The order has ended; a part of it was delivered.", "always"),
    "ORDER_CANCELLED": Contract("ORDER", "The order has ended; nothing of it stands outside.", "always"),
    "ORDER_FAILED": Contract("ORDER", "The order has ended; nothing was delivered and something failed.", "always"),
    "ORDER_HELD": Contract(
        "ORDER",
        "An operator, another order's cancellation or a case took hold of the whole order.",
        "never",
        {},
        _HOLDER,
    ),
    "ORDER_RELEASED": Contract("ORDER", "A hold of the whole order was taken away.", "never", {}, _HOLDER),
    "RELATION_ADDED": Contract(
        "ORDER",
        "The order was related to an older one.",
        "never",
        {"type": one_of(*RELATION_TYPES), "targetOrderId": ID},
    ),
    "SUPPLEMENTAL_CREATED": Contract(
        "ORDER",
        "The order was taken in to follow up another one.",
        "never",
        {"orderType": one_of(*ORDER_TYPES), "sourceOrderId": ID, "reasonCode": TEXT},
    ),
    "SUPPLEMENTAL_LINKED": Contract(
        "ORDER",
        "A new order follows this one up.",
        "never",
        {"newOrderId": ID, "orderType": one_of(*ORDER_TYPES), "type": one_of(*RELATION_TYPES)},
    ),
    "ASSET_MODIFICATION_STARTED": Contract(
        "ORDER", "The order locked the assets that it will change.", "never", {"assets": _list(ID)}
    ),
    "ASSET_MODIFICATION_COMPLETED": Contract(
        "ORDER",
        "The order has ended and its assets are free again.",
        "never",
        {"outcome": one_of(*sorted(ENDED["ORDER"]))},
    ),
    # -- its parts
    "ITEM_STATE_CHANGED": Contract("ITEM", "An item came into being or moved.", "always"),
    "TASK_STATE_CHANGED": Contract(
        "TASK",
        "A task, of fulfillment or of undoing, came into being or moved.",
        "always",
        {"step": TEXT, "type": TEXT},
    ),
    "EFFECT_STATE_CHANGED": Contract(
        "EFFECT",
        "What is known of an effect on an outside system changed.",
        "always",
        {"system": TEXT, "operation": TEXT, "taskId": ID},
        {"basis": BASIS},
    ),
    "EFFECT_ACCEPTED": Contract(
        "EFFECT", "The outside system took the work in; its outcome comes later.", "never", {"taskId": ID}
    ),
    "OUTCOME_CONTRADICTED": Contract(
        "EFFECT",
        "A system reported the opposite of what was recorded; nothing was changed by it.",
        "never",
        {"recorded": one_of(*MACHINES["EFFECT"]), "reported": one_of("CONFIRMED", "NO_EFFECT"), "source": SOURCE},
    ),
    "LATE_EFFECT": Contract(
        "EFFECT", "An effect that had been given up happened after all.", "never", {"taskId": ID, "source": SOURCE}
    ),
    # -- cancellation
    "CANCELLATION_REQUESTED": Contract(
        "REQUEST", "A cancellation was asked for.", "always", {"scope": one_of("ORDER", "ITEMS"), "reasonCode": CODE}
    ),
    "DEPENDENTS_HELD": Contract(
        "REQUEST",
        "Other orders, which depend on what would be cancelled, are held until it is decided and done.",
        "never",
        {"orders": _list(ID)},
    ),
    "CANCELLATION_ASSESSMENT_STARTED": Contract("REQUEST", "The cancellation waits for quiet.", "always"),
    "CANCELLATION_ASSESSED": Contract(
        "REQUEST",
        "It was found out what the cancellation would mean.",
        "never",
        {
            "feasibility": one_of(
                "FULLY_CANCELLABLE", "PARTIALLY_CANCELLABLE", "REQUIRES_MANUAL_REVIEW", "NOT_CANCELLABLE"
            ),
            "automatic": TRUTH,
            "policyVersion": COUNT,
            "estimatedCost": MONEY,
        },
    ),
    "CANCELLATION_REVIEW_REQUIRED": Contract("REQUEST", "A person must decide.", "always"),
    "CANCELLATION_AWAITS_CHARGE": Contract("REQUEST", "The customer must accept a charge first.", "always"),
    "CANCELLATION_STALE": Contract("REQUEST", "What was assessed has changed; it is assessed again.", "always"),
    "CANCELLATION_APPROVED": Contract(
        "REQUEST", "The cancellation will be carried out.", "always", {"automatic": TRUTH}
    ),
    "CANCELLATION_REJECTED": Contract(
        "REQUEST",
        "The cancellation will not be carried out; the order goes on.",
        "sometimes",
        {"outcome": CODE},
        {"blockers": _list(CODE)},
    ),
    "CANCELLATION_WITHDRAWN": Contract("REQUEST", "The asker changed their mind; the order goes on.", "always"),
    "CANCELLATION_SUPERSEDED": Contract("REQUEST", "A larger cancellation took this one's place.", "always"),
    "CANCELLATION_COMPENSATING": Contract("REQUEST", "What has happened is being undone.", "always"),
    "CANCELLATION_COMMITTED": Contract(
        "REQUEST",
        "From here the cancellation can only go forward. quantities: what is left, per item of which only a part goes.",
        "never",
        {},
        {"quantities": {"type": "object", "additionalProperties": COUNT}},
    ),
    "CANCELLATION_COMPLETED": Contract("REQUEST", "The cancellation has ended, wholly or in part.", "always"),
    "GRACE_EXPIRED": Contract(
        "REQUEST", "Work was still under way when the time to wait for it was over.", "never", {"running": _list(ID)}
    ),
    "CHARGE_OFFERED": Contract(
        "REQUEST", "Cancelling costs; an answer is awaited.", "never", {"code": CODE, "amount": MONEY}
    ),
    "CHARGE_ACCEPTED": Contract(
        "REQUEST",
        "The charge was accepted; collecting it is billing's business.",
        "never",
        {"code": CODE, "amount": MONEY},
    ),
    "CHARGE_DECLINED": Contract("REQUEST", "The charge was declined.", "never", {"code": CODE}),
    "CHARGE_EXPIRED": Contract("REQUEST", "The charge was not answered in time.", "never", {"code": CODE}),
    "CHARGE_WAIVED": Contract(
        "REQUEST",
        "A charge that was accepted is not owed after all: what it was for does not happen, or costs something else.",
        "never",
        {"code": CODE, "amount": MONEY},
    ),
    "DECISION_REFUSED": Contract(
        "REQUEST", "A decision was entered that does not count; the task is offered again.", "never", {"code": CODE}
    ),
    # -- amendment
    "AMENDMENT_REQUESTED": Contract(
        "REQUEST", "A change of the order's terms was asked for.", "always", {"reasonCode": CODE, "paths": _list(TEXT)}
    ),
    "AMENDMENT_QUEUED": Contract(
        "REQUEST",
        "Another change of the order goes first. behind: which request.",
        "always",
        {"behind": _nullable(ID)},
    ),
    "AMENDMENT_RESUMED": Contract("REQUEST", "What stood in the amendment's way is gone; it begins again.", "always"),
    "AMENDMENT_ASSESSMENT_STARTED": Contract("REQUEST", "The amendment is being judged.", "always"),
    "AMENDMENT_ASSESSED": Contract(
        "REQUEST",
        "It was found out what the amendment would mean.",
        "never",
        {
            "feasibility": one_of("APPLICABLE", "PARTIALLY_APPLICABLE", "REQUIRES_APPROVAL", "NOT_APPLICABLE"),
            "automatic": TRUTH,
            "policyVersion": COUNT,
            "estimatedCost": MONEY,
        },
    ),
    "RE_DECOMPOSITION_REQUIRED": Contract(
        "REQUEST",
        "The amendment needs a new version of the plan; tasks: how many would be done anew.",
        "never",
        {"planVersion": COUNT, "tasks": COUNT},
    ),
    "AMENDMENT_REVIEW_REQUIRED": Contract("REQUEST", "A person must decide about the amendment.", "always"),
    "AMENDMENT_AWAITS_CHARGE": Contract("REQUEST", "The customer must accept a charge first.", "always"),
    "AMENDMENT_STALE": Contract("REQUEST", "What was assessed has changed; it is assessed again.", "always"),
    "AMENDMENT_APPROVED": Contract("REQUEST", "The amendment may be applied.", "always", {"automatic": TRUTH}),
    "AMENDMENT_RELEASED": Contract("REQUEST", "A person said that the agreed amendment is to be applied.", "never"),
    "AMENDMENT_REJECTED": Contract(
        "REQUEST",
        "The amendment will not be applied; the order goes on as it was.",
        "always",
        {"outcome": CODE, "blockers": _list(CODE)},
    ),
    "AMENDMENT_APPLYING": Contract("REQUEST", "The amendment is being put into the order.", "always"),
    "AMENDMENT_APPLIED": Contract(
        "REQUEST",
        "The amendment is in the order, and what it had to undo has its outcome.",
        "always",
        {"paths": _list(TEXT), "planVersion": COUNT},
    ),
    "AMENDMENT_FAILED": Contract("REQUEST", "The amendment ended before all of it was done.", "always"),
    "AMENDMENT_WITHDRAWN": Contract("REQUEST", "The asker changed their mind; the order goes on.", "always"),
    "AMENDMENT_SUPERSEDED": Contract("REQUEST", "A newer or larger change took this one's place.", "always"),
    # -- compensation
    "COMPENSATION_PLANNED": Contract("PLAN", "A plan of undoings was stored as a whole.", "always"),
    "COMPENSATION_STARTED": Contract("PLAN", "Undoing begins, or begins again for a late effect.", "always"),
    "COMPENSATION_BLOCKED": Contract(
        "PLAN", "An undoing needs a person; those that do not wait for it go on.", "always"
    ),
    "COMPENSATION_RESUMED": Contract("PLAN", "No undoing needs a person any more.", "always"),
    "COMPENSATION_COMPLETED": Contract("PLAN", "Every undoing has ended.", "always"),
    "COMPENSATION_SUPERSEDED": Contract("PLAN", "The plan was given up before anything was undone.", "always"),
    "FLOW_RESTARTED": Contract(
        "PLAN ORDER REQUEST", "The flow that carries the plan out was started anew.", "never", {"reason": CODE}
    ),
    # -- failures and people
    "CASE_OPENED": Contract("CASE", "A failure needs a person.", "always", _CASE),
    "CANCELLATION_CASE_OPENED": Contract("CASE", "A failure of an undoing needs a person.", "always", _CASE),
    "AMENDMENT_CASE_OPENED": Contract("CASE", "A failure of an amendment needs a person.", "always", _CASE),
    "CASE_STATE_CHANGED": Contract("CASE", "A case moved.", "always", {}, {"resolution": CODE}),
    "CASE_CHANGED": Contract(
        "CASE",
        "The same case is about something else now, or stands in the way now.",
        "never",
        {},
        {name: _CASE[name] for name in ("category", "title", "context", "blocking")},
    ),
    "REPAIR_SUBMITTED": Contract(
        "CASE", "Somebody mends what failed.", "never", {"action": one_of(*ACTIONS), "reasonCode": CODE}
    ),
    "REPAIR_DECIDED": Contract(
        "CASE",
        "The second person agreed to a repair or refused it.",
        "never",
        {"action": one_of(*ACTIONS), "decision": one_of("APPROVED", "REJECTED")},
    ),
    "REPAIR_REFUSED": Contract(
        "CASE",
        "A repair was tried that does not count.",
        "never",
        {"action": _nullable(one_of(*ACTIONS))},
        {"code": CODE},
    ),
    "JEOPARDY_RAISED": Contract(
        "REQUEST CASE",
        "A deadline has been missed, or will be.",
        "never",
        {"reason": one_of("GRACE", "APPROVAL_SLA", "COMPENSATION_SLA", "CASE_SLA", "PREDICTED")},
    ),
}


# -- schemas ----------------------------------------------------------------------------------------------


def describe_event(kind: str, *, closed: bool = False) -> Schema:
    """The schema of the value of one type's records.

    Readers must let unknown members pass: a later release may add some. closed: refuse them, as our own tests do.
    """
    contract = CONTRACTS[kind]
    entities = contract.entity.split()
    states = [state for entity in entities for machine in _machines(entity, kind) for state in MACHINES[machine]]
    known = one_of(*dict.fromkeys(states))
    nothing: Schema = {"type": "null"}
    return {
        "$schema": DIALECT,
        "$id": f"urn:recourse:events:{EVENT_TYPES[kind]}.v1",
        "title": f"recourse.{EVENT_TYPES[kind]}.v1",
        "description": contract.says,
        **_object(
            {
                "orderId": ID,
                "orderState": {**one_of(*MACHINES["ORDER"]), "description": "The order's state after the transaction."},
                "sequence": {
                    "type": "integer",
                    "minimum": 1,
                    "description": "The order's version, as ce_orderversion.",
                },
                "kind": {"const": kind},
                "entity": {"const": entities[0]} if len(entities) == 1 else one_of(*entities),
                "entityId": TEXT if "ITEM" in entities else ID,
                "from": nothing if contract.to == "never" else _nullable(known),
                "to": {"always": known, "sometimes": _nullable(known), "never": nothing}[contract.to],
                "requestId": {**_nullable(ID), "description": "The change that this belongs to."},
                "at": {"type": "string", "format": "date-time"},
                "data": _object({**contract.data, **contract.sometimes}, list(contract.data), closed=closed),
            },
            closed=closed,
        ),
    }


def _machines(entity: str, kind: str) -> tuple[str, ...]:
    if entity == "REQUEST" and kind.startswith("AMENDMENT_"):
        return ("AMENDMENT",)
    return ("TASK", "COMPENSATION_TASK") if entity == "TASK" else (entity,)


def _object(members: Mapping[str, Schema], required: list[str] | None = None, *, closed: bool) -> Schema:
    needed = list(members) if required is None else required
    return {
        "type": "object",
        "properties": dict(members),
        **({"required": needed} if needed else {}),
        **({"additionalProperties": False} if closed else {}),
    }


def describe_headers(type_name: str) -> Schema:
    """CloudEvents 1.0 in binary mode: every header is text."""
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_id": {**ID, "description": "The same event, sent again, has the same id."},
            "ce_type": {"const": type_name},
            "ce_source": {"const": "/recourse"},
            "ce_subject": {**ID, "description": "The order."},
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_orderversion": {**text, "pattern": "^[1-9][0-9]*$", "description": "Counts an order's events from 1."},
            "ce_tenant": ID,
            "content-type": {"const": "application/json"},
            "traceparent": {
                **text,
                "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
                "description": "W3C trace context: of what caused it; else not recorded, with the order's id as trace.",
            },
        },
        "required": [
            "ce_specversion",
            "ce_id",
            "ce_type",
            "ce_source",
            "ce_subject",
            "ce_time",
            "ce_orderversion",
            "ce_tenant",
            "content-type",
            "traceparent",
        ],
    }


# -- documents --------------------------------------------------------------------------------------------


def describe_topic() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the topic."""
    names = list(EVENT_TYPES.values())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Recourse: order changes",
            "version": "1.0.0",
            "description": (
                "What happens to orders, told once it is committed. At least once, and per order in the order of its "
                "versions: a reader drops what it has seen by `ce_id`, and what is older than what it knows by "
                "`ce_orderversion`. Events tell what changed, never the whole order; no personal data are in them. "
                "Records are written in Kafka transactions: read with isolation level read_committed."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "variables": {"bootstrap": {"default": "127.0.0.1:9092", "description": "RECOURSE_KAFKA_BOOTSTRAP"}},
            }
        },
        "channels": {
            "orderChanges": {
                "address": "order-changes",
                "servers": [{"$ref": "#/servers/kafka"}],
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
                "bindings": {"kafka": {"topic": "order-changes", "partitions": 6, "bindingVersion": "0.5.0"}},
            }
        },
        "operations": {
            "tellOrderChanges": {
                "action": "send",
                "channel": {"$ref": "#/channels/orderChanges"},
                "messages": [{"$ref": f"#/channels/orderChanges/messages/{name}"} for name in names],
            }
        },
        "components": {"messages": {EVENT_TYPES[kind]: _message(kind) for kind in EVENT_TYPES}},
    }


def _message(kind: str) -> dict[str, Any]:
    name = EVENT_TYPES[kind]
    return {
        "name": f"recourse.{name}.v1",
        "title": name,
        "summary": CONTRACTS[kind].says,
        "contentType": "application/json",
        "headers": describe_headers(f"recourse.{name}.v1"),
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./schemas/{name}.json"},
        },
        "bindings": {"kafka": {"key": {**ID, "description": "The order."}, "bindingVersion": "0.5.0"}},
    }


def render_files() -> Iterator[tuple[str, str]]:
    """Every file below docs/events that is made here: its path there, and its text."""
    for kind, name in EVENT_TYPES.items():
        yield f"schemas/{name}.json", json.dumps(describe_event(kind), indent=2, ensure_ascii=False) + "\n"
    document = yaml.dump(
        describe_topic(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False
    )
    yield "asyncapi.yaml", "# Made by `python -m workers.contracts`.\n" + document


class _Plain(yaml.SafeDumper):
    """Without anchors: what is said twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def write_files(folder: Path = FOLDER) -> None:
    """Write docs/events again; schemas of types that are gone go too."""
    files = dict(render_files())
    (folder / "schemas").mkdir(parents=True, exist_ok=True)
    for path in (folder / "schemas").glob("*.json"):
        if f"schemas/{path.name}" not in files:
            path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_files()
