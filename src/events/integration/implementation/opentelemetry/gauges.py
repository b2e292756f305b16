"""`Measuring`: gauges whose values are queried at intervals.

Readers of metrics run in their own threads, but the database is used in the event loop. So the loop
queries, and readers get the last result. A failed query shows no value, because an old one would
look current.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeAlias, cast, runtime_checkable

from opentelemetry.metrics import MeterProvider, Observation, get_meter_provider

from events.errors import UnsupportedByBusError
from events.integration.health import Backlog, BusHealth
from events.integration.implementation.opentelemetry import conventions as names
from events.integration.implementation.opentelemetry._instruments import instruments_of
from events.integration.implementation.opentelemetry._places import Attributes, consumer_attributes
from events.integration.outbox import OutboxRelay
from events.integration.topology import Topic

logger = logging.getLogger("events.integration")


class _Healthy(Protocol):
    def health(self) -> BusHealth: ...


@runtime_checkable
class _Tells(Protocol):
    async def backlog(self, consumer: str, *, topics: Iterable[Topic] | None = None) -> Backlog: ...


_Show: TypeAlias = Callable[[names.Metric, float, Attributes], None]

_SHOWN = (
    names.PENDING,
    names.OLDEST_AGE,
    names.PARKED,
    names.RELAY_HEALTHY,
    names.ALIVE,
    names.PAUSED,
    names.BACKLOG,
)


class Measuring:
    """Report an outbox and consumers as gauges, in `async with Measuring(relay, bus):`.

    Args:
        sources: Relays, and buses with a `health`.
        every: Seconds between two queries.
        meter_provider: For the metrics; by default the global one.
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
        self._observed: dict[str, list[Observation]] = {}
        self._topics: dict[tuple[int, str], dict[str, None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._instruments = instruments_of(meter_provider or get_meter_provider())
        self._sources = [(metric, partial(self._found, metric.name)) for metric in _SHOWN]

    def _found(self, name: str) -> list[Observation]:
        return self._observed.get(name, [])

    async def __aenter__(self) -> Self:
        await self.measure()
        for metric, source in self._sources:
            self._instruments.show(metric, source)
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
            for metric, source in self._sources:
                self._instruments.hide(metric, source)
        self._observed = {}

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self.measure()

    async def measure(self) -> None:
        """Query now. A failed query is logged, and its value missing until it succeeds."""
        observed: dict[str, list[Observation]] = {}

        def show(metric: names.Metric, value: float, attributes: Attributes) -> None:
            observed.setdefault(metric.name, []).append(Observation(value, attributes))

        for relay in self._relays:
            try:
                show(names.RELAY_HEALTHY, int(relay.health().healthy), {})
                stats = await asyncio.wait_for(relay.stats(), self._every)
            except Exception as error:  # noqa: BLE001 - whatever the database's library raises
                logger.warning("%r cannot report on its outbox: %s", relay, error)
                continue
            show(names.PENDING, stats.pending, {})
            show(names.OLDEST_AGE, stats.oldest_age, {})
            show(names.PARKED, stats.parked, {})
        for number, source in enumerate(self._buses):
            try:
                await self._measure_bus(source, number, show)
            except Exception as error:  # noqa: BLE001 - as from a bus of the user's
                logger.warning("%r cannot report its health: %s", source, error)
        self._observed = observed

    async def _measure_bus(self, source: _Healthy, number: int, show: _Show) -> None:
        bus = source.health()
        for consumer in bus.consumers:
            attributes = consumer_attributes(consumer.topic, consumer.consumer)
            show(names.ALIVE, int(bus.connected and consumer.alive), attributes)
            self._topics.setdefault((number, consumer.consumer), {})[consumer.topic] = None
        for name in bus.paused:
            show(names.PAUSED, 1, {names.GROUP: name, names.SCOPE: names.EVERYWHERE})
        if isinstance(source, _Tells):
            for name, ask in self._questions(source, number, bus):
                for state, count in (await self._backlog(source, name, ask)).items():
                    show(names.BACKLOG, count, {names.GROUP: name, names.STATE: state})

    def _questions(
        self, source: _Tells, number: int, bus: BusHealth
    ) -> Iterator[tuple[str, Awaitable[Backlog]]]:
        """Ask for each consumer, one too that is paused: what waits for it is what matters then.

        One that this process has paused is not registered any more, but its topics are known.
        """
        here = dict.fromkeys((*(each.consumer for each in bus.consumers), *bus.paused))
        for name in here:
            yield name, source.backlog(name)
        for (of, name), topics in self._topics.items():
            if of == number and name not in here:
                yield name, source.backlog(name, topics=[Topic(topic) for topic in topics])

    async def _backlog(
        self, bus: _Tells, consumer: str, asked: Awaitable[Backlog]
    ) -> dict[str, int]:
        """Return the counts by their state, none of what the broker does not tell."""
        try:
            found = await asyncio.wait_for(asked, self._every)
        except UnsupportedByBusError:
            return {}
        except Exception as error:  # noqa: BLE001 - what a bus of the user's raises is no end of it
            logger.warning("%r cannot report the backlog of %s: %s", bus, consumer, error)
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
