"""Faults of a transport, as objects for a `FaultyTransport`.

Every fault takes `times`, how often it strikes at most, and `when`, a function of the message,
delivery or subscription that tells whether it strikes this one; by default each one, always.
`struck` counts.

To make one of your own, subclass `Fault` and override the hook where it happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from msgspec.structs import replace

from events.errors import BusUnavailableError, SendOutcomeUnknownError
from events.integration.message import Ack, Delivery, Message, Reject, Release, Retry, Settlement
from events.integration.transport import DeadLetterStore, Deliver, Subscribed, Subscription

__all__ = [
    "ChangeDelivery",
    "ChangeMessage",
    "ChangeSettlement",
    "CorruptBody",
    "DelayPublish",
    "DropSilently",
    "DuplicatePublish",
    "FailPublish",
    "Fault",
    "ForgetAttempts",
    "IgnoreReject",
    "IgnoreRetryDelay",
    "LeakSubscription",
    "LoseDelivery",
    "LoseSettlement",
    "Misroute",
    "NeverConfirm",
    "ReorderPublish",
    "StripHeaders",
    "SubscribeTwice",
    "UnknownOutcome",
]

Publish: TypeAlias = Callable[[Message], Awaitable[None]]
Subscribe: TypeAlias = Callable[[Subscription, Deliver], Coroutine[Any, Any, Subscribed]]
# Any, as each fault strikes messages, deliveries or subscriptions alone, and `when` knows which.
When: TypeAlias = Callable[[Any], bool]


class Fault:
    """One way for a transport to misbehave. As it stands it lets everything through."""

    def __init__(self, *, times: int | None = None, when: When | None = None) -> None:
        self.times = times
        self.when = when
        self.struck = 0

    def strikes(self, subject: Message | Delivery | Subscription) -> bool:
        """Return whether this one is hit, and count it."""
        if self.times is not None and self.struck >= self.times:
            return False
        if self.when is not None and not self.when(subject):
            return False
        self.struck += 1
        return True

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """Publish with `publish`: never, late, twice, something else; or raise a `BusError`."""
        return publish(message)

    def on_delivery(self, delivery: Delivery, deliver: Deliver) -> asyncio.Future[Settlement]:
        """Deliver with `deliver`: never, twice, something else."""
        return deliver(delivery)

    def on_settlement(self, delivery: Delivery, settlement: Settlement) -> Settlement:  # noqa: ARG002
        """Return what is sent to the broker instead."""
        return settlement

    async def on_subscribe(
        self, subscription: Subscription, deliver: Deliver, subscribe: Subscribe
    ) -> Subscribed:
        """Subscribe with `subscribe`, and return what the bus shall hold."""
        return await subscribe(subscription, deliver)

    def on_dead_letters(self, store: DeadLetterStore) -> DeadLetterStore:
        """Return what the bus shall take for the store of dead letters."""
        return store


# --- publishing -------------------------------------------------------------------------------


class FailPublish(Fault):
    """Raise `BusUnavailableError`; the broker never sees the message."""

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """See `Fault`."""
        if self.strikes(message):
            raise BusUnavailableError(type(self).__name__, "a fault was injected")
        return publish(message)


class UnknownOutcome(Fault):
    """Raise `SendOutcomeUnknownError`; `taken` tells whether the broker has the message."""

    def __init__(self, *, taken: bool, times: int | None = None, when: When | None = None) -> None:
        super().__init__(times=times, when=when)
        self.taken = taken

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """See `Fault`."""
        if not self.strikes(message):
            return publish(message)
        return self._fail(message, publish(message) if self.taken else _nothing())

    async def _fail(self, message: Message, published: Awaitable[None]) -> None:
        await published
        raise SendOutcomeUnknownError(type(self).__name__, message.id, "a fault was injected")


class DelayPublish(Fault):
    """Hand the message over `seconds` later."""

    def __init__(
        self, seconds: float, *, times: int | None = None, when: When | None = None
    ) -> None:
        super().__init__(times=times, when=when)
        self.seconds = seconds

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """See `Fault`."""
        if not self.strikes(message):
            return publish(message)
        return asyncio.ensure_future(self._publish_late(message, publish))

    async def _publish_late(self, message: Message, publish: Publish) -> None:
        await asyncio.sleep(self.seconds)
        await publish(message)


class NeverConfirm(Fault):
    """Hand the message over and never say that the broker has it."""

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """See `Fault`."""
        if self.strikes(message):
            publish(message)
            return asyncio.get_running_loop().create_future()
        return publish(message)


class DropSilently(Fault):
    """Report a message as accepted, and drop it."""

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """See `Fault`."""
        return _nothing() if self.strikes(message) else publish(message)


class DuplicatePublish(Fault):
    """Publish the message twice, as a client does that never saw the first confirmation."""

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """See `Fault`."""
        if self.strikes(message):
            publish(message)
        return publish(message)


class ReorderPublish(Fault):
    """Hold each message that it strikes back until the next one has passed; the last is lost."""

    _held: Message | None = None

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """See `Fault`."""
        held, self._held = self._held, None
        if held is None and self.strikes(message):
            self._held = message
            return _nothing()
        published = publish(message)
        if held is not None:
            publish(held)
        return published


class ChangeMessage(Fault):
    """Publish what `change` makes of the message."""

    def __init__(
        self,
        change: Callable[[Message], Message],
        *,
        times: int | None = None,
        when: When | None = None,
    ) -> None:
        super().__init__(times=times, when=when)
        self.change = change

    def on_publish(self, message: Message, publish: Publish) -> Awaitable[None]:
        """See `Fault`."""
        return publish(self.change(message) if self.strikes(message) else message)


class CorruptBody(ChangeMessage):
    """Cut the body in half, so that it is no JSON any more."""

    def __init__(self, *, times: int | None = None, when: When | None = None) -> None:
        def cut(message: Message) -> Message:
            return replace(message, body=message.body[: len(message.body) // 2])

        super().__init__(cut, times=times, when=when)


class StripHeaders(ChangeMessage):
    """Lose the headers of these names, or all of them."""

    def __init__(self, *names: str, times: int | None = None, when: When | None = None) -> None:
        def strip(message: Message) -> Message:
            kept = {n: v for n, v in message.headers.items() if names and n not in names}
            return replace(message, headers=kept)

        super().__init__(strip, times=times, when=when)


class Misroute(ChangeMessage):
    """Publish to another topic."""

    def __init__(self, topic: str, *, times: int | None = None, when: When | None = None) -> None:
        super().__init__(lambda m: replace(m, topic=topic), times=times, when=when)


# --- delivering -------------------------------------------------------------------------------


class LoseDelivery(Fault):
    """Acknowledge the message without handing it to the bus."""

    def on_delivery(self, delivery: Delivery, deliver: Deliver) -> asyncio.Future[Settlement]:
        """See `Fault`."""
        if not self.strikes(delivery):
            return deliver(delivery)
        lost: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        lost.set_result(Ack())
        return lost


class ChangeDelivery(Fault):
    """Deliver what `change` makes of the delivery."""

    def __init__(
        self,
        change: Callable[[Delivery], Delivery],
        *,
        times: int | None = None,
        when: When | None = None,
    ) -> None:
        super().__init__(times=times, when=when)
        self.change = change

    def on_delivery(self, delivery: Delivery, deliver: Deliver) -> asyncio.Future[Settlement]:
        """See `Fault`."""
        return deliver(self.change(delivery) if self.strikes(delivery) else delivery)


class ForgetAttempts(ChangeDelivery):
    """Deliver every time as if it were the first."""

    def __init__(self, *, times: int | None = None, when: When | None = None) -> None:
        super().__init__(lambda delivery: replace(delivery, attempt=1), times=times, when=when)


# --- settling ---------------------------------------------------------------------------------


class ChangeSettlement(Fault):
    """Pass the settlement through `change`."""

    def __init__(
        self,
        change: Callable[[Delivery, Settlement], Settlement],
        *,
        times: int | None = None,
        when: When | None = None,
    ) -> None:
        super().__init__(times=times, when=when)
        self.change = change

    def on_settlement(self, delivery: Delivery, settlement: Settlement) -> Settlement:
        """See `Fault`."""
        return self.change(delivery, settlement) if self.strikes(delivery) else settlement


class LoseSettlement(ChangeSettlement):
    """Have the broker deliver again what was settled, as one does that never heard of it."""

    def __init__(self, *, times: int | None = None, when: When | None = None) -> None:
        super().__init__(lambda _, __: Release(), times=times, when=when)


class IgnoreRetryDelay(ChangeSettlement):
    """Deliver again at once what should wait for its next attempt."""

    def __init__(self, *, times: int | None = None, when: When | None = None) -> None:
        super().__init__(
            lambda _, s: replace(s, after=0.0) if isinstance(s, Retry) else s,
            times=times,
            when=when,
        )


class IgnoreReject(ChangeSettlement):
    """Acknowledge what should become a dead letter."""

    def __init__(self, *, times: int | None = None, when: When | None = None) -> None:
        super().__init__(lambda _, s: Ack() if isinstance(s, Reject) else s, times=times, when=when)


# --- subscribing ------------------------------------------------------------------------------


class SubscribeTwice(Fault):
    """Start every consumer twice at the broker, and close one of the two."""

    async def on_subscribe(
        self, subscription: Subscription, deliver: Deliver, subscribe: Subscribe
    ) -> Subscribed:
        """See `Fault`."""
        if self.strikes(subscription):
            await subscribe(subscription, deliver)
        return await subscribe(subscription, deliver)


class LeakSubscription(Fault):
    """Report a subscription as closed, and keep consuming."""

    async def on_subscribe(
        self, subscription: Subscription, deliver: Deliver, subscribe: Subscribe
    ) -> Subscribed:
        """See `Fault`."""
        subscribed = await subscribe(subscription, deliver)
        return _Unclosed(subscribed) if self.strikes(subscription) else subscribed


class _Unclosed:
    def __init__(self, inner: Subscribed) -> None:
        self._inner = inner
        self._closed = asyncio.Event()

    @property
    def last_poll(self) -> float | None:
        return self._inner.last_poll

    async def pause(self) -> None:
        """Go on."""

    async def close(self) -> None:
        self._closed.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()


def _nothing() -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
