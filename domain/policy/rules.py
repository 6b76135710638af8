"""What `policy check` refuses although every part is well formed: parts that do not fit together.

One rule = one generator over the draft; its docstring is the rule. It never sees rows that could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from typing import Final

from domain.circles import find_circle
from domain.errors import FieldError as Problem
from domain.policy.documents import point, suggest
from domain.policy.reading import Draft, OfferingRow
from domain.policy.terms import CHILDREN, RELIES_ON, Children, Offering, PlanStep, TaskInState, TaskType
from domain.values import is_external

Plan = tuple[PlanStep, ...]


def check_draft(draft: Draft) -> Iterator[Problem]:
    """Every problem of every rule."""
    for rule in RULES:
        yield from rule(draft)


def resolve_offerings(draft: Draft) -> dict[str, Offering]:
    """The offerings with `same_as` written in (what one says itself wins), but those that cannot be."""
    resolved = {}
    for name in draft.offerings:
        chain = _chain(draft, name)
        if chain is not None:
            plans, children, requires, compatible_from = (
                next((said for link in chain if (said := getattr(link, key)) is not None), None)
                for key in ("plans", "children", "requires", "compatible_from")
            )
            resolved[name] = Offering(name, plans or {}, children or Children(), requires or (), compatible_from or ())
    return resolved


def _chain(draft: Draft, name: str) -> list[OfferingRow] | None:
    links: list[OfferingRow] = []
    following: str | None = name
    while following is not None:
        row = draft.offerings.get(following)
        if row is None or len(links) > len(draft.offerings):
            return None
        links.append(row)
        following = row.same_as
    return links


# -- names ----------------------------------------------------------------------------------------------


def _systems_are_declared(draft: Draft) -> Iterator[Problem]:
    """A task type works on a declared system."""
    for kind in draft.task_types.values():
        yield from _unknown("system", "systems", kind.system, draft.all_systems, _type_path(kind, "system"))


def _types_are_declared(draft: Draft) -> Iterator[Problem]:
    """Wherever a task type is named, there is a row of that name."""
    for name, path in _type_references(draft):
        yield from _unknown("task type", "task_types", name, draft.all_types, path)


def _type_references(draft: Draft) -> Iterator[tuple[str, str]]:
    for kind in draft.task_types.values():
        for key in ("compensation", "withdrawal"):
            if (name := getattr(kind, key)) is not None:
                yield name, _type_path(kind, key)
        for key in ("keeps", "undo_after"):
            yield from ((name, _type_path(kind, key, n)) for n, name in enumerate(getattr(kind, key)))
    yield from ((step.type, path + "/type") for _, _, step, path in _steps(draft))
    yield from _condition_types(draft)


def _condition_types(draft: Draft) -> Iterator[tuple[str, str]]:
    for n, field in enumerate(draft.amendable_fields):
        for phase, rules in field.safety.items() if field else ():
            for m, rule in enumerate(rules):
                if isinstance(rule.condition, TaskInState):
                    yield (
                        rule.condition.task_type,
                        point("/amendable_fields", n, "safety", phase, m, "if", "task_type"),
                    )


def _offerings_are_declared(draft: Draft) -> Iterator[Problem]:
    """Wherever an offering is named, there is a row of that name."""
    for owner, row in draft.offerings.items():
        for name, keys in _offering_references(row):
            path = point("/offerings", owner, *keys)
            yield from _unknown("offering", "offerings", name, draft.all_offerings, path)


def _offering_references(row: OfferingRow) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    children = row.children or Children()
    if row.same_as is not None:
        yield row.same_as, ("same_as",)
    yield from ((name, ("children", "mandatory", n)) for n, name in enumerate(children.mandatory))
    yield from ((name, ("children", "optional", n)) for n, name in enumerate(children.optional))
    yield from ((name, ("requires", n)) for n, name in enumerate(row.requires or ()))
    yield from ((name, ("compatible_from", n)) for n, name in enumerate(row.compatible_from or ()))


def _fields_are_unique(draft: Draft) -> Iterator[Problem]:
    """An amendable field has a name and a path of its own."""
    for key in ("field", "path"):
        seen: set[str] = set()
        for n, field in enumerate(draft.amendable_fields):
            if field is not None:
                said = getattr(field, key)
                if said in seen:
                    yield Problem(point("/amendable_fields", n, key), f"{said!r} is given twice; keep one of the rows")
                seen.add(said)


# -- roles ----------------------------------------------------------------------------------------------


def _a_type_does_or_undoes(draft: Draft) -> Iterator[Problem]:
    """A type is a step of plans or undoes another, never both; what undoes is itself not undone."""
    undoing = _undoing(draft)
    for _, _, step, path in _steps(draft):
        if step.type in undoing:
            yield Problem(
                path + "/type",
                f"{step.type} undoes {undoing[step.type].name}, so it cannot be a step too; "
                "declare another type for the step",
            )
    for name, original in undoing.items():
        kind = draft.task_types.get(name)
        for key in ("compensation", "withdrawal"):
            if kind is not None and getattr(kind, key) is not None:
                message = f"{name} undoes {original.name} and is itself never undone; remove this"
                yield Problem(_type_path(kind, key), message)


def _conditions_and_keeps_name_forward_work(draft: Draft) -> Iterator[Problem]:
    """`keeps` and the conditions of the safety matrix are about original effects."""
    undoing = _undoing(draft)
    types = draft.task_types.values()
    kept = ((name, _type_path(kind, "keeps", n)) for kind in types for n, name in enumerate(kind.keeps))
    for name, path in (*kept, *_condition_types(draft)):
        if name in undoing:
            yield Problem(path, f"{name} undoes {undoing[name].name}; name the type that it undoes instead")


def _undo_after_names_compensations(draft: Draft) -> Iterator[Problem]:
    """`undo_after` stands on a compensation and names compensations."""
    compensations = {kind.compensation for kind in draft.task_types.values()}
    for kind in draft.task_types.values() if draft.types_are_whole else ():
        if kind.undo_after and kind.name not in compensations:
            hint = f"move it to {kind.compensation}" if kind.compensation else "remove it"
            yield Problem(
                _type_path(kind, "undo_after"),
                f"{kind.name} is nobody's compensation, so nothing is undone by it; {hint}",
            )
        for n, name in enumerate(kind.undo_after):
            other = draft.task_types.get(name)
            if other is not None and name not in compensations:
                hint = f"name {other.compensation}" if other.compensation else "name one, or remove it"
                path = _type_path(kind, "undo_after", n)
                yield Problem(path, f"{name} is nobody's compensation; {hint}")


def _what_can_be_undone_says_how(draft: Draft) -> Iterator[Problem]:
    """AUTOMATIC and PARTIAL above NO_EXTERNAL_EFFECT have a compensation or a withdrawal."""
    for kind in draft.task_types.values():
        undone_by_us = kind.reversibility in {"AUTOMATIC", "PARTIAL"} and is_external(kind.external_effect_level)
        if undone_by_us and kind.compensation is None and kind.withdrawal is None:
            yield Problem(
                _type_path(kind, "reversibility"),
                f"{kind.reversibility} with level {kind.external_effect_level} needs a compensation "
                "or a withdrawal; "
                "add one, or write NONE or MANUAL",
            )


def _soft_point_comes_first(draft: Draft) -> Iterator[Problem]:
    """Undoing costs before it is impossible: the soft point of a field lies before its hard point."""
    for kind in draft.task_types.values():
        soft, hard = kind.soft_point_of_no_return, kind.hard_point_of_no_return
        if soft and hard and soft.field == hard.field and soft.by <= hard.by:
            yield Problem(
                _type_path(kind, "soft_point_of_no_return", "by"),
                "the soft point is not before the hard one, so nothing would be charged; make `by` longer",
            )


def _followups_can_be_ordered(draft: Draft) -> Iterator[Problem]:
    """An offering with a step that may stay has a plan for the order that this proposes."""
    offerings = resolve_offerings(draft)
    for owner, key, step, _ in _steps(draft):
        kind, offering = draft.task_types.get(step.type), offerings.get(owner)
        if kind is None or kind.follow_up is None or offering is None:
            continue
        follow_up = kind.follow_up
        if offering.plan_for(follow_up.order_type, follow_up.action) is None:
            yield Problem(
                _type_path(kind, "follow_up"),
                f"offering {owner} (plan {key}, step {step.step}) has no plan "
                f"{follow_up.order_type}/{follow_up.action}; add a plan {follow_up.action} to it, "
                "or use another type in that step",
            )


# -- money ----------------------------------------------------------------------------------------------


def _money_comes_back_the_way_it_went(draft: Draft) -> Iterator[Problem]:
    """REFUND is the compensation of a CAPTURE; `money_only` is said of a REFUND."""
    originals: dict[str, list[TaskType]] = {}
    for kind in draft.task_types.values():
        if kind.compensation is not None:
            originals.setdefault(kind.compensation, []).append(kind)
    for kind in draft.task_types.values():
        undone = originals.get(kind.name, [])
        if (
            kind.money == "REFUND"
            and draft.types_are_whole
            and not any(original.money == "CAPTURE" for original in undone)
        ):
            yield Problem(
                _type_path(kind, "money"),
                "REFUND gives back what a CAPTURE took; "
                "make this the compensation of a type with money: CAPTURE, or remove it",
            )
        if kind.money == "CAPTURE" and (undone or kind.name in _undoing(draft)):
            message = f"{kind.name} undoes other work and takes no money; write REFUND or remove it"
            yield Problem(_type_path(kind, "money"), message)
        if kind.money_only and kind.money != "REFUND":
            message = "only a REFUND can be skipped when it is zero; add money: REFUND or remove it"
            yield Problem(_type_path(kind, "money_only"), message)


def _charges_are_in_the_policys_currency(draft: Draft) -> Iterator[Problem]:
    """Every charge is in the currency of the policy."""
    for kind in draft.task_types.values():
        soft = kind.soft_point_of_no_return
        if draft.currency and soft and soft.charge and soft.charge.amount.currency != draft.currency:
            yield Problem(
                _type_path(kind, "soft_point_of_no_return", "charge", "currency"),
                f"the policy's currency is {draft.currency}; write {draft.currency}",
            )


# -- graphs ---------------------------------------------------------------------------------------------


def _steps_are_named_once(draft: Draft) -> Iterator[Problem]:
    """A step's name is unique in its plan."""
    for path, _, _, plan in _plans(draft):
        seen: set[str] = set()
        for n, step in enumerate(plan):
            if step.step in seen:
                yield Problem(point(path, n, "step"), f"there are two steps {step.step!r} in this plan; rename one")
            seen.add(step.step)


