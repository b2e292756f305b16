from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field
from typing import Any

import pytest

from events.domain import (
    AggregateRoot,
    DomainEvent,
    DomainEventDispatcher,
    DomainEventHandler,
    DomainEventHandlerRegistry,
    SimpleDomainEventHandlerFactory,
)
from events.errors import (
    DispatcherBusyError,
    EventChainTooLongError,
    HandlerNotBuiltError,
    InvalidDomainEventError,
)


@dataclass(frozen=True)
class Named(DomainEvent):
    name: str


class A(Named):
    type = "a"


class B(Named):
    type = "b"


class C(Named):
    type = "c"


@dataclass
class Order(AggregateRoot):
    name: str = "order"


@dataclass
class World:
    """Handlers of plain functions, a log of what ran, and the dispatcher over them."""

    registry: DomainEventHandlerRegistry = field(default_factory=DomainEventHandlerRegistry)
    makers: dict[Any, Any] = field(default_factory=dict[Any, Any])
    log: list[str] = field(default_factory=list[str])
    made: list[str] = field(default_factory=list[str])

    def on(self, event_class: Any, act: Any = None, name: str = "H") -> type[Any]:
        world = self

        class Handler(DomainEventHandler[event_class]):
            async def handle(self, event: Any) -> None:
                world.log.append(f"{name}:{event.name}")
                if act is not None:
                    result = act(event)
                    if result is not None:
                        await result

        def make() -> Any:
            world.made.append(name)
            return Handler()

        Handler.__qualname__ = name
        self.registry.add(event_class, Handler)
        self.makers[Handler] = make
        return Handler

    def dispatcher(self, **options: Any) -> DomainEventDispatcher:
        factory = SimpleDomainEventHandlerFactory(self.makers, self.registry)
        return DomainEventDispatcher(factory, **options)


@pytest.fixture
def world() -> World:
    return World()


