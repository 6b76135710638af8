"""The JSON Schemas of amendable values; it must never fetch a schema from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from referencing import Registry

from domain.errors import FieldError
from domain.policy.documents import Refused, Spot, describe, point, suggest
from domain.values import ITEM_ACTIONS, Json, parse_time

_TEXT: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 200}


def _object(required: str, optional: str = "", **properties: Json) -> Json:
    return {
        "type": "object",
        "properties": {**dict.fromkeys((required + " " + optional).split(), _TEXT), **properties},
        "required": required.split(),
        "additionalProperties": False,
    }


# The shapes of the order that a policy may name instead of a schema: {$ref: address}.
_MONEY: Final = _object(
    "amountMinor currency",
    amountMinor={"type": "integer", "minimum": 0, "maximum": 10**15},
    currency={"type": "string", "pattern": "^[A-Z]{3}$"},
)
SHAPES: Final[Mapping[str, Json]] = {
    "address": _object("street city postalCode country"),
    "money": _MONEY,
    "window": _object(
        "start end",
        "timeZone",
        start={"type": "string", "format": "date-time"},
        end={"type": "string", "format": "date-time"},
    ),
    "item": _object(
        "itemId action productOfferingId",
        action={"enum": [action for action in ITEM_ACTIONS if action != "NO_CHANGE"]},
        quantity={"type": "integer", "minimum": 1},
        configuration={"type": "object"},
        price=_MONEY,
        targetAssetId={"type": ["string", "null"]},
        parentItemId={"type": ["string", "null"]},
        reliesOn={"type": "array", "items": _TEXT, "uniqueItems": True},
    ),
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
    return not isinstance(value, str) or parse_time(value) is not None


_FORMATS.checks("date-time", raises=ValueError)(_is_time)


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
    validator = Draft202012Validator(schema, registry=_NOTHING_ELSE, format_checker=_FORMATS)
    return tuple(
        FieldError(point("", *error.absolute_path), _sentence(error)) for error in validator.iter_errors(value)
    )


_NOTHING_ELSE: Final[Registry[Any]] = Registry()


def _sentence(error: ValidationError) -> str:
    return error.message if len(error.message) <= 300 else f"{error.message[:300]}…"
