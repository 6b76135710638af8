"""What an embedded stack looks like right now, asked of the processes themselves; it changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from workers.local.consoles import CONSOLE_PARTS, are_consoles_ready
from workers.local.home import Home, read_json
from workers.local.parts import answers_http
from workers.local.processes import find_child
from workers.local.stack import reachable_host
from workers.local.supervisor import SUPERVISOR, find_children
from workers.settings import variable_name


@dataclass(frozen=True, slots=True)
class Status:
    """The addresses and processes of a stack; `ready` when API, workers and engine serve, each part but the consoles
    alive. `operate`, `tasklist`: None where there are none, `consolesReady` when people can use both."""

    api: str | None = None
    database: str | None = None
    kafka: str | None = None
    engineGrpc: str | None = None  # noqa: N815 - the names are the document's
    engineRest: str | None = None  # noqa: N815
    operate: str | None = None
    tasklist: str | None = None
    ready: bool = False
    consolesReady: bool = False  # noqa: N815
    processes: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def read_status(home: Home) -> Status:
    """What the supervisor wrote last, corrected by what is alive and by the API's own word."""
    written = read_json(home.status_file)
    alive = {name: child.pid for name, child in find_children(home).items()}
    if not written:
        return Status(processes=alive)
    alive = {name: pid for name, pid in alive.items() if name in written["processes"]}
    supervised = find_child(home.pid_file(SUPERVISOR)) is not None
    needed = {name: pid for name, pid in written["processes"].items() if name not in CONSOLE_PARTS}
    ready = written["ready"] and supervised and needed.items() <= alive.items()
    if ready:
        told = read_json(home.environment_file)
        host = reachable_host(told[variable_name("api_host")])
        ready = await answers_http(host, int(told[variable_name("api_port")]), "/readyz")
    consoles = written["consolesReady"] and supervised and alive.keys() >= CONSOLE_PARTS
    if consoles:
        consoles = await are_consoles_ready(home.ports()["consoles-management"])
    return Status(**{**written, "ready": ready, "consolesReady": consoles, "processes": alive})
