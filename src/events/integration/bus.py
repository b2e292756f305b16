"""The users' port: what code that sends and receives events may rely on, whatever the bus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from events.errors import InvalidTopologyError
from events.integration.event import IntegrationEvent
from events.integration.topology import IntegrationEventBusRegistration, Topic

__all__ = ["IntegrationEventBus"]


class IntegrationEventBus(ABC):
    """Send integration events and hand them to consumers.

    To write a bus of your own, call `super().__init__(registrations)`, implement `send`, and
    override `startup`, `shutdown` and `register` (calling `await super().register(registration)`)
    as far as it needs them; `registrations` lists what was registered, in order. To write one for a
    broker, a `Transport` under `TransportIntegrationEventBus` is less work and promises more.
    """

    def __init__(
        self, registrations: Iterable[IntegrationEventBusRegistration] | None = None
    ) -> None:
        given: object = registrations
        if isinstance(given, IntegrationEventBusRegistration):
            raise InvalidTopologyError(f"registration of {given}", "give a list: [registration]")
        self.registrations: list[IntegrationEventBusRegistration] = list(registrations or ())

    @abstractmethod
    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        """Return when the bus has taken responsibility for the event; raise if it has not."""

    async def startup(self) -> None:  # noqa: B027 - a bus that needs none leaves it out
        """Connect and start the registered consumers. Calling it twice does no harm."""

    async def shutdown(self) -> None:  # noqa: B027 - as startup
        """Stop the consumers and disconnect. Calling it twice does no harm."""

    async def register(self, registration: IntegrationEventBusRegistration) -> None:
        """Add a registration, before or after `startup`.

        Raises `InvalidTopologyError` if it could not work.
        """
        registration.check()
        self.registrations.append(registration)

    async def unregister(self, registration: IntegrationEventBusRegistration) -> None:
        """Take a registration away: this one, or the one of the same consumer and topic.

        Raises `InvalidTopologyError` if there is none.
        """
        self.registrations.remove(self._registered(registration))

    def _registered(
        self, registration: IntegrationEventBusRegistration
    ) -> IntegrationEventBusRegistration:
        if registration in self.registrations:  # of two alike, the very one
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
