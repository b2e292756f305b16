from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from events.cli import main

APP = """
from contextlib import asynccontextmanager
from dataclasses import dataclass

from events.integration import EventHandlerConsumer, IntegrationEvent, RetryPolicy, Topic
from events.integration import IntegrationEventBusRegistration
from events.integration.journal import MemoryJournal
from events.memory import MemoryBus, MemoryBroadcastBus

NOTES = Topic("notes")


@dataclass
class Noted(IntegrationEvent):
    type = "story_cli.noted"
    version = 1


async def bad(event):
    raise ValueError("bad\\x1b[2J\\nsecond line")


@asynccontextmanager
async def app():
    consumer = EventHandlerConsumer("reader", {Noted: bad})
    bus = MemoryBus([IntegrationEventBusRegistration(consumer, NOTES, retry=RetryPolicy(attempts=1))])
    async with MemoryJournal() as journal, bus:
        await bus.send(NOTES, Noted(), id="one")
        from events.testing import until_quiet
        await until_quiet(bus)
        yield bus, journal


def nothing():
    return ()


def broadcast():
    return MemoryBroadcastBus()


def two():
    return MemoryBus(), MemoryBus()
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "story_shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "story_shop", raising=False)


def test_the_story_is_a_table_or_json(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["story", "one", "--app", "story_shop:app"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["at", "what"]
    assert [row.split()[2] for row in rows] == ["created", "sent", "failed", "died"]
    assert "\x1b" not in "".join(rows)
    assert main(["story", "one", "--app", "story_shop:app", "--json"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(e["what"], e["consumer"]) for e in entries] == [
        ("created", None),
        ("sent", None),
        ("failed", "reader"),
        ("died", "reader"),
    ]


def test_an_id_of_which_nothing_is_known_is_a_failure(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["story", "two", "--app", "story_shop:app"]) == 1
    assert "two was not found in: dead letters, journal" in capsys.readouterr().err
    assert main(["story", "two", "--app", "story_shop:broadcast"]) == 1
    capsys.readouterr()
    for app, said in {"nothing": "no bus, no OutboxRelay and no journal", "two": "2 buses"}.items():
        with pytest.raises(SystemExit, match="2"):
            main(["story", "two", "--app", f"story_shop:{app}"])
        assert said in capsys.readouterr().err
