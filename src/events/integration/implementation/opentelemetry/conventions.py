"""The names of spans, attributes and metrics, as users find them in their backends.

Those that begin with `messaging.` and `cloudevents.` are OpenTelemetry's semantic conventions
v1.44, whose state is "Development": they are written out here, so that they change with a release
of ours and not with one of OpenTelemetry's. Those that begin with `events.` are ours.
"""

from __future__ import annotations

from msgspec import Struct

VERSION = "1.44.0"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{VERSION}"

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION = "messaging.message.conversation_id"
BODY_SIZE = "messaging.message.body.size"
BATCH = "messaging.batch.message_count"
ERROR = "error.type"
EVENT_ID = "cloudevents.event_id"
EVENT_TYPE = "cloudevents.event_type"
EVENT_SOURCE = "cloudevents.event_source"
ATTEMPT = "events.attempt"
REASON = "events.reason"
STATE = "events.state"
SCOPE = "events.scope"
IN_PROCESS, EVERYWHERE = "process", "everywhere"

ATTRIBUTES = {
    SYSTEM: (
        "`rabbitmq`, and our own values: `redis`, `nats`, `memory`; of a database `postgresql`, "
        "`mysql`, `mariadb` or `sqlite`; `other` for a bus of yours without a `system`"
    ),
    OPERATION_NAME: "`create`, `send`, `process` or `settle`; in metrics `receive` too",
    OPERATION_TYPE: "the same",
    DESTINATION: "the topic's name",
    GROUP: "the consumer's name",
    MESSAGE_ID: "the event's id",
    CONVERSATION: "the correlation id",
    BODY_SIZE: "the bytes of the body",
    BATCH: "how many messages were sent, or settled, together",
    ERROR: "the class of the error, where there is one",
    EVENT_ID: "the event's id",
    EVENT_TYPE: "the event's type",
    EVENT_SOURCE: "the service that created the event",
    ATTEMPT: "the number of the attempt, from 1",
    REASON: "why a dead letter is one",
    STATE: "`waiting`, `in_flight`, `delayed` or `dead_letter`",
    SCOPE: "`process` of a pause of this process alone, `everywhere` of a mark at the broker",
}
"""Attributes, and what they hold. Ids are in spans alone, never in metrics."""


class SpanKind(Struct, frozen=True):
    """A kind of span: its name, its OpenTelemetry kind, when there is one and what it links to."""

    name: str
    kind: str
    when: str
    links: str


SPANS = (
    SpanKind(
        "create {topic}",
        "PRODUCER",
        "an event is put into an outbox, or is one of a `send_many`; its context travels with it",
        "the context of the event's creation, if a header gave one",
    ),
    SpanKind(
        "send {topic}",
        "PRODUCER",
        "`send`; its context travels with the event",
        "the context of the event's creation, if a header gave one",
    ),
    SpanKind(
        "send {topic}",
        "CLIENT",
        "a batch leaves: of `send_many`, or rows of an outbox, by a relay",
        "the creation of each event",
    ),
    SpanKind(
        "process {topic}",
        "CONSUMER",
        "each attempt to handle an event",
        'its creation; with `trace="parent"` that is the parent of the very first attempt',
    ),
    SpanKind(
        "settle {topic}",
        "CLIENT",
        "settlements go to the broker, and it answers: Redis Streams, and a database",
        "the creation of each event",
    ),
    SpanKind("handle {event type}", "INTERNAL", "a handler of a domain event runs", "nothing"),
)


class Metric(Struct, frozen=True):
    """A metric: its instrument, unit, meaning and attributes."""

    name: str
    instrument: str
    unit: str
    description: str
    attributes: tuple[str, ...]


_SENT = (SYSTEM, OPERATION_NAME, DESTINATION, ERROR)
_CONSUMED = (SYSTEM, OPERATION_NAME, DESTINATION, GROUP, ERROR)
_AT = (SYSTEM, DESTINATION, GROUP)

CLIENT_DURATION = Metric(
    "messaging.client.operation.duration",
    "histogram",
    "s",
    "Duration of a send, or of a settlement that the broker answers.",
    _CONSUMED,
)
SENT = Metric(
    "messaging.client.sent.messages",
    "counter",
    "{message}",
    "Messages that were sent, or failed to be.",
    _SENT,
)
CONSUMED = Metric(
    "messaging.client.consumed.messages",
    "counter",
    "{message}",
    "Deliveries that came from the broker.",
    (SYSTEM, OPERATION_NAME, DESTINATION, GROUP),
)
PROCESS_DURATION = Metric(
    "messaging.process.duration",
    "histogram",
    "s",
    "Duration of one attempt to handle an event.",
    _CONSUMED,
)
LAG = Metric(
    "events.delivery.lag", "histogram", "s", "From an event's creation until it is handled.", _AT
)
RETRIES = Metric("events.retries", "counter", "{retry}", "Attempts that are tried again.", _AT)
DEAD_LETTERS = Metric(
    "events.dead_letters",
    "counter",
    "{message}",
    "Messages that were given up.",
    (*_AT, REASON),
)
DUPLICATES = Metric(
    "events.duplicates",
    "counter",
    "{message}",
    "Deliveries that an inbox has recognised.",
    (DESTINATION, GROUP),
)
IN_FLIGHT = Metric(
    "events.consumer.in_flight", "updowncounter", "{message}", "Handlings under way.", _AT
)
PAUSED = Metric(
    "events.consumer.paused",
    "updowncounter",
    "{consumer}",
    "1 while a consumer is paused.",
    (GROUP, SCOPE),
)
PENDING = Metric("events.outbox.pending", "gauge", "{message}", "Rows that wait to be sent.", ())
OLDEST_AGE = Metric(
    "events.outbox.oldest_age", "gauge", "s", "How long the oldest due row has waited.", ()
)
PARKED = Metric("events.outbox.parked", "gauge", "{message}", "Rows that were given up.", ())
RELAY_HEALTHY = Metric(
    "events.relay.healthy", "gauge", "1", "1 if the relay is alive and in no outage, else 0.", ()
)
ALIVE = Metric(
    "events.consumer.alive",
    "gauge",
    "1",
    "1 if the consumer receives, 0 if it has ended or its bus is not connected.",
    (DESTINATION, GROUP),
)
BACKLOG = Metric(
    "events.consumer.backlog",
    "gauge",
    "{message}",
    "What a consumer has yet to handle, and its dead letters, as the broker tells.",
    (GROUP, STATE),
)

METRICS = (
    CLIENT_DURATION,
    SENT,
    CONSUMED,
    PROCESS_DURATION,
    LAG,
    RETRIES,
    DEAD_LETTERS,
    DUPLICATES,
    IN_FLIGHT,
    PAUSED,
    PENDING,
    OLDEST_AGE,
    PARKED,
    RELAY_HEALTHY,
    ALIVE,
    BACKLOG,
)

# As the conventions prescribe for durations; a lag may be as long as an outage.
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
LAGS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 21600, 86400)
