"""Look at what consumers could not handle, and put it right: what the command `events` stands on.

    letters = DeadLetters(bus, actor="anna")
    for group in await letters.groups():
        print(group.count, group.consumer, group.type, group.error, group.place)
    async for progress in letters.redrive(Selection(group=group.id), consumer=group.consumer):
        print(f"{progress.done} of {progress.total}")

Everything here stands on the public methods of a bus, so it is the same on each bus that keeps dead
letters.
"""

from __future__ import annotations

from events.operations.audit import AuditFile, AuditRecord
from events.operations.checking import Finding, check
from events.operations.consumers import ConsumerBacklog, Consumers, backlogs
from events.operations.dead_letters import DeadLetters, Progress, without_consumers
from events.operations.export import read_lines, to_line
from events.operations.groups import Group, fingerprint
from events.operations.outbox import OutboxRows, ParkedSelection
from events.operations.rates import Rates
from events.operations.selection import Selection
from events.operations.story import HandledSource, Story, StoryEntry, story
from events.operations.topology import (
    ConsumedType,
    ConsumerTopology,
    to_mermaid,
    to_text,
    topology,
)

__all__ = [
    "AuditFile",
    "AuditRecord",
    "ConsumedType",
    "ConsumerBacklog",
    "ConsumerTopology",
    "Consumers",
    "DeadLetters",
    "Finding",
    "Group",
    "HandledSource",
    "OutboxRows",
    "ParkedSelection",
    "Progress",
    "Rates",
    "Selection",
    "Story",
    "StoryEntry",
    "backlogs",
    "check",
    "fingerprint",
    "read_lines",
    "story",
    "to_line",
    "to_mermaid",
    "to_text",
    "topology",
    "without_consumers",
]
