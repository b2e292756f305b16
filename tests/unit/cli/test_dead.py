from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from events.cli import main
from events.integration.health import Backlog
from events.integration.implementation.memory import InMemoryBroker

APP = r"""
from contextlib import asynccontextmanager
from dataclasses import dataclass

from events.integration import (
    EventHandlerConsumer, IntegrationEvent, IntegrationEventBusRegistration, RetryPolicy, Topic,
)
from events.integration.implementation.memory import InMemoryBroker, InMemoryIntegrationEventBus

USERS = Topic("users")


@dataclass
class Asked(IntegrationEvent):
    type = "cli.asked"
    version = 1
    number: int
    text: str = ""


class State:
    # What a broker keeps between two runs of the command.
    broker = InMemoryBroker()
    bad = True
    handled = []


async def on_asked(event):
    if State.bad:
        raise ValueError(f"no user {event.number}\x1b[2J")
    State.handled.append(event.number)


def new_bus():
    consumer = EventHandlerConsumer("mails", handlers={Asked: [on_asked]})
    return InMemoryIntegrationEventBus(
        [IntegrationEventBusRegistration(consumer, USERS, [Asked], retry=RetryPolicy(attempts=1))],
        broker=State.broker,
    )


async def serve(*events):
    async with new_bus() as bus:
        await bus.send_many(USERS, events)
        await State.broker.quiet()
"""

Serve = Callable[..., None]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "dead_shop.py").write_text(APP)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.events]\napp = "dead_shop:new_bus"\naudit = "audit.jsonl"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "dead_shop", raising=False)
    import asyncio
    from importlib import import_module

    module = import_module("dead_shop")
    asyncio.run(module.serve(*(module.Asked(n, "\x1b[31mred") for n in range(3))))
    assert module.State.handled == []
    return module


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def objects(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in lines(capsys)]


