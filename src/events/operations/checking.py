"""Check whether an application would start, without starting it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from events._named import UserCodeError
from events.errors import BusUnavailableError, EventsError, OutboxError
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.outbox import OutboxRelay
from events.integration.pipeline.registry import check as check_registration
from events.integration.pipeline.registry import subscription_of
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import TopologySource
from events.operations.dead_letters import without_consumers


class Finding(Struct, frozen=True, kw_only=True):
    """One check: its subject, and what is wrong with it, or None.

    `unavailable` means that a broker or a database is out of reach, so the result is not known.
    """

    what: str
    problem: str | None = None
    unavailable: bool = False


async def check(parts: Sequence[object], *, connect: bool = True) -> list[Finding]:
    """Check the buses and relays of an application, without starting their consumers.

    For each bus it checks the registrations: handlers, options, gaps in versions. For each relay it
    checks tables and permissions. With `connect`, each bus also connects to its broker and checks
    whether existing queues and streams fit its registrations. It creates nothing there.
    """
    found: list[Finding] = []
    for part in parts:
        if isinstance(part, TransportIntegrationEventBus):
            found += _registrations(part)
            if connect:
                found += await _at_broker(part)
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


async def _at_broker(bus: TransportIntegrationEventBus) -> list[Finding]:
    found: list[Finding] = []
    what = f"connection of {bus!r}"
    try:
        async with without_consumers(bus) as registrations:
            found.append(Finding(what=what))
            if isinstance(bus.transport, TopologySource):
                for registration in registrations:
                    what = f"what {registration} has at the broker"
                    found.append(await _serves(bus.transport, registration, what))
    except EventsError as error:
        found.append(_finding(what, error))
    return found


async def _serves(
    source: TopologySource, registration: IntegrationEventBusRegistration, what: str
) -> Finding:
    try:
        await source.check(subscription_of(registration))
    except EventsError as error:
        return _finding(what, error)
    return Finding(what=what)


async def _tables(relay: OutboxRelay) -> Finding:
    what = f"tables of {relay!r}"
    try:
        await relay.check()
    except EventsError as error:
        return _finding(what, error)
    return Finding(what=what)


def _finding(what: str, error: EventsError) -> Finding:
    return Finding(what=what, problem=str(error), unavailable=out_of_reach(error))


def out_of_reach(error: BaseException | None) -> bool:
    """Return whether the error means that a broker or a database is down."""
    if isinstance(error, UserCodeError):
        error = error.__cause__
    if isinstance(error, OutboxError):
        # An error of the database's library, and not of this package, such as a missing table.
        return type(error) is OutboxError and isinstance(error.__cause__, Exception)
    return isinstance(error, BusUnavailableError)
