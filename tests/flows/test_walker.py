"""The walker on the real engine: a thousand tasks beside small orders, with wake-ups lost, doubled and buffered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from domain.policy import read_policy_text
from tests.builders import ROOT
from tests.flows.running import RunningStack, Tenant, eventually

pytestmark = pytest.mark.timeout(600)

WIDE = 1000


def wide_policy(folder: Path) -> Path:
    """The shipped policy with an offering of a thousand tasks: a fan, a chain behind it, and a last task behind all."""
    document: Any = read_policy_text((ROOT / "domain/telecom.policy.yaml").read_text())
    fan = [{"step": f"f{n}", "type": "reserve-inventory"} for n in range(WIDE - 51)]
    chain = [{"step": f"c{n}", "type": "assign-number", "after": [f"c{n - 1}" if n else "f0"]} for n in range(50)]
    last = {"step": "last", "type": "assign-resource", "after": [step["step"] for step in fan] + ["c49"]}
    document["offerings"]["router"]["plans"]["ADD"] = [*fan, *chain, last]
    file = folder / "wide.policy.json"
    file.write_text(json.dumps(document, default=str), encoding="utf-8")
    return file


def ask_database(stack: RunningStack, sql: str, *arguments: Any) -> list[Any]:
    async def ask() -> list[Any]:
        connection = await asyncpg.connect(stack.told()["RECOURSE_OWNER_DATABASE_URL"])
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_a_thousand_tasks_start_once_each_beside_twenty_orders(stack: RunningStack, tenant: Tenant) -> None:
    policy = wide_policy(stack.folder)
    loaded = stack.cli("policy", "load", str(policy), "--tenant", str(tenant.tenant_id))
    assert loaded.returncode == 0, loaded.stderr
    wide = tenant.submit("router")
    small = [tenant.submit("mobile-sim") for _ in range(20)]

    tenant.wait_state(wide, "IN_PROGRESS")
    [row] = ask_database(stack, "select plan_id, run from fulfillment_plan where order_id = $1::uuid", wide)
    for _ in range(5):  # doubled, and some before anybody waits for them
        stack.publish("plan-progressed", str(row["run"]), tenant)
    eventually(lambda: sum(tenant.done(wide).values()), lambda n: n > 200, "the fan to be on its way", 180)
    with stack.stopped("relay"):  # lost: written, and gone before anybody carried them
        eventually(
            lambda: ask_database(
                stack,
                "delete from engine_outbox where published_at is null and name = 'plan-progressed'"
                " and order_id = $1::uuid returning id",
                wide,
            ),
            bool,
            "a wake-up to lose",
        )

    for order_id in small:
        tenant.wait_state(order_id, "COMPLETED", seconds=240)
    tenant.wait_state(wide, "COMPLETED", seconds=400)
    rows = ask_database(
        stack,
        "select task_id, count(*) as effects, max(attempt) as attempts from effect where order_id = $1::uuid"
        " group by task_id",
        wide,
    )
    assert len(rows) == WIDE
    assert {(row["effects"], row["attempts"]) for row in rows} == {(1, 1)}
    assert sum(tenant.done(wide).values()) == WIDE
