"""Every check finds nothing in what the product did, and what somebody with all rights did to it afterwards."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from domain.audit import Walk
from domain.store.queries import load_queries
from domain.store.verify import (
    AT_REST,
    CHAINS,
    CHECKS,
    STANDING,
    Auditor,
    Check,
    NotAnAuditorError,
    Offence,
    open_auditor,
)
from tests.builders import an_item, an_order, change, confirmed
from tests.postgres import PostgresServer
from tests.store.conftest import Lived
from tests.stored import Store, open_store
from workers.verification import verify

CENTURY = timedelta(days=36500)
BY_NAME = {check.name: check for check in (*CHECKS, STANDING, CHAINS, AT_REST)}

# (the check, what its offence says, what was done). {story} stands for the id of that story's order.
COPY_REQUEST = """
    drop index cancellation_request_one_active;
    create temp table copy on commit drop as
        select * from cancellation_request where order_id = '{being_cancelled}';
    update copy set request_id = gen_random_uuid();
    insert into cancellation_request select * from copy"""
COPY_REVERSAL = """
    drop index effect_one_reversal;
    create temp table copy on commit drop as
        select * from effect where order_id = '{cancelled_on_the_way}' and reverses is not null limit 1;
    update copy set effect_id = gen_random_uuid();
    insert into effect select * from copy"""


def add_entry(entity: str, entity_id: str, after: str) -> str:
    return f"""
        create temp table copy on commit drop as
            select * from audit_entry where order_id = '{{cancelled_on_the_way}}' order by sequence desc limit 1;
        update copy set sequence = sequence + 1, at = at + interval '1 hour', entity = '{entity}',
            entity_id = ({entity_id}), before = 'COMPLETED', after = '{after}';
        insert into audit_entry select * from copy"""


CORRUPTIONS: list[tuple[str, str, str]] = [
    # I1
    ("ended_orders_stay", "moved to FALLOUT after", add_entry("ORDER", "select order_id from copy", "FALLOUT")),
    ("ended_orders_stay", "moved to FALLOUT after", add_entry("ITEM", "select '1'", "FALLOUT")),
    (
        "ended_orders_stay",
        "moved to READY after",
        add_entry(
            "TASK", "select task_id from fulfillment_task where order_id = '{cancelled_on_the_way}' limit 1", "READY"
        ),
    ),
    (
        "ended_orders_stay",
        "written at",
        "update customer_order set updated_at = ended_at + interval '1 s' where order_id = '{cancelled_on_the_way}'",
    ),
    ("ends_are_dated", "unset", "update customer_order set ended_at = null where order_id = '{paid_back}'"),
    (
        "ends_are_dated",
        "IN_PROGRESS",
        "update customer_order set resume_state = 'IN_PROGRESS' where state = 'FAILED' or order_id = '{paid_back}'",
    ),
    ("ends_are_dated", "unset", "update cancellation_request set ended_at = null where order_id = '{paid_back}'"),
    ("ends_are_dated", "unset", "update fallout_case set closed_at = null where order_id = '{refused_and_repaired}'"),
    ("ends_are_dated", "without", "update fulfillment_task set ended_at = null where order_id = '{paid_back}'"),
    ("ends_are_dated", "without", "update compensation_task set ended_at = null where order_id = '{paid_back}'"),
    (
        "what_ended_holds_nothing",
        "holds nothing any more",
        "insert into task_hold select t.tenant_id, t.order_id, t.task_id, r.request_id from fulfillment_task t"
        " join cancellation_request r using (tenant_id, order_id) where t.order_id = '{cancelled_on_the_way}' limit 1",
    ),
    (
        "what_ended_holds_nothing",
        "holds nothing any more",
        "update customer_order set order_holds = '{{}}' where order_id = '{on_hold}'",
    ),
    (
        "what_ended_holds_nothing",
        "although its order is CANCELLED",
        "update cancellation_request set status = 'COMPENSATING', ended_at = null"
        " where order_id = '{cancelled_on_the_way}'",
    ),
    (
        "what_ended_holds_nothing",
        "is UNKNOWN although",
        "update effect set state = 'UNKNOWN' where order_id = '{held_and_released}'",
    ),
    (
        "what_ended_holds_nothing",
        "not told that the order",
        "update fulfillment_plan set closed = false where order_id = '{held_and_released}'",
    ),
    (
        "what_ended_holds_nothing",
        "its walker is not told",
        "update compensation_plan set closed = false where order_id = '{cancelled_on_the_way}'",
    ),
    # I2, I3
    ("one_change_at_a_time", "2 order-scope", COPY_REQUEST),
    (
        "calls_have_intents",
        "no row in the ledger",
        "delete from effect where order_id = '{cancelled_on_the_way}'",
    ),
    (
        "calls_have_intents",
        "before the intent",
        "update effect set intended_at = intended_at + interval '1 day' where order_id = '{cancelled_on_the_way}'",
    ),
    (
        "calls_have_intents",
        "attempt 7 of 1",
        "update external_call_attempt set attempt = 7 where effect_id in"
        " (select effect_id from effect where order_id = '{cancelled_on_the_way}')",
    ),
    (
        "calls_have_intents",
        "0 on record",
        "delete from external_call_attempt where effect_id in"
        " (select effect_id from effect where order_id = '{cancelled_on_the_way}')",
    ),
    # I4, I5
    (
        "one_reversal_each",
        "which this order does not have",
        "update effect set reverses = gen_random_uuid() where order_id = '{paid_back}' and reverses is not null",
    ),
    (
        "one_reversal_each",
        "no original",
        "update effect set reverses = effect_id where order_id = '{undoing_refused_and_repaired}'"
        " and reverses is not null and state = 'NO_EFFECT'",
    ),
    (
        "one_reversal_each",
        "is CONFIRMED and its original",
        "update effect set state = 'CONFIRMED' where order_id = '{paid_back}'",
    ),
    ("one_reversal_each", "has 2 confirmed reversals", COPY_REVERSAL),
    (
        "one_reversal_each",
        "REVERSED by nothing",
        "update effect set state = 'REVERSED' where order_id = '{held_and_released}'",
    ),
    (
        "one_reversal_each",
        "its ledger row does not name",
        "update compensation_task set reverses = gen_random_uuid() where order_id = '{paid_back}'",
    ),
    (
        "cancelled_is_undone",
        "is CONFIRMED in a cancelled order",
        "update effect set state = 'CONFIRMED' where order_id = '{paid_back}' and state = 'REVERSED'",
    ),
    # I6
    (
        "held_tasks_rest",
        "held by request",
        "update external_call_attempt a set started_at = r.requested_at + interval '1 microsecond'"
        " from effect e join cancellation_request r using (tenant_id, order_id)"
        " where a.effect_id = e.effect_id and e.order_id = '{being_cancelled}'",
    ),
    (
        "held_tasks_rest",
        "held by the operator",
        "update external_call_attempt a set started_at = h.at + interval '1 microsecond'"
        " from effect e join audit_entry h using (tenant_id, order_id)"
        " where a.effect_id = e.effect_id and h.kind = 'ORDER_HELD' and e.order_id = '{held_and_released}'",
    ),
    ("whoever_holds_holds_all", "not held by", "delete from task_hold where order_id = '{being_cancelled}'"),
    ("whoever_holds_holds_all", "not held by operator", "delete from task_hold where order_id = '{on_hold}'"),
    # I7
    (
        "every_change_is_told",
        "audit 5 (",
        "delete from outbox where sequence = 5 and order_id = '{cancelled_on_the_way}'",
    ),
    ("every_change_is_told", "has no outbox row", "delete from outbox where order_id = '{cancelled_on_the_way}'"),
    ("every_change_is_told", "no audit entry", "delete from audit_entry where order_id = '{cancelled_on_the_way}'"),
    *(
        (
            "every_change_is_told",
            "something else",
            f'update outbox set payload = payload || \'{{{{"{name}": "other"}}}}\''
            " where sequence = 4 and order_id = '{cancelled_on_the_way}'",
        )
        for name in ("kind", "entity", "entityId", "from", "to", "data")
    ),
    ("every_change_is_told", "something else", "update outbox set type = 'recourse.Other.v1' where sequence = 9"),
    (
        "audit_has_no_leaps",
        "but it was READY",
        "update audit_entry set before = 'PENDING' where entity = 'TASK' and after = 'IN_PROGRESS'",
    ),
    (
        "audit_moves_are_legal",
        "READY → COMPLETED is no move",
        "update audit_entry set after = 'COMPLETED' where entity = 'TASK' and before = 'READY'"
        " and after = 'IN_PROGRESS'",
    ),
    ("audit_moves_are_legal", "nothing → COMPLETED", "update audit_entry set after = 'COMPLETED' where before is null"),
    *(
        ("audit_tells_the_states", "the audit says", f"update {table} set {column} = '{state}'")
        for table, column, state in (
            ("customer_order", "state", "FAILED"),
            ("order_item", "state", "FAILED"),
            ("fulfillment_task", "state", "FAILED"),
            ("compensation_task", "state", "WAIVED"),
            ("effect", "state", "WAIVED"),
            ("cancellation_request", "status", "APPROVED"),
            ("compensation_plan", "state", "PLANNED"),
            ("fallout_case", "status", "CANCELLED"),
        )
    ),
    ("audit_tells_the_states", "the audit says nothing", "delete from audit_entry where entity = 'EFFECT'"),
    ("audit_tells_the_states", "is not there", "delete from fallout_case"),
    # I8, I9
    (
        "four_eyes_decided",
        "APPROVED by bob, who asked",
        "update cancellation_request set requested_by = 'bob', approval = null where jsonb_array_length(decisions) > 0",
    ),
    (
        "four_eyes_decided",
        "by bob, who asked",
        "update cancellation_request set on_behalf_of = 'bob', decisions = '[]' where approval is not null",
    ),
    (
        "four_eyes_decided",
        "has none",
        "update cancellation_request set approval = null where order_id = '{reviewed_and_kept_in_part}'",
    ),
    ("assets_are_locked", "is not locked by", "delete from asset_change_lock"),
    (
        "assets_are_locked",
        "by an order that is COMPLETED",
        "update asset_change_lock set order_id = '{asset_modified}'",
    ),
    (
        "assets_are_locked",
        "by an order that is ON_HOLD",
        "update asset_change_lock set order_id = '{on_hold}'",
    ),
    # I11, I12
    ("versions_have_no_gaps", "its head says", "delete from audit_entry where sequence = 3"),
    ("versions_have_no_gaps", "its head says", "update audit_head set sequence = sequence + 1"),
    ("versions_have_no_gaps", "0 audit entries", "delete from audit_entry where order_id = '{on_hold}'"),
    (
        "events_leave_in_order",
        "lies behind",
        "drop index outbox_event; update outbox set sequence = 9 - sequence where sequence < 9",
    ),
    (
        "events_leave_in_order",
        "while an earlier one waits",
        "update outbox set published_at = now() where sequence = 2",
    ),
    *(
        (
            "tenants_agree",
            "which is not there",
            f"update {table} set {column} = gen_random_uuid() where {column} is not null",
        )
        for table, column in (
            ("order_item", "tenant_id"),
            ("fulfillment_task", "tenant_id"),
            ("fulfillment_task", "plan_id"),
            ("fulfillment_task", "effect_id"),
            ("compensation_task", "tenant_id"),
            ("compensation_task", "plan_id"),
            ("compensation_task", "effect_id"),
            ("compensation_task", "original_task"),
            ("compensation_task", "reverses"),
            ("compensation_task_dependency", "depends_on"),
            ("effect", "tenant_id"),
            ("effect", "task_id"),
            ("effect", "reverses"),
            ("effect", "reversed_by"),
            ("effect", "withdraws"),
            ("cancellation_request", "plan_id"),
            ("compensation_plan", "request_id"),
            ("fallout_case", "request_id"),
            ("fallout_case", "effect_id"),
            ("asset_change_lock", "tenant_id"),
            ("task_hold", "tenant_id"),
            ("outbox", "tenant_id"),
            ("engine_outbox", "tenant_id"),
        )
    ),
    (
        "tenants_agree",
        "names predecessor",
        "update fulfillment_task set depends_on = array[gen_random_uuid()] where order_id = '{on_hold}'",
    ),
    (
        "tenants_agree",
        "names target",
        "insert into order_relation values ('00000000-0000-4000-8000-000000000001', gen_random_uuid(),"
        " '{on_hold}', gen_random_uuid(), 'REPAIRS', null, now(), 'dba')",
    ),
    # I13 and what keeps it true
    (
        "states_are_recomputed",
        "recomputed CANCELLATION_REQUESTED",
        "update customer_order set state = 'IN_PROGRESS' where order_id = '{being_cancelled}'",
    ),
    (
        "states_are_recomputed",
        "recomputed ON_HOLD (then IN_PROGRESS)",
        "update customer_order set resume_state = null where order_id = '{on_hold}'",
    ),
    ("states_are_recomputed", "is FALLOUT (then CANCELLING), recomputed CANCELLING", "delete from fallout_case"),
    ("counters_are_true", "counted", "update fulfillment_task set unmet = unmet + 1"),
    ("counters_are_true", "counted", "update compensation_task set unmet = unmet + 1"),
    ("counters_are_true", "is READY with 1", "update fulfillment_task set state = 'READY' where unmet = 1"),
    ("answers_are_kept", "has no answer", "update receipt set answer = null"),
    ("answers_are_kept", "not there", "delete from cancellation_request where order_id = '{being_cancelled}'"),
    ("answers_are_kept", "not there", "delete from customer_order where order_id = '{being_cancelled}'"),
    (
        "commands_are_on_record",
        "0 entries of CANCELLATION_REQUESTED",
        "update audit_entry set kind = 'CANCELLATION_STALE' where kind = 'CANCELLATION_REQUESTED'",
    ),
    (
        "commands_are_on_record",
        "entries of ORDER_ACCEPTED",
        "update audit_entry set kind = 'ORDER_ACCEPTED' where entity = 'ORDER'",
    ),
    # What an order looked like
    ("history_tells_the_order", "its history says IN_PROGRESS", "update customer_order set state = 'FAILED'"),
    ("history_tells_the_order", "in version 99", "update customer_order set version = 99"),
    (
        "history_tells_the_order",
        "another content",
        "update order_history set content = '{{}}' where content is not null",
    ),
    ("history_tells_the_order", "with quantity 9, its", "update order_item set quantity = 9"),
    ("history_tells_the_order", "nothing in version none", "delete from order_history where order_id = '{on_hold}'"),
    ("history_tells_the_order", "which says nothing", "delete from audit_entry where order_id = '{on_hold}'"),
    ("history_tells_the_order", "which says 20", "update order_history set at = at - interval '1 hour'"),
    (
        "money_is_conserved",
        "took 3999",
        "update effect set input = jsonb_set(input, '{{refund,amountMinor}}', '4000') where input ? 'refund'",
    ),
    (
        "money_is_conserved",
        "took 3999",
        'update effect set output = \'{{"refunded": {{"amountMinor": 4000, "currency": "EUR"}}}}\''
        " where input ? 'refund'",
    ),
    (
        "messages_carry_ids",
        "carries reason",
        'update engine_outbox set variables = variables || \'{{"reason": "Ada called"}}\'',
    ),
    ("chains_hold", "audit 3", "update audit_entry set actor = 'mallory' where sequence = 3"),
    ("chains_hold", "audit 3", "update audit_entry set data = data || '{{\"n\": 1}}' where sequence = 3"),
    ("chains_hold", "audit 1", "delete from audit_entry where sequence = 1"),
    ("chains_hold", "audit", "update audit_head set chain = sha256('other')"),
    ("nothing_is_stuck", "nobody is asked", "update fallout_case set closed_at = now()"),
    ("nothing_is_stuck", "is parked", "update outbox set parked_at = now()"),
    ("nothing_is_stuck", "is parked", "delete from outbox; update engine_outbox set parked_at = now()"),
    (
        "nothing_is_stuck",
        "has not heard of cancellation",
        "update outbox set published_at = now(); update engine_outbox set published_at = now();"
        " insert into dependence select tenant_id, order_id, order_id, request_id, gen_random_uuid(), now()"
        " from cancellation_request",
    ),
]


async def look(auditor: Auditor, check: Check, keep: timedelta = CENTURY) -> list[Offence]:
    if check is STANDING:
        return await auditor.find_misstated()
    if check is CHAINS:
        found = [broken async for broken in auditor.walk_chains(Walk()) if broken]
        return [Offence(b.tenant_id, b.order_id, "ORDER", str(b.order_id), f"audit {b.sequence}") for b in found]
    return await auditor.find_offences(check, keep=keep)


async def corrupt_and_look(lived: Lived, check: Check, sql: str, keep: timedelta = CENTURY) -> list[Offence]:
    """As the database's administrator, past every constraint; taken back afterwards."""
    connection = await asyncpg.connect(lived.database.owner_url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(sql.format(**lived.orders))
        try:
            return await look(Auditor(connection, tenant_id=None, limit=100), check, keep)
        finally:
            await transaction.rollback()
    finally:
        await connection.close()


def test_what_the_product_did_holds_in_every_respect(lived: Lived) -> None:
    report = lived.store.run(verify(lived.database.auditor_url))
    assert [finding.to_json() for finding in report.findings if not finding.holds] == []
    assert report.valid
    assert report.entries == lived.store.as_owner("select count(*) from audit_entry")[0][0] > 1000
    assert len(report.findings) == len(CHECKS) + 2


@pytest.mark.parametrize(
    ("name", "problem", "sql"), CORRUPTIONS, ids=[f"{c[0]}-{n}" for n, c in enumerate(CORRUPTIONS)]
)
def test_a_corrupted_row_is_found(lived: Lived, name: str, problem: str, sql: str) -> None:
    offences = lived.store.run(corrupt_and_look(lived, BY_NAME[name], sql))
    assert any(problem in offence.problem for offence in offences), [offence.problem for offence in offences][:5]


def test_every_check_has_been_seen_to_fail() -> None:
    assert {name for name, _, _ in CORRUPTIONS} == BY_NAME.keys()


def test_every_block_is_a_check_or_serves_one() -> None:
    served = {"can_read_all", "read_standing", "count_entries", "export_instant", "read_chains"}
    assert load_queries("verify").keys() == served | (BY_NAME.keys() - {STANDING.name, CHAINS.name})


def test_rows_that_the_relay_has_let_go_are_not_missed(lived: Lived) -> None:
    """Sent rows are deleted after a while, an order's oldest first: what is missing then is no offence."""
    told = BY_NAME["every_change_is_told"]
    let_go = "delete from outbox where sequence <= 5 and order_id = '{on_hold}'"
    assert lived.store.run(corrupt_and_look(lived, told, let_go, keep=timedelta(microseconds=1))) == []
    assert lived.store.run(corrupt_and_look(lived, told, let_go, keep=CENTURY))


def test_the_limit_is_kept_and_said(lived: Lived) -> None:
    report = lived.store.run(verify(lived.database.auditor_url, limit=2, at_rest=True))
    stuck = report.findings[len(CHECKS)]
    assert (stuck.check, len(stuck.offences), stuck.more) == (AT_REST, 2, True)
    assert not report.valid
    assert "and more" in report.to_text()


def test_who_waits_for_a_person_is_not_stuck(store: Store) -> None:
    world = store.world().accept().decompose()
    another = change("/items/1/productOfferingId", "fiber-500", "mobile-sim")
    amendment = world.drive(world.amend(another), confirmed)
    assert amendment.status == "REQUIRES_APPROVAL"
    idle = store.world().accept().decompose().order_id
    report = store.run(verify(store.database.auditor_url, at_rest=True))
    stuck = {offence.order_id for offence in report.findings[len(CHECKS)].offences if offence.entity == "ORDER"}
    assert stuck == {idle}


def test_what_goes_on_beside_the_cancellation_of_a_part_is_not_held(store: Store) -> None:
    """What is told no quantity is called while a part is being judged; that breaks nothing."""
    world = store.world().accept(an_order(an_item(quantity=3))).decompose()
    world.judge(world.cancel(scope="ITEMS", item_ids=("1",), quantities={"1": 1}, force_manual_review=True))
    world.run_flow()
    assert world.calls
    report = store.run(verify(store.database.auditor_url))
    assert report.valid, report.to_text()


def test_another_tenants_rows_are_not_looked_at(lived: Lived) -> None:
    other = lived.store.as_owner("select gen_random_uuid()")[0][0]
    report = lived.store.run(verify(lived.database.auditor_url, tenant_id=other))
    assert (report.valid, report.entries) == (True, 0)


@pytest.mark.parametrize("role", ["app_url", "relay_url"])
def test_a_role_that_sees_only_a_part_calls_nothing_sound(lived: Lived, role: str) -> None:
    with pytest.raises(NotAnAuditorError, match="RECOURSE_AUDITOR_DATABASE_URL"):
        lived.store.run(verify(getattr(lived.database, role)))


def test_who_looks_beside_another_sees_the_same_instant(store: Store) -> None:
    """Chains are walked beside the checks: what is written meanwhile is seen by both or by neither."""
    world = store.world().accept()
    known = len(store.as_owner("select 1 from audit_entry"))

    async def entries(*auditors: Auditor) -> list[int]:
        return [await auditor.count_entries() for auditor in auditors]

    async def look_twice() -> tuple[list[int], list[int]]:
        async with open_auditor(store.database.auditor_url) as one:
            await asyncio.to_thread(world.decompose)
            async with (
                open_auditor(store.database.auditor_url, beside=one) as beside,
                open_auditor(store.database.auditor_url) as later,
            ):
                return await entries(one, beside), await entries(later)

    same, later = asyncio.run(look_twice())
    assert same == [known, known]
    assert later[0] > known


def test_the_auditor_cannot_write(lived: Lived) -> None:
    async def write() -> Any:
        async with open_auditor(lived.database.auditor_url) as auditor:
            await auditor._connection.execute("delete from effect")

    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        lived.store.run(write())


def test_an_edited_entry_is_named_by_the_whole_verification(postgres_server: PostgresServer) -> None:
    """EC67, on a copy: the offender is the order, the place is the first broken link."""
    with postgres_server.clone() as database, open_store(database) as store:
        world = store.world()
        world.accept().decompose()
        before = store.run(verify(database.auditor_url))
        assert before.valid
        store.as_owner("update audit_entry set actor = 'mallory' where sequence = 4")
        after = store.run(verify(database.auditor_url))
        [broken] = [finding for finding in after.findings if not finding.holds]
        assert broken.check == CHAINS
        assert [(o.order_id, o.problem) for o in broken.offences] == [(world.order_id, "first broken link: audit 4")]
