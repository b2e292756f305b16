"""Paused consumers: which, by whom, since when; and the buttons to pause and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.dashboard.forms import BadFormError
from events.errors import BusNotStartedError, BusUnavailableError, UnsupportedByBusError
from events.operations import AuditRecord, Consumers
from events.operations.shown import visible

if TYPE_CHECKING:
    from starlette.responses import Response

    from events.dashboard.site import Site, Visit


async def paused_consumers(site: Site) -> dict[str, AuditRecord | None] | None:
    """Return the pauses by consumer, or None if the bus cannot report them.

    The mark at the broker does not say who set it, so that comes from the audit.
    """
    try:
        names = await site.bus.paused(site.consumers)
    except (UnsupportedByBusError, BusUnavailableError, BusNotStartedError):
        return None
    if not names:
        return {}
    last: dict[str, AuditRecord] = {}
    for record in await site.records():
        if record.action == "pause":
            last[record.target.removeprefix("consumer ")] = record
    return {name: last.get(name) for name in names}


async def ask(visit: Visit) -> Response:
    """Show the confirmation page of pausing or resuming."""
    fields = visit.fields
    action, consumer = fields.need("action"), _known(visit)
    if action not in {"pause", "resume"}:
        raise BadFormError(f"action must be pause or resume, not {visible(action)!r}")
    marks = await paused_consumers(visit.site) or {}
    return visit.render(
        "pausing.html",
        section="overview",
        action=action,
        consumer=consumer,
        paused=consumer in marks,
        mark=marks.get(consumer),
    )


async def pause(visit: Visit) -> Response:
    """Pause a consumer in all processes."""
    await _consumers(visit).pause_everywhere(_known(visit))
    return visit.go("")


async def resume(visit: Visit) -> Response:
    """Resume a consumer in all processes."""
    await _consumers(visit).resume_everywhere(_known(visit))
    return visit.go("")


def _consumers(visit: Visit) -> Consumers:
    return Consumers(visit.site.bus, actor=visit.access.name, audit=visit.site.record)


def _known(visit: Visit) -> str:
    consumer = visit.fields.need("consumer")
    if consumer not in visit.site.consumers:
        raise BadFormError(f"this bus has no consumer {visible(consumer)!r}")
    return consumer
