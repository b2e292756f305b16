from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from events.cli import main

APP = """
from events.integration import EventHandlerConsumer, IntegrationEvent, Topic
from events.integration import IntegrationEventBusRegistration
from events.memory import MemoryBroadcastBus, MemoryBroker, MemoryBus


class Noted(IntegrationEvent):
    type = "pause_cli.noted"
    version = 1


async def fine(event):
    pass


broker = MemoryBroker()


def app():
    consumer = EventHandlerConsumer("reader", {Noted: fine})
    return MemoryBus([IntegrationEventBusRegistration(consumer, Topic("notes"))], broker=broker)


broadcast = MemoryBroadcastBus()
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "pause_shop.py").write_text(APP)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.events]\napp = "pause_shop:app"\naudit = "audit.jsonl"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pause_shop", raising=False)
    return import_module("pause_shop")


def test_pause_and_resume_change_the_mark_and_leave_a_record(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pause", "reader", "--dry-run"]) == 0
    assert capsys.readouterr().out == "reader would be paused\n"
    assert not shop.broker.paused
    assert main(["pause", "reader", "--actor", "anna"]) == 0
    assert main(["pause", "reader"]) == 0
    assert capsys.readouterr().out == "reader is paused\nreader is paused already\n"
    assert shop.broker.paused == {"reader"}
    assert main(["resume", "reader", "--dry-run", "--json"]) == 0
    assert main(["resume", "reader", "--json"]) == 0
    assert main(["resume", "reader", "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(s["changed"], s["dry_run"]) for s in said] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert not shop.broker.paused
    records = [json.loads(line) for line in Path("audit.jsonl").read_text().splitlines()]
    assert [(r["action"], r["target"]) for r in records] == [
        ("pause", "consumer reader"),
        ("resume", "consumer reader"),
    ]
    assert records[0]["actor"] == "anna"


def test_what_cannot_be_paused_is_said(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["pause", "readr"])
    assert "the application has no consumer 'readr'" in capsys.readouterr().err
    assert main(["pause", "reader", "--app", "pause_shop:broadcast"]) == 1
    assert "in all processes" in capsys.readouterr().err


def test_a_bus_that_starts_paused_handles_nothing(shop: Any) -> None:
    async def names() -> tuple[str, ...]:
        async with shop.app() as bus:
            return tuple(bus.health().paused)

    assert asyncio.run(names()) == ()
    main(["pause", "reader"])
    assert asyncio.run(names()) == ("reader",)
