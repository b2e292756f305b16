"""`Topic`, and the rules for names of topics and consumers."""

from __future__ import annotations

from dataclasses import dataclass

from events.errors import InvalidTopologyError

_LONGEST = 200  # bytes; brokers allow 255, and names of retry queues are longer than the topic's


@dataclass(frozen=True, slots=True)
class Topic:
    """A named stream of events that any number of consumers may follow.

    Topics with the same name are equal. Raises `InvalidTopologyError` for an invalid name.
    """

    name: str

    def __post_init__(self) -> None:
        check_name("Topic", self.name)


def check_name(kind: str, name: object) -> None:
    """Raise `InvalidTopologyError` unless every broker accepts `name`."""
    if not isinstance(name, str):
        reason = f"its name must be a string, not {type(name).__name__}"
    elif not name:
        reason = "its name is empty: use a name such as 'users'"
    elif name != name.strip() or not name.isprintable():
        reason = "its name has white space around it, or characters that cannot be printed"
    elif len(name.encode()) > _LONGEST:
        reason = f"its name is longer than {_LONGEST} bytes"
    else:
        return
    raise InvalidTopologyError(f"{kind}({name!r})", reason)
