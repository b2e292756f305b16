"""What the service says to others. Add fields with a default; for other changes write a V2."""

from dataclasses import dataclass

from events.integration import IntegrationEvent, Topic

ORDERS = Topic("orders")


@dataclass(frozen=True)
class OrderPlacedV1(IntegrationEvent):
    type = "order.placed"
    version = 1

    order_id: str
    email: str
    quantity: int
