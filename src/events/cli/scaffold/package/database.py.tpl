"""The tables of the service, and the outbox of a session."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

%% if broker
from events.sqlalchemy import SQLAlchemyOutbox, enable_wal, inbox_table, outbox_table
%% else
from events.sqlalchemy import SQLAlchemyOutbox, bus_table, enable_wal
%% end
from sqlalchemy import String, Text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    email: Mapped[str] = mapped_column(String(255))
    quantity: Mapped[int]


class Receipt(Base):
    __tablename__ = "receipts"

    order_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    text: Mapped[str] = mapped_column(Text)


%% if broker
outbox_table(Base.metadata)
inbox_table(Base.metadata)


def make_outbox(session: AsyncSession) -> SQLAlchemyOutbox:
    """Return an outbox that stores events in the session's transaction, for the relay."""
    return SQLAlchemyOutbox(session, source="/{{name}}")
%% else
bus = bus_table(Base.metadata)


def make_outbox(session: AsyncSession) -> SQLAlchemyOutbox:
    """Return an outbox that sends events in the session's transaction."""
    return SQLAlchemyOutbox(session, table=bus, source="/{{name}}")
%% end


@asynccontextmanager
async def connect(url: str) -> AsyncGenerator[AsyncEngine]:
    """Give an engine, and dispose of it at the end."""
    engine = create_async_engine(url, pool_pre_ping=True)
    try:
        if engine.dialect.name == "sqlite":
            await enable_wal(engine)
        yield engine
    finally:
        await engine.dispose()
