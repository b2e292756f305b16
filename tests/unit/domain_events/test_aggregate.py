from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import attrs
import pydantic
import pytest
from pydantic.dataclasses import dataclass as pydantic_dataclass
from sqlalchemy import ForeignKey, create_engine, inspect, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    mapped_column,
    registry,
    relationship,
)

from events.domain import (
    AggregateRoot,
    DomainEvent,
    DomainEventDispatcher,
    SimpleDomainEventHandlerFactory,
)
from events.errors import InvalidDomainEventError


@dataclass(frozen=True)
class Renamed(DomainEvent):
    type = "renamed"
    name: str


class Plain(AggregateRoot):
    def __init__(self, name: str) -> None:
        self.name = name


class Slotted(AggregateRoot):
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass
class Data(AggregateRoot):
    name: str


@dataclass(frozen=True)
class Frozen(AggregateRoot):
    name: str


@dataclass(slots=True)
class SlottedData(AggregateRoot):
    name: str


@dataclass(slots=True, frozen=True)
class FrozenSlottedData(AggregateRoot):
    name: str


@attrs.define(slots=False)
class Attrs(AggregateRoot):
    name: str


@attrs.define
class SlottedAttrs(AggregateRoot):
    name: str


@attrs.frozen
class FrozenAttrs(AggregateRoot):
    name: str


@pydantic_dataclass
class Pydantic(AggregateRoot):
    name: str


@pydantic_dataclass(slots=True, frozen=True)
class SlottedPydantic(AggregateRoot):
    name: str


class Proxy(AggregateRoot):
    def __init__(self, name: str) -> None:
        self.name = name

    def __setattr__(self, name: str, value: object) -> None:
        assert name == "name", "tracks changes of the entity's own state"
        super().__setattr__(name, value)


CLASSES: list[Any] = [
    Plain, Slotted, Data, Frozen, SlottedData, FrozenSlottedData, Attrs, SlottedAttrs, FrozenAttrs, Proxy,
    Pydantic, SlottedPydantic,
]  # fmt: skip
VALUES = [c for c in CLASSES if c not in {Plain, Slotted, Proxy}]


@pytest.mark.parametrize("cls", CLASSES)
def test_publish_look_and_pop(cls: Any) -> None:
    entity = cls("ada")
    assert entity.events == []
    assert entity.pop_events() == []
    first, second = Renamed("a"), Renamed("b")
    entity.publish_event(first)
    entity.publish_event(second)
    assert entity.events == [first, second]
    assert entity.pop_events() == [first, second]
    assert entity.events == []
    assert entity.pop_events() == []
    entity.publish_event(second)
    assert entity.events == [second]


@pytest.mark.parametrize("cls", CLASSES)
def test_made_without_init(cls: Any) -> None:
    entity = cls.__new__(cls)
    assert entity.events == []
    entity.publish_event(Renamed("a"))
    assert entity.pop_events() == [Renamed("a")]


@pytest.mark.parametrize("cls", VALUES)
def test_no_part_of_equality_repr_and_fields(cls: Any) -> None:
    published, fresh = cls("ada"), cls("ada")
    published.publish_event(Renamed("a"))
    assert published == fresh
    assert repr(published) == repr(fresh)
    if dataclasses.is_dataclass(cls):
        assert [each.name for each in dataclasses.fields(cls)] == ["name"]
        assert dataclasses.asdict(published) == {"name": "ada"}
        assert dataclasses.replace(published, name="eve").events == []


def test_annotations_are_the_entitys_own() -> None:
    assert get_type_hints(Data) == {"name": str}


def test_no_part_of_vars_nor_of_slotted_classes_shape() -> None:
    entity = Plain("ada")
    entity.publish_event(Renamed("a"))
    assert vars(entity) == {"name": "ada"}
    assert not hasattr(SlottedData("ada"), "__dict__")


def test_popped_list_is_the_callers() -> None:
    entity = Data("ada")
    entity.publish_event(Renamed("a"))
    popped = entity.pop_events()
    entity.publish_event(Renamed("b"))
    assert popped == [Renamed("a")]
    popped.clear()
    assert entity.events == [Renamed("b")]


@pytest.mark.parametrize("cls", CLASSES)
def test_instances_and_their_copies_keep_apart(cls: Any) -> None:
    one, two = cls("one"), cls("two")
    one.publish_event(Renamed("a"))
    assert two.events == []
    one.pop_events()
    one.publish_event(Renamed("b"))
    for copied in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert copied.name == "one"
        assert copied.events == []
        copied.publish_event(Renamed("c"))
    assert one.events == [Renamed("b")]


