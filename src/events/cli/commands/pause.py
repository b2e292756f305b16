"""`events pause` and `events resume`: pause and resume consumers in all processes."""

from __future__ import annotations

import argparse
import asyncio
import sys

from events._named import plain
from events.cli._app import add_app, find, load, opened
from events.cli._exit import OK, UsageError
from events.cli._operating import actor_of, add_writing, audit_of
from events.cli._output import add_json, print_json
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations import Consumers, without_consumers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both commands."""
    add_app(parser)
    parser.add_argument("consumers", nargs="+", metavar="CONSUMER", help="its name")
    add_json(parser)
    add_writing(parser)


def run(arguments: argparse.Namespace) -> int:
    """Pause or resume consumers, and print for each whether that changed anything."""
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    pausing, dry = arguments.command == "pause", arguments.dry_run
    async with opened(load(arguments.app)) as parts:
        bus = find(parts, TransportIntegrationEventBus, "bus over a broker")
        async with without_consumers(bus) as registrations:
            known = {registration.consumer.name for registration in registrations}
            unknown = [name for name in arguments.consumers if known and name not in known]
            if unknown:
                raise UsageError(
                    f"the application has no consumer {unknown[0]!r}: see `events describe`"
                )
            consumers = Consumers(bus, actor=actor_of(arguments), audit=audit_of(arguments))
            paused = await consumers.paused_everywhere(arguments.consumers)
            for name in arguments.consumers:
                changed = pausing != (name in paused)
                if not dry and pausing:
                    changed = await consumers.pause_everywhere(name)
                elif not dry:
                    changed = await consumers.resume_everywhere(name)
                _say(name, arguments, changed=changed)
    return OK


def _say(name: str, arguments: argparse.Namespace, *, changed: bool) -> None:
    pausing: bool = arguments.command == "pause"
    if arguments.json:
        fields = {"consumer": name, "action": arguments.command, "changed": changed}
        print_json({**fields, "dry_run": arguments.dry_run})
        return
    state = "paused" if pausing else "running"
    said = f"would be {state}" if arguments.dry_run else f"is {state}"
    said += "" if changed else " already" if not arguments.dry_run else ", as it is"
    sys.stdout.write(plain(f"{name} {said}") + "\n")
