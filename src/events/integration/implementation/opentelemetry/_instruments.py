"""The instruments that the observer records to, and the attributes that they share.

What is known of a destination is made once: its attributes are looked up, not built, for an event.
Their number is bounded by that of topics and consumers.
"""

from __future__ import annotations

from functools import lru_cache

from opentelemetry.metrics import Counter, Histogram, Meter, UpDownCounter

from events.integration.implementation.opentelemetry import conventions as names

__all__ = ["Attributes", "Instruments", "consumer_attributes", "span_attributes"]

Attributes = dict[str, str | int]


class Instruments:
    """All that is counted and measured as it happens."""

    def __init__(self, meter: Meter) -> None:
        self.send_duration = _histogram(meter, names.SEND_DURATION, names.DURATIONS)
        self.sent = _counter(meter, names.SENT)
        self.consumed = _counter(meter, names.CONSUMED)
        self.process_duration = _histogram(meter, names.PROCESS_DURATION, names.DURATIONS)
        self.lag = _histogram(meter, names.LAG, names.LAGS)
        self.retries = _counter(meter, names.RETRIES)
        self.dead_letters = _counter(meter, names.DEAD_LETTERS)
        self.duplicates = _counter(meter, names.DUPLICATES)
        self.in_flight: UpDownCounter = meter.create_up_down_counter(
            names.IN_FLIGHT.name, names.IN_FLIGHT.unit, names.IN_FLIGHT.description
        )


def _counter(meter: Meter, metric: names.Metric) -> Counter:
    return meter.create_counter(metric.name, metric.unit, metric.description)


def _histogram(meter: Meter, metric: names.Metric, bounds: tuple[float, ...]) -> Histogram:
    return meter.create_histogram(
        metric.name,
        metric.unit,
        metric.description,
        explicit_bucket_boundaries_advisory=bounds,
    )


@lru_cache(1024)
def span_attributes(
    operation: str, system: str | None, topic: str | None, consumer: str | None = None
) -> Attributes:
    """Return what all spans and durations of one operation at one place share. Do not change it."""
    attributes: Attributes = {names.OPERATION_NAME: operation, names.OPERATION_TYPE: operation}
    if system is not None:
        attributes[names.SYSTEM] = system
    if topic is not None:
        attributes[names.DESTINATION] = topic
    if consumer is not None:
        attributes[names.GROUP] = consumer
    return attributes


@lru_cache(1024)
def metric_attributes(
    operation: str,
    system: str,
    topic: str | None,
    consumer: str | None = None,
    error: str | None = None,
) -> Attributes:
    """Return those of `span_attributes` that metrics bear. Do not change it."""
    attributes = {**span_attributes(operation, system, topic, consumer)}
    del attributes[names.OPERATION_TYPE]
    if error is not None:
        attributes[names.ERROR] = error
    return attributes


@lru_cache(1024)
def consumer_attributes(
    system: str | None, topic: str, consumer: str, reason: str | None = None
) -> Attributes:
    """Return what tells a consumer from others. Do not change it."""
    attributes: Attributes = {names.DESTINATION: topic, names.GROUP: consumer}
    if system is not None:
        attributes[names.SYSTEM] = system
    if reason is not None:
        attributes[names.REASON] = reason
    return attributes
