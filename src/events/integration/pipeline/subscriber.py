"""One registration at work: its transport's subscription, its turn-taking, its end.

open --close--> pause the transport --> let handlers end --> settle --> closed, and forgotten
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from events.integration.health import ConsumerHealth
from events.integration.pipeline.scheduler import DeliveryScheduler
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Subscribed

__all__ = ["Subscriber"]

logger = logging.getLogger("events.integration")


class Subscriber:
    """Own a running subscription and the handlers that it feeds."""

    def __init__(
        self,
        registration: IntegrationEventBusRegistration,
        scheduler: DeliveryScheduler,
        subscribed: Subscribed,
        forget: Callable[[Subscriber], None],
        *,
        gives_back: bool,
    ) -> None:
        """Begin. `forget` is called when it is closed, whether or not anybody waits for that.

        `gives_back` tells whether what no handler ends with comes again.
        """
        self.registration = registration
        self.scheduler = scheduler
        self._subscribed = subscribed
        self._forget = forget
        self._gives_back = gives_back
        self._closing: asyncio.Task[None] | None = None
        self._grace = math.inf
        self.ended = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        try:
            await self._subscribed.wait_closed()
        except Exception:
            logger.exception("%s stopped by itself", self.registration)
            raise

    async def close(self, grace: float) -> None:
        """Stop, wait until the handlers have ended, and return when all is settled."""
        self.begin_close(grace)
        await self.wait_closed()

    def begin_close(self, grace: float) -> None:
        """Have it closed. Of several calls the shortest grace counts."""
        self._grace = min(self._grace, grace)
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(grace))
            self._closing.add_done_callback(lambda _: self._forget(self))
        else:
            self.scheduler.hurry(grace)

    async def wait_closed(self) -> None:
        """Return when what `begin_close` began has come to its end."""
        # Whoever waits may be cancelled; what it waits for must still come to its end.
        if self._closing is not None:
            await asyncio.shield(self._closing)

    @property
    def closing(self) -> bool:
        """Tell whether `close` was called."""
        return self._closing is not None

    async def _close(self, grace: float) -> None:
        try:
            await self._subscribed.pause()
            cancelled = await self.scheduler.close(grace)
            if cancelled:
                logger.warning(
                    "%s: %d handlers outlasted the grace of %g s; their events are %s",
                    self.registration,
                    cancelled,
                    self._grace,
                    "delivered again" if self._gives_back else "lost, as this bus keeps none",
                )
            if self.scheduler.abandoned:
                logger.error(
                    "%s: %d handlers still run although they were cancelled, and are left to "
                    "themselves: a handler must not swallow CancelledError",
                    self.registration,
                    self.scheduler.abandoned,
                )
        finally:
            await self._subscribed.close()
            await asyncio.wait([self.ended])
            self.ended.exception()  # logged when it happened

    def health(self) -> ConsumerHealth:
        """Say how this consumer is."""
        last = self._subscribed.last_poll
        error: str | None = getattr(self._subscribed, "error", None)  # not every transport knows
        return ConsumerHealth(
            consumer=self.registration.consumer.name,
            topic=self.registration.topic.name,
            alive=not self.ended.done(),
            in_flight=self.scheduler.in_flight,
            last_poll=None if last is None else asyncio.get_running_loop().time() - last,
            error=error,
        )