def test_events_that_nobody_processes_are_reported(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = world.dispatcher()
    order = Order()
    order.publish_event(A("1"))
    dispatcher.from_entity(order)
    dispatcher.store_events([A("2"), B("3")])
    assert caplog.text == ""
    del dispatcher
    gc.collect()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("events.domain", "WARNING")
    assert record.message.startswith("3 domain events were never processed (a, b): use `async with")


async def test_events_that_were_processed_or_dropped_are_not_reported(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = world.dispatcher()
    dispatcher.store_event(A("1"))
    await dispatcher.process()
    del dispatcher
    dispatcher = world.dispatcher()
    await dispatcher.__aenter__()
    dispatcher.store_event(A("2"))
    await dispatcher.__aexit__(LookupError, LookupError(), None)
    del dispatcher
    gc.collect()
    assert caplog.records == []


async def test_handles_in_order_of_events_and_of_registration(world: World) -> None:
    world.on(B, name="first")
    world.on(A, name="second")
    world.on(DomainEvent, name="third")
    dispatcher = world.dispatcher()
    dispatcher.store_event(A("1"))
    dispatcher.store_events(iter([B("2"), A("3")]))
    assert world.log == []
    await dispatcher.process()
    assert world.log == ["second:1", "third:1", "first:2", "third:2", "second:3", "third:3"]
    await dispatcher.process()
    assert len(world.log) == 6


async def test_handlers_run_one_after_another_in_the_callers_task(world: World) -> None:
    running: list[int] = []
    tasks: set[Any] = set()

    async def overlap(_: Any) -> None:
        assert not running
        running.append(1)
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.pop()

    for _ in range(3):
        world.on(A, overlap)
    dispatcher = world.dispatcher()
    dispatcher.store_events([A("1"), A("2")])
    before = asyncio.all_tasks()
    await dispatcher.process()
    assert tasks == {asyncio.current_task()}
    assert asyncio.all_tasks() == before


async def test_uses_the_global_registry_by_default() -> None:
    ran: list[DomainEvent] = []

    class OnA(DomainEventHandler[A]):
        async def handle(self, event: A) -> None:
            ran.append(event)

    assert DomainEventHandler.registry.get(A) == [OnA]
    dispatcher = DomainEventDispatcher(SimpleDomainEventHandlerFactory())
    dispatcher.store_event(A("1"))
    await dispatcher.process()
    assert ran == [A("1")]


async def test_an_empty_registry_is_not_the_global_one() -> None:
    class OnA(DomainEventHandler[A]):
        async def handle(self, event: A) -> None:
            pytest.fail("not in the registry that was given")

    assert DomainEventHandler.registry.get(A) == [OnA]
    dispatcher = DomainEventDispatcher(
        SimpleDomainEventHandlerFactory(registry=DomainEventHandlerRegistry())
    )
    dispatcher.store_event(A("1"))
    await dispatcher.process()


async def test_events_of_entities_in_order(world: World) -> None:
    world.on(DomainEvent)
    order = Order()
    order.publish_event(A("1"))
    order.publish_event(B("2"))
    dispatcher = world.dispatcher()
    dispatcher.from_entity(order)
    assert order.events == []
    order.publish_event(C("3"))
    await dispatcher.process()
    assert world.log == ["H:1", "H:2", "H:3"]


async def test_equal_entities_are_distinguished(world: World) -> None:
    world.on(A)
    one, two = Order(), Order()
    assert one == two
    dispatcher = world.dispatcher()
    dispatcher.from_entity(one)
    dispatcher.from_entity(two)
    dispatcher.from_entity(one)
    one.publish_event(A("1"))
    two.publish_event(A("2"))
    await dispatcher.process()
    assert world.log == ["H:1", "H:2"]


async def test_runs_to_quiescence_first_in_first_out(world: World) -> None:
    order = Order()
    dispatcher = world.dispatcher()

    def on_a(event: A) -> None:
        order.publish_event(B(f"{event.name}.entity"))
        dispatcher.store_event(B(f"{event.name}.stored"))

    def on_b(event: B) -> None:
        if event.name == "1.entity":
            order.publish_event(C("last"))

    world.on(A, on_a)
    world.on(B, on_b)
    world.on(C)
    dispatcher = world.dispatcher()
    dispatcher.from_entity(order)
    dispatcher.store_events([A("1"), A("2")])
    await dispatcher.process()
    assert world.log == [
        "H:1", "H:2", "H:1.stored", "H:1.entity", "H:2.stored", "H:2.entity", "H:last",
    ]  # fmt: skip
    assert order.events == []


async def test_entities_that_handlers_bring(world: World) -> None:
    orders: list[Order] = []

    def load(event: A) -> None:
        order = Order()
        dispatcher.from_entity(order)
        orders.append(order)

    world.on(A, load)
    world.on(B, lambda _: orders[0].publish_event(C("3")))
    world.on(C)
    dispatcher = world.dispatcher()
    dispatcher.store_events([A("1"), B("2")])
    await dispatcher.process()
    assert world.log == ["H:1", "H:2", "H:3"]


async def test_entities_stay_seen_over_several_process_calls(world: World) -> None:
    world.on(A)
    order = Order()
    dispatcher = world.dispatcher()
    dispatcher.from_entity(order)
    await dispatcher.process()
    order.publish_event(A("1"))
    await dispatcher.process()
    assert world.log == ["H:1"]


async def test_each_handler_is_made_once_when_first_needed(world: World) -> None:
    world.on(A, name="a")
    world.on(B, name="b")
    dispatcher = world.dispatcher()
    dispatcher.store_events([A("1"), A("2")])
    await dispatcher.process()
    dispatcher.store_event(A("3"))
    await dispatcher.process()
    assert world.made == ["a"]
    await world.dispatcher().process()
    assert world.made == ["a"]


async def test_a_unit_of_work_keeps_its_handlers_and_the_next_sees_the_registry_again(
    world: World,
) -> None:
    handler = world.on(A, name="old")
    dispatcher = world.dispatcher()
    dispatcher.store_event(A("1"))
    await dispatcher.process()
    world.registry.remove(A, handler)
    for number in ("2", "3"):
        dispatcher.store_event(A(number))
        await dispatcher.process()
        dispatcher = world.dispatcher()
    assert world.log == ["old:1", "old:2"]


async def test_a_handler_of_two_events_is_one_instance_in_a_unit_of_work(world: World) -> None:
    handler = world.on(A, name="both")
    world.registry.add(B, handler)
    for _ in range(2):
        dispatcher = world.dispatcher()
        dispatcher.store_events([A("1"), B("2"), A("3")])
        await dispatcher.process()
    assert world.log == ["both:1", "both:2", "both:3"] * 2
    assert world.made == ["both"] * 2


async def test_units_of_work_share_a_factory_and_no_handler(world: World) -> None:
    ran: list[object] = []

    class Both(DomainEventHandler[A | B]):
        async def handle(self, event: A | B) -> None:
            await asyncio.sleep(0)
            ran.append(self)

    factory = SimpleDomainEventHandlerFactory(registry=DomainEventHandlerRegistry.of([Both]))

    async def unit() -> None:
        async with DomainEventDispatcher(factory) as dispatcher:
            dispatcher.store_events([A("1"), B("2")])

    await unit()
    await asyncio.gather(unit(), unit())
    assert [ran.count(each) for each in dict.fromkeys(ran)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (None, r"write SimpleDomainEventHandlerFactory\(\), or a class with `create`"),
        (SimpleDomainEventHandlerFactory, r"write SimpleDomainEventHandlerFactory\(\)"),
        (DomainEventHandlerRegistry(), "pass a registry to a factory: Simple"),
    ],
)
def test_what_is_given_for_a_factory_and_is_none(given: Any, cure: str) -> None:
    with pytest.raises(TypeError, match=f"^handler_factory must be a .*, not .*: {cure}"):
        DomainEventDispatcher(given)


async def test_a_factory_that_is_not_async_is_named(world: World) -> None:
    class Factory:
        def create(self, event_type: type[DomainEvent]) -> list[Any]:
            return []

    factory: Any = Factory()
    dispatcher = DomainEventDispatcher(factory)
    dispatcher.store_event(A("1"))
    with pytest.raises(TypeError, match=r"returned \[\] as the handlers of A: `async def create"):
        await dispatcher.process()


async def test_a_factory_of_the_users_own_needs_no_registry() -> None:
    class Greet(DomainEventHandler[A]):
        def __init__(self, name: str) -> None:
            self.name = name

        async def handle(self, event: A) -> None:
            log.append(f"{self.name}:{event.name}")

    class Factory:
        async def create(self, event_type: type[DomainEvent]) -> list[DomainEventHandler[Any]]:
            asked.append(event_type)
            return [Greet("first"), Greet("second")] if event_type is A else []

    log: list[str] = []
    asked: list[type] = []
    dispatcher = DomainEventDispatcher(handler_factory=Factory())
    dispatcher.store_events([A("1"), B("2"), A("3")])
    await dispatcher.process()

    assert log == ["first:1", "second:1", "first:3", "second:3"]
    assert asked == [A, B]


@pytest.mark.parametrize("gives", ["nothing", "one", "a class", "text"])
async def test_a_factory_that_gives_no_handlers_is_named(world: World, gives: str) -> None:
    handler = world.on(A)
    made: Any = {"nothing": None, "one": handler(), "a class": [handler], "text": "handlers"}[gives]

    class Factory:
        async def create(self, event_type: type[DomainEvent]) -> Any:
            return made

    dispatcher = DomainEventDispatcher(Factory())
    dispatcher.store_event(A("1"))
    with pytest.raises(
        TypeError, match=r"as the handlers of A: `async def create\(self, event_type\)` must"
    ) as caught:
        await dispatcher.process()
    assert repr(made) in str(caught.value)
    assert caught.value.__notes__ == ["while making the handlers of A ('a')"]


# --- chains -----------------------------------------------------------------------------------


async def test_a_circle_raises_with_its_chain(world: World) -> None:
    order = Order()
    dispatcher = world.dispatcher()
    world.on(A, lambda _: dispatcher.store_event(B("b")))
    world.on(B, lambda _: order.publish_event(A("a")))
    world.on(C)
    dispatcher = world.dispatcher(limit=5)
    dispatcher.from_entity(order)
    dispatcher.store_events([C("aside"), A("root"), C("aside")])
    with pytest.raises(EventChainTooLongError) as caught:
        await dispatcher.process()
    assert caught.value.chain == ["a", "b", "a", "b", "a", "b"]
    assert str(caught.value) == (
        "a chain of domain events is longer than 5: a -> b -> a -> b -> a -> b; handlers probably "
        "publish events in a cycle. Break the cycle, or raise the dispatcher's limit if the chain "
        "is intended"
    )
    assert not hasattr(caught.value, "__notes__")
    assert len(world.log) == 7


@pytest.mark.parametrize("limit", [1, 2, 50, 1000])
async def test_a_chain_as_long_as_the_limit_is_fine(world: World, limit: int) -> None:
    def count(event: A) -> None:
        if int(event.name) < stop:
            dispatcher.store_event(A(str(int(event.name) + 1)))

    world.on(A, count)
    stop = limit
    dispatcher = world.dispatcher(limit=limit)
    dispatcher.store_event(A("1"))
    await dispatcher.process()
    assert len(world.log) == limit
    stop = limit + 1
    dispatcher.store_event(A("1"))
    with pytest.raises(EventChainTooLongError):
        await dispatcher.process()
    assert len(world.log) == 2 * limit


async def test_the_default_limit_is_a_thousand(world: World) -> None:
    def again(event: A) -> None:
        dispatcher.store_event(event)

    world.on(A, again)
    dispatcher = world.dispatcher()
    dispatcher.store_event(A("x"))
    with pytest.raises(EventChainTooLongError, match=r"longer than 1,000: a -> .*981 more"):
        await dispatcher.process()
    assert len(world.log) == 1000


async def test_events_side_by_side_are_no_chain(world: World) -> None:
    order = Order()

    def fan_out(event: A) -> None:
        dispatcher.store_events([B(str(i)) for i in range(200)])
        for i in range(200):
            order.publish_event(B(str(i)))

    world.on(A, fan_out)
    world.on(B)
    dispatcher = world.dispatcher(limit=10)
    dispatcher.from_entity(order)
    dispatcher.store_events([B(str(i)) for i in range(5000)])
    dispatcher.store_event(A("x"))
    await dispatcher.process()
    assert len(world.log) == 5401


async def test_a_circle_that_branches_ends_as_well(world: World) -> None:
    def twice(event: A) -> None:
        dispatcher.store_events([event, event])

    world.on(A, twice)
    dispatcher = world.dispatcher(limit=20)
    dispatcher.store_event(A("x"))
    with pytest.raises(EventChainTooLongError) as caught:
        await dispatcher.process()
    assert str(caught.value).startswith(
        "handlers caused 2,001 domain events without an end: a -> a -> a"
    )
    assert len(world.log) == 2001


def test_a_limit_must_let_one_event_through(world: World) -> None:
    with pytest.raises(ValueError, match="limit must be 1 or more, not 0"):
        world.dispatcher(limit=0)


# --- failures ---------------------------------------------------------------------------------


async def test_the_first_error_ends_all_as_it_is(world: World) -> None:
    error = LookupError("mine")
    order, unseen = Order(), Order()

    def fail(event: A) -> None:
        dispatcher.store_event(B("2"))
        order.publish_event(B("3"))
        raise error

    world.on(A, name="First")
    world.on(A, fail, name="Second")
    world.on(A, name="Third")
    world.on(B)
    dispatcher = world.dispatcher()
    dispatcher.from_entity(order)
    dispatcher.store_events([A("1"), B("4")])
    unseen.publish_event(B("kept"))
    with pytest.raises(LookupError) as caught:
        await dispatcher.process()
    assert caught.value is error
    assert error.__notes__ == ["while Second was handling A ('a')"]
    assert error.__cause__ is None
    assert world.log == ["First:1", "Second:1"]
    assert order.events == []
    assert unseen.events == [B("kept")]

    await dispatcher.process()
    assert world.log == ["First:1", "Second:1"]
    order.publish_event(B("of another unit of work"))
    dispatcher.store_event(B("5"))
    await dispatcher.process()
    assert world.log[2:] == ["H:5"]


async def test_errors_that_take_no_note(world: World) -> None:
    @dataclass(frozen=True)
    class FrozenError(Exception):
        reason: str

    def fail(_: A) -> None:
        raise FrozenError("mine")

    world.on(A, fail)
    dispatcher = world.dispatcher()
    dispatcher.store_event(A("1"))
    with pytest.raises(FrozenError, match="mine"):
        await dispatcher.process()


async def test_cancellation_passes_and_leaves_nothing(world: World) -> None:
    order = Order()
    started = asyncio.Event()

    async def hang(_: A) -> None:
        order.publish_event(B("2"))
        started.set()
        await asyncio.sleep(60)

    world.on(A, hang, name="Hang")
    world.on(B)
    dispatcher = world.dispatcher()
    dispatcher.from_entity(order)
    dispatcher.store_events([A("1"), B("3")])
    task = asyncio.create_task(dispatcher.process())
    await started.wait()
    task.cancel("stop")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert task.cancelled()
    assert caught.value.args == ("stop",)
    assert order.events == []
    await dispatcher.process()
    assert world.log == ["Hang:1"]


async def test_a_handler_that_cannot_be_made(world: World) -> None:
    class NeedsMore(DomainEventHandler[A]):
        def __init__(self, session: object) -> None: ...
        async def handle(self, event: A) -> None: ...

    NeedsMore.__qualname__ = "NeedsMore"
    world.registry.add(A, NeedsMore)
    dispatcher = world.dispatcher()
    dispatcher.store_event(A("1"))
    with pytest.raises(HandlerNotBuiltError) as caught:
        await dispatcher.process()
    assert caught.value.__notes__ == ["while making the handlers of A ('a')"]


@pytest.mark.parametrize("stored", [A, "a", None, 3])
async def test_storing_what_is_no_event(world: World, stored: Any) -> None:
    dispatcher = world.dispatcher()
    dispatcher.store_event(stored)
    with pytest.raises(
        InvalidDomainEventError, match="is not a DomainEvent, so it has no handlers"
    ):
        await dispatcher.process()


# --- async with -------------------------------------------------------------------------------


async def test_async_with_processes_at_the_exit(world: World) -> None:
    world.on(A)
    dispatcher = world.dispatcher()
    order = Order()
    async with dispatcher as entered:
        assert entered is dispatcher
        entered.store_event(A("1"))
        entered.from_entity(order)
        order.publish_event(A("2"))
        assert world.log == []
    assert world.log == ["H:1", "H:2"]
    order.publish_event(A("of another unit of work"))
    async with dispatcher:
        pass
    assert len(world.log) == 2


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError()])
async def test_async_with_drops_everything_if_the_body_raised(
    world: World, error: BaseException
) -> None:
    world.on(A)
    dispatcher = world.dispatcher()
    order = Order()

    async def body() -> None:
        async with dispatcher:
            dispatcher.store_event(A("1"))
            dispatcher.from_entity(order)
            order.publish_event(A("2"))
            raise error

    with pytest.raises(type(error)) as caught:
        await body()
    assert caught.value is error
    assert order.events == []
    await dispatcher.process()
    assert world.log == []