def test_groups_are_counted(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead", "groups"]) == 0
    head, row = lines(capsys)
    assert head.split() == [
        "group",
        "count",
        "consumer",
        "type",
        "reason",
        "first",
        "last",
        "place",
        "error",
    ]
    assert re.search(r"  dead_shop\.py:\d+ in on_asked  ", row)
    assert "  3      mails     cli.asked  retries-exhausted  " in row
    assert row.endswith(r"ValueError: no user #\x1b[#J"), "the text controls the terminal"
    assert main(["dead", "groups", "--json"]) == 0
    (group,) = objects(capsys)
    assert (group["count"], group["consumer"]) == (3, "mails")
    assert main(["dead", "groups", "--type", "cli.other"]) == 0
    assert lines(capsys) == []


def test_list_says_what_it_leaves_out(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead", "list", "--limit", "2"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "there are more than 2" in printed.err
    assert main(["dead", "list", "--json", "--text", "user 1"]) == 0
    (letter,) = objects(capsys)
    assert json.loads(letter["body"])["number"] == 1


def test_show_has_all_and_cannot_control_the_terminal(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead", "show", "2"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "mails",
        "users",
        "cli.asked",
        r"no user 1\x1b[2J",
        '"number": 1',
        "ce-source: /events",
    ):
        assert part in printed
    assert "\x1b" not in printed
    assert main(["dead", "show", "77"]) == 1
    assert capsys.readouterr().err == (
        "events: consumer 'mails' has no dead letter 77: it was already redriven or discarded, "
        "or the id belongs to another consumer\n"
    )


def test_redrive_needs_to_be_said_which(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("redrive", "discard"):
        with pytest.raises(SystemExit) as ended:
            main(["dead", verb])
        assert ended.value.code == 2
        assert f"say which to {verb}: --id" in capsys.readouterr().err.splitlines()[-1]


def test_a_dry_run_changes_nothing(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, said in (("redrive", "sent back"), ("discard", "discarded")):
        assert main(["dead", verb, "--all", "--dry-run"]) == 0
        assert lines(capsys) == [f"mails: 3 would be {said}"]
        assert main(["dead", verb, "--all", "--dry-run", "--json"]) == 0
        (object_,) = objects(capsys)
        assert (object_["total"], object_["done"], object_["dry_run"]) == (3, 0, True)
    assert main(["dead", "list", "--json"]) == 0
    assert len(objects(capsys)) == 3
    assert not Path("audit.jsonl").exists()


def test_redrive_sends_back_and_leaves_an_audit_record(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.State.bad = False
    assert (
        main(["dead", "redrive", "--id", "1", "--id", "3", "--no-canary", "--actor", "anna"]) == 0
    )
    assert lines(capsys) == ["mails: 2 of 2 sent back"]
    record = json.loads(Path("audit.jsonl").read_text())
    del record["at"]
    assert record == {
        "actor": "anna",
        "action": "redrive",
        "target": "dead letters of mails",
        "selection": "ids=2",
        "count": 2,
        "outcome": "finished",
    }
    import asyncio

    asyncio.run(shop.serve())
    assert shop.State.handled == [0, 2], "the command has handled what it was to send back"


def test_a_canary_without_an_outcome_ends_with_1(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead", "redrive", "--all", "--canary-wait", "0.05"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "stopped after 1 of 3; the others remain dead letters" in printed.err
    assert printed.err.splitlines()[-1].startswith("events: the outcome of event ")
    assert "at 'mails' is not known, so the other dead letters were not redriven" in printed.err


def test_discard_by_group(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead", "groups", "--json"]) == 0
    group = objects(capsys)[0]["id"]
    assert main(["dead", "discard", "--group", group]) == 0
    assert lines(capsys) == ["mails: 3 of 3 discarded"]
    assert main(["dead", "discard", "--group", group]) == 0
    assert capsys.readouterr().err == "no dead letters match: nothing to do\n"


def test_export_then_redrive_from_the_file(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead", "export", "--output", "some.jsonl", "--text", "user 1"]) == 0
    assert main(["dead", "export"]) == 0
    assert len(objects(capsys)) == 3
    with pytest.raises(SystemExit) as ended:
        main(["dead", "export", "--output", "some.jsonl"])
    assert ended.value.code == 2
    assert main(["dead", "redrive", "--from", "some.jsonl", "--no-canary", "--json"]) == 0
    (done,) = objects(capsys)
    assert (done["done"], done["total"]) == (1, 1)
    assert main(["dead", "redrive", "--from", "some.jsonl", "--no-canary", "--json"]) == 0
    assert objects(capsys)[0]["total"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "no.jsonl"], "--from no.jsonl: No such file or directory"),
        (["--from", "pyproject.toml"], "line 1 is not a dead letter that this package exported"),
        (["--all", "--rate", "0"], "'0' is not a number above 0"),
        (["--all", "--batch", "-1"], "'-1' is no whole number from 1 on"),
        (["--since", "soon"], "'soon' is neither a time as 2026-01-31T12:00 nor an age"),
        (["--since", "99999999999d"], "'99999999999d' is neither a time as"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    shop: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dead", "redrive", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_backlog(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead", "redrive", "--id", "1", "--no-canary"]) == 0
    capsys.readouterr()
    assert main(["backlog", "--json"]) == 0
    assert objects(capsys) == [
        {
            "consumer": "mails",
            "waiting": 1,
            "in_flight": 0,
            "delayed": 0,
            "dead_letters": 2,
            "oldest_age": None,
        }
    ]
    assert main(["backlog", "--consumer", "mails"]) == 0
    assert lines(capsys)[1].split() == ["mails", "1", "0", "0", "2", "-"]
    assert main(["backlog", "--rate", "0.01", "--json"]) == 0
    (found,) = objects(capsys)
    assert (found["rate"], found["growth"]) == (0.0, 0.0)
    assert main(["backlog", "--rate", "0.01"]) == 0
    heads, row = lines(capsys)
    assert heads.split()[-3:] == ["oldest", "rate", "growth"]
    assert row.split()[-5:] == ["-", "0.0", "/s", "+0.0", "/s"]
    assert main(["backlog", "--consumer", "nobody"]) == 0
    assert capsys.readouterr() == ("", "no such consumer\n")


def test_the_rate_of_a_broker_that_does_not_count_is_said_to_be_unknown(
    shop: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uncounted = Backlog(waiting=1, dead_letters=0)
    monkeypatch.setattr(InMemoryBroker, "backlog", lambda *_: uncounted)
    assert main(["backlog", "--rate", "0.01"]) == 0
    table, said = capsys.readouterr()
    assert table.splitlines()[1].split()[-4:] == ["-", "-", "+0.0", "/s"]
    assert said == (
        "this broker does not count what is settled: the rate is not known, the growth is\n"
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "soon", "nan"])
def test_two_looks_are_at_most_a_minute_apart(
    shop: Any, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["backlog", "--rate", seconds])
    assert ended.value.code == 2
    assert "must be above 0 and at most 60 seconds" in capsys.readouterr().err
