from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from events.cli import main
from events.integration.implementation.sqlalchemy import _at_url
from events.testing import eventually

APP = """
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from events.integration import IntegrationEvent, OutboxRelay, RetryPolicy, Topic
from events.integration.bus import IntegrationEventBus
from events.sqlalchemy import SQLAlchemyBus, SQLAlchemyOutbox, SQLAlchemyOutboxStore
from events.sqlalchemy import bus_table, enable_wal, outbox_table


@dataclass
class Noted(IntegrationEvent):
    type = "outbox_cli.noted"
    version = 1
    number: int


class Full(IntegrationEventBus):
    async def send(self, topic, event):
        raise ValueError(f"the file is full\\nof lines")


class Printing(IntegrationEventBus):
    async def send(self, topic, event):
        print("sent", event.number, flush=True)


LATER = datetime(2101, 1, 1, tzinfo=UTC)
URL = "sqlite+aiosqlite:///outbox.db"


@asynccontextmanager
async def relay():
    engine = create_async_engine(URL)
    try:
        yield OutboxRelay(SQLAlchemyOutboxStore(engine), Full(), retry=RetryPolicy(attempts=1))
    finally:
        await engine.dispose()


@asynccontextmanager
async def working():
    engine = create_async_engine(URL)
    yield OutboxRelay(SQLAlchemyOutboxStore(engine), Printing())
    await engine.dispose()


@asynccontextmanager
async def bus():
    engine = create_async_engine(URL)
    try:
        yield SQLAlchemyBus(engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def both():
    async with bus() as made, relay() as other:
        yield made, other


@asynccontextmanager
async def no_bus():
    engine = create_async_engine("postgresql+asyncpg://localhost:1/no")
    try:
        yield SQLAlchemyBus(engine)
    finally:
        await engine.dispose()


async def schedule():
    metadata = MetaData()
    bus_table(metadata)
    async with bus() as made:
        engine = create_async_engine(URL)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            for number in range(3):
                await made.outbox(connection).put(
                    Topic("bus"), Noted(number), available_at=LATER, schedule_id=f"on-bus-{number}"
                )
        await engine.dispose()


@asynccontextmanager
async def no_database():
    engine = create_async_engine("postgresql+asyncpg://localhost:1/no")
    try:
        yield OutboxRelay(SQLAlchemyOutboxStore(engine), Full())
    finally:
        await engine.dispose()


async def fill(park=True, later=False):
    metadata = MetaData()
    outbox_table(metadata)
    engine = create_async_engine(URL)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await enable_wal(engine)
    async with AsyncSession(engine) as session:
        for number in range(3):
            await SQLAlchemyOutbox(session).put(Topic("notes"), Noted(number))
        for number in range(3 * later):
            await SQLAlchemyOutbox(session).put(Topic("notes"), Noted(number), available_at=LATER)
        for number in range(3 * later):
            await SQLAlchemyOutbox(session).put(
                Topic("notes" if number else "others"),
                Noted(number),
                available_at=LATER,
                schedule_id=f"note-{number}:reminder",
                replace=True,
            )
        await session.commit()
    await engine.dispose()
    if park:
        async with relay() as made:
            async with made:
                await made.drain()
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "outbox_shop.py").write_text(APP)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.events]\napp = "outbox_shop:relay"\nrelay = "outbox_shop:working"\naudit = "audit.jsonl"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "outbox_shop", raising=False)
    from importlib import import_module

    return import_module("outbox_shop")


@pytest.fixture
def parked(shop: Any, capsys: pytest.CaptureFixture[str]) -> list[int]:
    asyncio.run(shop.fill())
    assert main(["outbox", "parked", "--json"]) == 0
    return [row["id"] for row in objects(capsys)]


def objects(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_stats(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(shop.fill(park=False))
    assert main(["outbox", "stats", "--json"]) == 0
    (stats,) = objects(capsys)
    assert stats.pop("oldest_age") >= 0
    assert stats == {"pending": 3, "parked": 0}
    assert main(["outbox", "stats"]) == 0
    assert capsys.readouterr().out.startswith("pending 3, oldest due ")
    assert main(["outbox", "parked"]) == 0
    assert capsys.readouterr().err == "no parked rows\n"


def test_scheduled_rows_are_listed(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(shop.fill(park=False))
    assert main(["outbox", "scheduled"]) == 0
    assert capsys.readouterr() == ("", "no scheduled rows\n")
    asyncio.run(shop.fill(park=False, later=True))
    assert main(["outbox", "scheduled", "--json"]) == 0
    rows = objects(capsys)
    scheduled, rows = rows[:3], rows[3:]
    assert [row["schedule_id"] for row in scheduled] == [f"note-{n}:reminder" for n in range(3)]
    assert [row["id"] for row in rows] == [7, 8, 9]
    assert (rows[0]["topic"], rows[0]["type"], rows[0]["error"]) == (
        "notes",
        "outbox_cli.noted",
        None,
    )
    assert main(["outbox", "scheduled", "--topic", "others", "--json"]) == 0
    assert objects(capsys) == scheduled[:1]
    assert main(["outbox", "scheduled", "--prefix", "note-1", "--json"]) == 0
    assert objects(capsys) == scheduled[1:2]
    assert main(["outbox", "scheduled", "--before", "90m"]) == 0
    assert capsys.readouterr().err == "no scheduled rows\n"
    assert rows[0]["available_at"].startswith("2101-01-01T00:00:00")
    for limit in (2, 4):
        assert main(["outbox", "scheduled", "--limit", str(limit)]) == 0
        printed = capsys.readouterr()
        assert len(printed.out.splitlines()) == 1 + limit
        assert printed.err == f"there are more than {limit}: see --limit\n"


def test_scheduled_events_are_cancelled_and_rescheduled(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(shop.fill(park=False, later=True))
    assert main(["outbox", "cancel", "--all", "--dry-run"]) == 0
    assert main(["outbox", "reschedule", "--prefix", "note-", "--to", "2h", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "3 scheduled events would be cancelled\n3 scheduled events would be rescheduled\n"
    )
    assert not Path("audit.jsonl").exists()
    to = "2090-01-01T00:00:00+00:00"
    assert main(["outbox", "reschedule", "note-2:reminder", "--to", to, "--actor", "anna"]) == 0
    assert main(["outbox", "cancel", "--topic", "others", "--json"]) == 0
    assert main(["outbox", "cancel", "note-0:reminder", "note-1:reminder"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "1 of the ids do not wait any more, or are not chosen\n"
    rescheduled, cancelled, last = printed.out.splitlines()
    assert rescheduled == "1 scheduled events rescheduled"
    assert json.loads(cancelled) == {"action": "cancel", "count": 1, "dry_run": False}
    assert last == "1 scheduled events cancelled"
    assert main(["outbox", "scheduled", "--prefix", "note-", "--json"]) == 0
    (left,) = objects(capsys)
    assert left["schedule_id"] == "note-2:reminder"
    assert left["available_at"].startswith("2090-01-01T00:00:00")
    records = [json.loads(line) for line in Path("audit.jsonl").read_text().splitlines()]
    assert [(r["action"], r["count"], r["outcome"], r["selection"]) for r in records] == [
        ("reschedule to 2090-01-01T00:00:00+00:00", 1, "finished", "ids=note-2:reminder"),
        ("cancel", 1, "finished", "topic=others"),
        ("cancel", 1, "finished", "ids=note-0:reminder, note-1:reminder"),
    ]
    assert records[0]["actor"] == "anna"
    with pytest.raises(SystemExit) as ended:
        main(["outbox", "cancel"])
    assert ended.value.code == 2
    assert "say which to cancel: schedule ids, --topic" in capsys.readouterr().err


def test_what_a_bus_on_a_database_has_scheduled_needs_no_relay(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(shop.schedule())
    of_bus = ["--app", "outbox_shop:bus"]
    assert main(["outbox", "scheduled", *of_bus, "--json"]) == 0
    assert [row["schedule_id"] for row in objects(capsys)] == [f"on-bus-{n}" for n in range(3)]
    assert main(["outbox", "reschedule", "on-bus-1", "--to", "2090-01-01T00:00Z", *of_bus]) == 0
    assert main(["outbox", "cancel", "on-bus-0", "on-bus-9", *of_bus]) == 1
    assert main(["outbox", "scheduled", "--before", "2091-01-01T00:00Z", *of_bus]) == 0
    printed = capsys.readouterr()
    assert printed.err == "1 of the ids do not wait any more, or are not chosen\n"
    assert printed.out.splitlines()[:2] == [
        "1 scheduled events rescheduled",
        "1 scheduled events cancelled",
    ]
    assert [line.split()[0] for line in printed.out.splitlines()[3:]] == ["on-bus-1"]
    records = [json.loads(line) for line in Path("audit.jsonl").read_text().splitlines()]
    assert {record["target"] for record in records} == {"scheduled events of the bus"}
    with pytest.raises(SystemExit) as ended:
        main(["outbox", "stats", *of_bus])
    assert ended.value.code == 2
    assert "gives no OutboxRelay: it gives SQLAlchemyIntegrationEventBus" in capsys.readouterr().err


def test_what_is_scheduled_in_outbox_and_bus_is_one_list(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(shop.schedule())
    asyncio.run(shop.fill(park=False, later=True))
    of_both = ["--app", "outbox_shop:both"]

    def listed(*options: str) -> list[str | None]:
        assert main(["outbox", "scheduled", "--json", *options, *of_both]) == 0
        return [row.get("schedule_id") for row in objects(capsys)]

    on_bus, in_outbox = (
        [f"on-bus-{n}" for n in range(3)],
        [f"note-{n}:reminder" for n in range(3)],
    )
    assert listed() == [*on_bus, *in_outbox, None, None, None]
    assert listed("--limit", "4") == [*on_bus, in_outbox[0]]
    assert listed("--limit", "3") == on_bus
    assert main(["outbox", "cancel", "on-bus-0", "note-1:reminder", *of_both]) == 0
    assert capsys.readouterr().out == "2 scheduled events cancelled\n"
    assert listed() == [*on_bus[1:], in_outbox[0], in_outbox[2], None, None, None]


def test_a_bus_whose_database_is_down_or_without_tables_is_one_line(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for app, status, text in (("no_bus", 3, "is its database up?"), ("bus", 1, "bus_table(")):
        assert main(["outbox", "scheduled", "--app", f"outbox_shop:{app}"]) == status
        error = capsys.readouterr().err
        assert text in error
        assert len(error.splitlines()) == 1


def test_partitions_name_their_holder(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(shop.fill(park=False))
    assert main(["outbox", "partitions"]) == 0
    assert capsys.readouterr().err.startswith("no relay holds 32 of 32 partitions: 0 1 2 ")

    async def beside_a_relay(*arguments: str) -> int:
        async with shop.relay() as relay, relay:
            await eventually(lambda: relay.health().partitions == 32)
            return await asyncio.to_thread(main, ["outbox", "partitions", *arguments])

    assert asyncio.run(beside_a_relay()) == 0
    printed = capsys.readouterr()
    _, row = printed.out.splitlines()
    assert row.endswith("28 29 30 31")
    assert "  32     " in row
    assert printed.err == ""
    assert asyncio.run(beside_a_relay("--json")) == 0
    (lease,) = objects(capsys)
    assert lease["partitions"] == list(range(32))
    assert lease["remaining"] > 0


def test_parked_rows_are_listed(parked: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert len(parked) == 3
    assert main(["outbox", "parked", "--topic", "notes", "--text", "FULL"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("id")
    assert len(rows) == 3
    assert rows[0].endswith("1         ValueError: the file is full")
    assert main(["outbox", "parked", "--type", "other"]) == 0
    assert capsys.readouterr().out == ""


def test_redrive_and_discard(parked: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("redrive", "discard"):
        assert main(["outbox", verb, "--all", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "3 parked rows would be put back\n3 parked rows would be discarded\n"
    )
    assert not Path("audit.jsonl").exists()
    assert main(["outbox", "redrive", str(parked[0]), "--actor", "anna"]) == 0
    assert main(["outbox", "discard", "--topic", "notes", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "1 parked rows put back"
    assert json.loads(out[1]) == {"action": "discard", "count": 2, "dry_run": False}
    assert main(["outbox", "stats", "--json"]) == 0
    assert {k: v for k, v in objects(capsys)[0].items() if k != "oldest_age"} == {
        "pending": 1,
        "parked": 0,
    }
    records = [json.loads(line) for line in Path("audit.jsonl").read_text().splitlines()]
    assert [(r["action"], r["count"], r["outcome"], r["selection"]) for r in records] == [
        ("redrive", 1, "finished", "ids=1"),
        ("discard", 2, "finished", "topic=notes"),
    ]
    assert records[0]["actor"] == "anna"


def test_what_is_not_there_ends_with_1(
    parked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["outbox", "discard", str(parked[0]), "7777"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "1 parked rows discarded\n"
    assert printed.err == "1 of the ids are no parked rows that are chosen\n"
    with pytest.raises(SystemExit) as ended:
        main(["outbox", "redrive"])
    assert ended.value.code == 2
    assert "say which to redrive: ids, --topic" in capsys.readouterr().err


def test_a_missing_table_and_a_database_that_is_down_are_one_line(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["outbox", "stats"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("events: ")
    assert len(error.splitlines()) == 1
    assert main(["outbox", "stats", "--app", "outbox_shop:no_database"]) == 3
    error = capsys.readouterr().err
    assert "is its database up?" in error
    assert len(error.splitlines()) == 1


def test_relay_runs_until_a_signal(shop: Any, tmp_path: Path) -> None:
    asyncio.run(shop.fill(park=False))
    with subprocess.Popen(
        [sys.executable, "-m", "events.cli", "relay"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        sent = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=120)
        assert (process.returncode, sent) == (0, ["sent 0\n", "sent 1\n", "sent 2\n"]), log


def test_relay_needs_to_be_named(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pyproject.toml").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["relay"])
    assert ended.value.code == 2
    assert 'relay = "module:factory" under [tool.events]' in capsys.readouterr().err


def test_relay_does_nothing_but_run(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["shop:make", "stats"], ["sqlite:///shop.db", "amqp://x", "redrive", "17"]):
        with pytest.raises(SystemExit) as ended:
            main(["relay", *words])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert f"does not take {' '.join(words[1 if len(words) == 2 else 2 :])!r}" in error
        assert "events outbox" in error


def test_relay_names_the_extra_of_a_driver_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_at_url, "find_spec", lambda _name: None)
    for url, extra in (("postgres://me:secret@x/y", "postgresql"), ("mysql://x/y", "mariadb")):
        with pytest.raises(SystemExit) as ended:
            main(["relay", url, "nats://x"])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert f'pip install "integration-events[{extra}]"' in error
        assert "secret" not in error
