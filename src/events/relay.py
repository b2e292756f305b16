"""The outbox relay as a process of its own: `python -m events.relay module:factory`.

The factory takes no arguments and returns an `OutboxRelay`, or an async context manager that gives
one, which is where the bus is started and the engine disposed of:

    @asynccontextmanager
    async def make_relay() -> AsyncIterator[OutboxRelay]:
        engine = create_async_engine(DATABASE_URL)
        try:
            async with make_bus() as bus:
                yield OutboxRelay(SQLAlchemyOutboxStore(engine), bus)
        finally:
            await engine.dispose()

SIGTERM and SIGINT let the batch in flight end. The exit status is 0 after a signal, 1 if the relay
or what it needs failed, and 2 if the argument is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, cast

from events.errors import EventsError
from events.integration.outbox import OutboxRelay

__all__ = ["main"]

RelayFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[OutboxRelay]]

logger = logging.getLogger("events.relay")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the relay that the factory makes, and return the exit status."""
    parser = argparse.ArgumentParser(prog="events.relay", description="Run an outbox relay.")
    parser.add_argument("factory", help="what makes the relay, as in myservice.relay:make_relay")
    parser.add_argument("--log-level", default="INFO", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        logging.basicConfig(
            level=arguments.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        factory = _load(arguments.factory)
    except ValueError as error:
        parser.error(str(error))
    try:
        asyncio.run(_run(factory))
    except EventsError as error:
        logger.critical("%s", error)
        return 1
    return 0


async def _run(factory: RelayFactory) -> None:
    made: object = factory()
    if not isinstance(made, AbstractAsyncContextManager):
        raise TypeError(
            f"{factory!r} returned {made!r}: return an OutboxRelay, or write it as an "
            f"@asynccontextmanager that yields one"
        )
    context: AbstractAsyncContextManager[Any] = made
    async with context as relay:
        if not isinstance(relay, OutboxRelay):
            raise TypeError(f"{factory!r} gave {relay!r}, which is not an OutboxRelay")
        logger.info("%r runs; stop it with SIGTERM", relay)
        await relay.run()
    logger.info("%r has stopped", relay)


def _load(path: str) -> RelayFactory:
    """Import what `module:factory` names; ValueError says what is wrong with it."""
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"{path!r} is not of the form module:factory")
    # As `python -m` does, and a console script does not: what lies here can be imported.
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"there is no module {error.name!r} to import, here or installed"
        ) from error
    factory: Any = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(  # noqa: TRY004 - the argument is wrong, as all errors here say
            f"{module_name!r} has no callable {name!r}"
        )
    return cast("RelayFactory", factory)


if __name__ == "__main__":
    sys.exit(main())
