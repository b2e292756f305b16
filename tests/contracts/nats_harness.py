"""What the contract suites need to know of NATS."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Unpack
from uuid import uuid4

from nats.aio.client import Client
from nats.errors import Error as NatsError

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.nats import NatsIntegrationEventBus, NatsTransport
from events.testing import eventually
from events.testing.contracts import Harness
from tests.brokers.nats_server import plain_url


class NatsHarness(Harness):
    timeout = 120.0
    deadline = 240.0

    def __init__(self) -> None:
        self.prefix = f"test-{uuid4().hex[:8]}"
        self.transports: list[NatsTransport] = []

    def new_bus(self, **options: Unpack[BusOptions]) -> NatsIntegrationEventBus:
        # A private broker that has just started may be slow on a busy machine.
        options.setdefault("connect_timeout", 60)
        options.setdefault("startup_timeout", 240)
        # No lease is waited for; past it, another bus would get what a busy machine does not renew.
        bus = NatsIntegrationEventBus(plain_url(), prefix=self.prefix, lease=15, **options)
        assert isinstance(bus.transport, NatsTransport)
        self.transports.append(bus.transport)
        return bus

    @asynccontextmanager
    async def break_dead_letters(self) -> AsyncGenerator[None, None]:
        client = await self._admin()
        name = f"{self.prefix}@dead-letters"
        config: dict[str, Any] = {"name": name, "subjects": [f"{name}.>"]}
        stream = client.jetstream()
        await stream.add_stream(**config, max_msg_size=1)
        try:
            yield
        finally:
            await stream.update_stream(**config, max_msg_size=-1)
            await client.close()

    async def lose_connection(self, bus: TransportIntegrationEventBus) -> None:
        assert isinstance(bus.transport, NatsTransport)
        link = bus.transport._link
        client = link.client
        assert client._transport is not None
        client._transport.close()  # type: ignore[no-untyped-call]
        await eventually(lambda: link.is_up and link._client is not client, self.timeout)

    async def open_resources(self) -> dict[str, int]:
        clients = [t._link._client for t in self.transports if t._link._client is not None]
        return {
            "connections": len(clients),
            "subscriptions": sum(len(client._subs) for client in clients),
        }

    async def aclose(self) -> None:
        client = await self._admin()
        manager = client.jsm()
        topics = {stream.name for t in self.transports for stream in t._streams.values()}
        for name in (*topics, f"{self.prefix}@dead-letters", f"{self.prefix}@attempts"):
            with suppress(NatsError):  # it was never needed
                await manager.delete_stream(name)
        await client.close()

    async def _admin(self) -> Client:
        client = Client()
        await client.connect(plain_url())
        return client
