"""The event class as the modules below `event` see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar


class Versioned:
    """The base of `IntegrationEvent`: its classes have a type and a version, and know their codec.

    No protocol, as `type = "..."` in a class's body is no ClassVar to pyright.
    """

    __slots__ = ()

    type: ClassVar[str]
    version: ClassVar[int]
    registry: ClassVar[Any]
    __event_abstract__: ClassVar[bool]
    __event_codec__: ClassVar[Any]


class Versions(Protocol):
    """Finds the classes of a type."""

    def versions(self, type: str) -> Mapping[int, type[Any]]:
        """Return the classes of a type by version."""
        ...


VersionedT = TypeVar("VersionedT", bound=Versioned)
