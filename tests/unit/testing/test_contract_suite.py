"""The frame around a contract's test: failures, deadlines, skips, and what must not be left."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from events.integration.implementation.base import TransportIntegrationEventBus
from events.testing.contracts import (
    ContractBrokenError,
    ContractDeadlineError,
    ContractSuite,
    Harness,
    Scenario,
    contract,
)
from events.testing.contracts.harness import LOSABLE_CONNECTION
from tests.unit.testing.sabotage import FaultyHarness

TITLE = r"^contract 1 \(a batch of 100 arrives whole, bodies and headers byte for byte\)"


def play(body: Callable[[Scenario], Coroutine[Any, Any, None]], **attributes: Any) -> None:
    class Suite(ContractSuite):
        def new_harness(self) -> Harness:
            harness = FaultyHarness()
            harness.timeout = 0.05
            vars(harness).update(attributes)
            return harness

        @contract(1)
        async def test(self, scenario: Scenario) -> None:
            await body(scenario)

    Suite().test()


def test_a_test_that_passes_is_not_run_by_a_plugin() -> None:
    @contract(1)
    async def test(self: ContractSuite, scenario: Scenario) -> None:
        """What it shows."""

    assert not inspect.iscoroutinefunction(test)
    assert (test.__name__, test.__doc__) == ("test", "What it shows.")


def test_what_a_bus_raises_is_a_failure_with_its_cause() -> None:
    async def body(scenario: Scenario) -> None:
        raise ValueError("what?")

    with pytest.raises(
        ContractBrokenError, match=rf"{TITLE}: it raised ValueError\('what\?'\)"
    ) as e:
        play(body)
    assert isinstance(e.value.__cause__, ValueError)


def test_a_failed_assertion_keeps_its_text() -> None:
    async def body(scenario: Scenario) -> None:
        assert scenario is None, "no scenario is none"

    with pytest.raises(AssertionError, match=rf"{TITLE}: no scenario is none"):
        play(body)


def test_a_test_that_hangs_ends_and_says_where() -> None:
    async def body(scenario: Scenario) -> None:
        await asyncio.Event().wait()

    with pytest.raises(ContractDeadlineError, match=rf"{TITLE}: .* within 0.05 s.* in body, line"):
        play(body, deadline=0.05)


def test_a_shutdown_that_fails_leaves_neither_another_bus_nor_the_harness() -> None:
    made: list[TransportIntegrationEventBus] = []
    closed: list[str] = []

    async def fail(**_: object) -> None:
        raise RuntimeError("it cannot end")

    async def body(scenario: Scenario) -> None:
        made.extend([await scenario.started(), await scenario.started()])
        vars(made[0])["shutdown"] = fail

    async def aclose() -> None:
        closed.append("harness")

    with pytest.raises(ContractBrokenError, match="it cannot end"):
        play(body, aclose=aclose)
    assert not made[1].health().started
    assert closed == ["harness"]


def test_a_bus_is_shut_down_even_if_the_test_failed() -> None:
    made: list[TransportIntegrationEventBus] = []

    async def body(scenario: Scenario) -> None:
        made.append(await scenario.started())
        assert made == [], "enough"

    with pytest.raises(AssertionError, match="enough"):
        play(body)
    assert not made[0].transport.connected


def test_a_leaked_task_is_found() -> None:
    async def body(scenario: Scenario) -> None:
        scenario.kept = asyncio.create_task(asyncio.Event().wait(), name="leak")  # type: ignore[attr-defined]

    with pytest.raises(AssertionError, match=rf"{TITLE}: .*no task of the bus's is left.*'leak'"):
        play(body)


def test_an_error_that_nobody_saw_is_found() -> None:
    async def body(scenario: Scenario) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="errors that were not seen: .*ZeroDivisionError"):
        play(body)


def test_a_bus_that_stays_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def shutdown(self: object, *, grace: float | None = None) -> None:
        """Leave everything as it is."""

    monkeypatch.setattr(TransportIntegrationEventBus, "shutdown", shutdown)

    async def body(scenario: Scenario) -> None:
        await scenario.started()

    with pytest.raises(AssertionError, match=rf"{TITLE}: .* is shut down, its transport connected"):
        play(body)


def test_what_the_harness_counts_must_be_nothing_at_the_end() -> None:
    async def open_resources() -> dict[str, int]:
        return {"connections": 1, "channels": 0}

    async def body(scenario: Scenario) -> None:
        await scenario.started()

    with pytest.raises(AssertionError, match=r"nothing is open at .*'connections': 1"):
        play(body, open_resources=open_resources)


def test_a_broker_may_hear_of_the_end_a_moment_later() -> None:
    looks: list[int] = []

    async def open_resources() -> dict[str, int]:
        looks.append(max(0, 2 - len(looks)))
        return {"connections": looks[-1]}

    async def body(scenario: Scenario) -> None:
        await scenario.started()

    play(body, open_resources=open_resources, timeout=60.0)
    assert looks == [2, 1, 0]


def test_a_hook_that_the_harness_lacks_skips() -> None:
    class Bare(Harness):
        new_bus = FaultyHarness.new_bus

        def __init__(self) -> None:
            FaultyHarness.__init__(self)  # type: ignore[arg-type]

    class Suite(ContractSuite):
        harness = Bare

        @contract(9, LOSABLE_CONNECTION)
        async def test(self, scenario: Scenario) -> None:
            raise AssertionError

    with pytest.raises(
        pytest.skip.Exception, match=r"^contract 9 \(.*implements `lose_connection`"
    ):
        Suite().test()
