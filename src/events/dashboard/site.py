"""What all pages share: the parts they look at, the templates, and the door that each goes through.

request -> authorize -> (POST: role, origin, token) -> the view -> response
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from events.contracts import Service
from events.dashboard.access import Access, Authorize, access_of
from events.dashboard.contracts import Contracts
from events.dashboard.forms import BadFormError, Fields, read_form
from events.dashboard.jobs import Jobs
from events.dashboard.samples import Samples
from events.dashboard.security import Guard
from events.errors import (
    BusNotStartedError,
    BusUnavailableError,
    EventsError,
    NoSuchDeadLetterError,
    NoSuchParkedRowError,
    UnsupportedByBusError,
)
from events.integration import OutboxRelay
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.journal import JournalSource
from events.integration.paging import NotAnIdError
from events.operations import AuditRecord, DeadLetters, HandledSource
from events.operations.schedules import Scheduling
from events.operations.shown import Shown, ago, duration, visible

logger = logging.getLogger("events.dashboard")

HERE = Path(__file__).parent
_AUDITED = 1_000  # records that are held for the page


class Site:
    """One dashboard: what it shows, and what it holds between two requests."""

    def __init__(  # noqa: PLR0913 - what `dashboard` was given
        self,
        bus: TransportIntegrationEventBus,
        *,
        authorize: Authorize,
        relay: OutboxRelay | None,
        services: Sequence[Service],
        audit: Callable[[AuditRecord], object] | None,
        inboxes: Sequence[HandledSource],
        journals: Sequence[JournalSource],
        trace_url: str | None,
        guard: Guard,
        samples: Samples,
    ) -> None:
        self.bus = bus
        self.authorize = authorize
        self.relay = relay
        self.services = services
        self.inboxes = inboxes
        self.journals = journals
        self.trace_url = trace_url
        self.guard = guard
        self.samples = samples
        self.jobs = Jobs()
        self.contracts = Contracts(services)
        self.audited: deque[AuditRecord] = deque(maxlen=_AUDITED)
        self._audit = audit
        self.environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {"ago": ago, "duration": duration, "visible": visible}
        self.environment.filters["time"] = lambda time: f"{time:%Y-%m-%d %H:%M:%S} UTC"

    @property
    def sections(self) -> list[tuple[str, str, str]]:
        """The pages that there are: name, link and text."""
        found = [("overview", "", "Overview"), ("dead", "dead", "Dead letters")]
        if self.relay is not None:
            found.append(("outbox", "outbox", "Outbox"))
        if self.scheduling:
            found.append(("scheduled", "scheduled", "Scheduled"))
        found += [("story", "story", "Story")]
        found += [("topology", "topology", "Topology"), ("events", "events", "Events")]
        return [*found, ("jobs", "jobs", "Jobs"), ("audit", "audit", "Audit")]

    @property
    def scheduling(self) -> dict[str, Scheduling]:
        """Where events wait under a schedule id, by the name that the page gives the place."""
        places = {"outbox": self.relay, "bus": self.bus}
        return {name: each for name, each in places.items() if isinstance(each, Scheduling)}

    @property
    def shown(self) -> Shown:
        """What masks personal values, by the classes that are known at this moment."""
        classes = [each for reg in self.bus.registrations for each in reg.events]
        classes += [
            each for service in self.services for sent in service.sends.values() for each in sent
        ]
        classes += [
            each
            for service in self.services
            for registration in service.consumes
            for each in registration.events
        ]
        return Shown(classes)

    @property
    def consumers(self) -> list[str]:
        """The names of the consumers of the bus."""
        return list(dict.fromkeys(each.consumer.name for each in self.bus.registrations))

    def dead_letters(self, access: Access) -> DeadLetters:
        """Return the dead letters, for this visitor."""
        return DeadLetters(self.bus, actor=access.name, audit=self.record)

    @property
    def reads_audit(self) -> bool:
        """Return whether the audit can be read, so that it shows what other processes wrote."""
        return callable(getattr(self._audit, "records", None))

    async def records(self) -> list[AuditRecord]:
        """Return the records of writes, the oldest first: all of the audit, or those of this page.

        One that cannot be read is logged, and leaves those of this page.
        """
        read = getattr(self._audit, "records", None)
        if read is not None:
            try:
                found: list[AuditRecord] = await asyncio.to_thread(read, _AUDITED)
            except Exception:
                logger.exception("the dashboard cannot read %r", self._audit)
            else:
                return found
        return list(self.audited)

    def record(self, made: AuditRecord) -> None:
        """Hold a record for the page, and hand it on."""
        self.audited.append(made)
        if self._audit is not None:
            self._audit(made)


class Visit:
    """One request of a visitor who may be here."""

    def __init__(
        self, site: Site, request: Request, access: Access, fields: Fields, depth: int
    ) -> None:
        self.site = site
        self.request = request
        self.access = access
        self.fields = fields
        self.cookie = site.guard.cookie(request)
        # Relative links are right under each mount, and behind each proxy that strips a prefix.
        self.root = "../" * (depth + request.path_params.get("rest", "").count("/")) or "./"

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Answer with a page."""
        rendered = self.site.environment.get_template(template).render(
            site=self.site,
            access=self.access,
            fields=self.fields,
            root=self.root,
            token=self.site.guard.token(self.cookie, self.access),
            **values,
        )
        # What is left of texts that UTF-8 cannot say, in names for example.
        return HTMLResponse(rendered.encode("utf-8", "backslashreplace"), status)

    def go(self, path: str) -> Response:
        """Answer a write with the page to see next."""
        return RedirectResponse(self.root + path, HTTPStatus.SEE_OTHER)

    def problem(self, status: int, title: str, text: str) -> Response:
        """Answer with what is wrong."""
        return self.render("problem.html", status, section="", title=title, text=text)


