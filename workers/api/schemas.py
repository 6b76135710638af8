"""The shapes of bodies that the API takes; strict, closed, bounded. It must never know a rule of any business."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from domain.errors import FieldError
from domain.values import Json, is_dated, is_time_zone

MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**53 - 1  # beyond it, clients that read numbers as doubles see another number
MAX_CONFIGURATION: Final = 500  # values in one free-form object

_RFC3339: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


# -- times ---------------------------------------------------------------------------------------------------


def read_time(text: str) -> datetime:
    """Any RFC 3339 time, leap seconds and lower case included; raises ValueError for everything else."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("write a time with offset (RFC 3339), e.g. 2026-12-01T09:00:00+01:00")
    text = text.upper()
    leap = match[6] == "60"
    if leap:
        text = f"{text[:17]}59{text[19:]}"
    try:
        moment = datetime.fromisoformat(text)
        return (moment + timedelta(seconds=1) if leap else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("there is no such time; write one with offset (RFC 3339)") from None


def _check_claimed(text: str) -> str:
    read_time(text)
    return text


def _check_dated(text: str) -> str:
    if not is_dated(text):
        raise ValueError("write a time between 1900 and 2999 with offset, e.g. 2026-12-01T09:00:00+01:00")
    return text


def _check_zone(name: str) -> str:
    if not is_time_zone(name):
        raise ValueError("there is no such time zone; write its name, e.g. Europe/Berlin")
    return name


def _check_uuid(text: str) -> str:
    if not is_uuid(text):
        raise ValueError("write a UUID")
    return text


_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def _check_item_id(text: str) -> str:
    # These two stand for "every item" and "a new item" in JSON pointers of policies and amendments.
    if text in {"*", "-"}:
        raise ValueError("this id has a meaning of its own in pointers; take another")
    return text


def _check_free(value: Mapping[str, Json]) -> Mapping[str, Json]:
    if count_values(value) > MAX_CONFIGURATION:
        raise ValueError(f"holds more than {MAX_CONFIGURATION} values")
    return value


def _check_person(text: str) -> str:
    if text.startswith("system:"):
        raise ValueError("names a part of the product, not a person")
    return text


Time = Annotated[str, AfterValidator(_check_dated), Field(json_schema_extra={"format": "date-time"})]
ClaimedTime = Annotated[str, AfterValidator(_check_claimed), Field(json_schema_extra={"format": "date-time"})]
UuidText = Annotated[str, AfterValidator(_check_uuid), Field(json_schema_extra={"format": "uuid"})]
Zone = Annotated[str, AfterValidator(_check_zone), Field(max_length=200)]
Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Code = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
ItemId = Annotated[str, AfterValidator(_check_item_id), Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
Person = Annotated[str, AfterValidator(_check_person), Field(min_length=1, max_length=255, pattern=r"\S")]
Remark = Annotated[str, Field(max_length=2000)]
FreeForm = Annotated[dict[str, Any], AfterValidator(_check_free)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Body(BaseModel):
    """A closed object: unknown members are refused, nothing is converted."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @property
    def claimant(self) -> str | None:
        """The person in whose name the body says it was asked."""
        return None


# -- orders --------------------------------------------------------------------------------------------------


class Money(Body):
    amount_minor: Annotated[int, Field(ge=0, le=10**15)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class Customer(Body):
    id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"\S")]
    name: Word | None = None


class Contact(Body):
    name: Word | None = None
    phone: Annotated[str, Field(min_length=1, max_length=50)] | None = None
    email: Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")] | None = None


class Address(Body):
    street: Word
    city: Word
    postal_code: Word
    country: Word


class Window(Body):
    start: Time
    end: Time
    time_zone: Zone | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if read_time(self.end) <= read_time(self.start):
            raise ValueError("must end after it has begun")
        return self


class OrderItemBody(Body):
    item_id: ItemId
    action: Literal["ADD", "MODIFY", "DISCONNECT", "RETURN", "NO_CHANGE"]
    product_offering_id: Word
    quantity: Count = 1
    configuration: FreeForm | None = None
    price: Money | None = None
    target_asset_id: UuidText | None = None
    parent_item_id: ItemId | None = None
    relies_on: Annotated[list[ItemId], Field(max_length=100)] = []


class RelationBody(Body):
    type: Literal["AMENDS", "CANCELS", "SUPPLEMENTS", "REPLACES", "COMPENSATES", "REPAIRS", "ROLLS_BACK", "SPLITS_FROM"]
    target_order_id: UuidText
    reason_code: Code | None = None


class OrderBody(Body):
    external_id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"\S")] | None = None
    order_type: Literal["STANDARD", "SUPPLEMENTAL", "DISCONNECT", "RETURN", "REPAIR", "BILLING_ADJUSTMENT"] = "STANDARD"
    customer: Customer
    contact: Contact | None = None
    delivery_note: Annotated[str, Field(max_length=500)] | None = None
    delivery_address: Address | None = None
    installation_address: Address | None = None
    appointment: Window | None = None
    requested_start_date: Time | None = None
    start_on_requested_date: bool | None = None
    quote_id: Word | None = None
    price_accepted: bool | None = None
    items: Annotated[list[OrderItemBody], Field(min_length=1, max_length=1000)]
    relations: Annotated[list[RelationBody], Field(max_length=100)] = []


class SupplementalBody(Body):
    """A new order beside another; of whom, where to and where is the source's, unless it is said."""

    order_type: Literal["SUPPLEMENTAL", "DISCONNECT", "RETURN", "REPAIR", "BILLING_ADJUSTMENT"]
    reason_code: Code
    external_id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"\S")] | None = None
    customer: Customer | None = None
    contact: Contact | None = None
    delivery_note: Annotated[str, Field(max_length=500)] | None = None
    delivery_address: Address | None = None
    installation_address: Address | None = None
    appointment: Window | None = None
    requested_start_date: Time | None = None
    start_on_requested_date: bool | None = None
    quote_id: Word | None = None
    price_accepted: bool | None = None
    items: Annotated[list[OrderItemBody], Field(min_length=1, max_length=1000)]


class ReasonBody(Body):
    reason: Remark | None = None


# -- cancellation --------------------------------------------------------------------------------------------


class Claimant(Body):
    """Another person, in whose name the caller says to act; whether they may, the caller's roles say."""

    actor_type: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Z][A-Z_]*$")] = "USER"
    actor_id: Person


