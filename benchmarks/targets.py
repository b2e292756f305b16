"""What is to be reached, and whether it is: comparisons within one run, and a few absolute ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.measuring import Figure, ratio


@dataclass(frozen=True)
class Target:
    """`ours` is to be at least (or at most) `bound` times `other`, both by the start of a name."""

    subject: str
    group: str
    other: str
    bound: float
    metric: str = "per second"
    ours: str = "ours"
    at_most: bool = False


@dataclass(frozen=True)
class Limit:
    """`ours`, in each group whose name begins so, is to be at most this."""

    subject: str
    group: str
    ours: str
    metric: str
    most: float


SQLITE_COMMITS = "SQLite, the application's commits"
NOTHING = "PostgreSQL, a handler that does nothing"
WRITE = "PostgreSQL, one write by a session"
WAITING = "PostgreSQL, rows that wait"


def _on(subject: str, group: str, **bounds: float) -> list[Target]:
    return [Target(subject, group, other, bound) for other, bound in bounds.items()]


def _at_most(subject: str, group: str, ours: str, other: str, bound: float, metric: str) -> Target:
    return Target(subject, group, other, bound, metric, ours, at_most=True)


def _dispatch(group: str) -> list[Target]:
    scope = "dishka, a scope"
    return [
        _at_most("dispatch", group, "ours", "floor", 2.5, "CPU µs"),
        _at_most("dispatch", group, "ours", "blinker", 0.5, "CPU µs"),
        _at_most("dispatch", group, "ours, dishka, open", "bazario", 0.5, "CPU µs"),
        _at_most("dispatch", group, f"ours, {scope}", f"python-cqrs, {scope}", 0.4, "CPU µs"),
    ]


TARGETS = [
    *_dispatch("1 handler"),
    *_dispatch("3 handlers"),
    _at_most("serialization", "there and back", "ours", "msgspec", 1.5, "CPU µs"),
    *_on("publish", "RabbitMQ, 1,000 in flight", FastStream=3.0, pika=0.75),
    *_on("consume", "RabbitMQ", FastStream=2.5, pika=0.75),
    *_on("both", "RabbitMQ", FastStream=4.0),
    _at_most("latency", "RabbitMQ", "ours", "pika", 1.0, "confirmed ms p50"),
    *_on("publish", "NATS JetStream, 1,000 in flight", FastStream=2.5, nats=0.8),
    *_on("consume", "NATS JetStream", FastStream=3.0, nats=0.8),
    *_on("publish", "Redis Streams, 100 in flight", FastStream=2.0, redis=0.8),
    *_on("consume", "Redis Streams", FastStream=2.0, redis=0.8),
    *_on("publish", "Redis pub/sub, 100 in flight", FastStream=2.0, redis=0.8),
    *_on("consume", "Redis pub/sub", FastStream=2.0, redis=0.8),
    Target("relay", "PostgreSQL, no-op publisher", "row by row", 6.0),
    Target("relay", "PostgreSQL into RabbitMQ", "the bus alone", 0.9),
    _at_most("relay", SQLITE_COMMITS, "ours", "while it is idle", 2.0, "ms p50"),
    *_on("database", f"{NOTHING}, 20 at once", pgqueuer=2.0, procrastinate=20.0),
    Target("database", f"{WRITE}, 10 at once", "a session by hand", 0.8),
    *_on("database", f"{WRITE}, 10 at once", pgqueuer=1.0),
    Target("database", WAITING, "ours, 10,000", 0.8, ours="ours, 1,000,000"),
]

LIMITS = [
    Limit("relay", SQLITE_COMMITS, "ours, while", "ms p95", 50),
    *(
        Limit("relay", "wake-up", f"ours, {where}", "ms p99", 20)
        for where in ("SQLite", "PostgreSQL")
    ),
    Limit("memory", "", "ours", "end / tenth", 1.1),
    Limit("idle", "", "ours", "% of a core", 1.0),
    Limit("database", "PostgreSQL, one event at a time", "ours", "handled ms p50", 10),
    Limit("database", "PostgreSQL, an old snapshot", "ours", "first fifth / last", 1.25),
]

PER_UNIT = "CPU µs per unit"
PUT = 40.0  # CPU µs for each event that is put in a unit of work of a hundred


def show(subject: str, figures: Iterable[Figure]) -> None:
    """Print the subject's targets and whether they are met."""
    figures = list(figures)
    lines = [
        *(line for each in TARGETS if each.subject == subject for line in _compared(each, figures)),
        *(line for each in LIMITS if each.subject == subject for line in _limited(each, figures)),
        *_puts(figures),
        *(_inbox_adds(figures) if subject == "inbox" else ()),
    ]
    if lines:
        print("\nTargets")
        print("\n".join(lines))


def _compared(target: Target, figures: list[Figure]) -> Iterator[str]:
    here = [figure for figure in figures if figure.group == target.group]
    ours = next((each for each in here if each.contestant.startswith(target.ours)), None)
    other = next((each for each in here if each.contestant.startswith(target.other)), None)
    if ours is None or other is None or target.metric not in ours.rounds:
        return
    reached = ratio(ours, other, target.metric)
    name = f"{target.group}: {target.metric}, {ours.contestant} / {other.contestant}"
    if "CPU µs" in ours.rounds and target.metric != "CPU µs":
        name += f"  (by CPU time {1 / ratio(ours, other, 'CPU µs'):.2f})"
    yield _line(name, reached, target.bound, at_most=target.at_most)


def _limited(limit: Limit, figures: list[Figure]) -> Iterator[str]:
    for figure in figures:
        if figure.group.startswith(limit.group) and figure.contestant.startswith(limit.ours):
            name = f"{figure.group}: {limit.metric}, {figure.contestant}"
            yield _line(name, figure.median(limit.metric), limit.most, at_most=True)


def _puts(figures: list[Figure]) -> Iterator[str]:
    for nothing in figures:
        if nothing.contestant != "nothing put":
            continue
        some = next(f for f in figures if f.group == nothing.group and f is not nothing)
        events = int(some.contestant.split()[1])
        each = (some.median(PER_UNIT) - nothing.median(PER_UNIT)) / events
        yield _line(f"{some.group}: CPU µs for each event put", each, PUT, at_most=True)
        more = some.median("statements") - nothing.median("statements")
        yield _line(f"{some.group}: statements more for {events} events", more, 1, at_most=True)


def _inbox_adds(figures: list[Figure]) -> Iterator[str]:
    """Compare what the inbox adds to a message with what it may, in milliseconds."""
    for guarded, bare in zip(figures[::2], figures[1::2], strict=False):
        pairs = zip(guarded.rounds["ms"], bare.rounds["ms"], strict=True)
        bound = 1.0 if "sqlite" in guarded.group else 0.5
        added = median(a - b for a, b in pairs)
        yield _line(f"{guarded.group}: ms that the inbox adds", added, bound, at_most=True)


def _line(name: str, reached: float, bound: float, *, at_most: bool) -> str:
    met = reached <= bound if at_most else reached >= bound
    verdict, sign = "met" if met else "MISSED", "≤" if at_most else "≥"
    return f"  {verdict:<7}{reached:>7.2f} {sign} {bound:<6g}{name}"
