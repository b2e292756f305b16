"""The life of a process: it ends when its work does, or on the first SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

from sqlalchemy.exc import DBAPIError

from events.errors import EventsError
from examples.user_registration.chassis.http import CannotStartError

_logger = logging.getLogger("chassis.process")

_EXPLAINS_ITSELF = (EventsError, CannotStartError, DBAPIError, OSError)


def run(serve: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run `serve` and return the exit status: 0 after a signal, 1 if it failed.

    The signal cancels it, so whatever it opened with `async with` is closed in order.
    """
    try:
        asyncio.run(_until_signal(serve))
    except KeyboardInterrupt:  # before the handlers were there
        return 130
    except Exception as error:
        causes = list(_leaves(error))
        for cause in causes:
            _logger.critical("%s: %s", type(cause).__name__, cause)
        if not all(isinstance(cause, _EXPLAINS_ITSELF) for cause in causes):
            raise
        return 1
    return 0


def _leaves(error: Exception) -> Iterator[Exception]:
    """Take apart what a task group raised."""
    if isinstance(error, ExceptionGroup):
        for inner in cast("ExceptionGroup[Exception]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


async def _until_signal(serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
    serving = asyncio.create_task(serve())
    signals: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not signals:  # once: a second one would cut short how it closes
            serving.cancel()
        signals.append(number)

    if sys.platform != "win32":
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await serving
    except asyncio.CancelledError:
        if not signals:
            raise
        _logger.info("stopped by %s", signals[0].name)
