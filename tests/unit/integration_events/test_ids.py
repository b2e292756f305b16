"""What can be the id of a dead letter, or the name of a consumer, and is refused before it is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.errors import InvalidTopologyError, NoSuchDeadLetterError
from events.integration import Topic
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.memory.broker import InMemoryBroker
from events.integration.implementation.nats._dead_letters import NatsDeadLetters
from events.integration.implementation.redis._dead_letters import StreamDeadLetters
from events.integration.paging import as_number
from events.integration.transport import DeadLetterStore
from events.memory import MemoryBus
from events.sqlalchemy import SQLAlchemyBus, bus_table

METADATA = MetaData()
TABLE = bus_table(METADATA)
NOTHING: Any = None  # what a store would ask, if it did not refuse before
TOO_LARGE = str(1 << 63)

STORES: dict[str, DeadLetterStore] = {
    "memory": InMemoryBroker(),
    "nats": NatsDeadLetters(NOTHING, NOTHING, NOTHING, NOTHING),
    "redis": StreamDeadLetters(NOTHING, "a bus"),
}

OPERATIONS: dict[str, Callable[[TransportIntegrationEventBus, str], Awaitable[object]]] = {
    "pause": lambda bus, name: bus.pause(name),
    "resume": lambda bus, name: bus.resume(name),
    "paused": lambda bus, name: bus.paused([name]),
    "backlog": lambda bus, name: bus.backlog(name, topics=[Topic("users")]),
    "dead letters": lambda bus, name: bus.dead_letters(name),
    "redrive": lambda bus, name: bus.redrive(name, ["1"]),
    "discard": lambda bus, name: bus.discard(name, ["1"]),
}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/ids.db")
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine
    await engine.dispose()


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ("0", 0),
        ("17", 17),
        (str((1 << 63) - 1), (1 << 63) - 1),
        (TOO_LARGE, None),
        ("9" * 5_000, None),
        ("017", None),
        ("-1", None),
        ("1.0", None),
        ("1\n", None),
        ("\N{ARABIC-INDIC DIGIT THREE}", None),
        ("", None),
    ],
)
def test_a_number_is_an_id_in_one_form(given: str, number: int | None) -> None:
    assert as_number(given) == number


@pytest.mark.parametrize("after", ["none", "1-x", f"{1 << 64}-0@users", "-1"])
@pytest.mark.parametrize("store", STORES)
async def test_a_page_after_what_is_no_id_is_refused(store: str, after: str) -> None:
    with pytest.raises(ValueError, match="after must be the id of a dead letter"):
        await STORES[store].read("mails", limit=1, after=after)


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", ""], ids=["long", "NUL", "empty"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_name_that_no_consumer_can_have_is_refused(operation: str, name: str) -> None:
    async with MemoryBus() as bus:
        with pytest.raises(InvalidTopologyError, match="its name"):
            await OPERATIONS[operation](bus, name)


async def test_an_id_that_no_row_can_have_is_none_that_is_there(engine: AsyncEngine) -> None:
    async with SQLAlchemyBus(engine, table=TABLE) as bus:
        with pytest.raises(ValueError, match="after must be the id of a dead letter"):
            await bus.dead_letters("mails", after=TOO_LARGE)
        for act in (bus.redrive, bus.discard):
            with pytest.raises(NoSuchDeadLetterError):
                await act("mails", [TOO_LARGE])
        store: Any = bus.transport.dead_letters
        assert await store.redrive_with_receipt("mails", TOO_LARGE) is None
