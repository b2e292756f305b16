"""What tracing and measuring cost for each event and each way, beside the bare SDK.

    python -m benchmarks.telemetry [--instructions]

Each figure is the least of several rounds, in microseconds, of the observer's own work around one
message; the contestants take turns. With `--instructions` it is what callgrind counts, which a busy
machine does not change. Behind it stands how many bare spans that is. Spans go to a processor that
drops them, as a batch processor's thread takes its time elsewhere.

Tracer and meter are measured apart, and together. Beside ours stand the SDK alone, which makes one
bare span, or one with the attributes and the link that ours has, and FastStream's middleware, where
it is installed. It makes two spans for a message that is published, and one for one that is
consumed. python-cqrs, which other benchmarks have, has no middleware for OpenTelemetry as of 5.3.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import (
    Link,
    NoOpTracerProvider,
    SpanContext,
    SpanKind,
    TraceFlags,
    TracerProvider,
)

from events.integration.message import Delivery, Message
from events.integration.observation import current_observer
from events.opentelemetry import OpenTelemetryObserver

Work: TypeAlias = Callable[[], object]
Row: TypeAlias = tuple[str, Work]

ROUNDS, TIMES = 300, 100  # short ones, between what else the machine does
COUNTED, WARMUP = 500, 100
BARE = "the SDK alone, one span"
CASES = "sampled out", "sampled", "measured", "both"
BODY = b"{}"
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
TRACED = HEADERS | {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
MESSAGE = Message("orders", "order.placed", HEADERS["ce-id"], BODY, HEADERS)
DELIVERY = Delivery("orders", "billing", HEADERS["ce-id"], BODY, TRACED)


def bare(tracers: TracerProvider, _: MeterProvider) -> Iterator[Row]:
    tracer = tracers.get_tracer("bench")
    attributes = dict.fromkeys((f"messaging.attribute.{number}" for number in range(10)), "value")
    context = SpanContext(0xA, 0xB, is_remote=True, trace_flags=TraceFlags(0))

    def span() -> None:
        tracer.start_span("send orders").end()

    def full() -> None:
        tracer.start_span(
            "process orders", kind=SpanKind.CONSUMER, attributes=attributes, links=[Link(context)]
        ).end()

    yield BARE, span
    yield "the same, 10 attributes, a link", full


def ours(tracers: TracerProvider, meters: MeterProvider) -> Iterator[Row]:
    observer = OpenTelemetryObserver(tracer_provider=tracers, meter_provider=meters)

    def send() -> None:
        with observer.sending(MESSAGE, "nats"):
            pass

    def handle() -> None:
        observer.received(DELIVERY, "nats")
        with observer.processing(DELIVERY, "nats", "link", str):
            pass

    yield "ours, send", send
    yield "ours, handle", handle


def faststream(tracers: TracerProvider, meters: MeterProvider) -> Iterator[Row]:
    try:
        contestant = import_module("benchmarks.contestants.telemetry")
    except ImportError:
        return
    yield from contestant.rows(tracers, meters, BODY, HEADERS, TRACED)


def least(rows: list[Row]) -> dict[str, float]:
    """Measure them in turns; return microseconds."""
    found = {name: float("inf") for name, _ in rows}
    for _ in range(ROUNDS):
        for name, work in rows:
            found[name] = min(found[name], timeit.timeit(work, number=TIMES) / TIMES * 1e6)
    return found


def _sdk(sampler: Sampler) -> TracerProvider:
    tracers = SdkTracerProvider(sampler=sampler)
    tracers.add_span_processor(SpanProcessor())
    return tracers


def rows_of(case: str) -> list[Row]:
    none, meters = NoOpMeterProvider(), SdkMeterProvider([InMemoryMetricReader()])
    tracers, measured = {
        "sampled out": (_sdk(ALWAYS_OFF), none),
        "sampled": (_sdk(ALWAYS_ON), none),
        "measured": (NoOpTracerProvider(), meters),
        "both": (_sdk(ALWAYS_ON), meters),
    }[case]
    return [row for make in (bare, ours, faststream) for row in make(tracers, measured)]


# --- instructions -----------------------------------------------------------------------------


def work() -> None:
    """Do it all, for callgrind, which writes down at each getppid what it has counted."""
    gc.disable()
    for case in CASES:
        rows = rows_of(case)
        for _, each in rows:
            timeit.timeit(each, number=WARMUP)
        os.getppid()
        for _, each in rows:
            timeit.timeit(each, number=COUNTED)
            os.getppid()


def instructions() -> dict[str, dict[str, float]]:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise SystemExit("it counts with valgrind: apt-get install valgrind")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(valgrind, "--tool=callgrind", f"--callgrind-out-file={folder}/out"),
            *("--dump-before=getppid", sys.executable, "-c"),
            "from benchmarks.telemetry import work; work()",
        ]
        done = subprocess.run(  # noqa: S603 - ours
            command, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        dumps = sorted(
            (path for path in Path(folder).iterdir() if path.suffix.lstrip(".").isdecimal()),
            key=lambda path: int(path.suffix[1:]),
        )
        counts = iter([_total(path.read_text()) / COUNTED for path in dumps])
    found: dict[str, dict[str, float]] = {}
    for case in CASES:
        next(counts)  # what came before its rows
        found[case] = {name: next(counts) for name, _ in rows_of(case)}
    return found


def _total(dump: str) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump, re.MULTILINE)
    assert found is not None, dump[:200]
    return int(found[1])


# --- both -------------------------------------------------------------------------------------


def show(unit: str, cases: Mapping[str, Mapping[str, float]]) -> None:
    print(f"{unit + ' for each event':<34}" + "".join(f"{case:>18}" for case in cases))
    for row in cases["sampled"]:
        cells = (
            f"{figures[row]:>10,.{0 if figures[row] > 1000 else 1}f}"
            # A bare span that nobody makes is no measure.
            + (f" {figures[row] / figures[BARE]:6.1f}x" if case != "measured" else " " * 8)
            for case, figures in cases.items()
        )
        print(f"{row:<34}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instructions", action="store_true", help="count them, by callgrind")
    if parser.parse_args().instructions:
        show("instructions", instructions())
        return
    off = least([("off", current_observer)])["off"]
    print(f"off: {off:.2f} us to see that nobody observes")
    show("us", {case: least(rows_of(case)) for case in CASES})


if __name__ == "__main__":
    main()
