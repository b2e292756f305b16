from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Annotated, Any

import pytest
from dishka import (
    STRICT_VALIDATION,
    AsyncContainer,
    FromComponent,
    Provider,
    Scope,
    from_context,
    make_async_container,
    provide,
)
from dishka.exceptions import NoFactoryError

from events.domain import (
    DomainEvent,
    DomainEventDispatcher,
    DomainEventHandler,
    DomainEventHandlerFactory,
    DomainEventHandlerRegistry,
)
from events.domain.implementation.dishka import (
    DishkaDomainEventHandlerFactory,
    DomainEventImplementationProvider,
    factory,
    provider,
)
from events.errors import HandlerNotBuiltError


class Ping(DomainEvent):
    type = "ping"


@dataclass
class Session:
    writes: list[object] = field(default_factory=list[object])
    closed: bool = False


@dataclass
class Settings:
    name: str = "app"


class Missing:
    pass


class Write(DomainEventHandler[Ping]):
    def __init__(self, session: Session, *, settings: Settings) -> None:
        self.session = session
        self.settings = settings

    async def handle(self, event: Ping) -> None:
        self.session.writes.append(self)


class Count(DomainEventHandler[Ping]):
    def __init__(self, session: Session, label: str) -> None:
        self.session = session
        self.label = label

    async def handle(self, event: Ping) -> None:
        self.session.writes.append(self.label)


class Hopeless(DomainEventHandler[Ping]):
    def __init__(self, session: Session, missing: Missing) -> None: ...

    async def handle(self, event: Ping) -> None: ...


class Simple(DomainEventHandler[Ping]):
    async def handle(self, event: Ping) -> None: ...


class Untyped(DomainEventHandler[Ping]):
    def __init__(self, session) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    async def handle(self, event: Ping) -> None: ...


class Sessions(Provider):
    scope = Scope.REQUEST

    @provide
    async def session(self) -> AsyncIterator[Session]:
        session = Session()
        yield session
        session.closed = True

    @provide(scope=Scope.APP)
    def settings(self) -> Settings:
        return Settings()


def registry_of(*handlers: type[DomainEventHandler[Ping]]) -> DomainEventHandlerRegistry:
    return DomainEventHandlerRegistry({Ping: handlers})


def container_of(
    *handlers: type[DomainEventHandler[Ping]], providers: tuple[Provider, ...] = (), **options: Any
) -> AsyncContainer:
    return make_async_container(
        *(providers or (Sessions(), DomainEventImplementationProvider())),
        context={DomainEventHandlerRegistry: registry_of(*handlers)},
        **options,
    )


async def ping(container: AsyncContainer) -> Session:
    async with container() as request:
        async with await request.get(DomainEventDispatcher) as dispatcher:
            dispatcher.store_events([Ping(), Ping()])
        return await request.get(Session)


async def test_handlers_share_the_session_of_their_request() -> None:
    container = container_of(Write)
    async with container() as request:
        session = await request.get(Session)
        dispatcher = await request.get(DomainEventDispatcher)
        assert await request.get(DomainEventDispatcher) is dispatcher
        dispatcher.store_events([Ping(), Ping()])
        await dispatcher.process()
        first, second = session.writes
        assert isinstance(first, Write)
        assert first is second
        assert first.session is session
        assert first.settings is await container.get(Settings)
        closed = [session.closed]
    assert [*closed, session.closed] == [False, True]
    async with container() as request:
        other = await request.get(DomainEventDispatcher)
        assert other is not dispatcher
        other.store_event(Ping())
        await other.process()
        (third,) = (await request.get(Session)).writes
        assert third is not first
        assert isinstance(third, Write)
        assert third.session is not session
    await container.close()


async def test_the_global_registry_by_default_and_handlers_defined_later() -> None:
    container = make_async_container(Sessions(), DomainEventImplementationProvider())
    assert await container.get(DomainEventHandlerRegistry) is DomainEventHandler.registry

    class Late(DomainEventHandler[Ping]):
        def __init__(self, session: Session) -> None:
            self.session = session

        async def handle(self, event: Ping) -> None:
            self.session.writes.append("late")

    assert DomainEventHandler.registry.get(Ping) == [Late]
    assert (await ping(container)).writes == ["late", "late"]
    await container.close()


class CountProvider(Provider):
    @provide(scope=Scope.REQUEST)
    def count(self, session: Session) -> Count:
        return Count(session, "provided")


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_handlers_that_the_user_provides_whatever_the_order(order: tuple[int, ...]) -> None:
    providers = (Sessions(), DomainEventImplementationProvider(), CountProvider())
    container = container_of(Count, Write, providers=tuple(providers[i] for i in order))
    for _ in range(2):
        writes = (await ping(container)).writes
        assert writes[0::2] == ["provided", "provided"]
        assert isinstance(writes[1], Write)
    await container.close()


async def test_a_handler_provided_for_the_application() -> None:
    session = Session()

    class Shared(Provider):
        @provide(scope=Scope.APP)
        def count(self) -> Count:
            return Count(session, "app")

    container = container_of(
        Count, providers=(Shared(), Sessions(), DomainEventImplementationProvider())
    )
    await ping(container)
    await ping(container)
    assert session.writes == ["app"] * 4
    await container.close()


