"""What people do about cases at the command line: list, show, repair, decide. It must never reach past the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from workers.desk import AsJson, Subject, TenantId, connect

case = typer.Typer(help="Failures that need a person.", no_args_is_help=True)

CaseId = Annotated[UUID, typer.Argument(help="The case.")]

_OPERATING: Final = ("operator",)
_USAGE: Final = 2


def _show(value: Any, as_json: bool, text: str) -> None:
    typer.echo(json.dumps(value, indent=2) if as_json else text)


def _fail(message: str) -> typer.Exit:
    typer.secho(message, fg="red", err=True)
    return typer.Exit(_USAGE)


@case.command("list")
def list_cases(
    status: Annotated[str | None, typer.Option(help="OPEN, ASSIGNED, REPAIR_SUBMITTED, RESOLVED or CANCELLED.")] = None,
    category: Annotated[str | None, typer.Option(help="For example UNKNOWN_OUTCOME.")] = None,
    context: Annotated[str | None, typer.Option(help="For example COMPENSATION.")] = None,
    order: Annotated[UUID | None, typer.Option(help="Of this order only.")] = None,
    subject: Subject = None,
    tenant: TenantId = None,
    as_json: AsJson = False,
) -> None:
    """Every case that fits, newest first.

    `recourse case list --status OPEN`
    """
    given = {"status": status, "category": category, "context": context, "orderId": str(order) if order else None}
    with connect(subject, _OPERATING, tenant) as api:
        found = list(api.get_all("/fallout-cases", **{name: value for name, value in given.items() if value}))
    _show(found, as_json, "\n".join(map(describe_case, found)) or "no case")


@case.command("show")
def show_case(case_id: CaseId, subject: Subject = None, tenant: TenantId = None, as_json: AsJson = False) -> None:
    """One case, and every repair that fits it with what it will do."""
    with connect(subject, _OPERATING, tenant) as api:
        found = api.get(f"/fallout-cases/{case_id}")
    _show(found, as_json, describe_case(found))


@case.command("repair")
def repair_case(
    case_id: CaseId,
    action: Annotated[str, typer.Argument(help="For example RETRY; `case show` says which fit.")],
    reason: Annotated[str, typer.Option(help="A repair reason of the policy.")],
    text: Annotated[str, typer.Option(help="Why, in words.")],
    evidence: Annotated[str | None, typer.Option(help="`KIND:REFERENCE`, for example `TICKET:INC-7`.")] = None,
    note: Annotated[str | None, typer.Option(help="A word on the evidence.")] = None,
    given: Annotated[str | None, typer.Option("--input", help="JSON object.")] = None,
    amount: Annotated[str | None, typer.Option(help="Minor units and currency, for example `1250EUR`.")] = None,
    subject: Subject = None,
    tenant: TenantId = None,
    as_json: AsJson = False,
) -> None:
    """Repair a case, or ask for what needs a second person.

    `recourse case repair 6f1c… RETRY --reason SYSTEM_RECOVERED --text "it is up again"`
    """
    body: dict[str, Any] = {"action": action.upper(), "reasonCode": reason, "reasonText": text}
    if evidence is not None:
        kind, separator, reference = evidence.partition(":")
        if not separator:
            raise _fail("--evidence is KIND:REFERENCE")
        body["evidence"] = {"kind": kind, "reference": reference} | ({"note": note} if note else {})
    if given is not None:
        try:
            body["input"] = json.loads(given)
        except ValueError:
            raise _fail("--input is a JSON object") from None
    if amount is not None:
        if not amount[:-3].isdecimal():
            raise _fail("--amount is minor units and currency: 1250EUR")
        body["amount"] = {"amountMinor": int(amount[:-3]), "currency": amount[-3:].upper()}
    path = f"/fallout-cases/{case_id}"
    with connect(subject, _OPERATING, tenant) as api:
        told = api.change(f"{path}/repairs", body, seen=path)
    _show(told, as_json, f"repair {told['n']}: the case is {told['status']}, the order {told['currentOrderState']}")


@case.command("decide")
def decide_repair(
    case_id: CaseId,
    number: Annotated[int, typer.Argument(min=1, help="Which repair of the case.")],
    word: Annotated[str, typer.Argument(help="approve or reject.")],
    comment: Annotated[str | None, typer.Option(help="Why.")] = None,
    subject: Subject = None,
    tenant: TenantId = None,
    as_json: AsJson = False,
) -> None:
    """Agree to a repair as its second person, or refuse it."""
    if word not in {"approve", "reject"}:
        raise _fail("say approve or reject")
    path = f"/fallout-cases/{case_id}"
    with connect(subject, ("approver",), tenant) as api:
        told = api.change(f"{path}/repairs/{number}/{word}", {"comment": comment} if comment else {}, seen=path)
    _show(told, as_json, f"repair {number}: the case is {told['status']}, the order {told['currentOrderState']}")


def describe_case(found: Mapping[str, Any]) -> str:
    """One case in a line, and below it what may be done about it and what has been."""
    lines = [
        f"{found['caseId']}  {found['status']:<16} {found['category']:<15} {found['context']:<14} {found['title']}"
    ]
    lines += [f"    {row['action']:<16} {row['sentence']}" for row in found.get("possibleRepairs", ())]
    lines += [
        f"    {repair['n']}. {repair['action']} by {repair['by']}: {repair['status']}" for repair in found["repairs"]
    ]
    return "\n".join(lines)
