"""Each case runs as source text, with lazy, eager and stringified annotations."""

from __future__ import annotations

import copy
import pickle
import sys
import typing
from dataclasses import dataclass
from textwrap import dedent
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from events.domain import DomainEvent
from events.errors import EventTypeMissingError, InvalidDomainEventError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PRELUDE = """
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Generic, TypeVar
from events.domain import DomainEvent

class Order: ...
"""


@pytest.fixture(params=["", "from __future__ import annotations"], ids=["plain", "future"])
def define(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    module = ModuleType("defined_by_test")
    sys.modules[module.__name__] = module

    def run(source: str) -> Any:
        text = f"{request.param}\n{PRELUDE}\n{dedent(source)}"
        # Without the future import of this very file.
        exec(compile(text, "<test>", "exec", dont_inherit=True), vars(module))
        return module

    yield run
    del sys.modules[module.__name__]


OPTIONS = [
    "",
    "frozen=True",
    "slots=True",
    "frozen=True, slots=True",
    "slots=True, weakref_slot=True",
]
FORMS = [
    'type: str = "order.completed"',
    'type = "order.completed"',
    'type: ClassVar[str] = "order.completed"',
    'type: str = field(default="order.completed", init=False)',
    'type: str = field(default="order.completed")',
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_with_every_option(define: Any, form: str, options: str) -> None:
    module = define(f"""
        @dataclass({options})
        class OrderCompleted(DomainEvent):
            {form}
            order: Order
            note: str = ""
    """)
    cls, order = module.OrderCompleted, module.Order()
    event = cls(order, "quick")
    assert (event.order, event.note) == (order, "quick")
    assert cls.type == event.type == "order.completed"
    assert [each.name for each in module.fields(cls)] == ["order", "note"]
    assert event == cls(order, note="quick") != cls(order)
    assert "type" not in repr(event)
    assert cls.__match_args__ == ("order", "note")
    assert copy.copy(event) == event
    assert pickle.loads(pickle.dumps(cls(None, "x"))) == cls(None, "x")
    assert module.replace(event, note="slow") == cls(order, "slow")
    assert hasattr(event, "__dict__") is ("slots" not in options)
    assert typing.get_type_hints(cls)["order"] is module.Order


@pytest.mark.parametrize("form", FORMS)
def test_keyword_only_fields(define: Any, form: str) -> None:
    module = define(f"""
        @dataclass(kw_only=True)
        class OrderCompleted(DomainEvent):
            {form}
            order: Order
    """)
    order = module.Order()
    assert module.OrderCompleted(order=order).order is order
    with pytest.raises(TypeError):
        module.OrderCompleted(order)
    with pytest.raises(TypeError):
        module.OrderCompleted(order=order, type="another")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS)
def test_intermediate_dataclasses(define: Any, form: str, options: str) -> None:
    module = define(f"""
        @dataclass({options})
        class OrderEvent(DomainEvent):
            order: Order

        @dataclass({options})
        class OrderCompleted(OrderEvent):
            {form}
            note: str

        @dataclass({options})
        class OrderCompletedLate(OrderCompleted):
            days: int

        class OrderClosed(OrderEvent):
            type = "order.closed"
    """)
    order = module.Order()
    completed = module.OrderCompleted(order, "quick")
    assert (completed.order, completed.note, completed.type) == (order, "quick", "order.completed")
    late = module.OrderCompletedLate(order, "slow", 3)
    assert (late.days, late.type) == (3, "order.completed")
    assert module.OrderClosed(order).order is order
    assert module.OrderClosed.type == "order.closed"
    with pytest.raises(EventTypeMissingError, match=r"^OrderEvent has no type.* abstract"):
        module.OrderEvent(order)


def test_a_class_without_type_is_abstract(define: Any) -> None:
    module = define("""
        class Plain(DomainEvent): ...

        class WithInit(DomainEvent):
            def __init__(self, order: Order) -> None: ...

        @dataclass
        class Annotated(DomainEvent):
            type: str
    """)
    for cls, args in [(DomainEvent, ()), (module.Plain, ()), (module.WithInit, (1,))]:
        with pytest.raises(EventTypeMissingError) as caught:
            cls(*args)
        assert caught.value.event_class is cls
        assert str(caught.value) == (
            f"{cls.__qualname__} has no type, so it is abstract and cannot be instantiated: "
            'set a type in the class body, as in `type = "order.completed"`'
        )
    with pytest.raises(EventTypeMissingError):
        module.Annotated()


def test_events_without_a_dataclass(define: Any) -> None:
    module = define("""
        class Ping(DomainEvent):
            type = "ping"

        class Sent(Ping):
            def __init__(self, order: Order) -> None:
                super().__init__()
                self.order = order
    """)
    assert module.Ping().type == "ping"
    assert (module.Sent(1).order, module.Sent.type) == (1, "ping")
    with pytest.raises(TypeError):
        module.Ping("too much")


def test_mixins_are_initialised(define: Any) -> None:
    module = define("""
        class Mixin:
            def __init__(self, order: Order) -> None:
                self.order = order

        class Mixed(DomainEvent, Mixin):
            type = "mixed"
    """)
    assert module.Mixed(7).order == 7


@pytest.mark.parametrize("given", ["3", '""', "None", "[]", "field()"])
@pytest.mark.parametrize("form", ["type = {}", "type: str = {}"])
def test_a_type_that_is_no_string(define: Any, given: str, form: str) -> None:
    with pytest.raises(InvalidDomainEventError, match=r"^Bad: its type is .*non-empty string"):
        define(f"class Bad(DomainEvent): {form.format(given)}")


def test_forward_references(define: Any) -> None:
    source = """
        @dataclass(slots=True)
        class OrderCompleted(DomainEvent):
            type: str = "order.completed"
            customer: "Customer"
    """
    if sys.version_info >= (3, 14):
        source = source.replace('"Customer"', "Customer")
    module = define(source)
    assert module.OrderCompleted(1).customer == 1
    define("class Customer: ...")
    assert typing.get_type_hints(module.OrderCompleted) == {
        "type": typing.ClassVar[str],
        "customer": module.Customer,
    }


def test_generic_events(define: Any) -> None:
    module = define("""
        T = TypeVar("T")

        @dataclass(frozen=True)
        class Created(DomainEvent, Generic[T]):
            type: str = "created"
            what: T

        class OrderCreated(Created[Order]): ...
    """)
    assert module.OrderCreated(1).what == 1
    assert module.Created[int](2).what == 2


@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("form", FORMS[:3])
def test_attrs_events(define: Any, form: str, slots: bool) -> None:
    completed = define(f"""
        import attrs
        @attrs.frozen(slots={slots})
        class OrderCompleted(DomainEvent):
            {form}
            order: int
    """).OrderCompleted
    assert completed(3) == completed(order=3)
    assert (completed.type, completed(3).type) == ("order.completed", "order.completed")
    assert [each.name for each in attrs.fields(completed)] == ["order"]


def test_instances_pay_nothing_for_the_checks() -> None:
    @dataclass(slots=True)
    class Ping(DomainEvent):
        type = "ping"
        a: int

    assert Ping.__new__ is object.__new__
    assert "__init__" in vars(Ping)
    assert vars(Ping)["__slots__"] == ("a",)
    assert not hasattr(Ping(1), "__dict__")


def test_arguments_for_a_class_without_dataclass() -> None:
    class Forgotten(DomainEvent):
        type = "forgotten"
        order: int

    given: Any = Forgotten
    with pytest.raises(InvalidDomainEventError, match="Forgotten: takes no arg.*add `@dataclass`"):
        given(7)
    assert Forgotten().type == "forgotten"


def test_a_type_may_be_a_property() -> None:
    class Ordered(DomainEvent):
        @property
        def type(self) -> str:  # type: ignore[override]
            return "ordered"

    class Cancelled(Ordered):
        pass

    assert (Ordered().type, Cancelled().type) == ("ordered", "ordered")


def test_a_dataclass_may_have_a_type_that_is_a_property() -> None:
    @dataclass(frozen=True)
    class Ordered(DomainEvent):
        number: int

        @property
        def type(self) -> str:  # type: ignore[override]
            return f"ordered.{self.number}"

    assert Ordered(7).type == "ordered.7"
    assert Ordered(7) == Ordered(7)
