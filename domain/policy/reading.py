"""The format of a policy, key by key, document to typed parts; it must never judge whether the parts fit."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from domain.machines import FULFILLMENT_TASK
from domain.policy.documents import (
    Record,
    Refused,
    Shape,
    Spot,
    boolean,
    listing,
    one_of,
    record,
    suggest,
    table,
    text,
    whole_number,
    word,
)
from domain.policy.durations import parse_duration
from domain.policy.schemas import value_schema
from domain.policy.terms import (
    AMENDMENT_CLASSES,
    APPROVALS,
    FEASIBILITIES,
    IRREVERSIBLE_STATES,
    MONEY,
    ON_INPUT_CHANGE,
    PAST_NO_RETURN,
    PHASES,
    REASON_KINDS,
    SAFETY_RESULTS,
    TOUCHES,
    AmendableField,
    AmendmentRules,
    CancellationRules,
    Charge,
    Children,
    ClosureRules,
    Condition,
    EffectLevelAtLeast,
    FollowUp,
    PlanStep,
    PointOfNoReturn,
    PriceAccepted,
    ReasonCode,
    SafetyRule,
    SupplementalRules,
    TaskInState,
    TaskType,
    VerifyRule,
    split_pointer,
)
from domain.values import EFFECT_LEVELS, ITEM_ACTIONS, ORDER_TYPES, REVERSIBILITIES, Json, Money, parse_time

ACTIONS: Final = tuple(action for action in ITEM_ACTIONS if action != "NO_CHANGE")
FOLLOW_UP_ORDERS: Final = ("SUPPLEMENTAL", "DISCONNECT", "RETURN", "REPAIR", "BILLING_ADJUSTMENT")
LONGEST: Final = timedelta(days=3660)

# What an order is made of (POST /orders): a path elsewhere would silently touch nothing.
ORDER_KEYS: Final = [
    "externalId",
    "orderType",
    "customer",
    "contact",
    "deliveryNote",
    "deliveryAddress",
    "installationAddress",
    "appointment",
    "requestedStartDate",
    "startOnRequestedDate",
    "quoteId",
    "priceAccepted",
    "items",
]
ITEM_KEYS: Final = [
    "itemId",
    "action",
    "productOfferingId",
    "quantity",
    "configuration",
    "price",
    "targetAssetId",
    "parentItemId",
    "reliesOn",
]


@dataclass(frozen=True, slots=True)
class OfferingRow:
    """An offering as written: None is "not said", which `same_as` may fill."""

    same_as: str | None
    plans: Mapping[str, tuple[PlanStep, ...]] | None
    children: Children | None
    requires: tuple[str, ...] | None
    compatible_from: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Draft:
    """The parts that could be read; rows that could not are only names (`all_…`; None: no such section)."""

    name: str
    effective_from: datetime
    currency: str
    reason_codes: Mapping[str, Mapping[str, ReasonCode]]
    systems: tuple[str, ...]
    all_systems: Collection[str] | None
    task_types: Mapping[str, TaskType]
    all_types: Collection[str] | None
    offerings: Mapping[str, OfferingRow]
    all_offerings: Collection[str] | None
    amendable_fields: tuple[AmendableField | None, ...]
    amendment: AmendmentRules
    cancellation: CancellationRules
    supplemental: SupplementalRules
    fallout_sla: timedelta

    @property
    def types_are_whole(self) -> bool:
        """Whether every type could be read: only then does "nobody names it" mean something."""
        return self.all_types is not None and len(self.task_types) == len(self.all_types)


def read_draft(spot: Spot) -> Draft:
    """The draft of a document; it is whole only if `spot.problems` stays empty."""
    doc = Record(spot)
    draft = Draft(
        name=doc.need("policy", _NAME),
        effective_from=doc.need("effective_from", _moment),
        currency=doc.need("currency", _CURRENCY),
        reason_codes=doc.need("reason_codes", record(_reason_codes)),
        systems=doc.need("systems", listing(_NAME, unique=True)),
        all_systems=_names(spot, "systems"),
        task_types=doc.need("task_types", table(_task_type, key=_NAME, whole=False)) or {},
        all_types=_names(spot, "task_types"),
        offerings=doc.need("offerings", table(record(_offering), key=_OFFERING, whole=False)) or {},
        all_offerings=_names(spot, "offerings"),
        amendable_fields=doc.need("amendable_fields", listing(_field_or_hole)) or (),
        amendment=doc.need("amendment", record(_amendment)),
        cancellation=doc.need("cancellation", record(_cancellation)),
        supplemental=doc.need("supplemental", record(_supplemental)),
        fallout_sla=doc.need("fallout", record(_fallout)),
    )
    try:
        return doc.build(lambda: draft)
    except Refused:
        return draft


def _names(spot: Spot, key: str) -> Collection[str] | None:
    rows = spot.value.get(key)
    return tuple(name for name in rows if isinstance(name, str)) if isinstance(rows, dict | list) else None


# -- words ----------------------------------------------------------------------------------------------

_NAME: Final = word(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", "a name of letters, digits, - and _, e.g. ship-device")
_OFFERING: Final = word(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", "an offering's name, e.g. fiber-500")
_CODE: Final = word(r"[A-Z][A-Z0-9_]{0,79}", "a code in upper case, e.g. CUSTOMER_CHANGED_MIND")
_CURRENCY: Final = word(r"[A-Z]{3}", "an ISO 4217 currency, e.g. EUR")
_AFTER: Final = word(
    r"((reliesOn|children)\.)?[A-Za-z0-9][A-Za-z0-9_-]{0,79}", "a step, reliesOn.<step> or children.<step>"
)


def _plan_key(spot: Spot) -> str:
    order_type, slash, action = str(spot.value).rpartition("/")
    if slash and order_type not in ORDER_TYPES:
        raise spot.refuse(f"{order_type!r} is no order type; {suggest(order_type, ORDER_TYPES)}")
    if action not in ACTIONS:
        raise spot.refuse(f"write ACTION or ORDER_TYPE/ACTION; {action!r} is no action: {suggest(action, ACTIONS)}")
    return str(spot.value)


def _moment(spot: Spot) -> datetime:
    try:
        # A bare date is the start of its day in UTC.
        bare = isinstance(spot.value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", spot.value)
        return parse_time(f"{spot.value}T00:00:00Z" if bare else spot.value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise spot.want("a time with an offset, e.g. 2026-01-01T00:00:00Z") from None


def _span(least: timedelta) -> Shape[timedelta]:
    def read(spot: Spot) -> timedelta:
        if not isinstance(spot.value, str):
            raise spot.want("an ISO 8601 duration, e.g. PT10S, PT1H, P2D")
        try:
            span = parse_duration(spot.value)
        except ValueError as error:
            raise spot.refuse(f"{spot.value!r}: {error}") from None
        if not least <= span <= LONGEST:
            wanted = "longer than zero" if span < least else f"at most {LONGEST.days} days"
            raise spot.refuse(f"{spot.value!r}: write a duration that is {wanted}")
        return span

    return read


_SPAN: Final = _span(timedelta(microseconds=1))
_SPAN_OR_ZERO: Final = _span(timedelta(0))


# -- places in the order --------------------------------------------------------------------------------


def _input_path(spot: Spot) -> str:
    return _order_path(spot, of_item="*", example="/deliveryAddress or /items/*/quantity")


def _field_path(spot: Spot) -> str:
    return _order_path(spot, of_item="{itemId}", example="/contact/phone or /items/{itemId}/quantity", may_add=True)


def _order_path(spot: Spot, *, of_item: str, example: str, may_add: bool = False) -> str:
    pointer = text(spot)
    root, *rest = split_pointer(pointer) if pointer.startswith("/") else ("",)
    if root not in ORDER_KEYS:
        raise spot.refuse(f"write a JSON pointer into the order, e.g. {example}; {suggest(root, ORDER_KEYS)}")
    in_items = rest if root == "items" else []
    if "" in rest or any(part in {"*", "{itemId}", "-"} for part in rest[1 if in_items else 0 :]):
        raise spot.refuse(f"each part of a pointer names a member, `{of_item}` only stands for an item: {example}")
    if may_add and in_items in (["-"], [of_item]):  # an item that comes, or one that goes
        return pointer
    if root == "items" and (in_items[:1] != [of_item] or len(in_items) < 2):
        raise spot.refuse(f"after /items comes `{of_item}`, then a member of it, e.g. /items/{of_item}/quantity")
    if in_items and in_items[1] not in ITEM_KEYS:
        hint = suggest(in_items[1], ITEM_KEYS)
        raise spot.refuse(f"an item has no {in_items[1]!r}; its own fields live in configuration; {hint}")
    return pointer


# -- task types -----------------------------------------------------------------------------------------

_UNSAID: Final = TaskType(name="", system="", operation="")


def _task_type(spot: Spot) -> TaskType:
    row = Record(spot)
    names = listing(_NAME, unique=True)
    kind = TaskType(
        name=spot.key,
        system=row.need("system", _NAME),
        operation=row.need("operation", _NAME),
        reversibility=row.get("reversibility", one_of(REVERSIBILITIES), _UNSAID.reversibility),
        external_effect_level=row.get("external_effect_level", one_of(EFFECT_LEVELS), _UNSAID.external_effect_level),
        irreversible_after_state=row.get("irreversible_after_state", one_of(IRREVERSIBLE_STATES), None),
        hard_point_of_no_return=row.get("hard_point_of_no_return", record(_hard_point), None),
        soft_point_of_no_return=row.get("soft_point_of_no_return", record(_soft_point), None),
        past_no_return=row.get("past_no_return", one_of(PAST_NO_RETURN), _UNSAID.past_no_return),
        keeps=row.get("keeps", names, ()),
        compensation=row.get("compensation", _NAME, None),
        withdrawal=row.get("withdrawal", _NAME, None),
        undo_after=row.get("undo_after", names, ()),
        inputs=row.get("inputs", listing(_input_path, unique=True), ()),
        on_input_change=row.get("on_input_change", one_of(ON_INPUT_CHANGE), _UNSAID.on_input_change),
        money=row.get("money", one_of(MONEY), None),
        money_only=row.get("money_only", boolean, _UNSAID.money_only),
        follow_up=row.get("follow_up", record(_follow_up), None),
        timeout=row.get("timeout", _SPAN, _UNSAID.timeout),
        attempts=row.get("attempts", whole_number(1, 100), _UNSAID.attempts),
        backoff=row.get("backoff", _SPAN, _UNSAID.backoff),
        callback_timeout=row.get("callback_timeout", _SPAN, _UNSAID.callback_timeout),
        verify=row.get("verify", record(_verify), _UNSAID.verify),
    )
    row.forbid("charge", "a charge belongs to a point in time; move it into soft_point_of_no_return")
    return row.build(lambda: kind)


def _hard_point(row: Record) -> PointOfNoReturn:
    point = PointOfNoReturn(row.get("field", _input_path, None), row.need("by", _SPAN_OR_ZERO))
    row.forbid("charge", "past the hard point nothing is undone, so nothing is charged; move it into the soft point")
    return row.build(lambda: point)


def _soft_point(row: Record) -> PointOfNoReturn:
    field = row.get("field", _input_path, None)
    point = PointOfNoReturn(field, row.need("by", _SPAN_OR_ZERO), row.need("charge", record(_charge)))
    return row.build(lambda: point)


def _charge(row: Record) -> Charge:
    amount = Money(row.need("amountMinor", whole_number(1, 10**15)), row.need("currency", _CURRENCY))
    code, blocking = row.need("code", _CODE), row.get("blocking", boolean, True)
    # Somebody waits for the answer to a blocking charge, so it must have an end.
    within = row.need("respond_within", _SPAN) if blocking else row.get("respond_within", _SPAN, None)
    return row.build(lambda: Charge(code, amount, blocking, within))


def _follow_up(row: Record) -> FollowUp:
    follow_up = FollowUp(row.need("order_type", one_of(FOLLOW_UP_ORDERS)), row.need("action", one_of(ACTIONS)))
    return row.build(lambda: follow_up)


def _verify(row: Record) -> VerifyRule:
    rule = VerifyRule(
        row.get("every", _SPAN, _UNSAID.verify.every),
        row.get("give_up_after", _SPAN, _UNSAID.verify.give_up_after),
    )
    if not row.broken and rule.give_up_after < rule.every:
        raise row.spot.refuse("give_up_after is shorter than every: nobody would ever be asked; make it longer")
    return row.build(lambda: rule)


# -- offerings ------------------------------------------------------------------------------------------


def _offering(row: Record) -> OfferingRow:
    names = listing(_OFFERING, unique=True)
    plans = table(listing(record(_step)), key=_plan_key)
    same_as = row.get("same_as", _OFFERING, None)
    offering = OfferingRow(
        same_as=same_as,
        plans=row.get("plans", plans, None) if row.spot.value.get("same_as") else row.need("plans", plans),
        children=row.get("children", record(_children), None),
        requires=row.get("requires", names, None),
        compatible_from=row.get("compatible_from", names, None),
    )
    return row.build(lambda: offering)


def _children(row: Record) -> Children:
    names = listing(_OFFERING, unique=True)
    children = Children(row.get("mandatory", names, ()), row.get("optional", names, ()))
    return row.build(lambda: children)


def _step(row: Record) -> PlanStep:
    step = PlanStep(
        step=row.need("step", _NAME),
        type=row.need("type", _NAME),
        after=row.get("after", listing(_AFTER, unique=True), ()),
        per_order=row.get("per", one_of(("ITEM", "ORDER")), "ITEM") == "ORDER",
    )
    return row.build(lambda: step)


# -- reasons, rules, the safety matrix ------------------------------------------------------------------


def _reason_codes(row: Record) -> dict[str, dict[str, ReasonCode]]:
    kinds = {kind: row.need(kind, _codes) for kind in REASON_KINDS}
    return row.build(lambda: kinds)


def _codes(spot: Spot) -> dict[str, ReasonCode]:
    codes = listing(_reason_code)(spot)
    named = {reason.code: reason for reason in codes}
    if len(named) < len(codes):
        twice = next(reason.code for n, reason in enumerate(codes) if reason.code in {r.code for r in codes[:n]})
        raise spot.refuse(f"the code {twice} is given twice; keep one of them")
    return named


def _reason_code(spot: Spot) -> ReasonCode:
    if not isinstance(spot.value, dict):
        return ReasonCode(_CODE(spot))
    row = Record(spot)
    reason = ReasonCode(
        code=row.need("code", _CODE),
        charge_waived=row.get("charge", one_of(("WAIVED",)), None) is not None,
        refusable=row.get("refusable", boolean, True),
    )
    return row.build(lambda: reason)


def _approval(answers: Collection[str]) -> Shape[dict[str, str]]:
    """A total table: what happens for each of the findings. What cannot be done or judged alone is fixed."""

    def read(row: Record) -> dict[str, str]:
        chosen = {answer: row.need(answer, one_of(_OPEN_TO.get(answer, APPROVALS))) for answer in answers}
        return row.build(lambda: chosen)

    return record(read)


_OPEN_TO: Final = {
    "NOT_CANCELLABLE": ("REJECT",),
    "BLOCKED": ("REJECT",),
    "REQUIRES_MANUAL_REVIEW": ("APPROVAL", "REJECT"),
}


def _grace(row: Record) -> timedelta:
    maximum = row.need("maximum", _SPAN_OR_ZERO)
    return row.build(lambda: maximum)


def _amendment(row: Record) -> AmendmentRules:
    rules = AmendmentRules(
        approval=row.need("approval", _approval(SAFETY_RESULTS)),
        price_increase=row.need("price_increase", one_of(APPROVALS)),
        grace=row.need("grace", record(_grace)),
        approval_sla=row.need("approval_sla", _SPAN),
    )
    return row.build(lambda: rules)


def _cancellation(row: Record) -> CancellationRules:
    rules = CancellationRules(
        grace=row.need("grace", record(_grace)),
        approval=row.need("approval", _approval(FEASIBILITIES)),
        approval_sla=row.need("approval_sla", _SPAN),
        compensation_sla=row.need("compensation_sla", _SPAN),
        closure=row.need("closure", record(_closure)),
    )
    return row.build(lambda: rules)


def _closure(row: Record) -> ClosureRules:
    rules = ClosureRules(
        mandatory_child=row.need("mandatory_child", one_of(("BLOCK", "PULL_PARENT"))),
        relies_on=row.need("relies_on", one_of(("INCLUDE", "BLOCK"))),
        dependent_order=row.need("dependent_order", one_of(("PROPOSE", "HOLD", "BLOCK"))),
    )
    return row.build(lambda: rules)


def _supplemental(row: Record) -> SupplementalRules:
    rules = SupplementalRules(row.need("on_partially_completed_source", one_of(("ALLOW", "REFUSE"))))
    return row.build(lambda: rules)


def _fallout(row: Record) -> timedelta:
    sla = row.need("sla", _SPAN)
    return row.build(lambda: sla)


def _field_or_hole(spot: Spot) -> AmendableField | None:
    """A hole keeps the places of the rows after it."""
    try:
        return _amendable_field(Record(spot))
    except Refused:
        return None


def _amendable_field(row: Record) -> AmendableField:
    name = row.need("field", _NAME)
    field = AmendableField(
        field=name,
        command=row.need("command", _NAME),
        class_=row.need("class", one_of(AMENDMENT_CLASSES)),
        path=row.need("path", _field_path),
        schema=row.need("schema", value_schema),
        safety=row.need("safety", record(lambda cells: _safety(name, cells))),
        touches=row.get("touches", one_of(TOUCHES), "INPUTS"),
        allowed_while_cancelling=row.get("allowed_while_cancelling", boolean, False),
    )
    if not row.broken and field.touches == "ITEM" and "{itemId}" not in field.path:
        raise row.spot.into("touches", "ITEM").refuse(
            f"{field.path} is in no item; write INPUTS or ORDER, or a path under /items/{{itemId}}"
        )
    return row.build(lambda: field)


def _safety(field: str, row: Record) -> dict[str, tuple[SafetyRule, ...]]:
    cells = {phase: row.need(phase, lambda spot: _cell(field, spot)) for phase in PHASES}
    return row.build(lambda: cells)


def _cell(field: str, spot: Spot) -> tuple[SafetyRule, ...]:
    if not isinstance(spot.value, list):
        return (SafetyRule(f"{field}/{spot.key}", one_of(SAFETY_RESULTS)(spot)),)
    rules = listing(record(lambda row: _safety_rule(field, spot.key, row)))(spot)
    if not rules or rules[-1].condition is not None:
        raise spot.refuse("end the list with a rule without `if`, so that every case has a result")
    for n, rule in enumerate(rules[:-1]):
        if rule.condition is None:
            raise spot.into(n, None).refuse("the rules after this one are never reached; add an `if` or move it last")
    return rules


def _safety_rule(field: str, phase: str, row: Record) -> SafetyRule:
    rule = SafetyRule(
        rule_id=f"{field}/{phase}/{row.spot.key}",
        result=row.need("result", one_of(SAFETY_RESULTS)),
        condition=row.get("if", record(_condition), None),
        reason=row.get("reason", text, None),
    )
    return row.build(lambda: rule)


def _condition(row: Record) -> Condition:
    said: Mapping[str, Json] = row.spot.value
    condition: Condition
    if "price_accepted" in said:
        condition = PriceAccepted(row.need("price_accepted", boolean))
    elif "effect_level_at_least" in said:
        condition = EffectLevelAtLeast(row.need("effect_level_at_least", one_of(EFFECT_LEVELS)))
    elif said.keys() & {"task_type", "state_in"}:
        states = row.need("state_in", listing(one_of(tuple(FULFILLMENT_TASK)), unique=True))
        condition = TaskInState(row.need("task_type", _NAME), frozenset(states or ()))
        if states == ():
            raise row.spot.into("state_in", None).refuse("an empty list is never true; name at least one state")
    else:
        raise row.spot.refuse("write {task_type, state_in}, {price_accepted} or {effect_level_at_least}")
    return row.build(lambda: condition)