class Tagged:
    __slots__ = ("__dict__",)

    def __getstate__(self) -> object:
        return "tagged"


def test_states_of_other_shapes_pass() -> None:
    class Mixed(AggregateRoot, Tagged): ...

    assert Mixed().__getstate__() == "tagged"
    assert Plain.__new__(Plain).__getstate__() is None


def test_a_pydantic_model_is_refused_by_python_as_the_docstring_says() -> None:
    with pytest.raises(TypeError) as caught:
        type("Both", (AggregateRoot, pydantic.BaseModel), {})
    assert str(caught.value) in (AggregateRoot.__doc__ or "")


def test_an_answer_to_every_name_is_not_taken_for_events() -> None:
    class Lenient(AggregateRoot):
        def __getattr__(self, name: str) -> Any:
            return []

    class Proxy(AggregateRoot):
        def __init__(self, inner: AggregateRoot) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    inner = Lenient()
    inner.publish_event(Renamed("inner"))
    proxy = Proxy(inner)
    proxy.publish_event(Renamed("proxy"))
    assert inner.events == [Renamed("inner")]
    assert proxy.pop_events() == [Renamed("proxy")]
    assert inner.pop_events() == [Renamed("inner")]


def test_names_that_entities_have_themselves() -> None:
    @dataclass
    class Ledger(AggregateRoot):
        _events: list[str] = field(default_factory=list[str])
        events_seen: int = 0

    ledger = Ledger(["mine"], 3)
    ledger.publish_event(Renamed("a"))
    assert (ledger._events, ledger.events_seen) == (["mine"], 3)


class Base(DeclarativeBase):
    pass


class Customer(AggregateRoot, Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    orders: Mapped[list[Order]] = relationship(back_populates="customer")

    def rename(self, name: str) -> None:
        self.name = name
        self.publish_event(Renamed(name))


class Order(Base, AggregateRoot):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class Account(AggregateRoot, DataBase):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    name: Mapped[str]


def test_sqlalchemy_loads_without_init() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Customer(name="ada", orders=[Order()]))
        session.commit()
    with Session(engine) as session:
        customer = session.scalars(select(Customer)).one()
        assert customer.events == []
        customer.rename("eve")
        order = customer.orders[0]
        order.publish_event(Renamed("o"))
        assert "orders" in inspect(customer).attrs
        assert not any("event" in each.key for each in inspect(customer).attrs)
        assert not any("event" in name for name in vars(customer))
        session.flush()
        session.expire(customer)
        assert customer.name == "eve"
        assert customer.pop_events() == [Renamed("eve")]
        assert order.pop_events() == [Renamed("o")]
    assert {c.name for c in Customer.__table__.columns} == {"id", "name"}
    engine.dispose()


def test_sqlalchemy_mapped_as_dataclass() -> None:
    engine = create_engine("sqlite://")
    DataBase.metadata.create_all(engine)
    with Session(engine) as session:
        account = Account(name="ada")
        account.publish_event(Renamed("a"))
        assert repr(account) == "Account(id=None, name='ada')"
        session.add(account)
        session.commit()
    with Session(engine) as session:
        loaded = session.scalars(select(Account)).one()
        loaded.publish_event(Renamed("b"))
        assert loaded.pop_events() == [Renamed("b")]
        assert [each.name for each in dataclasses.fields(Account)] == ["id", "name"]
    engine.dispose()


def test_sqlalchemy_imperative_mapping_of_a_dataclass() -> None:
    from sqlalchemy import Column, Integer, String, Table

    @dataclass
    class Item(AggregateRoot):
        name: str
        id: int | None = None

    mapper = registry()
    mapper.map_imperatively(
        Item,
        Table(
            "items",
            mapper.metadata,
            Column("id", Integer, primary_key=True),
            Column("name", String),
        ),
    )
    engine = create_engine("sqlite://")
    mapper.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Item("pen"))
        session.commit()
        session.expunge_all()
        item = session.scalars(select(Item)).one()
        item.publish_event(Renamed("pencil"))
        assert item == Item("pen", 1)
        assert item.pop_events() == [Renamed("pencil")]
    mapper.dispose()
    engine.dispose()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Renamed, r"Renamed: is a class, not an event: publish `Renamed\(...\)`"),
        ("renamed", "str: is not a DomainEvent: publish an instance of one of its subclasses"),
        ([Renamed("b")], "list: is not a DomainEvent"),
    ],
)
def test_what_is_no_event_is_refused_where_it_is_published(given: Any, text: str) -> None:
    entity = Plain("a")
    with pytest.raises(InvalidDomainEventError, match=text):
        entity.publish_event(given)
    assert entity.events == []


