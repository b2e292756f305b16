"""`clock()`: the time by the database's own clock, in UTC, as the columns of the outbox hold it.

Relays on several machines share one clock by it. It stands still within a statement, not within a
transaction.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["aware", "clock", "moment"]


def moment() -> DateTime:
    """Return the type of a column that holds a time: to the microsecond, and in UTC."""
    return DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def aware(value: datetime) -> datetime:
    """Give a time its zone again, where the database keeps none."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


class clock(FunctionElement[datetime]):  # noqa: N801 - it is used as a function is
    """The database's time."""

    inherit_cache = True
    type = moment()


@compiles(clock)
def _default(element: clock, compiler: Any, **options: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(clock, "postgresql")
def _postgresql(element: clock, compiler: Any, **options: Any) -> str:
    return "statement_timestamp()"


@compiles(clock, "mysql", "mariadb")
def _mysql(element: clock, compiler: Any, **options: Any) -> str:
    return "utc_timestamp(6)"


@compiles(clock, "sqlite")
def _sqlite(element: clock, compiler: Any, **options: Any) -> str:
    # Milliseconds, written as SQLAlchemy writes microseconds, so that texts compare as times do.
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
