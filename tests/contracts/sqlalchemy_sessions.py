"""A SQLAlchemy database that is used through one kind of session, for the sessions contract."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import URL, Delete, Insert, Table, Update, event, func, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateSchema, DropSchema

from events.integration import IntegrationEvent, Topic
from events.integration.implementation.sqlalchemy import (
    SQLAlchemyInbox,
    SQLAlchemyOutbox,
    current_session,
    inbox_table,
    outbox_table,
)


class Base(DeclarativeBase):
    pass


class Effect(Base):
    __tablename__ = "effects"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    number: Mapped[int]


OUTBOX = outbox_table(Base.metadata)
INBOX = inbox_table(Base.metadata)


class Kind:
    """Plain sessions. A subclass makes another kind of them."""

    def __init__(self, url: URL) -> None:
        self.engine = self.writer = create_async_engine(url)
        self.sessions: Callable[[], AsyncSession] = async_sessionmaker(self.engine)

    async def create(self) -> None:
        async with self.writer.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    async def dispose(self) -> None:
        await self.engine.dispose()


class Routed(Kind):
    """Reads go to one engine and writes to another: the recipe that most use."""

    writes: tuple[type[Any], ...] = (Insert, Update, Delete)

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self.reader = reader = create_async_engine(url)
        writer, writes = self.writer, self.writes

        class Routing(Session):
            def get_bind(self, mapper: Any = None, clause: Any = None, **_: Any) -> Any:
                if self._flushing or isinstance(clause, writes):
                    return writer.sync_engine
                return reader.sync_engine

        self.sessions = async_sessionmaker(sync_session_class=Routing)

    async def dispose(self) -> None:
        await super().dispose()
        await self.reader.dispose()


class RoutedAsDocumented(Routed):
    """The recipe of SQLAlchemy's documentation, which forgets inserts."""

    writes = (Update, Delete)


class SharingInfo(Kind):
    """Each session is made with the `info` of the one before."""

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        last: list[AsyncSession] = []

        class Sharing(AsyncSession):
            def __init__(self, *args: Any, **kw: Any) -> None:
                super().__init__(*args, **kw, info=last[-1].info if last else None)
                last.append(self)

        self.sessions = async_sessionmaker(self.engine, class_=Sharing)


class Translated(Kind):
    """The tables are in a schema that the engine puts in place of none, as for a tenant."""

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self.base = self.engine
        self.schema = f"{url.database}_tenant"
        if url.get_backend_name() == "sqlite":
            self.schema = "tenant"
            attach = f"ATTACH '{url.database}.tenant' AS tenant"
            event.listen(self.base.sync_engine, "connect", lambda c, _: c.execute(attach))
        mapped = {"schema_translate_map": {None: self.schema}}
        self.engine = self.writer = self.base.execution_options(**mapped)
        self.sessions = async_sessionmaker(self.engine)

    async def create(self) -> None:
        if self.base.dialect.name != "sqlite":
            async with self.base.begin() as connection:
                await connection.execute(CreateSchema(self.schema))
        await super().create()

    async def dispose(self) -> None:
        if self.base.dialect.name != "sqlite":
            async with self.base.begin() as connection:
                cascade = self.base.dialect.name == "postgresql"
                await connection.execute(DropSchema(self.schema, cascade=cascade))
        await super().dispose()


KINDS: Final[list[type[Kind]]] = [Kind, Routed, RoutedAsDocumented, SharingInfo, Translated]


@dataclass
class Unit:
    session: AsyncSession
    writer: AsyncEngine

    async def write(self, effect: int) -> None:
        self.session.add(Effect(number=effect))
        await self.session.flush()

    async def put(self, event: IntegrationEvent) -> None:
        await SQLAlchemyOutbox(self.session).put(Topic("elsewhere"), event)

    async def disconnect(self) -> None:
        bind = {"bind": self.writer.sync_engine}
        connection = await self.session.connection(bind_arguments=bind)
        driver: Any = (await connection.get_raw_connection()).driver_connection
        closing = driver.terminate() if hasattr(driver, "terminate") else driver.close()
        if inspect.isawaitable(closing):
            await closing


class SQLAlchemySessionsDatabase:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.inbox = SQLAlchemyInbox(self.kind.sessions)  # type: ignore[arg-type]

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncGenerator[Unit]:
        async with self.kind.sessions() as session, session.begin():
            yield Unit(session, self.kind.writer)

    def current(self) -> Unit:
        return Unit(current_session(), self.kind.writer)

    async def effects(self) -> list[int]:
        async with self.kind.writer.connect() as connection:
            return sorted(await connection.scalars(select(Effect.number)))

    async def rows(self) -> int:
        return await self._count(INBOX)

    async def waiting(self) -> int:
        return await self._count(OUTBOX)

    async def _count(self, table: Table) -> int:
        async with self.kind.writer.connect() as connection:
            counted = await connection.execute(select(func.count()).select_from(table))
            return int(counted.scalar_one())


@asynccontextmanager
async def through(kind: type[Kind], url: URL) -> AsyncGenerator[SQLAlchemySessionsDatabase]:
    """Give a database with its tables, used through this kind of session."""
    made = kind(url)
    try:
        await made.create()
        yield SQLAlchemySessionsDatabase(made)
    finally:
        await made.dispose()
