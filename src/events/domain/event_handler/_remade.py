"""Whether a class was made again by a decorator."""

from __future__ import annotations

import inspect


def is_copied_from(old: type, new: type) -> bool:
    """Return whether a decorator made `new` from the body of `old`, as for slots.

    Such a class has its name from the beginning, but gets its qualified name later.
    """
    if (old.__module__, old.__name__) != (new.__module__, new.__name__):
        return False
    body = vars(new)
    return any(
        value is body.get(name)
        for name, value in vars(old).items()
        if inspect.isfunction(value) or name in {"__dataclass_fields__", "__orig_bases__"}
    )
