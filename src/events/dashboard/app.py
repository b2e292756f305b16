"""`dashboard`: the application to mount."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import FileResponse, Response

from events.contracts import Service
from events.dashboard import consumers, contracts, letters, outbox, records, schedules
from events.dashboard.access import Authorize
from events.dashboard.overview import overview
from events.dashboard.samples import Samples
from events.dashboard.security import Guard, SecureHeaders
from events.dashboard.site import HERE, Site, Visit, page, write
from events.integration import OutboxRelay
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.journal import JournalSource
from events.operations import AuditRecord, HandledSource, Rates


def dashboard(  # noqa: PLR0913 - options, all by keyword
    bus: TransportIntegrationEventBus,
    *,
    authorize: Authorize,
    relay: OutboxRelay | None = None,
    services: Sequence[Service] = (),
    audit: Callable[[AuditRecord], object] | None = None,
    rates: Rates | None = None,
    inboxes: Sequence[HandledSource] = (),
    journals: Sequence[JournalSource] = (),
    trace_url: str | None = None,
    secret: str | bytes | None = None,
    origins: Sequence[str] = (),
    sample_every: float = 5.0,
) -> Starlette:
    """Make the page of a bus, to be mounted into an application that starts and stops the bus.

    Args:
        bus: The bus whose consumers are looked at.
        authorize: Called with each request, and awaited if need be: it returns an `Access`,
            `"read"`, `"operate"`, or None for nothing at all. It has no default, as what the page
            shows and does is for few. It may raise an `HTTPException`, for example one that leads
            to a login.
        relay: The relay of the outbox to show. It need not be started here.
        services: What is sent, and the services that are drawn on the map; by default what the
            bus consumes is all that is known.
        audit: What is called with the record of each write, beside the log and the page. An
            `AuditFile`, or another with `records()`, is also what the page reads, so that it shows
            what other processes and the command wrote there.
        rates: What counts the attempts of this process, for the rates on the overview.
        inboxes: What knows when an event was handled, for stories, beside the inboxes among the
            bus's middlewares.
        journals: What keeps everything that happened to events, for stories.
        trace_url: Where traces are shown, as in `https://traces.example/trace/{trace_id}`.
        secret: The key of the tokens in forms. Give processes behind one address the same;
            by default each has one of its own.
        origins: What browsers see as the page's origin, as in `https://shop.example`, where a proxy
            changes the header `Host`.
        sample_every: Seconds between two looks at the backlogs, for the charts.
    """
    given: object = authorize
    if not callable(given):
        raise TypeError(
            f"dashboard needs authorize, a function of the request, not {given!r}: return None, "
            f"'read' or 'operate', as in dashboard(bus, authorize=lambda request: "
            f"'operate' if request.session.get('admin') else None)"
        )
    given = bus
    if not isinstance(given, TransportIntegrationEventBus):
        raise TypeError(
            f"dashboard needs a bus first, such as a RabbitMQBus or a MemoryBus, not {given!r}"
        )
    given = relay
    if given is not None and not isinstance(given, OutboxRelay):
        raise TypeError(f"dashboard: relay must be an OutboxRelay, not {given!r}")
    if not sample_every > 0:
        raise ValueError(f"dashboard: sample_every must be above 0, not {sample_every!r}")
    site = Site(
        bus,
        authorize=authorize,
        relay=relay,
        services=services,
        audit=audit,
        inboxes=inboxes,
        journals=journals,
        trace_url=trace_url,
        guard=Guard(secret, origins),
        samples=Samples(bus, rates, every=sample_every),
    )
    return Starlette(
        middleware=[Middleware(SecureHeaders)],
        routes=[
            page(site, "/", overview),
            page(site, "/consumers/chosen", consumers.ask),
            write(site, "/consumers/pause", consumers.pause),
            write(site, "/consumers/resume", consumers.resume),
            page(site, "/dead", letters.groups),
            page(site, "/dead/letters", letters.letters),
            page(site, "/dead/letter", letters.letter),
            page(site, "/dead/chosen", letters.chosen),
            write(site, "/dead/redrive", letters.start_redrive),
            write(site, "/dead/discard", letters.start_discard),
            page(site, "/jobs", letters.jobs),
            page(site, "/jobs/{id}", letters.job),
            page(site, "/jobs/{id}/data", letters.job_data),
            write(site, "/jobs/{id}/stop", letters.stop),
            page(site, "/outbox", outbox.outbox),
            page(site, "/outbox/row", outbox.parked_row),
            write(site, "/outbox/redrive", outbox.redrive_parked),
            write(site, "/outbox/discard", outbox.discard_parked),
            page(site, "/scheduled", schedules.scheduled),
            write(site, "/scheduled/reschedule", schedules.reschedule),
            write(site, "/scheduled/cancel", schedules.cancel),
            page(site, "/topology", contracts.topology),
            page(site, "/events", contracts.events),
            page(site, "/events/event", contracts.event),
            page(site, "/story", records.story),
            page(site, "/audit", records.audit),
            page(site, "/static/{name}", _static),
            page(site, "/{rest:path}", _missing),
        ],
    )


async def _static(visit: Visit) -> Response:
    name = visit.request.path_params["name"]
    if name not in _STATIC:
        return await _missing(visit)
    return FileResponse(HERE / "static" / name)


_STATIC = frozenset(path.name for path in (HERE / "static").iterdir())


async def _missing(visit: Visit) -> Response:
    return visit.problem(404, "No such page", "The overview leads to all that there are.")
