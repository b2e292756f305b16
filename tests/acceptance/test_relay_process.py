"""`python -m events.relay`: a process that a person starts, stops and misspells."""

import asyncio
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import MetaData
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from events.integration import EventHandlerConsumer, IntegrationEvent, Topic
from events.sqlalchemy import SQLAlchemyOutbox, enable_wal, outbox_table
from tests.brokers.rabbitmq_server import rabbitmq_url
from tests.brokers.urls import broker_url

__all__ = ["rabbitmq_url"]

SERVICE = '''
"""What a user's service would have: a relay into a bus that writes down what it gets."""
import gc
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from events.integration import IntegrationEvent, IntegrationEventBus, OutboxRelay, RetryPolicy
from events.integration.implementation.sqlalchemy import SQLAlchemyOutboxStore


@dataclass
class Noted(IntegrationEvent):
    type = "relay_process.noted"
    version = 1
    number: int


class FileBus(IntegrationEventBus):
    async def send(self, topic, event):
        if gc.get_freeze_count():
            Path("frozen").touch()
        with open("sent", "a") as file:
            print(topic.name, event.number, file=file)


def engine():
    return create_async_engine("sqlite+aiosqlite:///outbox.db")


@asynccontextmanager
async def make_relay():
    opened = engine()
    async with FileBus() as bus:
        yield OutboxRelay(SQLAlchemyOutboxStore(opened), bus)
    await opened.dispose()
    print("disposed", flush=True)


def bare():
    return OutboxRelay(SQLAlchemyOutboxStore(engine()), FileBus())


class Full(IntegrationEventBus):
    async def send(self, topic, event):
        raise ValueError("the file is\\x1b[2J full\\nof lines")


def refusing():
    policy = RetryPolicy(attempts=1)
    return OutboxRelay(SQLAlchemyOutboxStore(engine()), Full(), retry=policy)


@asynccontextmanager
async def no_database():
    opened = create_async_engine(os.environ["DATABASE_URL"])
    yield OutboxRelay(SQLAlchemyOutboxStore(opened), FileBus())
    await opened.dispose()


def nothing():
    return None


async def coroutine():
    return None


@asynccontextmanager
async def something_else():
    yield "else"


not_callable = 3
'''


@dataclass
class Noted(IntegrationEvent):
    type = "relay_process.noted"
    version = 1
    number: int


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    (tmp_path / "service.py").write_text(SERVICE)
    metadata = MetaData()
    outbox_table(metadata)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/outbox.db")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await enable_wal(engine)
    async with AsyncSession(engine) as session:
        for number in range(3):
            await SQLAlchemyOutbox(session).put(Topic("notes"), Noted(number))
        await session.commit()
    await engine.dispose()
    return tmp_path