async def test_async_with_raises_what_handlers_raise(world: World) -> None:
    def fail(_: A) -> None:
        raise ValueError("mine")

    world.on(A, fail)
    dispatcher = world.dispatcher()
    with pytest.raises(ValueError, match="mine"):
        async with dispatcher:
            dispatcher.store_event(A("1"))
    async with dispatcher:
        pass


async def test_nested_blocks_are_one_unit_of_work(world: World) -> None:
    world.on(A)
    dispatcher = world.dispatcher()
    order = Order()
    async with dispatcher:
        dispatcher.from_entity(order)
        async with dispatcher:
            dispatcher.store_event(A("1"))
        assert world.log == ["H:1"]
        order.publish_event(A("2"))
    assert world.log == ["H:1", "H:2"]


# --- one at a time ----------------------------------------------------------------------------


async def enter(dispatcher: DomainEventDispatcher) -> None:
    async with dispatcher:
        pytest.fail("refused on entering")


@pytest.mark.parametrize("again", [DomainEventDispatcher.process, enter])
async def test_process_within_a_handler_is_refused(world: World, again: Any) -> None:
    async def nested(_: A) -> None:
        await again(dispatcher)

    world.on(A, nested, name="Nested")
    dispatcher = world.dispatcher()
    dispatcher.store_events([A("1"), A("2")])
    with pytest.raises(DispatcherBusyError, match=r"already processing events.*store the event"):
        await dispatcher.process()
    assert world.log == ["Nested:1"]
    await dispatcher.process()
    assert world.log == ["Nested:1"]


