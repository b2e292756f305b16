"""Telling a class that was made again, by a decorator or a reload, from another one."""

from __future__ import annotations

import inspect
import sys
from os.path import realpath

__all__ = ["full_name", "is_copied_from"]


def is_copied_from(old: type, new: type) -> bool:
    """Tell whether a decorator made `new` of the body of `old`, as for slots.

    Such a class has its own name from the first, but gets its qualified one later.
    """
    if (old.__module__, old.__name__) != (new.__module__, new.__name__):
        return False
    body = vars(new)
    return any(
        value is body.get(name)
        for name, value in vars(old).items()
        if inspect.isfunction(value) or name in {"__dataclass_fields__", "__orig_bases__"}
    )


def full_name(cls: type) -> tuple[str, str]:
    """Give what a class keeps when its module is loaded again, also under another name.

    `python main.py` runs the file as `__main__`; a server that it starts imports it as `main`, and
    one that starts processes has a third, as `__mp_main__`.
    """
    module = sys.modules.get(cls.__module__)
    file: object = getattr(module, "__file__", None)
    return (realpath(file) if isinstance(file, str) else cls.__module__), cls.__qualname__
