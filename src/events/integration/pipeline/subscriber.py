"""One registration at work: its transport's subscription, its turn-taking, its end.

open --close--> pause the transport --> let handlers end --> settle --> closed
"""

from __future__ import annotations

import asyncio
import logging

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
    ) -> None:
        self.registration = registration
        self.scheduler = scheduler
        self._subscribed = subscribed
        self._closing: asyncio.Task[None] | None = None
        self.ended = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        try:
            await self._subscribed.wait_closed()
        except Exception:
            logger.exception("%s stopped by itself", self.registration)
            raise

    async def close(self, grace: float) -> None:
        """Stop, wait until the handlers have ended, and return when all is settled.

        The first call decides the grace; all others wait with it.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(grace))
        # Whoever waits may be cancelled; what it waits for must still come to its end.
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
                    "%s: %d handlers outlasted the grace of %g s; their events are delivered again",
                    self.registration,
                    cancelled,
                    grace,
                )
        finally:
            await self._subscribed.close()
            await asyncio.wait([self.ended])
            self.ended.exception()  # logged when it happened

    def health(self) -> ConsumerHealth:
        """Say how this consumer is."""
        last = self._subscribed.last_poll
        return ConsumerHealth(
            consumer=self.registration.consumer.name,
            topic=self.registration.topic.name,
            alive=not self.ended.done(),
            in_flight=self.scheduler.in_flight,
            last_poll=None if last is None else asyncio.get_running_loop().time() - last,
        )
