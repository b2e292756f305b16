"""23b: the broker is killed and restarted while a backlog waits and no consumer runs."""

from __future__ import annotations

import time

from benchmarks.faults.stage import Outcome, Stage

COUNT = 1_000


def play(stage: Stage) -> Outcome:
    stage.make_queue()
    stage.send(COUNT, at_once=10)
    stage.server.restart()
    back = time.monotonic()
    stage.consumer()
    stage.until_handled()
    return stage.outcome(back)
