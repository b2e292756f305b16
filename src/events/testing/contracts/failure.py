"""Conformance 10 to 15: what becomes of an event that cannot be handled."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

from events.errors import MessageTooLargeError
from events.integration.limits import MAX_HEADERS_SIZE
from events.integration.message import Message, current_delivery
from events.integration.serialization import Serializer
from events.integration.topology import Topic
from events.testing.contracts._dead_letters import (
    BAD,
    GOOD,
    NEVER_AGAIN,
    DeadLetterContracts,
    fail_on,
)
from events.testing.contracts.harness import (
    BREAKABLE_DEAD_LETTERS,
    DEAD_LETTERS,
    DELAYED_RETRY,
)
from events.testing.contracts.probe import Numbered
from events.testing.contracts.scenario import Scenario
from events.testing.contracts.suite import contract

TIMES_FAILED = 2
ATTEMPTS = 4
LIMIT = 1_000  # bytes of a body
FAILURES, CONSUMERS, AT_ONCE = 200, 5, 10
BRIEFLY_REFUSED = 3  # calls that are no spin

HEADERS = {"x-kept": "as it was"}


class _OfItsOwnError(BaseException):
    """What some libraries end their own affairs by."""


RAISED = (GeneratorExit, asyncio.CancelledError, _OfItsOwnError)


class FailureContracts(DeadLetterContracts):
    """Show that a bus loses nothing when handlers, bytes or dead letters fail."""

    @contract(10)
    async def test_10_the_third_attempt_succeeds_in_place(self, scenario: Scenario) -> None:
        """Where retries wait in the handler's turn."""
        await _third_attempt_succeeds(scenario, in_place=True)

    @contract(10, DELAYED_RETRY)
    async def test_10_the_third_attempt_succeeds_through_the_broker(
        self, scenario: Scenario
    ) -> None:
        """Where retries wait at the broker."""
        await _third_attempt_succeeds(scenario, in_place=False)

    @contract(10)
    async def test_10_whatever_a_handler_raises_is_a_failed_attempt(
        self, scenario: Scenario
    ) -> None:
        """Also what is no `Exception`; the consumer goes on with the next event."""

        async def fail_first(event: Numbered) -> None:
            delivery = current_delivery()
            if delivery is not None and delivery.attempt == 1:
                raise RAISED[event.number]

        topic, probe = scenario.topic(), scenario.probe(react=fail_first)
        retry = scenario.retry(2, in_place=True)
        bus = await scenario.started(scenario.registration(probe, topic, retry=retry))
        numbers = list(range(len(RAISED)))
        for number in numbers:
            await scenario.soon(bus.send(topic, Numbered(number)), "send")
        await scenario.handled(len(RAISED), probe)
        assert probe.numbers == numbers, f"handled: {probe.numbers}"
        assert probe.attempts == [1, 2] * len(RAISED), f"attempts: {probe.attempts}"
        assert bus.health().healthy, f"the consumer is not well: {bus.health()}"

    @contract(11)
    async def test_11_attempts_are_bounded_in_place(self, scenario: Scenario) -> None:
        """The good event behind has its turn afterwards."""
        await _attempts_are_bounded(scenario, in_place=True)

    @contract(11, DELAYED_RETRY)
    async def test_11_attempts_are_bounded_through_the_broker(self, scenario: Scenario) -> None:
        """The good event behind does not wait for them."""
        probe = await _attempts_are_bounded(scenario, in_place=False)
        order = [arrival.event.number for arrival in probe.arrivals]
        assert order.index(GOOD) < len(order) - 1, "a good event was held up by a bad one"

    @contract(11, DEAD_LETTERS)
    async def test_11_a_dead_letter_tells_all(self, scenario: Scenario) -> None:
        """What it was, why it died, after how many attempts, when."""
        topic, probe = scenario.topic(), scenario.probe(react=fail_on(BAD))
        retry = scenario.retry(ATTEMPTS, in_place=False)
        bus = await scenario.started(scenario.registration(probe, topic, retry=retry))
        sent = Serializer("/contracts").encode(
            topic.name, Numbered(BAD, text="ключ"), key="k", headers=HEADERS
        )
        await scenario.soon(bus.forward([sent]), "forward")
        (letter,) = await scenario.dead_letters(bus, probe, 1)
        assert letter.consumer == probe.name, f"its consumer is {letter.consumer!r}"
        assert letter.reason == "retries-exhausted", f"its reason is {letter.reason!r}"
        assert "RuntimeError: number 1 is bad" in letter.error, f"its error is {letter.error!r}"
        assert letter.attempts == ATTEMPTS, f"its attempts are {letter.attempts}"
        assert letter.died_at.tzinfo is not None, "its time has no zone"
        assert letter.message.body == sent.body, "its body is not the original one"
        assert letter.message.headers == sent.headers, "its headers are not the original ones"
        assert letter.message.id == sent.id, "its message's id is another"
        assert letter.message.topic == topic.name, "its topic is another"

    @contract(12)
    async def test_12_bad_input_is_given_up_at_once(self, scenario: Scenario) -> None:
        """No call, one line in the log for each, and the good event behind is handled."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic), max_body_size=LIMIT)
        sender = await scenario.started()
        bad = _bad_messages(topic)
        for message in bad:
            await scenario.soon(scenario.harness.publish_raw(sender, message), "publish_raw")
        await scenario.soon(bus.send(topic, Numbered(GOOD)), "send")
        await scenario.handled(1, probe)
        await scenario.holds(
            lambda: len(scenario.lines) <= len(bad), "more than one log line for each: a hot loop"
        )
        assert len(scenario.lines) == len(bad), f"log lines: {scenario.lines}"
        assert probe.handled == [Numbered(GOOD)], f"the consumer was called with {probe.handled}"

    @contract(12, DEAD_LETTERS)
    async def test_12_bad_input_is_kept(self, scenario: Scenario) -> None:
        """As dead letters with the bytes as they came."""
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic), max_body_size=LIMIT)
        sender = await scenario.started()
        bad = _bad_messages(topic)
        for message in bad:
            await scenario.soon(scenario.harness.publish_raw(sender, message), "publish_raw")
        letters = await scenario.dead_letters(bus, probe, len(bad))
        bodies = [letter.message.body for letter in letters]
        assert sorted(bodies) == sorted(m.body for m in bad), "their bytes are not the original"
        reasons = Counter(letter.reason for letter in letters)
        assert reasons == {"undecodable": 2, "too-large": 1}, f"their reasons: {reasons}"
        attempts = [letter.attempts for letter in letters]
        assert attempts == [1] * len(bad), f"their attempts: {attempts}"

    @contract(12)
    async def test_12_a_body_over_the_limit_is_not_sent(self, scenario: Scenario) -> None:
        """Nor headers over theirs.

        `send` refuses it, `send_many` before it has sent any; one at the limit arrives.
        """
        topic, probe = scenario.topic(), scenario.probe()
        bus = await scenario.started(scenario.registration(probe, topic), max_body_size=LIMIT)
        large = Numbered(BAD, text="x" * LIMIT)
        await scenario.refuses(bus.send(topic, large), MessageTooLargeError, "send")
        both = bus.send_many(topic, [Numbered(0), large])
        await scenario.refuses(both, MessageTooLargeError, "send_many")
        headers = {"x-large": "\N{EURO SIGN}" * (MAX_HEADERS_SIZE // 3)}
        headed = bus.send(topic, Numbered(BAD), headers=headers)
        await scenario.refuses(headed, MessageTooLargeError, "send of headers over the limit")
        largest = Numbered(GOOD, text="x" * (LIMIT - _size(Numbered(GOOD))))
        await scenario.soon(bus.send(topic, largest), "send of a body as large as the limit")
        await scenario.handled(1, probe)
        assert probe.handled == [largest], f"what was refused came: {probe.handled}"

    @contract(14)
    async def test_14_many_failures_lose_nothing(self, scenario: Scenario) -> None:
        """Each of 200 events fails at its first attempt, at one of 5 consumers of one name."""

        async def fail_first(event: Numbered) -> None:
            await asyncio.sleep(0)
            delivery = current_delivery()
            if delivery is not None and delivery.attempt == 1:
                raise RuntimeError(f"number {event.number} is bad")

        topic = scenario.topic()
        probes = [scenario.probe(react=fail_first) for _ in range(CONSUMERS)]
        retry = scenario.retry(5, in_place=False)
        buses = [
            await scenario.started(
                scenario.registration(probe, topic, concurrency=AT_ONCE, retry=retry)
            )
            for probe in probes
        ]
        await scenario.soon(buses[0].send_many(topic, map(Numbered, range(FAILURES))), "send_many")
        features = buses[0].transport.features
        copies = 1 if features.delivery == "group" else CONSUMERS
        await scenario.handled(FAILURES * copies, *probes)
        counts = Counter(number for probe in probes for number in probe.numbers)
        wrong = {n: counts[n] for n in range(FAILURES) if counts[n] != copies}
        assert not wrong, f"how often these were handled, where {copies} is due: {wrong}"
        if features.dead_letters:
            await scenario.dead_letters(buses[0], probes[0], 0)

    @contract(15, DEAD_LETTERS, BREAKABLE_DEAD_LETTERS)
    async def test_15_what_no_dead_letter_can_hold_stays(self, scenario: Scenario) -> None:
        """Tried again now and then, not all the time, and a dead letter in the end."""
        topic, probe = scenario.topic(), scenario.probe(react=fail_on(BAD))
        bus = await scenario.started(scenario.registration(probe, topic, retry=NEVER_AGAIN))
        async with scenario.harness.break_dead_letters():
            await scenario.soon(bus.send(topic, Numbered(BAD)), "send")
            await scenario.eventually(
                lambda: probe.arrivals, "it is delivered", lambda: probe.arrivals
            )
            await scenario.holds(
                lambda: len(probe.arrivals) <= BRIEFLY_REFUSED,
                "delivered again and again: it spins",
                paces=10,
            )
        await scenario.dead_letters(bus, probe, 1)


async def _third_attempt_succeeds(scenario: Scenario, *, in_place: bool) -> None:
    refused = 0

    async def fail_twice(event: Numbered) -> None:
        nonlocal refused
        delivery = current_delivery()
        assert delivery is not None
        headers: Any = delivery.headers
        try:
            headers["x-kept"] = "meddled with"
        except TypeError:
            refused += 1
        if len(probe.arrivals) <= TIMES_FAILED:
            raise RuntimeError(f"number {event.number} is bad")

    topic, probe = scenario.topic(), scenario.probe(react=fail_twice)
    retry = scenario.retry(TIMES_FAILED + 1, in_place=in_place)
    bus = await scenario.started(scenario.registration(probe, topic, retry=retry))
    await scenario.soon(bus.send(topic, Numbered(BAD), headers=HEADERS), "send")
    await scenario.handled(1, probe)
    assert probe.attempts == [1, 2, 3], f"attempts: {probe.attempts}"
    ids = {arrival.delivery.id for arrival in probe.arrivals}
    assert len(ids) == 1, f"its id changed: {ids}"
    first, *others = [arrival.delivery.headers for arrival in probe.arrivals]
    assert first["x-kept"] == HEADERS["x-kept"], "the headers are not those that were sent"
    assert all(headers == first for headers in others), "headers changed from attempt to attempt"
    if bus.transport.features.dead_letters:
        await scenario.dead_letters(bus, probe, 0)


async def _attempts_are_bounded(scenario: Scenario, *, in_place: bool) -> Any:
    topic, probe = scenario.topic(), scenario.probe(react=fail_on(BAD))
    retry = scenario.retry(ATTEMPTS, in_place=in_place)
    bus = await scenario.started(scenario.registration(probe, topic, retry=retry))
    await scenario.soon(bus.send(topic, Numbered(BAD)), "send")
    await scenario.soon(bus.send(topic, Numbered(GOOD)), "send")

    def bad() -> list[Any]:
        return [arrival for arrival in probe.arrivals if arrival.event.number == BAD]

    await scenario.eventually(
        lambda: len(bad()) >= ATTEMPTS, f"there are {ATTEMPTS} attempts", lambda: probe.attempts
    )
    await scenario.handled(1, probe)
    await scenario.holds(lambda: len(bad()) == ATTEMPTS, "there are attempts after the last")
    attempts = [arrival.delivery.attempt for arrival in bad()]
    assert attempts == list(range(1, ATTEMPTS + 1)), f"attempts: {attempts}"
    for attempt, (before, after) in enumerate(pairwise(bad()), 1):
        # Brokers keep time in milliseconds, and need not round up.
        due = retry.delay_after(attempt) - 0.002
        waited = after.at - before.at
        assert waited >= due, f"attempt {attempt + 1} came after {waited:.3f} s, not {due:.3f} s"
    assert probe.numbers == [GOOD], f"handled: {probe.numbers}"
    return probe


def _size(event: Numbered) -> int:
    return len(Serializer("/contracts").encode("topic", event).body)


def _bad_messages(topic: Topic) -> list[Message]:
    unknown = b'{"type":"%b","version":99,"number":1}' % Numbered.type.encode()
    large = b'{"type":"%b","version":1,"number":1,"text":"%b"}' % (
        Numbered.type.encode(),
        b"x" * LIMIT,
    )
    return [
        Message(topic.name, Numbered.type, f"bad-{number}", body, {})
        for number, body in enumerate((b"\xff\xfe no JSON", unknown, large))
    ]
