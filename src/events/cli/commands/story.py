"""`events story ID`: what happened to the events of one correlation id, in order."""

from __future__ import annotations

import argparse
import asyncio

from events.cli._app import add_app, load, opened
from events.cli._exit import FAILED, OK, UsageError
from events.cli._output import add_json, note, print_json, print_table, when
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.journal import JournalSource
from events.integration.outbox import OutboxRelay
from events.operations import DeadLetters, Story, story, without_consumers
from events.operations.story import HandledSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events story`."""
    add_app(parser)
    parser.add_argument("id", help="a correlation id, or the id of its first event")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the story; return 1 if no source has the id."""
    found = asyncio.run(_found(arguments))
    if arguments.json:
        for entry in found.entries:
            print_json(entry)
    elif found.entries:
        print_table(
            ("at", "what", "type", "event id", "topic", "consumer", "attempt", "from", "detail"),
            (
                (
                    when(each.at),
                    each.what,
                    each.type,
                    each.event_id,
                    each.topic,
                    each.consumer or "-",
                    "-" if each.attempt is None else each.attempt,
                    each.source,
                    (each.detail or "").strip().partition("\n")[0],
                )
                for each in found.entries
            ),
        )
    if not found.entries:
        note(f"{found.correlation_id} was not found in: {', '.join(found.searched)}")
        return FAILED
    return OK


async def _found(arguments: argparse.Namespace) -> Story:
    async with opened(load(arguments.app)) as parts:
        relays = [part for part in parts if isinstance(part, OutboxRelay)]
        inboxes = [part for part in parts if isinstance(part, HandledSource)]
        journals = [part for part in parts if isinstance(part, JournalSource)]
        buses = [part for part in parts if isinstance(part, TransportIntegrationEventBus)]
        if len(buses) > 1:
            raise UsageError(f"the application has {len(buses)} buses; name one")
        if not buses:
            if not relays and not journals:
                raise UsageError("the application has no bus, no OutboxRelay and no journal")
            return await story(arguments.id, relays=relays, inboxes=inboxes, journals=journals)
        bus = buses[0]
        inboxes += [m for m in bus.middlewares if isinstance(m, HandledSource)]
        async with without_consumers(bus) as registrations:
            keeps = bus.transport.features.dead_letters
            names = [registration.consumer.name for registration in registrations]
            letters = DeadLetters(bus, actor="", consumers=names) if keeps else None
            return await story(
                arguments.id, letters=letters, relays=relays, inboxes=inboxes, journals=journals
            )
