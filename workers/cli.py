"""The command line: ends with 0 only when what was asked is true, says in a line what is wrong; no logic here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cases import case
from workers.desk import order
from workers.local.environment import local_settings

if TYPE_CHECKING:
    from domain.policy import Policy
    from workers.local.home import Home
    from workers.runtime import Main
    from workers.settings import Settings

# Modules of ours are imported inside the commands: `recourse --help` and `status` answer at once.

app = typer.Typer(
    name="recourse",
    help="Cancel, amend and compensate orders that are already on their way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
models = typer.Typer(help="The BPMN models.", no_args_is_help=True)
policy = typer.Typer(help="The business rules.", no_args_is_help=True)
audit = typer.Typer(help="The history of orders, as chains of hashes.", no_args_is_help=True)
outbox = typer.Typer(help="What Kafka or the engine would not take.", no_args_is_help=True)
staff = typer.Typer(help="Who may decide what in Tasklist.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(policy, name="policy")
app.add_typer(audit, name="audit")
app.add_typer(order, name="order")
app.add_typer(case, name="case")
app.add_typer(outbox, name="outbox")
app.add_typer(staff, name="staff")

PolicyFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML or JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]

_FAILED, _USAGE = 1, 2

# Libraries whose exceptions mean that something else is down or refuses us: told in a line.
_OUTAGES = frozenset({"asyncpg", "grpc", "httpx", "aiokafka"})


def fail(message: str, code: int = _FAILED) -> typer.Exit:
    """Say on standard error why the command ends; raise what this returns."""
    typer.secho(message, fg="red", err=True)
    return typer.Exit(code)


def show(value: Any, as_json: bool, text: str) -> None:
    """Print the answer, for a program or for a person."""
    typer.echo(json.dumps(value, indent=2, default=str) if as_json else text)


# -- the embedded stack ---------------------------------------------------------------------------


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready.")] = False,
    light: Annotated[bool, typer.Option("--light", help="Without Operate and Tasklist.")] = False,
    systems: Annotated[
        str | None, typer.Option(help='Your outside systems: `{"inventory": {"url": "http://…", "secret": "…"}}`.')
    ] = None,
    policy_file: Annotated[
        Path | None, typer.Option("--policy", exists=True, dir_okay=False, help="Your policy instead of telecom.")
    ] = None,
) -> None:
    """Start PostgreSQL, Kafka, Camunda and our processes here, and keep them running until Ctrl-C.

    Operate and Tasklist come up beside the rest and nothing waits for them: `status` says when they are ready, and with
    which passwords people log in.

    Harmless on a running stack. An existing PostgreSQL, Kafka or Camunda is used instead of an embedded one
    when RECOURSE_OWNER_DATABASE_URL, RECOURSE_KAFKA_BOOTSTRAP or RECOURSE_ENGINE_GRPC and _ENGINE_REST are set.

    `recourse up --detach --light && recourse status`
    """
    from workers.local.home import Home
    from workers.settings import load_settings

    settings = load_settings()
    home = Home(settings.state_dir)
    home.prepare()
    if policy_file is not None:
        _read_policy(policy_file)
    if _is_ready(home):
        _print_addresses(home)
    elif detach:
        _up_detached(home)
    else:
        _up_in_foreground(settings, home, systems, policy_file, light=light)


def _up_in_foreground(
    settings: Settings, home: Home, systems: str | None, policy_file: Path | None, *, light: bool
) -> None:
    from workers.local.stack import build_stack
    from workers.local.supervisor import Supervisor, find_children, only_supervisor, stop_children

    started = time.monotonic()

    def say(subject: str, message: str) -> None:
        elapsed = time.monotonic() - started
        colour = "red" if message.startswith("!!") else "green" if message.startswith("ready") else None
        typer.secho(f"{elapsed:6.1f} s  {subject:<11} {message}", fg=colour)
        if not subject:
            _print_addresses(home)

    async def run() -> None:
        if left := find_children(home):
            say("supervisor", f"!! {', '.join(left)} of a run that was killed are stopped first")
            await stop_children(left, say)
        stack = build_stack(settings, systems=systems, policy=policy_file, light=light, say=say)
        await Supervisor(stack, say).run()

    while True:
        with only_supervisor(home) as alone:
            if alone:
                asyncio.run(run())
                return
        if _is_ready(home):
            _print_addresses(home)
            return
        time.sleep(0.3)


def _up_detached(home: Home) -> None:
    """Start `up` again in a session of its own and show what it says until it is ready or gone."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    log = home.log_file("supervisor")
    with log.open("ab") as output:
        shown = output.tell()
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    with log.open("rb") as said:
        said.seek(shown)
        while True:
            code = supervisor.poll()
            ready = code is None and _is_ready(home)
            for line in said:
                typer.echo(line.decode(errors="replace").rstrip())
            if ready:
                return
            if code is not None:
                raise typer.Exit(code)
            time.sleep(0.2)


