"""A message as the fields of a stream's entry, and the names of the keys.

CloudEvents in binary mode: the first field is `data`, the body; each header is a field by its own
name, `ce-id` and so on. An entry with a field `data` alone is an event as well, so this does:

    XADD users * data '{"type": "user.registered", "version": 1, "email": "ada@example.org"}'

Only the first `data` is the body: fields need not differ, so others may write a second one. An
entry of FastStream's has its body and headers in one field, `__data__`.

| key | holds |
|---|---|
| `users` | the topic, a stream; each consumer name is a group on it |
| `events:{users}:mailer:again` | a stream with the same group: retries and redriven dead letters |
| `events:{users}:mailer:later`, `...:due` | retries that wait: a stream, a sorted set of times |
| `events:{users}:mailer:dead` | a stream of dead letters |
| `events:{mailer}:paused` | exists while `mailer` is paused: when that was |
| `events:{mailer}:topics` | a set of the topics that `mailer` was ever registered on |

What is in braces decides the hash slot: all of one consumer on one topic is in that of the topic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct, msgpack

from events.integration._attributes import key_in
from events.integration.brokering.dead_letters import NAMES
from events.integration.cloudevents import own_id
from events.integration.implementation.redis._faststream import FIELD, read_frame
from events.integration.message import Delivery, Message

BODY = b"data"
PACKED = b"events-packed"  # an entry's fields, where a copy of it has them in one

# Bookkeeping is by position, so no header can be taken for it.
_AGAIN = 4  # events-id, events-attempts, each with its value
_DEAD = 2 * len(NAMES)  # the same, and what else is known of a dead letter
_MOST = 7_000  # names and values that follow it: Lua passes no more than 8,000 to a function


class Keys:
    """The keys of one consumer on one topic."""

    def __init__(self, topic: str, consumer: str) -> None:
        prefix = f"events:{{{topic}}}:{consumer}"
        self.topic = topic
        self.group = consumer
        self.again = f"{prefix}:again"
        self.later = f"{prefix}:later"
        self.due = f"{prefix}:due"
        self.dead = f"{prefix}:dead"

    @property
    def streams(self) -> tuple[str, str]:
        """Return what a consumer reads: what was put back first, as it is older."""
        return self.again, self.topic


def topics_key(consumer: str) -> str:
    """Return the key of the set of the consumer's topics."""
    return f"events:{{{consumer}}}:topics"


def paused_key(consumer: str) -> str:
    """Return the key that is there while the consumer is paused."""
    return f"events:{{{consumer}}}:paused"


def fields_of(message: Message) -> list[bytes | str]:
    """Return the fields of an entry; the driver encodes what is text.

    Raises:
        UnicodeEncodeError: a header holds a lone surrogate.
    """
    headers: list[str] = []
    for header in message.headers.items():
        headers += header
    "".join(headers).encode()  # here it fails for this message alone
    return [BODY, message.body, *headers]


def read_fields(fields: Sequence[bytes]) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an entry; it never raises."""
    headers: dict[str, str] = {}
    if fields and fields[0] == BODY:  # as we write it, nearly always in UTF-8
        pairs = iter(fields[2:])
        try:
            for name, value in zip(pairs, pairs, strict=False):
                headers[_shown(name)] = value.decode()
        except UnicodeDecodeError:
            headers.clear()
        else:
            return fields[1], headers
    body: bytes | None = None
    for index in range(0, len(fields) - 1, 2):
        name, value = fields[index], fields[index + 1]
        if body is None and name == BODY:
            body = value
        else:
            headers[name.decode(errors="replace").lower()] = value.decode(errors="replace")
    if body is None and len(fields) == 2 and fields[0] == FIELD:  # noqa: PLR2004 - name and value
        frame = read_frame(fields[1])
        if frame is not None:
            return frame
    return body or b"", headers


@lru_cache(1024)
def _shown(name: bytes) -> str:
    """Return a header's name as handlers see it."""
    return name.decode().lower()


class Entry(Struct, frozen=True, eq=False, gc=False):
    """An entry as a consumer has it in flight; `size` is about what its fields take, in bytes."""

    stream: str
    id: bytes
    own: bool
    message_id: str
    attempt: int
    crashes: int
    taken_over: bool
    size: int
    fields: list[bytes]
    body: bytes
    headers: dict[str, str]

    @classmethod
    def read(
        cls,
        keys: Keys,
        stream: str,
        reply: Sequence[Any],
        count: int = 1,
        *,
        taken_over: bool = False,
    ) -> Entry:
        """Make it of what the server gave, delivered for the `count`-th time.

        All deliveries before that ended with their process: what is retried is another entry.
        """
        fields: list[bytes] = reply[1]
        own = stream == keys.again
        attempts, message_id = 0, ""
        if own and fields[0] == b"events-id":
            message_id = fields[1].decode(errors="replace")
            attempts = int(fields[3]) if fields[3].isdigit() else 0
            fields = _unpacked(fields[_AGAIN:])
        body, headers = read_fields(fields)
        if fields and fields[0] == BODY:  # which may be large: to join the rest is the quickest
            size = len(body) + len(b"".join(fields[2:]))
        else:
            size = sum(map(len, fields))
        message_id = message_id or own_id(headers, body) or reply[0].decode()
        return cls(
            stream,
            reply[0],
            own,
            message_id,
            attempts + 1,
            count - 1,
            taken_over,
            size,
            fields,
            body,
            headers,
        )

    def delivery(self, keys: Keys) -> Delivery:
        """Return it as its consumer gets it."""
        return Delivery(
            keys.topic,
            keys.group,
            self.message_id,
            self.body,
            self.headers,
            self.attempt,
            key_in(self.headers),
            self.crashes,
            self.own and self.attempt == 1,  # a retry has used up attempts
        )

    def again(self, attempts: int) -> list[bytes]:
        """Return the fields of what is to be tried again."""
        head = [b"events-id", self.message_id.encode(errors="replace")]
        return [*head, b"events-attempts", b"%d" % attempts, *_packed(self.fields)]

    def dead(self, record: Mapping[str, str]) -> list[bytes]:
        """Return the fields of a dead letter, of which this is known."""
        head = [text.encode(errors="replace") for pair in record.items() for text in pair]
        return [*head, *_packed(self.fields)]


def read_dead(
    fields: Sequence[bytes],
) -> tuple[dict[str, str], bytes, Mapping[str, str]]:
    """Return what is known of a dead letter, its body and its headers."""
    head = [field.decode(errors="replace") for field in fields[:_DEAD]]
    return dict(zip(head[::2], head[1::2], strict=False)), *read_fields(_unpacked(fields[_DEAD:]))


def _packed(fields: list[bytes]) -> list[bytes]:
    """Return what a script can carry: all in one field, if they are too many for it."""
    if len(fields) > _MOST or fields[:1] == [PACKED]:
        return [PACKED, msgpack.encode(fields)]
    return fields


def _unpacked(fields: Sequence[bytes]) -> list[bytes]:
    if len(fields) == 2 and fields[0] == PACKED:  # noqa: PLR2004 - name and value
        return msgpack.decode(fields[1], type=list[bytes])
    return list(fields)