def _steps_wait_for_steps(draft: Draft) -> Iterator[Problem]:
    """`after` names a step of the same plan, or one that an item relied on, or a child, can have."""
    offerings = resolve_offerings(draft)
    anywhere = _steps_of(offerings, draft.all_offerings or ())
    for path, owner, _, plan in _plans(draft):
        children = offerings[owner].children if owner in offerings else None
        related: dict[str | None, Collection[str] | None] = {
            None: {step.step for step in plan},
            RELIES_ON: anywhere,
            CHILDREN: _steps_of(offerings, (*children.mandatory, *children.optional)) if children else None,
        }
        for n, step in enumerate(plan):
            for m, (whose, name) in enumerate(step.predecessors()):
                known = related.get(whose)
                if known is not None and name not in known:
                    place = {None: "this plan", RELIES_ON: "any offering"}.get(whose, "the children's plans")
                    message = f"there is no step {name!r} in {place}; {suggest(name, known)}"
                    yield Problem(point(path, n, "after", m), message)


def _steps_of(offerings: Mapping[str, Offering], names: Collection[str]) -> Collection[str] | None:
    """The steps of these offerings; None where one of them could not be read and may hold any step."""
    if any(name not in offerings for name in names):
        return None
    return {step.step for name in names for plan in offerings[name].plans.values() for step in plan}


