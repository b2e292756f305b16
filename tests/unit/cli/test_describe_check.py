from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from events.cli import main

APP = """
from dataclasses import dataclass
from typing import Any

from events.integration import (
    EventHandlerConsumer, EventRegistry, IntegrationEvent, IntegrationEventBusRegistration, RetryPolicy, Topic,
)
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus

USERS, ORDERS = Topic("users"), Topic('or"ders')


class Shop(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass
class RegisteredV1(Shop):
    type = "user.registered"
    version = 1


@dataclass
class RegisteredV2(Shop):
    type = "user.registered"
    version = 2
    name: str

    @classmethod
    def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "name": ""}


@dataclass
class Placed(Shop):
    type = "order.placed"
    version = 3


async def handle(event): ...


mails = EventHandlerConsumer("mails", {RegisteredV2: handle})
stock = EventHandlerConsumer("stock", {Placed: handle})
registrations = [
    IntegrationEventBusRegistration(mails, USERS, concurrency=4),
    IntegrationEventBusRegistration(stock, ORDERS, retry=RetryPolicy(attempts=2)),
]
bus = InMemoryIntegrationEventBus(registrations)
down = RabbitMQIntegrationEventBus("amqp://localhost:1/", registrations)
empty = InMemoryIntegrationEventBus()


@dataclass
class LonelyV1(Shop):
    type = "lonely"
    version = 1


@dataclass
class LonelyV2(Shop):
    type = "lonely"
    version = 2


lonely = EventHandlerConsumer("lonely", {LonelyV2: handle})
wrong = InMemoryIntegrationEventBus(
    [IntegrationEventBusRegistration(lonely, USERS), IntegrationEventBusRegistration(mails, USERS)]
)
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "described_shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "described_shop", raising=False)


def test_describe_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--app", "described_shop:bus"]) == 0
    assert capsys.readouterr().out == (
        'topic or"ders\n'
        "  consumer stock: 1 at once, in order, attempts 2\n"
        "    order.placed v3\n"
        "topic users\n"
        "  consumer mails: 4 at once, in any order\n"
        "    user.registered v2 (and v1, upcast)\n"
    )


def test_describe_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--app", "described_shop:bus", "--json"]) == 0
    stock, mails = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert stock["types"] == [{"type": "order.placed", "versions": [3], "upcast": []}]
    assert mails == {
        "consumer": "mails",
        "topic": "users",
        "types": [{"type": "user.registered", "versions": [2], "upcast": [1]}],
        "concurrency": 4,
        "ordered": False,
        "attempts": None,
    }


def test_describe_as_mermaid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--app", "described_shop:bus", "--mermaid"]) == 0
    assert capsys.readouterr().out == (
        "flowchart LR\n"
        '    t0[("or#34;ders")]\n'
        '    t1[("users")]\n'
        '    c0["stock"]\n'
        '    c1["mails"]\n'
        '    t0 -- "order.placed v3" --> c0\n'
        '    t1 -- "user.registered v2 (and v1, upcast)" --> c1\n'
    )


def test_describe_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--app", "described_shop:empty"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "the bus has no registrations\n")


def test_check_of_what_would_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--app", "described_shop:bus"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 3
    assert lines[-1] == "ok    connection of InMemoryIntegrationEventBus()"


def test_check_names_a_gap_in_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--app", "described_shop:wrong", "--json"]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "lonely" in found[0]["problem"]
    assert "or register version 1 as well" in found[0]["problem"]
    assert [each["problem"] for each in found[1:]] == [None, None]


def test_check_of_a_broker_that_is_down_ends_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--app", "described_shop:down"]) == 3
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("down  connection of RabbitMQIntegrationEventBus")
    assert main(["check", "--app", "described_shop:down", "--offline"]) == 0


def test_check_says_what_cannot_be_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_shop.py").write_text("import shop_that_is_not_there\n")
    assert main(["check", "--app", "broken_shop:bus"]) == 1
    assert capsys.readouterr().out == (
        "wrong the application: broken_shop.py:1: ModuleNotFoundError: No module named "
        "'shop_that_is_not_there' (the traceback: EVENTS_TRACEBACK=1)\n"
    )
    (tmp_path / "other_shop.py").write_text(
        "from events.integration import IntegrationEvent\n"
        "class Nameless(IntegrationEvent):\n    version = 1\n"
    )
    assert main(["check", "--app", "other_shop:bus"]) == 1
    assert capsys.readouterr().out.startswith(
        "wrong the application: other_shop.py:2: EventDefinitionError: other_shop.Nameless: "
    )
