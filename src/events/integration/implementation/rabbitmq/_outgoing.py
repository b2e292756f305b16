"""Messages on their way out, and the routes that they take."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from typing import Literal

from events.errors import (
    BusError,
    BusUnavailableError,
    MessageTooLargeError,
    SendOutcomeUnknownError,
)
from events.integration.implementation.rabbitmq._driver import Properties
from events.integration.implementation.rabbitmq._topology import Place

logger = logging.getLogger("events.integration")

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
        """Return whether the broker need not return what reaches no queue."""
        return not self.has_worked and now < self._quiet_until

    def reached(self) -> None:
        """Note that a queue is bound."""
        self.works = self.has_worked = True

    def missed(self, now: float) -> str | None:
        """Note that no queue is bound; if that is an error, return why."""
        is_news = self.works or not self._is_known
        self.works, self._is_known = False, True
        self._quiet_until = now + _ASKED_AGAIN
        if not self.has_worked:
            if is_news:
                logger.info(
                    "%s, sent to topic %r, reached no queue and is dropped: no consumer of it "
                    "was started on this broker yet. This is logged once",
                    self.type,
                    self.topic,
                )
            return None
        reason = (
            f"{self.type} on topic {self.topic!r} no longer reaches a queue: the queues of its "
            f"consumers were deleted or unbound, or its exchange was deleted. Running consumers "
            f"restore their bindings; if it needs no consumer any more, restart the sender"
        )
        if is_news:
            logger.error("RabbitMQ: %s", reason)
        return reason


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
        "body", "deadline", "exchange", "future", "key", "mandatory", "may_be_there", "number",
        "place", "properties", "returned", "route", "times_returned",
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
    ) -> None:
        self.exchange = exchange
        self.key = key
        self.properties = properties
        self.body = body
        self.place: Hashable | None = place
        self.mandatory = mandatory
        self.future = future
        self.number = 0
        self.deadline = 0.0
        self.route: Route | None = None  # if the broker is asked to return it from there
        self.may_be_there = False
        self.returned = False
        self.times_returned = 0

    @property
    def message_id(self) -> str:
        return str(self.properties.message_id)

    def too_large(
        self, size: int, limit: int, part: Literal["body", "headers"] = "body"
    ) -> MessageTooLargeError:
        """Return the error of a message that is too large."""
        place = self.exchange or self.key
        return MessageTooLargeError(place, str(self.properties.type), size, limit, part)

    def nacked(self) -> BusError:
        """Return the error of a message that the broker answered with a nack."""
        if self.mandatory:
            reason = f"queue {self.key!r} refused the message: it is full"
            return BusUnavailableError("RabbitMQ", reason)
        reason = "a queue of the topic refused it, as a full queue does; others may have it"
        return SendOutcomeUnknownError("RabbitMQ", self.message_id, reason)

    def is_returned_as(self, exchange: str, key: str, properties: Properties) -> bool:
        """Return whether this is what the broker has returned with these."""
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
