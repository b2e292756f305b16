"""22: a consumer with a backlog is killed by SIGKILL, and started again."""

from __future__ import annotations

import signal
import time

from benchmarks.faults.stage import Outcome, Stage

COUNT = 300


def play(stage: Stage) -> Outcome:
    stage.make_queue()
    stage.send(COUNT, at_once=10)
    consumer = stage.consumer(seconds=0.02)
    stage.until(lambda: len(stage.ended) >= 50)
    consumer.end(signal.SIGKILL)
    before = len(set(stage.ended))
    again = time.monotonic()
    stage.consumer()
    stage.until_handled()
    return stage.outcome(again, f"killed when {before} of {COUNT} were handled")
