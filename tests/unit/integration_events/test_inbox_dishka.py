"""The inbox in dishka's REQUEST scope: the handler's session is the inbox's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dishka import Provider, Scope, make_async_container, provide
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from events.errors import InvalidTopologyError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Middleware,
    Outbox,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.dishka import (
    DishkaHandler,
    DishkaScope,
    IntegrationEventImplementationProvider,
    from_scope,
)
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.sqlalchemy import SQLAlchemyInbox, SQLAlchemyOutbox
from events.testing import until_quiet
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, created

TOPIC = Topic("orders")
ID = "0192e4a0-0000-7000-8000-000000000001"


@dataclass
class OrderPaid(IntegrationEvent):
    type = "tests.inbox.order-paid"
    version = 1
    number: int
    fails: bool = False


class Book:
    """A handler class, made by the container."""

    def __init__(
        self, session: AsyncSession, outbox: Outbox, database: SQLAlchemyInboxDatabase
    ) -> None:
        self.session = session
        self.outbox = outbox
        self.database = database

    async def handle(self, event: OrderPaid) -> None:
        await self.session.execute(self.database.written.insert().values(number=event.number))
        await self.outbox.put(TOPIC, event)
        if event.fails:
            raise RuntimeError("no")


class AppProvider(Provider):
    def __init__(self, database: SQLAlchemyInboxDatabase) -> None:
        super().__init__()
        self.there = database
        self.closed = 0

    @provide(scope=Scope.APP)
    def database(self) -> SQLAlchemyInboxDatabase:
        return self.there

    @provide(scope=Scope.REQUEST)
    async def session(self, database: SQLAlchemyInboxDatabase) -> AsyncIterator[AsyncSession]:
        async with database.sessions() as session:
            yield session
        self.closed += 1

    @provide(scope=Scope.REQUEST)
    def outbox(self, session: AsyncSession) -> Outbox:
        return SQLAlchemyOutbox(session)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
    async with created(make_url(f"sqlite+aiosqlite:///{tmp_path}/inbox.db")) as database:
        yield database


def registration() -> IntegrationEventBusRegistration:
    consumer = EventHandlerConsumer("books", {OrderPaid: DishkaHandler(Book)})
    return IntegrationEventBusRegistration(
        consumer, TOPIC, [OrderPaid], retry=RetryPolicy(attempts=2, delay=0)
    )


async def test_row_effect_and_outbox_ride_in_the_session_of_the_scope(
    database: SQLAlchemyInboxDatabase,
) -> None:
    inbox, app = SQLAlchemyInbox(from_scope(AsyncSession)), AppProvider(database)
    container = make_async_container(
        IntegrationEventImplementationProvider(
            InMemoryIntegrationEventBus, [registration()], middlewares=[inbox]
        ),
        app,
    )
    bus = await container.get(InMemoryIntegrationEventBus)
    for _ in range(2):
        await bus.send(TOPIC, OrderPaid(1), id=ID)
    await bus.send(TOPIC, OrderPaid(2, fails=True))
    await until_quiet(bus)
    assert (await database.effects(), await database.rows(), await database.waiting()) == (
        [1],
        1,
        1,
    )
    assert (inbox.handled, inbox.duplicates) == (1, 1)
    assert app.closed == 4, "the scope owns the session, and closes it once per attempt"
    await container.close()


async def test_an_inbox_outside_of_the_scope_is_refused(database: SQLAlchemyInboxDatabase) -> None:
    container = make_async_container(AppProvider(database))
    inbox = SQLAlchemyInbox(from_scope(AsyncSession))
    orders: list[list[Middleware]] = [[inbox, DishkaScope(container)], [inbox]]
    for middlewares in orders:
        bus = InMemoryIntegrationEventBus([registration()], middlewares=middlewares)
        with pytest.raises(
            InvalidTopologyError,
            match=r"from_scope\(AsyncSession\): no DishkaScope precedes it",
        ):
            await bus.startup()
    await container.close()


async def test_a_container_that_has_no_session_is_a_failure_that_says_so(
    database: SQLAlchemyInboxDatabase,
) -> None:
    container = make_async_container(AppProvider(database))
    inbox = SQLAlchemyInbox(from_scope(async_sessionmaker))  # type: ignore[arg-type]
    middlewares: list[Middleware] = [DishkaScope(container), inbox]
    async with InMemoryIntegrationEventBus([registration()], middlewares=middlewares) as bus:
        await bus.send(TOPIC, OrderPaid(1))
        await until_quiet(bus)
        (letter,) = await bus.dead_letters("books")
    assert "async_sessionmaker" in letter.error
    await container.close()


async def test_a_handler_that_uses_the_session_in_async_with_is_a_failure_that_says_so(
    database: SQLAlchemyInboxDatabase,
) -> None:
    class Closes(Book):
        async def handle(self, event: OrderPaid) -> None:
            async with self.session:
                await super().handle(event)

    consumer = EventHandlerConsumer("books", {OrderPaid: DishkaHandler(Closes)})
    container = make_async_container(
        IntegrationEventImplementationProvider(
            InMemoryIntegrationEventBus,
            [
                IntegrationEventBusRegistration(
                    consumer, TOPIC, [OrderPaid], retry=RetryPolicy(attempts=2, delay=0)
                )
            ],
            middlewares=[SQLAlchemyInbox(from_scope(AsyncSession))],
        ),
        AppProvider(database),
    )
    bus = await container.get(InMemoryIntegrationEventBus)
    await bus.send(TOPIC, OrderPaid(1), id=ID)
    await until_quiet(bus)
    (letter,) = await bus.dead_letters("books")
    assert (letter.attempts, await database.effects(), await database.rows()) == (2, [], 0)
    assert "the inbox closes it" in letter.error
    await container.close()
