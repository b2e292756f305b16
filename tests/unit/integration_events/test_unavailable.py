"""A broker that is out of reach: each error says what was tried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from events.errors import BatchSendError, BusUnavailableError
from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)
from events.integration.health import Backlog
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.memory import InMemoryTransport
from events.integration.message import Message
from events.integration.transport import Deliver, Subscription
from events.operations import Consumers, DeadLetters, Selection, backlogs
from events.operations.tail import Tail

ORDERS = Topic("orders")


@dataclass(frozen=True)
class Placed(IntegrationEvent):
    type = "unavailable.placed"
    version = 1


async def handle(_: Placed) -> None: ...


def down() -> BusUnavailableError:
    return BusUnavailableError("the bus", "connection refused")


UNREADABLE = (
    "cannot read which consumers are paused, will retry: the bus is not available: "
    "connection refused"
)


class Away:
    """What a store of dead letters is while its broker is away."""

    async def read(self, consumer: str, *, limit: int, after: str | None) -> Any:
        raise down()

    async def redrive(self, consumer: str, ids: Sequence[str]) -> Any:
        raise down()

    async def discard(self, consumer: str, ids: Sequence[str]) -> Any:
        raise down()


class Breakable(InMemoryTransport):
    """A transport whose broker is away from when `away` is true."""

    away = False
    dead_letters: Any = Away()

    async def connect(self) -> None:
        if self.away:
            raise down()
        await super().connect()

    def publish(self, message: Message) -> asyncio.Future[None]:
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(down())
        return failed

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> Any:
        if self.away:
            raise down()
        return await super().subscribe(subscription, deliver)

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        raise down()

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        if self.away:
            raise down()
        return await super().paused(consumers)

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        raise down()

    async def tail(self, *_: object) -> None:
        raise down()


def registration(name: str) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(EventHandlerConsumer(name, {Placed: handle}), ORDERS)


async def first_of(letters: Any) -> None:
    async for _ in letters:
        return


async def entered(tail: Tail) -> None:
    async with tail:
        pass


_LETTERS = dict[str, Any](actor="anna", consumers=["mails"], outage=0)

OPERATIONS: dict[str, tuple[Callable[[TransportIntegrationEventBus], Awaitable[Any]], str]] = {
    "send": (lambda bus: bus.send(ORDERS, Placed()), "send"),
    "register": (
        lambda bus: bus.register(registration("bills")),
        "register EventHandlerConsumer('bills') on ",
    ),
    "backlog": (lambda bus: bus.backlog("mails"), "tell the backlog of 'mails'"),
    "backlogs": (backlogs, "tell the backlog of 'mails'"),
    "dead letters": (lambda bus: bus.dead_letters("mails"), "read the dead letters of 'mails'"),
    "redrive": (lambda bus: bus.redrive("mails", ["1"]), "redrive dead letters of 'mails'"),
    "discard": (lambda bus: bus.discard("mails", ["1"]), "discard dead letters of 'mails'"),
    "pause": (lambda bus: bus.pause("mails"), "pause 'mails'"),
    "resume": (lambda bus: bus.resume("mails"), "resume 'mails'"),
    "paused": (lambda bus: bus.paused(), "tell which consumers are paused"),
    "pause everywhere": (
        lambda bus: Consumers(bus, actor="anna").pause_everywhere("mails"),
        "pause 'mails'",
    ),
    "groups": (lambda bus: DeadLetters(bus, **_LETTERS).groups(), "read the dead letters of"),
    "a redrive of many": (
        lambda bus: first_of(DeadLetters(bus, **_LETTERS).redrive(Selection(), consumer="mails")),
        "read the dead letters of 'mails'",
    ),
    "tail": (lambda bus: entered(Tail(bus, "orders")), "follow the topic 'orders'"),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_error_says_what_was_tried(name: str) -> None:
    operation, tried = OPERATIONS[name]
    transport = Breakable()
    async with TransportIntegrationEventBus(transport, [registration("mails")]) as bus:
        transport.away = True
        with pytest.raises(BusUnavailableError) as raised:
            await operation(bus)
        transport.away = False

    said = str(raised.value)
    assert said.startswith(f"cannot {tried}")
    assert said.endswith(": the bus is not available: connection refused")


async def test_so_does_that_of_a_start() -> None:
    transport = Breakable()
    transport.away = True

    with pytest.raises(BusUnavailableError, match="^cannot start: the bus is not available: "):
        await TransportIntegrationEventBus(transport).startup()


async def test_so_does_each_of_a_batch_and_of_what_a_relay_forwards() -> None:
    async with TransportIntegrationEventBus(Breakable()) as bus:
        with pytest.raises(BatchSendError, match="number 0: cannot send: the bus is not available"):
            await bus.send_many(ORDERS, [Placed()])
        (outcome,) = await bus.forward([Message("orders", "t", "id-1", b"{}", {})])
    assert str(outcome).startswith("cannot send: the bus is not available")


async def test_a_look_for_pauses_that_fails_says_nothing_of_sends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unreadable(Breakable):
        async def paused(self, consumers: Collection[str]) -> frozenset[str]:
            raise down()

    async with TransportIntegrationEventBus(Unreadable(), [registration("mails")]):
        pass

    assert caplog.messages == [UNREADABLE]


async def test_a_look_for_pauses_in_an_outage_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The transport says that the connection is lost; a line for each that notices is noise."""

    class Unreadable(Breakable):
        async def paused(self, consumers: Collection[str]) -> frozenset[str]:
            raise down()

    transport = Unreadable()
    async with TransportIntegrationEventBus(transport) as bus:
        transport.connected = False
        await bus.register(registration("mails"))
        assert caplog.messages == []
        transport.connected = True
        await bus.register(registration("letters"))
        await bus.register(registration("calls"))
        assert caplog.messages == [UNREADABLE], "it is said once, when the connection is back"
