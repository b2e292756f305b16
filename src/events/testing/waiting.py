"""Waiting for something to happen: always with a deadline, never for a guessed time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, overload

from events.integration.brokering.backoff import Backoff
from events.integration.implementation.memory import InMemoryBroker, InMemoryIntegrationEventBus

__all__ = ["eventually", "until_quiet"]

T = TypeVar("T")

_FIRST_LOOK, _LAST_LOOK = 0.001, 0.02  # seconds between looks


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]],
    timeout: float = ...,  # noqa: ASYNC109
    *,
    saw: Callable[[], object] | None = ...,
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T],
    timeout: float = ...,  # noqa: ASYNC109
    *,
    saw: Callable[[], object] | None = ...,
) -> T: ...
async def eventually(
    condition: Callable[[], Any],
    timeout: float = 5.0,  # noqa: ASYNC109 - it is not cut off in mid-look, and says what it saw
    *,
    saw: Callable[[], object] | None = None,
) -> Any:
    """Return what the condition gives as soon as it is true; it may be async.

    A condition that raises AssertionError is not true yet, so a function of asserts will do that
    ends in `return True`.

        >>> arrived = []
        >>> async def main():
        ...     asyncio.get_running_loop().call_later(0.01, arrived.append, "hello")
        ...     await eventually(lambda: "hello" in arrived, saw=lambda: arrived)
        >>> asyncio.run(main())

    Args:
        condition: Looked at every few milliseconds, and one last time at the end.
        timeout: In seconds.
        saw: What to show if it never becomes true, besides what the condition gave last.

    Raises:
        AssertionError: The time is over. It says where the condition is and what was seen.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    backoff = Backoff(_FIRST_LOOK, _LAST_LOOK)
    while True:
        over = loop.time() >= deadline
        try:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            last = f"it gave {value!r}"
        except AssertionError as error:
            last = f"it raised {str(error) or repr(error)}"
        if over:
            seen = "" if saw is None else f"; seen: {saw()!r}"
            raise AssertionError(f"waited {timeout:g} s for {_where(condition)}: {last}{seen}")
        await backoff.pause()


def _where(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    if code is None:
        return repr(condition)
    return f"{code.co_name} at {Path(code.co_filename).name}:{code.co_firstlineno}"


async def until_quiet(
    bus: InMemoryIntegrationEventBus | InMemoryBroker,
    timeout: float = 5.0,  # noqa: ASYNC109 - it says what was left, which a TimeoutError cannot
) -> None:
    """Return when every event is handled or a dead letter, those in retry included.

    It looks at the whole broker, so at all buses that share it, and includes what handlers send.

    Raises:
        AssertionError: The time is over. It says which consumers still have how many events, and
            which of them nobody runs.
        TypeError: The bus is not in memory.
    """
    broker: object = bus if isinstance(bus, InMemoryBroker) else getattr(bus, "broker", None)
    if not isinstance(broker, InMemoryBroker):
        raise TypeError(
            f"until_quiet needs a bus in memory, not {bus!r}: of another nobody knows when it is "
            f"quiet, so wait for what you expect with `eventually`"
        )
    try:
        async with asyncio.timeout(timeout):
            await broker.quiet()
    except TimeoutError:
        running = broker.consumers()
        left = "; ".join(
            f"{consumer!r} has {count} of topic {topic!r}"
            + ("" if (topic, consumer) in running else " (no such consumer is running)")
            for (topic, consumer), count in broker.pending().items()
        )
        raise AssertionError(f"not quiet after {timeout:g} s: {left}") from None
