"""Two changes of one order that come in the same instant, at a real barrier, in either order of commit: what the text
of 1-domain §8 says of each meeting, typed from there."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any, Final

import pytest

from domain import commands as ask
from domain.errors import Breach
from domain.handle import Answer
from domain.order import Amendment, Request
from domain.store.orders import lock_order
from domain.store.pool import tenant_transaction
from domain.values import Actor, EffectId, OrderId, RequestId, Run, TaskId, system_actor
from tests.builders import AGENT, APPROVER, TENANT, an_item, an_order, change
from tests.domain.test_arbitration import SLOT
from tests.properties.invariants import check_order
from tests.store.test_concurrency import until_waiting, watch
from tests.stored import Store, StoredWorld

KINDS: Final = ("ORDER", "ITEM", "OTHER_ITEM", "AMENDMENT", "ADMINISTRATIVE", "SUPPLEMENTAL")

# (who came first, who came second) → what the second hears once it knows of the first, and what became of the first.
# Nothing is active after an administrative amendment, which is applied at once, nor after a supplemental order.
MEETINGS: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("ORDER", "ORDER"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("ORDER", "ITEM"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("ORDER", "OTHER_ITEM"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("ORDER", "AMENDMENT"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("ORDER", "ADMINISTRATIVE"): ("APPLIED", "ACCEPTED_FOR_ASSESSMENT"),  # allowed_while_cancelling
    ("ORDER", "SUPPLEMENTAL"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("ITEM", "ORDER"): ("ACCEPTED_FOR_ASSESSMENT", "ACCEPTED_FOR_ASSESSMENT"),  # the item's waits
    ("ITEM", "ITEM"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("ITEM", "OTHER_ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "ACCEPTED_FOR_ASSESSMENT"),  # disjoint
    ("ITEM", "AMENDMENT"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),  # of that item
    ("ITEM", "ADMINISTRATIVE"): ("APPLIED", "ACCEPTED_FOR_ASSESSMENT"),
    ("ITEM", "SUPPLEMENTAL"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("OTHER_ITEM", "ORDER"): ("ACCEPTED_FOR_ASSESSMENT", "ACCEPTED_FOR_ASSESSMENT"),
    ("OTHER_ITEM", "ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "ACCEPTED_FOR_ASSESSMENT"),
    ("OTHER_ITEM", "OTHER_ITEM"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("OTHER_ITEM", "AMENDMENT"): ("REQUESTED", "ACCEPTED_FOR_ASSESSMENT"),
    ("OTHER_ITEM", "ADMINISTRATIVE"): ("APPLIED", "ACCEPTED_FOR_ASSESSMENT"),
    ("OTHER_ITEM", "SUPPLEMENTAL"): ("CHANGE_ACTIVE", "ACCEPTED_FOR_ASSESSMENT"),
    ("AMENDMENT", "ORDER"): ("ACCEPTED_FOR_ASSESSMENT", "QUEUED"),
    ("AMENDMENT", "ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "QUEUED"),  # judged again when that is over
    ("AMENDMENT", "OTHER_ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "REQUESTED"),
    ("AMENDMENT", "AMENDMENT"): ("REQUESTED", "SUPERSEDED"),  # of the same field: the newer
    ("AMENDMENT", "ADMINISTRATIVE"): ("APPLIED", "REQUESTED"),
    ("AMENDMENT", "SUPPLEMENTAL"): ("CHANGE_ACTIVE", "REQUESTED"),
    ("ADMINISTRATIVE", "ORDER"): ("ACCEPTED_FOR_ASSESSMENT", "APPLIED"),
    ("ADMINISTRATIVE", "ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "APPLIED"),
    ("ADMINISTRATIVE", "OTHER_ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "APPLIED"),
    ("ADMINISTRATIVE", "AMENDMENT"): ("REQUESTED", "APPLIED"),
    ("ADMINISTRATIVE", "ADMINISTRATIVE"): ("OLD_VALUE_MISMATCH", "APPLIED"),
    ("ADMINISTRATIVE", "SUPPLEMENTAL"): ("ACKNOWLEDGED", "APPLIED"),
    ("SUPPLEMENTAL", "ORDER"): ("ACCEPTED_FOR_ASSESSMENT", "ACKNOWLEDGED"),
    ("SUPPLEMENTAL", "ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "ACKNOWLEDGED"),
    ("SUPPLEMENTAL", "OTHER_ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "ACKNOWLEDGED"),
    ("SUPPLEMENTAL", "AMENDMENT"): ("REQUESTED", "ACKNOWLEDGED"),
    ("SUPPLEMENTAL", "ADMINISTRATIVE"): ("APPLIED", "ACKNOWLEDGED"),
    ("SUPPLEMENTAL", "SUPPLEMENTAL"): ("ACKNOWLEDGED", "ACKNOWLEDGED"),
}


def wish(world: StoredWorld, kind: str) -> ask.Command:
    request_id = RequestId(uuid.uuid4())
    match kind:
        case "ORDER":
            return ask.RequestCancellation(world.order_id, request_id, "ORDER", (), "CUSTOMER_CHANGED_MIND")
        case "ITEM" | "OTHER_ITEM":
            items = ("1",) if kind == "ITEM" else ("2",)
            return ask.RequestCancellation(world.order_id, request_id, "ITEMS", items, "CUSTOMER_CHANGED_MIND")
        case "AMENDMENT":
            asked = (change("/items/1/configuration/deviceModel", "R7", "R9"),)
            return ask.RequestAmendment(world.order_id, request_id, "CUSTOMER_REQUEST", asked)
        case "ADMINISTRATIVE":
            asked = (change("/contact/phone", "+49 30 1234567", "+49 30 7654321"),)
            return ask.RequestAmendment(world.order_id, request_id, "DATA_CORRECTION", asked)
    new = replace(an_order(), order_type="SUPPLEMENTAL", reason_code="ADD_ON", order_id=OrderId(request_id))
    return ask.SupplementOrder(world.order_id, new)


async def meet(
    store: Store, world: StoredWorld, asked: tuple[ask.Command, ...], actors: tuple[Actor, ...]
) -> list[str]:
    """All of them wait inside their transactions for the order's row, and get it in this order."""
    async with watch(store) as watcher:
        async with tenant_transaction(store.pool, TENANT) as barrier:
            await lock_order(barrier, TENANT, world.order_id)
            going = []
            for number, (command, actor) in enumerate(zip(asked, actors, strict=True), 1):
                going.append(asyncio.ensure_future(settle(store, world, command, actor)))
                await until_waiting(watcher, number)
        return list(await asyncio.gather(*going))


