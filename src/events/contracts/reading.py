"""What of given payloads can be read, and where the class stands that reads them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from events.contracts.payloads import payloads
from events.errors import EventDecodeError


def old_payloads(described: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return possible payloads of an event that a lock describes; its example comes first."""
    example = described.get("example")
    generated = payloads(described["schema"], base=example)
    return generated if example is None else [example, *generated]


def first_fault(
    given: Iterable[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], object],
    *,
    own_checks: bool = False,
) -> tuple[Mapping[str, Any], str] | None:
    """Return the first payload that cannot be read, and why.

    With `own_checks`, a generated value that only a class's own check refuses proves nothing: the
    old class may never have sent it. The first payload is one that it has sent.
    """
    for index, payload in enumerate(given):
        try:
            read(payload)
        except (EventDecodeError, msgspec.ValidationError) as error:
            if own_checks and index and _is_own_check(error):
                continue
            return payload, str(error)
    return None


def _is_own_check(error: Exception) -> bool:
    """Return whether `__post_init__` raised the error, and not msgspec."""
    cause = error.__cause__
    return isinstance(cause, msgspec.ValidationError) and cause.__cause__ is not None


def place_of(
    classes: Mapping[tuple[str, int], type], type_: str, version: int
) -> tuple[str | None, int | None]:
    """Return where the class of a version stands, or that of its newest one."""
    known = [of for of in classes if of[0] == type_]
    if not known:
        return None, None
    event_class = classes.get((type_, version)) or classes[max(known)]
    try:
        file = Path(inspect.getfile(event_class))
        line = inspect.getsourcelines(event_class)[1]
    except (TypeError, OSError):
        return None, None
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return shown.as_posix(), line
