"""`Consumer`, the port of consumers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from events.integration.event import IntegrationEvent
from events.integration.topology.checks import takes_another_than
from events.integration.topology.topic import check_name


class Consumer(ABC):
    """A named receiver of events.

    On a durable bus, the name is that of the consumer's queue or group: each name gets every event,
    and processes with the same name share the work. Do not change the name between deployments.
    """

    def __init__(self, name: str) -> None:
        check_name(type(self).__name__, name)
        self.name = name

    @abstractmethod
    async def on_event(self, event: IntegrationEvent) -> None:
        """Handle one event. Returning acknowledges it, raising retries it.

        The same event may be delivered more than once. It is cancelled when the grace period of a
        shutdown has passed; the event is then redelivered.
        """

    def handled_events(self) -> Collection[type[IntegrationEvent]] | None:
        """Return the events of a registration that names none; None if it must name them."""
        return None

    def why_not(self, event_type: type[IntegrationEvent]) -> str | None:
        """Return why it cannot handle events of this class, or None if no reason is known.

        Called at registration.
        """
        other = takes_another_than(self.on_event, event_type)
        if other is None:
            return None
        return f"its `on_event` cannot handle {event_type.__qualname__}: its annotation is {other}"

    def __repr__(self) -> str:
        # For the error of a subclass that did not call `super().__init__` and has no name.
        return f"{type(self).__name__}({getattr(self, 'name', None)!r})"
