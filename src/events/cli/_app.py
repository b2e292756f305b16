"""The application that a command works on: an object, or what makes one.

`--app module:name` names it, else `app` in `[tool.events]` of the nearest `pyproject.toml`. It may
be

- a bus, or an `OutboxRelay`;
- a sequence of these, or of anything else that a command asks for by its class;
- a function without arguments that returns one of the above, or an async context manager that
  gives one, which is where engines and containers are opened and closed:

      @asynccontextmanager
      async def app() -> AsyncIterator[tuple[IntegrationEventBus, OutboxRelay]]:
          engine = create_async_engine(DATABASE_URL)
          try:
              bus = make_bus()
              yield bus, OutboxRelay(SQLAlchemyOutboxStore(engine), bus)
          finally:
              await engine.dispose()

Nothing is started here: a command starts what it needs.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import tomllib
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from events.cli._exit import UsageError

__all__ = ["add_app", "configured", "find", "load", "opened"]

T = TypeVar("T")

_WANTED = (
    'name the application by --app module:name, or in pyproject.toml as app = "module:name" under '
    "[tool.events]"
)


def add_app(parser: argparse.ArgumentParser) -> None:
    """Add the option `--app`, which every command has that works on an application."""
    parser.add_argument(
        "--app",
        metavar="MODULE:NAME",
        help="the bus, the relay, several of them, or a function that makes them "
        "(default: app under [tool.events] in pyproject.toml)",
    )


def configured(start: Path | None = None) -> dict[str, Any]:
    """Return `[tool.events]` of the nearest pyproject.toml, from the working directory upwards."""
    here = start or Path.cwd()
    for folder in (here, *here.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            try:
                parsed = tomllib.loads(path.read_text(encoding="utf-8"))
            except tomllib.TOMLDecodeError as error:
                raise UsageError(f"{path} is not valid TOML: {error}") from None
            found: object = parsed.get("tool", {}).get("events", {})
            if not isinstance(found, dict):
                raise UsageError(f"{path}: tool.events must be a table, not {found!r}")
            return cast("dict[str, Any]", found)
    return {}


def load(path: str | None) -> object:
    """Import what `module:name` names, or what pyproject.toml names if it is None.

    Raises:
        UsageError: nothing is named, or it cannot be found. What a module raises that is found is
            raised as it is.
    """
    path = path or configured().get("app")
    if not path:
        raise UsageError(_WANTED)
    module_name, colon, name = str(path).partition(":")
    if not (module_name and colon and name):
        raise UsageError(f"{path!r} is not of the form module:name; {_WANTED}")
    # As `python -m` does, and a console script does not: what lies here can be imported.
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"there is no module {error.name!r} to import, in {os.getcwd()} or installed"  # noqa: PTH109
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module_name!r} has no {name!r}")
        found = getattr(found, part)
    return found


@asynccontextmanager
async def opened(app: object) -> AsyncGenerator[Sequence[object]]:
    """Give the parts of an application: what it is, or what its function makes, until the end."""
    made: object = app
    if callable(app) and not _is_part(app):
        made = app()
    if inspect.isawaitable(made):
        made = await made
    parts, is_part = _parts(made), _is_part(made)
    if isinstance(made, AbstractAsyncContextManager) and not is_part:
        async with cast("AbstractAsyncContextManager[object]", made) as given:
            yield _parts(given)
    else:
        yield parts


def _is_part(given: object) -> bool:
    """Tell a bus or a relay, both of which are context managers, from a function that makes one."""
    from events.integration.bus import IntegrationEventBus  # noqa: PLC0415 - not for --help
    from events.integration.outbox import OutboxRelay  # noqa: PLC0415

    return isinstance(given, IntegrationEventBus | OutboxRelay)


def _parts(given: object) -> Sequence[object]:
    if isinstance(given, tuple | list):
        return cast("Sequence[object]", given)
    return [given]


def find(parts: Sequence[object], kind: type[T], what: str) -> T:
    """Return the part of this class; `what` says in the error what was looked for.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = [part for part in parts if isinstance(part, kind)]
    if len(found) == 1:
        return found[0]
    given = ", ".join(type(part).__name__ for part in parts) or "nothing"
    if found:
        raise UsageError(f"the application gives {len(found)} of {what}: {given}; give one")
    raise UsageError(f"the application gives no {what}: it gives {given}")
