"""`IntegrationEventBus`, the port for code that sends and receives events on any bus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from events.errors import InvalidTopologyError
from events.integration.event import IntegrationEvent
from events.integration.topology import IntegrationEventBusRegistration, Topic


class IntegrationEventBus(ABC):
    """Send integration events and hand them to consumers.

    To write a bus, call `super().__init__(registrations)`, implement `send`, and override
    `startup`, `shutdown` and `register` (calling `await super().register(registration)`) if the bus
    needs them. `registrations` lists the registrations in order. For a broker, a `Transport` under
    `TransportIntegrationEventBus` is less work and has more guarantees.
    """

    def __init__(
        self, registrations: Iterable[IntegrationEventBusRegistration] | None = None
    ) -> None:
        given: object = registrations
        if isinstance(given, IntegrationEventBusRegistration):
            raise InvalidTopologyError(f"registration of {given}", "pass a list: [registration]")
        self.registrations: list[IntegrationEventBusRegistration] = list(registrations or ())

    @abstractmethod
    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        """Send an event: return when the bus has taken responsibility for it, else raise."""

    async def startup(self) -> None:  # noqa: B027 - a bus that needs none leaves it out
        """Connect and start the registered consumers. A second call has no effect."""

    async def shutdown(self) -> None:  # noqa: B027 - as startup
        """Stop the consumers and disconnect. A second call has no effect."""

    async def register(self, registration: IntegrationEventBusRegistration) -> None:
        """Add a registration, before or after `startup`.

        Raises `InvalidTopologyError` if it cannot work.
        """
        registration.check()
        self.registrations.append(registration)

    async def unregister(self, registration: IntegrationEventBusRegistration) -> None:
        """Remove this registration, or the one of the same consumer and topic.

        Raises `InvalidTopologyError` if there is none.
        """
        self.registrations.remove(self._registered(registration))

    def _registered(
        self, registration: IntegrationEventBusRegistration
    ) -> IntegrationEventBusRegistration:
        if registration in self.registrations:  # identity first, then consumer and topic
            return registration
        for each in self.registrations:
            if (each.consumer.name, each.topic) == (registration.consumer.name, registration.topic):
                return each
        raise InvalidTopologyError(
            f"registration of {registration}", "it is not registered with this bus"
        )

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shutdown()
