"""`events send`: send one event, built from JSON by its class."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from events._named import plain
from events.cli._app import add_app, find, load, opened
from events.cli._exit import OK, UsageError
from events.cli._operating import actor_of, add_writing, audit_of
from events.cli._output import print_json
from events.errors import EventDecodeError, InvalidTopologyError
from events.integration.event import IntegrationEvent
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.topology import IntegrationEventBusRegistration, Topic
from events.operations import without_consumers
from events.operations.audit import recorded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events send`."""
    add_app(parser)
    parser.add_argument("topic", help="the name of the topic")
    parser.add_argument("type", help="the event's type; the application must import its class")
    parser.add_argument(
        "data",
        nargs="?",
        default="{}",
        help="the fields as a JSON object, @FILE to read it, or - for standard input "
        "(default: no fields)",
    )
    parser.add_argument("--version", type=int, help="default: the newest version with a class")
    parser.add_argument("--key", help="a key; events with the same key are sent in order")
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME=VALUE", help="repeatable"
    )
    parser.add_argument(
        "--id", help="the id of an earlier attempt, to repeat it (default: a new id)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_writing(parser)


def run(arguments: argparse.Namespace) -> int:
    """Send the event, and return when the broker has accepted it."""
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with opened(load(arguments.app)) as parts:
        bus = find(parts, TransportIntegrationEventBus, "bus over a broker")
        event_class = _event_class(bus.registrations, arguments)
        event, headers = _event(event_class, arguments), _headers(arguments)
        try:
            topic = Topic(arguments.topic)
        except InvalidTopologyError as error:
            raise UsageError(str(error)) from None
        if not arguments.dry_run:
            audit, actor = audit_of(arguments), actor_of(arguments)
            target, what = f"topic {topic.name}", f"{event.type} v{event.version}"
            async with without_consumers(bus):
                with recorded(
                    audit, actor=actor, action="send", target=target, selection=what
                ) as written:
                    written.chosen = 1  # recorded as failed if the outcome is not known
                    await bus.send(
                        topic, event, key=arguments.key, headers=headers, id=arguments.id
                    )
                    written.count = 1
    if arguments.json:
        fields = {"topic": topic.name, "type": event.type, "version": event.version}
        print_json({**fields, "dry_run": arguments.dry_run})
    else:
        would = "would be sent" if arguments.dry_run else "sent"
        sys.stdout.write(plain(f"{event.type} v{event.version} {would} to {topic.name}") + "\n")
    return OK


def _event_class(
    registrations: Iterable[IntegrationEventBusRegistration], arguments: argparse.Namespace
) -> type[IntegrationEvent]:
    registries = {id(IntegrationEvent.registry): IntegrationEvent.registry}
    for registration in registrations:
        for event in registration.events:
            registries[id(event.registry)] = event.registry
    found: dict[int, type[IntegrationEvent]] = {}
    for registry in registries.values():
        found |= registry.versions(arguments.type)
    version = max(found, default=0) if arguments.version is None else arguments.version
    if version in found:
        return found[version]
    there_are = ", ".join(map(str, sorted(found)))
    if there_are:
        raise UsageError(f"{arguments.type!r} has no version {version}, only {there_are}")
    raise UsageError(
        f"no event class has the type {arguments.type!r}: import its module in the application"
    )


def _event(event_class: type[IntegrationEvent], arguments: argparse.Namespace) -> IntegrationEvent:
    given: str = arguments.data
    try:
        if given == "-":
            given = sys.stdin.read()
        elif given.startswith("@"):
            given = Path(given[1:]).read_text(encoding="utf-8")
        fields: object = json.loads(given)
    except (OSError, ValueError) as error:
        raise UsageError(f"the data cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"the data must be a JSON object of the event's fields, not {given}")
    kind = {"type": event_class.type, "version": event_class.version}
    payload = {**cast("dict[str, Any]", fields), **kind}
    try:
        return event_class.from_dict(payload)
    except EventDecodeError as error:
        raise UsageError(str(error)) from None


def _headers(arguments: argparse.Namespace) -> Mapping[str, str] | None:
    headers: dict[str, str] = {}
    for given in arguments.header:
        name, equals, value = given.partition("=")
        if not (name and equals):
            raise UsageError(f"--header must have the form NAME=VALUE, not {given!r}")
        headers[name] = value
    return headers or None
