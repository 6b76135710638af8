"""Puts the embedded stack together: which parts run here, what each is told, in which order; it starts nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import orjson

from workers.local.artifacts import Artifact, missing_artifacts, read_lock
from workers.local.consoles import DEMO, PEOPLE, Consoles
from workers.local.engine import Engine, EnginePorts
from workers.local.home import Home, free_port, is_port_free, write_json
from workers.local.issuer import ensure_key
from workers.local.kafka import Broker
from workers.local.opensearch import Search
from workers.local.parts import Part, Step, answers_http
from workers.local.postgres import Server
from workers.local.processes import Command, run_command
from workers.settings import Settings, SettingsError, variable_name

_LOCALHOST = "127.0.0.1"

# name → (arguments of our command, what must be there first)
_OURS: Mapping[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "simulator": (("simulate",), frozenset()),
    "api": (("api",), frozenset({"policy"})),
    "workers": (("worker", "all"), frozenset({"policy", "models"})),
    "relay": (("relay",), frozenset({"policy", "kafka", "engine"})),
    "reconciler": (("reconcile",), frozenset({"policy", "engine"})),
}

# Settings that are an existing part's address: given, that part is used and none is started.
_DATABASE, _KAFKA, _ENGINE = "owner_database_url", "kafka_bootstrap", "engine_grpc"

Say = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything a supervisor needs: the pieces, the consoles that come beside them and that nothing waits for, the
    chores for when all is up, and the addresses to show."""

    home: Home
    pieces: tuple[Part | Step, ...]
    consoles: tuple[Part | Step, ...]
    chores: tuple[Step, ...]
    addresses: Mapping[str, str | None]


def build_stack(settings: Settings, *, systems: str | None, policy: Path | None, light: bool, say: Say) -> Stack:
    """Choose ports, make secrets and settle every process's settings; files are written, nothing is started.

    light: without the consoles. An engine of somebody else's brings its own.

    Raises SettingsError for what is given wrongly, HomeError for a folder that cannot be used.
    """
    _check_external(settings)
    home = Home(settings.state_dir)
    home.prepare()
    ports = home.choose_ports(_fixed_ports(settings))
    secrets = home.secrets()
    ensure_key(home.issuer_key_file)

    server = Server(home.data("postgres"), ports["postgres"], secrets["owner_password"], settings.cache)
    broker = Broker(home.data("kafka"), ports["kafka"], ports["kafka-controller"], settings.cache)
    search = Search(home.data("opensearch"), ports["opensearch"], ports["opensearch-transport"], settings.cache)
    with_consoles = not light and not settings.engine_grpc
    engine = Engine(
        home.data("engine"), _engine_ports(ports), settings.cache, search_url=search.url if with_consoles else None
    )
    consoles = Consoles(
        home.data("consoles"), ports["consoles"], ports["consoles-management"], settings.cache,
        engine.grpc_address, engine.rest_url, search.url,
    )  # fmt: skip
    told = _environment(settings, home, ports, secrets, server, broker, engine, systems)
    if with_consoles:
        told |= {
            variable_name("operate_url"): settings.operate_url or consoles.operate_url,
            variable_name("operate_login"): settings.operate_login or f"{DEMO}:{DEMO}",
            variable_name("tasklist_url"): settings.tasklist_url or consoles.tasklist_url,
        }
    environment = {**os.environ, **told}
    write_json(home.environment_file, told)

    embedded: list[Part | Step] = []
    chores: list[Step] = []
    wanted: list[Artifact] = []  # what the parts that run here are made of
    if not settings.owner_database_url:
        embedded += [server.part(), Step("database", frozenset({"postgres"}), server.create_database)]
    if not settings.kafka_bootstrap:
        embedded.append(broker.part())
        wanted += read_lock("kafka")
    if not settings.engine_grpc:
        embedded.append(engine.part())
        wanted += read_lock("engine")
        if not engine.startup_cache.exists():
            chores.append(_rehearsal(home, settings.cache))
    beside: list[Part | Step] = []
    if with_consoles:
        passwords = home.passwords(PEOPLE)
        database_url = told[variable_name("database_url")]
        beside += [
            search.part(),
            consoles.part(),
            Step("people", frozenset({"consoles", "policy"}), lambda: consoles.seat(passwords, database_url)),
        ]
        wanted += read_lock("search")
    if missing_artifacts(wanted, settings.cache):
        embedded.append(_download(environment, say))

    load = ("policy", "load", *([str(policy)] if policy else []))
    steps = [
        _command_step("migrate", ("migrate",), {"database"}, environment),
        _command_step("policy", load, {"migrate"}, environment),
        _command_step("models", ("models", "deploy"), {"engine"}, environment),
    ]
    hosts = {"api": reachable_host(settings.api_host), "simulator": reachable_host(settings.simulator_host)}
    ours = [_our_part(name, hosts.get(name, _LOCALHOST), ports[name], environment) for name in _OURS]
    pieces = (*embedded, *steps, *ours)
    here = {piece.name for piece in (*pieces, *beside)}
    return Stack(
        home, _among(here, pieces), _among(here, beside), tuple(chores), _addresses(told, with_consoles=with_consoles)
    )


def _check_external(settings: Settings) -> None:
    for given, needed in (("database_url", _DATABASE), ("engine_rest", _ENGINE), (_ENGINE, "engine_rest")):
        if getattr(settings, given) and not getattr(settings, needed):
            raise SettingsError({variable_name(needed): f"is needed beside {variable_name(given)}"})


