"""The driver's names, and what it raises or reports as errors of ours.

With `_connection` and `_channel`, which have futures where it has callbacks, the only modules that
know it. What leaves them is one of these:

    DriverError
    ├── LostError      the connection or channel is gone, for a reason that says nothing of the call
    ├── RefusedError   the broker closed the channel, with a code, because of what was asked
    ├── NoChannelError the connection has as many channels as the broker allows
    └── SilentError    no answer within the deadline

Where its public ways are too long, those two go past them (decision 0012). Such a place may move
with any release of the driver, so all of them are looked for when this is imported; without one,
the driver's public way is used, which is slower.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from functools import cache
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

from events.errors import MissingExtraError

try:
    import pika  # type: ignore[import-untyped]
    import pika.adapters.asyncio_connection  # type: ignore[import-untyped]
    import pika.channel  # type: ignore[import-untyped]
    import pika.exceptions  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError("events.integration.implementation.rabbitmq", "rabbitmq") from error

Properties: TypeAlias = Any
"""The properties of AMQP's basic content, by their names."""

_pika: Any = pika
_Ack: Any = _pika.spec.Basic.Ack
BasicProperties: Any = _pika.BasicProperties
AsyncioConnection: Any = _pika.adapters.asyncio_connection.AsyncioConnection
URLParameters: Any = _pika.URLParameters
ClosedByBroker: Any = _pika.exceptions.ChannelClosedByBroker
StreamLost: Any = _pika.exceptions.StreamLostError
NoFreeChannels: Any = _pika.exceptions.NoFreeChannels

# What is used of the driver that is not public, in three groups: where a place of one is not there,
# the driver's own way is used instead of ours. `_terminate_stream` is looked for where it is used.
READING = (
    "_channels", "_frame_buffer", "_on_data_available", "_process_frame", "_read_frame",
    "_trim_frame_buffer", "bytes_received", "frames_received", "_cancelled", "_consumers",
)  # fmt: skip
FRAMES = ("_output_marshaled_frames",)
EMITTING = ("_adapter_disconnect_stream", "_adapter_emit_data", "_transport")

_PERSISTENT = 2
_FRAMING = 8  # bytes around a frame
_OF_EXCHANGE = re.compile(r"exchange '(.*)' in vhost ")
_DEFAULT_EXCHANGE = "amq.default"  # as the broker calls it, where others say ""
_PRECONDITION_FAILED = 406
_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")
UNENCODABLE = (
    ValueError,
    TypeError,
    AssertionError,
    _pika.exceptions.ProtocolSyntaxError,
    _pika.exceptions.UnsupportedAMQPFieldException,
    _pika.exceptions.ShortStringTooLong,
)


def moved_places() -> frozenset[str]:
    """Return what is not there of the places that are not public and used here."""

    def opened(_: object) -> None:
        """There is no connection."""

    loop = asyncio.new_event_loop()  # it wants one, and does nothing with it: nothing is opened
    try:
        connection = AsyncioConnection(custom_ioloop=loop, internal_connection_workflow=False)
        channel = _pika.channel.Channel(connection, 1, opened)
    finally:
        loop.close()
    return frozenset(
        name
        for name in (*READING, *FRAMES, *EMITTING)
        if not hasattr(connection, name) and not hasattr(channel, name)
    )


MOVED = moved_places()


@cache
def warn_of_moved_places() -> None:
    """Log once what is not there."""
    if MOVED:
        logger = logging.getLogger("events.integration")
        logger.warning(
            "pika %s lacks %s, so messages are read and written more slowly: report it, or install "
            "a release that has them",
            _pika.__version__,
            ", ".join(sorted(MOVED)),
        )


class DriverError(Exception):
    """Base of what can become of a call."""


class LostError(DriverError):
    """The connection or the channel is gone."""


class RefusedError(DriverError):
    """The broker refused what was asked, and closed the channel over it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text

    @property
    def size_limit(self) -> int | None:
        """The size of a body that the broker allows, if that was exceeded: it tells only then."""
        found = _TOO_LARGE.search(self.text)
        return None if found is None else int(found[1])

    @property
    def exchange(self) -> str | None:
        """The exchange that the broker names in its refusal, if it names one."""
        named = _OF_EXCHANGE.search(self.text)
        if named is None:
            return None
        return "" if named[1] == _DEFAULT_EXCHANGE else named[1]

    @property
    def is_mismatch(self) -> bool:
        """Return whether the object exists with other arguments."""
        return self.code == _PRECONDITION_FAILED and "inequivalent arg" in self.text


class NoChannelError(DriverError):
    """No channel is left on the connection."""


class HeadersTooLongError(Exception):
    """The properties and headers of a message are longer than a frame; nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"its headers take {size:,} bytes, the frame has {limit:,}")
        self.size = size
        self.limit = limit


class SilentError(DriverError):
    """The broker did not answer in time."""


def size_of_header(properties: Properties) -> int:
    """Return how many bytes the frame of these properties has, but for what frames it."""
    return len(_pika.frame.Header(1, 0, properties).marshal()) - _FRAMING


def longest_header(connection: Any) -> int:
    """Return how many bytes of headers and properties a frame of the connection can carry."""
    return int(connection.params.frame_max) - _FRAMING  # as agreed with the broker


def hang_up(connection: Any) -> bool:
    """End a connection without waiting for its broker; return whether it reports its end."""
    terminate = getattr(connection, "_terminate_stream", None)
    if terminate is not None:  # the public `close` waits for a broker that may be frozen
        terminate(StreamLost("given up"))
        return True
    with suppress(_pika.exceptions.ConnectionWrongStateError):  # it is being opened, or closed
        connection.close()
    return False


def is_ack(method: Any) -> bool:
    """Return whether a confirm is positive."""
    return isinstance(method, _Ack)


def new_properties(**fields: Any) -> Properties:
    """Make the properties of a persistent message."""
    return BasicProperties(delivery_mode=_PERSISTENT, **fields)


def check_url(url: str) -> None:
    """Raise ValueError unless it is the URL of an AMQP broker."""
    if urlsplit(url).scheme not in {"amqp", "amqps"}:
        raise ValueError("its scheme must be amqp or amqps")
    if not _reads(url):  # what it raises is not said, as it may quote the password
        for option in parse_qsl(urlsplit(url).query, keep_blank_values=True):
            if not _reads(f"amqp://localhost/?{urlencode([option])}"):
                raise ValueError(f"its option {option[0]!r} is unknown, or has a wrong value")
        raise ValueError("it cannot be read as an AMQP URL")


def _reads(url: str) -> bool:
    try:
        _pika.URLParameters(url)
    except Exception:  # noqa: BLE001 - of many kinds
        return False
    return True


def quiet_driver() -> None:
    """Have the driver log nothing below critical, unless its level has been set.

    It logs each failed attempt to connect as several errors. What they say is in our own line.
    """
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def reason_of(error: BaseException) -> str:
    """Return in a few words why a connection ended."""
    while isinstance(error, _pika.exceptions.AMQPConnectionError) and error.args:
        inner = error.args[0]
        if not isinstance(inner, BaseException):
            break
        error = inner
    failed = getattr(error, "exceptions", None)  # the driver's own record of several attempts
    if failed:
        return reason_of(failed[-1])
    inner = getattr(error, "exception", None)
    if isinstance(inner, BaseException):
        return reason_of(inner)
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", None)
    if code is not None:
        return f"{code} {text}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
