"""What RabbitMQ's quarantine waits for, and what becomes of it at the end."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from events.integration.implementation.rabbitmq import _wire as wire
from events.integration.implementation.rabbitmq._driver import Properties, new_properties
from events.integration.implementation.rabbitmq._in_flight import InFlight
from events.integration.implementation.rabbitmq._quarantine import Quarantine
from events.integration.implementation.rabbitmq._topology import Names, Queue

NAMES = Names("emails", "users", "quorum")


class Registration:
    """What stands around them, as `_subscribed` does."""

    def __init__(self) -> None:
        self.in_flight: set[InFlight] = set()
        self.handled: list[InFlight] = []
        self.moved: list[tuple[InFlight, str, int]] = []
        self.acknowledged: list[InFlight] = []
        self.quarantine = Quarantine(
            NAMES,
            self.in_flight,
            move=self._move,
            hand_over=self._hand_over,
            acknowledge=self.acknowledge,
        )

    def _hand_over(self, in_flight: InFlight) -> None:
        self.in_flight.add(in_flight)
        self.handled.append(in_flight)

    def _move(self, in_flight: InFlight, queue: Queue, properties: Properties) -> None:
        self.in_flight.add(in_flight)
        self.moved.append((in_flight, queue.name, wire.crashes_of(properties)))

    def acknowledge(self, in_flight: InFlight) -> None:
        if not self.quarantine.keeps(in_flight):
            self.in_flight.discard(in_flight)
            self.acknowledged.append(in_flight)
            self.quarantine.done(in_flight)


@pytest.fixture(autouse=True)
def _no_answer_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("events.integration.implementation.rabbitmq._topology._LATE", math.inf)


class Answers:
    """A channel whose queue has these many, one look after another."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)
        self.calls: list[str] = []

    async def call(self, verb: str, **_: Any) -> Any:
        self.calls.append(verb)
        if verb == "queue_declare":
            count = self.counts.pop(0)
            return SimpleNamespace(method=SimpleNamespace(message_count=count, consumer_count=0))
        return None


@pytest.fixture
def registration() -> Registration:
    return Registration()


def delivery(*, quarantined: bool = True, returns: int = 0, crashes: int = 0) -> InFlight:
    headers: dict[str, Any] = {"x-delivery-count": returns} if returns else {}
    properties = wire.with_crashes(new_properties(message_id="1", headers=headers), crashes)
    properties.headers |= headers
    method = SimpleNamespace(delivery_tag=1, routing_key="type", redelivered=bool(returns))
    channel: Any = None
    return InFlight(channel, method, properties, b"", quarantined=quarantined)


def test_one_waits_until_those_before_it_are_in_the_queue(registration: Registration) -> None:
    moved, alone = delivery(quarantined=False, returns=2), delivery()
    assert registration.quarantine.take_back(moved)
    registration.quarantine.take(alone)
    assert not registration.handled
    registration.acknowledge(moved)
    assert registration.handled == [alone]


def test_one_that_still_waits_at_the_end_is_put_back_as_it_is(registration: Registration) -> None:
    moved, alone = delivery(quarantined=False, returns=2), delivery(crashes=2)
    registration.quarantine.take_back(moved)
    registration.quarantine.take(alone)
    registration.quarantine.stop()
    registration.acknowledge(moved)
    assert not registration.handled
    assert registration.acknowledged == [moved], "only what is in quarantine must be held on to"
    registration.quarantine.left()
    assert registration.moved[1:] == [(alone, "emails@users:quarantine", 2)]


def test_one_that_no_handler_saw_before_its_channel_was_lost_has_not_crashed(
    registration: Registration,
) -> None:
    quarantine = registration.quarantine
    quarantine.take_back(delivery(quarantined=False, returns=2))
    quarantine.take(delivery(crashes=2))
    quarantine.forget()
    assert not quarantine.take_back(delivery(crashes=2)), "it was never begun"
    assert quarantine.take_back(delivery(crashes=2)), "now it was"
    assert registration.moved[1:] == [(registration.moved[1][0], "emails@users:quarantine", 3)]


def test_what_ends_during_the_end_is_acknowledged_after_it(registration: Registration) -> None:
    alone = delivery()
    registration.quarantine.take(alone)
    registration.quarantine.stop()
    registration.acknowledge(alone)
    assert not registration.acknowledged
    registration.quarantine.left()
    assert registration.acknowledged == [alone]


def test_one_that_a_dead_process_had_counts_during_the_end_too(
    registration: Registration,
) -> None:
    alone = delivery(returns=1)
    registration.quarantine.stop()
    assert registration.quarantine.take_back(alone)
    assert registration.moved == [(alone, "emails@users:quarantine", 1)]


def test_after_the_end_nothing_is_held_on_to(registration: Registration) -> None:
    alone = delivery()
    registration.quarantine.take(alone)
    registration.quarantine.stop()
    registration.quarantine.left()
    registration.quarantine.stop()  # as by `close` after `pause`
    registration.acknowledge(alone)
    assert registration.acknowledged == [alone]


def test_what_was_here_is_forgotten_with_its_channel(registration: Registration) -> None:
    alone = delivery()
    registration.quarantine.take(alone)
    registration.quarantine.stop()
    registration.acknowledge(alone)
    registration.quarantine.take(delivery())
    registration.quarantine.forget()
    registration.quarantine.left()
    assert not registration.acknowledged
    assert not registration.moved


async def leave(registration: Registration, answers: Answers) -> list[str]:
    channel: Any = answers
    registration.quarantine.stop()
    await registration.quarantine.leave(channel, "tag")
    return answers.calls


async def test_with_one_here_the_consumer_is_cancelled_at_once(registration: Registration) -> None:
    registration.quarantine.take(delivery())
    assert await leave(registration, Answers()) == ["basic_cancel"]


async def test_an_empty_queue_is_looked_at_twice(registration: Registration) -> None:
    looks = ["queue_declare", "queue_declare"]
    assert await leave(registration, Answers(0, 0)) == [*looks, "basic_cancel"]


async def test_a_queue_that_is_said_late_to_be_empty_is_asked_again(
    registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.integration.implementation.rabbitmq._topology._LATE", 0)
    looks = ["queue_declare"] * 9
    answers = Answers(0, 0, 3, *[0] * 6)  # then an empty one, as it is always late
    assert await leave(registration, answers) == [*looks, "basic_cancel"]


async def test_while_some_wait_there_one_is_on_its_way(registration: Registration) -> None:
    looks = ["queue_declare"] * 5
    assert await leave(registration, Answers(3, 0, 1, 0, 0)) == [*looks, "basic_cancel"]


async def test_one_that_does_not_come_is_not_waited_for_without_end(
    registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.integration.implementation.rabbitmq._quarantine._BETWEEN_LOOKS", 0)
    calls = await leave(registration, Answers(*[1] * 60))
    assert len(calls) == 51
    assert calls[-1] == "basic_cancel"
