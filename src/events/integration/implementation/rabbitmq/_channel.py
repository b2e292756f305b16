"""A channel of a connection: open from its making until it is lost or closed, like that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from events.integration.implementation.rabbitmq._driver import (
    EMITTING,
    FRAMES,
    MOVED,
    UNENCODABLE,
    ClosedByBroker,
    DriverError,
    HeadersTooLongError,
    LostError,
    Properties,
    RefusedError,
    SilentError,
    longest_header,
    reason_of,
    size_of_header,
)
from events.integration.implementation.rabbitmq._writing import ack_frame, publish_frames

_QUICK = not MOVED.intersection(FRAMES)  # else the driver writes all frames
_EMITS_AT_ONCE = not MOVED.intersection(EMITTING)


class Channel:
    """An open channel. `on_closed` is called once, with the reason, unless we closed it.

    `publish`, `ack` and `nack` send and return; all others are calls with an answer.
    """

    def __init__(self, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._channel: Any = None
        self._longest: int  # bytes of headers in a message
        self._closing = False
        self._calls: set[asyncio.Future[Any]] = set()
        self.on_closed: Callable[[DriverError], object] = _ignore

    async def open(self, connection: Any) -> None:
        """Open it; for `Connection.channel`."""
        opened = self._future()
        self._channel = connection.channel(on_open_callback=partial(_resolve, opened))
        self._channel.add_on_close_callback(self._on_close)
        await self._answer(opened)
        self._longest = longest_header(connection)

    @property
    def is_open(self) -> bool:
        """Return whether it is of use."""
        return bool(self._channel.is_open)

    def _future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def _on_close(self, _: Any, error: Any) -> None:
        reason: DriverError
        if isinstance(error, ClosedByBroker):
            reason = RefusedError(error.reply_code, error.reply_text)
        else:
            reason = LostError(reason_of(error))
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
        except UNENCODABLE as error:
            answered.cancel()
            raise RefusedError(0, str(error) or type(error).__name__) from error
        return await self._answer(answered)

    async def confirms(self, on_confirm: Callable[[Any], None]) -> None:
        """Have each publish answered to `on_confirm`, with the method's `delivery_tag`."""

        def confirmed(frame: Any) -> None:
            on_confirm(frame.method)

        await self.call("confirm_delivery", ack_nack_callback=confirmed)

    def on_return(self, returned: Callable[[str, str, Properties], None]) -> None:
        """Have `returned` called for what was mandatory and went nowhere.

        It gets its exchange, key and properties.
        """

        def on_return(_: Any, method: Any, properties: Properties, __: bytes) -> None:
            returned(method.exchange, method.routing_key, properties)

        self._channel.add_on_return_callback(on_return)

    async def consume(
        self,
        queue: str,
        on_message: Callable[[Any, Any, Properties, bytes], None],
        *,
        prefetch: int,
        exclusive: bool = False,
    ) -> str:
        """Start to receive; return the consumer's tag. The driver's channel comes first."""
        await self.call("basic_qos", prefetch_count=prefetch)
        answer = await self.call(
            "basic_consume",
            queue=queue,
            on_message_callback=on_message,
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
        spare: int = 0,
    ) -> None:
        """Send a message, if its headers leave so many bytes of the frame that carries them.

        Raises:
            HeadersTooLongError: they do not; nothing was sent.
            ValueError: it cannot be encoded; nothing was sent.
        """
        channel = self._channel
        longest = self._longest
        try:
            frames = _QUICK and publish_frames(
                channel.channel_number,
                exchange,
                routing_key,
                properties,
                body,
                mandatory=mandatory,
                longest=longest,
                spare=spare,
            )
            if not frames or not channel.is_open:
                size = size_of_header(properties)
                if size > longest - spare:
                    raise HeadersTooLongError(size, longest - spare)
                channel.basic_publish(exchange, routing_key, body, properties, mandatory)
            else:
                channel.connection._output_marshaled_frames((frames,))  # noqa: SLF001
        except UNENCODABLE as error:
            raise ValueError(str(error) or type(error).__name__) from error

    def ack(self, tag: int) -> bool:
        """Acknowledge one delivery, if the channel is still open.

        Return whether nothing of it waits in the process; else it does, until `when_written`.
        """
        channel = self._channel
        if channel.is_open:
            if _QUICK:
                frame = ack_frame(channel.channel_number, tag)
                channel.connection._output_marshaled_frames((frame,))  # noqa: SLF001
            else:
                channel.basic_ack(tag)
        return _EMITS_AT_ONCE

    def when_written(self, proceed: Callable[[Any], object], of: Any) -> None:
        """Call `proceed` with `of` when what was sent has left the process.

        The driver by itself writes when the loop next finds the socket ready. That is after a
        callback that is called soon, and before one that this has called soon.
        """
        self._loop.call_soon(self._loop.call_soon, proceed, of)

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        """Requeue one delivery, or all up to it, if the channel is still open."""
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
