"""Outbox, inbox and bus on SQLAlchemy: tables in the user's MetaData, in the user's transaction."""

from importlib import import_module

from events.errors import MissingExtraError

try:
    # SQLAlchemy's asyncio half runs on greenlet, which SQLAlchemy alone does not bring.
    for _needed in ("sqlalchemy", "greenlet"):
        import_module(_needed)
except ImportError as error:
    raise MissingExtraError(__name__, "sqlalchemy") from error

from events.integration.implementation.sqlalchemy._bus.tables import bus_table
from events.integration.implementation.sqlalchemy.bus import (
    SQLAlchemyIntegrationEventBus,
    SQLAlchemyTransport,
)
from events.integration.implementation.sqlalchemy.inbox import SQLAlchemyInbox
from events.integration.implementation.sqlalchemy.inbox_table import inbox_table
from events.integration.implementation.sqlalchemy.journal import (
    SQLAlchemyJournal,
    journal_table,
)
from events.integration.implementation.sqlalchemy.outbox import SQLAlchemyOutbox
from events.integration.implementation.sqlalchemy.sessions import current_session
from events.integration.implementation.sqlalchemy.sqlite import enable_wal
from events.integration.implementation.sqlalchemy.store import SQLAlchemyOutboxStore
from events.integration.implementation.sqlalchemy.tables import AT_ONCE, outbox_table
from events.integration.outbox import PARTITIONS, partition_of

__all__ = [
    "AT_ONCE",
    "PARTITIONS",
    "SQLAlchemyInbox",
    "SQLAlchemyIntegrationEventBus",
    "SQLAlchemyJournal",
    "SQLAlchemyOutbox",
    "SQLAlchemyOutboxStore",
    "SQLAlchemyTransport",
    "bus_table",
    "current_session",
    "enable_wal",
    "inbox_table",
    "journal_table",
    "outbox_table",
    "partition_of",
]
