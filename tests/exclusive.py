"""What only one process of a test run may do at a time."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def installing() -> Iterator[None]:
    """Alone with the system's package lists: `make test` has two processes, and apt waits for no one's lists."""
    with (Path(tempfile.gettempdir()) / "recourse-test-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
