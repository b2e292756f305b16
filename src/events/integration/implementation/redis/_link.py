"""One connection that many share: what is asked in one turn of the loop leaves together.

A `Supervisor` makes it again when it is lost. It is up when what is said first, the greeting, is
answered. A link that `writes` is not up at a replica: that says so in the greeting, and is tried
again, as Sentinel, a proxy or the replica itself may lead to a master then.

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
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar, cast

from events.integration.brokering.problems import Outage
from events.integration.brokering.supervisor import NoConnectionError, Supervisor
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

Command: TypeAlias = tuple[Any, ...]
Translate: TypeAlias = Callable[[Any, ReplyError | DisconnectedError], Exception]

T = TypeVar("T")

_PARTING = 1.0  # seconds
_PING_EVERY = 5.0  # seconds of silence, so that a server that vanished is noticed
_HELLO = ("HELLO",)  # answered by what the server is, in Redis 6.2 and newer
_REFUSED = frozenset({"NOAUTH", "NOPERM", "WRONGPASS"})
_LOST = "the connection was lost"
_REPLICA = "it is a replica, which does not accept writes"


class _Request:
    __slots__ = ("args", "deadline", "future", "of", "translate")

    def __init__(
        self,
        args: Command,
        deadline: float,
        future: asyncio.Future[Any],
        translate: Translate | None = None,
        of: Any = None,
    ) -> None:
        self.args = args
        self.deadline = deadline
        self.future = future
        self.translate = translate
        self.of = of

    def fail(self, error: ReplyError | DisconnectedError) -> None:
        if not self.future.done():
            self.future.set_exception(self.translate(self.of, error) if self.translate else error)
            self.future.exception()  # else the loop logs it as never retrieved


class Link(Supervisor[Connection]):
    """A connection to Redis.

    `name` is what it logs as, at `level`. `timeout` is how long an answer may take, and making a
    connection. `greeting` is asked for what to say first on each new one. `writes` says that a
    replica is of no use. `on_push` gets the messages of subscriptions; `readable` holds them back
    while it is cleared.
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
    ) -> None:
        super().__init__(self, Outage(name, level=level))
        self.on_up.append(self._begin)
        self.on_down.append(self._stop)
        self._connector = connector
        self._timeout = timeout
        self._greeting = greeting
        self._writes = writes
        self._on_push = on_push
        self._queue: deque[_Request] = deque()
        self._sent: deque[_Request] = deque()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[str] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # of the connection, that one included
        self._closing = False
        self._idle = asyncio.Event()
        self.readable = asyncio.Event()
        self.readable.set()
        self.greeted: list[Any] = []
        self.generation = 0
        self.last_heard: float | None = None

    # --- asking -------------------------------------------------------------------------------

    def call(self, *args: Any, timeout: float | None = None) -> asyncio.Future[Any]:
        """Ask the server; the future has its answer, a `ReplyError` or a `DisconnectedError`."""
        return self.ask(args, self._timeout if timeout is None else timeout)

    def ask(
        self, args: Command, timeout: float, translate: Translate | None = None, of: Any = None
    ) -> asyncio.Future[Any]:
        """Ask as `call` does; `translate` makes the error that the future has, with `of`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        deadline = loop.time() + timeout
        request = _Request(args, deadline, future, translate, of)
        if self._closing or self._task is None:
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
            self.lose("no answer in time")
        for _ in range(len(self._queue)):
            request = self._queue.popleft()
            if request.deadline > now:
                self._queue.append(request)
            else:
                why = f"no connection in time: {self.reason or 'no answer'}"
                request.fail(DisconnectedError(why, sent=False))
        ends = [request.deadline for request in (*self._sent, *self._queue)]
        if ends:
            # The deadline of what is given up just now is over: look again when it is gone.
            self._look_at(max(min(ends), now + 0.01))
        self._check_idle()

    # --- the connection -----------------------------------------------------------------------

    async def close(self, drain: float = 0) -> None:
        """Wait for what was asked to be answered, but no longer than `drain`; then disconnect."""
        self._closing = True
        self._check_idle()
        try:
            if self.is_open:
                with suppress(TimeoutError):
                    async with asyncio.timeout(drain):
                        await self._idle.wait()
        finally:
            await super().close()
            self._fail_all(self._queue, sent=False)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _check_idle(self) -> None:
        if self._queue or self._sent:
            self._idle.clear()
        elif self._closing:
            self._idle.set()

    async def dial(self) -> Connection:
        """See `Dialer`."""
        connection = self._connector()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()
                await self._greet(connection)
        except BaseException as error:
            self._stop()
            await self.hang_up(connection)
            if isinstance(error, ReplyError):
                raise NoConnectionError(str(error), refused=error.code in _REFUSED) from error
            if isinstance(error, CONNECTION_ERRORS):
                reason = _text(error) or f"no answer within {self._timeout:g} s"
                raise NoConnectionError(reason, refused=is_fatal(error)) from error
            raise
        return connection

    async def _greet(self, connection: Connection) -> None:
        """Begin to read, and return when what is asked first is answered."""
        loop = asyncio.get_running_loop()
        greeting = [
            _Request(args, loop.time() + self._timeout, loop.create_future())
            for args in (_HELLO, *self._greeting())
        ]
        hello, *others = (request.future for request in greeting)
        reading = self._reading = self._spawn(self._read(connection))
        reading.add_done_callback(self._has_ended)
        self._sent.extend(greeting)
        await self._send(connection, greeting)
        # Answers come in the order of the questions.
        await asyncio.wait({others[-1], reading}, return_when=asyncio.FIRST_COMPLETED)
        if not others[-1].done():
            raise NoConnectionError(_result(reading))
        if self._writes and _is_replica(hello):
            raise NoConnectionError(_REPLICA)
        self.greeted = [answer.result() for answer in others]
        self.generation += 1

    def _begin(self, connection: Connection) -> None:
        # Before it has answered the greeting, a server that still loads may refuse the rest.
        self._spawn(self._write(connection)).add_done_callback(self._has_ended)
        self._spawn(self._ping())

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    def _has_ended(self, task: asyncio.Task[str]) -> None:
        if task in self._tasks and not task.cancelled():
            self.lose(_result(task))

    def _stop(self) -> None:
        """End the tasks in this moment: what they did later would be of another connection."""
        for task in self._tasks:
            task.cancel()
        self._fail_all(self._sent, sent=True)

    async def hang_up(self, connection: Connection) -> None:
        """See `Dialer`; for good, it returns when the socket is closed: the loop may end then."""
        self._stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        await _disconnect(connection, for_good=not self.is_open)

    def why_lost(self, connection: Connection) -> str | None:
        """See `Dialer`; it says so by itself, but where it was lost right when it was greeted."""
        if self._reading is not None and self._reading.done():
            return _result(self._reading)
        return None if connection.is_connected else _LOST

    # --- its tasks, which end with the reason why it is lost ----------------------------------

    async def _send(self, connection: Connection, batch: Sequence[_Request]) -> None:
        data = packed(connection, [request.args for request in batch])
        await connection.send_packed_command(data, check_health=False)

    async def _write(self, connection: Connection) -> str:
        while True:
            while not self._queue:
                self._check_idle()
                self._wake.clear()
                await self._wake.wait()
            batch = [request for request in self._queue if not request.future.done()]
            if not connection.is_connected:  # or the driver would connect by itself
                return _LOST
            self._queue.clear()
            if not batch:
                continue
            self._sent.extend(batch)
            try:
                await self._send(connection, batch)
            # Some asyncio of 3.12 and 3.13 raises TypeError for `writelines` on a lost connection.
            except (*CONNECTION_ERRORS, TypeError) as error:
                return _text(error)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(_PING_EVERY)
            if not (self._queue or self._sent) and self.readable.is_set():
                self.call("PING")  # the reader sees its outcome

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
                return f"an unexpected reply: {reply!r:.80}"
            request = sent.popleft()
            if isinstance(reply, ReplyError):
                request.fail(reply)
                if reply.code == "READONLY":
                    return _REPLICA
            elif not request.future.done():
                request.future.set_result(reply)
            if not sent:
                self._check_idle()

    def _fail_all(self, requests: deque[_Request], *, sent: bool) -> None:
        why = self.reason or _LOST
        while requests:
            requests.popleft().fail(DisconnectedError(why, sent=sent))


def _is_replica(hello: asyncio.Future[Any]) -> bool:
    """Return whether the answer to `HELLO` says so; a server may not let us ask."""
    if not hello.done() or hello.exception() is not None:
        return False
    about: list[Any] = hello.result()
    return about[about.index(b"role") + 1] != b"master" if b"role" in about else False


def _result(task: asyncio.Task[str]) -> str:
    """Return why the task ended."""
    error = task.exception()
    return task.result() if error is None else repr(error)


def _text(error: BaseException) -> str:
    return str(error) or (type(error).__name__ if not isinstance(error, TimeoutError) else "")


async def _disconnect(connection: Connection, *, for_good: bool) -> None:
    """Close it; `for_good` returns when it is closed, as the event loop may end then.

    TLS says goodbye and hears it said. Of a server that does not, nothing is to be heard for long.
    """
    with suppress(*CONNECTION_ERRORS):
        async with asyncio.timeout(_PARTING):
            await connection.disconnect(nowait=not for_good)
