"""`recourse verify` and `recourse audit`: what they say, what they end with, histories checked without a database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from domain.errors import OrderNotFound
from domain.values import OrderId
from tests.postgres import Database
from tests.stored import Store, open_store
from tests.stories import cancelled_on_the_way, held_and_released
from workers import cli
from workers.audit import ExportUnreadableError, export_order, verify_export

Run = Callable[..., Result]


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    with open_store(database) as opened:
        yield opened


@pytest.fixture
def order_id(store: Store) -> OrderId:
    world = store.world()
    cancelled_on_the_way(world)
    return world.order_id


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("RECOURSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECOURSE_AUDITOR_DATABASE_URL", store.database.auditor_url)
    return lambda *arguments: CliRunner().invoke(cli.app, list(arguments))


def export(store: Store, order_id: OrderId) -> list[str]:
    async def read() -> list[str]:
        url = store.database.auditor_url
        return [line async for line in export_order(url, order_id=order_id, tenant_id=None)]

    return store.run(read())


# -- verify ---------------------------------------------------------------------------------------------------


def test_sound_data_end_with_zero(run: Run, order_id: OrderId) -> None:
    told = run("verify", "--json")
    assert told.exit_code == 0
    report = json.loads(told.stdout)
    assert report["valid"] is True
    assert all(check["holds"] for check in report["checks"])
    assert {f"I{number}" for number in range(1, 14)} <= {check["rule"] for check in report["checks"]} | {"I10"}
    assert "I10" in report["beyond"]
    shown = run("verify")
    assert shown.exit_code == 0
    assert "everything holds" in shown.stdout


def test_a_broken_invariant_ends_with_one_and_names_who_breaks_it(run: Run, store: Store, order_id: OrderId) -> None:
    store.as_owner("update effect set state = 'CONFIRMED' where state = 'REVERSED'")
    told = run("verify", "--json")
    assert told.exit_code == 1
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert not checks["cancelled_is_undone"]["holds"]
    assert {offence["orderId"] for offence in checks["cancelled_is_undone"]["offences"]} == {str(order_id)}
    shown = run("verify")
    assert shown.exit_code == 1
    assert "BROKEN  I5" in shown.stdout
    assert f"order {order_id} EFFECT" in shown.stdout


def test_what_is_stuck_is_told_when_asked_for(run: Run, order_id: OrderId) -> None:
    assert run("verify").exit_code == 0
    at_rest = run("verify", "--at-rest", "--limit", "3")
    assert at_rest.exit_code == 1
    assert at_rest.stdout.count("was never sent") == 3
    assert "and more" in at_rest.stdout


def test_a_role_that_sees_a_part_is_turned_away(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOURSE_AUDITOR_DATABASE_URL", store.database.app_url)
    for command in (["verify"], ["audit", "verify"]):
        told = run(*command)
        assert told.exit_code == 1
        assert "auditor" in told.stderr


# -- audit ----------------------------------------------------------------------------------------------------


def test_the_chains_of_all_orders_are_walked(run: Run, store: Store, order_id: OrderId) -> None:
    held_and_released(store.world())
    told = run("audit", "verify", "--json")
    entries = store.as_owner("select count(*) from audit_entry")[0][0]
    assert (told.exit_code, json.loads(told.stdout)) == (0, {"valid": True, "orders": 2, "entries": entries})
    one = run("audit", "verify", "--order", str(order_id), "--json")
    assert json.loads(one.stdout)["orders"] == 1


def test_an_edited_entry_is_the_first_broken_link(run: Run, store: Store, order_id: OrderId) -> None:
    """EC67."""
    store.as_owner("update audit_entry set actor = 'mallory' where sequence = 7")
    told = run("audit", "verify", "--order", str(order_id), "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout) | {"entries": 7} == {
        "valid": False,
        "orders": 1,
        "entries": 7,
        "orderId": str(order_id),
        "firstBroken": 7,
    }


def test_an_unknown_order_is_not_sound(run: Run) -> None:
    nobody = "00000000-0000-4000-8000-00000000dead"
    for command in ("verify", "export"):
        told = run("audit", command, "--order", nobody)
        assert isinstance(told.exception, OrderNotFound)


def test_an_export_is_verified_without_a_database(
    run: Run, store: Store, order_id: OrderId, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = run("audit", "export", "--order", str(order_id))
    file = tmp_path / "history.jsonl"
    file.write_text(exported.stdout, encoding="utf-8")
    monkeypatch.delenv("RECOURSE_AUDITOR_DATABASE_URL")
    told = run("audit", "verify", "--file", str(file), "--json")
    entries = store.as_owner("select count(*) from audit_entry")[0][0]
    assert (told.exit_code, json.loads(told.stdout)) == (0, {"valid": True, "orders": 1, "entries": entries})
    file.write_text(exported.stdout.replace('"actor":"alice"', '"actor":"mallory"', 1), encoding="utf-8")
    told = run("audit", "verify", "--file", str(file), "--json")
    assert (told.exit_code, json.loads(told.stdout)["firstBroken"]) == (1, 1)
    file.write_text("no export\n", encoding="utf-8")
    told = run("audit", "verify", "--file", str(file))
    assert told.exit_code == 1
    assert "line 1" in told.stderr


def change(line: str, **members: Any) -> str:
    return json.dumps(json.loads(line) | members)


@pytest.mark.parametrize(
    ("harm", "first_broken"),
    [
        (lambda lines: [*lines[:4], *lines[5:]], 4),
        (lambda lines: lines[:-1], -1),
        (lambda lines: lines[:1], 1),
        (lambda lines: [lines[0], *lines[2:]], 1),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], 3),
        (lambda lines: [*lines, lines[-1]], -1),
        (lambda lines: [*lines[:6], change(lines[6], data={"more": 1}), *lines[7:]], 6),
        (lambda lines: [*lines[:6], change(lines[6], at="2020-01-01T00:00:00Z"), *lines[7:]], 6),
        (lambda lines: [*lines[:6], change(lines[6], to=None), *lines[7:]], 6),
        (lambda lines: [change(lines[0], orderId="00000000-0000-4000-8000-00000000dead"), *lines[1:]], 1),
        (lambda lines: [change(lines[0], hash="00" * 32), *lines[1:]], -1),
    ],
)
def test_whatever_was_done_to_an_export_is_found(
    store: Store, order_id: OrderId, harm: Callable[[list[str]], list[str]], first_broken: int
) -> None:
    lines = export(store, order_id)
    assert verify_export(lines).valid
    verified = verify_export(harm(lines))
    assert not verified.valid
    last = json.loads(lines[-1])["sequence"]
    assert verified.first_broken in ({last, last + 1} if first_broken == -1 else {first_broken})


def test_exports_may_stand_one_after_the_other(store: Store, order_id: OrderId) -> None:
    world = store.world()
    held_and_released(world)
    first, second = export(store, order_id), export(store, world.order_id)
    assert verify_export([*first, *second]).orders == 2
    broken = verify_export([*first[:-1], *second])
    assert (broken.valid, broken.order_id) == (False, order_id)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["[]"],
        ['{"sequence": 1}'],
        ['{"format": "recourse.audit.v1"}'],
        ['{"format": "recourse.audit.v2", "orderId": "00000000-0000-4000-8000-00000000dead"}'],
    ],
)
def test_what_is_no_export_is_called_unreadable(lines: list[str]) -> None:
    with pytest.raises(ExportUnreadableError):
        verify_export(lines)


def test_the_command_says_in_a_line_that_no_database_answers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOURSE_AUDITOR_DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/none")
    told = run("verify")
    assert told.exit_code == 1
    assert isinstance(told.exception, OSError)
