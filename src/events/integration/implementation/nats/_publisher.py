"""Sends on their way: parked until their stream is there, written, acknowledged.

    parked --stream is there--> written --ack--> accepted
      ^                          | |  '--no room--> BusUnavailableError
      '--no stream answered------' '--not permitted--> SendRefusedError
    past the deadline: never written --> BusUnavailableError, written --> SendOutcomeUnknownError

All acknowledgements come to one inbox, each under its send's number. When the connection was lost,
what is written and not acknowledged is written again, in its order: the server knows a message that
it has by its `Nats-Msg-Id`, and acknowledges it as a duplicate.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress

import msgspec
from nats.errors import Error as NatsError

from events.errors import (
    BusError,
    BusUnavailableError,
    SendOutcomeUnknownError,
    SendRefusedError,
)
from events.integration.brokering.backoff import Backoff
from events.integration.brokering.problems import Problems
from events.integration.implementation.nats._api import Api, DeniedError
from events.integration.implementation.nats._denials import Denial
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._names import topic_of
from events.integration.implementation.nats._topology import (
    NotTakenError,
    StreamSpec,
    ensure_stream,
)
from events.integration.implementation.nats._wire import MSG_ID, parse_block
from events.integration.implementation.nats._writer import Outgoing, Writer

__all__ = ["Publisher"]

logger = logging.getLogger("events.integration")

_AFTER_NO_ANSWER = 0.1  # seconds, if the stream is there and has no leader
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0


class _Refusal(msgspec.Struct):
    description: str = "no description"


class _PubAck(msgspec.Struct):
    seq: int = 0
    error: _Refusal | None = None


_decode = msgspec.json.Decoder(_PubAck).decode


class Sending(Outgoing):
    """One send."""

    __slots__ = ("deadline", "future", "number", "stream", "uncertain")

    def __init__(
        self,
        subject: str,
        body: bytes,
        headers: bytes,
        stream: StreamSpec,
        future: asyncio.Future[None],
        deadline: float,
    ) -> None:
        super().__init__(subject, body, "", headers)
        self.stream = stream
        self.future = future
        self.deadline = deadline
        self.number = 0
        self.uncertain = False  # written once on a connection that is gone

    def fail(self, error: Exception) -> None:
        """See `Outgoing`."""
        if not self.future.done():
            failure = BusUnavailableError("NATS", f"the client refuses: {error}")
            failure.__cause__ = error
            self.future.set_exception(failure)

    def lose(self, error: Exception) -> None:
        """See `Outgoing`."""
        if not self.future.done():
            lost = SendOutcomeUnknownError("NATS", self.message_id, f"the client failed: {error!r}")
            lost.__cause__ = error
            self.future.set_exception(lost)

    @property
    def message_id(self) -> str:
        """The id by which the stream knows it again."""
        return parse_block(self.headers).get(MSG_ID, "")


class Publisher:
    """Publish to streams, many at once."""

    def __init__(self, link: Link, writer: Writer, api: Api, timeout: float) -> None:
        self._link = link
        self._writer = writer
        self._api = api
        self._timeout = timeout
        self._numbers = 0
        self._in_flight: dict[int, Sending] = {}
        self._known: set[str] = set()
        self._parked: defaultdict[str, list[Sending]] = defaultdict(list)
        self._ensuring: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._inbox = ""
        self._failing: dict[str, str] = {}
        self._idle = asyncio.Event()
        self._problems = Problems(link.name)
        link.add_listener(self._on_up)
        link.on_denied.append(self._on_denied)

    @property
    def error(self) -> str | None:
        """What cannot be sent at this moment, and why."""
        return self._problems.text

    def publish(
        self, stream: StreamSpec, subject: str, body: bytes, headers: bytes = b""
    ) -> asyncio.Future[None]:
        """Send now; the future is done when the stream has it. `headers` are a block of `_wire`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        sending = Sending(subject, body, headers, stream, future, loop.time() + self._timeout)
        self._numbers += 1
        sending.number = self._numbers
        self._in_flight[sending.number] = sending
        sending.reply = f"{self._inbox}.{sending.number}"
        if stream.name in self._known:
            self._writer.put(sending)
        else:
            self._park(sending)
        if self._timer is None:
            self._timer = loop.call_at(sending.deadline, self._expire)
        return future

    def room_for(self, body: bytes, headers: bytes) -> int:
        """Return how many bytes the server would still take; negative if it is too much already.

        More than that would cost the connection.
        """
        limit = self._link.client.max_payload if self._link.is_up else 1 << 20
        return limit - len(body) - len(headers)

    async def close(self) -> None:
        """Let what is in flight end, for a while."""
        if self._in_flight:
            with suppress(TimeoutError):
                async with asyncio.timeout(await self._link.patience(self._timeout)):
                    while self._in_flight:
                        self._idle.clear()
                        await self._idle.wait()
        tasks = list(self._ensuring.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for sending in list(self._in_flight.values()):
            self._give_up(sending, "the bus was shut down")

    # --- what comes back ----------------------------------------------------------------------

    async def _on_up(self, fresh: bool) -> None:  # noqa: FBT001 - a listener
        if fresh:
            self._inbox = self._link.client.new_inbox()
            await self._link.listen(f"{self._inbox}.*", self._on_ack)
        again: list[Sending] = []
        for sending in self._in_flight.values():
            sending.reply = f"{self._inbox}.{sending.number}"
            if sending.written:
                sending.uncertain = True
                again.append(sending)
        self._writer.put_back(again)

    def _on_ack(self, message: Incoming) -> None:
        number = message.subject[message.subject.rfind(".") + 1 :]
        sending = self._in_flight.get(int(number))
        if sending is None:
            return
        if message.headers is not None and "Status" in message.headers:
            self._known.discard(sending.stream.name)
            sending.written = False
            self._park(sending, _AFTER_NO_ANSWER)
            return
        ack = _decode(message.body)
        self._done(sending)
        if sending.future.done():
            return
        if ack.error is None:
            sending.future.set_result(None)
            if self._problems:
                self._problems.clear(sending.subject)
        else:
            refused = f"stream {sending.stream.name!r} refuses it: {ack.error.description}"
            sending.future.set_exception(NotTakenError(self._link.name, refused))

    def _on_denied(self, denial: Denial) -> None:
        """Fail the oldest of this subject: the server says so of each message, in their order."""
        for sending in self._in_flight.values():
            if sending.written and sending.subject.lower() == denial.subject:
                self._deny(sending, denial.text)
                return

    def _deny(self, sending: Sending, reason: str) -> None:
        topic = topic_of(sending.stream.name)
        self._problems.report(sending.subject, f"cannot send to topic {topic!r}: {reason}")
        self._done(sending)
        sending.abandoned = True
        if sending.future.done():
            return
        error: BusError
        if sending.uncertain:  # an earlier connection may have been permitted
            error = SendOutcomeUnknownError(self._link.name, sending.message_id, reason)
        else:
            error = SendRefusedError(self._link.name, topic, reason)
        sending.future.set_exception(error)

    def _done(self, sending: Sending) -> None:
        del self._in_flight[sending.number]
        if not self._in_flight:
            self._idle.set()

    # --- deadlines ----------------------------------------------------------------------------

    def _expire(self) -> None:
        """End what is overdue; all have the same time, so the oldest comes first."""
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._in_flight:
            sending = next(iter(self._in_flight.values()))
            if sending.deadline > loop.time():
                self._timer = loop.call_at(sending.deadline, self._expire)
                return
            self._give_up(sending, f"no answer within {self._timeout:g} s")

    def _give_up(self, sending: Sending, reason: str) -> None:
        self._done(sending)
        sending.abandoned = True
        if sending.future.done():
            return
        name = self._link.name
        error: BusError
        if sending.written or sending.uncertain:
            error = SendOutcomeUnknownError(name, sending.message_id, reason)
        else:
            why = self._failing.get(sending.stream.name)
            why = why or (None if self._link.is_up else self._link.reason)
            error = BusUnavailableError(name, f"{reason}{f': {why}' if why else ''}")
        sending.future.set_exception(error)

    # --- streams ------------------------------------------------------------------------------

    def _park(self, sending: Sending, wait: float = 0.0) -> None:
        stream = sending.stream
        self._parked[stream.name].append(sending)
        if stream.name not in self._ensuring:
            task = asyncio.create_task(
                self._ensure(stream, wait), name=f"nats-stream {stream.name}"
            )
            self._ensuring[stream.name] = task

    async def _ensure(self, stream: StreamSpec, after: float) -> None:
        """Have the stream be there, then let those that are parked for it go."""
        name, backoff = stream.name, Backoff(_FIRST_WAIT, _LONGEST_WAIT)
        try:
            await asyncio.sleep(after)
            while any(not sending.future.done() for sending in self._parked[name]):
                await self._link.wait_up()
                try:
                    await ensure_stream(self._api, stream)
                except BusError as error:
                    if self._is_final(name, error):
                        return
                else:
                    self._failing.pop(name, None)
                    self._known.add(name)
                    for sending in self._parked.pop(name):
                        if sending.number in self._in_flight:
                            self._writer.put(sending)
                    return
                await backoff.pause()
            for sending in self._parked.pop(name, []):  # nobody waits for them any more
                if sending.number in self._in_flight:
                    self._done(sending)
        except (NatsError, OSError) as error:
            self._refuse(name, BusUnavailableError(self._link.name, str(error)))
        finally:
            del self._ensuring[name]

    def _is_final(self, name: str, error: BusError) -> bool:
        """Tell whether there is no use in trying again, and fail what is parked, if so."""
        if isinstance(error, DeniedError):
            for sending in self._parked.pop(name, []):
                if sending.number in self._in_flight:
                    self._deny(sending, error.reason)
            return True
        if isinstance(error, BusUnavailableError) and not isinstance(error, NotTakenError):
            self._failing[name] = error.reason
            return False
        self._refuse(name, error)
        return True

    def _refuse(self, name: str, error: BusError) -> None:
        for sending in self._parked.pop(name, []):
            if sending.number in self._in_flight:
                self._done(sending)
            if not sending.future.done():
                sending.future.set_exception(error)
