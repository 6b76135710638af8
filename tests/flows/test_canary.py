"""What must not leave: words of a person and secrets of ours, planted and then sought as bytes wherever they could have
gone: logs, the engine's own files (variables, incidents), Kafka's own files (events), metrics."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.flows.running import RunningStack, Tenant, eventually
from tests.flows.test_amendments import amend, replace
from tests.flows.test_repairs import repair

pytestmark = pytest.mark.timeout(300)

WORD = f"canary{secrets.token_hex(6)}"
PERSON: dict[str, Any] = {
    "customer": {"id": f"{WORD}-id", "name": WORD},
    "contact": {"name": WORD, "phone": WORD, "email": f"{WORD}@example.com"},
    "deliveryNote": WORD,
    "deliveryAddress": {"street": WORD, "city": WORD, "postalCode": WORD[:12], "country": "DE"},
    "installationAddress": {"street": WORD, "city": WORD, "postalCode": WORD[:12], "country": "DE"},
}


def files_with(word: str, *folders: Path) -> list[str]:
    """The files below the folders in which the word stands, as bytes."""
    sought = word.encode()
    return [
        str(file)
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file() and sought in file.read_bytes()
    ]


def secrets_of(stack: RunningStack) -> set[str]:
    """Passwords of the database's roles, and what the outside systems sign with."""
    told = stack.told()
    urls = [value for name, value in told.items() if name.endswith("DATABASE_URL")]
    signing = [system["secret"] for system in json.loads(told["RECOURSE_SYSTEMS"]).values()]
    return {urlsplit(url).password or "" for url in urls} | set(signing) - {""}


def test_nothing_private_leaves(stack: RunningStack, tenant: Tenant) -> None:
    """An order full of one word is refused, changed, cancelled and repaired with it; systems say it as their reason and
    in an error that ends as an incident of the engine.

    The word is in a log where a request's line names the path and not its route, in the engine's files where a job
    fails with the system's words and not with its case's id, in Kafka's where an event carries its note. A job that
    tells its flow all of an answer (`_TOLD`) tells it no more than ids here.
    """
    tenant.make_impatient("release-inventory")
    tenant.fault(taskType="ship-device", fault="accept-silent")
    tenant.fault(taskType="reserve-inventory", fault="refuse", times=1, words=WORD)
    tenant.fault(taskType="release-inventory", fault="error-before", times=1, words=WORD)
    order_id = tenant.submit(**PERSON)
    eventually(lambda: tenant.cases(order_id), bool, "a case for the refused reservation")
    assert WORD in str(tenant.get(f"/api/v1/orders/{order_id}/effects")), "an operator reads what the system has said"
    repair(tenant, order_id, "RETRY", reasonText=WORD)
    tenant.wait_effect(order_id, "ship", "shipping", acceptedAt=...)
    amend(tenant, order_id, replace("/contact/name", WORD, f"{WORD}-too"))
    # Wrong in every way that is answered with words of the asker.
    tenant.post("/api/v1/orders", {**PERSON, WORD: WORD})
    tenant.agent.get(f"/api/v1/orders/{WORD}", headers={"Authorization": f"Bearer {WORD}"})
    tenant.cancel(order_id, reasonText=WORD, forceManualReview=True)
    request = eventually(
        lambda: tenant.items(f"/api/v1/orders/{order_id}/cancellation-requests")[0],
        lambda found: found["status"] == "REQUIRES_APPROVAL",
        "a review",
    )
    link = request["links"]["self"]
    etag = tenant.approver.get(link).headers["etag"]
    tenant.post(f"{link}/approve", {"comment": WORD}, by=tenant.approver, etag=etag).raise_for_status()
    tenant.wait_state(order_id, "FALLOUT")
    [stuck] = [case for case in tenant.cases(order_id) if case["status"] == "OPEN"]
    repair(tenant, order_id, "RETRY", reasonText=WORD, evidence={"kind": "TICKET", "reference": WORD})
    tenant.wait_state(order_id, "CANCELLED", "PARTIALLY_COMPLETED")

    home = stack.folder
    places = [home / "log", home / "engine", home / "kafka"]
    # The search finds what is there: logs name the tenant; the engine its incident, and Kafka the order.
    incident = f"EFFECT_EXHAUSTED {stuck['caseId']}"
    for place, there in zip(places, (str(tenant.tenant_id), incident, order_id), strict=True):
        eventually(lambda place=place, there=there: files_with(there, place), bool, f"{there} in {place.name}")  # type: ignore[misc]
    assert files_with(WORD, *places) == []
    for secret in secrets_of(stack):
        assert files_with(secret, *places) == []
    metrics = httpx.get(f"{stack.status()['api']}/metrics", trust_env=False).text
    assert "recourse_" in metrics
    assert not [word for word in (WORD, order_id, str(tenant.tenant_id), *secrets_of(stack)) if word in metrics]
