"""One task that writes in order: sends, acknowledgements, requests for more.

    put --> queued --> written to the client
               ^----------'   put back by its owner, if the connection was lost since

The client publishes with a coroutine. One task that drives it for everything costs no task for each
message, keeps the order in which things were put, and holds them while there is no connection. To a
client of our own it gives what came together in one piece.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable

from nats.aio.client import Client
from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    MaxPayloadError,
    OutboundBufferLimitError,
)
from nats.errors import Error as NatsError

from events.integration.implementation.nats._driver import Direct, flush
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._wire import parse_block

logger = logging.getLogger("events.integration")

_LOOK = 0.002  # seconds between looks whether all is written
_MOMENT = 0.002  # seconds that an acknowledgement waits for others, to share a system call
_TURN = 200  # messages written before others on the loop have their turn,
_PIECE = 256 * 1024  # or bytes: the message that exceeds these is the last of its piece

_UNWRITABLE = (ConnectionClosedError, ConnectionDrainingError, OutboundBufferLimitError)


class Outgoing:
    """Something to be written. `written` is set when the client has it, before the server does."""

    __slots__ = ("abandoned", "body", "headers", "reply", "subject", "written")

    def __init__(
        self,
        subject: str,
        body: bytes = b"",
        reply: str = "",
        headers: bytes = b"",
    ) -> None:
        self.subject = subject
        self.body = body
        self.reply = reply
        self.headers = headers
        self.written = False
        self.abandoned = False

    @property
    def is_abandoned(self) -> bool:
        """Return whether it need not be written any more."""
        return self.abandoned

    @property
    def size(self) -> int:
        """Return what the server counts against its limit."""
        return len(self.headers) + len(self.body)

    def command(self) -> bytes:
        """Return what is written."""
        head, size = self.headers, len(self.body)
        if head:
            begin = f"HPUB {self.subject} {self.reply} {len(head)} {len(head) + size}\r\n"
        else:
            begin = f"PUB {self.subject} {self.reply} {size}\r\n"
        return b"%b%b%b\r\n" % (begin.encode(), head, self.body)

    def fail(self, error: Exception) -> None:
        """Learn that this can never be written."""

    def lose(self, error: Exception) -> None:
        """Note that it is unknown whether this was written."""


class Writer:
    """Write to the link's client what is put here."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: deque[Outgoing] = deque()
        self._writing = 0  # pieces of it, that the client may not have yet
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._logged = False
        self._moment: asyncio.TimerHandle | None = None
        link.add_writer(self._begin, self.stop)

    def put(self, item: Outgoing) -> None:
        """Write it when its turn comes."""
        self._queue.append(item)
        self._wake.set()

    def put_with_others(self, item: Outgoing) -> None:
        """Write it in its turn, but not alone: with what comes next, or in a moment."""
        self._queue.append(item)
        if self._moment is None and not self._wake.is_set():
            self._moment = asyncio.get_running_loop().call_later(_MOMENT, self._moment_is_over)

    def _moment_is_over(self) -> None:
        self._moment = None
        self._wake.set()

    def put_back(self, items: Iterable[Outgoing]) -> None:
        """Write these again, in this order, before what is queued."""
        again = list(items)
        for item in again:
            item.written = False
        self._queue.extendleft(reversed(again))
        self._wake.set()

    async def flush(self) -> None:
        """Return when the server has read all that was put before."""
        self._wake.set()
        while self._queue or self._writing:
            await self._link.wait_up()
            await asyncio.sleep(_LOOK)
        await self._link.wait_up()
        await flush(self._link.client)

    def stop(self) -> None:
        """Write no more until the link is up again."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _begin(self) -> None:
        self.stop()
        self._task = asyncio.create_task(self._write(), name="nats-writer")

    async def _write(self) -> None:
        # nats-py swallows a cancellation where it waits for room in its buffer, so the task looks
        # whether it is still the one, too.
        me = asyncio.current_task()
        client = self._link.client
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            if me is not self._task:
                return
            items = self._take()
            self._writing += 1
            try:
                if isinstance(client, Direct) and client.writes_whole:
                    await self._write_all(client, items)
                else:
                    await self._write_each(client, items)
            except _UNWRITABLE:
                self._link.look()
                return
            except Exception as error:  # noqa: BLE001 - as of a driver that has changed
                self._give_up(items, error)
            finally:  # cancelled as well
                self._writing -= 1
                self._queue.extendleft(item for item in reversed(items) if not item.written)
            if self._queue:
                await asyncio.sleep(0)  # others on the loop have their turn

    def _take(self) -> list[Outgoing]:
        items: list[Outgoing] = []
        queue, room = self._queue, _PIECE
        while queue and room > 0 and len(items) < _TURN:
            item = queue.popleft()
            if not item.is_abandoned:
                items.append(item)
                room -= len(item.body) + len(item.headers)
        return items

    def _give_up(self, items: list[Outgoing], error: Exception) -> None:
        # The task must go on: without it, all that is put would wait for ever.
        for item in items:
            item.written = True
            item.lose(error)
        if not self._logged:
            logger.error("%s: the driver cannot write: %r", self._link.name, error, exc_info=error)
            self._logged = True

    async def _write_all(self, client: Direct, items: list[Outgoing]) -> None:
        commands: list[bytes] = []
        for item in items:
            item.written = True
            if item.size > client.max_payload:  # it would cost the connection
                item.fail(MaxPayloadError())
            else:
                commands.append(item.command())
        try:
            await client.write(b"".join(commands))
        except _UNWRITABLE:
            for item in items:
                item.written = False
            raise

    async def _write_each(self, client: Client, items: list[Outgoing]) -> None:
        me = asyncio.current_task()
        for item in items:
            if me is not self._task:
                return
            item.written = True
            headers = parse_block(item.headers) if item.headers else None
            try:
                await client.publish(item.subject, item.body, item.reply, headers)
            except _UNWRITABLE:
                item.written = False
                raise
            except NatsError as error:
                item.fail(error)
