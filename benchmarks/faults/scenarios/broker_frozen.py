"""24: the broker stops answering for longer than the deadline of a send, with its sockets open."""

from __future__ import annotations

import time

from benchmarks.faults.stage import Outcome, Stage

DEADLINE, FROZEN = 2.0, 8.0


def play(stage: Stage) -> Outcome:
    stage.server.start()
    stage.consumer()
    sender = stage.sender(300, at_once=5, pause=0.25, timeout=DEADLINE)
    stage.until(lambda: len(stage.sender_journal.of("accepted")) >= 20)
    stage.server.freeze()
    time.sleep(FROZEN)  # this is the fault, not a wait for something
    stage.server.thaw()
    thawed = time.monotonic()
    done = stage.until(lambda: sender.exit_code is not None, 60)
    stage.until_handled()
    return stage.outcome(
        thawed,
        f"the longest send took {longest_send(stage):.1f} s",
        "" if done else "the sender hung and was killed",
        word="accepted",
    )


def longest_send(stage: Stage) -> float:
    """Return the time between a send's begin and its end, up to now if it has none."""
    began = {note.number: note.at for note in stage.sender_journal.of("sent")}
    ended = {
        note.number: note.at
        for note in stage.sender_journal.notes
        if note.word in {"accepted", "refused"}
    }
    now = time.monotonic()
    return max(ended.get(number, now) - at for number, at in began.items())
