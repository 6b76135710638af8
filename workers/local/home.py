"""The state folder of an embedded stack: its data, ports, secrets and logs; it must never move or lose them."""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Preferred, so that a stack has the same addresses every day; another is chosen where one is taken.
PREFERRED_PORTS: Mapping[str, int] = {
    "api": 8080,
    "simulator": 8090,
    "postgres": 25432,
    "kafka": 29092,
    "kafka-controller": 29093,
    "engine-grpc": 26500,
    "engine-command": 26501,
    "engine-internal": 26502,
    "engine-rest": 28080,
    "engine-management": 29600,
    "workers": 29610,
    "relay": 29611,
    "reconciler": 29612,
    "opensearch": 9210,
    "opensearch-transport": 29310,
    "consoles": 28081,
    "consoles-management": 29601,
}
# Who can listen only there.
_RANGES: Mapping[str, range] = {"opensearch": range(9201, 9300)}
_ALL = range(1, 65536)
# What this process has claimed, by port: for which folder. The name that is held for each is never given back.
_CLAIMS: dict[int, Path] = {}
_SECRETS = ("owner_password", "app_password", "relay_password", "auditor_password", "system_secret")

# PostgreSQL refuses to run as root; this one owns nothing else.
SERVANT = "nobody"


class HomeError(Exception):
    """The state folder cannot be used; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below the state folder. `prepare` makes them; nothing else here writes but what its name says."""

    path: Path

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def environment_file(self) -> Path:
        """What our processes were started with, for the commands that a person runs beside them (0600)."""
        return self.path / "environment.json"

    @property
    def issuer_key_file(self) -> Path:
        return self.path / "issuer.pem"

    @property
    def lock_file(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.path / "supervisor.lock"

    def data(self, part: str) -> Path:
        return self.path / part

    def pid_file(self, part: str) -> Path:
        return self.path / "run" / f"{part}.pid"

    def log_file(self, part: str) -> Path:
        return self.path / "log" / f"{part}.log"

    def prepare(self) -> None:
        """Make the folders; HomeError when they cannot be made, or the database could not enter them."""
        try:
            for folder in (self.path, self.path / "run", self.path / "log"):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.path / "run", self.path / "log"):
                folder.chmod(0o700)
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        except OSError as error:
            raise HomeError(f"{error.filename}: {error.strerror}. Name another folder in RECOURSE_HOME") from error
        if os.geteuid() == 0:
            check_open_to_all(self.path, "RECOURSE_HOME")

    def ports(self) -> dict[str, int]:
        """The remembered ports; empty before the first start."""
        return {name: int(port) for name, port in read_json(self.path / "ports.json").items()}

    def choose_ports(self, fixed: Mapping[str, int]) -> dict[str, int]:
        """Remembered or preferred ports where free, others where not; `fixed` ones are taken as they are.

        They are claimed for as long as this process lives: a server listens seconds after its port was chosen, and a
        stack that starts meanwhile would find it free, and take the other's server for its own.
        """
        remembered = self.ports()
        chosen = dict(fixed)
        taken = set(fixed.values())
        for port in fixed.values():
            self._claim(port)
        for name, preferred in PREFERRED_PORTS.items():
            if name in fixed:
                continue
            allowed = _RANGES.get(name, _ALL)
            candidates = (port for port in (remembered.get(name, 0), preferred) if port in allowed)
            found = next((port for port in candidates if port not in taken and self._takes(port)), None)
            while found is None:
                drawn = free_port(allowed)
                found = drawn if drawn not in taken and self._takes(drawn) else None
            chosen[name] = found
            taken.add(found)
        write_json(self.path / "ports.json", chosen)
        return chosen

    def _takes(self, port: int) -> bool:
        return is_port_free(port) and self._claim(port)

    def _claim(self, port: int) -> bool:
        """False where another stack on this machine has claimed it. A claim ends with its process, however it ends."""
        if port not in _CLAIMS:
            with socket.socket(socket.AF_UNIX) as name:
                try:
                    name.bind(f"\0recourse-port-{port}")
                except OSError:
                    return False
                name.detach()
            _CLAIMS[port] = self.path
        return _CLAIMS[port] == self.path

    def secrets(self) -> dict[str, str]:
        """Passwords and the callback secret of this stack, made up once."""
        return self._keep("secrets.json", {name: secrets.token_hex(24) for name in _SECRETS})

    def passwords(self, people: Iterable[str] = ()) -> dict[str, str]:
        """The passwords with which people log in to the consoles of this stack, made up once for each of them."""
        return self._keep("people.json", {person: secrets.token_urlsafe(9) for person in people})

    def _keep(self, name: str, made_up: Mapping[str, str]) -> dict[str, str]:
        file = self.path / name
        known = {name: str(value) for name, value in read_json(file).items()}
        if not made_up.keys() <= known.keys():
            known = {**made_up, **known}
            write_json(file, known)
        return known


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(allowed: range = _ALL) -> int:
    """A port that the system says is free; HomeError when none of a narrow range is."""
    if len(allowed) < len(_ALL):
        for port in random.sample(allowed, len(allowed)):
            if is_port_free(port):
                return port
        raise HomeError(f"every port from {allowed[0]} to {allowed[-1]} is taken")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_open_to_all(path: Path, setting: str) -> None:
    """HomeError when somebody other than root could not walk to this folder."""
    for folder in (path, *path.parents):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            raise HomeError(
                f"{folder} is closed to other users, and PostgreSQL (which does not run as root) must reach {path}. "
                f"Name a folder elsewhere in {setting}, or run as an ordinary user"
            )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file; empty when there is none yet."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write for the owner's eyes only and in one step: a reader sees the old or the new, never half."""
    write_private(file, json.dumps(value, indent=2) + "\n")


def write_private(file: Path, text: str) -> None:
    """The same for any text."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
