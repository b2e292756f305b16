"""Outbox, inbox and domain events in SQLAlchemy's transactions, and a bus on tables.

Needs the extra of a database: `pip install "integration-events[postgresql]"` (asyncpg), `psycopg`,
`mariadb`, or `sqlalchemy` (SQLite, or a driver of your own).
"""

from events.domain.implementation.sqlalchemy import SQLAlchemyDomainEvents
from events.integration.implementation.sqlalchemy import (
    AT_ONCE,
    PARTITIONS,
    SQLAlchemyInbox,
    SQLAlchemyJournal,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    bus_table,
    current_session,
    enable_wal,
    inbox_table,
    journal_table,
    outbox_table,
    partition_of,
)
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyIntegrationEventBus as SQLAlchemyBus,
)

__all__ = [
    "AT_ONCE",
    "PARTITIONS",
    "SQLAlchemyBus",
    "SQLAlchemyDomainEvents",
    "SQLAlchemyInbox",
    "SQLAlchemyJournal",
    "SQLAlchemyOutbox",
    "SQLAlchemyOutboxStore",
    "bus_table",
    "current_session",
    "enable_wal",
    "inbox_table",
    "journal_table",
    "outbox_table",
    "partition_of",
]
