import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from events.integration import (
    EventHandlerConsumer,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.testing import RecordingIntegrationEventBus, eventually, until_quiet

TOPIC = Topic("waits")


@dataclass
class Waited(IntegrationEvent):
    type = "tests.waited"
    version = 1
    again: int = 0


async def test_eventually_gives_what_the_condition_gives() -> None:
    found: list[str] = []
    asyncio.get_running_loop().call_later(0.01, found.append, "it")
    assert await eventually(lambda: found and found[0]) == "it"


async def test_eventually_takes_async_conditions() -> None:
    looks = 0

    async def third_time() -> bool:
        nonlocal looks
        looks += 1
        return looks == 3

    assert await eventually(third_time) is True


async def test_eventually_takes_assertions() -> None:
    looks: list[int] = []

    def enough() -> bool:
        looks.append(1)
        assert len(looks) > 2
        return True

    await eventually(enough)


async def test_eventually_says_where_and_what_it_saw() -> None:
    arrived: list[int] = []
    with pytest.raises(
        AssertionError,
        match=r"waited 0\.01 s for <lambda> at test_waiting\.py:\d+: it gave \[\]; seen: 'nothing'",
    ):
        await eventually(lambda: not arrived and [], 0.01, saw=lambda: "nothing")


async def test_eventually_says_which_assertion_failed() -> None:
    def never() -> bool:
        raise AssertionError("not yet")

    with pytest.raises(AssertionError, match="it raised not yet"):
        await eventually(never, 0.01)


async def test_eventually_names_conditions_without_code() -> None:
    with pytest.raises(AssertionError, match="for <class 'list'>: it gave"):
        await eventually(list, 0.01)


async def test_eventually_looks_once_more_when_the_time_is_over() -> None:
    assert await eventually(lambda: True, 0) is True


async def test_other_errors_of_a_condition_come_through() -> None:
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 / 0)


async def test_until_quiet_includes_retries_and_what_handlers_send() -> None:
    handled: list[int] = []
    failed = False

    async def handle(event: Waited) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise RuntimeError("once")
        handled.append(event.again)
        if event.again:
            await bus.send(TOPIC, Waited(event.again - 1))

    consumer = EventHandlerConsumer("mailer", {Waited: handle})
    retry = RetryPolicy(delay=0.01, in_place=0)
    bus = InMemoryIntegrationEventBus(
        [IntegrationEventBusRegistration(consumer, TOPIC, [Waited], retry=retry)]
    )
    async with bus:
        await bus.send(TOPIC, Waited(2))
        await until_quiet(bus)
        assert handled == [2, 1, 0]


async def test_until_quiet_says_who_has_what_and_whom_nobody_runs() -> None:
    async def hang(event: Waited) -> None:
        await asyncio.Event().wait()

    busy, idle = (
        IntegrationEventBusRegistration(EventHandlerConsumer(n, {Waited: hang}), TOPIC, [Waited])
        for n in ("busy", "idle")
    )
    bus = InMemoryIntegrationEventBus([busy, idle], shutdown_grace=0)
    async with bus:
        await bus.unregister(idle)
        await bus.send_many(TOPIC, [Waited(), Waited()])
        with pytest.raises(AssertionError) as failure:
            await until_quiet(bus.broker, 0.01)
    assert str(failure.value) == (
        "not quiet after 0.01 s: 'busy' has 2 of topic 'waits'; "
        "'idle' has 2 of topic 'waits' (no such consumer is running)"
    )


async def test_until_quiet_refuses_a_bus_that_cannot_tell() -> None:
    bus: Any = RecordingIntegrationEventBus()
    with pytest.raises(TypeError, match="until_quiet needs a bus in memory, not .*`eventually`"):
        await until_quiet(bus)
