"""A connection to RabbitMQ: open from its making until it is lost or closed, never opened again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from socket import socket
from typing import Any, Self

from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._driver import (
    EMITTING,
    MOVED,
    READING,
    AsyncioConnection,
    LostError,
    NoChannelError,
    NoFreeChannels,
    SilentError,
    StreamLost,
    URLParameters,
    hang_up,
    quiet_driver,
    reason_of,
    warn_of_moved_places,
)
from events.integration.implementation.rabbitmq._reading import (
    Delivered,
    IncompleteError,
    read_delivery,
)

_HEARTBEAT = 30  # seconds; unless the URL says otherwise
_ANSWER_TIMEOUT = 2.0  # seconds that the broker may be silent while a connection is left


class _QuickWrites(AsyncioConnection):  # type: ignore[misc]
    """The driver's, with a shorter way for what is written.

    What one turn of the loop writes is sent with two system calls at most, not one for each frame:
    the first frame at once, the others together at the end. The first must not wait: with one
    handler at a time it is the acknowledgement of what was handled, and the next handler may end
    the process before the turn is over.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._frames: list[bytes] = []
        self._has_sent = False  # in this turn
        AsyncioConnection.__init__(self, *args, **kwargs)

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._has_sent:
            self._frames.append(data)
            return
        self._has_sent = True
        asyncio.get_running_loop().call_soon(self._end_turn)
        self._emit(data)

    def _end_turn(self) -> None:
        self._has_sent = False
        self._emit_frames()

    def _adapter_disconnect_stream(self) -> None:
        self._emit_frames()
        AsyncioConnection._adapter_disconnect_stream(self)  # noqa: SLF001

    def _emit_frames(self) -> None:
        data = b"".join(self._frames)
        self._frames.clear()
        if data:
            self._emit(data)

    def _emit(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        # The driver waits until the loop finds the socket ready, which it mostly is already.
        # Over TLS, and should it keep its socket elsewhere, that is as good as it gets.
        sock = getattr(transport, "_sock", None)
        if type(sock) is socket and not transport.get_write_buffer_size():
            with suppress(OSError):  # it is full, or lost, which the driver is about to find, too
                data = data[sock.send(data) :]
        if data:
            AsyncioConnection._adapter_emit_data(self, data)  # noqa: SLF001


_Written: Any = AsyncioConnection if MOVED.intersection(EMITTING) else _QuickWrites


class _QuickConnection(_Written):  # type: ignore[misc]
    """Reads in one go what is delivered, where the driver takes three frames for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._frame_buffer: bytes  # what was read and not yet understood
        self.bytes_received: int  # its heartbeats look at that
        self.frames_received: int
        _Written.__init__(self, *args, **kwargs)

    def _on_data_available(self, data_in: bytes) -> None:
        data, at = self._frame_buffer + data_in, 0
        while at < len(data):
            try:
                delivered = read_delivery(data, at)
            except IncompleteError:
                break
            consumer = None if delivered is None else self._consumer_of(delivered)
            if delivered is not None and consumer is not None:
                self.bytes_received += delivered.end - at
                self.frames_received += 3 if delivered.body else 2
                at = delivered.end
                channel, on_message = consumer
                on_message(channel, delivered, delivered.properties, delivered.body)
                continue
            # The driver's turn, with one frame.
            self._frame_buffer = data[at:]
            size, frame = self._read_frame()
            if not frame:
                return
            self._trim_frame_buffer(size)
            self._process_frame(frame)
            data, at = self._frame_buffer, 0
        self._frame_buffer = data[at:]

    def _consumer_of(self, delivered: Delivered) -> tuple[Any, Any] | None:
        """Return the channel and the function that it is for; None if the driver is to look."""
        channel = self._channels.get(delivered.channel)
        if channel is None or delivered.consumer_tag in channel._cancelled:  # noqa: SLF001
            return None
        consumer = channel._consumers.get(delivered.consumer_tag)  # noqa: SLF001
        return None if consumer is None else (channel, consumer)


_open_connection: Any = _Written if MOVED.intersection(READING) else _QuickConnection


class Connection:
    """An open connection. `on_lost` is called once, with the reason, unless we closed it."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = False
        self._silent_since: int | None = None  # so many bytes were heard
        self.blocked = False
        self.on_lost: Callable[[str], object] = _ignore
        self.on_blocked: Callable[[bool], object] = _ignore

    @classmethod
    async def open(cls, url: str, timeout: float) -> Self:  # noqa: ASYNC109 - it cleans up
        """Connect, or raise `LostError` or `SilentError`; cancelled, nothing stays open."""
        quiet_driver()
        warn_of_moved_places()
        parameters = URLParameters(url)
        parameters.connection_attempts = 1
        parameters.socket_timeout = timeout
        parameters.stack_timeout = 2 * timeout  # ours comes first: the driver trips over its own
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
        """Return whether it is of use."""
        return bool(self._connection.is_open) and not self._closed.done()

    def _on_open(self, _: Any) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _on_open_error(self, _: Any, error: BaseException) -> None:
        if not self._opened.done():
            self._opened.set_exception(LostError(reason_of(error)))
        self._end()

    def _on_close(self, _: Any, error: BaseException) -> None:
        closing, self._closing = self._closing, True
        if not self._opened.done():
            self._opened.set_exception(LostError(reason_of(error)))
        self._end()
        if not closing:
            self.on_lost(reason_of(error))

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
        try:
            await channel.open(self._connection)
        except NoFreeChannels:
            raise NoChannelError(
                f"the connection has {self._connection.params.channel_max} channels open, "
                f"which is the limit (`channel_max` of the broker): raise it there, or use more "
                f"buses"
            ) from None
        return channel

    async def hear_out(self, *answers: asyncio.Future[Any], limit: float) -> None:
        """Wait until these are done, for so long at most, and not past a silence of the broker.

        For those who leave: a broker that is frozen must not delay them with each answer again.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        pending = {answer for answer in answers if not answer.done()}
        while pending and not self._closed.done():
            heard = self._connection.bytes_received
            left = deadline - loop.time()
            if left <= 0 or heard == self._silent_since:
                return
            _, pending = await asyncio.wait(pending, timeout=min(left, _ANSWER_TIMEOUT))
            if pending and self._connection.bytes_received == heard:
                self._silent_since = heard

    async def run_out(self, work: Coroutine[Any, Any, None], *, limit: float) -> None:
        """Do what needs the broker's answers, within the same bounds."""
        task = asyncio.ensure_future(work)
        await self.hear_out(task, limit=limit)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - it cleans up
        """Close the connection, and abort it if the broker does not answer in time."""
        self._closing = True
        if self._connection.is_open:
            self._connection.close()
            await self.hear_out(self._closed, limit=timeout)
        self.abort()
        await asyncio.wait({self._closed}, timeout=1)

    def abort(self) -> None:
        """Hang up. `on_lost` is called unless `close` was."""
        connection = self._connection
        if connection is not None and not connection.is_closed and not hang_up(connection):
            self._on_close(None, StreamLost("given up"))


def _ignore(_: Any) -> None:
    pass
