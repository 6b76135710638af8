"""The JSON Schemas of amendable values; it must never fetch a schema from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry

from domain.errors import FieldError
from domain.policy.documents import Refused, Spot, describe, point, suggest
from domain.values import ITEM_ACTIONS, Json, is_dated, is_time_zone, parse_time

_TEXT: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 200}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}


def _or_null(schema: Mapping[str, Json]) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


def _object(required: str, optional: str = "", **properties: Json) -> Json:
    return {
        "type": "object",
        "properties": {
            **dict.fromkeys(required.split(), _TEXT),
            **{name: _or_null(_TEXT) for name in optional.split()},
            **properties,
        },
        "required": required.split(),
        "additionalProperties": False,
    }


# The shapes of the order that a policy may name instead of a schema: {$ref: address}.
_MONEY: Final = _object(
    "amountMinor currency",
    amountMinor={"type": "integer", "minimum": 0, "maximum": 10**15},
    currency={"type": "string", "pattern": "^[A-Z]{3}$"},
)
_COUNT: Final[Json] = {"type": "integer", "minimum": 1, "maximum": 1_000_000}
SHAPES: Final[Mapping[str, Json]] = {
    "address": _object("street city postalCode country"),
    "money": _MONEY,
    "window": _object(
        "start end",
        start=_TIME,
        end=_TIME,
        timeZone={"type": ["string", "null"], "format": "time-zone"},
    )
    | {"format": "window"},
    "item": _object(
        "itemId action productOfferingId",
        itemId={"type": "string", "maxLength": 64, "pattern": r"^[!-~]+\Z"},
        action={"enum": [action for action in ITEM_ACTIONS if action != "NO_CHANGE"]},
        quantity=_COUNT,
        configuration={"type": ["object", "null"]},
        price=_or_null(_MONEY),
        targetAssetId={"type": ["string", "null"]},
        parentItemId={"type": ["string", "null"]},
        reliesOn={"type": "array", "items": _TEXT, "uniqueItems": True},
    ),
}

# What an order and an item of it must be made of, however loose the policy's own schema of a field is: what is sent,
# shown and computed with later relies on it (POST /orders).
_MEMBERS: Final[Mapping[str, Json]] = {
    "customer": _object("id", "name"),
    "contact": _object("", "name phone email"),
    "deliveryNote": {"type": "string", "maxLength": 500},
    "deliveryAddress": SHAPES["address"],
    "installationAddress": SHAPES["address"],
    "appointment": SHAPES["window"],
    "requestedStartDate": _TIME,
    "startOnRequestedDate": {"type": "boolean"},
    "quoteId": _TEXT,
    "priceAccepted": {"type": "boolean"},
}
_ITEM_MEMBERS: Final[Mapping[str, Json]] = {
    "productOfferingId": _TEXT,
    "quantity": _COUNT,
    "configuration": {"type": "object"},
    "price": _MONEY,
}

_ONE_SCHEMA: Final = frozenset(
    [
        "items",
        "contains",
        "additionalProperties",
        "propertyNames",
        "not",
        "if",
        "then",
        "else",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
_SCHEMA_LIST: Final = frozenset(["allOf", "anyOf", "oneOf", "prefixItems"])
_SCHEMA_MAP: Final = frozenset(["properties", "patternProperties", "dependentSchemas"])
_PLAIN: Final = frozenset(
    [
        "type",
        "enum",
        "const",
        "multipleOf",
        "maximum",
        "exclusiveMaximum",
        "minimum",
        "exclusiveMinimum",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "maxContains",
        "minContains",
        "maxProperties",
        "minProperties",
        "required",
        "dependentRequired",
        "format",
        "title",
        "description",
        "default",
        "examples",
        "$comment",
        "$schema",
        "deprecated",
        "readOnly",
        "writeOnly",
    ]
)
_KEYWORDS: Final = _ONE_SCHEMA | _SCHEMA_LIST | _SCHEMA_MAP | _PLAIN | {"$ref"}

_FORMATS: Final = FormatChecker(formats=["date", "email", "ipv4", "ipv6", "regex", "uuid"])


def _is_time(value: object) -> bool:
    return not isinstance(value, str) or is_dated(value)


_FORMATS.checks("date-time")(_is_time)


def _is_window(value: object) -> bool:
    if not isinstance(value, dict):
        return True
    start, end = value.get("start"), value.get("end")
    if not (isinstance(start, str) and isinstance(end, str) and is_dated(start) and is_dated(end)):
        return True  # that is said of the times themselves
    return parse_time(start) < parse_time(end)


def _is_zone(value: object) -> bool:
    return not isinstance(value, str) or is_time_zone(value)


# Of our own shapes; a policy's author has no use for them.
_WITH_WINDOW: Final = FormatChecker(formats=())
_WITH_WINDOW.checkers = dict(_FORMATS.checkers)
_WITH_WINDOW.checks("window")(_is_window)
_WITH_WINDOW.checks("time-zone")(_is_zone)

# JSON Schema counts 2.0 as an integer; the contract's amounts and counts are written as integers only.
_Validator: Final = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def value_schema(spot: Spot) -> Mapping[str, Json]:
    """The schema, its shapes written out; refuses keywords, formats and references that are not checked."""
    if not isinstance(spot.value, dict):
        raise spot.want("a JSON Schema, e.g. {type: string, maxLength: 200}, or {$ref: address}")
    before = len(spot.problems)
    written_out = _write_out(spot)
    if len(spot.problems) == before:
        for error in _META.iter_errors(spot.value):
            spot.problems.append(FieldError(point(spot.path, *error.absolute_path), _sentence(error)))
    if len(spot.problems) > before:
        raise Refused
    return written_out  # type: ignore[no-any-return]


_META: Final = Draft202012Validator(Draft202012Validator.META_SCHEMA, format_checker=_FORMATS)


def _write_out(spot: Spot) -> Json:
    if not isinstance(spot.value, dict):
        return spot.value  # a boolean, or something that the meta-schema refuses
    if "$ref" in spot.value:
        return _write_reference(spot)
    return {key: _write_keyword(spot.into(key, value)) for key, value in spot.value.items()}


def _write_reference(spot: Spot) -> Json:
    name = spot.value["$ref"]
    if len(spot.value) > 1:
        spot.note("a reference stands alone; put what else is wanted beside it in an allOf")
    elif not isinstance(name, str) or name not in SHAPES:
        spot.into("$ref", name).note(f"a reference names one of {', '.join(SHAPES)}, not {describe(name)}")
    else:
        return SHAPES[name]
    return True


def _write_keyword(spot: Spot) -> Json:
    match spot.value:
        case _ if spot.key not in _KEYWORDS:
            spot.note(f"`{spot.key}` is no keyword that is checked here; {suggest(spot.key, _KEYWORDS)}")
        case str() if spot.key == "format" and spot.value not in _FORMATS.checkers:
            spot.note(f"the format {spot.value!r} is not checked here; {suggest(spot.value, _FORMATS.checkers)}")
        case dict() if spot.key in _ONE_SCHEMA:
            return _write_out(spot)
        case list() if spot.key in _SCHEMA_LIST:
            return [_write_out(spot.into(n, part)) for n, part in enumerate(spot.value)]
        case dict() if spot.key in _SCHEMA_MAP:
            return {name: _write_out(spot.into(name, part)) for name, part in spot.value.items()}
    return spot.value


def schema_errors(schema: Mapping[str, Json], value: Json) -> tuple[FieldError, ...]:
    """What is wrong with a value, by its schema; paths begin at the value."""
    validator = _Validator(schema, registry=_NOTHING_ELSE, format_checker=_WITH_WINDOW)
    return tuple(
        FieldError(point("", *error.absolute_path), _sentence(error)) for error in validator.iter_errors(value)
    )


_NOTHING_ELSE: Final[Registry[Any]] = Registry()


def member_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The member of the order, or of an item, that a pointer is about."""
    return parts[:3] if parts[0] == "items" else parts[:1]


def member_errors(member: tuple[str, ...], value: Json) -> tuple[FieldError, ...]:
    """Whether an order may hold this value there at all; paths begin at the value."""
    schema = (_ITEM_MEMBERS if member[0] == "items" else _MEMBERS).get(member[-1])
    return schema_errors(schema, value) if schema is not None else ()


def _sentence(error: ValidationError) -> str:
    if error.validator_value == "window":
        return "must end after it has begun"
    if error.validator_value == "time-zone":
        return "is no time zone; write its name, e.g. Europe/Berlin"
    return error.message if len(error.message) <= 300 else f"{error.message[:300]}…"
