"""What the service says to others. Add fields with a default; for other changes write a V2.

What is marked as `PII` is sent as it is, and masked in logs, in errors and on the dashboard.
"""

from dataclasses import dataclass
from typing import Annotated

from events.integration import PII, IntegrationEvent, Topic

ORDERS = Topic("orders")


@dataclass(frozen=True)
class OrderPlacedV1(IntegrationEvent):
    type = "order.placed"
    version = 1

    order_id: str
    email: Annotated[str, PII]
    quantity: int
