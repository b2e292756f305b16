"""The driver's names, and what it raises or reports as errors of ours.

With `_connection` and `_channel`, which have futures where it has callbacks, the only modules that
know it. What leaves them is one of these:

    DriverError
    ├── LostError      the connection or channel is gone, for a reason that says nothing of the call
    ├── RefusedError   the broker closed the channel, with a code, because of what was asked
    ├── NoChannelError the connection has as many channels as the broker allows
    └── SilentError    no answer within the deadline

Where its public ways are too long, those two go past them (decision 0012). Such a place may move
with any release of the driver, so all of them are looked for when this is imported.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
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

__all__ = [
    "UNENCODABLE",
    "AsyncioConnection",
    "BasicProperties",
    "ClosedByBroker",
    "DriverError",
    "HeadersTooLongError",
    "LostError",
    "NoChannelError",
    "NoFreeChannels",
    "Properties",
    "RefusedError",
    "SilentError",
    "StreamLost",
    "URLParameters",
    "UnfitDriverError",
    "check_places",
    "check_url",
    "is_ack",
    "new_properties",
    "quiet_driver",
    "reason_of",
    "size_of_header",
]

Properties: TypeAlias = Any
"""What AMQP calls the properties of basic content, by their names there."""

_pika: Any = pika
_Ack: Any = _pika.spec.Basic.Ack
BasicProperties: Any = _pika.BasicProperties
AsyncioConnection: Any = _pika.adapters.asyncio_connection.AsyncioConnection
URLParameters: Any = _pika.URLParameters
ClosedByBroker: Any = _pika.exceptions.ChannelClosedByBroker
StreamLost: Any = _pika.exceptions.StreamLostError
NoFreeChannels: Any = _pika.exceptions.NoFreeChannels

_TESTED = "1.4.4"  # as `requirements/dev.txt` has it
_OF_CONNECTION = (
    "_adapter_disconnect_stream", "_adapter_emit_data", "_body_max_length", "_channels",
    "_frame_buffer", "_on_data_available", "_output_marshaled_frames", "_process_frame",
    "_read_frame", "_terminate_stream", "_transport", "_trim_frame_buffer", "bytes_received",
    "frames_received",
)  # fmt: skip
_OF_CHANNEL = ("_cancelled", "_consumers")

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


@dataclass(eq=False)
class UnfitDriverError(MissingExtraError):
    """Raised on importing this bus beside a driver that has moved what it needs."""

    version: str
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"pika {self.version} does not have {', '.join(self.missing)}, which {self.module} "
            f"needs: pip install 'pika=={_TESTED}', which is known to fit"
        )


def check_places() -> None:
    """Raise `UnfitDriverError` unless the driver has all that is not public and used here."""

    def opened(_: object) -> None:
        """Nobody is connected."""

    loop = asyncio.new_event_loop()  # it wants one, and does nothing with it: nothing is opened
    try:
        connection = AsyncioConnection(custom_ioloop=loop, internal_connection_workflow=False)
        channel = _pika.channel.Channel(connection, 1, opened)
    finally:
        loop.close()
    missing = [f"Connection.{name}" for name in _OF_CONNECTION if not hasattr(connection, name)]
    missing += [f"Channel.{name}" for name in _OF_CHANNEL if not hasattr(channel, name)]
    if missing:
        raise UnfitDriverError(
            "events.integration.implementation.rabbitmq",
            "rabbitmq",
            str(_pika.__version__),
            tuple(missing),
        )


check_places()


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
        told = _TOO_LARGE.search(self.text)
        return None if told is None else int(told[1])

    @property
    def exchange(self) -> str | None:
        """The exchange that the broker names in its refusal, if it names one."""
        named = _OF_EXCHANGE.search(self.text)
        if named is None:
            return None
        return "" if named[1] == _DEFAULT_EXCHANGE else named[1]

    @property
    def is_mismatch(self) -> bool:
        """Tell whether what was declared is there, with other arguments."""
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


def is_ack(method: Any) -> bool:
    """Tell a positive confirm from a negative one."""
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
    """Have the driver log nothing below critical, unless somebody has set its level.

    It logs each failed attempt to connect as several errors. What they say is in our own line.
    """
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def reason_of(error: BaseException) -> str:
    """Say in a few words why a connection ended."""
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
