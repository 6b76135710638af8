"""Which errors mean that the database is ill, for edges that may not know its driver; it must never catch one."""

from __future__ import annotations

from typing import Final

import asyncpg

# Everything that may pass by itself. What is left of asyncpg's errors (a broken statement, a violated check) is ours.
OUTAGES: Final[tuple[type[Exception], ...]] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.CannotConnectNowError,
)
