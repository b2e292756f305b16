"""Statements that change the rows of many ids, and touch no other row.

Of a small table MariaDB and MySQL answer `id IN (...)` by a scan, which waits for every row in it
that somebody has written and not committed yet, and locks the gaps that others insert into. Joined
to the list of ids, in this order, each row is looked up by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ARRAY, BigInteger, Executable, MetaData, Table, bindparam, delete, update
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration.implementation.sqlalchemy._clock import moment

_THESE = "JSON_TABLE(:ids, '$[*]' COLUMNS (id BIGINT PATH '$')) AS these STRAIGHT_JOIN"


class Many:
    """Deletes and defers rows of one table by their ids. Each verb gives statement and values."""

    def __init__(self, engine: AsyncEngine, table: Table) -> None:
        dialect = engine.dialect
        self._as_json = dialect.name in {"mysql", "mariadb"}
        if self._as_json:
            schemas = engine.get_execution_options().get("schema_translate_map", {})
            there = table.to_metadata(MetaData(), schema=schemas.get(table.schema, table.schema))
            name = dialect.identifier_preparer.format_table(there)
            self._delete: Executable = sql(f"DELETE o FROM {_THESE} {name} AS o ON o.id = these.id")
            self._defer: Executable = sql(
                f"UPDATE {_THESE} {name} AS o ON o.id = these.id "  # noqa: S608 - quoted
                "SET o.available_at = :then, o.last_error = :why"
            ).bindparams(bindparam("then", type_=moment()))
            return
        c = table.c
        if dialect.name == "postgresql":  # one parameter, and one statement whatever its length
            these = c.id == bindparam("ids", type_=ARRAY(BigInteger())).any_()
        else:
            these = c.id.in_(bindparam("ids", type_=BigInteger(), expanding=True))
        self._delete = delete(table).where(these)
        self._defer = (
            update(table)
            .where(these)
            .values(available_at=bindparam("then"), last_error=bindparam("why"))
        )

    def delete(self, ids: Sequence[int]) -> tuple[Executable, dict[str, Any]]:
        """Delete these rows."""
        return self._delete, {"ids": self._list(ids)}

    def defer(
        self, ids: Sequence[int], until: datetime, why: str
    ) -> tuple[Executable, dict[str, Any]]:
        """Have these rows be due later."""
        return self._defer, {"ids": self._list(ids), "then": until, "why": why}

    def _list(self, ids: Sequence[int]) -> object:
        return msgspec.json.encode(ids).decode() if self._as_json else ids