# --- `events` of a subclass's own ----------------------------------------------------------------


@dataclass
class Calendar(AggregateRoot):
    name: str
    events: list[str]


@dataclass(slots=True)
class SlottedCalendar(AggregateRoot):
    events: list[str]


@attrs.frozen
class FrozenCalendar(AggregateRoot):
    events: list[str]


@pydantic.dataclasses.dataclass
class CheckedCalendar(AggregateRoot):
    events: list[str]


class PropertyCalendar(AggregateRoot):
    @property
    def events(self) -> list[str]:
        return ["meeting"]


class PlainCalendar(AggregateRoot):
    def __init__(self) -> None:
        self.events = ["meeting"]


@pytest.mark.parametrize(
    "calendar",
    [
        Calendar("work", ["meeting"]),
        Calendar(name="work", events=["meeting"]),
        SlottedCalendar(["meeting"]),
        FrozenCalendar(["meeting"]),
        CheckedCalendar(["meeting"]),
        PropertyCalendar(),
        PlainCalendar(),
    ],
    ids=lambda calendar: type(calendar).__name__,
)
def test_a_subclass_may_have_events_of_its_own(calendar: Any) -> None:
    calendar.publish_event(Renamed("a"))

    assert calendar.events == ["meeting"]
    assert calendar.pop_events() == [Renamed("a")]
    assert calendar.events == ["meeting"]


def test_a_required_field_of_that_name_is_still_required() -> None:
    make: Any = Calendar
    with pytest.raises(TypeError, match="events"):
        make("work")


def test_events_are_a_list_of_the_callers() -> None:
    plain = PlainRoot()
    assert plain.events == []
    plain.publish_event(Renamed("a"))
    plain.events.clear()
    assert plain.events == [Renamed("a")]
    plain.pop_events()


def test_the_class_has_no_events() -> None:
    with pytest.raises(AttributeError, match="type object 'PlainRoot' has no attribute 'events'"):
        _ = PlainRoot.events


class PlainRoot(AggregateRoot):
    pass


# --- what nobody took -----------------------------------------------------------------------------


def test_an_aggregate_that_is_gone_with_its_events_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gc.collect()  # what other tests left behind
    caplog.clear()
    root = PlainRoot()
    for name in ("a", "b"):
        root.publish_event(Renamed(name))
    del root
    gc.collect()

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages == [
        "PlainRoot was collected with 2 domain events that no dispatcher took (renamed): call "
        "`dispatcher.from_entity(...)` with it before any code that may fail, and before you "
        "commit. If the unit of work failed, ignore this warning"
    ]


@dataclass
class Detached(DomainEvent):
    @property
    def type(self) -> str:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        raise LookupError("the session is closed")


async def test_an_event_whose_type_fails_is_named_by_its_class(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gc.collect()
    caplog.clear()
    root = PlainRoot()
    root.publish_event(Detached())
    del root
    dispatcher = DomainEventDispatcher(SimpleDomainEventHandlerFactory())
    dispatcher.store_event(Detached())
    del dispatcher
    gc.collect()

    of_root, of_dispatcher = caplog.messages
    assert "with 1 domain events that no dispatcher took (Detached): call" in of_root
    assert of_dispatcher.startswith("1 domain events were never processed (Detached): use")


def test_an_aggregate_whose_events_were_taken_is_none(caplog: pytest.LogCaptureFixture) -> None:
    gc.collect()
    caplog.clear()
    root = PlainRoot()
    root.publish_event(Renamed("a"))
    taken = root.pop_events()
    PlainRoot().pop_events()
    del root, taken
    gc.collect()

    assert caplog.messages == []


async def test_an_aggregate_that_was_handed_over_before_the_failure_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gc.collect()
    caplog.clear()

    async def work() -> None:
        async with DomainEventDispatcher(SimpleDomainEventHandlerFactory()) as dispatcher:
            root = PlainRoot()
            root.publish_event(Renamed("a"))
            dispatcher.from_entity(root)
            root.publish_event(Renamed("b"))
            raise LookupError

    with pytest.raises(LookupError):
        await work()
    gc.collect()

    assert caplog.messages == []
