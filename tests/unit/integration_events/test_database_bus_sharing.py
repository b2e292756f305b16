"""What a bus on a database remembers of a takeover whose answer was lost."""

from __future__ import annotations

from msgspec.structs import replace

from events.integration.implementation.sqlalchemy._bus.sharing import ALL, Seat, take

CONSUMER = 7
DEAD = Seat("dead", "a", {CONSUMER: ALL}, {CONSUMER: 16}, 20.0, -1.0)
ME = Seat("me", "b", {}, {CONSUMER: 4}, 20.0, 0.0)
IDLE = {CONSUMER: 0}


def test_what_was_written_is_still_in_doubt() -> None:
    lost = take([DEAD], ME, IDLE)
    assert (lost.ended, lost.held[CONSUMER].taken, lost.held[CONSUMER].doubtful) == (
        ["dead"],
        ALL,
        16,
    )
    again = take(lost.written, ME, IDLE, lost.held)
    assert again.held[CONSUMER] == lost.held[CONSUMER]
    once_more = take(again.written, ME, IDLE, again.held)
    assert once_more.held[CONSUMER] == lost.held[CONSUMER]
    answered = take(once_more.written, ME, IDLE, {})
    assert (answered.held[CONSUMER].taken, answered.held[CONSUMER].doubtful) == (0, 0)


def test_what_was_not_written_is_counted_once() -> None:
    lost = take([DEAD], ME, IDLE)
    again = take([DEAD], ME, IDLE, lost.held)
    assert again.held[CONSUMER] == lost.held[CONSUMER]


def test_what_another_bus_has_meanwhile_is_not_in_doubt() -> None:
    lost = take([DEAD], ME, IDLE)
    other = replace(DEAD, member="other", token="c", remaining=20.0)
    again = take([other], ME, IDLE, lost.held)
    assert (again.held[CONSUMER].taken, again.held[CONSUMER].read) == (0, 0)
