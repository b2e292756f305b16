from __future__ import annotations

import logging

import pytest

from events.integration.brokering.problems import MOST_LINES, QUIET, Outage


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock, caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.DEBUG, "events.integration")
    return Outage("the broker", clock=clock)


def test_one_line_at_the_beginning_and_one_at_the_end(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for link in ("publishing", "consuming"):
        outage.begin(link, "reset by peer")
    for _ in range(5):
        outage.begin("publishing", "reset by peer")  # as each attempt says
    clock.now += 2.5
    outage.end("publishing")
    still = (outage.is_over, outage.reason)
    outage.end("consuming")

    assert still == (False, "reset by peer")
    assert (outage.is_over, outage.reason) == (True, None)
    assert caplog.messages == [
        "the broker lost its connection: reset by peer; reconnecting",
        "the broker is connected again after 2.5 s",
    ]


def test_a_new_reason_is_a_line(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    for reason in ("reset by peer", "refused", "refused", "wrong password", "wrong password"):
        outage.begin("link", reason)
    outage.end("link")

    assert caplog.messages == [
        "the broker lost its connection: reset by peer; reconnecting",
        "the broker is still not connected: refused; reconnecting",
        "the broker is still not connected: wrong password; reconnecting",
        "the broker is connected again after 0.0 s",
    ]


def test_what_comes_and_goes_does_not_flood_the_log(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        outage.begin("link", "it is a replica")
        outage.end("link")
        clock.now += 1
    flood = len(caplog.messages)
    clock.now += QUIET
    outage.begin("link", "it is a replica")

    assert flood == 2 * MOST_LINES
    assert caplog.messages[-1] == (
        "the broker lost its connection: it is a replica; reconnecting "
        f"({50 - MOST_LINES} shorter outages since the last line)"
    )


def test_a_flood_of_one_reason_does_not_hide_another(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        outage.begin("link", "it is a replica")
        outage.end("link")
    outage.begin("link", "wrong password")

    assert "wrong password" in caplog.messages[-1]


def test_reasons_that_are_never_the_same_take_no_memory_without_end(
    outage: Outage,
) -> None:
    for number in range(1000):
        outage.begin("link", f"port {number}")

    assert len(outage._limit) <= 100


def test_closing_is_no_end_to_speak_of(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.begin("link", "refused")
    outage.end("link", closed=True)

    assert outage.is_over
    assert len(caplog.messages) == 1


def test_the_end_of_what_was_not_down_is_nothing(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.end("link")

    assert caplog.messages == []