class Scope(Body):
    type: Literal["ORDER", "ITEMS"]
    order_item_ids: Annotated[list[ItemId], Field(max_length=1000)] = []


class PartOfItem(Body):
    item_id: ItemId
    quantity: Count


class CancellationBody(Body):
    reason_code: Code
    reason_text: Remark | None = None
    requested_by: Claimant | None = None
    requested_at: ClaimedTime | None = None
    scope: Scope
    items: Annotated[list[PartOfItem], Field(max_length=1000)] = []
    force_manual_review: bool = False
    preview_id: UuidText | None = None

    @property
    def claimant(self) -> str | None:
        return self.requested_by.actor_id if self.requested_by else None


class CancellationPreviewBody(CancellationBody):
    """The body of the cancellation that is tried out, and what kind of request it is."""

    kind: Literal["CANCELLATION"]


class Disposition(Body):
    task_id: UuidText
    disposition: Literal["RETAIN", "COMPENSATE", "MANUAL"]


class ApprovalBody(Body):
    comment: Remark | None = None
    dispositions: Annotated[list[Disposition], Field(max_length=1000)] = []


class CommentBody(Body):
    comment: Remark | None = None


class EmptyBody(Body):
    """Nothing to say beyond the address."""


# -- amendment -----------------------------------------------------------------------------------------------


class ChangeBody(Body):
    """One change: a JSON pointer into the order (items by id), what stands there, and what should."""

    path: Annotated[str, Field(min_length=2, max_length=500, pattern=r"^/")]
    operation: Literal["REPLACE", "ADD", "REMOVE"] = "REPLACE"
    old_value: Json = None
    new_value: Json = None


class AmendmentBody(Body):
    reason_code: Code
    changes: Annotated[list[ChangeBody], Field(min_length=1, max_length=100)]
    requested_by: Claimant | None = None
    requested_at: ClaimedTime | None = None
    allow_partial: bool = False
    auto_apply: bool = True
    preview_id: UuidText | None = None
    repairs_case_id: UuidText | None = None

    @property
    def claimant(self) -> str | None:
        return self.requested_by.actor_id if self.requested_by else None


