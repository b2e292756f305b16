"""One connection that many share: what is asked in one turn of the loop leaves together.

    closed --open--> connecting --greeted--> up --lost--> connecting ... --close--> closed
                         ^------ backoff -----'

A link that `writes` is not up at a replica: it says so in the greeting, and is tried again, as
Sentinel, a proxy or the replica itself may lead to a master then.

Requests wait in `queue` until they are written, then in `sent` until they are answered; answers
come in the order of the questions. What is lost in `sent` may have been done, what is still in
`queue` was not, and waits for the next connection until its own deadline. An answer that is overdue
means that the server is frozen or gone: the connection is given up, as nothing behind it would come
sooner.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, cast

from events.integration.brokering.backoff import Backoff
from events.integration.brokering.problems import Outage
from events.integration.implementation.redis._connecting import (
    CONNECTION_ERRORS,
    Connection,
    Connector,
    DisconnectedError,
    ReplyError,
    ResponseError,
    is_fatal,
    packed,
)
from events.integration.implementation.redis._scripts import Script

__all__ = ["Link"]

Command: TypeAlias = tuple[Any, ...]
Translate: TypeAlias = Callable[[ReplyError | DisconnectedError], Exception]

logger = logging.getLogger("events.integration")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_PARTING = 1.0  # seconds
_PING_EVERY = 5.0  # seconds of silence, so that a server that is gone without a word is noticed
_HELLO = ("HELLO",)  # answered by what the server is, in Redis 6.2 and newer
_REPLICA = "it is a replica, where nothing can be written"


class _Request:
    __slots__ = ("args", "deadline", "future", "translate")

    def __init__(
        self,
        args: Command,
        deadline: float,
        future: asyncio.Future[Any],
        translate: Translate | None = None,
    ) -> None:
        self.args = args
        self.deadline = deadline
        self.future = future
        self.translate = translate

    def fail(self, error: ReplyError | DisconnectedError) -> None:
        if not self.future.done():
            self.future.set_exception(self.translate(error) if self.translate else error)
            self.future.exception()  # whoever gave up waiting must not be told off by the loop


class Link:
    """A connection to Redis that is made again whenever it is lost, for ever, with backoff.

    `name` is what it logs as, at `level`. `timeout` is how long an answer may take, and making a
    connection. `greeting` is asked for what to say first on each new one, and the link is up when
    all of that is answered. `writes` says that a replica is of no use. `on_push` gets the messages
    of subscriptions; `readable` holds them back while it is cleared. `on_lost` is called for each
    connection that was up and is gone.
    """

    def __init__(
        self,
        connector: Connector,
        name: str,
        *,
        timeout: float,
        level: int = logging.WARNING,
        greeting: Callable[[], Sequence[Command]] = lambda: (("PING",),),
        writes: bool = True,
        on_push: Callable[[list[bytes]], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._connector = connector
        self._name = name
        self._timeout = timeout
        self._level = level
        self._greeting = greeting
        self._writes = writes
        self._outage = Outage(name, level=level)
        self._on_push = on_push
        self._on_lost = on_lost
        self._queue: deque[_Request] = deque()
        self._sent: deque[_Request] = deque()
        self._wake = asyncio.Event()
        self._broken: asyncio.Future[str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._why = ""
        self._idle = asyncio.Event()
        self.readable = asyncio.Event()
        self.readable.set()
        self.up = asyncio.Event()
        self.greeted: list[Any] = []
        self.generation = 0
        self.last_heard: float | None = None

    # --- asking -------------------------------------------------------------------------------

    def call(
        self, *args: Any, timeout: float | None = None, translate: Translate | None = None
    ) -> asyncio.Future[Any]:
        """Ask the server; the future has its answer, a `ReplyError` or a `DisconnectedError`.

        `translate` makes the error that the future has instead.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        request = _Request(args, deadline, future, translate)
        if self._task is None:
            request.fail(DisconnectedError("it is closed", sent=False))
            return future
        self._queue.append(request)
        self._wake.set()
        if self._timer is None or deadline < self._timer.when():
            self._look_at(deadline)
        return future

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._expire)

    async def run_script(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """Run a script by its digest, and teach it to a server that does not know it."""
        try:
            return await self.call("EVALSHA", script.digest, len(keys), *keys, *args)
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        return await self.call("EVAL", script.source, len(keys), *keys, *args)

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        # Answers come in line: the one that is overdue may wait behind one with a later deadline.
        if any(request.deadline <= now for request in self._sent):
            self._break("no answer in time")
        for _ in range(len(self._queue)):
            request = self._queue.popleft()
            if request.deadline > now:
                self._queue.append(request)
            else:
                why = f"no connection in time: {self._why or 'no answer'}"
                request.fail(DisconnectedError(why, sent=False))
        ends = [request.deadline for request in (*self._sent, *self._queue)]
        if ends:
            # The deadline of what is given up just now is over: look again when it is gone.
            self._look_at(max(min(ends), now + 0.01))
        self._check_idle()

    def _break(self, why: str) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(why)

    # --- lifecycle ----------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Tell whether it is up."""
        return self.up.is_set()

    @property
    def error(self) -> str | None:
        """Return why it is not up."""
        return None if self.connected else self._why or None

    async def open(self, timeout: float) -> None:  # noqa: ASYNC109 - it tells why it failed
        """Connect, trying again until the timeout; raise `DisconnectedError` with the last reason.

        Wrong credentials are not tried again.
        """
        first = self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"{self._name} link")
        try:
            await asyncio.wait({first}, timeout=timeout)
            if not first.done():
                why = self._why or f"no answer within {timeout:g} s"
                raise DisconnectedError(why, sent=False)
            first.result()
        except BaseException:
            await self.close(0)
            raise
        finally:
            self._first = None

    async def close(self, drain: float) -> None:
        """Wait for what was asked to be answered, but no longer than `drain`; then disconnect."""
        task, self._task = self._task, None
        if task is None:
            return
        self._check_idle()
        try:
            async with asyncio.timeout(drain):
                await self._idle.wait()
        except TimeoutError:
            pass
        finally:
            task.cancel()
            await asyncio.wait({task})
            self._fail_all(self._sent, "it was closed", sent=True)
            self._fail_all(self._queue, "it was closed", sent=False)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _check_idle(self) -> None:
        if self._queue or self._sent:
            self._idle.clear()
        elif self._task is None:
            self._idle.set()

    async def _run(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            connection = self._connector()
            why = ""
            try:
                async with asyncio.timeout(self._timeout):
                    await connection.connect()
            except CONNECTION_ERRORS as error:
                why = _text(error) or f"no connection within {self._timeout:g} s"
                if is_fatal(error):
                    self._give_up(why)
            else:
                why = await self._serve(connection)
            finally:
                await _disconnect(connection, for_good=self._task is None)
                was_up = self.up.is_set()
                self.up.clear()
            self._fail_all(self._sent, why, sent=True)
            self._lost(why, was_up=was_up)
            if was_up and why != _REPLICA:
                backoff.reset()
            await backoff.pause()

    async def _serve(self, connection: Connection) -> str:
        """Write and read until the connection ends; return why."""
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[str] = loop.create_future()
        self._broken = broken
        greeting = [
            _Request(args, loop.time() + self._timeout, loop.create_future())
            for args in (_HELLO, *self._greeting())
        ]
        hello, *others = (request.future for request in greeting)
        greeted = asyncio.gather(*others)
        greeted.add_done_callback(partial(self._on_greeted, hello))
        watch = loop.call_later(self._timeout, self._greeting_overdue, greeted)
        reading = asyncio.create_task(self._read(connection))
        writing = asyncio.create_task(self._write(connection, greeting))
        pinging = asyncio.create_task(self._ping())
        try:
            await asyncio.wait({reading, writing, broken}, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                return broken.result()
            ended: asyncio.Task[str] = reading if reading.done() else writing
            return ended.result()
        finally:
            watch.cancel()
            self._broken = None
            tasks = {reading, writing, pinging}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for request in greeting:
                request.fail(DisconnectedError("the connection was lost", sent=True))

    def _greeting_overdue(self, greeted: asyncio.Future[list[Any]]) -> None:
        if not greeted.done():
            self._break(f"no answer within {self._timeout:g} s")

    def _on_greeted(self, hello: asyncio.Future[Any], greeted: asyncio.Future[list[Any]]) -> None:
        if greeted.cancelled():
            return
        if self._writes and _is_replica(hello):
            self._break(_REPLICA)
            return
        error = greeted.exception()
        if isinstance(error, ReplyError):
            self._break(str(error))
            if error.code in {"NOAUTH", "NOPERM", "WRONGPASS"}:
                self._give_up(str(error))
        if error is not None:
            return
        self.greeted = greeted.result()
        self.generation += 1
        self.up.set()
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        self._why = ""
        if self._outage.is_over:
            logger.log(min(self._level, logging.INFO), "%s is connected", self._name)
        self._outage.end(self)

    async def _write(self, connection: Connection, greeting: list[_Request]) -> str:
        batch = greeting
        while True:
            if not connection.is_connected:  # or the driver would connect by itself
                self._queue.extendleft(reversed(batch))
                return "the connection was lost"
            self._sent.extend(batch)
            try:
                data = packed(connection, [request.args for request in batch])
                await connection.send_packed_command(data, check_health=False)
            # Some asyncio of 3.12 and 3.13 raises TypeError for `writelines` on a lost connection.
            except (*CONNECTION_ERRORS, TypeError) as error:
                return _text(error)
            # Before it has answered the greeting, a server that still loads may refuse the rest.
            await self.up.wait()
            batch = []
            while not batch:
                if not self._queue:
                    self._check_idle()
                    self._wake.clear()
                    await self._wake.wait()
                batch = [request for request in self._queue if not request.future.done()]
                self._queue.clear()

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(_PING_EVERY)
            if not (self._queue or self._sent) and self.up.is_set() and self.readable.is_set():
                self.call("PING")  # what comes of it is seen by whoever reads

    async def _read(self, connection: Connection) -> str:
        loop = asyncio.get_running_loop()
        sent, push = self._sent, self._on_push
        while True:
            reply: Any
            try:
                # Or the driver would close it on a cancellation too, and not wait until it is.
                reply = await connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
            except ResponseError as error:
                reply = ReplyError(error)
            except CONNECTION_ERRORS as error:
                await _disconnect(connection, for_good=False)  # before anything more is written
                return _text(error)
            self.last_heard = loop.time()
            if push is not None and isinstance(reply, list) and reply[0] == b"message":
                push(cast("list[bytes]", reply))
                await self.readable.wait()
                continue
            if not sent:
                return f"an answer that nobody asked for: {reply!r:.80}"
            request = sent.popleft()
            if isinstance(reply, ReplyError):
                request.fail(reply)
                if reply.code == "READONLY":
                    return _REPLICA
            elif not request.future.done():
                request.future.set_result(reply)
            if not sent:
                self._check_idle()

    # --- ends ---------------------------------------------------------------------------------

    def _lost(self, why: str, *, was_up: bool) -> None:
        self._why = why
        if self.generation:  # before it was first up, whoever opens it is given the reason
            self._outage.begin(self, why)
        if was_up and self._on_lost is not None:
            self._on_lost()

    def _give_up(self, why: str) -> None:
        """Let `open` raise, as another try would end alike; a link that was up goes on trying."""
        if self._first is not None and not self._first.done():
            self._first.set_exception(DisconnectedError(why, sent=False))

    def _fail_all(self, requests: deque[_Request], why: str, *, sent: bool) -> None:
        while requests:
            requests.popleft().fail(DisconnectedError(why, sent=sent))


def _is_replica(hello: asyncio.Future[Any]) -> bool:
    """Tell whether the answer to `HELLO` says so; a server may not let us ask."""
    if not hello.done() or hello.exception() is not None:
        return False
    about: list[Any] = hello.result()
    return about[about.index(b"role") + 1] != b"master" if b"role" in about else False


def _text(error: BaseException) -> str:
    return str(error) or (type(error).__name__ if not isinstance(error, TimeoutError) else "")


async def _disconnect(connection: Connection, *, for_good: bool) -> None:
    """Close it; `for_good` returns when it is closed, as the event loop may end then.

    TLS says goodbye and hears it said. Of a server that does not, nothing is to be heard for long.
    """
    with suppress(*CONNECTION_ERRORS):
        async with asyncio.timeout(_PARTING):
            await connection.disconnect(nowait=not for_good)
