"""Consumers of one bus in this process: paused and resumed by name."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from events.errors import InvalidTopologyError, UnsupportedByBusError
from events.integration.health import Backlog
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.topology import IntegrationEventBusRegistration, Topic
from events.operations.audit import Audit, record

__all__ = ["ConsumerBacklog", "Consumers", "backlogs"]


class ConsumerBacklog(Struct, frozen=True, kw_only=True):
    """What one consumer has yet to handle, of all its topics."""

    consumer: str
    backlog: Backlog


async def backlogs(
    bus: TransportIntegrationEventBus,
    registrations: Iterable[IntegrationEventBusRegistration] | None = None,
) -> list[ConsumerBacklog]:
    """Ask the broker what waits for each consumer, in all processes.

    `registrations` are those of the bus, or those that `without_consumers` gave. Raises as
    `bus.backlog`.
    """
    topics: dict[str, list[Topic]] = {}
    for each in bus.registrations if registrations is None else registrations:
        topics.setdefault(each.consumer.name, []).append(each.topic)
    return [
        ConsumerBacklog(consumer=name, backlog=await bus.backlog(name, topics=some))
        for name, some in topics.items()
    ]


class Consumers:
    """Pause and resume consumers of a started bus, in this process alone.

    Other processes of the same consumer go on, and take its events meanwhile. A new process starts
    unpaused. `actor` and `audit` are as of `DeadLetters`.
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
        """Return the names of those that are paused."""
        return tuple(self._paused)

    async def pause(self, consumer: str) -> None:
        """Let running handlers end, and begin none until `resume`. Its events wait at the broker.

        Pausing it twice does no harm. Raises `UnsupportedByBusError` on a broadcast, where what is
        sent meanwhile would be gone, and `InvalidTopologyError` if no consumer has this name.
        """
        if self._bus.transport.features.delivery == "broadcast":
            raise UnsupportedByBusError(
                self._bus, "pause a consumer", "unregister it: a broadcast keeps nothing for it"
            )
        active = [r for r in self._bus.registrations if r.consumer.name == consumer]
        paused = self._paused.setdefault(consumer, [])
        if not active and not paused:
            del self._paused[consumer]
            raise _unknown(consumer)
        for registration in active:
            paused.append(registration)
            await self._bus.unregister(registration)
        if active:
            self._record("pause", consumer, len(active))

    async def resume(self, consumer: str) -> None:
        """Return when it receives again. Resuming one that is not paused does no harm.

        What fails to be registered again stays paused. Raises `InvalidTopologyError` if no consumer
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
        finally:
            if count:
                self._record("resume", consumer, count)

    def _record(self, action: str, consumer: str, count: int) -> None:
        record(
            self._audit,
            actor=self._actor,
            action=action,
            target=f"consumer {consumer}",
            selection="in this process",
            count=count,
            outcome="finished",
        )


def _unknown(consumer: str) -> InvalidTopologyError:
    return InvalidTopologyError(
        f"consumer {consumer!r}", "no registration of this bus has this name: see `events describe`"
    )
