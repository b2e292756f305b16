"""Spans, their parents and links, and metrics, as the SDK gets them."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, StatusCode, TraceState, get_current_span
from opentelemetry.util.types import Attributes
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from events.domain import (
    DomainEvent,
    DomainEventDispatcher,
    DomainEventHandler,
    DomainEventHandlerRegistry,
    SimpleDomainEventHandlerFactory,
)
from events.errors import BatchSendError, MessageTooLargeError
from events.integration import (
    PII,
    EventHandler,
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    OutboxRelay,
    RetryPolicy,
    Topic,
    current_delivery,
)
from events.integration.implementation.opentelemetry.conventions import METRICS
from events.integration.limits import MAX_HEADERS_SIZE
from events.integration.message import Message
from events.integration.observation import TraceMode, current_observer
from events.integration.serialization import Serializer
from events.memory import MemoryBus
from events.opentelemetry import Measuring, instrument, uninstrument
from events.operations import Consumers
from events.sqlalchemy import SQLAlchemyOutbox, SQLAlchemyOutboxStore, outbox_table
from events.testing import eventually, until_quiet

ORDERS, MAILS = Topic("orders"), Topic("mails")


@dataclass
class Placed(IntegrationEvent):
    type = "tests.placed"
    version = 1
    number: int


@dataclass
class SignedUp(IntegrationEvent):
    type = "tests.signed_up"
    version = 1
    email: Annotated[str, PII]


@dataclass
class Mailed(IntegrationEvent):
    type = "tests.mailed"
    version = 1


class Telemetry:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.tracer = self.tracers.get_tracer("tests")

    def instrument(self, *, baggage: bool = False) -> None:
        instrument(tracer_provider=self.tracers, meter_provider=self.meters, baggage=baggage)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        [span] = self.spans(name)
        return span

    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        if data is None:  # nobody has anything to show
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telemetry() -> Generator[Telemetry]:
    telemetry = Telemetry()
    telemetry.instrument()
    yield telemetry
    uninstrument()
    telemetry.tracers.shutdown()
    telemetry.meters.shutdown()


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def bus_with(
    handle: EventHandler, *, trace: TraceMode = "link", retry: RetryPolicy | None = None
) -> MemoryBus:
    consumer = EventHandlerConsumer("billing", {Placed: [handle]})
    registration = IntegrationEventBusRegistration(consumer, ORDERS, retry=retry, trace=trace)
    return MemoryBus([registration], source="/shop")


async def accept(event: Placed) -> None:
    pass


async def test_a_send_is_a_producer_whose_context_travels_to_a_linked_consumer(
    telemetry: Telemetry,
) -> None:
    async with bus_with(accept) as bus:
        with telemetry.tracer.start_as_current_span("request"):
            await bus.send(ORDERS, Placed(1))
        await until_quiet(bus)
    request = telemetry.span("request")
    send = telemetry.span("send orders")
    process = telemetry.span("process orders")
    assert send.kind is SpanKind.PRODUCER
    assert parent(send) == ids(request)
    assert process.kind is SpanKind.CONSUMER
    assert parent(process) is None
    assert links(process) == [ids(send)]
    assert ids(process)[0] != ids(send)[0]


async def test_attributes_are_named_as_the_conventions_have_them(telemetry: Telemetry) -> None:
    async with bus_with(accept) as bus:
        await bus.send(ORDERS, Placed(1))
        await until_quiet(bus)
    send = telemetry.span("send orders").attributes
    process = telemetry.span("process orders").attributes
    assert send is not None
    assert process is not None
    event_id = send["messaging.message.id"]
    shared = {
        "messaging.system": "memory",
        "messaging.destination.name": "orders",
        "messaging.message.id": event_id,
        "messaging.message.conversation_id": event_id,
        "messaging.message.body.size": len(b'{"type":"tests.placed","version":1,"number":1}'),
        "cloudevents.event_id": event_id,
        "cloudevents.event_type": "tests.placed",
        "cloudevents.event_source": "/shop",
    }
    operation = "messaging.operation.name", "messaging.operation.type"
    assert dict(send) == {**shared, **dict.fromkeys(operation, "send")}
    assert dict(process) == {
        **shared,
        **dict.fromkeys(operation, "process"),
        "messaging.consumer.group.name": "billing",
        "events.attempt": 1,
    }


async def test_a_registration_may_have_the_creation_for_its_parent(telemetry: Telemetry) -> None:
    async with bus_with(accept, trace="parent") as bus:
        await bus.send(ORDERS, Placed(1))
        await until_quiet(bus)
    assert parent(telemetry.span("process orders")) == ids(telemetry.span("send orders"))


async def test_a_retry_links_even_then(telemetry: Telemetry) -> None:
    async def fail_once(event: Placed) -> None:
        delivery = current_delivery()
        assert delivery is not None
        if delivery.attempt == 1:
            raise ValueError("once")

    retry = RetryPolicy(attempts=2, delay=0.001)
    async with bus_with(fail_once, trace="parent", retry=retry) as bus:
        await bus.send(ORDERS, Placed(1))
        await until_quiet(bus)
    send = ids(telemetry.span("send orders"))
    first, second = telemetry.spans("process orders")
    assert parent(first) == send
    assert first.status.status_code is StatusCode.ERROR
    assert first.attributes is not None
    assert first.attributes["error.type"] == "ValueError"
    assert parent(second) is None
    assert links(second) == [send]


@pytest.mark.parametrize("trace", ["link", "parent"])
async def test_a_redrive_links_to_the_creation(telemetry: Telemetry, trace: TraceMode) -> None:
    async def refuse(event: Placed) -> None:
        raise ValueError("no")

    async with bus_with(refuse, trace=trace, retry=RetryPolicy(attempts=1)) as bus:
        await bus.send(ORDERS, Placed(1))
        await until_quiet(bus)
        await bus.redrive("billing", await bus.dead_letters("billing"))
        await until_quiet(bus)
    created = ids(telemetry.span("send orders"))
    first, redriven = telemetry.spans("process orders")
    assert parent(first) == (created if trace == "parent" else None)
    assert parent(redriven) is None
    assert links(first) == links(redriven) == [created]


async def test_personal_data_in_an_error_is_masked_in_its_span(telemetry: Telemetry) -> None:
    async def fail(event: SignedUp) -> None:
        raise LookupError(f"no mail to {event.email!r}")

    consumer = EventHandlerConsumer("mails", {SignedUp: [fail]})
    async with MemoryBus([consumer.subscribe(ORDERS, retry=RetryPolicy(attempts=1))]) as bus:
        await bus.send(ORDERS, SignedUp("ada.o'neil@example.org"))
        await until_quiet(bus)
    process = telemetry.span("process orders")
    [recorded] = process.events
    assert process.status.description == 'no mail to "***"'
    assert recorded.attributes is not None
    assert recorded.attributes["exception.type"] == "LookupError"
    assert recorded.attributes["exception.message"] == 'no mail to "***"'
    assert "in fail" in str(recorded.attributes["exception.stacktrace"])
    assert "neil" not in process.to_json()


async def test_what_a_handler_sends_is_a_child_of_its_processing(telemetry: Telemetry) -> None:
    async def send_mail(event: Placed) -> None:
        await bus.send(MAILS, Mailed())

    async with bus_with(send_mail) as bus:
        await bus.send(ORDERS, Placed(1))
        await until_quiet(bus)
    assert parent(telemetry.span("send mails")) == ids(telemetry.span("process orders"))
    assert not telemetry.span("send mails").links


async def test_a_context_that_the_caller_gives_is_not_changed(telemetry: Telemetry) -> None:
    given = f"00-{'a' * 32}-{'b' * 16}-01"
    found: list[str] = []

    async def look(event: Placed) -> None:
        delivery = current_delivery()
        assert delivery is not None
        found.append(delivery.headers["traceparent"])

    async with bus_with(look) as bus:
        await bus.send(ORDERS, Placed(1), headers={"traceparent": given})
        await until_quiet(bus)
    assert found == [given]
    created = [(int("a" * 32, 16), int("b" * 16, 16))]
    assert links(telemetry.span("send orders")) == created
    assert links(telemetry.span("process orders")) == created


async def test_send_many_creates_each_and_sends_once(telemetry: Telemetry) -> None:
    async with bus_with(accept) as bus:
        with telemetry.tracer.start_as_current_span("request"):
            await bus.send_many(ORDERS, [Placed(1), Placed(2)])
        await until_quiet(bus)
    created = [ids(span) for span in telemetry.spans("create orders")]
    send = telemetry.span("send orders")
    assert send.kind is SpanKind.CLIENT
    assert links(send) == created
    assert parent(send) == ids(telemetry.span("request"))
    assert send.attributes is not None
    assert send.attributes["messaging.batch.message_count"] == 2
    assert sorted(
        link for span in telemetry.spans("process orders") for link in links(span)
    ) == sorted(created)


async def test_the_context_of_a_put_is_stored_with_its_row(
    telemetry: Telemetry, tmp_path: Path
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'outbox.db'}")
    metadata = MetaData()
    outbox_table(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    with telemetry.tracer.start_as_current_span("request"):
        async with AsyncSession(engine) as session:
            await SQLAlchemyOutbox(session).put(ORDERS, Placed(1))
            await session.commit()
    store = SQLAlchemyOutboxStore(engine)
    with telemetry.tracer.start_as_current_span("startup"):
        bus = bus_with(accept)
        await bus.startup()
        relay = OutboxRelay(store, bus)
        await relay.startup()
    await relay.drain()
    await until_quiet(bus)
    async with Measuring(relay, bus, meter_provider=telemetry.meters):
        measured = telemetry.metrics()
    await relay.shutdown()
    await bus.shutdown()
    await engine.dispose()
    create, send = telemetry.span("create orders"), telemetry.span("send orders")
    assert parent(create) == ids(telemetry.span("request"))
    assert parent(send) is None
    assert links(send) == [ids(create)]
    assert parent(telemetry.span("process orders")) is None
    assert links(telemetry.span("process orders")) == [ids(create)]
    for name, value in {
        "events.outbox.pending": 0,
        "events.outbox.parked": 0,
        "events.outbox.oldest_age": 0,
        "events.relay.healthy": 1,
        "events.consumer.alive": 1,
    }.items():
        assert [point.value for point in measured[name]] == [value], name
    backlog = {p.attributes["events.state"]: p.value for p in measured["events.consumer.backlog"]}
    assert backlog == {"waiting": 0, "in_flight": 0, "delayed": 0, "dead_letter": 0}
    assert "events.outbox.pending" not in telemetry.metrics()


async def test_metrics_count_and_have_no_ids(telemetry: Telemetry) -> None:
    async def refuse(event: Placed) -> None:
        if event.number == 2:
            raise ValueError("no")

    async with bus_with(refuse, retry=RetryPolicy(attempts=2, delay=0.001)) as bus:
        await bus.send(ORDERS, Placed(1))
        await bus.send(ORDERS, Placed(2))
        await until_quiet(bus)
    metrics = telemetry.metrics()
    at = {
        "messaging.system": "memory",
        "messaging.destination.name": "orders",
        "messaging.consumer.group.name": "billing",
    }
    [sent] = metrics["messaging.client.sent.messages"]
    assert sent.value == 2
    assert sum(p.value for p in metrics["messaging.client.consumed.messages"]) >= 2
    [retries] = metrics["events.retries"]
    assert (retries.value, dict(retries.attributes)) == (1, at)
    [dead] = metrics["events.dead_letters"]
    assert (dead.value, dict(dead.attributes)) == (1, {**at, "events.reason": "retries-exhausted"})
    [in_flight] = metrics["events.consumer.in_flight"]
    assert in_flight.value == 0
    processed = {p.attributes.get("error.type"): p for p in metrics["messaging.process.duration"]}
    assert {error: point.count for error, point in processed.items()} == {None: 1, "ValueError": 2}
    assert processed[None].explicit_bounds[:3] == (0.005, 0.01, 0.025)
    [lag] = metrics["events.delivery.lag"]
    assert lag.count == 1
    documented = {metric.name: metric for metric in METRICS}
    for name, points in metrics.items():
        for point in points:
            assert set(point.attributes) <= set(documented[name].attributes), name


def points(telemetry: Telemetry, name: str) -> dict[frozenset[str], int]:
    """Return the values of a metric by those of its attributes."""
    found = telemetry.metrics().get(name, [])
    return {frozenset(map(str, point.attributes.values())): point.value for point in found}


async def test_a_paused_consumer_is_counted_until_it_is_resumed(telemetry: Telemetry) -> None:
    async with bus_with(accept) as bus, Measuring(bus, meter_provider=telemetry.meters) as measured:
        consumers = Consumers(bus, actor="anna")
        await consumers.pause("billing")
        await bus.send(ORDERS, Placed(1))
        await measured.measure()
        assert points(telemetry, "events.consumer.paused") == {frozenset({"billing", "process"}): 1}
        waiting = points(telemetry, "events.consumer.backlog")[frozenset({"billing", "waiting"})]
        assert waiting == 1, "what waits for it is not shown"
        await consumers.resume("billing")
        await measured.measure()
        assert points(telemetry, "events.consumer.paused") == {frozenset({"billing", "process"}): 0}


async def test_one_that_is_paused_everywhere_is_shown_with_what_waits(telemetry: Telemetry) -> None:
    async with bus_with(accept) as bus, Measuring(bus, meter_provider=telemetry.meters) as measured:
        await bus.pause("billing")
        await eventually(lambda: bus.health().paused)
        await bus.send(ORDERS, Placed(1))
        await measured.measure()
        paused = points(telemetry, "events.consumer.paused")
        assert paused == {frozenset({"billing", "everywhere"}): 1}
        waiting = points(telemetry, "events.consumer.backlog")[frozenset({"billing", "waiting"})]
        assert waiting == 1
        await bus.resume("billing")
        await until_quiet(bus)
        await measured.measure()
        assert not points(telemetry, "events.consumer.paused")


@pytest.mark.parametrize("broken", ["health", "backlog"])
async def test_a_bus_that_cannot_be_asked_leaves_the_others_shown_and_comes_back(
    broken: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("it is broken")

    def known() -> set[str]:
        found = telemetry.metrics().get("events.consumer.backlog", [])
        return {point.attributes["messaging.consumer.group.name"] for point in found}

    def bus_of(name: str) -> MemoryBus:
        consumer = EventHandlerConsumer(name, {Placed: [accept]})
        return MemoryBus([IntegrationEventBusRegistration(consumer, ORDERS)])

    async with bus_of("one") as first, bus_of("two") as second:
        setattr(first, broken, fail)
        async with Measuring(first, second, meter_provider=telemetry.meters) as measuring:
            assert known() == {"two"}
            assert f"{first!r} cannot report its health: it is broken" in caplog.text
            delattr(first, broken)
            await measuring.measure()
            assert known() == {"one", "two"}


async def test_two_measure_with_one_provider_and_one_begins_again(telemetry: Telemetry) -> None:
    one = IntegrationEventBusRegistration(EventHandlerConsumer("one", {Placed: [accept]}), ORDERS)
    two = IntegrationEventBusRegistration(EventHandlerConsumer("two", {Placed: [accept]}), ORDERS)

    def alive() -> set[str]:
        found = telemetry.metrics().get("events.consumer.alive", [])
        return {point.attributes["messaging.consumer.group.name"] for point in found}

    async with MemoryBus([one]) as first, MemoryBus([two]) as second:
        measuring = Measuring(first, meter_provider=telemetry.meters)
        async with Measuring(second, meter_provider=telemetry.meters):
            async with measuring:
                assert alive() == {"one", "two"}
            assert alive() == {"two"}
            async with measuring:
                assert alive() == {"one", "two"}
    assert not alive()


async def test_counts_go_on_when_it_is_switched_on_again(telemetry: Telemetry) -> None:
    for _ in range(2):
        async with bus_with(accept) as bus:
            await bus.send(ORDERS, Placed(1))
            await until_quiet(bus)
        telemetry.instrument()
    assert points(telemetry, "messaging.client.sent.messages") == {
        frozenset({"memory", "send", "orders"}): 2
    }


async def test_a_context_that_cannot_be_read_is_no_link(telemetry: Telemetry) -> None:
    async with bus_with(accept, trace="parent") as bus:
        for given in ("nonsense", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01-x"):
            await bus.transport.publish(
                Message("orders", "tests.placed", "1", b'{"number":1}', headers_with(given))
            )
        await until_quiet(bus)
    process = telemetry.spans("process orders")
    assert len(process) == 3
    assert not any(span.links or span.parent for span in process)


def headers_with(traceparent: str) -> dict[str, str]:
    said = {"id": "1", "source": "/shop", "type": "tests.placed", "eventversion": "1"}
    return {"traceparent": traceparent, **{f"ce-{name}": value for name, value in said.items()}}


async def test_a_sampler_may_look_at_the_links(telemetry: Telemetry) -> None:
    seen: list[tuple[int, int]] = []

    class Looking(Sampler):
        def should_sample(
            self,
            parent_context: Context | None,
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: Attributes = None,
            links: Sequence[Link] | None = None,
            trace_state: TraceState | None = None,
        ) -> SamplingResult:
            seen.extend((link.context.trace_id, link.context.span_id) for link in links or ())
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "looking"

    instrument(tracer_provider=TracerProvider(sampler=Looking()))
    headers: list[str] = []

    async def look(event: Placed) -> None:
        delivery = current_delivery()
        assert delivery is not None
        headers.append(delivery.headers["traceparent"])

    async with bus_with(look) as bus:
        await bus.send(ORDERS, Placed(1))
        await until_quiet(bus)
    [said] = headers
    assert seen == [(int(said[3:35], 16), int(said[36:52], 16))]
    assert said.endswith(("-00", "-02")), "what is sampled out must say so"


async def test_baggage_travels_where_it_is_asked_for(telemetry: Telemetry) -> None:
    found: list[object] = []

    async def look(event: Placed) -> None:
        found.append(baggage.get_baggage("tenant"))

    for asked in (False, True):
        telemetry.instrument(baggage=asked)
        async with bus_with(look) as bus:
            token = context.attach(baggage.set_baggage("tenant", "acme"))
            await bus.send(ORDERS, Placed(1))
            context.detach(token)
            await until_quiet(bus)
    assert found == [None, "acme"]


async def test_a_span_is_current_in_the_handler_and_not_after(telemetry: Telemetry) -> None:
    current: list[bool] = []

    async def look(event: Placed) -> None:
        current.append(get_current_span().is_recording())

    async with bus_with(look) as bus:
        await bus.send(ORDERS, Placed(1))
        await until_quiet(bus)
    assert current == [True]
    assert not get_current_span().is_recording()


async def test_what_is_logged_of_a_failure_belongs_to_its_attempt(telemetry: Telemetry) -> None:
    logged: list[tuple[int, int]] = []

    class Look(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "failed on" in record.getMessage() or "dead letter" in record.getMessage():
                context = get_current_span().get_span_context()
                logged.append((context.trace_id, context.span_id))

    async def refuse(event: Placed) -> None:
        raise ValueError("no")

    look, logger = Look(), logging.getLogger("events.integration")
    logger.addHandler(look)
    try:
        async with bus_with(refuse, retry=RetryPolicy(attempts=2, delay=0.001)) as bus:
            await bus.send(ORDERS, Placed(1))
            await until_quiet(bus)
    finally:
        logger.removeHandler(look)
    assert logged == [ids(span) for span in telemetry.spans("process orders")]


@dataclass
class Paid(DomainEvent):
    type = "tests.paid"


class Ship(DomainEventHandler[Paid]):
    async def handle(self, event: Paid) -> None:
        pass


async def test_a_domain_events_handler_is_a_span_within_the_request(telemetry: Telemetry) -> None:
    factory = SimpleDomainEventHandlerFactory(registry=DomainEventHandlerRegistry.of([Ship]))
    with telemetry.tracer.start_as_current_span("request"):
        async with DomainEventDispatcher(factory) as dispatcher:
            dispatcher.store_event(Paid())
    handle = telemetry.span("handle tests.paid")
    assert parent(handle) == ids(telemetry.span("request"))
    assert handle.attributes is not None
    assert handle.attributes["events.domain.handler"] == "Ship"


async def test_headers_that_the_context_makes_too_large_are_refused(telemetry: Telemetry) -> None:
    bare = Serializer("/shop").encode("orders", Placed(1), headers={"x-large": ""}).headers
    taken = sum(len(name) + len(value) for name, value in bare.items())
    headers = {"x-large": "h" * (MAX_HEADERS_SIZE - taken)}
    async with bus_with(accept) as bus:
        with pytest.raises(MessageTooLargeError, match="headers of"):
            await bus.send(ORDERS, Placed(1), headers=headers)
        with pytest.raises(BatchSendError):
            await bus.send_many(ORDERS, [Placed(1)], headers=headers)
        uninstrument()
        await bus.send(ORDERS, Placed(1), headers=headers)
    failed, *_ = telemetry.spans("send orders")
    assert failed.status.status_code is StatusCode.ERROR


def test_uninstrument_ends_it(telemetry: Telemetry) -> None:
    assert current_observer() is not None
    uninstrument()
    assert current_observer() is None


async def test_without_an_sdk_nothing_is_made_and_everything_works() -> None:
    instrument()
    try:
        async with bus_with(accept) as bus:
            await bus.send(ORDERS, Placed(1))
            await bus.send_many(ORDERS, [Placed(2)])
            await until_quiet(bus)
    finally:
        uninstrument()


def test_measuring_refuses_what_has_no_figures() -> None:
    with pytest.raises(TypeError, match="takes relays, and buses"):
        Measuring(object())
    with pytest.raises(ValueError, match="above 0"):
        Measuring(every=0)