def _is_ready(home: Home) -> bool:
    from workers.local.status import read_status

    return asyncio.run(read_status(home)).ready


def _print_addresses(home: Home) -> None:
    from workers.local.home import read_json

    status = read_json(home.status_file)
    for name in ("api", "engineGrpc", "engineRest", "kafka", "operate", "tasklist"):
        if status.get(name):
            typer.echo(f"            {name:<11} {status[name]}")
    typer.echo(f"            {'logs':<11} {home.log_file('any').parent}")
    typer.echo("            a token:    recourse token --subject alice --role agent")


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop the embedded stack of this state folder, also one whose `up` was killed. Data are kept."""
    from workers.local.home import Home
    from workers.local.supervisor import stop_stack
    from workers.settings import load_settings

    stopped: list[str] = []

    def say(subject: str, message: str) -> None:
        stopped.append(subject)
        if not as_json:
            typer.echo(f"{subject:<11} {message}")

    ran = asyncio.run(stop_stack(Home(load_settings().state_dir), say))
    show({"stopped": ran}, as_json, "stopped" if ran else "nothing was running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Addresses, processes and whether all of it is ready (then the exit code is 0)."""
    from workers.local.home import Home
    from workers.local.status import read_status
    from workers.settings import load_settings

    home = Home(load_settings().state_dir)
    found = asyncio.run(read_status(home))
    lines = [
        f"{name:<14} {value}" for name, value in found.as_json().items() if name != "processes" and value is not None
    ]
    lines += [f"  {name:<12} pid {pid}" for name, pid in found.processes.items()]
    if found.operate:
        lines += ["people of Operate and Tasklist:", *(f"  {line}" for line in _list_people(home))]
    show(found.as_json(), as_json, "\n".join(lines))
    if not found.ready:
        raise typer.Exit(_FAILED)


def _list_people(home: Home) -> list[str]:
    from workers.local.consoles import DEMO, PEOPLE

    passwords = home.passwords()
    people = [(person, passwords.get(person, "?"), ", ".join(sorted(roles))) for person, roles in PEOPLE.items()]
    return [f"{name:<8} {password:<14} {what}" for name, password, what in [*people, (DEMO, DEMO, "looks around")]]


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Examine ports, disk, memory, downloads, parts and settings; exit code 1 if anything is red."""
    from dataclasses import asdict

    from workers.local.doctor import examine

    findings = examine()
    show([asdict(finding) for finding in findings], as_json, "\n".join(str(finding) for finding in findings))
    if not all(finding.healthy for finding in findings):
        raise typer.Exit(_FAILED)


@app.command()
def download() -> None:
    """Fetch the Java parts into the cache ahead of time (about 413 MB, once)."""
    from workers.local.artifacts import fetch_artifacts, missing_artifacts, read_lock
    from workers.settings import load_settings

    cache = load_settings().cache
    missing = missing_artifacts(read_lock(), cache)
    typer.echo(f"{len(missing)} files, {sum(a.size for a in missing) / 1e6:.0f} MB, into {cache}")
    shown = -1

    def report(done: int, total: int) -> None:
        nonlocal shown
        tenth = 10 * done // total
        if tenth > shown:
            shown = tenth
            typer.echo(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")
            sys.stdout.flush()

    fetch_artifacts(missing, cache, report)


@app.command()
def token(
    subject: Annotated[str, typer.Option(help="The person.")],
    role: Annotated[list[str], typer.Option(help="agent, approver, operator, auditor or admin; again for more.")],
    tenant: Annotated[UUID | None, typer.Option(help="Default: the tenant of everyone who names none.")] = None,
    ttl: Annotated[int, typer.Option(help="Seconds it is valid; negative: expired since.")] = 3600,
    audience: Annotated[str | None, typer.Option(help="Default: the API's own.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Default: the local issuer.")] = None,
    name: Annotated[str | None, typer.Option(help="The person's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a token of the local issuer.

    `curl -H "Authorization: Bearer $(recourse token --subject alice --role agent)" …/api/v1/orders`
    """
    from workers.local.issuer import DEFAULT_TENANT, mint_token

    settings = local_settings("issuer", "issuer_key_file")
    assert settings.issuer_key_file is not None
    if not settings.issuer_key_file.exists():
        raise fail(f"{settings.issuer_key_file} is missing: the local issuer is made by `recourse up`")
    minted = mint_token(
        settings.issuer_key_file,
        subject=subject,
        roles=role,
        tenant=tenant or DEFAULT_TENANT,
        issuer=issuer or settings.issuer,
        audience=audience or settings.audience,
        ttl=ttl,
        name=name,
    )
    show({"token": minted}, as_json, minted)


