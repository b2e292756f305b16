"""Names of classes that do not depend on how their module was loaded."""

from __future__ import annotations

import sys
from os.path import realpath


def full_name(cls: type) -> tuple[str, str]:
    """Return a name of a class that stays the same when its module is loaded again.

    `python main.py` runs the file as `__main__`; a server that it starts imports it as `main`, and
    one that starts processes has a third, as `__mp_main__`.
    """
    module = sys.modules.get(cls.__module__)
    file: object = getattr(module, "__file__", None)
    return (realpath(file) if isinstance(file, str) else cls.__module__), cls.__qualname__
