"""How many come at once of what is listed: dead letters on every bus, parked rows of an outbox."""

from __future__ import annotations

__all__ = ["check_limit"]


def check_limit(listing: str, limit: object) -> None:
    """Raise `ValueError` unless `limit` is how many at most.

    Below 1 each broker and database would do something else, from all of them to an error.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(
            f"{listing}: limit must be a whole number from 1 on, not {limit!r}; "
            f"where there may be more, ask again with after="
        )
