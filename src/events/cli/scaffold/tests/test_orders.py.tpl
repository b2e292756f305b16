from events.testing import RecordingOutbox
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from {{package}}.contracts import ORDERS, OrderPlacedV1
from {{package}}.database import Order
from {{package}}.orders import place_order


async def test_an_order_is_stored_and_announced(engine: AsyncEngine) -> None:
    outbox = RecordingOutbox()
    async with AsyncSession(engine) as session:
        order_id = await place_order(session, outbox, "ann@example.com", 2)
        await session.commit()
        assert await session.get(Order, order_id)

    assert outbox.events_of(OrderPlacedV1, ORDERS) == [
        OrderPlacedV1(order_id, "ann@example.com", 2)
    ]
