"""Checks of an event's class, with errors that name the cure.

`check_definition` runs when the class is defined, which is before `@dataclass`. The other checks
run when the class is first used.
"""

from __future__ import annotations

from dataclasses import Field, InitVar, fields, is_dataclass
from typing import Any, ClassVar, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from events._annotations import annotations_of
from events.errors import EventDefinitionError
from events.integration._versioned import Versioned

EXAMPLE = 'set both in the class body, as in `type = "user.registered"` and `version = 1`'
RESERVED = frozenset({"type", "version", "registry", "to_dict", "from_dict", "upcast"})


def is_abstract(event_class: type[Versioned]) -> bool:
    """Return whether a class is an abstract base of events."""
    return event_class.__event_abstract__


def own_fields(event_class: type) -> tuple[Field[Any], ...]:
    """Return the fields of a dataclass; none for other classes."""
    return fields(event_class) if is_dataclass(event_class) else ()


def check_definition(cls: type[Versioned]) -> None:
    """Check the `type` and `version` of a class; either may come from an abstract base.

    Raises:
        EventDefinitionError: one of them is missing or invalid, both are the parent's, or `upcast`
            is not a classmethod.
    """
    type_: object = getattr(cls, "type", None)
    version: object = getattr(cls, "version", None)
    for name, value in ("type", type_), ("version", version):
        if value is None:
            raise EventDefinitionError(
                cls,
                f"it has no {name}: {EXAMPLE}, or make it a base with "
                f"`class {cls.__name__}(IntegrationEvent, abstract=True)`",
            )
    if not isinstance(type_, str) or not type_ or not type_.isprintable():
        raise EventDefinitionError(
            cls, f"its type must be a printable, non-empty str, not {type_!r}: {EXAMPLE}"
        )
    # A bool is an int, and `version = True` is a mistake.
    if type(version) is not int or version < 1:
        raise EventDefinitionError(
            cls, f"its version must be an int of 1 or more, not {version!r}: {EXAMPLE}"
        )
    bases: tuple[Any, ...] = cls.__mro__[1:]
    for base in bases:
        if not getattr(base, "__event_abstract__", True) and (base.type, base.version) == (
            type_,
            version,
        ):
            raise EventDefinitionError(
                cls,
                f"it inherits type {type_!r} and version {version} from {base.__event_name__}: "
                f"set another type or version in its body",
            )
    upcast = cls.__dict__.get("upcast")
    if upcast is not None and not isinstance(upcast, classmethod):
        raise EventDefinitionError(cls, "its `upcast` is not a classmethod: add `@classmethod`")


def _maker_of(event_class: type) -> type:
    """Return the class whose `__init__` makes the events.

    The `__init__` of a `Protocol` does not count: it looks for the next one and copies it.
    """
    inits = [
        (cls, cls.__dict__["__init__"])
        for cls in event_class.__mro__
        if "__init__" in cls.__dict__ and not cls.__dict__.get("_is_protocol", False)
    ]
    return [cls for cls, init in inits if init is inits[0][1]][-1]


def check_class(event_class: type[Versioned]) -> None:
    """Check that all attributes of an event's instances are fields of a dataclass.

    Raises:
        EventDefinitionError: they are not, or the class is abstract.
    """
    if is_abstract(event_class):
        raise EventDefinitionError(event_class, "it is abstract: use one of its subclasses")
    maker = _maker_of(event_class)
    if "__dataclass_fields__" not in maker.__dict__ and "__init_subclass__" not in maker.__dict__:
        raise EventDefinitionError(
            event_class,
            f"{maker.__qualname__} has an `__init__` but is not a dataclass, so attributes that "
            f"it sets would not be sent: declare fields and add `@dataclass`",
        )
    for cls in event_class.__mro__:
        if "__dataclass_fields__" in cls.__dict__ or not hasattr(cls, "__event_codec__"):
            continue
        if declared := _declared(cls):
            raise EventDefinitionError(
                event_class,
                f"{cls.__qualname__} declares fields ({', '.join(declared)}) but is not a "
                f"dataclass: add `@dataclass` to it",
            )
    for field in own_fields(event_class):
        if field.name in RESERVED:
            raise EventDefinitionError(
                event_class, f"a field cannot be named {field.name!r}: rename it"
            )


def _declared(cls: type) -> list[str]:
    """Return the names that a class body declares as fields, dataclass or not."""
    return [
        name
        for name, hint in annotations_of(cls).items()
        if "ClassVar" not in (hint if isinstance(hint, str) else repr(hint))
    ]


def info_of(event_class: type[Versioned]) -> inspect.DataclassType:
    """Return msgspec's description of a class.

    Raises:
        EventDefinitionError: msgspec cannot encode or decode one of the fields. It names the field.
    """
    try:
        info = inspect.type_info(event_class)
        # Decoders are stricter than `type_info`.
        msgspec.json.Decoder(event_class)
    except Exception as exc:
        raise EventDefinitionError(event_class, _why_unsupported(event_class, exc)) from exc
    return cast("inspect.DataclassType", info)


def _why_unsupported(cls: Any, exc: Exception, path: str = "", seen: tuple[Any, ...] = ()) -> str:
    """Find the field that msgspec cannot encode, in the class that declares it."""
    origin = get_origin(cls) or cls
    for name, hint in _hints(origin).items():
        place = f"field {path}{name}"
        if isinstance(hint, NameError):
            return (
                f"{place}: its annotation in {origin.__qualname__} names {hint.name!r}, which the "
                f"module {origin.__module__} does not have: define it at module level, and outside "
                f"of `if TYPE_CHECKING`"
            )
        if get_origin(hint) is ClassVar:
            continue
        if isinstance(hint, InitVar):
            return (
                f"{place}: an `InitVar` is not sent, so a receiver could not pass it: make it a "
                f"field"
            )
        try:
            msgspec.json.Decoder(hint)
        except Exception as found:  # noqa: BLE001 - whatever it is, this field is why
            for inner in _classes_in(hint):
                if inner not in (cls, *seen):
                    deeper = _why_unsupported(inner, found, f"{path}{name}.", (*seen, cls))
                    if deeper.startswith("field "):
                        return deeper
            return f"{place}: {found}"
    return f"its fields: {exc}"


def _hints(cls: type) -> dict[str, Any]:
    """Return the evaluated annotations of a class, and the NameError of each that fails."""
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:
        pass
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, written in annotations_of(base).items():
            alone = type(base.__name__, (), {"__module__": base.__module__})
            alone.__annotations__ = {name: written}
            try:
                found |= get_type_hints(alone, localns=dict(vars(base)), include_extras=True)
            except NameError as exc:
                found[name] = exc
    return found


def _classes_in(hint: Any) -> list[Any]:
    """Return the classes with fields that a type hint contains."""
    if hasattr(get_origin(hint) or hint, "__annotations__"):
        return [hint]
    return [cls for each in get_args(hint) for cls in _classes_in(each)]
