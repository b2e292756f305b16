from time import monotonic

import structlog

from events.integration import Handle, IncomingEvent
from examples.user_registration.chassis.logs import bound

_logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("email_service.consumer")


async def log_events(incoming: IncomingEvent, call_next: Handle, /) -> None:
    """A middleware, inside of the inbox: log each event that was handled, which no copy is.

    What fails, the library logs.
    """
    delivery = incoming.delivery
    with bound(correlation_id=delivery.correlation_id):
        began = monotonic()
        await call_next(incoming)
        _logger.info(
            "event handled",
            event_type=incoming.event.type,
            event_id=delivery.id,
            attempt=delivery.attempt,
            ms=round((monotonic() - began) * 1000, 1),
        )
