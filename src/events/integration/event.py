"""`IntegrationEvent`, a versioned message to other services, with its key and its registry.

An event class is a standard dataclass with a `type` and a `version`:

    @dataclass(frozen=True)
    class UserRegisteredV1(IntegrationEvent):
        type = "user.registered"
        version = 1
        email: str

Both may be annotated (`type: str = "user.registered"`), also before fields without a default: the
annotation is removed before `@dataclass` runs, so neither becomes a field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from events._annotations import drop_annotations
from events._class_names import full_name
from events.errors import EventDefinitionError
from events.integration import personal
from events.integration._class_checks import check_definition
from events.integration._versioned import Versioned
from events.integration.codec import EventCodec, codec_of
from events.integration.upcasting import event_from_payload

_OURS = "__event_repr__"  # an attribute of the functions that `_repr_of` makes


class EventKey(NamedTuple):
    """The identity of an event class on the wire: its type and version."""

    type: str
    version: int


class IntegrationEvent(Versioned):
    """A message to other services. Subclass it as a dataclass with a `type` and a `version`.

    A subclass without them is an error, unless it is declared as `class Base(IntegrationEvent,
    abstract=True)`. Fields may have any type that msgspec can encode and decode as JSON.

    To receive older versions, add an upcaster from version n to the class of version n+1:

        @classmethod
        def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
            return {**payload, "name": payload["first_name"]}

    It gets the fields of version n, with `type` and `version` as received, and returns those of
    version n+1. Version n then needs no class.
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
        # Dataclasses with slots define the class a second time, without keywords, and at first
        # without its qualified name.
        if "__event_name__" not in cls.__dict__:
            cls.__event_name__ = f"{cls.__module__}.{cls.__qualname__}"
        if not isinstance(cls.registry, EventRegistry):
            raise EventDefinitionError(
                cls, "`registry` is reserved for the registry of event classes: rename the field"
            )
        if _is_ours(cls.__dict__.get("__repr__")):  # `@dataclass` keeps the one that it finds
            type.__setattr__(cls, "__repr__", _repr_of(cls))
        cls.__event_abstract__ = abstract or cls.__dict__.get("__event_abstract__", False)
        if cls.__event_abstract__:
            return
        check_definition(cls)
        cls.registry.add(cls)

    if not TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # A dataclass has its own `__init__`, so this class is not a dataclass.
            if args or kwargs:
                raise EventDefinitionError(type(self), "it is not a dataclass: add `@dataclass`")

    def to_dict(self) -> dict[str, Any]:
        """Return `{"type", "version", **fields}`: JSON-ready values that the event does not share.

        Raises:
            EventEncodeError: JSON cannot represent the value of a field.
        """
        return codec_of(self.__class__).to_dict(self)

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Return the event of a payload that `to_dict` or `json.loads` returned.

        Called on `IntegrationEvent` or an abstract class, it finds the class by `type` and
        `version`. Called on a concrete class, it upcasts older versions to that class. Unknown
        fields are ignored: a newer producer may have added them.

        Raises:
            MalformedEventError: the payload has no `type` or no `version`.
            UnknownEventError: they have no class here, and no upcaster to one.
            InvalidEventError: a field is missing or does not fit.
        """
        return event_from_payload(cls, payload)


class EventRegistry(Mapping[EventKey, type[IntegrationEvent]]):
    """The event classes by key. `IntegrationEvent.registry` is the global registry.

    An abstract base that defines its own `registry` separates its subclasses from the others.
    """

    def __init__(self) -> None:
        self._classes: dict[str, dict[int, type[IntegrationEvent]]] = {}

    def add(self, event_class: type[IntegrationEvent], key: EventKey | None = None) -> None:
        """Add a class, as its definition does. A class that is defined again replaces the earlier.

        Raises:
            EventDefinitionError: another class has the same type and version.
        """
        key = key or EventKey(event_class.type, event_class.version)
        versions = self._classes.setdefault(key.type, {})
        other = versions.get(key.version)
        if other is not None and other.__event_name__ != event_class.__event_name__:
            if full_name(other) == full_name(event_class):
                raise EventDefinitionError(
                    event_class,
                    f"its module is loaded twice under two names, {other.__module__!r} and "
                    f"{event_class.__module__!r}, as when `python main.py` starts a server that "
                    f"imports `main`: move the events to a module that is not run as a program",
                )
            raise EventDefinitionError(
                event_class,
                f"{other.__event_name__} already has type {key.type!r} and version {key.version}: "
                f"change the type or version of one of the two. To separate classes that are "
                f"never used together, as in tests, derive them from an abstract base with "
                f"`registry = EventRegistry()` in its body",
            )
        versions[key.version] = event_class

    def remove(self, event_class: type[IntegrationEvent]) -> None:
        """Remove a class. A class that is not in the registry is ignored."""
        versions = self._classes.get(event_class.type, {})
        if versions.get(event_class.version) is event_class:
            del versions[event_class.version]
            if not versions:
                del self._classes[event_class.type]

    def versions(self, type: str) -> Mapping[int, type[IntegrationEvent]]:
        """Return the classes of a type by version, in no order."""
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


def _repr_of(cls: type[IntegrationEvent]) -> Callable[[Any], str]:
    """Return a `__repr__` like that of a dataclass, with the event's type and version in front.

    A subclass may call it by `super()`, so it begins at its own class.
    """

    @recursive_repr()
    def shown(event: IntegrationEvent) -> str:
        fields_of: tuple[Field[Any], ...] = ()
        silent = False
        mro = event.__class__.__mro__
        for base in mro[mro.index(cls) :]:
            own: Callable[[object], str] = base.__dict__.get("__repr__", shown)
            if not _is_ours(own):
                return own(event)
            options = base.__dict__.get("__dataclass_params__")
            if options is not None and options.repr:
                fields_of = fields(base)
                break
            silent = silent or options is not None
            if base is IntegrationEvent and not silent:
                break
        values = {"type": repr(event.type), "version": repr(event.version)}
        values |= {
            field.name: personal.shown(event.__class__, field.name, getattr(event, field.name))
            for field in fields_of
            if field.repr
        }
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        return f"{event.__class__.__qualname__}({given})"

    vars(shown)[_OURS] = True
    return shown


def _is_ours(given: object) -> bool:
    """Return whether a class has no `__repr__` of its own: none yet, or one of `_repr_of`.

    A class that is made again, for slots, brings that of its first making.
    """
    return given is None or hasattr(given, _OURS)
