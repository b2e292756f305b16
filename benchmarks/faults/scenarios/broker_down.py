"""25: the broker is down when a consumer starts, and comes a while later."""

from __future__ import annotations

import time

from benchmarks.faults.stage import Outcome, Stage

LATE = 15.0


def play(stage: Stage) -> Outcome:
    began = time.monotonic()
    consumer = stage.consumer(wait=False)
    ended = stage.until(lambda: consumer.exit_code is not None, LATE)
    took = time.monotonic() - began
    if ended:
        lines = [line for line in stage.log("consumer").splitlines() if line.strip()]
        said = f"ended after {took:.1f} s with code {consumer.exit_code}"
        return stage.outcome(None, said, f"the last: `{_short(lines[-1])}`" if lines else "")
    stage.server.start()
    back = time.monotonic()
    ready = stage.until(lambda: stage.journal.of("ready"))
    stage.send(20)
    stage.until_handled()
    return stage.outcome(back, f"waited {LATE:g} s", "" if ready else "and never started")


def _short(line: str) -> str:
    return line if len(line) < 100 else f"{line[:97]}..."