async def settle(store: Store, world: StoredWorld, command: ask.Command, actor: Actor = AGENT) -> str:
    """What the asker hears who has just looked: the status of what was asked for, or the code of the refusal."""
    envelope = ask.Envelope(TENANT, uuid.uuid4(), actor, "f", if_match=world.etag(command))
    try:
        answer: Answer = await store.door.handle(envelope, command)
    except Breach as breach:
        return breach.code
    return str(answer.body.get("status") or answer.body.get("state") or answer.body.get("verdict"))


def status_of(world: StoredWorld, command: Any) -> str:
    """How what was asked for stands now."""
    changes: dict[Any, Request | Amendment] = {**world.the_order.requests, **world.the_order.amendments}
    if isinstance(command, ask.SupplementOrder):
        rows = world.store.as_owner("select state from customer_order where order_id = $1", command.new.order_id)
        return str(rows[0]["state"])
    return changes[command.request_id].status


def test_the_table_has_no_hole() -> None:
    assert set(MEETINGS) == {(first, second) for first in KINDS for second in KINDS}


@pytest.mark.parametrize("first", KINDS)
def test_two_changes_in_the_same_instant(store: Store, first: str) -> None:
    """Both have read the same version, both wait for the order's row; who gets it first has changed what the other one
    saw (412), and the other one asks again. As every pair is here both ways, each order of commit has occurred."""
    for second in KINDS:
        world = store.world()
        world.accept(an_order(an_item(), an_item("2", "mobile-sim"))).decompose().run_to("reserve-inventory")
        earlier, later = wish(world, first), wish(world, second)

        said, hears = store.run(meet(store, world, (earlier, later), (AGENT, AGENT)))
        wanted, left = MEETINGS[first, second]
        unseen = first == "SUPPLEMENTAL" or second == "SUPPLEMENTAL"  # moves no version, or asks for none
        assert said == MEETINGS["SUPPLEMENTAL", first][0], (first, second)  # as if it were alone
        assert hears == (wanted if unseen else "VERSION_STALE"), (first, second)
        before = world.the_order
        world.order = store.run(world._load(world.order_id))
        check_order(world.the_order, before)
        if not unseen:
            assert store.run(settle(store, world, later)) == wanted, (first, second)
            world.order = store.run(world._load(world.order_id))
            check_order(world.the_order, before)
        assert status_of(world, earlier) == left, (first, second)
        stored = len(world.the_order.requests) + len(world.the_order.amendments)
        refused = wanted in {"CHANGE_ACTIVE", "OLD_VALUE_MISMATCH"}
        assert stored == (first != "SUPPLEMENTAL") + (second != "SUPPLEMENTAL" and not refused), (first, second)


