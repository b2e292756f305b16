"""Problems of a broker's: a line for each change, no flood, and a text for `health()`."""

import logging

import pytest

from events.integration.brokering.problems import MOST_LINES, QUIET, Problems


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "events.integration")


def test_each_change_of_the_reason_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems("broker")
    for reason in ("hung up", "hung up", "wrong password", "no permission"):
        problems.report("link", reason)
    problems.clear("link")
    problems.clear("link")
    assert lines(caplog) == [
        "broker: hung up",
        "broker: wrong password",
        "broker: no permission",
        "broker: this is over: no permission",
    ]


def test_reasons_that_alternate_are_no_flood(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    problems = Problems("broker", clock=lambda: now)
    for _ in range(100):
        problems.report("link", "one")
        problems.report("link", "other")
        problems.clear("link")
    assert len(lines(caplog)) == 3 * MOST_LINES
    now = QUIET + 1
    problems.report("link", "one")
    assert lines(caplog)[3 * MOST_LINES :] == ["broker: one"]


def test_the_text_names_all_that_is_wrong_now() -> None:
    problems = Problems("broker")
    texts = [problems.text]
    problems.report("pull", "may not pull")
    problems.report("ack", "may not acknowledge")
    assert "pull" in problems
    texts.append(problems.text)
    for place in ("pull", "ack"):
        problems.clear(place)
        texts.append(problems.text)
    both, one = "may not pull; may not acknowledge", "may not acknowledge"
    assert texts == [None, both, one, None]


def test_what_is_remembered_of_the_log_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems("broker")
    for number in range(1_000):
        problems.report("link", f"reason {number}")
    assert len(problems._limit) <= 100
    assert len(lines(caplog)) == 1_000
