"""23: the broker is killed and restarted in mid-stream, while a consumer receives."""

from __future__ import annotations

import time

from benchmarks.faults.stage import Outcome, Stage

COUNT = 10_000


def play(stage: Stage) -> Outcome:
    stage.server.start()
    stage.consumer()
    sender = stage.sender(COUNT, at_once=100)
    stage.until(lambda: len(stage.sender_journal.of("accepted")) >= COUNT // 4)
    stage.server.restart()
    back = time.monotonic()
    done = stage.until(lambda: sender.exit_code is not None, 90)
    stage.until_handled()
    return stage.outcome(back, "" if done else "the sender hung and was killed")
