"""`IntegrationEvent`: a versioned message to other services, its key and its registry.

An event class is a standard dataclass with a `type` and a `version`:

    @dataclass(frozen=True)
    class UserRegisteredV1(IntegrationEvent):
        type = "user.registered"
        version = 1
        email: str

Both may be annotated (`type: str = "user.registered"`) and stand before fields without a default:
the annotation is taken out before `@dataclass` looks, so neither ever becomes a field.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields
from os.path import realpath
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from events._annotations import drop_annotations
from events.errors import EventDefinitionError
from events.integration import personal
from events.integration._class_checks import check_definition
from events.integration._versioned import Versioned
from events.integration.codec import EventCodec, codec_of
from events.integration.upcasting import event_from_payload

__all__ = ["EventKey", "EventRegistry", "IntegrationEvent"]


class EventKey(NamedTuple):
    """What names an event class on the wire."""

    type: str
    version: int


class IntegrationEvent(Versioned):
    """A message to other services. Subclass it as a dataclass with a `type` and a `version`.

    A subclass without them is an error unless it says so: `class Base(IntegrationEvent,
    abstract=True)`. Fields may be of every type that msgspec can read and write as JSON.

    To receive older versions, give the class of version n+1 an upcaster from version n:

        @classmethod
        def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
            return {**payload, "name": payload["first_name"]}

    It gets version n's fields, with `type` and `version` as received, and returns version n+1's.
    Version n needs no class any more.
    """

    __slots__ = ()

    type: ClassVar[str]
    version: ClassVar[int]
    registry: ClassVar[EventRegistry]
    __event_codec__: ClassVar[EventCodec[Any] | None] = None
    __event_abstract__: ClassVar[bool] = True
    __event_name__: ClassVar[str]

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        drop_annotations(cls, "type", "version")
        # Dataclasses with slots make the class a second time of what is in it: without keywords,
        # and without its qualified name at first.
        if "__event_name__" not in cls.__dict__:
            cls.__event_name__ = f"{cls.__module__}.{cls.__qualname__}"
        if not isinstance(cls.registry, EventRegistry):
            raise EventDefinitionError(
                cls, "`registry` is where its classes are found: rename a field of that name"
            )
        if "__repr__" not in cls.__dict__:  # `@dataclass` keeps the one that it finds
            type.__setattr__(cls, "__repr__", _repr)
        cls.__event_abstract__ = abstract or cls.__dict__.get("__event_abstract__", False)
        if cls.__event_abstract__:
            return
        check_definition(cls)
        cls.registry.add(cls)

    if not TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # A dataclass has its own; only a class that is none comes here.
            if args or kwargs:
                raise EventDefinitionError(type(self), "it is no dataclass: add `@dataclass` to it")

    def to_dict(self) -> dict[str, Any]:
        """Give `{"type", "version", **fields}` with JSON-ready values, sharing none with the event.

        Raises:
            EventEncodeError: a field holds what JSON cannot carry.
        """
        return codec_of(self.__class__).to_dict(self)

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Make the event that a payload of `to_dict`, or of `json.loads`, describes.

        Called on `IntegrationEvent` or on an abstract class it finds the class by `type` and
        `version`; called on a concrete class it upcasts older versions to that one. Fields that
        the class does not know are ignored: a newer producer may have added them.

        Raises:
            MalformedEventError: no `type` or no `version`.
            UnknownEventError: no class for them here, and no upcaster leads to one.
            InvalidEventError: a field that is missing or does not fit.
        """
        return event_from_payload(cls, payload)


class EventRegistry(Mapping[EventKey, type[IntegrationEvent]]):
    """The event classes that exist, by key. `IntegrationEvent.registry` is the global one.

    An abstract base with a `registry` of its own in its body keeps its subclasses apart.
    """

    def __init__(self) -> None:
        self._classes: dict[str, dict[int, type[IntegrationEvent]]] = {}

    def add(self, event_class: type[IntegrationEvent], key: EventKey | None = None) -> None:
        """Add a class, as defining it does. One made again takes its former self's place.

        Raises:
            EventDefinitionError: another class has the key.
        """
        key = key or EventKey(event_class.type, event_class.version)
        versions = self._classes.setdefault(key.type, {})
        other = versions.get(key.version)
        if other is not None and other.__event_name__ != event_class.__event_name__:
            if _is_of_the_same_file(other, event_class):
                raise EventDefinitionError(
                    event_class,
                    f"its module is loaded twice under two names, {other.__module__!r} and "
                    f"{event_class.__module__!r}, as when `python main.py` starts a server that "
                    f"imports `main`: move the events to a module that is not run as a program",
                )
            raise EventDefinitionError(
                event_class,
                f"{other.__event_name__} has type {key.type!r} and version {key.version} already: "
                f"give one of the two another type or version. Classes that are never used "
                f"together, as in tests, can be kept apart by an abstract base with "
                f"`registry = EventRegistry()` in its body",
            )
        versions[key.version] = event_class

    def remove(self, event_class: type[IntegrationEvent]) -> None:
        """Forget a class; one that is not here is no error."""
        versions = self._classes.get(event_class.type, {})
        if versions.get(event_class.version) is event_class:
            del versions[event_class.version]
            if not versions:
                del self._classes[event_class.type]

    def versions(self, type: str) -> Mapping[int, type[IntegrationEvent]]:
        """Give the classes of a type by version, in no order."""
        return self._classes.get(type, {})

    def __getitem__(self, key: EventKey) -> type[IntegrationEvent]:
        try:
            return self._classes[key[0]][key[1]]
        except (KeyError, IndexError, TypeError):
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[EventKey]:
        for type_, versions in self._classes.items():
            for version in versions:
                yield EventKey(type_, version)

    def __len__(self) -> int:
        return sum(map(len, self._classes.values()))

    def __repr__(self) -> str:
        return f"<EventRegistry of {len(self)} classes>"


IntegrationEvent.registry = EventRegistry()


@recursive_repr()
def _repr(event: IntegrationEvent) -> str:
    """Show an event as its dataclass would, after its type and version."""
    shown: tuple[Field[Any], ...] = ()
    silent = False
    for base in event.__class__.__mro__:
        own: Callable[[object], str] = base.__dict__.get("__repr__", _repr)
        if own is not _repr:
            return own(event)
        options = base.__dict__.get("__dataclass_params__")
        if options is not None and options.repr:
            shown = fields(base)
            break
        silent = silent or options is not None
        if base is IntegrationEvent and not silent:
            break
    values = {"type": repr(event.type), "version": repr(event.version)}
    values |= {
        field.name: personal.shown(event.__class__, field.name, getattr(event, field.name))
        for field in shown
        if field.repr
    }
    given = ", ".join(f"{name}={value}" for name, value in values.items())
    return f"{event.__class__.__qualname__}({given})"


def _is_of_the_same_file(one: type, other: type) -> bool:
    files = [getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in (one, other)]
    if None in files or one.__qualname__ != other.__qualname__:
        return False
    return realpath(str(files[0])) == realpath(str(files[1]))
