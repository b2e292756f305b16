"""The record of each write that an operator makes: who, what, when, how many."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

__all__ = ["Audit", "AuditFile", "AuditRecord", "record"]

logger = logging.getLogger("events.operations")


class AuditRecord(Struct, frozen=True, kw_only=True):
    """One write. `count` is how many are known to be done.

    `outcome` is `"stopped"` where somebody ended it before it was done, and `"failed"` where an
    error did. Then the batch that was on its way may be done as well, beyond `count`.
    """

    at: datetime
    actor: str
    action: str
    target: str
    selection: str
    count: int
    outcome: Literal["finished", "stopped", "failed"]


Audit: TypeAlias = Callable[[AuditRecord], object]
"""What is called with each record, beside the log line that each leaves."""


class AuditFile:
    """Append each record to a file, as a line of JSON."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __call__(self, given: AuditRecord) -> None:
        """Append one record."""
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(given) + b"\n")


def record(
    audit: Audit | None,
    *,
    actor: str,
    action: str,
    target: str,
    selection: str,
    count: int,
    outcome: Literal["finished", "stopped", "failed"],
) -> None:
    """Log a record, and hand it to the audit."""
    made = AuditRecord(
        at=datetime.now(UTC),
        actor=actor,
        action=action,
        target=target,
        selection=selection,
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
