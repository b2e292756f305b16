"""An outbox in memory, for tests of what relays do with one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from events.integration.event import IntegrationEvent
from events.integration.outbox import (
    Backlog,
    Lease,
    OutboxRow,
    Parked,
    ParkedRow,
    Postponed,
    Renewal,
    partition_of,
)
from events.integration.serialization import Serializer

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Numbered(IntegrationEvent):
    type = "test.relay.numbered"
    version = 1
    number: int


def row(number: int, key: str | None = None) -> OutboxRow:
    message = Serializer("/test").encode("numbers", Numbered(number), id=str(number), key=key)
    return OutboxRow(number, message)


class Table:
    """An `OutboxStore`. `broken` maps a verb to how often it is still to fail.

    `now` is the database's clock, in seconds; it stands still unless a test sets it. What is
    postponed is due once `now` has come to it.
    """

    def __init__(self, *numbers: int) -> None:
        self.rows = {number: row(number) for number in numbers}
        self.then: dict[int, float] = {}
        self.errors: dict[int, str] = {}
        self.postponed: dict[int, Postponed] = {}
        self.in_parking: dict[int, ParkedRow] = {}
        self.leases: dict[str, tuple[Lease, float]] = {}
        self.broken: dict[str, int] = {}
        self.now = 0.0
        self.reads = 0
        self.renewed = 0
        self.times_asked = 0
        self.wakes: list[Callable[[], None]] = []

    def _maybe_fail(self, verb: str) -> None:
        if self.broken.get(verb, 0) > 0:
            self.broken[verb] -= 1
            raise LookupError(f"the database cannot {verb}")

    def commit(self, *numbers: int) -> None:
        self.add(*map(row, numbers))

    def add(self, *rows: OutboxRow) -> None:
        self.rows.update({row.id: row for row in rows})
        for wake in self.wakes:
            wake()

    async def check(self) -> None:
        self._maybe_fail("check")

    async def renew(self, decide: Callable[[Sequence[Lease]], Renewal]) -> Renewal:
        self._maybe_fail("renew")
        self.renewed += 1
        leases = [replace(lease, remaining=end - self.now) for lease, end in self.leases.values()]
        renewal = decide(leases)
        for name in renewal.ended:
            del self.leases[name]
        for lease in renewal.written:
            self.leases[lease.relay] = (lease, self.now + lease.remaining)
        return renewal

    async def leave(self, lease: Lease) -> None:
        self._maybe_fail("leave")
        found = self.leases.get(lease.relay)
        if found is not None and found[0].token == lease.token:
            del self.leases[lease.relay]

    async def due(
        self, lease: Lease, limit: int, *, after: int | None = None, max_bytes: int | None = None
    ) -> Sequence[OutboxRow]:
        self.reads += 1
        self._maybe_fail("read")
        found = self.leases.get(lease.relay)
        if found is None or found[0].token != lease.token:
            return []
        mine = [
            r
            for r in self.rows.values()
            if partition_of(r.message.key, r.message.id) in lease.partitions
        ]
        at_once = sorted(
            r.id for r in mine if r.id not in self.then and r.id > (-1 if after is None else after)
        )
        later = [(self.then[r.id], r.id) for r in mine if r.id in self.then]
        ids = self._up_to(max_bytes, at_once[:limit])
        if after is None:
            then_due = [number for then, number in sorted(later)[:limit] if then <= self.now]
            ids += self._up_to(max_bytes, then_due)
        return [
            replace(self.rows[number], was_postponed=number in self.then) for number in sorted(ids)
        ]

    def _up_to(self, max_bytes: int | None, ids: list[int]) -> list[int]:
        weight = 0
        for position, number in enumerate(ids):
            weight += len(self.rows[number].message.body)
            if max_bytes is not None and weight >= max_bytes:
                return ids[: position + 1]
        return ids

    async def waiting(self, lease: Lease) -> Sequence[tuple[int, str, datetime]]:
        self._maybe_fail("tell who waits")
        return [
            (r.id, r.message.key, START + timedelta(seconds=self.then[r.id]))
            for r in self.rows.values()
            if r.id in self.errors and r.message.key is not None
            if partition_of(r.message.key, r.message.id) in lease.partitions
        ]

    async def remove(self, ids: Collection[int]) -> None:
        self._maybe_fail("remove")
        for number in ids:
            self.rows.pop(number, None)
            self.then.pop(number, None)
            self.errors.pop(number, None)

    async def postpone(self, rows: Sequence[Postponed]) -> Sequence[datetime]:
        self._maybe_fail("postpone")
        for postponed in rows:
            self.postponed[postponed.id] = postponed
            self.errors[postponed.id] = postponed.error
            self.then[postponed.id] = self.now + postponed.delay
            before = self.rows[postponed.id]
            self.rows[postponed.id] = replace(before, attempts=postponed.attempts)
        return [START + timedelta(seconds=self.then[postponed.id]) for postponed in rows]

    async def defer(self, ids: Collection[int], until: datetime) -> None:
        for number in ids:
            self.then[number] = (until - START).total_seconds()
            self.errors[number] = "waits for another"

    async def park(self, rows: Sequence[Parked]) -> None:
        self._maybe_fail("park")
        for parked in rows:
            message = self.rows.pop(parked.id).message
            self.then.pop(parked.id, None)
            self.errors.pop(parked.id, None)
            self.in_parking[parked.id] = ParkedRow(
                parked.id, message, parked.reason, parked.error, parked.attempts, START, START
            )

    async def backlog(self) -> Backlog:
        return Backlog(len(self.rows), len(self.in_parking), await self.oldest_age())

    async def oldest_age(self) -> float:
        return self.now if self.rows else 0.0

    async def newest(self) -> int:
        self._maybe_fail("ask")
        return max(self.rows, default=0)

    async def has_due(self, up_to: int) -> bool:
        self.times_asked += 1
        self._maybe_fail("ask")
        await asyncio.sleep(0)
        return any(n <= up_to and self.then.get(n, 0) <= self.now for n in self.rows)

    @asynccontextmanager
    async def listen(self, wake: Callable[[], None]) -> AsyncGenerator[None]:
        self.wakes.append(wake)
        try:
            yield
        finally:
            self.wakes.remove(wake)

    async def parked(self, *, limit: int, after: int | None) -> Sequence[ParkedRow]:
        numbers = sorted(n for n in self.in_parking if after is None or n > after)
        return [self.in_parking[number] for number in numbers[:limit]]

    async def redrive(self, ids: Sequence[int]) -> Sequence[int]:
        found = [number for number in ids if number in self.in_parking]
        for number in found:
            new = max([*self.rows, *self.in_parking], default=0) + 1
            self.add(OutboxRow(new, self.in_parking.pop(number).message))
        return found

    async def discard(self, ids: Sequence[int]) -> Sequence[int]:
        return [number for number in ids if self.in_parking.pop(number, None)]

    async def purge(self, older_than: timedelta, *, limit: int) -> int:
        self._maybe_fail("purge")
        gone = list(self.in_parking)[:limit]
        return len(await self.discard(gone))
