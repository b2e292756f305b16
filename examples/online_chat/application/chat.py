"""The rooms of one server, and the roll that it calls in them."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import NewType, Self
from uuid import UUID

import structlog

from events.errors import BusError, SendOutcomeUnknownError
from events.integration.implementation.base import TransportIntegrationEventBus
from examples.online_chat.application.ports import Listener, UnavailableError
from examples.online_chat.application.room import Room
from examples.online_chat.contracts import Attendee, MessageSentV1
from examples.online_chat.domain.names import message_text, room_name, user_id, user_name
from examples.online_chat.domain.presence import Presence

log: structlog.stdlib.BoundLogger = structlog.get_logger("online_chat")


ServerId = NewType("ServerId", str)


def new_server_id() -> ServerId:
    """Make an id for this process. A process that is started again is another server."""
    return ServerId(secrets.token_hex(4))


class Seat:
    """Somebody's place in a room."""

    def __init__(self, room: Room, user: Attendee, bus: TransportIntegrationEventBus) -> None:
        self.user = user
        self._room = room
        self._bus = bus

    @property
    def room(self) -> str:
        return self._room.name

    @property
    def members(self) -> list[Attendee]:
        return self._room.members

    async def say(self, message_id: UUID, text: str) -> None:
        """Return when the bus has the message. Say it again with the same id, not with another.

        Raises `RefusedError` or `UnavailableError`.
        """
        event = MessageSentV1(
            message_id=message_id,
            author=self.user,
            text=message_text(text),
            sent_at=datetime.now(UTC),
        )
        try:
            await self._bus.send(self._room.topic, event)
        except SendOutcomeUnknownError as error:
            log.warning("message perhaps not sent", error=str(error))
            raise UnavailableError(
                "the servers lost each other, so nobody knows whether it was sent; "
                "sent again, it is shown once"
            ) from error
        except BusError as error:
            log.warning("message not sent", error=str(error))
            raise UnavailableError("the servers cannot reach each other") from error
        log.info("message sent", room=self.room, author=self.user.id, bytes=len(text.encode()))


class Chat:
    """Seat people in rooms; while it is entered, tell the other servers who is here."""

    def __init__(
        self,
        bus: TransportIntegrationEventBus,
        server: ServerId,
        *,
        heartbeat: float,
        timeout: float,
    ) -> None:
        self._bus = bus
        self._server = server
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._rooms: dict[str, Room] = {}
        self._connected = True
        self._beating: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Tell whether the other servers still hear of us."""
        return self._beating is not None and not self._beating.done()

    @asynccontextmanager
    async def join(
        self, room: str, name: str, key: str, listener: Listener
    ) -> AsyncGenerator[Seat]:
        """Seat somebody in a room until the block ends.

        Raises `RefusedError` or `UnavailableError`.
        """
        user = Attendee(id=user_id(key), name=user_name(name))
        if not self._bus.health().connected:
            raise UnavailableError("the servers cannot reach each other")
        async with self._following(room_name(room)) as followed:
            connection = secrets.token_hex(4)
            async with followed.chatter(connection, user, listener):
                yield Seat(followed, user, self._bus)

    @asynccontextmanager
    async def _following(self, name: str) -> AsyncGenerator[Room]:
        """Follow the room for as long as anybody here is in it."""
        room = self._rooms.get(name)
        if room is None:
            presence = Presence(self._server, self._timeout)
            room = self._rooms[name] = Room(name, self._server, self._bus, presence)
        room.visits += 1
        try:
            await room.open()
            yield room
        finally:
            room.visits -= 1
            if not room.visits:
                del self._rooms[name]
                await room.close()

    # --- the roll -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._beat(), name="online chat roll")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])  # what ended it before, if anything, is in the log

    async def _beat(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._heartbeat)
                await self._look_around()
        except Exception:
            log.exception("the roll has ended, so this server is not ready any more")
            raise

    async def _look_around(self) -> None:
        connected = self._bus.health().connected
        rooms = list(self._rooms.values())
        for room in rooms:
            room.look(connected=connected)
            if connected != self._connected:
                room.reach(connected=connected)
        self._connected = connected
        if connected:
            await asyncio.gather(*(room.attend() for room in rooms))
