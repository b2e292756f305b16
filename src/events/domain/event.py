"""`DomainEvent`: something that happened in the domain, handled in one transaction."""

from __future__ import annotations

from dataclasses import Field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from events._annotations import drop_annotations
from events.errors import EventTypeMissingError, InvalidDomainEventError


class DomainEvent:
    """Something that happened in the domain. Subclass it with a `type`, usually as a dataclass.

    `type` belongs to the class and is never a field of its instances, so the first positional
    argument is the first field that you wrote:

        @dataclass(frozen=True)
        class OrderCancelled(DomainEvent):
            type = "order.cancelled"
            order: Order

    `type: str = "order.cancelled"` does the same at runtime, also before fields without a
    default. So does a property, whose value only instances have. Type checkers accept only the
    form above. A subclass inherits the `type` of its parent. A class without any `type` is
    abstract: you can subclass and handle it, but not instantiate it.

    Raises:
        EventTypeMissingError: a class without a `type` is instantiated.
        InvalidDomainEventError: the `type` of a class is not a non-empty string, or a class that
            is not a dataclass is given arguments.
    """

    __slots__ = ()

    type: ClassVar[str]

    if not TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Dataclasses bring an `__init__` of their own, so this costs them nothing.
            if not hasattr(self, "type"):
                raise EventTypeMissingError(self.__class__)
            if (args or kwargs) and not _has_init_behind_ours(self.__class__):
                raise InvalidDomainEventError(
                    self.__class__,
                    "takes no arguments, because it is not a dataclass and has no `__init__`: "
                    "add `@dataclass` to it",
                )
            super().__init__(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        given: Any = vars(cls).get("type", _NOTHING)
        if isinstance(given, Field):  # `type: str = field(default="...", init=False)`
            given = cls.type = cast("Any", given).default
        if given is not _NOTHING and not (isinstance(given, str | property) and given):
            raise InvalidDomainEventError(
                cls,
                f"its type is {given!r}: set a non-empty string in the class body, "
                f'as in `type = "order.completed"`, or omit it for an abstract event',
            )
        drop_annotations(cls, "type")
        if not hasattr(cls, "type") and "__new__" not in cls.__dict__:
            # As `cls.__new__ = ...` it would be taken for every event's signature.
            setattr(cls, "__new__", staticmethod(_refuse_abstract))  # noqa: B010


def type_of(event: DomainEvent) -> str:
    """Return the type of an event for a message. A property may fail, or return anything."""
    try:
        return str(event.type)
    except Exception:  # noqa: BLE001 - the user's own code
        return type(event).__qualname__


_NOTHING = object()


def _has_init_behind_ours(cls: type[Any]) -> bool:
    behind = cls.__mro__[cls.__mro__.index(DomainEvent) + 1 : -1]
    return any("__init__" in vars(base) for base in behind)


def _refuse_abstract(cls: type[Any], *_args: object, **_kwargs: object) -> Any:
    # Set on abstract classes, where a decorator may replace `__init__`. Their concrete
    # subclasses inherit the check and pay for it; direct subclasses of `DomainEvent` do not.
    if not hasattr(cls, "type"):
        raise EventTypeMissingError(cls)
    return object.__new__(cls)
