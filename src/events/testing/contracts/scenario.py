"""One test's world: names of its own, buses that are shut down for it, and no leak at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from uuid import uuid4

from events.integration.event import IntegrationEvent
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.message import DeadLetter
from events.integration.topology import (
    Consumer,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.testing.contracts.harness import Harness
from events.testing.contracts.probe import Arrival, Numbered, Probe, React
from events.testing.waiting import eventually

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

_MARKER = -1


class Scenario:
    """Topics, consumers and buses for one test, and ways to wait for what they do."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.lines: list[logging.LogRecord] = []
        self._tag = uuid4().hex[:8]
        self._buses: list[TransportIntegrationEventBus] = []
        self._strays: list[str] = []
        self._before: set[asyncio.Task[Any]] = set()
        self._log = _Keep(self.lines)

    # --- making -------------------------------------------------------------------------------

    def topic(self, name: str = "topic") -> Topic:
        """Return a topic of this test's own; the same for the same name."""
        return Topic(f"{name}-{self._tag}")

    def probe(self, name: str = "consumer", react: React | None = None) -> Probe:
        """Return a new consumer; those of one name share it."""
        return Probe(f"{name}-{self._tag}", react)

    def registration(
        self,
        consumer: Consumer,
        topic: Topic,
        *events: type[IntegrationEvent],
        concurrency: int = 1,
        order_by: Callable[[Any], object] | None = None,
        retry: RetryPolicy | None = None,
    ) -> IntegrationEventBusRegistration:
        """Return a registration, of `Numbered` unless others are given."""
        return IntegrationEventBusRegistration(
            consumer,
            topic,
            events or (Numbered,),
            concurrency=concurrency,
            order_by=order_by,
            retry=retry,
        )

    def retry(self, attempts: int, *, in_place: bool) -> RetryPolicy:
        """Return a policy with delays of 2, 4, 8 ... paces, waited for here or at the broker."""
        pace = self.harness.pace
        return RetryPolicy(
            attempts=attempts,
            delay=2 * pace,
            factor=2,
            jitter=0,
            in_place=self.harness.deadline if in_place else 0,
        )

    def bus(self, **options: Unpack[BusOptions]) -> TransportIntegrationEventBus:
        """Return a new bus, not started, that is shut down when the test ends."""
        # No contract says how long connecting takes: on a busy machine longer than by default.
        options.setdefault("connect_timeout", max(5.0, self.harness.timeout))
        options.setdefault("startup_timeout", max(30.0, self.harness.timeout))
        bus = self.harness.new_bus(**options)
        self._buses.append(bus)
        return bus

    async def started(
        self, *registrations: IntegrationEventBusRegistration, **options: Unpack[BusOptions]
    ) -> TransportIntegrationEventBus:
        """Return a new bus that receives for these registrations."""
        bus = self.bus(**options)
        for registration in registrations:
            await bus.register(registration)
        await self.soon(bus.startup(), "startup")
        return bus

    # --- waiting ------------------------------------------------------------------------------

    async def eventually(
        self, condition: Callable[[], object], what: str, saw: Callable[[], object]
    ) -> None:
        """Return when the condition is true; fail, naming `what`, after the timeout."""
        try:
            await eventually(condition, self.harness.timeout)
        except AssertionError:
            raise AssertionError(
                f"not within {self.harness.timeout:g} s: {what}; seen: {saw()!r}"
            ) from None

    async def soon(self, awaitable: Awaitable[T], what: str) -> T:
        """Return what it gives; fail, naming `what`, after the timeout."""
        timeout = asyncio.timeout(self.harness.timeout)
        try:
            async with timeout:
                return await awaitable
        except TimeoutError:
            if not timeout.expired():
                raise
            raise AssertionError(f"not within {self.harness.timeout:g} s: {what} returns") from None

    async def refuses(self, awaitable: Awaitable[object], error: type[E], what: str) -> E:
        """Return the error that it raises; fail, naming `what`, if it raises none."""
        try:
            await self.soon(awaitable, what)
        except error as raised:
            return raised
        raise AssertionError(f"{what} returns, and should raise {error.__name__}")

    async def holds(self, condition: Callable[[], object], what: str, paces: int = 5) -> None:
        """Watch for some paces that a condition stays true."""
        loop = asyncio.get_running_loop()
        end = loop.time() + paces * self.harness.pace
        while loop.time() < end:
            assert condition(), what
            await asyncio.sleep(self.harness.pace / 10)
        assert condition(), what

    async def handled(self, count: int, *probes: Probe) -> None:
        """Return when these have handled so many events in all."""
        await self.eventually(
            lambda: sum(len(probe.handled) for probe in probes) >= count,
            f"{count} events are handled",
            lambda: {probe.name: len(probe.handled) for probe in probes},
        )

    async def still_open(self, due: Mapping[str, int], what: str) -> None:
        """Return when so much is open at the broker, which may hear of an end a moment later."""
        seen: dict[str, int] = {}

        async def is_due() -> bool:
            seen.clear()
            seen.update(await self.harness.open_resources())
            return all(seen.get(kind, 0) == due.get(kind, 0) for kind in {*seen, *due})

        await self.eventually(is_due, what, lambda: seen)

    async def dead_letters(
        self, bus: TransportIntegrationEventBus, consumer: Consumer, count: int
    ) -> list[DeadLetter]:
        """Return the consumer's dead letters as soon as there are so many."""
        letters: list[DeadLetter] = []

        async def enough() -> bool:
            letters[:] = await bus.dead_letters(consumer)
            return len(letters) >= count

        await self.eventually(enough, f"there are {count} dead letters", lambda: letters)
        assert len(letters) == count, f"{len(letters)} dead letters, where {count} are due"
        return letters

    async def left_over(
        self, topic: Topic, consumer: Consumer, *events: type[IntegrationEvent]
    ) -> list[Arrival]:
        """Return what comes to a consumer of this name that starts now, in the order it comes.

        Shut the others of that name down first. It sends an event of its own and listens until that
        one has come, and a little longer.
        """
        probe = Probe(consumer.name)
        registration = self.registration(probe, topic, *events)
        bus = await self.started(registration)
        await self.soon(bus.send(topic, Numbered(_MARKER)), "send")
        await self.eventually(
            lambda: _MARKER in probe.numbers,
            "a consumer that restarts gets what is sent now",
            lambda: probe.handled,
        )
        await self.holds(lambda: True, "time passes")
        await self.stop(bus)
        return [arrival for arrival in probe.arrivals if arrival.event.number != _MARKER]

    async def stop(self, *buses: TransportIntegrationEventBus) -> None:
        """Shut these buses down."""
        for bus in buses:
            await self.soon(bus.shutdown(), "shutdown")

    # --- the end ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        logging.getLogger("events.integration").addHandler(self._log)
        asyncio.get_running_loop().set_exception_handler(self._stray)
        self._before = asyncio.all_tasks()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            try:
                await self._shut_down()
                await self._check_nothing_is_left()
            finally:
                await self.harness.aclose()
        except Exception:
            # What the test itself found says more than what its end finds then.
            if exc is None:
                raise
        finally:
            logging.getLogger("events.integration").removeHandler(self._log)

    async def _shut_down(self) -> None:
        failures: list[Exception] = []
        for bus in self._buses:
            try:
                await self.soon(bus.shutdown(grace=0), "shutdown(grace=0)")
            except Exception as error:  # noqa: BLE001 - the others are shut down all the same
                failures.append(error)
        if failures:
            raise failures[0]

    async def _check_nothing_is_left(self) -> None:
        for bus in self._buses:
            health = bus.health()
            assert not bus.transport.connected, f"{bus!r} is shut down, its transport connected"
            assert not health.started, f"{bus!r} is shut down, its health says it is started"
            assert not health.consumers, f"{bus!r} is shut down, its health shows consumers"
        await self.eventually(
            lambda: not self.tasks(), "after shutdown, no task of the bus's is left", self.tasks
        )
        await self.still_open({}, "after shutdown, nothing is open at the broker")
        assert not self._strays, f"errors that were not seen: {self._strays}"

    def tasks(self) -> list[str]:
        """Return the tasks that were not there when the test began."""
        return [task.get_name() for task in asyncio.all_tasks() - self._before]

    def _stray(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._strays.append(f"{context.get('message')}: {context.get('exception')!r}")


class _Keep(logging.Handler):
    def __init__(self, lines: list[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record)