@app.command()
def demo(
    picture: Annotated[Path, typer.Option(help="Where the picture of the compensation graph goes.")] = Path(
        "var/demo/compensation.svg"
    ),
    as_json: AsJson = False,
) -> None:
    """Play the golden scenario on the running stack: an order is cancelled on its way, everything is undone once.

    Ends with 0 only if the order, its ledger, its audit, the outside world's own book and Kafka all agree.

    `recourse up --detach --light && recourse demo`
    """
    from workers.demo import Demo, NotAsPromisedError

    settings = local_settings("issuer", "issuer_key_file", "systems", "kafka_bootstrap")
    say = (lambda _line: None) if as_json else typer.echo
    try:
        told = asyncio.run(Demo(settings, say, picture).play())
    except NotAsPromisedError as error:
        raise fail(str(error)) from error
    show(told, as_json, f"{len(told['checks'])} checks hold; the picture is {told['picture']}")


# -- schema, models, policy -----------------------------------------------------------------------


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the database to this release's schema; safe to repeat, and from several places at once."""
    from workers.migrate import run_migrations

    outcome = asyncio.run(run_migrations(local_settings("owner_database_url")))
    told = {"applied": outcome.applied, "version": outcome.version, "ahead": outcome.ahead}
    applied = ", ".join(outcome.applied) or "nothing to apply"
    show(told, as_json, f"schema version {outcome.version}: {applied}")


@models.command("lint")
def models_lint(as_json: AsJson = False) -> None:
    """Check every model against the rules for Camunda 8 (needs the development packages)."""
    from dataclasses import asdict

    from workers.models import lint_models

    problems = lint_models()
    text = "\n".join(str(problem) for problem in problems) or "clean"
    show([asdict(problem) for problem in problems], as_json, text)
    if problems:
        raise typer.Exit(_FAILED)


@models.command("deploy")
def models_deploy(as_json: AsJson = False) -> None:
    """Deploy all models and forms together; what the engine already has keeps its version."""
    from workers.models import deploy_models

    deployed = asyncio.run(deploy_models(local_settings("engine_grpc")))
    show(deployed, as_json, ", ".join(f"{row['id']} v{row['version']}" for row in deployed))


@policy.command("check")
def policy_check(file: PolicyFile, as_json: AsJson = False) -> None:
    """Say everything that is wrong with a policy; nothing is stored.

    `recourse policy check my.policy.yaml`
    """
    from domain.policy import PolicyInvalid

    try:
        found = _read_policy(file)
    except PolicyInvalid as error:
        problems = [{"path": problem.path, "message": problem.message} for problem in error.problems]
        show({"valid": False, "problems": problems}, as_json, str(error))
        raise typer.Exit(_FAILED) from error
    show({"valid": True, "policy": found.name, "problems": []}, as_json, f"{found.name}: good")


def _read_policy(file: Path) -> Policy:
    from domain.policy import parse_policy, read_policy_text

    return parse_policy(read_policy_text(file.read_bytes()))


