"""Every named query is one that PostgreSQL understands over the migrated schema, and one that somebody asks."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from domain.store import queries
from domain.store.queries import load_queries
from tests.postgres import Database

FOLDER = Path(queries.__file__).parent
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.sql"))


@pytest.mark.parametrize("family", FAMILIES)
async def test_every_query_prepares(family: str, database: Database) -> None:
    connection = await asyncpg.connect(database.app_url)
    try:
        for query in load_queries(family).values():
            try:
                statement = await connection.prepare(query.text)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{family}.{query.name}: {error}")
            assert len(statement.get_parameters()) == len(query.parameters)
    finally:
        await connection.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_query_is_asked(family: str) -> None:
    module = (FOLDER / f"{family}.py").read_text()
    asked = set(re.findall(r'"([a-z_]+)"', module))
    assert load_queries(family).keys() <= asked


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_of_a_file_is_lost(family: str) -> None:
    """A second block of the same name would hide the first; a name that is misspelled would swallow its block."""
    text = (FOLDER / f"{family}.sql").read_text()
    assert len(re.findall(r"^--\s*name\b", text, re.MULTILINE)) == len(load_queries(family))
