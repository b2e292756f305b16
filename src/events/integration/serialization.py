"""`Serializer` makes a `Message` of an event, `EventDecoder` an event of a `Delivery`.

The body is the event's flat JSON object. The headers hold its metadata as CloudEvents 1.0
attributes. So a partner without CloudEvents reads only the body, and a partner without this package
still gets a valid CloudEvent.

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
from typing import Final

import msgspec

from events.errors import EventEncodeError, InvalidEventError, MalformedEventError
from events.integration._class_checks import own_fields
from events.integration._diagnosis import diagnosis
from events.integration._header_checks import checked, encoded
from events.integration.cloudevents import JSON, attribute, encode_value, unwrapped
from events.integration.codec import EventCodec, codec_of, malformed, read_exactly
from events.integration.event import EventRegistry, IntegrationEvent
from events.integration.limits import check_headers_size
from events.integration.message import Delivery, Message, current_correlation, current_delivery
from events.integration.upcasting import has_upcaster, resolve, upcast
from events.integration.uuid7 import uuid7

TRACING: Final = ("traceparent", "tracestate")
_TRACE_HEADERS: Final = frozenset({*TRACING, *(f"ce-{name}" for name in TRACING)})
MAX_DIGITS: Final = 19
MANY: Final = 4096  # characters: shorter attributes take a fraction of `MAX_HEADERS_SIZE`

# RFC 3986, section 4.1: a scheme, or a first segment without a colon; then what a URI may have.
_is_uri_reference = re.compile(
    r"(?:[a-zA-Z][a-zA-Z0-9+.-]*:|(?![^/?#]*:))"
    r"(?://(?:[^/?#\[\]]*@)?\[[0-9a-fA-FvV:.]+\](?::[0-9]*)?(?=[/?#]|\Z))?"
    r"(?:[a-zA-Z0-9._~:/?@!$&'()*+,;=-]|%[0-9a-fA-F]{2})*"
    r"(?:#(?:[a-zA-Z0-9._~:/?@!$&'()*+,;=-]|%[0-9a-fA-F]{2})*)?"
).fullmatch


class Serializer:
    """Makes messages of events, with one `source`, the CloudEvents attribute of the sender.

    `source` is a URI reference, such as "/billing". With `check_events`, it refuses values that the
    event's class could not decode. Safe to share between threads.
    """

    def __init__(self, source: str, *, check_events: bool = True) -> None:
        given: object = source
        if not isinstance(given, str) or not given or not _is_uri_reference(given):
            raise ValueError(
                f"source must be a URI or a path, such as '/billing', not {source!r}; "
                f"percent-encode other characters with urllib.parse.quote"
            )
        self.source = source
        self._check = check_events
        self._source = encode_value(source)
        self._room = MANY - len(self._source)

    def encode(
        self,
        topic: str,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Message:
        """Return the message of an event.

        Within a handler, the message inherits the correlation id and the trace of the current
        delivery, and has its id as the causation id.

        Args:
            topic: The topic's name.
            event: The event.
            key: Groups messages whose order matters.
            headers: Additional headers. Names become lower-case; those of CloudEvents are
                reserved.
            id: The id of an earlier attempt to send the same event; by default a new UUIDv7.

        Raises:
            EventEncodeError: the event, the key or a header cannot be sent.
            MessageTooLargeError: the headers are too large; for the body, see `check_body_size`.
            EventDefinitionError: the event's class cannot be encoded at all.
        """
        given: object = event
        if not isinstance(given, IntegrationEvent):
            raise _not_an_event(given)
        codec = codec_of(event.__class__)
        body = codec.encode(event, check=self._check)
        now = time.time_ns()
        message_id = uuid7(now) if id is None else id
        encoded_id = message_id if id is None else encoded(codec.event_class, "id", id)
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
            attributes["ce-partitionkey"] = encoded(codec.event_class, "key", key)
        trace: dict[str, str] = {}
        cause = current_delivery()
        if cause is not None:
            _inherit(attributes, cause)
            trace = _trace_in(cause.headers)
        correlation = current_correlation()
        if correlation is not None:
            attributes["ce-correlationid"] = encoded(
                codec.event_class, "the correlation id", correlation
            )
        if headers:
            others = checked(headers, codec.event_class)
            trace = _trace_in(others) or trace
            attributes.update(others)
        if trace:
            _add_trace(attributes, trace)
        message = Message(topic, codec.type, message_id, body, attributes, key)
        room = self._room - len(codec.header_type)
        if key or id or correlation:
            room -= len(key or "") + len(id or "") + len(correlation or "")
        if headers or cause or room < 0:
            check_headers_size(message)  # else they are small: all the rest is of our own making
        return message


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
        return EventEncodeError(given, f"it is a class, not an event: pass `{given.__name__}(...)`")
    return EventEncodeError(
        type(given), "it is not an IntegrationEvent: pass an instance of one of its subclasses"
    )


class EventDecoder:
    """Makes events of the deliveries of one registration. Made once, at `register`.

    Type and version come from the headers (`ce-type`, `ce-eventversion`) if a message has them,
    because brokers route by them, and CloudEvents describes an event by them. Otherwise they come
    from the body. The body of a foreign CloudEvent may hold only the fields, or be empty if there
    are none. If the headers name a type, the body a type and a version, and they contradict each
    other, the message is refused.
    """

    def __init__(self, events: Iterable[type[IntegrationEvent]]) -> None:
        """Prepare the codec of each class.

        Raises:
            EventDefinitionError: a class is abstract, or has a field that cannot be decoded.
        """
        self._wanted: dict[str, dict[int, type[IntegrationEvent]]] = {}
        self._by_headers: dict[tuple[str | None, str | None], EventCodec[IntegrationEvent]] = {}
        for event_class in events:
            codec = codec_of(event_class)
            self._wanted.setdefault(codec.type, {})[codec.version] = event_class
            self._by_headers[codec.header_type, codec.header_version] = codec

    @property
    def types(self) -> frozenset[str]:
        """The types of the registration's events."""
        return frozenset(self._wanted)

    def decode(self, delivery: Delivery) -> IntegrationEvent | None:
        """Return the event of a delivery, or None if its type is not registered.

        Raises:
            MalformedEventError: it is not a JSON object, or has no type or no version.
            UnknownEventError: the type is registered, but no chain of upcasters begins at the
                version.
            InvalidEventError: a field is missing or does not fit, or an upcaster failed.
        """
        headers = delivery.headers
        codec = self._by_headers.get((headers.get("ce-type"), headers.get("ce-eventversion")))
        # Bodies of this package begin with the type and version of their headers: the fast path.
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
                raise MalformedEventError(
                    "neither its headers nor its body have a `type`: have its producer put "
                    "`type` and `version` into the body, or the type into the header ce-type"
                )
            if own.type not in self._wanted:
                return None
            if own.key is None:
                raise MalformedEventError(
                    f"the `version` of {own.type!r} is {own.version!r}, not an integer: have its "
                    f"producer put one beside `type`"
                )
            type_, version = own.key
            if own.specversion is not None and not self._has_specversion(type_):
                raise MalformedEventError("it is an invalid CloudEvents envelope")
        else:
            version = self._version_of(type_, said, own)
        target, steps = resolve(self._registry(type_), type_, version, self._wanted[type_])
        if not steps:
            return codec_of(target).decode(body)
        payload, exact = read_exactly(body)
        return codec_of(target).convert(upcast(payload, (type_, version), steps), exact=exact)

    def _version_of(self, type_: str, said: str | None, own: _Own) -> int:
        """Return the version in the headers, for a wanted type."""
        if said is not None:
            if not (said.isascii() and said.isdecimal() and len(said) < MAX_DIGITS):
                raise MalformedEventError(f"its header ce-eventversion is {said!r}, not an integer")
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
            f"it has no version of {type_!r}, and the versions {sorted(known)} are known: "
            f"have its producer set the attribute `eventversion`"
        )

    def _has_specversion(self, type_: str) -> bool:
        """Return whether `specversion` may be one of the event's own fields."""
        wanted = self._wanted[type_].values()
        return any(field.name == "specversion" for each in wanted for field in own_fields(each))

    def _registry(self, type_: str) -> EventRegistry:
        return next(iter(self._wanted[type_].values())).registry


