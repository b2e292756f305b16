"""An event to a `Message`, and a `Delivery` back to an event.

The body is the event's flat JSON object. Everything about it travels beside it, as CloudEvents 1.0
attributes in the headers, so a partner that knows nothing of CloudEvents reads the body alone, and
one that knows nothing of this package still finds a valid CloudEvent.

| header | holds |
|---|---|
| `ce-specversion`, `ce-id`, `ce-source`, `ce-type`, `ce-time` | CloudEvents 1.0.2, section 3 |
| `ce-eventversion` | ours: the event's version |
| `ce-correlationid`, `ce-causationid` | the Correlation extension |
| `ce-partitionkey` | the Partitioning extension, if the message has a key |
| `ce-traceparent`, `ce-tracestate` | the Distributed Tracing extension |
| `traceparent`, `tracestate` | the same, where tracing tools look (W3C Trace Context) |
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from events.errors import EventEncodeError, InvalidEventError, MalformedEventError
from events.integration._class_checks import own_fields
from events.integration._diagnosis import diagnosis
from events.integration.cloudevents import JSON, attribute, encode_value, unwrapped
from events.integration.codec import EventCodec, codec_of, malformed, read_exactly
from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.message import Delivery, Message, current_correlation, current_delivery
from events.integration.upcasting import has_upcaster, resolve, upcast
from events.integration.uuid7 import uuid7

__all__ = ["EventDecoder", "Serializer", "with_trace"]

TRACING: Final = ("traceparent", "tracestate")
_TRACE_HEADERS: Final = frozenset({*TRACING, *(f"ce-{name}" for name in TRACING)})
MAX_DIGITS: Final = 19

# Headers that would be read as something else, or not at all, on one bus or another. All buses
# refuse them, so that a program that runs on one of them runs on the others.
_TAKEN_BY: Final = {
    "ce-": "CloudEvents",
    "cloudevents_": "CloudEvents, in AMQP",
    "content-type": "CloudEvents",
    "content-encoding": "compression, which this package does not do",
    "data": "the body, in a Redis stream",
    "__data__": "the body, in a Redis stream",
    "eventheaders": "this package, in an envelope",
    "events-": "this package",
    "nats-": "the NATS server",
    "x-death": "RabbitMQ",
    "x-delivery-count": "RabbitMQ",
    "x-acquired-count": "RabbitMQ",
    "x-received-from": "RabbitMQ",
    "x-first-death-": "RabbitMQ",
    "x-last-death-": "RabbitMQ",
    "x-opt-": "RabbitMQ",
    "cc": "RabbitMQ",
    "bcc": "RabbitMQ",
}
_taken_prefixes: Final = tuple(name for name in _TAKEN_BY if name.endswith(("-", "_")))

# RFC 3986, section 4.1: a scheme, or a first segment without a colon; then what a URI may have.
_is_uri_reference = re.compile(
    r"(?:[a-zA-Z][a-zA-Z0-9+.-]*:|(?![^/?#]*:))"
    r"(?://(?:[^/?#\[\]]*@)?\[[0-9a-fA-FvV:.]+\](?::[0-9]*)?(?=[/?#]|\Z))?"
    r"(?:[a-zA-Z0-9._~:/?@!$&'()*+,;=-]|%[0-9a-fA-F]{2})*"
    r"(?:#(?:[a-zA-Z0-9._~:/?@!$&'()*+,;=-]|%[0-9a-fA-F]{2})*)?"
).fullmatch
_is_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9a-zA-Z-]+").fullmatch
_has_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search


class Serializer:
    """Makes messages of events for one `source`, the CloudEvents attribute that names the sender.

    A URI reference, such as "/billing". Safe to share between threads.
    """

    def __init__(self, source: str) -> None:
        given: object = source
        if not isinstance(given, str) or not given or not _is_uri_reference(given):
            raise ValueError(
                f"source is {source!r}: give a URI or a path, such as '/billing', with what URIs "
                f"cannot have percent-encoded, as urllib.parse.quote does"
            )
        self.source = source
        self._source = encode_value(source)

    def encode(
        self,
        topic: str,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Message:
        """Make the message that carries an event.

        Within a handler it inherits the correlation and the trace of the delivery that is being
        handled, and names it as its cause.

        Args:
            topic: The topic's name.
            event: What to send.
            key: Groups messages whose order matters.
            headers: Sent along. Names become lower-case; those of CloudEvents are taken.
            id: The id of an earlier attempt at sending the same; a new UUIDv7 if not given.

        Raises:
            EventEncodeError: the event, the key or a header cannot be sent.
            EventDefinitionError: the event's class cannot be encoded at all.
        """
        given: object = event
        if not isinstance(given, IntegrationEvent):
            raise _not_an_event(given)
        codec = codec_of(event.__class__)
        body = codec.encode(event)
        now = time.time_ns()
        message_id = uuid7(now) if id is None else id
        encoded_id = message_id if id is None else _encoded(codec, "id", id)
        attributes = {
            "ce-specversion": "1.0",
            "ce-id": encoded_id,
            "ce-source": self._source,
            "ce-type": codec.header_type,
            "ce-time": _rfc3339(now),
            "ce-eventversion": codec.header_version,
            "ce-correlationid": encoded_id,
            "content-type": JSON,
        }
        if key is not None:
            attributes["ce-partitionkey"] = _encoded(codec, "key", key)
        trace: dict[str, str] = {}
        cause = current_delivery()
        if cause is not None:
            _inherit(attributes, cause)
            trace = _trace_in(cause.headers)
        correlation = current_correlation()
        if correlation is not None:
            attributes["ce-correlationid"] = _encoded(codec, "the correlation id", correlation)
        if headers:
            others = _checked(headers, codec)
            trace = _trace_in(others) or trace
            attributes.update(others)
        _add_trace(attributes, trace)
        return Message(topic, codec.type, message_id, body, attributes, key)


def with_trace(message: Message, trace: Mapping[str, str]) -> Message:
    """Return the message with this trace context (`traceparent`, `tracestate`) for its own."""
    headers = dict(message.headers)
    for name in _TRACE_HEADERS:
        headers.pop(name, None)
    _add_trace(headers, trace)
    return msgspec.structs.replace(message, headers=headers)


def _add_trace(headers: dict[str, str], trace: Mapping[str, str]) -> None:
    for name, value in trace.items():
        headers[name] = value
        headers[f"ce-{name}"] = encode_value(value)


def _not_an_event(given: object) -> EventEncodeError:
    if isinstance(given, type):
        return EventEncodeError(
            given, f"it is a class, where an event is needed: give `{given.__name__}(...)`"
        )
    return EventEncodeError(
        type(given), "it is not an IntegrationEvent: give an instance of one of its subclasses"
    )


class EventDecoder:
    """Makes events of what is delivered for one registration. Built once, at `register`.

    Type and version are those in the headers (`ce-type`, `ce-eventversion`), where a message has
    them: brokers route by them, and CloudEvents makes them the description of the event. Otherwise
    the body's own count. A CloudEvent from elsewhere may carry the fields alone in its body, or no
    body at all if it has none. Where headers and body both name a type, and the body a version as
    well, and they contradict each other, the message is refused.
    """

    def __init__(self, events: Iterable[type[IntegrationEvent]]) -> None:
        """Prepare the codec of each class.

        Raises:
            EventDefinitionError: one of them is abstract or has a field that cannot be decoded.
        """
        self._wanted: dict[str, dict[int, type[IntegrationEvent]]] = {}
        self._by_headers: dict[tuple[str | None, str | None], EventCodec[IntegrationEvent]] = {}
        for event_class in events:
            codec = codec_of(event_class)
            self._wanted.setdefault(codec.type, {})[codec.version] = event_class
            self._by_headers[codec.header_type, codec.header_version] = codec

    @property
    def types(self) -> frozenset[str]:
        """The types of which some version is wanted."""
        return frozenset(self._wanted)

    def decode(self, delivery: Delivery) -> IntegrationEvent | None:
        """Make the event of a delivery, or None if its type is not wanted.

        Raises:
            MalformedEventError: no JSON object, or none that tells its type and version.
            UnknownEventError: a wanted type in a version that no chain of upcasters leads from.
            InvalidEventError: a field that is missing or does not fit, or an upcaster failed.
        """
        headers = delivery.headers
        said = headers.get("ce-type"), headers.get("ce-eventversion")
        codec = self._by_headers.get(said)
        # A body of ours begins as its headers say; whatever else it is takes longer.
        if codec is not None and delivery.body.startswith(codec.prefix):
            return codec.decode(delivery.body)
        try:
            return self._decode_slowly(unwrapped(delivery))
        except (MalformedEventError, InvalidEventError) as error:
            better = diagnosis(delivery.body)
            if better is None:
                raise
            raise MalformedEventError(better) from error

    def _decode_slowly(self, delivery: Delivery) -> IntegrationEvent | None:
        headers, body = delivery.headers, delivery.body
        type_ = attribute(headers, "type")
        if type_ is not None and type_ not in self._wanted:
            return None
        said = attribute(headers, "eventversion")
        if type_ is not None and not body:
            body = b"{}"  # a CloudEvent without data
        own = _look_into(body)
        if type_ is None:
            if not isinstance(own.type, str):
                raise MalformedEventError("neither its headers nor its body give it a `type`")
            if own.type not in self._wanted:
                return None
            if own.key is None:
                raise MalformedEventError(
                    f"{own.type!r} has {own.version!r} as its `version`, where an integer is needed"
                )
            type_, version = own.key
            if own.specversion is not None and not self._has_specversion(type_):
                raise MalformedEventError("it is a CloudEvents envelope, and no valid one")
        else:
            version = self._version_of(type_, said, own)
        target, steps = resolve(self._registry(type_), type_, version, self._wanted[type_])
        if not steps:
            return codec_of(target).decode(body)
        payload, exact = read_exactly(body)
        return codec_of(target).convert(upcast(payload, (type_, version), steps), exact=exact)

    def _version_of(self, type_: str, said: str | None, own: _Own) -> int:
        """Tell the version of a wanted type that the headers name."""
        if said is not None:
            if not (said.isascii() and said.isdecimal() and len(said) < MAX_DIGITS):
                raise MalformedEventError(f"its header ce-eventversion is {said!r}, no integer")
            if own.key is not None and own.key != (type_, int(said)):
                raise MalformedEventError(
                    f"its headers say {type_!r} version {said}, "
                    f"its body says {own.type!r} version {own.version}"
                )
            return int(said)
        if own.key is not None:
            if own.key[0] != type_:
                raise MalformedEventError(
                    f"its headers say {type_!r}, its body says {own.type!r} version {own.version}"
                )
            return own.key[1]
        wanted = self._wanted[type_]
        known = self._registry(type_).versions(type_).keys() | wanted
        only = next(iter(wanted))
        if len(known) == 1 and not has_upcaster(wanted[only]):
            return only
        raise MalformedEventError(
            f"it does not say which version of {type_!r} it is, and {sorted(known)} are known: "
            f"have its producer set the attribute `eventversion`"
        )

    def _has_specversion(self, type_: str) -> bool:
        """Tell whether it may be one of the event's own fields."""
        wanted = self._wanted[type_].values()
        return any(field.name == "specversion" for each in wanted for field in own_fields(each))

    def _registry(self, type_: str) -> EventRegistry:
        return next(iter(self._wanted[type_].values())).registry


