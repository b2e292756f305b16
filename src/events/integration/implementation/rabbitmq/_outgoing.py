"""Messages on their way out, and the routes that they take."""

from __future__ import annotations

import asyncio

from events.integration.implementation.rabbitmq._driver import Properties
from events.integration.implementation.rabbitmq._topology import Place

__all__ = ["Outgoing", "Route", "Routes"]

_ASKED_AGAIN = 1.0  # seconds after which a route that never reached a queue is looked at again


class Route:
    """A topic and a type. Where one message reached a queue, reaching none is an error later."""

    __slots__ = ("_is_known", "_quiet_until", "has_worked", "topic", "type", "works")

    def __init__(self, topic: str, type: str) -> None:
        self.topic = topic
        self.type = type
        self.works = False  # as the last message showed
        self.has_worked = False
        self._is_known = False  # to reach nothing, as the log says
        self._quiet_until = 0.0

    def is_quiet(self, now: float) -> bool:
        """Tell whether the broker need not return what reaches no queue."""
        return not self.has_worked and now < self._quiet_until

    def reached(self) -> None:
        """Know that a queue is bound."""
        self.works = self.has_worked = True

    def missed(self, now: float) -> bool:
        """Know that no queue is bound; tell whether that is news."""
        is_news = self.works or not self._is_known
        self.works, self._is_known = False, True
        self._quiet_until = now + _ASKED_AGAIN
        return is_news


class Routes:
    """The routes that were used, by topic and type."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], Route] = {}

    def of(self, topic: str, type: str) -> Route:
        """Return the route, which may be new."""
        route = self._routes.get((topic, type))
        if route is None:
            route = self._routes[topic, type] = Route(topic, type)
        return route


class Outgoing:
    """A message that the broker has not confirmed."""

    __slots__ = (
        "body", "deadline", "exchange", "future", "key", "mandatory", "place", "properties",
        "returned", "route", "times_returned", "written",
    )  # fmt: skip

    def __init__(
        self,
        exchange: str,
        key: str,
        properties: Properties,
        body: bytes,
        place: Place | None,
        mandatory: bool,  # noqa: FBT001
        future: asyncio.Future[None],
        deadline: float,
    ) -> None:
        self.exchange = exchange
        self.key = key
        self.properties = properties
        self.body = body
        self.place = place
        self.mandatory = mandatory
        self.future = future
        self.deadline = deadline
        self.route: Route | None = None  # if the broker is asked to return it from there
        self.written = False
        self.returned = False
        self.times_returned = 0

    def is_returned_as(self, exchange: str, key: str, properties: Properties) -> bool:
        """Tell whether this is what the broker has returned with these."""
        return (
            self.key == key
            and self.exchange == exchange
            and not self.returned
            and (self.mandatory or self.route is not None)
            and self.properties.message_id == properties.message_id
            and _source(self.properties) == _source(properties)
        )


def _source(properties: Properties) -> object:
    # An id is unique at its source alone.
    headers: dict[str, object] = properties.headers or {}
    return headers.get("ce-source")