def _fixed_ports(settings: Settings) -> dict[str, int]:
    fixed = {}
    for name, field in (("api", "api_port"), ("simulator", "simulator_port")):
        if field in settings.model_fields_set:
            port = getattr(settings, field)
            if not is_port_free(port):
                raise SettingsError({variable_name(field): f"{port} is taken by another program"})
            fixed[name] = port
    return fixed


def _environment(
    settings: Settings,
    home: Home,
    ports: Mapping[str, int],
    secrets: Mapping[str, str],
    server: Server,
    broker: Broker,
    engine: Engine,
    systems: str | None,
) -> dict[str, str]:
    owner = urlsplit(settings.owner_database_url or server.owner_url)

    def role_url(role: str) -> str:
        password = secrets[f"{role}_password"]
        return f"postgresql://recourse_{role}:{quote(password)}@{owner.hostname}:{owner.port or 5432}{owner.path}"

    api = f"http://{reachable_host(settings.api_host)}:{ports['api']}"
    simulator = {
        "url": f"http://{reachable_host(settings.simulator_host)}:{ports['simulator']}",
        "secret": secrets["system_secret"],
    }
    told = {
        "owner_database_url": owner.geturl(),
        "database_url": settings.database_url or role_url("app"),
        "relay_database_url": settings.relay_database_url or role_url("relay"),
        "auditor_database_url": settings.auditor_database_url or role_url("auditor"),
        "kafka_bootstrap": settings.kafka_bootstrap or broker.address,
        "engine_grpc": settings.engine_grpc or engine.grpc_address,
        "engine_rest": settings.engine_rest or engine.rest_url,
        "api_host": settings.api_host,
        "api_port": str(ports["api"]),
        "public_url": settings.public_url or api,
        "simulator_host": settings.simulator_host,
        "simulator_port": str(ports["simulator"]),
        "systems": orjson.dumps({"*": simulator, **_read_systems(systems, settings)}).decode(),
        "listeners": settings.listeners or f"http://{_LOCALHOST}:*,http://localhost:*",
        "state_dir": str(home.path),
        "cache": str(settings.cache),
    }
    if settings.issuer:
        told["issuer"] = settings.issuer
    else:
        told |= {"issuer": f"{api}/issuer", "issuer_key_file": str(home.issuer_key_file)}
    return {variable_name(field): value for field, value in told.items()}


def _read_systems(given: str | None, settings: Settings) -> dict[str, object]:
    if given is None:
        return {name: system.model_dump() for name, system in settings.systems.items()}
    try:
        found = orjson.loads(given)
    except orjson.JSONDecodeError as error:
        raise SettingsError({"--systems": "wants JSON"}) from error
    if not isinstance(found, dict):
        raise SettingsError({"--systems": 'wants {"name": {"url": "http://…", "secret": "…"}}'})
    return found


def _our_command(arguments: tuple[str, ...], environment: Mapping[str, str]) -> Command:
    return Command([sys.executable, "-m", "workers.cli", *arguments], environment)


def _engine_ports(ports: Mapping[str, int]) -> EnginePorts:
    return EnginePorts(
        grpc=ports["engine-grpc"],
        command=ports["engine-command"],
        internal=ports["engine-internal"],
        rest=ports["engine-rest"],
        management=ports["engine-management"],
    )


def _rehearsal(home: Home, cache: Path) -> Step:
    async def run() -> str:
        ports = EnginePorts(*(free_port() for _ in range(5)))
        practice = Engine(home.data("rehearsal"), ports, cache)
        try:
            await practice.rehearse(home.pid_file("rehearsal"), home.log_file("rehearsal"))
        except TimeoutError:
            return "the machine had no time for it"
        return "the engine starts in half the time from now on"

    return Step("rehearsal", frozenset(), run)


def _download(environment: Mapping[str, str], say: Say) -> Step:
    async def run() -> str:
        await run_command(_our_command(("download",), environment), lambda line: say("download", line))
        return ""

    return Step("download", frozenset(), run)


def _command_step(name: str, arguments: tuple[str, ...], needs: set[str], environment: Mapping[str, str]) -> Step:
    async def run() -> str:
        return await run_command(_our_command(arguments, environment))

    return Step(name, frozenset(needs), run)


def _our_part(name: str, host: str, port: int, environment: Mapping[str, str]) -> Part:
    arguments, needs = _OURS[name]

    async def prepare() -> Command:
        return _our_command(arguments, {**environment, variable_name("health_port"): str(port)})

    return Part(
        name=name,
        needs=needs,
        prepare=prepare,
        probe=lambda: answers_http(host, port, "/readyz"),
        address=f"http://{host}:{port}",
        ports=(port,),
    )


def reachable_host(host: str) -> str:
    """Where a server that listens on `host` answers from this machine."""
    return _LOCALHOST if host in {"0.0.0.0", "::", ""} else host  # noqa: S104 - compared, not bound


def _among(here: Set[str], pieces: Sequence[Part | Step]) -> tuple[Part | Step, ...]:
    """The pieces, no longer waiting for what somebody else runs."""
    return tuple(replace(piece, needs=piece.needs & here) for piece in pieces)


def _addresses(told: Mapping[str, str], *, with_consoles: bool) -> dict[str, str | None]:
    return {
        "api": told[variable_name("public_url")],
        "database": told[variable_name("database_url")],
        "kafka": told[variable_name("kafka_bootstrap")],
        "engineGrpc": told[variable_name("engine_grpc")],
        "engineRest": told[variable_name("engine_rest")],
        "operate": told[variable_name("operate_url")] if with_consoles else None,
        "tasklist": told[variable_name("tasklist_url")] if with_consoles else None,
    }
