"""Shared by the commands that read or change a bus without running its consumers."""

from __future__ import annotations

import argparse
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from events.cli._app import configured, find, load, opened
from events.cli._exit import UsageError
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations import AuditFile, DeadLetters, without_consumers
from events.operations.audit import this_user
from events.operations.selection import Conditions

T = TypeVar("T")

_AGES = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def add_conditions(verb: argparse.ArgumentParser, *, text_in: str) -> None:
    """Add the conditions that parked rows and dead letters have in common."""
    verb.add_argument("--type", metavar="TYPE", help="of this event type")
    verb.add_argument("--reason", help="of this reason, such as retries-exhausted")
    verb.add_argument("--text", help=f"with this text in {text_in}")
    verb.add_argument(
        "--before", type=moment, metavar="TIME", help="2026-01-31T12:00, or an age as 90m, 2h, 3d"
    )


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that changes something."""
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )
    parser.add_argument(
        "--actor", metavar="NAME", help="who does it, for the audit (default: user@host)"
    )
    parser.add_argument(
        "--audit",
        metavar="FILE",
        type=Path,
        help="append the audit record to this file as a line of JSON "
        "(default: audit under [tool.events] in pyproject.toml)",
    )


def add_all(verb: argparse.ArgumentParser) -> None:
    """Add what a command needs that changes all that it chooses."""
    verb.add_argument("--all", action="store_true", help="all that the other options leave")
    add_writing(verb)


def require_choice(selection: Conditions, arguments: argparse.Namespace, options: str) -> None:
    """Raise `UsageError` where nothing says what to change, not even `--all`."""
    if selection == type(selection)() and not arguments.all:
        raise UsageError(f"say which to {arguments.verb}: {options}, or --all")


def actor_of(arguments: argparse.Namespace) -> str:
    """Return who does it."""
    given: str | None = getattr(arguments, "actor", None)
    return given or this_user()


def audit_of(arguments: argparse.Namespace) -> AuditFile | None:
    """Return the file that keeps the audit, or None where only the log does."""
    path = getattr(arguments, "audit", None) or configured().get("audit")
    return None if path is None else AuditFile(path)


def moment(text: str) -> datetime:
    """Read a time: ISO 8601, local unless it names a zone, or an age as `90m`, `2h`, `3d`."""
    return _time(text, "an age", -1)


def future(text: str) -> datetime:
    """Read a time as `moment` does, where `90m` is from now on."""
    return _time(text, "a span", 1)


def _time(text: str, span: str, direction: int) -> datetime:
    try:
        if found := re.fullmatch(r"(\d+)([smhd])", text):
            return datetime.now(UTC) + direction * timedelta(**{_AGES[found[2]]: int(found[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time as 2026-01-31T12:00 nor {span} as 90m, 2h or 3d"
        ) from None


def whole(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


async def count_of(found: AsyncGenerator[object]) -> int:
    """Return how many are found."""
    async with aclosing(found) as each:
        return sum([1 async for _ in each])


async def up_to(limit: int, found: AsyncGenerator[T]) -> list[T]:
    """Return as many as are found, or `limit` and one more, which says that there are more."""
    some: list[T] = []
    async with aclosing(found) as each:
        async for one in each:
            some.append(one)
            if len(some) > limit:
                break
    return some


def chosen_of(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the conditions of these names that were given, and the ids, if the verb takes any."""
    ids: Sequence[object] = getattr(arguments, "ids", None) or ()
    return {
        "ids": frozenset(ids) if ids else None,
        **{name: getattr(arguments, name) for name in names},
    }


@asynccontextmanager
async def dead_letters(arguments: argparse.Namespace) -> AsyncGenerator[DeadLetters]:
    """Yield the dead letters of the application's bus, which does not consume meanwhile."""
    async with opened(load(arguments.app)) as parts:
        bus = find(parts, TransportIntegrationEventBus, "bus over a broker")
        async with without_consumers(bus) as registrations:
            names = list(dict.fromkeys(r.consumer.name for r in registrations))
            given: str | None = getattr(arguments, "consumer", None)
            if given is None and not names:
                raise UsageError("the bus has no registrations: name a consumer by --consumer")
            yield DeadLetters(
                bus,
                actor=actor_of(arguments),
                consumers=names if given is None else [given],
                audit=audit_of(arguments),
            )
