"""The place in the user's code that raised an error; dead letters are grouped by it.

    ValueError: no user 4711
    at shop/mails.py:42 in send_mail

The place is the second line of the stored error, so it needs no separate field at any broker, and
truncating a long error keeps it.
"""

from __future__ import annotations

import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import cast

_LONGEST = 300  # characters
_FIRST = 800  # of a first line; what follows is cut where a broker has no room, also if escaped
_LIBRARIES = ("site-packages", "dist-packages")
_OURS = Path(__file__).parents[2]
_STANDARD = (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib")))


def place_of(error: BaseException, package: str = "") -> str | None:
    """Return file, line and function of the innermost frame in the user's code, or None.

    Installed packages are libraries, except the package with this name. For a group of errors, as
    of a `TaskGroup`, it is the place of the first.
    """
    place: str | None = None
    if isinstance(error, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        if (place := place_of(first, package)) is not None:
            return place
    left = error.__traceback__
    while left is not None:
        code = left.tb_frame.f_code
        module = str(left.tb_frame.f_globals.get("__name__"))
        file = _shown(code.co_filename, installed=module.partition(".")[0] == package)
        if file is not None:
            place = f"{file}:{left.tb_lineno} in {code.co_name}"
        left = left.tb_next
    return None if place is None else place[-_LONGEST:]


def with_place(text: str, error: BaseException, event_class: type) -> str:
    """Return the text of an error with its place as the second line.

    The package of the event's class counts as the user's code, also if it is installed.
    """
    place = place_of(error, event_class.__module__.partition(".")[0])
    if place is None:
        return text
    first, end, rest = text.partition("\n")
    if len(first) > _FIRST:
        first, end, rest = first[:_FIRST], "\n", text[_FIRST:]
    return f"{first}\nat {place}{end}{rest}"


@lru_cache(1024)
def _shown(file: str, *, installed: bool) -> str | None:
    """Return a file as its import names it, the same on each machine; None if it is no user's."""
    path = Path(file)
    is_library = any(part in _LIBRARIES for part in path.parts)
    if not path.is_absolute() or path.is_relative_to(_OURS) or (is_library and not installed):
        return None
    if not is_library and any(path.is_relative_to(folder) for folder in _STANDARD):
        return None
    roots = [Path(root) for root in sys.path if root and path.is_relative_to(root)]
    if not roots:
        return path.name
    return path.relative_to(max(roots, key=lambda root: len(root.parts))).as_posix()
