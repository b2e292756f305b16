"""The way of a message out: encoded, checked, handed to the transport, waited for with a deadline.

Three outcomes: it returned (the broker has it), `BusUnavailableError` (it has not), and
`SendOutcomeUnknownError` (it may have). The transport knows best and raises them itself; what
overruns its deadline is cut off here, and of that nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

from msgspec.structs import replace

from events.errors import (
    BusError,
    BusUnavailableError,
    InvalidTopologyError,
    SendOutcomeUnknownError,
)
from events.integration.cloudevents import to_structured
from events.integration.event import IntegrationEvent
from events.integration.limits import check_size
from events.integration.message import Message
from events.integration.observation import Observer, current_observer, system_of
from events.integration.serialization import Serializer
from events.integration.topology import Topic
from events.integration.transport import Transport

__all__ = ["Sender"]

_OVERRUN = 1.0  # seconds that a transport may take past its own deadline before it is cut off
_DOWN = (BusUnavailableError, SendOutcomeUnknownError)
_WINDOW = 1_000  # messages in flight at once, so that each has a fair share of the deadline


class Sender:
    """Encode events and publish messages for one bus."""

    def __init__(
        self, transport: Transport, bus: str, *, source: str, timeout: float, max_body_size: int
    ) -> None:
        self._transport = transport
        self._bus = bus
        self._serializer = Serializer(source)
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
        """Return the event as a message; raise if it cannot be one, or is too large."""
        if not isinstance(topic, Topic):
            raise InvalidTopologyError(repr(topic), "not a Topic; write Topic('users')")
        message = self._serializer.encode(topic.name, event, key=key, headers=headers, id=id)
        check_size(message, self._max_body_size)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Return when the broker has taken responsibility for the message."""
        observer = current_observer()
        return self._send(message) if observer is None else self._send_observed(message, observer)

    async def _send_observed(self, message: Message, observer: Observer) -> None:
        with observer.sending(message, self._system) as stamped:
            await self._send(stamped)

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._timeout + _OVERRUN):
                await self._publish(message)
        except TimeoutError as error:
            raise self._unknown(message) from error

    async def send_all(self, messages: Sequence[Message]) -> list[BusError | None]:
        """Send messages in order, many in flight, and say of each what became of it.

        A broker that takes none of a windowful is down: the rest is not sent, and not waited for.
        """
        observer = current_observer()
        if observer is None or not messages:
            return await self._send_all(messages)
        with observer.sending_batch(messages, self._system) as seen:
            outcomes = await self._send_all(messages)
            seen.extend(outcomes)
            return outcomes

    async def _send_all(self, messages: Sequence[Message]) -> list[BusError | None]:
        outcomes: list[BusError | None] = []
        for start in range(0, len(messages), _WINDOW):
            outcomes += await self._send_window(messages[start : start + _WINDOW])
            if all(isinstance(outcome, _DOWN) for outcome in outcomes[start:]):
                down = BusUnavailableError(self._bus, f"none of the {_WINDOW:,} before was taken")
                outcomes += [down] * (len(messages) - len(outcomes))
                break
        return outcomes

    async def _send_window(self, messages: Sequence[Message]) -> list[BusError | None]:
        futures: list[asyncio.Future[None]] = []
        try:
            # One by one, so that those before one that raises are known.
            for message in messages:
                futures.append(asyncio.ensure_future(self._checked(message)))  # noqa: PERF401
            await self._wait_for(futures)
            return [
                self._outcome(message, future)
                for message, future in zip(messages, futures, strict=True)
            ]
        finally:
            for future in futures:
                future.cancel()

    async def _wait_for(self, futures: Sequence[asyncio.Future[None]]) -> None:
        """Return when all are done, or the deadline is over.

        One after the other, as what confirms one confirms others with it: those need no callback.
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
        if error is None or isinstance(error, BusError):
            return error
        raise error

    def _checked(self, message: Message) -> Awaitable[None]:
        try:
            check_size(message, self._max_body_size)
            return self._publish(message)
        except BusError as error:
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    def _publish(self, message: Message) -> Awaitable[None]:
        if self._structured:
            message = replace(message, body=to_structured(message))
        return self._transport.publish(message)

    def _unknown(self, message: Message) -> SendOutcomeUnknownError:
        reason = f"no answer within {self._timeout:g} s"
        return SendOutcomeUnknownError(self._bus, message.id, reason)
