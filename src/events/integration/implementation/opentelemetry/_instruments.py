"""The instruments of one provider, and what is counted for them.

Counts are kept here and shown when a reader asks. So an event costs an addition, where an SDK's own
counter takes its attributes apart for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock
from typing import TypeAlias
from weakref import WeakKeyDictionary

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    NoOpMeterProvider,
    Observation,
)

from events.integration.implementation.opentelemetry import conventions as names
from events.integration.implementation.opentelemetry.conventions import Metric

Source: TypeAlias = Callable[[], Iterable[Observation]]


class Tally:
    """Counts of one metric by its attributes, which are given in the order of the metric's own.

    Threads may add to it, each with an event loop of its own, while a reader asks in another.
    """

    __slots__ = ("_counts", "_lock", "_names")

    def __init__(self, metric: Metric) -> None:
        self._names = metric.attributes
        self._counts: dict[tuple[str | None, ...], int] = {}
        self._lock = Lock()

    def add(self, number: int, *values: str | None) -> None:
        """Count so many; an attribute that is None is left out."""
        with self._lock:
            self._counts[values] = self._counts.get(values, 0) + number

    def shown(self) -> list[Observation]:
        """Return what was counted so far."""
        with self._lock:
            counts = list(self._counts.items())
        return [Observation(count, self._named(values)) for values, count in counts]

    def _named(self, values: tuple[str | None, ...]) -> dict[str, str]:
        named = zip(self._names, values, strict=True)
        return {name: value for name, value in named if value is not None}


class Instruments:
    """All that is counted and measured. `measure` is False where no reader would see it."""

    def __init__(self, meters: MeterProvider) -> None:
        self.measure = not isinstance(meters, NoOpMeterProvider)
        self._meter: Meter = meters.get_meter("events", schema_url=names.SCHEMA_URL)
        self._sources: dict[str, list[Source]] = {}
        self.duration = self._histogram(names.CLIENT_DURATION, names.DURATIONS)
        self.process_duration = self._histogram(names.PROCESS_DURATION, names.DURATIONS)
        self.lag = self._histogram(names.LAG, names.LAGS)
        self.sent = self._tally(names.SENT)
        self.consumed = self._tally(names.CONSUMED)
        self.retries = self._tally(names.RETRIES)
        self.dead_letters = self._tally(names.DEAD_LETTERS)
        self.duplicates = self._tally(names.DUPLICATES)
        self.in_flight = self._tally(names.IN_FLIGHT)
        self.paused = self._tally(names.PAUSED)

    def _histogram(self, metric: Metric, bounds: tuple[float, ...]) -> Histogram:
        return self._meter.create_histogram(
            metric.name,
            metric.unit,
            metric.description,
            explicit_bucket_boundaries_advisory=bounds,
        )

    def _tally(self, metric: Metric) -> Tally:
        tally = Tally(metric)
        self.show(metric, tally.shown)
        return tally

    def show(self, metric: Metric, source: Source) -> None:
        """Have a reader find what this source has of a metric, beside what others have.

        An SDK keeps the callback that it got with an instrument's name first, and no other.
        """
        sources = self._sources.get(metric.name)
        if sources is None:
            sources = self._sources[metric.name] = []
            create = {
                "counter": self._meter.create_observable_counter,
                "updowncounter": self._meter.create_observable_up_down_counter,
                "gauge": self._meter.create_observable_gauge,
            }[metric.instrument]
            create(metric.name, [partial(_all, sources)], metric.unit, metric.description)
        sources.append(source)

    def hide(self, metric: Metric, source: Source) -> None:
        """Undo `show`."""
        self._sources[metric.name].remove(source)


def _all(sources: list[Source], _: CallbackOptions) -> list[Observation]:
    return [found for source in tuple(sources) for found in source()]


_made: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def instruments_of(meters: MeterProvider) -> Instruments:
    """Return the instruments of a provider, which has each of them once."""
    found = _made.get(meters)
    if found is None:
        found = _made[meters] = Instruments(meters)
    return found
