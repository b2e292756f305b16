"""A program of the example, traced: its spans go to an OTLP receiver as soon as they end.

    python -m tests.acceptance.registration.traced URL NAME MODULE [ARGUMENT ...]

What a process has exported outlives its kill, so those that are killed send each span when it ends.
The requests' own spans are FastAPI's.
"""

from __future__ import annotations

import runpy
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from events.opentelemetry import instrument


def set_up(url: str, name: str) -> None:
    provider = TracerProvider(resource=Resource({"service.name": name}))
    exporter = OTLPSpanExporter(f"{url}/v1/traces")
    # Its event loop must not wait for the receiver: clients of HTTP would notice.
    is_killed = name != "users"
    provider.add_span_processor(
        SimpleSpanProcessor(exporter) if is_killed else BatchSpanProcessor(exporter)
    )
    trace.set_tracer_provider(provider)
    instrument()


if __name__ == "__main__":
    _, url, name, module, *arguments = sys.argv
    set_up(url, name)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
