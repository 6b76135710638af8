"""What a policy says, typed and frozen; it must never decide anything about an order.

Attribute names are the keys of the document (docs/policy.md); durations are timedeltas, money is Money.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from domain.errors import FieldError
from domain.policy.durations import format_duration, parse_duration
from domain.policy.schemas import schema_errors
from domain.values import EFFECT_LEVELS, Json, Money

REASON_KINDS: Final = ("cancellation", "amendment", "supplemental", "repair")
PAST_NO_RETURN: Final = ("RETAIN", "BLOCK")
ON_INPUT_CHANGE: Final = ("KEEP", "REDO", "UNDO_THEN_DO", "DO_THEN_UNDO", "MANUAL")
MONEY: Final = ("CAPTURE", "REFUND")
IRREVERSIBLE_STATES: Final = ("READY", "IN_PROGRESS", "WAITING_EXTERNAL", "OUTCOME_UNKNOWN", "COMPLETED")
AMENDMENT_CLASSES: Final = (
    "ADMINISTRATIVE",
    "SCHEDULING",
    "FULFILLMENT_ROUTING",
    "COMMERCIAL",
    "CONTRACTUAL",
    "TECHNICAL",
)
PHASES: Final = ("BEFORE_DECOMPOSITION", "AFTER_DECOMPOSITION", "TASK_STARTED", "TASK_COMPLETED")
SAFETY_RESULTS: Final = ("ALLOWED", "ALLOWED_WITH_REVALIDATION", "REDECOMPOSE", "MANUAL", "BLOCKED")
FEASIBILITIES: Final = (
    "FULLY_CANCELLABLE",
    "PARTIALLY_CANCELLABLE",
    "REQUIRES_MANUAL_REVIEW",
    "NOT_CANCELLABLE",
)
APPROVALS: Final = ("AUTOMATIC", "APPROVAL", "REJECT")
TOUCHES: Final = ("INPUTS", "ITEM", "ORDER")
RELIES_ON: Final = "reliesOn"
CHILDREN: Final = "children"
REVALIDATION: Final = "revalidate-quote"


@dataclass(frozen=True, slots=True)
class ReasonCode:
    code: str
    charge_waived: bool = False
    refusable: bool = True


@dataclass(frozen=True, slots=True)
class Charge:
    """What undoing costs from the soft point of no return on; `respond_within` None: nobody waits for it."""

    code: str
    amount: Money
    blocking: bool
    respond_within: timedelta | None = None

    def to_json(self) -> dict[str, Json]:
        return _said(
            code=self.code,
            **self.amount.to_json(),
            blocking=self.blocking,
            respond_within=_duration_text(self.respond_within),
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> Charge:
        within = row.get("respond_within")
        return cls(row["code"], Money.from_json(row), row["blocking"], parse_duration(within) if within else None)


@dataclass(frozen=True, slots=True)
class PointOfNoReturn:
    """The moment `field - by`; never, where the order has no such field or none is named."""

    field: str | None
    by: timedelta
    charge: Charge | None = None

    def moment(self, at: datetime | None) -> datetime | None:
        """The point, given the time that stands in the field."""
        return None if at is None else at - self.by

    def to_json(self) -> dict[str, Json]:
        charge = self.charge.to_json() if self.charge else None
        return _said(field=self.field, by=format_duration(self.by), charge=charge)

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> PointOfNoReturn:
        charge = row.get("charge")
        return cls(row.get("field"), parse_duration(row["by"]), Charge.from_json(charge) if charge else None)


@dataclass(frozen=True, slots=True)
class FollowUp:
    """The order that is proposed for an effect that stays."""

    order_type: str
    action: str

    def to_json(self) -> dict[str, Json]:
        return {"order_type": self.order_type, "action": self.action}


@dataclass(frozen=True, slots=True)
class VerifyRule:
    """How an unknown outcome is asked for: every so often, until a person must look."""

    every: timedelta = timedelta(minutes=1)
    give_up_after: timedelta = timedelta(hours=1)

    def to_json(self) -> dict[str, Json]:
        return {"every": format_duration(self.every), "give_up_after": format_duration(self.give_up_after)}


@dataclass(frozen=True, slots=True)
class TaskType:
    """One kind of work on one outside system; copied to the task at decomposition (`to_json`)."""

    name: str
    system: str
    operation: str
    reversibility: str = "UNKNOWN"
    external_effect_level: str = "UNKNOWN"
    irreversible_after_state: str | None = None
    hard_point_of_no_return: PointOfNoReturn | None = None
    soft_point_of_no_return: PointOfNoReturn | None = None
    past_no_return: str = "RETAIN"
    keeps: tuple[str, ...] = ()
    compensation: str | None = None
    withdrawal: str | None = None
    undo_after: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    on_input_change: str = "MANUAL"
    money: str | None = None
    money_only: bool = False
    follow_up: FollowUp | None = None
    timeout: timedelta = timedelta(seconds=10)
    attempts: int = 3
    backoff: timedelta = timedelta(seconds=1)
    callback_timeout: timedelta = timedelta(hours=1)
    verify: VerifyRule = VerifyRule()

    def to_json(self) -> dict[str, Json]:
        """The row as plain JSON without what is empty; defaults are written out, for they may change."""
        hard, soft, follow_up = self.hard_point_of_no_return, self.soft_point_of_no_return, self.follow_up
        return _said(
            name=self.name,
            system=self.system,
            operation=self.operation,
            reversibility=self.reversibility,
            external_effect_level=self.external_effect_level,
            irreversible_after_state=self.irreversible_after_state,
            hard_point_of_no_return=hard.to_json() if hard else None,
            soft_point_of_no_return=soft.to_json() if soft else None,
            past_no_return=self.past_no_return,
            keeps=list(self.keeps) or None,
            compensation=self.compensation,
            withdrawal=self.withdrawal,
            undo_after=list(self.undo_after) or None,
            inputs=list(self.inputs) or None,
            on_input_change=self.on_input_change,
            money=self.money,
            money_only=self.money_only or None,
            follow_up=follow_up.to_json() if follow_up else None,
            timeout=format_duration(self.timeout),
            attempts=self.attempts,
            backoff=format_duration(self.backoff),
            callback_timeout=format_duration(self.callback_timeout),
            verify=self.verify.to_json(),
        )

    def reads(self, field_path: str) -> bool:
        """Whether an input is this path of a field (`{itemId}` stands for an item), or one a prefix of the other."""
        return any(_meet(field_path, pointer) for pointer in self.inputs)

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> TaskType:
        """The inverse of `to_json`; trusts its input, which this product wrote."""
        hard, soft = row.get("hard_point_of_no_return"), row.get("soft_point_of_no_return")
        follow_up, verify = row.get("follow_up"), row["verify"]
        return cls(
            name=row["name"],
            system=row["system"],
            operation=row["operation"],
            reversibility=row["reversibility"],
            external_effect_level=row["external_effect_level"],
            irreversible_after_state=row.get("irreversible_after_state"),
            hard_point_of_no_return=PointOfNoReturn.from_json(hard) if hard else None,
            soft_point_of_no_return=PointOfNoReturn.from_json(soft) if soft else None,
            past_no_return=row["past_no_return"],
            keeps=tuple(row.get("keeps", ())),
            compensation=row.get("compensation"),
            withdrawal=row.get("withdrawal"),
            undo_after=tuple(row.get("undo_after", ())),
            inputs=tuple(row.get("inputs", ())),
            on_input_change=row["on_input_change"],
            money=row.get("money"),
            money_only=row.get("money_only", False),
            follow_up=FollowUp(follow_up["order_type"], follow_up["action"]) if follow_up else None,
            timeout=parse_duration(row["timeout"]),
            attempts=row["attempts"],
            backoff=parse_duration(row["backoff"]),
            callback_timeout=parse_duration(row["callback_timeout"]),
            verify=VerifyRule(parse_duration(verify["every"]), parse_duration(verify["give_up_after"])),
        )


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step of what an item decomposes into. `after`: own steps, `reliesOn.<step>`, `children.<step>`."""

    step: str
    type: str
    after: tuple[str, ...] = ()
    per_order: bool = False

    def predecessors(self) -> Iterator[tuple[str | None, str]]:
        """Each `after` as (None | "reliesOn" | "children", step)."""
        for name in self.after:
            whose, dot, step = name.partition(".")
            yield (whose, step) if dot else (None, name)


