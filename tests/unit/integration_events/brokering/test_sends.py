"""The table of sends in flight: their order, their places, their deadlines, their outcomes."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Hashable
from typing import Any

import pytest

from events.errors import (
    BusUnavailableError,
    InvalidTopologyError,
    SendOutcomeUnknownError,
    SendRefusedError,
)
from events.integration.brokering.sends import NotMadeYetError, Sends


class Letter:
    """A send, as the table sees it."""

    def __init__(self, name: str, place: Hashable | None = None) -> None:
        self.name = name
        self.place = place
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.number = 0
        self.deadline = 0.0
        self.may_be_there = False

    @property
    def message_id(self) -> str:
        return f"id of {self.name}"


class Broker:
    """Notes what is written, and makes a place when it is let."""

    def __init__(self) -> None:
        self.written: list[Letter] = []
        self.makes: list[Hashable] = []
        self.answers: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.why: str | None = None

    def write(self, send: Letter) -> None:
        send.may_be_there = True
        self.written.append(send)

    async def make(self, place: Hashable) -> None:
        self.makes.append(place)
        answer = await self.answers.get()
        if answer is not None:
            raise answer

    def why_not(self) -> str | None:
        return self.why

    @property
    def names(self) -> str:
        return "".join(each.name for each in self.written)


def table(broker: Broker, timeout: float = 30) -> Sends[Letter]:
    sends = Sends(broker, "Broker()", timeout)
    sends.up()
    return sends


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def add(sends: Sends[Letter], names: str, place: Hashable | None = None) -> list[Letter]:
    letters = [Letter(name, place) for name in names]
    for letter in letters:
        sends.add(letter)
    return letters


async def test_a_place_is_made_once_and_those_that_wait_for_it_keep_their_order() -> None:
    broker = Broker()
    sends = table(broker)
    add(sends, "ab", "exchange")
    add(sends, "x")
    await turns()
    add(sends, "c", "exchange")
    assert (broker.names, broker.makes) == ("x", ["exchange"])
    broker.answers.put_nowait(None)
    await turns()
    add(sends, "d", "exchange")
    assert (broker.names, broker.makes) == ("xabcd", ["exchange"])
    sends.close()


async def test_what_was_not_answered_goes_again_first_and_its_place_is_made_again() -> None:
    broker = Broker()
    sends = table(broker)
    a, b, c = add(sends, "abc", "exchange")
    broker.answers.put_nowait(None)
    await turns()
    sends.taken(b)
    b.future.result()
    sends.hold()
    add(sends, "d", "exchange")
    sends.down([c, a])  # in whatever order the broker has them
    add(sends, "e", "exchange")
    broker.written.clear()
    sends.up()
    add(sends, "f", "exchange")
    broker.answers.put_nowait(None)
    await turns()
    assert (broker.names, broker.makes) == ("acdef", ["exchange"] * 2)
    sends.close()


async def test_those_whose_place_was_being_made_are_in_line_when_the_connection_is_lost() -> None:
    broker = Broker()
    sends = table(broker)
    add(sends, "ab", "exchange")
    await turns()
    sends.down([])
    broker.answers.put_nowait(None)
    await turns()
    assert not broker.written, "what was made was made on the connection before"
    sends.up()
    await turns()
    assert (broker.names, broker.makes) == ("ab", ["exchange"] * 2)
    sends.close()


async def test_one_whose_place_is_gone_keeps_its_place_in_the_order() -> None:
    broker = Broker()
    sends = table(broker)
    a, _ = add(sends, "ab", "stream")
    broker.answers.put_nowait(None)
    await turns()
    broker.written.clear()
    sends.forget("stream")
    add(sends, "c", "stream")
    sends.gone(a, 0)
    broker.answers.put_nowait(None)
    await turns()
    assert broker.names == "ac"
    sends.close()


async def test_a_place_that_cannot_be_made_yet_is_tried_again() -> None:
    broker = Broker()
    sends = table(broker)
    (a,) = add(sends, "a", "stream")
    broker.answers.put_nowait(NotMadeYetError("no leader"))
    broker.answers.put_nowait(None)
    async with asyncio.timeout(60):
        while not broker.written:
            await asyncio.sleep(0.01)
    assert broker.makes == ["stream"] * 2
    sends.taken(a)
    await a.future


async def test_a_place_that_cannot_be_made_fails_those_that_wait_and_the_next_one_tries_again() -> (
    None
):
    broker = Broker()
    sends = table(broker)
    a, b = add(sends, "ab", "stream")
    b.may_be_there = True  # written on a connection before
    broker.answers.put_nowait(InvalidTopologyError("stream", "it has other subjects"))
    await turns()
    with pytest.raises(InvalidTopologyError):
        await a.future
    with pytest.raises(SendOutcomeUnknownError, match=r"id of b.*other subjects"):
        await b.future
    add(sends, "c", "stream")
    broker.answers.put_nowait(None)
    await turns()
    assert broker.names == "c"
    sends.close()


@pytest.mark.parametrize("end", [RuntimeError, asyncio.CancelledError])
async def test_whatever_ends_the_making_nobody_is_left_waiting(end: Any) -> None:
    broker = Broker()
    sends = table(broker)
    (a,) = add(sends, "a", "stream")
    broker.answers.put_nowait(end())
    with pytest.raises(BusUnavailableError, match="stream was not declared"):
        await a.future
    assert not len(sends)


async def test_past_the_deadline_the_outcome_is_known_by_whether_it_was_written() -> None:
    broker = Broker()
    sends = table(broker)
    (a,) = add(sends, "a")
    (b,) = add(sends, "b", "stream")
    broker.answers.put_nowait(NotMadeYetError("no leader"))
    await turns()
    sends.hold()
    broker.why = "not connected"
    (c,) = add(sends, "c")
    for each in (a, b, c):
        each.deadline = 0.0  # not sooner, however slow the machine is
    sends._expire()
    with pytest.raises(SendOutcomeUnknownError, match=r"id of a.*no answer within 30 s"):
        await a.future
    with pytest.raises(BusUnavailableError, match=r"no answer within 30 s: no leader"):
        await b.future
    with pytest.raises(BusUnavailableError, match=r"no answer within 30 s: not connected"):
        await c.future
    assert not len(sends)
    sends.up()
    assert broker.names == "a", "what is over is not written any more"


async def test_one_that_cannot_be_written_now_waits_and_keeps_its_place_in_the_order() -> None:
    broker = Broker()
    sends = table(broker)
    a, b = add(sends, "ab")
    sends.wait(b)
    sends.wait(a)
    broker.written.clear()
    sends.up()
    assert broker.names == "ab"
    sends.close()


async def test_what_is_over_is_forgotten_while_the_outage_goes_on() -> None:
    broker = Broker()
    sends = table(broker, timeout=0.01)
    (a,) = add(sends, "a", "stream")
    sends.hold()
    (b,) = add(sends, "b")
    futures, kept = [a.future, b.future], [weakref.ref(a), weakref.ref(b)]
    del a, b
    for future in futures:
        with pytest.raises(BusUnavailableError):
            await future
    assert [each() for each in kept] == [None, None]
    sends.close()


async def test_what_the_broker_refuses_has_its_error_and_is_over() -> None:
    broker = Broker()
    sends = table(broker)
    a, b = add(sends, "ab")
    sends.refused(a, SendRefusedError("Broker()", "topic", "no permission"))
    assert sends.get(b.number) is b
    assert (list(sends), a.number) == ([b], 0)
    with pytest.raises(SendRefusedError):
        await a.future
    sends.close()


async def test_a_cancelled_send_disturbs_no_outcome() -> None:
    broker = Broker()
    sends = table(broker)
    a, b = add(sends, "ab")
    a.future.cancel()
    sends.taken(a)
    sends.refused(b, SendRefusedError("Broker()", "topic", "no permission"))
    with pytest.raises(SendRefusedError):
        await b.future
    assert not len(sends)


async def test_the_end_waits_for_those_that_somebody_waits_for_and_gives_up_the_rest() -> None:
    broker = Broker()
    sends = table(broker)
    a, b, c = add(sends, "abc")
    a.future.cancel()
    idle = asyncio.ensure_future(sends.wait_idle())
    sends.taken(b)
    await turns()
    assert not idle.done()
    sends.taken(c)
    await idle
    (d,) = add(sends, "d", "stream")
    await turns()
    sends.close()
    with pytest.raises(BusUnavailableError, match="the bus was shut down"):
        await d.future
    assert not len(sends)
