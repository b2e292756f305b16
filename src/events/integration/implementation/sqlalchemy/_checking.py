"""Check at startup that tables exist and can be used."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.exc import NoSuchTableError

from events.errors import OutboxError, OutboxTableError
from events.integration.implementation.sqlalchemy import sqlite
from events.integration.implementation.sqlalchemy._sql_mode import wrong_mode
from events.integration.implementation.sqlalchemy.tables import require_columns, schema_of


def check_tables(connection: Connection, tables: Iterable[Table], cure: str) -> None:
    """Raise `OutboxError` unless the database has these tables, and is fit for them."""
    wrong = wrong_mode(connection)
    if wrong is not None:
        raise OutboxError(wrong)
    for table in tables:
        schema = schema_of(connection, table)
        try:
            columns = inspect(connection).get_columns(table.name, schema)
        except NoSuchTableError as error:
            raise OutboxTableError(table.fullname, f"it does not exist; {cure}") from error
        require_columns(table, {column["name"] for column in columns}, layout=table)
    if connection.dialect.name == "sqlite":
        sqlite.check(connection)
