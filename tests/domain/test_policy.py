"""A policy is read whole or refused whole; one row of the tables below is one sentence of docs/policy.md."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.policy import (
    AMENDMENT_CLASSES,
    FEASIBILITIES,
    PHASES,
    REASON_KINDS,
    SAFETY_RESULTS,
    SHAPES,
    AmendableField,
    Charge,
    Children,
    EffectLevelAtLeast,
    FollowUp,
    Offering,
    PlanStep,
    PointOfNoReturn,
    PolicyInvalid,
    PriceAccepted,
    Problem,
    TaskInState,
    TaskType,
    VerifyRule,
    format_duration,
    parse_duration,
    parse_policy,
    policy_to_json,
    read_policy_text,
)
from domain.values import EFFECT_LEVELS, REVERSIBILITIES, Money

ROOT: Final = Path(__file__).parents[2]
TELECOM_TEXT: Final = (ROOT / "domain/telecom.policy.yaml").read_text()
ENERGY_TEXT: Final = (ROOT / "tests/policies/energy.policy.yaml").read_text()
DOCUMENT: Final = read_policy_text(TELECOM_TEXT)
TELECOM: Final = parse_policy(DOCUMENT)
ENERGY: Final = parse_policy(read_policy_text(ENERGY_TEXT))

GONE: Final = object()


def edited(changes: dict[str, Any]) -> dict[str, Any]:
    """The telecom document with some places written anew (`GONE`: removed; a list grows by `/-`)."""
    document = copy.deepcopy(dict(DOCUMENT))
    for pointer, value in changes.items():
        *parents, last = (part.replace("~1", "/") for part in pointer.split("/")[1:])
        place: Any = document
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        if value is GONE:
            del place[last]
        elif last == "-":
            place.append(value)
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return document


def problems_of(document: Any) -> tuple[Problem, ...]:
    with pytest.raises(PolicyInvalid) as refused:
        parse_policy(document)
    return refused.value.problems


def text_problem(text: str | bytes) -> str:
    with pytest.raises(PolicyInvalid) as refused:
        read_policy_text(text)
    (problem,) = refused.value.problems
    return problem.message


# -- what the shipped policies say ----------------------------------------------------------------------


def test_telecom_says_what_its_file_says() -> None:
    assert (TELECOM.name, TELECOM.currency) == ("telecom", "EUR")
    assert TELECOM.effective_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert TELECOM.systems[0] == "cpq"
    assert len(TELECOM.task_types) == 32
    assert TELECOM.reason_codes["cancellation"]["REGULATORY"].charge_waived
    assert not TELECOM.reason_codes["cancellation"]["REGULATORY"].refusable
    assert TELECOM.reason_codes["cancellation"]["FRAUD_SUSPECTED"].refusable
    assert TELECOM.cancellation.grace == timedelta(minutes=2)
    assert TELECOM.cancellation.closure.relies_on == "INCLUDE"
    assert TELECOM.amendment.approval["MANUAL"] == "APPROVAL"
    assert TELECOM.supplemental.on_partially_completed_source == "ALLOW"
    assert TELECOM.fallout_sla == timedelta(hours=4)


def test_a_task_type_carries_its_row() -> None:
    assert TELECOM.task_types["create-appointment"] == TaskType(
        name="create-appointment",
        system="appointment",
        operation="book",
        reversibility="PARTIAL",
        external_effect_level="CUSTOMER_VISIBLE",
        compensation="cancel-appointment",
        inputs=("/installationAddress", "/appointment", "/contact"),
        on_input_change="UNDO_THEN_DO",
        soft_point_of_no_return=PointOfNoReturn(
            "/appointment/start",
            timedelta(hours=24),
            Charge("LATE_APPOINTMENT_CANCELLATION", Money(2500, "EUR"), True, timedelta(days=2)),
        ),
        hard_point_of_no_return=PointOfNoReturn("/appointment/start", timedelta(0)),
    )
    assert TELECOM.task_types["ship-device"].follow_up == FollowUp("RETURN", "RETURN")


def test_what_a_row_does_not_say_has_the_default_of_the_format() -> None:
    said_nothing = ENERGY.task_types["file-paper"]
    assert said_nothing == TaskType(
        name="file-paper",
        system="archive",
        operation="file",
        reversibility="UNKNOWN",
        external_effect_level="UNKNOWN",
        irreversible_after_state=None,
        past_no_return="RETAIN",
        on_input_change="MANUAL",
        money_only=False,
        timeout=timedelta(seconds=10),
        attempts=3,
        backoff=timedelta(seconds=1),
        callback_timeout=timedelta(hours=1),
        verify=VerifyRule(timedelta(minutes=1), timedelta(hours=1)),
    )


@pytest.mark.parametrize(
    ("offering", "order_type", "action", "first_type"),
    [
        ("fiber-500", "STANDARD", "MODIFY", "modify-service"),
        ("fiber-500", "BILLING_ADJUSTMENT", "MODIFY", "change-billing"),  # the longer key wins
        ("fiber-100", "BILLING_ADJUSTMENT", "MODIFY", "change-billing"),  # same_as
        ("fiber-500", "STANDARD", "RETURN", "collect-device"),
    ],
)
def test_the_longer_plan_key_wins(offering: str, order_type: str, action: str, first_type: str) -> None:
    plan = TELECOM.offerings[offering].plan_for(order_type, action)
    assert plan is not None
    assert plan[0].type == first_type


def test_an_empty_plan_is_a_plan_and_an_absent_one_is_none() -> None:
    assert TELECOM.offerings["home-bundle"].plan_for("STANDARD", "ADD") == ()
    assert TELECOM.offerings["home-bundle"].plan_for("STANDARD", "RETURN") is None


def test_steps_name_what_they_wait_for() -> None:
    plan = TELECOM.offerings["static-ip"].plan_for("STANDARD", "ADD")
    assert plan is not None
    assert plan[1] == PlanStep("activate", "activate-service", ("assign", "reliesOn.activate"))
    assert list(plan[1].predecessors()) == [(None, "assign"), ("reliesOn", "activate")]
    fiber = TELECOM.offerings["fiber-500"].plan_for("STANDARD", "ADD")
    assert fiber is not None
    assert [step.step for step in fiber if step.per_order] == ["visit", "install"]


def test_same_as_takes_over_what_an_offering_does_not_say_itself() -> None:
    assert ENERGY.offerings["power-night"].plans == ENERGY.offerings["power-green"].plans
    assert ENERGY.offerings["power-green"].compatible_from == ("power-green", "power-basic")
    assert ENERGY.offerings["power-night"].compatible_from == ("power-basic",)
    assert TELECOM.offerings["fiber-100"].compatible_from == ("fiber-100", "fiber-500", "fiber-1000")


def test_a_cell_is_a_list_of_rules_whose_last_one_holds_always() -> None:
    fields = {row.field: row for row in (*TELECOM.amendable_fields, *ENERGY.amendable_fields)}
    picked, otherwise = fields["deviceModel"].safety["TASK_STARTED"]
    states = frozenset({"IN_PROGRESS", "WAITING_EXTERNAL", "OUTCOME_UNKNOWN", "COMPLETED"})
    assert picked.condition == TaskInState("ship-device", states)
    assert (picked.result, picked.reason) == ("BLOCKED", "the device has been picked")
    assert (otherwise.result, otherwise.condition) == ("REDECOMPOSE", None)
    assert [rule.rule_id for rule in (picked, otherwise)] == [
        "deviceModel/TASK_STARTED/0",
        "deviceModel/TASK_STARTED/1",
    ]
    (plain,) = fields["deviceModel"].safety["BEFORE_DECOMPOSITION"]
    assert (plain.rule_id, plain.result) == ("deviceModel/BEFORE_DECOMPOSITION", "ALLOWED")
    assert fields["price"].safety["BEFORE_DECOMPOSITION"][0].condition == PriceAccepted(True)
    level = fields["meterPoint"].safety["TASK_COMPLETED"][0].condition
    assert level == EffectLevelAtLeast("NETWORK_VISIBLE")
    assert [name for name in EFFECT_LEVELS if level.holds_for(name)] == ["NETWORK_VISIBLE", "LEGAL_VISIBLE", "UNKNOWN"]


@pytest.mark.parametrize(
    ("pointer", "field", "item", "inside"),
    [
        ("/contact/phone", "contactPhone", None, ()),
        ("/deliveryAddress", "deliveryAddress", None, ()),
        ("/deliveryAddress/postalCode", "deliveryAddress", None, ("postalCode",)),
        ("/items/1/quantity", "quantity", "1", ()),
        ("/items/a~1b/configuration/bandwidth", "bandwidth", "a/b", ()),
        ("/items/-", "itemAdd", None, ()),
        ("/items/1", "itemRemove", "1", ()),
        ("/items/1/price/amountMinor", "price", "1", ("amountMinor",)),
    ],
)
def test_a_pointer_finds_its_field(pointer: str, field: str, item: str | None, inside: tuple[str, ...]) -> None:
    match = TELECOM.match_field(pointer)
    assert match is not None
    assert (match.field.field, match.item_id, match.inside) == (field, item, inside)


@pytest.mark.parametrize("pointer", ["/contact", "/items", "/items/1/itemId", "/items/-/quantity", "", "contact/phone"])
def test_a_pointer_outside_the_policy_finds_nothing(pointer: str) -> None:
    assert TELECOM.match_field(pointer) is None


@pytest.mark.parametrize(
    ("field", "touched"),
    [
        ("quantity", {"reserve-inventory", "ship-device", "start-billing"}),
        ("appointment", {"create-appointment", "perform-visit"}),
        ("contactPhone", {"create-appointment", "collect-device"}),  # /contact is a prefix of it
        ("customerName", set()),
        ("itemAdd", set()),
    ],
)
def test_a_field_touches_the_types_whose_inputs_meet_its_path(field: str, touched: set[str]) -> None:
    row = next(row for row in TELECOM.amendable_fields if row.field == field)
    assert {name for name, kind in TELECOM.task_types.items() if row.touches_type(kind)} == touched


ADDRESS: Final = {"street": "Ringstr. 1", "city": "Bern", "postalCode": "3000", "country": "CH"}
WINDOW: Final = {"start": "2026-12-01T09:00:00+01:00", "end": "2026-12-01T12:00:00+01:00"}


@pytest.mark.parametrize(
    ("field", "value", "wrong_at"),
    [
        ("siteAddress", ADDRESS, []),
        ("siteAddress", {**ADDRESS, "floor": "3"}, [""]),
        ("siteAddress", {**ADDRESS, "city": 3}, ["/city"]),
        ("visit", {**WINDOW, "timeZone": "Europe/Zurich"}, []),
        ("visit", {**WINDOW, "timeZone": "Europe/Atlantis"}, ["/timeZone"]),
        ("visit", {**WINDOW, "timeZone": "../../etc/passwd"}, ["/timeZone"]),
        ("visit", {**WINDOW, "timeZone": 1}, ["/timeZone"]),
        ("visit", WINDOW, [""]),
        ("visit", {**WINDOW, "start": "tomorrow", "timeZone": "Europe/Zurich"}, ["/start"]),
        ("visit", {**WINDOW, "start": "2026-12-01T09:00:00", "timeZone": "Europe/Zurich"}, ["/start"]),
        ("price", {"amountMinor": 100, "currency": "CHF"}, []),
        ("price", {"amountMinor": 1.5, "currency": "CHF"}, ["/amountMinor"]),
        ("fuses", 40, []),
        ("fuses", 41, [""]),
        ("another", {"itemId": "2", "action": "ADD", "productOfferingId": "gas"}, []),
        ("another", {"itemId": "2", "action": "BURN", "productOfferingId": "gas"}, ["/action"]),
    ],
)
def test_a_new_value_is_judged_by_the_fields_schema(field: str, value: Any, wrong_at: list[str]) -> None:
    row = next(row for row in ENERGY.amendable_fields if row.field == field)
    assert [error.path for error in row.value_errors(value)] == wrong_at


def test_a_point_of_no_return_is_its_field_minus_by() -> None:
    point = PointOfNoReturn("/appointment/start", timedelta(hours=24))
    assert point.moment(datetime(2026, 12, 2, 9, tzinfo=UTC)) == datetime(2026, 12, 1, 9, tzinfo=UTC)
    assert point.moment(None) is None


# -- what is refused, where, and what to do about it ---------------------------------------------------------

FIBER: Final = "/offerings/fiber-500/plans"
TYPES: Final = "/task_types"
FIELDS: Final = "/amendable_fields"
SOFT: Final = "/task_types/create-appointment/soft_point_of_no_return"
SHIP: Final = "/task_types/ship-device"
CELL: Final = "/amendable_fields/7/safety/TASK_STARTED"  # of deviceModel


def row(
    title: str, place: str, value: Any, words: str, *, at: str | None = None, also: dict[str, Any] | None = None
) -> Any:
    """With `value` written at `place`, the policy is refused there, or `at`, with these words."""
    return pytest.param({place: value, **(also or {})}, place if at is None else at, words, id=title)


REFUSED: Final = [
    # the document as a whole
    row("a key of the policy missing", "/currency", GONE, "`currency` is missing; add it", at=""),
    row("a key mistyped", "/sytems", [], "did you mean `systems`?"),
    row("a time without offset", "/effective_from", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z"),
    row("a currency in words", "/currency", "Euro", "e.g. EUR"),
    row("a list where a mapping belongs", TYPES, [], "write a mapping (name: …), not a list"),
    row("a truth where a name belongs", "/policy", True, "put it in quotes"),
    row("a system twice", "/systems/-", "cpq", "listed twice; remove one", at="/systems/8"),
    # reasons
    row("no codes for repairs", "/reason_codes/repair", GONE, "`repair` is missing", at="/reason_codes"),
    row("a kind of reasons nobody asks for", "/reason_codes/refund", [], "no key `refund`"),
    row("a code twice", "/reason_codes/repair/-", "CUSTOMER_AGREED", "given twice", at="/reason_codes/repair"),
    row("a code in lower case", "/reason_codes/repair/0", "fixed", "upper case"),
    row(
        "a charge half waived",
        "/reason_codes/repair/0",
        {"code": "X", "charge": "HALF"},
        "WAIVED",
        at="/reason_codes/repair/0/charge",
    ),
    # a task type by itself
    row("no operation", f"{SHIP}/operation", GONE, "`operation` is missing", at=SHIP),
    row("a reversibility mistyped", f"{SHIP}/reversibility", "PARTAIL", "did you mean `PARTIAL`?"),
    row("a level mistyped", f"{SHIP}/external_effect_level", "VISIBLE", "did you mean"),
    row("a state that no task passes", f"{SHIP}/irreversible_after_state", "SENT", "COMPLETED"),
    row("months", f"{SHIP}/timeout", "P1M", "write days, e.g. P30D"),
    row("a number for a duration", f"{SHIP}/timeout", 10, "PT10S"),
    row("a duration of nothing", f"{SHIP}/timeout", "PT0S", "longer than zero"),
    row("a duration of a life", f"{SHIP}/timeout", "P40000D", "at most 3660 days"),
    row("no attempts", f"{SHIP}/attempts", 0, "from 1 to 100"),
    row("giving up before asking", f"{SHIP}/verify", {"every": "PT2H"}, "make it longer"),
    row(
        "an input outside the order", f"{SHIP}/inputs", ["/delivryAddress"], "`deliveryAddress`", at=f"{SHIP}/inputs/0"
    ),
    row("an input without slash", f"{SHIP}/inputs", ["contact"], "JSON pointer", at=f"{SHIP}/inputs/0"),
    row("an input of one item", f"{SHIP}/inputs", ["/items/1/quantity"], "/items/*/quantity", at=f"{SHIP}/inputs/0"),
    row(
        "an input of an item that has none",
        f"{SHIP}/inputs",
        ["/items/*/colour"],
        "configuration",
        at=f"{SHIP}/inputs/0",
    ),
    row("a star elsewhere", f"{SHIP}/inputs", ["/contact/*"], "only stands for an item", at=f"{SHIP}/inputs/0"),
    row("a charge without a point", f"{SHIP}/charge", {}, "soft_point_of_no_return"),
    row("a soft point that costs nothing", f"{SOFT}/charge", GONE, "`charge` is missing", at=SOFT),
    row("a charge past the hard point", f"{TYPES}/create-appointment/hard_point_of_no_return/charge", {}, "soft point"),
    row("cents as a fraction", f"{SOFT}/charge/amountMinor", 25.5, "whole number"),
    row(
        "a blocking charge for ever",
        f"{SOFT}/charge/respond_within",
        GONE,
        "`respond_within` is missing",
        at=f"{SOFT}/charge",
    ),
    row("a charge in another currency", f"{SOFT}/charge/currency", "USD", "write EUR"),
    row("a soft point after the hard one", f"{SOFT}/by", "PT0S", "make `by` longer"),
    # task types together
    row("an unknown system", f"{SHIP}/system", "shiping", "did you mean `shipping`?"),
    row(
        "an unknown compensation", f"{TYPES}/assign-number/compensation", "free-numbers", "did you mean `free-number`?"
    ),
    row("an unknown type kept", f"{SHIP}/keeps", ["reserve"], "task type 'reserve'", at=f"{SHIP}/keeps/0"),
    row(
        "AUTOMATIC without a way back",
        f"{TYPES}/assign-number/compensation",
        GONE,
        "needs a compensation or a withdrawal",
        at=f"{TYPES}/assign-number/reversibility",
    ),
    row("PARTIAL without a way back", f"{SHIP}/withdrawal", GONE, "write NONE or MANUAL", at=f"{SHIP}/reversibility"),
    row(
        "a compensation that is undone",
        f"{TYPES}/release-number/compensation",
        "assign-number",
        "never undone; remove this",
    ),
    row("a step that undoes", f"{FIBER}/RETURN/0/type", "stop-shipment", "undoes ship-device"),
    row(
        "keeping a compensation",
        f"{SHIP}/keeps",
        ["release-inventory"],
        "name the type that it undoes",
        at=f"{SHIP}/keeps/0",
    ),
    row(
        "undo_after beside the original",
        f"{TYPES}/assign-number/undo_after",
        ["stop-billing"],
        "move it to release-number",
    ),
    row(
        "undo_after an original",
        f"{TYPES}/release-number/undo_after",
        ["start-billing"],
        "name stop-billing",
        at=f"{TYPES}/release-number/undo_after/0",
    ),
    row(
        "undo_after in a circle",
        f"{TYPES}/stop-billing/undo_after",
        ["release-number"],
        "wait for each other",
        at=f"{TYPES}/release-number/undo_after",
    ),
    row(
        "undo_after against the plan", f"{TYPES}/stop-billing/undo_after", ["deactivate-service"], "is undone backwards"
    ),
    row(
        "a refund of nothing",
        f"{TYPES}/start-billing/money",
        GONE,
        "what a CAPTURE took",
        at=f"{TYPES}/stop-billing/money",
    ),
    row("a refund in a plan's step", f"{TYPES}/credit-account/money", "REFUND", "make this the compensation"),
    row("a compensation that captures", f"{TYPES}/release-number/money", "CAPTURE", "takes no money"),
    row("money_only without money", f"{TYPES}/release-number/money_only", True, "add money: REFUND"),
    row(
        "a follow-up that is not offered",
        "/offerings/router/plans/RETURN",
        GONE,
        "offering router (plan ADD, step ship)",
        at=f"{SHIP}/follow_up",
    ),
    # offerings
    row("neither plans nor same_as", "/offerings/router/plans", GONE, "`plans` is missing", at="/offerings/router"),
    row("an unknown action", f"{FIBER}/ADDD", [], "did you mean `ADD`?"),
    row("an unknown order type", f"{FIBER}/BILLING~1MODIFY", [], "'BILLING' is no order type"),
    row("an unknown type in a step", f"{FIBER}/ADD/0/type", "reserve-inventry", "reserve-inventory"),
    row("a step twice", f"{FIBER}/ADD/1/step", "reserve", "rename one"),
    row(
        "after a step that is not there",
        f"{FIBER}/ADD/3/after",
        ["prot"],
        "did you mean `port`?",
        at=f"{FIBER}/ADD/3/after/0",
    ),
    row(
        "after a step nobody has",
        "/offerings/static-ip/plans/ADD/1/after",
        ["reliesOn.go"],
        "any offering",
        at="/offerings/static-ip/plans/ADD/1/after/0",
    ),
    row(
        "after a step of no child",
        f"{FIBER}/ADD/3/after",
        ["children.ship"],
        "children's plans",
        at=f"{FIBER}/ADD/3/after/0",
    ),
    row("steps in a circle", f"{FIBER}/ADD/0/after", ["bill"], "remove one `after`", at=f"{FIBER}/ADD"),
    row("a step after itself", f"{FIBER}/ADD/0/after", ["reserve"], "reserve → reserve", at=f"{FIBER}/ADD"),
    row("half a task", f"{FIBER}/ADD/0/per", "HOUSE", "ITEM, ORDER"),
    row("same as nobody", "/offerings/fiber-100/same_as", "fibre-500", "did you mean `fiber-500`?"),
    row(
        "same as itself",
        "/offerings/fiber-100/same_as",
        "fiber-1000",
        "own plans",
        also={"/offerings/fiber-1000/same_as": "fiber-100"},
    ),
    row(
        "an unknown child",
        "/offerings/home-bundle/children/optional/-",
        "tv",
        "no offering 'tv'",
        at="/offerings/home-bundle/children/optional/2",
    ),
    row(
        "a child twice",
        "/offerings/home-bundle/children/optional/-",
        "fiber-500",
        "keep one of the two",
        at="/offerings/home-bundle/children",
    ),
    row(
        "a bundle in itself",
        "/offerings/router/children",
        {"mandatory": ["home-bundle"]},
        "contain each other",
        at="/offerings/home-bundle/children",
    ),
    row("an unknown requirement", "/offerings/static-ip/requires/0", "dsl", "no offering 'dsl'"),
    row("an unknown predecessor", "/offerings/fiber-500/compatible_from/0", "dsl", "no offering 'dsl'"),
    # the safety matrix
    row(
        "a phase missing", f"{FIELDS}/0/safety/TASK_STARTED", GONE, "`TASK_STARTED` is missing", at=f"{FIELDS}/0/safety"
    ),
    row("a result unknown", f"{FIELDS}/0/safety/TASK_STARTED", "ALOWED", "did you mean `ALLOWED`?"),
    row(
        "a cell with a hole",
        f"{CELL}/1",
        {"if": {"price_accepted": True}, "result": "MANUAL"},
        "a rule without `if`",
        at=CELL,
    ),
    row("an empty cell", CELL, [], "a rule without `if`"),
    row("a rule never reached", f"{CELL}/0/if", GONE, "never reached", at=f"{CELL}/0"),
    row("a condition unknown", f"{CELL}/0/if", {"weekday": 1}, "write {task_type, state_in}"),
    row("a condition of half a word", f"{CELL}/0/if/state_in", GONE, "`state_in` is missing", at=f"{CELL}/0/if"),
    row("a condition on no state", f"{CELL}/0/if/state_in", [], "at least one"),
    row("a condition on a state unknown", f"{CELL}/0/if/state_in", ["DONE"], "COMPLETED", at=f"{CELL}/0/if/state_in/0"),
    row("a condition on a type unknown", f"{CELL}/0/if/task_type", "ship", "task type 'ship'"),
    row("a field twice", f"{FIELDS}/1/field", "contactPhone", "keep one of the rows"),
    row("a path twice", f"{FIELDS}/1/path", "/contact/phone", "keep one of the rows"),
    row("a path with a star", f"{FIELDS}/9/path", "/items/*/quantity", "{itemId}"),
    row("an item's field outside items", f"{FIELDS}/0/touches", "ITEM", "write INPUTS or ORDER"),
    row("a class unknown", f"{FIELDS}/0/class", "ADMIN", "ADMINISTRATIVE"),
    # JSON Schema
    row("a schema in a word", f"{FIELDS}/0/schema", "string", "{$ref: address}"),
    row("a keyword mistyped", f"{FIELDS}/1/schema/maxLenght", 3, "did you mean `maxLength`?"),
    row("a type unknown", f"{FIELDS}/1/schema/type", "text", "text"),
    row("a pattern that is none", f"{FIELDS}/0/schema/pattern", "(", "regex"),
    row("a format nobody checks", f"{FIELDS}/14/schema/format", "datetime", "did you mean `date-time`?"),
    row(
        "a schema elsewhere",
        f"{FIELDS}/4/schema",
        {"$ref": "https://example.org/a.json"},
        "address, money",
        at=f"{FIELDS}/4/schema/$ref",
    ),
    row("a shape and more", f"{FIELDS}/4/schema/minProperties", 1, "in an allOf", at=f"{FIELDS}/4/schema"),
    row(
        "a schema elsewhere, hidden",
        f"{FIELDS}/4/schema",
        {"anyOf": [{"$ref": "#/a"}]},
        "address, money",
        at=f"{FIELDS}/4/schema/anyOf/0/$ref",
    ),
    # approvals, closure, times
    row(
        "a finding without approval",
        "/cancellation/approval/NOT_CANCELLABLE",
        GONE,
        "`NOT_CANCELLABLE` is missing",
        at="/cancellation/approval",
    ),
    row("approving what cannot be", "/cancellation/approval/NOT_CANCELLABLE", "AUTOMATIC", "known: REJECT"),
    row(
        "judging what only a person can",
        "/cancellation/approval/REQUIRES_MANUAL_REVIEW",
        "AUTOMATIC",
        "known: APPROVAL, REJECT",
    ),
    row("applying what is blocked", "/amendment/approval/BLOCKED", "APPROVAL", "known: REJECT"),
    row("a closure rule unknown", "/cancellation/closure/relies_on", "EXCLUDE", "did you mean `INCLUDE`?"),
    row("no time for a decision", "/cancellation/approval_sla", "PT0S", "longer than zero"),
    row("a grace without maximum", "/amendment/grace", {}, "`maximum` is missing"),
    row("a source rule unknown", "/supplemental/on_partially_completed_source", "ASK", "ALLOW, REFUSE"),
]


@pytest.mark.parametrize(("changes", "path", "words"), REFUSED)
def test_a_broken_policy_is_refused_at_the_place_and_told_what_to_do(
    changes: dict[str, Any], path: str, words: str
) -> None:
    problems = problems_of(edited(changes))
    said = {problem.path: problem.message for problem in problems}
    assert path in said, said
    assert words in said[path]


def test_one_mistake_in_a_row_is_not_reported_as_the_mistakes_of_its_neighbours() -> None:
    for broken in ("/task_types/start-billing/attempts", "/task_types/deactivate-service/attempts"):
        (problem,) = problems_of(edited({broken: 0}))
        assert problem.path == broken


def test_all_mistakes_come_at_once() -> None:
    problems = problems_of(
        edited(
            {
                "/currency": "euro",
                "/task_types/ship-device/timeout": "P1Y",
                "/task_types/ship-device/attempts": "three",
                "/task_types/assign-number/system": "numbers",
                "/offerings/router/plans/ADD/0/type": "reserve-inventry",
                "/amendable_fields/0/safety/TASK_STARTED": "MAYBE",
                "/fallout/sla": GONE,
            }
        )
    )
    assert {problem.path for problem in problems} == {
        "/currency",
        "/task_types/ship-device/timeout",
        "/task_types/ship-device/attempts",
        "/task_types/assign-number/system",
        "/offerings/router/plans/ADD/0/type",
        "/amendable_fields/0/safety/TASK_STARTED",
        "/fallout",
    }


def test_a_task_shared_by_an_order_may_not_tie_two_plans_into_a_circle() -> None:
    plans = {
        "/offerings/a": {"plans": {"ADD": [step("x", per="ORDER"), step("y", per="ORDER", after=["x"])]}},
        "/offerings/b": {"plans": {"ADD": [step("y", per="ORDER"), step("x", per="ORDER", after=["y"])]}},
    }
    (problem,) = problems_of(edited(plans))
    assert "wait for each other" in problem.message


def test_a_loop_through_undo_after_of_two_compensations_is_found_in_the_plan_that_closes_it() -> None:
    # Backwards: free-2 before free-1. release-number waits for both others, so nothing else is wrong.
    changes = {
        "/task_types/release-inventory/undo_after": ["release-resource"],
        "/offerings/kit": {
            "plans": {"ADD": [step("port", "assign-resource"), step("stock", "reserve-inventory", after=["port"])]}
        },
    }
    (problem,) = problems_of(edited(changes))
    assert problem.path == "/task_types/release-inventory/undo_after"
    assert "kit ADD" in problem.message


def step(name: str, kind: str = "credit-account", **keys: Any) -> dict[str, Any]:
    return {"step": name, "type": kind, **keys}


def test_a_policy_of_nothing_but_mistakes_is_still_only_refused() -> None:
    shapes: tuple[Any, ...] = (None, 1, [], {})
    for nonsense in shapes:
        assert problems_of(dict.fromkeys(DOCUMENT, nonsense))


@given(st.data())
def test_whatever_stands_in_a_place_of_the_document_is_read_or_refused(data: st.DataObject) -> None:
    document: Any = copy.deepcopy(dict(DOCUMENT))
    place = document
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    with contextlib.suppress(PolicyInvalid):
        parse_policy(document)


JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["ADD", "P1D", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


# -- the page -----------------------------------------------------------------------------------------------


def test_the_reference_names_every_key_and_every_word_of_the_format() -> None:
    page = (ROOT / "docs/policy.md").read_text()
    rows = (TaskType, PointOfNoReturn, FollowUp, VerifyRule, PlanStep, Offering, Children, AmendableField)
    keys = {field.name.removesuffix("_") for row in rows for field in dataclasses.fields(row)}
    # `name` is the key of the row, `per_order` the answer to `per`
    words = (keys - {"name", "per_order"}) | {"per", "amountMinor", "blocking", "respond_within", *REASON_KINDS}
    words |= {*PHASES, *SAFETY_RESULTS, *FEASIBILITIES, *AMENDMENT_CLASSES, *REVERSIBILITIES, *EFFECT_LEVELS, *SHAPES}
    assert not [word for word in sorted(words) if not re.search(rf"\b{word}\b", page)]


# -- text ---------------------------------------------------------------------------------------------------------


def test_json_says_the_same_as_yaml() -> None:
    as_json = json.dumps(policy_to_json(DOCUMENT))
    assert parse_policy(read_policy_text(as_json)) == TELECOM
    assert parse_policy(read_policy_text(as_json.encode())) == TELECOM


def test_times_and_dates_of_yaml_become_text() -> None:
    document = read_policy_text("{a: 2026-01-01T02:00:00+02:00, b: 2026-01-01}")
    assert document == {"a": "2026-01-01T00:00:00Z", "b": "2026-01-01"}


def test_an_alias_is_written_out() -> None:
    assert read_policy_text("a: &rule {x: 1}\nb: *rule\nc: {<<: *rule, y: 2}") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": {"x": 1, "y": 2},
    }


BOMB: Final = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the document is empty"),
        ("- a\n- b", "not a list"),
        ("a: [1, 2", "this is not YAML"),
        ("a: 1\n---\nb: 2", "this is not YAML"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is given twice"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice"),
        ('{"a": NaN}', "write a finite one"),
        ("a: .inf", "float has no place in JSON"),
        ("1: a", "put it in quotes"),
        ("a: 2026-13-45", "put it in quotes"),
        ("a: !!python/object/apply:os.system [ls]", "this is not YAML"),
        ("a: !!binary aGFsbG8=", "bytes has no place in JSON"),
        ('a: "\\0"', "NUL"),
        (b"a: \xff", "UTF-8"),
        ("a: " + "9" * 30, "int has no place in JSON"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        (BOMB, "beyond 200000 values"),
        ("a: &a [*a]", "aliases nest deeper"),
        ("a: " + "x" * 1024 * 1024, "larger than 1024 KiB"),
    ],
    ids=[
        "nothing",
        "a list",
        "not closed",
        "two documents",
        "a key twice",
        "a key twice in JSON",
        "not a number in JSON",
        "infinity",
        "a number as key",
        "a day that is none",
        "a Python object",
        "bytes",
        "NUL",
        "Latin-1",
        "too many digits",
        "deep brackets",
        "deep JSON",
        "an alias bomb",
        "a self-reference",
        "too long",
    ],
)
def test_text_that_cannot_be_trusted_is_refused(text: str | bytes, words: str) -> None:
    assert words in text_problem(text)


# -- durations and the copy in the plan -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("PT0S", timedelta(0)),
        ("PT10S", timedelta(seconds=10)),
        ("PT0.5S", timedelta(milliseconds=500)),
        ("PT1,5H", timedelta(minutes=90)),
        ("P2W", timedelta(days=14)),
        ("P1DT2H3M4S", timedelta(days=1, hours=2, minutes=3, seconds=4)),
    ],
)
def test_durations_are_iso_8601(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P1DT", "1D", "P-1D", "-P1D", "p1d", "P1H", "PT1D", "P1S", "P1Y", "P1M"]
)
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=100_000)))
def test_a_duration_is_read_as_it_was_written(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


spans = st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=3660))
names = st.text("abcdefgh-", min_size=1, max_size=8)
charges = st.builds(
    Charge, names, st.builds(Money, st.integers(1, 10**9), st.just("EUR")), st.booleans(), st.none() | spans
)
points = st.builds(PointOfNoReturn, st.none() | names, spans, st.none() | charges)
task_types = st.builds(
    TaskType,
    name=names,
    system=names,
    operation=names,
    reversibility=st.sampled_from(REVERSIBILITIES),
    external_effect_level=st.sampled_from(EFFECT_LEVELS),
    irreversible_after_state=st.none() | names,
    hard_point_of_no_return=st.none() | points,
    soft_point_of_no_return=st.none() | points,
    past_no_return=st.sampled_from(("RETAIN", "BLOCK")),
    keeps=st.lists(names, max_size=2).map(tuple),
    compensation=st.none() | names,
    withdrawal=st.none() | names,
    undo_after=st.lists(names, max_size=2).map(tuple),
    inputs=st.lists(names, max_size=2).map(tuple),
    on_input_change=names,
    money=st.none() | st.sampled_from(("CAPTURE", "REFUND")),
    money_only=st.booleans(),
    follow_up=st.none() | st.builds(FollowUp, names, names),
    timeout=spans,
    attempts=st.integers(1, 100),
    backoff=spans,
    callback_timeout=spans,
    verify=st.builds(VerifyRule, spans, spans),
)


@given(task_types)
def test_a_task_type_survives_its_copy_in_the_plan(kind: TaskType) -> None:
    assert TaskType.from_json(json.loads(json.dumps(kind.to_json()))) == kind


@pytest.mark.parametrize("policy", [TELECOM, ENERGY], ids=["telecom", "energy"])
def test_a_stored_row_reads_like_the_document(policy: Any) -> None:
    for name, kind in policy.task_types.items():
        stored = kind.to_json()
        assert stored.pop("name") == name
        assert TaskType.from_json({**stored, "name": name}) == kind