@dataclass(frozen=True, slots=True)
class Children:
    mandatory: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offering:
    """What can be ordered; `same_as` is already resolved. `requires` empty: it needs nothing."""

    name: str
    plans: Mapping[str, tuple[PlanStep, ...]]
    children: Children = Children()
    requires: tuple[str, ...] = ()
    compatible_from: tuple[str, ...] = ()

    def plan_for(self, order_type: str, action: str) -> tuple[PlanStep, ...] | None:
        """The plan of `ORDER_TYPE/ACTION`, else of `ACTION`; None: not offered. A plan may be empty."""
        own = self.plans.get(f"{order_type}/{action}")
        return self.plans.get(action) if own is None else own


@dataclass(frozen=True, slots=True)
class TaskInState:
    """Any touched-or-named task of this type is in one of these states."""

    task_type: str
    state_in: frozenset[str]


@dataclass(frozen=True, slots=True)
class PriceAccepted:
    """The order's `priceAccepted` is this."""

    price_accepted: bool


@dataclass(frozen=True, slots=True)
class EffectLevelAtLeast:
    """Any touched task has a confirmed effect of this level or a higher one (order of `EFFECT_LEVELS`)."""

    effect_level_at_least: str

    def holds_for(self, level: str) -> bool:
        return EFFECT_LEVELS.index(level) >= EFFECT_LEVELS.index(self.effect_level_at_least)


