from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import dataclass
from textwrap import dedent
from types import ModuleType
from typing import Any, Generic, TypeVar, Union

import attrs
import pytest

from events.domain import DomainEvent, DomainEventHandler, DomainEventHandlerRegistry
from events.errors import HandlerDefinitionError


class OrderEvent(DomainEvent):
    pass


class Paid(OrderEvent):
    type = "order.paid"


class Cancelled(OrderEvent):
    type = "order.cancelled"


class Ping(DomainEvent):
    type = "ping"


E = TypeVar("E", bound=DomainEvent)
F = TypeVar("F", bound=DomainEvent)
Registry = DomainEventHandlerRegistry


def test_registers_when_defined(registry: Registry) -> None:
    class Ship(DomainEventHandler[Paid]):
        async def handle(self, event: Paid) -> None: ...

    assert registry.get(Paid) == [Ship]
    assert registry.get(Cancelled) == []
    assert isinstance(Ship(), Ship)


def test_unions(registry: Registry) -> None:
    class New(DomainEventHandler[Paid | Cancelled]):
        async def handle(self, event: Paid | Cancelled) -> None: ...

    class Old(DomainEventHandler[Union[Paid, Cancelled]]):  # noqa: UP007
        async def handle(self, event: Paid | Cancelled) -> None: ...

    class Overlapping(DomainEventHandler[Paid | OrderEvent | DomainEvent]):
        async def handle(self, event: DomainEvent) -> None: ...

    assert registry.get(Paid) == [New, Old, Overlapping]
    assert registry.get(Cancelled) == [New, Old, Overlapping]
    assert registry.get(Ping) == [Overlapping]


def test_base_classes_receive_their_subclasses_in_order_of_registration(registry: Registry) -> None:
    class Everything(DomainEventHandler[DomainEvent]):
        async def handle(self, event: DomainEvent) -> None: ...

    class Ship(DomainEventHandler[Paid]):
        async def handle(self, event: Paid) -> None: ...

    class Orders(DomainEventHandler[OrderEvent]):
        async def handle(self, event: OrderEvent) -> None: ...

    assert registry.get(Paid) == [Everything, Ship, Orders]
    assert registry.get(Cancelled) == [Everything, Orders]
    assert registry.get(Ping) == [Everything]


def test_generic_intermediate_bases(registry: Registry) -> None:
    class Audited(DomainEventHandler[E], Generic[E]):
        async def handle(self, event: E) -> None: ...

    class Named(Audited[F], Generic[F]): ...

    class Both(DomainEventHandler[E | Paid], Generic[E]):
        async def handle(self, event: E | Paid) -> None: ...

    assert registry.get(Paid) == []

    class One(Named[Paid]): ...

    class Two(Named[Paid | Cancelled]): ...

    class Three(Both[Cancelled]): ...

    assert registry.get(Paid) == [One, Two, Three]
    assert registry.get(Cancelled) == [Two, Three]


def test_generic_bases_with_more_parameters(registry: Registry) -> None:
    T = TypeVar("T")

    class Projected(DomainEventHandler[E], Generic[T, E]):
        async def handle(self, event: E) -> None: ...

    class Swapped(Projected[F, E], Generic[E, F]): ...

    class First(Projected[int, Paid]): ...

    class Second(Swapped[Cancelled, str]): ...  # type: ignore[type-var]

    assert registry.get(Paid) == [First]
    assert registry.get(Cancelled) == [Second]


def test_abstract_handlers_do_not_register(registry: Registry) -> None:
    class Template(DomainEventHandler[Paid], ABC):
        async def handle(self, event: Paid) -> None:
            self.act()

        @abstractmethod
        def act(self) -> None: ...

    class Unhandled(DomainEventHandler[Paid]): ...

    assert issubclass(Unhandled, DomainEventHandler)

    class StillAbstract(Template):
        @property
        @abstractmethod
        def name(self) -> str: ...

        def act(self) -> None: ...

    assert registry.get(Paid) == []

    class Concrete(StillAbstract):
        @property
        def name(self) -> str:
            return "mine"

    assert registry.get(Paid) == [Concrete]


def test_slotted_abstract_handlers_do_not_register(registry: Registry) -> None:
    @dataclass(slots=True)
    class Base(DomainEventHandler[Paid]):
        fast: bool = False

    assert registry.get(Paid) == []

    @dataclass(slots=True)
    class Ship(Base):
        async def handle(self, event: Paid) -> None: ...

    assert registry.get(Paid) == [Ship]


def test_a_subclass_of_a_handler_is_one_more(registry: Registry) -> None:
    class Ship(DomainEventHandler[Paid]):
        async def handle(self, event: Paid) -> None: ...

    class ShipFast(Ship): ...

    class Wider(Ship, DomainEventHandler[Paid | Cancelled]):
        async def handle(self, event: Paid | Cancelled) -> None: ...

    assert registry.get(Paid) == [Ship, ShipFast, Wider]
    assert list[Any](registry.get(Cancelled)) == [Wider]


