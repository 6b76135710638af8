"""What people ask of orders at the command line: show, timeline, progress. It must never reach past the API."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

if TYPE_CHECKING:
    from workers.client import Client

order = typer.Typer(help="One order, as the API tells it.", no_args_is_help=True)

OrderId = Annotated[UUID, typer.Argument(help="The order.")]
Subject = Annotated[str | None, typer.Option("--as", help="Who asks, where a local issuer signs. Default: you.")]
TenantId = Annotated[UUID | None, typer.Option("--tenant", help="Where a local issuer signs. Default: its own.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]

READING: Final = ("auditor",)


def connect(subject: str | None, roles: Sequence[str], tenant: UUID | None) -> Client:
    """The API of the settings or of the local stack, as one person."""
    from workers.client import Client
    from workers.local.environment import local_settings

    return Client(local_settings(), subject=subject or getpass.getuser(), roles=roles, tenant=tenant)


@order.command("show")
def show_order(order_id: OrderId, subject: Subject = None, tenant: TenantId = None, as_json: AsJson = False) -> None:
    """How an order stands: state, items, tasks, the change under way and what to tell the customer.

    `recourse order show 6f1c2b1e-…`
    """
    base = f"/orders/{order_id}"
    with connect(subject, READING, tenant) as api:
        found = api.get(base)
        progress = api.get(f"{base}/progress")
        tasks = list(api.get_all(f"{base}/plan"))
    if as_json:
        typer.echo(json.dumps({"order": found, "progress": progress, "tasks": tasks}, indent=2))
        return
    resume = f", resumes {found['resumeState']}" if found.get("resumeState") else ""
    typer.echo(f"order     {found['orderId']}  {found['orderType']}  version {found['version']}")
    typer.echo(f"state     {found['state']}{resume}")
    if progress.get("sentence"):
        typer.echo(f"say       {progress['sentence']}")
    for item in found["items"]:
        quantity = f"{item['quantity']} of {item.get('orderedQuantity', item['quantity'])}"
        typer.echo(f"item      {item['itemId']:<4} {item['action']:<10} {item['productOfferingId']:<16} "
                   f"{item['state']:<24} {quantity}")  # fmt: skip
    for task in tasks:
        held = f"  held by {', '.join(task['heldBy'])}" if task.get("held") else ""
        typer.echo(f"task      v{task['planVersion']} {task['step']:<10} {task['type']:<20} {task['state']}{held}")


@order.command("timeline")
def show_timeline(order_id: OrderId, subject: Subject = None, tenant: TenantId = None, as_json: AsJson = False) -> None:
    """Everything that happened to an order, oldest first: who, what, from where to where.

    `recourse order timeline 6f1c2b1e-… | less`
    """
    with connect(subject, READING, tenant) as api:
        entries = list(api.get_all(f"/orders/{order_id}/timeline"))
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        typer.echo(_tell(entry))


@order.command("graph")
def draw_graph(
    order_id: OrderId,
    svg: Annotated[bool, typer.Option("--svg", help="A picture instead of lines, on standard output.")] = False,
    subject: Subject = None,
    tenant: TenantId = None,
    as_json: AsJson = False,
) -> None:
    """The orders that an order is related to, however far: each with its state, and what it is to older ones.

    `recourse order graph 6f1c2b1e-… --svg > orders.svg`
    """
    path = f"/orders/{order_id}/related-orders"
    with connect(subject, READING, tenant) as api:
        if svg:
            typer.echo(api.get_picture(path))
            return
        graph = api.get(path)
    if as_json:
        typer.echo(json.dumps(graph, indent=2))
        return
    for node in graph["nodes"]:
        typer.echo(f"order     {node['orderId']}  {node['orderType']:<18} {node['state']}")
    for edge in graph["edges"]:
        reason = f"  {edge['reasonCode']}" if edge.get("reasonCode") else ""
        typer.echo(f"relation  {edge['source'][:8]} {edge['type']} {edge['target'][:8]}{reason}")


def _tell(entry: Mapping[str, Any]) -> str:
    move = f"{entry.get('from') or '·'} → {entry['to']}" if entry.get("to") else ""
    behalf = f" for {entry['onBehalfOf']}" if entry.get("onBehalfOf") else ""
    line = (
        f"{entry['sequence']:>4}  {entry['at'][:23]:<23}  {entry['actor']}{behalf}  {entry['entity']}  {entry['kind']}"
    )
    return f"{line}  {move}".rstrip()