async def test_process_in_another_task_is_refused_and_disturbs_nothing(world: World) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(event: A) -> None:
        started.set()
        await go_on.wait()

    world.on(A, wait)
    dispatcher = world.dispatcher()
    dispatcher.store_events([A("1"), A("2")])
    task = asyncio.create_task(dispatcher.process())
    await started.wait()
    with pytest.raises(DispatcherBusyError):
        await dispatcher.process()
    go_on.set()
    await task
    assert world.log == ["H:1", "H:2"]


async def test_dispatchers_of_different_tasks_keep_apart(world: World) -> None:
    async def pause(_: A) -> None:
        await asyncio.sleep(0)

    world.on(A, pause)

    async def unit(name: str) -> None:
        async with world.dispatcher() as dispatcher:
            dispatcher.store_events([A(name), A(name)])

    await asyncio.gather(*(unit(str(i)) for i in range(20)))
    assert sorted(world.log) == sorted(f"H:{i}" for i in range(20) for _ in range(2))


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (lambda h: [h], "for a list of handlers, write DomainEventHandlerRegistry.of(handlers)"),
        (lambda h: h, "for a list of handlers, write DomainEventHandlerRegistry.of(handlers)"),
        (lambda h: {A: [h]}, "write DomainEventHandlerRegistry(mapping)"),
    ],
)
def test_what_is_given_for_a_registry_and_is_none(world: World, given: Any, cure: str) -> None:
    registry = given(world.on(A))
    with pytest.raises(TypeError) as caught:
        SimpleDomainEventHandlerFactory(registry=registry)
    assert str(caught.value) == (
        f"registry must be a DomainEventHandlerRegistry, not {registry!r}: {cure}"
    )