View: TypeAlias = Callable[[Visit], Awaitable[Response]]


def page(site: Site, path: str, view: View) -> Route:
    """Return the route of a page that is looked at."""
    depth = path.count("/") - 1

    async def endpoint(request: Request) -> Response:
        access = await access_of(site.authorize, request)
        if access is None:
            return _closed()
        fields = Fields(request.query_params.multi_items())
        visit = Visit(site, request, access, fields, depth)
        return await _answered(visit, view)

    return Route(path, endpoint, methods=["GET"])


def write(site: Site, path: str, view: View) -> Route:
    """Return the route of a form that changes something: for operators, with a token."""
    depth = path.count("/") - 1

    async def endpoint(request: Request) -> Response:
        access = await access_of(site.authorize, request)
        if access is None:
            return _closed()
        if not access.operates:
            return _refused("this needs the role 'operate', and you have 'read'")
        try:
            fields = await read_form(request)
        except BadFormError as error:
            empty = Visit(site, request, access, Fields(()), depth)
            return empty.problem(400, "Nothing was done", str(error))
        refusal = site.guard.refusal(request, fields.get("token") or "", access)
        if refusal is not None:
            return _refused(refusal)
        return await _answered(Visit(site, request, access, fields, depth), view)

    return Route(path, endpoint, methods=["POST"])


async def _answered(visit: Visit, view: View) -> Response:
    try:
        visit.fields.check()
        response = await view(visit)
    except (BadFormError, NotAnIdError) as error:
        response = visit.problem(400, "Not understood", str(error))
    except (NoSuchDeadLetterError, NoSuchParkedRowError) as error:
        response = visit.problem(404, "Not there any more", str(error))
    except UnsupportedByBusError as error:
        response = visit.problem(501, "This bus cannot", str(error))
    except (BusUnavailableError, BusNotStartedError) as error:
        response = visit.problem(503, "Out of reach", str(error))
    except EventsError as error:
        response = visit.problem(500, "That did not work", str(error))
    except Exception as error:
        # A store raises what its database's library does, as when that is down.
        logger.exception("the dashboard could not show %s", visit.request.url.path)
        first = f"{type(error).__name__}: {error}".splitlines()[0]
        response = visit.problem(500, "That did not work", first)
    visit.site.guard.keep(visit.request, response, visit.cookie)
    return response


def _closed() -> Response:
    return PlainTextResponse("You may not see this page: sign in, or ask for access.\n", 403)


def _refused(why: str) -> Response:
    return PlainTextResponse(f"Nothing was done: {why}.\n", 403)
