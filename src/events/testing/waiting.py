"""Wait for conditions in tests, with a deadline instead of a fixed time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, overload

from events.integration.brokering.backoff import Backoff
from events.integration.implementation.memory import InMemoryBroker, InMemoryIntegrationEventBus

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
    """Wait until the condition is true, and return its result; it may be async.

    A condition that raises AssertionError is not true yet, so it may be a function of asserts that
    ends with `return True`.

        >>> arrived = []
        >>> async def main():
        ...     asyncio.get_running_loop().call_later(0.01, arrived.append, "hello")
        ...     await eventually(lambda: "hello" in arrived, saw=lambda: arrived)
        >>> asyncio.run(main())

    Args:
        condition: Called every few milliseconds, and once more at the end.
        timeout: In seconds.
        saw: Returns what to show on failure, in addition to the condition's last result.

    Raises:
        AssertionError: The time is over. It says where the condition is and its last result.
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
    """Wait until every event, including those in retry, is handled or a dead letter.

    It covers the whole broker with all buses that share it, and includes events from handlers.

    Raises:
        AssertionError: The time is over. It says how many events each consumer still has, and
            which consumers are not running.
        TypeError: The bus is not in memory.
    """
    broker: object = bus if isinstance(bus, InMemoryBroker) else getattr(bus, "broker", None)
    if not isinstance(broker, InMemoryBroker):
        raise TypeError(
            f"until_quiet needs a bus in memory, not {bus!r}: other buses do not show when they "
            f"are quiet, so wait for the expected result with `eventually`"
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
