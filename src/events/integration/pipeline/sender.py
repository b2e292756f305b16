"""`Sender` encodes and checks an event, passes it to the transport and waits with a deadline.

There are three outcomes: it returns (the broker has the message), `BusUnavailableError` (it has
not), and `SendOutcomeUnknownError` (it may have). The transport raises these itself. If a transport
exceeds its deadline, the sender raises `SendOutcomeUnknownError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from msgspec.structs import replace

from events.errors import (
    BusError,
    BusUnavailableError,
    InvalidTopologyError,
    SendOutcomeUnknownError,
)
from events.integration import observation
from events.integration.cloudevents import to_structured
from events.integration.event import IntegrationEvent
from events.integration.limits import check_body_size, check_size
from events.integration.message import Message
from events.integration.observation import Observer, system_of
from events.integration.serialization import Serializer
from events.integration.topology import Topic
from events.integration.transport import Transport

_OVERRUN = 1.0  # seconds that a transport may take past its own deadline before it is cut off
_DOWN = (BusUnavailableError, SendOutcomeUnknownError)
_Begin: TypeAlias = Callable[[Message], Awaitable[None]]
_DOING = "send"  # one error may be that of many messages
_WINDOW = 1_000  # messages in flight at once, so that each has a fair share of the deadline


class Sender:
    """Encode events and publish messages for one bus."""

    def __init__(
        self,
        transport: Transport,
        bus: str,
        *,
        serializer: Serializer,
        timeout: float,
        max_body_size: int,
    ) -> None:
        self._transport = transport
        self._bus = bus
        self._serializer = serializer
        self._timeout = timeout
        self._max_body_size = max_body_size
        self._structured = not transport.features.headers
        self._system = system_of(transport)

    def encode(
        self,
        topic: Topic,
        event: IntegrationEvent,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Message:
        """Return the message of an event; raise if it cannot be encoded, or is too large."""
        if not isinstance(topic, Topic):
            raise InvalidTopologyError(repr(topic), "not a Topic; write Topic('users')")
        message = self._serializer.encode(topic.name, event, key=key, headers=headers, id=id)
        check_body_size(message, self._max_body_size)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message; return when the broker has taken responsibility for it."""
        observer = observation.in_place
        return self._send(message) if observer is None else self._send_observed(message, observer)

    async def _send_observed(self, message: Message, observer: Observer) -> None:
        with observer.sending(message, self._system) as stamped:
            check_size(stamped, self._max_body_size)  # a trace has been added to its headers
            await self._send(stamped)

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._timeout + _OVERRUN):
                await self._publish(message)
        except TimeoutError as error:
            raise self._unknown(message) from error
        except BusUnavailableError as error:
            error.doing = _DOING
            raise

    async def send_all(
        self, messages: Sequence[Message], *, checked: bool = False
    ) -> list[BusError | None]:
        """Send messages in order, many in flight, and report the outcome of each.

        If the broker takes none of a full window, it counts as down, and the rest is not sent.
        `checked` means that no message is too large.
        """
        begin = self._begin if checked else self._check_and_begin
        observer = observation.in_place
        if observer is None or not messages:
            return await self._send_all(messages, begin)
        with observer.sending_batch(messages, self._system) as seen:
            outcomes = await self._send_all(messages, begin)
            seen.extend(outcomes)
            return outcomes

    async def _send_all(self, messages: Sequence[Message], begin: _Begin) -> list[BusError | None]:
        outcomes: list[BusError | None] = []
        for start in range(0, len(messages), _WINDOW):
            outcomes += await self._send_window(messages[start : start + _WINDOW], begin)
            if all(isinstance(outcome, _DOWN) for outcome in outcomes[start:]):
                why = f"none of the {_WINDOW:,} before was taken"
                down = BusUnavailableError(self._bus, why, _DOING)
                outcomes += [down] * (len(messages) - len(outcomes))
                break
        return outcomes

    async def _send_window(
        self, messages: Sequence[Message], begin: _Begin
    ) -> list[BusError | None]:
        futures: list[asyncio.Future[None]] = []
        try:
            # One by one, so that the messages before one that raises are known.
            for message in messages:
                futures.append(asyncio.ensure_future(begin(message)))  # noqa: PERF401
            await self._wait_for(futures)
            return [
                self._outcome(message, future)
                for message, future in zip(messages, futures, strict=True)
            ]
        finally:
            for future in futures:
                future.cancel()

    async def _wait_for(self, futures: Sequence[asyncio.Future[None]]) -> None:
        """Return when all are done, or the deadline has passed.

        One after the other: a confirmation often covers several, which then need no callback.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + self._timeout + _OVERRUN
        for future in futures:
            if not future.done():
                if (left := deadline - now()) <= 0:
                    return
                await asyncio.wait([future], timeout=left)

    def _outcome(self, message: Message, future: asyncio.Future[None]) -> BusError | None:
        if not future.done():
            return self._unknown(message)
        error = future.exception()
        if isinstance(error, BusUnavailableError):
            error.doing = _DOING
        if error is None or isinstance(error, BusError):
            return error
        raise error

    def _check_and_begin(self, message: Message) -> Awaitable[None]:
        try:
            check_size(message, self._max_body_size)
        except BusError as error:
            return _failed(error)
        return self._begin(message)

    def _begin(self, message: Message) -> Awaitable[None]:
        try:
            return self._publish(message)
        except BusError as error:
            return _failed(error)

    def _publish(self, message: Message) -> Awaitable[None]:
        if self._structured:
            message = replace(message, body=to_structured(message))
        return self._transport.publish(message)

    def _unknown(self, message: Message) -> SendOutcomeUnknownError:
        reason = f"no answer within {self._timeout:g} s"
        return SendOutcomeUnknownError(self._bus, message.id, reason)


def _failed(error: BusError) -> asyncio.Future[None]:
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(error)
    return failed
