"""Where events go."""

from __future__ import annotations

from dataclasses import dataclass

from events.errors import InvalidTopologyError

__all__ = ["Topic", "check_name"]

_LONGEST = 200  # bytes; brokers allow 255, and retry and dead-letter places are named after it


@dataclass(frozen=True, slots=True)
class Topic:
    """Name a stream of events that any number of consumers may follow.

    Two topics of one name are equal. Raises `InvalidTopologyError` for a name that no broker takes.
    """

    name: str

    def __post_init__(self) -> None:
        check_name("Topic", self.name)


def check_name(kind: str, name: object) -> None:
    """Raise `InvalidTopologyError` unless `name` can be used at every broker."""
    if not isinstance(name, str):
        reason = f"its name must be a string, not {type(name).__name__}"
    elif not name:
        reason = "its name is empty: give it one, as in 'users'"
    elif name != name.strip() or not name.isprintable():
        reason = "its name has white space around it or characters that cannot be printed"
    elif len(name.encode()) > _LONGEST:
        reason = f"its name is longer than {_LONGEST} bytes"
    else:
        return
    raise InvalidTopologyError(f"{kind}({name!r})", reason)
