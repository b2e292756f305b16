from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import func, select
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


class Base(DeclarativeBase):
    pass


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
        unit = self

        class Write(DomainEventHandler[Completed]):
            async def handle(self, event: Completed) -> None:
                unit.handled.append(event.name)
                if unit.fails:
                    raise ZeroDivisionError
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
