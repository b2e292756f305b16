"""Dead letters: the groups, those of a group, one of them; and the ways back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

from starlette.responses import JSONResponse

from events.dashboard.forms import BadFormError
from events.dashboard.jobs import Job
from events.integration.transport import ReceiptSource
from events.operations import Progress, Selection
from events.operations.shown import Letter, visible

if TYPE_CHECKING:
    from starlette.responses import Response

    from events.dashboard.site import Visit

_PAGE = 50
_BATCHES = (1, 10_000)
_RATES = (0.01, 100_000)
_CANARY = (0, 3_600)
_STATUS_404 = 404


async def groups(visit: Visit) -> Response:
    """Show the causes, the one with most dead letters first."""
    fields = visit.fields
    if fields.get("text") is not None:  # groups hold no bodies, so a text is looked for in letters
        return await letters(visit)
    found = await visit.site.dead_letters(visit.access).groups(
        fields.selection(), consumer=fields.get("consumer")
    )
    return visit.render(
        "groups.html",
        section="dead",
        groups=found,
        total=sum(each.count for each in found),
        highest=max((each.count for each in found), default=1),
    )


async def letters(visit: Visit) -> Response:
    """Show dead letters, a page of them, the oldest first."""
    fields = visit.fields
    after = fields.get("after")
    consumer = fields.get("consumer") if after is None else fields.need("consumer")
    shown = visit.site.shown
    found: list[Letter] = []
    text = fields.get("text")
    async with aclosing(
        visit.site.dead_letters(visit.access).search(
            fields.selection(text=False), consumer=consumer, after=after
        )
    ) as some:
        async for each in some:
            made = shown.letter(each, personal=visit.access.personal)
            # Not in masked values: a visitor who may not see a value must not find it either.
            if text is None or made.has(text):
                found.append(made)
            if len(found) > _PAGE:
                break
    more = len(found) > _PAGE
    return visit.render(
        "letters.html",
        section="dead",
        letters=found[:_PAGE],
        consumer=consumer,
        next=fields.query(after=found[_PAGE - 1].id) if more and consumer else None,
        more=more,
    )


async def letter(visit: Visit) -> Response:
    """Show all of one dead letter."""
    site, fields = visit.site, visit.fields
    found = await site.dead_letters(visit.access).show(
        fields.need("id"), consumer=fields.need("consumer")
    )
    made = site.shown.letter(found, personal=visit.access.personal)
    trace = None
    if site.trace_url is not None and made.trace_id is not None:
        trace = site.trace_url.replace("{trace_id}", made.trace_id)
    return visit.render("letter.html", section="dead", letter=made, trace=trace)


async def chosen(visit: Visit) -> Response:
    """Ask how to redrive or discard what was chosen: the last look before it is done."""
    fields = visit.fields
    action = fields.need("action")
    if action not in {"redrive", "discard"}:
        raise BadFormError(f"action must be redrive or discard, not {visible(action)!r}")
    consumer = fields.need("consumer")
    selection = await _selection(visit)
    dead_letters, oldest = visit.site.dead_letters(visit.access), None
    groups = await dead_letters.groups(selection, consumer=consumer)
    async with aclosing(dead_letters.search(selection, consumer=consumer)) as some:
        async for each in some:
            oldest = visit.site.shown.letter(each, personal=visit.access.personal)
            break
    await visit.site.samples.look()
    store: object = visit.site.bus.transport.dead_letters
    backlogs = [each.backlog for each in visit.site.samples.of(consumer) if each.backlog]
    return visit.render(
        "chosen.html",
        section="dead",
        action=action,
        consumer=consumer,
        count=sum(each.count for each in groups),
        oldest=oldest,
        selection=visible(selection),
        running=visit.site.jobs.running_at(consumer),
        tells=isinstance(store, ReceiptSource)
        or (bool(backlogs) and backlogs[-1].in_flight is not None),
    )


async def start_redrive(visit: Visit) -> Response:
    """Begin a redrive: a canary first, unless it was ticked off."""
    fields, consumer = visit.fields, visit.fields.need("consumer")
    selection = await _selection(visit)
    with_canary = fields.get("canary") is not None
    seconds = fields.number("canary_wait", *_CANARY)
    steps = visit.site.dead_letters(visit.access).redrive(
        selection,
        consumer=consumer,
        canary=(30.0 if seconds is None else seconds) if with_canary else None,
        trust_silence=fields.get("trust_silence") is not None,
        batch=int(fields.number("batch", *_BATCHES) or 100),
        rate=fields.number("rate", *_RATES),
    )
    return _started(visit, "redrive", consumer, selection, steps)


async def start_discard(visit: Visit) -> Response:
    """Begin to discard."""
    consumer = visit.fields.need("consumer")
    selection = await _selection(visit)
    steps = visit.site.dead_letters(visit.access).discard(selection, consumer=consumer)
    return _started(visit, "discard", consumer, selection, steps)


async def jobs(visit: Visit) -> Response:
    """Show the jobs of this process."""
    return visit.render("jobs.html", section="jobs", jobs=visit.site.jobs.all())


async def job(visit: Visit) -> Response:
    """Show one job, and how far it is."""
    found = _job(visit)
    if found is None:
        return _unknown(visit)
    connected = visit.site.bus.health().connected
    return visit.render("job.html", section="jobs", job=found, connected=connected)


async def job_data(visit: Visit) -> Response:
    """Return the progress of a job, for the page's script."""
    found = _job(visit)
    if found is None:
        return JSONResponse({"state": "unknown"}, _STATUS_404)
    progress = found.progress
    return JSONResponse(
        {
            "state": found.state,
            "total": progress.total if progress else 0,
            "done": progress.done if progress else 0,
            "gone": progress.gone if progress else 0,
            "canary": progress.canary if progress else None,
            "connected": visit.site.bus.health().connected,
        }
    )


async def stop(visit: Visit) -> Response:
    """Stop a job where it is."""
    found = _job(visit)
    if found is None:
        return _unknown(visit)
    await found.stop()
    return visit.go(f"jobs/{found.id}")


async def _selection(visit: Visit) -> Selection:
    """Return what the fields choose, a text looked for in what this visitor may see alone."""
    fields = visit.fields
    text = fields.get("text")
    if text is None:
        return fields.selection()
    shown, ids = visit.site.shown, set[str]()
    async with aclosing(
        visit.site.dead_letters(visit.access).search(
            fields.selection(text=False), consumer=fields.need("consumer")
        )
    ) as some:
        async for each in some:
            if shown.letter(each, personal=visit.access.personal).has(text):
                ids.add(each.id)
    return Selection(ids=frozenset(ids))


def _started(
    visit: Visit,
    action: Literal["redrive", "discard"],
    consumer: str,
    selection: Selection,
    steps: AsyncGenerator[Progress],
) -> Response:
    jobs = visit.site.jobs
    if (running := jobs.running_at(consumer)) is not None:
        return visit.problem(
            409,
            "One at a time",
            f"A {running.action} is already running at {consumer}: wait for it, or stop it.",
        )
    made = jobs.start(
        Job(
            steps,
            action=action,
            consumer=consumer,
            selection=selection,
            actor=visit.access.name,
        )
    )
    return visit.go(f"jobs/{made.id}")


def _job(visit: Visit) -> Job | None:
    return visit.site.jobs.get(visit.request.path_params["id"])


def _unknown(visit: Visit) -> Response:
    return visit.problem(
        _STATUS_404,
        "No such job",
        "Jobs live in the process that began them, and end with it: this one does not know it. "
        "What it had not reached is still a dead letter.",
    )
