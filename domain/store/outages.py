"""Which of the database driver's errors mean that the world is ill, for edges that may not know the driver."""

from __future__ import annotations

from typing import Final

import asyncpg

# Whoever meets one of these may simply try again; any other error of the driver is a defect of ours.
OUTAGES: Final[tuple[type[Exception], ...]] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What asyncpg says when a connection is cut in the middle of an exchange.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
)