async def test_strict_validation() -> None:
    strict = {"validation_settings": STRICT_VALIDATION}
    own = DomainEventImplementationProvider()
    container = make_async_container(Sessions(), own, CountProvider(), **strict)  # type: ignore[arg-type]
    assert await container.get(DomainEventHandlerRegistry) is DomainEventHandler.registry
    await container.close()

    class Declared(Provider):
        registry = from_context(DomainEventHandlerRegistry, scope=Scope.APP, override=True)

    container = container_of(Write, providers=(Sessions(), own, Declared()), **strict)
    assert len((await ping(container)).writes) == 2
    await container.close()


async def test_the_users_own_factory_takes_the_place() -> None:
    class Nothing:
        async def create(self, handler_class: type[Any], /) -> Any:
            raise HandlerNotBuiltError(handler_class, "mine")

    class Own(Provider):
        @provide(scope=Scope.REQUEST)
        def own(self) -> DomainEventHandlerFactory:
            return Nothing()

    container = container_of(
        Write, providers=(Sessions(), DomainEventImplementationProvider(), Own())
    )
    with pytest.raises(HandlerNotBuiltError, match="mine"):
        await ping(container)
    await container.close()


async def test_handlers_may_ask_for_the_dispatcher() -> None:
    class Again(DomainEventHandler[Ping]):
        def __init__(self, dispatcher: DomainEventDispatcher, container: AsyncContainer) -> None:
            self.dispatcher = dispatcher
            self.container = container

        async def handle(self, event: Ping) -> None:
            seen.append(self)

    seen: list[Again] = []
    container = container_of(Again)
    async with container() as request, await request.get(DomainEventDispatcher) as dispatcher:
        dispatcher.store_event(Ping())
    assert seen[0].dispatcher is dispatcher
    assert seen[0].container is request
    await container.close()


async def test_handlers_may_ask_for_components() -> None:
    class Far(DomainEventHandler[Ping]):
        def __init__(self, settings: Annotated[Settings, FromComponent("far")]) -> None:
            names.append(settings.name)

        async def handle(self, event: Ping) -> None: ...

    names: list[str] = []
    there = Provider(scope=Scope.APP, component="far")
    there.provide(lambda: Settings("far"), provides=Settings)
    container = container_of(
        Far, providers=(there, Sessions(), DomainEventImplementationProvider())
    )
    await ping(container)
    assert names == ["far"]
    await container.close()


async def test_a_handler_that_needs_something_unknown_is_named() -> None:
    container = container_of(Hopeless)
    for _ in range(2):
        with pytest.raises(HandlerNotBuiltError) as caught:
            await ping(container)
        text = str(caught.value)
        assert text.startswith(
            "cannot build the handler Hopeless: Cannot find factory for (Missing"
        )
        assert text.endswith(
            "Provide the missing dependency in scope APP or REQUEST, or the handler itself"
        )
        assert caught.value.__notes__ == ["while making the handlers of Ping ('ping')"]
    await container.close()


async def test_a_handler_without_type_hints_is_named() -> None:
    container = container_of(Untyped)
    with pytest.raises(HandlerNotBuiltError) as caught:
        await ping(container)
    assert str(caught.value).startswith("cannot build the handler Untyped: ")
    assert str(caught.value).endswith(
        "Some parameters do not have type hints: session\n"
        "Correct its `__init__`, or provide the handler itself"
    )
    await container.close()


async def test_a_provided_handler_that_lacks_something_is_named() -> None:
    lacking = Provider(scope=Scope.REQUEST)
    lacking.provide(Hopeless)
    container = container_of(
        Hopeless,
        providers=(Sessions(), DomainEventImplementationProvider(), lacking),
        skip_validation=True,
    )
    with pytest.raises(
        HandlerNotBuiltError, match="handler Hopeless: Cannot find factory for .Mis"
    ):
        await ping(container)
    await container.close()


async def test_a_provider_is_not_passed_over_because_it_lacks_something() -> None:
    class Own(Provider):
        @provide(scope=Scope.REQUEST)
        def simple(self, missing: Missing) -> Simple:
            return Simple()

    container = container_of(
        Simple,
        providers=(Own(), Sessions(), DomainEventImplementationProvider()),
        skip_validation=True,
    )
    with pytest.raises(HandlerNotBuiltError, match="Missing"):
        await ping(container)
    await container.close()


async def test_what_a_provider_raises_is_raised_as_it_is() -> None:
    error = ConnectionError("database is down")

    class Down(Sessions):
        @provide(scope=Scope.REQUEST)
        def session(self) -> Session:
            raise error

    container = container_of(Write, providers=(Down(), DomainEventImplementationProvider()))
    with pytest.raises(ConnectionError) as caught:
        await ping(container)
    assert caught.value is error
    await container.close()


