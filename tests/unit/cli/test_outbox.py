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
from events.integration.implementation.sqlalchemy import SQLAlchemyOutbox, SQLAlchemyOutboxStore, outbox_table
from events.integration.implementation.sqlalchemy import enable_wal


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
    assert [row["id"] for row in rows] == [7, 8, 9]
    assert (rows[0]["topic"], rows[0]["type"], rows[0]["error"]) == (
        "notes",
        "outbox_cli.noted",
        None,
    )
    assert rows[0]["available_at"].startswith("2101-01-01T00:00:00")
    assert main(["outbox", "scheduled", "--limit", "2"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert printed.err == "there are more than 2: see --limit\n"


def test_partitions_name_their_holder(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(shop.fill(park=False))
    assert main(["outbox", "partitions"]) == 0
    assert capsys.readouterr().err.startswith("nobody holds 32 of 32 partitions: 0 1 2 ")

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
        _, log = process.communicate(timeout=30)
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
