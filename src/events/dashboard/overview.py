"""The first page: how each consumer is, and where to look next."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct

from events.dashboard.charts import HEIGHT, WIDTH, Chart, chart
from events.dashboard.consumers import paused_consumers
from events.integration import OutboxRelay
from events.integration.health import Backlog, ConsumerHealth
from events.operations import AuditRecord
from events.operations.consumers import pace
from events.operations.shown import duration

if TYPE_CHECKING:
    from starlette.responses import Response

    from events.dashboard.samples import Sample
    from events.dashboard.site import Site, Visit


_STILL = 0.05  # events a second that are shown as none


class Figure(Struct, frozen=True, kw_only=True):
    """One figure of a consumer. `value` is None where the bus does not tell."""

    name: str
    value: str | None
    chart: Chart | None
    bad: bool = False


class ConsumerCard(Struct, frozen=True, kw_only=True):
    """A consumer at this moment."""

    name: str
    registrations: list[ConsumerHealth]
    figures: list[Figure]
    dead: int
    problem: str | None
    paused: bool
    mark: AuditRecord | None


async def overview(visit: Visit) -> Response:
    """Show each consumer, the bus, the outbox, and the running jobs."""
    site = visit.site
    await site.samples.look()
    health = site.bus.health()
    marks = await paused_consumers(site)
    cards = [
        _card(site, name, [c for c in health.consumers if c.consumer == name], marks or {})
        for name in site.consumers
    ]
    outbox, outbox_problem = None, None
    if site.relay is not None:
        outbox, outbox_problem = await _outbox(site.relay)
    return visit.render(
        "overview.html",
        section="overview",
        health=health,
        cards=sorted(cards, key=lambda card: (-card.dead, card.name)),
        can_pause=marks is not None,
        problem=site.samples.problem,
        outbox=outbox,
        outbox_problem=outbox_problem,
        relay_health=site.relay.health() if site.relay is not None else None,
        running=[job for job in site.jobs.all() if job.state == "running"],
        size=(WIDTH, HEIGHT),
    )


async def _outbox(relay: OutboxRelay) -> tuple[object, str | None]:
    try:
        return await relay.stats(), None
    except Exception as error:  # noqa: BLE001 - as the store raises what its library does
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def _card(
    site: Site,
    name: str,
    registrations: list[ConsumerHealth],
    marks: Mapping[str, AuditRecord | None],
) -> ConsumerCard:
    samples = site.samples.of(name)
    last = next((each.backlog for each in reversed(samples) if each.backlog), None)
    problems = [each.error for each in registrations if each.error is not None]
    problems += ["it has ended by itself" for each in registrations if not each.alive]
    return ConsumerCard(
        name=name,
        registrations=registrations,
        figures=_figures(samples, last),
        dead=last.dead_letters if last else 0,
        problem=problems[0] if problems else None,
        paused=name in marks,
        mark=marks.get(name),
    )


def _figures(samples: list[Sample], last: Backlog | None) -> list[Figure]:
    if last is None:
        return []
    held = [each.backlog for each in samples]

    def figure(name: str, of: str, *, bad: bool = False) -> Figure:
        values: list[float | None] = [None if b is None else getattr(b, of) for b in held]
        now: float | None = getattr(last, of)
        if now is None:
            nothing = of == "oldest_age" and last.waiting == 0
            return Figure(name=name, value="none" if nothing else None, chart=None)
        value = duration(now) if of == "oldest_age" else f"{now:,}"
        highest = max(each for each in values if each is not None)
        most = duration(highest) if of == "oldest_age" else f"{highest:,}"
        words = f"{name}: {value} now, at most {most}"
        return Figure(name=name, value=value, chart=chart(values, words), bad=bad)

    return [
        *_paces(samples),
        *_rates(samples),
        figure("Waiting", "waiting"),
        figure("In flight", "in_flight"),
        figure("Lag", "oldest_age"),
        figure("Dead letters", "dead_letters", bad=last.dead_letters > 0),
    ]


def _paces(samples: list[Sample]) -> list[Figure]:
    """Return what is settled a second in all processes, and how fast the backlog grows."""
    looks = [(each.at, each.backlog) for each in samples if each.backlog is not None]
    paces = [pace(*before, *after) for before, after in pairwise(looks)]
    if not paces:
        return []
    rates = [each.rate for each in paces]
    rate, growth = rates[-1], paces[-1].growth
    highest = max((each for each in rates if each is not None), default=0.0)
    words = f"Settled in all processes: {rate or 0:,.1f} /s now, at most {highest:,.1f} /s"
    return [
        Figure(
            name="Settled overall",
            value=None if rate is None else f"{rate:,.1f} /s",
            chart=chart(rates, words),
        ),
        Figure(
            name="Growth",
            value="0.0 /s" if abs(growth) < _STILL else f"{growth:+,.1f} /s",
            chart=None,
        ),
    ]


def _rates(samples: list[Sample]) -> list[Figure]:
    """Return what this process handles and fails at a second, where that is counted."""
    if len(samples) < 2 or samples[-1].attempts is None:  # noqa: PLR2004 - of one there is no rate
        return []

    def figure(name: str, of: str) -> Figure:
        values: list[float | None] = []
        for before, after in pairwise(samples):
            seconds = max(after.at - before.at, 0.001)
            values.append((getattr(after.attempts, of) - getattr(before.attempts, of)) / seconds)
        now, highest = values[-1] or 0.0, max(each or 0.0 for each in values)
        value = f"{now:,.1f} /s"
        words = f"{name}: {value} now in this process, at most {highest:,.1f} /s"
        bad = of == "failed" and now > 0
        return Figure(name=name, value=value, chart=chart(values, words), bad=bad)

    return [figure("Handled here", "handled"), figure("Failed here", "failed")]
