"""What can be told of a handler class by its `handle`, without calling it."""

from __future__ import annotations

import inspect
import sys
from functools import partial

# A decorator takes what it takes, whatever the function inside of it needs; hence not followed.
if sys.version_info >= (3, 14):
    from annotationlib import Format

    # As text: names that are imported for type checkers alone have no value.
    _signature = partial(inspect.signature, follow_wrapped=False, annotation_format=Format.STRING)
else:
    _signature = partial(inspect.signature, follow_wrapped=False)

__all__ = ["is_abstract", "why_it_cannot_handle"]


def is_abstract(cls: type) -> bool:
    """Find out whether methods are missing, while the class is still being made."""
    # As ABCMeta finds out, but it does so only after `__init_subclass__`; `inspect.isabstract`
    # knows that, but is taken in by classes that a decorator made again, as for slots.
    names = {name for base in cls.__bases__ for name in getattr(base, "__abstractmethods__", ())}
    names.update(cls.__dict__)
    return any(getattr(getattr(cls, name, None), "__isabstractmethod__", False) for name in names)


def why_it_cannot_handle(handler: type) -> str | None:
    """Say what is wrong with the `handle` of a concrete handler class; None if nothing is."""
    handle = inspect.getattr_static(handler, "handle", None)
    if not inspect.isfunction(handle):
        return None  # a descriptor knows best
    signature = _signature(handle)
    try:
        signature.bind(handler, object())
    except TypeError as error:
        return f"its `handle` must take the event and nothing more: {error}"
    if inspect.iscoroutinefunction(handle) or hasattr(handle, "__wrapped__"):
        return None
    # One that says what it returns is believed, and a lambda most likely calls what is async.
    returned: object = signature.return_annotation
    nothing = returned in (None, "None", inspect.Signature.empty)
    if nothing and handle.__name__ != "<lambda>":
        return "its `handle` is not async: write it as `async def handle`"
    return None
