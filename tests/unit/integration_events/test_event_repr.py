"""What an event looks like in a log: its type and version first, then its fields."""

from __future__ import annotations

from dataclasses import dataclass, field

from events.integration import EventRegistry, IntegrationEvent


class Event(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass
class UserRegisteredV1(Event):
    type = "user.registered"
    version = 1
    email: str


def test_it_begins_with_type_and_version() -> None:
    event = UserRegisteredV1(email="bbb@gmail.com")
    shown = "UserRegisteredV1(type='user.registered', version=1, email='bbb@gmail.com')"
    assert repr(event) == str(event) == f"{event}" == shown


@dataclass
class Annotated(Event):
    type: str = "annotated"  # type: ignore[misc] # pyright: ignore[reportIncompatibleVariableOverride]
    version: int = 1  # type: ignore[misc] # pyright: ignore[reportIncompatibleVariableOverride]
    email: str = ""


def test_it_shows_both_once_however_they_are_written() -> None:
    assert repr(Annotated(email="a")) == "Annotated(type='annotated', version=1, email='a')"


@dataclass(frozen=True, slots=True)
class Slotted(Event):
    type = "slotted"
    version = 2
    name: str
    password: str = field(repr=False, default="secret")
    next: Slotted | None = None


@dataclass(order=True, kw_only=True)
class Empty(Event):
    type = "empty"
    version = 1


def test_it_shows_the_fields_that_a_dataclass_would() -> None:
    shown = "Slotted(type='slotted', version=2, name='a', next=None)"
    assert repr(Slotted("a")) == shown
    nested = repr(Slotted("b", next=Slotted("a")))
    assert nested == f"Slotted(type='slotted', version=2, name='b', next={shown})"
    assert repr(Empty()) == "Empty(type='empty', version=1)"


def test_one_that_holds_itself_can_be_shown() -> None:
    event = Slotted("a")
    object.__setattr__(event, "next", event)
    assert repr(event) == "Slotted(type='slotted', version=2, name='a', next=...)"


class Inherited(Event):
    type = "inherited"
    version = 1


class NotADataclass(UserRegisteredV1):
    version = 2


def test_a_class_that_is_no_dataclass_of_its_own_shows_what_it_has() -> None:
    assert repr(Inherited()) == "Inherited(type='inherited', version=1)"
    shown = "NotADataclass(type='user.registered', version=2, email='a')"
    assert repr(NotADataclass("a")) == shown


@dataclass
class Own(Event):
    type = "own"
    version = 1
    secret: str

    def __repr__(self) -> str:
        return "Own(...)"


class OwnOfAnother(Own):
    version = 2


class Masked(Event, abstract=True):
    def __repr__(self) -> str:
        return f"<{self.type}>"


@dataclass(repr=False)
class Silent(Event):
    type = "silent"
    version = 1
    secret: str


@dataclass(repr=False)
class SilentOfAnother(UserRegisteredV1):
    version = 3
    secret: str


@dataclass(repr=False, slots=True)
class MaskedBelow(Masked):
    type = "masked"
    version = 1
    secret: str


@dataclass
class Shown(Masked):
    type = "shown"
    version = 1
    name: str


def test_a_repr_of_ones_own_and_none_at_all_stay_as_they_are() -> None:
    assert repr(Own("s")) == "Own(...)"
    assert repr(MaskedBelow("s")) == "<masked>"
    silent = Silent("s")
    assert repr(silent) == object.__repr__(silent)
    assert repr(OwnOfAnother("s")) == "Own(...)"
    # As with every dataclass: repr=False leaves what is inherited, which knows no more than that.
    shown = "SilentOfAnother(type='user.registered', version=3, email='a')"
    assert repr(SilentOfAnother("a", "s")) == shown
    assert repr(Shown("a")) == "Shown(type='shown', version=1, name='a')"


@dataclass(frozen=True, slots=True)
class Starred(Slotted):
    type = "starred"
    stars: int = 5

    def __repr__(self) -> str:
        return f"* {Slotted.__repr__(self)}"


@dataclass(frozen=True, repr=False, slots=True)
class StarredTwice(Starred):
    version = 3


class Quoted(UserRegisteredV1):
    version = 4

    def __repr__(self) -> str:
        return f"<{super().__repr__()}>"


def test_one_of_its_own_may_call_that_of_its_base() -> None:
    shown = "Quoted(type='user.registered', version=4, email='a')"
    assert repr(Quoted("a")) == f"<{shown}>"
    for event in (Starred("a"), StarredTwice("a")):
        shown = f"* {type(event).__name__}(type='starred', version={event.version}, name='a', next=None)"
        assert repr(event) == shown