def _plans_have_no_circle(draft: Draft) -> Iterator[Problem]:
    """No step waits for itself, within its plan or through a task that an order shares (`per: ORDER`)."""
    circles = [(path, circle) for path, _, _, plan in _plans(draft) if (circle := find_circle(_waits(plan)))]
    for path, circle in circles:
        yield Problem(path, f"these steps wait for each other: {' → '.join(circle)}; remove one `after`")
    if circles:
        return
    shared: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for path, _, _, plan in _plans(draft):
        nodes = {step.step: (step.step, step.type) if step.per_order else (step.step, path) for step in plan}
        for name, before in _waits(plan).items():
            shared.setdefault(nodes[name], set()).update(nodes[other] for other in before)
    if around := find_circle(shared):
        names = " → ".join(name for name, _ in around)
        yield Problem(
            "/offerings",
            f"shared with `per: ORDER`, the step {around[0][0]!r} makes plans wait for each other: {names}; "
            "remove one `after`",
        )


def _undoing_follows_the_plans_backwards(draft: Draft) -> Iterator[Problem]:
    """Undoing runs a plan backwards; `undo_after` may add to that order, never contradict it or itself."""
    wishes = {kind.name: set(kind.undo_after) for kind in draft.task_types.values() if kind.undo_after}
    if circle := find_circle(wishes):
        yield Problem(
            point("/task_types", circle[0], "undo_after"),
            f"these compensations wait for each other: {' → '.join(circle)}; remove one name",
        )
        return
    for _, owner, key, plan in _plans(draft):
        yield from _contradictions(draft, plan, f"{owner} {key}") if not find_circle(_waits(plan)) else ()


