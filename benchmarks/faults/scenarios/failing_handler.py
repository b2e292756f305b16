"""11: the handler of one event of twenty raises until it is mended."""

from __future__ import annotations

import time

from benchmarks.faults.stage import Outcome, Stage

FAILING, COUNT, WATCHED = 3, 20, 20.0


def play(stage: Stage) -> Outcome:
    stage.server.start()
    consumer = stage.consumer(failing=FAILING)
    began = time.monotonic()
    stage.send(COUNT)
    stage.until(lambda: stage.missing <= {FAILING}, WATCHED)
    stuck = len(stage.missing - {FAILING})
    time.sleep(max(0.0, began + WATCHED - time.monotonic()))  # how often, in this time
    tries = stage.journal.numbers("began").count(FAILING)
    kept = stage.mend(consumer)
    return stage.outcome(
        None,
        f"tried {tries} times in {WATCHED:g} s",
        f"{stuck} neighbours held up" if stuck else "",
        *kept,
    )
