"""A database that says nothing any more, as after a failover: the relay gives up, and goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

import pytest

from events.errors import OutboxError
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.outbox import (
    Lease,
    Order,
    OutboxRelay,
    OutboxRow,
    Renewal,
    _outage,
    _timeouts,
)
from events.integration.outbox._timeouts import timeout
from events.integration.pipeline.cancelling import answered
from events.integration.topology import RetryPolicy
from tests.unit.integration_events.outbox_table import Table

DEADLINE = 60.0


class Mute(Table):
    """Does not answer once, when it is asked for the `nth` time."""

    def __init__(self, verb: str, nth: int, *numbers: int) -> None:
        super().__init__(*numbers)
        self.verb = verb
        self.left = nth
        self.given_up = False

    async def _listen_to(self, verb: str) -> None:
        if verb != self.verb:
            return
        self.left -= 1
        if self.left == 0:
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up = True

    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        await self._listen_to("renew")
        return await super().renew(decide)

    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        await self._listen_to("due")
        return await super().due(lease, limit, after=after, max_bytes=max_bytes)

    async def waiting(self, lease: Lease) -> Sequence[tuple[int, str, datetime]]:
        await self._listen_to("waiting")
        return await super().waiting(lease)

    async def remove(self, ids: Collection[int]) -> None:
        await self._listen_to("remove")
        await super().remove(ids)

    async def oldest_age(self) -> float:
        await self._listen_to("oldest_age")
        return await super().oldest_age()

    async def newest(self) -> int:
        await self._listen_to("newest")
        return await super().newest()

    async def has_due(self, up_to: int) -> bool:
        await self._listen_to("has_due")
        return await super().has_due(up_to)


@pytest.mark.parametrize(
    ("verb", "nth", "order"),
    [
        ("renew", 1, "best_effort"),
        ("due", 1, "best_effort"),
        ("due", 2, "best_effort"),  # read ahead
        ("remove", 1, "best_effort"),
        ("oldest_age", 1, "best_effort"),
        ("waiting", 1, "per_key"),
        ("remove", 2, "per_key"),
    ],
)
async def test_a_relay_goes_on_when_its_database_has_not_answered(
    verb: str,
    nth: int,
    order: Order,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in ("_membership", "_relay_loop", "relay"):
        monkeypatch.setattr(f"events.integration.outbox.{module}.timeout", lambda _: 0.5)
    monkeypatch.setattr(_outage, "_BACKOFF", RetryPolicy(delay=0.001, factor=1, jitter=0))
    # Outlasts what a busy machine takes, but for what is asked at the second renewal alone.
    lease = 0.5 if verb == "oldest_age" else 30.0
    table = Mute(verb, nth, *range(6))
    async with (
        InMemoryIntegrationEventBus() as bus,
        OutboxRelay(table, bus, order=order, batch=2, lease=lease) as relay,
        asyncio.timeout(DEADLINE),
    ):
        await relay.drain()
        while not table.given_up or relay.health().outage is not None:
            await asyncio.sleep(0.01)
    assert table.rows == {}
    said = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert any("the database has not answered for 0.5 s" in line for line in said)


@pytest.mark.parametrize("verb", ["newest", "has_due"])
async def test_a_drain_asks_again_when_its_database_has_not_answered(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_timeouts, "_LEAST", 0.05)
    table = Mute(verb, 1, 1)
    async with (
        InMemoryIntegrationEventBus() as bus,
        OutboxRelay(table, bus, lease=0.5) as relay,
        asyncio.timeout(DEADLINE),
    ):
        await relay.drain()
    assert table.given_up
    assert table.rows == {}


async def test_a_timeout_of_the_databases_own_stays_what_it_is() -> None:
    async def refuse() -> None:
        raise TimeoutError("lock wait timeout")

    with pytest.raises(TimeoutError, match="lock wait timeout"):
        await answered(refuse(), 5.0)
    with pytest.raises(OutboxError, match=r"has not answered for 0\.001 s"):
        await answered(asyncio.Event().wait(), 0.001)


def test_short_leases_do_not_throw_connections_away() -> None:
    assert (timeout(0.5), timeout(30.0)) == (10.0, 30.0)
