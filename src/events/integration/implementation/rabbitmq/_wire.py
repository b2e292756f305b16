"""A message as RabbitMQ carries it, and back.

The id, the type and the content type are AMQP's own properties; all other headers are in its table
of headers by their own names. What this package adds there begins with `events-`:

    events-attempt    which attempt the next one is, if it is not the first
    events-crashes    in quarantine: how often its process has died at it, in a row
    events-key        the key, if no CloudEvents attribute tells it
    events-letter     the id of a dead letter, beside what `brokering.dead_letters` adds to it

Those and the broker's own are not shown to handlers.

CloudEvents attributes are written with the prefix `ce-`, percent-encoded, as on every bus. They are
read with the prefixes of the AMQP binding as well, `cloudEvents_` and `cloudEvents:`, whose values
are plain text. An event's id is its CloudEvents id; AMQP's message id, which clients fill at random
for each publish, is used where there is none. AMQP's `type` is the event's where neither headers
nor body tell it. `_subscribed` puts the routing key there if it is no type that is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeGuard
from zlib import crc32

from events.integration._attributes import key_in
from events.integration.brokering import dead_letters as records
from events.integration.cloudevents import (
    attribute,
    describes_itself,
    encode_value,
    own_id,
)
from events.integration.implementation.rabbitmq._driver import Properties, new_properties
from events.integration.implementation.rabbitmq._topology import topic_of
from events.integration.message import CRASHED, DeadLetter, Delivery, Message
from events.integration.uuid7 import uuid7

OURS = records.PREFIX
ATTEMPT, CRASHES = "events-attempt", "events-crashes"
KEY, LETTER, REDRIVEN = "events-key", "events-letter", "events-redriven"
RECEIPT = "events-receipt"  # the queue that gets a message when it is handled
CONTENT_TYPE, CONTENT_ENCODING = "content-type", "content-encoding"

_BROKERS = frozenset(
    {"x-death", "x-delivery-count", "x-acquired-count", "x-received-from", "CC", "BCC"}
)
_DELIVERY_LIMIT = "delivery_limit"  # as the broker says why it gave a message up
_ATTRIBUTES = ("cloudevents_", "cloudevents:")
_BROKERS_PREFIXES = (OURS, "x-first-death-", "x-last-death-", "x-opt-")


def to_properties(message: Message) -> Properties:
    """Return the properties of a message that is sent for the first time."""
    headers: dict[str, Any] = dict(message.headers)
    content_type = headers.pop(CONTENT_TYPE, None)
    if message.key is not None and "ce-partitionkey" not in headers:
        headers[KEY] = message.key
    return new_properties(
        message_id=message.id, type=message.type, content_type=content_type, headers=headers
    )


def to_delivery(
    properties: Properties, body: bytes, *, topic: str, consumer: str, attempt: int, crashes: int
) -> Delivery:
    """Return what a message is to a bus. It must have an id."""
    table = _table(properties)
    headers = _headers(properties, body)
    event_id = own_id(headers, body) or properties.message_id or ""
    key = _key(table, headers)
    return Delivery(
        topic, consumer, event_id, body, headers, attempt, key, crashes, REDRIVEN in table
    )


def id_of(properties: Properties, body: bytes) -> str | None:
    """Return the event's id, or None: that of CloudEvents, else AMQP's own."""
    return own_id(_headers(properties, body), body) or properties.message_id or None


def identity(properties: Properties, body: bytes) -> tuple[str, str, int, int]:
    """Return what tells a message from others on its topic, over all redeliveries of it.

    Source and id, if it has them; the number of the attempt; and the body, because a sender
    without a source may use an id twice.
    """
    headers = _headers(properties, body)
    event_id = own_id(headers, body) or properties.message_id or ""
    return attribute(headers, "source") or "", event_id, _tries(properties), hash(body)


def attempt_of(properties: Properties) -> int:
    """Return which attempt this is, as far as we counted."""
    counted = _number(properties, ATTEMPT, 1)
    return counted if counted > 1 else 1  # noqa: FURB136 - for each delivery


def crashes_of(properties: Properties) -> int:
    """Return how often its process has died at what is in quarantine, as far as we counted."""
    return _number(properties, CRASHES)


def _tries(properties: Properties) -> int:
    return attempt_of(properties) + crashes_of(properties)


def returns_of(properties: Properties, *, redelivered: bool) -> int:
    """Return how often the broker has taken the message back, as far as it tells."""
    counted = max(_number(properties, "x-delivery-count"), _number(properties, "x-acquired-count"))
    return max(counted, int(redelivered))


def _number(properties: Properties, name: str, default: int = 0) -> int:
    headers = properties.headers
    value = headers.get(name) if headers else None
    return value if isinstance(value, int) else default


def with_attempt(properties: Properties, attempt: int, *, id: str | None = None) -> Properties:
    """Return the properties for another way through the broker."""
    again = _copied(properties)
    again.headers.pop(CRASHES, None)
    if attempt > 1:
        again.headers[ATTEMPT] = attempt
    else:
        again.headers.pop(ATTEMPT, None)
    if id is not None:
        again.message_id = id
    return again


def with_crashes(properties: Properties, crashes: int) -> Properties:
    """Return the properties for the way into quarantine."""
    again = _copied(properties)
    again.headers[CRASHES] = crashes
    return again


def dead(properties: Properties, record: Mapping[str, str]) -> Properties:
    """Return the properties of a dead letter, of which this is known."""
    dead = with_attempt(properties, 1)
    dead.headers |= {LETTER: uuid7(), **record}
    return dead


def shortened(properties: Properties, excess: int) -> Properties:
    """Return the properties with so many bytes of headers less: first of the error, then of others.

    The package's own are left as they are, apart from the key.
    """
    again = copy(properties)
    again.headers = headers = dict(_table(properties))
    others = [name for name in headers if not name.startswith(OURS) or name == KEY]
    others.sort(key=lambda name: _size(headers[name]), reverse=True)
    for name in (records.ERROR, *others):
        if excess <= 0 or name not in headers:
            continue
        value, size = headers[name], _size(headers[name])
        if isinstance(value, str) and size > excess:
            headers[name] = value.encode()[: size - excess].decode(errors="ignore")
        else:
            del headers[name]
        excess -= size
    return again


def _size(value: Any) -> int:
    """Return about how many bytes a header's value has."""
    return len(value.encode()) if isinstance(value, str) else len(repr(value))


