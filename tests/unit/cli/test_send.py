from __future__ import annotations

import asyncio
import io
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from events.cli import main
from events.errors import SendOutcomeUnknownError
from events.integration.implementation.memory import InMemoryTransport
from events.integration.message import Message

APP = """
from dataclasses import dataclass

from events.integration import (
    EventHandlerConsumer, EventRegistry, IntegrationEvent, IntegrationEventBusRegistration, Topic,
)
from events.integration.implementation.memory import InMemoryBroker, InMemoryIntegrationEventBus

broker, handled = InMemoryBroker(), []


class Shop(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass
class AskedV1(Shop):
    type = "send_cli.asked"
    version = 1


@dataclass
class AskedV2(Shop):
    type = "send_cli.asked"
    version = 2
    number: int
    name: str = ""


async def on_asked(event):
    from events.integration import current_delivery
    handled.append((event, current_delivery()))


def new_bus():
    consumer = EventHandlerConsumer("mails", {AskedV1: on_asked, AskedV2: on_asked})
    return InMemoryIntegrationEventBus(
        [IntegrationEventBusRegistration(consumer, Topic("users"))], broker=broker
    )


async def serve():
    async with new_bus():
        await broker.quiet()
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "send_shop.py").write_text(APP)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.events]\napp = "send_shop:new_bus"\naudit = "audit.jsonl"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "send_shop", raising=False)
    module = import_module("send_shop")
    asyncio.run(module.serve())  # so that the consumer is known to the broker
    return module


def test_the_event_arrives_as_its_class_says(
    shop: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--key", "k", "--header", "tenant=a=b", "--id", "e-1", "--actor", "anna")
    assert main(["send", "users", "send_cli.asked", '{"number": 1, "name": "ß"}', *options]) == 0
    Path("some.json").write_text('{"number": 2}')
    assert main(["send", "users", "send_cli.asked", "@some.json", "--json"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"number": 3}'))
    assert main(["send", "users", "send_cli.asked", "-"]) == 0
    assert main(["send", "users", "send_cli.asked", "--version", "1"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "send_cli.asked v2 sent to users"
    assert json.loads(second) == {
        "topic": "users",
        "type": "send_cli.asked",
        "version": 2,
        "dry_run": False,
    }
    assert shop.handled == [], "the command has handled what it was to send"
    asyncio.run(shop.serve())
    events = [event for event, _ in shop.handled]
    assert events == [shop.AskedV2(1, "ß"), shop.AskedV2(2), shop.AskedV2(3), shop.AskedV1()]
    delivery = shop.handled[0][1]
    assert (delivery.id, delivery.key, delivery.headers["tenant"]) == ("e-1", "k", "a=b")
    record = json.loads(Path("audit.jsonl").read_text().splitlines()[0])
    assert (record["actor"], record["action"], record["target"]) == ("anna", "send", "topic users")


def test_a_dry_run_sends_nothing(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "users", "send_cli.asked", '{"number": 1}', "--dry-run"]) == 0
    assert capsys.readouterr().out == "send_cli.asked v2 would be sent to users\n"
    asyncio.run(shop.serve())
    assert shop.handled == []
    assert not Path("audit.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["users", "send_cli.asked", "{"], "the data cannot be read: "),
        (["users", "send_cli.asked", "@no.json"], "the data cannot be read: "),
        (
            ["users", "send_cli.asked", "[1]"],
            "the data must be a JSON object of the event's fields",
        ),
        (["users", "send_cli.asked"], "AskedV2"),
        (["users", "send_cli.asked", '{"number": "one"}'], "number"),
        (["users", "send_cli.asked", "--version", "3"], "has no version 3, only 1, 2"),
        (["users", "send_cli.no"], "no event class has the type 'send_cli.no'"),
        (["", "send_cli.asked", "--version", "1"], "Topic(''): its name is empty"),
        (
            ["users", "send_cli.asked", "--version", "1", "--header", "x"],
            "--header must have the form NAME=VALUE",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    shop: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["send", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_send_of_unknown_outcome_is_recorded_as_well(
    shop: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(transport: InMemoryTransport, message: Message) -> Any:
        raise SendOutcomeUnknownError(repr(transport), message.id, "the connection was lost")

    monkeypatch.setattr(InMemoryTransport, "publish", publish)
    assert main(["send", "users", "send_cli.asked", '{"number": 7}', "--actor", "anna"]) == 1
    assert "may or may not have taken message" in capsys.readouterr().err
    (line,) = Path("audit.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["actor"], record["action"]) == ("anna", "send")
    assert (record["count"], record["outcome"]) == (0, "failed")
