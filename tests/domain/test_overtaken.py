"""Amendments that the order, or the policy, overtakes while they wait: what they meant at the door they may not mean
any more, and nothing is done twice or over another's change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from domain import commands as ask
from domain.errors import Unprocessable
from domain.order import Amendment
from tests.builders import AGENT, APPROVER, World, an_item, an_order, change, changed_telecom, confirmed

STOCK = {"reserve-inventory", "release-inventory"}
ROUTER = {"itemId": "7", "action": "ADD", "productOfferingId": "router", "quantity": 1, "configuration": {}}
PHONE = ("/contact/phone", "+49 30 1234567")


def device(model: str, was: str = "R7") -> ask.AskedChange:
    return change("/items/1/configuration/deviceModel", was, model)


def behind_another(wish: ask.AskedChange) -> tuple[World, Amendment]:
    """A wish that waits while another amendment of the device is being applied, and then begins again."""
    world = World().accept().decompose()
    world.handed += world.release()
    calls = [world.claim(handed) for handed in world.handed]
    world.handed.clear()
    first = world.amend(device("R9"))
    world.drive(first)
    assert world.amendment(first.request_id).status == "APPLYING"  # the stock is being reserved
    second = world.amend(wish)
    assert second.status == "QUEUED"
    for call in calls:
        world.report(call, confirmed(call))
    world.carry_out(first)
    world.run_flow(only=STOCK)
    assert world.amendment(first.request_id).status == "APPLIED"
    return world, second


def test_the_same_wish_twice_is_carried_out_once() -> None:
    """EC28 behind a queue: the second one finds that it is so already. Takes `read_again` out to see the stock given
    back and reserved anew."""
    world, second = behind_another(device("R9"))
    ended = world.amendment(second.request_id)
    assert (ended.status, ended.outcome) == ("REJECTED", "NO_CHANGE")
    assert (world.called("reserve-inventory"), world.the_order.head.plan_version) == (2, 2)


def test_a_wish_that_waited_is_carried_out_over_what_it_waited_for_and_says_so() -> None:
    world, second = behind_another(device("R11"))
    world.drive(second)
    world.run_flow(only=STOCK)
    ended = world.amendment(second.request_id)
    assert (ended.status, ended.changes[0]["before"], ended.changes[0]["after"]) == ("APPLIED", "R9", "R11")
    sent = [call["body"]["input"]["order"]["items"][0]["configuration"] for call in world.calls_of("reserve-inventory")]
    assert [one["deviceModel"] for one in sent] == ["R7", "R9", "R11"]


def test_one_item_is_not_added_twice() -> None:
    """The second one would have been written over the first, whose stock was reserved for one and not for two."""
    world = World().accept().decompose()
    first = world.amend(change("/items/-", None, ROUTER, "ADD"))
    second = world.amend(change("/items/-", None, ROUTER | {"quantity": 2}, "ADD"))
    world.drive(first)
    world.drive(second)
    ended = world.amendment(second.request_id)
    assert (ended.status, ended.outcome) == ("REJECTED", "NOT_APPLICABLE")
    assert ended.changes[0]["ruleId"] == "item.exists"
    world.run_flow()
    assert (world.state, world.the_order.items["7"].quantity) == ("COMPLETED", 1)


@pytest.mark.parametrize(("newer", "outcome"), [("+49 30 5555555", "NOT_APPLICABLE"), ("+49 30 7654321", "APPLIED")])
def test_an_older_wish_does_not_go_over_a_newer_one_that_was_carried_out_at_once(newer: str, outcome: str) -> None:
    """EC33: what stands by now is neither what it knew nor what it wants."""
    world = World().accept().decompose()
    older = world.amend(change(*PHONE, "+49 30 7654321"), auto_apply=False)
    assert world.amend(change(*PHONE, newer)).status == "APPLIED"
    world.do(ask.ApplyAmendment(world.order_id, older.request_id), AGENT)
    ended = world.drive(older)
    assert (ended.outcome, world.the_order.head.content["contact"]["phone"]) == (outcome, newer)
    assert ended.changes[0]["ruleId"] == ("value.changed" if outcome == "NOT_APPLICABLE" else "no_change")


def without(section: str, name: str) -> Callable[[dict[str, Any]], None]:
    def drop(document: dict[str, Any]) -> None:
        if section == "amendable_fields":
            document[section] = [row for row in document[section] if row["field"] != name]
            return
        del document[section][name]
        document["offerings"]["home-bundle"]["children"]["optional"] = ["static-ip"]

    return drop


@pytest.mark.parametrize(
    ("wish", "drop", "rule"),
    [
        (device("R9"), without("amendable_fields", "deviceModel"), "field.dropped"),
        (change("/items/-", None, ROUTER, "ADD"), without("offerings", "router"), "items.fit"),
        (change("/items/1/productOfferingId", "fiber-500", "fiber-1000"), without("offerings", "router"), "items.fit"),
    ],
)
@pytest.mark.parametrize("partial", [False, True])
def test_what_a_newer_policy_has_no_words_for_is_refused_and_says_why(
    wish: ask.AskedChange, drop: Any, rule: str, partial: bool
) -> None:
    """EC32: its flow stood still at an error of ours. With `allowPartial` the rest is carried out."""
    world = World().accept(an_order(an_item(), an_item("2", "router"))).decompose()
    wishes = (wish, change("/items/2/configuration/deviceModel", "R7", "R9")) if partial else (wish,)
    if partial and rule == "field.dropped":
        wishes = (wish, change(*PHONE, "+49 30 7654321"))
    amendment = world.amend(*wishes, allow_partial=partial)
    world.policy, world.policy_version = changed_telecom(drop), 2
    ended = world.drive(amendment)
    outcome = ("APPLIED", "PARTIALLY_APPLIED") if partial else ("REJECTED", "NOT_APPLICABLE")
    assert (ended.status, ended.outcome) == outcome
    assert (ended.changes[0]["safetyResult"], ended.changes[0]["ruleId"]) == ("BLOCKED", rule)
    assert rule in {one["ruleId"] for one in (ended.assessment or {})["trace"]}
    assert world.run_flow().state == "COMPLETED"


@pytest.mark.parametrize(
    ("items", "gone", "new"),
    [
        (
            (an_item(), an_item("2", "mobile-sim")),
            "1",
            ROUTER | {"productOfferingId": "static-ip", "reliesOn": ["1"]},
        ),
        (
            (an_item(offering="home-bundle"), an_item("2", parent="1"), an_item("3", "mobile-sim")),
            "1",
            ROUTER | {"parentItemId": "1"},
        ),
    ],
)
def test_nothing_is_added_to_what_has_been_cancelled(items: Any, gone: str, new: dict[str, Any]) -> None:
    """EC17: an address on a line that is gone was assigned, activated and billed."""
    world = World().accept(an_order(*items)).decompose()
    wish = change("/items/-", None, new, "ADD")
    before = world.amend(wish, auto_apply=False)
    world.judge(world.cancel(scope="ITEMS", item_ids=(gone,)))
    assert world.the_order.items[gone].state == "CANCELLED"
    with pytest.raises(Unprocessable, match="which has ended"):
        world.amend(wish)
    world.drive(before)
    assert world.amendment(before.request_id).changes[0]["ruleId"] == "items.fit"
    assert "7" not in world.the_order.items


def test_an_approved_wish_is_looked_at_again_where_the_value_has_changed() -> None:
    """Two fields in one wish, of which the one that needs no question is changed by somebody else meanwhile."""
    world = World().accept().decompose().run_to("reserve-inventory", "assign-resource")
    wish = (change(*PHONE, "+49 30 7654321"), change("/installationAddress/postalCode", "12930", "12940"))
    amendment = world.amend(*wish)
    assert world.drive(amendment).status == "REQUIRES_APPROVAL"
    world.amend(change(*PHONE, "+49 30 5555555"))
    world.do(ask.ApproveAmendment(world.order_id, amendment.request_id), APPROVER)
    ended = world.amendment(amendment.request_id)
    assert (ended.status, ended.outcome) == ("REJECTED", "NOT_APPLICABLE")
    assert world.the_order.head.content["contact"]["phone"] == "+49 30 5555555"