def redriven(properties: Properties, receipt: str | None = None) -> Properties:
    """Return the properties of a dead letter that is sent back."""
    alive = _copied(properties)
    alive.headers = {k: v for k, v in alive.headers.items() if not k.startswith(OURS) or k == KEY}
    alive.headers[REDRIVEN] = "1"
    if receipt is not None:
        alive.headers[RECEIPT] = receipt
    return alive


def _copied(properties: Properties) -> Properties:
    again = copy(properties)
    again.headers = {
        name: _encodable(value)
        for name, value in _table(properties).items()
        if name not in _BROKERS and not name.startswith(_BROKERS_PREFIXES[1:])
    }
    again.delivery_mode = 2
    again.expiration = None  # it has left the queue that this was meant for
    again.user_id = None  # of the connection that sent it, which is not ours
    return again


def _encodable(value: Any) -> Any:
    """Write as text, in a foreign header, what the driver reads and does not write."""
    if isinstance(value, float):
        return str(value)
    if _is_array(value):
        return [_encodable(each) for each in value]
    if _is_table(value):
        return {name: _encodable(each) for name, each in value.items()}
    return value


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def letter_id(properties: Properties, body: bytes) -> str:
    """Return the id of a dead letter; ids sort by time of death."""
    given = _table(properties).get(LETTER)
    if isinstance(given, str):
        return given
    # The broker gave it up. A UUIDv7 begins with the milliseconds as well. Ids of events are unique
    # for their source alone, so what else it consists of counts.
    millis = f"{int(_time(_death(properties)).timestamp() * 1000):012x}"
    source, event_id, _, _ = identity(properties, body)
    digest = f"{crc32(body, crc32(source.encode())):08x}"
    return f"{millis[:8]}-{millis[8:]}-{event_id or 'nameless'}-{digest}"