def test_slotted_dataclass_replaces_itself_in_its_place(registry: Registry) -> None:
    @dataclass(slots=True)
    class Ship(DomainEventHandler[Paid]):
        fast: bool = False

        async def handle(self, event: Paid) -> None: ...

    class Bill(DomainEventHandler[Paid]):
        async def handle(self, event: Paid) -> None: ...

    @attrs.define
    class Pack(DomainEventHandler[Paid | Cancelled]):
        fast: bool = False

        async def handle(self, event: Paid | Cancelled) -> None: ...

    @dataclass(slots=True)
    class ShipToo(Ship):
        far: bool = False

    assert registry.get(Paid) == [Ship, Bill, Pack, ShipToo]
    assert registry.get(Cancelled) == [Pack]
    assert not hasattr(Ship(), "__dict__")


def test_a_function_that_defines_handlers(registry: Registry) -> None:
    made = [define(Paid), define(Cancelled), define(Paid)]
    assert registry.get(Paid) == [made[0], made[2]]
    assert registry.get(Cancelled) == [made[1]]


def test_a_reload_replaces(registry: Registry) -> None:
    module = ModuleType("reloaded")
    source = dedent("""
        from events.domain import DomainEvent, DomainEventHandler
        class Paid(DomainEvent): type = "paid"
        class Ship(DomainEventHandler[Paid]):
            async def handle(self, event): ...
        class All(DomainEventHandler[DomainEvent]):
            async def handle(self, event): ...
    """)
    exec(source, vars(module))
    exec(source, vars(module))
    loaded: Any = module
    assert registry.get(loaded.Paid) == [loaded.Ship, loaded.All]
    exec("class All(DomainEventHandler[Paid]):\n  async def handle(self, event): ...", vars(module))
    assert len(registry.get(loaded.Paid)) == 3  # another event: another handler of the same name


def test_forward_references() -> None:
    module = ModuleType("forward")
    sys.modules["forward"] = module
    prelude = "from events.domain import *\nfrom typing import Union\nclass Paid(DomainEvent): type = 'paid'\n"
    exec(
        prelude
        + "class One(DomainEventHandler['Paid']):\n  async def handle(self, event): ...\n"
        + "class Two(DomainEventHandler[Union['Paid', DomainEvent]]):\n  async def handle(self, event): ...\n",
        vars(module),
    )
    loaded: Any = module
    assert DomainEventHandler.registry.get(loaded.Paid) == [loaded.One, loaded.Two]
    exec(
        "class Base(DomainEventHandler['Paid']): ...\n"
        "E = __import__('typing').TypeVar('E')\n"
        "class Audited(DomainEventHandler[E]):\n  async def handle(self, event): ...\n"
        "class Three(Audited['Paid']): ...\n",
        vars(module),
    )

    class Four(loaded.Base):  # type: ignore[misc]
        async def handle(self, event: Any) -> None: ...

    assert DomainEventHandler.registry.get(loaded.Paid)[2:] == [loaded.Three, Four]
    with pytest.raises(HandlerDefinitionError) as caught:
        exec(
            "class Early(DomainEventHandler['Later']):\n  async def handle(self, event): ...",
            vars(module),
        )
    assert str(caught.value) == (
        "Early: its event is a string whose name is not defined here (name 'Later' is not defined): "
        "define or import the event above the handler, at module level and outside of "
        "`if TYPE_CHECKING`"
    )
    del sys.modules["forward"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements came with 3.12")
def test_type_statements(registry: Registry) -> None:
    module: Any = ModuleType("statements")
    sys.modules["statements"] = module
    source = dedent("""
        from events.domain import DomainEvent, DomainEventHandler
        class Paid(DomainEvent): type = "paid"
        class Sent(DomainEvent): type = "sent"
        type Both = Paid | Sent
        type Any = Both | DomainEvent
        class One(DomainEventHandler[Both]):
            async def handle(self, event: Both) -> None: ...
        class Base[E: DomainEvent](DomainEventHandler[E]):
            async def handle(self, event: E) -> None: ...
        class Two(Base[Sent]): ...
        class Three(DomainEventHandler[Any]):
            async def handle(self, event: Any) -> None: ...
    """)
    exec(source, vars(module))
    assert registry.get(module.Paid) == [module.One, module.Three]
    assert registry.get(module.Sent) == [module.One, module.Two, module.Three]
    del sys.modules["statements"]


def define(event_class: Any) -> Any:
    class Defined(DomainEventHandler[event_class]):
        async def handle(self, event: Any) -> None: ...

    return Defined


T = TypeVar("T")


class Created(DomainEvent, Generic[T]):
    type = "created"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (int, "int"),
        (None, "NoneType"),
        (Any, "Any"),
        (Paid | int, "int"),
        (Paid | None, "NoneType"),
        (list[Paid], "list["),
    ],
)
def test_a_handler_of_what_is_no_event(registry: Registry, given: Any, named: str) -> None:
    with pytest.raises(HandlerDefinitionError) as caught:
        define(given)
    text = str(caught.value)
    assert text.startswith(f"define.<locals>.Defined: handles {named}")
    assert "which is not a DomainEvent: derive it from DomainEvent" in text
    assert registry.get(Paid) == []


