"""Handlers of integration events from a container: a REQUEST scope for each attempt."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from dishka import (
    Provider,
    Scope,
    make_async_container,
    provide,  # pyright: ignore[reportUnknownVariableType] - dishka's own
)
from dishka.exceptions import GraphMissingFactoryError

from events.errors import InvalidTopologyError
from events.integration import (
    Delivery,
    EventHandlerConsumer,
    Handle,
    IncomingEvent,
    IntegrationEvent,
    IntegrationEventBus,
    IntegrationEventBusRegistration,
    Outbox,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.dishka import (
    DishkaHandler,
    DishkaScope,
    IntegrationEventImplementationProvider,
    OutboxProvider,
    current_scope,
    from_scope,
)
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.testing import RecordingOutbox

TOPIC = Topic("users")


@dataclass
class UserRegistered(IntegrationEvent):
    type = "dishka.user_registered"
    version = 1
    email: str


class Session:
    """Stands for a database session: made by a scope, closed with it."""

    def __init__(self) -> None:
        self.closed = False


class Mailbox:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Session, int]] = []
        self.failures = 0


class SendWelcome:
    def __init__(self, session: Session, mailbox: Mailbox, delivery: Delivery) -> None:
        self.session, self.mailbox, self.delivery = session, mailbox, delivery

    async def handle(self, event: UserRegistered) -> None:
        assert not self.session.closed
        self.mailbox.sent.append((event.email, self.session, self.delivery.attempt))
        if len(self.mailbox.sent) <= self.mailbox.failures:
            raise ConnectionError("mail server down")


class Application(Provider):
    def __init__(self) -> None:
        super().__init__()
        self.mailbox = Mailbox()

    @provide(scope=Scope.APP)
    def mail(self) -> Mailbox:
        return self.mailbox

    @provide(scope=Scope.REQUEST)
    async def session(self) -> AsyncIterator[Session]:
        session = Session()
        yield session
        session.closed = True


def emails(retry: RetryPolicy | None = None) -> IntegrationEventBusRegistration:
    consumer = EventHandlerConsumer("emails", {UserRegistered: DishkaHandler(SendWelcome)})
    return IntegrationEventBusRegistration(consumer, TOPIC, consumer.handlers.keys(), retry=retry)


async def test_the_bus_starts_when_asked_for_and_stops_with_the_container() -> None:
    application = Application()
    container = make_async_container(
        IntegrationEventImplementationProvider(InMemoryIntegrationEventBus, [emails()]), application
    )
    bus = await container.get(IntegrationEventBus)
    assert isinstance(bus, InMemoryIntegrationEventBus)
    assert bus is await container.get(TransportIntegrationEventBus)
    assert bus is await container.get(InMemoryIntegrationEventBus)
    assert bus.health().healthy
    await bus.send(TOPIC, UserRegistered("ann@example.com"))
    await bus.broker.quiet()
    assert [sent[0] for sent in application.mailbox.sent] == ["ann@example.com"]
    await container.close()
    assert not bus.health().started


async def test_each_attempt_has_a_scope_of_its_own_that_is_closed_behind_it() -> None:
    application = Application()
    application.mailbox.failures = 2
    container = make_async_container(
        IntegrationEventImplementationProvider(
            InMemoryIntegrationEventBus, [emails(RetryPolicy(attempts=3, delay=0))]
        ),
        application,
    )
    bus = await container.get(IntegrationEventBus)
    assert isinstance(bus, InMemoryIntegrationEventBus)
    await bus.send(TOPIC, UserRegistered("ann@example.com"))
    await bus.broker.quiet()
    sessions = [session for _, session, _ in application.mailbox.sent]
    assert len(set(sessions)) == 3
    assert all(session.closed for session in sessions)
    assert [attempt for _, _, attempt in application.mailbox.sent] == [1, 2, 3]
    await container.close()


async def test_all_of_it_in_a_component() -> None:
    seen: list[object] = []

    async def inner(incoming: IncomingEvent, call_next: Handle, /) -> None:
        seen.append(await from_scope(Session)())
        seen.append(await from_scope(Session, component="")())
        await call_next(incoming)

    shop, elsewhere = Application(), Application()
    container = make_async_container(
        IntegrationEventImplementationProvider(
            InMemoryIntegrationEventBus, [emails()], middlewares=[inner]
        ).to_component("shop"),
        shop.to_component("shop"),
        elsewhere,
    )
    bus = await container.get(InMemoryIntegrationEventBus, component="shop")
    await bus.send(TOPIC, UserRegistered("ann@example.com"))
    await bus.broker.quiet()
    assert not await bus.dead_letters("emails")
    assert elsewhere.mailbox.sent == []
    [(email, session, attempt)] = shop.mailbox.sent
    assert (email, attempt) == ("ann@example.com", 1)
    assert seen[0] is session
    assert seen[1] is not session
    await container.close()


async def test_two_buses_in_two_components() -> None:
    applications = {name: Application() for name in ("", "shop", "books")}
    container = make_async_container(
        *(
            IntegrationEventImplementationProvider(
                InMemoryIntegrationEventBus, [emails()]
            ).to_component(name)
            for name in applications
        ),
        *(application.to_component(name) for name, application in applications.items()),
    )
    for name in applications:
        bus = await container.get(InMemoryIntegrationEventBus, component=name)
        await bus.send(TOPIC, UserRegistered(f"{name}@example.com"))
        await bus.broker.quiet()
    sent = {name: [each[0] for each in it.mailbox.sent] for name, it in applications.items()}
    assert sent == {name: [f"{name}@example.com"] for name in applications}
    await container.close()


async def test_a_handler_in_a_component_that_cannot_be_built_is_found_early() -> None:
    with pytest.raises(GraphMissingFactoryError, match=r"Session, component='shop'"):
        make_async_container(
            IntegrationEventImplementationProvider(
                InMemoryIntegrationEventBus, [emails()]
            ).to_component("shop"),
            Application(),
        )


async def test_an_inner_middleware_shares_the_scope_with_the_handler() -> None:
    application = Application()
    seen: list[Session] = []

    async def inbox(incoming: IncomingEvent, call_next: Handle, /) -> None:
        seen.append(await current_scope().get(Session))
        await call_next(incoming)

    container = make_async_container(
        IntegrationEventImplementationProvider(
            InMemoryIntegrationEventBus, [emails()], middlewares=[inbox]
        ),
        application,
    )
    bus = await container.get(IntegrationEventBus)
    assert isinstance(bus, InMemoryIntegrationEventBus)
    await bus.send(TOPIC, UserRegistered("ann@example.com"))
    await bus.broker.quiet()
    assert seen == [application.mailbox.sent[0][1]]
    await container.close()


def test_a_handler_that_cannot_be_built_is_found_when_the_container_is_made() -> None:
    class NeedsMore:
        def __init__(self, missing: bytearray) -> None: ...

        async def handle(self, event: UserRegistered) -> None: ...

    consumer = EventHandlerConsumer("emails", {UserRegistered: DishkaHandler(NeedsMore)})
    registration = IntegrationEventBusRegistration(consumer, TOPIC, [UserRegistered])
    with pytest.raises(GraphMissingFactoryError, match="bytearray"):
        make_async_container(
            IntegrationEventImplementationProvider(InMemoryIntegrationEventBus, [registration])
        )


async def test_a_handler_that_the_user_provides_wins() -> None:
    application = Application()
    made: list[SendWelcome] = []

    class Own(Provider):
        @provide(scope=Scope.REQUEST)
        def handler(self, session: Session, mailbox: Mailbox, delivery: Delivery) -> SendWelcome:
            made.append(SendWelcome(session, mailbox, delivery))
            return made[-1]

    container = make_async_container(
        IntegrationEventImplementationProvider(InMemoryIntegrationEventBus, [emails()]),
        application,
        Own(),
    )
    bus = await container.get(IntegrationEventBus)
    assert isinstance(bus, InMemoryIntegrationEventBus)
    await bus.send(TOPIC, UserRegistered("ann@example.com"))
    await bus.broker.quiet()
    assert len(made) == 1
    await container.close()


async def test_without_the_provider_the_scope_is_a_middleware() -> None:
    application = Application()
    scoped = Provider(scope=Scope.REQUEST)
    scoped.provide(SendWelcome)
    scoped.from_context(Delivery, scope=Scope.REQUEST)
    container = make_async_container(application, scoped)
    async with InMemoryIntegrationEventBus([emails()], middlewares=[DishkaScope(container)]) as bus:
        await bus.send(TOPIC, UserRegistered("ann@example.com"))
        await bus.broker.quiet()
    assert len(application.mailbox.sent) == 1
    await container.close()


async def test_a_bus_without_a_scope_refuses_a_handler_that_needs_one() -> None:
    bus = InMemoryIntegrationEventBus([emails()])
    with pytest.raises(InvalidTopologyError) as caught:
        await bus.startup()
    assert str(caught.value) == (
        "registration of EventHandlerConsumer('emails') on Topic(name='users'): no DishkaScope is "
        "among the bus's middlewares, so DishkaHandler(SendWelcome) would have no scope to get its "
        "handler from: create the bus with middlewares=[DishkaScope(container)], or have "
        "IntegrationEventImplementationProvider make it"
    )
    async with InMemoryIntegrationEventBus() as bus:
        with pytest.raises(InvalidTopologyError, match="no DishkaScope is among"):
            await bus.register(emails())
        assert bus.registrations == []


async def test_a_handler_without_an_open_scope_says_what_to_add() -> None:
    async def from_somewhere_else(event: UserRegistered) -> None:
        await DishkaHandler(SendWelcome)(event)

    consumer = EventHandlerConsumer("emails", {UserRegistered: from_somewhere_else})
    registration = IntegrationEventBusRegistration(consumer, TOPIC, [UserRegistered])
    async with InMemoryIntegrationEventBus([registration]) as bus:
        await bus.send(TOPIC, UserRegistered("ann@example.com"))
        await bus.broker.quiet()
        (letter,) = await bus.dead_letters("emails")
    assert (letter.reason, letter.attempts) == ("unretryable", 1)  # no retry could mend it
    assert letter.error.partition("\nat ")[0] == (
        "InvalidTopologyError: no dishka scope is open here: create the bus with "
        "middlewares=[DishkaScope(container)], "
        "or have IntegrationEventImplementationProvider make it"
    )
    with pytest.raises(InvalidTopologyError, match="no dishka scope is open here"):
        current_scope()


def test_the_stand_in_names_its_class() -> None:
    assert repr(DishkaHandler(SendWelcome)) == "DishkaHandler(SendWelcome)"


def test_the_stand_in_takes_the_class_of_a_handler_alone() -> None:
    class Handles:
        async def handle(self, event: UserRegistered) -> None: ...

    given: Any = Handles()
    with pytest.raises(TypeError, match=r"needs the class of a handler, not <.*Handles object"):
        DishkaHandler(given)
    given = Mailbox
    with pytest.raises(TypeError, match="Mailbox has no method `handle`: write `async def handle"):
        DishkaHandler(given)


def test_the_stand_in_refuses_a_handle_that_could_not_work() -> None:
    class NotAsync:
        def handle(self, event: UserRegistered) -> None: ...

    class TakesMore:
        async def handle(self, event: UserRegistered, mailbox: Mailbox) -> None: ...

    class Static:
        @staticmethod
        async def handle(event: UserRegistered) -> None: ...

    given: Any
    for given, text in (
        (NotAsync, "NotAsync.handle cannot handle an event: it is not async"),
        (TakesMore, "it must take the event and no other argument: missing a required .*'mailbox'"),
    ):
        with pytest.raises(TypeError, match=text):
            DishkaHandler(given)
    DishkaHandler(Static)


@dataclass
class UserDeleted(IntegrationEvent):
    type = "dishka.user_deleted"
    version = 1


class Later(SendWelcome):
    """Handles what its base does."""


class OfAClass:
    @classmethod
    async def handle(cls, event: UserRegistered) -> None: ...


class Static:
    @staticmethod
    async def handle(event: UserRegistered) -> None: ...


@pytest.mark.parametrize("handler", [SendWelcome, Later, OfAClass, Static])
async def test_a_stand_in_of_a_handler_of_another_event_is_refused(handler: Any) -> None:
    right = EventHandlerConsumer("emails", {UserRegistered: DishkaHandler(handler)})
    IntegrationEventBusRegistration(right, TOPIC, [UserRegistered]).check()
    wrong = EventHandlerConsumer("emails", {UserDeleted: [DishkaHandler(handler)]})
    registration = IntegrationEventBusRegistration(wrong, TOPIC, [UserDeleted])
    bus = InMemoryIntegrationEventBus()
    with pytest.raises(
        InvalidTopologyError,
        match=rf"DishkaHandler\({handler.__name__}\) cannot handle UserDeleted: "
        r"its annotation is UserRegistered",
    ):
        await bus.register(registration)


def test_a_registration_alone_where_they_are_listed_is_refused() -> None:
    consumer = EventHandlerConsumer("mails")
    given: Any = IntegrationEventBusRegistration(consumer, TOPIC, [UserRegistered])
    with pytest.raises(TypeError, match=r"pass a list: \[registration\]"):
        IntegrationEventImplementationProvider(InMemoryIntegrationEventBus, given)


def test_a_bus_that_is_made_already_cannot_be_provided() -> None:
    given: Any = InMemoryIntegrationEventBus()
    with pytest.raises(
        TypeError, match=r"needs the bus's class, .*, not InMemoryIntegrationE.*\(\)"
    ):
        IntegrationEventImplementationProvider(given)


class Unit:
    """Stands for a session that an outbox writes with."""


class Stored(RecordingOutbox):
    def __init__(self, session: Unit, *, source: str = "/events") -> None:
        super().__init__()
        self.session, self.source = session, source


async def test_the_outbox_of_a_unit_of_work_has_its_session() -> None:
    sessions = Provider(scope=Scope.REQUEST)
    sessions.provide(Unit)
    container = make_async_container(OutboxProvider(Stored, Unit, source="/shop"), sessions)
    seen: list[Unit] = []
    for _ in range(2):
        async with container() as request:
            outbox = await request.get(Outbox)
            assert isinstance(outbox, Stored)
            assert outbox is await request.get(Stored)
            assert outbox.session is await request.get(Unit)
            assert outbox.source == "/shop"
            seen.append(outbox.session)
    assert seen[0] is not seen[1]


async def test_a_function_may_make_the_outbox() -> None:
    sessions = Provider(scope=Scope.REQUEST)
    sessions.provide(Unit)

    def make(unit: Unit) -> Stored:
        return Stored(unit)

    container = make_async_container(OutboxProvider(make, Unit), sessions)
    async with container() as request:
        assert isinstance(await request.get(Outbox), Stored)


def test_an_outbox_without_its_session_is_found_when_the_container_is_made() -> None:
    with pytest.raises(GraphMissingFactoryError, match="Unit"):
        make_async_container(OutboxProvider(Stored, Unit))
