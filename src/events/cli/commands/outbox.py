"""`events outbox`: what is in the outbox, and what could not be sent from it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from events.cli._app import add_app, find, load, opened
from events.cli._exit import FAILED, OK, UsageError
from events.cli._operating import actor_of, add_writing, audit_of, moment, whole
from events.cli._output import note, plain, print_json, print_table, when
from events.errors import EventsError, OutboxError
from events.integration.outbox import PARTITIONS, OutboxRelay, ParkedRow
from events.integration.pipeline.retry import describe
from events.operations.outbox import OutboxRows, ParkedSelection

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their arguments."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    stats = verbs.add_parser("stats", help="count the rows that wait, and say since when")
    scheduled = verbs.add_parser("scheduled", help="list the rows whose time has not come")
    partitions = verbs.add_parser("partitions", help="say which relays hold which partitions")
    parked = verbs.add_parser("parked", help="list the rows that could not be sent, and why")
    redrive = verbs.add_parser("redrive", help="have parked rows sent after all")
    discard = verbs.add_parser("discard", help="delete parked rows for good")
    for verb in (stats, scheduled, partitions, parked, redrive, discard):
        add_app(verb)
        verb.add_argument("--json", action="store_true", help="print one JSON object a line")
    scheduled.add_argument("--limit", type=whole, default=100, help="default: %(default)s")
    for verb in (parked, redrive, discard):
        verb.add_argument("--topic", metavar="NAME", help="of this topic")
        verb.add_argument("--type", metavar="TYPE", help="of this event type")
        verb.add_argument("--reason", help="of this reason, such as retries-exhausted")
        verb.add_argument("--text", help="with this text in the error")
        verb.add_argument(
            "--before", type=moment, metavar="TIME", help="2026-01-31T12:00, or an age as 90m"
        )
    for verb in (redrive, discard):
        verb.add_argument("ids", nargs="*", type=int, metavar="ID", help="as `parked` shows them")
        verb.add_argument("--all", action="store_true", help="all that the other options leave")
        add_writing(verb)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    verbs = {
        "stats": _stats,
        "scheduled": _scheduled,
        "partitions": _partitions,
        "parked": _parked,
        "redrive": _move,
        "discard": _move,
    }
    async with _opened(arguments) as relay:
        try:
            await relay.check()
            return await verbs[arguments.verb](relay, arguments)
        except (EventsError, UsageError):
            raise
        except Exception as error:  # whatever the database's library raises
            reason = describe(error).splitlines()[0]
            raise OutboxError(
                f"{arguments.verb} failed on {relay!r}, is its database up? {reason}"
            ) from error


@asynccontextmanager
async def _opened(arguments: argparse.Namespace) -> AsyncGenerator[OutboxRelay]:
    async with opened(load(arguments.app)) as parts:
        yield find(parts, OutboxRelay, "OutboxRelay")


async def _stats(relay: OutboxRelay, arguments: argparse.Namespace) -> int:
    stats = await relay.stats()
    if arguments.json:
        fields = ("pending", "parked", "oldest_age")  # the rate is that of a relay that runs
        print_json({name: getattr(stats, name) for name in fields})
    else:
        sys.stdout.write(
            f"pending {stats.pending}, oldest due {stats.oldest_age:.1f} s ago, "
            f"parked {stats.parked}\n"
        )
    return OK


async def _scheduled(relay: OutboxRelay, arguments: argparse.Namespace) -> int:
    found = await relay.scheduled(limit=arguments.limit + 1)
    rows = found[: arguments.limit]
    if arguments.json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(
            ("id", "not before", "topic", "type", "event id", "attempts", "error"),
            (
                (
                    row.id,
                    when(row.available_at),
                    row.topic,
                    row.type,
                    row.event_id,
                    row.attempts,
                    (row.error or "").strip().partition("\n")[0],
                )
                for row in rows
            ),
        )
    else:
        note("no scheduled rows")
    if len(found) > len(rows):
        note(f"there are more than {arguments.limit}: see --limit")
    return OK


async def _partitions(relay: OutboxRelay, arguments: argparse.Namespace) -> int:
    """Print the relays, and say which partitions nobody holds: their rows wait."""
    leases = await relay.leases()
    held: set[int] = set()
    for lease in leases:
        if lease.remaining > 0:
            held |= lease.partitions
    free = sorted(set(range(PARTITIONS)) - held)
    if arguments.json:
        for lease in leases:
            fields = {"relay": lease.relay, "partitions": sorted(lease.partitions)}
            print_json({**fields, "remaining": lease.remaining})
        return OK
    if leases:
        print_table(
            ("relay", "count", "runs out in", "partitions"),
            (
                (
                    lease.relay,
                    len(lease.partitions),
                    f"{lease.remaining:.1f} s" if lease.remaining > 0 else "has run out",
                    " ".join(map(str, sorted(lease.partitions))),
                )
                for lease in leases
            ),
        )
    if free:
        note(f"nobody holds {len(free)} of {PARTITIONS} partitions: {' '.join(map(str, free))}")
    return OK


def _selection(arguments: argparse.Namespace, **more: Any) -> ParkedSelection:
    names = ("topic", "type", "reason", "text", "before")
    return ParkedSelection(**{name: getattr(arguments, name) for name in names}, **more)


async def _parked(relay: OutboxRelay, arguments: argparse.Namespace) -> int:
    async with aclosing(OutboxRows(relay, actor="").parked(_selection(arguments))) as rows:
        found = [row async for row in rows]
    if arguments.json:
        for row in found:
            print_json(_fields(row))
    elif found:
        print_table(
            ("id", "parked at", "topic", "type", "event id", "reason", "attempts", "error"),
            (
                (
                    row.id,
                    when(row.parked_at),
                    row.message.topic,
                    row.message.type,
                    row.message.id,
                    row.reason,
                    row.attempts,
                    row.error.strip().partition("\n")[0],
                )
                for row in found
            ),
        )
    else:
        note("no parked rows")
    return OK


def _fields(row: ParkedRow) -> dict[str, Any]:
    message = row.message
    return {
        "id": row.id,
        "topic": message.topic,
        "type": message.type,
        "message_id": message.id,
        "key": message.key,
        "headers": dict(message.headers),
        "body": message.body.decode("utf-8", "backslashreplace"),
        "reason": row.reason,
        "error": row.error,
        "attempts": row.attempts,
        "created_at": row.created_at,
        "parked_at": row.parked_at,
    }


async def _move(relay: OutboxRelay, arguments: argparse.Namespace) -> int:
    selection = _selection(arguments, ids=frozenset(arguments.ids) if arguments.ids else None)
    if selection == ParkedSelection() and not arguments.all:
        raise UsageError(
            f"say which to {arguments.verb}: ids, --topic, --type, --reason, --text, --before, "
            f"or --all"
        )
    rows = OutboxRows(relay, actor=actor_of(arguments), audit=audit_of(arguments))
    if arguments.dry_run:
        async with aclosing(rows.parked(selection)) as chosen:
            count = sum([1 async for _ in chosen])
    elif arguments.verb == "redrive":
        count = await rows.redrive(selection)
    else:
        count = await rows.discard(selection)
    if arguments.json:
        print_json({"action": arguments.verb, "count": count, "dry_run": arguments.dry_run})
    else:
        would = "would be " if arguments.dry_run else ""
        verb = {"redrive": "put back", "discard": "discarded"}[arguments.verb]
        sys.stdout.write(plain(f"{count} parked rows {would}{verb}") + "\n")
    if selection.ids is not None and count < len(selection.ids):
        note(f"{len(selection.ids) - count} of the ids are no parked rows that are chosen")
        return FAILED
    return OK