def to_dead_letter(consumer: str, properties: Properties, body: bytes) -> DeadLetter:
    """Return a message in a queue of dead letters as what it is."""
    headers = _headers(properties, body)
    event_id = own_id(headers, body) or properties.message_id
    record = _given_up(properties) | {
        records.ID: event_id or "",
        records.TYPE: properties.type or "",
    }
    record |= {n: v for n, v in _table(properties).items() if n in records.NAMES}
    return records.read_dead_letter(
        letter_id(properties, body),
        consumer,
        {name: str(value) for name, value in record.items()},
        body=body,
        headers=headers,
        key=_key(_table(properties), headers),
    )


def to_head(consumer: str, properties: Properties, body: bytes) -> DeadLetter:
    """Return the same without body, headers and key, if we have written what else is known."""
    table = _table(properties)
    if not (isinstance(table.get(LETTER), str) and table.get(records.TYPE)):
        return to_dead_letter(consumer, properties, body)
    record = {name: str(table[name]) for name in records.NAMES if name in table}
    return records.read_dead_letter(table[LETTER], consumer, record, body=b"", headers={}, key=None)


def _given_up(properties: Properties) -> dict[str, Any]:
    """Return what is known of a message that the broker itself gave up."""
    death = _death(properties)
    reason = death.get("reason", _DELIVERY_LIMIT)
    return {
        records.TOPIC: topic_of(str(death.get("queue", ""))),
        records.REASON: CRASHED if reason == _DELIVERY_LIMIT else reason,
        records.ERROR: f"the broker gave it up: {reason}",
        records.ATTEMPTS: attempt_of(properties),
        records.DIED_AT: _time(death).isoformat(),
    }


def _death(properties: Properties) -> dict[str, Any]:
    """Return what the broker says of the last time that it gave this up."""
    deaths = _table(properties).get("x-death")
    return deaths[0] if _is_array(deaths) and deaths and _is_table(deaths[0]) else {}


def _time(death: Mapping[str, Any]) -> datetime:
    time = death.get("time")
    if not isinstance(time, datetime):
        return datetime.fromtimestamp(0, UTC)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _headers(properties: Properties, body: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in _table(properties).items():
        if type(value) is not str:
            text = _text(value)
            if text is None:
                continue
            value = text  # noqa: PLW2901
        shown = _shown(name)
        if shown == name:  # the usual case
            headers[name] = value
        elif shown is not None:
            plain = name.lower().startswith(_ATTRIBUTES)
            headers[shown] = encode_value(value) if plain else value
    if properties.content_type is not None:
        headers[CONTENT_TYPE] = properties.content_type
    if properties.content_encoding is not None:
        headers[CONTENT_ENCODING] = properties.content_encoding
    if "ce-type" not in headers and properties.type and not describes_itself(headers, body):
        headers["ce-type"] = encode_value(properties.type)
    return headers


@lru_cache(1024)
def _shown(name: str) -> str | None:
    """Return a header's name as handlers see it; None if they do not."""
    if name in _BROKERS or name.startswith(_BROKERS_PREFIXES):
        return None
    lower = name.lower()
    for prefix in _ATTRIBUTES:
        if lower.startswith(prefix):
            return f"ce-{lower.removeprefix(prefix)}"
    return lower


def _text(value: Any) -> str | None:
    """Write a value of a foreign header as CloudEvents would; None for what is no scalar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):  # text, from clients that tell it from bytes
        with suppress(UnicodeDecodeError):
            return value.decode()
    return None


def _key(table: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    ours = table.get(KEY)
    return ours if isinstance(ours, str) else key_in(headers)


def _table(properties: Properties) -> dict[str, Any]:
    table: dict[str, Any] | None = properties.headers
    return table or {}
