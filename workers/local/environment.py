"""The settings of whoever works beside the local stack; it must never overrule what the environment says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.settings import Settings


def local_settings(*needed: str) -> Settings:
    """The settings, completed by those of the local stack where the environment is silent."""
    from workers.local.home import Home, read_json
    from workers.settings import load_settings

    told = read_json(Home(load_settings().state_dir).environment_file)
    for name, value in told.items():
        os.environ.setdefault(name, str(value))
    return load_settings(*needed)
