"""One room as one server sees it, from its first chatter here to the last one's leaving."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from events.errors import BusError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    RetryPolicy,
)
from examples.online_chat.application.ports import Listener, UnavailableError
from examples.online_chat.contracts import (
    Attendee,
    MessageSentV1,
    RollCalledV1,
    ServerAttendedV1,
    UserConnectedV1,
    UserDisconnectedV1,
    topic_of,
)
from examples.online_chat.domain.presence import Changes, Presence

log: structlog.stdlib.BoundLogger = structlog.get_logger("online_chat")

# A failure here is a bug, or a bus that is down: a retry does not help, but the next roll does.
ONCE = RetryPolicy(attempts=1)


class Room:
    """Listen to what other servers say of the room, and tell the chatters of this one.

    On the room's topic there is one consumer for the server, which keeps the list of members, and
    one for each chatter (`chatter`), which takes messages.
    """

    def __init__(
        self, name: str, server: str, bus: IntegrationEventBus, presence: Presence
    ) -> None:
        self.name = name
        self.topic = topic_of(name)
        self.visits = 0
        self._server = server
        self._bus = bus
        self._presence = presence
        self._listeners: dict[str, Listener] = {}
        self._opening = asyncio.Lock()
        self._open = False
        consumer = EventHandlerConsumer(f"server-{server}")
        consumer.add_handler(UserConnectedV1, self._on_connected)
        consumer.add_handler(UserDisconnectedV1, self._on_disconnected)
        consumer.add_handler(RollCalledV1, self._on_roll_called)
        consumer.add_handler(ServerAttendedV1, self._on_attended)
        self._registration = self._registration_of(consumer)

    def _registration_of(self, consumer: EventHandlerConsumer) -> IntegrationEventBusRegistration:
        return consumer.subscribe(self.topic, retry=ONCE)

    async def _register(self, registration: IntegrationEventBusRegistration) -> None:
        try:
            await self._bus.register(registration)
        except BusError as error:
            log.warning("not registered", room=self.name, error=str(error))
            raise UnavailableError("the servers cannot reach each other") from error

    # --- what happens here --------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to listen, once, and ask the other servers whom they have in the room.

        Raises `UnavailableError`.
        """
        async with self._opening:
            if not self._open:
                await self._register(self._registration)
                self._open = True
                await self.announce(RollCalledV1(server=self._server))

    async def close(self) -> None:
        """Stop listening; the last chatter has left."""
        if self._open:
            self._open = False
            await self._bus.unregister(self._registration)

    @asynccontextmanager
    async def chatter(
        self, connection: str, user: Attendee, listener: Listener
    ) -> AsyncGenerator[None]:
        """Have somebody in the room until the block ends. Raises `UnavailableError`."""

        async def on_message(event: MessageSentV1) -> None:
            log.info("message delivered", to=user.id, room=self.name)
            listener.on_message(event)

        consumer = EventHandlerConsumer(f"chatter-{connection}", {MessageSentV1: on_message})
        registration = self._registration_of(consumer)
        await self._register(registration)
        try:
            self._tell(self._presence.connect(self._server, connection, user, _now()))
            self._listeners[connection] = listener
            await self.announce(
                UserConnectedV1(server=self._server, connection=connection, user=user)
            )
            yield
        finally:
            self._listeners.pop(connection, None)
            self._tell(self._presence.disconnect(self._server, connection, _now()))
            try:  # at once: a list without them that comes first would say that they are lost
                await self.announce(
                    UserDisconnectedV1(server=self._server, connection=connection, user=user)
                )
            finally:
                await self._bus.unregister(registration)

    @property
    def members(self) -> list[Attendee]:
        return self._presence.members

    async def announce(self, event: IntegrationEvent) -> None:
        """Tell the other servers, if they can be reached. The next roll repairs what is lost."""
        try:
            await self._bus.send(self.topic, event)
        except BusError as error:
            log.warning("not announced", event_type=event.type, room=self.name, error=str(error))

    async def attend(self) -> None:
        """Tell the other servers whom we have."""
        attendees = dict(self._presence.of(self._server))
        await self.announce(ServerAttendedV1(server=self._server, attendees=attendees))

    def look(self, *, connected: bool) -> None:
        """Miss those servers that are silent, unless it is us who are cut off."""
        if connected:
            self._tell(self._presence.expire(_now()))
        else:
            self._presence.excuse(_now())

    def reach(self, *, connected: bool) -> None:
        """Tell the chatters that the other servers are out of reach, or within it again."""
        for listener in self._listeners.values():
            listener.on_reach(connected=connected)

    # --- what other servers say ---------------------------------------------------------------

    async def _on_connected(self, event: UserConnectedV1) -> None:
        if event.server != self._server:
            self._tell(self._presence.connect(event.server, event.connection, event.user, _now()))

    async def _on_disconnected(self, event: UserDisconnectedV1) -> None:
        if event.server != self._server:
            self._tell(self._presence.disconnect(event.server, event.connection, _now()))

    async def _on_attended(self, event: ServerAttendedV1) -> None:
        if event.server != self._server:
            self._tell(self._presence.attend(event.server, event.attendees, _now()))

    async def _on_roll_called(self, event: RollCalledV1) -> None:
        if event.server != self._server:
            await self.attend()

    def _tell(self, changes: Changes) -> None:
        for change, member in changes:
            log.info("presence changed", change=change, member=member.id, room=self.name)
            for listener in self._listeners.values():
                listener.on_change(change, member)


def _now() -> float:
    return asyncio.get_running_loop().time()
