"""Conformance 16 to 21: starting, stopping, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from events.errors import BusError, BusNotStartedError
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.topology import RetryPolicy
from events.testing.contracts.harness import GROUPS
from events.testing.contracts.probe import Numbered
from events.testing.contracts.scenario import Scenario
from events.testing.contracts.suite import ContractSuite, contract

FEW = 5
ROUNDS = 100
WORKERS = 20
TURNS = 5  # of the event loop, after which a send is cancelled at the latest

NEVER_AGAIN = RetryPolicy(attempts=1)


class LifecycleContracts(ContractSuite):
    """Show that a bus starts and stops without losing, leaking or hanging."""

    @contract(16)
    async def test_16_startup_and_shutdown_twice_are_harmless(self, scenario: Scenario) -> None:
        """One after another and at once; what is sent in between is handled once."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = scenario.bus()
        await bus.register(scenario.registration(probe, topic))
        for start in range(2):
            await scenario.soon(bus.startup(), "startup")
            await scenario.soon(asyncio.gather(bus.startup(), bus.startup()), "startup")
            await scenario.soon(bus.send(topic, Numbered(start)), "send")
            await scenario.handled(start + 1, probe)
            await scenario.soon(bus.shutdown(), "shutdown")
            await scenario.soon(asyncio.gather(bus.shutdown(), bus.shutdown()), "shutdown")
        assert probe.numbers == [0, 1], f"handled: {probe.numbers}"

    @contract(16)
    async def test_16_use_before_startup_is_a_clear_error(self, scenario: Scenario) -> None:
        """And after shutdown; it says what to do."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = scenario.bus()
        await bus.register(scenario.registration(probe, topic))
        await _is_told(scenario, bus, bus.send(topic, Numbered(1)))
        await _is_told(scenario, bus, bus.send_many(topic, [Numbered(1)]))
        await _is_told(scenario, bus, bus.forward([]))
        await _is_told(scenario, bus, bus.dead_letters(probe))
        await scenario.soon(bus.startup(), "startup")
        await scenario.soon(bus.shutdown(), "shutdown")
        await _is_told(scenario, bus, bus.send(topic, Numbered(1)))

    @contract(17)
    async def test_17_shutdown_lets_running_handlers_end(self, scenario: Scenario) -> None:
        """It takes nothing more meanwhile, and what was not begun is left to the next start."""
        gate = asyncio.Event()
        topic, probe = scenario.topic(), scenario.probe(react=lambda _: gate.wait())
        bus = await scenario.started(
            # All of one key, so that the bus has some in flight that it has not begun.
            scenario.registration(
                probe, topic, concurrency=2, order_by=lambda _: "key", retry=NEVER_AGAIN
            )
        )
        await scenario.soon(bus.send_many(topic, map(Numbered, range(FEW))), "send_many")
        await scenario.eventually(lambda: probe.running, "one runs", lambda: probe.arrivals)
        stopping = asyncio.create_task(bus.shutdown(grace=scenario.harness.deadline))
        await scenario.holds(lambda: probe.running, "the running handler was cancelled")
        assert not stopping.done(), "shutdown returned while a handler ran"
        gate.set()
        await scenario.soon(stopping, "shutdown")
        assert len(probe.numbers) == 1, f"handled by the end of shutdown: {probe.numbers}"
        assert len(probe.arrivals) == 1, "it took more while it was shutting down"
        if bus.transport.features.delivery == "group":
            left = await scenario.left_over(topic, probe)
            numbers = sorted(arrival.event.number for arrival in left)
            unbegun = sorted(set(range(FEW)) - set(probe.numbers))
            assert numbers == unbegun, f"after the next start came {numbers}, not {unbegun}"
            assert {arrival.delivery.attempt for arrival in left} == {1}, "attempts were counted"

    @contract(17, GROUPS)
    async def test_17_past_the_grace_the_event_comes_back(self, scenario: Scenario) -> None:
        """Its handler is cancelled, which counts as no failure."""
        cancelled = asyncio.Event()

        async def hang(_: Numbered) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        topic, probe = scenario.topic(), scenario.probe(react=hang)
        bus = await scenario.started(scenario.registration(probe, topic, retry=NEVER_AGAIN))
        await scenario.soon(bus.send(topic, Numbered(1)), "send")
        await scenario.eventually(lambda: probe.running, "it runs", lambda: probe.arrivals)
        grace = 2 * scenario.harness.pace
        began = asyncio.get_running_loop().time()
        await scenario.soon(bus.shutdown(grace=grace), "shutdown")
        took = asyncio.get_running_loop().time() - began
        assert cancelled.is_set(), "the handler that outlasted the grace was not cancelled"
        assert took >= 0.9 * grace, f"it was cancelled after {took:.3f} s of {grace:.3f} s grace"
        left = await scenario.left_over(topic, probe)
        assert [a.event.number for a in left] == [1], f"after the next start came {left}"
        assert left[0].delivery.attempt == 1, f"it counts as attempt {left[0].delivery.attempt}"
        if bus.transport.features.dead_letters:
            await scenario.soon(bus.startup(), "startup")
            await scenario.dead_letters(bus, probe, 0)

    @contract(18, GROUPS)
    async def test_18_what_was_sent_meanwhile_arrives(self, scenario: Scenario) -> None:
        """After the next start of the same bus."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic))
        sender = await scenario.started()
        await scenario.soon(sender.send(topic, Numbered(0)), "send")
        await scenario.handled(1, probe)
        await scenario.soon(bus.shutdown(), "shutdown")
        await scenario.soon(sender.send_many(topic, map(Numbered, range(1, FEW))), "send_many")
        assert probe.numbers == [0], "a bus that is shut down handles events"
        await scenario.soon(bus.startup(), "startup")
        await scenario.handled(FEW, probe)
        assert sorted(probe.numbers) == list(range(FEW)), f"handled: {probe.numbers}"

    @contract(19)
    async def test_19_registering_a_hundred_times_leaks_nothing(self, scenario: Scenario) -> None:
        """Two consumers come and go at once, one of them on its own heels, a third gets all."""
        topic, steady = scenario.topic(), scenario.probe("steady")
        bus = await scenario.started(scenario.registration(steady, topic))
        first, second, restless = (
            scenario.registration(scenario.probe(name), topic)
            for name in ("first", "second", "restless")
        )

        async def rounds(count: int) -> None:
            for number in range(count):
                await asyncio.gather(
                    bus.register(first), bus.unregister(second), bus.send(topic, Numbered(number))
                )
                await asyncio.gather(
                    bus.register(second),
                    bus.unregister(first),
                    bus.unregister(restless),
                    bus.register(restless),
                )

        await bus.register(second)
        await bus.register(restless)
        await scenario.soon(rounds(1), "one round")
        before = scenario.tasks(), dict(await scenario.harness.open_resources())
        for _ in range(ROUNDS):  # so that the timeout is for one of them, not for all
            await scenario.soon(rounds(1), "one round")
        await scenario.handled(ROUNDS + 1, steady)
        await scenario.eventually(
            lambda: len(scenario.tasks()) <= len(before[0]),
            f"there are no more than the {len(before[0])} tasks of before",
            scenario.tasks,
        )
        await scenario.still_open(before[1], f"as much is open as was open before: {before[1]}")
        assert len(steady.handled) == ROUNDS + 1, f"the third got {len(steady.handled)}"
        registered = {str(registration) for registration in bus.registrations}
        assert len(registered) == len(bus.health().consumers) == 3, f"registered: {registered}"  # noqa: PLR2004

    @contract(20)
    async def test_20_send_during_shutdown_is_accepted_or_raises(self, scenario: Scenario) -> None:
        """Twenty send until the bus refuses; what was accepted arrives."""
        topic, probe = scenario.topic(), scenario.probe()
        await scenario.started(scenario.registration(probe, topic))
        bus = await scenario.started()
        numbers, down = itertools.count(), asyncio.Event()
        accepted: list[int] = []

        async def send_on() -> None:
            stopped = False
            while not stopped:
                stopped = down.is_set()  # so one more is sent after the shutdown
                number = next(numbers)
                try:
                    await bus.send(topic, Numbered(number))
                except BusError:
                    return
                accepted.append(number)
                await asyncio.sleep(0)

        sending = [asyncio.create_task(send_on()) for _ in range(WORKERS)]
        await scenario.eventually(
            lambda: len(accepted) >= WORKERS, "some are accepted", lambda: accepted
        )
        await scenario.soon(bus.shutdown(), "shutdown")
        down.set()
        await scenario.soon(asyncio.gather(*sending), "each send")
        await scenario.eventually(
            lambda: set(probe.numbers) >= set(accepted),
            "all that were accepted arrive",
            lambda: f"missing: {sorted(set(accepted) - set(probe.numbers))}",
        )

    @contract(21)
    async def test_21_a_cancelled_send_leaves_the_bus_usable(self, scenario: Scenario) -> None:
        """Cancelled at once, and after some turns of the loop, one and many at once."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic))
        sends: tuple[Callable[[], Awaitable[None]], ...] = (
            lambda: bus.send(topic, Numbered(-1)),
            lambda: bus.send_many(topic, [Numbered(-1)] * FEW),
        )
        for send, turns in itertools.product(sends, range(TURNS)):
            task = asyncio.ensure_future(send())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await scenario.soon(asyncio.wait({task}), "a cancelled send")
            if not task.cancelled() and (error := task.exception()):
                raise AssertionError(f"cancelled after {turns} turns, it raised {error!r}")
        for number in range(FEW):
            await scenario.soon(bus.send(topic, Numbered(number)), "send after a cancelled one")
        await scenario.eventually(
            lambda: set(probe.numbers) >= set(range(FEW)),
            "what is sent after a cancelled send arrives",
            lambda: probe.numbers,
        )
        sent = [number for number in probe.numbers if number >= 0]
        assert sent == list(range(FEW)), f"handled: {sent}"


async def _is_told(
    scenario: Scenario, bus: TransportIntegrationEventBus, use: Awaitable[object]
) -> None:
    error = await scenario.refuses(use, BusNotStartedError, "use of a bus that is not started")
    assert repr(bus) in str(error), "the error does not name the bus"
    assert "startup" in str(error), "the error does not say what to do"