class _Own(msgspec.Struct):
    """What a body says of itself."""

    type: object = None
    version: object = None
    specversion: object = None

    @property
    def key(self) -> tuple[str, int] | None:
        """Type and version, if it says both."""
        type_, version = self.type, self.version
        if not isinstance(type_, str) or isinstance(version, bool) or not isinstance(version, int):
            return None
        return type_, version


_look = msgspec.json.Decoder(_Own).decode


def _look_into(body: bytes) -> _Own:
    try:
        return _look(body)
    except Exception as exc:
        raise malformed(exc) from exc


def _inherit(attributes: dict[str, str], cause: Delivery) -> None:
    """Name the flow and the cause. What a header says is encoded already."""
    cause_id = encode_value(cause.id)
    attributes["ce-correlationid"] = cause.headers.get("ce-correlationid") or cause_id
    attributes["ce-causationid"] = cause_id


def _trace_in(headers: Mapping[str, str]) -> dict[str, str]:
    """Read a trace: parent and state belong together, and that of the last hop is the fresher."""
    if "traceparent" in headers:
        return {name: headers[name] for name in TRACING if name in headers}
    if "ce-traceparent" in headers:
        return {name: value for name in TRACING if (value := attribute(headers, name))}
    return {}


def _checked(headers: Mapping[str, str], codec: EventCodec[Any]) -> dict[str, str]:
    """Lower the names of a user's headers. Their values are sent as they are."""
    given: object = headers
    if not isinstance(given, Mapping):
        raise EventEncodeError(codec.event_class, f"headers are {given!r}: give a mapping")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        reason = _why_not(name, value)
        if reason is None and name.lower() in checked:
            reason = "it is given twice: names differ in more than case"
        if reason is not None:
            raise EventEncodeError(codec.event_class, f"header {name!r}: {reason}")
        checked[name.lower()] = value
    return checked


