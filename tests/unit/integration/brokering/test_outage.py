"""Lost connections in the log."""

from __future__ import annotations

import asyncio
import logging

import pytest

from events.integration.brokering import outage as outages
from events.integration.brokering.outage import Outage


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_connections_that_are_lost_together_are_one_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage("broker")
    outage.because("one", "reset")
    outage.because("two", "reset")
    assert outage.reason == "reset"
    outage.over("one")
    assert outage.reason == "reset"
    outage.over("two")
    assert not outage.reason
    lost, back = caplog.messages
    assert lost == "broker lost its connection: reset; reconnecting"
    assert back.startswith("broker is connected again after ")


async def test_each_new_reason_is_told(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("broker")
    for reason in ("reset", "refused", "refused", "reset", "no such user", "refused"):
        outage.because("one", reason)
    assert outage.reason == "refused"
    assert [line.partition(": ")[2] for line in caplog.messages] == [
        "reset; reconnecting", "refused", "no such user"
    ]  # fmt: skip


async def test_a_connection_that_comes_and_goes_is_told_once_and_its_end_once_it_lasts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage("broker")
    for _ in range(100):
        outage.because("one", "closed at once")
        outage.over("one")
    assert len(caplog.messages) == 2
    outage.because("one", "another reason")
    assert caplog.messages[-1] == "broker lost its connection: another reason; reconnecting"
    monkeypatch.setattr(outages, "STABLE", 0)
    outage.over("one")
    while len(caplog.messages) == 3:
        await asyncio.sleep(0)
    assert caplog.messages[-1].startswith("broker is connected again after ")
    outage.because("one", "closed at once")
    assert len(caplog.messages) == 5, "what comes after a while is told as new"


async def test_what_nobody_wants_up_any_more_ends_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage("broker")
    outage.because("one", "reset")
    outage.leave("one")
    outage.over("one")
    assert outage.reason is None
    assert len(caplog.messages) == 1
