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
import inspect
import tomllib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from events._named import load_named, running
from events.cli._exit import UsageError

T = TypeVar("T")

_GIVE = (
    "give a bus, an OutboxRelay, several of them, or a function without arguments that makes them"
)
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


def named(path: str | None) -> str:
    """Return the path given, or the one that pyproject.toml names. Raises `UsageError`."""
    path = path or configured().get("app")
    if not path:
        raise UsageError(_WANTED)
    return str(path)


def load(path: str | None) -> object:
    """Import what `module:name` names, or what pyproject.toml names if it is None.

    Raises:
        UsageError: nothing is named, or it cannot be found.
        UserCodeError: a module that is found cannot be imported.
    """
    try:
        return load_named(named(path))
    except ValueError as error:
        raise UsageError(str(error)) from None


@asynccontextmanager
async def opened(app: object) -> AsyncGenerator[Sequence[object]]:
    """Yield the parts of an application, or those that its function makes.

    Raises `UserCodeError` if the function fails.
    """
    made = given = app
    function = app if callable(app) and not _is_part(app) else None
    if function is not None:
        _require_no_arguments(function)
    async with AsyncExitStack() as stack:
        with running(str(getattr(app, "__module__", ""))):
            if function is not None:
                made = function()
            if inspect.isawaitable(made):
                made = await made
            given, is_part = made, _is_part(made)
            if isinstance(made, AbstractAsyncContextManager) and not is_part:
                opening = cast("AbstractAsyncContextManager[object]", made)
                given = await stack.enter_async_context(opening)
        yield _parts(given)


def _require_no_arguments(app: Callable[..., object]) -> None:
    """Raise a `UsageError` for what cannot be called as it is, such as a web application."""
    try:
        inspect.signature(app).bind()
    except ValueError:  # a class of an extension module: nothing says what it takes
        return
    except TypeError:
        what = getattr(app, "__qualname__", f"of the class {type(app).__qualname__}")
        raise UsageError(f"the application is {what}, which takes arguments: {_GIVE}") from None


def _is_part(given: object) -> bool:
    """Return whether this is a bus or a relay, not a function that makes one."""
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
    found = find_all(parts, kind, what)
    if len(found) > 1:
        raise UsageError(
            f"the application gives {len(found)} of {what}: {_classes(parts)}; give one"
        )
    return found[0]


def find_all(parts: Sequence[object], kind: type[T], what: str) -> list[T]:
    """Return each part of this class. Raises `UsageError` where there is none."""
    found = [part for part in parts if isinstance(part, kind)]
    if not found:
        raise UsageError(f"the application gives no {what}: it gives {_classes(parts)}; {_GIVE}")
    return found


def _classes(parts: Sequence[object]) -> str:
    return ", ".join(type(part).__name__ for part in parts) or "nothing"
