"""`events tail`: the events of a topic or of a consumer, as they are sent."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys

from events._named import plain
from events.cli._app import add_app, find, load, opened
from events.cli._exit import OK
from events.cli._operating import whole
from events.cli._output import note, print_json
from events.contracts import Service
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.pipeline.lifecycle import calling, first_of
from events.operations import without_consumers
from events.operations.tail import Tail, TailedEvent

_DIM, _TYPE, _END = "\x1b[2m", "\x1b[1;36m", "\x1b[0m"
_NARROWEST = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events tail`."""
    add_app(parser)
    parser.add_argument("name", metavar="TOPIC|CONSUMER", help="the name of the topic or consumer")
    parser.add_argument(
        "--type",
        action="append",
        default=[],
        dest="types",
        metavar="TYPE",
        help="only events of this type; repeatable",
    )
    parser.add_argument("--count", type=whole, metavar="N", help="end after so many events")
    parser.add_argument(
        "--personal", action="store_true", help="show personal values instead of ***"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Print each event until `--count` is reached, or SIGINT or SIGTERM arrives."""
    asyncio.run(_run(arguments))
    return OK


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    with calling(stop.set, on=(signal.SIGINT, signal.SIGTERM)):
        await first_of(stop.wait(), _follow(arguments))


async def _follow(arguments: argparse.Namespace) -> None:
    async with opened(load(arguments.app)) as parts:
        bus = find(parts, TransportIntegrationEventBus, "bus over a broker")
        sent = [
            each
            for part in parts
            if isinstance(part, Service)
            for topic, events in part.sends.items()
            if topic.name == arguments.name
            for each in events
        ]
        async with without_consumers(bus) as registrations:
            tail = Tail(
                bus,
                arguments.name,
                registrations=registrations,
                classes=sent,
                types=arguments.types,
                personal=arguments.personal,
            )
            async with tail:
                note(f"following {', '.join(tail.topics)}: Ctrl-C ends it")
                count = 0
                async for event in tail:
                    _print(event, arguments)
                    count += 1
                    if tail.dropped:
                        note(f"{tail.dropped} events were not shown: they arrived too fast")
                        tail.dropped = 0
                    if count == arguments.count:
                        return


def _print(event: TailedEvent, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(event)
    else:
        sys.stdout.write(_line(event) + "\n")
    sys.stdout.flush()


def _line(event: TailedEvent) -> str:
    body = "(hidden: no event class is known for it; see --personal)"
    if not event.hidden:
        body = _compact(event.body)
    local = event.at.astimezone()
    if not sys.stdout.isatty():
        at = local.isoformat(sep=" ", timespec="milliseconds")
        return plain("  ".join((at, event.topic, event.type, event.id, event.key or "-", body)))
    head, type_ = f"{local:%H:%M:%S}", plain(event.type)
    room = max(shutil.get_terminal_size().columns - len(head) - len(type_) - 2, _NARROWEST)
    text = plain(body)
    text = text if len(text) <= room else f"{text[: room - 1]}…"
    return f"{_DIM}{head}{_END} {_TYPE}{type_}{_END} {text}"


def _compact(body: str) -> str:
    try:
        return json.dumps(json.loads(body), ensure_ascii=False)
    except (ValueError, RecursionError):
        return body
