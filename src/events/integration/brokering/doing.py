"""What was tried when the broker was out of reach: the error says so."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from events.errors import BusUnavailableError


@contextmanager
def doing(what: str) -> Generator[None]:
    """Complete a `BusUnavailableError` of this block with what was tried.

    A transport raises it wherever its connection turns out to be lost, and does not know for whom.
    Blocks may be nested: the innermost names it.
    """
    try:
        yield
    except BusUnavailableError as error:
        error.doing = error.doing or what
        raise