# What an asker hears who meets the order's own work in the same instant: before it is in, and once it is (the last two
# rows of 1-domain §8, and that of an amendment before and while it is applied).
WORK: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("APPLY", "ORDER"): ("ACCEPTED_FOR_ASSESSMENT", "ACCEPTED_FOR_ASSESSMENT"),
    ("APPLY", "ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "ACCEPTED_FOR_ASSESSMENT"),
    ("APPLY", "OTHER_ITEM"): ("ACCEPTED_FOR_ASSESSMENT", "ACCEPTED_FOR_ASSESSMENT"),
    ("APPLY", "AMENDMENT"): ("REQUESTED", "QUEUED"),
    ("APPLY", "ADMINISTRATIVE"): ("APPLIED", "APPLIED"),
    ("APPLY", "SUPPLEMENTAL"): ("CHANGE_ACTIVE", "CHANGE_ACTIVE"),
    ("COMMIT", "ORDER"): ("CHANGE_ACTIVE", "CHANGE_ACTIVE"),
    ("COMMIT", "ITEM"): ("CHANGE_ACTIVE", "CHANGE_ACTIVE"),
    ("COMMIT", "OTHER_ITEM"): ("CHANGE_ACTIVE", "CHANGE_ACTIVE"),
    ("COMMIT", "AMENDMENT"): ("CHANGE_ACTIVE", "CHANGE_ACTIVE"),
    ("COMMIT", "ADMINISTRATIVE"): ("APPLIED", "APPLIED"),
    ("COMMIT", "SUPPLEMENTAL"): ("CHANGE_ACTIVE", "CHANGE_ACTIVE"),
}


def come_to_work(world: StoredWorld, work: str) -> ask.Command:
    """An order whose amendment is about to be applied, or whose cancellation is about to undo something."""
    world.accept(an_order(an_item(), an_item("2", "mobile-sim"))).decompose()
    world.run_to("reserve-inventory", "assign-resource", "create-appointment")
    if work == "APPLY":
        amendment = world.amend(change("/appointment", SLOT, {**SLOT, "end": "2026-12-01T13:00:00+01:00"}))
        assert world.assess_amendment(amendment)["verdict"] == "apply"
        return ask.CarryOutAmendment(world.order_id, amendment.request_id, world.amendment(amendment.request_id).run)
    world.judge(world.cancel())
    handed = world.release(world.compensation().plan_id)[0]
    return ask.ClaimTask(world.order_id, TaskId(uuid.UUID(handed["task_id"])), handed["release"], Run(uuid.uuid4()))


