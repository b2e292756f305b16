"""A consumer: it writes a receipt for each order."""

from events.integration import EventHandlerConsumer, RetryPolicy
from events.sqlalchemy import current_session

from {{package}}.contracts import ORDERS, OrderPlacedV1
from {{package}}.database import Receipt

receipts = EventHandlerConsumer("{{name}}-receipts")


@receipts.on(OrderPlacedV1)
async def write_receipt(event: OrderPlacedV1) -> None:
    """Write the receipt in the transaction that also records the event as handled."""
    text = f"{event.quantity} pieces for {event.email}"
    current_session().add(Receipt(order_id=event.order_id, text=text))


registration = receipts.subscribe(ORDERS, retry=RetryPolicy(attempts=5))
