"""Outbox, inbox and domain events in SQLAlchemy's transactions.

Needs the extra of a database: `pip install "integration-events[postgresql]"` (asyncpg), `psycopg`,
`mariadb`, or `sqlalchemy` (SQLite, or a driver of your own).
"""

from events.domain.implementation.sqlalchemy import SQLAlchemyDomainEvents
from events.integration.implementation.sqlalchemy import (
    AT_ONCE,
    PARTITIONS,
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    current_session,
    enable_wal,
    inbox_table,
    outbox_table,
    partition_of,
)

__all__ = [
    "AT_ONCE",
    "PARTITIONS",
    "SQLAlchemyDomainEvents",
    "SQLAlchemyInbox",
    "SQLAlchemyOutbox",
    "SQLAlchemyOutboxStore",
    "current_session",
    "enable_wal",
    "inbox_table",
    "outbox_table",
    "partition_of",
]
