"""One module for each property of the conformance list that the contestants can be put to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from benchmarks.faults.scenarios import (
    backlog_restarted,
    broker_down,
    broker_frozen,
    broker_restarted,
    connection_lost,
    consumer_killed,
    consumer_terminated,
    deadly_event,
    failing_handler,
)
from benchmarks.faults.stage import Outcome, Stage

__all__ = ["SCENARIOS", "Scenario"]

Scenario: TypeAlias = Callable[[Stage], Outcome]

SCENARIOS: Final[dict[str, Scenario]] = {
    "11": failing_handler.play,
    "22": consumer_killed.play,
    "23": broker_restarted.play,
    "23b": backlog_restarted.play,
    "24": broker_frozen.play,
    "25": broker_down.play,
    "26": consumer_terminated.play,
    "27": deadly_event.play,
    "28": connection_lost.play,
}
