"""Lists and selections of dead letters and of parked rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

_number = re.compile(r"0|[1-9][0-9]{0,19}").fullmatch

Id = TypeVar("Id", str, int)
IdT_co = TypeVar("IdT_co", str, int, covariant=True)


class Listed(Protocol[IdT_co]):
    """An item of a list, with its id."""

    @property
    def id(self) -> IdT_co:
        """The id by which it is selected."""
        ...


def check_limit(listing: str, limit: object) -> None:
    """Raise `ValueError` unless `limit` is a positive integer.

    Brokers and databases treat a limit below 1 differently, from no limit to an error.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(
            f"{listing}: limit must be a whole number from 1 on, not {limit!r}; "
            f"for the next page, call again with after="
        )


class NotAnIdError(ValueError):
    """Raised for an `after` that cannot be the id of a dead letter of this bus."""

    def __init__(self, after: str) -> None:
        super().__init__(f"after must be the id of a dead letter on this bus, not {after!r}")


def as_number(id: str, below: int = 1 << 63) -> int | None:
    """Return the number that an id of a row or a message is, or None if it is no such id."""
    number = int(id) if _number(id) else below
    return number if number < below else None


def number_after(after: str | None) -> int:
    """Return the number behind which a page begins. Raises `NotAnIdError`."""
    number = as_number(after or "0")
    if number is None:
        raise NotAnIdError(str(after))
    return number


def ids_of(chosen: Iterable[Listed[Id] | Id] | Listed[Id] | Id) -> list[Id]:
    """Return the ids of what was chosen: one or several items or ids."""
    # A single id is a str too, and its characters are not ids.
    one = isinstance(chosen, str | int) or hasattr(chosen, "id")
    several: Any = [chosen] if one else chosen
    ids: list[Any] = [each if isinstance(each, str | int) else each.id for each in several]
    return ids


def all_found(
    ids: Sequence[Id], found: Sequence[Id], missing: Callable[[list[Id]], Exception]
) -> int:
    """Return how many were found, or raise the error that `missing` makes of the others."""
    left = set(ids).difference(found)
    if left:
        raise missing(sorted(left))
    return len(found)
