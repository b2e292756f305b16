from __future__ import annotations

import pytest

from events.errors import InvalidTopologyError
from events.integration import (
    Handle,
    IncomingEvent,
    IntegrationEventBusRegistration,
    ManagedMiddleware,
    RetryPolicy,
    Topic,
)
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.pipeline import Serving
from events.testing import until_quiet
from events.testing.contracts import Numbered, Probe

TOPIC = Topic("managed")


class Recorder(ManagedMiddleware):
    def __init__(self, name: str, log: list[str], fails: str = "") -> None:
        self.name = name
        self.log = log
        self.fails = fails
        self.serving: list[Serving] = []

    def note(self, what: str) -> None:
        self.log.append(f"{self.name} {what}")
        if what == self.fails:
            raise ZeroDivisionError(self.name)

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        self.note("call")
        await call_next(incoming)

    def check(self, serving: Serving) -> None:
        self.serving.append(serving)
        self.note("check")

    async def startup(self) -> None:
        self.note("startup")

    async def shutdown(self) -> None:
        self.note("shutdown")


def on(name: str = "worker", retry: RetryPolicy | None = None) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(Probe(name), TOPIC, [Numbered], retry=retry)


async def test_it_lives_from_before_the_first_consumer_to_after_the_last_handler() -> None:
    log: list[str] = []
    outer, inner = Recorder("outer", log), Recorder("inner", log)
    bus = InMemoryIntegrationEventBus([on()], middlewares=[outer, inner])
    async with bus:
        await bus.send(TOPIC, Numbered(1))
        await until_quiet(bus)
    assert log == [
        *("outer startup", "inner startup", "outer check", "inner check"),
        *("outer call", "inner call", "inner shutdown", "outer shutdown"),
    ]
    async with bus:  # and again
        pass
    assert log[8:] == log[:4] + log[6:8]


async def test_it_receives_each_registration_and_the_policy_that_holds_for_it() -> None:
    middleware = Recorder("only", [])
    policy, own = RetryPolicy(attempts=2), RetryPolicy(attempts=9)
    bus = InMemoryIntegrationEventBus([on()], middlewares=[middleware], retry=policy)
    async with bus:
        late = on("late", own)
        await bus.register(late)
    first, second = middleware.serving
    assert first.retry is policy
    assert (second.registration, second.retry, second.middlewares) == (late, own, (middleware,))


async def test_what_it_refuses_is_not_registered() -> None:
    class Refusing(Recorder):
        def check(self, serving: Serving) -> None:
            raise InvalidTopologyError("it", "no")

    async with InMemoryIntegrationEventBus(middlewares=[Refusing("only", [])]) as bus:
        with pytest.raises(InvalidTopologyError):
            await bus.register(on())
        assert bus.registrations == []
        assert bus.health().consumers == ()


@pytest.mark.parametrize("fails", ["startup", "check"])
async def test_a_startup_that_fails_leaves_nothing_started(fails: str) -> None:
    log: list[str] = []
    first, second = Recorder("first", log), Recorder("second", log, fails)
    bus = InMemoryIntegrationEventBus([on()], middlewares=[first, second])
    with pytest.raises(ZeroDivisionError):
        await bus.startup()
    started = {line.split()[0] for line in log if line.endswith("startup")}
    stopped = {line.split()[0] for line in log if line.endswith("shutdown")}
    assert stopped == started - ({"second"} if fails == "startup" else set())
    assert not bus.transport.connected


async def test_a_shutdown_that_fails_keeps_no_other_from_ending() -> None:
    log: list[str] = []
    first, second = Recorder("first", log), Recorder("second", log, "shutdown")
    bus = InMemoryIntegrationEventBus([on()], middlewares=[first, second])
    await bus.startup()
    with pytest.raises(ZeroDivisionError):
        await bus.shutdown()
    assert log[-2:] == ["second shutdown", "first shutdown"]
    assert not bus.transport.connected


@pytest.mark.parametrize(
    ("policy", "window"),
    [
        (RetryPolicy(attempts=1), 0),
        (RetryPolicy(attempts=3, delay=1, factor=2, jitter=0), 3),
        (RetryPolicy(attempts=3, delay=1, factor=2, jitter=0.5), 4.5),
        (RetryPolicy(attempts=6, delay=1, factor=10, max_delay=50, jitter=0), 1 + 10 + 3 * 50),
        (RetryPolicy(attempts=10**12, delay=1, factor=1, jitter=0), 10**12 - 1),
        (RetryPolicy(attempts=101, delay=1e-15, factor=2, max_delay=10**7, jitter=0), None),
    ],
)
def test_the_window_of_a_policy_is_the_sum_of_its_delays(
    policy: RetryPolicy, window: float | None
) -> None:
    if window is None:
        window = sum(policy.delay_after(attempt) for attempt in range(1, policy.attempts))
    assert policy.window == pytest.approx(window)
