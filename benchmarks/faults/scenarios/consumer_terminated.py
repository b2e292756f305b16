"""26: SIGTERM with a backlog of 20 and slow handlers, and a new start."""

from __future__ import annotations

import signal
import time

from benchmarks.faults.stage import Outcome, Stage


def play(stage: Stage) -> Outcome:
    stage.make_queue()
    stage.send(20)
    consumer = stage.consumer(seconds=0.5)
    stage.until(lambda: len(stage.journal.of("began")) >= 2)
    code = consumer.end(signal.SIGTERM)
    first = stage.journal.of("began")
    cut_off = len(first) - len(stage.ended)
    again = time.monotonic()
    stage.consumer()
    stage.until_handled()
    return stage.outcome(
        again,
        f"exit code {code}" if code is not None else "did not end, was killed",
        f"{cut_off} of {len(first)} running handlers were cut off" if cut_off else "",
    )
