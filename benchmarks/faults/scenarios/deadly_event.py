"""27: one event of twenty kills its process; its supervisor starts it again, each time."""

from __future__ import annotations

import time

from benchmarks.faults.stage import Outcome, Stage

DEADLY, COUNT = 3, 20
MOST_DEATHS = 15
CALM = 12.0  # seconds without a death and without news, after which it is over; above the lease


def play(stage: Stage) -> Outcome:
    stage.make_queue()
    stage.send(COUNT)
    deaths, last = 0, time.monotonic()
    consumer = stage.consumer(wait=False, seconds=0.05, deadly=DEADLY)
    while deaths < MOST_DEATHS and time.monotonic() - max(last, _news(stage)) < CALM:
        if consumer.exit_code is not None:
            deaths, last = deaths + 1, time.monotonic()
            consumer = stage.consumer(wait=False, seconds=0.05, deadly=DEADLY)
        time.sleep(0.01)
    stuck = len(stage.missing - {DEADLY})
    kept = stage.mend(consumer)
    return stage.outcome(
        None,
        f"{deaths} deaths, {'with no end' if deaths >= MOST_DEATHS else 'then no more'}",
        f"{stuck} neighbours held up" if stuck else "",
        *kept,
    )


def _news(stage: Stage) -> float:
    notes = stage.journal.notes
    return notes[-1].at if notes else 0.0
