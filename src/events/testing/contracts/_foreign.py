"""One CloudEvent as programs without this package send it, by clients that add ids of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from events.integration.message import Message
from events.integration.topology import Topic
from events.testing.contracts.probe import Numbered

EVENT_ID = "order-7"
_TWICE = 2


def cloudevents(topic: Topic, *, headers: bool) -> Sequence[Message]:
    """Return the same event in each mode, each of them twice; binary if the bus has headers."""
    kind = Numbered.type.encode()
    envelope = (
        b'{"specversion":"1.0","id":"%b","source":"/orders","type":"%b","data":{"number":7}}'
    ) % (EVENT_ID.encode(), kind)
    attributes = {"specversion": "1.0", "id": EVENT_ID, "source": "/orders", "type": Numbered.type}
    modes: list[tuple[bytes, dict[str, str]]] = [(envelope, {})]
    if headers:
        modes += [
            (b'{"number":7}', {f"ce-{name}": value for name, value in attributes.items()}),
            (envelope, {"content-type": "application/cloudevents+json"}),
            (envelope, {"content-type": "application/json"}),
        ]
    numbers = count()
    return [
        Message(topic.name, Numbered.type, f"client-{next(numbers)}", body, given)
        for body, given in modes
        for _ in range(_TWICE)
    ]
