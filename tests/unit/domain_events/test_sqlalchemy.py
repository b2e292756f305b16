from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from events.domain import (
    AggregateRoot,
    DomainEvent,
    DomainEventDispatcher,
    DomainEventHandler,
    DomainEventHandlerRegistry,
    SimpleDomainEventHandlerFactory,
)
from events.domain.implementation.sqlalchemy import SQLAlchemyDomainEvents
from events.errors import EventChainTooLongError
from events.integration import IntegrationEvent, Topic
from events.sqlalchemy import SQLAlchemyOutbox, outbox_table


class Base(DeclarativeBase):
    pass


OUTBOX = outbox_table(Base.metadata)
ORDERS = Topic("orders")


@dataclass(frozen=True)
class OrderCompletedV1(IntegrationEvent):
    type = "domain.order_completed"
    version = 1
    name: str


class Order(AggregateRoot, Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


@dataclass(frozen=True)
class Completed(DomainEvent):
    type = "completed"
    name: str


@pytest.fixture
async def engine() -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


class Unit:
    """A session with its dispatcher, and a handler that writes what it handles."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.handled: list[str] = []
        self.fails = False
        self.act: Callable[[Completed], Awaitable[None]] | None = None
        unit = self

        class Write(DomainEventHandler[Completed]):
            async def handle(self, event: Completed) -> None:
                unit.handled.append(event.name)
                if unit.fails:
                    raise ZeroDivisionError
                if unit.act is not None:
                    await unit.act(event)
                    return
                order = Order(status=f"after {event.name}")
                unit.session.add(order)
                await unit.session.flush()
                if event.name == "first":
                    order.publish_event(Completed("second"))

        registry = DomainEventHandlerRegistry({Completed: [Write]})
        self.session = AsyncSession(engine)
        self.dispatcher = DomainEventDispatcher(SimpleDomainEventHandlerFactory(registry=registry))
        self.events = SQLAlchemyDomainEvents(self.session, self.dispatcher)

    async def stored(self) -> list[str]:
        return [*(await self.session.execute(select(Order.status).order_by(Order.id))).scalars()]


@pytest.fixture
async def unit(engine: AsyncEngine) -> AsyncGenerator[Unit]:
    unit = Unit(engine)
    yield unit
    await unit.session.close()


async def test_a_new_aggregate_and_what_its_handlers_add(unit: Unit) -> None:
    order = Order(status="new")
    order.publish_event(Completed("first"))
    unit.session.add(order)
    await unit.session.commit()

    assert unit.handled == ["first", "second"]
    assert sorted(await unit.stored()) == ["after first", "after second", "new"]


async def test_one_that_was_loaded_and_only_published(unit: Unit) -> None:
    unit.session.add(Order(status="old"))
    await unit.session.commit()
    order = (await unit.session.execute(select(Order))).scalar_one()
    order.publish_event(Completed("published"))
    await unit.session.commit()

    assert unit.handled == ["published"]


async def test_one_that_was_flushed_and_let_go_of(unit: Unit) -> None:
    order = Order(status="new")
    order.publish_event(Completed("flushed"))
    unit.session.add(order)
    await unit.session.flush()
    del order
    gc.collect()
    await unit.session.commit()

    assert unit.handled == ["flushed"]


async def test_one_that_was_deleted(unit: Unit) -> None:
    order = Order(status="old")
    unit.session.add(order)
    await unit.session.commit()
    order.publish_event(Completed("deleted"))
    await unit.session.delete(order)
    await unit.session.commit()

    assert unit.handled == ["deleted"]
    assert await unit.stored() == ["after deleted"]


async def test_nothing_is_saved_if_a_handler_fails(unit: Unit) -> None:
    unit.fails = True
    order = Order(status="new")
    order.publish_event(Completed("failing"))
    unit.session.add(order)
    with pytest.raises(ZeroDivisionError):
        await unit.session.commit()
    await unit.session.rollback()
    unit.fails = False
    await unit.session.commit()

    assert unit.handled == ["failing"]
    assert await unit.stored() == []


async def test_what_is_detached_after_a_handler_failed_commits_nothing_either(unit: Unit) -> None:
    unit.fails = True
    order = Order(status="new")
    order.publish_event(Completed("first"))
    unit.session.add(order)
    with pytest.raises(ZeroDivisionError):
        async with unit.events:
            await unit.session.commit()

    with pytest.raises(PendingRollbackError, match="rollback"):
        await unit.session.commit()
    await unit.session.rollback()
    unit.session.add(Order(status="next"))
    await unit.session.commit()

    assert await unit.stored() == ["next"]


async def test_after_a_handler_failed_nothing_is_committed_before_a_rollback(unit: Unit) -> None:
    unit.fails = True
    order = Order(status="new")
    order.publish_event(Completed("first"))
    unit.session.add(order)
    with pytest.raises(ZeroDivisionError):
        await unit.session.commit()
    unit.fails = False

    with pytest.raises(PendingRollbackError, match="rollback"):
        await unit.session.commit()  # the order without what its event entails
    await unit.session.rollback()
    order = Order(status="next")
    order.publish_event(Completed("next"))
    unit.session.add(order)
    await unit.session.commit()

    assert unit.handled == ["first", "next"]
    assert sorted(await unit.stored()) == ["after next", "next"]


async def test_a_rollback_drops_what_was_published(unit: Unit) -> None:
    order = Order(status="new")
    order.publish_event(Completed("rolled back"))
    unit.session.add(order)
    await unit.session.flush()
    await unit.session.rollback()
    unit.session.add(Order(status="other"))
    await unit.session.commit()

    assert (unit.handled, order.events) == ([], [])


async def test_a_savepoint_that_is_rolled_back_drops_its_own_events_alone(unit: Unit) -> None:
    order = Order(status="new")
    unit.session.add(order)
    order.publish_event(Completed("outer"))
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what fails
        async with unit.session.begin_nested():
            order.publish_event(Completed("inner"))
            unit.session.add(inner := Order(status="inner"))
            inner.publish_event(Completed("inner too"))
            await unit.session.flush()
            raise ZeroDivisionError
    await unit.session.commit()

    assert unit.handled == ["outer"]


async def test_a_savepoint_that_is_released_processes_nothing_yet(unit: Unit) -> None:
    order = Order(status="new")
    unit.session.add(order)
    async with unit.session.begin_nested():
        order.publish_event(Completed("inner"))
    before = list(unit.handled)
    await unit.session.commit()

    assert (before, unit.handled) == ([], ["inner"])


async def test_events_that_were_stored_by_hand_come_first(unit: Unit) -> None:
    order = Order(status="new")
    order.publish_event(Completed("of the order"))
    unit.session.add(order)
    unit.dispatcher.store_event(Completed("by hand"))
    await unit.session.commit()

    assert unit.handled == ["by hand", "of the order"]


async def test_after_detach_and_after_the_block_nothing_is_handed_over(engine: AsyncEngine) -> None:
    unit = Unit(engine)
    async with unit.events:
        pass
    unit.events.detach()
    order = Order(status="new")
    order.publish_event(Completed("alone"))
    unit.session.add(order)
    await unit.session.commit()
    assert (unit.handled, order.pop_events()) == ([], [Completed("alone")])
    await unit.session.close()


async def test_begin_as_a_block_works_alike(engine: AsyncEngine) -> None:
    unit = Unit(engine)
    async with unit.session.begin():
        order = Order(status="new")
        order.publish_event(Completed("in a block"))
        unit.session.add(order)
    assert unit.handled == ["in a block"]
    count = await unit.session.execute(select(func.count()).select_from(Order))
    assert count.scalar() == 2
    await unit.session.close()


@pytest.mark.parametrize("put_before", ["never", "first", "last"])
async def test_a_handler_puts_into_the_outbox(engine: AsyncEngine, put_before: str) -> None:
    async def put(event: Completed) -> None:
        await SQLAlchemyOutbox(work.session).put(ORDERS, OrderCompletedV1(event.name))

    work = Unit(engine)
    work.act = put
    if put_before == "first":  # the outbox then listens to the session before ours does
        work.session = AsyncSession(engine)
        await put(Completed("before"))
        SQLAlchemyDomainEvents(work.session, work.dispatcher)
    elif put_before == "last":
        await put(Completed("before"))
    order = Order(status="new")
    order.publish_event(Completed("of the order"))
    work.session.add(order)
    await work.session.commit()

    stored = (await work.session.execute(select(OUTBOX.c.body).order_by(OUTBOX.c.id))).scalars()
    names = [json.loads(body)["name"] for body in stored]
    assert names == ([] if put_before == "never" else ["before"]) + ["of the order"]
    await work.session.close()


async def test_a_circle_over_new_aggregates_ends_with_its_chain(unit: Unit) -> None:
    async def again(event: Completed) -> None:
        order = Order(status=str(len(unit.handled)))
        order.publish_event(event)
        unit.session.add(order)

    unit.act = again
    order = Order(status="new")
    order.publish_event(Completed("round"))
    unit.session.add(order)
    with pytest.raises(EventChainTooLongError, match="completed -> completed"):
        await unit.session.commit()
    assert len(unit.handled) == 1000


async def test_a_session_that_is_closed_keeps_nothing_for_the_next_commit(unit: Unit) -> None:
    order = Order(status="new")
    order.publish_event(Completed("never committed"))
    unit.session.add(order)
    await unit.session.flush()
    await unit.session.close()
    unit.session.add(Order(status="other"))
    await unit.session.commit()

    assert (unit.handled, await unit.stored()) == ([], ["other"])
    assert order.pop_events() == [Completed("never committed")]


async def test_a_flush_that_fails_in_a_savepoint_drops_the_savepoints_events_alone(
    unit: Unit,
) -> None:
    await unit.session.execute(insert(Order).values(id=7, status="there already"))
    order = Order(id=1, status="new")
    unit.session.add(order)
    order.publish_event(Completed("outer"))
    await unit.session.flush()
    with pytest.raises(IntegrityError):  # noqa: PT012 - the block is what fails
        async with unit.session.begin_nested():
            order.publish_event(Completed("inner"))
            twin = Order(id=2, status="x")
            twin.publish_event(Completed("of the twin"))
            unit.session.add_all([twin, Order(id=7, status="taken")])
            await unit.session.flush()
    await unit.session.commit()

    assert unit.handled == ["outer"]


async def test_a_rollback_drops_the_events_of_what_was_never_flushed(unit: Unit) -> None:
    order = Order(status="new")
    order.publish_event(Completed("never flushed"))
    unit.session.add(order)
    await unit.session.rollback()
    assert order.events == []


class Sheet(AggregateRoot, Base):
    """Collects the events of what is inside it and not mapped."""

    __tablename__ = "sheets"

    id: Mapped[int] = mapped_column(primary_key=True)

    def __init__(self) -> None:
        self.inside = Sheet.Inside()

    class Inside(AggregateRoot):
        pass

    def pop_events(self) -> list[DomainEvent]:
        return [*super().pop_events(), *self.inside.pop_events()]


class Duck(Base):
    """No `AggregateRoot`, and does as one."""

    __tablename__ = "ducks"

    id: Mapped[int] = mapped_column(primary_key=True)

    def __init__(self) -> None:
        self.inside = Sheet.Inside()

    def pop_events(self) -> list[DomainEvent]:
        return self.inside.pop_events()


@pytest.mark.parametrize("cls", [Sheet, Duck])
async def test_whatever_has_a_pop_events_of_its_own(unit: Unit, cls: type[Sheet | Duck]) -> None:
    entity = cls()
    entity.inside.publish_event(Completed("first"))
    unit.session.add(entity)
    await unit.session.commit()
    assert unit.handled == ["first", "second"]


async def test_another_one_for_the_same_session_takes_the_place(unit: Unit) -> None:
    ran: list[str] = []

    class Other(DomainEventHandler[Completed]):
        async def handle(self, event: Completed) -> None:
            ran.append(event.name)

    factory = SimpleDomainEventHandlerFactory(registry=DomainEventHandlerRegistry.of([Other]))
    SQLAlchemyDomainEvents(unit.session, DomainEventDispatcher(factory))
    unit.events.detach()  # has no effect on the new one
    order = Order(status="new")
    order.publish_event(Completed("first"))
    unit.session.add(order)
    await unit.session.commit()
    assert (ran, unit.handled) == (["first"], [])
    await unit.dispatcher.process()
    assert unit.handled == []


def test_a_session_without_asyncio_is_refused() -> None:
    given: Any = Session()
    dispatcher = DomainEventDispatcher(SimpleDomainEventHandlerFactory())
    with pytest.raises(TypeError, match="takes an AsyncSession, not <.*Session object"):
        SQLAlchemyDomainEvents(given, dispatcher)


def test_without_sqlalchemy_the_import_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "import events.domain.implementation.sqlalchemy"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "integration-events[sqlalchemy]" in run.stderr
