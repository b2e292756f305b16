"""Rows that are made when they are first needed, by whichever process is the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Insert, Select, Table
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from events.errors import OutboxTableError
from events.integration.implementation.sqlalchemy._opening import begun, connected

TRIES = 2  # the second finds what another has made meanwhile


class Keeping(NamedTuple):
    """Finds a row, or makes it; `single` is an engine for one statement."""

    engine: AsyncEngine
    single: AsyncEngine
    table: Table

    async def ensured(
        self, find: Select[Any], make: Insert, values: Mapping[str, object], row: str
    ) -> Any:
        """Return what is found, once it was made if need be.

        Raises `OutboxTableError` if the table does not take it.
        """
        refused: IntegrityError | None = None
        for _ in range(TRIES + 1):
            async with connected(self.single) as connection:
                found = (await connection.execute(find, values)).scalar_one_or_none()
            if found is not None:
                return found
            try:
                async with begun(self.engine) as connection:
                    await connection.execute(make, values)
            except IntegrityError as error:  # perhaps as another has made it meanwhile
                refused = error
        raise cannot_keep(self.table, row, refused) from refused


def cannot_keep(table: Table, row: str, refused: IntegrityError | None) -> OutboxTableError:
    """Return the error of a row that is not there although it was inserted, or cannot be."""
    said = "it was deleted at once" if refused is None else str(refused.orig)
    return OutboxTableError(
        table.fullname,
        f"{row} cannot be kept in it: {said}; give columns of your own a default, or allow NULL, "
        f"and remove CHECK constraints from this table",
    )
