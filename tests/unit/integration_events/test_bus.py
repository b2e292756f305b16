"""The bus over a transport: lifecycle, the three outcomes of a send, and the bare port."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from events.errors import (
    BatchSendError,
    BusNotStartedError,
    BusUnavailableError,
    ConsumerStoppedError,
    EventEncodeError,
    InvalidTopologyError,
    MessageTooLargeError,
    SendOutcomeUnknownError,
    UnsupportedByBusError,
    WrongEventLoopError,
)
from events.integration import (
    EventHandlerConsumer,
    Handle,
    IncomingEvent,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    Message,
    Middleware,
    Topic,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.memory.bus import InMemoryTransport
from events.integration.message import Release
from events.integration.transport import Deliver, Subscription
from events.testing import eventually
from tests.unit.integration_events.manual import ManualSubscribed, ManualTransport

TOPIC = Topic("orders")
ORDERED = b'{"type":"bus.ordered","version":1}'


@dataclass
class Ordered(IntegrationEvent):
    type = "bus.ordered"
    version = 1
    number: int = 0


@dataclass
class Shipped(IntegrationEvent):
    type = "bus.shipped"
    version = 1


async def ignore(event: IntegrationEvent) -> None:
    pass


def registered(
    handler: Callable[[Any], Any] = ignore, name: str = "billing", **options: Any
) -> IntegrationEventBusRegistration:
    consumer = EventHandlerConsumer(name, {Ordered: handler})
    return IntegrationEventBusRegistration(consumer, TOPIC, [Ordered], **options)


def bus_over(
    transport: ManualTransport, *args: Any, **options: Any
) -> TransportIntegrationEventBus:
    return TransportIntegrationEventBus(transport, *args, **options)


async def still_running() -> set[Any]:
    """Return the tasks beside this one that do not end by themselves."""
    for _ in range(20):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


# --- what is given


class Around:
    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        await call_next(incoming)


def forgot_async(incoming: IncomingEvent, call_next: Handle) -> None:
    pass


async def forgot_call_next(incoming: IncomingEvent) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"middlewares": [Around]}, r"it is a class: pass an instance, as in Around\(...\)"),
        ({"middlewares": [forgot_async]}, "it is not async: write it as `async def`"),
        (
            {"middlewares": [forgot_call_next]},
            "it must take `incoming` and `call_next` and no other",
        ),
        ({"middlewares": ["timeout"]}, "middleware 'timeout': it cannot be called"),
        ({"middlewares": Around()}, "pass a list"),
        ({"send_timeout": None}, "send_timeout must be a number of 0 or more, not None"),
        ({"startup_timeout": "30"}, "startup_timeout must be a number of 0 or more, not '30'"),
        ({"shutdown_grace": -1}, "shutdown_grace must be a number of 0 or more, not -1"),
        ({"max_body_size": "1 MB"}, "max_body_size must be a number of 0 or more, not '1 MB'"),
        ({"max_body_size": True}, "max_body_size must be a number of 0 or more, not True"),
        ({"max_crashes": 2}, "max_crashes must be at least 3, not 2: fewer crashes"),
        ({"max_crashes": True}, "max_crashes must be at least 3, not True"),
        ({"retry": 3}, r"retry must be a RetryPolicy, as in RetryPolicy\(attempts=3\), not 3"),
        ({"registrations": registered()}, r"pass a list: \[registration\]"),
        ({"source": 5}, "source must be a URI or a path, such as '/billing', not 5"),
    ],
)
def test_an_option_that_could_not_work_is_refused_at_once(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        InMemoryIntegrationEventBus(**options)


NO_INT: Any = "five"


async def test_an_event_that_no_consumer_could_read_is_refused_unless_that_is_turned_off() -> None:
    unreadable = Ordered(NO_INT)
    transport = ManualTransport()
    async with bus_over(transport) as bus:
        with pytest.raises(EventEncodeError, match="no consumer could decode it"):
            await bus.send(TOPIC, unreadable)
        with pytest.raises(EventEncodeError, match="no consumer could decode it"):
            await bus.send_many(TOPIC, [unreadable])
    async with bus_over(transport, check_events=False) as bus:
        await bus.send(TOPIC, unreadable)
        await bus.send_many(TOPIC, [unreadable])
    assert len(transport.published) == 2


@pytest.mark.parametrize(
    "around", [Around(), lambda incoming, call_next: call_next(incoming), Around().__call__]
)
def test_what_may_work_as_a_middleware_is_taken(around: Middleware) -> None:
    InMemoryIntegrationEventBus(middlewares=[around])


@pytest.mark.parametrize("given", [None, "billing", EventHandlerConsumer("billing")])
async def test_what_is_no_registration_is_refused(given: Any) -> None:
    text = r"it must be an IntegrationEventBusRegistration\(consumer, topic, events\)"
    with pytest.raises(InvalidTopologyError, match=text):
        await bus_over(ManualTransport(), [given]).startup()
    with pytest.raises(InvalidTopologyError, match=text):
        await bus_over(ManualTransport()).register(given)


# --- lifecycle


async def test_startup_connects_once_and_shutdown_disconnects_once() -> None:
    transport = ManualTransport()
    bus = bus_over(transport, [registered()])
    await bus.startup()
    await bus.startup()
    await bus.shutdown()
    await bus.shutdown()
    assert transport.calls == ["connect", "subscribe billing", "close"]
    assert transport.subscribed[0].calls == ["pause", "close"]
    await bus.startup()  # and again
    assert transport.calls[3:] == ["connect", "subscribe billing"]
    await bus.shutdown()


def test_a_bus_can_be_used_in_one_event_loop_after_another() -> None:
    bus = InMemoryIntegrationEventBus([registered()])

    async def once() -> None:
        await asyncio.gather(bus.startup(), bus.startup())
        await bus.send(TOPIC, Ordered())
        await bus.broker.quiet()
        await asyncio.gather(bus.shutdown(), bus.shutdown())

    for _ in range(2):
        asyncio.run(once())
    assert not bus.health().started


async def test_shutdown_before_startup_does_nothing() -> None:
    transport = ManualTransport()
    await bus_over(transport).shutdown()
    assert transport.calls == []


USES: list[Callable[[TransportIntegrationEventBus], Awaitable[object]]] = [
    lambda bus: bus.send(TOPIC, Ordered()),
    lambda bus: bus.send_many(TOPIC, [Ordered()]),
    lambda bus: bus.forward([]),
    lambda bus: bus.dead_letters("billing"),
    lambda bus: bus.redrive("billing", ["1"]),
    lambda bus: bus.discard("billing", ["1"]),
]


@pytest.mark.parametrize("use", USES)
async def test_using_a_bus_that_is_not_started_says_how_to_start_it(
    use: Callable[[TransportIntegrationEventBus], Awaitable[object]],
) -> None:
    bus = bus_over(ManualTransport())
    text = r"TransportIntegrationEventBus\(\) is not started; use `async with bus:`"
    with pytest.raises(BusNotStartedError, match=text):
        await use(bus)
    async with bus:
        pass
    with pytest.raises(BusNotStartedError, match=text):
        await use(bus)


async def test_using_a_bus_in_another_event_loop_than_its_own_says_so() -> None:
    transport = ManualTransport()
    elsewhere: list[Callable[[TransportIntegrationEventBus], Awaitable[object]]] = [
        *USES,
        lambda bus: bus.startup(),
        lambda bus: bus.shutdown(),
        lambda bus: bus.register(registered(name="shipping")),
        lambda bus: bus.unregister(bus.registrations[0]),
    ]

    async def use_all(bus: TransportIntegrationEventBus) -> None:
        for use in elsewhere:
            with pytest.raises(WrongEventLoopError, match="was started in another event loop; use"):
                await use(bus)

    async with bus_over(transport, [registered()]) as bus:
        await asyncio.to_thread(asyncio.run, use_all(bus))
        assert transport.calls == ["connect", "subscribe billing"]
        assert bus.health().healthy
    assert transport.calls[2:] == ["close"]


async def test_a_startup_that_fails_leaves_nothing_running_and_may_be_tried_again() -> None:
    transport = ManualTransport(connect_error=BusUnavailableError("bus", "refused"))
    bus = bus_over(transport, [registered()])
    with pytest.raises(BusUnavailableError, match="refused"):
        await bus.startup()
    assert not bus.health().started
    transport.connect_error = None
    async with bus:
        assert bus.health().healthy


async def test_a_broker_that_does_not_answer_at_startup_is_an_error_within_the_deadline() -> None:
    transport = ManualTransport(connect_hangs=True)
    bus = bus_over(transport, startup_timeout=0.2)
    with pytest.raises(BusUnavailableError, match=r"startup took longer than 0\.2 s"):
        await bus.startup()
    assert transport.calls == ["connect", "close"]


async def test_a_registration_that_cannot_work_stops_the_startup_before_it_connects() -> None:
    transport = ManualTransport()
    wrong = IntegrationEventBusRegistration(EventHandlerConsumer("c"), TOPIC, [Ordered])
    with pytest.raises(InvalidTopologyError, match="no handler for Ordered"):
        await bus_over(transport, [wrong]).startup()
    assert transport.calls == []


async def test_a_misspelt_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="shutdwon_grace"):
        InMemoryIntegrationEventBus(shutdwon_grace=3)  # type: ignore[call-arg]


async def test_health_says_what_lives() -> None:
    transport = ManualTransport()
    async with bus_over(transport, [registered(), registered(name="mail")]) as bus:
        transport.subscribed[0].last_poll = asyncio.get_running_loop().time() - 5
        health = bus.health()
        assert health.healthy
        first, second = health.consumers
        assert (first.consumer, first.topic, first.in_flight) == ("billing", "orders", 0)
        assert first.last_poll == pytest.approx(5, abs=1)
        assert second.last_poll is None
        transport.connected = False
        assert not bus.health().healthy
        transport.connected = True
        transport.subscribed[1].ended.set_exception(RuntimeError("lost"))
        await eventually(lambda: [c.alive for c in bus.health().consumers] == [True, False])
        assert not bus.health().healthy
    assert not bus.health().connected


async def test_a_consumer_that_dies_takes_run_down_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport = ManualTransport()
    bus = bus_over(transport, [registered()])
    running = asyncio.create_task(bus.run())
    async with asyncio.timeout(60):
        while not transport.subscribed:
            await asyncio.sleep(0)
    transport.subscribed[0].ended.set_exception(RuntimeError("group deleted"))
    with pytest.raises(ConsumerStoppedError, match="'billing' on topic 'orders'") as caught:
        await running
    assert str(caught.value.__cause__) == "group deleted"
    assert transport.calls[-1] == "close"
    assert sum("stopped by itself" in record.message for record in caplog.records) == 1


async def test_run_ends_on_a_signal_and_notices_registrations_that_come_and_go() -> None:
    transport = ManualTransport()
    bus = bus_over(transport)
    running = asyncio.create_task(bus.run(signals=[signal.SIGUSR1]))
    async with asyncio.timeout(60):
        while not transport.connected:
            await asyncio.sleep(0)
        registration = registered()
        await bus.register(registration)
        await bus.unregister(registration)
        os.kill(os.getpid(), signal.SIGUSR1)
        await running
    assert transport.calls[-1] == "close"


async def test_a_second_signal_ends_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    cancelled: list[bool] = []

    async def hang(event: Ordered) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    transport = ManualTransport()
    bus = bus_over(transport, [registered(hang)], shutdown_grace=3600)
    running = asyncio.create_task(bus.run(signals=[signal.SIGUSR1]))
    async with asyncio.timeout(60):
        while not transport.subscribed:
            await asyncio.sleep(0)
        settling = asyncio.create_task(transport.subscribed[0].deliver(ORDERED))
        while not bus.health().consumers[0].in_flight:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        while "pause" not in transport.subscribed[0].calls:
            await asyncio.sleep(0)
        assert not cancelled
        os.kill(os.getpid(), signal.SIGUSR1)
        await running
        assert await settling == Release()
    assert cancelled
    assert "1 handlers exceeded the grace of 0 s" in caplog.text


async def test_run_ends_on_a_signal_while_it_waits_for_the_broker() -> None:
    class Unreachable(ManualTransport):
        async def connect(self) -> None:
            self.calls.append("connect")
            await asyncio.Event().wait()

    transport = Unreachable()
    bus = bus_over(transport, [registered()])
    running = asyncio.create_task(bus.run(signals=[signal.SIGUSR1]))
    async with asyncio.timeout(60):
        while "connect" not in transport.calls:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        await running
    assert not bus.health().started
    assert transport.calls[-1] == "close"


async def test_cancelling_run_shuts_down() -> None:
    transport = ManualTransport()
    running = asyncio.create_task(bus_over(transport, [registered()]).run())
    async with asyncio.timeout(60):
        while not transport.subscribed:
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert transport.calls[-1] == "close"


# --- registering


async def test_a_consumer_is_registered_once_per_topic() -> None:
    async with bus_over(ManualTransport(), [registered()]) as bus:
        with pytest.raises(
            InvalidTopologyError, match="registered on this topic already; list all"
        ):
            await bus.register(registered())
        assert len(bus.registrations) == 1
    with pytest.raises(InvalidTopologyError, match="registered on this topic already"):
        await bus_over(ManualTransport(), [registered(), registered()]).startup()


async def test_unregistering_what_was_never_registered_is_an_error() -> None:
    async with bus_over(ManualTransport()) as bus:
        with pytest.raises(InvalidTopologyError, match="it is not registered with this bus"):
            await bus.unregister(registered())


async def test_a_version_that_could_arrive_and_not_be_read_is_found_at_register() -> None:
    @dataclass
    class GapV1(IntegrationEvent):
        type = "bus.gap"
        version = 1

    @dataclass
    class GapV2(IntegrationEvent):
        type = "bus.gap"
        version = 2

    consumer = EventHandlerConsumer("c", {GapV2: ignore})
    with pytest.raises(InvalidTopologyError, match=r"'bus\.gap' version 1"):
        await bus_over(ManualTransport()).register(
            IntegrationEventBusRegistration(consumer, TOPIC, [GapV2])
        )
    for event in (GapV1, GapV2):
        IntegrationEvent.registry.remove(event)


async def test_a_handler_cannot_wait_for_its_own_end() -> None:
    bus: TransportIntegrationEventBus
    caught: list[UnsupportedByBusError] = []

    async def handler(event: Ordered) -> None:
        for stop in (bus.shutdown(), bus.unregister(registration)):
            try:
                await stop
            except UnsupportedByBusError as error:
                caught.append(error)

    registration = registered(handler)
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await bus.send(TOPIC, Ordered())
        await bus.broker.quiet()
    assert [str(error).partition(": ")[2] for error in caught] == [
        "use asyncio.create_task(bus.shutdown(...)) there",
        "use asyncio.create_task(bus.unregister(...)) there",
    ]


async def test_registering_again_waits_for_the_unregistering_to_end() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    running: list[int] = []

    async def handler(event: Ordered) -> None:
        running.append(event.number)
        begun.set()
        await gate.wait()

    registration = registered(handler)
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await bus.send_many(TOPIC, [Ordered(1), Ordered(2)])
        await begun.wait()
        unregistering = asyncio.create_task(bus.unregister(registration))
        await asyncio.sleep(0)
        registering = asyncio.create_task(bus.register(registration))
        for _ in range(10):
            await asyncio.sleep(0)
        assert running == [1]  # one at a time, over the change
        gate.set()
        await asyncio.gather(unregistering, registering)
        await bus.broker.quiet()
    assert running == [1, 2]
    assert bus.registrations == [registration]


async def test_one_that_is_unregistered_while_it_is_resumed_does_not_receive() -> None:
    subscribing, gate = asyncio.Event(), asyncio.Event()

    class Slowly(InMemoryTransport):
        async def subscribe(self, subscription: Subscription, deliver: Deliver) -> Any:
            subscribing.set()
            await gate.wait()
            return await super().subscribe(subscription, deliver)

    transport = Slowly()
    handled: list[Ordered] = []

    async def handler(event: Ordered) -> None:
        handled.append(event)

    registration = registered(handler)
    await transport.set_paused(registration.consumer.name, paused=True)
    async with TransportIntegrationEventBus(transport, [registration]) as bus:
        assert bus.health().paused
        resuming = asyncio.create_task(bus.resume(registration.consumer))
        await subscribing.wait()
        await bus.unregister(registration)
        gate.set()
        assert await resuming
        assert not bus.health().consumers
        await bus.send(TOPIC, Ordered(1))
        backlog = await bus.backlog(registration.consumer, topics=[TOPIC])
        assert backlog.waiting == 1
    assert not handled


class Slow:
    """A handler that goes on until it is let go or cancelled."""

    def __init__(self) -> None:
        self.begun, self.gate = asyncio.Event(), asyncio.Event()
        self.running = 0

    async def __call__(self, event: Ordered) -> None:
        self.begun.set()
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1


async def test_a_cancelled_shutdown_leaves_no_handler_running() -> None:
    slow = Slow()
    bus = InMemoryIntegrationEventBus([registered(slow)])
    await bus.startup()
    await bus.send(TOPIC, Ordered())
    await slow.begun.wait()
    stopping = asyncio.create_task(bus.shutdown())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert slow.running == 0
    assert not bus.health().started
    assert bus.broker.consumers() == {}
    assert bus.broker.pending() == {("orders", "billing"): 1}
    assert await still_running() == set()


async def test_of_two_shutdowns_the_shorter_grace_counts() -> None:
    slow = Slow()
    bus = InMemoryIntegrationEventBus([registered(slow)])
    await bus.startup()
    await bus.send(TOPIC, Ordered())
    await slow.begun.wait()
    stopping = asyncio.create_task(bus.shutdown(grace=3_600))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await bus.shutdown(grace=0)
        await stopping
    assert slow.running == 0


async def test_an_unregistering_that_nobody_awaits_any_more_ends_with_the_bus() -> None:
    slow = Slow()
    registration = registered(slow)
    bus = InMemoryIntegrationEventBus([registration], shutdown_grace=3_600)
    await bus.startup()
    await bus.send(TOPIC, Ordered())
    await slow.begun.wait()
    unregistering = asyncio.create_task(bus.unregister(registration))
    await asyncio.sleep(0)
    unregistering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unregistering
    assert slow.running == 1
    async with asyncio.timeout(60):
        await bus.shutdown(grace=0)
    assert slow.running == 0
    assert await still_running() == set()


async def test_an_unregistering_that_nobody_awaits_any_more_is_forgotten_when_it_ends() -> None:
    slow = Slow()
    registration = registered(slow)
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await bus.send(TOPIC, Ordered())
        await slow.begun.wait()
        unregistering = asyncio.create_task(bus.unregister(registration))
        await asyncio.sleep(0)
        unregistering.cancel()
        slow.gate.set()
        await bus.broker.quiet()
        assert {task.get_name() for task in await still_running()} == {"paused consumers"}
        assert bus.health().consumers == ()
        assert bus.health().healthy


async def test_a_subscription_that_cannot_be_closed_keeps_no_other_from_its_end() -> None:
    class Failing(ManualSubscribed):
        async def close(self) -> None:
            await super().close()
            raise ConnectionError("lost")

    transport = ManualTransport()
    bus = bus_over(transport, [registered(), registered(name="mail")])
    await bus.startup()
    first, second = transport.subscribed
    first.__class__ = Failing
    slow = asyncio.Event()

    async def close() -> None:
        await slow.wait()
        await ManualSubscribed.close(second)

    second.close = close  # type: ignore[method-assign]
    stopping = asyncio.create_task(bus.shutdown())
    for _ in range(10):
        await asyncio.sleep(0)
    assert transport.calls[-1] != "close"
    slow.set()
    with pytest.raises(ConnectionError, match="lost"):
        await stopping
    assert transport.calls[-1] == "close"
    assert not bus.health().started


async def test_a_handler_that_swallows_its_cancellation_does_not_hold_up_the_shutdown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("events.integration.pipeline.scheduler._CANCEL_TIMEOUT", 0)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def uncancellable(event: Ordered) -> None:
        begun.set()
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    bus = InMemoryIntegrationEventBus([registered(uncancellable)])
    await bus.startup()
    await bus.send(TOPIC, Ordered())
    await begun.wait()
    async with asyncio.timeout(60):
        await bus.shutdown(grace=0)
    assert "1 handlers were cancelled but still run" in caplog.text
    assert bus.broker.pending() == {("orders", "billing"): 1}
    gate.set()
    assert await still_running() == set()


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()])
def test_a_handler_that_ends_the_process_leaves_its_shutdown_whole(end: BaseException) -> None:
    calls: list[int] = []

    async def handler(event: Ordered) -> None:
        calls.append(event.number)
        raise end

    bus = InMemoryIntegrationEventBus([registered(handler)])

    async def main() -> None:
        async with bus:
            await bus.send(TOPIC, Ordered(1))
            await asyncio.Event().wait()

    with pytest.raises(type(end)):
        asyncio.run(main())
    assert calls == [1]
    assert not bus.health().started
    assert bus.broker.consumers() == {}
    assert bus.broker.pending() == {("orders", "billing"): 1}


# --- sending


async def test_send_returns_when_the_transport_says_so() -> None:
    transport = ManualTransport(answers=False)
    async with bus_over(transport) as bus:
        sending = asyncio.create_task(bus.send(TOPIC, Ordered(1), key="k", headers={"Tenant": "a"}))
        await asyncio.sleep(0)
        assert not sending.done()
        transport.unanswered[0].set_result(None)
        await sending
    (message,) = transport.published
    assert message.body == b'{"type":"bus.ordered","version":1,"number":1}'
    assert (message.topic, message.type, message.key) == ("orders", "bus.ordered", "k")
    assert message.headers["tenant"] == "a"
    assert message.headers["ce-id"] == message.id


async def test_no_answer_within_the_deadline_is_an_unknown_outcome_that_names_the_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("events.integration.pipeline.sender._OVERRUN", 0)
    async with bus_over(ManualTransport(answers=False), send_timeout=0.2) as bus:
        with pytest.raises(SendOutcomeUnknownError, match=r"no answer within 0\.2 s") as caught:
            await bus.send(TOPIC, Ordered(), id="event-1")
        assert caught.value.id == "event-1"
        with pytest.raises(BatchSendError, match="did not take 2 of 2 events"):
            await bus.send_many(TOPIC, [Ordered(), Ordered()])


async def test_a_broker_that_takes_none_of_a_windowful_is_not_offered_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("events.integration.pipeline.sender._OVERRUN", 0)
    monkeypatch.setattr("events.integration.pipeline.sender._WINDOW", 2)
    transport = ManualTransport(answers=False)
    async with bus_over(transport, send_timeout=0.2) as bus:
        with pytest.raises(BatchSendError) as caught:
            await bus.send_many(TOPIC, [Ordered(n) for n in range(5)])
    unknown, unavailable = SendOutcomeUnknownError, BusUnavailableError
    kinds = [type(caught.value.failures[n]) for n in range(5)]
    assert kinds == [unknown, unknown, unavailable, unavailable, unavailable]
    assert len(transport.published) == 2


async def test_what_a_batch_did_not_get_through_is_named_by_position() -> None:
    transport = ManualTransport(answers=False)
    async with bus_over(transport) as bus:
        sending = asyncio.create_task(bus.send_many(TOPIC, [Ordered(n) for n in range(3)]))
        while len(transport.unanswered) < 3:
            await asyncio.sleep(0)
        transport.unanswered[0].set_result(None)
        transport.unanswered[1].set_exception(BusUnavailableError("bus", "gone"))
        transport.unanswered[2].set_result(None)
        with pytest.raises(BatchSendError, match=r"1 of 3 events; .* number 1: .*gone") as caught:
            await sending
    assert list(caught.value.failures) == [1]


async def test_a_batch_leaves_in_order_with_a_key_for_each() -> None:
    transport = ManualTransport()
    async with bus_over(transport) as bus:
        await bus.send_many(TOPIC, (Ordered(n) for n in range(2_500)), key=lambda e: str(e.number))
    assert [message.key for message in transport.published] == [str(n) for n in range(2_500)]


async def test_nothing_of_a_batch_is_sent_when_one_of_it_cannot_be() -> None:
    transport = ManualTransport()
    async with bus_over(transport, max_body_size=50) as bus:
        with pytest.raises(
            MessageTooLargeError, match=r"'bus\.ordered' for topic 'orders' has a body"
        ):
            await bus.send_many(TOPIC, [Ordered(1), Ordered(10**15)])
        assert transport.published == []
        await bus.send_many(TOPIC, [])


async def test_a_defect_of_a_transport_is_not_hidden() -> None:
    class Defective(ManualTransport):
        def publish(self, message: object) -> Any:
            raise ZeroDivisionError

    async with bus_over(Defective()) as bus:
        with pytest.raises(ZeroDivisionError):
            await bus.send(TOPIC, Ordered())
        with pytest.raises(ZeroDivisionError):
            await bus.send_many(TOPIC, [Ordered()])


async def test_a_defect_in_the_middle_of_a_batch_leaves_nobody_waiting() -> None:
    class Defective(ManualTransport):
        def publish(self, message: Message) -> "asyncio.Future[None]":
            if len(self.published) == 2:
                raise ZeroDivisionError
            return super().publish(message)

    transport = Defective(answers=False)
    async with bus_over(transport) as bus:
        with pytest.raises(ZeroDivisionError):
            await bus.send_many(TOPIC, [Ordered(n) for n in range(3)])
    assert [future.cancelled() for future in transport.unanswered] == [True, True]


async def test_forwarding_says_of_each_message_what_became_of_it() -> None:
    transport = ManualTransport()
    async with bus_over(transport, max_body_size=60) as bus:
        await bus.send(TOPIC, Ordered(1))
        (small,) = transport.published
        large = type(small)("orders", "bus.ordered", "id-2", b"x" * 61, {})
        outcomes = await bus.forward([small, large])
    assert outcomes[0] is None
    assert isinstance(outcomes[1], MessageTooLargeError)
    assert [message.id for message in transport.published[1:]] == [small.id]


async def test_send_takes_a_topic_and_says_so() -> None:
    async with bus_over(ManualTransport()) as bus:
        with pytest.raises(InvalidTopologyError, match=r"'orders': not a Topic; write Topic"):
            await bus.send("orders", Ordered())  # type: ignore[arg-type]


async def test_dead_letters_of_a_transport_that_keeps_none() -> None:
    async with bus_over(ManualTransport()) as bus:
        with pytest.raises(UnsupportedByBusError, match="does not support dead letters: use a dur"):
            await bus.dead_letters("billing")


# --- the bare port


class TeeBus(IntegrationEventBus):
    """A bus as a user would write it."""

    def __init__(self, registrations: list[IntegrationEventBusRegistration] | None = None) -> None:
        super().__init__(registrations or [])
        self.calls: list[str] = []

    async def startup(self) -> None:
        self.calls.append("startup")

    async def shutdown(self) -> None:
        self.calls.append("shutdown")

    async def register(self, registration: IntegrationEventBusRegistration) -> None:
        await super().register(registration)

    async def send(self, topic: Topic, event: IntegrationEvent) -> None:
        for registration in self.registrations:
            if registration.topic == topic and type(event) in registration.events:
                await registration.consumer.on_event(event)


async def test_a_bus_on_the_bare_port_works() -> None:
    seen: list[IntegrationEvent] = []

    async def handler(event: Ordered) -> None:
        seen.append(event)

    bus = TeeBus()
    async with bus:
        await bus.register(registered(handler))
        await bus.send(TOPIC, Ordered(1))
        await bus.send(Topic("other"), Ordered(2))
        with pytest.raises(InvalidTopologyError, match="it names no events"):
            await bus.register(
                IntegrationEventBusRegistration(EventHandlerConsumer("c"), TOPIC, [])
            )
    assert bus.calls == ["startup", "shutdown"]
    assert seen == [Ordered(1)]
    await bus.unregister(bus.registrations[0])
    assert bus.registrations == []


async def test_a_bus_of_send_alone_is_enough() -> None:
    class SendOnly(IntegrationEventBus):
        async def send(self, topic: Topic, event: IntegrationEvent) -> None:
            return None

    async with SendOnly() as bus:
        await bus.send(TOPIC, Ordered())
    assert bus.registrations == []
    with pytest.raises(TypeError, match=r"abstract method '?send"):
        IntegrationEventBus()  # type: ignore[abstract]


# --- a broker that is not there yet


class Late(ManualTransport):
    """Connects at the third attempt."""

    async def connect(self) -> None:
        await super().connect()
        if self.calls.count("connect") < 3:
            raise BusUnavailableError("late", "connection refused")


async def test_startup_waits_for_a_broker_if_asked_to(caplog: pytest.LogCaptureFixture) -> None:
    transport = Late()
    async with bus_over(transport, [registered()], wait_for_broker=True) as bus:
        await bus.send(TOPIC, Ordered())
    assert transport.calls == [
        *("connect", "close", "connect", "close", "connect", "subscribe billing", "close")
    ]
    said = [record.getMessage() for record in caplog.records]
    assert said == ["TransportIntegrationEventBus() waits for its broker: connection refused"]


async def test_startup_without_that_raises_at_once() -> None:
    transport = Late()
    with pytest.raises(
        BusUnavailableError, match="^cannot start: late is not available: connection refused"
    ):
        await bus_over(transport).startup()
    assert transport.calls == ["connect", "close"]


class Unready(ManualTransport):
    """Loses its broker between connecting and the first subscription."""

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> ManualSubscribed:
        subscribed = await super().subscribe(subscription, deliver)
        if len(self.calls) < 4:
            raise BusUnavailableError("late", "its connection was lost")
        return subscribed


async def test_startup_waits_for_a_broker_that_goes_meanwhile_if_asked_to() -> None:
    transport = Unready()
    async with bus_over(transport, [registered()], wait_for_broker=True):
        pass
    assert transport.calls == ["connect", *(3 * ["subscribe billing"]), "close"]


class Hanging(ManualTransport):
    error = "it does not answer"

    async def connect(self) -> None:
        await super().connect()
        await asyncio.Event().wait()


async def test_connecting_ends_in_time_and_says_why() -> None:
    bus = bus_over(Hanging(), connect_timeout=0.2)
    with pytest.raises(
        BusUnavailableError,
        match=r"no connection within 0.2 s: it does not answer; with wait_for_broker=True",
    ):
        await bus.startup()


async def test_the_waiting_ends_with_the_time_for_the_startup_and_says_what_for() -> None:
    transport = ManualTransport(connect_error=BusUnavailableError("late", "connection refused"))
    bus = bus_over(transport, wait_for_broker=True, startup_timeout=0.2)
    with pytest.raises(BusUnavailableError, match=r"took longer than 0.2 s: connection refused"):
        await bus.startup()
    assert await still_running() == set()
