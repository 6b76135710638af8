"""The API without metrics and, told so by its settings, without a line per request: what observing costs is measured
against it. It must never be run for anybody."""

from __future__ import annotations

from typing import Any

from workers.api import app
from workers.runtime import run_process
from workers.settings import load_settings


class _NoMeters:
    """Meters that count nothing, whatever they are asked to count."""

    def __init__(self, _: object) -> None:
        pass

    def __getattr__(self, _: str) -> Any:
        return self

    def __call__(self, *_: object) -> Any:
        return self


if __name__ == "__main__":
    app.Meters = _NoMeters  # type: ignore[assignment, attr-defined]
    run_process("api", app.run, load_settings())
