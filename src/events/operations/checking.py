"""Would this start: what can be known before it does."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from events.errors import BusUnavailableError, EventsError, OutboxError
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.outbox import OutboxRelay
from events.integration.pipeline.registry import check as check_registration
from events.operations.dead_letters import without_consumers

__all__ = ["Finding", "check", "out_of_reach"]


class Finding(Struct, frozen=True, kw_only=True):
    """What was looked at, and what is wrong with it, or None.

    `unavailable` tells that a broker or a database is out of reach, so no more is known.
    """

    what: str
    problem: str | None = None
    unavailable: bool = False


async def check(parts: Sequence[object], *, connect: bool = True) -> list[Finding]:
    """Look at the buses and relays of an application, and start none of their consumers.

    Of each bus, the registrations: handlers, options, gaps in versions. Of each relay, its tables
    and rights. With `connect`, each bus connects to its broker as well.
    """
    found: list[Finding] = []
    for part in parts:
        if isinstance(part, TransportIntegrationEventBus):
            found += _registrations(part)
            if connect:
                found.append(await _connects(part))
        elif isinstance(part, OutboxRelay) and connect:
            found.append(await _tables(part))
    return found


def _registrations(bus: TransportIntegrationEventBus) -> list[Finding]:
    found: list[Finding] = []
    for index, registration in enumerate(bus.registrations):
        problem: str | None = None
        try:
            check_registration(registration, bus.registrations[:index])
        except EventsError as error:
            problem = str(error)
        found.append(Finding(what=f"registration of {registration}", problem=problem))
    return found


async def _connects(bus: TransportIntegrationEventBus) -> Finding:
    try:
        async with without_consumers(bus):
            return Finding(what=f"connection of {bus!r}")
    except EventsError as error:
        return _finding(f"connection of {bus!r}", error)


async def _tables(relay: OutboxRelay) -> Finding:
    what = f"tables of {relay!r}"
    try:
        await relay.check()
    except EventsError as error:
        return _finding(what, error)
    return Finding(what=what)


def _finding(what: str, error: EventsError) -> Finding:
    return Finding(what=what, problem=str(error), unavailable=out_of_reach(error))


def out_of_reach(error: EventsError) -> bool:
    """Tell whether it is that a broker or a database is down, rather than something wrong."""
    if isinstance(error, OutboxError):
        # What the database's library raised, and not an error of ours, such as a missing table.
        return type(error) is OutboxError and isinstance(error.__cause__, Exception)
    return isinstance(error, BusUnavailableError)
