"""What is to be reached, and whether it is: comparisons within one run, and a few absolute ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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


def _on(subject: str, group: str, **bounds: float) -> list[Target]:
    return [Target(subject, group, other, bound) for other, bound in bounds.items()]


def _dispatch(group: str) -> list[Target]:
    return [
        Target("dispatch", group, "floor", 2.5, "CPU µs", at_most=True),
        Target("dispatch", group, "blinker", 0.5, "CPU µs", at_most=True),
        Target("dispatch", group, "bazario", 0.5, "CPU µs", "ours, dishka, open", at_most=True),
        Target("dispatch", group, "python-cqrs, dishka, a scope", 0.4, "CPU µs", "ours, dishka, a scope", at_most=True),
    ]


TARGETS = [
    *_dispatch("1 handler"),
    *_dispatch("3 handlers"),
    *(
        Target("serialization", group, "msgspec", 1.5, "CPU µs", at_most=True)
        for group in ("encode", "decode", "there and back")
    ),
    *_on("publish", "RabbitMQ, 1,000 in flight", FastStream=3.0, pika=0.75),
    *_on("consume", "RabbitMQ", FastStream=2.5, pika=0.75),
    *_on("both", "RabbitMQ", FastStream=4.0),
    Target("latency", "RabbitMQ", "pika", 1.0, "confirmed ms p50", at_most=True),
    *_on("publish", "NATS JetStream, 1,000 in flight", FastStream=2.5, nats=0.8),
    *_on("consume", "NATS JetStream", FastStream=3.0, nats=0.8),
    *_on("publish", "Redis Streams, 100 in flight", FastStream=2.0, redis=0.8),
    *_on("consume", "Redis Streams", FastStream=2.0, redis=0.8),
    *_on("publish", "Redis pub/sub, 100 in flight", FastStream=2.0, redis=0.8),
    *_on("consume", "Redis pub/sub", FastStream=2.0, redis=0.8),
]


def show(subject: str, figures: Iterable[Figure]) -> None:
    """Print the subject's targets and what became of them."""
    figures = list(figures)
    lines = [line for target in TARGETS if target.subject == subject for line in _line(target, figures)]
    if lines:
        print("\nTargets")
        print("\n".join(lines))


def _line(target: Target, figures: list[Figure]) -> list[str]:
    here = [figure for figure in figures if figure.group == target.group]
    ours = next((each for each in here if each.contestant.startswith(target.ours)), None)
    other = next((each for each in here if each.contestant.startswith(target.other)), None)
    if ours is None or other is None or target.metric not in ours.rounds:
        return []
    reached = ratio(ours, other, target.metric)
    met = reached <= target.bound if target.at_most else reached >= target.bound
    sign = "≤" if target.at_most else "≥"
    verdict = "met" if met else "MISSED"
    name = f"{target.group}: {target.metric}, {ours.contestant} / {other.contestant}"
    return [f"  {verdict:<7}{reached:>6.2f}  {sign} {target.bound:<5} {name}"]
