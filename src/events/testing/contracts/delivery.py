"""Conformance 1 to 9, and 38: what is sent arrives, all of it, where it should, in order."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable

from events.integration.message import Message
from events.integration.serialization import Serializer
from events.integration.topology import Topic
from events.testing.contracts._foreign import EVENT_ID, cloudevents
from events.testing.contracts.harness import (
    BROADCAST,
    GONE_BEFORE_START,
    GROUPS,
    LOSABLE_CONNECTION,
    ORDERED,
    WAITS_BEFORE_START,
)
from events.testing.contracts.probe import Numbered, Other
from events.testing.contracts.scenario import Scenario
from events.testing.contracts.suite import ContractSuite, contract

BATCH = 100
SENDERS, EACH_SENDS, COMPETITORS = 50, 10, 5
TOPICS, PER_TOPIC = 20, 20
FEW = 10
KEYS = "abcd"
CEILING = 3

HEADERS = {
    "x-greeting": "grüße, привет, 你好 👋",
    "x-percent": "100% %41",
    "x-quoted": '"so it is"',
    "x-spaced": "  two before, two after  ",
    "x-empty": "",
}
TEXTS = ("", "ascii", "žluťoučký kůň", "日本語", '👩‍👩‍👧 \x00\x1f \\ "', "x" * 50_000)


class DeliveryContracts(ContractSuite):
    """Show that a bus delivers."""

    @contract(1)
    async def test_01_a_batch_arrives_whole(self, scenario: Scenario) -> None:
        """Bodies, headers, ids and keys are what was sent, to the byte."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic))
        sent = [_message(topic, number) for number in range(BATCH)]
        outcomes = await scenario.soon(bus.forward(sent), "forward")
        assert outcomes == [None] * BATCH, f"not accepted: {list(filter(None, outcomes))}"
        await scenario.handled(BATCH, probe)
        assert len(probe.arrivals) == BATCH, f"{BATCH} were sent, {len(probe.arrivals)} arrived"
        arrived = {arrival.delivery.id: arrival for arrival in probe.arrivals}
        for number, message in enumerate(sent):
            assert message.id in arrived, f"number {number} arrived under another id"
            event, delivery, _ = arrived[message.id]
            assert delivery.body == message.body, f"the body of number {number} is another"
            assert delivery.headers == message.headers, f"headers of number {number} are others"
            assert delivery.key == message.key, f"the key of number {number} is another"
            assert delivery.topic == topic.name, "the delivery names another topic"
            assert delivery.consumer == probe.name, "the delivery names another consumer"
            assert event == _event(number), f"number {number} was decoded as {event!r}"

    @contract(2, GROUPS)
    async def test_02_competing_consumers_share_the_work(self, scenario: Scenario) -> None:
        """50 send at once, 5 of one name receive; nothing comes twice, nor after a restart."""
        topic = scenario.topic()
        probes = [scenario.probe() for _ in range(COMPETITORS)]
        buses = [await scenario.started(scenario.registration(p, topic)) for p in probes]

        async def send(sender: int) -> None:
            for number in range(sender * EACH_SENDS, (sender + 1) * EACH_SENDS):
                await buses[sender % COMPETITORS].send(topic, Numbered(number))

        await scenario.soon(asyncio.gather(*map(send, range(SENDERS))), "each send")
        await scenario.handled(SENDERS * EACH_SENDS, *probes)
        await scenario.stop(*buses)
        counts = Counter(number for probe in probes for number in probe.numbers)
        missing = set(range(SENDERS * EACH_SENDS)) - set(counts)
        twice = [number for number, count in counts.items() if count > 1]
        assert not missing, f"never handled: {sorted(missing)}"
        assert not twice, f"handled more than once: {sorted(twice)}"
        left = [arrival.event for arrival in await scenario.left_over(topic, probes[0])]
        assert not left, f"handled, and delivered again after a restart: {left}"

    @contract(3)
    async def test_03_topics_in_parallel_do_not_mix(self, scenario: Scenario) -> None:
        """20 topics, each with a consumer of its own, sent to at once."""
        topics = [scenario.topic(f"topic{number}") for number in range(TOPICS)]
        probes = [scenario.probe(f"consumer{number}") for number in range(TOPICS)]
        registrations = map(scenario.registration, probes, topics)
        bus = await scenario.started(*registrations)
        await scenario.soon(
            asyncio.gather(
                *(
                    bus.send_many(topic, [Numbered(n, text=topic.name) for n in range(PER_TOPIC)])
                    for topic in topics
                )
            ),
            "each send_many",
        )
        await scenario.handled(TOPICS * PER_TOPIC, *probes)
        for topic, probe in zip(topics, probes, strict=True):
            leaked = [event for event in probe.handled if event.text != topic.name]
            assert not leaked, f"{probe.name} got events of other topics: {leaked}"
        for probe in probes:
            assert sorted(probe.numbers) == list(range(PER_TOPIC)), f"{probe.name} lacks some"

    @contract(4, GROUPS)
    async def test_04_each_consumer_name_gets_everything(self, scenario: Scenario) -> None:
        """Two names, on one bus and on two."""
        topic = scenario.topic()
        probes = [scenario.probe(name) for name in ("one", "two", "elsewhere")]
        first, second, third = (scenario.registration(probe, topic) for probe in probes)
        bus = await scenario.started(first, second)
        await scenario.started(third)
        await scenario.soon(bus.send_many(topic, map(Numbered, range(FEW))), "send_many")
        for probe in probes:
            await scenario.handled(FEW, probe)
            assert sorted(probe.numbers) == list(range(FEW)), f"{probe.name}: {probe.numbers}"

    @contract(4, BROADCAST)
    async def test_04_each_registration_gets_everything(self, scenario: Scenario) -> None:
        """Two names on one bus, and one of them on another bus as well."""
        topic = scenario.topic()
        probes = [scenario.probe(name) for name in ("one", "two", "one")]
        first, second, third = (scenario.registration(probe, topic) for probe in probes)
        bus = await scenario.started(first, second)
        await scenario.started(third)
        await scenario.soon(bus.send_many(topic, map(Numbered, range(FEW))), "send_many")
        for probe in probes:
            await scenario.handled(FEW, probe)
            assert sorted(probe.numbers) == list(range(FEW)), f"{probe.name}: {probe.numbers}"

    @contract(5)
    async def test_05_one_name_on_two_topics_gets_both(self, scenario: Scenario) -> None:
        """Both types are sent to both topics; of each it wants one."""
        here, there, probe = scenario.topic("here"), scenario.topic("there"), scenario.probe()
        bus = await scenario.started(
            scenario.registration(probe, here, Numbered),
            scenario.registration(probe, there, Other),
        )
        for number in range(FEW):
            for topic in (here, there):
                await scenario.soon(bus.send(topic, Other(number)), "send")
                await scenario.soon(bus.send(topic, Numbered(number)), "send")
        await scenario.handled(2 * FEW, probe)
        await scenario.holds(lambda: len(probe.handled) <= 2 * FEW, "more came than it wants")
        got: Counter[tuple[type, str]] = Counter()
        for event, delivery, _ in probe.arrivals:
            got[type(event), delivery.topic] += 1
        assert got == {(Numbered, here.name): FEW, (Other, there.name): FEW}, (
            f"what came from where: {got}"
        )

    @contract(6)
    async def test_06_types_not_registered_are_skipped(self, scenario: Scenario) -> None:
        """Silently and for good: a consumer that is registered later does not get them."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic, Numbered))
        for number in range(FEW):
            await scenario.soon(bus.send(topic, Other(number)), "send")
        await scenario.soon(bus.send(topic, Numbered(1)), "send")
        await scenario.handled(1, probe)
        assert probe.handled == [Numbered(1)], "it was handed a type that it does not register"
        assert not scenario.lines, f"skipping is worth no warning: {scenario.lines}"
        await scenario.stop(bus)
        left = await scenario.left_over(topic, probe, Numbered, Other)
        assert not left, f"skipped, and came back: {[arrival.event for arrival in left]}"

    @contract(7, WAITS_BEFORE_START)
    async def test_07_what_was_sent_before_the_first_start_waits(self, scenario: Scenario) -> None:
        """It comes as soon as there is a consumer."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started()
        await scenario.soon(bus.send_many(topic, map(Numbered, range(FEW))), "send_many")
        await scenario.started(scenario.registration(probe, topic))
        await scenario.handled(FEW, probe)
        assert sorted(probe.numbers) == list(range(FEW)), f"it got {probe.numbers}"

    @contract(7, GONE_BEFORE_START)
    async def test_07_what_was_sent_before_the_first_start_is_gone(
        self, scenario: Scenario
    ) -> None:
        """A new consumer begins with what is sent after it."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started()
        await scenario.soon(bus.send_many(topic, map(Numbered, range(FEW))), "send_many")
        left = await scenario.left_over(topic, probe)
        assert not left, f"declared gone, and came: {[arrival.event for arrival in left]}"

    @contract(8, ORDERED)
    async def test_08_in_order_one_at_a_time(self, scenario: Scenario) -> None:
        """With a concurrency of 1, however long each takes."""

        async def take_some_turns(event: Numbered) -> None:
            for _ in range(event.number % 7):
                await asyncio.sleep(0)

        topic, probe = scenario.topic(), scenario.probe(react=take_some_turns)
        bus = await scenario.started(scenario.registration(probe, topic))
        await scenario.soon(bus.send_many(topic, map(Numbered, range(BATCH))), "send_many")
        await scenario.handled(BATCH, probe)
        assert probe.numbers == list(range(BATCH)), f"the order is another: {probe.numbers}"
        assert probe.most_running == 1, f"{probe.most_running} ran at once, with concurrency 1"

    @contract(8, ORDERED)
    async def test_08_in_order_within_each_key(self, scenario: Scenario) -> None:
        """With `order_by`; the first of each key waits until one of another key runs beside it."""
        met = asyncio.Event()
        crowded: list[Numbered] = []
        waiting = True

        async def meet(event: Numbered) -> None:
            nonlocal waiting
            if sum(other.key == event.key for other in probe.running) > 1:
                crowded.append(event)
            if len({other.key for other in probe.running}) > 1:
                met.set()
            if waiting:
                try:
                    await asyncio.wait_for(met.wait(), scenario.harness.timeout / 2)
                except TimeoutError:
                    waiting = False
            await asyncio.sleep(0)

        topic, probe = scenario.topic(), scenario.probe(react=meet)
        bus = await scenario.started(
            scenario.registration(
                probe, topic, concurrency=len(KEYS), order_by=lambda event: event.key
            )
        )
        events = [Numbered(number, key) for number in range(BATCH // len(KEYS)) for key in KEYS]
        await scenario.soon(bus.send_many(topic, events), "send_many")
        await scenario.handled(len(events), probe)
        assert met.is_set(), "events of different keys never ran at once"
        assert not crowded, f"ran beside another of its key: {crowded}"
        got: defaultdict[str, list[int]] = defaultdict(list)
        for event in probe.handled:
            got[event.key].append(event.number)
        for key in KEYS:
            assert got[key] == list(range(BATCH // len(KEYS))), f"key {key!r}: {got[key]}"

    @contract(9)
    async def test_09_the_ceiling_holds_under_load(self, scenario: Scenario) -> None:
        """It is reached, and never passed."""
        gate = asyncio.Event()
        topic, probe = scenario.topic(), scenario.probe(react=lambda _: gate.wait())
        bus = await scenario.started(scenario.registration(probe, topic, concurrency=CEILING))
        await scenario.soon(bus.send_many(topic, map(Numbered, range(BATCH))), "send_many")
        await _reaches_ceiling(scenario, lambda: len(probe.running))
        gate.set()
        await scenario.handled(BATCH, probe)
        assert probe.most_running == CEILING, f"{probe.most_running} ran at once"

    @contract(9, LOSABLE_CONNECTION)
    async def test_09_the_ceiling_holds_after_a_reconnect(self, scenario: Scenario) -> None:
        """What is delivered again waits for the handlers that still run."""
        gate = asyncio.Event()
        topic, probe = scenario.topic(), scenario.probe(react=lambda _: gate.wait())
        bus = await scenario.started(scenario.registration(probe, topic, concurrency=CEILING))
        await scenario.soon(bus.send_many(topic, map(Numbered, range(BATCH))), "send_many")
        await _reaches_ceiling(scenario, lambda: len(probe.running))
        await scenario.harness.lose_connection(bus)
        await scenario.eventually(
            lambda: bus.health().healthy, "the bus is connected again", bus.health
        )
        await _reaches_ceiling(scenario, lambda: len(probe.running))
        gate.set()
        await scenario.eventually(
            lambda: set(probe.numbers) == set(range(BATCH)),
            "all is handled",
            lambda: sorted(set(range(BATCH)) - set(probe.numbers)),
        )
        assert probe.most_running == CEILING, f"{probe.most_running} ran at once"

    @contract(38)
    async def test_38_a_cloudevent_keeps_its_id(self, scenario: Scenario) -> None:
        """In each mode, with or without a content type, whatever id a client gives the message."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic))
        sent = cloudevents(topic, headers=bus.transport.features.headers)
        for message in sent:
            await scenario.soon(scenario.harness.publish_raw(bus, message), "publish_raw")
        await scenario.handled(len(sent), probe)
        ids = {arrival.delivery.id for arrival in probe.arrivals}
        assert ids == {EVENT_ID}, f"one event arrived under these ids: {sorted(ids)}"


def _event(number: int) -> Numbered:
    return Numbered(number, text=TEXTS[number % len(TEXTS)])


def _message(topic: Topic, number: int) -> Message:
    key = None if number % 2 else f"ключ {number}"
    return Serializer("/contracts").encode(topic.name, _event(number), key=key, headers=HEADERS)


async def _reaches_ceiling(scenario: Scenario, running: Callable[[], int]) -> None:
    await scenario.eventually(
        lambda: running() >= CEILING, f"{CEILING} handlers run at once", running
    )
    await scenario.holds(lambda: running() <= CEILING, f"more than {CEILING} handlers run at once")
