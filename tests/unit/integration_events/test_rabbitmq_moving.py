"""What RabbitMQ's moves between a consumer's queues acknowledge."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from events.errors import BusUnavailableError
from events.integration.implementation.rabbitmq._driver import new_properties
from events.integration.implementation.rabbitmq._in_flight import InFlight
from events.integration.implementation.rabbitmq._moving import Moves
from events.integration.implementation.rabbitmq._topology import Names
from events.integration.message import Ack

QUEUE = Names("emails", "users", "quorum").main


class Moved:
    """One delivery on its way, and its outcome."""

    def __init__(self) -> None:
        self.published: list[asyncio.Future[None]] = []
        self.acknowledged: list[InFlight] = []
        self.given_up: list[InFlight] = []
        publisher: Any = SimpleNamespace(publish=self._publish)
        self.moves = Moves(
            publisher,
            set(),
            acknowledge=self.acknowledged.append,
            give_up=self.given_up.append,
        )
        channel: Any = None
        method = SimpleNamespace(delivery_tag=1, redelivered=False)
        self.delivery = InFlight(channel, method, new_properties(), b"", quarantined=False)
        self.moves.move(self.delivery, QUEUE, new_properties())

    def _publish(self, *_: Any, **__: Any) -> asyncio.Future[None]:
        self.published.append(asyncio.get_running_loop().create_future())
        return self.published[-1]


async def test_what_is_confirmed_is_acknowledged() -> None:
    moved = Moved()
    moved.published[0].set_result(None)
    await asyncio.sleep(0)
    assert moved.acknowledged == [moved.delivery]


@pytest.mark.parametrize("ended", ["cancelled", "failed"])
async def test_what_is_not_confirmed_is_not_acknowledged(ended: str) -> None:
    moved = Moved()
    if ended == "cancelled":
        moved.published[0].cancel()
    else:
        moved.moves.stop()
        moved.published[0].set_exception(BusUnavailableError("RabbitMQ", "it is down"))
    await asyncio.sleep(0)
    assert not moved.acknowledged
    assert moved.delivery.settlement != Ack()
    assert moved.given_up == [moved.delivery]