@pytest.mark.parametrize("work_first", [True, False])
@pytest.mark.parametrize("work", ["APPLY", "COMMIT"])
def test_a_change_and_the_orders_own_work_in_the_same_instant(store: Store, work: str, *, work_first: bool) -> None:
    """An amendment that is being applied and a cancellation that passes its commit point are rows of the table too, and
    no request but a job brings them about. Whoever comes second has seen what the first one did."""
    for kind in KINDS:
        world = store.world()
        job, asked = come_to_work(world, work), wish(world, kind)
        system = system_actor("test")
        before = world.the_order
        both = ((job, system), (asked, AGENT))
        (one, other) = both if work_first else both[::-1]
        told = store.run(meet(store, world, (one[0], other[0]), (one[1], other[1])))
        hears = told[1] if work_first else told[0]
        world.order = store.run(world._load(world.order_id))
        check_order(world.the_order, before)
        if hears == "VERSION_STALE":
            assert work_first, kind
            hears = store.run(settle(store, world, asked))
            world.order = store.run(world._load(world.order_id))
        assert hears == WORK[work, kind][work_first], (work, kind)
        if work == "APPLY":
            first = next(iter(world.the_order.amendments.values()))
            yields = kind == "ORDER" and not work_first
            assert (first.status == "QUEUED", told.count("stand_down")) == (yields, int(yields)), kind
        else:
            [request] = world.the_order.requests.values()
            claimed = [effect for effect in world.the_order.effects.values() if effect.state == "INTENDED"]
            assert (request.committed_at is not None, len(claimed)) == (True, 1), kind


CAROL: Final = Actor("carol", frozenset({"approver"}))


@pytest.mark.parametrize("first", [ask.ApproveCancellation, ask.RejectCancellation, ask.WithdrawCancellation])
@pytest.mark.parametrize("second", [ask.ApproveCancellation, ask.RejectCancellation])
def test_two_words_about_one_request_in_the_same_instant(store: Store, first: Any, second: Any) -> None:
    """EC42: exactly one decision; whoever comes second has looked at what is no more."""
    world = store.world()
    world.accept().decompose().run_to("reserve-inventory")
    request = world.judge(world.cancel(force_manual_review=True))
    assert request.status == "REQUIRES_APPROVAL"
    asked = (first(world.order_id, request.request_id), second(world.order_id, request.request_id))
    withdrawn = first is ask.WithdrawCancellation
    said, hears = store.run(meet(store, world, asked, (AGENT if withdrawn else APPROVER, CAROL)))
    wanted = {ask.ApproveCancellation: "APPROVED", ask.RejectCancellation: "REJECTED"}.get(first, "WITHDRAWN")
    assert (said, hears) == (wanted, "VERSION_STALE")
    world.order = store.run(world._load(world.order_id))
    assert len(world.request(request.request_id).decisions) == (0 if withdrawn else 1)
    assert store.run(settle(store, world, asked[1], CAROL)) == "REQUEST_CLOSED"


@pytest.mark.parametrize("first", ["cancellation", "outcome"])
def test_the_last_outcome_and_a_cancellation_in_the_same_instant(store: Store, first: str) -> None:
    """EC47: the order's row decides; never COMPLETED and CANCELLING at once."""
    world = store.world()
    world.accept(an_order(an_item(offering="router"))).decompose().run_to("reserve-inventory")
    [handed] = world.handed or world.release()
    told = world.claim(handed)
    effect_id = EffectId(uuid.UUID(str(told["effect_id"])))
    outcome = ask.RecordOutcome(world.order_id, effect_id, "CONFIRMED", "CALL", told["attempt"], "s-1")
    wish = ask.RequestCancellation(world.order_id, RequestId(uuid.uuid4()), "ORDER", (), "CUSTOMER_CHANGED_MIND")
    before = world.the_order
    asked: tuple[ask.Command, ...] = (wish, outcome) if first == "cancellation" else (outcome, wish)
    said = store.run(meet(store, world, asked, (AGENT, AGENT)))
    world.order = store.run(world._load(world.order_id))
    check_order(world.the_order, before)
    if first == "cancellation":
        assert said[0] == "ACCEPTED_FOR_ASSESSMENT"
        assert world.state == "CANCELLATION_REQUESTED"
    else:
        assert (said[1], world.state) == ("VERSION_STALE", "COMPLETED")
        assert store.run(settle(store, world, wish)) == "REJECTED"  # and a new order is proposed
        ended = store.run(world._load(world.order_id))
        assert ended is not None
        assert ended.head.version == world.the_order.head.version
