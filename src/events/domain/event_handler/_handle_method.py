"""What the `handle` of a handler class says about it, without calling it."""

from __future__ import annotations

import inspect

from events._annotations import signature_of


def is_abstract(cls: type) -> bool:
    """Return whether methods are missing, while the class is still being made."""
    # ABCMeta computes this only after `__init_subclass__`. `inspect.isabstract` handles that, but
    # is wrong for classes that a decorator makes a second time, as for slots.
    names = {name for base in cls.__bases__ for name in getattr(base, "__abstractmethods__", ())}
    names.update(cls.__dict__)
    return any(getattr(getattr(cls, name, None), "__isabstractmethod__", False) for name in names)


def why_it_cannot_handle(handler: type) -> str | None:
    """Return what is wrong with the `handle` of a concrete handler class, or None."""
    handle = inspect.getattr_static(handler, "handle", None)
    if not inspect.isfunction(handle):
        return None  # a descriptor cannot be checked
    signature = signature_of(handle)
    try:
        signature.bind(handler, object())
    except TypeError as error:
        return f"its `handle` must take the event as its only argument: {error}"
    if inspect.iscoroutinefunction(handle) or hasattr(handle, "__wrapped__"):
        return None
    # A return annotation is trusted, and a lambda most likely calls something async.
    returned: object = signature.return_annotation
    nothing = returned in (None, "None", inspect.Signature.empty)
    if nothing and handle.__name__ != "<lambda>":
        return "its `handle` is not async: write it as `async def handle`"
    return None
