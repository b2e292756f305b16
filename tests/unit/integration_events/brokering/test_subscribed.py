"""The life of a subscription: settlements to their verbs, tasks that end it, the order of its end."""

from __future__ import annotations

import asyncio

import pytest

from events.integration.brokering.subscribed import BrokerSubscribed
from events.integration.message import Ack, Delivery, Reject, Release, Retry, Settlement


class Noted(BrokerSubscribed[str]):
    """Notes what is asked of its broker."""

    def __init__(self) -> None:
        super().__init__("letters on topic 'users'", self.handle)
        self.handled: list[tuple[Delivery, asyncio.Future[Settlement]]] = []
        self.notes: list[object] = []
        self.settled = asyncio.Event()

    def handle(self, delivery: Delivery) -> asyncio.Future[Settlement]:
        future: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        self.handled.append((delivery, future))
        return future

    def ack(self, in_flight: str) -> None:
        self.notes.append(("ack", in_flight))

    def retry(self, in_flight: str, retry: Retry) -> None:
        self.notes.append(("retry", in_flight, retry))

    def dead_letter(self, in_flight: str, reject: Reject) -> None:
        self.notes.append(("dead letter", in_flight, reject))

    def release(self, in_flight: str) -> None:
        self.notes.append(("release", in_flight))

    async def pause(self) -> None:
        self.notes.append("paused")

    async def settle_all(self) -> None:
        await self.settled.wait()
        self.notes.append("settled")

    async def leave(self) -> None:
        self.notes.append("left")

    async def for_ever(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.notes.append("task ended")


async def test_each_settlement_has_its_verb() -> None:
    noted = Noted()
    retry, reject = Retry(1.5, 2), Reject("undecodable", "no JSON", 1)
    settlements: list[Settlement] = [Ack(), retry, reject, Release()]
    for name, settlement in zip("abcd", settlements, strict=True):
        delivery = Delivery("users", "letters", name, b"", {})
        noted.hand_over(name, delivery)
        handled, future = noted.handled[-1]
        assert handled is delivery
        future.set_result(settlement)
    await asyncio.sleep(0)
    assert noted.notes == [
        ("ack", "a"),
        ("retry", "b", retry),
        ("dead letter", "c", reject),
        ("release", "d"),
    ]


async def test_it_stops_taking_then_settles_then_ends_its_tasks_then_leaves() -> None:
    noted = Noted()
    noted.spawn(noted.for_ever())
    closing = asyncio.create_task(noted.close())
    await asyncio.sleep(0.01)
    assert noted.notes == ["paused"]
    assert not closing.done()
    noted.settled.set()
    await closing
    assert noted.notes == ["paused", "settled", "task ended", "left"]
    await noted.wait_closed()


async def test_a_mistake_in_a_task_ends_it_and_is_seen_by_who_waits() -> None:
    noted = Noted()
    closed: list[bool] = []
    noted.on_closed(lambda: closed.append(True))

    async def mistake() -> None:
        raise LookupError("a mistake")

    noted.spawn(mistake())
    with pytest.raises(LookupError, match="a mistake"):
        await noted.wait_closed()
    assert closed == [True]
    noted.settled.set()
    await noted.close()
    with pytest.raises(LookupError):
        await noted.wait_closed()


async def test_a_task_that_is_cancelled_ends_nothing() -> None:
    noted = Noted()
    noted.spawn(noted.for_ever()).cancel()
    await asyncio.sleep(0.01)
    waiting = asyncio.ensure_future(noted.wait_closed())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()
    noted.settled.set()
    await noted.close()
