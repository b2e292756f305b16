"""Who receives events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from events.integration.event import IntegrationEvent
from events.integration.topology.topic import check_name

__all__ = ["Consumer"]


class Consumer(ABC):
    """Receive events under a name.

    On a durable bus the name is the consumer's queue or group: every distinct name gets every
    event, and processes that share a name share the work. Keep it stable over deployments.
    """

    def __init__(self, name: str) -> None:
        check_name(type(self).__name__, name)
        self.name = name

    @abstractmethod
    async def on_event(self, event: IntegrationEvent) -> None:
        """Handle one event; returning acknowledges it, raising has it retried.

        The same event may come more than once. Cancelled when a shutdown's grace has passed; the
        event is then delivered again.
        """

    def handled_events(self) -> Collection[type[IntegrationEvent]] | None:
        """Give what a registration means that names no events; None if it has to name them."""
        return None

    def why_not(self, event_type: type[IntegrationEvent]) -> str | None:  # noqa: ARG002
        """Say why it could never handle events of this class; None if nothing speaks against it.

        Asked when it is registered, where a mistake can still be mended.
        """
        return None

    def __repr__(self) -> str:
        # A subclass without `super().__init__` has no name yet, and its error shows it by this.
        return f"{type(self).__name__}({getattr(self, 'name', None)!r})"
