"""The command line as a clerk uses it on a running stack: it tells what the API tells, and refuses in a line."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from tests.flows.running import RunningStack, Tenant

pytestmark = pytest.mark.timeout(300)


def test_an_order_is_shown_with_its_tasks_and_its_history(stack: RunningStack, tenant: Tenant) -> None:
    order_id = tenant.submit("router")
    tenant.wait_state(order_id, "COMPLETED")
    of_tenant = ("--tenant", str(tenant.tenant_id))
    shown = stack.cli("order", "show", order_id, *of_tenant, check=True).stdout
    assert "state     COMPLETED" in shown
    assert "v1 reserve    reserve-inventory    COMPLETED" in shown
    document = json.loads(stack.cli("order", "show", order_id, *of_tenant, "--json", check=True).stdout)
    assert (document["order"]["state"], len(document["tasks"])) == ("COMPLETED", 2)

    lines = stack.cli("order", "timeline", order_id, *of_tenant, check=True).stdout.splitlines()
    entries = json.loads(stack.cli("order", "timeline", order_id, *of_tenant, "--json", check=True).stdout)
    assert len(lines) == len(entries) == entries[-1]["sequence"]
    assert "alice  ORDER  ORDER_ACCEPTED  · → ACKNOWLEDGED" in lines[0]


def test_another_tenants_order_is_not_there(stack: RunningStack, tenant: Tenant) -> None:
    order_id = tenant.submit("router")
    told = stack.cli("order", "show", order_id, "--tenant", str(uuid4()))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("ORDER_NOT_FOUND: ")
    tenant.wait_state(order_id, "COMPLETED")
