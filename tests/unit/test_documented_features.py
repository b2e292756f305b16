"""The table of docs/reference/buses/index.md says what the transports declare.

To rewrite it: python -m tests.unit.test_documented_features
"""

from pathlib import Path

from events.integration.implementation.memory import (
    InMemoryBroadcastTransport,
    InMemoryTransport,
)
from events.integration.implementation.nats import NatsTransport
from events.integration.implementation.rabbitmq import RabbitMQTransport
from events.integration.implementation.redis import RedisPubSubTransport, RedisStreamsTransport
from events.integration.implementation.sqlalchemy import SQLAlchemyTransport
from events.integration.transport import TransportFeatures

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "buses" / "index.md"
BEGIN, END = "<!-- features: begin -->\n", "<!-- features: end -->"

BUSES: dict[str, TransportFeatures] = {
    "in-memory": InMemoryTransport.features,
    "in-memory broadcast": InMemoryBroadcastTransport.features,
    "RabbitMQ": RabbitMQTransport.features,
    "Redis Streams": RedisStreamsTransport.features,
    "Redis pub/sub": RedisPubSubTransport.features,
    "NATS JetStream": NatsTransport.features,
    "a database": SQLAlchemyTransport.features,
}

ROWS = {
    "durability": "an accepted event outlives",
    "delivery": "delivery",
    "before_first_start": "sent before the first start",
    "headers": "headers",
    "delayed_retry": "retries through the broker",
    "dead_letters": "dead letters",
    "ordered": "in order",
}


def table() -> str:
    lines = [f"| | {' | '.join(BUSES)} |", "|---" * (len(BUSES) + 1) + "|"]
    for field, title in ROWS.items():
        values = [str(getattr(features, field)) for features in BUSES.values()]
        shown = [{"True": "yes", "False": "no"}.get(value, value) for value in values]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def test_every_feature_has_a_row() -> None:
    assert set(ROWS) == set(TransportFeatures.__struct_fields__)


def test_the_table_says_what_the_transports_declare() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table()


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