async def start(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "events.relay",
        *arguments,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("factory", ["make_relay", "bare"])
async def test_it_relays_until_sigterm_and_exits_with_0(folder: Path, factory: str) -> None:
    process = await start(folder, f"service:{factory}")
    async with asyncio.timeout(120):
        while process.returncode is None and len(lines_of(folder / "sent")) < 3:
            await asyncio.sleep(0.01)
    assert lines_of(folder / "sent") == ["notes 0", "notes 1", "notes 2"]
    assert (folder / "frozen").exists()
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    assert b"runs; stop it with SIGTERM" in err
    assert b"has stopped" in err
    assert (b"disposed" in out) == (factory == "make_relay")


@pytest.mark.parametrize(
    ("argument", "status", "text"),
    [
        ("service", 2, "'service' is not of the form module:factory"),
        ("sevrice:make_relay", 2, "there is no module 'sevrice' to import"),
        ("service.sub:make_relay", 2, "there is no module 'service.sub' to import"),
        ("service:make_rely", 2, "'service' has no 'make_rely'"),
        ("service:not_callable", 2, "service:not_callable is not callable"),
        ("service:coroutine", 2, "service:coroutine is `async def`: write it as `def`, or as an"),
        ("service:nothing", 1, "returned None: return an OutboxRelay"),
        ("service:something_else", 1, "yielded 'else', which is not an OutboxRelay"),
    ],
)
async def test_a_wrong_argument_is_named(
    folder: Path, argument: str, status: int, text: str
) -> None:
    process = await start(folder, argument)
    _, err = await asyncio.wait_for(process.communicate(), 120)
    assert text in err.decode()
    assert "Traceback" not in err.decode()
    assert process.returncode == status


async def said(folder: Path, *arguments: str) -> list[str]:
    process = await start(folder, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


async def test_what_could_not_be_sent_is_shown_redriven_and_discarded(folder: Path) -> None:
    (stats,) = await said(folder, "service:bare", "stats")
    assert re.fullmatch(r"pending 3, oldest due \d+\.\d s ago, parked 0", stats)
    assert await said(folder, "service:bare", "parked") == []

    relaying = await start(folder, "service:refusing")
    async with asyncio.timeout(120):
        while not (await said(folder, "service:bare", "stats"))[0].endswith("parked 3"):
            await asyncio.sleep(0.01)
    relaying.terminate()
    await asyncio.wait_for(relaying.communicate(), 120)

    rows = [line.split("\t") for line in (await said(folder, "service:make_relay", "parked"))[:-1]]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        (str(number), "notes", Noted.type) for number in (1, 2, 3)
    ]
    assert {row[5] for row in rows} == {
        r"retries-exhausted, 1 attempt: ValueError: the file is\x1b[2J full"
    }
    would = await said(folder, "service:bare", "discard", "2", "9", "--dry-run")
    assert would == ["would be discarded: 1"]
    assert await said(folder, "service:bare", "discard", "2") == ["discarded: 1"]
    redriving = await start(folder, "service:bare", "redrive", "all")
    out, err = await asyncio.wait_for(redriving.communicate(), 120)
    assert out == b"redriven: 2\n"
    assert ": redrive of parked rows of the outbox (all), 2 done, finished" in err.decode()
    assert await said(folder, "service:bare", "parked") == []
    assert not (folder / "sent").exists(), "asking relays nothing"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["parked", "--dry-run"], 2, "parked changes nothing: omit --dry-run"),
        (["pakred"], 2, "'pakred' is not a verb: use run, stats, parked, redrive, discard"),
        (["parked", "1"], 2, "parked takes no ids: 1"),
        (["redrive"], 2, "redrive needs the ids of parked rows, as `parked` shows them, or 'all'"),
        (["redrive", "one"], 2, "redrive needs the ids of parked rows"),
        (["discard", "7"], 1, "no parked rows 7: they were already redriven or discarded"),
    ],
)
async def test_a_wrong_verb_or_id_is_named(
    folder: Path, arguments: list[str], status: int, text: str
) -> None:
    process = await start(folder, "service:bare", *arguments)
    _, err = await asyncio.wait_for(process.communicate(), 120)
    assert text in err.decode()
    assert process.returncode == status
    assert "Traceback" not in err.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--log-level", "debug", "service:bare", "stats"],
        ["service:bare", "--log-level", "debug", "stats"],
        ["service:bare", "stats", "--log-level", "debug"],
    ],
)
async def test_the_option_may_stand_anywhere(folder: Path, arguments: list[str]) -> None:
    process = await start(folder, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    assert out.startswith(b"pending 3")
    assert b" DEBUG " in err


async def test_the_option_may_stand_before_the_ids(folder: Path) -> None:
    process = await start(folder, "service:bare", "discard", "--log-level", "error", "7", "8")
    _, err = await asyncio.wait_for(process.communicate(), 120)
    assert b"no parked rows 7, 8: they were already redriven or discarded" in err


@pytest.mark.parametrize(
    ("command", "prog"),
    [
        (["-m", "events.relay"], "python -m events.relay"),
        ([f"{Path(sys.executable).parent}/events-relay"], "events-relay"),
    ],
)
async def test_the_usage_is_of_the_command_that_was_given(command: list[str], prog: str) -> None:
    async def run(*arguments: str) -> tuple[str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 120)
        return " ".join(out.decode().split()), " ".join(err.decode().split())

    _, err = await run()
    assert err.startswith(f"usage: {prog} [-h] [--log-level LOG_LEVEL]")
    assert err.endswith(
        f"{prog}: error: the following arguments are required: MODULE:FACTORY | DATABASE BROKER"
    )
    out, _ = await run("--help")
    assert "(MODULE:FACTORY | DATABASE BROKER) [VERB] [ID ...]" in out
    for text in ("myservice.relay:make_relay", "default: run", "redrive and discard", "INFO"):
        assert text in out


@pytest.mark.parametrize("verb", ["run", "stats"])
async def test_a_missing_table_ends_it_with_the_cure_and_no_traceback(
    folder: Path, verb: str
) -> None:
    (folder / "outbox.db").unlink()
    process = await start(folder, "service:bare", verb)
    _, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 1
    assert "CRITICAL events.relay: table 'outbox': it does not exist; add it" in err.decode()
    assert "Traceback" not in err.decode()


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+psycopg", "mysql+asyncmy"])
@pytest.mark.parametrize("verb", ["run", "stats"])
async def test_a_database_that_is_down_is_reported_in_one_line(
    folder: Path, driver: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as reserved:  # nobody listens there
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        monkeypatch.setenv("DATABASE_URL", f"{driver}://me:secret@127.0.0.1:{port}/shop")
        process = await start(folder, "service:no_database", verb)
        out, err = await asyncio.wait_for(process.communicate(), 120)
    lines = [line for line in err.decode().splitlines() if " INFO " not in line]
    assert process.returncode == 1
    assert len(lines) == 1, lines
    assert "CRITICAL events.relay: OutboxRelay(SQLAlchemyOutboxStore(" in lines[0]
    assert "cannot use its outbox; is its database up? " in lines[0]
    assert lines[0].count("Error") >= 1, "it says what the database's library said"
    assert "secret" not in lines[0]
    assert out == b""


# --- two URLs instead of a factory


BROKERS = {
    "rabbitmq": ("events.rabbitmq", "RabbitMQBus"),
    "redis": ("events.redis", "RedisStreamsBus"),
    "nats": ("events.nats", "NATSBus"),
}


@pytest.mark.parametrize("broker", BROKERS)
async def test_two_urls_are_enough_for_a_relay(
    folder: Path, broker: str, request: pytest.FixtureRequest
) -> None:
    url = broker_url(broker, request)
    notes = EventHandlerConsumer(f"notes-{uuid4().hex}")
    numbers: list[int] = []
    all_there = asyncio.Event()

    @notes.on(Noted)
    async def note(event: Noted) -> None:
        numbers.append(event.number)
        if len(set(numbers)) == 3:
            all_there.set()

    module, name = BROKERS[broker]
    topic = Topic(f"notes-{uuid4().hex}")
    await put(folder, topic)
    options = {"connect_timeout": 60, "startup_timeout": 240}
    async with getattr(import_module(module), name)(url, [notes.subscribe(topic)], **options):
        process = await start(folder, "sqlite:///outbox.db", url)
        try:
            await all_there.wait()
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    assert {*numbers} == {0, 1, 2}


async def put(folder: Path, topic: Topic) -> None:
    """Leave three events of this topic in the outbox, and no others."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/outbox.db")
    async with AsyncSession(engine) as session:
        await session.execute(sql("DELETE FROM outbox"))
        for number in range(3):
            await SQLAlchemyOutbox(session).put(topic, Noted(number))
        await session.commit()
    await engine.dispose()


async def test_a_verb_needs_no_broker(folder: Path) -> None:
    urls = ("sqlite+aiosqlite:///outbox.db", "amqp://127.0.0.1:1")
    assert (await said(folder, *urls, "stats"))[0].startswith("pending 3, ")
    assert await said(folder, *urls, "redrive", "all") == ["redriven: 0"]


async def test_a_url_may_stand_in_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTBOX", "sqlite:///outbox.db")
    monkeypatch.setenv("BROKER", "nats://me:secret@127.0.0.1:1")
    assert (await said(folder, "env:OUTBOX", "env:BROKER", "stats"))[0].startswith("pending 3, ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sqlite:///outbox.db"], "the broker's URL is missing: write it after the database's"),
        (["sqlite:///outbox.db", "stats"], "'stats' is not a URL: write the broker's URL after"),
        (
            ["sqlite:///outbox.db", "kafka://me:secret@x"],
            "no broker has the URL scheme 'kafka': use one of am",
        ),
        (
            ["sqlite:///outbox.db", "nats://x", "start"],
            "'start' is not a verb: use run, stats, parked",
        ),
        (["amqp://x", "sqlite:///outbox.db"], "the database's URL comes first, then the broker's"),
        (["env:NOT_THERE", "nats://x"], "the environment variable NOT_THERE is not set"),
        (
            ["oracle://me:secret@x/y", "nats://x"],
            "'oracle': the outbox runs on postgresql, mariadb",
        ),
        (
            ["postgresql+psycopg2://me:secret@x/y", "nats://x"],
            "'psycopg2' is not a driver for asyncio: omit it, as in postgresql://..., or name",
        ),
        (["sqlite+pysqlite:///outbox.db", "nats://x"], "'pysqlite' is not a driver for asyncio"),
        (["mysql+nosuch://x/y", "nats://x"], "'nosuch' is not a driver for asyncio"),
    ],
)
async def test_a_wrong_url_is_named_and_no_password_with_it(
    folder: Path, arguments: list[str], text: str
) -> None:
    process = await start(folder, *arguments)
    _, errors = await process.communicate()
    assert process.returncode == 2, errors.decode()
    assert text in errors.decode().splitlines()[-1]
    assert "secret" not in errors.decode()


@pytest.mark.parametrize(
    ("urls", "text"),
    [
        (["sqlite:///outbox.db", "amqp://me:secret@127.0.0.1:1"], "RabbitMQIntegrationEventBus"),
        (["postgresql://me:secret@127.0.0.1:1/x", "nats://127.0.0.1:1"], "failed on "),
    ],
)
async def test_what_is_down_is_named_without_its_password(
    folder: Path, urls: list[str], text: str
) -> None:
    process = await start(folder, *urls, *(["stats"] if "postgresql" in urls[0] else []))
    try:
        read = process.stderr
        assert read is not None
        line = (await read.readline()).decode()
        assert text in line or "127.0.0.1:1" in line
        assert "secret" not in line
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
