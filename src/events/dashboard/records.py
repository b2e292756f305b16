"""The pages of stories and of the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.operations import HandledSource
from events.operations import story as story_of

if TYPE_CHECKING:
    from starlette.responses import Response

    from events.dashboard.site import Visit


async def story(visit: Visit) -> Response:
    """Show the story of a correlation id, in order of time."""
    site, id_ = visit.site, visit.fields.get("id")
    found = None
    if id_ is not None:
        keeps = site.bus.transport.features.dead_letters
        inboxes = [each for each in site.bus.middlewares if isinstance(each, HandledSource)]
        found = await story_of(
            id_.strip(),
            letters=site.dead_letters(visit.access) if keeps else None,
            relays=[] if site.relay is None else [site.relay],
            inboxes=[*inboxes, *site.inboxes],
            journals=site.journals,
        )
    return visit.render("story.html", section="story", story=found)


async def audit(visit: Visit) -> Response:
    """Show the audit records, the newest first."""
    records = await visit.site.records()
    return visit.render("audit.html", section="audit", records=records[::-1])
