"""What a service says of itself that its registrations do not: what it sends, and whose it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import cast

from events.errors import InvalidTopologyError
from events.integration import (
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    Topic,
)


@dataclass(frozen=True)
class Service:
    """Declare one side of the contracts between services.

    Args:
        name: The service's name, as other teams know it.
        registrations: What it consumes: registrations, or the bus that has them.
        sends: The event classes that it sends, by topic. A bus cannot know them before they are
            sent, so nothing is sent to a topic that is missing here.
        owner: The team to ask.
        description: What the service does, in a sentence or two.
        servers: The brokers' URLs, such as `amqp://broker:5672/shop`. They are shown masked.
        examples: One event for each class whose own checks refuse generated values, and for
            those of which the catalog is to show a better one.
        deprecated: Why not to build on a class any more, and what to use instead.
        repository: Where the code is shown, as in `https://git.example/shop/blob/main`.
    """

    name: str
    registrations: Iterable[IntegrationEventBusRegistration] | IntegrationEventBus = ()
    _: KW_ONLY
    sends: Mapping[Topic, Sequence[type[IntegrationEvent]]] = field(
        default_factory=dict[Topic, Sequence[type[IntegrationEvent]]]
    )
    owner: str = ""
    description: str = ""
    servers: Sequence[str] = ()
    examples: Sequence[IntegrationEvent] = ()
    deprecated: Mapping[type[IntegrationEvent], str] = field(
        default_factory=dict[type[IntegrationEvent], str]
    )
    repository: str = ""

    def __post_init__(self) -> None:
        given: object = self.registrations
        if not isinstance(given, IntegrationEventBus):
            object.__setattr__(self, "registrations", tuple(cast("Iterable[object]", given)))
        if not self.name or not self.name.isprintable():
            raise InvalidTopologyError(
                f"Service({self.name!r})", "its name must be a printable, non-empty string"
            )
        for topic, events in self.sends.items():
            key: object = topic
            if not isinstance(key, Topic):
                raise InvalidTopologyError(
                    f"Service({self.name!r})", f"the keys of sends must be Topics, not {key!r}"
                )
            for each in [*events]:
                event: object = each
                if not (isinstance(event, type) and issubclass(event, IntegrationEvent)):
                    raise InvalidTopologyError(
                        f"Service({self.name!r})",
                        f"it sends {event!r} to {topic.name!r}: not an IntegrationEvent class",
                    )

    @property
    def consumes(self) -> Sequence[IntegrationEventBusRegistration]:
        """The registrations, as the bus has them at this moment."""
        given = self.registrations
        return tuple(given.registrations if isinstance(given, IntegrationEventBus) else given)
