"""Consumers that are paused in all processes, by a mark that their broker keeps.

    running --marked--> halted: running handlers end, none is begun, events wait at the broker
       ^                   |
       '----- unmarked ----'

Each process looks at the marks of its consumers when it starts, before it registers another, and
every few seconds. What it cannot see, as in an outage, stays as it was.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection

from events.errors import BusError
from events.integration.pipeline.cancelling import Background, failure_of
from events.integration.pipeline.lifecycle import LifecycleLock
from events.integration.pipeline.registry import ConsumerRegistry
from events.integration.pipeline.retry import describe
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import PauseStore

logger = logging.getLogger("events.integration")

_PAUSED = "%s is paused, in all processes, until it is resumed"
LOOK_EVERY = 5.0  # seconds at most; processes that started together do not look together


class PauseWatch:
    """Pause and resume the consumers of one bus by their marks.

    `registrations` gives those of the bus; handlers that run when a pause begins have `grace`.
    While the store is not `connected`, it says nothing of marks it cannot see: an outage is a line
    of the transport's.
    """

    def __init__(
        self,
        store: PauseStore,
        consumers: ConsumerRegistry,
        registrations: Callable[[], Collection[IntegrationEventBusRegistration]],
        lifecycle: LifecycleLock,
        grace: float,
        connected: Callable[[], bool],
    ) -> None:
        self.store = store
        self._connected = connected
        self._consumers = consumers
        self._registrations = registrations
        self._lifecycle = lifecycle
        self._grace = grace
        self._watch: Background | None = None
        self._cannot_look = False
        self.paused: frozenset[str] = frozenset()

    async def subscribe(self, registration: IntegrationEventBusRegistration) -> None:
        """Return when the consumer receives or, if it is paused, when its events are kept."""
        if registration.consumer.name in self.paused:
            logger.warning(_PAUSED, registration)
            await self._consumers.declare(registration, self.store)
        else:
            await self._consumers.subscribe(registration)

    async def mark(self, name: str, *, paused: bool) -> bool:
        """Pause or resume a consumer in all processes, and here now; return whether it was not."""
        changed = await self.store.set_paused(name, paused=paused)
        await self.look()
        await self._follow()
        return changed

    async def look(self, *also: str) -> None:
        """Look at the marks now, and at those of consumers that are about to be registered."""
        names = {*(each.consumer.name for each in self._registrations()), *also}
        if not names:
            return
        try:
            self.paused = await self.store.paused(names)
        except BusError as error:
            if not self._cannot_look and self._connected():
                logger.warning("cannot read which consumers are paused, will retry: %s", error)
                self._cannot_look = True
        else:
            self._cannot_look = False

    def begin(self) -> None:
        """Look from time to time."""
        self._watch = Background(self._run, name="paused consumers")

    def stop(self) -> None:
        """Look no more; `end` waits for it."""
        if self._watch is not None:
            self._watch.stop()

    async def end(self) -> None:
        """Stop looking, and forget what was seen."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.end()
        self.paused = frozenset()
        self._cannot_look = False

    async def _follow(self) -> None:
        marked = self.paused
        for name in await self._consumers.halt(marked, self._grace):
            logger.warning(_PAUSED, name)
        for registration in self._consumers.halted:
            if registration.consumer.name not in marked:
                async with self._lifecycle:
                    if registration in self._consumers.halted:  # not stopped meanwhile
                        await self._consumers.subscribe(registration)
                        if registration not in self._registrations():  # unregistered meanwhile
                            await self._consumers.close(registration, 0)
                            continue
                        logger.warning("%s is resumed", registration)

    async def _run(self, calling: asyncio.Lock) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY * random.uniform(0.5, 1))  # noqa: S311 - no secret
            try:
                async with calling:
                    await self.look()
                await self._follow()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it goes on looking
                failure = describe(failure_of(error))
                logger.warning("cannot pause or resume a consumer, will retry: %s", failure)