class AmendmentPreviewBody(AmendmentBody):
    """The body of the amendment that is tried out, and what kind of request it is."""

    kind: Literal["AMENDMENT"]


class PreviewBody(Body):
    """The body of a cancellation or of an amendment, and which of the two it is."""

    kind: Literal["CANCELLATION", "AMENDMENT"]
    reason_code: Code
    reason_text: Remark | None = None
    requested_by: Claimant | None = None
    requested_at: ClaimedTime | None = None
    scope: Scope | None = None
    changes: Annotated[list[ChangeBody], Field(max_length=100)] | None = None


# -- TM Forum's tasks ------------------------------------------------------------------------------------------


class ProductOrderRef(Body):
    """A reference as others write it: more members than we read are no fault."""

    model_config = ConfigDict(extra="ignore")

    id: UuidText


class CancelProductOrderBody(Body):
    """TMF622's task; the reason is one of the policy's codes, as a code or in words."""

    model_config = ConfigDict(extra="ignore")

    product_order: ProductOrderRef
    cancellation_reason: Annotated[str, Field(min_length=1, max_length=2000, pattern=r"[A-Za-z]")]
    requested_cancellation_date: ClaimedTime | None = None


class HubBody(Body):
    """TMF's registration of a listener."""

    model_config = ConfigDict(extra="ignore")

    callback: Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[!-~]+$")]
    query: Annotated[str, Field(max_length=2000)] | None = None


# -- effects -------------------------------------------------------------------------------------------------


class OutcomeBody(Body):
    state: Literal["CONFIRMED", "NO_EFFECT"]
    external_reference: Annotated[str, Field(max_length=500)] | None = None
    output: Json = None
    reason: Remark | None = None


# -- cases ---------------------------------------------------------------------------------------------------


class AssignBody(Body):
    assignee: Person


class Evidence(Body):
    kind: Word
    reference: Word
    note: Remark | None = None


class RepairBody(Body):
    action: Literal[
        "RETRY",
        "VERIFY_OUTCOME",
        "MARK_TOOK_EFFECT",
        "MARK_NO_EFFECT",
        "FORCE_COMPLETE",
        "WAIVE",
        "REPLACE_INPUT",
        "CONVERT_TO_ORDER",
        "FAIL_ITEM",
    ]
    reason_code: Code
    reason_text: Remark | None = None
    evidence: Evidence | None = None
    input: FreeForm | None = None
    amount: Money | None = None
    requested_by: Claimant | None = None

    @property
    def claimant(self) -> str | None:
        return self.requested_by.actor_id if self.requested_by else None


class RepairDecisionBody(Body):
    comment: Remark | None = None
    reason: Remark | None = None


class RunBody(Body):
    report_only: bool = True


class OrderFilter(Body):
    state: Word | Annotated[list[Word], Field(min_length=1, max_length=20)] | None = None
    customer_id: Word | None = None
    external_id: Word | None = None
    order_type: Word | None = None
    product_offering_id: Word | None = None
    updated_since: Time | None = None


class CaseFilter(Body):
    status: Word | Annotated[list[Word], Field(min_length=1, max_length=5)] | None = None
    category: Word | None = None
    context: Word | None = None
    order_id: UuidText | None = None
    system: Word | None = None
    task_type: Word | None = None


MAX_NAMED: Final = 10_000

Rate = Annotated[int, Field(ge=1, le=60_000)]


class BulkCancellationBody(Body):
    """Live orders by filter, or orders by id: exactly one of the two."""

    filter: OrderFilter | None = None
    order_ids: Annotated[list[UuidText], Field(min_length=1, max_length=MAX_NAMED)] | None = None
    reason_code: Code
    reason_text: Remark | None = None
    rate_per_minute: Rate | None = None

    @model_validator(mode="after")
    def _choose_one(self) -> Self:
        if (self.filter is None) == (self.order_ids is None):
            raise ValueError("give either filter or orderIds")
        return self


