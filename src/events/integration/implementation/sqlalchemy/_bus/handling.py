"""Handling an event in one transaction with the removal of its row.

The row is deleted first, which takes its lock. So what the handler does in this database happens
once without an inbox: either it is committed and the row is gone, or neither.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, bindparam, delete, insert, select
from sqlalchemy.orm import Session

from events.errors import InvalidTopologyError
from events.integration.implementation.sqlalchemy._bus.rows import Found
from events.integration.implementation.sqlalchemy._bus.tables import BusTables
from events.integration.implementation.sqlalchemy._claim import Claim, Row
from events.integration.implementation.sqlalchemy._transactional import Transactional
from events.integration.implementation.sqlalchemy.sessions import Sessions
from events.integration.message import Delivery
from events.integration.pipeline import Serving

_TIMEOUT = 10.0  # seconds to wait for a database that is locked or away


class _Removal:
    """A `Claimable`: the row is claimed by its removal."""

    def __init__(self, tables: BusTables) -> None:
        self.table = tables.rows
        self.clause = insert(tables.rows)
        these = tables.rows.c.id == bindparam("row")
        self._remove = delete(tables.rows).where(these)
        self._find = select(tables.rows.c.id).where(these)

    def insert(self, connection: Connection, row: Row) -> bool:
        return connection.execute(self._remove, row).rowcount == 1

    def holds(self, connection: Connection, row: Row) -> bool:
        return connection.execute(self._find, row).first() is None


class RowTransactions(Transactional):
    """The innermost middleware of a bus that was given `sessions`.

    `removed` is called with the number of each row that went with its handler's transaction.
    """

    def __init__(
        self, sessions: Sessions, tables: BusTables, removed: Callable[[int], None]
    ) -> None:
        super().__init__(sessions, _TIMEOUT)
        self._removal = _Removal(tables)
        self._removed = removed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._removal.table.fullname!r})"

    def check(self, serving: Serving) -> None:
        """Refuse an inbox in addition, and a place in front of the provider of its sessions."""
        if sum(isinstance(each, Transactional) for each in serving.middlewares) > 1:
            raise InvalidTopologyError(
                repr(self),
                "with sessions= the bus itself handles each event once: omit the inbox, or omit "
                "sessions= if the handlers write to another database",
            )
        self._source.check(serving.middlewares[: serving.middlewares.index(self)])

    def claim_now(self, session: Session, delivery: Delivery) -> Claim:
        """See `Transactional.claim_now`."""
        assert isinstance(delivery, Found)  # noqa: S101 - of this bus alone
        return Claim(session, self._removal, {"row": delivery.row})

    def committed(self, delivery: Delivery) -> None:
        """See `Transactional.committed`."""
        assert isinstance(delivery, Found)  # noqa: S101 - of this bus alone
        self._removed(delivery.row)
