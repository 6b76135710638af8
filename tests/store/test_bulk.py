"""What a bulk job asks costs by the rows that it takes and not by the job's."""

from __future__ import annotations

import json
import uuid

import asyncpg

from domain.store.queries import load_queries
from tests.postgres import Database
from tests.store.test_sweep import rows_of

ROWS = 2_000
TAKEN = 20


async def test_a_claim_looks_at_the_rows_that_it_takes(database: Database) -> None:
    """Also of a job that was filed a moment ago, whose table nobody has counted yet."""
    owner = await asyncpg.connect(database.owner_url)
    try:
        await owner.execute("alter table bulk_row set (autovacuum_enabled = false)")
        tenant_id, job_id = uuid.uuid4(), uuid.uuid4()
        await owner.execute(
            "insert into bulk_job (tenant_id, job_id, kind, status, body, rate_per_minute, created_by, created_roles)"
            " values ($1, $2, 'CANCELLATION', 'RUNNING', '{}', 60000, 'olga', '{}')",
            tenant_id,
            job_id,
        )
        await owner.execute(
            "insert into bulk_row (tenant_id, job_id, position, subject_id, status)"
            " select $1, $2, n, gen_random_uuid(), 'PENDING' from generate_series(1, $3::int) n",
            tenant_id,
            job_id,
            ROWS,
        )
        query = load_queries("bulk")["claim_rows"]
        asked = query.arguments({"tenant_id": tenant_id, "job_id": job_id, "size": TAKEN})
        plan = await owner.fetchval(f"explain (analyze, format json) {query.text}", *asked)
        (told,) = json.loads(plan)
        claimed = await owner.fetchval("select count(*) from bulk_row where status = 'CLAIMED'")
        assert claimed == TAKEN
        touched = sum(rows_of(told["Plan"]))
        assert touched <= 5 * TAKEN, f"{touched} rows for {TAKEN} of {ROWS}\n{plan}"
    finally:
        await owner.close()
