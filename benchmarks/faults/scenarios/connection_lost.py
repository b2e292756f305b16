"""28: the connection is cut while a handler runs, and can be made again at once."""

from __future__ import annotations

import time

from benchmarks.faults.stage import Outcome, Stage
from benchmarks.faults.wire import Wire


def play(stage: Stage) -> Outcome:
    stage.server.start()
    with Wire(stage.server.port) as wire:
        stage.port = wire.port
        stage.consumer(seconds=2)
        stage.send(5)
        stage.until(lambda: stage.journal.of("began"))
        wire.cut()
        cut = time.monotonic()
        stage.until_handled()
        cancelled = len(stage.journal.of("cancelled"))
        twice = len(stage.journal.of("began")) - len(set(stage.journal.numbers("began")))
        return stage.outcome(
            cut,
            f"{cancelled} handlers cancelled" if cancelled else "",
            f"{twice} begun twice" if twice else "",
        )