@pytest.mark.parametrize(
    ("entity", "cure"),
    [
        ([Order()], "pass one instance at a time, and derive its class from AggregateRoot"),
        (Order, "pass one instance at a time, and derive its class from AggregateRoot"),
        (None, "pass one instance at a time, and derive its class from AggregateRoot"),
        (A("1"), "store an event with `store_event`"),
    ],
)
async def test_what_is_given_for_an_entity_and_is_none(
    world: World, entity: Any, cure: str
) -> None:
    dispatcher = world.dispatcher()
    with pytest.raises(TypeError) as caught:
        dispatcher.from_entity(entity)
    assert str(caught.value) == f"from_entity takes an AggregateRoot, not {entity!r}: {cure}"
    await dispatcher.process()  # nothing of it stays behind


async def test_what_does_as_an_entity_and_a_registry_do_is_taken(world: World) -> None:
    class Registry:
        def get(self, event: type[Any]) -> list[type[Any]]:
            return world.registry.get(event)

    class Entity:
        def __init__(self) -> None:
            self.pending: list[DomainEvent] = [A("1")]

        def pop_events(self) -> list[DomainEvent]:
            pending, self.pending = self.pending, []
            return pending

    entity = Entity()
    given: Any = Registry(), entity
    world.on(A, lambda event: entity.pending.append(B("of a handler")))
    world.on(B)
    factory = SimpleDomainEventHandlerFactory(world.makers, given[0])
    dispatcher = DomainEventDispatcher(factory)
    dispatcher.from_entity(given[1])
    await dispatcher.process()
    assert world.log == ["H:1", "H:of a handler"]


