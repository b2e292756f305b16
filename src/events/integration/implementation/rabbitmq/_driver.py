"""The driver, with futures where it has callbacks. Nothing else in this package knows it.

A connection is open from its making until it is lost or closed, and never opens again; a channel
likewise. What the driver raises or reports leaves here as one of these errors:

    DriverError
    ├── LostError      the connection or channel is gone, for a reason that says nothing of the call
    ├── RefusedError   the broker closed the channel, with a code, because of what was asked
    └── SilentError    no answer within the deadline
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

from events.errors import MissingExtraError

try:
    import pika  # type: ignore[import-untyped]
    import pika.exceptions  # type: ignore[import-untyped]
    from pika.adapters.asyncio_connection import (  # type: ignore[import-untyped]
        AsyncioConnection,
    )
except ImportError as error:
    raise MissingExtraError("events.integration.implementation.rabbitmq", "rabbitmq") from error

__all__ = [
    "Channel",
    "Connection",
    "DriverError",
    "LostError",
    "Properties",
    "RefusedError",
    "SilentError",
    "check_url",
    "is_ack",
    "masked",
    "new_properties",
]

Properties: TypeAlias = Any
"""What AMQP calls the properties of basic content, by their names there."""

_pika: Any = pika
_Ack: Any = _pika.spec.Basic.Ack
_ClosedByBroker: Any = _pika.exceptions.ChannelClosedByBroker
_new_properties: Any = _pika.BasicProperties

_HEARTBEAT = 30  # seconds; unless the URL says otherwise
_PERSISTENT = 2
_UNENCODABLE = (
    ValueError,
    TypeError,
    AssertionError,
    _pika.exceptions.ProtocolSyntaxError,
    _pika.exceptions.UnsupportedAMQPFieldException,
    _pika.exceptions.ShortStringTooLong,
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


class SilentError(DriverError):
    """The broker did not answer in time."""


def is_ack(method: Any) -> bool:
    """Tell a positive confirm from a negative one."""
    return isinstance(method, _Ack)


def new_properties(**fields: Any) -> Properties:
    """Make the properties of a persistent message."""
    return _new_properties(delivery_mode=_PERSISTENT, **fields)


def masked(url: str) -> str:
    """Return the URL without its password, and without the options that may hold keys."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return parts._replace(query="").geturl()
    user, host = parts.netloc.rsplit("@", 1)
    name, colon, _ = user.partition(":")
    return parts._replace(netloc=f"{name}{colon and ':***'}@{host}", query="").geturl()


def check_url(url: str) -> None:
    """Raise ValueError unless it is the URL of an AMQP broker."""
    if urlsplit(url).scheme not in {"amqp", "amqps"}:
        raise ValueError("its scheme must be amqp or amqps")
    try:
        _pika.URLParameters(url)
    except Exception:  # noqa: BLE001 - what it raises may quote the password
        raise ValueError("it cannot be read as an AMQP URL") from None


def quiet_driver() -> None:
    """Have the driver log nothing below critical, unless somebody has set its level.

    It logs each failed attempt to connect as several errors. What they say is in our own line.
    """
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


_AsyncioConnection: Any = AsyncioConnection


