"""The outbox of the relay: what waits, for whom, and what could not be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from events.dashboard.forms import BadFormError, row_id
from events.errors import NoSuchParkedRowError
from events.integration.outbox import ParkedRow
from events.integration.outbox.partitions import PARTITIONS
from events.operations import OutboxRows, ParkedSelection
from events.operations.shown import Letter

if TYPE_CHECKING:
    from starlette.responses import Response

    from events.dashboard.site import Visit

_PAGE = 50


class Holder(Struct, frozen=True, kw_only=True):
    """A relay, and the partitions that it holds."""

    relay: str
    partitions: list[int]
    remaining: float


async def outbox(visit: Visit) -> Response:
    """Show what is due, scheduled and parked, and who holds which partitions."""
    relay = visit.site.relay
    if relay is None:
        return _none(visit)
    parked = await relay.parked(limit=_PAGE + 1, after=visit.fields.row("after"))
    scheduled = await relay.scheduled(limit=_PAGE + 1, after=visit.fields.row("later"))
    leases = await relay.leases()
    holders = [
        Holder(relay=each.relay, partitions=sorted(each.partitions), remaining=each.remaining)
        for each in sorted(leases, key=lambda each: each.relay)
    ]
    held = {each for holder in holders if holder.remaining > 0 for each in holder.partitions}
    return visit.render(
        "outbox.html",
        section="outbox",
        relay=relay,
        stats=await relay.stats(),
        health=relay.health(),
        parked=[_shown(visit, row) for row in parked[:_PAGE]],
        next_parked=parked[_PAGE - 1].id if len(parked) > _PAGE else None,
        scheduled=scheduled[:_PAGE],
        next_scheduled=scheduled[_PAGE - 1].id if len(scheduled) > _PAGE else None,
        holders=holders,
        free=PARTITIONS - len(held),
        partitions=PARTITIONS,
    )


async def parked_row(visit: Visit) -> Response:
    """Show all of one parked row."""
    relay = visit.site.relay
    if relay is None:
        return _none(visit)
    id_ = row_id(visit.fields.need("id"))
    rows = await relay.parked(limit=1, after=id_ - 1)
    if not rows or rows[0].id != id_:
        raise NoSuchParkedRowError([id_])
    made = _shown(visit, rows[0])
    trace = None
    if visit.site.trace_url is not None and made.trace_id is not None:
        trace = visit.site.trace_url.replace("{trace_id}", made.trace_id)
    return visit.render("parked.html", section="outbox", letter=made, trace=trace)


async def redrive_parked(visit: Visit) -> Response:
    """Have the chosen rows sent after all."""
    return await _move(visit, "redrive")


async def discard_parked(visit: Visit) -> Response:
    """Delete the chosen rows."""
    return await _move(visit, "discard")


async def _move(visit: Visit, action: Literal["redrive", "discard"]) -> Response:
    relay = visit.site.relay
    if relay is None:
        return _none(visit)
    ids = frozenset(row_id(each) for each in visit.fields.all("id"))
    if not ids and visit.fields.get("all") is None:
        raise BadFormError("no row was ticked")
    rows = OutboxRows(relay, actor=visit.access.name, audit=visit.site.record)
    selection = ParkedSelection(ids=ids or None)
    done = await (rows.redrive(selection) if action == "redrive" else rows.discard(selection))
    return visit.go(f"outbox?{action}={done}")


def _shown(visit: Visit, row: ParkedRow) -> Letter:
    return visit.site.shown.message(
        row.message,
        personal=visit.access.personal,
        id=str(row.id),
        consumer="",
        reason=row.reason,
        error=row.error,
        attempts=row.attempts,
        died_at=row.parked_at,
    )


def _none(visit: Visit) -> Response:
    return visit.problem(
        404, "No outbox", "This page was given none: dashboard(bus, relay=relay, ...) shows one."
    )