Condition = TaskInState | PriceAccepted | EffectLevelAtLeast


@dataclass(frozen=True, slots=True)
class SafetyRule:
    """One rule of a cell; `condition` None holds always. `rule_id` is what an assessment cites."""

    rule_id: str
    result: str
    condition: Condition | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AmendableField:
    """One row of the safety matrix. `class_` is the document's `class`; a cell's last rule holds always.

    schema: JSON Schema (2020-12) of a value, the shapes address, money, item and window written out
    """

    field: str
    command: str
    class_: str
    path: str
    schema: Mapping[str, Json]
    safety: Mapping[str, tuple[SafetyRule, ...]]
    touches: str = "INPUTS"
    allowed_while_cancelling: bool = False

    def value_errors(self, value: Json) -> tuple[FieldError, ...]:
        """What is wrong with a new value; paths begin at the value."""
        return schema_errors(self.schema, value)

    def touches_type(self, task_type: TaskType) -> bool:
        """Whether an input of the type is this path, or one a prefix of the other (`touches: INPUTS`)."""
        return task_type.reads(self.path)


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """The amendable field that a pointer of a request means: whole, or the place `inside` its value."""

    field: AmendableField
    item_id: str | None
    inside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AmendmentRules:
    approval: Mapping[str, str]
    price_increase: str
    grace: timedelta
    approval_sla: timedelta


@dataclass(frozen=True, slots=True)
class ClosureRules:
    mandatory_child: str
    relies_on: str
    dependent_order: str


@dataclass(frozen=True, slots=True)
class CancellationRules:
    grace: timedelta
    approval: Mapping[str, str]
    approval_sla: timedelta
    compensation_sla: timedelta
    closure: ClosureRules


@dataclass(frozen=True, slots=True)
class SupplementalRules:
    on_partially_completed_source: str


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of the business's rules. Which version, and whose, is the store's knowledge."""

    name: str
    effective_from: datetime
    currency: str
    reason_codes: Mapping[str, Mapping[str, ReasonCode]]
    systems: tuple[str, ...]
    task_types: Mapping[str, TaskType]
    offerings: Mapping[str, Offering]
    amendable_fields: tuple[AmendableField, ...]
    amendment: AmendmentRules
    cancellation: CancellationRules
    supplemental: SupplementalRules
    fallout_sla: timedelta

    @property
    def revalidation(self) -> TaskType | None:
        """The type that asks for prices anew; None: a result ALLOWED_WITH_REVALIDATION has nobody to ask."""
        return self.task_types.get(REVALIDATION)

    def match_field(self, pointer: str) -> FieldMatch | None:
        """The field whose path is the pointer or its longest prefix; None: not amendable."""
        given = split_pointer(pointer)
        matches = (match for row in self.amendable_fields if (match := _match(row, given)) is not None)
        return min(matches, key=lambda match: len(match.inside), default=None)


def split_pointer(pointer: str) -> tuple[str, ...]:
    """The segments of a JSON pointer (RFC 6901); an empty one has none."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


# In a pointer of an amendment an item is its id, in a field's path `{itemId}`, in an input `*`.
_ANY_ITEM: Final = frozenset({"*", "{itemId}"})


def _meet(field_path: str, input_pointer: str) -> bool:
    pairs = zip(split_pointer(field_path), split_pointer(input_pointer), strict=False)
    return all(ours == theirs or {ours, theirs} == _ANY_ITEM for ours, theirs in pairs)


def _match(row: AmendableField, given: tuple[str, ...]) -> FieldMatch | None:
    wanted = split_pointer(row.path)
    whole = wanted[-1] in {"-", "{itemId}"}  # an item comes, and goes, as a whole
    if len(given) < len(wanted) or (whole and len(given) > len(wanted)):
        return None
    item_id: str | None = None
    for want, have in zip(wanted, given, strict=False):
        if want == "{itemId}" and have != "-":
            item_id = have
        elif want != have:
            return None
    return FieldMatch(row, item_id, given[len(wanted) :])


def _said(**row: Json) -> dict[str, Json]:
    return {key: value for key, value in row.items() if value is not None}


def _duration_text(duration: timedelta | None) -> str | None:
    return None if duration is None else format_duration(duration)
