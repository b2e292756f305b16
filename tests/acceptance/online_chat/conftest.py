"""Servers of the chat in this process, each with a bus of its own on the same channels."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.memory import InMemoryBroadcastTransport, InMemoryChannels
from events.testing import FaultyTransport
from examples.online_chat.application.chat import Chat, Seat, ServerId
from examples.online_chat.contracts import Attendee, MessageSentV1
from examples.online_chat.domain.presence import Change

HEARTBEAT, TIMEOUT = 0.02, 60.0  # seconds; who stands still is missed by nobody
IMPATIENT = 0.3  # where one is to be missed


@dataclass
class Ear:
    """A `Listener` that records what it receives."""

    messages: list[MessageSentV1] = field(default_factory=list[MessageSentV1])
    changes: list[tuple[Change, str]] = field(default_factory=list[tuple[Change, str]])
    reach: list[bool] = field(default_factory=list[bool])

    def on_message(self, event: MessageSentV1) -> None:
        self.messages.append(event)

    def on_change(self, change: Change, member: Attendee) -> None:
        self.changes.append((change, member.name))

    def on_reach(self, *, connected: bool) -> None:
        self.reach.append(connected)

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.messages]


class Server:
    """A server whose bus can be made to fail."""

    def __init__(self, name: str, channels: InMemoryChannels, timeout: float) -> None:
        self.transport = FaultyTransport(InMemoryBroadcastTransport(channels))
        self.bus = TransportIntegrationEventBus(self.transport, send_timeout=TIMEOUT)
        self.chat = Chat(self.bus, ServerId(name), heartbeat=HEARTBEAT, timeout=timeout)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await self._stack.enter_async_context(self.bus)
        await self._stack.enter_async_context(self.chat)

    async def stop(self) -> None:
        await self._stack.aclose()

    async def seat(self, name: str, room: str = "lobby") -> tuple[Seat, Ear]:
        """Connect a user until the server stops."""
        ear = Ear()
        joining = self.chat.join(room, name, f"the key of {name:>16}", ear)
        return await self._stack.enter_async_context(joining), ear


@dataclass
class Servers:
    channels: InMemoryChannels = field(default_factory=InMemoryChannels)
    running: dict[str, Server] = field(default_factory=dict[str, Server])

    async def start(self, name: str, patience: float = TIMEOUT) -> Server:
        server = self.running[name] = Server(name, self.channels, patience)
        await server.start()
        return server


@pytest.fixture
async def servers() -> AsyncGenerator[Servers]:
    servers = Servers()
    yield servers
    for server in servers.running.values():
        await server.stop()
