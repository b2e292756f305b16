"""`events backlog`: what waits for each consumer, as the broker tells."""

from __future__ import annotations

import argparse
import asyncio

from events.cli._app import add_app, find, load, opened
from events.cli._exit import OK
from events.cli._output import note, print_json, print_table
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations import ConsumerBacklog, backlogs, without_consumers

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events backlog`."""
    add_app(parser)
    parser.add_argument(
        "--consumer", metavar="NAME", help="of this consumer alone (default: of each)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Print the counts; what the broker does not tell is `-`, or null."""
    found = asyncio.run(_backlogs(arguments))
    if arguments.json:
        for each in found:
            print_json({"consumer": each.consumer, **_counts(each)})
    elif found:
        heads = ("consumer", "waiting", "in flight", "delayed", "dead", "oldest")
        print_table(heads, map(_row, found))
    else:
        note("the bus has no registrations" if arguments.consumer is None else "no such consumer")
    return OK


async def _backlogs(arguments: argparse.Namespace) -> list[ConsumerBacklog]:
    async with opened(load(arguments.app)) as parts:
        bus = find(parts, TransportIntegrationEventBus, "bus over a broker")
        async with without_consumers(bus) as registrations:
            wanted = arguments.consumer
            return await backlogs(
                bus, [each for each in registrations if wanted in {None, each.consumer.name}]
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


def _row(each: ConsumerBacklog) -> list[str]:
    *counts, oldest = _counts(each).values()
    shown = ["-" if count is None else str(count) for count in counts]
    return [each.consumer, *shown, "-" if oldest is None else f"{oldest:.1f} s ago"]
