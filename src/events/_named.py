"""Import an object that a command line names as `module:name`, and report errors of its code."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

TRACEBACK = "EVENTS_TRACEBACK"

_LONGEST = 500  # characters of an error's text
_NOT_THEIRS = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(__file__).parent,
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)


class UserCodeError(Exception):
    """An exception of the application's own code, as one line with its place; `__cause__` is it."""


@contextmanager
def running(module: str) -> Generator[None]:
    """Convert exceptions of the application's code, which this module begins."""
    try:
        yield
    except UserCodeError:
        raise
    except Exception as error:
        raise UserCodeError(_one_line(error, module)) from error


def plain(text: str, *, lines: bool = False) -> str:
    """Return the text with unprintable characters escaped; `lines` keeps newlines."""
    return "".join(
        c if c.isprintable() or (lines and c in "\n\t") else c.encode("unicode_escape").decode()
        for c in text
    )


def traceback_of(error: BaseException, *, wanted: bool = False) -> str | None:
    """Return the traceback of an error, or None unless the environment or the caller wants it."""
    if not wanted and not os.environ.get(TRACEBACK):
        return None
    of = error.__cause__ if isinstance(error, UserCodeError) else error
    return "".join(traceback.format_exception(of))


def load_named(path: str, form: str = "module:name") -> object:
    """Import the object that the path names; the working directory is searched as well.

    Raises:
        ValueError: it is not of this form, or names nothing.
        UserCodeError: the module exists and cannot be imported.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"{path!r} is not of the form {form}")
    # As `python -m` does, and a console script does not: what lies here can be imported.
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        with running(module_name):
            found: object = importlib.import_module(module_name)
    except UserCodeError as error:
        cause = error.__cause__
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if not missing or not f"{module_name}.".startswith(f"{missing}."):
            raise
        raise ValueError(
            f"there is no module {missing!r} to import, in {os.getcwd()} or installed"  # noqa: PTH109
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name!r} has no {name!r}")
        found = getattr(found, part)
    return found


def _one_line(error: Exception, module: str) -> str:
    place = _place(error, module)
    said = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    said = plain(said)
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]}..."
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    at = "" if place is None else f"{place}: "
    return f"{at}{text} (the traceback: {TRACEBACK}=1)"


def _place(error: Exception, module: str) -> str | None:
    """Return the last file and line of the application's own code in the traceback."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_shown(error.filename)}:{error.lineno or 1}"
    top, last = module.partition(".")[0], None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _is_the_users(frame, top):
            last = f"{_shown(frame.f_code.co_filename)}:{line}"
    return last


def _is_the_users(frame: FrameType, top: str) -> bool:
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == top:
        return True  # though it be installed, as in a container
    file = frame.f_code.co_filename
    return not file.startswith(("<", *_NOT_THEIRS))


def _shown(file: str) -> str:
    """Return a file as one names it from here."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
