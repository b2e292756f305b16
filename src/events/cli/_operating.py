"""What the commands share that look at a bus, or write to it, without running its consumers."""

from __future__ import annotations

import argparse
import getpass
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from events.cli._app import configured, find, load, opened
from events.cli._exit import UsageError
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations import AuditFile, DeadLetters, without_consumers

__all__ = ["actor_of", "add_writing", "audit_of", "dead_letters", "moment", "whole"]

_AGES = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


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


def actor_of(arguments: argparse.Namespace) -> str:
    """Return who does it."""
    given: str | None = getattr(arguments, "actor", None)
    return given or f"{getpass.getuser()}@{socket.gethostname()}"


def audit_of(arguments: argparse.Namespace) -> AuditFile | None:
    """Return the file that keeps the audit, or None where only the log does."""
    path = getattr(arguments, "audit", None) or configured().get("audit")
    return None if path is None else AuditFile(path)


def moment(text: str) -> datetime:
    """Read a time: ISO 8601, local unless it names a zone, or an age as `90m`, `2h`, `3d`."""
    if found := re.fullmatch(r"(\d+)([smhd])", text):
        return datetime.now(UTC) - timedelta(**{_AGES[found[2]]: int(found[1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time as 2026-01-31T12:00 nor an age as 90m, 2h or 3d"
        ) from None


def whole(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


@asynccontextmanager
async def dead_letters(arguments: argparse.Namespace) -> AsyncGenerator[DeadLetters]:
    """Give the dead letters of the application's bus, which does not consume meanwhile."""
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
