"""Consumers of one bus: what waits for them and how fast that goes, paused and resumed by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic

from msgspec import Struct

from events.errors import InvalidTopologyError, UnsupportedByBusError
from events.integration.health import Backlog
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.observation import current_observer, system_of
from events.integration.topology import IntegrationEventBusRegistration, Topic
from events.operations.audit import Audit, record


class Pace(Struct, frozen=True):
    """The change between two readings of a consumer's backlog, per second and in all processes.

    `rate` is how many deliveries were settled; None if the broker does not count them. `growth` is
    by how much the unhandled events grew, negative if they became fewer.
    """

    rate: float | None
    growth: float


class ConsumerBacklog(Struct, frozen=True, kw_only=True):
    """What one consumer has yet to handle, of all its topics together; `pace` on request."""

    consumer: str
    backlog: Backlog
    pace: Pace | None = None


async def backlogs(
    bus: TransportIntegrationEventBus,
    registrations: Iterable[IntegrationEventBusRegistration] | None = None,
    *,
    over: float | None = None,
) -> list[ConsumerBacklog]:
    """Return what waits at the broker for each consumer, in all processes.

    `registrations` are those of the bus, or those that `without_consumers` yields. With `over`,
    read again after that many seconds and return the pace as well. Raises the errors of
    `bus.backlog`.
    """
    topics: dict[str, list[Topic]] = {}
    for each in bus.registrations if registrations is None else registrations:
        topics.setdefault(each.consumer.name, []).append(each.topic)

    async def look() -> dict[str, tuple[float, Backlog]]:
        return {n: (monotonic(), await bus.backlog(n, topics=t)) for n, t in topics.items()}

    first = await look()
    if over is None:
        return [ConsumerBacklog(consumer=n, backlog=backlog) for n, (_, backlog) in first.items()]
    await asyncio.sleep(over)
    return [
        ConsumerBacklog(consumer=n, backlog=backlog, pace=pace(*first[n], at, backlog))
        for n, (at, backlog) in (await look()).items()
    ]


def pace(began: float, before: Backlog, ended: float, after: Backlog) -> Pace:
    """Return the pace between two readings, taken at these times in seconds.

    There is no rate if the count went down: the broker started it again, for example because the
    consumer was removed there.
    """
    seconds = max(ended - began, 0.001)
    rate: float | None = None
    if before.settled is not None and after.settled is not None:
        more = after.settled - before.settled
        rate = more / seconds if more >= 0 else None
    return Pace(rate, (_unhandled(after) - _unhandled(before)) / seconds)


def _unhandled(of: Backlog) -> int:
    return of.waiting + (of.delayed or 0) + (of.in_flight or 0)


class Consumers:
    """Pause and resume consumers of a started bus, in this process or in all of them.

    For `actor` and `audit`, see `DeadLetters`.

    - `pause`, `resume`: in this process only. Other processes of the consumer continue, and take
      its events meanwhile. A new process starts unpaused.
    - `pause_everywhere`, `resume_everywhere`: by a mark that the broker stores, over restarts. Each
      process notices within five seconds. The bus need not run the consumer.
    """

    def __init__(
        self, bus: TransportIntegrationEventBus, *, actor: str, audit: Audit | None = None
    ) -> None:
        self._bus = bus
        self._actor = actor
        self._audit = audit
        self._paused: dict[str, list[IntegrationEventBusRegistration]] = {}

    @property
    def paused(self) -> tuple[str, ...]:
        """Return the names of the consumers that are paused in this process."""
        return tuple(self._paused)

    async def pause(self, consumer: str) -> None:
        """Pause a consumer: running handlers end, and its events wait at the broker until `resume`.

        A second pause has no effect. Raises `UnsupportedByBusError` on a broadcast, where events
        would be lost meanwhile, and `InvalidTopologyError` if no consumer has this name.
        """
        if self._bus.transport.features.delivery == "broadcast":
            raise UnsupportedByBusError(
                self._bus, "pause a consumer", "unregister it: a broadcast keeps nothing for it"
            )
        begins = consumer not in self._paused
        active = [r for r in self._bus.registrations if r.consumer.name == consumer]
        paused = self._paused.setdefault(consumer, [])
        if not active and not paused:
            del self._paused[consumer]
            raise _unknown(consumer)
        for registration in active:
            paused.append(registration)
            try:
                await self._bus.unregister(registration)
            finally:
                if registration in self._bus.registrations:  # refused, as in its own handler
                    paused.remove(registration)
                    if not paused:
                        del self._paused[consumer]
        if active:
            self._record("pause", consumer, len(active))
        observer = current_observer()
        if begins and observer is not None:
            observer.paused(consumer, system_of(self._bus.transport))

    async def resume(self, consumer: str) -> None:
        """Resume a consumer; return when it receives events again. Has no effect if not paused.

        If registering it again fails, it stays paused. Raises `InvalidTopologyError` if no consumer
        has this name.
        """
        if consumer not in self._paused:
            if all(r.consumer.name != consumer for r in self._bus.registrations):
                raise _unknown(consumer)
            return
        count, paused = 0, self._paused[consumer]
        try:
            while paused:
                await self._bus.register(paused[0])
                del paused[0]
                count += 1
            del self._paused[consumer]
            if (observer := current_observer()) is not None:
                observer.resumed(consumer, system_of(self._bus.transport))
        finally:
            if count:
                self._record("resume", consumer, count)

    async def paused_everywhere(self, consumers: Iterable[str] | None = None) -> frozenset[str]:
        """Return which of these, by default of all registered, are paused in all processes.

        Raises `UnsupportedByBusError` on a bus whose broker cannot store that.
        """
        return await self._bus.paused(consumers)

    async def pause_everywhere(self, consumer: str) -> bool:
        """Pause a consumer in all processes until `resume_everywhere`.

        Its events wait at the broker. Returns false if it was already paused. Raises
        `UnsupportedByBusError` as `paused_everywhere`, and `BusUnavailableError`.
        """
        changed = await self._bus.pause(consumer)
        if changed:
            self._record("pause", consumer, 1, "in all processes")
        return changed

    async def resume_everywhere(self, consumer: str) -> bool:
        """Resume in all processes; return whether it was paused. Raises as `pause_everywhere`."""
        changed = await self._bus.resume(consumer)
        if changed:
            self._record("resume", consumer, 1, "in all processes")
        return changed

    def _record(
        self, action: str, consumer: str, count: int, where: str = "in this process"
    ) -> None:
        record(
            self._audit,
            actor=self._actor,
            action=action,
            target=f"consumer {consumer}",
            selection=where,
            count=count,
        )


def _unknown(consumer: str) -> InvalidTopologyError:
    return InvalidTopologyError(
        f"consumer {consumer!r}", "no registration of this bus has this name: see `events describe`"
    )
