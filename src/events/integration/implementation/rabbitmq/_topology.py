"""The objects at the broker: their names and arguments.

    topic "users"                     an exchange `users`, direct
    consumer "emails" on "users"      a queue `emails@users`, bound with one key per event type
      what came back twice            a queue `emails@users:quarantine`, handled one at a time
      retries after 5 s               a queue `emails@users:retry:5s`, whose messages expire into
                                      `emails@users`; made when the first of them is due
    consumer "emails"                 a queue `emails:dead` of its dead letters, of all topics
      one sent back as a canary       a queue `emails:receipt:...`, for an hour
      while it is paused              a queue `emails:paused`, which keeps nothing

All are durable. In names of topics and consumers, `@`, `:` and `%` are written %40, %3A and %25 in
those of queues. A declaration of what is there already changes nothing, and is refused where its
arguments are others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from hashlib import sha256
from typing import Literal, TypeAlias
from urllib.parse import unquote

from msgspec import Struct

from events.errors import InvalidTopologyError
from events.integration.implementation.rabbitmq._channel import Channel
from events.integration.implementation.rabbitmq._driver import RefusedError

QueueType: TypeAlias = Literal["quorum", "classic"]

_LONGEST = 255  # bytes of a name in AMQP
_LOOKED_AT = 20  # deliveries: what comes back is set apart long before, if a process can look
_NEVER = 1_000_000_000  # deliveries: dead letters come back each time that they are read
_AN_HOUR = 3_600_000  # milliseconds
_STEPS = (1, 2, 3, 5, 7)
_SHORTEST = 0.01  # seconds
BRIEFLY = 3  # looks of who must end soon, see `counts`
_LATE = 0.2  # seconds, after which the broker does not wait for a queue's answer

_ACCESS_REFUSED, _NOT_FOUND = 403, 404


class Exchange(Struct, frozen=True):
    """A topic's exchange."""

    name: str

    def __str__(self) -> str:
        return f"exchange {self.name!r}"


class Queue(Struct, frozen=True):
    """A durable queue with its arguments."""

    name: str
    arguments: tuple[tuple[str, str | int], ...] = ()

    def __str__(self) -> str:
        return f"queue {self.name!r}"


Place: TypeAlias = Exchange | Queue


class Names:
    """The queues of one consumer on one topic."""

    def __init__(self, consumer: str, topic: str, queue_type: QueueType) -> None:
        self._type = queue_type
        main, dead = main_queue(consumer, topic), dead_letter_queue(consumer)
        guard: tuple[tuple[str, str | int], ...] = ()
        if queue_type == "quorum":
            guard = (("x-delivery-limit", _LOOKED_AT), *_dead_letters_to(dead))
        self.exchange = Exchange(topic)
        self.main = self._queue(main, guard)
        self.quarantine = self._queue(f"{main}:quarantine", guard)
        self.dead = dead_letters(consumer, queue_type)

    @property
    def counts_returns(self) -> bool:
        """Return whether the queue says how often it has taken a message back."""
        return self._type == "quorum"

    def _queue(self, name: str, arguments: tuple[tuple[str, str | int], ...]) -> Queue:
        return Queue(name, (("x-queue-type", self._type), *arguments))

    def retry(self, seconds: float) -> Queue:
        """Return the queue in which a message waits at least so long, at most twice as long."""
        tier = _tier(seconds)
        millis = round(tier * 1000)
        shown = f"{millis}ms" if millis < 1000 else f"{millis // 1000}s"  # noqa: PLR2004
        target = _dead_letters_to(self.main.name)
        if self._type == "classic":
            target = target[:2]
        return self._queue(f"{self.main.name}:retry:{shown}", (("x-message-ttl", millis), *target))

    def check(self) -> None:
        """Raise `InvalidTopologyError` if a name is too long for the broker."""
        longest = self.retry(7e8).name
        if len(longest.encode()) > _LONGEST:
            raise InvalidTopologyError(
                f"queue {self.main.name!r}",
                f"its name, from the consumer's and the topic's, with room for what is named after "
                f"it is longer than {_LONGEST} bytes: shorten one of them",
            )


def main_queue(consumer: str, topic: str) -> str:
    """Return the name of the queue of a consumer on a topic."""
    return f"{_escaped(consumer)}@{_escaped(topic)}"


def topic_of(queue: str) -> str:
    """Return the topic that a queue's name tells of; empty if it tells of none."""
    return unquote(queue.partition("@")[2].partition(":")[0])


def dead_letter_queue(consumer: str) -> str:
    """Return the name of a consumer's queue of dead letters."""
    return f"{_escaped(consumer)}:dead"


def paused_queue(consumer: str, queue_type: QueueType) -> Queue:
    """Return the queue that is there while a consumer is paused."""
    arguments = (("x-queue-type", queue_type), ("x-max-length", 0))
    return Queue(f"{_escaped(consumer)}:paused", arguments)