def test_a_handler_of_one_parametrisation(registry: Registry) -> None:
    with pytest.raises(HandlerDefinitionError, match=r"an event has no type arguments at runtime"):
        define(Created[int])

    good = define(Created)

    class CreatedInt(Created[int]): ...

    assert registry.get(CreatedInt) == [good]


def test_a_handler_that_does_not_say_of_what() -> None:
    class Audited(DomainEventHandler[E], Generic[E]):
        async def handle(self, event: E) -> None: ...

    class Abstract(DomainEventHandler): ...  # type: ignore[type-arg]

    for base in (DomainEventHandler, Audited, Abstract):
        with pytest.raises(
            HandlerDefinitionError, match=r"Bad: does not name the events that it hand"
        ):
            type("Bad", (base,), {"handle": lambda self, event: None})


def test_a_registry_of_its_own_for_a_family_of_handlers(registry: Registry) -> None:
    class Family(DomainEventHandler[E], Generic[E]):
        registry = Registry()

    class Member(Family[Paid]):
        async def handle(self, event: Paid) -> None: ...

    assert Family.registry.get(Paid) == [Member]
    assert registry.get(Paid) == []


def test_a_registry_of_handlers_holds_these_for_the_events_that_they_name() -> None:
    class Opened(DomainEvent):
        type = "of.opened"

    class Closed(DomainEvent):
        type = "of.closed"

    class Both(DomainEventHandler[Opened | Closed]):
        async def handle(self, event: Opened | Closed) -> None: ...

    class Other(DomainEventHandler[Opened]):
        async def handle(self, event: Opened) -> None: ...

    registry = DomainEventHandlerRegistry.of([Both])
    assert list(registry.get(Opened)) == [Both]
    assert list(registry.get(Closed)) == [Both]
    assert DomainEventHandler.registry.get(Opened) == [Both, Other]


def test_a_registry_of_what_is_no_concrete_handler_says_so() -> None:
    E = TypeVar("E", bound=DomainEvent)

    class Open(DomainEventHandler[E]):
        async def handle(self, event: E) -> None: ...

    with pytest.raises(HandlerDefinitionError, match="has a type variable as its event: pass"):
        DomainEventHandlerRegistry.of([Open])
    with pytest.raises(HandlerDefinitionError, match="is not a subclass of DomainEventHandler"):
        DomainEventHandlerRegistry.of([int])  # type: ignore[list-item]


def load(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {
        "__name__": __name__,
        "Awaitable": Awaitable,
        "DomainEventHandler": DomainEventHandler,
        "Paid": Paid,
    }
    exec(dedent(source), names)
    return names


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        ("def handle(self, event: Paid) -> None: ...", "its `handle` is not async: write it as"),
        ("def handle(self, event): ...", "its `handle` is not async"),
        ("async def handle(self): ...", "must take the event as its only argument: too many"),
        (
            "async def handle(self, event, session): ...",
            "only argument: missing a required arg.*'session'",
        ),
    ],
)
def test_a_handle_that_could_never_work(registry: Registry, handle: str, reason: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=f"^Bad: .*{reason}"):
        load(f"""
            class Bad(DomainEventHandler[Paid]):
                {handle}
        """)
    assert registry.get(Paid) == []


@pytest.mark.parametrize(
    "handle",
    [
        "async def handle(self, event: Paid, retries: int = 3) -> None: ...",
        "async def handle(self, event: 'Unknown') -> None: ...",
        "def handle(self, event: Paid) -> Awaitable[None]: ...",
        "handle = lambda self, event: None",
        "handle = AsyncMock()",
        "handle = injected",
    ],
)
def test_a_handle_that_may_work_is_not_refused_for_its_looks(
    registry: Registry, handle: str
) -> None:
    names = load(f"""
        from __future__ import annotations

        import functools
        from unittest.mock import AsyncMock

        def inject(function):
            @functools.wraps(function)
            def with_session(self, event):
                return function(self, event, None)
            return with_session

        @inject
        async def injected(self, event, session): ...

        class Good(DomainEventHandler[Paid]):
            {handle}
    """)
    assert registry.get(Paid) == [names["Good"]]


def test_a_misspelt_handle_is_found_and_an_abstract_base_is_not_taken_for_one() -> None:
    with pytest.raises(HandlerDefinitionError, match="has no `handle`, but an async `handel`"):

        class Misspelt(DomainEventHandler[Paid]):  # pyright: ignore[reportUnusedClass]
            async def handel(self, event: Paid) -> None: ...

    class Base(DomainEventHandler[Paid]):
        async def handle_payment(self, event: Paid) -> None: ...

        async def _handle(self) -> None: ...

    assert Base not in DomainEventHandler.registry.get(Paid)
