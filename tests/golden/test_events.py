"""What the world receives: every type has its schema and its example, and no record says more than they do."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from domain import commands as ask
from domain.events import EVENT_TYPES
from domain.values import Actor
from tests.builders import an_item, an_order
from tests.golden.telling import FOLDER as GOLDEN
from tests.golden.telling import UNREACHED, golden, records, render, tell_stories
from tests.stories import ACCEPTED, FIBER, REFUSED, Recorder, answers, hear, undo
from workers.contracts import CONTRACTS, FOLDER, describe_event, describe_headers, render_files

AGAIN = "`python -m workers.contracts` writes it again"
KIND_OF = {name: kind for kind, name in EVENT_TYPES.items()}
REACHED = sorted(name for kind, name in EVENT_TYPES.items() if kind not in UNREACHED)


def validate(schema: dict[str, Any], value: Any) -> list[str]:
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


# -- the table ------------------------------------------------------------------------------------------------


def test_every_kind_has_its_contract() -> None:
    assert CONTRACTS.keys() == EVENT_TYPES.keys()
    assert len(set(EVENT_TYPES.values())) == len(EVENT_TYPES)


def test_the_names_of_the_lesson_stand() -> None:
    """Those of the subjects that are here; cancellation, follow-up orders and assets."""
    assert {
        "OrderCancellationRequested",
        "OrderCancellationAssessed",
        "OrderCancellationRejected",
        "OrderCompensationStarted",
        "OrderCompensationCompleted",
        "OrderCancelled",
        "OrderCancellationFalloutCreated",
        "SupplementalOrderCreated",
        "SupplementalOrderLinked",
        "AssetModificationOrderStarted",
        "AssetModificationOrderCompleted",
    } <= set(EVENT_TYPES.values())


def test_every_kind_is_told_by_some_story() -> None:
    told = {record["value"]["kind"] for record in records()}
    assert EVENT_TYPES.keys() - told == UNREACHED.keys()


# -- the files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "text"), list(render_files()), ids=lambda value: value if len(value) < 60 else "")
def test_the_published_files_are_those_of_the_table(path: str, text: str) -> None:
    assert (FOLDER / path).is_file(), AGAIN
    assert (FOLDER / path).read_text(encoding="utf-8") == text, AGAIN


def test_no_schema_is_left_of_a_type_that_is_gone() -> None:
    assert {path.stem for path in (FOLDER / "schemas").glob("*.json")} == set(EVENT_TYPES.values()), AGAIN


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_a_schema_is_one(kind: str) -> None:
    Draft202012Validator.check_schema(describe_event(kind))
    Draft202012Validator.check_schema(describe_event(kind, closed=True))


@pytest.mark.parametrize("name", REACHED)
def test_a_golden_record_is_what_the_world_receives(name: str) -> None:
    """Changing one is a decision: `python -m tests.golden.telling` writes them again."""
    path = GOLDEN / f"{name}.json"
    assert path.is_file(), f"{name} has no example: `python -m tests.golden.telling`"
    assert path.read_text(encoding="utf-8") == render(golden()[name])
    record = json.loads(path.read_text(encoding="utf-8"))
    published = json.loads((FOLDER / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    assert validate(published, record["value"]) == []


def test_no_golden_record_is_left_over() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == REACHED


# -- the records ----------------------------------------------------------------------------------------------


def test_every_record_of_every_story_keeps_its_contract_to_the_letter() -> None:
    """Closed: a member that no contract names fails here, though readers out there must let it pass."""
    schemas = {kind: describe_event(kind, closed=True) for kind in EVENT_TYPES}
    validators = {
        kind: Draft202012Validator(schema, format_checker=FormatChecker()) for kind, schema in schemas.items()
    }
    for record in records():
        value = record["value"]
        problems = [error.message for error in validators[value["kind"]].iter_errors(value)]
        assert problems == [], value
        assert validate(describe_headers(record["headers"]["ce_type"]), record["headers"]) == []


def test_every_optional_member_is_told_by_some_story() -> None:
    """And every required one by all; so the table says neither too much nor too little."""
    told: dict[str, set[str]] = defaultdict(set)
    for record in records():
        told[record["value"]["kind"]] |= record["value"]["data"].keys()
    for kind, contract in CONTRACTS.items():
        if kind not in UNREACHED:
            assert told[kind] == {*contract.data, *contract.sometimes}, kind


def test_versions_count_from_one_and_ids_are_never_used_twice() -> None:
    by_order: dict[str, list[int]] = defaultdict(list)
    for record in records():
        by_order[record["key"]].append(int(record["headers"]["ce_orderversion"]))
    assert all(versions == list(range(1, len(versions) + 1)) for versions in by_order.values())
    ids = [record["headers"]["ce_id"] for record in records()]
    assert len(set(ids)) == len(ids)


# -- the topic's document -------------------------------------------------------------------------------------


def pointers(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            if key == "$ref":
                yield child
            else:
                yield from pointers(child)
    elif isinstance(value, list):
        for child in value:
            yield from pointers(child)


def test_the_topics_document_is_whole() -> None:
    """AsyncAPI 3.0: every reference leads somewhere, every message is sent, has a key, headers and a schema."""
    document = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text(encoding="utf-8"))
    assert re.fullmatch(r"3\.0\.\d+", document["asyncapi"])
    assert {"title", "version"} <= document["info"].keys()
    for pointer in pointers(document):
        if pointer.startswith("#/"):
            target: Any = document
            for part in pointer[2:].split("/"):
                target = target[part]
        else:
            assert (FOLDER / pointer).is_file(), pointer
    [channel] = document["channels"].values()
    [operation] = document["operations"].values()
    assert (channel["address"], operation["action"]) == ("order-changes", "send")
    assert len(channel["messages"]) == len(operation["messages"]) == len(EVENT_TYPES)
    assert all(message["$ref"].startswith("#/channels/") for message in operation["messages"])
    for name, message in document["components"]["messages"].items():
        assert message["name"] == f"recourse.{name}.v1"
        assert message["summary"] == CONTRACTS[KIND_OF[name]].says
        assert message["payload"]["schema"]["$ref"] == f"./schemas/{name}.json"
        Draft202012Validator.check_schema(message["headers"])
        assert message["bindings"]["kafka"]["key"]["format"] == "uuid"


# -- people ---------------------------------------------------------------------------------------------------

CANARY = "canary-7f3a"


def tell_of_a_person() -> Recorder:
    """An order in which everything that a person or a system may write freely says the same word."""
    world = Recorder()
    said = {"state": "CONFIRMED", "external_reference": f"{CANARY}-ref", "output": {"note": CANARY, "captured": 100}}
    person = Actor(f"{CANARY}-agent", frozenset({"agent"}))
    approver = Actor(f"{CANARY}-approver", frozenset({"approver"}))
    operator = Actor(f"{CANARY}-operator", frozenset({"operator"}))
    address = {"street": CANARY, "city": CANARY, "postalCode": CANARY, "country": "DE"}
    order = an_order(
        an_item(content={"configuration": {"deviceModel": CANARY}, "price": {"amountMinor": 1, "currency": "EUR"}}),
        customer={"id": CANARY, "name": CANARY},
        contact={"name": CANARY, "phone": CANARY, "email": f"{CANARY}@example.org"},
        deliveryNote=CANARY,
        deliveryAddress=address,
        installationAddress=address,
    )
    outside = answers()
    world.do(order, person)
    world.decompose()
    refused = {**REFUSED, "reason": CANARY}
    world.run_flow(answers(reserve_inventory=refused), only={"reserve-inventory"})
    case = world.open_case()
    world.do(ask.AssignCase(world.order_id, case.case_id, f"{CANARY}-operator"), operator)
    shown = ask.RecordRepair(
        world.order_id, case.case_id, world.the_order.head.run, case.wait_key, CANARY, CANARY, CANARY
    )
    world.do(shown, operator)
    world.do(ask.RepairCase(world.order_id, case.case_id, "RETRY", "SYSTEM_RECOVERED", CANARY), operator)
    world.do(ask.HoldOrder(world.order_id, CANARY), operator)
    world.do(ask.ReleaseOrder(world.order_id, CANARY), operator)
    world.run_flow(lambda _: said, only=set(FIBER[:3]))
    world.run_flow(answers(ship_device=ACCEPTED), only={"ship-device"})
    hear(world, "ship-device", said)
    hear(world, "ship-device", refused)
    request = world.cancel(actor=person, reason_text=CANARY)
    request = world.judge(request)
    for decision in (None, "approve"):
        review = ask.RecordReview(
            world.order_id, request.request_id, request.run, request.wait_key, CANARY, decision, CANARY
        )
        world.do(review, operator if decision else approver)
    world.do(ask.ApproveCancellation(world.order_id, request.request_id, CANARY), approver)
    undo(world, request, answers(cancel_appointment=refused))
    world.do(ask.RepairCase(world.order_id, world.open_case().case_id, "RETRY", "SYSTEM_RECOVERED", CANARY), operator)
    world.run_flow(outside)
    assert world.the_order.head.has_ended
    return world


def test_nobody_is_named_in_what_leaves_us() -> None:
    """Not in events, not in what the engine is told, not in what a case or a review is called."""
    world = tell_of_a_person()
    assert CANARY not in json.dumps(world.told)
    for message in world.messages:
        assert CANARY not in json.dumps([message.name, message.key, dict(message.variables)])
    assert world.the_order.cases
    for case in world.the_order.cases.values():
        assert CANARY not in case.title
    kinds = {row["payload"]["kind"] for row in world.told}
    assert {"REPAIR_REFUSED", "DECISION_REFUSED", "OUTCOME_CONTRADICTED", "ORDER_HELD", "CASE_OPENED"} <= kinds


def test_the_engine_is_told_ids_and_nothing_else() -> None:
    uuid = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    for world in tell_stories():
        for message in world.messages:
            assert all(uuid.fullmatch(value) for value in message.variables.values()), message
            assert uuid.fullmatch(message.key.split(":")[0]), message
            assert len(json.dumps(dict(message.variables))) < 2000
