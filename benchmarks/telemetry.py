"""What tracing costs for each event and each way: off, sampled out, and sampled.

    python -m benchmarks.telemetry

Each figure is the least of several rounds, in microseconds, of the observer's own work around one
message. Spans go to a processor that drops them, as a batch processor's thread takes its time
elsewhere. Without a meter provider, as metrics cost the same in each case; with one in the last.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from events.integration.message import Delivery, Message
from events.integration.observation import Observer, current_observer
from events.opentelemetry import OpenTelemetryObserver

ROUNDS, TIMES = 7, 5_000
HEADERS = {
    "ce-specversion": "1.0",
    "ce-id": "0197f4d0-0000-7000-8000-000000000000",
    "ce-source": "/shop",
    "ce-type": "order.placed",
    "ce-time": "2026-01-01T00:00:00.000000Z",
    "ce-eventversion": "1",
    "ce-correlationid": "0197f4d0-0000-7000-8000-000000000000",
    "content-type": "application/json",
}
MESSAGE = Message("orders", "order.placed", HEADERS["ce-id"], b"{}", HEADERS)
TRACED = HEADERS | {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
DELIVERY = Delivery("orders", "billing", HEADERS["ce-id"], b"{}", TRACED)


def sending(observer: Observer) -> Callable[[], None]:
    def work() -> None:
        with observer.sending(MESSAGE, "memory"):
            pass

    return work


def processing(observer: Observer) -> Callable[[], None]:
    def work() -> None:
        observer.received(DELIVERY, "memory")
        with observer.processing(DELIVERY, "memory", "link", str):
            pass

    return work


def observer(sampler: Sampler, meters: MeterProvider) -> Observer:
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SpanProcessor())
    return OpenTelemetryObserver(tracer_provider=provider, meter_provider=meters)


def microseconds(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=TIMES, repeat=ROUNDS)) / TIMES * 1e6


def main() -> None:
    print(f"off: {microseconds(current_observer):.2f} us to see that nobody observes")
    measured = SdkMeterProvider([InMemoryMetricReader()])
    for name, sampler, meters in (
        ("sampled out", ALWAYS_OFF, NoOpMeterProvider()),
        ("sampled", ALWAYS_ON, NoOpMeterProvider()),
        ("sampled, and measured", ALWAYS_ON, measured),
    ):
        observing = observer(sampler, meters)
        out, way_in = microseconds(sending(observing)), microseconds(processing(observing))
        print(f"{name}: {out:.1f} us for a send, {way_in:.1f} us for a handling")


if __name__ == "__main__":
    main()
