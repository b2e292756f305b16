"""One socket, from its opening to its end: requests in, answers and news out.

    opened --join--> seated --> the page goes, is too slow, or never joined --> closed

Messages are sent in tasks of their own, so that one which waits for the bus holds up nothing. They
begin in the order in which they came, and that is their order in the room.
"""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect
from structlog.contextvars import bound_contextvars

from events.integration import correlate
from examples.online_chat.application.chat import Chat, Seat
from examples.online_chat.application.ports import UnavailableError
from examples.online_chat.domain.names import RefusedError
from examples.online_chat.presentation.limits import Bucket
from examples.online_chat.presentation.outgoing import Outgoing
from examples.online_chat.presentation.protocol import (
    Failed,
    Join,
    Joined,
    Ok,
    Ping,
    RefusedFrameError,
    Request,
    Say,
    read,
)
from examples.online_chat.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("online_chat")

_GOODBYE = 2.0  # seconds for a close frame to reach somebody who may not be reading


class End(NamedTuple):
    """Why we close a socket: a code of RFC 6455, and words for the page to show."""

    code: int
    reason: str


FULL = End(1013, "this server is full")
NO_ROOM = End(1008, "no room was joined in time")
TOO_SLOW = End(1013, "your connection is too slow to keep up with this room")
BROKEN = End(1011, "the server made a mistake")


class Connection:
    """Serve one accepted socket."""

    def __init__(self, websocket: WebSocket, chat: Chat, settings: Settings) -> None:
        self._websocket = websocket
        self._chat = chat
        self._join_timeout = settings.join_timeout
        self._outgoing = Outgoing(settings.backlog)
        self._bucket = Bucket(settings.burst, settings.rate, _now())

    async def serve(self) -> None:
        """Return when the socket is closed and its user has left the room."""
        end = await self._until_the_end()
        if end is not None:
            log.info("socket closed", code=end.code, reason=end.reason)
            await close(self._websocket, end)

    async def _until_the_end(self) -> End | None:
        sitting = asyncio.create_task(self._sit())
        writing = asyncio.create_task(self._write())
        overflowing = asyncio.create_task(self._outgoing.overflowed.wait())
        tasks: set[asyncio.Task[object]] = {sitting, writing, overflowing}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if overflowing.done():
                return TOO_SLOW
            return sitting.result() if sitting.done() else writing.result()
        except Exception:
            log.exception("socket failed")
            return BROKEN
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)  # sitting leaves the room meanwhile

    async def _write(self) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):  # as starlette says that it is closed
            while True:
                await self._websocket.send_text(await self._outgoing.get())

    async def _sit(self) -> End | None:
        """Let the user join, and answer requests, until the user leaves."""
        async with AsyncExitStack() as leaving:
            try:
                async with asyncio.timeout(self._join_timeout):
                    seat = await self._seat(leaving)
            except TimeoutError:
                return NO_ROOM
            if seat is not None:
                with bound_contextvars(user=seat.user.id, room=seat.room):
                    await self._answer_all(seat)
        return None

    async def _seat(self, leaving: AsyncExitStack) -> Seat | None:
        while (request := await self._next()) is not None:
            if isinstance(request, Join):
                joining = self._chat.join(request.room, request.name, request.key, self._outgoing)
                try:
                    seat = await leaving.enter_async_context(joining)
                except (RefusedError, UnavailableError) as error:
                    self._fail(request, error)
                else:
                    # Members and answer in one step: what changes from now on comes after it.
                    answer = Joined(request.id, seat.room, seat.user, seat.members)
                    self._outgoing.put(answer)
                    return seat
            elif isinstance(request, Ping):
                self._outgoing.put(Ok(request.id))
            else:
                self._fail(request, RefusedError("join a room first"))
        return None

    async def _answer_all(self, seat: Seat) -> None:
        async with asyncio.TaskGroup() as answering:
            while (request := await self._next()) is not None:
                match request:
                    case Say():
                        answering.create_task(self._say(seat, request))
                    case Ping():
                        self._outgoing.put(Ok(request.id))
                    case Join():
                        reason = f"you are in {seat.room} already; another room, another socket"
                        self._fail(request, RefusedError(reason))

    async def _say(self, seat: Seat, request: Say) -> None:
        # The message's id is that of all that follows from it, in the logs of every server.
        correlation_id = str(request.message)
        with correlate(correlation_id), bound_contextvars(correlation_id=correlation_id):
            try:
                await seat.say(request.message, request.text)
            except (RefusedError, UnavailableError) as error:
                self._fail(request, error)
            else:
                self._outgoing.put(Ok(request.id))

    async def _next(self) -> Request | None:
        """Return the next request that may be answered, or None if there will be none."""
        while True:
            frame = await self._websocket.receive()
            if frame["type"] == "websocket.disconnect":
                return None
            wait = self._bucket.take(_now())
            try:
                request = read(frame.get("text"))
            except RefusedFrameError as refusal:
                self._outgoing.put(Failed(refusal.id, str(refusal)))
            else:
                if not wait:
                    return request
                reason = f"too fast: try again in {wait:.1f} s"
                self._outgoing.put(Failed(request.id, reason, retry=True))
            # Who does not stop is read no faster than allowed.
            await asyncio.sleep(wait)

    def _fail(self, request: Request, error: RefusedError | UnavailableError) -> None:
        retry = isinstance(error, UnavailableError)
        log.info("request failed", request=type(request).__name__, reason=str(error))
        self._outgoing.put(Failed(request.id, str(error), retry))


async def close(websocket: WebSocket, end: End) -> None:
    """Say goodbye, and do not wait for ever for it to be heard."""
    with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(_GOODBYE):
            await websocket.close(end.code, end.reason)


def _now() -> float:
    return asyncio.get_running_loop().time()
