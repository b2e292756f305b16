"""The pages of the topology and of the events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from events.contracts import Service
from events.contracts.catalog.maps import map_of
from events.contracts.catalog.model import Catalog, catalog_of
from events.contracts.lock import lock_of
from events.errors import EventsError
from events.operations import topology as topology_of
from events.operations.shown import visible

if TYPE_CHECKING:
    from starlette.responses import Response

    from events.dashboard.site import Visit

_LONGEST = 26  # characters in a box of the map
_STATUS_404 = 404


class Contracts:
    """The catalog of the services, rebuilt only if a registration was added or removed."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services
        self._of: list[object] = []
        self._catalog: Catalog | None = None

    def catalog(self, visit: Visit) -> Catalog:
        """Return the catalog. Raises an `EventsError` for a class that cannot be described."""
        services = self._services or [Service("this service", visit.site.bus)]
        now: list[object] = [each for service in services for each in service.consumes]
        if self._catalog is None or self._of != now:
            self._catalog, self._of = catalog_of([lock_of(each) for each in services]), now
        return self._catalog


async def topology(visit: Visit) -> Response:
    """Draw services, topics and consumers."""
    try:
        catalog, problem = visit.site.contracts.catalog(visit), None
        drawn = map_of(catalog, list(catalog.events.values()), lambda kind, key: f"#{kind}-{key}")
    except EventsError as error:
        catalog, drawn, problem = None, None, str(error)
    return visit.render(
        "topology.html",
        section="topology",
        catalog=catalog,
        drawn=drawn,
        problem=problem,
        consumers=topology_of(visit.site.bus.registrations),
        short=_short,
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


async def events(visit: Visit) -> Response:
    """List the events."""
    catalog = visit.site.contracts.catalog(visit)
    found = sorted(catalog.events.values(), key=lambda each: each.type)
    return visit.render("events.html", section="events", events=found)


async def event(visit: Visit) -> Response:
    """Show one event: its versions, their fields, an example."""
    type_ = visit.fields.need("type")
    found = visit.site.contracts.catalog(visit).events.get(type_)
    if found is None:
        return visit.problem(
            _STATUS_404, "No such event", f"No service here sends or reads {visible(type_)!r}."
        )

    def pretty(value: object) -> str:
        return visible(json.dumps(value, indent=2, ensure_ascii=False))

    return visit.render("event.html", section="events", event=found, pretty=pretty)
