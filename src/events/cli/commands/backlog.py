"""`events backlog`: what waits for each consumer, as the broker tells."""

from __future__ import annotations

import argparse
import asyncio

from events.cli._app import add_app, find, load, opened
from events.cli._exit import OK
from events.cli._output import add_json, note, print_json, print_table
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations import ConsumerBacklog, backlogs, without_consumers

_LONGEST = 60  # seconds between two looks
_PACE = ("rate", "growth")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events backlog`."""
    add_app(parser)
    parser.add_argument(
        "--consumer", metavar="NAME", help="of this consumer alone (default: of each)"
    )
    parser.add_argument(
        "--rate",
        nargs="?",
        type=_seconds,
        const=2.0,
        metavar="SECONDS",
        help="look twice, so many seconds apart (default: 2), and show the deliveries settled a "
        "second in all processes, and how fast the backlog grows",
    )
    add_json(parser)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0 and at most {_LONGEST} seconds")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Print the counts; what the broker does not tell is `-`, or null."""
    found = asyncio.run(_backlogs(arguments))
    if arguments.json:
        for each in found:
            print_json({"consumer": each.consumer, **_counts(each), **_pace(each)})
    elif found:
        dead = sum(each.backlog.dead_letters for each in found)
        heads = ["consumer", "waiting", "in flight", "delayed", "dead", "oldest"]
        print_table([*heads, *(_PACE if arguments.rate else ())], map(_row, found))
        if dead:
            note(f"{dead} dead letter{'' if dead == 1 else 's'}: see `events dead groups`")
        if arguments.rate and any(each.pace and each.pace.rate is None for each in found):
            note("this broker does not count what is settled: the rate is not known, the growth is")
    else:
        note("the bus has no registrations" if arguments.consumer is None else "no such consumer")
    return OK


async def _backlogs(arguments: argparse.Namespace) -> list[ConsumerBacklog]:
    async with opened(load(arguments.app)) as parts:
        bus = find(parts, TransportIntegrationEventBus, "bus over a broker")
        async with without_consumers(bus) as registrations:
            wanted = arguments.consumer
            return await backlogs(
                bus,
                [each for each in registrations if wanted in {None, each.consumer.name}],
                over=arguments.rate,
            )


def _counts(each: ConsumerBacklog) -> dict[str, int | float | None]:
    left = each.backlog
    return {
        "waiting": left.waiting,
        "in_flight": left.in_flight,
        "delayed": left.delayed,
        "dead_letters": left.dead_letters,
        "oldest_age": left.oldest_age,
    }


def _pace(each: ConsumerBacklog) -> dict[str, float | None]:
    if each.pace is None:
        return {}
    return dict(zip(_PACE, (each.pace.rate, each.pace.growth), strict=True))


def _row(each: ConsumerBacklog) -> list[str]:
    *counts, oldest = _counts(each).values()
    row = [each.consumer, *("-" if count is None else str(count) for count in counts)]
    row.append("-" if oldest is None else f"{oldest:.1f} s ago")
    if each.pace is not None:
        rate = each.pace.rate
        row += ["-" if rate is None else f"{rate:.1f} /s", f"{each.pace.growth:+.1f} /s"]
    return row