def _contradictions(draft: Draft, plan: Plan, where: str) -> Iterator[Problem]:
    undoing = {
        step.step: kind.compensation for step in plan if (kind := draft.task_types.get(step.type)) and kind.compensation
    }
    backwards: dict[str, set[str]] = {step.step: set() for step in plan}
    for name, before in _waits(plan).items():
        for other in before:
            backwards[other].add(name)
    wished = {
        (name, other)
        for name, compensation in undoing.items()
        for other, others in undoing.items()
        if (kind := draft.task_types.get(compensation)) and others in kind.undo_after and other != name
    }
    both = {name: before | {other for one, other in wished if one == name} for name, before in backwards.items()}
    for name, other in pairwise(find_circle(both)):
        if (name, other) in wished and other not in backwards[name]:
            first, later = undoing[name], undoing[other]
            yield Problem(
                point("/task_types", first, "undo_after"),
                f"plan {where} is undone backwards: {first} (step {name}) before {later} (step {other}); "
                f"remove {later} here, or change `after` in that plan",
            )


def _offerings_have_no_circle(draft: Draft) -> Iterator[Problem]:
    """No offering is the same as itself, or its own child."""
    same = {name: {row.same_as} if row.same_as else set() for name, row in draft.offerings.items()}
    if circle := find_circle(same):
        yield Problem(
            point("/offerings", circle[0], "same_as"),
            f"these offerings refer to each other: {' → '.join(circle)}; give one of them its own plans",
        )
    family = {name: {*o.children.mandatory, *o.children.optional} for name, o in resolve_offerings(draft).items()}
    if circle := find_circle(family):
        yield Problem(
            point("/offerings", circle[0], "children"),
            f"these offerings contain each other: {' → '.join(circle)}; remove one child",
        )


def _children_are_mandatory_or_optional(draft: Draft) -> Iterator[Problem]:
    """A child is mandatory or optional, not both."""
    for name, row in draft.offerings.items():
        for child in sorted(set(row.children.mandatory) & set(row.children.optional)) if row.children else ():
            yield Problem(
                point("/offerings", name, "children"),
                f"{child} is mandatory and optional; keep one of the two",
            )


RULES: Final[tuple[Callable[[Draft], Iterator[Problem]], ...]] = (
    _systems_are_declared,
    _types_are_declared,
    _offerings_are_declared,
    _fields_are_unique,
    _a_type_does_or_undoes,
    _conditions_and_keeps_name_forward_work,
    _undo_after_names_compensations,
    _what_can_be_undone_says_how,
    _soft_point_comes_first,
    _followups_can_be_ordered,
    _money_comes_back_the_way_it_went,
    _charges_are_in_the_policys_currency,
    _steps_are_named_once,
    _steps_wait_for_steps,
    _plans_have_no_circle,
    _undoing_follows_the_plans_backwards,
    _offerings_have_no_circle,
    _children_are_mandatory_or_optional,
)


# -- helpers --------------------------------------------------------------------------------------------


def _unknown(noun: str, section: str, name: str, known: Collection[str] | None, path: str) -> Iterator[Problem]:
    if known is not None and name not in known:
        yield Problem(path, f"there is no {noun} {name!r} under {section}; {suggest(name, known)}")


def _type_path(kind: TaskType, *keys: str | int) -> str:
    return point("/task_types", kind.name, *keys)


def _undoing(draft: Draft) -> dict[str, TaskType]:
    """The types that undo, each with one type that they undo."""
    return {
        name: kind
        for kind in draft.task_types.values()
        for name in (kind.compensation, kind.withdrawal)
        if name is not None
    }


def _plans(draft: Draft) -> Iterator[tuple[str, str, str, Plan]]:
    """Path, offering, key and steps of each plan as written (not as inherited by `same_as`)."""
    for owner, row in draft.offerings.items():
        for key, plan in (row.plans or {}).items():
            yield point("/offerings", owner, "plans", key), owner, key, plan


def _steps(draft: Draft) -> Iterator[tuple[str, str, PlanStep, str]]:
    for path, owner, key, plan in _plans(draft):
        yield from ((owner, key, step, point(path, n)) for n, step in enumerate(plan))


def _waits(plan: Plan) -> dict[str, set[str]]:
    names = {step.step for step in plan}
    return {
        step.step: {name for whose, name in step.predecessors() if whose is None and name in names} for step in plan
    }