def _why_not(name: object, value: object) -> str | None:
    """Say why a header of a user's cannot be sent."""
    if not isinstance(name, str) or not isinstance(value, str):
        return f"it has a value {value!r}: names and values are str"
    reason = _why_not_named(name)
    if reason is not None:
        return reason
    if _has_control(value):
        return "its value has a control character, such as a line break"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "its value has a lone surrogate, which is no Unicode text"
    return None


@lru_cache(1024)
def _why_not_named(name: str) -> str | None:
    if not _is_header_name(name):
        return "use letters, digits and hyphens"
    lower = name.lower()
    prefixes = (each for each in _taken_prefixes if lower.startswith(each))
    owner = _TAKEN_BY.get(lower) or _TAKEN_BY.get(next(prefixes, ""))
    return None if owner is None else f"it is taken by {owner}: use another name"


def _encoded(codec: EventCodec[Any], name: str, value: object) -> str:
    """Encode what a caller gives as an attribute."""
    if not isinstance(value, str) or not value:
        raise EventEncodeError(codec.event_class, f"{name} is {value!r}: give a non-empty str")
    try:
        return encode_value(value)
    except UnicodeEncodeError as exc:
        raise EventEncodeError(
            codec.event_class, f"{name} has a lone surrogate, which is no Unicode text: {value!r}"
        ) from exc


_this_second = (-1, "")


def _rfc3339(now: int) -> str:
    """Write nanoseconds since the epoch as RFC 3339 in UTC, with microseconds."""
    global _this_second  # noqa: PLW0603
    second, nanos = divmod(now, 1_000_000_000)
    # Read and written as one, since threads share it.
    kept, text = _this_second
    if second != kept:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _this_second = (second, text)
    return f"{text}.{nanos // 1000:06d}Z"
