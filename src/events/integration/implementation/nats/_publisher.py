"""Sends on their way: written when their stream is there, until it has acknowledged them.

`Sends` has their table. All acknowledgements come to one inbox, each under its send's number. When
the connection was lost, what is written and not acknowledged is written again, in its order: the
server knows a message that it has by its `Nats-Msg-Id`, and acknowledges it as a duplicate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import suppress

import msgspec
from nats.errors import Error as NatsError

from events.errors import (
    BusError,
    BusUnavailableError,
    SendOutcomeUnknownError,
    SendRefusedError,
)
from events.integration.brokering.problems import Problems
from events.integration.brokering.sends import NotMadeYetError, Sends
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
from events.integration.implementation.nats._wire import LARGEST_BLOCK, MSG_ID, parse_block
from events.integration.implementation.nats._writer import Outgoing, Writer

_AFTER_NO_ANSWER = 0.1  # seconds, if the stream is there and has no leader


class _Refusal(msgspec.Struct):
    description: str = "no description"


class _PubAck(msgspec.Struct):
    seq: int = 0
    error: _Refusal | None = None


_decode = msgspec.json.Decoder(_PubAck).decode


class Sending(Outgoing):
    """One send."""

    __slots__ = ("deadline", "future", "number", "place", "uncertain")

    def __init__(
        self,
        subject: str,
        body: bytes,
        headers: bytes,
        stream: str,
        future: asyncio.Future[None],
    ) -> None:
        super().__init__(subject, body, "", headers)
        self.place: Hashable | None = stream
        self.future = future
        self.number = 0
        self.deadline = 0.0
        self.uncertain = False  # written once on a connection that is gone

    @property
    def is_abandoned(self) -> bool:
        """See `Outgoing`."""
        return not self.number

    @property
    def may_be_there(self) -> bool:
        return self.written or self.uncertain

    @property
    def message_id(self) -> str:
        """See `Send`; by this id the stream knows it again."""
        return parse_block(self.headers).get(MSG_ID, "")

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


class Publisher:
    """Publish to streams, many at once."""

    def __init__(self, link: Link, writer: Writer, api: Api, timeout: float) -> None:
        self._link = link
        self._writer = writer
        self._api = api
        self._timeout = timeout
        self._sends: Sends[Sending] = Sends(self, link.name, timeout)
        self._sends.up()  # always: the writer keeps what it cannot write yet
        self._streams: dict[Hashable, StreamSpec] = {}
        self._inbox = ""
        self._problems = Problems(link.name)
        link.add_listener(self._on_up)
        link.on_denied.append(self._on_denied)

    @property
    def error(self) -> str | None:
        """The problems of sending at this moment."""
        return self._problems.text

    def publish(
        self, stream: StreamSpec, subject: str, body: bytes, headers: bytes = b""
    ) -> asyncio.Future[None]:
        """Send now; the future is done when the stream has it. `headers` are a block of `_wire`."""
        self._streams[stream.name] = stream
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return self._sends.add(Sending(subject, body, headers, stream.name, future))

    @property
    def max_payload(self) -> int:
        """Bytes of headers and body that the server takes: more would cost the connection."""
        return self._link.client.max_payload if self._link.is_up else 1 << 20

    def room_for(self, body: bytes, headers: bytes) -> int:
        """Return how many bytes of headers would still be taken; negative if it is too much."""
        return min(self.max_payload - len(body), LARGEST_BLOCK) - len(headers)

    async def close(self) -> None:
        """Let what is in flight end, for a while."""
        if self._sends:
            with suppress(TimeoutError):
                async with asyncio.timeout(await self._link.time_to_wait(self._timeout)):
                    await self._sends.wait_idle()
        self._sends.close()

    # --- for the table of sends ---------------------------------------------------------------

    def write(self, send: Sending) -> None:
        send.reply = f"{self._inbox}.{send.number}"
        self._writer.put(send)

    def why_not(self) -> str | None:
        return None if self._link.is_up else self._link.reason

    async def make(self, place: Hashable) -> None:
        await self._link.wait_up()
        try:
            await ensure_stream(self._api, self._streams[place])
        except DeniedError as error:
            raise self._denied(str(place), str(place), error.reason) from error
        except NotTakenError:
            raise
        except BusUnavailableError as error:
            raise NotMadeYetError(error.reason) from error
        except (NatsError, OSError) as error:
            raise BusUnavailableError(self._link.name, str(error)) from error

    # --- what comes back ----------------------------------------------------------------------

    async def _on_up(self, fresh: bool) -> None:  # noqa: FBT001 - a listener
        if fresh:
            self._inbox = self._link.client.new_inbox()
            await self._link.listen(f"{self._inbox}.*", self._on_ack)
        again: list[Sending] = []
        for sending in self._sends:
            sending.reply = f"{self._inbox}.{sending.number}"
            if sending.written:
                sending.uncertain = True
                again.append(sending)
        self._writer.put_back(again)

    def _on_ack(self, message: Incoming) -> None:
        number = message.subject[message.subject.rfind(".") + 1 :]
        sending = self._sends.get(int(number))
        if sending is None:
            return
        if message.headers is not None and "Status" in message.headers:
            sending.written = False
            self._sends.gone(sending, _AFTER_NO_ANSWER)
            return
        ack = _decode(message.body)
        if ack.error is not None:
            refused = f"stream {sending.place!r} refuses it: {ack.error.description}"
            self._sends.refused(sending, NotTakenError(self._link.name, refused))
            return
        self._sends.taken(sending)
        if self._problems.reasons:
            self._problems.clear(sending.subject)
            self._problems.clear(str(sending.place))

    def _on_denied(self, denial: Denial) -> None:
        """Fail the oldest of this subject: the server says so of each message, in their order."""
        for sending in self._sends:
            if sending.written and sending.subject.lower() == denial.subject:
                error = self._denied(sending.subject, str(sending.place), denial.text)
                if sending.uncertain:  # an earlier connection may have been permitted
                    error = SendOutcomeUnknownError(
                        self._link.name, sending.message_id, denial.text
                    )
                self._sends.refused(sending, error)
                return

    def _denied(self, problem: str, stream: str, reason: str) -> BusError:
        topic = topic_of(stream)
        self._problems.report(problem, f"cannot send to topic {topic!r}: {reason}")
        return SendRefusedError(self._link.name, topic, reason)