class _CoalescingConnection(_AsyncioConnection):  # type: ignore[misc]
    """Send what one turn of the loop writes with one system call, not one for each frame.

    A message is three frames and an acknowledgement one; the calls would cost half of all the time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._frames: list[bytes] = []
        _AsyncioConnection.__init__(self, *args, **kwargs)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._frames:
            asyncio.get_running_loop().call_soon(self._emit_frames)
        self._frames.append(data)

    def _adapter_disconnect_stream(self) -> None:
        self._emit_frames()
        _AsyncioConnection._adapter_disconnect_stream(self)  # noqa: SLF001

    def _emit_frames(self) -> None:
        data = b"".join(self._frames)
        self._frames.clear()
        if data and self._transport is not None:
            _AsyncioConnection._adapter_emit_data(self, data)  # noqa: SLF001


_open_connection: Any = _CoalescingConnection


class Connection:
    """An open connection. `on_lost` is called once, with the reason, unless we closed it."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = False
        self.blocked = False
        self.on_lost: Callable[[str], object] = _ignore
        self.on_blocked: Callable[[bool], object] = _ignore

    @classmethod
    async def open(cls, url: str, timeout: float) -> Self:  # noqa: ASYNC109 - it cleans up
        """Connect, or raise `LostError` or `SilentError`; cancelled, nothing stays open."""
        quiet_driver()
        parameters = _pika.URLParameters(url)
        parameters.connection_attempts = 1
        parameters.socket_timeout = parameters.stack_timeout = timeout
        if "heartbeat=" not in url:
            parameters.heartbeat = _HEARTBEAT
        self = cls()
        try:
            self._connection = _open_connection(
                parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_open_error,
                on_close_callback=self._on_close,
                custom_ioloop=asyncio.get_running_loop(),
            )
            async with asyncio.timeout(timeout):
                await self._opened
        except TimeoutError:
            self.abort()
            raise SilentError(f"no answer within {timeout:g} s") from None
        except BaseException:
            self.abort()
            raise
        connection = self._connection
        connection.add_on_connection_blocked_callback(partial(self._set_blocked, True))  # noqa: FBT003
        connection.add_on_connection_unblocked_callback(partial(self._set_blocked, False))  # noqa: FBT003
        return self

    @property
    def is_open(self) -> bool:
        """Tell whether it is of use."""
        return bool(self._connection.is_open)

    @property
    def channels(self) -> int:
        """Return how many channels are open on it."""
        return len(self._connection._channels)  # noqa: SLF001 - it has no other way to tell

    def _on_open(self, _: Any) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _on_open_error(self, _: Any, error: BaseException) -> None:
        if not self._opened.done():
            self._opened.set_exception(LostError(_reason(error)))
        self._end()

    def _on_close(self, _: Any, error: BaseException) -> None:
        closing, self._closing = self._closing, True
        if not self._opened.done():
            self._opened.set_exception(LostError(_reason(error)))
        self._end()
        if not closing:
            self.on_lost(_reason(error))

    def _end(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    def _set_blocked(self, blocked: bool, *_: Any) -> None:  # noqa: FBT001 - a callback
        self.blocked = blocked
        self.on_blocked(blocked)

    async def channel(self, timeout: float) -> Channel:  # noqa: ASYNC109 - it cleans up
        """Open a channel, within the timeout for it and for each later call."""
        if not self.is_open:
            raise LostError("the connection is closed")
        channel = Channel(timeout)
        await channel.open(self._connection)
        return channel

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - it cleans up
        """Say goodbye, and hang up if there is no answer in time."""
        self._closing = True
        if self._connection.is_open:
            self._connection.close()
            await asyncio.wait({self._closed}, timeout=timeout)
        self.abort()
        await asyncio.wait({self._closed}, timeout=1)

    def abort(self) -> None:
        """Hang up. `on_lost` is called if nobody closed it."""
        if self._connection is not None and not self._connection.is_closed:
            # Its public `close` waits for a broker that may be frozen.
            self._connection._terminate_stream(  # noqa: SLF001
                _pika.exceptions.StreamLostError("given up")
            )


class Channel:
    """An open channel. `on_closed` is called once, with the reason, unless we closed it.

    `publish`, `ack` and `nack` send and return; all others are calls with an answer.
    """

    def __init__(self, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._channel: Any = None
        self._closing = False
        self._calls: set[asyncio.Future[Any]] = set()
        self.on_closed: Callable[[DriverError], object] = _ignore

    async def open(self, connection: Any) -> None:
        """Open it; for `Connection.channel`."""
        opened = self._future()
        self._channel = connection.channel(on_open_callback=partial(_resolve, opened))
        self._channel.add_on_close_callback(self._on_close)
        await self._answer(opened)

    @property
    def is_open(self) -> bool:
        """Tell whether it is of use."""
        return bool(self._channel.is_open)

    def _future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def _on_close(self, _: Any, error: Any) -> None:
        reason: DriverError
        if isinstance(error, _ClosedByBroker):
            reason = RefusedError(error.reply_code, error.reply_text)
        else:
            reason = LostError(_reason(error))
        for call in tuple(self._calls):
            if not call.done():
                call.set_exception(reason)
        if not self._closing:
            self._closing = True
            self.on_closed(reason)

    async def _answer(self, future: asyncio.Future[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await future
        except TimeoutError:
            raise SilentError(f"no answer within {self._timeout:g} s") from None

    async def call(self, verb: str, **arguments: Any) -> Any:
        """Call one of the broker's methods, and return its answer."""
        if not self.is_open:
            raise LostError("the channel is closed")
        answered = self._future()
        try:
            getattr(self._channel, verb)(**arguments, callback=partial(_resolve, answered))
        except _UNENCODABLE as error:
            answered.cancel()
            raise RefusedError(0, str(error) or type(error).__name__) from error
        return await self._answer(answered)

    async def confirms(self, on_confirm: Callable[[Any], None]) -> None:
        """Have each publish answered to `on_confirm`, with the method's `delivery_tag`."""

        def confirmed(frame: Any) -> None:
            on_confirm(frame.method)

        await self.call("confirm_delivery", ack_nack_callback=confirmed)

    def on_return(self, returned: Callable[[str, Properties], None]) -> None:
        """Have `returned` called for what was mandatory and went nowhere: its key, properties."""

        def on_return(_: Any, method: Any, properties: Properties, __: bytes) -> None:
            returned(method.routing_key, properties)

        self._channel.add_on_return_callback(on_return)

    async def consume(
        self,
        queue: str,
        on_message: Callable[[Any, Properties, bytes], None],
        *,
        prefetch: int,
        exclusive: bool = False,
    ) -> str:
        """Start to receive; return the consumer's tag."""

        def delivered(_: Any, method: Any, properties: Properties, body: bytes) -> None:
            on_message(method, properties, body)

        await self.call("basic_qos", prefetch_count=prefetch)
        answer = await self.call(
            "basic_consume",
            queue=queue,
            on_message_callback=delivered,
            exclusive=exclusive,
        )
        tag: str = answer.method.consumer_tag
        return tag

    def on_cancelled(self, cancelled: Callable[[], None]) -> None:
        """Have `cancelled` called when the broker ends a consumer, as when its queue is deleted."""

        def on_cancel(_: Any) -> None:
            cancelled()

        self._channel.add_on_cancel_callback(on_cancel)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes,
        mandatory: bool,  # noqa: FBT001 - called once
    ) -> None:
        """Send a message.

        Raises:
            ValueError: it cannot be encoded; nothing was sent.
        """
        try:
            self._channel.basic_publish(exchange, routing_key, body, properties, mandatory)
        except _UNENCODABLE as error:
            raise ValueError(str(error) or type(error).__name__) from error

    def ack(self, tag: int) -> None:
        """Acknowledge one delivery, if the channel is still open."""
        if self._channel.is_open:
            self._channel.basic_ack(tag)

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        """Give one delivery back, or all up to it, if the channel is still open."""
        if self._channel.is_open:
            self._channel.basic_nack(tag, multiple, requeue=True)

    async def close(self) -> None:
        """Close it; what was not acknowledged is the broker's again when this returns."""
        self._closing = True
        if self._channel.is_open:
            closed = self._future()
            self._channel.add_on_close_callback(partial(_resolve, closed))
            self._channel.close()
            with suppress(DriverError):  # then it is gone all the same
                await self._answer(closed)


def _resolve(future: asyncio.Future[Any], answer: Any = None, *_: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _ignore(_: Any) -> None:
    pass


def _reason(error: BaseException) -> str:
    """Say in a few words why a connection ended."""
    while isinstance(error, _pika.exceptions.AMQPConnectionError) and error.args:
        inner = error.args[0]
        if not isinstance(inner, BaseException):
            break
        error = inner
    failed = getattr(error, "exceptions", None)  # the driver's own record of several attempts
    if failed:
        return _reason(failed[-1])
    inner = getattr(error, "exception", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", None)
    if code is not None:
        return f"{code} {text}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
