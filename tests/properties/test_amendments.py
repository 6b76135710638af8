"""Amendments drawn at random over the pure core: there and back again is where one began, a preview is what is then
done, and nothing new asks nobody for anything."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from domain import commands as ask
from domain.amendment import preview_amendment
from domain.errors import Breach, ItemUnknown
from domain.order import Amendment, Draft, Order
from domain.values import RequestId
from tests.builders import AGENT, World, accepted, an_item, an_order, change, confirmed
from tests.properties.invariants import audit_tells_the_states, check_order

ADDRESSES = tuple(
    {"street": "Weg 1", "city": "Berlin", "postalCode": code, "country": "DE"} for code in ("12930", "12940", "12950")
)
SLOTS = tuple(
    {"start": f"2026-12-0{day}T09:00:00+01:00", "end": f"2026-12-0{day}T12:00:00+01:00", "timeZone": "Europe/Berlin"}
    for day in (1, 2, 3)
)
VALUES: Mapping[str, tuple[Any, ...]] = {
    "/contact/phone": ("+49 30 1234567", "+49 30 7654321"),
    "/deliveryNote": (None, "ring twice", "leave it with the neighbour"),
    "/installationAddress": ADDRESSES,
    "/deliveryAddress": ADDRESSES,
    "/deliveryAddress/postalCode": ("12930", "12940", "12950"),
    "/appointment": SLOTS,
    "/items/1/configuration/deviceModel": ("R7", "R9"),
    "/items/1/configuration/bandwidth": ("500M", "1G"),
    "/items/1/productOfferingId": ("fiber-500", "fiber-1000"),
    "/items/1/quantity": (1, 2),
    "/items/1/price": ({"amountMinor": 3999, "currency": "EUR"}, {"amountMinor": 2999, "currency": "EUR"}),
    "/requestedStartDate": (None, "2026-12-05T00:00:00+01:00"),
    "/items/2": (None, {"action": "ADD", "productOfferingId": "mobile-sim", "quantity": 1}),
}
ANOTHER = "/items/2"  # an item that comes and goes
SITUATIONS = (
    (),
    ("reserve-inventory",),
    ("reserve-inventory", "assign-resource"),
    ("reserve-inventory", "assign-resource", "create-appointment"),
    ("reserve-inventory", "assign-resource", "create-appointment", "ship-device", "perform-visit"),
)
CHANGES = st.sampled_from(sorted(VALUES)).flatmap(lambda path: st.tuples(st.just(path), st.sampled_from(VALUES[path])))
# What the strategies say of a task that a new one takes the place of; the others leave it where it is.
DONE_ANEW = {"REPLACE", "REDO", "UNDO_THEN_DO", "DO_THEN_UNDO", "MANUAL", "WITHDRAW"}
# How the work stands: not decomposed, or so much done, and whether what is free to start is then under way.
PROGRESS = st.tuples(st.none() | st.sampled_from(SITUATIONS), st.booleans())


def come_to(progress: tuple[tuple[str, ...] | None, bool]) -> World:
    done, running = progress
    world = World().accept(an_order(an_item()))
    if done is None:
        return world
    world.decompose()
    if done:
        world.run_to(*done)
    if running:
        world.run_flow(accepted)
    return world


def stands(order: Order, path: str) -> Any:
    """What the order says at a path, read from its documents as they are."""
    first, *rest = path.removeprefix("/").split("/")
    value: Any = order.head.content.get(first)
    if path == ANOTHER:
        return VALUES[path][1] if live_copy(order) else None
    if first == "items":
        value, rest = order.items[rest[0]].document(), rest[1:]
    for part in rest:
        value = (value or {}).get(part)
    return value


def live_copy(order: Order) -> str | None:
    """The item that has been added and not taken out again; each time it comes, it comes under a new id."""
    return next((i for i, item in order.items.items() if i != "1" and item.state != "SUPERSEDED"), None)


def turn(world: World, path: str, value: Any) -> ask.AskedChange:
    old = stands(world.the_order, path)
    if path == ANOTHER:
        there = live_copy(world.the_order)
        if value is None:
            return change(f"/items/{there or 9}", None, None, "REMOVE")
        return change("/items/-", None, value | {"itemId": f"2-{len(world.the_order.items)}"}, "ADD")
    return change(path, old, value, "REMOVE" if value is None else "ADD" if old is None else "REPLACE")


def commercial(order: Order) -> tuple[Any, ...]:
    """What the customer would get and pay, whatever the items are called."""
    live = [item.document() for item in order.items.values() if item.state != "SUPERSEDED"]
    return order.head.content, [{name: value for name, value in item.items() if name != "itemId"} for item in live]


def see_through(world: World, amendment: Amendment) -> Amendment:
    """As far as the flow goes, with people who say yes; the grace passes where it must."""
    amendment = world.drive(amendment)
    for _ in range(3):
        if amendment.status == "REQUIRES_APPROVAL":
            amendment = world.agree(amendment)
        elif amendment.status == "AWAITING_CHARGE_DECISION":
            world.do(ask.AnswerAmendmentCharge(world.order_id, amendment.request_id, True), AGENT)
            amendment = world.drive(amendment)
    return amendment


def finish_undoing(world: World, amendment: Amendment) -> Amendment:
    undone_by = {task.task_type for task in world.the_order.tasks.values() if task.kind == "COMPENSATION"}
    needed = {task.task_type for task in world.the_order.tasks.values() if not task.has_ended}
    if amendment.status == "APPLYING":
        world.run_flow(confirmed, only=undone_by | needed)
    return world.amendment(amendment.request_id)


def preview(world: World, asked: ask.AskedChange) -> dict[str, Any]:
    draft = Draft(
        world.the_order,
        actor=AGENT,
        on_behalf_of=None,
        now=world.now,
        command_id=uuid.uuid4(),
        policy=world.policy,
        policy_version=world.policy_version,
    )
    command = ask.RequestAmendment(world.order_id, RequestId(uuid.uuid4()), "CUSTOMER_REQUEST", (asked,))
    return dict(preview_amendment(draft, command)[0]["assessment"])


def timeless(document: Mapping[str, Any]) -> dict[str, Any]:
    """An assessment without when it was made and the counters of that moment."""
    return {k: v for k, v in document.items() if k not in {"orderVersion", "ledgerVersion", "assessedAt", "changes"}}


def check(world: World) -> None:
    check_order(world.the_order, None)
    audit_tells_the_states(world.the_order, world.events)


@given(progress=PROGRESS, wishes=st.lists(CHANGES, min_size=1, max_size=4))
def test_there_and_back_again_leaves_the_same_commercial_content(
    progress: tuple[tuple[str, ...] | None, bool], wishes: list[tuple[str, Any]]
) -> None:
    """Whatever of a sequence is let through before the work begins, its inverses bring back; later, what was let
    through is what stands, and what was not is as it was."""
    world = come_to(progress)
    before = commercial(world.the_order)
    applied: list[tuple[str, Any, Any]] = []
    for path, value in wishes:
        old = stands(world.the_order, path)
        if path == ANOTHER and old == value:
            continue  # it is there, or it is not
        former = commercial(world.the_order)
        try:
            amendment = finish_undoing(world, see_through(world, world.amend(turn(world, path, value))))
        except Breach:
            assert commercial(world.the_order) == former
            continue
        if amendment.applied_at:
            applied.append((path, old, value))
            assert stands(world.the_order, path) == value
        else:
            assert commercial(world.the_order) == former
        check(world)
    for path, old, _ in reversed(applied):
        try:
            amendment = finish_undoing(world, see_through(world, world.amend(turn(world, path, old))))
        except Breach:
            return
        check(world)
        if not amendment.applied_at:
            return  # the work went on meanwhile, and does not let it through any more
    assert commercial(world.the_order) == before


def foreseen(world: World) -> tuple[Counter[str], Counter[str]]:
    """What the assessments of what was applied said: per type how often it is done anew, and how often undone."""
    anew: Counter[str] = Counter()
    undone: Counter[str] = Counter()
    for amendment in world.the_order.amendments.values():
        for fate in (amendment.assessment or {}).get("strategy", ()) if amendment.applied_at else ():
            row = world.policy.task_types[fate["type"]]
            if fate["strategy"] in {"REDO", "UNDO_THEN_DO", "DO_THEN_UNDO"}:
                anew[fate["type"]] += 1
            if fate["strategy"] in {"UNDO_THEN_DO", "DO_THEN_UNDO", "UNDO"}:
                undone[row.compensation or "by hand"] += 1
    return anew, undone


@given(done=st.none() | st.sampled_from(SITUATIONS), wishes=st.lists(CHANGES, min_size=1, max_size=3))
def test_there_and_back_again_asks_nobody_for_anything_needless(
    done: tuple[str, ...] | None, wishes: list[tuple[str, Any]]
) -> None:
    """While it is changed there and back, nobody is called for work that has not begun, but for its price; and when all
    is done, everything has been done once, and once more for each time that its assessment said so."""
    world = come_to((done, False))
    back: list[tuple[str, Any]] = []
    quotes = 0
    steps = [(path, value, True) for path, value in wishes]
    while steps:
        path, value, forward = steps.pop(0)
        old, called = stands(world.the_order, path), len(world.calls)
        with suppress(Breach):
            if path == ANOTHER and old == value:
                raise ItemUnknown  # it is there, or it is not
            amendment = see_through(world, world.amend(turn(world, path, value)))
            if amendment.applied_at and forward:
                back.insert(0, (path, old))
            types = [call["body"]["taskType"] for call in world.calls[called:]]
            assert set(types) <= {"revalidate-quote"}, types  # its undoing and its new work are for later
            quotes += len(types)
            finish_undoing(world, amendment)
        if not steps and forward:
            steps, back = [(path, old, False) for path, old in back], []
    if done is None:
        world.decompose()
    world.run_flow()
    check(world)
    assert world.state == "COMPLETED"
    anew, undone = foreseen(world)
    tasks = [task for task in world.the_order.tasks.values() if task.kind == "FULFILLMENT"]
    live = [task for task in tasks if task.state == "COMPLETED" and not task.superseded_by]
    wanted = Counter(task.task_type for task in live) + anew + undone
    if quotes:
        wanted["revalidate-quote"] = quotes
    assert Counter(call["body"]["taskType"] for call in world.calls) == wanted


@given(progress=PROGRESS, wish=CHANGES)
def test_a_preview_is_what_the_request_then_finds_and_does(
    progress: tuple[tuple[str, ...] | None, bool], wish: tuple[str, Any]
) -> None:
    world = come_to(progress)
    path, value = wish
    if stands(world.the_order, path) == value:
        return
    asked = turn(world, path, value)
    showed = preview(world, asked)
    former = {task_id: task.state for task_id, task in world.the_order.tasks.items()}
    amendment = world.drive(world.amend(asked))
    assert timeless(amendment.assessment or {}) == timeless(showed)
    assert [c["safetyResult"] for c in amendment.changes] == [c["safetyResult"] for c in showed["changes"]]
    if showed["feasibility"] == "NOT_APPLICABLE":
        assert amendment.status == "REJECTED"
        assert {task_id: task.state for task_id, task in world.the_order.tasks.items()} == former
        return
    strategy = {row["taskId"]: row["strategy"] for row in showed["strategy"]}
    amendment = see_through(world, amendment)
    if "AWAIT" in strategy.values():
        return  # what it waits for decides first; then it is judged again
    assert amendment.applied_at is not None, amendment.status
    assert stands(world.the_order, path) == value
    for task_id in former:
        replaced = world.the_order.tasks[task_id].superseded_by is not None
        assert replaced == (strategy.get(str(task_id)) in DONE_ANEW), strategy.get(str(task_id))


@given(progress=PROGRESS, path=st.sampled_from(sorted(VALUES.keys() - {ANOTHER})))
def test_nothing_new_never_touches_fulfillment(progress: tuple[tuple[str, ...] | None, bool], path: str) -> None:
    """EC28."""
    world = come_to(progress)
    value = stands(world.the_order, path)
    before, calls, sent = world.the_order, len(world.calls), len(world.messages)
    asked = change(path, value, value, "REMOVE" if value is None else "REPLACE")
    amendment = world.amend(asked)
    assert (amendment.status, amendment.outcome) == ("REJECTED", "NO_CHANGE")
    after = world.the_order
    assert (after.tasks, after.effects, after.plan, after.plans, after.holds, after.items) == (
        before.tasks,
        before.effects,
        before.plan,
        before.plans,
        before.holds,
        before.items,
    )
    assert (after.head.state, after.head.content, after.head.plan_version) == (
        before.head.state,
        before.head.content,
        before.head.plan_version,
    )
    assert (len(world.calls), len(world.messages)) == (calls, sent)
