"""Settlements as an observer sees them: where the broker answers, a round trip for many deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from events.integration.implementation.redis._link import Link
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.observation import Observer, observing
from events.opentelemetry import instrument, uninstrument
from events.testing import RecordingObserver, eventually
from events.testing.contracts import Harness
from events.testing.contracts.probe import Numbered
from events.testing.contracts.scenario import Scenario
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.sqlalchemy_bus import AsyncpgHarness, MariaDBHarness, SQLiteHarness
from tests.contracts.test_memory_bus import MemoryHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]

PATIENCE = 120.0
ANSWERING: dict[str, type[Harness]] = {
    "redis": StreamsHarness,
    "sqlite": SQLiteHarness,
    "postgresql": AsyncpgHarness,
    "mariadb": MariaDBHarness,
}


class Spans:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def settled(self, topic: str) -> int:
        """Count the deliveries in spans that did not fail."""
        return sum(
            int(str((span.attributes or {})["messaging.batch.message_count"]))
            for span in self.named(f"settle {topic}")
            if span.status.status_code is not StatusCode.ERROR
        )

    def durations(self) -> int:
        data = self.reader.get_metrics_data()
        assert data is not None
        points = (
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "messaging.client.operation.duration"
            for point in metric.data.data_points
        )
        return sum(
            point.count
            for point in points
            if isinstance(point, HistogramDataPoint)
            and (point.attributes or {})["messaging.operation.name"] == "settle"
        )


@pytest.fixture
def spans() -> Generator[Spans]:
    made = Spans()
    instrument(tracer_provider=made.tracers, meter_provider=made.meters)
    yield made
    uninstrument()
    made.tracers.shutdown()
    made.meters.shutdown()


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


@pytest.mark.parametrize("system", ANSWERING)
async def test_many_deliveries_are_settled_in_a_client_span_that_links_each(
    system: str, spans: Spans
) -> None:
    harness = await asyncio.to_thread(ANSWERING[system])
    async with Scenario(harness) as scenario:
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic, Numbered, concurrency=20))
        await bus.send_many(topic, [Numbered(number) for number in range(20)])
        await eventually(lambda: spans.settled(topic.name) == 20, PATIENCE)
    settle = spans.named(f"settle {topic.name}")
    created = [ids(span) for span in spans.named(f"create {topic.name}")]
    assert sorted(link for span in settle for link in links(span)) == sorted(created)
    assert len(settle) < 20, "each has a round trip of its own"
    assert spans.durations() == len(settle)
    for span in settle:
        assert (span.kind, span.parent) == (SpanKind.CLIENT, None)
        assert span.attributes is not None
        assert {**span.attributes, "messaging.batch.message_count": 0} == {
            "messaging.system": system,
            "messaging.operation.name": "settle",
            "messaging.operation.type": "settle",
            "messaging.destination.name": topic.name,
            "messaging.consumer.group.name": probe.name,
            "messaging.batch.message_count": 0,
        }


@pytest.mark.parametrize("system", ANSWERING)
async def test_a_retry_and_a_dead_letter_are_settled_too(system: str, spans: Spans) -> None:
    async def refuse(event: Numbered) -> None:
        raise ValueError("no")

    harness = await asyncio.to_thread(ANSWERING[system])
    async with Scenario(harness) as scenario:
        topic, probe = scenario.topic(), scenario.probe(react=refuse)
        retry = scenario.retry(2, in_place=False)
        registration = scenario.registration(probe, topic, Numbered, retry=retry)
        bus = await scenario.started(registration)
        await bus.send(topic, Numbered(1))
        await scenario.dead_letters(bus, probe, 1)
        await eventually(lambda: spans.settled(topic.name) >= 2, PATIENCE)
    [send] = spans.named(f"send {topic.name}")
    assert {link for span in spans.named(f"settle {topic.name}") for link in links(span)} == {
        ids(send)
    }


@pytest.mark.parametrize("system", ["redis", "postgresql"])
async def test_a_settlement_that_fails_is_a_failed_span_and_tried_in_another(
    system: str, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [True]

    def fails() -> bool:
        return failing.pop() if failing else False

    call, settle = Link.call, Rows.settle

    def refused(link: Link, *command: object, **options: object) -> object:
        command = ("XACK", "only") if command[0] == "XACK" and fails() else command
        return call(link, *command, **options)  # type: ignore[arg-type]

    async def broken(rows: Rows, *args: object) -> None:
        if fails():
            raise OSError("the database is away")
        await settle(rows, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Link, "call", refused)
    monkeypatch.setattr(Rows, "settle", broken)
    harness = await asyncio.to_thread(ANSWERING[system])
    async with Scenario(harness) as scenario:
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic, Numbered))
        await bus.send(topic, Numbered(1))
        await eventually(lambda: spans.settled(topic.name) == 1, PATIENCE)
    failed, settled = spans.named(f"settle {topic.name}")
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert "error.type" in failed.attributes
    assert links(failed) == links(settled)


@pytest.mark.parametrize("system", ["memory", "rabbitmq", "nats"])
async def test_what_needs_no_answer_is_no_round_trip(
    system: str, request: pytest.FixtureRequest
) -> None:
    if system == "rabbitmq":
        harness: Harness = RabbitMQHarness(request.getfixturevalue("rabbitmq_url"))
    else:
        harness = await asyncio.to_thread({"memory": MemoryHarness, "nats": NatsHarness}[system])
    with RecordingObserver() as seen:
        async with Scenario(harness) as scenario:
            topic, probe = scenario.topic(), scenario.probe()
            bus = await scenario.started(scenario.registration(probe, topic, Numbered))
            await bus.send(topic, Numbered(1))
            await eventually(lambda: "settled" in seen.names, PATIENCE)
    assert "settling" not in seen.names


@pytest.mark.parametrize("system", ["redis", "sqlite"])
async def test_a_base_observer_does_not_keep_it_from_being_settled(system: str) -> None:
    harness = await asyncio.to_thread(ANSWERING[system])
    with observing(Observer()):
        async with Scenario(harness) as scenario:
            topic, probe = scenario.topic(), scenario.probe()
            bus = await scenario.started(scenario.registration(probe, topic, Numbered))
            await bus.send(topic, Numbered(1))
            await eventually(lambda: probe.handled == [Numbered(1)], PATIENCE)
            await bus.shutdown()
            await bus.startup()
            left = await bus.backlog(probe.name)
    assert left.waiting == 0
