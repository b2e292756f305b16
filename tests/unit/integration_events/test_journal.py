"""What a journal writes of an event on its way, and several observers as one."""

from __future__ import annotations

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
from events.integration.journal import MemoryJournal
from events.integration.message import Delivery, Message, Release
from events.integration.observation import Observer, current_observer, observe, together
from events.memory import MemoryBus
from events.testing import RecordingObserver, until_quiet

TOPIC = Topic("journal")


@dataclass(frozen=True)
class Happened(IntegrationEvent):
    type = "journal.happened"
    version = 1
    number: int


def bus(handler: Any, **options: Any) -> MemoryBus:
    consumer = EventHandlerConsumer("reader", {Happened: handler})
    retry = RetryPolicy(attempts=2, delay=0.001, jitter=0)
    return MemoryBus(
        [IntegrationEventBusRegistration(consumer, TOPIC, [Happened], retry=retry)], **options
    )


async def handler(event: Happened) -> None:
    if event.number:
        raise ValueError(f"no {event.number}")


async def test_what_is_written_of_an_event_that_is_handled_and_of_one_that_dies() -> None:
    async with MemoryJournal() as journal, bus(handler) as made:
        await made.send(TOPIC, Happened(0), id="one")
        await made.send(TOPIC, Happened(1), id="two")
        await until_quiet(made)
        await made.send_many(TOPIC, [Happened(0)])
        await until_quiet(made)
    one, two = await journal.entries("one"), await journal.entries("two")
    assert [(e.what, e.consumer, e.attempt) for e in one] == [
        ("sent", None, None),
        ("handled", "reader", 1),
    ]
    assert [(e.what, e.attempt) for e in two] == [
        ("sent", None),
        ("failed", 1),
        ("retried", 1),
        ("failed", 2),
        ("died", 2),
    ]
    assert two[1].detail == "ValueError: no 1"
    assert two[2].detail == "again in 0.001 s"
    assert (two[-1].detail or "").startswith("retries-exhausted: ValueError: no 1\nat ")
    assert {e.type for e in (*one, *two)} == {"journal.happened"}
    assert {e.topic for e in (*one, *two)} == {"journal"}
    assert current_observer() is None


async def test_what_was_not_sent_is_written_with_the_error() -> None:
    journal = MemoryJournal()
    message = Message("journal", "t", "m", b"", {})
    with pytest.raises(RuntimeError), journal.sending(message, "memory"):
        raise RuntimeError("gone")
    with journal.sending_batch([message, message], "memory") as outcomes:
        outcomes += [None, ValueError("full")]
    journal.postponed(message, "full", 2.0)
    journal.parked(message, "retries-exhausted")
    delivery = Delivery("journal", "reader", "m", b"", {"ce-type": "t"})
    journal.settled(delivery, "memory", Release())
    journal.duplicate(delivery)
    assert [(e.what, e.detail) for e in await journal.entries("m")] == [
        ("not sent", "RuntimeError: gone"),
        ("sent", None),
        ("not sent", "ValueError: full"),
        ("postponed", "again in 2 s: full"),
        ("parked", "retries-exhausted"),
        ("released", None),
        ("duplicate", None),
    ]


@pytest.mark.parametrize("error", [RuntimeError("gone"), asyncio.CancelledError("gone")])
async def test_a_batch_that_is_ended_early_was_not_sent(error: BaseException) -> None:
    journal = MemoryJournal()
    messages = [Message("journal", f"t{number}", "m", b"", {}) for number in range(3)]

    def send() -> None:
        with journal.sending_batch(messages, "memory") as outcomes:
            outcomes.append(None)
            raise error

    with pytest.raises(type(error)):
        send()
    detail = f"{type(error).__name__}: gone"
    assert [(e.type, e.what, e.detail) for e in await journal.entries("m")] == [
        ("t0", "sent", None),
        ("t1", "not sent", detail),
        ("t2", "not sent", detail),
    ]


async def test_a_memory_journal_keeps_the_newest() -> None:
    journal = MemoryJournal(max_rows=2)
    for number in range(4):
        journal.created(Message("journal", f"t{number}", "m", b"", {}))
    assert [e.type for e in await journal.entries("m")] == ["t2", "t3"]
    assert [e.type for e in await journal.entries("m", limit=1)] == ["t2"]


async def test_a_journal_observes_beside_who_was_there_and_steps_aside() -> None:
    with RecordingObserver() as seen:
        async with MemoryJournal() as journal, bus(handler) as made:
            await made.send(TOPIC, Happened(0), id="one")
            await until_quiet(made)
        assert current_observer() is seen
    assert {"sending", "received", "processing", "settled"} <= set(seen.names)
    assert [e.what for e in await journal.entries("one")] == ["sent", "handled"]
    other = Observer()
    async with MemoryJournal():
        observe(other)
    assert current_observer() is other
    observe(None)


async def test_journals_may_end_in_any_order() -> None:
    with RecordingObserver() as seen:
        one, two = MemoryJournal(), MemoryJournal()
        await one.__aenter__()
        await two.__aenter__()
        await one.__aexit__(None, None, None)
        observer = current_observer()
        assert observer is not None
        observer.parked(Message("journal", "t", "m", b"", {}), "retries-exhausted")
        assert (await one.entries("m"), len(await two.entries("m"))) == ([], 1)
        assert seen.names == ["parked"]
        await two.__aexit__(None, None, None)
        assert current_observer() is seen
    assert current_observer() is None


async def test_one_journal_that_is_entered_twice_goes_on_until_the_last_exit() -> None:
    journal = MemoryJournal()
    async with journal:
        async with journal:
            pass
        assert current_observer() is journal
    assert current_observer() is None


async def test_together_calls_each_method_of_each_observer() -> None:
    class Marking(RecordingObserver):
        def created(self, message: Message) -> Message:
            super().created(message)
            return Message(message.topic, message.type, message.id + "+", b"", {})

    one, two = Marking(), Marking()
    assert together(None, one) is one
    assert together(None) is None
    both = together(one, two)
    assert both is not None
    message = Message("journal", "t", "m", b"", {})
    delivery = Delivery("journal", "reader", "m", b"", {})
    assert both.created(message).id == "m++"
    with both.sending(message, "s") as sent:
        assert sent is message
    with both.sending_batch([message], "s") as outcomes:
        outcomes.append(None)
    both.postponed(message, "e", 1.0)
    both.parked(message, "r")
    both.received(delivery, "s")
    with both.processing(delivery, "s", "link", str):
        pass
    with both.settling([delivery], "s"):
        pass
    both.retrying(delivery, "s", 1.0)
    both.settled(delivery, "s", Release())
    both.duplicate(delivery)
    both.paused("reader", "s")
    both.resumed("reader", "s")
    both.redriven("reader", 1, "s")
    both.discarded("reader", 1, "s")
    methods = [name for name, each in vars(Observer).items() if callable(each) and name[0] != "_"]
    assert sorted(one.names) == sorted(two.names) == sorted(methods)