@policy.command("load")
def policy_load(
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="Default: the telecom policy of the product.")
    ] = None,
    tenant: Annotated[UUID | None, typer.Option(help="Default: all tenants without a policy of their own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a policy in force as a new version; the same document again keeps its version.

    `recourse policy load my.policy.yaml --tenant 6f1c…`
    """
    from workers.policies import load_policy
    from workers.runtime import project_file

    text = (file or project_file("domain/telecom.policy.yaml")).read_bytes()
    loaded = asyncio.run(load_policy(local_settings("database_url"), text, tenant))
    show(loaded, as_json, f"{loaded['policy']} is version {loaded['version']}")


# -- looking after it -----------------------------------------------------------------------------


@app.command()
def verify(
    tenant: Annotated[UUID | None, typer.Option(help="Default: all tenants.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Offenders told per check.")] = 20,
    at_rest: Annotated[
        bool, typer.Option("--at-rest", help="Also that nothing is stuck: true once load and faults have stopped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every invariant over the live data; exit code 1 with the offenders if any is broken."""
    from domain.store.verify import NotAnAuditorError
    from workers.verification import show_progress, verify

    url = local_settings("auditor_database_url").auditor_database_url
    try:
        with show_progress(visible=not as_json) as progress:
            report = asyncio.run(verify(url, tenant_id=tenant, limit=limit, at_rest=at_rest, progress=progress))
    except NotAnAuditorError as error:
        raise fail(str(error)) from error
    show(report.to_json(), as_json, report.to_text())
    if not report.valid:
        raise typer.Exit(_FAILED)


@audit.command("verify")
def audit_verify(
    order: Annotated[UUID | None, typer.Option(help="Default: all orders.")] = None,
    tenant: Annotated[UUID | None, typer.Option(help="Default: all tenants.")] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="An export; no database is needed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute chains of hashes, live or from an export; exit code 1 with the first broken link.

    `recourse audit export --order 6f1c… > history.jsonl && recourse audit verify --file history.jsonl`
    """
    from domain.store.verify import NotAnAuditorError
    from workers.audit import ExportUnreadableError, verify_export, verify_live

    try:
        if file is not None:
            with file.open(encoding="utf-8") as lines:
                verified = verify_export(lines)
        else:
            url = local_settings("auditor_database_url").auditor_database_url
            verified = asyncio.run(verify_live(url, order_id=order, tenant_id=tenant))
    except (ExportUnreadableError, NotAnAuditorError) as error:
        raise fail(str(error)) from error
    show(verified.to_json(), as_json, verified.to_text())
    if not verified.valid:
        raise typer.Exit(_FAILED)


@audit.command("export")
def audit_export(
    order: Annotated[UUID, typer.Option(help="Whose history.")],
    tenant: Annotated[UUID | None, typer.Option(help="Default: whoever has it.")] = None,
) -> None:
    """Print an order's whole history as JSON lines, as `audit verify --file` takes it."""
    from domain.store.verify import NotAnAuditorError
    from workers.audit import export_order

    url = local_settings("auditor_database_url").auditor_database_url

    async def run() -> None:
        async for line in export_order(url, order_id=order, tenant_id=tenant):
            typer.echo(line)

    try:
        asyncio.run(run())
    except NotAnAuditorError as error:
        raise fail(str(error)) from error


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="`all`, `soak`, or one of those in docs/performance.md.")],
    file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Where the record goes.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A second of each, to see that it works; proves nothing.")
    ] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write docs/performance.md of this checkout anew.")
    ] = False,
    size: Annotated[
        int | None, typer.Option(min=2_000, help="Orders that `growth` and `reconcile` fill a database with.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=30, help="How long `soak` puts load on the running stack.")] = 3600,
    rate: Annotated[float, typer.Option(min=0.01, help="Orders per second of `soak`.")] = 1.0,
) -> None:
    """Measure how good it is, as a ratio to the same work done with less; exit code 1 where a *must* is missed.

    On parts of its own in a throwaway folder; `all` takes a quarter of an hour, and the machine should have nothing
    else to do. A million orders (`--size 1000000`) take tens of gigabytes and as many minutes more.

    `soak` works on the stack that is up: small load, faults outside, parts killed in its first half; then it waits
    until everything has ended, and judges. Exit code 1 where anything is lost, twice, left lying or growing.

    `recourse bench store --json store.json`, `recourse up --detach --light && recourse bench soak --seconds 60`
    """
    from workers.bench.bed import UnfitError
    from workers.bench.harness import write_record
    from workers.bench.report import publish as write_pages
    from workers.bench.run import BENCHES, run_benches
    from workers.logs import configure_logs
    from workers.runtime import project_file, run_fast
    from workers.settings import load_settings

    if name == "soak":
        if quick or publish:
            raise fail("a soak is neither quick nor published: say --seconds", _USAGE)
        _soak(seconds, rate, file)
        return
    if name != "all" and name not in BENCHES:
        raise fail(f"there is no bench {name}: say `all` or one of {', '.join(BENCHES)}", _USAGE)
    if quick and publish:
        raise fail("what a quick run measures is not published", _USAGE)
    names = list(BENCHES) if name == "all" else [name]
    settings = load_settings()
    # The side that does nothing works in this process; that a busy engine turns its polls away is no news here.
    configure_logs(settings.model_copy(update={"log_level": "error"}), "bench")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to end, it stops the servers that it started
    try:
        outcomes = run_fast(run_benches(settings, names, quick=quick, say=typer.echo, size=size or 0))
    except UnfitError as error:
        raise fail(str(error)) from error
    if file is not None:
        write_record(file, outcomes)
    if publish:
        write_pages(project_file("docs").parent, [outcome.to_json() for outcome in outcomes])
    bad = {"broken"} if quick else {"broken", "missed"}
    if any(outcome.verdict in bad for outcome in outcomes):
        raise typer.Exit(_FAILED)


def _soak(seconds: float, rate: float, file: Path | None) -> None:
    from workers.bench.soak import Soak, SoakError

    settings = local_settings("issuer", "issuer_key_file", "systems", "auditor_database_url")
    try:
        verdict = asyncio.run(Soak(settings, seconds, rate, say=typer.echo).run())
    except SoakError as error:
        raise fail(str(error)) from error
    if file is not None:
        file.write_text(json.dumps(verdict.to_json(), indent=2) + "\n", encoding="utf-8")
    typer.echo(verdict.to_text())
    if not verdict.good:
        raise typer.Exit(_FAILED)


@staff.command("set")
def staff_set(
    subject: Annotated[str, typer.Argument(help="The person, by the name with which they log in to Tasklist.")],
    role: Annotated[
        list[str] | None, typer.Option(help="agent, approver, operator, auditor or admin; again for more; none: none.")
    ] = None,
    tenant: Annotated[UUID | None, typer.Option(help="Default: the tenant of everyone who names none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a person may decide in Tasklist; it replaces what was said before.

    `recourse staff set bob --role approver`
    """
    from domain.values import ROLES, TenantId
    from workers.local.issuer import DEFAULT_TENANT
    from workers.staff import set_roles

    roles = role or []
    if unknown := set(roles) - set(ROLES):
        raise fail(f"there is no role {', '.join(sorted(unknown))}: say {', '.join(ROLES)}", _USAGE)
    if not subject.isprintable() or not subject.strip() or len(subject) > 255 or subject.startswith("system:"):
        raise fail("a subject is a name of at most 255 printable characters, not one of the system's own", _USAGE)
    settings = local_settings("database_url")
    told = asyncio.run(set_roles(settings, TenantId(tenant or DEFAULT_TENANT), subject, roles))
    show(told, as_json, _describe_staff(told))


@staff.command("list")
def staff_list(
    tenant: Annotated[UUID | None, typer.Option(help="Default: the tenant of everyone who names none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Everybody of whom something was said.

    `recourse staff list`
    """
    from domain.values import TenantId
    from workers.local.issuer import DEFAULT_TENANT
    from workers.staff import list_roles

    settings = local_settings("database_url")
    people = asyncio.run(list_roles(settings, TenantId(tenant or DEFAULT_TENANT)))
    show(people, as_json, "\n".join(_describe_staff(person) for person in people))


def _describe_staff(person: dict[str, Any]) -> str:
    return f"{person['subject']:<16} {', '.join(person['roles']) or 'no role'} (by {person['changedBy']})"


@outbox.command("parked")
def outbox_parked(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, longest held first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The rows that are held back, each with the reason; a parked event holds all that its order says after it.

    `recourse outbox parked`
    """
    from domain.store.outbox import Parked, list_parked, open_session

    url = local_settings("relay_database_url").relay_database_url

    async def read() -> list[Parked]:
        async with open_session(url, "outbox") as connection:
            return await list_parked(connection, limit)

    rows = asyncio.run(read())
    lines = [f"{row.sink:<7}{row.id:<9} order {row.order_id}  {row.name}: {row.parked_reason}" for row in rows]
    told = [
        {
            "sink": row.sink,
            "id": row.id,
            "tenantId": row.tenant_id,
            "orderId": row.order_id,
            "name": row.name,
            "parkedAt": row.parked_at,
            "reason": row.parked_reason,
        }
        for row in rows
    ]
    show(told, as_json, "\n".join(lines) or "nothing is held back")


@outbox.command("release")
def outbox_release(
    sink: Annotated[str, typer.Argument(help="kafka or engine.")],
    number: Annotated[int, typer.Argument(help="The row's number, as `parked` lists it.")],
) -> None:
    """Offer a row again, once its reason is gone.

    `recourse outbox release kafka 4711`
    """
    from domain.store.outbox import open_session, release_parked

    if sink not in {"kafka", "engine"}:
        raise fail(f"there is no outbox for {sink}: say kafka or engine", _USAGE)
    url = local_settings("relay_database_url").relay_database_url

    async def release() -> bool:
        async with open_session(url, "outbox") as connection:
            return await release_parked(connection, "kafka" if sink == "kafka" else "engine", number)

    if not asyncio.run(release()):
        raise fail(f"nothing is held back under {sink} {number}")
    typer.echo("it is offered again")


# -- our processes --------------------------------------------------------------------------------


@app.command()
def api() -> None:
    """Serve the HTTP API."""
    from workers.api.app import run

    _serve("api", run, "database_url", "issuer")


@app.command()
def worker(
    name: Annotated[str, typer.Argument(help="`all`, or one family of jobs: orders, changes, people, effects.")],
) -> None:
    """Work on the engine's jobs: one family, so that it can be scaled and fall ill alone, or all.

    `recourse worker effects`
    """
    from functools import partial

    from workers.jobs.fleet import needed_by, run
    from workers.jobs.registry import ALL

    if name not in {"all", *ALL}:
        raise fail(f"there is no family {name}: say `all`, {', '.join(sorted(ALL))}", _USAGE)
    families = ALL if name == "all" else frozenset({name})
    _serve("workers" if name == "all" else f"worker-{name}", partial(run, families=families), *needed_by(families))


@app.command()
def relay() -> None:
    """Carry what was decided to Kafka and to the engine."""
    from workers.relay.run import run

    _serve("relay", run, "relay_database_url", "kafka_bootstrap", "engine_grpc")


@app.command()
def reconcile(
    report_only: Annotated[bool, typer.Option("--report-only", help="Change nothing.")] = False,
    once: Annotated[bool, typer.Option("--once", help="One sweep, its findings in the log.")] = False,
) -> None:
    """Find what has fallen silent, and start it anew where that is safe.

    Of several, one watches and the others stand by. `--once` looks beside whoever watches: what both find is mended
    once.

    `recourse reconcile --once --report-only`
    """
    from functools import partial

    from workers.reconciler import run

    main = partial(run, report_only=report_only, once=once)
    _serve("reconciler", main, "database_url", "auditor_database_url", "engine_grpc")


@app.command()
def simulate() -> None:
    """Play all outside systems, with faults on demand."""
    from workers.simulator.app import run

    _serve("simulator", run, "systems")


def _serve(name: str, main: Main, *needed: str) -> None:
    from workers.runtime import run_process

    run_process(name, main, local_settings(*needed))


# -- the edge -------------------------------------------------------------------------------------


def main() -> None:
    """Run a command; what may be expected to go wrong is told in a line, not in a traceback."""
    try:
        app()
    except Exception as error:
        told = _explain(error)
        if told is None:
            raise
        message, code = told
        typer.secho(message, fg="red", err=True)
        raise SystemExit(code) from error


def _explain(error: Exception) -> tuple[str, int] | None:
    """What to say and the exit code; None for what nobody expected."""
    from domain.errors import Breach
    from workers.client import NoTokenError, RefusedError
    from workers.local.artifacts import ArtifactError
    from workers.local.home import HomeError
    from workers.local.parts import PartError
    from workers.local.processes import CommandError
    from workers.local.supervisor import StartError
    from workers.migrate import MigrationError
    from workers.models import ModelsRefusedError, ToolsMissingError
    from workers.settings import SettingsError

    match error:
        case SettingsError():
            hint = "\n(`recourse up` sets what an embedded stack needs)" if "is not set" in str(error) else ""
            return f"{error}{hint}", _USAGE
        case StartError():
            return "\n".join(failure.text for failure in error.failures), _FAILED
        case Breach():
            return f"{error.code}: {error}", _FAILED
        case ArtifactError() | CommandError() | HomeError() | MigrationError() | PartError():
            return str(error), _FAILED
        case ModelsRefusedError() | NoTokenError() | RefusedError() | ToolsMissingError():
            return str(error), _FAILED
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else f"no connection: {error}", _FAILED
    if type(error).__module__.partition(".")[0] in _OUTAGES:
        return f"{type(error).__name__}: {error}", _FAILED
    return None


if __name__ == "__main__":
    main()