class _Own(msgspec.Struct):
    """The type and version in a body."""

    type: object = None
    version: object = None
    specversion: object = None

    @property
    def key(self) -> tuple[str, int] | None:
        """Type and version, if the body has both."""
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
    """Add the correlation and causation ids. Values from headers are already encoded."""
    cause_id = encode_value(cause.id)
    attributes["ce-correlationid"] = cause.headers.get("ce-correlationid") or cause_id
    attributes["ce-causationid"] = cause_id


def _trace_in(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the trace of a delivery: parent and state together, preferably of the last hop."""
    if "traceparent" in headers:
        return {name: headers[name] for name in TRACING if name in headers}
    if "ce-traceparent" in headers:
        return {name: value for name in TRACING if (value := attribute(headers, name))}
    return {}


_MICROS: Final = [f"{micros:03d}Z" for micros in range(1000)]
_this_milli = (-1, "")


def _rfc3339(now: int) -> str:
    """Write nanoseconds since the epoch as RFC 3339 in UTC, with microseconds."""
    global _this_milli  # noqa: PLW0603
    milli, nanos = divmod(now, 1_000_000)
    # Read and written as one, since threads share it.
    kept, text = _this_milli
    if milli != kept:
        second, millis = divmod(milli, 1000)
        text = f"{_second(second)}.{millis:03d}"
        _this_milli = (milli, text)
    return text + _MICROS[nanos // 1000]


@lru_cache(1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
