"""The objects of a started program, out of the garbage collector's sight."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def frozen() -> Generator[None]:
    """Have full collections skip what exists now: modules, mappers, containers.

    Otherwise each takes tens of milliseconds, in which no handler runs, and comes every few
    thousand events. Within, nothing that exists now is freed by a collection.
    """
    gc.collect()  # what is garbage already would stay
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
