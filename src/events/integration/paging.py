"""What is listed and chosen from: dead letters on every bus, parked rows of an outbox."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["check_limit"]

Id = TypeVar("Id", str, int)
IdT_co = TypeVar("IdT_co", str, int, covariant=True)


class Listed(Protocol[IdT_co]):
    """One of what is listed."""

    @property
    def id(self) -> IdT_co:
        """What it is chosen by."""
        ...


def check_limit(listing: str, limit: object) -> None:
    """Raise `ValueError` unless `limit` is how many at most.

    Below 1 each broker and database would do something else, from all of them to an error.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(
            f"{listing}: limit must be a whole number from 1 on, not {limit!r}; "
            f"where there may be more, ask again with after="
        )


def ids_of(chosen: Iterable[Listed[Id] | Id] | Listed[Id] | Id) -> list[Id]:
    """Give the ids of what was chosen: some, or one alone, each itself or its id."""
    # The characters of one id alone would be taken for ids.
    one = isinstance(chosen, str | int) or hasattr(chosen, "id")
    several: Any = [chosen] if one else chosen
    ids: list[Any] = [each if isinstance(each, str | int) else each.id for each in several]
    return ids


def all_found(
    ids: Sequence[Id], found: Sequence[Id], missing: Callable[[list[Id]], Exception]
) -> int:
    """Give how many there were, or raise what `missing` makes of those that were not."""
    left = set(ids).difference(found)
    if left:
        raise missing(sorted(left))
    return len(found)