class BulkRepairBody(Body):
    """The same repair for open cases by filter, or for cases by id: exactly one of the two."""

    filter: CaseFilter | None = None
    case_ids: Annotated[list[UuidText], Field(min_length=1, max_length=MAX_NAMED)] | None = None
    action: Literal[
        "RETRY",
        "VERIFY_OUTCOME",
        "MARK_TOOK_EFFECT",
        "MARK_NO_EFFECT",
        "FORCE_COMPLETE",
        "WAIVE",
        "REPLACE_INPUT",
        "CONVERT_TO_ORDER",
        "FAIL_ITEM",
    ]
    reason_code: Code
    reason_text: Remark | None = None
    evidence: Evidence | None = None
    input: FreeForm | None = None
    amount: Money | None = None
    rate_per_minute: Rate | None = None

    @model_validator(mode="after")
    def _choose_one(self) -> Self:
        if (self.filter is None) == (self.case_ids is None):
            raise ValueError("give either filter or caseIds")
        return self


# -- registry ------------------------------------------------------------------------------------------------


class AssetBody(Body):
    asset_id: UuidText | None = None
    customer_id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"\S")]
    product_offering_id: Word
    configuration: FreeForm = {}
    state: Literal["ACTIVE", "SUSPENDED", "TERMINATED"] = "ACTIVE"
    relies_on: Annotated[list[UuidText], Field(max_length=100)] = []
    quantity: Count = 1
    references: FreeForm = {}


class StaffBody(Body):
    roles: Annotated[list[Literal["agent", "approver", "operator", "auditor", "admin"]], Field(max_length=5)]


# -- checking ------------------------------------------------------------------------------------------------

B = TypeVar("B", bound=Body)

_SENTENCES: Final[Mapping[str, str]] = {
    "extra_forbidden": "unknown field",
    "missing": "is required",
    "string_type": "write a text",
    "int_type": "write a whole number",
    "bool_type": "write true or false",
    "list_type": "write a list",
    "dict_type": "write an object",
    "model_type": "write an object",
    "model_attributes_type": "write an object",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "has another form than is wanted here",
}


def check_body(model: type[B], document: Json) -> tuple[B | None, tuple[FieldError, ...]]:
    """The typed body, or everything that is wrong with it."""
    try:
        return model.model_validate(document), ()
    except ValidationError as error:
        return None, tuple(
            FieldError(pointer(problem["loc"]), _sentence(problem["type"], problem["msg"]))
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        )


def read_part(model: type[B], document: Json) -> B | None:
    """A part of a body that is faulty elsewhere, where this part is sound."""
    return check_body(model, document)[0]


def pointer(location: Sequence[int | str]) -> str:
    """A JSON pointer (RFC 6901); an empty one means the body as a whole."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)


def _sentence(kind: str, message: str) -> str:
    return _SENTENCES.get(kind) or message.removeprefix("Value error, ")


def count_values(value: Json) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(count_values, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(count_values, value))
    return 1


def find_hostile(document: Json) -> tuple[FieldError, ...]:
    """What no field may hold: NUL, half of a surrogate pair, integers beyond MAX_INTEGER, nesting beyond MAX_DEPTH."""
    found: list[FieldError] = []
    stack: list[tuple[Json, tuple[int | str, ...]]] = [(document, ())]
    while stack and len(found) < 20:
        value, path = stack.pop()
        if isinstance(value, str):
            if not _is_storable(value):
                found.append(FieldError(_printable(path), "holds a character that cannot be stored"))
        elif isinstance(value, bool):
            continue
        elif isinstance(value, int | float):
            if abs(value) > MAX_INTEGER:
                found.append(FieldError(_printable(path), f"write a number up to {MAX_INTEGER}"))
        elif isinstance(value, dict | list):
            if len(path) >= MAX_DEPTH:
                found.append(FieldError(_printable(path[:3]), f"is nested deeper than {MAX_DEPTH} levels"))
                continue
            if isinstance(value, list):
                stack += [(part, (*path, index)) for index, part in enumerate(value)]
                continue
            for key, part in value.items():
                if not _is_storable(key):
                    found.append(FieldError(_printable(path), "has a member whose name cannot be stored"))
                stack.append((part, (*path, key)))
    return tuple(found)


def _is_storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _printable(path: Sequence[int | str]) -> str:
    return pointer(path).encode("utf-8", "replace").decode().replace("\x00", "?")


def parse_uuid(text: str) -> UUID | None:
    return UUID(text) if is_uuid(text) else None
