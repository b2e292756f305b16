"""The service as a whole, on a database in a file: from an order to its receipt."""

%% if broker
from events.integration import OutboxRelay
from events.memory import MemoryBus
from events.sqlalchemy import SQLAlchemyInbox, SQLAlchemyOutboxStore
from events.testing import until_quiet
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from {{package}}.contracts import ORDERS, OrderPlacedV1
%% else
from events.testing import eventually
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from {{package}}.app import make_bus
%% end
from {{package}}.database import Receipt, make_outbox
from {{package}}.orders import place_order
%% if broker
from {{package}}.receipts import receipts, registration
%% else
from {{package}}.receipts import receipts
%% end


async def receipts_in(engine: AsyncEngine) -> list[str]:
    async with AsyncSession(engine) as session:
        return list(await session.scalars(select(Receipt.text)))


%% if broker
async def test_an_order_gets_its_receipt(engine: AsyncEngine) -> None:
    inbox = SQLAlchemyInbox(async_sessionmaker(engine))
    async with MemoryBus([registration], middlewares=[inbox]) as bus:
        async with OutboxRelay(SQLAlchemyOutboxStore(engine), bus) as relay:
            async with AsyncSession(engine) as session:
                await place_order(session, make_outbox(session), "ann@example.com", 2)
                await session.commit()
            await relay.drain()
        await until_quiet(bus)
        assert await bus.dead_letters(receipts) == []
    assert await receipts_in(engine) == ["2 pieces for ann@example.com"]


async def test_a_repeated_event_takes_effect_once(engine: AsyncEngine) -> None:
    inbox = SQLAlchemyInbox(async_sessionmaker(engine))
    event = OrderPlacedV1("1", "ann@example.com", 2)
    event_id = "0192e4a0-0000-7000-8000-000000000001"
    async with MemoryBus([registration], middlewares=[inbox]) as bus:
        await bus.send(ORDERS, event, id=event_id)
        await bus.send(ORDERS, event, id=event_id)
        await until_quiet(bus)
        assert await bus.dead_letters(receipts) == []
    assert await receipts_in(engine) == ["2 pieces for ann@example.com"]
%% else
async def test_an_order_gets_its_receipt(engine: AsyncEngine) -> None:
    async with make_bus(engine) as bus:
        async with AsyncSession(engine) as session:
            await place_order(session, make_outbox(session), "ann@example.com", 2)
            await session.commit()
        assert await eventually(lambda: receipts_in(engine)) == ["2 pieces for ann@example.com"]
        assert await bus.dead_letters(receipts) == []


async def test_an_order_that_is_rolled_back_gets_none(engine: AsyncEngine) -> None:
    async with make_bus(engine):
        async with AsyncSession(engine) as session:
            await place_order(session, make_outbox(session), "bob@example.com", 1)
            await session.rollback()
            await place_order(session, make_outbox(session), "ann@example.com", 2)
            await session.commit()
        assert await eventually(lambda: receipts_in(engine)) == ["2 pieces for ann@example.com"]
%% end
