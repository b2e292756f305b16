"""A shop with one database and no broker: it stores a payment, then mails the receipt.

The domain event's handler runs in the transaction of the payment. The mail cannot be rolled back,
so it belongs to an integration event, which the same application handles after the commit.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CheckConstraint
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from events.domain import AggregateRoot, DomainEvent, DomainEventDispatcher, DomainEventHandler
from events.integration import EventHandlerConsumer, IntegrationEvent, Outbox, RetryPolicy, Topic
from events.sqlalchemy import SQLAlchemyBus, SQLAlchemyDomainEvents, bus_table, enable_wal

RECEIPTS = Topic("receipts")
RETRY = RetryPolicy(attempts=3, delay=0.1)
MAILER = "mailer"


class Base(DeclarativeBase):
    pass


bus_table(Base.metadata)


class Order(AggregateRoot, Base):
    __tablename__ = "orders"
    __table_args__ = (CheckConstraint("cents > 0"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    cents: Mapped[int]

    def pay(self, cents: int) -> None:
        self.cents = cents
        self.publish_event(OrderPaid(self))


@dataclass(frozen=True)
class OrderPaid(DomainEvent):
    type = "order.paid"
    order: Order


@dataclass(frozen=True)
class ReceiptDueV1(IntegrationEvent):
    type = "receipt.due"
    version = 1
    order: int
    email: str


@dataclass(frozen=True)
class AskForReceipt(DomainEventHandler[OrderPaid]):
    outbox: Outbox

    async def handle(self, event: OrderPaid) -> None:
        order = event.order
        await self.outbox.put(RECEIPTS, ReceiptDueV1(order.id, order.email))


@dataclass(frozen=True)
class Handlers:
    """The handlers of one unit of work. In a larger application a container makes them."""

    outbox: Outbox

    async def create(self, event_type: type[DomainEvent]) -> list[DomainEventHandler[Any]]:
        return [AskForReceipt(self.outbox)] if event_type is OrderPaid else []


@dataclass(frozen=True)
class Shop:
    bus: SQLAlchemyBus
    sessions: async_sessionmaker[AsyncSession]

    async def pay(self, order: Order, cents: int) -> int:
        """Store the order, its payment and what must follow, or nothing of it."""
        async with self.sessions() as session:
            handlers = Handlers(self.bus.outbox(session))
            SQLAlchemyDomainEvents(session, DomainEventDispatcher(handlers))
            session.add(order)
            order.pay(cents)
            await session.flush()  # the order has its number from here on
            await session.commit()
        return order.id


@asynccontextmanager
async def opened(url: str, mail: Callable[[ReceiptDueV1], Awaitable[None]]) -> AsyncGenerator[Shop]:
    """Open the shop: any process on this database handles what any of them has put."""
    engine = create_async_engine(url)
    if engine.dialect.name == "sqlite":
        await enable_wal(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)  # or Alembic
    mailer = EventHandlerConsumer(MAILER, {ReceiptDueV1: mail})
    try:
        async with SQLAlchemyBus(engine, [mailer.subscribe(RECEIPTS, retry=RETRY)]) as bus:
            yield Shop(bus, async_sessionmaker(engine, expire_on_commit=False))
    finally:
        await engine.dispose()
