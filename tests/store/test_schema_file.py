"""The schema that people read is the one that the migrations make."""

from __future__ import annotations

from tests.postgres import Database
from tests.store.schema import FILE, dump_schema


def test_the_checked_in_schema_is_the_sum_of_the_migrations(database: Database) -> None:
    assert FILE.read_text(encoding="utf-8") == dump_schema(database.owner_url), (
        "write it anew: python -m tests.store.schema"
    )
