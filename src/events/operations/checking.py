"""Would this start: what can be known before it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from events.errors import BusUnavailableError, EventsError
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.outbox import OutboxRelay
from events.integration.pipeline.registry import check as check_registration
from events.integration.pipeline.retry import describe
from events.operations.dead_letters import without_consumers

__all__ = ["Finding", "check"]


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
    except BusUnavailableError as error:
        return Finding(what=f"connection of {bus!r}", problem=str(error), unavailable=True)
    except EventsError as error:
        return Finding(what=f"connection of {bus!r}", problem=str(error))


async def _tables(relay: OutboxRelay) -> Finding:
    what = f"tables of {relay!r}"
    try:
        await relay.check()
    except EventsError as error:
        return Finding(what=what, problem=str(error))
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the database's library raises
        return Finding(what=what, problem=describe(error).splitlines()[0], unavailable=True)
    return Finding(what=what)
