"""Lists and selections of dead letters and of parked rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

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
