"""Assets, policies, staff, dashboard, verification, and the routes that ask for no token."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.builders import ROOT
from tests.workers.api_world import ApiWorld, a_line, an_order_body

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADMIN = ("ada", "admin")
AUDITOR = ("ann", "auditor")
TELECOM = (ROOT / "domain/telecom.policy.yaml").read_text()


def an_asset(**overrides: Any) -> dict[str, Any]:
    return {
        "customerId": "c-9",
        "productOfferingId": "fiber-500",
        "configuration": {"bandwidth": "500M"},
        "references": {"activate-service": {"externalReference": "SRV-1", "output": None}},
    } | overrides


async def test_an_asset_is_taken_in_and_put_right_by_its_etag(world: ApiWorld) -> None:
    asset_id = str(uuid.uuid4())
    first = await world.post("/assets", an_asset(assetId=asset_id), as_=ADMIN, key="a")
    assert (first.status_code, first.headers["etag"]) == (201, '"asset-version-1"')
    assert first.headers["location"] == f"/api/v1/assets/{asset_id}"
    again = await world.post("/assets", an_asset(assetId=asset_id), as_=ADMIN, key="a")
    assert (again.status_code, again.content) == (200, first.content)
    changed = an_asset(assetId=asset_id, productOfferingId="fiber-100")
    for given, status in (
        (None, 428),
        ('"asset-version-7"', 412),
        ("*", 412),
        (f"W/{first.headers['etag']}", 412),
        ("1", 400),
    ):
        assert (await world.post("/assets", changed, as_=ADMIN, if_match=given)).status_code == status
    right = await world.post("/assets", changed, as_=ADMIN, if_match=first.headers["etag"])
    assert (right.status_code, right.json()["version"]) == (200, 2)
    seen = await world.get(f"/assets/{asset_id}")
    told = seen.json()
    taken_in, put_right = told.pop("corrections")
    assert (told, seen.headers["etag"]) == ({**right.json(), "history": []}, '"asset-version-2"')
    assert (taken_in["version"], taken_in["by"], "before" in taken_in) == (1, ADMIN[0], False)
    assert (put_right["version"], put_right["by"]) == (2, ADMIN[0])
    assert put_right["before"] == taken_in["after"]
    assert put_right["after"] == {name: right.json()[name] for name in put_right["after"]}
    assert put_right["after"]["productOfferingId"] == "fiber-100" != put_right["before"]["productOfferingId"]
    new = await world.post("/assets", an_asset(), as_=ADMIN, if_match='"asset-version-1"')
    assert new.status_code == 412


async def test_of_many_who_take_the_same_asset_in_one_does(world: ApiWorld) -> None:
    """The others would change a known one, and have not named its ETag."""
    asset_id = str(uuid.uuid4())
    bodies = [an_asset(assetId=asset_id, configuration={"from": number}) for number in range(10)]
    answers = await asyncio.gather(*(world.post("/assets", body, as_=ADMIN) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [428] * 9
    [taken] = [answer.json() for answer in answers if answer.status_code == 201]
    seen = (await world.get(f"/assets/{asset_id}")).json()
    assert (seen["version"], seen["configuration"]) == (1, taken["configuration"])
    assert len(seen["corrections"]) == 1


async def test_assets_are_listed_by_customer_in_pages(world: ApiWorld) -> None:
    made = set()
    for number in range(3):
        made.add((await world.post("/assets", an_asset(), as_=ADMIN)).json()["assetId"])
        await world.post("/assets", an_asset(customerId=f"other-{number}"), as_=ADMIN)
    first = (await world.get("/assets?customerId=c-9&limit=2")).json()
    rest = (await world.get(f"/assets?customerId=c-9&limit=2&cursor={first['next']}")).json()
    assert {asset["assetId"] for asset in first["items"] + rest["items"]} == made
    assert rest["next"] is None


ITSELF = "6f1c0000-0000-4000-8000-00000000000a"
ASSETS: list[tuple[dict[str, Any], str]] = [
    ({"productOfferingId": "no-such"}, "OFFERING_UNKNOWN"),
    ({"state": "BROKEN"}, "INVALID_BODY"),
    ({"assetId": "a-1"}, "INVALID_BODY"),
    ({"customerId": ""}, "INVALID_BODY"),
    ({"version": 7}, "INVALID_BODY"),
    ({"reliesOn": ["x"]}, "INVALID_BODY"),
    ({"assetId": ITSELF, "reliesOn": [ITSELF.upper()]}, "INVALID_BODY"),
    ({"quantity": 0}, "INVALID_BODY"),
    ({"configuration": {"a": "\x00"}}, "INVALID_BODY"),
    ({"references": []}, "INVALID_BODY"),
]


async def test_an_asset_is_refused(world: ApiWorld) -> None:
    for overrides, code in ASSETS:
        answer = await world.post("/assets", an_asset(**overrides), as_=ADMIN)
        assert (answer.status_code, answer.json()["code"]) == (422, code), overrides
    assert await world.rows("asset") == 0


async def test_a_second_order_on_an_asset_is_told_who_holds_it(world: ApiWorld) -> None:
    asset_id = (await world.post("/assets", an_asset(), as_=ADMIN)).json()["assetId"]
    line = a_line(action="MODIFY", targetAssetId=asset_id, productOfferingId="fiber-1000")
    holder = await world.create(line, orderType="SUPPLEMENTAL")
    answer = await world.post("/orders", an_order_body(line))
    assert (answer.status_code, answer.json()["code"]) == (409, "ASSET_BUSY")
    assert answer.json()["blockedBy"] == f"/api/v1/orders/{holder}"
    free = (await world.post("/assets", an_asset(), as_=ADMIN)).json()["assetId"]
    foreign = an_order_body({**line, "targetAssetId": free}, customer={"id": "c-1"})
    refused = await world.post("/orders", foreign)
    assert (refused.status_code, refused.json()["code"]) == (422, "ASSET_NOT_MODIFIABLE")
    # An imported correction passes while the order holds the asset.
    etag = await world.etag(f"/assets/{asset_id}")
    assert (await world.post("/assets", an_asset(assetId=asset_id), as_=ADMIN, if_match=etag)).status_code == 200


async def test_a_tenants_own_policy_comes_before_the_shared_one(world: ApiWorld) -> None:
    shared = (await world.get("/policies")).json()["items"]
    assert [(policy["shared"], policy["inForce"]) for policy in shared] == [(True, True)]
    own = TELECOM.replace("CUSTOMER_CHANGED_MIND", "CHANGED_MY_MIND")
    made = await world.send("POST", "/policies", as_=ADMIN, raw=own.encode(), key="p")
    assert made.status_code == 201, made.text
    again = await world.send("POST", "/policies", as_=ADMIN, raw=own.encode(), key="p")
    assert (again.status_code, again.content) == (200, made.content)
    version = made.json()["version"]
    listed = (await world.get("/policies")).json()["items"]
    assert (listed[0]["version"], listed[0]["inForce"]) == (version, True)
    seen = (await world.get(made.headers["location"])).json()
    assert seen["document"]["policy"] == "telecom"
    order_id = await world.create()
    assert (await world.get(f"/orders/{order_id}")).json()["policyVersion"] == version
    strangers = await world.get(f"/policies/{version}", tenant=uuid.uuid4())
    assert (strangers.status_code, strangers.json()["code"]) == (404, "POLICY_NOT_FOUND")
    for odd in ("0", "x", "9" * 30, "-1"):
        assert (await world.get(f"/policies/{odd}")).status_code == 404


async def test_every_policy_that_is_posted_is_a_new_version(world: ApiWorld) -> None:
    """A tenant goes back to what it had: seen to fail while an old document gave its old version, and the one that was
    to be replaced stayed in force."""
    other = TELECOM.replace("CUSTOMER_CHANGED_MIND", "CHANGED_MY_MIND")
    versions = []
    for text in (TELECOM, other, TELECOM, TELECOM):
        made = await world.send("POST", "/policies", as_=ADMIN, raw=text.encode())
        assert made.status_code == 201, made.text
        versions.append(made.json()["version"])
    assert versions == sorted(set(versions))
    listed = (await world.get("/policies")).json()["items"]
    assert [policy["version"] for policy in listed if policy["inForce"]] == [versions[-1]]
    assert [policy["version"] for policy in listed if not policy["shared"]] == versions[::-1]


async def test_a_faulty_policy_is_refused_as_a_whole(world: ApiWorld) -> None:
    for raw in (b"policy: [", b"[]", b"", b"\xff", TELECOM.replace("system: inventory", "system: nowhere").encode()):
        answer = await world.send("POST", "/policies", as_=ADMIN, raw=raw)
        assert (answer.status_code, answer.json()["code"]) == (422, "POLICY_INVALID")
        assert answer.json()["errors"]
    unkeyed = await world.send("POST", "/policies", as_=ADMIN, raw=TELECOM.encode(), key=None)
    assert (unkeyed.status_code, unkeyed.json()["code"]) == (400, "IDEMPOTENCY_KEY_REQUIRED")
    assert len((await world.get("/policies")).json()["items"]) == 1


async def test_a_policy_may_not_drop_a_system_that_live_tasks_need(world: ApiWorld) -> None:
    order_id = await world.create(a_line(productOfferingId="router"))
    await world.fulfil(order_id, only=set())
    await world.send("POST", "/policies", as_=ADMIN, raw=TELECOM.encode())
    energy = (ROOT / "tests/policies/energy.policy.yaml").read_bytes()
    answer = await world.send("POST", "/policies", as_=ADMIN, raw=energy)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"path": "/systems", "message": "live tasks still need inventory, shipping"}]


async def test_staff_is_said_by_the_admin(world: ApiWorld) -> None:
    assert (await world.get("/staff/bob", as_=ADMIN)).json()["roles"] == []
    put = await world.send("PUT", "/staff/bob", as_=ADMIN, body={"roles": ["approver", "operator"]})
    assert (put.status_code, put.json()["roles"], put.json()["changedBy"]) == (200, ["approver", "operator"], "ada")
    assert (await world.get("/staff/bob", as_=AUDITOR)).json() == put.json()
    bad = await world.send("PUT", "/staff/bob", as_=ADMIN, body={"roles": ["king"]})
    assert (bad.status_code, bad.json()["errors"][0]["path"]) == (422, "/roles/0")
    assert (await world.send("PUT", "/staff/system:x", as_=ADMIN, body={"roles": []})).status_code == 404


async def test_the_dashboard_counts_what_is_live(world: ApiWorld) -> None:
    first = await world.create()
    await world.create()
    await world.cancel(first)
    seen = (await world.get("/dashboard")).json()
    assert [(row["state"], row["count"]) for row in seen["orders"]] == [
        ("ACKNOWLEDGED", 1),
        ("CANCELLATION_REQUESTED", 1),
    ]
    assert [(row["status"], row["count"]) for row in seen["openRequests"]] == [("ACCEPTED_FOR_ASSESSMENT", 1)]
    assert (seen["jeopardy"], seen["unknownOutcomes"], seen["cases"]) == (0, 0, [])
    assert seen["outboxAgeSeconds"] > 0


async def test_the_chain_is_verified(world: ApiWorld, api_database: Any) -> None:
    orders = [await world.create() for _ in range(3)]
    await world.fulfil(orders[0])
    one = (await world.get(f"/audit/verification?orderId={orders[0]}", as_=AUDITOR)).json()
    assert one["valid"] is True
    assert one["entries"] > 30
    page = (await world.get("/audit/verification?limit=2", as_=AUDITOR)).json()
    rest = (await world.get(f"/audit/verification?limit=2&cursor={page['next']}", as_=AUDITOR)).json()
    assert (page["valid"], rest["valid"], rest["next"]) == (True, True, None)
    assert page["entries"] + rest["entries"] == await world.rows("audit_entry")
    absent = await world.get(f"/audit/verification?orderId={uuid.uuid4()}", as_=AUDITOR)
    assert (absent.status_code, absent.json()["code"]) == (404, "ORDER_NOT_FOUND")


BREAKS = {
    "an actor": "update audit_entry set actor = 'mallory' where order_id = $1 and sequence = 2",
    "what was said": "update audit_entry set data = '{}' where order_id = $1 and sequence = 1",
    "an entry taken out": "delete from audit_entry where order_id = $1 and sequence = 1",
    "the end cut off": "delete from audit_entry where order_id = $1 and sequence = 2",
}


@pytest.mark.parametrize("name", BREAKS)
async def test_an_edited_history_is_found(world: ApiWorld, api_database: Any, name: str) -> None:
    from domain.store.pool import open_pool

    order_id = await world.create()
    owner = await open_pool(api_database.owner_url, size=1)
    async with owner.acquire() as connection:
        await connection.execute(BREAKS[name], uuid.UUID(order_id))
    await owner.close()
    told = (await world.get(f"/audit/verification?orderId={order_id}", as_=AUDITOR)).json()
    assert told["valid"] is False
    assert told["firstBroken"] == (1 if name in {"what was said", "an entry taken out"} else 2)


# -- without a token -------------------------------------------------------------------------------------------


async def test_operations_ask_for_no_token(world: ApiWorld) -> None:
    assert (await world.get("/healthz", as_=None)).json() == {"status": "UP"}
    assert (await world.get("/readyz", as_=None)).json() == {"status": "UP", "troubles": {}}
    await world.get(f"/orders/{uuid.uuid4()}")
    await world.get("/no/such/route")
    metrics = (await world.get("/metrics", as_=None)).text
    assert 'recourse_http_requests_total{method="GET",route="/api/v1/orders/{orderId}",status="404"}' in metrics
    assert "/no/such/route" not in metrics


async def test_pages_need_nothing_from_elsewhere(world: ApiWorld) -> None:
    for path in ("/docs", "/docs/problems", "/docs/problems/ASSET_BUSY"):
        page = await world.get(path, as_=None)
        assert page.status_code == 200, path
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "http://" not in page.text.replace("http://recourse.test", "").replace("http://www.w3.org", "")
        assert "<script" not in page.text
    assert (await world.get("/docs/problems/NO_SUCH", as_=None)).status_code == 404
