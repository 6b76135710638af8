"""The whole schema as one text, the sum of all migrations, for people to read: `python -m tests.store.schema` writes it
anew."""

from __future__ import annotations

import os
import re
import subprocess
from urllib.parse import urlsplit

from tests.deploy.processes import ROOT
from tests.postgres import serve_postgres
from workers.local.postgres import find_binaries
from workers.settings import Settings

FILE = ROOT / "migrations/schema.sql"

_HEAD = "-- The sum of all migrations, written by `python -m tests.store.schema`. To be read; never to be run.\n\n"


def dump_schema(owner_url: str) -> str:
    """What pg_dump says of a migrated database, without what differs from one run or release of it to the next."""
    parts = urlsplit(owner_url)
    dumped = subprocess.run(
        [find_binaries(Settings().cache) / "pg_dump", "--schema-only", "--no-owner"],
        env={
            "PATH": os.defpath,
            "PGHOST": parts.hostname or "",
            "PGPORT": str(parts.port or 5432),
            "PGUSER": parts.username or "",
            "PGPASSWORD": parts.password or "",
            "PGDATABASE": parts.path.lstrip("/"),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    kept = [
        line for line in dumped.splitlines() if line and not line.startswith(("--", "SET ", "SELECT pg_catalog", "\\"))
    ]
    statements = re.sub(r";\n(?=[A-Z])", ";\n\n", "\n".join(kept) + "\n")
    return _HEAD + statements


if __name__ == "__main__":
    with serve_postgres() as server, server.clone() as database:
        FILE.write_text(dump_schema(database.owner_url), encoding="utf-8")