async def test_an_aggregate_may_collect_the_events_of_its_children(world: World) -> None:
    @dataclass
    class Line(AggregateRoot):
        number: int

    @dataclass
    class Basket(AggregateRoot):
        lines: list[Line]

        def pop_events(self) -> list[DomainEvent]:
            return [*super().pop_events(), *(e for line in self.lines for e in line.pop_events())]

    basket = Basket([Line(1), Line(2)])
    basket.lines[0].publish_event(A("before"))
    basket.publish_event(A("own"))
    world.on(A, lambda event: basket.lines[1].publish_event(B(f"after {event.name}")))
    world.on(B)
    async with world.dispatcher() as dispatcher:
        dispatcher.from_entity(basket)

    assert world.log == ["H:own", "H:before", "H:after own", "H:after before"]


async def test_a_failed_unit_of_work_leaves_no_events_on_children(world: World) -> None:
    class Basket(AggregateRoot):
        child = Order()

        def pop_events(self) -> list[DomainEvent]:
            return self.child.pop_events()

    basket = Basket()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what fails
        async with world.dispatcher() as dispatcher:
            dispatcher.from_entity(basket)
            basket.child.publish_event(A("1"))
            raise ZeroDivisionError
    assert basket.child.events == []


async def test_an_aggregate_that_cannot_give_its_events_hides_no_error_and_no_other_aggregate(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(AggregateRoot):
        whole = True

        def pop_events(self) -> list[DomainEvent]:
            if self.whole:
                return []
            raise ZeroDivisionError

    broken, order = Broken(), Order()
    dispatcher = world.dispatcher()
    dispatcher.from_entity(broken)
    dispatcher.from_entity(order)

    def fail(_: object) -> None:
        broken.whole = False
        order.publish_event(B("2"))
        raise LookupError

    world.on(A, fail)
    dispatcher.store_event(A("1"))
    with pytest.raises(LookupError):
        await dispatcher.process()
    assert order.events == []
    assert "the events of a " in caplog.text
    await dispatcher.process()  # nothing of it stays behind
    assert world.log == ["H:1"]
