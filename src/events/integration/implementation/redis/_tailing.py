"""A stream as one sees it who only looks: read without a group, from its end on."""

from __future__ import annotations

from collections.abc import Callable

from events.integration.cloudevents import attribute, own_id
from events.integration.implementation.redis._entries import read_fields
from events.integration.implementation.redis._link import Link
from events.integration.message import Message

_BLOCK = 2.0  # seconds
_AT_ONCE = 500


async def tail_stream(
    link: Link,
    topic: str,
    show: Callable[[Message], object],
    begun: Callable[[], object],
    answer_within: float,
) -> None:
    """Show what is added from now on, until cancelled."""
    newest = await link.call("XREVRANGE", topic, "+", "-", "COUNT", 1)
    after = newest[0][0] if newest else b"0-0"
    begun()
    while True:
        reply = await link.call(
            *("XREAD", "COUNT", _AT_ONCE, "BLOCK", int(_BLOCK * 1000), "STREAMS", topic, after),
            timeout=_BLOCK + answer_within,
        )
        for _, entries in reply or ():
            for after, fields in entries:
                show(_message(topic, after, fields))


def _message(topic: str, entry: bytes, fields: list[bytes]) -> Message:
    body, headers = read_fields(fields)
    return Message(
        topic,
        attribute(headers, "type") or "",
        own_id(headers, body) or entry.decode(),
        body,
        headers,
        attribute(headers, "partitionkey"),
    )
