"""What a check finds, and for whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Level: TypeAlias = Literal["error", "warning", "note"]

RULES = {
    "new-cannot-read-old": "New code must read what was sent before it.",
    "old-cannot-read-new": "Code that is running must read what new code sends.",
    "new-cannot-read-new": "A consumer must read what is sent to its topic.",
    "consumers-first": "Consumers have to be deployed before the producer.",
    "no-longer-consumed": "A consumer skips what it read before.",
    "lock-out-of-date": "The lock file must describe the code.",
    "cannot-read-theirs": "A consumer must read what another team sends.",
    "they-cannot-read-ours": "Another team's consumers must read what we send.",
}


@dataclass(frozen=True)
class Finding:
    """An effect of a change on a reader or a sender."""

    level: Level
    rule: str
    message: str
    event: str = ""
    version: int = 0
    consumer: str = ""
    topic: str = ""
    example: Mapping[str, Any] | None = None
    cure: str = ""
    file: str | None = None
    line: int | None = None


@dataclass
class Verdict:
    """What a consumer can do with one version of an event, in both orders of deployment."""

    consumer: str
    topic: str
    event: str
    version: int
    consumers_first: bool = True
    producers_first: bool = True
    findings: list[Finding] = field(default_factory=list[Finding])
