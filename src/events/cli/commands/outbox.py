"""`events outbox`: what is in the outbox, and what could not be sent from it.

What is scheduled may also wait in a bus on a database, which needs no relay.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from events._named import plain
from events.cli._app import add_app, find, find_all, load, opened
from events.cli._exit import FAILED, OK, UsageError
from events.cli._operating import (
    actor_of,
    add_all,
    add_conditions,
    audit_of,
    chosen_of,
    count_of,
    future,
    require_choice,
    up_to,
    whole,
)
from events.cli._output import add_json, first_line, note, print_json, print_table, when
from events.errors import EventsError, OutboxError
from events.integration.outbox import (
    PARTITIONS,
    OutboxRelay,
    ParkedRow,
    ScheduledEvent,
    ScheduledRow,
)
from events.integration.pipeline.retry import describe
from events.operations.outbox import OutboxRows, ParkedSelection
from events.operations.schedules import ScheduledEvents, ScheduleSelection, Scheduling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their arguments."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    stats = verbs.add_parser("stats", help="count the rows that wait, and say since when")
    scheduled = verbs.add_parser("scheduled", help="list the rows whose time has not come")
    partitions = verbs.add_parser("partitions", help="say which relays hold which partitions")
    parked = verbs.add_parser("parked", help="list the rows that could not be sent, and why")
    redrive = verbs.add_parser("redrive", help="have parked rows sent after all")
    discard = verbs.add_parser("discard", help="delete parked rows for good")
    cancel = verbs.add_parser("cancel", help="take scheduled events back")
    reschedule = verbs.add_parser("reschedule", help="have scheduled events sent at another time")
    every = (stats, scheduled, partitions, parked, redrive, discard, cancel, reschedule)
    for verb in every:
        add_app(verb)
    add_json(*every)
    scheduled.add_argument("--limit", type=whole, default=100, help="default: %(default)s")
    for verb in (scheduled, cancel, reschedule):
        verb.add_argument("--topic", metavar="NAME", help="under a schedule id, of this topic")
        verb.add_argument("--prefix", metavar="TEXT", help="whose schedule id begins so")
        verb.add_argument(
            "--before", type=future, metavar="TIME", help="due before 2026-01-31T12:00, or in 90m"
        )
    reschedule.add_argument(
        "--to", type=future, metavar="TIME", required=True, help="2026-01-31T12:00, or in 90m"
    )
    for verb in (cancel, reschedule):
        verb.add_argument("ids", nargs="*", metavar="SCHEDULE", help="as `scheduled` shows them")
        add_all(verb)
    for verb in (parked, redrive, discard):
        verb.add_argument("--topic", metavar="NAME", help="of this topic")
        add_conditions(verb, text_in="the error")
    for verb in (redrive, discard):
        verb.add_argument("ids", nargs="*", type=int, metavar="ID", help="as `parked` shows them")
        add_all(verb)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with opened(load(arguments.app)) as parts:
        of_schedules = _OF_SCHEDULES.get(arguments.verb)
        places: list[Any] = (
            find_all(parts, Scheduling, "OutboxRelay, and no bus on a database")
            if of_schedules
            else [find(parts, OutboxRelay, "OutboxRelay")]
        )
        try:
            for place in places:
                if isinstance(place, OutboxRelay):
                    await place.check()
            if of_schedules:
                return await of_schedules(places, arguments)
            return await _OF_THE_OUTBOX[arguments.verb](places[0], arguments)
        except (EventsError, UsageError):
            raise
        except Exception as error:  # whatever the database's library raises
            reason = describe(error).splitlines()[0]
            where = ", ".join(map(repr, places))
            raise OutboxError(
                f"{arguments.verb} failed on {where}, is its database up? {reason}"
            ) from error


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


def _schedules(arguments: argparse.Namespace) -> ScheduleSelection:
    return ScheduleSelection(**chosen_of(arguments, "topic", "prefix", "before"))


async def _scheduled(places: Sequence[Scheduling], arguments: argparse.Namespace) -> int:
    """Print what waits under a schedule id and, without a condition, the other outbox rows."""
    most = arguments.limit + 1
    selection = _schedules(arguments)
    found: list[ScheduledEvent | ScheduledRow] = []
    for place in places:
        if len(found) < most:
            events = ScheduledEvents(place, actor="").find(selection)
            found += await up_to(arguments.limit - len(found), events)
    if selection == ScheduleSelection():
        for place in places:
            if isinstance(place, OutboxRelay) and len(found) < most:
                found += await place.scheduled(limit=most - len(found))
    rows = found[: arguments.limit]
    if arguments.json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(
            ("schedule", "id", "not before", "topic", "type", "event id", "attempts", "error"),
            map(_shown, rows),
        )
    else:
        note("no scheduled rows")
    if len(found) > len(rows):
        note(f"there are more than {arguments.limit}: see --limit")
    return OK


def _shown(row: ScheduledEvent | ScheduledRow) -> Sequence[object]:
    at = (when(row.available_at), row.topic, row.type, row.event_id)
    if isinstance(row, ScheduledEvent):  # its number is one of another table, and chooses nothing
        return (row.schedule_id, "", *at, 0, "")
    return ("", row.id, *at, row.attempts, first_line(row.error))


async def _change(places: Sequence[Scheduling], arguments: argparse.Namespace) -> int:
    """Cancel or reschedule."""
    selection = _schedules(arguments)
    require_choice(selection, arguments, "schedule ids, --topic, --prefix, --before")
    count = 0
    for place in places:
        events = ScheduledEvents(place, actor=actor_of(arguments), audit=audit_of(arguments))
        if arguments.dry_run:
            count += await count_of(events.find(selection))
        elif arguments.verb == "cancel":
            count += await events.cancel(selection)
        else:
            count += await events.reschedule(selection, arguments.to)
    done = {"cancel": "cancelled", "reschedule": "rescheduled"}[arguments.verb]
    left = "do not wait any more, or are not chosen"
    return _report(arguments, selection, count, "scheduled events", done, left)


async def _partitions(relay: OutboxRelay, arguments: argparse.Namespace) -> int:
    """Print the relays, and the partitions without a relay: their rows wait."""
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
        note(f"no relay holds {len(free)} of {PARTITIONS} partitions: {' '.join(map(str, free))}")
    return OK


def _selection(arguments: argparse.Namespace) -> ParkedSelection:
    return ParkedSelection(**chosen_of(arguments, "topic", "type", "reason", "text", "before"))


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
                    first_line(row.error),
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
    selection = _selection(arguments)
    require_choice(selection, arguments, "ids, --topic, --type, --reason, --text, --before")
    rows = OutboxRows(relay, actor=actor_of(arguments), audit=audit_of(arguments))
    if arguments.dry_run:
        count = await count_of(rows.parked(selection))
    elif arguments.verb == "redrive":
        count = await rows.redrive(selection)
    else:
        count = await rows.discard(selection)
    done = {"redrive": "put back", "discard": "discarded"}[arguments.verb]
    left = "are no parked rows that are chosen"
    return _report(arguments, selection, count, "parked rows", done, left)


def _report(
    arguments: argparse.Namespace,
    selection: ParkedSelection | ScheduleSelection,
    count: int,
    what: str,
    done: str,
    left: str,
) -> int:
    if arguments.json:
        print_json({"action": arguments.verb, "count": count, "dry_run": arguments.dry_run})
    else:
        would = "would be " if arguments.dry_run else ""
        sys.stdout.write(plain(f"{count} {what} {would}{done}") + "\n")
    if selection.ids is not None and count < len(selection.ids):
        note(f"{len(selection.ids) - count} of the ids {left}")
        return FAILED
    return OK


_OF_SCHEDULES: Final[
    dict[str, Callable[[Sequence[Scheduling], argparse.Namespace], Awaitable[int]]]
] = {"scheduled": _scheduled, "cancel": _change, "reschedule": _change}
_OF_THE_OUTBOX: Final[dict[str, Callable[[OutboxRelay, argparse.Namespace], Awaitable[int]]]] = {
    "stats": _stats,
    "partitions": _partitions,
    "parked": _parked,
    "redrive": _move,
    "discard": _move,
}
