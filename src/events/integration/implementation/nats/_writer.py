"""What leaves, in order, through one task: sends, acknowledgements, requests for more.

    put --> queued --> written to the client
               ^----------'   put back by its owner, if the connection was lost since

nats-py publishes with a coroutine. One task that drives it for everything costs no task for each
message, keeps the order in which things were put, and holds them while there is no connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    OutboundBufferLimitError,
)
from nats.errors import Error as NatsError

from events.integration.implementation.nats._link import Link

__all__ = ["Outgoing", "Writer"]

_LOOK = 0.002  # seconds between looks whether all is written
_MOMENT = 0.002  # seconds that an acknowledgement waits for others, to share a system call
_TURN = 200  # messages written before others on the loop have their turn


class Outgoing:
    """Something to be written. `written` is set when the client has it, before the server does."""

    __slots__ = ("abandoned", "body", "headers", "reply", "subject", "written")

    def __init__(
        self,
        subject: str,
        body: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.subject = subject
        self.body = body
        self.reply = reply
        self.headers = headers
        self.written = False
        self.abandoned = False

    def fail(self, error: Exception) -> None:
        """Be told that this can never be written."""


class Writer:
    """Write to the link's client what is put here."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: deque[Outgoing] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
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
        while self._queue:
            await self._link.wait_up()
            await asyncio.sleep(_LOOK)
        await self._link.wait_up()
        await self._link.client.flush()

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
        while me is self._task:
            for _ in range(_TURN):
                while not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                item = self._queue.popleft()
                if item.abandoned:
                    continue
                item.written = True
                try:
                    await client.publish(item.subject, item.body, item.reply, item.headers)
                except (ConnectionClosedError, ConnectionDrainingError, OutboundBufferLimitError):
                    item.written = False
                    self._queue.appendleft(item)
                    self._link.suspect()
                    return
                except NatsError as error:
                    item.fail(error)
                if me is not self._task:
                    return
            await asyncio.sleep(0)
