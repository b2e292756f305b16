"""Audit records of operators' writes: who, what, when, how many."""

from __future__ import annotations

import getpass
import logging
import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

_LINE = 500  # bytes of a record, about

logger = logging.getLogger("events.operations")


class AuditRecord(Struct, frozen=True, kw_only=True):
    """One write. `count` is how many are confirmed.

    `outcome` is `"stopped"` if it was stopped before its end, and `"failed"` after an error. Then
    the batch in flight may be done too, in addition to `count`.
    """

    at: datetime
    actor: str
    action: str
    target: str
    selection: str
    count: int
    outcome: Literal["finished", "stopped", "failed"]


Audit: TypeAlias = Callable[[AuditRecord], object]
"""A function that is called with each record, in addition to the log line."""


class AuditFile:
    """Append each record to a file, as a line of JSON. Several processes may share the file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __call__(self, given: AuditRecord) -> None:
        """Append one record."""
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(given) + b"\n")

    def records(self, limit: int = 1_000) -> list[AuditRecord]:
        """Return the last records of the file, the oldest first; invalid lines are ignored.

        It reads about as many bytes as these records take.
        """
        try:
            with self.path.open("rb") as file:
                begin = max(0, file.seek(0, os.SEEK_END) - limit * _LINE)
                file.seek(begin)
                lines = file.read().splitlines()[1 if begin else 0 :]
        except FileNotFoundError:
            return []
        found: list[AuditRecord] = []
        for line in lines[-limit:]:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                found.append(msgspec.json.decode(line, type=AuditRecord))
        return found


def this_user() -> str:
    """Return who runs this process, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def record(
    audit: Audit | None,
    *,
    actor: str,
    action: str,
    target: str,
    selection: object,
    count: int = 1,
    outcome: Literal["finished", "stopped", "failed"] = "finished",
) -> None:
    """Log a record, and pass it to the audit."""
    made = AuditRecord(
        at=datetime.now(UTC),
        actor=actor,
        action=action,
        target=target,
        selection=str(selection),
        count=count,
        outcome=outcome,
    )
    logger.info(
        "%s: %s of %s (%s), %d done, %s",
        actor,
        action,
        target,
        selection,
        count,
        outcome,
        extra={"events": msgspec.to_builtins(made)},
    )
    if audit is not None:
        audit(made)


class Written:
    """The progress of a write: `chosen` were selected, `count` of them are done."""

    def __init__(self) -> None:
        self.chosen = 0
        self.count = 0


@contextmanager
def recorded(
    audit: Audit | None, *, actor: str, action: str, target: str, selection: object
) -> Generator[Written]:
    """Record the write of this block at its end or failure; nothing if nothing was chosen."""
    written = Written()
    outcome: Literal["finished", "stopped", "failed"] = "stopped"
    try:
        yield written
        outcome = "finished"
    except Exception:
        outcome = "failed"
        raise
    finally:
        if written.chosen:
            record(
                audit,
                actor=actor,
                action=action,
                target=target,
                selection=selection,
                count=written.count,
                outcome=outcome,
            )