def receipt_queue(consumer: str, letter: str) -> Queue:
    """Return the queue that gets a message when a dead letter that was sent back is handled."""
    name = f"{_escaped(consumer)}:receipt:{_escaped(letter)}"
    encoded = name.encode(errors="surrogatepass")
    if len(encoded) > _LONGEST:
        digest = sha256(encoded).hexdigest()
        name = f"{encoded[: _LONGEST - len(digest) - 1].decode(errors='ignore')}:{digest}"
    return Queue(name, (("x-expires", _AN_HOUR), ("x-max-length", 1)))


def dead_letters(consumer: str, queue_type: QueueType) -> Queue:
    """Return a consumer's queue of dead letters."""
    arguments: tuple[tuple[str, str | int], ...] = (("x-queue-type", queue_type),)
    if queue_type == "quorum":
        arguments += (("x-delivery-limit", _NEVER),)
    return Queue(dead_letter_queue(consumer), arguments)


def _dead_letters_to(queue: str) -> tuple[tuple[str, str | int], ...]:
    """Return the arguments with which a queue hands on what it gives up, at least once."""
    return (
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", queue),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),  # what that strategy needs; without a limit it is idle
    )


def _tier(seconds: float) -> float:
    """Round up to 1, 2, 3, 5 or 7 times a power of ten, so that there are few queues."""
    seconds = max(seconds, _SHORTEST)
    power = 10.0 ** math.floor(math.log10(seconds) + 1e-9)
    for step in _STEPS:
        if step * power >= seconds * (1 - 1e-9):
            return float(step * power)
    return 10 * power


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace("@", "%40").replace(":", "%3A")


async def declare(channel: Channel, place: Place) -> None:
    """Make it, or find that it is there as it should be.

    Raises:
        InvalidTopologyError: it is there with other arguments, or making it is not allowed.
    """
    try:
        if isinstance(place, Exchange):
            await channel.call(
                "exchange_declare", exchange=place.name, exchange_type="direct", durable=True
            )
        else:
            await channel.call(
                "queue_declare", queue=place.name, durable=True, arguments=dict(place.arguments)
            )
    except RefusedError as error:
        arguments = () if isinstance(place, Exchange) else place.arguments
        raise explained(str(place), error, arguments) from error


async def is_there(channel: Channel, place: Place) -> bool:
    """Return whether it is at the broker. If it is not, the broker closes the channel."""
    kind = "exchange" if isinstance(place, Exchange) else "queue"
    try:
        await channel.call(f"{kind}_declare", passive=True, **{kind: place.name})
    except RefusedError as error:
        if error.code == _NOT_FOUND:
            return False
        raise explained(str(place), error) from error
    return True


async def bind(channel: Channel, queue: Queue, exchange: Exchange, types: Iterable[str]) -> None:
    """Bind the queue to the exchange, once for each type."""
    for type_ in sorted(types):
        try:
            await channel.call(
                "queue_bind", queue=queue.name, exchange=exchange.name, routing_key=type_
            )
        except RefusedError as error:
            raise explained(f"binding of {queue} to {exchange} by {type_!r}", error) from error


async def declare_all(channel: Channel, names: Names, types: Iterable[str]) -> None:
    """Declare what a consumer needs, and bind it."""
    for place in (names.exchange, names.dead, names.main, names.quarantine):
        await declare(channel, place)
    await bind(channel, names.main, names.exchange, types)


async def counts(channel: Channel, queue: str, looks: int = 10) -> tuple[int, int]:
    """Return how many messages in a queue are with no consumer, and how many consumers it has.

    A broker whose quorum queue does not answer it at once says that there is nothing, as while the
    queue takes much back. So nothing, said late, is asked for again.
    """
    loop = asyncio.get_running_loop()
    for _ in range(looks):
        begun = loop.time()
        answer = await channel.call("queue_declare", queue=queue, passive=True)
        found: tuple[int, int] = answer.method.message_count, answer.method.consumer_count
        if any(found) or loop.time() - begun < _LATE:
            return found
    return 0, 0


def explained(
    subject: str, error: RefusedError, arguments: Iterable[tuple[str, str | int]] = ()
) -> InvalidTopologyError | RefusedError:
    """Return an error with the cure of a refusal, or the refusal itself."""
    if error.is_mismatch:
        ours = ", ".join(f"{name}={value!r}" for name, value in arguments)
        cure = f"it exists at the broker with other arguments than {ours or 'direct, durable'}; "
        if ours:
            cure += "drain and delete it there, or create the bus with the matching options"
        else:
            cure += (
                "if other programs use it, use another topic and bind its exchange to this one, "
                "with a key for each type of event; otherwise delete it"
            )
    elif error.code == _ACCESS_REFUSED:
        cure = "the broker's user lacks a permission, or the name is reserved"
    elif error.code == 0:
        cure = "it cannot be written in AMQP"
    else:
        return error
    return InvalidTopologyError(subject, f"{cure}: {error.text}")


def is_for_good(error: InvalidTopologyError) -> bool:
    """Return whether a retry cannot help: a permission may change, arguments do not."""
    refusal = error.__cause__
    return not isinstance(refusal, RefusedError) or refusal.is_mismatch or refusal.code == 0
