"""`clock()`: the time by the database's own clock, in UTC, as the columns of the outbox hold it.

Relays on several machines share one clock by it. It stands still within a statement, not within a
transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import DateTime
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


def moment() -> DateTime:
    """Return the type of a column that holds a time: to the microsecond, and in UTC."""
    return DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def aware(value: datetime) -> datetime:
    """Add the zone UTC to a time from a database that stores none."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


class clock(FunctionElement[datetime]):  # noqa: N801 - it is used as a function is
    """The database's time."""

    inherit_cache = True
    type = moment()


def _write(sql: str) -> Callable[..., str]:
    return lambda *_, **__: sql


for _dialect, _sql in {
    "postgresql": "statement_timestamp()",
    "mysql": "utc_timestamp(6)",
    "mariadb": "utc_timestamp(6)",
    # Milliseconds, written as SQLAlchemy writes microseconds, so that texts compare as times do.
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
}.items():
    compiles(clock, _dialect)(_write(_sql))
