"""Named blocks of SQL from the .sql files beside the modules; it must never build SQL from values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)\s*$", re.MULTILINE)
_PARAMETER: Final = re.compile(r"(?<![:\w]):([a-z_]+)\b")


@dataclass(frozen=True, slots=True)
class Query:
    """One statement with `$n` in place of `:name`; psql understands the file as it is written."""

    name: str
    text: str
    parameters: tuple[str, ...]

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        return [values[name] for name in self.parameters]


@cache
def load_queries(family: str) -> dict[str, Query]:
    """Every named block of `<family>.sql`. Raises FileNotFoundError for a family that has no file."""
    parts = _NAME.split((Path(__file__).parent / f"{family}.sql").read_text())
    queries: dict[str, Query] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        names: list[str] = []

        def number(match: re.Match[str], names: list[str] = names) -> str:
            if match[1] not in names:
                names.append(match[1])
            return f"${names.index(match[1]) + 1}"

        text = _PARAMETER.sub(number, re.sub(r"--[^\n]*", "", body)).strip().rstrip(";")
        queries[name] = Query(name, text, tuple(names))
    return queries
