"""`IntegrationEventBusRegistration`: a consumer, a topic, its events, and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, cast, get_args

from events.errors import InvalidTopologyError
from events.integration.event import IntegrationEvent
from events.integration.observation import TraceMode
from events.integration.topology.checks import why_not_a_handler
from events.integration.topology.consumer.base import Consumer
from events.integration.topology.retry import RetryPolicy
from events.integration.topology.topic import Topic


@dataclass(frozen=True, eq=False)
class IntegrationEventBusRegistration:
    """Register a consumer for events of a topic.

    `events` is an iterable of classes; by default, all events that the consumer has handlers for.
    A view such as `consumer.handlers.keys()` is read when the registration is added to a bus, as is
    the default. `concurrency` is how many events are handled at once in this process; 1 means one
    at a time, in order. With `order_by`, a function of the event, events with the same key are
    handled in order, and different keys at once; events whose key is None have no order. `retry`
    replaces the bus's policy.

    `trace` is how the span of a handler relates to the span that created the event: `"link"` starts
    a new trace, `"parent"` continues that trace. A retry always links.

    During a retry through the broker, later events overtake: failures break the order.
    """

    consumer: Consumer
    topic: Topic
    # None stands for the consumer's own, and is replaced by them.
    events: Iterable[type[IntegrationEvent]] = cast("Iterable[type[IntegrationEvent]]", None)
    _: KW_ONLY
    concurrency: int = 1
    # Any: types cannot express a function of any of these events.
    order_by: Callable[[Any], object] | None = None
    retry: RetryPolicy | None = None
    trace: TraceMode = "link"

    def __post_init__(self) -> None:
        if cast("object", self.events) is None:
            object.__setattr__(self, "events", self._events_of_consumer())
        if isinstance(self.events, type):
            raise InvalidTopologyError(
                f"registration of {self}",
                f"events must be an iterable of classes; write [{self.events.__name__}]",
            )
        if not isinstance(self.events, Collection):
            object.__setattr__(self, "events", tuple(self.events))

    def _events_of_consumer(self) -> Collection[type[IntegrationEvent]]:
        consumer: object = self.consumer
        if not isinstance(consumer, Consumer):
            return ()  # `check` raises
        handled = consumer.handled_events()
        if handled is None:
            raise InvalidTopologyError(
                f"registration of {self}",
                f"a {type(consumer).__name__} does not list the events that it handles: list them, "
                f"as in IntegrationEventBusRegistration(consumer, topic, [UserRegisteredV1])",
            )
        return handled

    def __str__(self) -> str:
        return f"{self.consumer!r} on {self.topic!r}"

    def check(self) -> None:
        """Raise `InvalidTopologyError` if this registration cannot work on any bus."""
        for reason in self._faults():
            raise InvalidTopologyError(f"registration of {self}", reason)

    def _faults(self) -> Iterable[str]:
        consumer: object = self.consumer
        topic: object = self.topic
        if not isinstance(consumer, Consumer):
            yield f"the consumer must be a Consumer, not {_named(consumer)}"
        elif not getattr(consumer, "name", ""):
            yield "the consumer has no name: call `super().__init__(name)` in its `__init__`"
        elif (why_not := why_not_a_handler(consumer.on_event)) is not None:
            yield f"the consumer's `on_event` cannot work: {why_not}"
        if not isinstance(topic, Topic):
            yield f"the topic must be a Topic, as in Topic('users'), not {_named(topic)}"
        if not self.events:
            yield "it names no events; list the classes, or add handlers before registering"
        for event in self.events:
            given: object = event
            if not (isinstance(given, type) and issubclass(given, IntegrationEvent)):
                yield f"{given!r} is not an IntegrationEvent class"
            elif isinstance(consumer, Consumer) and (why_not := consumer.why_not(event)):
                yield why_not
        yield from self._option_faults()

    def _option_faults(self) -> Iterable[str]:
        concurrency: object = self.concurrency
        order_by: object = self.order_by
        retry: object = self.retry
        # A bool is an int, and `concurrency=True` is a mistake.
        if type(concurrency) is not int:
            yield f"concurrency must be an int, not {concurrency!r}"
        elif concurrency < 1:
            yield f"concurrency must be at least 1, not {concurrency}"
        if order_by is not None:
            if not callable(order_by):
                yield f"order_by must be a function of the event, not {order_by!r}"
            elif inspect.iscoroutinefunction(order_by):
                # Each coroutine would be a different key.
                yield f"order_by must return the key, not a coroutine: write {order_by!r} as `def`"
            if concurrency == 1:
                yield "order_by needs a concurrency of 2 or more; with 1, all events are in order"
        if retry is not None and not isinstance(retry, RetryPolicy):
            yield f"retry must be a RetryPolicy, as in RetryPolicy(attempts=3), not {retry!r}"
        if self.trace not in get_args(TraceMode):
            yield f'trace must be "link" or "parent", not {self.trace!r}'


def _named(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
