"""`Subscriber`: the transport's subscription of a registration, its scheduler, and closing both.

open --close--> pause the transport --> wait for handlers --> settle --> closed and removed
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

logger = logging.getLogger("events.integration")


class Subscriber:
    """A running subscription with its handlers."""

    def __init__(
        self,
        registration: IntegrationEventBusRegistration,
        scheduler: DeliveryScheduler,
        subscribed: Subscribed,
        forget: Callable[[Subscriber], None],
        *,
        gives_back: bool,
    ) -> None:
        """Start. `forget` is called when it is closed, even if no caller waits for that.

        `gives_back` is true if the broker redelivers what no handler has finished.
        """
        self.registration = registration
        self.scheduler = scheduler
        self._subscribed = subscribed
        self._forget = forget
        self._gives_back = gives_back
        self._closing: asyncio.Task[None] | None = None
        self._grace = math.inf
        self._takes_none = asyncio.Event()
        self.ended = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        try:
            await self._subscribed.wait_closed()
        except Exception:
            logger.exception("%s stopped by itself", self.registration)
            raise

    async def close(self, grace: float) -> None:
        """Stop, wait until the handlers have ended, and return when all deliveries are settled."""
        self.begin_close(grace)
        await self.wait_closed()

    def begin_close(self, grace: float) -> None:
        """Begin to close. Of several calls, the shortest grace counts."""
        self._grace = min(self._grace, grace)
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(grace))
            self._closing.add_done_callback(lambda _: self._forget(self))
        else:
            self.scheduler.hurry(grace)

    async def wait_closed(self) -> None:
        """Return when the closing that `begin_close` began is complete."""
        # The caller may be cancelled, but the closing must still complete.
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def wait_paused(self) -> None:
        """Return when, after `begin_close`, no more handlers start."""
        await self._takes_none.wait()

    @property
    def closing(self) -> bool:
        """Return whether `close` was called."""
        return self._closing is not None

    async def _close(self, grace: float) -> None:
        try:
            await self._subscribed.pause()
            self._takes_none.set()
            cancelled = await self.scheduler.close(grace)
            if cancelled:
                logger.warning(
                    "%s: %d handlers exceeded the grace of %g s; their events are %s",
                    self.registration,
                    cancelled,
                    self._grace,
                    "delivered again" if self._gives_back else "lost, because this bus keeps none",
                )
            if self.scheduler.abandoned:
                logger.error(
                    "%s: %d handlers were cancelled but still run, and are abandoned: a handler "
                    "must not swallow CancelledError",
                    self.registration,
                    self.scheduler.abandoned,
                )
        finally:
            self._takes_none.set()
            await self._subscribed.close()
            await asyncio.wait([self.ended])
            self.ended.exception()  # it was logged when it happened

    def health(self) -> ConsumerHealth:
        """Return the health of this consumer."""
        last = self._subscribed.last_poll
        error: str | None = getattr(self._subscribed, "error", None)  # optional for a transport
        return ConsumerHealth(
            consumer=self.registration.consumer.name,
            topic=self.registration.topic.name,
            alive=not self.ended.done(),
            in_flight=self.scheduler.in_flight,
            last_poll=None if last is None else asyncio.get_running_loop().time() - last,
            error=error,
        )
