"""TEMPORARY, until the library's inbox is there."""

from typing import Any

from sqlalchemy import Column, MetaData, String, Table, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from events.integration import Handle, IncomingEvent
from events.integration.implementation.dishka import current_scope


def inbox_table(metadata: MetaData, name: str = "inbox") -> Table:
    return Table(
        name,
        metadata,
        Column("consumer", String(255), primary_key=True),
        Column("message_id", String(255), primary_key=True),
    )


def from_scope(cls: Any) -> Any:
    return lambda: current_scope().get(cls)


class SQLAlchemyInbox:
    def __init__(self, sessions: Any, *, table: Table) -> None:
        self._sessions, self._table = sessions, table

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        session: AsyncSession = await self._sessions()
        try:
            await session.execute(
                insert(self._table).values(
                    consumer=incoming.delivery.consumer, message_id=incoming.delivery.id
                )
            )
        except IntegrityError:
            await session.rollback()
            return
        await call_next(incoming)
        await session.commit()
