"""How a property becomes a test: numbered, skipped with a reason, run to its end or its deadline.

The tests are plain functions that bring their own event loop, so they need no plugin of pytest's
and do not mind the one that is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeAlias, TypeVar

import pytest

from events.testing.contracts.harness import Harness, Need
from events.testing.contracts.properties import PROPERTIES
from events.testing.contracts.scenario import Scenario

Suite = TypeVar("Suite", bound="ContractSuite")
Body: TypeAlias = Callable[[Suite, Scenario], Coroutine[Any, Any, None]]

_LAST_WORDS = 5.0  # seconds that a cancelled test has to clean up


class ContractBrokenError(AssertionError):
    """Raised, from what it was, when a bus raises where the property says that it must not."""


class ContractDeadlineError(AssertionError):
    """Raised when a test has not ended within the harness's deadline."""


class ContractSuite:
    """Base of the suites. A subclass says what to test by its `harness`."""

    harness: ClassVar[type[Harness]]

    def new_harness(self) -> Harness:
        """Return a harness for one test. Override it where making one takes an argument."""
        return type(self).harness()


def contract(number: int, *needs: Need) -> Callable[[Body[Suite]], Callable[[Suite], None]]:
    """Make a test of an async method that shows the property of this number in a `Scenario`.

    It is skipped, saying why, on buses that do not meet the needs. A failure's message begins with
    the number and the property.
    """
    title = f"contract {number} ({PROPERTIES[number]})"

    def decorate(body: Body[Suite]) -> Callable[[Suite], None]:
        def test(self: Suite) -> None:
            __tracebackhide__ = True
            harness = self.new_harness()
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                unmet = runner.run(_unmet(harness, needs))
                if not unmet:
                    runner.run(_judged(title, harness, lambda scenario: body(self, scenario)))
            if unmet:
                _skip(f"{title} needs {' and '.join(unmet)}")

        # Not functools.wraps: pytest would follow it, and look for a fixture named `scenario`.
        test.__name__ = body.__name__
        test.__qualname__ = body.__qualname__
        test.__module__ = body.__module__
        test.__doc__ = body.__doc__
        return test

    return decorate


def _skip(reason: str) -> None:
    pytest.skip(reason)  # from a frame that is not hidden, as pytest shows where it was


async def _unmet(harness: Harness, needs: tuple[Need, ...]) -> list[str]:
    features = harness.new_bus().transport.features
    return [need.what for need in needs if not need.is_met(harness, features)]


async def _judged(
    title: str, harness: Harness, body: Callable[[Scenario], Coroutine[Any, Any, None]]
) -> None:
    __tracebackhide__ = True

    async def play() -> None:
        async with Scenario(harness) as scenario:
            await body(scenario)

    try:
        await _before_deadline(asyncio.ensure_future(play()), harness.deadline)
    except AssertionError as error:
        error.args = (f"{title}: {error}",)
        raise
    except Exception as error:
        raise ContractBrokenError(f"{title}: it raised {error!r}") from error


async def _before_deadline(task: asyncio.Task[None], seconds: float) -> None:
    __tracebackhide__ = True
    await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        where = _where(task)
        task.cancel()
        await asyncio.wait({task}, timeout=_LAST_WORDS)
        raise ContractDeadlineError(f"it has not ended within {seconds:g} s, it waits {where}")
    task.result()


def _where(task: asyncio.Task[None]) -> str:
    """Follow a task to what it awaits."""
    places: list[str] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        places.append(f"in {frame.f_code.co_name}, line {frame.f_lineno}")
        awaited = awaited.cr_await
    return ", ".join(places)
