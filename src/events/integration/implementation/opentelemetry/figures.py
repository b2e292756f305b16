"""`Measuring`: what has to be asked for, at intervals, as gauges.

Readers of metrics ask in threads of their own, and the database answers to the event loop alone. So
the loop asks, and readers get what it knows. What it could not learn is not shown: the last answer
would look like the present.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol, Self, cast, runtime_checkable

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from events.errors import UnsupportedByBusError
from events.integration.health import Backlog, BusHealth
from events.integration.implementation.opentelemetry import conventions as names
from events.integration.implementation.opentelemetry._instruments import consumer_attributes
from events.integration.outbox import OutboxRelay

__all__ = ["Measuring"]

logger = logging.getLogger("events.integration")


class _Healthy(Protocol):
    def health(self) -> BusHealth: ...


@runtime_checkable
class _Tells(Protocol):
    async def backlog(self, consumer: str) -> Backlog: ...


class Measuring:
    """Have an outbox and consumers show how they are, in `async with Measuring(relay, bus):`.

    Args:
        sources: Relays, and buses that have a `health`.
        every: Seconds between two questions to the database.
        meter_provider: Of the metrics; the global one if None.
    """

    def __init__(
        self,
        *sources: object,
        every: float = 15.0,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._relays = [each for each in sources if isinstance(each, OutboxRelay)]
        others = [each for each in sources if not isinstance(each, OutboxRelay)]
        self._buses = [_checked(each) for each in others]
        if isinstance(every, bool) or not every > 0:
            raise ValueError(f"every must be a number of seconds above 0, not {every!r}")
        self._every = every
        self._figures: dict[str, list[Observation]] = {}
        self._task: asyncio.Task[None] | None = None
        meter = (meter_provider or get_meter_provider()).get_meter(
            "events", schema_url=names.SCHEMA_URL
        )
        for metric in (
            names.PENDING,
            names.OLDEST_AGE,
            names.PARKED,
            names.RELAY_HEALTHY,
            names.ALIVE,
            names.BACKLOG,
        ):
            meter.create_observable_gauge(
                metric.name, [self._shown(metric.name)], metric.unit, metric.description
            )

    def _shown(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: self._figures.get(name, ())

    async def __aenter__(self) -> Self:
        await self.measure()
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._figures = {}

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self.measure()

    async def measure(self) -> None:
        """Ask now. What does not answer is logged, and not shown until it does."""
        figures: dict[str, list[Observation]] = {}

        def show(metric: names.Metric, value: float, attributes: dict[str, str | int]) -> None:
            figures.setdefault(metric.name, []).append(Observation(value, attributes))

        for relay in self._relays:
            health = relay.health()
            show(names.RELAY_HEALTHY, int(health.healthy), {})
            try:
                stats = await asyncio.wait_for(relay.stats(), self._every)
            except Exception as error:  # noqa: BLE001 - whatever the database's library raises
                logger.warning("%r does not say how its outbox is: %s", relay, error)
                continue
            show(names.PENDING, stats.pending, {})
            show(names.OLDEST_AGE, stats.oldest_age, {})
            show(names.PARKED, stats.parked, {})
        for source in self._buses:
            bus = source.health()
            for consumer in bus.consumers:
                attributes = consumer_attributes(None, consumer.topic, consumer.consumer)
                show(names.ALIVE, int(bus.connected and consumer.alive), attributes)
            if isinstance(source, _Tells):
                for name in dict.fromkeys(consumer.consumer for consumer in bus.consumers):
                    for state, count in (await self._backlog(source, name)).items():
                        show(names.BACKLOG, count, {names.GROUP: name, names.STATE: state})
        self._figures = figures

    async def _backlog(self, bus: _Tells, consumer: str) -> dict[str, int]:
        """Return the counts by their state, none of what the broker does not tell."""
        try:
            found = await asyncio.wait_for(bus.backlog(consumer), self._every)
        except UnsupportedByBusError:
            return {}
        except Exception as error:  # noqa: BLE001 - what a bus of the user's raises is no end of it
            logger.warning("%r does not say what waits for %s: %s", bus, consumer, error)
            return {}
        counts = {
            "waiting": found.waiting,
            "in_flight": found.in_flight,
            "delayed": found.delayed,
            "dead_letter": found.dead_letters,
        }
        return {state: count for state, count in counts.items() if count is not None}


def _checked(source: object) -> _Healthy:
    if not callable(getattr(source, "health", None)):
        raise TypeError(f"Measuring takes relays, and buses that have a health, not {source!r}")
    return cast("_Healthy", source)
