"""The events that wait under a schedule id: in the relay's outbox, or in a bus on a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from events.dashboard.forms import BadFormError
from events.integration.outbox import ScheduledEvent
from events.operations.schedules import ScheduledEvents, ScheduleSelection
from events.operations.shown import visible

if TYPE_CHECKING:
    from starlette.responses import Response

    from events.dashboard.site import Visit

_PAGE = 50


class Place(Struct, frozen=True):
    """A page of what waits in one place. The next page, if there is one, begins after `next`."""

    name: str
    events: list[ScheduledEvent]
    next: int | None


async def scheduled(visit: Visit) -> Response:
    """Show what waits, in each place by its own pages."""
    if not visit.site.scheduling:
        return visit.problem(
            404, "No schedules", "Events wait under a schedule id in an outbox or in a database."
        )
    places: list[Place] = []
    for name, of in visit.site.scheduling.items():
        async with of.scheduling() as outbox:
            found = await outbox.scheduled(
                prefix=visit.fields.get("prefix"),
                limit=_PAGE + 1,
                after=visit.fields.row(name),
            )
        shown = found[:_PAGE]
        places.append(Place(name, shown, shown[-1].id if len(found) > _PAGE else None))
    return visit.render("scheduled.html", section="scheduled", places=places)


async def reschedule(visit: Visit) -> Response:
    """Have the chosen events wait until another time."""
    to = visit.fields.time("to")
    if to is None:
        raise BadFormError("say to which time")
    events, selection = _chosen(visit)
    return visit.go(f"scheduled?reschedule={await events.reschedule(selection, to)}")


async def cancel(visit: Visit) -> Response:
    """Take the chosen events back."""
    events, selection = _chosen(visit)
    return visit.go(f"scheduled?cancel={await events.cancel(selection)}")


def _chosen(visit: Visit) -> tuple[ScheduledEvents, ScheduleSelection]:
    name = visit.fields.need("of")
    of = visit.site.scheduling.get(name)
    if of is None:
        raise BadFormError(f"nothing is scheduled in {visible(name)!r} here")
    ids = frozenset(visit.fields.all("id"))
    if not ids:
        raise BadFormError("no event was ticked")
    events = ScheduledEvents(of, actor=visit.access.name, audit=visit.site.record)
    return events, ScheduleSelection(ids=ids)
