"""`events describe`: topics, consumers, types and versions of an application."""

from __future__ import annotations

import argparse
import asyncio
import sys

from events._named import plain
from events.cli._app import add_app, find, load, opened
from events.cli._exit import OK
from events.cli._output import note, print_json
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations.topology import to_mermaid, to_text, topology


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events describe`."""
    add_app(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object a line")
    form.add_argument("--mermaid", action="store_true", help="print a flowchart of Mermaid")


def run(arguments: argparse.Namespace) -> int:
    """Print the topology, without connecting to a broker."""
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with opened(load(arguments.app)) as parts:
        bus = find(parts, TransportIntegrationEventBus, "bus")
        consumers = topology(bus.registrations)
    if arguments.json:
        for each in consumers:
            print_json(each)
    elif arguments.mermaid:
        sys.stdout.write(plain(to_mermaid(consumers), lines=True) + "\n")
    elif consumers:
        sys.stdout.write(plain(to_text(consumers), lines=True) + "\n")
    else:
        note("the bus has no registrations")
    return OK
