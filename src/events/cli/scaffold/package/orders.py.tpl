"""What the service does. Nothing here knows of HTTP, of a broker or of the relay."""

from uuid import uuid4

from events.integration import Outbox
from sqlalchemy.ext.asyncio import AsyncSession

from {{package}}.contracts import ORDERS, OrderPlacedV1
from {{package}}.database import Order


async def place_order(session: AsyncSession, outbox: Outbox, email: str, quantity: int) -> str:
    """Store an order, announce it, and return its id. The caller commits both together."""
    order_id = str(uuid4())
    session.add(Order(id=order_id, email=email, quantity=quantity))
    await outbox.put(ORDERS, OrderPlacedV1(order_id, email, quantity), key=order_id)
    return order_id