async def test_the_factory_alone() -> None:
    container = make_async_container(Sessions())
    async with container() as request:
        registry = DomainEventHandlerRegistry({Ping: [Write]})
        handlers = DishkaDomainEventHandlerFactory(request, registry)
        (write,) = await handlers.create(Ping)
        assert isinstance(write, Write)
        assert write.session is await request.get(Session)
        assert await handlers.create(Ping) == [write]
        swapped: tuple[Any, Any] = registry, request
        with pytest.raises(TypeError, match="the container comes first"):
            DishkaDomainEventHandlerFactory(*swapped)
    await container.close()


def test_names_are_where_the_design_has_them() -> None:
    assert factory.DishkaDomainEventHandlerFactory is DishkaDomainEventHandlerFactory
    assert provider.DomainEventImplementationProvider is DomainEventImplementationProvider


@pytest.mark.parametrize("module", ["", ".provider", ".factory"])
def test_without_dishka_the_import_names_the_extra(module: str) -> None:
    code = (
        "import sys; sys.modules['dishka'] = None\n"
        "import events.domain\n"
        f"import events.domain.implementation.dishka{module}"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().endswith(
        "events.errors.MissingExtraError: events.domain.implementation.dishka needs the extra "
        "'dishka': pip install \"integration-events[dishka]\""
    )


def test_the_domain_half_imports_the_standard_library_alone() -> None:
    code = (
        "import sys, events.domain\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'dishka', 'msgspec', 'sqlalchemy', 'attrs', 'attr', 'typing_extensions'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


async def test_handlers_that_are_named_are_all_there_are_and_the_container_provides_them() -> None:
    container = make_async_container(DomainEventImplementationProvider([Write, Write]), Sessions())
    assert len((await ping(container)).writes) == 2  # one handler, two events
    async with container() as request:
        assert await request.get(Write) is await request.get(Write)


def test_a_named_handler_that_cannot_be_built_is_found_when_the_container_is_made() -> None:
    with pytest.raises(NoFactoryError, match="Missing"):
        make_async_container(DomainEventImplementationProvider([Hopeless]), Sessions())


async def test_a_named_handler_may_be_made_by_a_later_provider() -> None:
    class Own(Provider):
        @provide(scope=Scope.REQUEST)
        def write(self, session: Session) -> Write:
            return Write(session, settings=Settings("mine"))

    container = make_async_container(DomainEventImplementationProvider([Write]), Sessions(), Own())
    first, second = (await ping(container)).writes
    assert isinstance(first, Write)
    assert first is second
    assert first.settings.name == "mine"


async def test_the_contexts_registry_wins_over_named_handlers() -> None:
    container = container_of(
        Write, providers=(Sessions(), DomainEventImplementationProvider([Simple]))
    )
    assert len((await ping(container)).writes) == 2


class OwnRegistry(Provider):
    """Has `Write` alone, and counts how often it is asked for that."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    @provide(scope=Scope.APP, cache=False)
    def mine(self) -> DomainEventHandlerRegistry:
        self.asked += 1
        return registry_of(Write)


async def test_the_users_own_registry_takes_the_place_and_is_asked_for_once() -> None:
    own = OwnRegistry()
    container = make_async_container(Sessions(), DomainEventImplementationProvider(), own)
    for _ in range(3):
        assert len((await ping(container)).writes) == 2
    assert own.asked == 1


async def test_one_provider_in_two_applications_keeps_them_apart() -> None:
    shared = (Sessions(), DomainEventImplementationProvider())
    plain = container_of(Count, Write, providers=(*shared, CountProvider()))
    label = Provider(scope=Scope.APP)
    label.provide(lambda: "made", provides=str)
    other = container_of(Count, providers=(*shared, label))
    for _ in range(2):
        assert (await ping(plain)).writes[0::2] == ["provided", "provided"]
        assert (await ping(other)).writes == ["made", "made"]


async def test_all_of_it_in_a_component() -> None:
    own = OwnRegistry()
    container = make_async_container(
        Sessions(),
        DomainEventImplementationProvider().to_component("orders"),
        own.to_component("orders"),
    )
    async with container() as request:
        async with await request.get(DomainEventDispatcher, "orders") as dispatcher:
            dispatcher.store_event(Ping())
        assert [type(each) for each in (await request.get(Session)).writes] == [Write]


async def test_containers_nested_in_the_request_and_handed_a_lock() -> None:
    container = container_of(Write)
    async with (
        container(lock_factory=asyncio.Lock) as request,
        request(lock_factory=asyncio.Lock) as action,
    ):
        dispatcher = await action.get(DomainEventDispatcher)
        dispatcher.store_event(Ping())
        await dispatcher.process()
        assert len((await action.get(Session)).writes) == 1


def test_a_registry_for_each_request_is_refused_when_the_container_is_made() -> None:
    class Narrow(Provider):
        @provide(scope=Scope.REQUEST)
        def mine(self) -> DomainEventHandlerRegistry:
            return registry_of(Write)

    with pytest.raises(NoFactoryError, match="DomainEventHandlerRegistry"):
        make_async_container(Sessions(), DomainEventImplementationProvider(), Narrow())
